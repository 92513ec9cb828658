"""Norms of whole sequences and batches, a slope that is learnt, and bags of embeddings: PyTorch's, channels last."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinyseq import backends, check, functional
from tinyseq.engine import ops
from tinyseq.engine.autograd import wide
from tinyseq.engine.graph import no_grad
from tinyseq.engine.tensor import Like, Tensor
from tinyseq.functional.arguments import checked_lengths, real_steps
from tinyseq.nn.layers import Embedding
from tinyseq.nn.masks import length_mask, numbers
from tinyseq.nn.module import Buffer, Module, Parameter


def _real(where: str, x: Tensor, lengths: Like) -> Tensor | None:
    """(B, T, 1), True where x (B, T, C) is real; None for everywhere."""
    if lengths is None:
        return None
    if x.ndim != 3:
        raise ValueError(f"{where}: expected x (B, T, C) with lengths, got shape {x.shape}")
    return real_steps(x, checked_lengths(lengths, x.shape[1], x.shape[0], where))


def _moments(x: Tensor, axes: tuple[int, ...], real: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and number of the `real` entries of x over `axes`, which stay."""
    if real is None:
        number = math.prod(x.shape[axis] for axis in axes)
        mean = ops.mean(x, axes, keepdims=True)
        return mean, ops.var(x, axes, keepdims=True), ops.full_like(mean.detach(), float(number))
    each = ops.broadcast_to(real, x.shape).astype(x.dtype)
    count = ops.sum(each, axes, keepdims=True)
    mean = ops.sum(x * each, axes, keepdims=True) / ops.maximum(count, 1.0)
    return mean, ops.sum(ops.square(x - mean) * each, axes, keepdims=True) / ops.maximum(count, 1.0), count


class BatchNorm1d(Module):
    """Batch normalisation (Ioffe & Szegedy 2015, algorithm 1) of x (B, C) or (B, T, C): channels last, as all layers
    here; PyTorch has (B, C, T).

        y = (x - mean) / sqrt(variance + eps) * weight + bias     by channel, over the batch and all steps

    In training mean and variance are those of x, and running ones are kept beside: running = (1 - momentum) running +
    momentum new, where the new variance divides by n - 1; with `momentum=None` they are means over all batches so far.
    After `eval()` the running ones are used. With `lengths` (B,) steps beyond them count nothing, and are 0 in y.

    weight and bias (C,) are 1 and 0 at first, None without `affine`; running_mean and running_var (C,) begin at 0 and
    1, and num_batches_tracked counts batches; without `track_running_stats` there are none, and each batch is
    normalised by itself. All stand in the state_dict under these names, PyTorch's.

    >>> norm = nn.BatchNorm1d(2)
    >>> y = norm(ts.tensor([[[1.0, 5.0], [3.0, 9.0]], [[2.0, 7.0], [99.0, 99.0]]]), lengths=[2, 1])
    >>> y[1].tolist(), norm.running_mean                      # a tenth of the means 2 and 7
    ([[0.0, 0.0], [0.0, 0.0]], tensor([0.2, 0.7]))
    >>> norm.eval()(ts.tensor([[0.2, 0.7]])).shape
    (1, 2)

    Errors: ValueError for x of other channels, and in training for fewer than two positions; TypeError for x of another
    dtype than the parameters.
    """

    alone = False

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True,
                 track_running_stats: bool = True, *, dtype: Any = np.float32) -> None:
        size = self.num_features = check.integers("BatchNorm1d", 1, num_features=num_features)
        self.eps = check.numbers("BatchNorm1d", least=0, eps=eps)
        self.momentum = None if momentum is None else check.numbers("BatchNorm1d", least=0, most=1, momentum=momentum)
        self.affine, self.track_running_stats = affine, track_running_stats
        self.weight = Parameter(ops.ones((size,), dtype)) if affine else None
        self.bias = Parameter(ops.zeros((size,), dtype)) if affine else None
        self.running_mean = Buffer(ops.zeros((size,), dtype)) if track_running_stats else None
        self.running_var = Buffer(ops.ones((size,), dtype)) if track_running_stats else None
        self.num_batches_tracked = Buffer(ops.zeros((), np.int64)) if track_running_stats else None

    def forward(self, x: Tensor, lengths: Like = None) -> Tensor:
        """x (B, C) or (B, T, C), lengths (B,) or None -> as x."""
        x = _channels("BatchNorm1d", x, self.num_features, self.weight, (2, 3))
        real = _real("BatchNorm1d", x, lengths)
        x = x if real is None else ops.where(real, x, 0.0)
        if self.training or self.running_mean is None or self.running_var is None:
            mean, variance, count = _moments(x, tuple(range(x.ndim - 1)), real)
            if self.training:
                self._track(mean, variance, count)
        else:
            mean, variance = self.running_mean, self.running_var
        return _scaled(x, mean, variance, self.eps, self.weight, self.bias, real)

    @no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        if backends.on_host(count._data) and count.max().item() < 2:
            raise ValueError("BatchNorm1d: expected at least 2 positions to normalise over in training, got "
                             f"{count.max().item():g}; eval() uses the running mean and variance")
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.data = self.num_batches_tracked + 1
        share = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        unbiased = variance * (count / ops.maximum(count - 1, 1.0))
        for old, new in ((self.running_mean, mean), (self.running_var, unbiased)):
            old.data = old + share * (ops.reshape(new.detach(), old.shape) - old)


def _channels(where: str, x: Tensor, size: int, weight: Tensor | None, axes: tuple[int, ...]) -> Tensor:
    """x as a Tensor of so many axes, whose last is of `size` channels."""
    x = numbers(where, "x as a Tensor", x)
    if x.ndim not in axes or x.shape[-1] != size:
        raise ValueError(f"{where}: expected x (B, {size}) or (B, T, {size}), channels last, got shape {x.shape}")
    if weight is not None and x.dtype != weight.dtype:
        raise TypeError(f"{where}: expected x of {weight.dtype}, as the weights, got {x.dtype}: convert one of them, "
                        "module.to(dtype) or x.astype(dtype)")
    return x


@wide
def _scaled(x: Tensor, mean: Tensor, variance: Tensor, eps: float, weight: Tensor | None, bias: Tensor | None,
            real: Tensor | None) -> Tensor:
    y = (x - mean) / ops.sqrt(variance + eps)
    y = y if weight is None else y * weight
    y = y if bias is None else y + bias
    return y if real is None else ops.where(real, y, 0.0)


class GroupNorm(Module):
    """Group normalisation (Wu & He 2018) of x (B, ..., C): channels last, as all layers here; PyTorch has (B, C, ...).

        y = (x - mean) / sqrt(variance + eps) * weight + bias     over all steps of a row and the channels of a group

    `num_channels` C are cut into `num_groups`. weight and bias (C,) are 1 and 0 at first, None without `affine`. With
    `lengths` (B,), of x (B, T, C), steps beyond them count nothing, and are 0 in y.

    >>> norm = nn.GroupNorm(num_groups=2, num_channels=4)
    >>> y = norm(ts.random.normal((3, 5, 4)), lengths=[5, 2, 0])
    >>> y.shape, ts.all(abs(ts.mean(y[0].reshape(5, 2, 2), axis=(0, 2))) < 1e-5), ts.all(y[1, 2:] == 0)
    ((3, 5, 4), tensor(True), tensor(True))

    Errors: ValueError for x of other channels and for num_channels that are no multiple of num_groups; TypeError for x
    of another dtype than the parameters.
    """

    alone = False

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True, *,
                 dtype: Any = np.float32) -> None:
        self.num_groups, self.num_channels = check.integers("GroupNorm", 1, num_groups=num_groups,
                                                            num_channels=num_channels)
        if self.num_channels % self.num_groups:
            raise ValueError("GroupNorm: expected num_channels to be a multiple of num_groups, got "
                             f"{num_channels} and {num_groups}")
        self.eps, self.affine = check.numbers("GroupNorm", least=0, eps=eps), affine
        self.weight = Parameter(ops.ones((self.num_channels,), dtype)) if affine else None
        self.bias = Parameter(ops.zeros((self.num_channels,), dtype)) if affine else None

    def forward(self, x: Tensor, lengths: Like = None) -> Tensor:
        """x (B, ..., C), lengths (B,) or None -> as x."""
        x = _channels("GroupNorm", x, self.num_channels, self.weight, (*range(2, 9),))
        real = _real("GroupNorm", x, lengths)
        apart = (*x.shape[:-1], self.num_groups, self.num_channels // self.num_groups)
        groups = ops.reshape(x if real is None else ops.where(real, x, 0.0), apart)
        axes = (*range(1, x.ndim - 1), x.ndim)
        mean, variance, _ = _moments(groups, axes, None if real is None else real[..., None])
        normal = ops.reshape(_scaled(groups, mean, variance, self.eps, None, None, None), x.shape)
        y = normal if self.weight is None else normal * self.weight + self.bias
        return y if real is None else ops.where(real, y, 0.0)


class PReLU(Module):
    """x where it is positive, else weight times x (He et al. 2015), of x (..., C).

    weight (num_parameters,), `init` at first, is one for all entries, or one for each of C channels, the last axis.
    Raises ValueError for x of another number of channels.

    >>> prelu = nn.PReLU()
    >>> prelu(ts.tensor([-2.0, 0.0, 3.0])), prelu.weight.shape
    (tensor([-0.5,  0. ,  3. ], op=where), (1,))
    """

    def __init__(self, num_parameters: int = 1, init: float = 0.25, *, dtype: Any = np.float32) -> None:
        self.num_parameters = check.integers("PReLU", 1, num_parameters=num_parameters)
        self.init = check.numbers("PReLU", init=init)
        self.weight = Parameter(ops.full((self.num_parameters,), self.init, dtype))

    def forward(self, x: Tensor) -> Tensor:
        """x (..., C) -> as x."""
        x = numbers("PReLU", "x as a Tensor", x)
        if self.num_parameters not in (1, *x.shape[-1:]):
            raise ValueError(f"PReLU: expected x (..., {self.num_parameters}), a channel for each of num_parameters, "
                             f"got shape {x.shape}")
        return ops.where(x > 0, x, ops.where(x > 0, 0.0, x) * self.weight)  # 0: an infinity times 0 is none


class EmbeddingBag(Module):
    """The mean, sum or maximum of the vectors of several ids: bags of integer ids -> (B, embedding_dim).

        bag(ids, offsets=None, per_sample_weights=None, lengths=None)
        ids      (B, N), a bag a row, the first `lengths` (B,) of it, all unless given; or (M,), with `offsets` (B,),
                 the places where bags begin, the first of them 0
        per_sample_weights   as ids: what each vector is multiplied with, where `mode` is "sum"

    weight (num_embeddings, embedding_dim) is drawn from N(0, 1). The row `padding_idx`, if given, is 0 at first, gets
    no gradient and counts nothing in a bag. An empty bag gives zeros. `mode` is "mean", "sum" or "max".

    >>> bag = nn.EmbeddingBag(10, 4, mode="sum")
    >>> y = bag([[7, 2, 2], [5, 0, 0]], lengths=[3, 1])
    >>> ts.all(abs(y[0] - bag.weight[7] - 2 * bag.weight[2]) < 1e-6), ts.all(y[1] == bag.weight[5])
    (tensor(True), tensor(True))
    >>> ts.all(bag([7, 2, 2, 5], offsets=[0, 3]) == y)
    tensor(True)

    Errors: IndexError for ids below 0 or from num_embeddings on, TypeError for ids that are no integers, ValueError for
    shapes, offsets and options that do not fit.
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, *, mode: str = "mean", padding_idx: int | None = None,
                 dtype: Any = np.float32) -> None:
        check.choice("EmbeddingBag", ("mean", "sum", "max"), mode=mode)
        try:
            table = Embedding(num_embeddings, embedding_dim, padding_idx, dtype=dtype)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{error}".replace("Embedding:", "EmbeddingBag:", 1)) from None
        self.num_embeddings, self.embedding_dim = table.num_embeddings, table.embedding_dim
        self.padding_idx, self.mode, self.weight = table.padding_idx, mode, table.weight

    def forward(self, ids: Like, offsets: Like = None, per_sample_weights: Like = None, lengths: Like = None) -> Tensor:
        """ids (B, N), or (M,) with offsets (B,); weights as ids, lengths (B,) -> (B, embedding_dim)."""
        ids = numbers("EmbeddingBag", "ids as integers (B, N), or (M,) with offsets (B,)", ids, self.weight)
        if (ids.ndim, offsets is None) not in ((2, True), (1, False)) or (offsets is not None and lengths is not None):
            raise ValueError("EmbeddingBag: expected ids (B, N), perhaps with lengths, or ids (M,) with offsets (B,), "
                             f"got ids {ids.shape}, offsets={check.describe(offsets)}, "
                             f"lengths={check.describe(lengths)}")
        if per_sample_weights is not None:
            if self.mode != "sum":
                raise ValueError(f"EmbeddingBag: expected mode='sum' with per_sample_weights, got {self.mode!r}")
            per_sample_weights = numbers("EmbeddingBag", "per_sample_weights", per_sample_weights, self.weight)
            if per_sample_weights.shape != ids.shape:
                raise ValueError("EmbeddingBag: expected per_sample_weights of the shape of ids, got "
                                 f"{per_sample_weights.shape} and {ids.shape}")
        if offsets is not None:
            at, lengths = _bags(offsets, len(ids))
            ids, per_sample_weights = ids[at], None if per_sample_weights is None else per_sample_weights[at]
        rows = functional.embedding(ids, self.weight, self.padding_idx)
        real = ops.ones_like(ids, bool) if self.padding_idx is None else ids != self.padding_idx
        if lengths is not None:
            real = real & ops.like(ids, length_mask(lengths, ids.shape[1], ids.shape[0], "EmbeddingBag"))
        if per_sample_weights is not None:
            rows = rows * per_sample_weights.astype(rows.dtype)[..., None]
        return self._together(rows, real[..., None])

    def _together(self, rows: Tensor, real: Tensor) -> Tensor:
        """(B, N, E), of which some are `real` (B, N, 1) -> (B, E)."""
        if self.mode == "max":
            rows = ops.pad(ops.where(real, rows, -math.inf), [(0, 0), (0, 1), (0, 0)], -math.inf)
            return ops.where(ops.any(real, 1), ops.max(rows, 1), 0.0)
        total = ops.sum(ops.where(real, rows, 0.0), 1)
        return total if self.mode == "sum" else total / ops.maximum(ops.sum(real, 1), 1).astype(rows.dtype)


def _bags(offsets: Like, size: int) -> tuple[Any, Any]:
    """Which of `size` ids stand in each bag, one a row (B, N), and how many of a row are real."""
    begins = Tensor(ops.as_int64(offsets, "EmbeddingBag: offsets: ")).numpy()
    if begins.ndim != 1 or not begins.size or begins[0] != 0 or (np.diff(begins) < 0).any() or begins[-1] > size:
        raise ValueError(f"EmbeddingBag: expected offsets (B,) that begin at 0 and rise to at most {size}, got "
                         f"{begins.tolist()}")
    lengths = np.diff([*begins, size])
    at = begins[:, None] + np.arange(lengths.max(initial=0))
    return np.minimum(at, max(size - 1, 0)), lengths
