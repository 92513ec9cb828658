"""Files of the source on the site: a page for each, links to them, quotes that lead to their line, and code as it is.

- A link to a file or folder outside docs/ leads to its page, and one to a page of docs/ there, from wherever it is
  written: README.md is included by a page in another folder.
- A paragraph that is one link to a file, before a block of code, leads to the line where that code stands.
- One whose text is `FILE: NAME` is followed by the code of NAME, read from the file when the site is built.
- A page NAME.md beside a folder NAME/ has the pages in there below it.
"""

import ast
import os
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments.lexers.special import TextLexer
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

ROOT = Path(__file__).parents[2]
SHOWN = ("tinyseq/**/*.py", "backends/**/*.py", "backends/*.cu", "examples/*.py", "examples/data/*.md", "findings/*.sh",
         "tests/benchmarks/**/*.py", "tests/cupy_on_cpu/*.md", ".ci/run")
FILES = sorted({path.relative_to(ROOT) for pattern in SHOWN for path in ROOT.glob(pattern)})
FOLDERS = {folder for file in FILES for folder in file.parents if folder.name}
TREES: dict[int, str] = {}
INCLUDED = {"README.md": "index", "CHANGELOG.md": "changelog", "CONTRIBUTING.md": "contributing"}


def page_of(path: Path) -> str:
    """The page of a file or folder, by its path from the root."""
    return f"source/{path.as_posix()}"


class Sources(SphinxTransform):
    """What the docstring above says of links, quotes and code."""

    default_priority = 5                        # before Sphinx copies what is linked to

    def apply(self, **_: Any) -> None:
        for link in [*self.document.findall(self.leads_out)]:
            self.lead(link)
        for paragraph in [*self.document.findall(nodes.paragraph)]:
            if len(paragraph) == 1 and isinstance(link := paragraph[0], nodes.reference) and link.get("source"):
                self.quote(paragraph, link)

    @staticmethod
    def leads_out(node: nodes.Node) -> bool:
        return (isinstance(node, (addnodes.download_reference, addnodes.pending_xref)) and node.get("reftype") == "myst"
                and (not node.get("refdomain") or node["reftarget"].startswith("/")))

    def lead(self, link: nodes.Element) -> None:
        """Turn a link to a file into one to its page. What is not there is left, and Sphinx warns of it."""
        target, _, anchor = link["reftarget"].partition("#")
        if link.get("refdomain"):               # which MyST takes for a page of this site, and cuts its ending off
            target += ".md"
        for folder in (Path(self.env.doc2path(self.env.docname)).parent, ROOT):
            path = Path(os.path.normpath(folder / target))
            if not target or not path.is_relative_to(ROOT) or not path.exists():
                continue
            name = path.relative_to(ROOT)
            page = INCLUDED.get(str(name))
            if name.parts[0] == "docs" and name.suffix == ".md":
                page = name.relative_to("docs").with_suffix("").as_posix()
            if page:
                found: nodes.Element = addnodes.pending_xref(
                    refdomain="doc", reftype="myst", reftarget=page, reftargetid=anchor or None,
                    refdoc=self.env.docname, refexplicit=True)
                found += nodes.inline(classes=["xref", "myst"])
                found[0] += link[0].children if isinstance(link[0], nodes.inline) else link.children
            elif name in FILES or name in FOLDERS:
                uri = f"{'../' * self.env.docname.count('/')}{page_of(name)}.html"
                found = nodes.reference("", "", *link[0].children, refuri=uri, internal=True, source=name.as_posix())
            else:
                continue
            link.replace_self(found)
            return

    def quote(self, paragraph: nodes.paragraph, link: nodes.reference) -> None:
        """Lead to the line of the code that follows, or add the code that is named."""
        text = (ROOT / link["source"]).read_text("utf-8") if Path(link["source"]) in FILES else ""
        following = paragraph.next_node(descend=False, siblings=True)
        file, _, name = link.astext().partition(": ")
        if file != link["source"]:
            return
        self.env.note_dependency(str(ROOT / file))              # this page is read again when the file changes
        if name:
            first, last = place(text, name)
            code = "\n".join(text.splitlines()[first - 1 : last])
            after = paragraph.parent.index(paragraph) + 1
            short = " open" if last - first < 20 else ""
            opened = f"<details class='source'{short}><summary>{last - first + 1} lines</summary>"
            paragraph.parent[after:after] = [
                nodes.raw("", opened, format="html"), nodes.literal_block(code, code, language="python"),
                nodes.raw("", "</details>", format="html")]
        elif isinstance(following, nodes.literal_block):
            quoted = following.astext().splitlines()[0].strip()
            first = next((n for n, line in enumerate(text.splitlines(), 1) if line.strip().startswith(quoted)), 0)
        else:
            return
        link["refuri"] += f"#line-{first}" if first else ""
        paragraph["classes"].append("quoted")


def place(text: str, name: str) -> tuple[int, int]:
    """The first and the last line of a function, class or method in a text of Python."""
    node: Any = ast.parse(text)
    for part in name.split("."):
        node = next((found for found in node.body[::-1] if getattr(found, "name", None) == part), None)   # no overload
        if node is None:
            raise ValueError(f"there is no {name} in the file that a page takes it from")
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)]), node.end_lineno


def pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """A page for each file and each folder."""
    for file in FILES:
        language = {".py": "python", ".cu": "cuda", ".md": "text"}.get(file.suffix, "bash")
        code = app.builder.highlighter.highlight_block(  # type: ignore[attr-defined]
            (ROOT / file).read_text("utf-8"), language, linenos="inline", lineanchors="line")
        yield page_of(file), {"title": file.as_posix(), "body": f"<h1>{file.as_posix()}</h1>{code}"}, "page.html"
    inside = lambda path: path.parent
    for folder, paths in groupby(sorted({*FILES, *FOLDERS}, key=inside), inside):
        if folder.name:
            rows = "".join(f'<li><a href="{folder.name}/{path.name}.html">{path.name}</a></li>' for path in paths)
            body = f"<h1>{folder.as_posix()}</h1><ul>{rows}</ul>"
            yield page_of(folder), {"title": folder.as_posix(), "body": body}, "page.html"


def tree(app: Sphinx, name: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """The tree of pages beside a file, which is not in it: one for all files that lie as deep."""
    if name.startswith("source/"):
        depth, make = name.count("/"), context["toctree"]
        context["toctree"] = lambda **how: TREES.get(depth) or TREES.setdefault(depth, make(**how))


def below(app: Sphinx, name: str, source: list[str]) -> None:
    """The pages in a folder of a page's name, as its tree: it lists them itself, so that GitHub shows them too."""
    if (Path(app.srcdir) / name).is_dir():
        source[0] += f"\n```{{toctree}}\n:hidden:\n:glob:\n/{name}/*\n```\n"


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_transform(Sources)
    app.add_lexer("mermaid", TextLexer)         # GitHub draws it
    app.connect("html-collect-pages", pages)
    app.connect("source-read", below)
    app.connect("html-page-context", tree, priority=400)        # before the theme, which asks for it
    return {"parallel_read_safe": True, "parallel_write_safe": True}
