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
    """A softmax of scores, and the mean of the memory under it (Bahdanau et al. 2015, equations 5 and 6):

        α_tj = exp(score(q_t, k_j)) / Σ_j' exp(score(q_t, k_j'))      over the positions j that take part
        c_t  = Σ_j α_tj m_j

        attention(query, memory, mask=None) -> contexts, weights
        query (B, T, Q), memory (B, S, M), mask (B, S), True takes part -> contexts (B, T, C), weights (B, T, S)

    The base of all contexts. One of your own says its `scores`, and where they need more than the memory, `keys`:

    >>> class Near(nn.Attention):                             # what is near in space gets the weight
    ...     def scores(self, query, keys):                    # (B, T, Q), (B, S, Q) -> (B, T, S)
    ...         return -ts.sum(abs(query[:, :, None] - keys[:, None]), axis=-1)
    >>> query, memory = ts.random.normal((2, 3, 4)), ts.random.normal((2, 5, 4))
    >>> contexts, weights = Near()(query, memory, mask=nn.length_mask([5, 2], 5))
    >>> contexts.shape, weights.shape
    ((2, 3, 4), (2, 3, 5))
    >>> ts.all(weights[1, :, 2:] == 0), ts.all(abs(ts.sum(weights, axis=-1) - 1) < 1e-6)
    (tensor(True), tensor(True))

    Where no position takes part, the weights and the context are 0. Errors: ValueError for shapes that do not fit and
    for a mask that is not boolean (B, S).
    """

    query_size: int | None = None  # features Q and M that it takes, where it is only for them
    memory_size: int | None = None
    context_size: int | None = None  # features C of a context, where they are not the memory's
    fixed = False  # whether the context is the same for every query

    def keys(self, memory: Tensor, mask: Tensor | None = None) -> Any:
        """(B, S, M) -> what `attend` looks at beside the memory: a Tensor or a tuple of Tensors, the batch first."""
        return memory

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        """(B, T, Q), (B, S, K) -> (B, T, S)."""
        raise NotImplementedError(f"{type(self).__name__} has no scores method")

    def attend(self, query: Tensor, memory: Tensor, mask: Tensor | None, keys: Any) -> tuple[Tensor, Tensor | None]:
        """Contexts (B, T, C) and weights (B, T, S): `forward`, with the mask checked and the keys computed.

        >>> attention, query, memory = nn.DotAttention(4, 6), ts.ones((2, 3, 4)), ts.ones((2, 5, 6))
        >>> keys = attention.keys(memory)                     # once a memory
        >>> attention.scores(query, keys).shape
        (2, 3, 5)
        >>> contexts, weights = attention.attend(query, memory, None, keys)
        >>> contexts.shape, weights.shape
        ((2, 3, 6), (2, 3, 5))
        """
        weights = functional.softmax(self.scores(query, keys), -1, None if mask is None else mask[:, None])
        return weights @ memory, weights

    def forward(self, query: Tensor, memory: Tensor, mask: Like = None,
                keys: Any = None) -> tuple[Tensor, Tensor | None]:
        """query (B, T, Q), memory (B, S, M), mask (B, S) -> contexts (B, T, C), and weights (B, T, S) or None.

        `keys` is what `self.keys(memory, mask)` gave, to spare it where the same memory is asked again.
        """
        query = vectors(type(self).__name__, None, query=query)
        memory, mask = masked_memory(type(self).__name__, memory, mask)
        if query.shape[0] != memory.shape[0]:
            raise ValueError(f"{type(self).__name__}: expected queries (B, T, Q) and memory (B, S, M), got shapes "
                             f"{query.shape} and {memory.shape}")
        return self.attend(query, memory, mask, self.keys(memory, mask) if keys is None else keys)


class DotAttention(Attention):
    """score(q, m) = q · m, or q · W m, "dot" and "general" of Luong et al. 2015, section 3.1.

    W, `projection.weight` (query_size, memory_size), is there where the sizes differ, or with `projected=True`. `scale`
    divides the scores by sqrt(query_size), as in the Transformer. Shapes as of Attention, with C = memory_size.

    >>> attention = nn.DotAttention(query_size=4, memory_size=6)
    >>> query, memory = ts.random.normal((2, 3, 4)), ts.random.normal((2, 5, 6))
    >>> contexts, weights = attention(query, memory, mask=nn.length_mask([5, 2], 5))
    >>> contexts.shape, weights.shape, attention.projection.weight.shape
    ((2, 3, 6), (2, 3, 5), (4, 6))

    Raises ValueError for `projected=False` with sizes that differ.
    """

    def __init__(self, query_size: int, memory_size: int, projected: bool | None = None, scale: bool = False) -> None:
        self.query_size, self.memory_size = query_size, memory_size = check.integers(
            "DotAttention", 1, query_size=query_size, memory_size=memory_size)
        projected = query_size != memory_size if projected is None else projected
        if not projected and query_size != memory_size:
            raise ValueError(f"DotAttention: queries of query_size {query_size} and memory of memory_size {memory_size}"
                             " have no dot product: pass projected=True")
        self.projection = Linear(memory_size, query_size, bias=False) if projected else None
        self.scale = scale

    def keys(self, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        """memory (B, S, memory_size) -> (B, S, query_size): W m, or m itself."""
        return memory if self.projection is None else self.projection(memory)

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        """query (B, T, query_size), keys (B, S, query_size) -> q · k (B, T, S)."""
        return (query * (1 / math.sqrt(query.shape[-1])) if self.scale else query) @ keys.mT


class AdditiveAttention(Attention):
    """score(q, m) = v · tanh(W q + U m + b), the small network of Bahdanau et al. 2015, appendix A.1.2.

    W is `query.weight` (hidden_size, query_size), U `memory.weight` (hidden_size, memory_size), b `memory.bias`
    (hidden_size,), which the paper has not, and v `v` (hidden_size,). Shapes as of Attention, with C = memory_size.

    >>> attention = nn.AdditiveAttention(query_size=4, memory_size=6, hidden_size=8)
    >>> query, memory = ts.random.normal((2, 3, 4)), ts.random.normal((2, 5, 6))
    >>> contexts, weights = attention(query, memory, mask=nn.length_mask([5, 2], 5))
    >>> contexts.shape, weights.shape
    ((2, 3, 6), (2, 3, 5))
    """

    def __init__(self, query_size: int, memory_size: int, hidden_size: int) -> None:
        self.query_size, self.memory_size, self.hidden_size = check.integers(
            "AdditiveAttention", 1, query_size=query_size, memory_size=memory_size, hidden_size=hidden_size)
        self.query = Linear(query_size, hidden_size, bias=False)
        self.memory = Linear(memory_size, hidden_size)
        bound = 1 / math.sqrt(hidden_size)
        self.v = init.uniform_(Parameter(ops.zeros((hidden_size,))), -bound, bound)

    def keys(self, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        """memory (B, S, memory_size) -> U m + b (B, S, hidden_size)."""
        keys: Tensor = self.memory(memory)
        return keys

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        """query (B, T, query_size), keys (B, S, hidden_size) -> v · tanh(W q + k) (B, T, S)."""
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

        context(query, memory, mask=None) -> contexts, None
        query (B, T, Q), memory (B, S, memory_size), mask (B, S) -> contexts (B, T, memory_size or `size`), no weights

    >>> context = nn.FixedContext(memory_size=6, pool="mean")
    >>> memory = ts.random.normal((2, 5, 6))
    >>> contexts, weights = context(ts.random.normal((2, 3, 4)), memory, mask=nn.length_mask([5, 2], 5))
    >>> contexts.shape, weights
    ((2, 3, 6), None)
    >>> ts.all(abs(contexts[1] - ts.mean(memory[1, :2], axis=0)) < 1e-6)
    tensor(True)

    Raises ValueError for another `pool`, and for an odd memory_size with "both".
    """

    fixed = True

    def __init__(self, memory_size: int, pool: str = "last", size: int | None = None) -> None:
        memory_size = check.integers("FixedContext", 1, memory_size=memory_size)
        size = None if size is None else check.integers("FixedContext", 1, size=size)
        check.choice("FixedContext", ("last", "both", "mean", "max"), pool=pool)
        if pool == "both" and memory_size % 2:
            raise ValueError(f"FixedContext: expected an even memory_size with pool='both', got {memory_size}")
        self.pool, self.context_size, self.memory_size = pool, size, memory_size
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
        """The vector `keys` (B, C) for every query (B, T, Q): (B, T, C), and None for weights."""
        return ops.broadcast_to(ops.expand_dims(keys, 1), (*query.shape[:2], keys.shape[1])), None


class MultiheadContext(Attention):
    """Scaled query-key-value attention in `num_heads` heads (Vaswani et al. 2017, equation 1 and section 3.2.2).

    Q = W_q s, K = W_k m, V = W_v m, each cut into heads of d features, head_i = softmax(Q_i K_i^T / sqrt(d)) V_i, c =
    W_o [head_1; ...; head_n], of `query_size` features. The parameters are those of a `MultiheadAttention` without
    biases, under `multihead`; the weights are the mean over its heads.

        context(query, memory, mask=None) -> contexts, weights
        query (B, T, query_size), memory (B, S, memory_size), mask (B, S) -> (B, T, query_size), (B, T, S)

    >>> context = nn.MultiheadContext(query_size=8, memory_size=6, num_heads=2)
    >>> contexts, weights = context(ts.random.normal((2, 3, 8)), ts.random.normal((2, 5, 6)))
    >>> contexts.shape, weights.shape
    ((2, 3, 8), (2, 3, 5))

    Raises ValueError for a query_size that is no multiple of num_heads.
    """

    def __init__(self, query_size: int, memory_size: int, num_heads: int = 1) -> None:
        query_size, memory_size, num_heads = check.integers(
            "MultiheadContext", 1, query_size=query_size, memory_size=memory_size, num_heads=num_heads)
        if query_size % num_heads:
            raise ValueError("MultiheadContext: expected query_size to be a multiple of num_heads, got "
                             f"{query_size} and {num_heads}")
        self.context_size, self.query_size, self.memory_size = query_size, query_size, memory_size
        self.multihead = MultiheadAttention(query_size, num_heads, bias=False, kdim=memory_size, vdim=memory_size)

    def _project(self, x: Tensor, part: int) -> Tensor:
        """The heads' queries (part 0), keys (1) or values (2): (B, S, .) -> (B, heads, S, d)."""
        return self.multihead.heads(functional.linear(x, *self.multihead.parts()[part]))

    def keys(self, memory: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """memory (B, S, memory_size) -> the heads' keys and values, each (B, num_heads, S, d)."""
        return self._project(memory, 1), self._project(memory, 2)

    def attend(self, query: Tensor, memory: Tensor, mask: Tensor | None, keys: Any) -> tuple[Tensor, Tensor]:
        """query (B, T, query_size), and of the memory its mask (B, S) and `keys` -> (B, T, query_size), (B, T, S)."""
        key, value = keys
        mask = None if mask is None else mask[:, None, None]
        weights = functional.attention_weights(self._project(query, 0), key, mask)  # (B, heads, T, S)
        found = ops.reshape(ops.permute_dims(weights @ value, (0, 2, 1, 3)), query.shape)
        return self.multihead.out_proj(found), ops.mean(weights, 1)
