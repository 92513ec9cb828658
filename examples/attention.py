"""What are query, key and value, and how can a word mean what its neighbours make it mean?

One attention and nothing else: no recurrence, no positions. A query asks all words of a text at once (Vaswani et al.
2017, equation 1), here with x_j the embedding of word j, and e the embedding of the word that asks:

    q = W_Q e, k_j = W_K x_j, v_j = W_V x_j         what is asked; what word j answers to; what it has to say
    alpha = softmax(q . k_j / sqrt(d)),  c = sum_j alpha_j v_j,  p(answer) = softmax(W (e + c) + b)

First a question asks a news text: "when?" looks for days and months, "where?" for places. Then a word of the text asks
the text that it stands in, which is self-attention: is a magazine with a gun in sight one to read? And what was too
tired, and what too wide, if "the animal did not cross the street because it was too ..."? Words that would decide for
another word stand there too, so it must ask for the right ones; where none decides, the answer is "unclear". All texts
of the test are new. The baseline gives the answer that the asking word most often had. Ten seconds:

    python examples/attention.py
"""

import argparse
import math
import random
from collections import Counter, defaultdict
from zlib import crc32
import _commands  # noqa: F401 - which hears Ctrl-C from here on

import numpy as np

import tinyseq as ts
from tinyseq import data, logs, nn, optim, plot
from tinyseq.functional import cross_entropy, softmax

ANSWERS = {
    "when?": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday January March May July October".split(),
    "where?": "Oslo Paris Lima Cairo Delhi Kyoto Quito Rome Accra Hanoi Perth Turin".split(),
    "who?": "Ada Ben Chen Dora Emil Fatima Goro Hana Ivan Jane Kofi Lena".split(),
    "what?": "bridge school museum station library garden tunnel harbour".split(),
}
NEWS = ["on {when?}", "in {where?}", "minister {who?} opened the new {what?}"]
ASIDES = ["officials said", "hundreds came", "nobody was hurt", "after long delays", "critics disagree"]
SENSES = {  # what a word means -> the words that tell
    "magazine": {"ammunition": "gun rifle soldier bullet trigger".split(),
                 "journal": "page editor article reader cover".split(),
                 "unclear": "stone lamp letter cloud nail".split()},
    "bank": {"shore": "river fish boat water reed".split(), "finance": "money loan account cashier coin".split(),
             "unclear": "stone lamp letter cloud nail".split()},
    "it": {"animal": "tired afraid hungry asleep old".split(), "street": "wide long busy crowded icy".split(),
           "unclear": "late dark cold sudden loud".split()},
}
SAYINGS = {
    "magazine": "the magazine was old and there was a {}",
    "bank": "we saw the bank and there was a {}",
    "it": "the animal did not cross the street because it was too {}",
}
Example = tuple[str, list[str], str]    # who asks, the text, the answer


def draw(rng: random.Random, senses: bool, test: bool) -> Example:
    """A question about a news text; or an ambiguous word, what it stands in, and its sense there. Of the texts a tenth,
    by their hash, is for the test alone."""
    if senses:
        asks, other = rng.sample(list(SENSES), 2)
        sense, tells = rng.choice(list(SENSES[asks].items()))
        misleads = rng.choice(list(SENSES[other].values()))
        parts = [SAYINGS[asks].format(rng.choice(tells)), f"somebody said {rng.choice(misleads)}"]
    else:
        facts = {question: rng.choice(answers) for question, answers in ANSWERS.items()}
        asks, sense = rng.choice(list(facts.items()))
        parts = [part.format(**facts) for part in NEWS] + [rng.choice(ASIDES)]
    text = " , ".join(rng.sample(parts, len(parts)))
    return (asks, text.split(), sense) if (crc32(text.encode()) % 10 == 0) == test else draw(rng, senses, test)


class Asking(nn.Module):
    def __init__(self, words: int, width: int) -> None:
        self.embedding = nn.Embedding(words, width)
        nn.init.normal_(self.embedding.weight, std=0.1)     # every query begins by looking everywhere
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.out = nn.Linear(width, words)

    def forward(self, asks: np.ndarray, text: np.ndarray, lengths: np.ndarray) -> tuple[ts.Tensor, ts.Tensor]:
        """Who asks (B, 1), and texts (B, S) -> logits of the answer (B, V), and the weight of each word (B, S)."""
        e, x = self.embedding(asks), self.embedding(text)                               # (B, 1, E), (B, S, E)
        q, k, v = self.query(e), self.key(x), self.value(x)
        scores = q @ k.mT / math.sqrt(k.shape[-1])                                      # (B, 1, S)
        weights = softmax(scores, -1, nn.length_mask(lengths, text.shape[1])[:, None])
        return self.out(e + weights @ v)[:, 0], weights[:, 0]


def encode(examples: list[Example], words: data.Vocabulary) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    asks, texts, answers = zip(*examples)
    return np.array(words.encode(asks))[:, None], *data.pad([words.encode(t) for t in texts]), words.encode(answers)


def train(model: Asking, words: data.Vocabulary, rng: random.Random, steps: int) -> None:
    optimizer, losses = optim.Adam(model.parameters()), []
    for step in (bar := logs.progress(range(steps))):
        examples = [draw(rng, i % 2 == 0, test=False) for i in range(64)]
        *inputs, answers = encode(examples, words)
        loss = cross_entropy(model(*inputs)[0], answers)
        optimizer.zero_grad()
        loss.backward()
        optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.lr = 5e-3 * (1 - step / steps)
        optimizer.step()
        losses.append(loss.item())
        bar.set_postfix_str(f"loss {np.mean(losses[-50:]):.3f}", refresh=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000, help="how many updates (1000)")
    parser.add_argument("--seed", type=int, default=2, help="where the random numbers begin (2)")
    options = parser.parse_args()
    if options.steps < 1:
        parser.error(f"--steps must be at least 1, not {options.steps}")
    ts.manual_seed(options.seed)
    rng = random.Random(options.seed)
    spoken = [draw(rng, senses, False) for senses in (False, True) for _ in range(2000)]
    words = data.Vocabulary(sorted({word for asks, text, answer in spoken for word in (asks, *text, answer)}))
    model = Asking(len(words), width=64)
    train(model, words, rng, options.steps)
    counts = defaultdict(Counter)
    for asks, _, answer in spoken:
        counts[asks][answer] += 1
    for senses, name in (False, "questions to news texts"), (True, "what a word means"):
        tested = [draw(rng, senses, True) for _ in range(1000)]
        *inputs, answers = encode(tested, words)
        with ts.no_grad():
            right = model(*inputs)[0].numpy().argmax(1) == answers
        usual = [counts[asks].most_common(1)[0][0] == answer for asks, _, answer in tested]
        print(f"{name}, accuracy on {len(tested)} new ones: {100 * np.mean(right):.1f}%  "
              f"(baseline: {100 * np.mean(usual):.1f}%, the most frequent answer)")
    news = "nobody was hurt , on Friday , in Lima , minister Hana opened the new museum".split()
    texts = {tuple(news): list(ANSWERS)}
    texts |= {tuple(f"somebody said river , {SAYINGS[word].format(tells)}".split()): [word] for word, tells in (
        ("magazine", "gun"), ("magazine", "reader"), ("it", "tired"), ("it", "wide"))}
    maps = []
    for text, asking in texts.items():
        *inputs, _ = encode([(asks, list(text), asks) for asks in asking], words)
        with ts.no_grad():
            logits, weights = model(*inputs)
        maps.append(weights.numpy())
        for asks, best in zip(asking, logits.numpy().argmax(1)):
            print(f"  {asks:9} {' '.join(words.decode([best])):11} <- {' '.join(text)}")
    plot.attention(maps, list(texts.values()), list(texts), "attention.png")
    print("who looked where: attention.png")


if __name__ == "__main__":
    main()
