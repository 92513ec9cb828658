"""What do a hidden state, gates, and attention each buy, at one number of parameters and one amount of computing?

Four language models read the same text, the topics of Python's own documentation (`pydoc_data`), letter by letter, and
tell at each letter what comes next, p(x_t | x_<t) = softmax(W_o h_t). Only what makes h_t of the letters differs:

    RNN          h_t = tanh(W x_t + U h_{t-1} + b)                              (Elman 1990)
    GRU          h_t = (1 - z_t) n_t + z_t h_{t-1}                              (Cho et al. 2014, equations 5 to 8)
    LSTM         c_t = f_t c_{t-1} + i_t g_t, h_t = o_t tanh(c_t)               (Hochreiter & Schmidhuber 1997)
    Transformer  softmax(Q K^T / sqrt(d)) V over all letters before, 4 layers   (Vaswani et al. 2017, equation 1)

Whichever has computed least goes next, so all get the same time, and all see the same windows in the same order. The
figures are of topics that none has seen, each letter told from at least 64 before it: bits per character, minus the
mean of log2 p(x_t | x_<t), and perplexity, 2 to that power. Beside them, what xz needs for these topics where it has
packed the others before. Ten minutes, with --quick two:

    python examples/charlm.py
"""

import argparse
import lzma
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from pydoc_data.topics import topics
from _commands import command, on_interrupt

import numpy as np

import tinyseq as ts
from tinyseq import checkpoint, data, decode, logs, nn, optim, plot

WINDOW, BATCH = 128, 16


class Recurrent(nn.Module):
    """Logits (batch, time, letters) from letters (batch, time) by nn.RNN, nn.GRU or nn.LSTM, and of one letter more."""

    def __init__(self, cell: type, letters: int, width: int, embedding: int = 64) -> None:
        self.embedding = nn.Embedding(letters, embedding)
        self.rnn = nn.init.recurrent_(cell(embedding, width))
        self.out = nn.Linear(width, letters)

    def forward(self, x: np.ndarray) -> ts.Tensor:
        return self.out(self.rnn(self.embedding(x))[0])

    def start(self, x: np.ndarray) -> ts.Tensor:
        return self.rnn(self.embedding(x))[1]                   # (1, batch = 1, width): all that it knows of x

    def step(self, x: np.ndarray, state: ts.Tensor) -> tuple:
        y, state = self.rnn(self.embedding(x)[:, None], state)
        return self.out(y[:, 0]), state


TRANSFORMER = dict(d_model=72, nhead=4, num_layers=4, dim_feedforward=288, dropout=0.0, positions="rotary")
MODELS = {                                                      # widths at which all have about as many parameters
    "RNN": (lambda n: Recurrent(nn.RNN, n, 412), 2e-3),         # and the highest learning rate
    "GRU": (lambda n: Recurrent(nn.GRU, n, 240), 6e-3),
    "LSTM": (lambda n: Recurrent(nn.LSTM, n, 205), 6e-3),
    "Transformer": (lambda n: nn.LanguageModel(n, **TRANSFORMER), 4e-3),
}


def read_topics() -> tuple[str, str]:
    """Text to learn from and text to be judged by: every tenth topic, without paragraphs that stand in two topics."""
    seen, texts = set(), []
    for _, topic in sorted(topics.items()):
        new = {" ".join(paragraph.split()): paragraph for paragraph in topic.split("\n\n")}
        texts.append("\n\n".join(paragraph for key, paragraph in new.items() if key not in seen))
        seen |= new.keys()
    return "\n\n".join(text for i, text in enumerate(texts) if i % 10), "\n\n".join(texts[::10])


@ts.no_grad()
def bits_per_character(model: nn.Module, ids: np.ndarray) -> float:
    """Of all letters in ids: windows overlap by half, and of each the second half counts."""
    half, bits = WINDOW // 2, 0.0
    padded = np.pad(ids, (half + 1, WINDOW))                    # with 0, Vocabulary.pad, which does not count
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW + 1)[: len(ids) : half]
    for x in np.array_split(windows, math.ceil(len(windows) / 64)):
        logits = model(x[:, :-1])[:, half:]
        loss = ts.functional.cross_entropy(logits, x[:, half + 1 :], ignore_index=0, reduction="sum")
        bits += loss.item() / math.log(2)
    return bits / len(ids)


def train(models: dict, known: np.ndarray, held_out: np.ndarray, seconds: float, steps: int,
          save: Callable[[], None]) -> dict[str, list]:
    """All learn for the same time, together `seconds`: of each [(updates, own seconds, held-out bits)]."""
    optimizers = {name: optim.Adam(model.parameters()) for name, model in models.items()}
    draws, curves = {name: np.random.default_rng(0) for name in models}, {name: [] for name in models}
    spent, updates, share = dict.fromkeys(models, 0.0), dict.fromkeys(models, 0), seconds / len(models)
    bar = logs.progress(total=seconds, save=save)
    while min(spent.values()) < share and (fewest := min(updates.values())) < steps and not (fewest and bar.stopped):
        name = min(spent, key=spent.get)                        # whoever has computed least
        began, model, optimizer = time.perf_counter(), models[name], optimizers[name]
        x = known[draws[name].integers(len(known) - WINDOW, size=(BATCH, 1)) + np.arange(WINDOW + 1)]
        loss = ts.functional.cross_entropy(model(x[:, :-1]), x[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optim.clip_grad_norm_(model.parameters(), 1.0)
        done = spent[name] / share                              # rise for 5% of the time, then a cosine
        optimizer.lr = MODELS[name][1] * min(1, 20 * done + 0.01) * (1 + math.cos(math.pi * done)) / 2
        optimizer.step()
        loss.item()                                             # waits for the device: its time counts
        spent[name], updates[name] = min(share, spent[name] + time.perf_counter() - began), updates[name] + 1
        bar.update(sum(spent.values()) - bar.n)
        if spent[name] > share * (len(curves[name]) + 1) / 10 or updates[name] == steps or spent[name] == share:
            curves[name].append((updates[name], spent[name], bits_per_character(model, held_out)))
            bar.set_postfix_str(" ".join(f"{n} {curve[-1][2]:.2f}" for n, curve in curves.items() if curve) + " bits")
    bar.close()
    for name in models:                                         # where Ctrl-C ended it
        if not curves[name] or curves[name][-1][0] < updates[name]:
            curves[name].append((updates[name], spent[name], bits_per_character(models[name], held_out)))
    return curves


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=520, help="how long to learn, all four together (520)")
    parser.add_argument("--quick", action="store_true", help="85 seconds: less learnt, the same picture in outline")
    parser.add_argument("--steps", type=int, default=10**9, help="stop after so many updates of each (never)")
    parser.add_argument("--seed", type=int, default=0, help="where the random numbers begin (0)")
    options = parser.parse_args()
    if options.steps < 1 or not 0 < options.seconds < math.inf:
        parser.error("--seconds must be a number above 0, and --steps at least 1")
    ts.manual_seed(options.seed)
    known, held_out = read_topics()
    letters = data.Vocabulary(sorted(set(known + held_out)))
    models = {name: make(len(letters)) for name, (make, _) in MODELS.items()}
    ids = [np.array(letters.encode(text)) for text in (known, held_out)]

    def save() -> None:
        saved = {"model": models["Transformer"].state_dict(), "letters": "".join(letters.symbols)}
        checkpoint.save("charlm.safetensors", saved | {"config": {"vocab_size": len(letters), **TRANSFORMER}})
        on_interrupt("charlm.safetensors")

    curves = train(models, *ids, 85 if options.quick else options.seconds, options.steps, save)
    save()
    print(f"{'':12} parameters  updates  bits/character  perplexity    on {len(held_out):,} letters held out")
    for name, model in models.items():
        parameters, (updates, _, bits) = sum(p.size for p in model.parameters()), curves[name][-1]
        print(f"{name:12} {parameters:10,} {updates:8,} {bits:15.3f} {2 ** bits:11.2f}")
    packed, more = (len(lzma.compress(text.encode())) for text in (known, known + held_out))
    best = min(curve[-1][2] for curve in curves.values())
    print(f"bits per character of the best: {best:.3f} (baseline: {8 * (more - packed) / len(held_out):.3f}, xz)")
    prompt = np.array([letters.encode("The statement ")])
    for name, model in models.items():
        [found] = decode.sample(model.eval(), model.start(prompt[:, :-1]), prompt[:, -1], -1, 200, temperature=0.7)
        print(f"\n{name}:\nThe statement {''.join(letters.decode(found.tokens))}")
    at, spent, bits = ({name: np.array(curve).T[i] for name, curve in curves.items()} for i in range(3))
    plot.curves({"bits per character": {name: (at[name], bits[name]) for name in curves},
                 "perplexity": {name: (spent[name], 2 ** bits[name]) for name in curves}},
                ["updates", "seconds of computing"], "charlm.png")
    print("\nheld-out text against updates and time: charlm.png\n"
          "the Transformer: charlm.safetensors; now: "
          + command(sys.executable, Path(__file__).with_name("generate.py"), "--prompt", "The statement "))


if __name__ == "__main__":
    main()
