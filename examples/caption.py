"""How does a decoder put a picture into words, and where does it look while it says each of them?

One-to-many: the picture is a strip of 1 to 5 handwritten digits with gaps between (UCI's 8x8 digits, the tested ones by
other writers), its caption says them in words ("three one four"). Each window of 8x8 pixels becomes a feature vector,
h_j = relu(W relu(V window_j) + position_j); these are the memory, and no encoder has read them in order. A GRU writes
the words, and before each one attention asks where to look (Xu et al. 2015, equations 4, 5 and 13, "soft" attention):

    e_tj = v . tanh(W s_{t-1} + U h_j),  alpha_t = softmax(e_t),  c_t = sum_j alpha_tj h_j,  s_t = GRU([E y_{t-1}; c_t])

The baseline is the same decoder that sees the whole picture as one fixed vector, the mean of the h_j (as the caption
models before it did: Vinyals et al. 2015). The picture shows strips, and under each where the decoder looked for each
word: at each digit in turn. A minute:

    python examples/caption.py
"""

import argparse
from pathlib import Path
import _commands  # noqa: F401 - which hears Ctrl-C from here on

import numpy as np

import tinyseq as ts
from tinyseq import data, decode, logs, metrics, nn, optim, plot
from tinyseq.functional import cross_entropy, relu

WORDS = data.Vocabulary("zero one two three four five six seven eight nine".split())
TRAIN, MOST, COLUMNS = 1200, 5, 60      # digits to learn from; digits in a strip; columns of a strip
WINDOWS = COLUMNS - 7


class Strips:
    """Strips (8, 60) of 1 to 5 digits, up to 4 columns apart, and their captions."""

    def __init__(self, part: slice, seed: int) -> None:
        with np.load(Path(__file__).parent / "data" / "digits.npz") as file:
            self.images, self.labels = file["images"][part] / np.float32(16), file["labels"][part].astype(int)
        self.rng = np.random.default_rng(seed)

    def batch(self, size: int) -> tuple[np.ndarray, np.ndarray, list[list[str]]]:
        """Strips (B, 8, 60) of numbers from 0 to 1, targets (B, start + words + end), and the captions in words."""
        strips, captions = np.zeros((size, 8, COLUMNS), np.float32), []
        for strip in strips:
            rows = self.rng.integers(len(self.labels), size=self.rng.integers(1, MOST + 1))
            start = 0
            for image in self.images[rows]:
                start += self.rng.integers(5)
                strip[:, start : start + 8] = image
                start += 8
            captions.append([WORDS.symbols[d] for d in self.labels[rows]])
        targets, _ = data.pad([[WORDS.start, *WORDS.encode(caption), WORDS.end] for caption in captions])
        return strips, targets, captions


class Captioner(nn.Module):
    def __init__(self, width: int, attends: bool) -> None:
        self.eye = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width))
        self.positions = nn.LearnedPositions(WINDOWS, width)
        context = nn.AdditiveAttention(width, width, width) if attends else nn.FixedContext(width, "mean")
        self.decoder = nn.AttentionDecoder(len(WORDS), 32, width, context, width, feed="context")

    def look(self, strips: np.ndarray) -> nn.DecoderState:
        """Strips (B, 8, 60) -> the decoder's state before the first word; its memory is (B, 53, width)."""
        x = ts.tensor(strips)
        windows = ts.stack([ts.reshape(x[:, :, i : i + 8], (len(strips), 64)) for i in range(WINDOWS)], 1)
        return self.decoder.start(relu(self.positions(self.eye(windows))))


def train(model: Captioner, strips: Strips, steps: int, name: str) -> None:
    optimizer, peak, losses = optim.Adam(model.parameters()), 5e-3, []
    bar = logs.progress(range(steps), desc=f"{name:16} ")
    for step in bar:
        pictures, targets, _ = strips.batch(32)
        logits = model.decoder(targets[:, :-1], model.look(pictures))
        loss = cross_entropy(logits, targets[:, 1:], ignore_index=WORDS.pad)
        optimizer.zero_grad()
        loss.backward()
        optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.lr = peak * (1 - step / steps)
        optimizer.step()
        losses.append(loss.item())
        bar.set_postfix_str(f"loss {np.mean(losses[-50:]):.3f}", refresh=False)


@ts.no_grad()
def describe(model: Captioner, strips: np.ndarray) -> list[decode.Hypothesis]:
    """The best caption of each strip by greedy search, and where the decoder looked."""
    return decode.greedy(model.decoder, model.look(strips), WORDS.start, WORDS.end, max_length=MOST + 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1200, help="how many updates of each model (1200)")
    parser.add_argument("--tested", type=int, default=500, help="how many strips to be tested on (500)")
    parser.add_argument("--seed", type=int, default=0, help="where the random numbers begin (0)")
    options = parser.parse_args()
    if min(options.steps, options.tested) < 1:
        parser.error("--steps and --tested must be at least 1")
    errors = {}
    for name in ("one fixed vector", "attention"):
        ts.manual_seed(options.seed)
        model = Captioner(96, attends=name == "attention")
        train(model, Strips(slice(TRAIN), options.seed), options.steps, name)
        pictures, _, captions = Strips(slice(TRAIN, None), options.seed + 1).batch(options.tested)
        found = describe(model, pictures)
        said = [WORDS.decode(h.tokens) for h in found]
        errors[name] = 100 * metrics.token_error_rate(said, [[caption] for caption in captions])
        if logs.progress.stopped:
            break
    print(f"word error rate on {len(pictures)} strips by other writers: {errors[name]:.1f}%", end="  ")
    print("(baseline: {one fixed vector:.1f}%, one fixed vector)".format(**errors) if name == "attention" else
          "by one fixed vector; attention was not trained")
    shown = sorted(range(len(captions))[:20], key=lambda i: -len(captions[i]))[:4]
    print(*(f"  {' '.join(said[i])}   (right: {' '.join(captions[i])})" for i in shown), sep="\n")
    maps, rows = [], []
    for i in shown:
        maps, rows = [*maps, pictures[i]], [*rows, " " * 8]
        if said[i]:
            maps.append(np.pad(found[i].alignment, ((0, 0), (4, 3))))       # a window's column is that of its middle
            rows.append(said[i])
    plot.attention(maps, rows, [" " * COLUMNS] * len(maps), "caption.png")
    print("strips, and where the decoder looked for each word: caption.png")


if __name__ == "__main__":
    main()
