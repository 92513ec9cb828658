"""How does a network learn to spell from frames when nobody says which frame belongs to which letter?

A number is written by hand in one strip, digits of varied widths side by side or overlapping (UCI's 8x8 digits, the
tested ones by other writers). The network reads it column by column, as frames; all that it is taught is the number.
CTC (Graves et al. 2006) lets each frame name a digit or the blank, and sums over all ways in which the frames can
spell the number:

    p(l | x) = sum over pi with B(pi) = l of prod_t p(pi_t | x)     equations 2 and 3; B drops repetitions, then blanks
    alpha_t(s) = (alpha_{t-1}(s) + alpha_{t-1}(s-1) [+ alpha_{t-1}(s-2)]) p(l'_s | x_t)               equations 6 to 8
    h(x) = B(argmax_pi p(pi | x))                                   best path decoding, equation 4

The same digit twice needs a blank between. The baseline is told how many digits there are, cuts the strip into as many
pieces of one width, and takes for each the nearest training digit. The picture shows strips and, under each, which
label each frame names: a peak for a digit, blanks (_) around. It need not stand under its digit: the network has read
the whole strip, and only the order counts. A minute:

    python examples/ctc.py
"""

import argparse
from itertools import groupby, pairwise
from pathlib import Path
import _commands  # noqa: F401 - which hears Ctrl-C from here on

import numpy as np

import tinyseq as ts
from tinyseq import data, logs, metrics, nn, optim, plot
from tinyseq.functional import log_softmax

LABELS = "_0123456789"  # the blank is class 0, digit d is class d + 1
TRAIN = 1200            # digits to learn from; the other 597 come from other writers


class Strips:
    """Numbers of 3 to 6 digits, each digit 6 to 10 columns wide and up to 2 before or after the end of the last."""

    def __init__(self, part: slice, seed: int) -> None:
        with np.load(Path(__file__).parent / "data" / "digits.npz") as file:
            self.images, self.labels = file["images"][part] / np.float32(16), file["labels"][part].astype(int)
        self.rng = np.random.default_rng(seed)

    def draw(self) -> tuple[np.ndarray, list[int]]:
        """Columns (T, 8) from 0 to 1, and the number's digits."""
        strip, end = np.zeros((90, 8), np.float32), 2
        rows = self.rng.integers(len(self.labels), size=self.rng.integers(3, 7))
        for image in self.images[rows]:
            width = self.rng.integers(6, 11)
            start = end + self.rng.integers(-2, 3)
            columns = image.T[np.arange(width) * 8 // width]
            strip[start : start + width] = np.maximum(strip[start : start + width], columns)
            end = start + width
        return strip[: end + 2], self.labels[rows].tolist()

    def batch(self, size: int) -> tuple[np.ndarray, np.ndarray, list[list[int]]]:
        """Strips (B, T, 8) filled up with zeros, their lengths (B,) in columns, and their numbers."""
        strips, numbers = zip(*(self.draw() for _ in range(size)))
        lengths = np.array([len(strip) for strip in strips])
        x = np.zeros((size, lengths.max(), 8), np.float32)
        for row, strip in zip(x, strips):
            row[: len(strip)] = strip
        return x, lengths, list(numbers)


class Reader(nn.Module):
    def __init__(self, width: int) -> None:
        self.rnn = nn.GRU(8, width, bidirectional=True)
        self.out = nn.Linear(2 * width, len(LABELS))

    def forward(self, x: np.ndarray, lengths: np.ndarray) -> ts.Tensor:
        """Columns (B, T, 8) -> log p of the labels, (B, T, 11)."""
        states, _ = self.rnn(ts.tensor(x), lengths=lengths)
        return log_softmax(self.out(states))


def train(model: Reader, strips: Strips, steps: int) -> None:
    criterion, optimizer, peak, losses = nn.CTCLoss(), optim.Adam(model.parameters()), 5e-3, []
    bar = logs.progress(range(steps))
    for step in bar:
        x, lengths, numbers = strips.batch(32)
        targets, counts = data.pad([[d + 1 for d in number] for number in numbers])
        loss = criterion(model(x, lengths), targets, lengths, counts)
        optimizer.zero_grad()
        loss.backward()
        optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.lr = peak * (1 - step / steps)
        optimizer.step()
        losses.append(loss.item())
        bar.set_postfix_str(f"loss {np.mean(losses[-50:]):.3f}", refresh=False)


def best_path(log_probs: np.ndarray) -> list[int]:
    """(T, 11) -> the digits: the best label of each frame, repetitions dropped, then blanks."""
    return [label - 1 for label, _ in groupby(log_probs.argmax(1).tolist()) if label]


def cut_evenly(strip: np.ndarray, count: int, known: Strips) -> list[int]:
    """The baseline: the nearest training digit of each of `count` pieces of one width."""
    edges = np.linspace(2, len(strip) - 2, count + 1)
    pieces = np.stack([strip[np.linspace(a, b - 1, 8).round().astype(int)].T for a, b in pairwise(edges)])
    distances = ((pieces[:, None] - known.images) ** 2).sum((2, 3))
    return known.labels[distances.argmin(1)].tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1200, help="how many updates (1200)")
    parser.add_argument("--tested", type=int, default=500, help="how many strips to be tested on (500)")
    parser.add_argument("--seed", type=int, default=0, help="where the random numbers begin (0)")
    options = parser.parse_args()
    if min(options.steps, options.tested) < 1:
        parser.error("--steps and --tested must be at least 1")
    ts.manual_seed(options.seed)
    known, other = Strips(slice(TRAIN), options.seed), Strips(slice(TRAIN, None), options.seed + 1)
    model = Reader(width=64)
    train(model, known, options.steps)
    x, lengths, numbers = other.batch(options.tested)
    with ts.no_grad():
        log_probs = model(x, lengths).numpy()
    read = [best_path(p[:n]) for p, n in zip(log_probs, lengths)]
    cut = [cut_evenly(strip[:n], len(number), known) for strip, n, number in zip(x, lengths, numbers)]
    ctc, baseline = (100 * metrics.token_error_rate(found, [[number] for number in numbers]) for found in (read, cut))
    print(f"label error rate on {len(x)} strips by other writers: {ctc:.1f}%  "
          f"(baseline: {baseline:.1f}%, cut evenly and compared)")
    shown = [i for i, number in enumerate(numbers) if any(a == b for a, b in pairwise(number))][:2]
    for i in shown:
        print(f"  {''.join(map(str, numbers[i]))} read as {''.join(map(str, read[i]))}")
    maps = [m for i in shown for m in (x[i, : lengths[i]].T, np.exp(log_probs[i, : lengths[i]]).T)]
    rows = [LABELS if len(m) == len(LABELS) else " " * len(m) for m in maps]
    plot.attention(maps, rows, [" " * m.shape[1] for m in maps], "ctc.png")
    print("strips, and what each frame names: ctc.png")


if __name__ == "__main__":
    main()
