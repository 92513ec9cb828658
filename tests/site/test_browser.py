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
    """The site, and Pyodide under /pyodide/."""

    def translate_path(self, path: str) -> str:
        name = unquote(urlsplit(path).path).lstrip("/")
        return str(PYODIDE / name.removeprefix("pyodide/") if name.startswith("pyodide/") else SITE / name)

    def do_GET(self) -> None:
        if self.path == "/favicon.ico":         # which a browser asks every server for
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


@pytest.mark.parametrize("width", [1280, 390])
def test_every_page_opens_and_fits(browser: Any, address: str, width: int) -> None:
    """No error in the console, no picture missing, and nothing to be scrolled to the side."""
    wide(browser, width)
    bad = []
    for page in SEEN:
        browser.get(address + page)
        bad += [(page, entry["message"]) for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
        bad += [(page, picture) for picture in browser.execute_script(
            "return [...document.images].filter(i => !i.hidden && i.complete && !i.naturalWidth).map(i => i.src)")]
        if (over := browser.execute_script("return document.documentElement.scrollWidth")) > width:
            bad.append((page, f"is {over} pixels wide"))
    assert not bad


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
    figures = [[float(figure) for figure in re.findall(r"\d+\.?\d*", text)]
               for text in (stored["text"], part(browser, name, "text").text)]
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
    run("1 +")
    assert "line 1: 1 +" in wait(lambda: "SyntaxError" in (said := part(browser, name, "error").text) and said)
    run("2 + 3")
    wait(lambda: part(browser, name, "text").text.strip() == "5")


def test_no_address_makes_a_page_run_anothers_code(browser: Any, address: str) -> None:
    browser.get(f"{address}road/05-memory.html?pyodide=https://example.org/pyodide/")
    at = browser.execute_script("return new Python(document.querySelector('.cell')).pyodide")
    assert at.startswith("https://cdn.jsdelivr.net/pyodide/v0.27.7/")


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
