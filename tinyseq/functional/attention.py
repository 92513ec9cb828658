"""Scaled dot-product attention (Vaswani et al. 2017), a kernel beside its definition, and rotary positions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinyseq import backends, check
from tinyseq.check import explained
from tinyseq.engine import ops, random
from tinyseq.engine.autograd import op, wide
from tinyseq.engine.tensor import Like, Out, Tensor, namespace
from tinyseq.functional.arguments import one_dtype
from tinyseq.functional.layers import _dropout
from tinyseq.functional.normalisation import softmax


@op(wide=True)
def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Out:
    """Rotary positions (Su et al. 2021): entries i and i + R/2 of x (..., D) are turned by the angle of place i, whose
    `cos` and `sin` broadcast to (..., R/2), and those from R on stay. Llama's layout; these two get no gradient.

    >>> cos, sin = ts.tensor([0.0, 1.0]), ts.tensor([1.0, 0.0]) # place 0 by a right angle, place 1 not
    >>> F.rotate(ts.tensor([1.0, 2.0, 3.0, 4.0]), cos, sin)
    tensor([-3.,  2.,  1.,  4.])
    """
    xp, half = namespace(x), cos.shape[-1]
    if 2 * half > x.shape[-1]:
        raise ValueError(f"expected cos and sin at most half as wide as x, got shapes {cos.shape} and {x.shape}")

    def turn(x: Tensor, sin: Tensor) -> Any:
        a, b, rest = xp.split(x, [half, 2 * half], axis=-1)
        return xp.concat([a * cos - b * sin, b * cos + a * sin, rest], axis=-1)

    return turn(x, sin), (lambda g: turn(g, -sin), None, None)


def _attention_weights(query: Tensor, key: Tensor, mask: Tensor | None, causal: bool, scale: float,
                       bias: Tensor | None = None, softcap: float | None = None) -> Tensor:
    scores = (query * scale) @ key.mT
    scores = scores if softcap is None else ops.tanh(scores / softcap) * softcap
    scores = scores if bias is None else scores + bias
    if causal:
        past = ops.tril(ops.ones_like(scores.detach(), np.bool), key.shape[-2] - query.shape[-2])
        mask = past if mask is None else past & mask
    return softmax(scores, -1, mask)


def _attention_definition(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, scale: float,
                          p: float, seed: int, stream: int, bias: Tensor | None = None,
                          softcap: float | None = None) -> Tensor:
    weights = _attention_weights(query, key, mask, causal, scale, bias, softcap)
    return (_dropout(weights, p, seed, stream) if p else weights) @ value


@op(definition=_attention_definition, wide=True)
def _attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, scale: float, p: float,
               seed: int, stream: int) -> Out:
    backend = backends.of(query)
    y, saved = backend.attention(query, key, value, mask, causal, scale, (p, seed, stream))
    return y, lambda g, needs: backend.attention_backward(g, saved)


@explained
def attention(query: Tensor, key: Tensor, value: Tensor, mask: Like = None, causal: bool = False,
              scale: float | None = None, dropout: float = 0.0, *, bias: Like = None, softcap: float | None = None,
              generator: random.Generator | None = None) -> Tensor:
    """softmax(query key^T scale + bias) value (Vaswani et al. 2017, equation 1); `attention_weights` gives the softmax.

    query (..., T, D), key (..., S, D), value (..., S, E) -> (..., T, E), all of one dtype. In (B, H, S, D) key and
    value may have fewer heads H, each of which serves as many heads of the query in a row (Ainslie et al. 2023). The
    boolean `mask`, broadcast to (..., T, S), says which positions take part: True. With `causal` the last query sees
    all keys, the one before it all but the last: query t those up to S - T + t. A query that sees none gets zeros.
    `bias`, floating-point numbers that broadcast to (..., T, S), is added to the scores: ALiBi's slopes (Press et al.
    2022), T5's relative positions (Raffel et al. 2020). It is no mask, nor a mask a bias: each refuses the other.
    `scale` is 1 / sqrt(D) unless given. `dropout` is the probability that a weight is dropped; it takes the next random
    stream, of `generator` if given. `softcap` c makes c tanh(s / c) of each score s, before the bias: none goes beyond
    it (Gemma 2). Memory grows with T + S, as the weights are never there all at once; only a bias, a softcap and
    gradients of gradients need T S.

    >>> query, key = ts.zeros((2, 4)), ts.zeros((2, 4))         # alike: equal weights
    >>> value = ts.tensor([[2.0], [4.0]])
    >>> F.attention(query, key, value)
    tensor([[3.],
            [3.]])
    >>> F.attention(query, key, value, causal=True)
    tensor([[2.],
            [3.]])
    >>> F.attention(query, key, value, mask=ts.zeros((2, 2)))
    Traceback (most recent call last):
    TypeError: attention(...): expected a boolean mask, True takes part, got float32...
    >>> F.attention(query, key, value, bias=ts.tensor([[0.0, -np.inf], [0.0, 0.0]]))
    tensor([[2.],
            [3.]])
    """
    if not 0 <= dropout < 1:
        raise ValueError(f"expected 0 <= dropout < 1, got {dropout}")
    query, key, value = ops.operand(query), ops.operand(key), ops.operand(value)
    shape = (*query.shape[:-1], *value.shape[-1:])
    query, key, value, mask, scale, bias = _attention_arguments(query, key, value, mask, scale, bias, softcap)
    drawn = random.next_stream(generator) if dropout else (0, 0)
    given = (query, key, value, mask, causal, scale, dropout, *drawn)
    plain = bias is None and softcap is None
    return ops.reshape(_attention(*given) if plain else _changed_attention(*given, bias, softcap), shape)


_changed_attention = wide(_attention_definition)


@wide
def attention_weights(query: Tensor, key: Tensor, mask: Like = None, causal: bool = False,
                      scale: float | None = None, *, bias: Like = None, softcap: float | None = None) -> Tensor:
    """softmax(query key^T scale + bias): how much each query (..., T, D) takes of each key (..., S, D), (..., T, S).

    The arguments are those of `attention`.

    >>> F.attention_weights(ts.zeros((2, 4)), ts.zeros((2, 4)), causal=True)
    tensor([[1. , 0. ],
            [0.5, 0.5]])
    """
    query, key = ops.operand(query), ops.operand(key)
    shape = (*query.shape[:-1], *key.shape[-2:-1])
    query, key, _, mask, scale, bias = _attention_arguments(query, key, key, mask, scale, bias, softcap)
    return ops.reshape(_attention_weights(query, key, mask, causal, scale, bias, softcap), shape)


def _attention_arguments(query: Tensor, key: Tensor, value: Tensor, mask: Like, scale: float | None,
                         bias: Like, softcap: float | None) -> tuple[Tensor, Tensor, Tensor, Tensor | None, float,
                                                                    Tensor | None]:
    """The arguments, checked; heads (B, H, T, D) that share one of the key as (B, H_key, H / H_key, T, D)."""
    lead, heads = query.shape[:-2], key.shape[-3] if key.ndim > 3 else 0
    shared = heads and lead[:-1] == key.shape[:-3] and lead[-1] % heads == 0
    if query.ndim < 2 or not (shared or lead == key.shape[:-2]) or (
            query.shape[-1] != key.shape[-1] or key.shape[:-1] != value.shape[:-1]):
        raise ValueError("expected query (..., T, D), key (..., S, D) and value (..., S, E), alike in front "
                         "but for key and value with a part of the heads of a query (B, H, T, D); got shapes "
                         f"{query.shape}, {key.shape} and {value.shape}")
    one_dtype(query=query, key=key, value=value)
    if softcap is not None:
        check.numbers("attention", above=0, below=math.inf, softcap=softcap)
    shape = (*query.shape[:-1], key.shape[-2])
    if bias is not None:
        bias = ops.like(query, bias)
        if bias.dtype.kind != "f":
            raise TypeError("expected floating-point numbers as bias, which are added to the scores, got "
                            f"{bias.dtype}: booleans that say who takes part are mask=")
        one_dtype(query=query, bias=bias)
        _broadcasts("bias", bias, shape)
    if mask is not None:
        mask = ops.like(query, mask)
        if mask.dtype != np.bool:
            raise TypeError(f"expected a boolean mask, True takes part, got {mask.dtype}: of one that is "
                            "added to the scores, 0 or -inf, pass mask == 0")
        _broadcasts("mask", mask, shape)
    if lead != key.shape[:-2]:
        query, key, value = _apart(query, heads), ops.expand_dims(key, -3), ops.expand_dims(value, -3)
        mask, bias = (x if x is None or x.ndim < 3 else _apart(x, heads if x.shape[-3] > 1 else 1)
                      for x in (mask, bias))
    return query, key, value, mask, 1 / math.sqrt(max(query.shape[-1], 1)) if scale is None else scale, bias


def _broadcasts(name: str, x: Tensor, shape: tuple[int, ...]) -> None:
    if x.ndim > len(shape) or any(m not in (1, n) for m, n in zip(x.shape[::-1], shape[::-1], strict=False)):
        raise ValueError(f"expected a {name} that broadcasts to (..., T, S) = {shape}, got {x.shape}")


def _apart(x: Tensor, heads: int) -> Tensor:
    return ops.reshape(x, (*x.shape[:-3], heads, x.shape[-3] // heads, *x.shape[-2:]))
