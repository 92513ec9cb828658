"""Pictures are drawn, and wrong shapes are refused by name."""

import builtins
import inspect
import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
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
    with pytest.raises(ValueError, match=r"^attention\(.*\): map 1: weights have shape \(2, 3\), labels \(3, 2\)"):
        plot.attention([np.ones((2, 3))] * 2, ["ab", "abc"], ["xyz", "xy"], tmp_path / "a.png")
    with pytest.raises(ValueError, match="at least one; got 0, 0 and 0"):
        plot.attention([], [], [], tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"curve 'train': .* got \[\(2,\), \(3,\)\]"):
        plot.curves({"loss": {"train": ([1, 2], [1, 2, 3])}}, "steps", tmp_path / "a.png")
    points: Any = ([0, 1], [1, 2])
    for name, arguments, error, message in (
            ("words", ([["not", "bad"]], [[0.5]], "t"), ValueError,
             r"\[2\] words and values of shapes \[\(1,\)\]"),
            ("words", ([], [], "t"), ValueError, "a word at least"),
            ("words", ([["a"], ["b"]], [[1]], "t"), ValueError, "row"),
            ("words", ([[1]], [[1]], "t"), TypeError, "rows as a list of str"),
            ("words", (3, [], "t"), TypeError, "got 3"),
            ("words", ([["a"]], [["b"]], "t"), TypeError, "values as an array of numbers, got dtype <U1"),
            ("words", ([["a"]], [[1]], 3), TypeError, "title to be text, got 3"),
            ("curves", ({}, "x"), ValueError, "no panel"), ("curves", (3, "x"), TypeError, "panels as a dictionary"),
            ("curves", ([2.0, 1.0], "x"), TypeError, r"panels as a dictionary by names, got \[2.0, 1.0\]"),
            ("curves", ({"a": 3}, "x"), TypeError, "curve 'a' as a list, got 3"),
            ("curves", ({1: {}}, "x"), TypeError, "got"),
            ("curves", ({"a": {"b": points}}, ["x", "y"]), ValueError, "one for each of 1 panels"),
            ("curves", ({"a": {"b": points}}, 3), TypeError, "x as a list of str, got 3"),
            ("curves", ({"a": {"b": np.ones((3, 4))}}, "x"), ValueError,
             r"ys \(N,\), N > 0, or \(xs, ys\) .* got \[\(3,\), \(3, 4\)\]"),
            ("curves", ({"loss": []},), ValueError, r"curve 'loss': expected ys \(N,\), N > 0"),
            ("curves", ({"loss": {"dev": ([], [])}},), ValueError, r"curve 'dev': expected ys \(N,\), N > 0"),
            ("curves", ({"loss": {}},), ValueError, "a curve in panel 'loss', got no curve"),
            ("curves", ({"a": [1.0]}, "c.png"), ValueError, r"x as what is drawn, .* write path='c.png'"),
            ("words", (["a"], [1], "w.svg"), ValueError, r"title as what is drawn, .* write path='w.svg'"),
            ("words", (["a", "b"], [-3, 7]), ValueError, "values from 0 to 1, got -3"),
            ("attention", ([[0.5, 5.0]], "a", "bc"), ValueError, "weights from 0 to 1, got 5.0"),
            ("attention", (np.eye(2, 3), "ab", "xy"), ValueError,
             r"labels \(2, 2\); .*; the other columns are 0: write weights\[:, :len\(labels\)\]$"),
            ("heads", (np.ones((2, 4, 3, 3)),), ValueError,
             r"got shape \(2, 4, 3, 3\); of a batch .* write weights\[0\]"),
            ("heads", (np.full((4, 3, 3), -1.0),), ValueError, "weights from 0 to 1, got -1.0"),
            ("curves", ({"a": {"b": 3}}, "x"), TypeError, "got 3"),
            ("curves", ({"a": {"b": (["x"], ["y"])}}, "x"), TypeError, "array of numbers, got dtype <U1"),
            ("attention", (3, [], []), TypeError, "weights as a list, got 3"),
            ("attention", ([np.ones((0, 2))], [""], ["ab"]), ValueError, "one of each at least"),
            ("attention", ([np.ones((1, 1))], [[1]], ["a"]), TypeError, "rows as a list of str"),
            ("attention", (["a"], ["a"], ["a"]), TypeError, "weights as an array of numbers"),
            ("attention", (np.ones((2, 3)), "abc", "xy"), ValueError, r"weights have shape \(2, 3\), labels \(3, 2\)"),
            ("words", (["not", "bad"], [0.5], "t"), ValueError, r"\[2\] words and values of shapes \[\(1,\)\]"),
            ("attention", ([[[1, 2], [3]]], ["ab"], ["ab"]), ValueError, "inhomogeneous shape"),
            ("heads", ("a",), TypeError, "weights as an array of numbers"),
            ("heads", (np.ones((2, 2)),), ValueError, "got shape"),
            ("through_time", ({},), TypeError, "one at least"),
            ("through_time", ({"a": 3},), TypeError, "norms, gates"),
            ("through_time", ({"a": (np.ones(3), {})},), ValueError, r"norms \(B, T\)"),
            ("through_time", ({"a": (np.ones((1, 3)), {"r": np.ones(3)})},), ValueError,
             r"as \(T, 2\), got shape \(3,\)"),
            ("through_time", ({"a": (np.ones((1, 3)), [1])},), TypeError, "gates of a as a dictionary")):
        with pytest.raises(error, match=rf"^{name}\(.*\): .*{message}"):
            getattr(plot, name)(*arguments, path=tmp_path / "a.png")
    assert all(len(str(inspect.signature(getattr(plot, name)))) < 240 for name in plot.__all__)
    with pytest.raises(TypeError, match=r"^heads\(.*path=3\): expected str, bytes or os.PathLike object"):
        plot.heads(np.ones((1, 1, 1)), 3)    # type: ignore[arg-type]
    assert not (tmp_path / "a.png").exists()


LABELS = ["$$", "$6$7", r"\frac{a}$", "_private", "$x_1$", "%#~^{}", "", " ", "<b>&amp;"]


def test_labels_are_text_and_every_curve_has_its_name(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    from tinyseq import plot
    n = len(LABELS)
    points = ([0, 1], [1, 2])
    calls: dict[str, Any] = {
        "attention": lambda path: plot.attention([np.eye(n)], [LABELS], [LABELS], path),
        "curves": lambda path: plot.curves({label: {label: points} for label in LABELS}, LABELS, path),
        "through_time": lambda path: plot.through_time(
            {label: (np.ones((2, 4)), {label: np.ones((4, 2))}) for label in LABELS}, path),
        "words": lambda path: plot.words([LABELS], [np.ones(n)], "$$_", path)}
    for name, draw in calls.items():
        draw(tmp_path / f"{name}.svg")
        text = (tmp_path / f"{name}.svg").read_text()
        for label in LABELS[:6]:                # each text that is drawn stands in a comment, as it was given
            assert text.count(f"<!-- {label} -->") >= 1 + (name == "attention"), (name, label)


@given(st.lists(st.builds(str.__mul__, st.sampled_from("Wil "), st.integers(0, 30)), min_size=1, max_size=3),
       st.integers(1, 3))
def test_no_label_of_attention_is_cut_off(labels: list[str], maps: int) -> None:
    image = pytest.importorskip("matplotlib.image", reason="matplotlib is not installed")
    from tinyseq import plot
    file, n = io.BytesIO(), len(labels)
    plot.attention([np.eye(n)] * maps, [labels] * maps, [labels[::-1]] * maps, file)  # type: ignore[arg-type]
    file.seek(0)
    picture = image.imread(file)[..., :3]
    for edge in (picture[0], picture[-1], picture[:, 0], picture[:, -1]):
        assert (edge == 1).all()


@given(st.lists(st.floats(-5, 5) | st.just(float("nan")), min_size=1, max_size=5), st.booleans())
def test_no_curve_is_cut_off(ys: list[float], many: bool) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    from tinyseq import plot
    ys = np.repeat(ys, 99) if many else ys  # type: ignore[assignment]
    figure = plot.curves({"y": {"a": (np.arange(len(ys)), ys), "b": ([0], [1.0])}}, "x")
    low, high = figure.axes[0].get_ylim()
    real = [y for y in (*ys, 1.0) if y == y]
    assert low <= min(real) and high >= max(real) and (low == 0 or min(real) < 0)


def drawn(axes: Any) -> list[list[float]]:
    """The heights of each curve, without gaps."""
    return [line.get_ydata()[np.isfinite(line.get_ydata())].tolist() for line in axes.lines]


FORMS = [list, tuple, np.array, ts.tensor, lambda ys: [ts.tensor(y) for y in ys], lambda ys: 1 * tracked(ys)]


def tracked(ys: list[float]) -> ts.Tensor:
    x = ts.tensor(ys)
    x.requires_grad = True
    return x


@pytest.mark.parametrize("form", FORMS)
def test_numbers_of_every_form_are_drawn(form: Any) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    from tinyseq import plot
    ys, square = [3.0, -1.0, 2.0], [[0.0, 1.0], [0.5, 0.25]]
    one, two, three = plot.curves({"loss": form(ys), "error": {"a": form(ys)}, "at": {"a": (form(ys), form(ys))}}).axes
    assert drawn(one) == drawn(two) == drawn(three) == [ys]
    assert one.lines[0].get_xdata().tolist() == [0, 1, 2] and three.lines[0].get_xdata().tolist() == ys
    assert one.get_legend() is None and [text.get_text() for text in two.get_legend().get_texts()] == ["a"]
    [axes] = plot.attention(form(square), ["to", "be"], "xy").axes          # one map, or several
    assert axes.collections[0].get_array().data.tolist() == square
    assert len(plot.attention([form(square)] * 2, ["ab"] * 2, ["xy"] * 2).axes) == 2
    assert plot.heads(form([square])).axes[0].images[0].get_array().data.tolist() == square
    alone, listed = plot.words(["so", "bad"], form([0.0, 1.0])), plot.words([["so", "bad"]], [form([0.0, 1.0])])
    assert [patch.get_facecolor() for patch in alone.axes[0].patches] == [
        patch.get_facecolor() for patch in listed.axes[0].patches]
    norms = plot.through_time({"GRU": (form(square), {"z": form(square)})}).axes[0]
    assert drawn(norms) == [[0.25, 0.625]]


@given(st.lists(st.floats(width=16) | st.just(float("nan")), min_size=1, max_size=9), st.integers(1, 60))
def test_a_gap_is_left_where_a_number_is_not_finite(ys: list[float], times: int) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    from tinyseq import plot
    axes, = plot.curves({"y": np.tile(ys, times)}).axes
    real = [y for y in ys if np.isfinite(y)]
    assert np.isfinite(axes.get_ylim()).all() and (not real or axes.get_ylim()[1] >= max(real))
    for heights in drawn(axes):
        assert {*heights} <= {*real} if times == 1 else (len(heights) == 0) == (len(real) == 0)
        assert not heights or (min(real) <= min(heights) and max(heights) <= max(real))
    assert axes.lines[-1].get_marker() == "o"   # a point alone between two gaps is no line


def test_a_picture_is_a_figure_that_is_whole_and_shows_itself(tmp_path: Path) -> None:
    figure = pytest.importorskip("matplotlib.figure", reason="matplotlib is not installed")
    image = pytest.importorskip("matplotlib.image")
    from tinyseq import plot
    draw: list[Any] = [
        lambda path: plot.attention(np.eye(2), ["a long label", "b"], ["another one", "d"], path),
        lambda path: plot.curves({"loss": [2, 1]}, path=path), lambda path: plot.heads(np.eye(2)[None], path),
        lambda path: plot.through_time({"a": ([[1, 2]], {})}, path), lambda path: plot.words(["a"], [1], path=path)]
    for number, drawing in enumerate(draw):
        made, file = drawing(None), tmp_path / f"{number}.png"
        assert isinstance(made, figure.Figure)
        drawing(file)
        made.savefig(tmp_path / "later.png", dpi=150)
        (written, later) = (image.imread(path) for path in (file, tmp_path / "later.png"))
        assert np.array_equal(written, later)                               # cut to what is drawn by itself
        assert image.imread(io.BytesIO(made._repr_png_())).shape[1] < written.shape[1]
    cells = draw[0](None).axes[0].get_window_extent().size / made.dpi
    np.testing.assert_allclose(cells, 2 * 0.3)                              # inches, whatever the labels


def test_pictures_leave_nothing_behind() -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    program = ("import sys, gc, weakref; from tinyseq import plot; figure = plot.curves({'loss': [2, 1]}); "
               "figure._repr_png_(); seen = weakref.ref(figure); del figure; gc.collect(); "
               "print(seen(), 'matplotlib.pyplot' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "None False\n"


def test_a_character_without_a_glyph_is_drawn_as_its_number_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    from tinyseq import plot
    rare = "\U000F0000"                         # of a private plane: no font has it
    monkeypatch.setattr(plot, "_HAN", ())
    for text, shown, said in (
            (rare, "U+F0000", "f0000 for one without a name; "
             "name one that has them in matplotlib.rcParams['font.family']"),
            ("स", "स", "938 for DEVANAGARI LETTER SA; name one that has them in matplotlib.rcParams['font.family']"),
            ("\t", "U+0009", "9 for a control character; leave them out"),
            ("中", "中", "4e2d for CJK UNIFIED IDEOGRAPH-4E2D; install one that has them, say Noto Sans CJK")):
        said = re.escape(f"no font with {shown}: they are drawn as their numbers, say {said}")
        with pytest.warns(UserWarning, match=f"{said}$"):
            plot.words([text], [1])
    with pytest.warns(UserWarning, match="no font"):
        figure = plot.attention(np.eye(2), [f"a{rare}", "b"], "xy")
    figure.draw_without_rendering()
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["af0000", "b"]
    for make in (lambda: plot.curves({rare: [1, 2]}), lambda: plot.words([rare], [1]),
                 lambda: plot.through_time({rare: ([[1, 2]], {})})):
        with pytest.warns(UserWarning, match="no font"):
            figure = make()
        assert "f0000" in [text.get_text() for text in figure.findobj(matplotlib.text.Text)]
        figure.draw_without_rendering()         # and matplotlib has nothing to warn of
    assert plot._width("not 中国") == 8


def test_fonts_with_chinese_letters_are_used_where_they_are_here(monkeypatch: pytest.MonkeyPatch) -> None:
    matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    from tinyseq import plot
    names = {"sans-serif": "DejaVu Sans", "monospace": "DejaVu Sans Mono"}
    monkeypatch.setattr(plot, "_HAN", ("STIXGeneral", "no such font"))      # stands for one that has them
    for figure in (plot.curves({"loss": [2, 1]}), plot.words(["a"], [1]), plot.attention(np.eye(2), "ab", "xy")):
        for text in figure.findobj(matplotlib.text.Text):
            first, *others = text.get_family()
            assert first in names and others == ["STIXGeneral"]


def test_missing_libraries_are_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith(("matplotlib", "rapidfuzz")):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    monkeypatch.delitem(sys.modules, "tinyseq.plot", raising=False)
    with pytest.raises(ImportError, match=r"matplotlib; run: pip install 'tinyseq\[plot\]'"):
        import tinyseq.plot  # noqa: F401
    with pytest.raises(ImportError, match=r"rapidfuzz; run: pip install 'tinyseq\[metrics\]'"):
        metrics.token_error_rate(["ab"], [["ab"]])


def test_heads_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from tinyseq import plot
    weights = np.full((2, 3, 4, 5), 0.2)
    plot.heads(list(weights), tmp_path / "all.png")
    plot.heads(weights[0], tmp_path / "one.png")
    assert (tmp_path / "all.png").stat().st_size > (tmp_path / "one.png").stat().st_size > 0
    with pytest.raises(ValueError, match=r"got shape \(4, 5\)"):
        plot.heads(weights[0, 0], tmp_path / "none.png")


def test_runs_are_the_curves_of_their_files(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    from tinyseq import logs, plot
    for name, factor in (("a", 1.0), ("b", 0.5)):
        log = logs.Log(logs.CSV(tmp_path / name / "log.csv"))
        for step in range(0, 40, 10):
            log(step, loss=factor / (step + 1))
            if name == "b":
                log(step, {"dev, $": float("inf") if step == 20 else factor})
    files = [tmp_path / name / "log.csv" for name in "ab"]
    left, right = plot.runs(files, path=tmp_path / "runs.svg").axes
    assert [axes.get_xlabel() for axes in (left, right)] == ["step", "step"]
    assert [len(axes.get_lines()) for axes in (left, right)] == [2, 1]
    assert left.get_lines()[1].get_xydata().tolist() == [[step, 0.5 / (step + 1)] for step in range(0, 40, 10)]
    text = (tmp_path / "runs.svg").read_text()
    assert all(f"<!-- {word} -->" in text for word in ("loss", "dev, $", *map(str, files)))
    [only] = plot.runs({"first": files[0], "second": files[1]}, "loss", tmp_path / "named.svg").axes
    assert len(only.get_lines()) == 2 and "<!-- second -->" in (tmp_path / "named.svg").read_text()
    with pytest.raises(ValueError, match=r"^runs\(.*got 'lost'; logged are loss, dev, \$"):
        plot.runs(files, ["loss", "lost"])
    with pytest.raises(FileNotFoundError, match=r"c.csv' is not there"):
        plot.runs([tmp_path / "c.csv"])
    for wrong in (3, "log.csv", [3]):
        with pytest.raises(TypeError, match=r"^runs\(.*expected"):
            plot.runs(wrong)        # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no panel"):
        plot.runs([])
