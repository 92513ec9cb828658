"""Why did recurrence come back: what is gained when the gates no longer see the last state, and what is lost?

A GRU's gates see h_{t-1}, so each step waits for the one before. Attention waits for nothing, and keeps all that it has
read: to write one more token it holds 2 T E numbers a layer. If the step is linear in the state,

    h_t = a_t h_{t-1} + b_t,   a_t and b_t of x_t alone

two steps together are a step of the same kind, (a, b) and then (c, d) are (c a, c b + d), so that all T of them take
2 log2 T rounds (Blelloch 1990), and yet a state of one size is all that is kept of the past:

    MinGRU   a_t = 1 - z_t,  b_t = z_t W x_t,  z_t = sigmoid(V x_t + v)               (Feng et al. 2024, section 3.1)
    LRU      a_t = lambda, complex and the same at all t,  b_t = gamma B x_t         (Orvieto et al. 2023, section 3)

Four models of one size and one kind, x + mix(norm(x)), then x + MLP(norm(x)), twice: only what mixes the steps differs.
They learn the sentences of stop 5, whose last word depends on the first, and the text of stop 4. Two minutes:

    python examples/parallel.py
"""

import argparse
import math
import time

import numpy as np
from charlm import WINDOW, bits_per_character
from language_model import counted, read
from memory import CHARACTERS, COUNTRIES, sentence
from tqdm import tqdm

import tinyseq as ts
from tinyseq import nn, optim, plot
from tinyseq.functional import associative_scan, cross_entropy

BATCH, DISTANCES, FAR = 32, (4, 8, 16, 32, 64), (4, 8, 16, 32, 64, 128, 256)
LENGTHS = (64, 128, 256, 512, 1024, 2048)


class Block(nn.Module):
    def __init__(self, mix: nn.Module, width: int) -> None:
        self.mix, self.mlp = mix, nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.norms = [nn.LayerNorm(width), nn.LayerNorm(width)]

    def forward(self, x: ts.Tensor, state: object = None) -> tuple[ts.Tensor, object]:
        y, state = self.mix(self.norms[0](x), state)
        x = x + y
        return x + self.mlp(self.norms[1](x)), state


class Recurrent(nn.Module):
    """A Transformer's blocks, with a recurrent layer in the place of attention."""

    def __init__(self, layer: type, kinds: int, width: int) -> None:
        self.embedding = nn.Embedding(kinds, width)
        self.blocks = [Block(layer(width, width), width) for _ in range(2)]
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, kinds))

    def read(self, ids: np.ndarray, states: tuple = (None, None)) -> tuple[ts.Tensor, list]:
        x, new = self.embedding(ids), []
        for block, state in zip(self.blocks, states):
            x, state = block(x, state)
            new.append(state)
        return self.out(x), new

    def forward(self, ids: np.ndarray) -> ts.Tensor:
        """Scores of the next character (batch, T, kinds)."""
        return self.read(ids)[0]

    def start(self, ids: np.ndarray) -> list:
        """All that is kept of ids to write on."""
        return self.read(ids)[1]


def transformer(kinds: int, width: int) -> nn.LanguageModel:
    return nn.LanguageModel(kinds, width, 4, 2, 2 * width, dropout=0.0, positions="rotary", activation="gelu", tied=False)


MODELS = {                                                      # widths at which all are of one size
    "GRU": (lambda n: Recurrent(nn.GRU, n, 57), 5e-3),          # and the best learning rate
    "Transformer": (lambda n: transformer(n, 64), 5e-3),
    "MinGRU": (lambda n: Recurrent(nn.MinGRU, n, 73), 5e-3),
    "LRU": (lambda n: Recurrent(nn.LRU, n, 60), 5e-3),
}


def sentences(rng: np.random.Generator, batch: int, distance: int) -> tuple[np.ndarray, np.ndarray]:
    """Stop 5's as ids (batch, distance + 12), and what comes next (batch, 1): 我是一名中国人，...，我会说 中."""
    x, which = sentence(rng, batch, distance)
    return x.argmax(-1), np.array([CHARACTERS.index(name[0]) for name in COUNTRIES])[which]


def windows(text: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Stop 4's text from anywhere as ids (batch, WINDOW), and what comes next at each of them."""
    ids = text[rng.integers(len(text) - WINDOW, size=(BATCH, 1)) + np.arange(WINDOW + 1)]
    return ids[:, :-1], ids[:, 1:]


def train(model: nn.Module, rate: float, steps: int, seed: int, draw: object, bar: tqdm, judge: object = None) -> tuple:
    """Learn what comes at the end of what is drawn; (updates, what the judge says then), five times."""
    rng, optimizer, seen = np.random.default_rng(seed), optim.Adam(model.parameters()), []
    for step in range(1, steps + 1):
        ids, right = draw(rng)
        loss = cross_entropy(model(ids)[:, -right.shape[1] :], right)
        optimizer.zero_grad()
        loss.backward()
        optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.lr = rate * min(1, 20 * step / steps) * (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.step()
        bar.update()
        if judge and 4 * step // steps > 4 * (step - 1) // steps:
            seen.append((step, judge(model)))
    return tuple(np.array(seen).T)


@ts.no_grad()
def share_right(model: nn.Module, distance: int) -> float:
    ids, right = sentences(np.random.default_rng(1), 300, distance)
    return 100 * (model(ids).numpy()[:, -1:].argmax(-1) == right).mean()


def milliseconds(model: nn.Module, ids: np.ndarray) -> float:
    """Of a forward and backward pass: the best of three."""
    best = math.inf
    for _ in range(3):
        began = time.perf_counter()
        cross_entropy(model(ids), ids).backward()
        best = min(best, time.perf_counter() - began)
    return 1000 * best


def rounds(steps: int) -> int:
    """How many calls of `combine` wait for one another in a scan of all steps."""
    calls = []
    associative_scan(lambda x, y: calls.append(1) or x + y, ts.ones(steps), 0)
    return len(calls)


def kept(state: object) -> int:
    """Bytes of a state."""
    return 4 * state.size if isinstance(state, ts.Tensor) else sum(map(kept, state)) if isinstance(state, (tuple, list)) else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, help="updates of each of the eight models (300 and 500)")
    parser.add_argument("--seed", type=int, default=0, help="where the random numbers begin (0)")
    options = parser.parse_args()
    if options.steps is not None and options.steps < 1:
        parser.error(f"--steps must be at least 1, not {options.steps}")
    characters, text, held_out = read()
    by_pairs = counted(text, held_out, len(characters))[1]
    budgets = options.steps or 200, options.steps or 350
    bar = tqdm(total=len(MODELS) * sum(budgets))
    right, perplexity, ms, steps, size = ({} for _ in range(5))
    for name, (make, rate) in MODELS.items():
        ts.manual_seed(options.seed)
        began = time.thread_time()
        model = make(len(CHARACTERS))
        train(model, rate, budgets[0], options.seed, lambda rng: sentences(rng, BATCH, int(rng.choice(DISTANCES))), bar)
        right[name] = (FAR, [share_right(model, distance) for distance in FAR])
        a = time.thread_time() - began
        model = make(len(characters))
        perplexity[name] = train(model, rate, budgets[1], options.seed, lambda rng: windows(text, rng), bar,
                                 lambda model: 2 ** bits_per_character(model, np.concatenate(held_out)))
        b = time.thread_time() - began
        passes = [np.zeros((1, n), int) for n in LENGTHS]
        ms[name] = (LENGTHS, [milliseconds(model, ids) for ids in passes])
        size[name] = (LENGTHS, [kept(model.start(ids)) / 1000 for ids in passes])
        steps[name] = (LENGTHS, [n if name == "GRU" else 1 if name == "Transformer" else rounds(n) for n in LENGTHS])
        bar.write(f"{name:12} {sum(p.size for p in model.parameters()):,} parameters; right, % " +
                  " ".join(f"{x:5.1f}" for x in right[name][1]) + f"; perplexity {perplexity[name][1][-1]:.2f} ms" +
                  " ".join(f"{x:7.1f}" for x in ms[name][1]) + "; kB" + " ".join(f"{x:7.1f}" for x in size[name][1]))
        bar.write(f"   {a:.1f} {b - a:.1f} {time.thread_time() - began - b:.1f}  {perplexity[name]}")
    bar.close()
    print(by_pairs, steps)


if __name__ == "__main__":
    main()
