"""Pages whose code shows what it prints: each is run from top to bottom, as a reader would."""

import doctest
import re
from pathlib import Path

import pytest

import tinyseq as ts

DOCS = Path(__file__).parents[1] / "docs"
PAGES = [page for page in sorted(DOCS.glob("*.md")) if ">>> " in page.read_text("utf-8")]
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.mark.filterwarnings("ignore:(divide by zero|invalid value) encountered:RuntimeWarning")  # that a page is about
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_runs_and_prints_what_it_says(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ts.manual_seed(0)
    text = page.read_text("utf-8")
    blocks = re.finditer(r"^```python\n(>>> .*?)^```$", text, re.DOTALL | re.MULTILINE)
    code = "\n".join(block[1] for block in blocks)
    test = doctest.DocTestParser().get_doctest(code, {}, page.name, str(page), 0)
    said: list[str] = []
    doctest.DocTestRunner(optionflags=OPTIONS, verbose=False).run(test, out=said.append)
    assert len(test.examples) > 2 and not said, "".join(said)
