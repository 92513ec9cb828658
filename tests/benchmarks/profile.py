"""What `ts.profile` costs, and whether its figures are true: `python tests/benchmarks/profile.py [rounds]`.

A training step of the model of examples/pronounce.py (batch 64, kernels of milliseconds) and one of many small ops (an
LSTM of 8 units, step by step), each bare and inside the profile by turns: the ratio of the wall times, the share of it
that the profile says is its own, and the ratio of what is left to the bare step. What that is above 1 is the profile's
cost that is not taken off, 2 to 3 us for each op and pull-back, which counts as Python. The last figure is that of a
step after the profile over one before: 1.
"""

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import tinyseq as ts
from tinyseq import functional, nn, optim


def training(model: nn.Module, loss: Callable[[], Any]) -> Callable[[], None]:
    optimizer = optim.Adam(model.parameters(), lr=1e-4)

    def step() -> None:
        value = loss()
        optimizer.zero_grad()
        value.backward()
        optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def large() -> Callable[[], None]:
    model = nn.EncoderDecoder(nn.Embedding(30, 64), nn.GRU(64, 128, bidirectional=True),
                              nn.AttentionDecoder(42, 64, 256, nn.DotAttention(256, 256), 256))
    letters, lengths, phonemes = np.ones((64, 9), int), np.full(64, 9), np.ones((64, 9), int)
    return training(model, lambda: functional.cross_entropy(model(letters, lengths, phonemes[:, :-1]), phonemes[:, 1:]))


def small() -> Callable[[], None]:
    cell, x = nn.LSTMCell(8, 8), ts.ones((20, 4, 8))

    def loss() -> Any:
        state = None
        for t in range(20):
            state = cell(x[t], state)
        return state[0].sum()

    return training(cell, loss)


def seconds(step: Callable[[], None], n: int) -> float:
    began = time.perf_counter()
    for _ in range(n):
        step()
    return (time.perf_counter() - began) / n


def main(rounds: int) -> None:
    print("step     bare ms   with / bare   own share   left / bare   after / before")
    for name, step, n in (("large", large(), 5), ("small", small(), 20)):
        seconds(step, n)
        first = min(seconds(step, n) for _ in range(rounds))
        bare, ratios, own, left = [], [], [], []
        for _ in range(rounds):
            bare.append(seconds(step, n))
            with ts.profile() as profile:
                watched = seconds(step, n)
            ratios.append(watched / bare[-1])
            own.append(profile.spent / profile.wall)
            left.append((profile.wall - profile.spent) / n / 1e9 / bare[-1])
        after = min(seconds(step, n) for _ in range(rounds)) / first
        print(f"{name} {1e3 * min(bare):11.2f} {statistics.median(ratios):13.2f} {statistics.median(own):11.3f} "
              f"{statistics.median(left):13.2f} {after:16.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 7)
