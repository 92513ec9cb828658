"""What the page of the playground asks: how far each gate of a GRU is open at each word of a sentence.

The GRU says whether a review is good, as the RNN of examples/sentiment.py, and learnt from that script's reviews:

    cd docs/_playground && PYTHONPATH=../../examples python gates.py
"""

import json
import re
from random import Random

import numpy as np
from weights import read  # before the script
from sentiment import BAD, FLIPS, GOOD, KEEPS, THINGS, review

import tinyseq as ts
from tinyseq import checkpoint, data, nn, optim

SAID = "the was but although , i would not say that " + " ".join(FLIPS + KEEPS).replace("{}", "")
WORDS = data.Vocabulary([*sorted({*SAID.split(), *GOOD, *BAD, *THINGS}), "?"])
HIDDEN = 12
WATCHED = {
    "en": ("good?", "z: how much of the old state stays", "r: how much of it a new state is made of",
           "good: {:.0%}", "; never read: "),
    "zh": ("好评？", "z：旧状态保留多少", "r：新状态用上旧状态的多少", "好评：{:.0%}", "；没有学过："),
}


class Reader(nn.Module):
    def __init__(self) -> None:
        self.embedding, self.rnn = nn.Embedding(len(WORDS), 12), nn.GRU(12, HIDDEN)
        self.out = nn.Linear(HIDDEN, 2)


def learn(steps: int = 3000) -> None:
    """Learn, and write gates.safetensors, in float16."""
    ts.manual_seed(0)
    model, rng = Reader(), Random(0)
    optimizer = optim.Adam(model.parameters())
    for step in range(steps):
        labels, texts = zip(*(review(rng) for _ in range(32)), strict=True)
        ids, lengths = data.pad([WORDS.encode(text.split()) for text in texts])
        scores = model.out(model.rnn(model.embedding(ids), lengths=lengths)[1][0])
        right = np.array([label == "positive" for label in labels], int)
        loss = ts.functional.cross_entropy(scores, right)
        optimizer.zero_grad()
        loss.backward()
        optimizer.lr = 1e-2 * (1 - step / steps)
        optimizer.step()
    print(f"loss {loss.item():.4f}, right {np.mean(scores.detach().numpy().argmax(1) == right):.0%}")
    half = {name: value.astype("float16") for name, value in model.state_dict().items()}
    checkpoint.save("gates.safetensors", half)


@ts.no_grad()
def gates(ids: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """r, z (T, HIDDEN), and after each word the probability that the review is good, (T,)."""
    x, rnn = model.embedding(np.array([ids])), model.rnn
    states = rnn(x)[0]
    before = ts.pad(states[:, :-1], [(0, 0), (1, 0), (0, 0)])
    both = x @ rnn.weight_ih_l0.mT + rnn.bias_ih_l0 + before @ rnn.weight_hh_l0.mT + rnn.bias_hh_l0
    r, z, _ = ts.split(ts.sigmoid(both), 3, -1)
    return r.numpy()[0], z.numpy()[0], ts.functional.softmax(model.out(states)).numpy()[0, :, 1]


def watch(text: str, language: str = "en") -> str:
    """Of a sentence: {"text", "maps"}, as JSON; a map has a title, rows, columns and numbers 0 to 1."""
    words = re.findall(r"[a-z]+|,", text.lower())[:20]
    if not words:
        return json.dumps({"text": "", "maps": []})
    r, z, good = gates(WORDS.encode([word if word in WORDS else "?" for word in words]))
    units = [str(unit) for unit in range(HIDDEN)]
    unknown = [word for word in words if word not in WORDS]
    *titles, is_good, never_read = WATCHED[language]
    maps = zip(titles, ([""], units, units), (good[None], z.T, r.T), strict=True)
    said = is_good.format(good[-1]) + never_read * bool(unknown) + ", ".join(unknown)
    return json.dumps({"text": said, "maps": [
        {"title": title, "rows": rows, "columns": words, "values": values.astype(float).round(3).tolist()}
        for title, rows, values in maps]})


if __name__ == "__main__":
    learn()
model = Reader()
model.load_state_dict(read("gates.safetensors"))
