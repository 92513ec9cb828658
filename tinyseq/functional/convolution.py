"""Convolution and pooling along time, x (B, T, C), each a kernel beside its definition; and what may stand around x."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinyseq import backends, check
from tinyseq.backends.convolution import count_windows, windows
from tinyseq.check import explained
from tinyseq.engine import ops
from tinyseq.engine.autograd import op
from tinyseq.engine.tensor import Out, Tensor, namespace
from tinyseq.functional.arguments import one_dtype

PADDINGS = ("zeros", "reflect", "replicate", "circular")


def _conv1d_definition(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, dilation: int,
                       groups: int) -> Tensor:
    few, size = weight.shape[1:]
    apart = ops.reshape(weight, (groups, -1, few, size))

    def entry(k: int, place: slice) -> Tensor:
        seen = x[:, place]
        return ops.einsum("btgi,goi->btgo", ops.reshape(seen, (*seen.shape[:2], groups, few)), apart[:, :, :, k])

    y = functools.reduce(ops.add, [entry(*at) for at in enumerate(windows(x.shape[1], size, stride, dilation))])
    y = ops.reshape(y, (*y.shape[:2], weight.shape[0]))
    return y if bias is None else y + bias


@op(definition=_conv1d_definition, wide=True)
def _conv1d(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, dilation: int, groups: int) -> Out:
    backend = backends.of(x)
    y = backend.conv1d(x, weight, stride, dilation, groups)
    if bias is not None:
        y += bias
    return y, lambda g, needs: [*backend.conv1d_backward(g, x, weight, stride, dilation, groups), g]


@explained
def conv1d(x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: int = 1, padding: int | str = 0,
           dilation: int = 1, groups: int = 1) -> Tensor:
    """y[b, i] = sum_k weight[:, :, k] x[b, i stride + k dilation] + bias: x (B, T, C) -> (B, n, O), of one dtype.

    PyTorch's, but for the layout: time is the second axis of x and y, channels the last. weight (O, C / groups, K),
    bias (O,). `padding` zeros stand at both ends; "valid" is none, "same" as many as keep n = T, with one more at the
    end where they are odd, and stride 1. n = (T + 2 padding - dilation (K - 1) - 1) // stride + 1; less than 1 is a
    ValueError where there are steps, as are shapes that do not fit. Of `groups`, each sees its part of the channels.
    Memory does not grow with K.

    >>> x = ts.tensor([[[1.0], [2.0], [4.0], [8.0]]])             # a row, four steps, a channel
    >>> F.conv1d(x, ts.tensor([[[-1.0, 1.0]]])).tolist()          # the next less this
    [[[1.0], [2.0], [4.0]]]
    >>> F.conv1d(x, ts.ones((1, 1, 3)), padding="same").flatten()
    tensor([ 3.,  7., 14., 12.])
    """
    x, weight = ops.operand(x), ops.operand(weight)
    bias = bias if bias is None else ops.operand(bias)
    groups = check.integers("conv1d", 1, groups=groups)
    if x.ndim != 3 or weight.ndim != 3 or x.shape[2] != weight.shape[1] * groups or (
            weight.shape[0] % groups or 0 in weight.shape[1:] or (bias is not None and bias.shape != weight.shape[:1])):
        raise ValueError("expected x (B, T, C), weight (O, C / groups, K) and bias (O,), O a multiple of groups, "
                         "K > 0: time is x's second axis, channels the last")
    one_dtype(x=x, weight=weight, bias=bias)
    stride, dilation = check.integers("conv1d", 1, stride=stride, dilation=dilation)
    before, after = ends("conv1d", padding, weight.shape[2], stride, dilation)
    x = x if before == after == 0 else ops.pad(x, [(0, 0), (before, after), (0, 0)])
    _enough(x.shape[1], before + after, weight.shape[2], dilation, stride)
    return _conv1d(x, weight, bias, stride, dilation, groups)


def ends(where: str, padding: int | str, size: int, stride: int, dilation: int) -> tuple[int, int]:
    """How much `padding` is in front and behind."""
    if isinstance(padding, str):
        check.choice(where, ("valid", "same"), padding=padding)
        if padding == "same" and stride != 1:
            raise ValueError(f"{where}: expected stride=1 with padding='same', got stride={stride}")
        whole = dilation * (size - 1) if padding == "same" else 0
        return whole // 2, whole - whole // 2
    width: int = check.integers(where, 0, padding=padding)
    return width, width


def _enough(steps: int, padding: int, size: int, dilation: int, stride: int) -> None:
    """Refuse a sequence that has steps, but not enough for a window."""
    if steps > padding and not count_windows(steps, size, stride, dilation):
        raise ValueError(f"expected at least the {dilation * (size - 1) + 1} steps of a window, got {steps}, padding "
                         "included")


def _pooling(name: str, x: Tensor, kernel_size: int, stride: int | None, padding: int,
             dilation: int = 1) -> tuple[Tensor, int, int, int, int]:
    """The arguments of a pooling, checked."""
    x = ops.operand(x)
    if x.ndim != 3 or x.dtype.kind != "f":
        raise ValueError("expected x (B, T, C), floating-point: time is its second axis")
    kernel_size, dilation = check.integers(name, 1, kernel_size=kernel_size, dilation=dilation)
    stride = kernel_size if stride is None else check.integers(name, 1, stride=stride)
    padding = check.integers(name, 0, kernel_size // 2, padding=padding)
    _enough(x.shape[1] + 2 * padding, 2 * padding, kernel_size, dilation, stride)
    return x, kernel_size, stride, padding, dilation


def _max_pool1d_definition(x: Tensor, size: int, stride: int, dilation: int) -> Tensor:
    seen = ops.stack([x[:, place] for place in windows(x.shape[1], size, stride, dilation)])
    which = ops.argmax(seen.detach(), 0, keepdims=True)
    return ops.take_along_axis(seen, which, 0)[0]


@op(definition=_max_pool1d_definition)
def _max_pool1d(x: Tensor, size: int, stride: int, dilation: int) -> Out:
    backend, steps = backends.of(x), x.shape[1]
    y, which = backend.max_pool1d(x, size, stride, dilation)
    return y, (lambda g: backend.max_pool1d_backward(g, which, steps, size, stride, dilation),)


@explained
def max_pool1d(x: Tensor, kernel_size: int, stride: int | None = None, padding: int = 0, dilation: int = 1) -> Tensor:
    """The largest entry of each window of `kernel_size` steps, a window each `stride` (`kernel_size` unless given):
    x (B, T, C) -> (B, n, C), n as of `conv1d`.

    What `padding`, at most half a window, puts at both ends is never the largest. A gradient goes to the first of equal
    entries. Errors as of `conv1d`.

    >>> F.max_pool1d(ts.tensor([[[1.0], [5.0], [2.0], [3.0]]]), 2).flatten()
    tensor([5., 3.])
    """
    x, size, stride, padding, dilation = _pooling("max_pool1d", x, kernel_size, stride, padding, dilation)
    x = ops.pad(x, [(0, 0), (padding, padding), (0, 0)], -math.inf) if padding else x
    return _max_pool1d(x, size, stride, dilation)


def _avg_pool1d_definition(x: Tensor, size: int, stride: int) -> Tensor:
    return functools.reduce(ops.add, [x[:, place] for place in windows(x.shape[1], size, stride, 1)]) * (1 / size)


@op(definition=_avg_pool1d_definition, wide=True)
def _avg_pool1d(x: Tensor, size: int, stride: int) -> Out:
    backend, steps = backends.of(x), x.shape[1]
    return backend.sum_pool1d(x, size, stride) * (1 / size), (
        lambda g: backend.sum_pool1d_backward(g * (1 / size), steps, size, stride),)


@explained
def avg_pool1d(x: Tensor, kernel_size: int, stride: int | None = None, padding: int = 0, *,
               count_include_pad: bool = True) -> Tensor:
    """The mean of each window of `kernel_size` steps, as of `max_pool1d`: x (B, T, C) -> (B, n, C).

    The zeros of `padding` count, unless `count_include_pad=False`.

    >>> F.avg_pool1d(ts.tensor([[[1.0], [5.0], [2.0], [4.0]]]), 2).flatten()
    tensor([3., 3.])
    """
    x, size, stride, padding, _ = _pooling("avg_pool1d", x, kernel_size, stride, padding)
    around = [(0, 0), (padding, padding), (0, 0)]
    y = _avg_pool1d(ops.pad(x, around) if padding else x, size, stride)
    if count_include_pad or not padding:
        return y
    return y / _avg_pool1d(ops.pad(ops.ones_like(x[:1, :, :1].detach()), around), size, stride)


def places(at: Any, n: Any, mode: str) -> Any:
    """Which of n entries stands at the integers `at`, where those below 0 or from n on are beside the entries."""
    xp = namespace(at)
    if mode == "replicate":
        return xp.clip(at, 0, xp.maximum(n - 1, 0))
    if mode == "circular":
        return at % xp.maximum(n, 1)
    back = xp.maximum(2 * (n - 1), 1)
    return xp.minimum(at % back, -at % back)


@explained
def pad(x: Tensor, pad_width: Sequence[tuple[int, int]], mode: str = "constant", value: float = 0.0) -> Tensor:
    """`pad_width[i]` = (before, after) entries around axis i, a pair an axis: of what is at hand. Of x's dtype, and of
    shape (..., before + n + after, ...) where x is n long.

    The `mode` is PyTorch's: "constant" puts `value` there, "reflect" mirrors at the last entry, which stands once,
    "replicate" repeats it, "circular" goes on from the other end. Where there are too few entries to mirror (fewer than
    width + 1), to go round (width) or to repeat (1), it is a ValueError.

    >>> F.pad(ts.tensor([1.0, 2.0, 3.0]), [(2, 1)], "reflect")
    tensor([3., 2., 1., 2., 3., 2.])
    >>> F.pad(ts.tensor([[1.0, 2.0]]), [(0, 0), (1, 1)], "replicate")
    tensor([[1., 1., 2., 2.]])
    """
    x = ops.operand(x)
    check.choice("pad", ("constant", *PADDINGS[1:]), mode=mode)
    pairs = list(pad_width)
    if len(pairs) != x.ndim or any(np.shape(pair) != (2,) for pair in pairs):
        raise ValueError(f"expected a pair of widths for each of {x.ndim} axes, the first axis first: write [(0, 0), "
                         f"(1, 2), (0, 0)] to put 1 in front and 2 behind along time, got {check.describe(pad_width)}")
    if mode == "constant":
        return ops.pad(x, pairs, check.numbers("pad", value=value))
    for axis, (before, after) in enumerate(pairs):
        before, after = check.integers("pad", 0, before=before, after=after)
        refuse_width("pad", mode, x.shape[axis], max(before, after))
        if before or after:
            n = x.shape[axis]
            x = ops.take(x, places(np.arange(-before, n + after), n, mode), axis)
    return x


def refuse_width(where: str, mode: str, n: int, width: int) -> None:
    """Refuse padding of a `width` that n entries do not give."""
    least = {"reflect": width + 1, "replicate": 1, "circular": width}.get(mode, 0) if width else 0
    if n < least:
        raise ValueError(f"{where}: expected at least {least} entries for a padding of {width} by {mode!r}, got {n}")
