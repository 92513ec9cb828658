"""What may a linear recurrence pass over? Of x_t alone, how far its state moves is Mamba's choice (Gu & Dao 2023).

    h_t = exp(D_t A) h_{t-1} + (exp(D_t A) - 1) / A  B_t x_t,   y_t = C_t h_t + s x_t        (equations 2 and 4, S6)

with A < 0 diagonal, N states a feature, and the step size D_t = softplus(W x_t + w), B_t and C_t of x_t: at D_t = 0 the
state stands still. An LRU multiplies by the same lambda at all t: the clock moves its state, whatever it reads.
Selective copying (section 4.1): four symbols stand anywhere in 24 steps of nothing; which were they, in their order?
Right are symbols, by rank; the second panel shows how far trained states move in one such sequence. Under a minute:

    python examples/selective.py
"""

import argparse
import math
import _commands  # noqa: F401 - which hears Ctrl-C from here on

import numpy as np

import tinyseq as ts
from tinyseq import logs, nn, optim, plot
from tinyseq.functional import associative_scan, cross_entropy, softplus

SYMBOLS, ASKED, STEPS, WIDTH = 8, 4, 24, 32


class Selective(nn.Module):
    """x (B, T, D) -> y (B, T, D), and the last state (B, D, N)."""

    def __init__(self, width: int, states: int = 8) -> None:
        self.size, self.b_c = nn.Linear(width, width), nn.Linear(width, 2 * states, bias=False)
        self.size.bias.data = np.log(np.expm1(np.geomspace(0.001, 0.1, width))).astype("f")         # section 3.6
        self.log_a = nn.Parameter(np.log(np.tile(np.arange(1.0, states + 1), (width, 1))).astype("f"))
        self.skip = nn.Parameter(np.ones(width, "f"))

    def multipliers(self, x: ts.Tensor) -> ts.Tensor:
        return ts.exp(-softplus(self.size(x))[..., None] * ts.exp(self.log_a))                      # (B, T, D, N)

    def forward(self, x: ts.Tensor) -> tuple[ts.Tensor, ts.Tensor]:
        a, (b, c) = self.multipliers(x), ts.split(self.b_c(x)[:, :, None], 2, -1)
        new = (1 - a) / ts.exp(self.log_a) * b * x[..., None]
        _, h = associative_scan(lambda x, y: (x[0] * y[0], y[0] * x[1] + y[1]), (a, new), axis=1)
        return ts.sum(h * c, -1) + self.skip * x, h[:, -1]


class Model(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        self.embedding, self.layer = nn.Embedding(SYMBOLS + 1, WIDTH), layer
        self.out = nn.Sequential(nn.Linear(WIDTH, 128), nn.GELU(), nn.Linear(128, ASKED * SYMBOLS))

    def forward(self, ids: np.ndarray) -> ts.Tensor:
        return ts.reshape(self.out(self.layer(self.embedding(ids))[0][:, -1]), (len(ids), ASKED, SYMBOLS))


def copying(rng: np.random.Generator, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Symbols 0 to 7 among nothing (8), (batch, STEPS), and the symbols alone (batch, ASKED)."""
    ids, symbols = np.full((batch, STEPS), SYMBOLS), rng.integers(SYMBOLS, size=(batch, ASKED))
    np.put_along_axis(ids, np.sort(rng.permuted(np.tile(np.arange(STEPS), (batch, 1)), axis=1)[:, :ASKED]), symbols, 1)
    return ids, symbols


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=800, help="updates of each model (800)")
    options = parser.parse_args()
    if options.steps < 1:
        parser.error(f"--steps must be at least 1, not {options.steps}")
    ts.manual_seed(0)
    (asked, symbols), right, moved = copying(np.random.default_rng(1), 500), {}, {}
    lru = nn.LRU(WIDTH, WIDTH, r_min=0.9, r_max=0.999, max_phase=0.3)               # long memories that turn slowly
    for name, layer in {"LRU": lru, "selective": Selective(WIDTH)}.items():
        model, rng = Model(layer), np.random.default_rng(0)
        optimizer = optim.Adam(model.parameters())
        for step in logs.progress(range(options.steps), desc=f"{name:10} "):
            ids, targets = copying(rng, 64)
            loss = cross_entropy(model(ids), targets)
            optimizer.zero_grad()
            loss.backward()
            optimizer.lr = 5e-3 * (1 + math.cos(math.pi * step / options.steps)) / 2
            optimizer.step()
        with ts.no_grad():
            right[name] = range(1, ASKED + 1), 100 * (model(asked).numpy().argmax(-1) == symbols).mean(0)
            a = layer.multipliers(model.embedding(asked[:1])).numpy().reshape(STEPS, -1)
            moved[name] = range(STEPS), 1 - a.mean(1)
        if logs.progress.stopped:
            break
    mean = {name: share.mean() for name, (_, share) in right.items()}
    print(f"symbols right: {mean[name]:.1f}% by the {name} layer (baseline: {mean['LRU']:.1f}%, a tuned LRU)")
    figure = plot.curves({"right, %": right, "how far the state moves, 1 - |a|": moved},
                         ["rank of the symbol", f"step; symbols at {np.flatnonzero(asked[0] < SYMBOLS)}"])
    figure.axes[1].set_ylim(top=0.35)                           # so that the names stand above the curves
    figure.savefig("selective.png", dpi=150)
    print("right by rank, and how far the state moves: selective.png")


if __name__ == "__main__":
    main()
