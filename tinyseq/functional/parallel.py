"""Recurrences whose steps need not wait for each other: linear ones, and all whose steps can be put together."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

from tinyseq import backends, check
from tinyseq.check import describe, explained
from tinyseq.engine import ops
from tinyseq.engine.autograd import op, wide
from tinyseq.engine.indexing import along, axes_of
from tinyseq.engine.tensor import Like, Out, Tensor, namespace
from tinyseq.functional.arguments import lengths_of, one_dtype, real_steps


def _delayed(x: Any, first: Any, reverse: bool) -> Any:
    """x (B, T, H) one step later: it begins with `first` (B, H), and its own last step is gone."""
    xp, first = namespace(x), first[:, None]
    return xp.concat([x[:, 1:], first] if reverse else [first, x[:, :-1]], axis=1)


@op
def _linear_scan(a: Tensor, b: Tensor, h0: Tensor, reverse: bool) -> Out:
    one_dtype(a=a, b=b, h0=h0)
    run: Any = _linear_scan if isinstance(b, Tensor) else backends.of(b).linear_scan
    h, begin = run(a, b, h0, reverse), -1 if reverse else 0

    def pull(g: Any, needs: tuple[bool, ...]) -> Any:
        # What reaches h_t is a linear recurrence too, the other way: from h_(t+1), times a_(t+1).
        zeros = namespace(g).zeros_like(h0)
        db = run(_delayed(a, zeros, not reverse), g, zeros, not reverse)
        da = db * _delayed(h, h0, reverse) if needs[0] else None
        return da, db, (a[:, begin] * db[:, begin] if h.shape[1] else zeros), None

    return h, pull


@wide
def linear_scan(a: Like, b: Tensor, h0: Like = None, lengths: Like = None, reverse: bool = False) -> Tensor:
    """h_t = a_t h_(t-1) + b_t, entry by entry, of all steps together: h (B, T, H).

    b (B, T, H), floating-point; a broadcasts against it: (B, T, H), (T, H), (H,) or a number; h0 (B, H), zeros unless
    given, is the state before the first step; both of b's dtype, that of h, or integers or booleans. With `reverse`
    h_t = a_t h_(t+1) + b_t, from the last step to the first. `lengths` (B,) are integers, 0 <= length <= T: what stands
    in the padding is never seen, h there is 0, and `reverse` starts at a row's last real step. Gradients of a, b and h0
    are of any order.

    Nothing is divided: an a of 0 is legal, and the error is that of the loop, relative to the largest entry. In which
    order sums are rounded depends on B, T and H (in blocks of time where few numbers go on together, but for an |a|
    above 1: backends/linear.py), so that a row's last bits may be others in another batch; the same call gives the same
    bits. (Blelloch 1990, "Prefix sums and their applications", section 1.4; Martin & Cundy
    2018, "Parallelizing linear recurrent neural nets over sequence length".)

    >>> F.linear_scan(ts.tensor([0.5]), ts.ones((1, 4, 1)))[0, :, 0]
    tensor([1.   , 1.5  , 1.75 , 1.875])
    """
    check.instance("linear_scan", bool, reverse=reverse)
    b = ops.operand(b)
    if b.ndim != 3 or b.dtype.kind != "f":
        raise ValueError(f"expected b (B, T, H) of floating-point numbers, got {describe(b)}")
    rows, _, width = b.shape
    h0 = Tensor(namespace(b._data).zeros((rows, width), dtype=b.dtype)) if h0 is None else h0
    a, h0 = (x if x.dtype.kind == "f" else x.astype(b.dtype) for x in (ops.like(b, a), ops.like(b, h0)))
    a = ops.broadcast_to(a, b.shape)
    if h0.shape != (rows, width):
        raise ValueError(f"expected h0 (B, H) = {rows, width}, as b has shape {b.shape}, got {h0.shape}")
    lengths = lengths_of("linear_scan", lengths, b)
    if lengths is None:
        return _linear_scan(a, b, h0, reverse)
    real = real_steps(b, lengths)
    # The state stands still in the padding, in front of a row that is read from its end.
    h = _linear_scan(ops.where(real, a, 1.0), ops.where(real, b, 0.0), h0, reverse)
    return ops.where(real, h, 0.0)


def _turned(x: Any, cos: Any, sin: Any) -> Any:
    """x (..., 2 H), real parts and then imaginary ones, times cos + i sin."""
    re, im = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return namespace(x).concat([re * cos - im * sin, im * cos + re * sin], axis=-1)


def _frame(angle: Any, b: Any, reverse: bool) -> tuple[Any, Any]:
    """cos and sin (T, H) of step times angle, reckoned in angle's float64: as exact after many turns."""
    xp, count = namespace(b), slice(None, None, -1 if reverse else 1)
    turns = xp.remainder(xp.arange(1, b.shape[1] + 1)[count, None] * angle, 2 * math.pi).astype(b.dtype)
    return xp.cos(turns), xp.sin(turns)


def _from_frame(kept: Any, cos: Any, sin: Any, b: Any, h0: Any, reverse: bool) -> Any:
    """Seen from a frame that turns as the states do, the recurrence is a real one."""
    xp = namespace(b)
    a = xp.broadcast_to(xp.concat([kept, kept]), b.shape)
    return _turned(backends.of(b).linear_scan(a, _turned(b, cos, -sin), h0, reverse), cos, sin)


@op(wide=True)
def turning_scan(kept: Tensor, angle: Tensor, b: Tensor, h0: Tensor, reverse: bool) -> Out:
    """h_t = kept e^(i angle) h_(t-1) + b_t, entry by entry: b and h (B, T, 2 H), h0 (B, 2 H), real parts and then
    imaginary ones; kept and angle (H,), angle in float64."""
    one_dtype(kept=kept, b=b, h0=h0)
    if isinstance(b, Tensor):
        forth, back = (functools.partial(turning_scan, kept, turn) for turn in (angle, -angle))
    else:  # what goes back turns the other way, from the end, and so stands still in the same frame
        forth = back = functools.partial(_from_frame, kept, *_frame(angle, b, reverse))
    h, begin = forth(b, h0, reverse), -1 if reverse else 0

    def pull(g: Any, needs: tuple[bool, ...]) -> Any:
        # Not through the frame, where a term of step t is t times as large as the sum of all, and most cancel out.
        xp, size = namespace(g), kept.shape[0]
        db = back(g, xp.zeros_like(h0), not reverse)
        if not h.shape[1]:
            return None, None, db, xp.zeros_like(h0), None
        cos, sin = xp.cos(angle).astype(b.dtype), xp.sin(angle).astype(b.dtype)
        turned = _turned(_delayed(h, h0, reverse), cos, sin)
        u, v, re, im = db[..., :size], db[..., size:], turned[..., :size], turned[..., size:]
        dh0 = xp.concat([kept, kept]) * _turned(db[:, begin], cos, -sin)
        return u * re + v * im, kept * (v * re - u * im), db, dh0, None

    return h, pull


@explained
def associative_scan(combine: Callable[[Any, Any], Any], xs: Any, axis: int, reverse: bool = False) -> Any:
    """y_t = combine(y_(t-1), x_t), for all t along `axis`, in about 2 log2(T) calls of `combine`: xs[0] comes first.

    `combine` is associative, combine(combine(x, y), z) = combine(x, combine(y, z)), and need not be commutative; it is
    given what lies side by side, and works on all of it at once. xs is a Tensor or a tuple or list of Tensors, equally
    long along `axis`; `combine` takes two Tensors or two tuples and returns one, of the same shapes and dtypes. With
    `reverse` the scan goes from the last to the first, and so do the arguments: y_t = combine(y_(t+1), x_t). What is
    returned looks like xs, a list where that is one. Differentiable, to any order, where `combine` is. (Ladner &
    Fischer 1980, "Parallel prefix computation"; Blelloch 1990.)

    >>> F.associative_scan(ts.maximum, ts.tensor([2.0, 1.0, 5.0, 3.0]), 0)
    tensor([2., 2., 5., 5.])
    """
    check.function("associative_scan", combine=combine)
    check.instance("associative_scan", bool, reverse=reverse)
    single = not isinstance(xs, tuple) and not (isinstance(xs, list) and any(hasattr(x, "shape") for x in xs))
    parts = [ops.operand(x) for x in ([xs] if single else xs)]
    axes = [axes_of(axis, x.ndim)[0] for x in parts]
    steps = {x.shape[i] for x, i in zip(parts, axes, strict=True)}
    if len(steps) != 1:
        raise ValueError(f"expected xs to be equally long along axis {axis}, got {describe(parts)}")

    def of(given: Sequence[Tensor], start: int, stop: int | None = None, step: int = 1) -> list[Tensor]:
        return [x[along(i, x.ndim, slice(start, stop, step))] for x, i in zip(given, axes, strict=True)]

    def combined(x: list[Tensor], y: list[Tensor]) -> list[Tensor]:
        made = combine(x[0], y[0]) if single else combine(tuple(x), tuple(y))
        found = [made] if single else list(made) if isinstance(made, (tuple, list)) else made
        if describe(found) != describe(y):
            raise ValueError(f"combine was given {describe(x)} and {describe(y)}, expected what looks like the second, "
                             f"got {describe(found)}")
        return found

    def scanned(x: list[Tensor], n: int) -> list[Tensor]:
        if n < 2:
            return x
        odd = scanned(combined(of(x, 0, n - 1, 2), of(x, 1, n, 2)), n // 2)  # pairs, so y_1, y_3, ...
        even = [x_0 if n == 2 else ops.concat([x_0, y], i) for x_0, y, i in zip(
            of(x, 0, 1), odd if n == 2 else combined(of(odd, 0, (n - 1) // 2), of(x, 2, n, 2)), axes, strict=True)]
        return [_interleaved(y, z, i) for y, z, i in zip(even, odd, axes, strict=True)]

    turned = [ops.flip(x, axis=i) for x, i in zip(parts, axes, strict=True)] if reverse else parts
    ys = scanned(turned, steps.pop())
    ys = [ops.flip(y, axis=i) for y, i in zip(ys, axes, strict=True)] if reverse else ys
    return ys[0] if single else ys if isinstance(xs, list) else tuple(ys)


def _interleaved(even: Tensor, odd: Tensor, axis: int) -> Tensor:
    """even[0], odd[0], even[1], ... along `axis`; even may be longer by one."""
    n, shape = odd.shape[axis], list(odd.shape)
    shape[axis] = 2 * n
    pairs = ops.stack([even[along(axis, even.ndim, slice(0, n))], odd], axis + 1)
    both = ops.reshape(pairs, tuple(shape))
    return both if even.shape[axis] == n else ops.concat([both, even[along(axis, even.ndim, slice(n, None))]], axis)
