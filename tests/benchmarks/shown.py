"""How table.py shows what it found: as text, as Markdown, as a picture."""

import os
import platform
import shlex
import statistics
import sys
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from contenders import Row

Found = dict[tuple[Row, str, int], list[float]]                 # by row, contender and threads: one number a round
COLUMNS = ("NumPy", "Numba", "JAX", "autograd", "products")     # contenders that no row is against


def ratio(found: Found, row: Row, name: str, threads: int) -> float | None:
    """The median over the rounds, or None where one of both did not take part."""
    ours, theirs = (found.get((row, who, threads)) for who in (name, row.against))
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=False)) if ours and theirs else None


def parts(found: Found) -> tuple[list[Row], list[str], list[int]]:
    """The rows, the contenders that are columns, the numbers of threads."""
    rows, names, counts = (list(dict.fromkeys(keys)) for keys in zip(*found, strict=True))
    return rows, [name for name in COLUMNS if name in names], counts


def both(values: list[float | None], digits: int = 2) -> str:
    """A cell: one number for each number of threads."""
    known = [f"{x:.{digits if x < 100 else 0}f}" for x in values if x is not None]
    return " / ".join(known)


def cells(found: Found, unit: str) -> list[list[str]]:
    """The table: a line of names, a line for each row, and the geometric means."""
    rows, names, counts = parts(found)
    lines = [["row", f"against, {unit}", *names]]
    for row in rows:
        judge = [statistics.median(found[row, row.against, n]) if (row, row.against, n) in found else None
                 for n in counts]
        lines.append([row.title, f"{row.against} {both(judge)}",
                      *(both([ratio(found, row, name, n) for n in counts]) for name in names)])
    means = ["geometric mean of the rows against PyTorch", ""]
    for name in names:
        known = [[x for row in rows if row.against == "PyTorch" and (x := ratio(found, row, name, n))] for n in counts]
        means.append(both([statistics.geometric_mean(xs) if xs else None for xs in known]))
    return [*lines, means]


def text(found: Found, unit: str) -> str:
    table = cells(found, unit)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = [f"{first:{widths[0]}}   " + "   ".join(map(str.rjust, rest, widths[1:])) for first, *rest in table]
    return "\n".join([head(found), "", *lines])


def markdown(found: Found, unit: str, file: Path) -> None:
    first, *rest = cells(found, unit)
    lines = [first, ["---", *["---:"] * (len(first) - 1)], *rest]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    file.write_text(f"{head(found)}\n\n{table}\n", "utf-8")


def head(found: Found) -> str:
    """The command, the machine and the date; what the cells are."""
    return f"`{shlex.join(['python', *sys.argv])}`, {date.today()}, {machine()}, {versions()}; {threads(found)}"


def threads(found: Found) -> str:
    return " / ".join(f"{n} thread{'s' * (n > 1)}" for n in parts(found)[2])


def machine() -> str:
    """The processor, and how many of it this process may use."""
    if not (told := Path("/proc/cpuinfo")).exists():
        return f"{os.cpu_count()} processors, {platform.processor()}"
    lines = [line.partition(":") for line in told.read_text().splitlines()]
    of = {name.strip(): value.strip() for name, _, value in lines}
    wide = " with AVX-512" if "avx512f" in of.get("flags", "") else ""
    return f"{len(os.sched_getaffinity(0))} processors, {of.get('model name', platform.machine())}{wide}"


def versions() -> str:
    found = [f"Python {platform.python_version()}"]
    for package in ("numpy", "numba", "torch", "jax", "autograd", "onnxruntime"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def draw(found: Found, unit: str, file: Path) -> None:
    """A panel for each number of threads, a line for each row, a mark for each contender."""
    from tinyseq import plot

    rows, names, counts = parts(found)
    names, panels = [name for name in names if name != "products"], {}
    for n in counts:
        marks = {name: [(x, y) for y, row in enumerate(rows) if (x := ratio(found, row, name, n))] for name in names}
        panels[f"{n} thread{'s' * (n > 1)}"] = {name: [*zip(*xys, strict=True)] for name, xys in marks.items() if xys}
    figure = plot.curves(panels, f"{'memory' if unit == 'MB' else 'time'}, ratio to PyTorch or whom the row names")
    figure.set_size_inches(4.6 * len(panels) + 3, 1.6 + 0.23 * len(rows))
    for axes in figure.axes:
        for line, marker in zip(axes.lines, "oD^s", strict=False):
            line.set(linestyle="none", marker=marker, markersize=6, alpha=0.85)
        shown = [text.get_text() for text in axes.get_legend().get_texts()]
        axes.legend(axes.lines, shown, loc="lower right", bbox_to_anchor=(1, 1), ncols=4, frameon=False, fontsize=9,
                    handletextpad=0, columnspacing=1, borderaxespad=0.2)
        axes.set_title(axes.get_title("left"), loc="left", pad=24)
        axes.axvline(1, color="#333333", linewidth=1, zorder=0)
        axes.set(xscale="log", ylim=(len(rows) - 0.5, -0.5))
        axes.set_xticks(ticks := [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50], map(str, ticks))
        axes.minorticks_off()
        axes.set_yticks(range(len(rows)), [])
    labels = [row.title + f", to {row.against}" * (row.against != "PyTorch") for row in rows]
    figure.axes[0].set_yticks(range(len(rows)), labels)
    figure.savefig(file, dpi=120)
