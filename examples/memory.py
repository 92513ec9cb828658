"""How far back does a recurrent network remember, and why do gates remember longer?

Three tasks in which the answer stands at the end and what decides it `distance` steps before:

    adding    a number and a mark at each step, and the sum of the two marked numbers is asked for; right is what lies
              within 0.04 of it                                        (Hochreiter & Schmidhuber 1997, section 5.4)
    copying   four symbols of eight, a long nothing, and the four again            (Arjovsky et al. 2016, section 4.1)
    sentence  我是一名中国人，... 我会说中文: the last word depends on the first, the country of eight

The gradient of a plain RNN, h_t = tanh(W x_t + U h_{t-1} + b), is a product over all steps between,
d h_T / d h_t = prod_k diag(1 - h_k^2) U, and vanishes (Bengio et al. 1994; Pascanu et al. 2013, equation 5). In its
place an LSTM has, from c_t = f_t c_{t-1} + i_t g_t, prod_k f_k, and a GRU, h_t = (1 - z_t) n_t + z_t h_{t-1}, has z_k:
near 1 while the gates are open. All begin with orthogonal U, an LSTM with a forget bias of 3 (Jozefowicz et al. 2015),
and learn from the same batches. The second picture shows, in trained models, how much the answer to a sentence of a
hundred characters still hears of each step, |d loss / d h_t|, beside the product of later gates, and how open they are.

    python examples/memory.py
"""

import argparse
import _commands  # noqa: F401 - which hears Ctrl-C from here on

import numpy as np

import tinyseq as ts
from tinyseq import lens, logs, nn, optim, plot

WIDTH, BATCH, DISTANCES, FAR = 64, 64, (4, 8, 16, 32, 64), 100
CELLS = {"RNN": (nn.RNN, 2e-3), "GRU": (nn.GRU, 1e-2), "LSTM": (nn.LSTM, 1e-2)}     # with the best learning rate
COUNTRIES = "中国 法国 英国 德国 日本 韩国 泰国 俄国".split()
CLAUSES = "今天天气很好 我喜欢看书 他有一只猫 昨天我们去了海边 火车十点开 妈妈在做饭 山上下雪了 你看过电影吗".split()
CHARACTERS = sorted(set("".join([*COUNTRIES, *CLAUSES, "我是一名人，会说"])))


class Model(nn.Module):
    """x (batch, time, features) -> one output for each of the last `answers` steps."""

    def __init__(self, cell: type, features: int, outputs: int) -> None:
        self.rnn, self.out = nn.init.recurrent_(cell(features, WIDTH)), nn.Linear(WIDTH, outputs)
        if cell is nn.LSTM:                                     # its gates are i, f, g, o
            self.rnn.load_state_dict({"bias_ih_l0": np.repeat([0.0, 3.0, 0.0, 0.0], WIDTH)}, strict=False)

    def forward(self, x: ts.Tensor, answers: int) -> ts.Tensor:
        return self.out(self.rnn(x)[0][:, -answers:])


def adding(rng: np.random.Generator, batch: int, distance: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers from 0 to 1 and marks (batch, distance, 2), a mark in each half; the sum (batch, 1)."""
    numbers, half = rng.random((batch, distance)), distance // 2
    marks = np.zeros_like(numbers)
    marks[np.arange(batch), rng.integers(half, size=batch)] = 1
    marks[np.arange(batch), rng.integers(half, distance, size=batch)] = 1
    return np.stack([numbers, marks], -1).astype("f"), (numbers * marks).sum(1, keepdims=True).astype("f")


def copying(rng: np.random.Generator, batch: int, distance: int) -> tuple[np.ndarray, np.ndarray]:
    """Symbols 0 to 7, nothing (8), and when to write (9), as one-hot vectors (batch, 8 + distance, 10); (batch, 4)."""
    symbols = rng.integers(8, size=(batch, 4))
    nothing, write = np.full((batch, distance), 8), np.full((batch, 4), 9)
    return np.eye(10, dtype="f")[np.concatenate([symbols, nothing, write], 1)], symbols


def sentence(rng: np.random.Generator, batch: int, distance: int) -> tuple[np.ndarray, np.ndarray]:
    """我是一名中国人，(any clauses, `distance` characters)我会说 as one-hot vectors; which country (batch, 1)."""
    which, rows = rng.integers(len(COUNTRIES), size=(batch, 1)), []
    for (country,) in which:
        between = "，".join(rng.choice(CLAUSES, size=distance))[-distance:]
        text = f"我是一名{COUNTRIES[country]}人，{between}，我会说"
        rows.append([CHARACTERS.index(c) for c in text])
    return np.eye(len(CHARACTERS), dtype="f")[np.array(rows)], which


TASKS = {"adding": (adding, 2, 1, 2000), "copying": (copying, 10, 8, 1600),        # features, outputs, updates
         "sentence": (sentence, len(CHARACTERS), len(COUNTRIES), 600)}


def loss_of(outputs: ts.Tensor, right: np.ndarray) -> ts.Tensor:
    """The squared error of a number, the cross-entropy of a choice."""
    return (ts.functional.mse_loss(outputs[..., 0], right) if right.dtype.kind == "f" else
            ts.functional.cross_entropy(outputs, right))


def share_right(outputs: np.ndarray, right: np.ndarray) -> float:
    return 100 * np.mean(outputs.argmax(-1) == right if right.dtype.kind != "f" else abs(outputs[..., 0] - right) < .04)


def train(model: Model, task: object, steps: int, rate: float, seed: int, bar: logs.progress) -> None:
    rng, optimizer = np.random.default_rng(seed), optim.Adam(model.parameters())
    for step in range(steps):
        x, right = task(rng, BATCH, int(rng.choice(DISTANCES)))
        loss = loss_of(model(x, right.shape[1]), right)
        optimizer.zero_grad()
        loss.backward()
        optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.lr = rate * (1 - step / steps)
        optimizer.step()
        bar.update()
        if bar.stopped:
            break


def hear(cell: str, model: Model, x: np.ndarray, right: np.ndarray) -> dict[str, tuple[np.ndarray, dict]]:
    """|d loss / d h_t|, of an LSTM |d loss / d c_t|, of each row and step, and how open the gates are by step."""
    *_, norms = lens.gradients_through_time(model.rnn, x, lambda y: loss_of(model.out(y[:, -1:]), right))
    gates, before = lens.gate_saturation(model.rnn, x), x[:, :-1]                       # an RNN has no gates
    alone = {f"{cell}'s gates alone": (lens.retained(model.rnn, before) * norms[:, -2:-1], {})} if gates else {}
    return {cell: (norms[:, :-1], gates)} | alone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, help="updates of each of the nine models (600 to 2000)")
    parser.add_argument("--seed", type=int, default=0, help="where the random numbers begin (0)")
    options = parser.parse_args()
    if options.steps is not None and options.steps < 1:
        parser.error(f"--steps must be at least 1, not {options.steps}")
    ts.manual_seed(options.seed)
    bar, panels, heard = logs.progress(total=3 * sum(options.steps or n for *_, n in TASKS.values())), {}, {}
    for name, (task, features, outputs, updates) in TASKS.items():
        tests = [task(np.random.default_rng(1), 500, distance) for distance in DISTANCES]
        chance = [max(share_right(np.full((*r.shape, 1), 1.0), r) for _, r in tests)
                  if outputs == 1 else 100 / outputs] * len(DISTANCES)
        panels[f"{name}: right, %"] = {"chance": (DISTANCES, chance)}
        bar.write(f"{name:10} " + " ".join(f"{distance:7}" for distance in DISTANCES) + "   steps away; right, %")
        for cell, (layer, rate) in CELLS.items():
            bar.set_postfix_str(f"{name}, {cell}")
            model = Model(layer, features, outputs)
            train(model, task, options.steps or updates, rate, options.seed, bar)
            with ts.no_grad():
                row = [share_right(model(x, r.shape[1]).numpy(), r) for x, r in tests]
            panels[f"{name}: right, %"][cell] = (DISTANCES, row)
            stopped = f"   (stopped: {bar.n} of all {bar.total} updates; memory.png has what was trained)" * bar.stopped
            bar.write(f"{cell:10} " + " ".join(f"{share:7.1f}" for share in row) + stopped)
            if bar.stopped:
                return plot.curves(panels, "distance", "memory.png")
            if name == "sentence":
                heard |= hear(cell, model, *task(np.random.default_rng(2), 20, FAR))
        bar.write(f"{'chance':10} " + " ".join(f"{share:7.1f}" for share in chance) + "   (baseline)\n")
    bar.close()
    print(f"the answer's gradient {FAR} steps before the end, as a fraction of that at the end:",
          *(f"{cell} {norms.mean(0)[-1 - FAR] / norms.mean(0)[-1]:.0e}" for cell, (norms, _) in heard.items()))
    plot.curves(panels, "distance", "memory.png")
    plot.through_time(heard, "memory-gradients.png")
    print(f"the sentence's country, {DISTANCES[-1]} characters on, by the LSTM: {row[-1]:.1f}% right (baseline: "
          f"{chance[-1]:.1f}%, a guess)\nright against distance: memory.png; through time: memory-gradients.png")


if __name__ == "__main__":
    main()
