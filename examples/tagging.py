"""Is "apple" a fruit or a company, when only the words around it can tell?

One tag for each word. In "i like eating apple" the word before decides, in "the apple is a great company" one after:
an LSTM (Hochreiter & Schmidhuber 1997) reads from both sides (Graves & Schmidhuber 2005; Huang et al. 2015):

    h_t = LSTM(x_t, h_{t-1}),   g_t = LSTM(x_t, g_{t+1}),   s_t = W [h_t; g_t] + b,   p(y_t) = softmax(s_t)[y_t]

Tags are NOUN, VERB, OTHER and spans: B-FRUIT or B-COMPANY begins one, I-FRUIT or I-COMPANY goes on ("green apples",
"orange holdings"); all in small letters. A span counts if its kind and both ends are right; F1 = 2 right / (said +
true). The baseline is a word's most frequent tag. With --crf tags are scored as a whole (Lafferty et al. 2001):

    score(y) = sum_t s_t[y_t] + A[y_t, y_{t+1}],   p(y) = exp(score(y)) / sum over all y' of exp(score(y'))

    python examples/tagging.py
"""

import argparse
from collections import Counter, defaultdict
from random import Random
import _commands  # noqa: F401 - which hears Ctrl-C from here on

import _real
import numpy as np

import tinyseq as ts
from tinyseq import data, logs, metrics, nn, optim, plot

TAGS = ["PAD", "NOUN", "VERB", "OTHER", "B-FRUIT", "I-FRUIT", "B-COMPANY", "I-COMPANY"]
SLOTS = {  # what may stand for a word in capitals; after a slash stands the tag, OTHER where there is none
    "NAME": "apple orange blackberry kiwi peach lime mango raspberry".split(),
    "F": ["NAME/B-FRUIT", "NAME/B-FRUIT", "ripe/B-FRUIT NAME/I-FRUIT", "green/B-FRUIT NAME/I-FRUIT"],
    "C": ["NAME/B-COMPANY", "NAME/B-COMPANY", "NAME/B-COMPANY holdings/I-COMPANY", "green/B-COMPANY NAME/I-COMPANY"],
    "S": ["she", "he", "everyone", "the man/NOUN", "the boss/NOUN"],
    "WE": ["i", "we", "they", "people/NOUN", "children/NOUN"],
    "BOTH": "orders plans drinks shows reports offers".split(),
    "N": ["BOTH/NOUN", "phones/NOUN", "shares/NOUN"], "V": ["BOTH/VERB", "sells/VERB", "buys/VERB"],
    "FRUITY": ["tastes/VERB sweet", "is/VERB ripe", "fell/VERB from the tree/NOUN", "is/VERB a great snack/NOUN"],
    "FIRM": ["is/VERB a great company/NOUN", "hired/VERB people/NOUN", "V N", "is/VERB rich"],
    "WHEN": ["", "", "today", "this year/NOUN", "as S said/VERB"],
    "TEXT": ["WE like/VERB eating/VERB F WHEN", "S ate/VERB a F WHEN", "the F WHEN FRUITY", "a F here FRUITY",
             "the C WHEN FIRM", "shares/NOUN of C fell/VERB WHEN", "C WHEN FIRM", "S works/VERB for C WHEN",
             "the N of C are/VERB new", "S V the N WHEN", "S V a F and the C FIRM", "the F and the N are/VERB here"],
}
SHOWN = ["i like eating apple", "the apple is a great company", "the apple today is a great snack",
         "she orders the plans of orange holdings"]


class Tagger(nn.Module):
    """Scores s_t of the tags at each word; with a CRF, of whole sequences of tags."""

    def __init__(self, words: int, tags: list[str], bidirectional: bool, crf: bool,
                 embedding: int = 16, hidden: int = 32) -> None:
        self.tags, self.embedding = tags, nn.Embedding(words, embedding)
        self.lstm = nn.LSTM(embedding, hidden, bidirectional=bidirectional)
        self.output = nn.Linear(hidden * self.lstm.directions, len(tags))
        self.crf = nn.CRF(len(tags)) if crf else None

    def forward(self, ids: np.ndarray, lengths: np.ndarray) -> ts.Tensor:
        states, _ = self.lstm(self.embedding(ids), lengths=lengths)             # (batch, T, hidden, or twice that)
        return self.output(states)                                              # (batch, T, tags)

    def loss(self, ids: np.ndarray, lengths: np.ndarray, tags: np.ndarray) -> ts.Tensor:
        return (-ts.mean(self.crf(self(ids, lengths), tags, lengths)) if self.crf else
                ts.functional.cross_entropy(self(ids, lengths), tags, ignore_index=self.tags.index("PAD")))

    @ts.no_grad()
    def tag(self, ids: np.ndarray, lengths: np.ndarray) -> list[list[str]]:
        scores = self(ids, lengths)
        best = self.crf.decode(scores, lengths) if self.crf else scores.numpy().argmax(2)
        return [[self.tags[k] for k in row[:n]] for row, n in zip(best, lengths)]


def expand(rng: Random, pattern: str) -> list[tuple[str, str]]:
    """Words with their tags; slots are filled at random."""
    found = []
    for word, _, tag in (part.partition("/") for part in pattern.split()):
        inner = expand(rng, rng.choice(SLOTS[word])) if word in SLOTS else [(word, "OTHER")]
        found += [(word, tag or its) for word, its in inner]
    return found


def batch(texts: list, words: data.Vocabulary, kinds: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids (batch, T), lengths (batch,) and tags (batch, T)."""
    tags, _ = data.pad([[kinds.index(tag) for _, tag in text] for text in texts])
    return *data.pad([words.encode(word for word, _ in text) for text in texts]), tags


def train(models: dict[str, Tagger], texts: list, words: data.Vocabulary, tags: list, steps: int, rng: Random) -> None:
    optimizers = {name: optim.Adam(model.parameters(), lr=5e-3) for name, model in models.items()}
    for _ in (bar := logs.progress(range(steps))):
        chosen = batch(rng.choices(texts, k=32), words, tags)
        for name, model in models.items():
            loss = model.loss(*chosen)
            optimizers[name].zero_grad()
            loss.backward()
            optim.clip_grad_norm_(model.parameters(), 5.0)
            optimizers[name].step()
            bar.set_postfix_str(f"{name}: loss {loss.item():.3f}", refresh=False)


def most_frequent_tags(texts: list) -> dict[str, str]:
    counts = defaultdict(Counter)
    for word, tag in (pair for text in texts for pair in text):
        counts[word][tag] += 1
    return {word: tags.most_common(1)[0][0] for word, tags in counts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crf", action="store_true", help="score tags as a whole, by a conditional random field")
    parser.add_argument("--real", action="store_true", help="tag each sound of an English word with its stress")
    parser.add_argument("--steps", type=int, default=400, help="how many updates (400)")
    parser.add_argument("--seed", type=int, default=0, help="where the random numbers begin (0)")
    options = parser.parse_args()
    if options.steps < 1:
        parser.error(f"--steps must be at least 1, not {options.steps}")
    ts.manual_seed(options.seed)
    rng = Random(options.seed)
    if options.real:
        texts, test, tags, what = _real.stressed_words()
    else:
        texts, tags, what = sorted({tuple(expand(rng, "TEXT")) for _ in range(4000)}), TAGS, "sentences"
        rng.shuffle(texts)
        test, texts = texts[:500], texts[500:]
    words = data.Vocabulary(sorted({word for text in texts for word, _ in text}))
    models = {name: Tagger(len(words), tags, both, options.crf)
              for name, both in (("from the left", False), ("both sides", True))}
    train(models, texts, words, tags, options.steps, rng)
    usual, right = most_frequent_tags(texts), [[tag for _, tag in text] for text in test]
    said = {"most frequent": [[usual[word] for word, _ in text] for text in test]}
    said |= {name: model.tag(*batch(test, words, tags)[:2]) for name, model in models.items()}
    f1 = {name: 100 * metrics.span_f1(tags, right) for name, tags in said.items()}
    for name, found in said.items():
        print(f"{name:14}: {100 * np.mean([a == b for a, b in zip(found, right)]):5.1f}% of {what}, F1 {f1[name]:5.1f}")
    print(f"span F1 on {len(test)} new {what}: {f1['both sides']:.1f} from both sides, {f1['from the left']:.1f} "
          f"from the left (baseline: {f1['most frequent']:.1f} by each word's most frequent tag)")
    if options.real:
        return
    ids, lengths = data.pad([words.encode(text.split()) for text in SHOWN])
    p = {name: ts.functional.softmax(model(ids, lengths)).detach().numpy() for name, model in models.items()}
    rows = [[f"{name + ':':14}", *text.split()] for text in SHOWN for name in p]
    values = [[0.5, *(0.5 + (p[name][i, :n, 6:].sum(1) - p[name][i, :n, 4:6].sum(1)) / 2)]
              for i, n in enumerate(lengths) for name in p]
    plot.words(rows, values, "red fruit, blue company, white neither or both alike", "tagging.png")
    print("what each word is taken for: tagging.png")


if __name__ == "__main__":
    main()
