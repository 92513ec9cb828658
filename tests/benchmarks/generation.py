"""Tokens a second, generated one by one: `python tests/benchmarks/generation.py [rounds]`.

The same GPT-2-like model with a cache of keys and values, batch 1, float32, in tinyseq and in PyTorch's eager mode,
both written as a user would, at (layers, width) = (4, 128), (6, 384) and (12, 768): 64 tokens after a prompt of 64, of
a vocabulary of 1,000. Processes take turns, with the threads that each takes by itself, or as OMP_NUM_THREADS says;
each figure is the median. The aim: at least twice PyTorch's.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

SIZES = ((4, 128), (6, 384), (12, 768))
VOCABULARY, PROMPT, TOKENS = 1000, 64, 64


def tinyseq(layers: int, width: int) -> Callable[[], Any]:
    import numpy as np

    from tinyseq import decode, nn

    model = nn.LanguageModel(VOCABULARY, width, width // 32 if width < 768 else 12, layers, 4 * width,
                             activation="gelu_tanh").eval()
    prompt = np.arange(PROMPT + 1)[None]

    def generate() -> Any:
        state = model.start(prompt[:, :-1])
        generate.start = time.perf_counter()  # type: ignore[attr-defined]
        return decode.greedy(model, state, prompt[:, -1], -1, TOKENS)[0].tokens

    return generate


def pytorch(layers: int, width: int) -> Callable[[], Any]:
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
    def generate() -> Any:
        caches = [[torch.zeros(1, heads, PROMPT + TOKENS, width // heads) for _ in range(2)] for _ in range(layers)]
        model(prompt[:, :-1], caches, 0)
        generate.start = time.perf_counter()  # type: ignore[attr-defined]
        last, tokens = prompt[:, -1:], []
        for n in range(PROMPT, PROMPT + TOKENS):
            last = model(last, caches, n).argmax(-1, keepdim=True)
            tokens.append(last.item())
        return tokens

    return generate


def measure(name: str) -> None:
    """Milliseconds a token of one library at each size, on one line."""
    best = []
    for size in SIZES:
        generate: Any = globals()[name](*size)
        times = []
        for _ in range(4 if size[1] < 768 else 2):
            assert len(generate()) == TOKENS
            times.append((time.perf_counter() - generate.start) / TOKENS * 1000)
        best.append(min(times))
    print(*best)


def main() -> None:
    found: dict[str, list[list[float]]] = {"tinyseq": [], "pytorch": []}
    for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 5):
        for name in found:
            done = subprocess.run([sys.executable, __file__, "--measure", name], capture_output=True, text=True,
                                  check=True)
            found[name].append([float(word) for word in done.stdout.split()])
    print("layers  width   tinyseq ms/token   PyTorch ms/token   tinyseq tokens/s   ratio")
    for (layers, width), *columns in zip(SIZES, *(zip(*rows, strict=True) for rows in found.values()), strict=True):
        ours, theirs = (statistics.median(column) for column in columns)
        print(f"{layers:6} {width:6} {ours:18.3f} {theirs:18.3f} {1000 / ours:18.0f} {theirs / ours:7.2f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(sys.argv[2])
    else:
        main()
