"""What does a decoder know of a long word when all it has is one vector, and when it may look back?

An encoder reads the letters of a word, h_1 ... h_m = biGRU(x_1 ... x_m), and a decoder writes its phonemes,
s_t = GRU([E y_{t-1}; c_t], s_{t-1}), p(y_t) = softmax(W_o tanh(W_c [c_t; s_t])), s_0 = 0. All that it knows of the word
is the context c_t, and that alone differs among five models, which see the same batches:

    h_m            c_t = h_m, where the two directions end                  (compare Sutskever et al. 2014)
    q(h_m)         c_t = tanh(W h_m + b)                                    (Cho et al. 2014, appendix A.1.1)
    q(h_1...h_m)   c_t = tanh(W 1/m sum_j h_j + b)
    additive       c_t = sum_j a_tj h_j,
                   a_t = softmax_j(v . tanh(W s_{t-1} + U h_j))             (Bahdanau et al. 2015, equations 5 and 6)
    multi-head     Q = W_q s_{t-1}, K = W_k h, V = W_v h in four heads,
                   head = softmax(Q K^T / sqrt(d)) V, c_t = W_o [heads]     (Vaswani et al. 2017, equation 1)

The loss is minus the mean of log p(y | x). After ten minutes on a CPU the errors on words never seen stand against
their length: one vector is soon full, attention looks again. The data is the CMU Pronouncing Dictionary.

    python examples/contexts.py
"""

import argparse
import math
import time
from itertools import count
import _commands  # noqa: F401 - which hears Ctrl-C from here on

import numpy as np
from pronounce import LETTERS, PHONEMES, part, read_dictionary

import tinyseq as ts
from tinyseq import data, decode, logs, metrics, nn, optim, plot

WIDTH = 128                                                             # of h_j, c_t and s_t
CONTEXTS = {
    "h_m": lambda: nn.FixedContext(WIDTH, "both"),
    "q(h_m)": lambda: nn.FixedContext(WIDTH, "both", WIDTH),
    "q(h_1...h_m)": lambda: nn.FixedContext(WIDTH, "mean", WIDTH),
    "additive": lambda: nn.AdditiveAttention(WIDTH, WIDTH, WIDTH),
    "multi-head": lambda: nn.MultiheadContext(WIDTH, WIDTH, num_heads=4),
}
BUCKETS = [(3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 20)]    # letters, from and to


class Speller(nn.Module):
    """Letters to phonemes through one of the contexts."""

    def __init__(self, context: nn.Attention, embedding: int = 64) -> None:
        self.embedding = nn.Embedding(len(LETTERS), embedding)
        self.encoder = nn.GRU(embedding, WIDTH // 2, bidirectional=True)
        self.decoder = nn.AttentionDecoder(len(PHONEMES), embedding, WIDTH, context, WIDTH, feed="context")

    def encode(self, letters: np.ndarray, lengths: np.ndarray) -> nn.DecoderState:
        memory, _ = self.encoder(self.embedding(letters), lengths=lengths)     # (batch, letters, WIDTH)
        return self.decoder.start(memory, mask=nn.length_mask(lengths, letters.shape[1]))

    def forward(self, letters: np.ndarray, lengths: np.ndarray, phonemes: np.ndarray) -> ts.Tensor:
        return self.decoder(phonemes, self.encode(letters, lengths))           # (batch, phonemes, vocabulary)


def train(models: dict[str, Speller], words: dict, seconds: float, batch: int = 64, peak: float = 3e-3) -> int:
    """All models learn from one batch after another until the time is over, or Ctrl-C; how many batches that were."""
    known = {word: spoken for word, spoken in words.items() if part(word) == "train"}
    sources = [LETTERS.encode(word) for word in known]
    targets = [[PHONEMES.start, *PHONEMES.encode(spoken[0]), PHONEMES.end] for spoken in known.values()]
    lengths = [(len(s), len(t)) for s, t in zip(sources, targets)]
    optimizers = {name: optim.Adam(model.parameters(), lr=peak) for name, model in models.items()}
    bar = logs.progress(total=seconds)
    losses, updates, spent, began = dict.fromkeys(models, 4.0), 0, 0.0, time.perf_counter()
    for rows in (rows for epoch in count() for rows in data.batches(lengths, batch, seed=(0, epoch))):
        letters, sizes = data.pad([sources[i] for i in rows])       # (batch, letters), (batch,)
        phonemes, _ = data.pad([targets[i] for i in rows])          # (batch, start + phonemes + end)
        for name, model in models.items():
            logits = model(letters, sizes, phonemes[:, :-1])
            loss = ts.functional.cross_entropy(logits, phonemes[:, 1:], ignore_index=PHONEMES.pad)
            optimizers[name].zero_grad()
            loss.backward()
            optim.clip_grad_norm_(model.parameters(), 1.0)
            done = spent / seconds                                  # rise for 2% of the time, then a cosine
            optimizers[name].lr = peak * min(1, 50 * done) * (1 + math.cos(math.pi * done)) / 2
            optimizers[name].step()
            losses[name] += 0.02 * (loss.item() - losses[name])
        updates, spent = updates + 1, min(time.perf_counter() - began, seconds)
        bar.set_postfix_str("loss " + "  ".join(f"{n} {l:.2f}" for n, l in losses.items()), refresh=False)
        bar.update(spent - bar.n)
        if spent == seconds or bar.stopped:
            break
    bar.close()
    return updates


@ts.no_grad()
def error_rate(model: Speller, words: dict) -> float:
    """Edits per phoneme, in percent, against the nearest of each word's pronunciations."""
    model.eval()
    spoken, right = [], []
    for rows in np.array_split(sorted(words, key=len), math.ceil(len(words) / 512)):
        state = model.encode(*data.pad([LETTERS.encode(word) for word in rows]))
        found = decode.greedy(model.decoder, state, PHONEMES.start, PHONEMES.end, max_length=25)
        spoken += [PHONEMES.decode(h.tokens) for h in found]
        right += [words[word] for word in rows]
    model.train()
    return 100 * metrics.token_error_rate(spoken, right)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=560, help="how long to learn, all five together (560)")
    parser.add_argument("--quick", action="store_true", help="a minute: less learnt, the same picture in outline")
    options = parser.parse_args()
    if not 0 < options.seconds < math.inf:
        parser.error(f"--seconds must be a number above 0, not {options.seconds}")
    words = read_dictionary()
    test = {f"{low}-{high}": {w: words[w] for w in words if part(w) == "test" and low <= len(w) <= high}
            for low, high in BUCKETS}
    test = {letters: bucket for letters, bucket in test.items() if bucket}
    ts.manual_seed(0)
    models = {name: Speller(make()) for name, make in CONTEXTS.items()}
    updates = train(models, words, 50 if options.quick else options.seconds)

    rates = {name: [error_rate(model, bucket) for bucket in test.values()] for name, model in models.items()}
    print(f"phoneme error rate in percent after {updates} batches, on test words by their number of letters\n")
    print(f"{'letters':>14}", *(f"{letters:>6}" for letters in test))
    print(f"{'words':>14}", *(f"{len(bucket):6}" for bucket in test.values()))
    for name, row in rates.items():
        print(f"{name:>14}", *(f"{rate:6.1f}" for rate in row))
    fixed, looking = (min(rates[name][-1] for name in names) for names in (list(rates)[:3], list(rates)[3:]))
    print(f"\nwords of {[*test][-1]} letters: {looking:.1f}% with attention, {fixed:.1f}% with one vector (baseline)")
    middles = [np.mean([len(word) for word in bucket]) for bucket in test.values()]
    curves = {name: (middles, row) for name, row in rates.items()}
    plot.curves({"phoneme error rate, %": curves}, "letters in the word", "contexts.png")
    print("error against length: contexts.png")


if __name__ == "__main__":
    main()
