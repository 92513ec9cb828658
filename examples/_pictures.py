"""How scripts draw curves that lie on each other: those beneath are wider, so that their rims show."""

import numpy as np

from tinyseq import plot


def curves(panels: dict[str, dict], x: object, path: str, scale: str = "linear") -> None:
    """`plot.curves`, each curve (xs, ys) with its last value beside its name, or both axes logarithmic."""
    named = {title: {f"{name}: {values[-1]:,.4g}": (xs, values) for name, (xs, values) in found.items()}
             for title, found in panels.items()}
    figure = plot.curves(named, x)
    for axes, found in zip(figure.axes, panels.values()):
        if scale == "log":
            every = [value for _, values in found.values() for value in values]
            axes.set(xscale="log", yscale="log", ylim=(min(every) / 2, 2 * max(every)))
        lines = [axes.lines, axes.get_legend().get_lines()]
        for beneath, width in zip(zip(*lines), np.linspace(6, 1.5, len(found))):
            for line in beneath:
                line.set_linewidth(width)
    figure.savefig(path, dpi=150)
