"""Multi-head attention: every position asks every other one, in several subspaces at once (Vaswani et al. 2017)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyseq import functional, ops
from tinyseq.nn import init
from tinyseq.nn.layers import Linear
from tinyseq.nn.module import Module, Parameter
from tinyseq.tensor import Like, Tensor, namespace

CONVERSIONS = {
    "attn_mask": "mask=~attn_mask[None] if it is boolean (T, S): here True takes part",
    "src_mask": "mask=~src_mask[None] if it is boolean (T, T): here True takes part; causal=True hides the future",
    "tgt_mask": "mask=~tgt_mask[None] if it is boolean (T, T): here True takes part; causal=True hides the future",
    "key_padding_mask": "mask=~key_padding_mask (B, S), True takes part, or lengths= (B,)",
    "src_key_padding_mask": "mask=~src_key_padding_mask (B, S), True takes part, or lengths= (B,)",
    "tgt_key_padding_mask": "mask=~tgt_key_padding_mask (B, T), True takes part, or lengths= (B,)",
    "memory_key_padding_mask": "memory_mask=~memory_key_padding_mask (B, S), True takes part, or memory_lengths= (B,)",
    "is_causal": "causal=True", "src_is_causal": "causal=True", "tgt_is_causal": "causal=True",
    "average_attn_weights": "need_weights=True, and take the mean: weights.mean(axis=1)",
}


class Attending(Module):
    """A module with masks: boolean, True takes part. PyTorch's arguments for them are refused with the conversion."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        for name in kwargs:
            if name in CONVERSIONS:
                raise TypeError(f"{type(self).__name__}: {name}= is PyTorch's, pass {CONVERSIONS[name]}")
        return self.forward(*args, **kwargs)

    def refuse_time_first(self, batch_first: bool) -> None:
        if not batch_first:
            raise ValueError(f"{type(self).__name__}: tinyseq has one layout, (batch, time, features): swap the first "
                             "two axes of what goes in and comes out, x.permute_dims(1, 0, 2), and leave batch_first "
                             "at True")


def length_mask(lengths: Like, steps: int) -> Tensor:
    """(B,) lengths -> (B, steps) booleans: True at the real positions. On a device nobody looks at the lengths."""
    data = lengths._data if isinstance(lengths, Tensor) else np.asarray(lengths)
    host = isinstance(data, np.ndarray) and data.size
    if data.ndim != 1 or data.dtype.kind not in "iu" or (host and not 0 <= data.min() <= data.max() <= steps):
        raise ValueError(f"expected lengths (B,), integers from 0 to {steps}, got {lengths!r}")
    return ops.asarray(namespace(data).arange(steps) < data[:, None])


def attention_mask(name: str, x: Tensor, shape: Sequence[int], mask: Like, lengths: Like = None) -> Tensor | None:
    """What takes part, where x lives, as booleans that broadcast to scores of `shape` (B, heads, T, S); None for all.

    `mask` is boolean, (B, S), (B, T, S) or (B, heads, T, S), with 1 for axes along which it is the same; the first
    `lengths` (B,) of S take part.
    """
    real = None if lengths is None else ops.like(x, length_mask(lengths, shape[-1]))[:, None, None]
    if real is not None and real.shape[0] != shape[0]:
        raise ValueError(f"{name}: expected {shape[0]} lengths, one a row of the batch, got {real.shape[0]}")
    if mask is None:
        return real
    mask = ops.like(x, mask)
    wanted = {2: (shape[0], shape[3]), 3: (shape[0], *shape[2:]), 4: tuple(shape)}.get(mask.ndim, ())
    if mask.dtype != np.bool or not wanted or any(m not in (1, n) for m, n in zip(mask.shape, wanted, strict=True)):
        raise ValueError(f"{name}: expected a boolean mask, True where a position takes part, of shape (B, S), "
                         f"(B, T, S) or (B, heads, T, S) with (B, heads, T, S) = {tuple(shape)}, got shape "
                         f"{mask.shape} and dtype {mask.dtype}")
    mask = ops.reshape(mask, (mask.shape[0], *(1,) * (4 - mask.ndim), *mask.shape[1:]))
    return mask if real is None else mask & real


class MultiheadAttention(Attending):
    """softmax(Q K^T / sqrt(D)) V in each of `num_heads` heads, D = embed_dim / num_heads features wide, then one matrix
    over all heads (Vaswani et al. 2017, section 3.2.2).

    Parameters are PyTorch's: in_proj_weight (3 E, E), in_proj_bias, out_proj; with `kdim` or `vdim`, the features of
    key and value, q_proj_weight (E, E), k_proj_weight (E, kdim) and v_proj_weight (E, vdim) in the first one's place.
    `dropout` falls on the weights. With fewer `num_kv_heads` several query heads share a head of keys and values
    (Ainslie et al. 2023), and in_proj_weight has fewer rows.
    """

    def __init__(
        self, embed_dim: int, num_heads: int, dropout: float = 0.0, bias: bool = True, kdim: int | None = None,
        vdim: int | None = None, batch_first: bool = True, num_kv_heads: int | None = None, dtype: Any = np.float32,
    ) -> None:
        self.refuse_time_first(batch_first)
        kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        if min(num_heads, kv_heads) < 1 or embed_dim % num_heads or num_heads % kv_heads:
            raise ValueError(f"MultiheadAttention: embed_dim must be a multiple of num_heads, and that of "
                             f"num_kv_heads, got {embed_dim}, {num_heads} and {kv_heads}")
        self.embed_dim, self.num_heads, self.num_kv_heads, self.dropout = embed_dim, num_heads, kv_heads, dropout
        narrow = embed_dim // num_heads * kv_heads
        self._rows = [embed_dim, embed_dim + narrow]  # where the rows of K and of V begin
        weight = lambda rows, width: init.xavier_uniform_(Parameter(ops.zeros((rows, width), dtype)))
        self.in_proj_weight = None
        if kdim in (None, embed_dim) and vdim in (None, embed_dim):
            self.in_proj_weight = weight(embed_dim + 2 * narrow, embed_dim)
        else:
            self.q_proj_weight = weight(embed_dim, embed_dim)
            self.k_proj_weight = weight(narrow, kdim or embed_dim)
            self.v_proj_weight = weight(narrow, vdim or embed_dim)
        self.in_proj_bias = Parameter(ops.zeros((embed_dim + 2 * narrow,), dtype)) if bias else None
        self.out_proj = Linear(embed_dim, embed_dim, bias, dtype)
        if self.out_proj.bias is not None:
            init.zeros_(self.out_proj.bias)

    def forward(
        self, query: Tensor, key: Tensor | None = None, value: Tensor | None = None, *, mask: Like = None,
        lengths: Like = None, causal: bool = False, need_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """query (B, T, E), key (B, S, kdim), value (B, S, vdim) -> (B, T, E), and the weights (B, heads, T, S) or None.

        Without a key the query attends to itself; without a value it is the key. The boolean `mask`, (B, S), (B, T, S)
        or (B, heads, T, S), is True where a position takes part, as are the first `lengths` (B,) of S. `causal` hides
        what comes after a query, the last of which stands at the last key. A query with no key gets out_proj.bias.
        """
        key = query if key is None else key
        q, k, v = self.project(query, key, key if value is None else value)
        y, weights = self.attend(q, k, v, mask, lengths, causal, need_weights)
        return self.out_proj(y), weights

    def project(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The heads' queries (B, heads, T, D), keys and values (B, num_kv_heads, S, D)."""
        given = (query, key, value)
        if any(x.ndim != 3 or x.shape[0] != query.shape[0] for x in given) or key.shape[1] != value.shape[1]:
            raise ValueError("MultiheadAttention: expected query (B, T, E), key (B, S, kdim) and value (B, S, vdim), "
                             f"got shapes {query.shape}, {key.shape} and {value.shape}")
        if query is key is value and self.in_proj_weight is not None:
            q, k, v = ops.split(functional.linear(query, self.in_proj_weight, self.in_proj_bias), self._rows, -1)
        else:
            q, k, v = (functional.linear(x, w, b) for x, (w, b) in zip(given, self.parts(), strict=True))
        return self.heads(q), self.heads(k), self.heads(v)

    def parts(self) -> list[tuple[Tensor, Tensor | None]]:
        """The weight and the bias of each of the three projections."""
        weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight) if self.in_proj_weight is None else (
            ops.split(self.in_proj_weight, self._rows))
        biases = (None,) * 3 if self.in_proj_bias is None else ops.split(self.in_proj_bias, self._rows)
        return list(zip(weights, biases, strict=True))

    def heads(self, x: Tensor) -> Tensor:
        """(B, T, heads D) -> (B, heads, T, D)."""
        width = self.embed_dim // self.num_heads
        return ops.permute_dims(ops.reshape(x, (*x.shape[:2], x.shape[2] // width, width)), (0, 2, 1, 3))

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Like = None, lengths: Like = None, causal: bool = False,
        need_weights: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """What the heads' queries find, side by side (B, T, E), and their weights (B, heads, T, S) or None."""
        mask = attention_mask(type(self).__name__, q, (*q.shape[:3], k.shape[2]), mask, lengths)
        y = functional.attention(q, k, v, mask, causal, dropout=self.dropout if self.training else 0.0)
        y = ops.reshape(ops.permute_dims(y, (0, 2, 1, 3)), (q.shape[0], q.shape[2], self.embed_dim))
        return y, functional.attention_weights(q, k, mask, causal) if need_weights else None

    def extra_repr(self) -> str:
        return f"{self.embed_dim}, {self.num_heads}"
