"""Pages whose code shows what it prints: each is run from top to bottom, as a reader would.

A block of Python that begins with `# NAME.py` is a file, and one of a shell is run where a page has written such files.
"""

import doctest
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from helpers.ranks import ALLOWED, MISSING, MPIEXEC, end, needs_mpi, start

import tinyseq as ts

DOCS = Path(__file__).parents[1] / "docs"
PAGES = [page for page in sorted(DOCS.glob("*.md")) if ">>> " in page.read_text("utf-8")]
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
NEEDED = {"data.Tokenizer": "tokenizers", "logs.TensorBoard": "tensorboardX", "plot.runs": "matplotlib"}
ENVIRONMENT = ALLOWED | {"TINYSEQ_BACKEND": "numpy"}


def blocks(page: Path) -> list[tuple[str, str]]:
    """The blocks of code that can be run, each with its language: those that print nothing are for reading."""
    found = re.findall(r"^```(python|sh)\n(.*?)^```$", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    files = any(named(code) for _, code in found)
    return [(kind, code) for kind, code in found if named(code) or code.startswith(">>> ") or (kind == "sh" and files)]


def named(code: str) -> str | None:
    """The name of the file that a block is, if it is one."""
    found = re.match(r"# (\w+\.py)\n", code)
    return found and found[1]


def run_shell(code: str) -> None:
    """A block of a shell, in this folder: the last command has to succeed, and some before are killed."""
    if ("mpiexec " in code and MISSING) or ("timeout " in code and not shutil.which("timeout")):
        code = re.sub("^timeout .*|^mpiexec -n 2 ", "", code, flags=re.MULTILINE)
    path = {"PATH": os.pathsep.join([str(MPIEXEC.parent), os.environ["PATH"]])}
    done = subprocess.run(["sh", "-c", code], env=os.environ | ENVIRONMENT | path, timeout=300, capture_output=True,
                          text=True)
    assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"


@pytest.mark.filterwarnings("ignore:(divide by zero|invalid value) encountered:RuntimeWarning")  # that a page is about
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_page_runs_and_prints_what_it_says(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ts.manual_seed(0)
    names: dict[str, object] = {}
    said: list[str] = []
    examples = 0
    for kind, code in blocks(page):
        if name := named(code):
            Path(name).write_text(code, "utf-8")
        elif kind == "sh":
            run_shell(code)
        elif all(find_spec(library) for text, library in NEEDED.items() if text in code):
            test = doctest.DocTestParser().get_doctest(code, names, page.name, str(page), 0)
            examples += len(test.examples)
            doctest.DocTestRunner(optionflags=OPTIONS, verbose=False).run(test, out=said.append, clear_globs=False)
            names = test.globs
    assert examples > 2 and not said, "".join(said)


def test_the_program_in_readme_learns(capsys: pytest.CaptureFixture[str]) -> None:
    program = re.findall(r"^```python\n(.*?)^```$", (DOCS.parent / "README.md").read_text("utf-8"), re.DOTALL | re.M)
    with ts.use_backend("numpy"):
        exec(program[0], {})
    losses = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines()]
    assert len(program) == 1 and len(losses) == 4 and losses[-1] < 0.1 * losses[0]


# --- the training on its page: what the page says once is so at other moments too -------------------------------------


@pytest.fixture
def training(tmp_path: Path) -> Path:
    """A folder with the program of the page, which takes fewer steps, and a text for it."""
    program = next(code for _, code in blocks(DOCS / "training.md") if named(code) == "train.py")
    for before, after in (("STEPS = sys.argv[1], 100", "STEPS = sys.argv[1], 12"), ("% 20 == 0", "% 3 == 0")):
        assert program.count(before) == 1
        program = program.replace(before, after)
    (tmp_path / "train.py").write_text(program, "utf-8")
    rng = np.random.default_rng(0)
    for name, count in (("train", 200), ("dev", 7)):
        lines = ["".join(rng.choice(list("abcd "), rng.integers(1, 30))) for _ in range(count)]
        (tmp_path / f"{name}.txt").write_text("\n".join(lines), "utf-8")
    return tmp_path


def alone(training: Path, name: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "train.py", name], cwd=training, env=os.environ | ENVIRONMENT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def state(training: Path, name: str) -> dict[str, object]:
    return ts.checkpoint.load(training / name / "latest.safetensors")


def flat(state: object) -> list[object]:
    if isinstance(state, dict):
        return [x for key in sorted(state) for x in (key, *flat(state[key]))]
    return [state.tolist() if hasattr(state, "tolist") else state]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda number: number.name)
def test_a_training_that_is_ended_and_started_again_comes_to_the_same_bits(training: Path, number: int) -> None:
    said, _ = (whole := alone(training, "whole")).communicate(timeout=120)
    assert whole.returncode == 0, said
    source, update = (training / "train.py").read_text("utf-8"), "        average.update()\n"
    waits = source.replace(update, f"{update}        while step == 7 and not run.interrupted: pass\n")
    (training / "train.py").write_text(waits, "utf-8")      # for the signal, in the middle of a step
    ended = alone(training, "ended")
    until = time.monotonic() + 60
    while not (training / "ended/step-00000006.safetensors").exists() and time.monotonic() < until:
        time.sleep(0.01)
    ended.send_signal(number)
    said, _ = ended.communicate(timeout=60)
    assert ended.returncode == (-number if number == signal.SIGKILL else 0), said
    assert waits != source and state(training, "ended")["step"] in ((6,) if number == signal.SIGKILL else (7, 8))
    (training / "train.py").write_text(source, "utf-8")
    again = alone(training, "ended")
    said, _ = again.communicate(timeout=120)
    assert again.returncode == 0, said
    one, other = (state(training, name) for name in ("whole", "ended"))
    assert one["step"] == 12
    for part in ("model", "optimizer", "average", "stream", "letters", "score", "step"):
        assert flat(one[part]) == flat(other[part]), part
    if number == signal.SIGKILL:        # which leaves no row of a step that is not every third
        assert (training / "whole/log.csv").read_text() == (training / "ended/log.csv").read_text()


@needs_mpi
def test_two_processes_learn_and_go_on_as_one_and_as_two(training: Path) -> None:
    source = (training / "train.py").read_text("utf-8")
    (training / "train.py").write_text(source.replace("tied=False", "tied=False, dropout=0.0"))
    for steps, ranks in ((6, 1), (12, 2)):
        text = (training / "train.py").read_text("utf-8")
        half = text.replace("in zip(range(begin, STEPS)", f"in zip(range(begin, {steps})")
        (training / "half.py").write_text(half, "utf-8")
        done = end(start(ranks, "half.py", "both", cwd=training))
        assert done.returncode == 0, done.stderr
    done = end(start(2, "train.py", "two", cwd=training))
    assert done.returncode == 0 and done.stdout.count("dev") == 4, done
    alone(training, "one").communicate(timeout=120)
    one, two, both = (state(training, name) for name in ("one", "two", "both"))
    assert one["step"] == two["step"] == both["step"] == 12
    for other in (two, both):
        assert flat(one["stream"]) == flat(other["stream"])
        np.testing.assert_allclose(other["score"], one["score"], rtol=1e-3)
        for name, value in one["model"].items():
            np.testing.assert_allclose(other["model"][name], value, atol=2e-3)
