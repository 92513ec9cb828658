"""How time and memory grow with the work: `python tests/benchmarks/growth.py [--picture FILE]`.

A training step, or a text generated, as one size is doubled five times and the others stay. Each point is a process of
its own, with tinyseq on the backend that TINYSEQ_BACKEND names and one thread; its time is the median of some calls,
its memory the high-water mark beyond libraries and data (Linux alone). Printed is the exponent of growth over the last
three doublings, 1 where twice the size takes twice as much, beside the most that it may come to, and a mark where that
is passed by more than a half: less is what caches and memory that was there before make of it. Takes two minutes.
"""

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from shown import machine
from table import THREADS, UNSET, megabytes, milliseconds

DOUBLINGS = 5
NAMES = {"recurrent": "LSTM", "transformer": "Transformer", "ctc": "CTC", "crf": "CRF"}
# What is done, what grows, its first size, the arguments with None for it, and the exponents that time and memory may
# have: as the largest term has, in the sizes that are reached here.
CASES: list[tuple[str, str, int, tuple[Any, ...], tuple[int, int]]] = [
    ("recurrent", "length", 16, ("LSTM", 16, None, 64, 64), (1, 1)),
    ("recurrent", "batch", 8, ("LSTM", None, 32, 64, 64), (1, 1)),
    ("recurrent", "width", 16, ("LSTM", 16, 32, None, None), (2, 2)),
    ("transformer", "length", 32, (4, None, 64, 4), (2, 1)),
    ("transformer", "batch", 4, (None, 32, 64, 4), (1, 1)),
    ("transformer", "width", 16, (8, 32, None, 4), (2, 2)),
    ("cross_entropy", "batch", 64, (None, 1000), (1, 1)),
    ("cross_entropy", "vocabulary", 1000, (64, None), (1, 1)),
    ("embedding", "batch", 256, (None, 1000, 64), (1, 1)),
    ("embedding", "vocabulary", 1000, (256, None, 64), (1, 1)),
    ("ctc", "length", 64, (4, None, 64, 30), (1, 1)),
    ("ctc", "batch", 4, (None, 100, 64, 30), (1, 1)),
    ("ctc", "vocabulary", 64, (4, 100, None, 30), (1, 1)),
    ("crf", "length", 64, (16, None, 32), (1, 1)),
    ("crf", "batch", 16, (None, 64, 32), (1, 1)),
    ("crf", "tags", 8, (16, 64, None), (2, 2)),
    ("generation", "length", 32, (4, None, 64, 1000), (2, 1)),
    ("generation", "batch", 8, (None, 16, 64, 1000), (1, 1)),
    ("generation", "width", 32, (4, 16, None, 1000), (2, 1)),
    ("generation", "vocabulary", 1000, (4, 16, 64, None), (1, 1)),
    ("beam", "length", 32, (4, None, 64, 1000), (2, 1)),
    ("beam", "batch", 2, (None, 16, 64, 1000), (2, 2)),        # of each of k the best k
    ("beam", "vocabulary", 1000, (4, 16, 64, None), (1, 1)),
]


def crf(batch: int, steps: int, tags: int) -> Callable[[], Any]:
    """Of a batch, -log p of tags and its gradients."""
    import contenders as given
    from contenders import ours

    layer, y = ours.nn.CRF(tags), given.integers("tags", tags, batch, steps)
    x, g = given.numbers("x", batch, steps, tags), given.numbers("g", batch)
    return ours.gradients(lambda x: layer(x, y), x, g, layer)


def generation(batch: int, tokens: int, width: int, vocabulary: int) -> Callable[[], Any]:
    """A text for each row."""
    from tinyseq import decode, nn

    model = nn.LanguageModel(vocabulary, width, 4, 2, 4 * width, max_length=2048).eval()
    return lambda: [decode.greedy(model, model.start(np.ones((batch, 1), int)), 1, -1, tokens)[0].tokens]


def beam(beams: int, tokens: int, width: int, vocabulary: int) -> Callable[[], Any]:
    """A text of one row, by a beam; its batch is the beam."""
    from tinyseq import decode, nn

    model = nn.LanguageModel(vocabulary, width, 4, 2, 4 * width, max_length=2048).eval()
    return lambda: [decode.beam(model, model.start([[1]]), 1, -1, tokens, beams)[0][0].tokens]


def measure(case: int, doublings: int) -> None:
    """Print the milliseconds and megabytes of a case."""
    from contenders import ours

    work, _, first, arguments, _ = CASES[case]
    sizes = [first << doublings if size is None else size for size in arguments]
    make = globals().get(work) or getattr(ours, work)
    peak = megabytes(make, sizes)[0]
    print(json.dumps([milliseconds(make, sizes)[0], peak]))


def growth(values: Sequence[float]) -> float:
    """The exponent over the last three doublings, the slope of a line through the logarithms: of what is above 1, as
    less than a megabyte may find room in memory that is there. NaN where these are not two.
    """
    known = [math.log2(value) for value in values[-4:] if value > 1]
    return float(np.polyfit(range(len(known)), known, 1)[0]) if len(known) > 1 else math.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the curves there")
    parser.add_argument("--measure", type=int, nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        return measure(*options.measure)
    environment = {k: v for k, v in os.environ.items() if k not in UNSET} | dict.fromkeys(THREADS, "1")
    print(f"{machine()}, backend {environment.get('TINYSEQ_BACKEND', 'numpy')}, 1 thread")
    print(f"{'what':14} {'grows':>11} {'from':>6} {'to':>7} {'ms':>16} {'exponent':>9} {'most':>5} {'MB':>16} "
          f"{'exponent':>9} {'most':>5}")
    panels: dict[str, Any] = {}
    for case, (work, what, first, _, most) in enumerate(CASES):
        found = []
        for doublings in range(DOUBLINGS + 1):
            command = [sys.executable, __file__, "--measure", str(case), str(doublings)]
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            found.append(json.loads(done.stdout.splitlines()[-1]))
        name = NAMES.get(work, work.replace("_", "-"))
        line = f"{name:14} {what:>11} {first:6} {first << DOUBLINGS:7}"
        for values, limit, title in zip(zip(*found, strict=True), most, ("time", "memory"), strict=True):
            exponent = growth(values)
            line += f" {values[0]:7.2f} {values[-1]:8.1f} {exponent:8.2f}{'!' * (exponent > limit + 0.5):1} {limit:5}"
            times = [max(value, 1) / max(values[0], 1) for value in values]
            panels.setdefault(f"{title}, by {what.replace('tags', 'vocabulary')}", {})[name] = (
                [1 << k for k in range(len(times))], times)
        print(line, flush=True)
    if options.picture:
        draw(panels, options.picture)


def draw(panels: dict[str, Any], file: Path) -> None:
    """Two rows of panels with logarithmic axes: times above, memory below, as multiples of the first, or of 1."""
    from matplotlib.gridspec import GridSpec

    from tinyseq import plot

    panels = dict(sorted(panels.items(), key=lambda panel: panel[0].startswith("memory")))
    figure = plot.curves(panels, "times the first size")
    figure.set_size_inches(15, 8)
    for axes, place in zip(figure.axes, GridSpec(2, len(panels) // 2, figure), strict=True):
        axes.set_subplotspec(place)
        axes.set(xscale="log", yscale="log", ylim=(0.7, 1100))
        axes.set_xticks(ticks := [1, 2, 4, 8, 16, 32], map(str, ticks))
        axes.set_yticks(ticks := [1, 2, 4, 8, 16, 32, 1024], map(str, ticks))
        axes.minorticks_off()
        for lines in axes.lines, axes.get_legend().get_lines():
            for line, style in zip(lines, ["-"] * 5 + ["--"] * 5, strict=False):
                line.set_linestyle(style)
        for power in 1, 2:
            axes.plot([1, 32], [1, 32**power], color="#999999", linewidth=1, linestyle=":", zorder=0)
            axes.annotate(f"n{'²' * (power > 1)}", (32, 32**power), color="#777777", ha="left", va="center")
    figure.savefig(file, dpi=100)


if __name__ == "__main__":
    main()
