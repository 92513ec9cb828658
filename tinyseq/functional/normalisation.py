"""Softmax, layer norm and RMS norm: kernels, each beside the definition that it equals."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tinyseq import backends
from tinyseq.check import explained, no_flag
from tinyseq.engine import ops
from tinyseq.engine.autograd import op
from tinyseq.engine.tensor import Like, Out, Tensor
from tinyseq.functional.arguments import float_backend, one_dtype


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
    """exp(x) / sum(exp(x)) along `axis`, over the entries where the boolean `mask` (broadcast to x) is True; of x's
    shape.

    The others get 0. Where every entry is masked, or -inf, all are 0, and so is the gradient. Integers are a TypeError.

    >>> F.softmax(ts.tensor([[0.0, 0.0], [1000.0, 0.0]]))
    tensor([[0.5, 0.5],
            [1. , 0. ]])
    >>> F.softmax(ts.tensor([5.0, 5.0, 9.0]), mask=np.array([True, True, False]))
    tensor([0.5, 0.5, 0. ])
    """
    backend = float_backend(x)
    y = backend.softmax(x, no_flag(axis), None if mask is None else backend.asarray(mask))
    return y, (lambda g: backend.softmax_backward(g, y, axis),)


Tensor.softmax = softmax  # type: ignore[method-assign, assignment]  # a method too, as users of PyTorch type it


def _log_softmax_definition(x: Tensor, axis: int = -1) -> Tensor:
    z, total = _shifted(x, axis)
    return z - ops.log(total)


@op(definition=_log_softmax_definition, wide=True)
def log_softmax(x: Tensor, axis: int = -1) -> Out:
    """log(softmax(x)) along `axis` without underflow, of x's shape. Integers are a TypeError.

    >>> F.log_softmax(ts.tensor([0.0, 1000.0]))
    tensor([-1000.,     0.])
    """
    backend = float_backend(x)
    y = backend.softmax(x, no_flag(axis), log=True)
    return y, (lambda g: backend.softmax_backward(g, y, axis, log=True),)


def _layer_norm_definition(x: Tensor, weight: Tensor | None, bias: Tensor | None, ndim: int, eps: float) -> Tensor:
    axes = tuple(range(-ndim, 0))
    x = x - x[(..., *(slice(1),) * ndim)]  # which changes nothing but rounding: a row of one value is exactly 0
    y = (x - ops.mean(x, axes, keepdims=True)) / ops.sqrt(ops.var(x, axes, keepdims=True) + eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


@op(definition=_layer_norm_definition, wide=True)
def _layer_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, ndim: int, eps: float) -> Out:
    one_dtype(x=x, weight=weight, bias=bias)
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
def layer_norm(x: Tensor, normalized_shape: int | Sequence[int], weight: Tensor | None = None,
               bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """(x - mean) / sqrt(var + eps) over the trailing axes, weight times that, plus bias (Ba et al. 2016).

    `normalized_shape` is those axes' shape, and that of weight and bias; x, weight and bias have one dtype. The result
    has x's shape.

    >>> F.layer_norm(ts.tensor([[1.0, 3.0], [4.0, 12.0]]), 2, eps=0.0)
    tensor([[-1.,  1.],
            [-1.,  1.]])
    >>> F.layer_norm(ts.ones((2, 3)), 2)
    Traceback (most recent call last):
    ValueError: layer_norm(...): x of shape (2, 3) does not end in normalized_shape (2,)
    """
    x, weight = ops.operand(x), weight if weight is None else ops.operand(weight)
    bias = bias if bias is None else ops.operand(bias)
    ndim = _trailing(x, normalized_shape, eps, weight=weight, bias=bias)
    return _layer_norm(x, weight, bias, ndim, eps)


def _rms_norm_definition(x: Tensor, weight: Tensor | None, ndim: int, eps: float) -> Tensor:
    y = x / ops.sqrt(ops.mean(x * x, tuple(range(-ndim, 0)), keepdims=True) + eps)
    return y if weight is None else y * weight


@op(definition=_rms_norm_definition, wide=True)
def _rms_norm(x: Tensor, weight: Tensor | None, ndim: int, eps: float) -> Out:
    one_dtype(x=x, weight=weight)
    backend = backends.of(x)
    y, saved = backend.layer_norm(x, weight, None, ndim, eps, False)
    return y, lambda g, needs: backend.layer_norm_backward(g, saved, weight)[:2]


@explained
def rms_norm(x: Tensor, normalized_shape: int | Sequence[int], weight: Tensor | None = None,
             eps: float | None = None) -> Tensor:
    """x / sqrt(mean(x^2) + eps) over the trailing axes, times weight, of those axes' shape `normalized_shape` (Zhang &
    Sennrich 2019). `eps` is the dtype's, of float16 float32's, unless given. The result has x's shape.

    >>> F.rms_norm(ts.tensor([4.0, 0.0, 0.0, 0.0]), 4, eps=0.0) # sqrt(16 / 4) = 2
    tensor([2., 0., 0., 0.])
    """
    x, weight = ops.operand(x), weight if weight is None else ops.operand(weight)
    ndim = _trailing(x, normalized_shape, 0 if eps is None else eps, weight=weight)
    eps = float(np.finfo(np.promote_types(x.dtype, np.float32)).eps) if eps is None else eps
    return _rms_norm(x, weight, ndim, eps)
