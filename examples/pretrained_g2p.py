"""Do released weights run here unchanged? g2p_en 2.1.0 pronounces words as it does by itself, but faster.

g2p_en (Kyubyong Park & Jongseok Kim, Apache-2.0) is an encoder-decoder without attention (Sutskever et al. 2014): a GRU
reads the letters, and its last state is all that the GRU which writes the phonemes gets to know. The weights were
trained in PyTorch; the package runs them in NumPy, a word at a time. The wheel is all that is needed, and read only:

    pip download g2p_en==2.1.0 --no-deps
    python examples/pretrained_g2p.py --wheel g2p_en-2.1.0-py3-none-any.whl --words "knightly gnocchi"
"""

import argparse
import io
import re
import sys
import time
import zipfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from types import ModuleType
from unittest import mock
from _commands import command

import numpy as np

import tinyseq as ts
from tinyseq import data, decode, nn

LETTERS = {letter: i for i, letter in enumerate("abcdefghijklmnopqrstuvwxyz", start=3)}
UNKNOWN, STOP = 1, 2                    # ids of letters
START, END, LIMIT = 2, 3, 20            # ids of phonemes, and the most that a word gets


def read_package(wheel: str = "") -> tuple[dict[str, np.ndarray], str]:
    """The package's weights by name, and its source: from a wheel, or as it is installed."""
    names = "g2p_en/checkpoint20.npz", "g2p_en/g2p.py"
    if wheel:
        with zipfile.ZipFile(wheel) as file:
            weights, source = (file.read(name) for name in names)
    else:
        weights, source = (Path(distribution("g2p_en").locate_file(name)).read_bytes() for name in names)
    return dict(np.load(io.BytesIO(weights))), source.decode()


def build_model(weights: dict[str, np.ndarray]) -> nn.EncoderDecoder:
    """The layers that the weights fit, with the weights in them: only names change."""
    letters, width = weights["enc_emb"].shape
    hidden = weights["enc_w_hh"].shape[1]
    decoder = nn.AttentionDecoder(len(weights["dec_emb"]), width, hidden, attention=None)
    model = nn.EncoderDecoder(nn.Embedding(letters, width), nn.GRU(width, hidden), decoder)
    names = {"embedding.weight": "enc_emb", "decoder.embedding.weight": "dec_emb",
             "decoder.out.weight": "fc_w", "decoder.out.bias": "fc_b"}
    for ours, theirs in (("encoder", "enc"), ("decoder.rnn", "dec")):
        for kind in ("weight", "bias"):
            names |= {f"{ours}.{kind}_{side}_l0": f"{theirs}_{kind[0]}_{side}" for side in ("ih", "hh")}
    model.load_state_dict({ours: ts.tensor(weights[theirs]) for ours, theirs in names.items()})
    return model.eval()


@ts.no_grad()
def pronounce(model: nn.EncoderDecoder, words: list[str], batch: int = 256) -> list[list[int]]:
    """Ids of each word's phonemes: words of about the same length at a time."""
    ids = [[*(LETTERS.get(letter, UNKNOWN) for letter in word), STOP] for word in words]
    spoken = {}
    for rows in data.batches([len(word) for word in ids], batch):
        state = model.encode(*data.pad([ids[i] for i in rows]))
        spoken |= zip(rows, decode.greedy(model.decoder, state, START, END, LIMIT))
    return [spoken[i].tokens for i in range(len(words))]


def original(source: str, weights: dict[str, np.ndarray]) -> object:
    """The package's own G2p, with stand-ins for what it imports but does not need to pronounce unknown words."""
    absent = {name: mock.MagicMock() for name in ("nltk", "nltk.corpus", "nltk.tokenize", "g2p_en", "g2p_en.expand")}
    module = ModuleType("g2p_en.g2p")
    module.__dict__.update(__package__="g2p_en", __file__="g2p_en/g2p.py")
    source = source.replace(r'"[^ a-z', r'r"[^ a-z')        # an escape that Python warns of
    with mock.patch.dict(sys.modules, absent):
        exec(compile(source, "g2p_en/g2p.py", "exec"), module.__dict__)
    with mock.patch.object(module.np, "load", lambda path: weights), mock.patch.object(
            module, "construct_homograph_dictionary", dict):
        return module.G2p()


def some_words(count: int) -> list[str]:
    """Made of syllables, so that no dictionary is needed: the same ones each time."""
    draws = np.random.default_rng(0)
    starts, middles = "b ch d f gn h kn l m ph qu r s st t th wh z".split(), "a e i o u ee ea ou ai igh".split()
    ends = ["", "", "ck", "l", "n", "ng", "r", "st", "t", "tion"]
    return ["".join("".join(draws.choice(part) for part in (starts, middles, ends))
                    for _ in range(draws.integers(1, 5))) for _ in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheel", default="", help="the file; without it the package that is installed")
    parser.add_argument("--words", default="tinyseq ghoti blorptastic quizzaciously snazzlepants knightly gnocchi",
                        help="words to pronounce (some that are in no dictionary)")
    parser.add_argument("--count", type=int, default=1000, help="invented words to compare on (1000)")
    options = parser.parse_args()
    try:
        weights, source = read_package(options.wheel)
    except (PackageNotFoundError, FileNotFoundError):
        download = command(sys.executable, "-m", "pip", "download", "g2p_en==2.1.0", "--no-deps")
        parser.error(f"g2p_en is not here: {download}, then --wheel FILE")
    model, package = build_model(weights), original(source, weights)
    shown = re.findall("[a-z]+", options.words.lower())
    words = shown + some_words(options.count)
    began = time.perf_counter()
    ours = [[package.idx2p[i] for i in ids] for ids in pronounce(model, words)]
    between = time.perf_counter()
    theirs = [package.predict(word) for word in words]
    ended = time.perf_counter()
    print(f"{'':16} {'tinyseq':44} g2p_en")
    for word, a, b in zip(shown, ours, theirs):
        print(f"{word:16} {' '.join(a):44} {' '.join(b)}{'' if a == b else '   <- differs'}")
    same = sum(a == b for a, b in zip(ours, theirs))
    print(f"{same} of {len(words)} words alike")
    print(f"words a second: tinyseq {len(words) / (between - began):.0f}, g2p_en {len(words) / (ended - between):.0f}")


if __name__ == "__main__":
    main()
