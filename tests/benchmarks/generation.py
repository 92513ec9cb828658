"""Tokens a second, generated one by one: `python tests/benchmarks/generation.py [--quick] [--cpu]`.

The same GPT-2-like model with a cache of keys and values, batch 1, float32, in tinyseq and in PyTorch's eager mode,
both written as a user would, at (layers, width) = (4, 128), (6, 384) and (12, 768): 32 tokens after a prompt of 64, of
a vocabulary of 1,000. Beside them the floor: NumPy's products of a token's vectors with all the weights, and nothing
else. Processes take turns, with the threads that each takes by itself, or as OMP_NUM_THREADS says; each figure is the
median over processes of their medians. The aim: at least twice PyTorch's. Takes one to five minutes, with `--quick`,
two short rounds, less than one.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

SIZES = ((4, 128), (6, 384), (12, 768))
VOCABULARY, PROMPT, TOKENS = 1000, 64, 32


def tinyseq(layers: int, width: int) -> Callable[..., Any]:
    import numpy as np

    from tinyseq import decode, nn

    model = nn.LanguageModel(VOCABULARY, width, width // 32 if width < 768 else 12, layers, 4 * width,
                             activation="gelu_tanh").eval()
    prompt = np.arange(PROMPT + 1)[None]

    def generate(clock: Callable[[], float]) -> Any:
        state, start = model.start(prompt[:, :-1]), clock()
        return decode.greedy(model, state, prompt[:, -1], -1, TOKENS)[0].tokens, start

    return generate


def products(layers: int, width: int) -> Callable[..., Any]:
    import numpy as np

    shapes = [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width)] * layers
    weights = [np.full(shape, 0.01, np.float32) for shape in [*shapes, (VOCABULARY, width)]]
    vectors = {n: np.ones((1, n), np.float32) for n in (width, 4 * width)}

    def generate(clock: Callable[[], float]) -> Any:
        start = clock()
        for _ in range(TOKENS):
            for weight in weights:
                vectors[weight.shape[1]].dot(weight.T)
        return range(TOKENS), start

    return generate


def pytorch(layers: int, width: int) -> Callable[..., Any]:
    import torch
    from torch import nn
    from torch.nn import functional as F

    heads = width // 32 if width < 768 else 12

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
            self.linear1, self.linear2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, x: Any, cache: Any, n: int) -> Any:
            batch, steps, _ = x.shape
            q, k, v = (a.view(batch, steps, heads, -1).transpose(1, 2) for a in self.qkv(self.norm1(x)).chunk(3, -1))
            cache[0][:, :, n : n + steps], cache[1][:, :, n : n + steps] = k, v
            y = F.scaled_dot_product_attention(q, cache[0][:, :, : n + steps], cache[1][:, :, : n + steps],
                                               is_causal=steps > 1)
            x = x + self.out(y.transpose(1, 2).reshape(batch, steps, -1))
            return x + self.linear2(F.gelu(self.linear1(self.norm2(x)), approximate="tanh"))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.positions = nn.Embedding(VOCABULARY, width), nn.Embedding(1024, width)
            self.layers, self.norm = nn.ModuleList(Layer() for _ in range(layers)), nn.LayerNorm(width)

        def forward(self, ids: Any, caches: Any, n: int) -> Any:
            x = self.embedding(ids) + self.positions(torch.arange(n, n + ids.shape[1]))
            for layer, cache in zip(self.layers, caches, strict=True):
                x = layer(x, cache, n)
            return F.linear(self.norm(x[:, -1]), self.embedding.weight)

    model, prompt = Model().eval(), torch.arange(PROMPT + 1)[None]

    @torch.inference_mode()
    def generate(clock: Callable[[], float]) -> Any:
        caches = [[torch.zeros(1, heads, PROMPT + TOKENS, width // heads) for _ in range(2)] for _ in range(layers)]
        model(prompt[:, :-1], caches, 0)
        start, last, tokens = clock(), prompt[:, -1:], []
        for n in range(PROMPT, PROMPT + TOKENS):
            last = model(last, caches, n).argmax(-1, keepdim=True)
            tokens.append(last.item())
        return tokens, start

    return generate


def measure(name: str, seconds: float, clock: Callable[[], float]) -> None:
    """Median milliseconds a token of one library at each size, each measured for some seconds, on one line."""
    for size in SIZES:
        generate: Any = globals()[name](*size)
        generate(clock)
        times, began = list[float](), time.perf_counter()
        while not times or time.perf_counter() - began < seconds:
            tokens, start = generate(clock)
            times.append((clock() - start) / TOKENS * 1000)
            assert len(tokens) == TOKENS
        print(statistics.median(times), end=" ", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two short rounds")
    parser.add_argument("--rounds", type=int, default=5, help="processes of each library (5)")
    parser.add_argument("--measure", choices=("tinyseq", "pytorch", "products"), help=argparse.SUPPRESS)
    parser.add_argument("--cpu", action="store_true", help="processor time, for a busy machine and OMP_NUM_THREADS=1")
    options = parser.parse_args()
    if options.measure:
        clock = time.process_time if options.cpu else time.perf_counter
        return measure(options.measure, 0.3 if options.quick else 1.0, clock)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"{os.environ.get('OMP_NUM_THREADS', cores)} threads, {cores} cores")
    found: dict[str, list[list[float]]] = {"tinyseq": [], "pytorch": [], "products": []}
    for _ in range(2 if options.quick else options.rounds):
        for name in found:
            done = subprocess.run([sys.executable, *sys.argv, "--measure", name],
                                  stdout=subprocess.PIPE, text=True, check=True)
            found[name].append([float(word) for word in done.stdout.split()])
    print("layers  width   ms a token: tinyseq   PyTorch   products alone   tinyseq tokens/s   PyTorch / tinyseq")
    for (layers, width), *columns in zip(SIZES, *(zip(*rows, strict=True) for rows in found.values()), strict=True):
        ours, theirs, floor = (statistics.median(column) for column in columns)
        print(f"{layers:6} {width:6} {ours:21.3f} {theirs:9.3f} {floor:16.3f} {1000 / ours:18.0f}"
              f"{theirs / ours:20.2f}")


if __name__ == "__main__":
    main()
