"""Why is a window of words not enough?

"the keys beside the old door of the houses ... are": a verb agrees with its subject, however many nouns stand between
(Linzen et al. 2016, section 2). Three models read the words before the verb and say "is" or "are". Two have an input
of fixed size, the last five words, one vector e_t each. The third takes one word after the other and keeps a state:

    MLP           y = V relu(W [e_{t-4}; ...; e_t] + b) + c                       (Bengio et al. 2003, equation 1)
    convolution   z_j = relu(W [e_{j-1}; e_j; e_{j+1}] + b) at each j, y_j likewise from z: two layers of width 3
                  see five words                                                  (Waibel et al. 1989)
    RNN           h_t = tanh(W_ih e_t + b_ih + W_hh h_{t-1} + b_hh), y = V h_t + c              (Elman 1990)

While the subject stands in the window all three hardly err; beyond it the windows guess, and the RNN goes on. More
words in the window move that border and do not remove it, and each word more costs weights of its own.

    python examples/window.py
"""

import argparse
from collections.abc import Callable, Sequence
from random import Random
import _commands  # noqa: F401 - which hears Ctrl-C from here on

import _real
import numpy as np

import tinyseq as ts
from tinyseq import data, logs, nn, optim, plot

WINDOW = 5
NOUNS = "key door house tree dog letter book picture car river teacher garden".split()
LINKS = "of near behind beside under with".split()
ADJECTIVES = "old big green small quiet famous".split()
WORDS = data.Vocabulary(["the", *LINKS, *ADJECTIVES, *NOUNS, *(noun + "s" for noun in NOUNS)])


class MLP(nn.Module):
    """One hidden layer over the last WINDOW words, all side by side."""

    def __init__(self, words: int, embedding: int = 16, hidden: int = 64) -> None:
        self.embedding = nn.Embedding(words, embedding)
        self.layers = nn.Sequential(nn.Linear(WINDOW * embedding, hidden), nn.ReLU(), nn.Linear(hidden, 2))

    def forward(self, ids: np.ndarray, lengths: np.ndarray) -> ts.Tensor:
        words = self.embedding(last_words(ids, lengths))                    # (batch, WINDOW, embedding)
        return self.layers(words.reshape((len(ids), -1)))                   # (batch, 2)


class Convolution(nn.Module):
    """Two layers that slide over the words, three at a time: five words meet in the one output that is left."""

    def __init__(self, words: int, embedding: int = 16, hidden: int = 64) -> None:
        self.embedding = nn.Embedding(words, embedding)
        self.first, self.second = nn.Linear(3 * embedding, hidden), nn.Linear(3 * hidden, hidden)
        self.output = nn.Linear(hidden, 2)

    def forward(self, ids: np.ndarray, lengths: np.ndarray) -> ts.Tensor:
        x = self.embedding(last_words(ids, lengths))                        # (batch, 5, embedding)
        for layer in self.first, self.second:                               # (batch, 3, hidden), (batch, 1, hidden)
            x = ts.functional.relu(layer(ts.concat([x[:, :-2], x[:, 1:-1], x[:, 2:]], axis=2)))
        return self.output(x[:, 0])


class RNN(nn.Module):
    """A state that every word changes, so that the last state may know of all words."""

    def __init__(self, words: int, embedding: int = 16, hidden: int = 64) -> None:
        self.embedding, self.rnn = nn.Embedding(words, embedding), nn.RNN(embedding, hidden)
        self.output = nn.Linear(hidden, 2)

    def forward(self, ids: np.ndarray, lengths: np.ndarray) -> ts.Tensor:
        _, h = self.rnn(self.embedding(ids), lengths=lengths)               # h (1, batch, hidden), at the last word
        return self.output(h[0])


def last_words(ids: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The last WINDOW of each row's words (batch, WINDOW), with padding in front of sentences that have fewer."""
    places = lengths[:, None] - WINDOW + np.arange(WINDOW)
    return np.where(places < 0, WORDS.pad, np.take_along_axis(ids, places % ids.shape[1], axis=1))


def sentence(rng: Random, phrases: int) -> tuple[list[str], int]:
    """A subject with that many phrases after it, and 1 if its verb is "are", 0 if "is"."""
    words, plurals = [], rng.choices([0, 1], k=phrases + 1)
    for i, plural in enumerate(plurals):
        words += [rng.choice(LINKS), "the"] if i else ["the"]
        words += rng.choices(ADJECTIVES, k=rng.randrange(2))
        words += [rng.choice(NOUNS) + "s" * plural]
    return words, plurals[0]


def batch(rng: Random, size: int, phrases: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids (size, words), lengths (size,) and the right verbs (size,)."""
    sentences, verbs = zip(*(sentence(rng, n) for n in rng.choices(phrases, k=size)))
    return *data.pad([WORDS.encode(words) for words in sentences]), np.array(verbs)


def train(models: dict[str, nn.Module], draw: Callable, steps: int) -> None:
    """All models learn from the same sentences."""
    optimizers = {name: optim.Adam(model.parameters(), lr=2e-3) for name, model in models.items()}
    losses = dict.fromkeys(models, 0.7)
    for _ in (bar := logs.progress(range(steps))):
        ids, lengths, verbs = draw()
        for name, model in models.items():
            loss = ts.functional.cross_entropy(model(ids, lengths), verbs)
            optimizers[name].zero_grad()
            loss.backward()
            optim.clip_grad_norm_(model.parameters(), 1.0)
            optimizers[name].step()
            losses[name] += 0.02 * (loss.item() - losses[name])
        bar.set_postfix_str("loss " + "  ".join(f"{name} {loss:.2f}" for name, loss in losses.items()), refresh=False)


@ts.no_grad()
def accuracy(model: nn.Module, ids: np.ndarray, lengths: np.ndarray, verbs: np.ndarray) -> float:
    return 100 * float(np.mean(model(ids, lengths).numpy().argmax(1) == verbs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="PATH", help="real texts, such as examples/data/is_or_are.tsv.xz")
    parser.add_argument("--steps", type=int, default=1000, help="how many updates (1000)")
    parser.add_argument("--phrases", type=int, default=6, help="the most phrases after a subject, in training (6)")
    parser.add_argument("--seed", type=int, default=0, help="where the random numbers begin (0)")
    options = parser.parse_args()
    if min(options.steps, options.phrases) < 1:
        parser.error("--steps and --phrases must be at least 1")
    ts.manual_seed(options.seed)
    rng, unseen = Random(options.seed), Random(options.seed + 1)
    if options.data:
        what, (draw, tests, words) = "words before the verb, at least", _real.is_or_are(options.data, rng)
    else:
        what, words = "phrases between subject and verb", len(WORDS)
        draw = lambda: batch(rng, 64, range(options.phrases + 1))
        tests = {n: batch(unseen, 1000, [n]) for n in range(options.phrases + 4)}   # longer than learnt from, too
    models = {f"MLP, {WINDOW} words": MLP(words), f"convolution, {WINDOW} words": Convolution(words), "RNN": RNN(words)}
    train(models, draw, options.steps)
    rates = {name: [accuracy(model, *test) for test in tests.values()] for name, model in models.items()}
    print(f"right verbs in percent, by the number of {what}\n\n{'':20}", *(f"{n:6}" for n in tests), "  weights")
    for name, model in models.items():
        print(f"{name:>20}", *(f"{rate:6.1f}" for rate in rates[name]), f"{sum(p.size for p in model.parameters()):9,}")
    sizes, plural = zip(*((len(verbs), verbs.mean()) for *_, verbs in tests.values()))
    *windows, rnn, often = (np.average(row, weights=sizes) for row in (*rates.values(), plural))
    print(f"\nright verbs, all lengths: {rnn:.1f}% by the RNN (baseline: {max(windows):.1f}% by the better window; "
          f"{100 * max(often, 1 - often):.1f}% by the more frequent verb)\naccuracy against distance: window.png")
    plot.curves({"right verbs, %": {name: (list(tests), row) for name, row in rates.items()}}, what, "window.png")


if __name__ == "__main__":
    main()
