"""How does a network read what has no alphabet: sounds, which are vectors, and of any length?

Nine men say /ae/; each utterance is 7 to 29 frames of 12 cepstra, numbers that describe the spectrum of a short piece
of sound (Japanese Vowels, Kudo et al. 1999; 270 utterances to learn from, 370 to be tested on). An RNN takes a vector
as it takes an embedding, so nothing changes but its first layer. Many-to-one: the states of both directions are
averaged over the real frames, and a linear layer says who it was.

    h_t = GRU(x_t, h_{t-1}), forwards and backwards         Cho et al. 2014, equations 5 to 8; Schuster & Paliwal 1997
    p(speaker | x) = softmax(W (1/T sum_t h_t) + b)         over the T real frames of each utterance alone

The baseline knows no order: the nearest neighbour among the utterances' mean frames. The picture shows
how often both are right when they hear only the first frames. Half a minute:

    python examples/frames.py
"""

import argparse
import math
from pathlib import Path
import _commands  # noqa: F401 - which hears Ctrl-C from here on

import numpy as np

import tinyseq as ts
from tinyseq import data, logs, nn, optim, plot
from tinyseq.functional import cross_entropy

SPEAKERS, CEPSTRA, TRAIN = 9, 12, 270


def read_utterances() -> tuple[list[np.ndarray], np.ndarray]:
    """640 utterances (T, 12), and who speaks, 0 to 8: the first 270 are for training."""
    with np.load(Path(__file__).parent / "data" / "japanese_vowels.npz") as file:
        frames = (file["frames"] / 10_000).astype(np.float32)
        ends = np.cumsum(file["lengths"].astype(int))
        return np.split(frames, ends[:-1]), file["speakers"].astype(int) - 1


class Listener(nn.Module):
    def __init__(self, width: int) -> None:
        self.rnn = nn.GRU(CEPSTRA, width, bidirectional=True)
        self.mean = nn.FixedContext(2 * width, "mean")
        self.dropout = nn.Dropout(0.5)
        self.out = nn.Linear(2 * width, SPEAKERS)

    def forward(self, x: np.ndarray, lengths: np.ndarray) -> ts.Tensor:
        """Frames (B, T, 12) -> logits (B, 9)."""
        states, _ = self.rnn(ts.tensor(x), lengths=lengths)                         # (B, T, 2 width), 0 after the end
        return self.out(self.dropout(self.mean.keys(states, nn.length_mask(lengths, x.shape[1]))))


def train(model: Listener, utterances: list[np.ndarray], speakers: np.ndarray, steps: int, seed: int) -> None:
    optimizer, peak = optim.AdamW(model.parameters(), weight_decay=0.01), 4e-3
    rng, losses = np.random.default_rng(seed), []
    bar = logs.progress(range(steps))
    for step in bar:
        rows = rng.choice(len(utterances), 32)
        cut = [utterances[i][rng.integers(4):][: rng.integers(5, 60)] for i in rows]  # some begin late, some stop early
        x, lengths = data.pad(cut)
        x += rng.normal(0, 0.1, x.shape).astype(np.float32)                        # and none sounds the same twice
        loss = cross_entropy(model(x, lengths), speakers[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.lr = peak * (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.step()
        losses.append(loss.item())
        bar.set_postfix_str(f"loss {np.mean(losses[-50:]):.3f}", refresh=False)


@ts.no_grad()
def accuracy(model: Listener, utterances: list[np.ndarray], speakers: np.ndarray) -> float:
    """Percent."""
    model.eval()
    said = model(*data.pad(utterances)).numpy().argmax(1)
    model.train()
    return 100 * (said == speakers).mean()


def nearest_mean_frame(known: list, labels: np.ndarray, asked: list, right: np.ndarray) -> float:
    """The baseline's accuracy in percent: each utterance is said by who said the one with the nearest mean frame."""
    known, asked = (np.stack([u.mean(0) for u in part]) for part in (known, asked))
    return 100 * (labels[((asked[:, None] - known) ** 2).sum(-1).argmin(1)] == right).mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000, help="how many updates (2000)")
    parser.add_argument("--tested", type=int, default=370, help="how many utterances to be tested on (370)")
    parser.add_argument("--seed", type=int, default=0, help="where the random numbers begin (0)")
    options = parser.parse_args()
    if min(options.steps, options.tested) < 1:
        parser.error("--steps and --tested must be at least 1")
    ts.manual_seed(options.seed)
    utterances, speakers = read_utterances()
    model = Listener(width=64)
    train(model, utterances[:TRAIN], speakers[:TRAIN], options.steps, options.seed)
    known, labels, tested, right = utterances[:TRAIN], speakers[:TRAIN], utterances[TRAIN:], speakers[TRAIN:]
    tested, right = tested[: options.tested], right[: options.tested]
    print(f"accuracy on {len(tested)} test utterances: {accuracy(model, tested, right):.1f}%  "
          f"(baseline: {nearest_mean_frame(known, labels, tested, right):.1f}%, nearest mean frame)")
    heard = np.arange(1, 21)
    begun = [[u[:t] for u in tested] for t in heard]
    lines = {"GRU": (heard, [accuracy(model, part, right) for part in begun]),
             "nearest mean frame": (heard, [nearest_mean_frame(known, labels, part, right) for part in begun]),
             "guess": (heard, np.full(len(heard), 100 / SPEAKERS))}
    plot.curves({"test accuracy, %": lines}, "frames heard of each utterance", "frames.png")
    print("accuracy when only the first frames are heard: frames.png")


if __name__ == "__main__":
    main()
