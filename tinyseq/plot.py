"""Pictures of what was learnt, drawn by matplotlib (`pip install 'tinyseq[plot]'`): to import this needs it.

No function opens a window or touches the global state of matplotlib.pyplot. Labels, names and titles are drawn as they
are: a dollar sign begins no formula.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle
from os import PathLike, fspath
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tinyseq import check

try:                                            # here, so that a program is told so before it learns for minutes
    from matplotlib import colormaps
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError("pictures need matplotlib; run: pip install 'tinyseq[plot]'") from error

__all__ = ["attention", "curves", "heads", "through_time", "words"]

_INK, _FAINT = "#333333", "#d9d9d9"
_LINES = ("#2a6f97", "#d1495b", "#3a7d44", "#8d5a97", "#e09f3e")


@check.explained
def attention(weights: Sequence[ArrayLike], rows: Sequence[Sequence[str]], columns: Sequence[Sequence[str]],
              path: str | PathLike[str]) -> None:
    """Heat maps of attention, several in one picture: which column each row looked at.

    Args:
        weights: for each map an array (R, C) of numbers from 0 (white) to 1 (dark).
        rows: for each map the R labels of what attends, say the phonemes written. They stand at the left.
        columns: for each map the C labels of what is attended to, say the letters read. They stand on top.
        path: the file to write; its ending (.png, .svg, .pdf) says the format.

    Raises:
        ValueError: there is no map, the three differ in number, or labels do not fit an array's shape.
    """
    maps = [_numbers("weights", w) for w in _list("weights", weights)]
    rows = [_list("rows", row, str) for row in _list("rows", rows)]
    columns = [_list("columns", column, str) for column in _list("columns", columns)]
    if not maps or not len(maps) == len(rows) == len(columns):
        raise ValueError("expected as many weights, rows and columns, at least one; got "
                         f"{len(maps)}, {len(rows)} and {len(columns)}")

    # In inches, fractions of a figure of one: a cell has one size in all maps, which flow into lines like words.
    row_width, column_width = (0.09 * max((len(label) for part in parts for label in part), default=0) + 0.15
                               for parts in (rows, columns))
    upright = column_width > 0.4                # words stand on end, letters do not
    cell, left, top, gap, wide = 0.3, max(0.45, row_width), max(0.35, column_width if upright else 0), 0.2, 10.8
    x = y = bottom = 0.0
    figure = Figure(figsize=(1, 1))
    for i, (w, row, column) in enumerate(zip(maps, rows, columns, strict=True)):
        if w.shape != (len(row), len(column)) or not w.size:
            raise ValueError(f"map {i}: weights have shape {w.shape}, labels ({len(row)}, {len(column)}); "
                             "expected the same, and one of each at least")
        height, width = cell * len(row), cell * len(column)
        if x and x + left + width > wide:
            x, y = 0.0, bottom
        axes = figure.add_axes((x + left, y - top - height, width, height))
        x, bottom = x + left + width + gap, min(bottom, y - top - height - gap)
        axes.pcolormesh(w, cmap="Blues", vmin=0, vmax=1, edgecolors="white", linewidth=1)
        axes.invert_yaxis()
        axes.set_xticks(np.arange(len(column)) + 0.5, column, parse_math=False)
        axes.set_yticks(np.arange(len(row)) + 0.5, row, parse_math=False)
        axes.tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False, labelcolor=_INK)
        axes.tick_params("x", rotation=90 if upright else 0)
        axes.spines[:].set_color(_FAINT)
    _save(figure, path, bbox_inches="tight", pad_inches=gap)    # what is drawn, and no more


@check.explained
def curves(panels: Mapping[str, Mapping[str, tuple[ArrayLike, ArrayLike]]], x: str | Sequence[str],
           path: str | PathLike[str]) -> None:
    """Curves in panels side by side; where there are many points, smoothed too. A vertical axis begins at 0, or below,
    if a curve goes there.

    Args:
        panels: for each panel, by the name of its vertical axis, curves by name, each (xs, ys) of shape (N,).
        x: what the horizontal axis shows, with its unit, say "seconds"; or this for each panel.
        path: the file to write; its ending (.png, .svg, .pdf) says the format.

    Raises:
        ValueError: there is no panel, or xs and ys of a curve are not two (N,) arrays of numbers of the same length.

    >>> curves({"loss": {"train": (seconds, losses)}, "error": {"PER": (at, per), "WER": (at, wer)}},
    ...        "seconds", "learning.png")                                            # doctest: +SKIP
    """
    if not _mapping("panels", panels):
        raise ValueError("expected a panel, got no panel")
    labels = _list("x", [x] * len(panels) if isinstance(x, str) else x, str)
    if len(labels) != len(panels):
        raise ValueError(f"expected x as one text, or one for each of {len(panels)} panels, got {x!r}")
    figure, row = _panels(len(panels), 5.2)
    for axes, (title, lines), label in zip(row, panels.items(), labels, strict=True):
        whole = True  # numbers of steps, say: no half ones are marked
        names = {}
        for color, (name, points) in zip(cycle(_LINES), _mapping(title, lines).items(), strict=False):
            pair = [_numbers(f"curve {name!r}", part) for part in _list(f"curve {name!r}", points)]
            if len(pair) != 2 or pair[0].ndim != 1 or pair[0].shape != pair[1].shape:
                raise ValueError(f"curve {name!r}: expected (xs, ys) of one shape (N,); got "
                                 f"{[part.shape for part in pair]}")
            whole &= pair[0].dtype.kind in "iu"
            if len(pair[0]) > 200:              # a loss at every step: pale, and a hundred means over it
                axes.plot(*pair, color=color, linewidth=0.6, alpha=0.25)
                pair = [np.array([part.mean() for part in np.array_split(values, 100)]) for values in pair]
            names[name], = axes.plot(*pair, color=color, linewidth=1.8)
        axes.xaxis.get_major_locator().set_params(integer=whole)
        if not axes.dataLim.y0 < 0:
            axes.set_ylim(bottom=0)
        _finish(axes, title, label, names)
    _save(figure, path)


@check.explained
def through_time(models: Mapping[str, tuple[ArrayLike, Mapping[str, ArrayLike]]], path: str | PathLike[str]) -> None:
    """Gradients by step of several models in one panel, and beside it the saturation of each model's gates.

    Args:
        models: by name what `tinyseq.lens` found: norms of gradients (B, T), drawn as the mean over rows on a
            logarithmic axis, and for each gate (T, 2), the fractions below 0.1 (dashed) and above 0.9.
        path: the file to write; its ending (.png, .svg, .pdf) says the format.

    Raises:
        ValueError: norms or gates of another shape.
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
    _finish(left, "|∂loss/∂hₜ|, mean over rows", "step t", names)
    for axes, (name, gates) in zip(row, gated.items(), strict=True):
        names = {}
        for color, (gate, fractions) in zip(cycle(_LINES), gates.items(), strict=False):
            low, high = _numbers(f"gate {gate!r} of {name!r} as (T, 2)", fractions, 2, 2).T
            names[f"{gate} > 0.9"], = axes.plot(high, color=color, linewidth=1.4)
            names[f"{gate} < 0.1"], = axes.plot(low, "--", color=color, linewidth=1.4)
        axes.set_ylim(-0.02, 1.02)
        _finish(axes, f"{name}: fraction of gates", "step t", names)
    _save(figure, path)


def _panels(count: int, width: float) -> tuple[Figure, list[Any]]:
    """Axes side by side."""
    figure = Figure(figsize=(width * count, 3.6), layout="tight")
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def _finish(axes: Axes, title: str, x: str, names: Mapping[str, Artist]) -> None:
    """What a panel of curves has around them: its title, the name of the horizontal axis, a grid, a legend."""
    axes.set_title(title, loc="left", color=_INK, fontsize=11, parse_math=False)
    axes.set_xlabel(x, color=_INK, parse_math=False)
    axes.tick_params(length=0, labelcolor=_INK)
    axes.grid(color=_FAINT, linewidth=0.6)
    axes.spines[:].set_visible(False)
    legend = axes.legend(names.values(), ["name"] * len(names), frameon=False, labelcolor=_INK, fontsize=9)
    for text, name in zip(legend.get_texts(), names, strict=True):  # as a label, "_name" would be left out
        text.set(text=name, parse_math=False)


def _save(figure: Figure, path: str | PathLike[str], **options: Any) -> None:
    figure.savefig(path if hasattr(path, "write") else fspath(path), dpi=150, **options)


def _numbers(name: str, values: Any, axes: int | None = None, columns: int | None = None) -> NDArray[Any]:
    found = values.numpy() if hasattr(values, "numpy") else np.asarray(values)
    if found.dtype.kind not in "biuf":
        raise TypeError(f"expected {name} as an array of numbers, got dtype {found.dtype}")
    if axes is not None and (found.ndim != axes or not found.size or columns not in (None, found.shape[-1])):
        raise ValueError(f"expected {name}, got shape {found.shape}")
    return found


def _list(name: str, values: Any, kind: type = object) -> list[Any]:
    """What is in a list or its like; of a string its characters, if strings are wanted."""
    found = list(values) if hasattr(values, "__iter__") and (kind is str or not isinstance(values, str)) else None
    if found is None or not all(isinstance(x, kind) for x in found):
        raise TypeError(f"expected {name} as a list{' of str' * (kind is str)}, got {values!r}")
    return found


def _mapping(name: str, values: Any) -> Mapping[str, Any]:
    if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
        raise TypeError(f"expected {name} as a dictionary by names, got {values!r}")
    return values


@check.explained
def heads(weights: ArrayLike, path: str | PathLike[str]) -> None:
    """Attention weights (layers, heads, T, S) or (heads, T, S) as a table of maps, a row a layer; dark is 1.

    Raises ValueError for another shape.

    >>> _, found = nn.attention_weights(model, x)
    >>> heads([w.numpy()[0] for w in found.values()], "heads.png")                   # doctest: +SKIP
    """
    maps = _numbers("weights", weights)
    maps = maps[None] if maps.ndim == 3 else maps
    if maps.ndim != 4 or not maps.size:
        raise ValueError(f"expected weights (layers, heads, T, S) or (heads, T, S), got shape {maps.shape}")
    figure = Figure(figsize=(1.6 * maps.shape[1] + 0.6, 1.6 * maps.shape[0] + 0.4), layout="tight")
    table = figure.subplots(*maps.shape[:2], squeeze=False, subplot_kw={"xticks": [], "yticks": []})
    for (layer, head), axes in np.ndenumerate(table):
        axes.imshow(maps[layer, head], cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axes.set_title(f"layer {layer}, head {head}", color=_INK, fontsize=7)
    _save(figure, path)


@check.explained
def words(rows: Sequence[Sequence[str]], values: Sequence[ArrayLike], title: str, path: str | PathLike[str]) -> None:
    """Sentences, a line each, with every word on a colour: red for 0, white for 1/2, blue for 1.

    Args:
        rows: the words of each sentence.
        values: for each sentence as many numbers from 0 to 1 as it has words.
        title: what the colours say.
        path: the file to write; its ending (.png, .svg, .pdf) says the format.

    Raises:
        ValueError: there is no word, or numbers and words differ in number.
    """
    rows = [_list("rows", row, str) for row in _list("rows", rows)]
    numbers = [_numbers("values", part) for part in _list("values", values)]
    if [(len(row),) for row in rows] != [part.shape for part in numbers] or not any(rows):
        raise ValueError(f"expected a word at least, and as many values as words in each row, got "
                         f"{[len(row) for row in rows]} words and values of shapes {[part.shape for part in numbers]}")
    width = max(sum(len(word) + 1 for word in row) for row in rows)
    figure = Figure(figsize=(0.095 * width + 0.4, 0.32 * len(rows) + 0.5))
    axes = figure.add_axes((0.02, 0, 0.96, 1), xlim=(0, width), ylim=(len(rows) - 0.4, -1.2))
    axes.set_axis_off()
    axes.text(0, -0.75, "".join(_list("title", title, str)), color=_INK, va="center", parse_math=False)
    for y, (row, part) in enumerate(zip(rows, numbers, strict=True)):
        x = 0
        for word, number in zip(row, part, strict=True):
            axes.barh(y, len(word) + 0.8, 0.8, x, color=colormaps["RdBu"](0.2 + 0.6 * float(number)))
            axes.text(x + len(word) / 2 + 0.4, y, word, family="monospace", color=_INK, ha="center", va="center",
                      parse_math=False)
            x += len(word) + 1
    _save(figure, path)
