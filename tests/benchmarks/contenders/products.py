"""Matrix products alone, those that a layer cannot do without: the floor of its time."""

from collections.abc import Callable
from typing import Any

import numpy as np

import contenders as given


def products(*sizes: tuple[int, int, int, int]) -> Callable[[], Any]:
    """Calls of (count, n, k, m): count products of (n, k) and (k, m), each into the same memory."""
    every = [(count, np.ones((n, k), np.float32), np.ones((m, k), np.float32).T, np.empty((n, m), np.float32))
             for count, n, k, m in sizes]

    def call() -> Any:
        for count, a, b, c in every:
            for _ in range(count):
                np.matmul(a, b, c)
        return []

    return call


def recurrent(cell: str, batch: int, steps: int, width: int, hidden: int) -> Callable[[], Any]:
    n, rows = given.GATES[cell] * hidden, batch * steps
    return products((1, rows, width, n), (1, rows, n, width), (1, n, rows, width),          # of the input and back
                    (steps, batch, hidden, n), (steps, batch, n, hidden), (1, n, rows, hidden))


def transformer(batch: int, steps: int, width: int, heads: int) -> Callable[[], Any]:
    rows, head = batch * steps, width // heads
    sizes = [(rows, width, 3 * width), (rows, width, width), (rows, width, 4 * width), (rows, 4 * width, width)]
    forward_and_back = [(2, *turned) for n, k, m in sizes for turned in ((n, k, m), (n, m, k), (m, n, k))]
    attention = [(2 * batch * heads, *s) for s in ((steps, head, steps), (steps, steps, head))]
    return products(*forward_and_back, *attention, *attention, *attention)


def generation(layers: int, width: int) -> Callable[[], Any]:
    sizes = [(1, width, 3 * width), (1, width, width), (1, width, 4 * width), (1, 4 * width, width)] * layers
    weights = [np.full(size[::-1], 0.01, np.float32) for _, *size in [*sizes, (1, width, given.VOCABULARY)]]
    vectors = {n: np.ones((1, n), np.float32) for n in (width, 4 * width)}

    def call() -> Any:
        for _ in range(given.TOKENS):
            for w in weights:
                vectors[w.shape[1]].dot(w.T)
        return []

    return call
