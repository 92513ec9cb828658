"""Pictures of what was learnt, drawn by matplotlib (`pip install 'tinyseq[plot]'`): to import this needs it.

Each function returns a matplotlib Figure, which a notebook shows where it is a cell's last value (elsewhere
`display(figure)` does), and writes it to a file where a path is given, whose ending (.png, .svg, .pdf) says the format.
None opens a window or touches the global state of matplotlib.pyplot: a Figure that nobody holds is gone.

Numbers may be NumPy arrays, Tensors or lists of either; what is not finite is left out. Labels, names and titles are
drawn as they are: a dollar sign begins no formula. Chinese, Japanese and Korean are drawn in a font that has them, if
one is here; a character that no font has is drawn as its number, 4e2d for U+4E2D, and a warning says so.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Mapping, Sequence
from io import BytesIO
from itertools import cycle
from os import PathLike, fspath
from typing import Any
from unicodedata import east_asian_width
from unicodedata import name as name_of

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tinyseq import check, logs

try:                                            # here, so that a program is told so before it learns for minutes
    from matplotlib import colormaps, font_manager, rcParams
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox
except ImportError as error:
    raise ImportError("pictures need matplotlib; run: pip install 'tinyseq[plot]'") from error

__all__ = ["attention", "curves", "heads", "runs", "through_time", "words"]
check.public(__name__)

_INK, _FAINT = "#333333", "#d9d9d9"
_DOT = {"marker": "o", "markersize": 3, "markeredgewidth": 0}   # hides in the line, but shows a point between two gaps
_LINES = ("#2a6f97", "#d1495b", "#3a7d44", "#8d5a97", "#e09f3e")
# Families of fonts with Chinese, Japanese and Korean letters: of Linux, Windows and macOS.
_HAN = ("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Microsoft YaHei", "SimHei",
        "Hiragino Sans GB", "PingFang SC", "Arial Unicode MS")


class _Figure(Figure):  # type: ignore[misc, unused-ignore]  # where matplotlib is not installed
    """A Figure that a notebook shows, whether pyplot was imported there or not."""

    def _repr_png_(self) -> bytes:
        file = BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()


@check.explained
def attention(weights: ArrayLike | Sequence[ArrayLike], rows: Sequence[Sequence[str]],
              columns: Sequence[Sequence[str]], path: str | PathLike[str] | None = None) -> Figure:
    """Heat maps of attention, several in one picture: which column each row looked at.

    Args:
        weights: for each map an array (R, C) of numbers from 0 (white) to 1 (dark); or one such array alone.
        rows: for each map the R labels of what attends, say the phonemes written. They stand at the left.
        columns: for each map the C labels of what is attended to, say the letters read. They stand on top.
            Of one array alone, rows are its R labels and columns its C labels.
        path: the file to write, or None.

    Raises:
        ValueError: there is no map, the three differ in number, labels do not fit an array's shape, or a number is not
            from 0 to 1.

    >>> from tinyseq import plot
    >>> figure = plot.attention([[0.9, 0.1, 0.0], [0.1, 0.2, 0.7]], ["cats", "sleep"], ["les", "chats", "dorment"])
    >>> figure = plot.attention([np.eye(2), np.eye(3)], ["ab", "abc"], ["AB", "ABC"], "attention.png")    # two maps
    """
    maps = [_shares("weights", w) for w in _list("weights", weights)]
    if maps and all(w.ndim == 1 for w in maps):
        maps, rows, columns = [np.stack(maps)], [rows], [columns]  # type: ignore[list-item]
    rows = [_list("rows", row, str) for row in _list("rows", rows)]
    columns = [_list("columns", column, str) for column in _list("columns", columns)]
    if not maps or not len(maps) == len(rows) == len(columns):
        raise ValueError("expected as many weights, rows and columns, at least one; got "
                         f"{len(maps)}, {len(rows)} and {len(columns)}")

    # In inches, fractions of a figure of one: a cell has one size in all maps, which flow into lines like words.
    drawn = _drawable(label for part in (*rows, *columns) for label in part)
    row_width, column_width = (0.09 * max((_width(drawn[label]) for part in parts for label in part), default=0) + 0.15
                               for parts in (rows, columns))
    upright = column_width > 0.4                # words stand on end, letters do not
    cell, left, top, gap, wide = 0.3, max(0.45, row_width), max(0.35, column_width if upright else 0), 0.2, 10.8
    x = y = bottom = 0.0
    figure = _Figure(figsize=(1, 1))
    for i, (w, row, column) in enumerate(zip(maps, rows, columns, strict=True)):
        if w.shape != (len(row), len(column)) or not w.size:
            padded = w.ndim == 2 and w.size and not w[:, len(column):].any()
            raise ValueError(f"map {i}: weights have shape {w.shape}, labels ({len(row)}, {len(column)}); expected the "
                             "same, and one of each at least"
                             + "; the other columns are 0: write weights[:, :len(labels)]" * bool(padded))
        height, width = cell * len(row), cell * len(column)
        if x and x + left + width > wide:
            x, y = 0.0, bottom
        axes = figure.add_axes((x + left, y - top - height, width, height))
        x, bottom = x + left + width + gap, min(bottom, y - top - height - gap)
        axes.pcolormesh(w, cmap="Blues", vmin=0, vmax=1, edgecolors="white", linewidth=1)
        axes.invert_yaxis()
        axes.set_xticks(np.arange(len(column)) + 0.5, [drawn[label] for label in column], parse_math=False)
        axes.set_yticks(np.arange(len(row)) + 0.5, [drawn[label] for label in row], parse_math=False)
        axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False, labelcolor=_INK)
        axes.tick_params("x", rotation=90 if upright else 0)
        axes.spines[:].set_color(_FAINT)
    return _finished(figure, path, gap)


@check.explained
def curves(panels: Mapping[str, Any], x: str | Sequence[str] = "step",
           path: str | PathLike[str] | None = None) -> Figure:
    """Curves in panels side by side; where there are many points, smoothed too. A vertical axis begins at 0, or below,
    if a curve goes there.

    Args:
        panels: for each panel, by the name of its vertical axis, curves by name, or one curve. A curve is ys of shape
            (N,), over 0, 1, ... N - 1, or a pair (xs, ys). Where a number is not finite, it has a gap.
        x: what the horizontal axis shows, with its unit, say "seconds"; or this for each panel.
        path: the file to write, or None.

    Raises:
        ValueError: there is no panel or in one no curve, xs and ys of a curve are not two (N,) arrays of numbers of the
            same length, at least 1, or x is the name of a picture's file.

    >>> from tinyseq import plot
    >>> figure = plot.curves({"loss": [2.3, 1.1, 0.7]})
    >>> at, per, wer = [100, 200], [30.0, 20.0], [70.0, 50.0]
    >>> figure = plot.curves({"loss": {"train": [2.3, 1.1, 0.7], "dev": ([0, 2], [2.4, 0.9])},
    ...                       "error, %": {"PER": (at, per), "WER": (at, wer)}}, ["epoch", "update"], "learning.png")
    """
    if not _mapping("panels", panels):
        raise ValueError("expected a panel, got no panel")
    labels = _list("x", x, str)
    labels = [x] * len(panels) if isinstance(x, str) else labels
    if len(labels) != len(panels):
        raise ValueError(f"expected x as one text, or one for each of {len(panels)} panels, got {x!r}")
    figure, row = _panels(len(panels), 5.2)
    for axes, (title, lines), label in zip(row, panels.items(), labels, strict=True):
        whole = True  # numbers of steps, say: no half ones are marked
        names = {}
        named = isinstance(lines, Mapping)
        if named and not lines:
            raise ValueError(f"expected a curve in panel {title!r}, got no curve")
        for color, (name, points) in zip(cycle(_LINES), _mapping(title, lines if named else {title: lines}).items(),
                                         strict=False):
            xs, ys = _points(f"curve {name!r}", points)
            whole &= xs.dtype.kind in "iu"
            if len(xs) > 200:                   # a loss at every step: pale, and a hundred means over it
                axes.plot(xs, ys, color=color, linewidth=0.6, alpha=0.25)
                xs, ys = (np.array([_mean(part) for part in np.array_split(values, 100)]) for values in (xs, ys))
            names[name], = axes.plot(xs, ys, color=color, linewidth=1.8, **_DOT)
        axes.xaxis.get_major_locator().set_params(integer=whole)
        if not axes.dataLim.y0 < 0:
            axes.set_ylim(bottom=0)
        _around(axes, title, label, names if named else {})
    return _finished(figure, path)


@check.explained
def runs(files: Mapping[str, str | PathLike[str]] | Sequence[str | PathLike[str]],
         figures: str | Sequence[str] | None = None, path: str | PathLike[str] | None = None) -> Figure:
    """Curves of several runs, a panel for each figure that they logged, a curve for each run: of their CSV files.

    As `curves` draws them: of more than 200 points pale, with a hundred means over them.

    Args:
        files: what `ts.logs.CSV` wrote, by the names of the runs; or a list, whose names are then the paths.
        figures: the names of what is drawn, in this order, or one; or None for all. Runs that have not logged one are
            not drawn there.
        path: the file to write, or None.

    Raises ValueError for a figure that no run has logged, FileNotFoundError for a file that is not there.

    >>> from tinyseq import plot
    >>> for name, factor in (("a", 1.0), ("b", 0.5)):
    ...     log = ts.logs.Log(ts.logs.CSV(f"{name}/log.csv"))
    ...     for step in range(5):
    ...         log(step, loss=factor / (step + 1))
    >>> figure = plot.runs(["a/log.csv", "b/log.csv"], ["loss"], "curves.png")
    """
    named = files if isinstance(files, Mapping) else {str(file): file for file in _list("files", files)}
    found = {name: logs.read(file) for name, file in _mapping("files", named).items()}
    logged = list(dict.fromkeys(figure for run in found.values() for figure in run))
    panels = {figure: {name: run[figure] for name, run in found.items() if figure in run}
              for figure in ([figures] if isinstance(figures, str) else _list("figures", figures or logged, str))}
    if lack := [figure for figure in panels if not panels[figure]]:
        raise ValueError(f"expected figures that a run has logged, got {lack[0]!r}; logged are {', '.join(logged)}")
    return curves(panels, "step", path)


@check.explained
def through_time(models: Mapping[str, tuple[ArrayLike, Mapping[str, ArrayLike]]],
                 path: str | PathLike[str] | None = None) -> Figure:
    """Gradients by step of several models in one panel, and beside it the saturation of each model's gates.

    Args:
        models: by name what `tinyseq.lens` found: norms of gradients (B, T), drawn as the mean over rows on a
            logarithmic axis, and for each gate (T, 2), the fractions below 0.1 (dashed) and above 0.9.
        path: the file to write, or None.

    Raises:
        ValueError: norms or gates of another shape.

    >>> from tinyseq import lens, plot
    >>> gru, x = nn.GRU(3, 8), ts.random.normal((2, 5, 3))
    >>> [norms] = lens.gradients_through_time(gru, x, lambda y: y[:, -1].sum())
    >>> figure = plot.through_time({"GRU": (norms, lens.gate_saturation(gru, x))})
    """
    pairs = _mapping("models", models).values()
    if not pairs or not all(isinstance(pair, (tuple, list)) and len(pair) == 2 for pair in pairs):
        raise TypeError(f"expected models as {{name: (norms, gates)}}, one at least, got {models!r}")
    gated = {name: _mapping(f"gates of {name}", gates) for name, (_, gates) in models.items() if gates}
    figure, (left, *row) = _panels(1 + len(gated), 4.6)
    names: dict[str, Artist] = {}
    for color, (name, (norms, _)) in zip(cycle(_LINES), models.items(), strict=False):
        found = _numbers(f"norms (B, T) of {name!r}", norms, 2).mean(0)
        names[name], = left.semilogy(np.maximum(found, 1e-30), color=color, linewidth=1.8)
    _around(left, "|∂loss/∂hₜ|, mean over rows", "step t", names)
    for axes, (name, gates) in zip(row, gated.items(), strict=True):
        names = {}
        for color, (gate, fractions) in zip(cycle(_LINES), gates.items(), strict=False):
            low, high = _numbers(f"gate {gate!r} of {name!r} as (T, 2)", fractions, 2, 2).T
            names[f"{gate} > 0.9"], = axes.plot(high, color=color, linewidth=1.4)
            names[f"{gate} < 0.1"], = axes.plot(low, "--", color=color, linewidth=1.4)
        axes.set_ylim(-0.02, 1.02)
        _around(axes, f"{name}: fraction of gates", "step t", names)
    return _finished(figure, path)


@check.explained
def heads(weights: ArrayLike | Sequence[ArrayLike], path: str | PathLike[str] | None = None) -> Figure:
    """Attention weights (heads, T, S), or a list of those of each layer, as a table of maps, a row a layer; dark is 1.
    With a path it is written there.

    Raises ValueError for another shape, a batch's (B, heads, T, S) say, or numbers that are not from 0 to 1.

    >>> from tinyseq import plot
    >>> model, x = nn.TransformerEncoderLayer(8, 2, 16), ts.random.normal((1, 5, 8))
    >>> _, found = nn.attention_weights(model, x)
    >>> figure = plot.heads([w[0] for w in found.values()])
    """
    maps = _shares("weights", weights)
    listed, maps = isinstance(weights, (list, tuple)), maps[None] if maps.ndim == 3 else maps
    if maps.ndim != 4 or not maps.size or not (listed or len(maps) == 1):
        raise ValueError(f"expected weights (heads, T, S), or a list of those of each layer, got shape {maps.shape}; "
                         "of a batch (B, heads, T, S) write weights[0]")
    figure = _Figure(figsize=(1.6 * maps.shape[1] + 0.6, 1.6 * maps.shape[0] + 0.4), layout="tight")
    table = figure.subplots(*maps.shape[:2], squeeze=False, subplot_kw={"xticks": [], "yticks": []})
    for (layer, head), axes in np.ndenumerate(table):
        axes.imshow(maps[layer, head], cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axes.set_title(f"layer {layer}, head {head}", color=_INK, fontsize=7)
    return _finished(figure, path)


@check.explained
def words(rows: Sequence[Sequence[str]], values: Sequence[ArrayLike], title: str = "",
          path: str | PathLike[str] | None = None) -> Figure:
    """Sentences, a line each, with every word on a colour: red for 0, white for 1/2, blue for 1.

    Args:
        rows: the words of each sentence; or those of one sentence alone.
        values: for each sentence of n words (n,) numbers from 0 to 1; or those of one sentence alone.
        title: what the colours say.
        path: the file to write, or None.

    Raises:
        ValueError: there is no word, numbers and words differ in number, a number is not from 0 to 1, or title is the
            name of a picture's file.

    >>> from tinyseq import plot
    >>> figure = plot.words(["not", "bad"], [0.4, 0.9], "red is negative, blue positive")
    >>> figure = plot.words([["not", "bad"], ["bad"]], [[0.4, 0.9], [0.1]], path="opinion.png")
    """
    numbers = [_shares("values", part) for part in _list("values", values)]
    if numbers and not any(part.ndim for part in numbers):
        rows, numbers = [rows], [np.stack(numbers)]  # type: ignore[list-item]
    rows = [_list("rows", row, str) for row in _list("rows", rows)]
    if [(len(row),) for row in rows] != [part.shape for part in numbers] or not any(rows):
        raise ValueError(f"expected a word at least, and as many values as words in each row, got "
                         f"{[len(row) for row in rows]} words and values of shapes {[part.shape for part in numbers]}")
    title = "".join(_list("title", title, str))
    drawn = _drawable([title, *(word for row in rows for word in row)])
    width = max(_width(drawn[title]), *(sum(_width(drawn[word]) + 1 for word in row) for row in rows))
    above = 1.2 if title else 0.6
    figure = _Figure(figsize=(0.095 * width + 0.4, 0.32 * len(rows) + 0.42 * above))
    axes = figure.add_axes((0.02, 0, 0.96, 1), xlim=(0, width), ylim=(len(rows) - 0.4, -above))
    axes.set_axis_off()
    axes.text(0, -0.75, drawn[title], color=_INK, va="center", parse_math=False)
    for y, (row, part) in enumerate(zip(rows, numbers, strict=True)):
        x = 0
        for word, number in zip(row, part, strict=True):
            wide = _width(drawn[word])
            axes.barh(y, wide + 0.8, 0.8, x, color=colormaps["RdBu"](0.2 + 0.6 * float(number)))
            axes.text(x + wide / 2 + 0.4, y, drawn[word], family="monospace", color=_INK, ha="center", va="center",
                      parse_math=False)
            x += wide + 1
    return _finished(figure, path)


def _panels(count: int, width: float) -> tuple[Figure, list[Any]]:
    """Axes side by side."""
    figure = _Figure(figsize=(width * count, 3.6), layout="tight")
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def _around(axes: Axes, title: str, x: str, names: Mapping[str, Artist]) -> None:
    """What a panel of curves has around them: its title, the name of the horizontal axis, a grid, a legend."""
    drawn = _drawable([title, x, *names])
    axes.set_title(drawn[title], loc="left", color=_INK, fontsize=11, parse_math=False)
    axes.set_xlabel(drawn[x], color=_INK, parse_math=False)
    axes.tick_params(length=0, labelcolor=_INK)
    axes.grid(color=_FAINT, linewidth=0.6)
    axes.spines[:].set_visible(False)
    if names:
        legend = axes.legend(names.values(), ["name"] * len(names), frameon=False, labelcolor=_INK, fontsize=9)
        for text, name in zip(legend.get_texts(), names, strict=True):  # as a label, "_name" would be left out
            text.set(text=drawn[name], parse_math=False)


def _finished(figure: Figure, path: str | PathLike[str] | None, gap: float = 0) -> Figure:
    """The figure with fonts for what its own lack, cut to what is drawn and a gap around it if there is one, and
    written."""
    fallback = _families()[len(rcParams["font.family"]):]
    for text in figure.findobj(Text):
        text.set_fontfamily([*text.get_fontfamily(), *fallback])
    if gap:
        box = figure.get_tightbbox().padded(gap)
        for axes in figure.axes:
            axes.set_position(Bbox((axes.get_position().get_points() - box.min) / box.size))
        figure.set_size_inches(*box.size)
    if path is not None:
        figure.savefig(path if hasattr(path, "write") else fspath(path), dpi=150)
    return figure


def _families() -> list[str]:
    """The fonts that matplotlib is set to, and those here that have Chinese letters."""
    return [*rcParams["font.family"], *(name for name in _HAN if name in font_manager.get_font_names())]


def _drawable(texts: Iterable[str]) -> dict[str, str]:
    """Each text as it is drawn: with its number for a character that no font here has, of which a warning tells."""
    texts, fonts = set(texts), [font_manager.FontProperties(family=[name]) for name in _families()]
    known = {code for font in fonts for code in font_manager.get_font(font_manager.findfont(font)).get_charmap()}
    absent = sorted({c for text in texts for c in text if ord(c) not in known and c != "\n"})
    if absent:
        shown = " ".join(c if c.isprintable() else f"U+{ord(c):04X}" for c in absent)
        named = name_of(absent[-1], "a control character" if absent[-1] < "\xa0" else "one without a name")
        advice = ("install one that has them, say Noto Sans CJK" if re.match("CJK|HIRAGANA|KATAKANA|HANGUL", named) else
                  "leave them out" if absent[-1] < "\xa0" else
                  "name one that has them in matplotlib.rcParams['font.family']")
        warnings.warn(f"matplotlib finds no font with {shown}: they are drawn as their numbers, say "
                      f"{ord(absent[-1]):x} for {named}; {advice}", stacklevel=4)
    numbers = str.maketrans({c: f"{ord(c):x}" for c in absent})
    return {text: text.translate(numbers) for text in texts}


def _width(text: str) -> int:
    """In columns of a terminal: a Chinese letter is two wide."""
    return sum(1 + (east_asian_width(c) in "WF") for c in text)


def _mean(values: NDArray[Any]) -> float:
    """Of those that are finite; of none NaN."""
    found = values[np.isfinite(values)]
    return float(found.mean()) if found.size else float("nan")


def _points(name: str, points: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """xs and ys of a curve, given as both or as ys alone."""
    parts = _list(name, points)
    if len(parts) != 2 or not _numbers(name, parts[0]).ndim:
        parts = [range(len(parts)), parts]
    xs, ys = (_numbers(name, part) for part in parts)
    if xs.ndim != 1 or xs.shape != ys.shape or not xs.size:
        raise ValueError(f"{name}: expected ys (N,), N > 0, or (xs, ys) of one shape; got {[xs.shape, ys.shape]}")
    return xs, ys


def _numbers(name: str, values: Any, axes: int | None = None, columns: int | None = None) -> NDArray[Any]:
    found = np.asarray(_host(values))
    if found.dtype.kind not in "biuf":
        raise TypeError(f"expected {name} as an array of numbers, got dtype {found.dtype}")
    if axes is not None and (found.ndim != axes or not found.size or columns not in (None, found.shape[-1])):
        raise ValueError(f"expected {name}, got shape {found.shape}")
    return found


def _shares(name: str, values: Any) -> NDArray[Any]:
    """Numbers from 0 to 1, but for their rounding."""
    found = _numbers(name, values)
    outside = found[np.isfinite(found) & (abs(found - 0.5) > 0.51)]
    if outside.size:
        raise ValueError(f"expected {name} from 0 to 1, got {outside[0]}")
    return found


def _host(values: Any) -> Any:
    """What NumPy takes: of a Tensor, and of those in a list, the numbers without their gradients."""
    if isinstance(values, (list, tuple)):
        return [_host(value) for value in values]
    return values.detach().numpy() if hasattr(values, "detach") else values


def _list(name: str, values: Any, kind: type = object) -> list[Any]:
    """What is in a list or its like; of a string its characters, if strings are wanted."""
    found = list(values) if hasattr(values, "__iter__") and (kind is str or not isinstance(values, str)) else None
    if found is None or not all(isinstance(x, kind) for x in found):
        raise TypeError(f"expected {name} as a list{' of str' * (kind is str)}, got {values!r}")
    if isinstance(values, str) and values.endswith((".png", ".svg", ".pdf")):
        raise ValueError(f"expected {name} as what is drawn, got the name of a file: write path={values!r}")
    return found


def _mapping(name: str, values: Any) -> Mapping[str, Any]:
    if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
        raise TypeError(f"expected {name} as a dictionary by names, got {values!r}")
    return values
