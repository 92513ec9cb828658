"""Pictures are drawn, and wrong shapes are refused by name."""

import builtins
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinyseq import metrics


def test_pictures_are_written_and_show_what_was_given(tmp_path: Path) -> None:
    image = pytest.importorskip("matplotlib.image", reason="matplotlib is not installed")
    from tinyseq import plot
    for name, value in (("none", 0.0), ("all", 1.0)):
        plot.attention([np.full((3, 4), value)] * 9, ["abc"] * 9, ["wxyz"] * 9, tmp_path / f"{name}.png")
    none, all_ = (image.imread(tmp_path / f"{name}.png")[..., :3].mean() for name in ("none", "all"))
    assert all_ < none - 0.2                    # dark where attention is

    steps = np.arange(1000)
    lines = {"train": (steps, 1 / (1 + steps)), "dev": ([0, 999], [1.0, 0.5])}
    plot.curves({"loss": lines, "error": lines}, "steps", tmp_path / "curves.svg")
    text = (tmp_path / "curves.svg").read_text()
    assert all(f"<!-- {word} -->" in text for word in ("loss", "error", "train", "dev", "steps"))

    plot.curves({"loss": {"a": zip((1, 0.5), (2, 0.25), strict=True)}}, "steps", tmp_path / "pairs.svg")  # as zip gives

    whole, halves = ([0, 1], [10, 20]), ([0, 0.5, 1], [10, 20, 30])
    for first, second in ((whole, halves), (halves, whole), (whole, whole)):  # in whichever order
        plot.curves({"loss": {"a": first, "b": second}}, "steps", tmp_path / "ticks.svg")
        assert ("<!-- 0.2 -->" in (tmp_path / "ticks.svg").read_text()) == (first != second)

    plot.words([["not", "bad"], ["bad"]], [[0.5, 1.0], [0.0]], "opinion", tmp_path / "words.svg")
    text = (tmp_path / "words.svg").read_text()
    assert all(f"<!-- {word} -->" in text for word in ("opinion", "not", "bad")) and "#f6f7f7" in text


def test_wrong_shapes_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    from tinyseq import plot
    with pytest.raises(ValueError, match=r"map 1: weights have shape \(2, 3\), labels \(3, 2\)"):
        plot.attention([np.ones((2, 3))] * 2, ["ab", "abc"], ["xyz", "xy"], tmp_path / "a.png")
    with pytest.raises(ValueError, match="at least one; got 0, 0 and 0"):
        plot.attention([], [], [], tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"curve 'train': .* \(2,\) and \(3,\)"):
        plot.curves({"loss": {"train": ([1, 2], [1, 2, 3])}}, "steps", tmp_path / "a.png")
    with pytest.raises(ValueError, match="shorter"):
        plot.words([["not", "bad"]], [[0.5]], "opinion", tmp_path / "a.png")
    with pytest.raises(ValueError, match="no panel"):
        plot.curves({}, "steps", tmp_path / "a.png")


def test_missing_libraries_are_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith(("matplotlib", "rapidfuzz")):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.delitem(sys.modules, "tinyseq.plot", raising=False)
    with pytest.raises(ImportError, match=r"matplotlib; run: pip install 'tinyseq\[examples\]'"):
        import tinyseq.plot  # noqa: F401
    with pytest.raises(ImportError, match=r"rapidfuzz; run: pip install 'tinyseq\[examples\]'"):
        metrics.token_error_rate(["ab"], [["ab"]])
