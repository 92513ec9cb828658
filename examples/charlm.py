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
    python examples/charlm.py --run runs/b                          (started again after any end, it goes on)
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
from tinyseq import checkpoint, data, decode, logs, metrics, nn, optim, plot, runs

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
    half, bits = WINDOW // 2, metrics.BitsPerCharacter()
    padded = np.pad(ids, (half + 1, WINDOW))                    # with 0, Vocabulary.pad, which does not count
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW + 1)[: len(ids) : half]
    for x in np.array_split(windows, math.ceil(len(windows) / 64)):
        logits, targets = model(x[:, :-1])[:, half:], x[:, half + 1 :]
        bits.update(ts.functional.cross_entropy(logits, targets, ignore_index=0, reduction="sum"), targets != 0)
    return bits.compute()


def train(models: dict, known: np.ndarray, held_out: np.ndarray, options: argparse.Namespace, save: Callable) -> None:
    """All learn for the same time; the log of each has its updates, seconds, and held-out bits."""
    optimizers = {name: optim.Adam(model.parameters()) for name, model in models.items()}
    schedules = {n: optim.schedules.warmup(50, optim.schedules.cosine(peak, 950)) for n, (_, peak) in MODELS.items()}
    draw = lambda text, rng: text[rng.integers(len(text) - WINDOW, size=(BATCH, 1)) + np.arange(WINDOW + 1)]
    windows = {name: data.items([known]).repeat().map(draw, seed=0) for name in models}
    parts = {f"{name} {i}": part for i, of in enumerate((models, optimizers, windows)) for name, part in of.items()}
    run = options.run and runs.Run(options.run, **parts)
    begun, share = run and run.resume(), options.seconds / len(models)
    spent, updates = (run.extra[what] if begun else dict.fromkeys(models, 0) for what in ("spent", "updates"))
    bar = logs.progress(total=options.seconds, initial=sum(spent.values()), save=save)

    def tell(name: str) -> None:
        bits = bits_per_character(models[name], held_out)
        logged[name](updates[name], seconds=spent[name], bits=bits)
        bar.set_postfix_str(f"{name} {bits:.2f} bits")
        if run:
            run.save(sum(updates.values()), spent=spent, updates=updates)

    logged = {name: logs.Log(logs.CSV(f"{options.folder}/{name}.csv", start=updates[name] + 1)) for name in models}
    while min(spent.values()) < share and (few := min(updates.values())) < options.steps and not (few and bar.stopped):
        name = min(spent, key=spent.get)                        # whoever has computed least
        began, before, model, optimizer = time.perf_counter(), spent[name] / share, models[name], optimizers[name]
        x = next(iter(windows[name]))                           # from where it stands
        loss = ts.functional.cross_entropy(model(x[:, :-1]), x[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.lr = schedules[name](int(1000 * before))      # rise for 5% of the time, then a cosine
        optimizer.step()
        loss.item()                                             # waits for the device: its time counts
        spent[name] = min(share, spent[name] + time.perf_counter() - began)
        updates[name] += 1
        bar.update(sum(spent.values()) - bar.n)
        if int(10 * before) < int(10 * spent[name] / share) < 10:
            tell(name)
    bar.close()
    for name in models:
        tell(name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=520, help="how long to learn, all four together (520)")
    parser.add_argument("--quick", action="store_true", help="85 seconds: less learnt, the same picture in outline")
    parser.add_argument("--steps", type=int, default=10**9, help="stop after so many updates of each (never)")
    parser.add_argument("--run", metavar="FOLDER", help="where to keep all that a run goes on from (nowhere)")
    parser.add_argument("--seed", type=int, default=0, help="where the random numbers begin (0)")
    options = parser.parse_args()
    if options.steps < 1 or not 0 < options.seconds < math.inf:
        parser.error("--seconds must be a number above 0, and --steps at least 1")
    options.seconds, options.folder = 85 if options.quick else options.seconds, options.run or "charlm"
    ts.manual_seed(options.seed)
    known, held_out = read_topics()
    letters = data.Vocabulary(sorted(set(known + held_out)))
    models = {name: make(len(letters)) for name, (make, _) in MODELS.items()}
    ids = [np.array(letters.encode(text)) for text in (known, held_out)]

    def save() -> None:
        saved = {"model": models["Transformer"].state_dict(), "letters": "".join(letters.symbols)}
        checkpoint.save("charlm.safetensors", saved | {"config": {"vocab_size": len(letters), **TRANSFORMER}})
        on_interrupt("charlm.safetensors")

    train(models, *ids, options, save)
    save()
    told = {name: logs.read(f"{options.folder}/{name}.csv") for name in models}
    print(f"{'':12} parameters  updates  bits/character  perplexity    on {len(held_out):,} letters held out")
    for name, model in models.items():
        parameters, (updates, bits) = sum(p.size for p in model.parameters()), [x[-1] for x in told[name]["bits"]]
        print(f"{name:12} {parameters:10,} {updates:8,} {bits:15.3f} {2 ** bits:11.2f}")
    packed, more = (len(lzma.compress(text.encode())) for text in (known, known + held_out))
    best = min(figures["bits"][1][-1] for figures in told.values())
    print(f"bits per character of the best: {best:.3f} (baseline: {8 * (more - packed) / len(held_out):.3f}, xz)")
    prompt = np.array([letters.encode("The statement ")])
    for name, model in models.items():
        [found] = decode.sample(model.eval(), model.start(prompt[:, :-1]), prompt[:, -1], -1, 200, temperature=0.7)
        print(f"\n{name}:\nThe statement {''.join(letters.decode(found.tokens))}")
    plot.curves({"bits per character": {name: figures["bits"] for name, figures in told.items()},
                 "perplexity": {name: (f["seconds"][1], 2 ** f["bits"][1]) for name, f in told.items()}},
                ["updates", "seconds of computing"], "charlm.png")
    print(f"\nheld-out text against updates and time: charlm.png, {options.folder}\n"
          "the Transformer: charlm.safetensors; now: "
          + command(sys.executable, Path(__file__).with_name("generate.py"), "--prompt", "The statement "))


if __name__ == "__main__":
    main()
