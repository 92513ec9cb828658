"""What does a loss still hear of each state, and is that what the gates let through?

In h_t = a_t h_{t-1} + b_t, where a_t and b_t are of x_t alone, the gradient in a unit's state has one way back, through
the product of all later a_t. In a GRU there are others: its gates and its candidate see the state too.

Four layers learn the sentences of stop 5, whose last word depends on the first. The picture shows, in trained ones, how
much of the answer's gradient in the last state, |d loss / d h_T|, is left in those before, and (dashed) the product of
all later |a_t|, the mean over units. A norm hears most of the units that keep most, so it stands above that mean where
units differ, as all do that begin with memories of many lengths. Under a minute:

    python examples/retained.py
"""

import argparse
import _commands  # noqa: F401 - which hears Ctrl-C from here on

import numpy as np
from memory import CHARACTERS, COUNTRIES, DISTANCES, FAR, WIDTH, loss_of, sentence, share_right, train

import tinyseq as ts
from tinyseq import lens, logs, nn, plot


def begun(layer: nn.Module, *signs: int) -> nn.Module:
    """With memories 1 to 64 steps long by gates alone, rows of the bias by the signs of their logarithms."""
    layer.bias_ih_l0.data = np.concatenate([s * np.log(np.geomspace(1, 64, WIDTH)) for s in signs]).astype("f")
    return layer


LAYERS = {
    "GRU": lambda n: nn.init.recurrent_(nn.GRU(n, WIDTH)),
    "MinGRU": lambda n: begun(nn.MinGRU(n, WIDTH), -1, 0),     # rows z, n
    "MinLSTM": lambda n: begun(nn.MinLSTM(n, WIDTH), 0, -1, 0),                         # rows f, i, n
    "LRU": lambda n: nn.LRU(n, WIDTH, r_min=0.9, r_max=0.999, max_phase=0.3),
}


class Model(nn.Module):
    """x (batch, time, features) -> one output for each of the last `answers` steps."""

    def __init__(self, layer: object, features: int, outputs: int) -> None:
        self.rnn, self.out = layer(features), nn.Linear(WIDTH, outputs)

    def forward(self, x: ts.Tensor, answers: int) -> ts.Tensor:
        return self.out(self.rnn(x)[0][:, -answers:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=400, help="updates of each of the four models (400)")
    options = parser.parse_args()
    if options.steps < 1:
        parser.error(f"--steps must be at least 1, not {options.steps}")
    ts.manual_seed(0)
    bar, heard = logs.progress(total=len(LAYERS) * options.steps), {}
    test = sentence(np.random.default_rng(1), 500, DISTANCES[-1])
    x, right = sentence(np.random.default_rng(2), 20, FAR)
    for name, layer in LAYERS.items():
        model = Model(layer, len(CHARACTERS), len(COUNTRIES))
        train(model, sentence, options.steps, 1e-2, 0, bar)
        share = share_right(model(test[0], 1).detach().numpy(), test[1])
        loss = lambda y, out=model.out: loss_of(out(y[:, -1:]), right)
        [norms] = lens.gradients_through_time(model.rnn, x, loss)
        left, by_a = norms / norms[:, -1:].mean(), lens.retained(model.rnn, x)
        heard |= {name: (left, {}), f"{name}: by |a| alone": (by_a, {})}
        back, back_by_a = left.mean(0)[-1 - FAR], by_a.mean(0)[-1 - FAR]
        bar.write(f"{name:8} right {share:5.1f}%; {FAR} steps back {back:.2f} of the gradient, by |a| alone "
                  f"{back_by_a:.2f}")
        if bar.stopped:
            break
    bar.close()
    figure = plot.through_time(heard)
    axes, = figure.axes
    axes.set_title("|∂loss/∂hₜ|, of that at the last step", loc="left", fontsize=11)
    axes.set(xlim=(None, 1.9 * x.shape[1]), xticks=range(0, x.shape[1], 25))            # the names stand beside them
    for lines in axes.lines, axes.get_legend().get_lines():
        for whole, dashed in zip(lines[::2], lines[1::2]):
            dashed.set(color=whole.get_color(), linestyle="--")
    figure.set_size_inches(7.5, 3.6)
    figure.savefig("retained.png", dpi=150)
    print(f"the sentence's country, {DISTANCES[-1]} characters on, by the {name}: {share:.1f}% right (baseline: "
          f"{100 / len(COUNTRIES):.1f}%, a guess)\nthrough time: retained.png")


if __name__ == "__main__":
    main()
