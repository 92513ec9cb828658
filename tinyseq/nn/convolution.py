"""Convolution and pooling along time, by the laws of recurrent layers: padded batches with lengths, and pieces.

One layout, as of all layers here: x (batch, time, channels), where PyTorch has (batch, channels, time). Parameters,
their names and shapes, and constructor arguments are PyTorch's.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinyseq import backends, check, functional
from tinyseq.backends.convolution import count_windows
from tinyseq.engine import ops
from tinyseq.engine.tensor import Array, Like, Tensor, namespace
from tinyseq.functional.arguments import checked_lengths, real_steps
from tinyseq.functional.convolution import PADDINGS, ends, places, refuse_width
from tinyseq.nn import init
from tinyseq.nn.masks import numbers, refuse, vectors
from tinyseq.nn.module import Module, Parameter


def _zeros(x: Tensor, *shape: int) -> Tensor:
    return Tensor(namespace(x._data).zeros(shape, dtype=x.dtype))


class _Windows(Module):
    """What goes along time with windows: `kernel_size`, `stride`, `dilation`, and `around`, the entries that are put in
    front and behind."""

    alone = False
    kernel_size: int
    stride: int
    dilation: int = 1
    around: tuple[int, int]

    @property
    def span(self) -> int:
        """How many steps a window reaches over, from its first to its last."""
        return self.dilation * (self.kernel_size - 1) + 1

    def out_lengths(self, lengths: Like) -> Array:
        """The lengths (B,) of rows of y, for the `lengths` (B,) of rows of x: (n + padding - span) // stride + 1, not
        below 0, and 0 of a row without steps. What the next layer, or a loss, is given."""
        n = ops.asarray(ops.as_int64(lengths, f"{type(self).__name__}: "))
        return ops.where(n > 0, ops.maximum((n + (sum(self.around) - self.span)) // self.stride + 1, 0), 0)._data

    def _apply(self, x: Tensor, real: Tensor | None) -> Tensor:
        """y of x (B, T, C), 0 where it is not `real` (B, T, 1)."""
        raise NotImplementedError

    def _whole(self, x: Tensor, lengths: Like) -> Tensor:
        """`_apply` to the real steps of x, and zeros after the last window of each row."""
        if lengths is not None:
            lengths = checked_lengths(lengths, x.shape[1], x.shape[0], type(self).__name__)
        if not x.shape[1]:
            return _zeros(x, x.shape[0], 0, getattr(self, "out_channels", x.shape[2]))
        if lengths is None:
            return self._apply(x, None)
        real = real_steps(x, lengths)
        y = self._apply(ops.where(real, x, 0.0), real)
        return ops.where(real_steps(y, self.out_lengths(lengths)), y, 0.0)


class Conv1d(_Windows):
    """A convolution along time: y_i = b + Σ_k W_k x[i stride + k dilation], of what stands around x too.

        conv(x, lengths=None) -> y
        x        (B, T, in_channels), of the weights' dtype: channels last, as all layers here; PyTorch has (B, C, T)
        lengths  (B,) integers from 0 to T, what of each row is real; all of it unless given
        y        (B, n, out_channels), n = (T + padding at both ends - dilation (kernel_size - 1) - 1) // stride + 1; 0
                 after the last window of a row, whose number `conv.out_lengths(lengths)` says

        weight (out_channels, in_channels / groups, kernel_size), bias (out_channels,) or None without `bias`, both
                 uniform on ±1/sqrt(in_channels / groups kernel_size): PyTorch's, with its shapes

    `padding` is how many entries are put at both ends, "same" for as many as keep n = T, "valid" for none.
    `padding_mode` says which: "zeros", or of the row itself, at its own end, "reflect", "replicate" or "circular" (see
    `functional.pad`). Of `groups`, each sees its part of the channels. Rows with fewer steps than a window have no
    output.

    A `causal` convolution looks back alone: dilation (kernel_size - 1) zeros stand in front, and y_i is of the steps up
    to i stride. It runs in pieces of any length, each begun with the state that the one before ended in:

        conv.step(x, state=None, lengths=None) -> y, state
        state    (span - 1, B, in_channels), the steps that later windows still see, zeros unless given, where span is
                 dilation (kernel_size - 1) + 1. With a stride its length changes, and there are no lengths

    >>> conv = nn.Conv1d(3, 4, kernel_size=5, padding="same")
    >>> y = conv(ts.random.normal((2, 6, 3)), lengths=[6, 2])
    >>> y.shape, conv.weight.shape, ts.all(y[1, 2:] == 0)
    ((2, 6, 4), (4, 3, 5), tensor(True))
    >>> conv = nn.Conv1d(3, 4, 2, causal=True)
    >>> x = ts.random.normal((2, 6, 3))
    >>> first, state = conv.step(x[:, :4])
    >>> second, state = conv.step(x[:, 4:], state)
    >>> ts.all(abs(ts.concat([first, second], axis=1) - conv(x)) < 1e-6), state.shape
    (tensor(True), (1, 2, 3))

    Errors: ValueError for shapes, lengths and options that do not fit, and for a batch with too few steps for a window;
    TypeError for x of another dtype than the weights.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, padding: int | str = 0,
                 dilation: int = 1, groups: int = 1, bias: bool = True, padding_mode: str = "zeros",
                 device: None = None, dtype: Any = np.float32, *, causal: bool = False) -> None:
        refuse(self, device=device is not None)
        (self.in_channels, self.out_channels, self.kernel_size, self.stride, self.dilation,
         self.groups) = check.integers("Conv1d", 1, in_channels=in_channels, out_channels=out_channels,
                                       kernel_size=kernel_size, stride=stride, dilation=dilation, groups=groups)
        check.choice("Conv1d", PADDINGS, padding_mode=padding_mode)
        self.around = ends("Conv1d", padding, self.kernel_size, self.stride, self.dilation)
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise ValueError("Conv1d: expected in_channels and out_channels to be multiples of groups, got "
                             f"{in_channels}, {out_channels} and {groups}")
        if causal and (self.around != (0, 0) or padding_mode != "zeros"):
            raise ValueError("Conv1d: expected no padding and padding_mode='zeros' with causal=True, which puts zeros "
                             f"in front, got padding={padding!r} and {padding_mode=}")
        self.padding, self.padding_mode, self.causal = padding, padding_mode, causal
        self.around = (self.span - 1, 0) if causal else self.around
        few = self.in_channels // self.groups
        bound = 1 / math.sqrt(few * self.kernel_size)
        self.weight = Parameter(ops.zeros((self.out_channels, few, self.kernel_size), dtype))
        self.bias = Parameter(ops.zeros((self.out_channels,), dtype)) if bias else None
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def forward(self, x: Tensor, lengths: Like = None) -> Tensor:
        """x (B, T, in_channels), lengths (B,) or None -> y (B, n, out_channels)."""
        return self._whole(vectors("Conv1d", self.in_channels, self.weight.dtype, x=x), lengths)

    def step(self, x: Tensor, state: Tensor | None = None, lengths: Like = None) -> tuple[Tensor, Tensor]:
        """x (B, T, in_channels), a piece of any length, what the one before left, lengths (B,) or None -> y (B, n,
        out_channels), and the state then. Of a causal convolution alone."""
        x = vectors("Conv1d", self.in_channels, self.weight.dtype, x=x)
        if not self.causal or self.stride > self.span or (lengths is not None and self.stride > 1):
            raise ValueError("Conv1d.step: expected a convolution with causal=True, and a stride within a window (of 1 "
                             f"with lengths), got {self}{', and lengths' * (lengths is not None)}")
        state = _zeros(x, self.span - 1, x.shape[0], x.shape[2]) if state is None else state
        before = numbers("Conv1d.step", "state as a Tensor", state, x)
        if before.ndim != 3 or before.shape[1:] != (x.shape[0], x.shape[2]) or before.dtype != x.dtype or (
                before.shape[0] != self.span - 1 and self.stride == 1):
            raise ValueError(f"Conv1d.step: expected a state ({self.span - 1}, {x.shape[0]}, {x.shape[2]}) of "
                             f"{x.dtype}, as the step before gave it, got {check.describe(before)}")
        if lengths is not None:
            lengths = checked_lengths(lengths, x.shape[1], x.shape[0], "Conv1d.step")
            real = real_steps(x, lengths)
            x = ops.where(real, x, 0.0)
        seen = ops.concat([ops.moveaxis(before, 0, 1), x], 1)
        n = count_windows(seen.shape[1], self.kernel_size, self.stride, self.dilation)
        y = self._convolved(seen) if n else _zeros(x, x.shape[0], 0, self.out_channels)
        if lengths is None:
            return y, ops.moveaxis(seen[:, n * self.stride :], 1, 0)
        at = ops.like(x, lengths)[:, None] + ops.like(x, np.arange(self.span - 1))
        left = seen[ops.like(x, np.arange(x.shape[0])[:, None]), at]
        return ops.where(real, y, 0.0), ops.moveaxis(left, 1, 0)

    def _convolved(self, x: Tensor) -> Tensor:
        return functional.conv1d(x, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)

    def _apply(self, x: Tensor, real: Tensor | None) -> Tensor:
        before, after = self.around
        if self.padding_mode == "zeros" or before == after == 0:
            x = ops.pad(x, [(0, 0), self.around, (0, 0)]) if before or after else x
        else:
            steps = np.arange(-before, x.shape[1] + after)
            if real is None:
                refuse_width("Conv1d", self.padding_mode, x.shape[1], max(before, after))
                n = ops.like(x, np.asarray(x.shape[1]))
                x = ops.take(x, places(ops.like(x, steps), n, self.padding_mode), 1)
            else:
                x = self._around_each(x, real, steps)
        return self._convolved(x)

    def _around_each(self, x: Tensor, real: Tensor, steps: Any) -> Tensor:
        """x with what stands around each row, at its own end."""
        n = ops.sum(real, (1, 2))
        for length in set(n.tolist()) - {0} if backends.on_host(n._data) else ():
            refuse_width("Conv1d", self.padding_mode, length, max(self.around))
        at = places(ops.like(x, steps), n[:, None], self.padding_mode)
        return x[ops.like(x, np.arange(x.shape[0])[:, None]), at]


class _Pool(_Windows):
    """What poolings share."""

    def __init__(self, kernel_size: int, stride: int | None, padding: int, dilation: int = 1) -> None:
        name = type(self).__name__
        self.kernel_size, self.dilation = check.integers(name, 1, kernel_size=kernel_size, dilation=dilation)
        self.stride = self.kernel_size if stride is None else check.integers(name, 1, stride=stride)
        self.padding = check.integers(name, 0, self.kernel_size // 2, padding=padding)
        self.around = self.padding, self.padding

    def forward(self, x: Tensor, lengths: Like = None) -> Tensor:
        """x (B, T, C), lengths (B,) or None -> (B, n, C)."""
        return self._whole(vectors(type(self).__name__, None, x=x), lengths)


class MaxPool1d(_Pool):
    """The largest entry of each window of `kernel_size` steps, by channel; a window each `stride`, by default each
    `kernel_size`.

        pool(x, lengths=None) -> y                                x (B, T, C): channels last -> (B, n, C)

    `padding`, at most half a window, is how far windows reach over both ends; nothing there is the largest. n, lengths
    and `out_lengths` as of Conv1d.

    >>> pool = nn.MaxPool1d(2)
    >>> x = ts.tensor([[[1.0], [5.0], [2.0], [3.0]], [[1.0], [0.0], [9.0], [9.0]]])
    >>> pool(x, lengths=[4, 2]).tolist(), pool.out_lengths([4, 2]).tolist()
    ([[[5.0], [3.0]], [[1.0], [0.0]]], [2, 1])

    Errors: ValueError for shapes, lengths and options that do not fit, and for a batch with too few steps for a window.
    """

    def __init__(self, kernel_size: int, stride: int | None = None, padding: int = 0, dilation: int = 1) -> None:
        super().__init__(kernel_size, stride, padding, dilation)

    def _apply(self, x: Tensor, real: Tensor | None) -> Tensor:
        x = x if real is None else ops.where(real, x, -math.inf)
        return functional.max_pool1d(x, self.kernel_size, self.stride, self.padding, self.dilation)


class AvgPool1d(_Pool):
    """The mean of each window of `kernel_size` steps, by channel; a window each `stride`, by default each
    `kernel_size`.

        pool(x, lengths=None) -> y                                x (B, T, C): channels last -> (B, n, C)

    The zeros that `padding`, at most half a window, puts at both ends count, unless `count_include_pad=False`. n,
    lengths and `out_lengths` as of Conv1d; errors as of MaxPool1d.

    >>> pool = nn.AvgPool1d(2)
    >>> pool(ts.tensor([[[1.0], [5.0], [2.0], [3.0]]])).tolist()
    [[[3.0], [2.5]]]

    >>> pool.span
    2
    """

    def __init__(self, kernel_size: int, stride: int | None = None, padding: int = 0, *,
                 count_include_pad: bool = True) -> None:
        super().__init__(kernel_size, stride, padding)
        self.count_include_pad = count_include_pad

    def _apply(self, x: Tensor, real: Tensor | None) -> Tensor:
        y = functional.avg_pool1d(x, self.kernel_size, self.stride, self.padding)
        if self.count_include_pad or not self.padding:
            return y
        here = ops.ones_like(x[:, :, :1].detach()) if real is None else real.astype(x.dtype)
        share = functional.avg_pool1d(here, self.kernel_size, self.stride, self.padding)
        return y / ops.where(share == 0, 1.0, share)
