"""Run the code of a cell: in the reader's browser (worker.js), and when the site is built (`python cell.py NAME.py`).

As in a notebook, the value of a last line is shown, and `display` shows one earlier: a picture takes the place of the
picture before.
"""

import ast
import base64
import io
import json
import linecache
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout

NAME = "<cell>"


def run(code: str, draw: Callable[[str], object]) -> str:
    """Run it, and hand each picture, a PNG in base64, to `draw`. What went wrong in which line, or ""."""
    def display(value: object) -> None:
        if hasattr(value, "_repr_png_"):
            draw(base64.b64encode(value._repr_png_()).decode())
        elif value is not None:
            print(repr(value))

    names = {"__name__": "__main__", "display": display}
    linecache.cache[NAME] = len(code), None, code.splitlines(True), NAME        # whose lines an error then shows
    try:
        tree = ast.parse(code, NAME)
        *most, last = tree.body or [ast.Pass()]
        if not isinstance(last, ast.Expr):
            most, last = tree.body, ast.Expr(ast.Constant(None))
        exec(compile(ast.Module(most, []), NAME, "exec"), names)
        display(eval(compile(ast.fix_missing_locations(ast.Expression(last.value)), NAME, "eval"), names))
    except BaseException as error:
        return explain(error)
    return ""


def explain(error: BaseException) -> str:
    """The lines of the cell that led to an error, the last one first, and what it says; those of libraries aside."""
    lines = [(at.lineno, at.line) for at in traceback.extract_tb(error.__traceback__) if at.filename == NAME]
    if isinstance(error, SyntaxError) and error.filename == NAME:
        lines = [(error.lineno, (error.text or "").strip())]
        error = type(error)(error.msg)
    said = "".join(traceback.format_exception_only(error)).strip()
    return "\n".join([said, *dict.fromkeys(f"line {number}: {line}" for number, line in reversed(lines))])


def main(path: str) -> None:
    """Print what the cell in a file printed, its last picture, and what went wrong."""
    pictures: list[str] = []
    with open(path, encoding="utf-8") as file, redirect_stdout(text := io.StringIO()), redirect_stderr(text):
        error = run(file.read(), pictures.append)
    print(json.dumps({"text": text.getvalue(), "picture": (pictures or [""])[-1], "error": error}))


if __name__ == "__main__":
    main(sys.argv[1])
