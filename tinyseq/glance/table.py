"""Figures as a reader takes them in, and tables of them that fit a terminal of 100 columns."""

from __future__ import annotations

from collections.abc import Sequence

WIDTH = 100
LEAST = 16  # what a column of text keeps


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Lines of aligned columns, the first `left` of them to the left. What is too wide for the page loses the ends of
    its text columns, the last of them first."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    for i in reversed(range(left)):
        widths[i] -= min(max(0, sum(widths) + 2 * (len(widths) - 1) - WIDTH), max(0, widths[i] - LEAST))

    def line(row: Sequence[str]) -> str:
        cells = [text if len(text) <= n else text[: n - 1] + "…" for text, n in zip(row, widths, strict=True)]
        return "  ".join(f"{text:<{n}}" if i < left else f"{text:>{n}}"
                         for i, (text, n) in enumerate(zip(cells, widths, strict=True))).rstrip()

    return "\n".join([line(head), line(["-" * n for n in widths]), *map(line, rows)])


def amount(n: float, unit: str = "") -> str:
    """A number with three digits and the thousands as a letter: 1.23 M; nothing is a dash."""
    for letter in ("", "k", "M", "G", "T"):
        if n < 999.5 or letter == "T":
            break
        n /= 1000
    digits = f"{n:.0f}" if not letter or n >= 99.95 else f"{n:.1f}" if n >= 9.995 else f"{n:.2f}"
    return f"{digits} {letter}{unit}".rstrip() if n else "-"


def time(nanoseconds: float) -> str:
    """A time in ms; none is a dash."""
    return f"{nanoseconds / 1e6:,.2f}" if nanoseconds else "-"


def share(part: float, whole: float) -> str:
    """A part in percent."""
    return f"{100 * part / whole:.1f} %" if part and whole else "-"
