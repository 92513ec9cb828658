"""What comes next, and how does one learn that from a text that is far too long to be one sequence?

A language model gives every character a probability, given all characters before it (an LSTM reads them into h_t):

    p(x_1 ... x_T) = prod_t p(x_t | x_1 ... x_{t-1})
    p(x_{t+1} | x_1 ... x_t) = softmax(W h_t + b),   h_t = LSTM(x_t, h_{t-1})
    perplexity = exp(-1/T sum_t log p(x_t | x_1 ... x_{t-1})): among how many characters, all alike, it hesitates

A window of the text is a row of features, the same window one character later its labels. There are two ways to cut:
random windows, each begun with an empty memory (h = 0), and windows that follow one another, where each goes on with
the state of the last one, detached: memory reaches back for ever, gradients to the window's beginning only. That is
truncated backpropagation through time (Williams & Peng 1990; Mikolov et al. 2010). On paragraphs as short as those
held out here, both ways come out about alike.

The text is Python's own documentation, as it ships with Python. One paragraph in 20 is held out; these have all
lengths, so batches of them are padded, and padding counts neither in the sum nor in T. The baseline is the bigram,
p(x_{t+1} | x_t) from counts, mixed with single characters' counts where it has seen little (MacKay & Peto 1995).

    python examples/language_model.py
"""

import argparse
import math
from collections.abc import Iterator
from pydoc_data.topics import topics
import _commands  # noqa: F401 - which hears Ctrl-C from here on

import numpy as np

import tinyseq as ts
from tinyseq import data, logs, nn, optim, plot

WINDOW, PAD = 64, data.Vocabulary.pad                   # characters in a window, for learning


class CharacterModel(nn.Module):
    def __init__(self, kinds: int, embedding: int = 32, hidden: int = 128) -> None:
        self.embedding, self.lstm = nn.Embedding(kinds, embedding), nn.LSTM(embedding, hidden)
        self.output = nn.Linear(hidden, kinds)

    def forward(self, ids: np.ndarray, state: tuple | None = None) -> tuple[ts.Tensor, tuple]:
        """Scores of the next character (batch, T, kinds), and the state after the last one."""
        states, (h, c) = self.lstm(self.embedding(ids), state)
        return self.output(states), (h.detach(), c.detach())


def read(every: int = 20) -> tuple[data.Vocabulary, np.ndarray, list[list[int]]]:
    """All characters, the text to learn from as ids (N,), and the held-out paragraphs; none occurs twice,
    however its lines are broken."""
    parts = [part for name in sorted(topics) for part in topics[name].split("\n\n") if part]
    paragraphs = list({" ".join(part.split()): part for part in parts}.values())
    characters = data.Vocabulary(sorted(set("".join(paragraphs) + "\n")))
    known = "\n\n".join(part for i, part in enumerate(paragraphs) if i % every)
    return characters, np.array(characters.encode(known)), [
        characters.encode(f"\n{part}\n") for part in paragraphs[::every]]


def random_windows(text: np.ndarray, batch: int, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, bool]]:
    """Windows (batch, WINDOW + 1) from anywhere; none goes on where another ended."""
    while True:
        starts = rng.integers(0, len(text) - WINDOW, batch)
        yield text[starts[:, None] + np.arange(WINDOW + 1)], False


def consecutive_windows(text: np.ndarray, batch: int, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, bool]]:
    """`batch` places read on at once; True where each row goes on where it ended in the last window."""
    while True:
        begin = rng.integers(0, WINDOW)                 # so that windows do not end at the same places again
        rows = text[begin : begin + (len(text) - begin) // batch * batch].reshape(batch, -1)
        for t in range(0, rows.shape[1] - WINDOW, WINDOW):
            yield rows[:, t : t + WINDOW + 1], t > 0


def train(models: dict, text: np.ndarray, held_out: list, steps: int, seed: int, peak: float = 5e-3) -> dict:
    """Each model learns from windows of its own kind; by name ([updates], [perplexity of what is held out])."""
    optimizers = {name: optim.Adam(model.parameters(), lr=peak) for name, (model, _) in models.items()}
    windows = {name: cut(text, 32, np.random.default_rng(seed)) for name, (_, cut) in models.items()}
    states, seen = dict.fromkeys(models), {name: {} for name in models}
    for step in (bar := logs.progress(range(1, steps + 1))):
        losses = []
        for name, (model, _) in models.items():
            window, goes_on = next(windows[name])
            logits, states[name] = model(window[:, :-1], states[name] if goes_on else None)
            loss = ts.functional.cross_entropy(logits, window[:, 1:])
            optimizers[name].zero_grad()
            loss.backward()
            optim.clip_grad_norm_(model.parameters(), 1.0)
            optimizers[name].lr = peak * (1 + math.cos(math.pi * step / steps)) / 2
            optimizers[name].step()
            losses.append(f"{name} {loss.item():.2f}")
            if step % 100 == 0 and step < steps:
                seen[name][step] = perplexity(model, held_out)
        bar.set_postfix_str("loss " + ", ".join(losses), refresh=False)
    last = {name: {step: perplexity(model, held_out)} for name, (model, _) in models.items()}
    return {name: tuple(zip(*(curve | last[name]).items())) for name, curve in seen.items()}


@ts.no_grad()
def perplexity(model: CharacterModel, texts: list[list[int]], batch: int = 32) -> float:
    """exp of the mean of -log p over all characters but each text's first; padding is ignored and not counted."""
    total = characters = 0
    for rows in data.batches([len(text) for text in texts], batch):
        ids, state = data.pad([texts[i] for i in rows])[0], None
        for t in range(0, ids.shape[1] - 1, 4 * WINDOW):
            window = ids[:, t : t + 4 * WINDOW + 1]
            logits, state = model(window[:, :-1], state)
            total += ts.functional.cross_entropy(logits, window[:, 1:], ignore_index=PAD, reduction="sum").item()
            characters += np.sum(window[:, 1:] != PAD)
    return math.exp(total / characters)


def counted(text: np.ndarray, texts: list[list[int]], kinds: int, doubt: float = 5.0) -> tuple[float, float]:
    """Perplexity of texts by counts: of single characters, and of pairs."""
    single = (np.bincount(text, minlength=kinds) + 1) / (len(text) + kinds)
    pairs = np.zeros((kinds, kinds))
    np.add.at(pairs, (text[:-1], text[1:]), 1)
    pairs = (pairs + doubt * single) / (pairs.sum(1, keepdims=True) + doubt)
    before, after = (np.concatenate([t[part] for t in texts]) for part in (slice(0, -1), slice(1, None)))
    return math.exp(-np.mean(np.log(single[after]))), math.exp(-np.mean(np.log(pairs[before, after])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000, help="how many updates (1000)")
    parser.add_argument("--seed", type=int, default=0, help="where the random numbers begin (0)")
    options = parser.parse_args()
    if options.steps < 1:
        parser.error(f"--steps must be at least 1, not {options.steps}")
    ts.manual_seed(options.seed)
    characters, text, held_out = read()
    window, _ = next(random_windows(text, 1, np.random.default_rng(options.seed)))
    for name, ids in (("features", window[0, :-1]), ("labels", window[0, 1:])):
        print(f"{name:>9}: {''.join(characters.decode(ids))!r}")
    models = {"random windows": (CharacterModel(len(characters)), random_windows),
              "consecutive windows": (CharacterModel(len(characters)), consecutive_windows)}
    seen = train(models, text, held_out, options.steps, options.seed)

    single, pairs = counted(text, held_out, len(characters))
    fresh, carried = (values[-1] for _, values in seen.values())
    print(f"held out are {len(held_out)} paragraphs; single characters reach a perplexity of {single:.2f} there\n"
          f"perplexity: {carried:.2f} with the state carried on, {fresh:.2f} from random windows "
          f"(baseline: {pairs:.2f} by pairs of characters)")
    level = {"pairs of characters": ([0, options.steps], [pairs] * 2)}
    plot.curves({"perplexity of held-out paragraphs": seen | level}, "updates", "language_model.png")
    print("perplexity against updates: language_model.png")


if __name__ == "__main__":
    main()
