"""Why could recurrence go: what does it cost to carry all of the past in one vector, and to go step by step?

An RNN has read T symbols and is asked what came 1, 2, 3 ... steps ago. All that it knows is its state, so the size of h
is the price of a long memory; attention keeps every position and looks back at any of them (Vaswani et al. 2017,
equation 1 and table 1). It pays for that with a memory that grows with T, and T^2 scores.

    h_t = GRU(E x_t, h_{t-1}),  p(x_{T-i} | h_T) = softmax(W_i h_T + b_i)              H numbers, whatever T is
    a_ij = softmax_j(q_i . W_K (E x_j + p_j)),  p(x_{T-i}) = softmax(W sum_j a_ij E x_j + b)        2TE numbers

All learn from as many updates, so an error is what that size of h allows and has learnt till then.
And each h_t waits for the one before, T steps in a row; attention's positions wait for nothing. A CPU, which does
little at once, shows some of that, a GPU more. The picture shows the error against the distance, the dependent steps,
and the time of a forward and backward pass against T (one sequence, width 64). A minute and a half:

    python examples/recurrence.py
"""

import argparse
import math
import time
import _commands  # noqa: F401 - which hears Ctrl-C from here on

import numpy as np

import tinyseq as ts
from tinyseq import logs, nn, optim, plot
from tinyseq.functional import cross_entropy, softmax

SYMBOLS, STEPS = 8, 20          # of 3 bits each: what there is to remember is 60 bits
WIDTH = 64                      # of the layers that are timed


class Recurrent(nn.Module):
    """Everything is asked of the last state."""

    def __init__(self, width: int) -> None:
        self.embedding = nn.Embedding(SYMBOLS, width)
        self.rnn = nn.GRU(width, width)
        self.out = nn.Linear(width, STEPS * SYMBOLS)

    def forward(self, x: np.ndarray) -> ts.Tensor:
        """Symbols (B, T) -> logits (B, T, V) of those 1, 2, ... T steps ago."""
        _, h = self.rnn(self.embedding(x))
        return ts.reshape(self.out(h[0]), (len(x), STEPS, SYMBOLS))


class Attentive(nn.Module):
    """A query for each distance, and the keys and values of all positions."""

    def __init__(self, width: int) -> None:
        self.embedding = nn.Embedding(SYMBOLS, width)
        self.positions = nn.LearnedPositions(STEPS, width)
        self.query = nn.Embedding(STEPS, width)
        self.key = nn.Linear(width, width, bias=False)
        self.out = nn.Linear(width, SYMBOLS)

    def forward(self, x: np.ndarray) -> ts.Tensor:
        """Symbols (B, T) -> logits (B, T, V) of those 1, 2, ... T steps ago."""
        value = self.embedding(x)
        scores = self.query(np.arange(STEPS)) @ self.key(self.positions(value)).mT       # (B, T, T)
        return self.out(softmax(scores / math.sqrt(value.shape[2])) @ value)


def train(model: nn.Module, name: str, steps: int, seed: int) -> np.ndarray:
    """The error in percent on new sequences, of what came 1, 2, ... T steps ago."""
    optimizer, rng = optim.Adam(model.parameters()), np.random.default_rng(seed)
    bar = logs.progress(range(steps), desc=f"{name:13} ")
    for step in bar:
        x = rng.integers(SYMBOLS, size=(64, STEPS))
        loss = cross_entropy(model(x), x[:, ::-1])
        optimizer.zero_grad()
        loss.backward()
        optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.lr = 5e-3 * (1 - step / steps)
        optimizer.step()
        if step % 20 == 0:
            bar.set_postfix_str(f"loss {loss.item():.3f}", refresh=False)
    x = rng.integers(SYMBOLS, size=(500, STEPS))
    with ts.no_grad():
        return 100 * (model(x).numpy().argmax(2) != x[:, ::-1]).mean(0)


def milliseconds(layer: nn.Module, steps: int, width: int = WIDTH, **options: bool) -> float:
    """Of a forward and backward pass over one sequence: the best of five."""
    best, x = math.inf, ts.random.normal((1, steps, width))
    for _ in range(5):
        began = time.perf_counter()
        ts.sum(layer(x, **options)[0]).backward()
        ts.sum(layer.parameters()[0].grad).item()             # a GPU is waited for
        best = min(best, time.perf_counter() - began)
    return 1000 * best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2400, help="how many updates of each model (2400)")
    parser.add_argument("--longest", type=int, default=1024, help="the longest sequence that is timed (1024)")
    parser.add_argument("--seed", type=int, default=0, help="where the random numbers begin (0)")
    options = parser.parse_args()
    if options.steps < 1 or options.longest < 64:
        parser.error("--steps must be at least 1, and --longest at least 64")
    models = {f"GRU, h of {width}": (Recurrent, width) for width in (8, 32, 128)} | {"attention": (Attentive, 32)}
    errors = {}
    for name, (kind, width) in models.items():
        ts.manual_seed(options.seed)
        errors[name] = train(kind(width), name, options.steps, options.seed)
        print(f"  {name:12}  mean error {errors[name].mean():5.1f}%, of the first symbol {errors[name][-1]:5.1f}%")
        if logs.progress.stopped:
            break
    if untrained := [*models][len(errors):]:
        print(f"  not trained: {'; '.join(untrained)}")
    else:
        print(f"error on what came 1 to {STEPS} steps ago: {errors['attention'].mean():.1f}% with attention  "
          f"(baseline: {errors['GRU, h of 32'].mean():.1f}%, a GRU as wide; a guess {100 - 100 / SYMBOLS:.1f}%)")
    lengths = [n for n in (64, 128, 256, 512, 1024, 2048) if n <= options.longest]
    layers = {"GRU": (nn.GRU(WIDTH, WIDTH), {}), "attention": (nn.MultiheadAttention(WIDTH, 1), {"causal": True})}
    times = {name: (lengths, [milliseconds(layer, n, **how) for n in lengths]) for name, (layer, how) in layers.items()}
    for n, *row in zip(lengths, *(ms for _, ms in times.values())):
        print("  T = {:4}: GRU {:4} dependent steps, {:6.1f} ms; attention 1, {:6.1f} ms".format(n, n, *row))
    far = np.arange(1, STEPS + 1)
    plot.curves({
        "error, %": {name: (far, error) for name, error in errors.items()},
        "steps that wait for one another": {"GRU": (lengths, lengths), "attention": (lengths, [1] * len(lengths))},
        "milliseconds, forward and backward": times,
    }, ["how many steps ago it came", "T", "T"], "recurrence.png")
    print("error against distance, steps and time against T: recurrence.png")


if __name__ == "__main__":
    main()
