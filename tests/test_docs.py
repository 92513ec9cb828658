"""Pages quote code that stands where they say, say the same in both languages, and lead to what is there; what they
list, name and count is what the source has."""

import ast
import inspect
import math
import re
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tinyseq.backends import threads

import tinyseq as ts
from tinyseq import export, functional, nn
from tinyseq.nn.gates import PRESETS

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
ROAD = sorted([*ROOT.glob("docs/road.md"), *ROOT.glob("docs/road/*.md")])
ROOMS = {name: getattr(ts, name) for name in ts._lazy if name != "plot" or find_spec("matplotlib")}
ROOMS |= {"nn": nn, "functional": functional, "F": functional, "ts": ts, "tinyseq": ts}
CLASSES = {name: value for room in ROOMS.values() for name in getattr(room, "__all__", ())
           if inspect.isclass(value := getattr(room, name)) and name[0].isupper()}
name_of = lambda page: page.relative_to(ROOT).as_posix()
read = lambda page: (ROOT / page).read_text("utf-8")


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
    rows = [[line for line in (ROOT / page).read_text("utf-8").splitlines() if re.match(
        r"\| .* \| (PyTorch|by hand|onnxruntime) [\d./ ]+ \||\| geometric mean", line)]
            for page in ("README.md", "docs/how-fast.md")]
    assert len(rows[0]) > 10 and not {*rows[0]} - {*rows[1]}
    measured = [re.findall(r"^Measured by [^\n].*?\n\n", read(page), re.DOTALL | re.MULTILINE)
                for page in ("README.md", "docs/how-fast.md")]
    assert measured[0] == measured[1][:1]
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 130, "what a newcomer needs in two minutes"


# --- what is in the source and on a page ------------------------------------------------------------------------------


def table(page: str, first: str) -> list[list[str]]:
    """The rows of a page's table whose first column is called so: its cells."""
    found = re.search(rf"^\| {first} \|.*\n\| ---.*\n((?:\|.*\n)+)", read(page), re.MULTILINE)
    assert found, f"{page} has no table of {first}"
    return [row.strip("| ").split(" | ") for row in found[1].splitlines()]


def coded(cells: list[str]) -> list[str]:
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def default(function: Any, name: str) -> Any:
    return inspect.signature(function).parameters[name].default


def codes(page: Path) -> Iterator[str]:
    """What a page has in backticks, and its blocks of Python that are neither run nor quoted; of a table that begins
    with PyTorch's names the other columns."""
    text = page.read_text("utf-8")
    for before, code in re.findall(r"^([^\n]*)\n```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        if not code.startswith(">>> ") and not before.endswith(")"):
            yield code
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^\| .*? \| ", "", text, flags=re.MULTILINE) if page.name == "coming-from-pytorch.md" else text
    yield from re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text)


def meant(node: ast.expr) -> Any:
    """What a dotted name of the package is; None if it is another's, an AttributeError if there is no such thing."""
    parts = ast.unparse(node).split(".")
    value = (ROOMS | CLASSES).get(parts[0])
    for part in parts[1:] if value is not None and all(map(str.isidentifier, parts)) else ():
        value = getattr(value, part)
    return value


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=name_of)
def test_code_in_the_text_has_names_and_arguments_that_are_there(page: Path) -> None:
    for code in codes(page):
        if code == "ts.cat" or code.endswith(".py"):        # an error, as a page says; files
            continue
        try:
            nodes = [*ast.walk(ast.parse(code))]
        except SyntaxError:
            continue
        for node in nodes:
            if isinstance(node, ast.Attribute):
                meant(node)
            elif isinstance(node, ast.Call) and callable(value := meant(node.func)) and value is not ts.tensor:
                given = {keyword.arg: keyword for keyword in node.keywords if keyword.arg}
                inspect.signature(value).bind_partial(*node.args, **given)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_extras_and_variables_that_are_named_are_there(page: Path) -> None:
    text = page.read_text("utf-8")
    files = re.findall(r"`((?:tinyseq|backends|tests|examples|findings|docs|\.ci)/[\w./]*)`", text)
    assert page.name == "CHANGELOG.md" or {*files} <= {"findings/NAME.sh", *(f for f in files if (ROOT / f).exists())}
    assert not [module for module in re.findall(r"python -m (tinyseq[\w.]*\w)", text) if not find_spec(module)]
    extras = re.findall(r"(?:tinyseq|'\.)\[([a-z0-9,]+)\]|\bextra `(\w+)`", text)
    known = tomllib.loads(read("pyproject.toml"))["project"]["optional-dependencies"]
    assert {extra for pair in extras for extra in "".join(pair).split(",")} <= {*known, "EXTRA"}
    source = "".join(file.read_text("utf-8") for room in ("tinyseq", "backends", "tests") for file in
                     ROOT.glob(f"{room}/**/*.py") if file != Path(__file__))
    assert not [name for name in re.findall(r"\bTINYSEQ_[A-Z_]+", text) if name not in source]


def test_tables_list_what_the_source_has() -> None:
    architectures = {(kind, row.module.__name__) for kind, row in ts.models.ARCHITECTURES.items()}
    rows = [[coded([cell]) for cell in row[1:3]] for row in table("docs/models.md", "family")]
    assert {(kind, *module) for kinds, module in rows for kind in kinds} == architectures
    calls = "".join(row[2] for row in table("docs/models.md", "framework"))
    assert {*re.findall(r', "(\w+)", prefix', calls)} == {*PRESETS} - {"keras"}
    optimizers = {name for name in ts.optim.__all__ if issubclass(type(cls := getattr(ts.optim, name)), type)
                  and issubclass(cls, ts.optim.Optimizer) and cls is not ts.optim.Optimizer}
    assert {coded(row)[0] for row in table("docs/training.md", "optimizer")} == optimizers
    *schedules, mine = [coded(row)[0] for row in table("docs/training.md", "schedule, in `optim.schedules`")]
    shown = [name for name in dir(ts.optim.schedules) if name != "Schedule"]
    assert mine == "lambda step: ..." and {call.partition("(")[0] for call in schedules} == {*shown}
    for call in schedules:
        name, _, arguments = call.removesuffix(")").partition("(")
        taken = inspect.signature(getattr(ts.optim.schedules, name)).parameters
        assert arguments.split(", ") == [*taken][: arguments.count(",") + 1], call
    metrics = {name for name in ts.metrics.__all__ if inspect.isclass(getattr(ts.metrics, name)) and name != "Metric"}
    assert {*coded([row[0] for row in table("docs/training.md", "metric")])} == metrics


def test_sources_and_names_in_tables_are_those_of_the_docstrings() -> None:
    """Of optimizers the papers, of schedules PyTorch's names."""
    for name, source, *_ in table("docs/training.md", "optimizer"):
        said = " ".join(inspect.getdoc(getattr(ts.optim, coded([name])[0])).split())
        for paper in source.removesuffix("; PyTorch's").split("; "):
            assert paper in said, (name, paper)
    for call, what, theirs in table("docs/training.md", "schedule, in `optim.schedules`")[:-1]:
        said = inspect.getdoc(getattr(ts.optim.schedules, coded([call])[0].partition("(")[0])) or ""
        assert not [name for name in coded([theirs]) if name != "LambdaLR" and name not in said], call
        assert not [paper for paper in re.findall(r"[(](.* \d{4})[)]", what) if paper not in said], call


NUMBERS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
    seventeen eighteen nineteen twenty""".split()
FRAMEWORKS, FAMILIES = len({*PRESETS} - {"keras"}), len(table("docs/models.md", "family"))
DEFAULTS = {
    "README.md": [f"{NUMBERS[FRAMEWORKS]} other frameworks", "Python {requires_python} or newer"],
    "docs/coming-from-pytorch.md": [f"[{NUMBERS[FAMILIES]} families](models.md)"],
    "docs/training.md": [f"The last three files are kept (`keep={default(ts.runs.Run, 'keep')}`)",
                         f"the default begins at 2^{math.log2(default(ts.optim.LossScaler, 'scale')):.0f}"],
    "docs/models.md": [f"(opset {export.OPSET},"],
    "docs/distributed.md": [
        f"Buckets of about {default(ts.distributed.DataParallel, 'bucket_bytes') / 2**20:.0f} MB"],
    "docs/threads-and-serving.md": [f"products of 2^{math.log2(threads.LARGE):.0f} (half a billion) multiplications"],
}


@pytest.mark.parametrize("page", DEFAULTS)
def test_numbers_in_the_text_are_those_of_the_source(page: str) -> None:
    wanted = tomllib.loads(read("pyproject.toml"))["project"]["requires-python"].removeprefix(">=")
    text = " ".join(read(page).split())
    assert not [said for said in DEFAULTS[page] if said.replace("{requires_python}", wanted) not in text]


def test_figures_of_the_road_stand_on_its_pages_too() -> None:
    """Those of the table on the pages of the script, and what README says of the demo."""
    for row in table("docs/road.md", "stop"):
        pages = "".join(text for page in ROAD[1:] if coded(row[2:3])[0] in (text := page.read_text("utf-8")))
        numbers = re.findall(r"\d[\d,]*\.\d+|\d+,\d+", row[-1])
        assert numbers and not [number for number in numbers if number not in pages], row
    demo = re.search(r"all (\S+) test words.*?error rate (.*?), word error rate (.*?),", read("README.md"), re.DOTALL)
    assert demo and not [figure for figure in demo.groups() if figure not in read("docs/road/11-real-data.md")]


def test_rooms_in_readme_stand_as_in_the_picture() -> None:
    """From the roof to the base, in the order of CONTRIBUTING's, which tests/test_package.py holds."""
    picture = re.findall(r'<br/>(.*?)"\]', read("CONTRIBUTING.md"))
    floors = {name.removeprefix("testing.gpu"): i for i, row in enumerate(picture) for name in row.split(", ")}
    before = 0
    for row in table("README.md", "floor"):
        names = [Path(name).stem for name in re.findall(r"\]\(([\w/.]+)\)", row[0])] + coded([row[0]])
        places = [floors[name] for name in names]
        assert min(places) >= before, row
        before = max(before, *places)


def test_errors_of_a_rank_that_ends_are_worded_as_on_their_page() -> None:
    source = read("tinyseq/distributed/over_mpi.py")
    said = [text for row in table("docs/distributed.md", "a rank") for text in coded(row[1:])]
    assert len(said) == 2
    for text in said:
        assert re.search(re.sub(r"\d", r"\\{[^}]+\\}", text.removesuffix(":")), source), text
