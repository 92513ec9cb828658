"""Pages quote code that stands where they say, say the same in both languages, and lead to what is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
ROAD = {name: (ROOT / "docs" / name).read_text("utf-8") for name in ("road.md", "road.zh.md")}


def excerpts(page: str) -> list[tuple[str, list[str]]]:
    """(file, lines) of each: a link to the file, and the code under it."""
    found = re.findall(r"^\[([\w/.]+)\]\(\.\./\1\)\n```python\n(.*?)\n```$", page, re.DOTALL | re.MULTILINE)
    return [(file, code.splitlines()) for file, code in found]


def differences(file: str, quoted: list[str]) -> list[str]:
    """The quoted lines that do not stand in the file, in this order. What a comment adds may be left out."""
    lines = iter((ROOT / file).read_text("utf-8").splitlines())
    stands = lambda line: any(line in (code, code.strip(), code.split("  # ")[0].strip()) for code in lines)
    return [line for line in quoted if not stands(line)]


@pytest.mark.parametrize("name", ROAD)
def test_quoted_code_stands_in_the_named_file(name: str) -> None:
    quoted = excerpts(ROAD[name])
    assert len(quoted) == ROAD[name].count("```python") > 40
    assert not [(file, lines) for file, code in quoted if (lines := differences(file, code))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_other_pages_quote_what_stands_there(page: Path) -> None:
    quoted = excerpts(page.read_text("utf-8"))
    assert not [(file, lines) for file, code in quoted if (lines := differences(file, code))]


def test_both_languages_show_the_same() -> None:
    english, chinese = ROAD.values()
    assert excerpts(english) == excerpts(chinese)
    for what in (r"\]\((pictures/.*?)\)", r"^```\n(.*?)\n```", r"^(#+) ", r"\*\*(\d[\d.,]*)"):
        assert re.findall(what, english, re.MULTILINE) == re.findall(what, chinese, re.MULTILINE), what
    figures = [sorted(re.findall(r"[\d.]+%", page)) for page in (english, chinese)]
    assert figures[0] == figures[1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_exist(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text("utf-8"))
    assert not [target for target in targets if not (page.parent / target).exists()]


def test_commands_run_scripts_that_exist() -> None:
    commands = re.findall(r"^python (\S+)", ROAD["road.md"], re.MULTILINE)
    assert len(commands) > 15 and not [script for script in commands if not (ROOT / script).exists()]
