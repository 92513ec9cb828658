"""Pages quote code that stands where they say, say the same in both languages, and lead to what is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
ROAD = sorted([*ROOT.glob("docs/road.md"), *ROOT.glob("docs/road/*.md")])
name_of = lambda page: page.relative_to(ROOT).as_posix()


def excerpts(page: str) -> list[tuple[str, list[str]]]:
    """(file, lines) of each: a link to the file, and the code under it."""
    found = re.findall(r"^\[([\w/.]+)\]\((?:\.\./)+\1\)\n```python\n(.*?)\n```$", page, re.DOTALL | re.MULTILINE)
    return [(file, code.splitlines()) for file, code in found]


def differences(file: str, quoted: list[str]) -> list[str]:
    """The quoted lines that do not stand in the file, in this order. What a comment adds may be left out."""
    lines = iter((ROOT / file).read_text("utf-8").splitlines())
    stands = lambda line: any(line in (code, code.strip(), code.split("  # ")[0].strip()) for code in lines)
    return [line for line in quoted if not stands(line)]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_quoted_code_stands_in_the_named_file(page: Path) -> None:
    text = page.read_text("utf-8")
    quoted = excerpts(text)
    assert not [(file, lines) for file, code in quoted if (lines := differences(file, code))]
    if page.parent.name.startswith("road"):
        assert len(quoted) == text.count("```python") > 3


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_named_code_stands_in_the_named_file(page: Path) -> None:
    """`[FILE: NAME](...)`, which the site shows the code of."""
    for file, name in re.findall(r"^\[([\w/.]+): ([\w.]+)\]\((?:\.\./)+\1\)$", page.read_text("utf-8"), re.MULTILINE):
        assert re.search(rf"^ *(def|class) {name.split('.')[-1]}\b", (ROOT / file).read_text("utf-8"), re.MULTILINE)


@pytest.mark.parametrize("page", ROAD, ids=name_of)
def test_both_languages_show_the_same(page: Path) -> None:
    """Code, pictures, commands, headings, links and figures, one after the other."""
    other = Path(str(page).replace("docs/road", "docs/road.zh"))
    english, chinese = (path.read_text("utf-8").replace("docs/road.zh", "docs/road") for path in (page, other))
    assert excerpts(english) == excerpts(chinese)
    blocks = [re.findall(r"^```.*?^```$", text, re.DOTALL | re.MULTILINE) for text in (english, chinese)]
    assert blocks[0] == blocks[1]
    prose = [re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE) for text in (english, chinese)]
    for what in (r"!\[.*?\]\((.*?)\)", r"^(#+) ", r"\*\*(\d[\d.,]*)", r"^\[(.*?\.py)[:\]]", r"\$\$([^$]*)\$\$",
                 r"^\| \[(\d+)\].* \| (`.*?`) \|"):
        shown = [re.findall(what, text, re.MULTILINE) for text in prose]
        assert shown[0] == shown[1], what
    numbers = [sorted(re.findall(r"\d[\d.,]*\d|\d", text)) for text in prose]
    assert numbers[0] == numbers[1]


def test_every_page_of_the_road_is_there_in_both_languages() -> None:
    names = [[path.name for path in sorted(ROOT.glob(f"docs/{road}/*.md"))] for road in ("road", "road.zh")]
    assert names[0] == names[1] and len(names[0]) == 11


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_pictures_exist(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text("utf-8"))
    assert not [target for target in targets if not (page.parent / target).exists()]


def test_commands_run_scripts_that_exist() -> None:
    text = "".join(page.read_text("utf-8") for page in ROAD)
    commands = re.findall(r"^python (\S+)", text, re.MULTILINE)
    assert len(commands) > 15 and not [script for script in commands if not (ROOT / script).exists()]


def test_the_short_table_is_a_part_of_the_long_one() -> None:
    rows = [[line for line in (ROOT / page).read_text("utf-8").splitlines() if re.match(r"\| .* \| [\d.]+ \|$", line)]
            for page in ("README.md", "docs/how-fast.md")]
    assert len(rows[0]) > 10 and not {*rows[0]} - {*rows[1]}
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 130, "what a newcomer needs in two minutes"
