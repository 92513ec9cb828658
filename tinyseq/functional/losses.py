"""Losses: of classes, which stand on the last axis, and of numbers."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np

from tinyseq import backends, check
from tinyseq.check import called, explained
from tinyseq.engine import ops
from tinyseq.engine.autograd import op
from tinyseq.engine.tensor import Like, Out, Tensor, namespace
from tinyseq.functional.arguments import float_backend, matched
from tinyseq.functional.normalisation import log_softmax

F = TypeVar("F", bound=Callable[..., Tensor])


def _loss(fn: F) -> F:
    """A loss of its first argument, a floating-point one, and as wide; of float16 it is float32: its sums fit there."""
    body = cast(Any, fn)
    first = body.__code__.co_varnames[0]

    @functools.wraps(fn)
    def call(*args: Any, **kwargs: Any) -> Any:
        args = args or tuple(kwargs.pop(name) for name in [first] if name in kwargs)
        if not args:
            return body(**kwargs)  # which says what is missing
        x = ops.operand(args[0])
        float_backend(x._data)
        return body(x.astype(np.float32) if x.dtype == np.float16 else x, *args[1:], **kwargs)

    return cast(F, explained(called(call, fn.__name__)))


def _reduce(losses: Tensor, reduction: str, *more: str, weights: Tensor | None = None) -> Tensor:
    """The mean, to which each loss counts with its weight if there are any; the losses themselves; or their sum, which
    is also what any of `more` begins with."""
    if reduction == "none":
        return losses
    if reduction == "mean":
        if weights is None:
            return ops.mean(losses)
        total = ops.sum(weights.detach())
        return ops.sum(losses) / ops.where(total == 0, 1.0, total)
    check.choice("loss", ("mean", "sum", "none", *more), reduction=reduction)
    return ops.sum(losses)


def _target(x: Tensor, target: Like) -> Tensor:
    """The target as a Tensor of x's shape and dtype."""
    y = matched(x, target)
    if x.shape != y.shape:
        raise ValueError(f"input of shape {x.shape} and target of shape {y.shape} must have one shape")
    return y


def _class_ids(x: Tensor, targets: Like, ignore_index: int) -> Tensor:
    """The integer targets (...) of x (..., C), checked."""
    shape = np.shape(targets)
    if x.ndim == 0 or shape != x.shape[:-1]:
        raise ValueError(f"expected x (..., C) and targets (...), got shapes {x.shape} and {shape}; classes stand on "
                         "the last axis")
    if type(ignore_index) is not int:  # a check costs a microsecond
        check.integers("loss", ignore_index=ignore_index)
    return ops.like(x, ops.check_ids("targets", targets, x.shape[-1], ignore_index))


def _class_weight(x: Tensor, weight: Like) -> Any:
    """The raw class weights (C,) or None."""
    weight = None if weight is None else matched(x, weight)._data
    if weight is not None and weight.shape != x.shape[-1:]:
        raise ValueError(f"expected weight of shape {x.shape[-1:]}, one for each class, got {weight.shape}")
    return weight


def _entry_weight(x: Tensor, weight: Like) -> Any:
    """Weights that broadcast to x's shape, or 1."""
    return 1 if weight is None else ops.broadcast_to(matched(x, weight), x.shape)


def _nll(log_probs: Tensor, ids: Any, weight: Any, ignore: int) -> tuple[Tensor, Tensor]:
    """-log_probs (..., C) at the ids (...), weighted, and the weights: both (...), and 0 where ignored."""
    kept = ops.like(log_probs, ids != ignore)
    ids = ops.where(kept, ids, 0)
    weights = ops.ones_like(log_probs.detach()[..., 0]) if weight is None else ops.like(log_probs, weight)[ids]
    weights = ops.where(kept, weights, 0.0)
    known = (ids >= 0) & (ids < log_probs.shape[-1])  # on the host all are, but nobody looks at a device
    rows = namespace(ids._data).arange(ids.size).reshape(ids.shape)
    picked = ops.where(known, ops.reshape(log_probs, (-1, log_probs.shape[-1]))[rows, ids], math.nan)
    return -weights * ops.where(kept, picked, 0.0), weights


def _cross_entropy_definition(logits: Tensor, ids: Any, weight: Any, smoothing: float, ignore: int) -> Any:
    kept = ops.like(logits, ids != ignore)
    logs = log_softmax(ops.where(kept[..., None], logits, 0.0))
    losses, weights = _nll(logs, ids, weight, ignore)
    if smoothing:
        uniform = -ops.mean(logs if weight is None else logs * weight, -1)
        losses = (1 - smoothing) * losses + smoothing * ops.where(kept, uniform, 0.0)
    return losses, weights


@op(definition=_cross_entropy_definition, wide=True)
def _cross_entropy(logits: Tensor, ids: Any, weight: Any, smoothing: float, ignore: int) -> tuple[Any, Any]:
    backend, shape = backends.of(logits), logits.shape
    rows, targets = logits.reshape(ids.size, shape[-1]), ids.reshape(-1)
    losses, weights, saved = backend.cross_entropy(rows, targets, weight, smoothing, ignore)
    pull: Callable[..., Any] = lambda g, needs: [backend.cross_entropy_backward(g[0].reshape(-1), saved).reshape(shape)]
    return (losses.reshape(ids.shape), weights.reshape(ids.shape)), pull


@_loss
def cross_entropy(logits: Tensor, targets: Like, weight: Like = None, *, ignore_index: int = -100,
                  reduction: str = "mean", label_smoothing: float = 0.0) -> Tensor:
    """-log softmax(logits)[target]: logits (..., C), integer targets (...). PyTorch's, with classes on the last axis.

    `weight` (C,) weights the classes; a target `ignore_index` has loss and gradient 0, and the mean, which divides by
    the sum of the targets' weights, does not count it (it is 0 if all are ignored). `label_smoothing` s mixes the
    target with the uniform distribution: 1 - s to s (Szegedy et al. 2016). Reductions: "mean", "sum", "none".

    Targets may be probabilities too, floating-point numbers (..., C): -sum_c w_c t_c log softmax(logits)_c, where 0
    times -inf is 0. No target is ignored then, and the mean is over the rows.

    >>> F.cross_entropy(ts.zeros((2, 4)), [0, 3])               # log 4
    tensor(1.3862...)
    >>> F.cross_entropy(ts.zeros((2, 4)), [0, -100])            # the second does not count
    tensor(1.3862...)
    >>> F.cross_entropy(ts.zeros((2, 3, 4)), np.zeros((2, 4), int))
    Traceback (most recent call last):
    ValueError: cross_entropy(...): expected x (..., C) and targets (...), got shapes (2, 3, 4) and (2, 4)...
    """
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"expected 0 <= label_smoothing <= 1, got {label_smoothing}")
    weight = _class_weight(logits, weight)
    if logits.ndim and np.shape(targets) == logits.shape and ops.like(logits, targets).dtype.kind == "f":
        if check.integers("cross_entropy", ignore_index=ignore_index) >= 0:
            raise ValueError("cross_entropy: expected no ignore_index where targets are probabilities, got "
                             f"{ignore_index}: multiply the losses of reduction='none' by a mask")
        t = matched(logits, targets)
        t = t if not label_smoothing else t * (1 - label_smoothing) + label_smoothing / logits.shape[-1]
        t = t if weight is None else t * ops.like(logits, weight)
        logs = log_softmax(logits)
        logs = ops.where((t == 0) & (logs == -math.inf), 0.0, logs)
        return _reduce(ops.sum(-t * logs, -1), reduction)
    ids = _class_ids(logits, targets, ignore_index)
    losses, weights = _cross_entropy(logits, ids, weight, label_smoothing, ignore_index)
    return _reduce(losses, reduction, weights=weights)


@_loss
def nll_loss(log_probs: Tensor, targets: Like, weight: Like = None, *, ignore_index: int = -100,
             reduction: str = "mean") -> Tensor:
    """-log_probs[target]: `cross_entropy` of what is log-probabilities already, (..., C), without its smoothing.

    >>> F.nll_loss(ts.log(ts.tensor([[0.25, 0.75]])), [0])      # log 4
    tensor(1.3862...)
    """
    ids = _class_ids(log_probs, targets, ignore_index)
    losses, weights = _nll(log_probs, ids, _class_weight(log_probs, weight), ignore_index)
    return _reduce(losses, reduction, weights=weights)


@_loss
def mse_loss(x: Tensor, target: Like, *, reduction: str = "mean") -> Tensor:
    """(x - target)^2, of one shape, which the reduction "none" gives; "mean" and "sum" give a number. Another shape of
    target is a ValueError, as broadcasting would hide a mistake.

    >>> F.mse_loss(ts.tensor([1.0, 2.0]), [1.0, 4.0])
    tensor(2.)
    >>> F.mse_loss(ts.zeros((3, 1)), ts.zeros(3))
    Traceback (most recent call last):
    ValueError: mse_loss(...): input of shape (3, 1) and target of shape (3,) must have one shape
    """
    return _reduce(ops.square(x - _target(x, target)), reduction)


@_loss
def l1_loss(x: Tensor, target: Like, *, reduction: str = "mean") -> Tensor:
    """|x - target|, of one shape; reductions as for `mse_loss`.

    >>> F.l1_loss(ts.tensor([1.0, 2.0]), [1.0, 4.0], reduction="none")
    tensor([0., 2.])
    """
    return _reduce(ops.abs(x - _target(x, target)), reduction)


@op
def _huber(d: Tensor, delta: float) -> Out:
    near = namespace(d).clip(d, -delta, delta)
    return near * (d - 0.5 * near), (lambda g: g * near,)


@_loss
def huber_loss(x: Tensor, target: Like, reduction: str = "mean", delta: float = 1.0) -> Tensor:
    """d^2 / 2 where |d| <= delta, else delta (|d| - delta / 2), with d = x - target, of one shape, and delta > 0 (Huber
    1964).

    >>> F.huber_loss(ts.tensor([0.5, 3.0]), [0.0, 0.0], reduction="none")
    tensor([0.125, 2.5  ])
    """
    delta = check.numbers("huber_loss", above=0, delta=delta)
    return _reduce(_huber(x - _target(x, target), delta), reduction)


@_loss
def smooth_l1_loss(x: Tensor, target: Like, *, reduction: str = "mean", beta: float = 1.0) -> Tensor:
    """d^2 / (2 beta) where |d| < beta, else |d| - beta / 2, with d = x - target, of one shape, and beta >= 0:
    `huber_loss` with that delta, divided by it.

    >>> F.smooth_l1_loss(ts.tensor([0.25, 3.0]), [0.0, 0.0], reduction="none", beta=0.5)
    tensor([0.0625, 2.75  ])
    """
    d, beta = x - _target(x, target), check.numbers("smooth_l1_loss", least=0, beta=beta)
    return _reduce(_huber(d, beta) * (1 / beta) if beta else ops.abs(d), reduction)


@op(wide=True)
def _binary_cross_entropy(p: Tensor, t: Tensor) -> Out:
    xp = namespace(p, t)
    yes = xp.where(p <= 0, -100.0, xp.maximum(xp.log(xp.where(p <= 0, 1.0, p)), -100.0))
    no = xp.where(p >= 1, -100.0, xp.maximum(xp.log1p(-xp.where(p >= 1, 0.0, p)), -100.0))
    slope: Callable[[Any], Any] = lambda g: g * (p - t) / xp.maximum(p * (1 - p), 1e-12)
    return (t - 1) * no - t * yes, (slope, lambda g: g * (no - yes))


@_loss
def binary_cross_entropy(probs: Tensor, target: Like, weight: Like = None, *, reduction: str = "mean") -> Tensor:
    """-(t log p + (1 - t) log(1 - p)), logarithms not below -100, of one shape; the gradient is PyTorch's too,
    (p - t) / max(p (1 - p), 1e-12).

    `weight`, which broadcasts to that shape, multiplies the losses; the mean is over their number, as in PyTorch.
    Probabilities outside [0, 1] are a ValueError; on a device nobody looks.

    >>> F.binary_cross_entropy(ts.tensor([0.5, 0.5]), [1.0, 0.0])           # log 2
    tensor(0.6931...)
    >>> F.binary_cross_entropy(ts.tensor([1.5]), [1.0])
    Traceback (most recent call last):
    ValueError: binary_cross_entropy(...): expected probabilities from 0 to 1, got 1.5 to 1.5; for logits there is...
    """
    data, target, weight = probs._data, _target(probs, target), _entry_weight(probs, weight)
    if backends.on_host(data) and ((data < 0) | (data > 1)).any():
        raise ValueError(f"expected probabilities from 0 to 1, got {data.min()} to {data.max()}; "
                         "for logits there is binary_cross_entropy_with_logits")
    return _reduce(_binary_cross_entropy(probs, target) * weight, reduction)


@op
def _binary_cross_entropy_with_logits(x: Tensor, yes: Tensor, no: Tensor) -> Out:
    """-yes log sigmoid(x) - no log sigmoid(-x), where 0 times an infinity is 0."""
    xp = namespace(x, yes, no)
    tail = xp.log1p(xp.exp(-xp.abs(x)))
    off, on = tail - xp.minimum(x, 0), tail + xp.maximum(x, 0)  # the costs where "yes", and where "no" was right
    y = yes * xp.where((yes == 0) & (off == math.inf), 0, off) + no * xp.where((no == 0) & (on == math.inf), 0, on)
    return y, (lambda g: g * (no * xp.sigmoid(x) - yes * xp.sigmoid(-x)), lambda g: g * off, lambda g: g * on)


@_loss
def binary_cross_entropy_with_logits(x: Tensor, target: Like, weight: Like = None, *, reduction: str = "mean",
                                     pos_weight: Like = None) -> Tensor:
    """`binary_cross_entropy` of sigmoid(x), right for any x; `pos_weight`, which broadcasts, weights the positive term,
    and `weight` both. A loss of weight 0 is 0, be x infinite.

    >>> F.binary_cross_entropy_with_logits(ts.tensor([-1000.0]), [1.0])
    tensor(1000.)
    """
    target, weight = _target(x, target), _entry_weight(x, weight)
    yes = target if pos_weight is None else target * matched(x, pos_weight)
    return _reduce(_binary_cross_entropy_with_logits(x, yes * weight, (1 - target) * weight), reduction)


@_loss
def kl_div(log_probs: Tensor, target: Like, *, reduction: str = "mean", log_target: bool = False) -> Tensor:
    """t (log t - log_probs) by entry, 0 where t is 0: Kullback & Leibler's divergence from the model to the target.

    `reduction="batchmean"` divides the sum by the first axis' length, which is the divergence's mean over a batch; of a
    number it is the number. With `log_target` the target is given as log-probabilities.

    >>> F.kl_div(ts.log(ts.tensor([[0.5, 0.5]])), [[1.0, 0.0]], reduction="batchmean")      # log 2
    tensor(0.6931...)
    """
    target = _target(log_probs, target)
    probs = ops.exp(target) if log_target else target
    real = probs != 0
    logs = ops.where(real, target, 0.0) if log_target else ops.log(ops.where(real, target, 1.0))
    loss = _reduce(probs * ops.where(real, logs - log_probs, 0.0), reduction, "batchmean")
    return loss / (*log_probs.shape, 1)[0] if reduction == "batchmean" else loss
