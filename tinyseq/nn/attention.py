"""Attention: what a query takes from a memory of any length.

Each module maps queries (B, T, Q) and a memory (B, S, M) to contexts (B, T, M) and weights (B, T, S). `mask` (B, S) is
boolean: True takes part. `keys` is what of the memory the scores look at, computed once however often it is asked.
"""

from __future__ import annotations

import math

import numpy as np

from tinyseq import functional, ops
from tinyseq.nn import init
from tinyseq.nn.layers import Linear
from tinyseq.nn.module import Module, Parameter
from tinyseq.tensor import Like, Tensor


class Attention(Module):
    """The frame that all attentions share: a softmax of scores, and the mean of the memory under it."""

    def keys(self, memory: Tensor) -> Tensor:
        """(B, S, M) -> (B, S, K)."""
        return memory

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        """(B, T, Q), (B, S, K) -> (B, T, S)."""
        raise NotImplementedError(f"{type(self).__name__} has no scores method")

    def forward(
        self, query: Tensor, memory: Tensor, mask: Like = None, keys: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        if query.ndim != 3 or memory.ndim != 3 or query.shape[0] != memory.shape[0]:
            raise ValueError(f"{type(self).__name__}: expected queries (B, T, Q) and memory (B, S, M), got shapes "
                             f"{query.shape} and {memory.shape}")
        if mask is not None:
            mask = ops.like(memory, mask)
            if mask.dtype != np.bool or mask.shape != memory.shape[:2]:
                raise ValueError(f"{type(self).__name__}: expected a boolean mask (B, S) = {memory.shape[:2]}, True "
                                 f"where a position takes part, got shape {mask.shape} and dtype {mask.dtype}")
            mask = mask[:, None]
        scores = self.scores(query, self.keys(memory) if keys is None else keys)
        weights = functional.softmax(scores, -1, mask)
        return weights @ memory, weights


class DotAttention(Attention):
    """score = q . k, with k the memory itself if it is as wide as the query, else W m ("general", Luong et al. 2015).

    `scale` divides the scores by sqrt(Q), as in the Transformer.
    """

    def __init__(self, query_size: int, memory_size: int, projected: bool | None = None, scale: bool = False) -> None:
        projected = query_size != memory_size if projected is None else projected
        if not projected and query_size != memory_size:
            raise ValueError(f"DotAttention: queries of {query_size} and memory of {memory_size} features have no dot "
                             "product: pass projected=True")
        self.projection = Linear(memory_size, query_size, bias=False) if projected else None
        self.scale = 1 / math.sqrt(query_size) if scale else 1.0

    def keys(self, memory: Tensor) -> Tensor:
        return memory if self.projection is None else self.projection(memory)

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        return (query if self.scale == 1 else query * self.scale) @ keys.mT


class AdditiveAttention(Attention):
    """score = v . tanh(W q + U m), the small network of Bahdanau et al. 2015."""

    def __init__(self, query_size: int, memory_size: int, hidden_size: int) -> None:
        self.query = Linear(query_size, hidden_size, bias=False)
        self.memory = Linear(memory_size, hidden_size)
        bound = 1 / math.sqrt(hidden_size)
        self.v = init.uniform_(Parameter(ops.zeros((hidden_size,))), -bound, bound)

    def keys(self, memory: Tensor) -> Tensor:
        keys: Tensor = self.memory(memory)
        return keys

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        return ops.tanh(ops.expand_dims(self.query(query), 2) + ops.expand_dims(keys, 1)) @ self.v
