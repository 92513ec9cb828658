"""Functions of sequence models: activations, losses, and the ops with kernels of their own.

An op with a kernel is given with the composed definition that it equals: that is what to read, what the tests compare
it with, and what gradients of gradients use. Classes and features stand on the last axis: (batch, time, features).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import numpy as np

from tinyseq import backends, check, ops, random
from tinyseq.check import describe, explained, no_flag
from tinyseq.ops import Out
from tinyseq.tensor import Like, Tensor, namespace, op, wide

F = TypeVar("F", bound=Callable[..., Tensor])

# --- activations ---------------------------------------------------------------------------------------------------


@op
def relu(x: Tensor) -> Out:
    """max(x, 0); the gradient at 0 is 0."""
    y = namespace(x).maximum(x, 0)
    return y, (lambda g: g * (y > 0),)


@op(wide=True)
def leaky_relu(x: Tensor, negative_slope: float = 0.01) -> Out:
    """x where it is positive, else `negative_slope` x; at 0 the gradient is that slope."""
    xp = namespace(x)
    slopes: Callable[[Any], Any] = lambda g: xp.where(x > 0, g, g * negative_slope)
    return slopes(x), (slopes,)


@op(wide=True)
def elu(x: Tensor, alpha: float = 1.0) -> Out:
    """x where it is positive, else alpha (exp(x) - 1) (Clevert et al. 2016)."""
    xp = namespace(x)
    low = alpha * xp.expm1(xp.minimum(x, 0))
    return xp.where(x > 0, x, low), (lambda g: xp.where(x > 0, g, g * (alpha * xp.exp(xp.minimum(x, 0)))),)


def _floats(x: Tensor) -> Any:
    """The backend of x, which must be floating-point."""
    if x.dtype.kind != "f":
        raise TypeError(f"expected floating-point numbers, got {x.dtype}: use x.astype(ts.float32)")
    return backends.of(x)


def _gelu_definition(x: Tensor, approximate: str = "none") -> Tensor:
    if approximate == "tanh":
        return 0.5 * x * (1 + ops.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + ops.erf(x / math.sqrt(2)))


@op(definition=_gelu_definition, wide=True)
def gelu(x: Tensor, approximate: str = "none") -> Out:
    """x times the normal distribution function of x (Hendrycks & Gimpel 2016), by erf or the `"tanh"` approximation."""
    if approximate not in ("none", "tanh"):
        raise ValueError("approximate must be 'none' or 'tanh'")
    backend, tanh = _floats(x), approximate == "tanh"
    return backend.gelu(x, tanh), (lambda g: backend.gelu_backward(g, x, tanh),)


@op(wide=True)
def silu(x: Tensor) -> Out:
    """x sigmoid(x), also called swish (Elfwing et al. 2017)."""
    xp = namespace(x)
    s, x = xp.sigmoid(x), xp.maximum(x, -1000)  # -1000 times 0 is 0, and so must be -inf times 0
    return x * s, (lambda g: g * (s * (1 + x * (1 - s))),)


@explained
def softplus(x: Tensor) -> Tensor:
    """log(1 + exp(x)), right for any x."""
    return ops.logaddexp(x, 0.0)


@explained
def log_sigmoid(x: Tensor) -> Tensor:
    """log(sigmoid(x)), right for any x."""
    return -softplus(-x)


@explained
@wide
def swiglu(x: Tensor) -> Tensor:
    """silu(a) b, a and b the halves of x (..., 2 F) -> (..., F): the gated unit of Shazeer 2020."""
    a, b = _halves(x, -1)
    return silu(a) * b


@explained
@wide
def glu(x: Tensor, axis: int = -1) -> Tensor:
    """a sigmoid(b), a and b the halves of x along `axis` (Dauphin et al. 2017)."""
    a, b = _halves(x, axis)
    return a * ops.sigmoid(b)


def _halves(x: Tensor, axis: int) -> tuple[Tensor, ...]:
    if x.shape[no_flag(axis)] % 2:
        raise ValueError(f"expected x with an even number of entries along axis {axis}, got shape {x.shape}")
    return ops.split(x, 2, axis)


def _shifted(x: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """x brought near 0 along `axis`, and the sum of the exponentials of that (1 for a row of -inf)."""
    size = ops.logsumexp(x.detach(), axis, keepdims=True)
    z = x - ops.where(ops.isfinite(size), size, 0.0)
    total = ops.sum(ops.exp(z), axis, keepdims=True)
    return z, ops.where(total == 0, 1.0, total)


def _softmax_definition(x: Tensor, axis: int = -1, mask: Like = None) -> Tensor:
    z, total = _shifted(x if mask is None else ops.where(ops.like(x, mask), x, -math.inf), axis)
    return ops.exp(z) / total


@op(definition=_softmax_definition, wide=True)
def softmax(x: Tensor, axis: int = -1, mask: Like = None) -> Out:
    """exp(x) / sum(exp(x)) along `axis`, over the entries where the boolean `mask` (broadcast to x) is True.

    The others get 0. Where every entry is masked, or -inf, all are 0, and so is the gradient.
    """
    backend = _floats(x)
    y = backend.softmax(x, no_flag(axis), None if mask is None else backend.asarray(mask))
    return y, (lambda g: backend.softmax_backward(g, y, axis),)


def _log_softmax_definition(x: Tensor, axis: int = -1) -> Tensor:
    z, total = _shifted(x, axis)
    return z - ops.log(total)


@op(definition=_log_softmax_definition, wide=True)
def log_softmax(x: Tensor, axis: int = -1) -> Out:
    """log(softmax(x)) without underflow."""
    backend = _floats(x)
    y = backend.softmax(x, no_flag(axis), log=True)
    return y, (lambda g: backend.softmax_backward(g, y, axis, log=True),)


# --- layers' functions ---------------------------------------------------------------------------------------------


def _one_dtype(**given: Any) -> None:
    """Refuse arguments of several dtypes, which kernels and definitions would widen each in its own way."""
    if len({a.dtype for a in given.values() if a is not None}) > 1:
        found = ", ".join(f"{name} {a.dtype}" for name, a in given.items() if a is not None)
        raise TypeError(f"expected one dtype, got {found}: convert the weights, module.to(dtype), or the input, "
                        "x.astype(dtype)")


@op
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Out:
    """x (..., I) times weight (O, I) transposed, plus bias (O,): (..., O)."""
    xp = namespace(x, weight)
    if weight.ndim != 2 or x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        raise ValueError("expected x (..., I) and weight (O, I) with the same I")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError("expected weight (O, I) and bias (O,) with the same O")
    _one_dtype(x=x, weight=weight, bias=bias)
    y = ops.times(x, xp.matrix_transpose(weight))
    if bias is not None:
        y += bias  # the product is ours; on Tensors this is y = y + bias
    return y, (lambda g: ops.times(g, weight), lambda g: ops.times_over_rows(g, x), lambda g: g)


@explained
def embedding(ids: Like, weight: Tensor, padding_idx: int | None = None) -> Tensor:
    """Rows of weight (V, E) at integer ids (...): (..., E). The row `padding_idx`, from -V to V - 1, gets no gradient.

    An id below 0 or above V - 1 is an IndexError; if it is on a device already, nobody looks, and its row is NaN.
    """
    weight = ops.asarray(weight)
    if weight.ndim != 2:
        raise ValueError(f"expected weight (V, E), got shape {weight.shape}")
    height = weight.shape[0]
    if padding_idx is not None:
        padding_idx = check.integers("embedding", -height, height - 1, padding_idx=padding_idx) % height
    return _embedding(weight, ops.raw(ops.like(weight, ops.check_ids("embedding", ids, height))), padding_idx)


def _embedding_definition(weight: Tensor, ids: Any, padding_idx: int | None) -> Tensor:
    rows = weight[ids]
    if padding_idx is None:
        return rows
    return ops.where(ops.like(weight, ids != padding_idx)[..., None], rows, rows.detach())


@op(definition=_embedding_definition)
def _embedding(weight: Tensor, ids: Any, padding_idx: int | None) -> Out:
    backend, height = backends.of(weight), weight.shape[0]
    return backend.embedding(weight, ids), (lambda g: backend.embedding_backward(g, ids, height, padding_idx),)


def _layer_norm_definition(x: Tensor, weight: Tensor | None, bias: Tensor | None, ndim: int, eps: float) -> Tensor:
    axes = tuple(range(-ndim, 0))
    x = x - x[(..., *(slice(1),) * ndim)]  # which changes nothing but rounding: a row of one value is exactly 0
    y = (x - ops.mean(x, axes, keepdims=True)) / ops.sqrt(ops.var(x, axes, keepdims=True) + eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


@op(definition=_layer_norm_definition, wide=True)
def _layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, ndim: int, eps: float) -> Out:
    _one_dtype(x=x, weight=weight, bias=bias)
    backend = backends.of(x)
    y, saved = backend.layer_norm(x, weight, bias, ndim, eps)
    return y, lambda g, needs: backend.layer_norm_backward(g, saved, weight)


def _trailing(x: Tensor, shape: int | Sequence[int], eps: float, **parameters: Tensor | None) -> int:
    """How many trailing axes of x, and all of each parameter, have the normalized shape `shape`."""
    if not eps >= 0:
        raise ValueError(f"expected eps >= 0, got {eps}")
    shape = (int(shape),) if isinstance(shape, (int, np.integer)) else tuple(shape)
    if not shape or x.shape[-len(shape) :] != shape:
        raise ValueError(f"x of shape {x.shape} does not end in normalized_shape {shape}")
    for given, parameter in parameters.items():
        if parameter is not None and parameter.shape != shape:
            raise ValueError(f"{given} of shape {parameter.shape} is not of normalized_shape {shape}")
    return len(shape)


@explained
def layer_norm(
    x: Tensor, normalized_shape: int | Sequence[int], weight: Tensor | None = None, bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """(x - mean) / sqrt(var + eps) over the trailing axes, weight times that, plus bias (Ba et al. 2016).

    `normalized_shape` is those axes' shape, and that of weight and bias.
    """
    ndim = _trailing(x, normalized_shape, eps, weight=weight, bias=bias)
    return _layer_norm(x, weight, bias, ndim, eps)


@op(wide=True)
def _rms_norm(x: Tensor, weight: Tensor | None, axes: tuple[int, ...], eps: float) -> Out:
    _one_dtype(x=x, weight=weight)
    xp = namespace(x)
    scale = 1 / xp.sqrt(xp.mean(x * x, axis=axes, keepdims=True) + eps)
    normal = x * scale

    def pull_x(g: Tensor) -> Any:
        d = g if weight is None else g * weight
        return scale * (d - normal * xp.mean(d * normal, axis=axes, keepdims=True))

    return normal if weight is None else normal * weight, (pull_x, lambda g: g * normal)


@explained
def rms_norm(
    x: Tensor, normalized_shape: int | Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """x / sqrt(mean(x^2) + eps) over the trailing axes, times weight, of those axes' shape `normalized_shape`
    (Zhang & Sennrich 2019). `eps` is the dtype's unless given."""
    ndim = _trailing(x, normalized_shape, 0 if eps is None else eps, weight=weight)
    return _rms_norm(x, weight, tuple(range(-ndim, 0)), float(np.finfo(x.dtype).eps) if eps is None else eps)


@op(wide=True)
def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Out:
    """Rotary positions (Su et al. 2021): entries i and i + D/2 of x (..., D) are turned by the angle of place i, whose
    `cos` and `sin` broadcast to (..., D/2). Llama's layout; these two get no gradient."""
    xp = namespace(x)

    def turn(x: Tensor, sin: Tensor) -> Tensor:
        a, b = xp.split(x, 2, axis=-1)
        y: Tensor = xp.concat([a * cos - b * sin, b * cos + a * sin], axis=-1)
        return y

    return turn(x, sin), (lambda g: turn(g, -sin), None, None)


@explained
def dropout(x: Tensor, p: float = 0.5, training: bool = True, *, generator: random.Generator | None = None) -> Tensor:
    """Entries 0 with probability p, the others divided by 1 - p; x itself unless `training` (Srivastava et al. 2014).

    Takes the next random stream, of `generator` if given; the same (seed, stream) drops the same entries on every
    backend.
    """
    if not 0 <= p < 1:
        raise ValueError(f"expected 0 <= p < 1, got {p}")
    if training not in (True, False):
        raise TypeError(f"expected training to be True or False, got {check.describe(training)}")
    namespace(x)  # or an error, where nothing is dropped too
    return _dropout(x, p, *random.next_stream(generator)) if training and p > 0 else x


@op(wide=True)
def _dropout(x: Tensor, p: float, seed: int, stream: int) -> Out:
    keep = backends.of(x._data if isinstance(x, Tensor) else x).dropout_mask(x.shape, p, seed, stream)
    return x * keep * (1 / (1 - p)), (lambda g: g * keep * (1 / (1 - p)),)


# --- attention -----------------------------------------------------------------------------------------------------


def _attention_weights(query: Tensor, key: Tensor, mask: Tensor | None, causal: bool, scale: float) -> Tensor:
    scores = (query * scale) @ key.mT
    if causal:
        past = ops.tril(ops.ones_like(scores.detach(), np.bool), key.shape[-2] - query.shape[-2])
        mask = past if mask is None else past & mask
    return softmax(scores, -1, mask)


def _attention_definition(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, scale: float,
                          p: float, seed: int, stream: int) -> Tensor:
    weights = _attention_weights(query, key, mask, causal, scale)
    return (_dropout(weights, p, seed, stream) if p else weights) @ value


@op(definition=_attention_definition, wide=True)
def _attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, scale: float, p: float,
               seed: int, stream: int) -> Out:
    backend = backends.of(query)
    y, saved = backend.attention(query, key, value, mask, causal, scale, (p, seed, stream))
    return y, lambda g, needs: backend.attention_backward(g, saved)


@explained
def attention(query: Tensor, key: Tensor, value: Tensor, mask: Like = None, causal: bool = False,
              scale: float | None = None, dropout: float = 0.0, *,
              generator: random.Generator | None = None) -> Tensor:
    """softmax(query key^T scale) value (Vaswani et al. 2017, equation 1); `attention_weights` gives the softmax.

    query (..., T, D), key (..., S, D), value (..., S, E) -> (..., T, E). In (B, H, S, D) key and value may have fewer
    heads H, each of which serves as many heads of the query in a row (Ainslie et al. 2023). The boolean `mask`,
    broadcast to (..., T, S), says which positions take part: True. With `causal` the last query sees all keys, the one
    before it all but the last: query t those up to S - T + t. A query that sees none gets zeros. `scale` is 1 / sqrt(D)
    unless given. `dropout` is the probability that a weight is dropped; it takes the next random stream, of `generator`
    if given. Memory grows with T + S, as the weights are never there all at once; only gradients of gradients need T S.
    """
    if not 0 <= dropout < 1:
        raise ValueError(f"expected 0 <= dropout < 1, got {dropout}")
    shape = (*query.shape[:-1], *value.shape[-1:])
    query, key, value, mask, scale = _attention_arguments(query, key, value, mask, scale)
    drawn = random.next_stream(generator) if dropout else (0, 0)
    return ops.reshape(_attention(query, key, value, mask, causal, scale, dropout, *drawn), shape)


@explained
@wide
def attention_weights(query: Tensor, key: Tensor, mask: Like = None, causal: bool = False,
                      scale: float | None = None) -> Tensor:
    """softmax(query key^T scale): how much each query (..., T, D) takes of each key (..., S, D), (..., T, S).

    The arguments are those of `attention`.
    """
    shape = (*query.shape[:-1], *key.shape[-2:-1])
    query, key, _, mask, scale = _attention_arguments(query, key, key, mask, scale)
    return ops.reshape(_attention_weights(query, key, mask, causal, scale), shape)


def _attention_arguments(
    query: Tensor, key: Tensor, value: Tensor, mask: Like, scale: float | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, float]:
    """The arguments, checked; heads (B, H, T, D) that share one of the key as (B, H_key, H / H_key, T, D)."""
    lead, heads = query.shape[:-2], key.shape[-3] if key.ndim > 3 else 0
    shared = heads and lead[:-1] == key.shape[:-3] and lead[-1] % heads == 0
    if query.ndim < 2 or not (shared or lead == key.shape[:-2]) or (
            query.shape[-1] != key.shape[-1] or key.shape[:-1] != value.shape[:-1]):
        raise ValueError("expected query (..., T, D), key (..., S, D) and value (..., S, E), alike in front "
                         "but for key and value with a part of the heads of a query (B, H, T, D); got shapes "
                         f"{query.shape}, {key.shape} and {value.shape}")
    _one_dtype(query=query, key=key, value=value)
    if mask is not None:
        mask, shape = ops.like(query, mask), (*query.shape[:-1], key.shape[-2])
        if mask.dtype != np.bool:
            raise TypeError(f"expected a boolean mask, True takes part, got {mask.dtype}: of one that is "
                            "added to the scores, 0 or -inf, pass mask == 0")
        if mask.ndim > len(shape) or any(m not in (1, n) for m, n in zip(mask.shape[::-1], shape[::-1], strict=False)):
            raise ValueError(f"expected a mask that broadcasts to (..., T, S) = {shape}, got {mask.shape}")
    if lead != key.shape[:-2]:
        query, key, value = _apart(query, heads), ops.expand_dims(key, -3), ops.expand_dims(value, -3)
        mask = mask if mask is None or mask.ndim < 3 else _apart(mask, heads if mask.shape[-3] > 1 else 1)
    return query, key, value, mask, 1 / math.sqrt(max(query.shape[-1], 1)) if scale is None else scale


def _apart(x: Tensor, heads: int) -> Tensor:
    return ops.reshape(x, (*x.shape[:-3], heads, x.shape[-3] // heads, *x.shape[-2:]))


# --- recurrence ----------------------------------------------------------------------------------------------------


def _same_size(h: Tensor, w_hh: Tensor, gates: int) -> None:
    """Refuse weights that make a state of another size of h (B, H)."""
    if w_hh.shape[0] != gates * h.shape[-1]:
        raise ValueError(f"expected w_hh ({gates} H, H) for h (B, H), got shapes {w_hh.shape} and {h.shape}")


@explained
@wide
def rnn_cell(x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Any = None, b_hh: Any = None,
             nonlinearity: str = "tanh") -> Tensor:
    """h' = tanh(W_ih x + b_ih + W_hh h + b_hh), or max(., 0) (Elman 1990). x (B, I), h (B, H) -> (B, H)."""
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}")
    _same_size(h, w_hh, 1)
    return (relu if nonlinearity == "relu" else ops.tanh)(linear(x, w_ih, b_ih) + linear(h, w_hh, b_hh))


@explained
@wide
def lstm_cell(x: Tensor, h: Tensor, c: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Any = None,
              b_hh: Any = None) -> tuple[Tensor, Tensor]:
    """c' = f c + i g, h' = o tanh(c'), gates in the order i, f, g, o (Hochreiter & Schmidhuber 1997, Gers et al. 2000).

    x (B, I), h and c (B, H) -> h' and c' (B, H).
    """
    if c.shape != h.shape:
        raise ValueError(f"expected h and c of one shape (B, H), got {h.shape} and {c.shape}")
    _same_size(h, w_hh, 4)
    i, f, g, o = ops.split(linear(x, w_ih, b_ih) + linear(h, w_hh, b_hh), 4, -1)
    c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(g)
    return ops.sigmoid(o) * ops.tanh(c), c


@explained
@wide
def gru_cell(x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Any = None, b_hh: Any = None,
             reset: str = "after", dropped: Tensor | None = None) -> Tensor:
    """h' = (1 - z) n + z h, gates in the order r, z, n (Cho et al. 2014). x (B, I), h (B, H) -> (B, H).

    `reset="after"`, as PyTorch and cuDNN: n = tanh(W_n x + b_n + r (U_n h + d_n)).
    `reset="before"`, the classic form: n = tanh(W_n x + b_n + U_n (r h) + d_n). `dropped` (B, H)
    takes the place of h in the products with U.
    """
    if reset not in ("after", "before"):
        raise ValueError(f"reset must be 'after' or 'before' (the recurrent product), got {reset!r}")
    dropped = h if dropped is None else dropped
    x_r, x_z, x_n = ops.split(linear(x, w_ih, b_ih), 3, -1)
    n_rows = slice(2 * h.shape[-1], None)
    _same_size(h, w_hh, 3)
    h_r, h_z, h_n = ops.split(linear(dropped, w_hh, b_hh), 3, -1)
    r, z = ops.sigmoid(x_r + h_r), ops.sigmoid(x_z + h_z)
    h_n = r * h_n if reset == "after" else linear(r * dropped, w_hh[n_rows], None if b_hh is None else b_hh[n_rows])
    n = ops.tanh(x_n + h_n)
    return n + z * (h - n)


def unroll(
    step: Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]], x: Tensor, state: tuple[Tensor, ...],
    lengths: Like = None, reverse: bool = False,
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Any recurrence in one direction: y (B, T, H), the first tensor of the state by step, and the final state.

    `step(x_t (B, I), state) -> state`, where a state is a tuple of Tensors with the batch first. `lengths` and
    `reverse` are those of `scan`: a row's state stands still where its sequence has no entry, its output there is 0,
    and what stands in x there is never seen. A state that comes back with other shapes or dtypes is a ValueError.
    """
    check.function("unroll", step=step)
    if not hasattr(x, "ndim") or not isinstance(state, (tuple, list)):
        raise TypeError("unroll: expected x to be a Tensor and state a tuple of Tensors, got "
                        f"{describe(x)} and {describe(state)}")
    kinds: Callable[[Any], Any] = lambda s: [f"{getattr(a, 'dtype', type(a))} {getattr(a, 'shape', '')}" for a in s]
    lengths, mask = _lengths("unroll", lengths, x), None
    if lengths is not None:
        mask = (ops.like(x, np.arange(x.shape[1])) < ops.expand_dims(ops.like(x, lengths), 1))[..., None]
        x = ops.where(mask, x, 0.0)
    inputs = ops.unstack(x, 1) if x.shape[1] else ()
    outputs: list[Any] = [None] * len(inputs)
    for t in reversed(range(len(inputs))) if reverse else range(len(inputs)):
        new = step(inputs[t], state)
        if kinds(new) != kinds(state):
            raise ValueError(f"unroll: the step at t = {t} was given a state {kinds(state)} and returned {kinds(new)}")
        state = tuple(new if mask is None else [ops.where(mask[:, t], *pair) for pair in zip(new, state, strict=True)])
        outputs[t] = state[0]
    y = ops.stack(outputs, 1) if outputs else ops.zeros_like(state[0])[:, None][:, :0]
    return y if mask is None else ops.where(mask, y, 0.0), state


def _scan_definition(
    cell: str, x: Tensor, h0: Tensor, c0: Tensor | None, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None,
    b_hh: Tensor | None, lengths: Any, reverse: bool, h_mask: Any,
) -> tuple[Tensor, ...]:
    weights = (w_ih, w_hh, b_ih, b_hh)

    def step(x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        h = state[0] if h_mask is None else state[0] * ops.like(x, h_mask)
        if cell == "lstm":
            return lstm_cell(x, h, state[1], *weights)
        if cell.startswith("rnn"):
            return rnn_cell(x, h, *weights, nonlinearity=cell.removeprefix("rnn_")),
        return gru_cell(x, state[0], *weights, reset="before" if cell == "gru_before" else "after", dropped=h),

    y, final = unroll(step, x, (h0,) if c0 is None else (h0, c0), lengths, reverse)
    return y, *final


GATES = {"rnn_tanh": 1, "rnn_relu": 1, "gru": 3, "gru_before": 3, "lstm": 4}


@op(definition=_scan_definition, wide=True)
def _scan(
    cell: str, x: Tensor, h0: Tensor, c0: Tensor | None, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None,
    b_hh: Tensor | None, lengths: Any, reverse: bool, h_mask: Any,
) -> tuple[Any, Any]:
    if cell not in GATES or (c0 is None) == (cell == "lstm") or x.ndim != 3 or h0.ndim != 2:
        raise ValueError(f"expected a cell of {', '.join(GATES)}, x (B, T, I), h0 (B, H), c0 (B, H) for an LSTM only")
    batch, rows = x.shape[0], GATES[cell] * h0.shape[1]
    for name, a, shape in (
        ("h0", h0, (batch, h0.shape[1])), ("c0", c0, h0.shape), ("w_ih", w_ih, (rows, x.shape[2])),
        ("w_hh", w_hh, (rows, h0.shape[1])), ("b_ih", b_ih, (rows,)), ("b_hh", b_hh, (rows,)),
        ("h_mask", h_mask, h0.shape),
    ):
        if a is not None and a.shape != shape:
            raise ValueError(f"expected {name} of shape {shape}, as x has shape {x.shape} and h0 has {h0.shape}")
    _one_dtype(x=x, h0=h0, c0=c0, w_ih=w_ih, w_hh=w_hh, b_ih=b_ih, b_hh=b_hh)
    backend = backends.of(x)
    y, h, c, saved = backend.rnn_forward(cell, x, h0, c0, w_ih, w_hh, b_ih, b_hh, lengths, reverse, h_mask)

    def pull(g: Any, needs: tuple[bool, ...]) -> Any:
        gy, gh, gc = (*g, None)[:3]
        return [None, *backend.rnn_backward(cell, saved, gy, gh, gc, needs[1:8])]

    return ((y, h) if c is None else (y, h, c)), pull


def _lengths(where: str, lengths: Like, x: Tensor) -> Any:
    """The lengths (B,) of x's rows, checked; None where all rows have full length. On a device nobody looks."""
    if lengths is None or x.ndim != 3:  # which the op itself refuses
        return None
    data = checked_lengths(lengths, x.shape[1], x.shape[0], where)
    return None if isinstance(data, np.ndarray) and data.min(initial=x.shape[1]) == x.shape[1] else data


def checked_lengths(lengths: Like, steps: int, rows: int | None = None, where: str = "", name: str = "lengths") -> Any:
    """Lengths (B,), integers from 0 to `steps`, as an int64 array; on a device nobody looks at them. B is `rows` if
    given. The error speaks of the argument `name` of `where`."""
    data = lengths._data if isinstance(lengths, Tensor) else lengths
    data = data if type(data) in backends.arrays else np.asarray(data)
    wrong = data.ndim != 1 or rows not in (None, len(data)) or (data.size and data.dtype.kind not in "iu")
    if wrong or (isinstance(data, np.ndarray) and data.size and not (data.min() >= 0 and data.max() <= steps)):
        raise ValueError(f"{where and f'{where}: '}expected {name} as {'B' if rows is None else rows} integers from 0 "
                         f"to the {steps} steps, got shape {data.shape} and dtype {data.dtype}: {data.tolist()}")
    return data.astype(np.int64, copy=False)


@explained
def scan(
    cell: str, x: Tensor, h0: Tensor, c0: Tensor | None, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None,
    b_hh: Tensor | None = None, lengths: Like = None, reverse: bool = False, h_mask: Like = None,
) -> tuple[Tensor, ...]:
    """One recurrent layer in one direction, as one op: (y, h_n), or (y, h_n, c_n) for an LSTM.

    `cell` is "rnn_tanh", "rnn_relu", "gru", "gru_before" or "lstm". x (B, T, I), h0 and c0 (B, H), weights (G H, I) and
    (G H, H), biases (G H,), the gates in PyTorch's order; y (B, T, H), final states (B, H). `lengths` (B,) are
    integers, 0 <= length <= T, on the host, where they are checked, or on x's backend: outputs past a row's end are 0,
    its final state is that of its last real step, where `reverse` starts. `h_mask` (B, H), a constant, multiplies h
    where it enters the recurrent product, at every step: dropout with one mask over time (Gal & Ghahramani 2016).
    """
    mask, lengths = None if h_mask is None else _like(x, h_mask)._data, _lengths("scan", lengths, x)
    outputs: tuple[Tensor, ...] = _scan(cell, x, h0, c0, w_ih, w_hh, b_ih, b_hh, lengths, reverse, mask)
    return outputs


# --- losses --------------------------------------------------------------------------------------------------------


def _loss(fn: F) -> F:
    """A loss of its first argument, a floating-point one, and as wide: of float16 computed in float32, rounded once."""
    body = cast(Any, fn)
    first = body.__code__.co_varnames[0]

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        args = args or tuple(kwargs.pop(name) for name in [first] if name in kwargs)
        if not args:
            return body(**kwargs)  # which says what is missing
        x = ops.operand(args[0])
        if x.dtype.kind != "f":
            _floats(x)  # an error
        if x.dtype != np.float16:
            return body(x, *args[1:], **kwargs)
        return body(x.astype(np.float32), *args[1:], **kwargs).astype(np.float16)

    return cast(F, explained(call))


def _reduce(losses: Tensor, reduction: str, *more: str) -> Tensor:
    """The mean, the losses themselves, or their sum, which is also what any of `more` begins with."""
    if reduction in ("mean", "none"):
        return ops.mean(losses) if reduction == "mean" else losses
    check.choice("loss", ("mean", "sum", "none", *more), reduction=reduction)
    return ops.sum(losses)


def _like(x: Tensor, data: Like) -> Tensor:
    """Targets and weights where x lives and in its dtype: a loss is as wide as its input."""
    y = ops.like(x, data if hasattr(data, "dtype") else np.asarray(data, x.dtype))
    return y if y.dtype == x.dtype else y.astype(x.dtype)


def _target(x: Tensor, target: Like) -> Tensor:
    """The target as a Tensor of x's shape and dtype."""
    y = _like(x, target)
    if x.shape != y.shape:
        raise ValueError(f"input of shape {x.shape} and target of shape {y.shape} must have one shape")
    return y


def _class_losses(x: Tensor, targets: Like, ignore_index: int) -> tuple[Tensor, Any]:
    """x (..., C) as rows (N, C), and targets (...) as raw integers (N,): checked."""
    shape = np.shape(targets)
    if x.ndim == 0 or shape != x.shape[:-1]:
        raise ValueError(f"expected x (..., C) and targets (...), got shapes {x.shape} and {shape}; classes stand on "
                         "the last axis")
    if type(ignore_index) is not int:  # a check costs a microsecond
        check.integers("loss", ignore_index=ignore_index)
    ids = ops.raw(ops.like(x, ops.check_ids("targets", targets, x.shape[-1], ignore_index))).reshape(-1)
    return ops.reshape(x, (ids.shape[0], x.shape[-1])), ids


def _class_weight(x: Tensor, weight: Like) -> Any:
    """The raw class weights (C,) or None."""
    weight = None if weight is None else ops.raw(_like(x, weight))
    if weight is not None and weight.shape != x.shape[-1:]:
        raise ValueError(f"expected weight of shape {x.shape[-1:]}, one for each class, got {weight.shape}")
    return weight


def _nll(log_probs: Tensor, ids: Any, weight: Any, ignore: int) -> tuple[Tensor, Tensor]:
    """-log_probs (N, C) at the ids (N,), weighted, and the weights: (N,), both 0 where ignored."""
    kept = ops.like(log_probs, ids != ignore)
    ids = ops.where(kept, ids, 0)
    weights = ops.ones_like(log_probs.detach()[:, 0]) if weight is None else ops.like(log_probs, weight)[ids]
    weights = ops.where(kept, weights, 0.0)
    known = (ids >= 0) & (ids < log_probs.shape[1])  # on the host all are, but nobody looks at a device
    picked = ops.where(known, log_probs[namespace(ids._data).arange(ids.size), ids], math.nan)
    return -weights * ops.where(kept, picked, 0.0), weights


def _weighted(losses: Tensor, weights: Tensor, shape: Sequence[int], reduction: str) -> Tensor:
    """The mean of class losses (N,) counts each with its target's weight, so none that is ignored."""
    if reduction == "none":
        losses = ops.reshape(losses, shape)
    elif reduction == "mean":
        total = ops.sum(weights.detach())
        losses, reduction = ops.sum(losses) / ops.where(total == 0, 1.0, total), "none"
    return _reduce(losses, reduction)


@_loss
def cross_entropy(
    logits: Tensor, targets: Like, weight: Like = None, ignore_index: int = -100, reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """-log softmax(logits)[target]: logits (..., C), integer targets (...). PyTorch's, with classes on the last axis.

    `weight` (C,) weights the classes; a target `ignore_index` has loss and gradient 0, and the mean, which divides by
    the sum of the targets' weights, does not count it (it is 0 if all are ignored). `label_smoothing` s mixes the
    target with the uniform distribution: 1 - s to s (Szegedy et al. 2016). Reductions: "mean", "sum", "none".

    Targets may be probabilities too, floating-point numbers (..., C): -sum_c w_c t_c log softmax(logits)_c, where 0
    times -inf is 0. No target is ignored then, and the mean is over the rows.
    """
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"expected 0 <= label_smoothing <= 1, got {label_smoothing}")
    weight = _class_weight(logits, weight)
    if logits.ndim and np.shape(targets) == logits.shape and ops.like(logits, targets).dtype.kind == "f":
        if check.integers("cross_entropy", ignore_index=ignore_index) >= 0:
            raise ValueError("cross_entropy: expected no ignore_index where targets are probabilities, got "
                             f"{ignore_index}: multiply the losses of reduction='none' by a mask")
        t = _like(logits, targets)
        t = t if not label_smoothing else t * (1 - label_smoothing) + label_smoothing / logits.shape[-1]
        t = t if weight is None else t * ops.like(logits, weight)
        logs = log_softmax(logits)
        logs = ops.where((t == 0) & (logs == -math.inf), 0.0, logs)
        return _reduce(ops.sum(-t * logs, -1), reduction)
    rows, ids = _class_losses(logits, targets, ignore_index)
    losses, weights = _cross_entropy(rows, ids, weight, label_smoothing, ignore_index)
    return _weighted(losses, weights, logits.shape[:-1], reduction)


def _cross_entropy_definition(logits: Tensor, ids: Any, weight: Any, smoothing: float, ignore: int) -> Any:
    kept = ops.like(logits, ids != ignore)
    logs = log_softmax(ops.where(kept[:, None], logits, 0.0))
    losses, weights = _nll(logs, ids, weight, ignore)
    if smoothing:
        uniform = -ops.mean(logs if weight is None else logs * weight, 1)
        losses = (1 - smoothing) * losses + smoothing * ops.where(kept, uniform, 0.0)
    return losses, weights


@op(definition=_cross_entropy_definition, wide=True)
def _cross_entropy(logits: Tensor, ids: Any, weight: Any, smoothing: float, ignore: int) -> tuple[Any, Any]:
    backend = backends.of(logits)
    losses, weights, saved = backend.cross_entropy(logits, ids, weight, smoothing, ignore)
    return (losses, weights), lambda g, needs: [backend.cross_entropy_backward(g[0], saved)]


@_loss
def nll_loss(log_probs: Tensor, targets: Like, weight: Like = None, ignore_index: int = -100,
             reduction: str = "mean") -> Tensor:
    """-log_probs[target]: `cross_entropy` of what is log-probabilities already."""
    rows, ids = _class_losses(log_probs, targets, ignore_index)
    return _weighted(*_nll(rows, ids, _class_weight(log_probs, weight), ignore_index), log_probs.shape[:-1], reduction)


@_loss
def mse_loss(x: Tensor, target: Like, reduction: str = "mean") -> Tensor:
    """(x - target)^2, of one shape."""
    return _reduce(ops.square(x - _target(x, target)), reduction)


@_loss
def l1_loss(x: Tensor, target: Like, reduction: str = "mean") -> Tensor:
    """|x - target|, of one shape."""
    return _reduce(ops.abs(x - _target(x, target)), reduction)


@op
def _huber(d: Tensor, delta: float) -> Out:
    near = namespace(d).clip(d, -delta, delta)
    return near * (d - 0.5 * near), (lambda g: g * near,)


@_loss
def huber_loss(x: Tensor, target: Like, reduction: str = "mean", delta: float = 1.0) -> Tensor:
    """d^2 / 2 where |d| <= delta, else delta (|d| - delta / 2), with d = x - target and delta > 0 (Huber 1964)."""
    delta = check.numbers("huber_loss", above=0, delta=delta)
    return _reduce(_huber(x - _target(x, target), delta), reduction)


@op(wide=True)
def _binary_cross_entropy(p: Tensor, t: Tensor) -> Out:
    xp = namespace(p, t)
    yes = xp.where(p <= 0, -100.0, xp.maximum(xp.log(xp.where(p <= 0, 1.0, p)), -100.0))
    no = xp.where(p >= 1, -100.0, xp.maximum(xp.log1p(-xp.where(p >= 1, 0.0, p)), -100.0))
    slope: Callable[[Any], Any] = lambda g: g * (p - t) / xp.maximum(p * (1 - p), 1e-12)
    return (t - 1) * no - t * yes, (slope, lambda g: g * (no - yes))


@_loss
def binary_cross_entropy(probs: Tensor, target: Like, reduction: str = "mean") -> Tensor:
    """-(t log p + (1 - t) log(1 - p)), logarithms not below -100, of one shape; the gradient is PyTorch's too,
    (p - t) / max(p (1 - p), 1e-12).

    Probabilities outside [0, 1] are a ValueError; on a device nobody looks.
    """
    data, target = probs._data, _target(probs, target)
    if isinstance(data, np.ndarray) and ((data < 0) | (data > 1)).any():
        raise ValueError(f"expected probabilities from 0 to 1, got {data.min()} to {data.max()}; "
                         "for logits there is binary_cross_entropy_with_logits")
    return _reduce(_binary_cross_entropy(probs, target), reduction)


@op
def _binary_cross_entropy_with_logits(x: Tensor, yes: Tensor, no: Tensor) -> Out:
    """-yes log sigmoid(x) - no log sigmoid(-x), where 0 times an infinity is 0."""
    xp = namespace(x, yes, no)
    tail = xp.log1p(xp.exp(-xp.abs(x)))
    off, on = tail - xp.minimum(x, 0), tail + xp.maximum(x, 0)  # the costs where "yes", and where "no" was right
    y = yes * xp.where((yes == 0) & (off == math.inf), 0, off) + no * xp.where((no == 0) & (on == math.inf), 0, on)
    return y, (lambda g: g * (no * xp.sigmoid(x) - yes * xp.sigmoid(-x)), lambda g: g * off, lambda g: g * on)


@_loss
def binary_cross_entropy_with_logits(x: Tensor, target: Like, reduction: str = "mean",
                                     pos_weight: Like = None) -> Tensor:
    """`binary_cross_entropy` of sigmoid(x), right for any x; `pos_weight` weights the positive term."""
    target = _target(x, target)
    yes = target if pos_weight is None else target * _like(x, pos_weight)
    return _reduce(_binary_cross_entropy_with_logits(x, yes, 1 - target), reduction)


@_loss
def kl_div(log_probs: Tensor, target: Like, reduction: str = "mean", log_target: bool = False) -> Tensor:
    """t (log t - log_probs) by entry, 0 where t is 0: Kullback & Leibler's divergence from the model to the target.

    `reduction="batchmean"` divides the sum by the first axis' length, which is the divergence's mean over a batch; of a
    number it is the number. With `log_target` the target is given as log-probabilities.
    """
    target = _target(log_probs, target)
    probs = ops.exp(target) if log_target else target
    real = probs != 0
    logs = ops.where(real, target, 0.0) if log_target else ops.log(ops.where(real, target, 1.0))
    loss = _reduce(probs * ops.where(real, logs - log_probs, 0.0), reduction, "batchmean")
    return loss / (*log_probs.shape, 1)[0] if reduction == "batchmean" else loss
