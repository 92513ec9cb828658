"""Cells of the road's pages: each is short, learns what its stop is about within seconds, and draws; what a page shows
of one that went wrong. tests/site runs some in a browser."""

import base64
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
CELLS = {  # for each figure of the last line that counts, its range; what guesses or looks too near is the baseline
    "01-window": {r"window of 5 words ([\d.]+)%": (50, 75), r"RNN ([\d.]+)%": (98, 100)},
    "02-sentiment": {r"loss ([\d.]+)": (0, 0.05)},
    "03-tagging": {r"(\d+)% from the left": (50, 97), r"(\d+)% from both": (99, 100)},
    "04-language-model": {r"perplexity ([\d.]+)": (3, 6)},
    "05-memory": {r"h of 32.* ([\d.]+)% right": (80, 100)},
    "06-translation": {r"(\d+)% right": (90, 100)},
    "06-keywords": {r"(\d+)% right": (90, 100)},
    "06-contexts": {r"attention.*: (\d+)%": (0, 15)},
    "07-caption": {r"(\d+)% right": (65, 100)},
    "08-frames": {r"([\d.]+)% right": (85, 100)},
    "08-spelling": {r"(\d+)% right": (60, 100)},
    "09-attention": {r"(\d+)% right": (95, 100)},
    "09-recurrence": {r"attention.* ([\d.]+)% wrong": (0, 2)},
    "10-parallel": {r"LRU: loss ([\d.]+)": (0, 0.5)},
    "10-retained": {r"MinGRU.* back ([\d.]+)": (0.05, 2)},
    "10-selective": {r"selective.* (\d+)% right": (85, 100)},
}


def driver() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cell", ROOT / "docs/_static/cells/cell.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_cell_is_tested_and_shown_in_both_languages() -> None:
    files = {path.stem for path in ROOT.glob("docs/cells/*.py")}
    for road in ("road", "road.zh"):
        text = "".join(page.read_text("utf-8") for page in ROOT.glob(f"docs/{road}/*.md"))
        shown = re.findall(r"^```\{runnable\}\ndocs/cells/(.*)\.py\n```$", text, re.MULTILINE)
        assert set(shown) == files == set(CELLS)


@pytest.mark.parametrize("name", CELLS)
def test_a_cell_is_short_and_learns(name: str) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (pip install 'tinyseq[plot]')")
    path = ROOT / f"docs/cells/{name}.py"
    lines = [line for line in path.read_text("utf-8").splitlines() if line]
    assert len(lines) <= 30 and max(map(len, lines)) <= 132
    done = subprocess.run([sys.executable, ROOT / "docs/_static/cells/cell.py", path], cwd=ROOT / "examples/data",
                          capture_output=True, text=True, check=True, timeout=300,
                          env=os.environ | {"TINYSEQ_BACKEND": "numpy"})
    found = json.loads(done.stdout)
    assert not found["error"] and base64.b64decode(found["picture"]).startswith(b"\x89PNG")
    *_, last = found["text"].splitlines()
    for figure, (low, high) in CELLS[name].items():
        assert low <= float(re.search(figure, last)[1]) <= high, last       # type: ignore[index]


def test_an_error_shows_its_message_and_its_lines(capsys: pytest.CaptureFixture[str]) -> None:
    run, pictures = driver().run, []
    wrong = "import tinyseq as ts\ndef f(x):\n    return x @ ts.ones((4, 4))\n\nprint(1)\nf(ts.ones(3))\n"
    said = run(wrong, pictures.append).splitlines()
    assert said[0].startswith("ValueError")
    assert said[1:] == ["line 3: return x @ ts.ones((4, 4))", "line 6: f(ts.ones(3))"]
    assert run("x = 1\n1 +", print) == "SyntaxError: invalid syntax\nline 2: 1 +"
    assert run("raise SystemExit(3)", print).startswith("SystemExit: 3")
    capsys.readouterr()
    assert run("x = 2\nx + 3", pictures.append) == "" and capsys.readouterr().out == "5\n" and not pictures


def test_pictures_come_while_it_runs_and_from_its_last_line() -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (pip install 'tinyseq[plot]')")
    pictures: list[str] = []
    code = 'from tinyseq import plot\ndisplay(plot.curves({"a": [1, 2]}))\nplot.curves({"b": [3]})'
    assert driver().run(code, pictures.append) == "" and len(pictures) == 2
    assert all(base64.b64decode(picture).startswith(b"\x89PNG") for picture in pictures)


def asked(code: str) -> str:
    """What the playgrounds' own Python prints, in one without matplotlib."""
    paths = os.pathsep.join(str(ROOT / part) for part in ("docs/_playground", "examples"))
    return subprocess.run([sys.executable, "-c", f"import sys; sys.modules['matplotlib'] = None\n{code}"], text=True,
                          cwd=ROOT / "docs/_playground", capture_output=True, check=True,
                          env=os.environ | {"PYTHONPATH": paths, "TINYSEQ_BACKEND": "numpy"}).stdout


def test_the_playground_pronounces_letter_by_letter() -> None:
    words = ["", "4", "k", "kn", "knightly", "Knight's!", "x" * 40]
    for line in asked(f"import attention\nfor w in {words}: print(attention.watch(w))").splitlines():
        found = json.loads(line)
        for shown in found["maps"]:
            values = np.array(shown["values"])
            assert values.shape == (len(shown["rows"]), len(shown["columns"]))
            assert shown["rows"] == found["text"].split()
            np.testing.assert_allclose(values.sum(1), 1, atol=0.02)
    assert "N AY T L IY" in asked("import attention; print(attention.watch('knightly'))")


def test_the_playground_shows_the_gates_that_the_layer_has() -> None:
    code = ("import gates, numpy as np; from tinyseq import lens\n"
            "ids = gates.WORDS.encode('the film was not bad'.split())\n"
            "found = lens.gate_saturation(gates.model.rnn, gates.model.embedding([ids]).detach())\n"
            "for gate, mine in zip('rz', gates.gates(ids)):\n"
            "    mine = np.stack([(mine < .1).mean(1), (mine > .9).mean(1)], 1)\n"
            "    np.testing.assert_allclose(mine, found[gate], atol=1e-6)")
    assert asked(code) == ""
    for text, good in (("the film was not bad at all", "100%"), ("the film was bad", "0%"), ("zebras ate it", "")):
        assert f'"good: {good}' in asked(f"import gates; print(gates.watch({text!r}))")
