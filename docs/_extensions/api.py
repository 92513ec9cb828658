"""The API's pages, api/*.rst: what each room has for its users, from its docstrings, which are text as `help` shows it.

Code in backticks that is a public name becomes a link, `>>>` examples and indented lines stay as they are. A large room
is a page for each file in which its names stand.
"""

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from itertools import groupby
from pathlib import Path
from textwrap import dedent, indent
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx

import tinyseq as ts
from tinyseq.engine.methods import Standard

ROOMS = """
    tinyseq random nn nn.init nn.convert functional optim optim.schedules data decode checkpoint models metrics logs
    plot lens glance runs distributed export testing
""".split()
LARGE = 30                                      # more names than a page should have
ROOT = Path(__file__).parents[2]


def full(name: str) -> str:
    return name if name == "tinyseq" else f"tinyseq.{name}"


def room(name: str) -> ModuleType:
    return import_module(full(name))


def public(module: ModuleType) -> dict[str, object]:
    """The names that a room has for its users: those of __all__, or those that are made there; no rooms."""
    names = getattr(module, "__all__", None) or [
        name for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__]
    return {name: value for name in names if not isinstance(value := getattr(module, name), ModuleType)}


def methods(cls: type) -> Iterator[tuple[str, Any]]:
    """The methods and properties of a class that have a docstring; a Tensor's, those too that a base keeps for it."""
    for name, found in {**(vars(Standard) if cls is ts.Tensor else {}), **vars(cls)}.items():
        found = getattr(found, "__func__", found)
        if not name.startswith("_") and isinstance(found, (FunctionType, property)) and found.__doc__:
            yield name, found


NAMES = {f"{full(name)}.{key}": value for name in ROOMS for key, value in public(room(name)).items()}
NAMES |= {f"{name}.{key}": found for name, value in [*NAMES.items()] if inspect.isclass(value)
          and not issubclass(value, np.generic) for key, found in methods(value)}


# --- pages ------------------------------------------------------------------------------------------------------------


def write(app: Sphinx) -> None:
    """All pages, into docs/api/. One that is the same as before stays, and is not read again."""
    pages = {"index": "\n".join(index())}
    for name in ROOMS:
        pages |= {page: "\n".join(lines) for page, lines in pages_of(name).items()}
    folder = Path(app.srcdir) / "api"
    folder.mkdir(exist_ok=True)
    for old in {path.stem for path in folder.iterdir()} - {*pages}:
        (folder / f"{old}.rst").unlink()
    for page, text in pages.items():
        path = folder / f"{page}.rst"
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")


def index() -> Iterator[str]:
    yield from titled("API")
    yield from ["Everything public, room by room, as ``help()`` shows it. In the examples ``ts`` is tinyseq, ``F``",
                "``tinyseq.functional``, ``nn`` ``tinyseq.nn`` and ``np`` NumPy; a test runs every one of them.", ""]
    for name in ROOMS:
        yield f":doc:`{full(name)} <{name}>`"
        yield f"    {inline(first(inspect.getdoc(room(name)) or ''), '')}"
    yield from tree(ROOMS)


def pages_of(name: str) -> dict[str, list[str]]:
    """The pages of a room, by their names."""
    lines = [*titled(full(name)), *rst(inspect.getdoc(room(name)) or "", full(name))]
    home = lambda pair: getattr(pair[1], "__module__", None) or full(name)
    own = sorted(public(room(name)).items(), key=home)
    if len(own) <= LARGE:
        return {name: lines + [line for pair in own for line in entry(full(name), *pair)]}
    pages = {}
    for file, found in sorted(((file, [*pairs]) for file, pairs in groupby(own, home)), key=lambda g: -len(g[1])):
        page, about = f"{name}.{file.rpartition('.')[2]}", inspect.getdoc(import_module(file)) or ""
        if file == "numpy":
            page, about = f"{name}.dtypes", "Kinds of numbers. They are NumPy's."
        pages[page] = [*titled(page.removeprefix("tinyseq.")), *rst(about, full(name))]
        pages[page] += [line for pair in found for line in entry(full(name), *pair)]
        lines += ["", f".. rubric:: {pages[page][1]}", "", f":doc:`{escaped(first(about))} <{page}>`", ""]
        lines += [f"- :py:obj:`{key} <{full(name)}.{key}>` {inline(first(inspect.getdoc(value) or ''), '')}"
                  for key, value in found]
    return {name: [*lines, *tree(pages)], **pages}


def entry(where: str, name: str, value: object) -> Iterator[str]:
    """What stands on a page for one name."""
    yield ""
    if isinstance(value, type) and not issubclass(value, np.generic):
        yield from [f".. autoclass:: {where}.{name}", "   :members:", "   :member-order: bysource"]
        yield from ["   :inherited-members:"] if value is ts.Tensor else []
    elif callable(value) and not isinstance(value, type):
        yield f".. autofunction:: {where}.{name}"
    else:
        shown = f"NumPy's ``{name}``." if isinstance(value, type) else f"``{value!r:.300}``"
        yield from [f".. py:data:: {where}.{name}", "", f"   {shown}"]
    yield ""


def titled(title: str) -> list[str]:
    return ["", title, "=" * len(title), ""]


def tree(pages: Any) -> list[str]:
    return ["", ".. toctree::", "   :hidden:", "", *(f"   {page}" for page in pages), ""]


def first(text: str) -> str:
    """The first sentence of a docstring, or its first paragraph up to a colon."""
    paragraph = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=[a-z)`\]])[.:](?: |$)", paragraph)[0]


# --- docstrings -------------------------------------------------------------------------------------------------------


def rst(text: str, where: str) -> list[str]:
    """A docstring as reStructuredText: paragraphs with links, and whatever is laid out by hand as it is."""
    lines: list[str] = []
    found = [*blocks(dedent(text).split("\n"))]
    for before, (kind, part) in zip([("", ""), *found], found, strict=False):
        if kind == "text" and re.fullmatch(r"(Args|Raises|Returns):", part):
            continue
        if kind == "laid out" and re.fullmatch(r"(Args|Raises|Returns):", before[1]):
            lines += fields(before[1], part, where)
        elif kind == "text" and not re.search(r"\S {3,}\S", part):
            lines += [f"{'- ' if item.startswith('- ') else ''}\\ {inline(item.removeprefix('- '), where)}"
                      for item in re.split(r"\n(?=- )", part)]
        else:
            language = {"example": "pycon"}.get(kind, "text")
            lines += [f".. code-block:: {language}", "", *indent(part, "   ").split("\n")]
        lines.append("")
    return lines


def blocks(lines: list[str]) -> Iterator[tuple[str, str]]:
    """What a docstring is made of: its texts, examples, and what stands further right."""
    kind, found = "", [""]
    for line in [*lines, ""]:
        if not line.strip():
            new = kind if kind == "laid out" else ""
        elif kind == "example" and found:
            new = kind
        else:
            new = "example" if line.startswith(">>> ") else "laid out" if line.startswith(" ") else "text"
        if new != kind:
            if kind:
                yield kind, dedent("\n".join(found)).strip("\n")
            kind, found = new, []
        found.append(line)
    if kind:
        yield kind, dedent("\n".join(found)).strip("\n")


def fields(section: str, text: str, where: str) -> list[str]:
    """`name: what it is`, of a section of Args, say."""
    kind = {"Args:": "param", "Raises:": "raises", "Returns:": "returns"}[section]
    items = re.split(r"\n(?! )", text)
    if kind == "returns":
        return [f":returns: {inline(text, where)}"]
    named = [item.partition(":") for item in items]
    return [f":{kind} {escaped(name)}: {inline(about, where)}" for name, _, about in named]


def inline(text: str, where: str) -> str:
    """A paragraph in one line: names in backticks as links where they are public, other code as code."""
    text, marked = " ".join(text.split()), ""
    for plain, code in re.findall(r"([^`]+)|`([^`]+)`", text):
        if code:
            found = meant(code.removesuffix("()"), where)
            marked += f"\\ :py:obj:`{escaped(code)} <{found}>`\\ " if found else f"\\ ``{code}``\\ "
            continue
        for i, part in enumerate(re.split(r"(?<![\w.])([A-Z]+[a-z]*[A-Z]\w*)", plain)):
            found = meant(part, where) if i % 2 else None       # GRU and LayerNorm are names without backticks too
            marked += f"\\ :py:obj:`{part} <{found}>`\\ " if inspect.isclass(NAMES.get(found or "")) else escaped(part)
    return marked


def meant(name: str, where: str) -> str | None:
    """The public name that a text means by a name, if any; of its own object's names none is a link to itself."""
    if not re.fullmatch(r"[A-Za-z_][\w.]*", name):
        return None
    value = NAMES.get(where)
    if callable(value) and name in parameters(value):
        return None
    rooms = [where.rsplit(".", up)[0] for up in range(len(where.split(".")))]
    spelt = re.sub(r"^ts\.", "tinyseq.", re.sub(r"^F\.", "tinyseq.functional.", name))
    tried = [spelt, *(f"tinyseq.{spelt}" for _ in "." if "." in spelt), *(f"{room}.{name}" for room in rooms)]
    return next((found for found in tried if found in NAMES and found != where), None)


def parameters(value: Any) -> set[str]:
    try:
        return {*inspect.signature(value).parameters}
    except (TypeError, ValueError):
        return set()


def escaped(text: str) -> str:
    return re.sub(r"([\\*_|`<>])", r"\\\1", text)


# --- what autodoc asks ------------------------------------------------------------------------------------------------


class Written(str):
    """An annotation as it stands in the source."""

    def __repr__(self) -> str:
        return str(self)


def docstring(app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]) -> None:
    lines[:] = rst("\n".join(lines), name)


def signature(app: Sphinx, what: str, name: str, value: Any, *about: object) -> tuple[str, str] | None:
    """Annotations as they are written: `ArrayLike`, not the twenty types that it stands for."""
    if what not in ("class", "function", "method", "exception"):
        return None
    try:
        found = inspect.signature(value)
    except (TypeError, ValueError):
        return None
    written = [p.replace(annotation=Written(p.annotation) if isinstance(p.annotation, str) else p.annotation,
                         default=Written(f"np.{p.default.__name__}") if inspect.isclass(p.default)
                         and issubclass(p.default, np.generic) else p.default) for p in found.parameters.values()]
    where, _, own = name.rpartition(".")
    if what == "method" and not isinstance(inspect.getattr_static(NAMES.get(where), own), (staticmethod, classmethod)):
        del written[0]                          # self, or of Tensor's functions the tensor
    returned = found.return_annotation
    said = str(returned) if isinstance(returned, str) and what != "class" else ""
    return str(found.replace(parameters=written, return_annotation=inspect.Signature.empty)), said


def linkcode_resolve(domain: str, info: dict[str, str]) -> str | None:
    """The line of a name's source, on the page of its file (_extensions/sources.py)."""
    value: Any = NAMES.get(f"{info['module']}.{info['fullname']}")
    value = inspect.unwrap(getattr(value, "fget", value))
    try:
        file, line = inspect.getsourcefile(value), inspect.getsourcelines(value)[1]
    except (TypeError, OSError):                # of C, or a class whose module is said to be another than its file's
        return None
    return f"../source/{Path(file or '').relative_to(ROOT).as_posix()}.html#line-{line}"


def annotations(app: Sphinx, page: nodes.document) -> None:
    """Classes in annotations are links; what other libraries have, and Python, is none."""
    for link in [*page.findall(addnodes.pending_xref)]:
        if link.get("refdomain") == "py" and link["reftype"] in ("class", "exc"):
            name = link["reftarget"].removeprefix("ts.")
            tried = (name, f"tinyseq.{name}", f"tinyseq.nn.{name}")
            found = next((key for key in tried if name[1:] and inspect.isclass(NAMES.get(key))), None)
            if found and not found.islower():
                link.attributes.update(reftarget=found, reftype="obj")
            else:
                link.replace_self(link.children)


def setup(app: Sphinx) -> dict[str, bool]:
    app.setup_extension("sphinx.ext.linkcode")
    app.config["linkcode_resolve"] = linkcode_resolve
    app.connect("builder-inited", write)
    app.connect("autodoc-process-docstring", docstring)
    app.connect("autodoc-process-signature", signature)
    app.connect("doctree-read", annotations)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
