"""The site that `make site` built, without a browser: nothing is missing, and nothing comes from another server."""

import json
import re
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit
from zipfile import ZipFile

import pytest
from test_docstrings import SHOWN, public

import tinyseq as ts

ROOT = Path(__file__).parents[1]
SITE = ROOT / "build/site"
BUILT = (SITE / "searchindex.js").stat().st_mtime if (SITE / "searchindex.js").exists() else 0.0
CHANGED = max(path.stat().st_mtime for pattern in ("docs/**/*.md", "docs/_*/*", "tinyseq/**/*.py", "*.md")
              for path in ROOT.glob(pattern))
pytestmark = pytest.mark.skipif(BUILT < CHANGED, reason="the site is not built, or older than its sources (make site)")
PAGES = sorted(SITE.glob("**/*.html"))
DRAWN = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "video": "src"}


class Page(HTMLParser):
    """What a page has: its title, language, text, names of places, and all that it leads to or loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.title = self.text = self.language = ""
        self.places: list[str] = []
        self.leads: list[str] = []
        self.loads: list[str] = []
        self._in: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attributes}
        self._in.append(tag)
        self.language = given.get("lang", "") if tag == "html" else self.language
        self.places += [given[key] for key in ("id", "name") if key in given]
        if tag == "a" and "href" in given:
            self.leads.append(given["href"])
        if (found := given.get(DRAWN.get(tag, ""))) and given.get("rel") not in ("canonical", "author"):
            self.loads.append(found)

    def handle_data(self, data: str) -> None:
        if self._in[-1:] == ["title"]:
            self.title = self.title or data     # of the page; pictures of buttons have some too
        self.text += data

    def handle_endtag(self, tag: str) -> None:
        self._in.append("")


@cache
def page(path: Path) -> Page:
    return Page(path.read_text("utf-8"))


def name_of(path: Path) -> str:
    return path.relative_to(SITE).as_posix()


def missing(path: Path) -> Iterator[str]:
    """The links of a page that lead nowhere."""
    for lead in [*page(path).leads, *page(path).loads]:
        parts = urlsplit(lead)
        if parts.scheme or lead.startswith("data:"):
            continue
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        place = unquote(parts.fragment) if target.suffix == ".html" else ""
        if not target.is_file() or (place and place not in page(target).places):
            yield lead


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_a_page_has_a_title_a_language_and_all_it_leads_to(path: Path) -> None:
    found = page(path)
    assert found.title.strip() and found.language == ("zh" if ".zh" in name_of(path) else "en")
    assert not [*missing(path)]


def test_nothing_comes_from_another_server() -> None:
    loaded = [(name_of(path), load) for path in PAGES for load in page(path).loads]
    assert len(loaded) > 100 and not [pair for pair in loaded if re.match(r"(https?:)?//", pair[1])]
    for path in SITE.glob("**/*.css"):
        assert not re.findall(r"(?:url\(|@import)\s*['\"]?(?:https?:)?//[^)]*", path.read_text("utf-8")), path


def test_the_package_beside_the_pages_is_that_of_the_source() -> None:
    """No module of an earlier build either."""
    with ZipFile(SITE / "_static/cells/tinyseq.whl") as wheel:
        held = {name: wheel.read(name) for name in wheel.namelist() if name.startswith("tinyseq/")}
    files = [ROOT / "tinyseq/py.typed", *ROOT.glob("tinyseq/**/*.py")]
    theirs = [ROOT / "backends/kernels.cu", *ROOT.glob("backends/**/*.py")]
    assert held == ({path.relative_to(ROOT).as_posix(): path.read_bytes() for path in files}
                    | {f"tinyseq/{path.relative_to(ROOT).as_posix()}": path.read_bytes() for path in theirs})


def test_every_public_name_is_on_a_page_of_the_api() -> None:
    places = {place for path in PAGES if path.parent.name == "api" for place in page(path).places}
    dtypes = {f"tinyseq.{name}" for name in ts.__all__ if name.endswith(("8", "16", "32", "64"))}
    assert len(SHOWN) > 300 and len(dtypes) > 7 and not ({*SHOWN} | dtypes) - places


def test_code_on_the_pages_is_that_of_the_source() -> None:
    text = (ROOT / "docs/engine.md").read_text("utf-8")
    asked = re.findall(r"^\[([\w/.]+): ([\w.]+)\]", text, re.MULTILINE)
    assert len(asked) > 12
    shown = page(SITE / "engine.html").text
    for file, name in asked:
        source = (ROOT / file).read_text("utf-8")
        head = re.findall(rf"^ *(?:def|class) {name.split('.')[-1]}\b.*$", source, re.MULTILINE)[-1]
        following = source[source.rindex(head) :].splitlines()[:4]
        assert "\n".join(following) in shown, (file, name)


@pytest.mark.parametrize(("asked", "expected"), [
    (["attent"], "road/09-attention"), (["注意", "意力"], "road.zh/09-attention"), (["梯度"], "road.zh/05-memory"),
    (["gru"], "api/nn.recurrent"), (["cross_entropi"], "api/functional.losses")])
def test_what_is_searched_for_is_found(asked: list[str], expected: str) -> None:
    """As the page of the search asks: words by their stems, Chinese by pairs of characters."""
    index = json.loads((SITE / "searchindex.js").read_text("utf-8").removeprefix("Search.setIndex(").removesuffix(")"))
    listed = lambda places: {places} if isinstance(places, int) else {*places}
    found = set.intersection(*(listed(index["terms"].get(word, [])) | listed(index["titleterms"].get(word, []))
                               for word in asked))
    assert expected in {index["docnames"][i] for i in found}


def test_each_stop_leads_to_its_notebook() -> None:
    for road in "road", "road.zh":
        stops = sorted(path.stem for path in (SITE / road).glob("*.html"))
        books = sorted(path.stem for path in (SITE / "notebooks" / road).glob("*.ipynb"))
        assert len(books) == 10 and books == stops[:10]
        for name in books:
            assert f"../notebooks/{road}/{name}.ipynb" in page(SITE / road / f"{name}.html").leads


def test_public_names_of_rooms_that_the_pages_do_not_know() -> None:
    """A new room has to be among those of docs/_extensions/api.py: this one asks tests/test_docstrings.py."""
    text = (ROOT / "docs/_extensions/api.py").read_text("utf-8")
    rooms = re.search(r'ROOMS = """(.*?)"""', text, re.DOTALL)
    assert rooms and {name.rpartition(".")[0] for name in SHOWN if "Tensor." not in name} == {
        name if name == "tinyseq" else f"tinyseq.{name}" for name in rooms[1].split()} and public
