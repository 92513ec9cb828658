"""Losses and outputs as modules, under PyTorch's names: each is the function of `tinyseq.functional` with its options.

All options of losses go by name. Classes stand on the last axis: `CrossEntropyLoss()(logits (B, T, C), ids (B, T))`.
"""

from __future__ import annotations

from typing import Any

from tinyseq import check, functional
from tinyseq.engine import ops
from tinyseq.engine.tensor import Like, Tensor
from tinyseq.nn.layers import Activation
from tinyseq.nn.module import Buffer, Module


class _Loss(Module):
    """What losses share: a reduction."""

    alone = False

    def __init__(self, reduction: str = "mean", *more: str) -> None:
        check.choice(type(self).__name__, ("mean", "sum", "none", *more), reduction=reduction)
        self.reduction = reduction


def _weights(where: str, weight: Like, name: str = "weight") -> Buffer | None:
    """What weights losses, saved and moved with the module."""
    try:
        return None if weight is None else Buffer(ops.asarray(weight))
    except (TypeError, ValueError):
        raise TypeError(f"{where}: expected {name} as numbers, got {check.describe(weight)}") from None


class CrossEntropyLoss(_Loss):
    """`functional.cross_entropy`: logits (..., C) and integer targets (...), or probabilities (..., C).

    `weight` (C,) weights the classes; targets `ignore_index` do not count; `label_smoothing` and `reduction` ("mean",
    "sum", "none") as there. Classes stand on the last axis, where PyTorch has (N, C, T).

    >>> loss = nn.CrossEntropyLoss(ignore_index=0)
    >>> loss(ts.zeros((2, 3, 4)), [[1, 2, 0], [3, 0, 0]])     # log 4
    tensor(1.3862...)
    """

    def __init__(self, weight: Like = None, *, ignore_index: int = -100, reduction: str = "mean",
                 label_smoothing: float = 0.0) -> None:
        super().__init__(reduction)
        self.weight = _weights("CrossEntropyLoss", weight)
        self.ignore_index = check.integers("CrossEntropyLoss", ignore_index=ignore_index)
        self.label_smoothing = check.numbers("CrossEntropyLoss", least=0, most=1, label_smoothing=label_smoothing)

    def forward(self, logits: Tensor, targets: Like) -> Tensor:
        """logits (..., C), targets (...) -> a number, or (...) without a reduction."""
        return functional.cross_entropy(logits, targets, self.weight, ignore_index=self.ignore_index,
                                        reduction=self.reduction, label_smoothing=self.label_smoothing)


class NLLLoss(_Loss):
    """`functional.nll_loss`: log-probabilities (..., C) and integer targets (...). Options as of CrossEntropyLoss.

    >>> nn.NLLLoss()(nn.LogSoftmax()(ts.zeros((2, 4))), [0, 3])           # log 4
    tensor(1.3862...)
    """

    def __init__(self, weight: Like = None, *, ignore_index: int = -100, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.weight = _weights("NLLLoss", weight)
        self.ignore_index = check.integers("NLLLoss", ignore_index=ignore_index)

    def forward(self, log_probs: Tensor, targets: Like) -> Tensor:
        """log_probs (..., C), targets (...) -> a number, or (...) without a reduction."""
        return functional.nll_loss(log_probs, targets, self.weight, ignore_index=self.ignore_index,
                                   reduction=self.reduction)


class MSELoss(_Loss):
    """`functional.mse_loss`: (x - target)^2, of one shape. `reduction` is "mean", "sum" or "none".

    >>> nn.MSELoss()(ts.tensor([1.0, 2.0]), [1.0, 4.0])
    tensor(2.)
    """

    def __init__(self, *, reduction: str = "mean") -> None:
        super().__init__(reduction)

    def forward(self, x: Tensor, target: Like) -> Tensor:
        """x (...), target of its shape -> a number, or (...) without a reduction."""
        return functional.mse_loss(x, target, reduction=self.reduction)


class L1Loss(_Loss):
    """`functional.l1_loss`: |x - target|, of one shape. `reduction` is "mean", "sum" or "none".

    >>> nn.L1Loss(reduction="sum")(ts.tensor([1.0, 2.0]), [1.0, 4.0])
    tensor(2.)
    """

    def __init__(self, *, reduction: str = "mean") -> None:
        super().__init__(reduction)

    def forward(self, x: Tensor, target: Like) -> Tensor:
        """x (...), target of its shape -> a number, or (...) without a reduction."""
        return functional.l1_loss(x, target, reduction=self.reduction)


class HuberLoss(_Loss):
    """`functional.huber_loss`: d^2 / 2 where |d| <= `delta`, else delta (|d| - delta / 2), with d = x - target.

    >>> nn.HuberLoss(reduction="none")(ts.tensor([0.5, 3.0]), [0.0, 0.0])
    tensor([0.125, 2.5  ])
    """

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        super().__init__(reduction)
        self.delta = check.numbers("HuberLoss", above=0, delta=delta)

    def forward(self, x: Tensor, target: Like) -> Tensor:
        """x (...), target of its shape -> a number, or (...) without a reduction."""
        return functional.huber_loss(x, target, self.reduction, self.delta)


class SmoothL1Loss(_Loss):
    """`functional.smooth_l1_loss`: d^2 / (2 beta) where |d| < `beta`, else |d| - beta / 2, with d = x - target.

    >>> nn.SmoothL1Loss(reduction="none", beta=0.5)(ts.tensor([0.25, 3.0]), [0.0, 0.0])
    tensor([0.0625, 2.75  ])
    """

    def __init__(self, *, reduction: str = "mean", beta: float = 1.0) -> None:
        super().__init__(reduction)
        self.beta = check.numbers("SmoothL1Loss", least=0, beta=beta)

    def forward(self, x: Tensor, target: Like) -> Tensor:
        """x (...), target of its shape -> a number, or (...) without a reduction."""
        return functional.smooth_l1_loss(x, target, reduction=self.reduction, beta=self.beta)


class BCELoss(_Loss):
    """`functional.binary_cross_entropy`: probabilities and targets of one shape, to which `weight` broadcasts.

    >>> nn.BCELoss()(ts.tensor([0.5, 0.5]), [1.0, 0.0])       # log 2
    tensor(0.6931...)
    """

    def __init__(self, weight: Like = None, *, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.weight = _weights("BCELoss", weight)

    def forward(self, probs: Tensor, target: Like) -> Tensor:
        """probs (...), target of its shape -> a number, or (...) without a reduction."""
        return functional.binary_cross_entropy(probs, target, self.weight, reduction=self.reduction)


class BCEWithLogitsLoss(_Loss):
    """`functional.binary_cross_entropy_with_logits`; `pos_weight`, which broadcasts, weights the positive term, and
    `weight` both.

    >>> nn.BCEWithLogitsLoss()(ts.tensor([-1000.0]), [1.0])
    tensor(1000.)
    """

    def __init__(self, weight: Like = None, *, reduction: str = "mean", pos_weight: Like = None) -> None:
        super().__init__(reduction)
        self.weight = _weights("BCEWithLogitsLoss", weight)
        self.pos_weight = _weights("BCEWithLogitsLoss", pos_weight, "pos_weight")

    def forward(self, x: Tensor, target: Like) -> Tensor:
        """x (...), target of its shape -> a number, or (...) without a reduction."""
        return functional.binary_cross_entropy_with_logits(x, target, self.weight, reduction=self.reduction,
                                                           pos_weight=self.pos_weight)


class KLDivLoss(_Loss):
    """`functional.kl_div`: t (log t - log_probs) by entry; `reduction` may be "batchmean" too, `log_target` says that
    the target is log-probabilities.

    >>> nn.KLDivLoss(reduction="batchmean")(ts.log(ts.tensor([[0.5, 0.5]])), [[1.0, 0.0]])        # log 2
    tensor(0.6931...)
    """

    def __init__(self, *, reduction: str = "mean", log_target: bool = False) -> None:
        super().__init__(reduction, "batchmean")
        self.log_target = log_target

    def forward(self, log_probs: Tensor, target: Like) -> Tensor:
        """log_probs (...), target of its shape -> a number, or (...) without a reduction."""
        return functional.kl_div(log_probs, target, reduction=self.reduction, log_target=self.log_target)


class _Along(Module):
    """A function along an axis, by default the last, where features stand."""

    alone = False  # `axis` may be time
    function: Any

    def __init__(self, axis: int = -1) -> None:
        self.axis = check.integers(type(self).__name__, axis=axis)

    def forward(self, x: Tensor) -> Tensor:
        """x (...) -> the function along `axis`."""
        y: Tensor = type(self).function(x, self.axis)
        return y


class Softmax(_Along):
    """exp(x) / sum(exp(x)) along `axis`, by default the last: `functional.softmax` of x (...).

    >>> nn.Softmax()(ts.tensor([[0.0, 0.0], [1000.0, 0.0]]))
    tensor([[0.5, 0.5],
            [1. , 0. ]])
    """

    function = functional.softmax


class LogSoftmax(_Along):
    """log(softmax(x)) along `axis`, by default the last: `functional.log_softmax` of x (...).

    >>> nn.LogSoftmax()(ts.tensor([0.0, 1000.0]))
    tensor([-1000.,     0.])
    """

    function = functional.log_softmax


class GLU(_Along):
    """a sigmoid(b), a and b the halves of x (...) along `axis`, by default the last: `functional.glu`, half as long.

    >>> nn.GLU()(ts.tensor([[6.0, 0.0]]))
    tensor([[3.]])
    """

    function = functional.glu


class LogSigmoid(Activation):
    """log(sigmoid(x)) of each entry of x (...), without underflow. It has no options.

    >>> nn.LogSigmoid()(ts.tensor(-1000.0))
    tensor(-1000.)
    """

    function = functional.log_sigmoid

    def __init__(self) -> None:
        super().__init__()


class Identity(Module):
    """x (...) as it is: what stands where a layer is left out. It has no options.

    >>> nn.Identity()(ts.tensor([1.0, 2.0]))
    tensor([1., 2.])
    """

    def __init__(self) -> None:
        pass

    def forward(self, x: Any) -> Any:
        """x (...) -> x."""
        return x
