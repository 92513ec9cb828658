"""Contexts, the attention of a recurrent decoder to its memory; that between all positions is in nn/multihead.py.

A context is what a decoder takes from a memory of any length, by attention or as one fixed summary.
Each module maps queries (B, T, Q) and a memory (B, S, M) to contexts (B, T, C) and weights (B, T, S), or None where it
has no weights. The memory may be an encoder's outputs, the frames of a sound or the regions of an image; `mask` (B, S)
is boolean, True where a position takes part. `keys` is what of the memory is computed once, however often it is asked.
"""

from __future__ import annotations

import math
from typing import Any

from tinyseq import check, functional
from tinyseq.engine import ops
from tinyseq.engine.tensor import Like, Tensor
from tinyseq.nn import init
from tinyseq.nn.layers import Linear
from tinyseq.nn.masks import masked_memory, vectors
from tinyseq.nn.module import Module, Parameter
from tinyseq.nn.multihead import MultiheadAttention


class Attention(Module):
    """The frame that all contexts share. An attention: a softmax of scores, and the mean of the memory under it."""

    context_size: int | None = None  # features C of a context, where they are not the memory's
    fixed = False  # whether the context is the same for every query

    def keys(self, memory: Tensor, mask: Tensor | None = None) -> Any:
        """(B, S, M) -> what `attend` looks at beside the memory: a Tensor or a tuple of Tensors, the batch first."""
        return memory

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        """(B, T, Q), (B, S, K) -> (B, T, S)."""
        raise NotImplementedError(f"{type(self).__name__} has no scores method")

    def attend(self, query: Tensor, memory: Tensor, mask: Tensor | None, keys: Any) -> tuple[Tensor, Tensor | None]:
        """Contexts (B, T, C) and weights (B, T, S): `forward`, with the mask checked and the keys computed."""
        weights = functional.softmax(self.scores(query, keys), -1, None if mask is None else mask[:, None])
        return weights @ memory, weights

    def forward(self, query: Tensor, memory: Tensor, mask: Like = None,
                keys: Any = None) -> tuple[Tensor, Tensor | None]:
        query = vectors(type(self).__name__, None, query=query)
        memory, mask = masked_memory(type(self).__name__, memory, mask)
        if query.shape[0] != memory.shape[0]:
            raise ValueError(f"{type(self).__name__}: expected queries (B, T, Q) and memory (B, S, M), got shapes "
                             f"{query.shape} and {memory.shape}")
        return self.attend(query, memory, mask, self.keys(memory, mask) if keys is None else keys)


class DotAttention(Attention):
    """score = q . k, with k the memory itself if it is as wide as the query, else W m ("general", Luong et al. 2015).

    `scale` divides the scores by sqrt(Q), as in the Transformer.
    """

    def __init__(self, query_size: int, memory_size: int, projected: bool | None = None, scale: bool = False) -> None:
        query_size, memory_size = check.integers("DotAttention", 1, query_size=query_size, memory_size=memory_size)
        projected = query_size != memory_size if projected is None else projected
        if not projected and query_size != memory_size:
            raise ValueError(f"DotAttention: queries of query_size {query_size} and memory of memory_size {memory_size}"
                             " have no dot product: pass projected=True")
        self.projection = Linear(memory_size, query_size, bias=False) if projected else None
        self.scale = 1 / math.sqrt(query_size) if scale else 1.0

    def keys(self, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        return memory if self.projection is None else self.projection(memory)

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        return (query if self.scale == 1 else query * self.scale) @ keys.mT


class AdditiveAttention(Attention):
    """score = v . tanh(W q + U m), the small network of Bahdanau et al. 2015."""

    def __init__(self, query_size: int, memory_size: int, hidden_size: int) -> None:
        query_size, memory_size, hidden_size = check.integers(
            "AdditiveAttention", 1, query_size=query_size, memory_size=memory_size, hidden_size=hidden_size)
        self.query = Linear(query_size, hidden_size, bias=False)
        self.memory = Linear(memory_size, hidden_size)
        bound = 1 / math.sqrt(hidden_size)
        self.v = init.uniform_(Parameter(ops.zeros((hidden_size,))), -bound, bound)

    def keys(self, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        keys: Tensor = self.memory(memory)
        return keys

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        return ops.tanh(ops.expand_dims(self.query(query), 2) + ops.expand_dims(keys, 1)) @ self.v


def _total(which: Tensor, memory: Tensor) -> Tensor:
    """The sum (B, M) of the positions of memory (B, S, M) where `which` (B, S) is True."""
    return ops.sum(ops.where(ops.expand_dims(which, 2), memory, 0.0), 1)


class FixedContext(Attention):
    """One vector for the whole memory, the same for every query: c = q(h_1 ... h_m), without weights.

    `pool` makes one vector h of the positions that take part:
        "last"  h = h_m, the last one (Cho et al. 2014, Sutskever et al. 2014)
        "both"  the last one's first half and the first one's second half: where the two directions of a
                bidirectional encoder end (Bahdanau et al. 2015)
        "mean"  h = 1/m sum_j h_j
        "max"   the largest entry of each feature (Collobert & Weston 2008)
    Then c = h, or c = tanh(W h + b) of `size` features if that is given (Cho et al. 2014, appendix A.1.1). Where no
    position takes part h is 0.
    """

    fixed = True

    def __init__(self, memory_size: int, pool: str = "last", size: int | None = None) -> None:
        memory_size = check.integers("FixedContext", 1, memory_size=memory_size)
        size = None if size is None else check.integers("FixedContext", 1, size=size)
        check.choice("FixedContext", ("last", "both", "mean", "max"), pool=pool)
        if pool == "both" and memory_size % 2:
            raise ValueError(f"FixedContext: expected an even memory_size with pool='both', got {memory_size}")
        self.pool, self.context_size = pool, size
        self.projection = None if size is None else Linear(memory_size, size)

    def keys(self, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, S, M) -> c (B, C)."""
        real = ops.ones_like(memory[:, :, 0], bool) if mask is None else mask  # (B, S)
        h = self._pooled(memory, real)
        return h if self.projection is None else ops.tanh(self.projection(h))

    def _pooled(self, memory: Tensor, real: Tensor) -> Tensor:
        count, total = ops.cumulative_sum(real, 1), ops.sum(real, 1, keepdims=True)
        if self.pool == "mean":
            return _total(real, memory) / ops.maximum(total, 1).astype(memory.dtype)
        if self.pool == "max":
            taken = ops.where(ops.expand_dims(real, 2), memory, -math.inf)
            taken = ops.pad(taken, [(0, 0), (0, 1), (0, 0)], -math.inf)  # of no position, too, there is a largest
            return ops.where(total > 0, ops.max(taken, 1), 0.0)
        half = memory.shape[2] // (2 if self.pool == "both" else 1)
        last, first = real & (count == total), real & (count == 1)
        return ops.concat([_total(last, memory[:, :, :half]), _total(first, memory[:, :, half:])], -1)

    def attend(self, query: Tensor, memory: Tensor, mask: Tensor | None, keys: Tensor) -> tuple[Tensor, None]:
        return ops.broadcast_to(ops.expand_dims(keys, 1), (*query.shape[:2], keys.shape[1])), None


class MultiheadContext(Attention):
    """Scaled query-key-value attention in `num_heads` heads (Vaswani et al. 2017, equation 1 and section 3.2.2).

    Q = W_q s, K = W_k m, V = W_v m, each cut into heads of d features, head_i = softmax(Q_i K_i^T / sqrt(d)) V_i,
    c = W_o [head_1; ...; head_n], of `query_size` features. The parameters are those of a `MultiheadAttention` without
    biases; the weights are the mean over its heads.
    """

    def __init__(self, query_size: int, memory_size: int, num_heads: int = 1) -> None:
        query_size, memory_size, num_heads = check.integers(
            "MultiheadContext", 1, query_size=query_size, memory_size=memory_size, num_heads=num_heads)
        if query_size % num_heads:
            raise ValueError("MultiheadContext: expected query_size to be a multiple of num_heads, got "
                             f"{query_size} and {num_heads}")
        self.context_size = query_size
        self.multihead = MultiheadAttention(query_size, num_heads, bias=False, kdim=memory_size, vdim=memory_size)

    def _project(self, x: Tensor, part: int) -> Tensor:
        """The heads' queries (part 0), keys (1) or values (2): (B, S, .) -> (B, heads, S, d)."""
        return self.multihead.heads(functional.linear(x, *self.multihead.parts()[part]))

    def keys(self, memory: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self._project(memory, 1), self._project(memory, 2)

    def attend(self, query: Tensor, memory: Tensor, mask: Tensor | None, keys: Any) -> tuple[Tensor, Tensor]:
        key, value = keys
        mask = None if mask is None else mask[:, None, None]
        weights = functional.attention_weights(self._project(query, 0), key, mask)  # (B, heads, T, S)
        found = ops.reshape(ops.permute_dims(weights @ value, (0, 2, 1, 3)), query.shape)
        return self.multihead.out_proj(found), ops.mean(weights, 1)
