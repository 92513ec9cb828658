"""A notebook for each stop of the road, made from its page: notebooks/road/*.ipynb, and all of them in notebooks.zip.

Text and quotes are text, pictures lie in the notebook, cells that run in the page are cells. The command that runs a
script becomes the script itself, a cell for each of its parts, and the picture that it draws.
"""

from __future__ import annotations

import ast
import json
import re
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZipFile

if TYPE_CHECKING:
    from sphinx.application import Sphinx

DOCS = Path(__file__).parents[1]
EXAMPLES = DOCS.parent / "examples"
PAGES = sorted({*DOCS.glob("road*/*.md")} - {*DOCS.glob("road*/11-*.md")})    # which takes forty minutes, and weights
BLOCK = r"^```(?:\{runnable\}[^\n]*|(?=\npython examples/\w+\.py))\n(.*?)^```$"
BESIDE = '''\
import sys
from pathlib import Path

here = Path.cwd()
EXAMPLES = next((path / "examples" for path in (here, *here.parents) if (path / "examples/ctc.py").exists()), None)
if EXAMPLES is None:
    raise FileNotFoundError("the folder examples/ has to lie beside this notebook, or above it; notebooks.zip has it")
sys.path.insert(0, str(EXAMPLES))
'''


def notebook(page: Path) -> dict[str, Any]:
    """The notebook of a page, format 4.5."""
    text, cells = page.read_text("utf-8"), []
    text = re.sub(r"(?<=\n\n)\[.*\]\(\.\./road(?:\.zh)?\.md\).*\n\n", "", text, count=1)     # the way to other pages
    at, there = 0, set[str]()
    for found in re.finditer(BLOCK, text, re.DOTALL | re.MULTILINE):
        cells.append(markdown(text[at : found.start()], page))
        command = re.match(r"python examples/(\w+)\.py(.*)", found[1])
        added = parts(*command.groups()) if command else [cell_of_page(DOCS.parent / found[1].strip())]
        if command and command[1] in there:                             # once more, with other flags
            added = added[-2:]
        there |= {command[1]} if command else set()
        if any("EXAMPLES" in cell["source"] or cell["metadata"].get("beside") for cell in added):
            cells.append(code(BESIDE))
        cells += added
        at = found.end()
    cells.append(markdown(text[at:], page))
    return of_cells([cell for cell in cells if cell["source"]])


def of_cells(cells: list[dict[str, Any]]) -> dict[str, Any]:
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": {"kernelspec": kernel}, "cells": cells}


def script(name: str) -> str:
    return (EXAMPLES / f"{name}.py").read_text("utf-8")


def cell_of_page(file: Path) -> dict[str, Any]:
    """A cell that runs in the page, whose code is a file; in the page the files that it reads lie beside it."""
    return code(re.sub(r'"(\w+\.npz)"', r'EXAMPLES / "data/\1"', file.read_text("utf-8")))


def imports_others(text: str) -> bool:
    """Whether a script imports what lies beside it, but for `import _commands`, which is left out."""
    names = re.findall(r"^(?:from (?=\w+ import)|import (?=\w+$))(\w+)", text, re.MULTILINE)
    return any((EXAMPLES / f"{name}.py").exists() for name in names)


def markdown(text: str, page: Path) -> dict[str, Any]:
    """A cell of text: its pictures lie in it, and of links those to the web are left."""
    pictures = re.findall(r"!\[.*?\]\((?!http)(.*?)\)", text)
    text = re.sub(r"(!\[.*?\]\()(?!http).*?([^/]*\))", r"\1attachment:\2", text)
    text = re.sub(r"(?<!!)\[([^][]*)\]\((?!http|attachment:).*?\)", r"\1", text)
    held = {Path(name).name: {"image/png": b64encode((page.parent / name).read_bytes()).decode()} for name in pictures}
    return {"cell_type": "markdown", "metadata": {}, "source": text.strip()} | ({"attachments": held} if held else {})


def code(source: str, **metadata: Any) -> dict[str, Any]:
    return {"cell_type": "code", "metadata": metadata, "source": source.strip("\n"), "execution_count": None,
            "outputs": []}


def parts(name: str, flags: str) -> list[dict[str, Any]]:
    """A script as cells: its docstring, its functions and classes, what stands between them, and the run of it."""
    tree, lines = ast.parse(script(name)), script(name).splitlines()
    said, at = ast.get_docstring(tree) or "", tree.body[0].end_lineno
    about = f"examples/{name}.py\n\n```text\n{said}\n```"
    cells: list[dict[str, Any]] = [{"cell_type": "markdown", "metadata": {}, "source": about}]
    alone = True
    for node in tree.body[1:]:
        before, alone = alone, isinstance(node, (ast.FunctionDef, ast.ClassDef))
        source = "\n".join(line for line in lines[at : node.end_lineno] if not line.startswith("import _commands"))
        source, at = source.replace("Path(__file__).parent", "EXAMPLES"), node.end_lineno
        if before or alone:
            cells.append(code(source))
        elif "__main__" not in ast.unparse(node):
            cells[-1]["source"] += f"\n{source}"
    if "__main__" in cells[-1]["source"]:
        del cells[-1]
    words = [f'str(EXAMPLES / "{word.removeprefix("examples/")}")' if word.startswith("examples/") else repr(word)
             for word in (name, *flags.split())]
    run = f"sys.argv = [{', '.join(words)}]        # add flags here; --help says which"
    cells.append(code(f"import sys\n\n{run}\nmain()", script=name, beside=imports_others(script(name))))
    drawn = dict.fromkeys(re.findall(r'"([\w-]+\.png)"', script(name)))
    shown = "\n".join(f"display(Image({picture!r}))" for picture in drawn)
    return [*cells, code(f"from IPython.display import Image, display\n\n{shown}", pictures=True)]


def link(app: Sphinx, name: str, source: list[str]) -> None:
    """Lead from each page to its notebook, behind the ways to other pages."""
    if DOCS / f"{name}.md" in PAGES:
        way = f' · <a href="../notebooks/{name}.ipynb" download>Notebook</a>'
        source[0] = re.sub(r"(?<=\n\n)(\[.*\]\(\.\./road(?:\.zh)?\.md\).*)(?=\n\n)", rf"\1{way}", source[0], count=1)


def write(app: Sphinx, error: Exception | None) -> None:
    if error:
        return
    folder = Path(app.outdir) / "notebooks"
    folder.mkdir(exist_ok=True)
    with ZipFile(folder / "notebooks.zip", "w") as archive:
        for page in PAGES:
            path = folder / page.relative_to(DOCS).with_suffix(".ipynb")
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(notebook(page), ensure_ascii=False, indent=1), "utf-8")
            archive.write(path, path.relative_to(folder))
        for path in sorted([*EXAMPLES.glob("*.py"), *EXAMPLES.glob("data/*")]):
            archive.write(path, path.relative_to(EXAMPLES.parent))


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", link)
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
