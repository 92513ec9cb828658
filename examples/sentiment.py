"""How does a network whose input has one size read a sentence of any length, and what does "not" do to "bad"?

Many-to-one: a plain RNN (Elman 1990) reads one word after another and says at the end what the writer thinks. The
classic equations have three weight matrices and two biases, the same at every step, and words x_t that are one-hot:

    h_t = tanh(W_xh x_t + W_hh h_{t-1} + b_h),   h_0 = 0,   y = W_hy h_T + b_y,   p = softmax(y),   L = -log p[label]

Backpropagation through time (Rumelhart et al. 1986; Werbos 1990) is written out in `by_hand`, from the last word back:

    dL/dy = p - onehot(label)       dL/dW_hy = dL/dy h_T^T      dL/db_y = dL/dy       dL/dh_T = W_hy^T dL/dy
    dL/dz_t = dL/dh_t * (1 - h_t^2),  z_t the sum inside tanh,                        dL/dh_{t-1} = W_hh^T dL/dz_t
    dL/dW_xh = sum_t dL/dz_t x_t^T  dL/dW_hh = sum_t dL/dz_t h_{t-1}^T                dL/db_h = sum_t dL/dz_t

and shown to equal autograd's. The baseline counts words and forgets their order: naive Bayes (Maron 1961).

    python examples/sentiment.py
    python examples/sentiment.py --data examples/data/movie_snippets.tsv.xz --steps 1200     (real sentences)
"""

import argparse
from collections import Counter
from random import Random
import _commands  # noqa: F401 - which hears Ctrl-C from here on

import _real
import numpy as np

import tinyseq as ts
from tinyseq import data, logs, nn, optim, plot

GOOD = "good great funny brilliant moving clever charming fresh lovely".split()
BAD = "bad awful dull boring stupid terrible weak stale silly".split()
THINGS = "film plot story acting music ending dialogue cast".split()
FLIPS = ["not {} at all", "not {}", "never {}", "far from {}", "anything but {}"]
KEEPS = ["{}", "{}", "very {}", "really {}", "quite {}", "always {}"]
SHOWN = ["the film was bad", "the film was not bad at all", "the plot was dull but the acting was anything but boring",
         "although the music was lovely , i would not say that the film was good"]


class RNN(nn.Module):
    def __init__(self, words: int, classes: int, hidden: int = 48) -> None:
        self.W_xh, self.W_hh, self.W_hy = (nn.init.xavier_uniform_(nn.Parameter(ts.zeros(shape)))
                                           for shape in ((hidden, words), (hidden, hidden), (classes, hidden)))
        self.b_h, self.b_y = nn.Parameter(ts.zeros((hidden,))), nn.Parameter(ts.zeros((classes,)))

    def forward(self, x: ts.Tensor, real: ts.Tensor) -> tuple[ts.Tensor, list[ts.Tensor]]:
        """One-hot x (batch, T, words) -> y_0 ... y_T (batch, T + 1, classes) and h_0 ... h_T (batch, hidden);
        padding, where not `real` (batch, T, 1), leaves h as it is: y_T is that of the last word."""
        h = [ts.zeros((x.shape[0], len(self.b_h)))]
        for t in range(x.shape[1]):
            new = ts.tanh(x[:, t] @ self.W_xh.mT + h[t] @ self.W_hh.mT + self.b_h)
            h.append(ts.where(real[:, t], new, h[t]))
        return ts.stack(h, axis=1) @ self.W_hy.mT + self.b_y, h


@ts.no_grad()
def by_hand(model: RNN, x: ts.Tensor, real: ts.Tensor, labels: np.ndarray) -> dict[str, ts.Tensor]:
    """The gradient of the batch's mean loss in every weight, by the equations above."""
    y, h = model(x, real)
    dy = (ts.functional.softmax(y[:, -1]) - ts.one_hot(labels, y.shape[2])) / len(labels)
    d, dh = {"W_xh": 0, "W_hh": 0, "W_hy": dy.mT @ h[-1], "b_h": 0, "b_y": dy.sum(0)}, dy @ model.W_hy
    for t in reversed(range(x.shape[1])):
        dz = ts.where(real[:, t], dh * (1 - h[t + 1] ** 2), 0.0)
        d["W_xh"] += dz.mT @ x[:, t]
        d["W_hh"] += dz.mT @ h[t]
        d["b_h"] += dz.sum(0)
        dh = ts.where(real[:, t], dz @ model.W_hh, dh)
    return d


def review(rng: Random) -> tuple[str, str]:
    """A label and a text: the main clause counts, and negation turns it around."""
    good, denied, clauses = rng.random() < 0.5, rng.random() < 0.2, []
    for meant in good != denied, rng.random() < 0.5:
        flip = rng.random() < 0.3
        said = rng.choice(FLIPS if flip else KEEPS).format(rng.choice(GOOD if meant != flip else BAD))
        clauses.append(f"the {rng.choice(THINGS)} was {said}")
    form = rng.choice(["{0}", "{0}", "{1} but {0}", "although {1} , {0}", "{0} , although {1}"])
    return ("positive" if good else "negative"), form.format("i would not say that " * denied + clauses[0], clauses[1])


def encode(texts: list[str], known: data.Vocabulary) -> tuple[ts.Tensor, ts.Tensor]:
    """One-hot words (batch, T, words), and which of them are real, (batch, T, 1)."""
    ids, lengths = _real.encode(texts, known)
    return ts.one_hot(ids, len(known)), ts.asarray(nn.length_mask(lengths, ids.shape[1]))[..., None]


def train(model: RNN, rows: list, classes: list, known: data.Vocabulary, steps: int, rng: Random) -> tuple:
    optimizer = optim.Adam(model.parameters(), lr=2e-3)
    for _ in (bar := logs.progress(range(steps))):
        labels, texts = zip(*rng.choices(rows, k=32))
        (x, real), right = encode(texts, known), np.array([classes.index(label) for label in labels])
        loss = ts.functional.cross_entropy(model(x, real)[0][:, -1], right)
        optimizer.zero_grad()
        loss.backward()
        optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        bar.set_postfix_str(f"loss {loss.item():.3f}", refresh=False)
    return x, real, right


def naive_bayes(rows: list, classes: list, known: data.Vocabulary, texts: list[str]) -> list:
    """argmax_c log p(c) + sum_w log p(w | c), from counts, each one more than it is."""
    counts = {c: Counter(word for label, text in rows for word in text.split() if label == c) for c in classes}
    log_p = {c: {w: np.log((n[w] + 1) / (n.total() + len(known))) for w in known.symbols} for c, n in counts.items()}
    prior = {c: np.log(sum(label == c for label, _ in rows)) for c in classes}
    return [max(classes, key=lambda c: prior[c] + sum(log_p[c].get(w, 0) for w in t.split())) for t in texts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="PATH", help="real texts, a line each: label, tab, text (generated reviews)")
    parser.add_argument("--steps", type=int, default=2500, help="how many updates (2500)")
    parser.add_argument("--seed", type=int, default=0, help="where the random numbers begin (0)")
    options = parser.parse_args()
    ts.manual_seed(options.seed)
    rng = Random(options.seed)
    rows = _real.read_texts(options.data) if options.data else sorted({review(rng) for _ in range(6000)})
    rows, test = _real.parted(rows, rng)
    classes, test = sorted({label for label, _ in rows}), {text: label for label, text in test}
    if options.steps < 1 or len(classes) < 2:
        parser.error(f"--steps must be at least 1, and the texts must have two labels or more, not {classes}")
    known = _real.vocabulary(text for _, text in rows)
    model = RNN(len(known), len(classes))
    x, real, labels = train(model, rows, classes, known, options.steps, rng)
    found, loss = by_hand(model, x, real, labels), ts.functional.cross_entropy(model(x, real)[0][:, -1], labels)
    for (name, mine), g in zip(found.items(), ts.grad(loss, [getattr(model, name) for name in found])):
        worst, most = (ts.max(ts.abs(d)).item() for d in (mine - g, g))
        print(f"dL/d{name}: by hand and by autograd they differ by {worst:.0e}; the largest is {most:.0e}")
    shown = list(test)[:4] if options.data else SHOWN
    with ts.no_grad():
        p = [ts.functional.softmax(model(*encode([text], known))[0][0]).numpy() for text in [*test, *shown]]
    said = [classes[after[-1].argmax()] for after in p[: len(test)]], naive_bayes(rows, classes, known, list(test))
    rate, baseline = (100 * np.mean([a == b for a, b in zip(guesses, test.values())]) for guesses in said)
    plot.words([text.split() for text in shown], [after[1:, -1] for after in p[len(test):]],
               f"after each word: red {classes[0]}, blue {classes[-1]}", "sentiment.png")
    print(f"right on {len(test)} new texts: {rate:.1f}% by the RNN (baseline: {baseline:.1f}% by counts of words)\n"
          "the opinion as it grows: sentiment.png")


if __name__ == "__main__":
    main()
