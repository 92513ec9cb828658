"""`make lines`: lines of code by room against their limits, which are a table in CONTRIBUTING.md.

A line of code is one with more on it than a docstring, a comment or nothing.
"""

import ast
import io
import re
import sys
import tokenize
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def of_python(source: str) -> int:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    lines = {line for t in tokens if t.type not in NO_CODE for line in range(t.start[0], t.end[0] + 1)}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
                ast.get_docstring(node, clean=False) is not None):
            lines -= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return len(lines)


def of_cuda(source: str) -> int:
    """Of C: with no comment's mark inside a string."""
    return sum(bool(line.strip()) for line in re.sub(r"//.*|/\*[\s\S]*?\*/", "", source).splitlines())


@cache
def lines_of_code(path: Path) -> int:
    return (of_python if path.suffix == ".py" else of_cuda)(path.read_text("utf-8"))


class Row(NamedTuple):
    """A row of the table: the files that it names, together or each, and how many lines they may have."""

    room: str
    lines: dict[str, int]
    each: bool
    most: int

    @property
    def longest(self) -> int:
        return max(self.lines.values()) if self.each else sum(self.lines.values())

    @property
    def over(self) -> list[str]:
        """What is too long: files by name, or the room."""
        if not self.each:
            return [f"{self.room}: {self.longest:,} of {self.most:,}"] if self.longest > self.most else []
        return [f"{name}: {n:,} of {self.most:,}" for name, n in self.lines.items() if n > self.most]


def table(page: str) -> list[Row]:
    """The rows under CONTRIBUTING.md's head `| lines of code of ... | at most |`."""
    rows = page.partition("| lines of code of ")[2].partition("\n\n")[0].splitlines()[2:]
    found = []
    for text in rows:
        room, most = (cell.strip() for cell in text.strip(" |").split("|"))
        named, without = ({path for pattern in re.findall("`(.*?)`", part) for path in ROOT.glob(pattern)}
                          for part in re.split(r"\bwithout\b", room + " without ", maxsplit=1))
        paths = sorted(named - without)
        lines = {str(path.relative_to(ROOT)): lines_of_code(path) for path in paths}
        found.append(Row(room.replace("`", ""), lines, room.startswith("each"), int(most.replace(",", ""))))
    return found


def main() -> int:
    rows = table((ROOT / "CONTRIBUTING.md").read_text("utf-8"))
    for row in rows:
        print(f"{row.longest:7,} of {row.most:5,}  {'!' if row.over else ' '} {row.room}")
        for text in row.over if row.each else []:
            print(" " * 18, text)
    return any(row.over for row in rows)


if __name__ == "__main__":
    sys.exit(main())
