"""Why did recurrence come back: what is gained when the gates no longer see the last state, and what is lost?

A GRU's gates see h_{t-1}, so each step waits for the one before. Attention waits for nothing, and keeps all that it has
read, 2 T E numbers a layer. Where the step is linear in the state, h_t = a_t h_{t-1} + b_t, with a_t and b_t of x_t
alone, two steps together are one of the same kind, (a, b) and then (c, d) are (c a, c b + d): all T of them take about
2 log2 T rounds, if all of a round is done at once (Blelloch 1990), and what is kept of the past is one state.

    MinGRU   a_t = 1 - z_t,  b_t = z_t (W x_t + w),  z_t = sigmoid(V x_t + v)          (Feng et al. 2024, section 3.1)
    LRU      a_t = lambda, complex and the same at all t,  b_t = gamma B x_t          (Orvieto et al. 2023, section 3)

Four models of one size, x + mix(norm(x)), then x + MLP(norm(x)), twice, differ in what mixes the steps. They learn the
sentences of stop 5, whose last word depends on the first, and the text of stop 4. Two minutes:

    python examples/parallel.py
"""

import argparse
import _commands  # noqa: F401 - which hears Ctrl-C from here on

import numpy as np
from _pictures import curves
from charlm import WINDOW, bits_per_character
from language_model import counted, read
from memory import CHARACTERS, COUNTRIES, DISTANCES, sentence, share_right
from recurrence import milliseconds

import tinyseq as ts
from tinyseq import logs, nn, optim
from tinyseq.functional import associative_scan, cross_entropy

BATCH, FAR, LENGTHS = 32, (*DISTANCES, 128), (64, 128, 256, 512, 1024, 2048)


class Recurrent(nn.Module):
    """A Transformer's layers, with a recurrent one in the place of attention: ids (batch, T) -> (batch, T, kinds)."""

    def __init__(self, kinds: int, width: int, layer: object) -> None:
        self.embedding, norm = nn.Embedding(kinds, width), lambda: nn.LayerNorm(width)
        self.mixes = [nn.Sequential(norm(), layer(width)) for _ in range(2)]
        self.mlps = [nn.Sequential(norm(), nn.Linear(width, 128), nn.GELU(), nn.Linear(128, width)) for _ in range(2)]
        self.out = nn.Sequential(norm(), nn.Linear(width, kinds))

    def read(self, ids: np.ndarray) -> tuple[ts.Tensor, list]:
        x, states = self.embedding(ids), []
        for mix, mlp in zip(self.mixes, self.mlps):
            y, state = mix(x)
            x, states = x + y, [*states, state]
            x = x + mlp(x)
        return self.out(x), states                              # all that is kept of ids, to write on

    def forward(self, ids: np.ndarray) -> ts.Tensor:
        return self.read(ids)[0]

    def start(self, ids: np.ndarray) -> list:
        return self.read(ids)[1]


def slow(width: int) -> nn.MinGRU:
    """Its gates begin with memories 1 to 64 steps long (Tallec & Ollivier 2018), as an LRU's lambda on its ring."""
    layer = nn.MinGRU(width, width)
    layer.bias_ih_l0.data = np.concatenate([-np.log(np.geomspace(1, 64, width)), np.zeros(width)]).astype("f")
    return layer


TWO = dict(num_layers=2, dim_feedforward=128, dropout=0.0, positions="rotary", tied=False)
MODELS = {                                                      # widths at which all have about as many parameters
    "GRU": lambda n: nn.init.recurrent_(Recurrent(n, 56, lambda width: nn.GRU(width, width))),
    "Transformer": lambda n: nn.LanguageModel(n, 64, 4, **TWO),
    "MinGRU": lambda n: Recurrent(n, 77, slow),
    "LRU": lambda n: Recurrent(n, 60, lambda width: nn.LRU(width, width, r_min=0.9, r_max=0.999)),
}
TIMED = {"Transformer": (nn.MultiheadAttention(64, 4), 64, {"causal": True})}   # of the others a layer of the model


def sentences(rng: np.random.Generator, batch: int, distance: int) -> np.ndarray:
    """Stop 5's, with the character that answers: 我是一名中国人，...，我会说中, as ids (batch, distance + 13)."""
    x, which = sentence(rng, batch, distance)
    return np.concatenate([x.argmax(-1), np.array([CHARACTERS.index(name[0]) for name in COUNTRIES])[which]], 1)


def train(model: nn.Module, draw: object, asked: int, steps: int, seed: int, bar: object, judge: object) -> tuple:
    """Learn to tell the last characters `asked` of what is drawn; updates, and what the judge said then, five times."""
    rng, optimizer, seen = np.random.default_rng(seed), optim.Adam(model.parameters()), []
    for step in range(1, steps + 1):
        ids = draw(rng)
        loss = cross_entropy(model(ids[:, :-1])[:, -asked:], ids[:, -asked:])
        optimizer.zero_grad()
        loss.backward()
        optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.lr = 5e-3 * min(1, 20 * step / steps) * (1 + np.cos(np.pi * step / steps)) / 2
        optimizer.step()
        bar.update()
        seen += [(step, judge(model))] if step % max(1, steps // 5) == 0 or bar.stopped else []
        if bar.stopped:
            break
    return tuple(zip(*seen))


def kilobytes(state: object) -> float:
    several = isinstance(state, (tuple, list))
    return sum(map(kilobytes, state)) if several else state.data.nbytes / 1000 if isinstance(state, ts.Tensor) else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, help="updates of each of the eight models (200 and 300)")
    parser.add_argument("--longest", type=int, default=2048, help="the longest sequence that is timed (2048)")
    parser.add_argument("--seed", type=int, default=0, help="where the random numbers begin (0)")
    options = parser.parse_args()
    if options.longest < 64 or (options.steps is not None and options.steps < 1):
        parser.error("--steps must be at least 1, and --longest at least 64")
    characters, text, held_out = read()
    judge = lambda model: 2 ** bits_per_character(model, np.concatenate(held_out))
    rounds = lambda n: ts.max(associative_scan(lambda x, y: ts.maximum(x, y) + 1, ts.zeros(n), 0)).item()  # on a path
    draws = (lambda rng: sentences(rng, BATCH, int(rng.choice(DISTANCES))),
             lambda rng: text[rng.integers(len(text) - WINDOW, size=(BATCH, 1)) + np.arange(WINDOW + 1)])
    budgets, lengths = [options.steps or n for n in (200, 300)], [n for n in LENGTHS if n <= options.longest]
    tests = [sentences(np.random.default_rng(1), 200, n) for n in FAR]
    bar, (right, perplexity, waits, ms, kept) = logs.progress(total=len(MODELS) * sum(budgets)), ({} for _ in range(5))
    for name, make in MODELS.items():
        ts.manual_seed(options.seed)
        model = make(len(CHARACTERS))
        train(model, draws[0], 1, budgets[0], options.seed, bar, id)
        right[name] = FAR, np.array([share_right(model(x[:, :-1]).detach().numpy()[:, -1:], x[:, -1:]) for x in tests])
        model = make(len(characters))
        perplexity[name] = train(model, draws[1], WINDOW, budgets[1], options.seed, bar, judge)
        waits[name] = lengths, [{"GRU": n, "Transformer": 1}.get(name, rounds(n)) for n in lengths]
        layer, width, how = TIMED.get(name) or (model.mixes[0][1], model.embedding.weight.shape[1], {})
        ms[name] = lengths, [milliseconds(layer, n, width, **how) for n in lengths]
        kept[name] = lengths, [kilobytes(model.start(np.zeros((1, n), int))) for n in lengths]
        found = [values[-1] for _, values in (perplexity[name], waits[name], ms[name], kept[name])]
        line = "{:11} {:,} parameters, perplexity {:.2f}; T = {}: {:.0f} waits, {:.1f} ms, {:.1f} kB; right {}%"
        bar.write(line.format(
            name, sum(p.size for p in model.parameters()), found[0], lengths[-1], *found[1:], right[name][1]))
        if bar.stopped:
            break
    bar.close()
    name = "MinGRU" if "MinGRU" in perplexity else name
    print(f"perplexity of held-out text: {perplexity[name][1][-1]:.2f} by the {name} (baseline: "
          f"{counted(text, held_out, len(characters))[1]:.2f}, pairs of characters): parallel.png, parallel-cost.png")
    curves({"country right, %": right, "perplexity of held-out text": perplexity},
           ["characters in between; 128 were never learnt from", "updates"], "parallel.png")
    curves({"steps that wait for one another, at best": waits, "milliseconds of a layer, forward and backward": ms,
            "kB kept to write one more token": kept}, "T", "parallel-cost.png", "log")


if __name__ == "__main__":
    main()
