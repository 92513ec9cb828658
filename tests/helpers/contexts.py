"""Contexts of every kind, small, as tests of contexts and of decoders use them."""

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from tinyseq import nn

V, E, H, M = 7, 3, 6, 4  # vocabulary, embedding, hidden state, memory
CONTEXTS: dict[str, Callable[[], Any]] = {
    "dot": lambda: nn.DotAttention(H, H, scale=True), "general": lambda: nn.DotAttention(H, M),
    "additive": lambda: nn.AdditiveAttention(H, M, 5), "multi-head": lambda: nn.MultiheadContext(H, M, 2),
    "last": lambda: nn.FixedContext(M), "q(both)": lambda: nn.FixedContext(M, "both", 5),
    "mean": lambda: nn.FixedContext(M, "mean"), "q(max)": lambda: nn.FixedContext(M, "max", 3)}
FIXED = ["last", "q(both)", "mean", "q(max)"]

sizes = st.tuples(st.integers(1, 3), st.sampled_from([3, 0, 1]), st.sampled_from([4, 0, 1]))  # batch, steps, positions


def width(name: str) -> int:
    """Features of the memory that the context `name` takes."""
    return H if name == "dot" else M
