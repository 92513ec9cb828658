"""Every stop of the road runs for a few steps, on this backend, prints its figure beside a baseline, and draws.

In the thorough profile each learns as a reader would let it learn, and must be better than its baseline.
"""

import itertools
import os
import re
import runpy
import sys
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
STOPS = {  # short flags, and by how much the figure must exceed the baseline, or fall below it if negative
    "window": ("--steps 3 --phrases 1", 30),
    "sentiment": ("--steps 3 --data reviews.tsv", 30),
    "tagging": ("--steps 3", 30),
    "language_model": ("--steps 3", -5),
}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a script in an empty folder: what it printed."""
    for library in ("matplotlib", "tqdm"):
        pytest.importorskip(library, reason=f"{library} is not installed (pip install 'tinyseq[examples]')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    (tmp_path / "reviews.tsv").write_text("".join(f"good\tnot bad {i}\nbad\tbad {i} , bad\n\n" for i in range(15)))

    def start(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        return capsys.readouterr().out

    return start


def figure(output: str) -> tuple[float, float]:
    """The figure and its baseline, as printed."""
    found = re.search(r": ([\d.]+)[^:\n]*\(baseline: ([\d.]+)", output)
    assert found, output
    return float(found[1]), float(found[2])


@pytest.mark.parametrize("name", STOPS)
def test_a_stop_draws_and_prints_its_figure(name: str, run: Any, tmp_path: Path) -> None:
    figure(run(name, *STOPS[name][0].split()))
    assert (tmp_path / f"{name}.png").stat().st_size > 5000
    assert len((EXAMPLES / f"{name}.py").read_text("utf-8").splitlines()) < 150


@pytest.mark.skipif(os.environ.get("TINYSEQ_TEST_PROFILE") != "thorough", reason="minutes: the thorough profile's")
@pytest.mark.parametrize("name", STOPS)
def test_a_stop_learns_what_it_claims(name: str, run: Any) -> None:
    reached, baseline = figure(run(name))
    margin = STOPS[name][1]
    assert (reached - baseline) * (1 if margin > 0 else -1) > abs(margin), (reached, baseline)


def test_the_list_names_every_script_once(run: Any) -> None:
    lines = run("__main__").splitlines()
    listed = [re.match(r" *\d+\. python examples/(\w+)\.py +\S", line) for line in lines]
    scripts = sorted(path.stem for path in EXAMPLES.glob("[!_]*.py"))
    assert sorted(found[1] for found in listed if found) == scripts and len(lines) == len(scripts)


def test_gradients_by_hand_are_autograds(run: Any, tmp_path: Path) -> None:
    output = run("sentiment", *STOPS["sentiment"][0].split())
    found = re.findall(r"dL/d(\w+): .* by (\S+); the largest is (\S+)", output)
    assert [name for name, _, _ in found] == ["W_xh", "W_hh", "W_hy", "b_h", "b_y"]
    assert all(float(apart) < 1e-5 * float(most) for _, apart, most in found), found
    (tmp_path / "reviews.tsv").write_text("no label")
    with pytest.raises(SystemExit, match=r"reviews.tsv: each line must be .* \['no label'\]"):
        run("sentiment", *STOPS["sentiment"][0].split())


def test_generated_reviews_mean_what_they_say() -> None:
    pytest.importorskip("tqdm", reason="tqdm is not installed (pip install 'tinyseq[examples]')")
    script = runpy.run_path(str(EXAMPLES / "sentiment.py"))
    for label, text in (script["review"](Random(seed)) for seed in range(300)):
        clauses = re.split(r" but (?=the|i )| , (?=although)|(?<=\w) , ", text)
        main = clauses[0] if " , although" in text else clauses[-1]
        turns = [main.startswith("i would not"), " far from " in main, " anything but " in main, " never " in main]
        turns.append(" was not " in main)
        good = bool(set(main.split()) & set(script["GOOD"]))
        assert (label == "positive") == (good != bool(sum(turns) % 2)), (label, text)


def test_tagging_by_a_crf(run: Any) -> None:
    figure(run("tagging", "--crf", "--steps", "1"))


def test_perplexity_does_not_depend_on_the_batch_and_windows_go_on() -> None:
    pytest.importorskip("tqdm", reason="tqdm is not installed (pip install 'tinyseq[examples]')")
    script = runpy.run_path(str(EXAMPLES / "language_model.py"))
    model, rng = script["CharacterModel"](9), np.random.default_rng(0)
    texts = [rng.integers(3, 9, n).tolist() for n in (2, 300, 40, 7)]
    alone, together = (script["perplexity"](model, texts, batch) for batch in (1, 4))
    assert together == pytest.approx(alone, rel=1e-5) and 7 < alone < 12
    first, second = itertools.islice(script["consecutive_windows"](np.arange(2000), 3, rng), 2)
    assert (first[0][:, -1] == second[0][:, 0]).all() and (np.diff(first[0]) == 1).all()
    assert [first[1], second[1]] == [False, True]
    (window, goes_on) = next(script["random_windows"](np.arange(2000), 3, rng))
    assert (np.diff(window) == 1).all() and not goes_on
