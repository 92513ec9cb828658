"""The built site in a real browser: every page at the width of a desktop and of a phone, cells and playgrounds beside
CPython. Needs `make site`, Chromium with its driver, selenium, and Pyodide in build/pyodide: `make site-test`."""

import json
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[2]
SITE, PYODIDE = ROOT / "build/site", ROOT / "build/pyodide"
PAGES = sorted(path.relative_to(SITE).as_posix() for path in SITE.glob("**/*.html"))
SEEN = [page for page in PAGES if not page.startswith("source/")]      # of the sources links alone are followed
CELLS = {"road/01-window.html": "01-window", "road/02-sentiment.html": "02-sentiment",
         "road.zh/09-attention.html": "09-attention"}
pytestmark = pytest.mark.site


class Handler(SimpleHTTPRequestHandler):
    """The site, and Pyodide under /pyodide/, where it is not `away`."""

    away = False

    def translate_path(self, path: str) -> str:
        name = unquote(urlsplit(path).path).lstrip("/")
        return str(PYODIDE / name.removeprefix("pyodide/") if name.startswith("pyodide/") else SITE / name)

    def do_GET(self) -> None:
        if self.away and self.path.startswith("/pyodide/"):
            self.send_error(503)
        elif self.path == "/favicon.ico":       # which a browser asks every server for
            self.send_response(204)
            self.end_headers()
        else:
            super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="session")
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (pip install selenium)")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or pytest.skip("Chromium is not installed (apt: chromium)")
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--force-device-scale-factor=1"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def wide(browser: Any, width: int) -> None:
    """A page of that many pixels, which a window of a phone's width is too wide for."""
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500})


def scheme(browser: Any, name: str) -> None:
    """What the reader's system asks for: "light" or "dark"."""
    features = [{"name": "prefers-color-scheme", "value": name}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def wait(what: Callable[[], Any], seconds: float = 240) -> Any:
    until = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < until, f"nothing came in {seconds} seconds"
        time.sleep(0.1)
    return found


class Links(HTMLParser):
    """Where a page's links and pictures lead, and what has a name in it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.names: set[str] = set()
        self.feed((SITE / page).read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.targets += [value for key in ("href", "src") if (value := given.get(key))]
        self.names |= {value for key in ("id", "name") if (value := given.get(key))}


def test_no_link_and_no_picture_leads_nowhere() -> None:
    if not PAGES:
        pytest.skip("there is no site: make site")
    assert len(SEEN) > 40
    found = {page: Links(page) for page in PAGES}
    dead = []
    for page, links in found.items():
        for target in links.targets:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            file = (SITE / page).parent / unquote(parts.path) if parts.path else SITE / page
            file = file.resolve() / "index.html" if file.is_dir() else file.resolve()
            name = file.relative_to(SITE).as_posix()
            if not file.exists() or (parts.fragment and name in found and unquote(parts.fragment) not in
                                     found[name].names | {""}):
                dead.append((page, target))
    assert not dead


@pytest.mark.parametrize(("width", "colours"), [(1280, "light"), (390, "dark")])
def test_every_page_opens_and_fits(browser: Any, address: str, width: int, colours: str) -> None:
    """No error in the console, no picture missing, and nothing to be scrolled to the side, or cut off."""
    wide(browser, width)
    scheme(browser, colours)
    bad = []
    for page in SEEN:
        browser.get(address + page)
        bad += [(page, entry["message"]) for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
        bad += [(page, picture) for picture in browser.execute_script(
            "return [...document.images].filter(i => !i.hidden && i.complete && !i.naturalWidth).map(i => i.src)")]
        if (over := browser.execute_script("return document.documentElement.scrollWidth")) > width:
            bad.append((page, f"is {over} pixels wide"))
        bad += [(page, f"cuts off {name}") for name in browser.execute_script(CUT_OFF)]
    scheme(browser, "light")
    assert not bad


# Text and pictures beyond the page's right edge that no box around them lets one scroll to.
CUT_OFF = """
const scrolls = (node) => node && (/auto|scroll/.test(getComputedStyle(node).overflowX) || scrolls(node.parentElement));
return [...document.querySelectorAll("article *")].filter((node) => node.checkVisibility() &&
    node.getBoundingClientRect().right > innerWidth + 1 && !scrolls(node.parentElement))
    .map((node) => node.outerHTML.slice(0, 60));
"""

# Of elements, how far the colour of their text is from what lies behind it: WCAG's contrast, from 1 to 21.
CONTRAST = """
const pixel = Object.assign(document.createElement("canvas"), { width: 1, height: 1 })
    .getContext("2d", { willReadFrequently: true });
const paint = (colour) => { pixel.fillStyle = colour; pixel.fillRect(0, 0, 1, 1); };
const light = () => {
    const parts = [...pixel.getImageData(0, 0, 1, 1).data].slice(0, 3).map((part) => part / 255)
        .map((part) => (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
};
const behind = (node) => { if (node) { behind(node.parentElement); paint(getComputedStyle(node).backgroundColor); } };
return [...document.querySelectorAll(arguments[0])].map((node) => {
    behind(node);
    const back = light(), style = getComputedStyle(node);
    paint(node instanceof SVGElement ? style.fill : style.color);
    const [low, high] = [back, light()].sort((a, b) => a - b);
    return [node.getAttribute("class") || node.tagName, (high + 0.05) / (low + 0.05)];
});
"""


@pytest.mark.parametrize("theme", ["light", "dark", "auto in the dark"])
def test_cells_and_playgrounds_can_be_read(browser: Any, address: str, theme: str) -> None:
    scheme(browser, "dark" if theme.startswith("auto") else "light")
    for page, asked, count in (("road/05-memory", ".cell :is(textarea, button, span, pre)", 6),
                               ("playground", ".playground :is(input, div, figcaption, text)", 60)):
        browser.get(f"{address}{page}.html")
        browser.execute_script("document.body.dataset.theme = arguments[0]", theme.split()[0])
        found = browser.execute_script(CONTRAST, asked)
        assert len(found) >= count and not [pair for pair in found if pair[1] < 4.5]
    scheme(browser, "light")


# What stands around a page's text: words of the theme, captions and labels; names of pages aside, and of cells.
AROUND = """
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
while (texts.nextNode())
    if (!texts.currentNode.parentElement.closest("article, script, title, a.reference, .title, .brand, .sidebar-brand"))
        found.push(texts.currentNode.data.trim());
for (const name of ["aria-label", "title", "placeholder"])
    for (const node of document.body.querySelectorAll(`:not(.cell-code)[${name}]`)) found.push(node.getAttribute(name));
for (const node of document.querySelectorAll(".cell-bar *, .playground :not(svg *)"))
    if (!node.children.length) found.push(node.textContent);
return found.filter((text) => /[a-z]{2}/i.test(text));
"""


@pytest.mark.parametrize("page", ["road", "road/05-memory", "road/11-real-data", "playground", "search"])
def test_chinese_pages_are_chinese_around_their_text(browser: Any, address: str, page: str) -> None:
    wide(browser, 1280)
    said = {}
    for language, name in ("en", page), ("zh", page.replace("road", "road.zh")):
        browser.get(f"{address}{name if language == 'en' or '.zh' in name else f'{name}.zh'}.html?q=GRU")
        said[language] = {*browser.execute_script(AROUND)}
        assert browser.execute_script("return document.documentElement.lang") == language
    assert len(said["en"]) > 8
    names = {"Furo", "N AY T L IY"}
    assert not [text for text in (said["en"] & said["zh"]) - names if "tinyseq developers" not in text]


@pytest.mark.parametrize(("page", "heading"), [("road", "Search Results"), ("road.zh", "搜索结果")])
@pytest.mark.parametrize(("asked", "expected"),
                         [("注意力", "road.zh/09-attention"), ("attention", "road/09-attention")])
def test_both_languages_are_searched_from_each(browser: Any, address: str, page: str, heading: str, asked: str,
                                               expected: str) -> None:
    wide(browser, 1280)
    browser.get(f"{address}{page}.html")
    field = browser.find_element("css selector", ".sidebar-search")
    field.send_keys(asked)
    field.submit()
    wait(lambda: "search" in browser.current_url)
    results = lambda: browser.find_elements("css selector", "#search-results li a")
    wait(lambda: browser.find_element("css selector", "#search-results h2").text == heading)       # it is done
    assert any(expected in found.get_attribute("href") for found in results())


def test_the_public_address_is_of_the_pyodide_that_is_tested(browser: Any, address: str) -> None:
    lock = json.loads((PYODIDE / "pyodide-lock.json").read_text("utf-8"))
    program = "import runnable; print(runnable.PYODIDE)"
    public = subprocess.run([sys.executable, "-c", program], cwd=ROOT / "docs/_extensions", capture_output=True,
                            text=True, check=True).stdout.strip()
    assert public == f"https://cdn.jsdelivr.net/pyodide/v{lock['info']['version']}/full/"


def by_cpython(name: str) -> dict[str, str]:
    driver, cell = (ROOT / "docs" / part for part in ("_static/cells/cell.py", f"cells/{name}.py"))
    return json.loads(subprocess.run([sys.executable, driver, cell], cwd=ROOT / "examples/data", capture_output=True,
                                     check=True).stdout)


def part(browser: Any, name: str, which: str) -> Any:
    return browser.find_element("css selector", f"#{name} .cell-{which}")


def press(browser: Any, name: str, which: str) -> None:
    button = part(browser, name, which)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", button)
    button.click()


@pytest.mark.parametrize("page", CELLS)
def test_a_cell_prints_what_cpython_prints(browser: Any, address: str, page: str) -> None:
    wide(browser, 1280)
    name, stored = f"cell-{CELLS[page]}", by_cpython(CELLS[page])
    browser.get(f"{address}{page}?pyodide=/pyodide/")
    assert part(browser, name, "text").text.strip() == stored["text"].strip()      # before any Python is there
    press(browser, name, "run")
    wait(lambda: part(browser, name, "text").text)                                  # while it learns
    assert not part(browser, name, "run").is_enabled()
    wait(lambda: part(browser, name, "run").is_enabled())
    assert not part(browser, name, "error").is_displayed(), part(browser, name, "error").text
    assert part(browser, name, "picture").get_attribute("src").startswith("data:image/png;base64,iVBOR")
    said = part(browser, name, "text").text
    assert re.sub(r"\d+\.?\d*", "#", said.strip()) == re.sub(r"\d+\.?\d*", "#", stored["text"].strip())
    figures = [[float(figure) for figure in re.findall(r"\d+\.?\d*", text)]
               for text in (stored["text"], said)]
    assert len(figures[0]) > 5 and figures[1] == pytest.approx(figures[0], rel=0.02, abs=0.011)


def test_a_cell_is_edited_stopped_and_says_which_line_is_wrong(browser: Any, address: str) -> None:
    name = "cell-05-memory"
    browser.get(f"{address}road/05-memory.html?pyodide=/pyodide/")

    def run(code: str) -> None:
        browser.execute_script("arguments[0].value = arguments[1]", part(browser, name, "code"), code)
        press(browser, name, "run")

    run("import time\nfor i in range(10**6):\n    print('step', i)\n    time.sleep(0.05)")
    wait(lambda: "step 3" in part(browser, name, "text").text)                      # it streams
    assert browser.execute_script("return 1 + 1") == 2                              # and the page is alive
    press(browser, name, "stop")
    assert part(browser, name, "run").is_enabled() and "stopped" in part(browser, name, "state").text
    said = part(browser, name, "text").text
    time.sleep(0.5)
    assert part(browser, name, "text").text == said
    run("import tinyseq as ts\nx = ts.ones(3)\n\ny = x @ ts.ones((4, 4))")
    error = wait(lambda: part(browser, name, "error").text)
    assert "line 4: y = x @ ts.ones((4, 4))" in error and "ValueError" in error
    assert not part(browser, name, "picture").is_displayed()                        # of an earlier run
    run("1 +")
    assert "line 1: 1 +" in wait(lambda: "SyntaxError" in (said := part(browser, name, "error").text) and said)
    run("2 + 3")
    wait(lambda: part(browser, name, "text").text.strip() == "5")


def test_a_cell_runs_when_python_can_be_reached_again(browser: Any, address: str,
                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    name = "cell-05-memory"
    browser.get(f"{address}road/05-memory.html?pyodide=/pyodide/")
    browser.execute_script("arguments[0].value = '2 + 3'", part(browser, name, "code"))
    browser.execute_cdp_cmd("Network.clearBrowserCache", {})
    monkeypatch.setattr(Handler, "away", True)
    press(browser, name, "run")
    assert "pyodide.js" in wait(lambda: part(browser, name, "error").text)
    assert "update 500" in part(browser, name, "text").text and part(browser, name, "picture").is_displayed()
    monkeypatch.setattr(Handler, "away", False)
    press(browser, name, "run")
    wait(lambda: part(browser, name, "text").text.strip() == "5")


def test_no_address_makes_a_page_run_anothers_code(browser: Any, address: str) -> None:
    browser.get(f"{address}road/05-memory.html?pyodide=https://example.org/pyodide/")
    at = browser.execute_script("return new Python(document.querySelector('.cell')).pyodide")
    assert at.startswith(("https://cdn.jsdelivr.net/pyodide/", f"{address}pyodide/")) and "example" not in at


@pytest.mark.parametrize("width", [1280, 390])
def test_the_playgrounds_answer_to_what_is_typed(browser: Any, address: str, width: int) -> None:
    wide(browser, width)
    browser.get(f"{address}playground.html?pyodide=/pyodide/")
    text = lambda name: browser.find_element("css selector", f"#playground-{name} .playground-text").text
    for name, typed, first, then in (("attention", "thought", "N AY T L IY", "TH AO T"),
                                     ("gates", "the film was bad", "good: 100%", "good: 0%")):
        assert text(name) == first                                                  # before any Python is there
        field = browser.find_element("css selector", f"#playground-{name} input")
        field.clear()
        field.send_keys(typed)
        wait(lambda name=name, then=then: text(name) == then)
        marks = browser.find_elements("css selector", f"#playground-{name} svg:last-of-type text")
        assert marks
    wide(browser, 1280)
