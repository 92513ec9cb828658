"""Layers without memory: Linear, Embedding, LayerNorm, Dropout, activations, Sequential.

Constructor arguments, initial distributions and state_dict names are PyTorch's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from inspect import signature
from typing import Any

import numpy as np

from tinyseq import check, functional
from tinyseq.engine import ops
from tinyseq.engine.tensor import Like, Tensor
from tinyseq.nn import init
from tinyseq.nn.module import Module, Parameter


class Linear(Module):
    """y = x W^T + b: x (..., in_features) -> y (..., out_features), on whatever axes come before.

    weight (out_features, in_features) and bias (out_features,), or None with `bias=False`, both uniform on
    ±1/sqrt(in_features). Errors: ValueError for x of other features, TypeError for x of another dtype than the weight.

    >>> linear = nn.Linear(3, 4)
    >>> x = ts.random.normal((2, 5, 3))
    >>> linear(x).shape, linear.weight.shape, linear.bias.shape
    ((2, 5, 4), (4, 3), (4,))
    >>> ts.all(abs(linear(x) - (x @ linear.weight.mT + linear.bias)) < 1e-6)
    tensor(True)
    """

    shown = ("bias",)

    def __init__(self, in_features: int, out_features: int, bias: bool = True, *, dtype: Any = np.float32) -> None:
        in_features, out_features = check.integers("Linear", 0, in_features=in_features, out_features=out_features)
        bound = 1 / math.sqrt(in_features) if in_features else 0.0
        self.in_features, self.out_features = in_features, out_features
        self.weight = Parameter(ops.zeros((out_features, in_features), dtype))
        self.bias = Parameter(ops.zeros((out_features,), dtype)) if bias else None
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in_features) -> (..., out_features)."""
        return functional.linear(x, self.weight, self.bias)


class Embedding(Module):
    """A table of vectors: integer ids (...) -> their rows (..., embedding_dim).

    weight (num_embeddings, embedding_dim) is drawn from N(0, 1). The row `padding_idx`, if given, is 0 at first and
    gets no gradient, so it stays so. Errors: IndexError for ids below 0 or from num_embeddings on, TypeError for ids
    that are no integers. On a GPU nobody looks at the ids, and one that is no row comes out as NaN.

    >>> embedding = nn.Embedding(10, 4, padding_idx=0)
    >>> y = embedding([[7, 2, 0], [5, 0, 0]])                 # a list, an array or a Tensor
    >>> y.shape
    (2, 3, 4)
    >>> ts.all(y[0, 0] == embedding.weight[7]), ts.all(y[0, 2] == 0)
    (tensor(True), tensor(True))
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None, *,
                 dtype: Any = np.float32) -> None:
        num_embeddings, embedding_dim = check.integers("Embedding", 0, num_embeddings=num_embeddings,
                                                       embedding_dim=embedding_dim)
        self.num_embeddings, self.embedding_dim, self.padding_idx = num_embeddings, embedding_dim, padding_idx
        self.weight = init.normal_(Parameter(ops.zeros((num_embeddings, embedding_dim), dtype)))
        if padding_idx is not None:
            padding_idx = check.integers("Embedding", -num_embeddings, num_embeddings - 1, padding_idx=padding_idx)
            self.padding_idx = padding_idx % num_embeddings
            self.weight.data = ops.setitem(self.weight.detach(), padding_idx, 0.0)

    def forward(self, ids: Like) -> Tensor:
        """Integer ids (...) -> (..., embedding_dim)."""
        return functional.embedding(ids, self.weight, self.padding_idx)


def _shape(where: str, normalized_shape: Any) -> tuple[int, ...]:
    """The trailing axes that a norm is over: one length or several."""
    many = isinstance(normalized_shape, (tuple, list)) and normalized_shape
    return tuple(check.integers(where, 0, normalized_shape=n) for n in (many or [normalized_shape]))


class LayerNorm(Module):
    """Layer normalisation (Ba et al. 2016, equation 3) of x (..., *normalized_shape), on its last axes:

        y = (x - mean) / sqrt(variance + eps) * weight + bias     mean and variance over those axes of each position

    weight and bias, of shape `normalized_shape` (one integer: the last axis), are 1 and 0 at first, and None without
    `elementwise_affine`; with `bias=False` only bias is. The variance divides by the number of entries. Errors:
    ValueError for x that does not end in normalized_shape, TypeError for x of another dtype than the weight.

    >>> norm = nn.LayerNorm(4)
    >>> y = norm(ts.tensor([[1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 30.0, 40.0]]))
    >>> [[round(v, 2) for v in row] for row in y.tolist()]
    [[-1.34, -0.45, 0.45, 1.34], [-1.34, -0.45, 0.45, 1.34]]
    """

    shown = ("eps",)

    def __init__(self, normalized_shape: int | Sequence[int], eps: float = 1e-5, elementwise_affine: bool = True,
                 bias: bool = True, *, dtype: Any = np.float32) -> None:
        shape = _shape("LayerNorm", normalized_shape)
        self.normalized_shape, self.eps = shape, check.numbers("LayerNorm", least=0, eps=eps)
        self.elementwise_affine = elementwise_affine
        self.weight = Parameter(ops.ones(shape, dtype)) if elementwise_affine else None
        self.bias = Parameter(ops.zeros(shape, dtype)) if elementwise_affine and bias else None

    def forward(self, x: Tensor) -> Tensor:
        """x (..., *normalized_shape) -> as x."""
        return functional.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class RMSNorm(Module):
    """Normalisation by the root mean square (Zhang & Sennrich 2019, equation 4) of x (..., *normalized_shape):

        y = x / sqrt(mean(x^2) + eps) * weight                    the mean over the last axes, those of normalized_shape

    weight, of shape `normalized_shape` (one integer: the last axis), is 1 at first, and None without
    `elementwise_affine`. `eps` is the machine epsilon of x's dtype unless given, of float16 float32's. Errors as of
    LayerNorm.

    >>> norm = nn.RMSNorm(2)
    >>> y = norm(ts.tensor([[3.0, 4.0], [30.0, 40.0]]))       # whose root mean squares are 3.54 and 35.4
    >>> ts.all(abs(y - ts.tensor([0.8485, 1.1314])) < 1e-3)
    tensor(True)
    """

    def __init__(self, normalized_shape: int | Sequence[int], eps: float | None = None, elementwise_affine: bool = True,
                 *, dtype: Any = np.float32) -> None:
        shape = _shape("RMSNorm", normalized_shape)
        self.normalized_shape, self.eps = shape, None if eps is None else check.numbers("RMSNorm", least=0, eps=eps)
        self.elementwise_affine = elementwise_affine
        self.weight = Parameter(ops.ones(shape, dtype)) if elementwise_affine else None

    def forward(self, x: Tensor) -> Tensor:
        """x (..., *normalized_shape) -> as x."""
        return functional.rms_norm(x, self.normalized_shape, self.weight, self.eps)


class Dropout(Module):
    """In training, zero each entry with probability p and divide the others by 1 - p (Srivastava et al. 2014).

    After `eval()` it changes nothing. Like all layers it draws from the generator of the `with generator:` around the
    call, else from the thread's own. Raises ValueError for a p that is not 0 <= p < 1.

    >>> dropout = nn.Dropout(0.5)
    >>> y = dropout(ts.ones((100, 100)))
    >>> ts.all((y == 0) | (y == 2)), bool(abs(ts.mean(y) - 1) < 0.1)
    (tensor(True), True)
    >>> ts.all(dropout.eval()(ts.ones(9)) == 1)
    tensor(True)
    """

    shown = ("p",)

    def __init__(self, p: float = 0.5) -> None:
        self.p = check.numbers("Dropout", least=0, below=1, p=p)

    def forward(self, x: Tensor) -> Tensor:
        """x (...) -> as x."""
        return functional.dropout(x, self.p, self.training)


class Activation(Module):
    """A function of `tinyseq.functional` as a module, with its options, by place or by name: what `Sequential` and its
    key names need. An option that the function does not have or take is an error when the module is made.

    The base of ReLU, GELU and the others; one of your own names its function:

    >>> class Softsign(nn.Activation):
    ...     function = staticmethod(lambda x, sharp=1.0: x / (1 / sharp + abs(x)))
    >>> nn.Sequential(nn.Linear(3, 4), Softsign(sharp=2.0))
    Sequential(
      (0): Linear(3, 4, bias=True)
      (1): Softsign(sharp=2.0)
    )

    >>> nn.GELU.function is F.gelu
    True
    """

    function: Callable[..., Tensor]

    def __init__(self, *args: Any, **options: Any) -> None:
        takes = signature(type(self).function)
        try:
            self.options = dict([*takes.bind(None, *args, **options).arguments.items()][1:])
        except TypeError:
            named = [*takes.parameters][1:]
            given = ", ".join([*map(repr, args), *(f"{k}={v!r}" for k, v in options.items())])
            raise TypeError(f"{type(self).__name__}: expected {f'options of {named}' if named else 'no options'}, got "
                            f"{given}") from None
        self.forward(ops.zeros(7))  # which refuses an option's value

    def forward(self, x: Tensor) -> Tensor:
        """x (...) -> the function of each entry, as x."""
        return type(self).function(x, **self.options)

    def extra_repr(self) -> str:
        return ", ".join(f"{k}={v!r}" for k, v in self.options.items())


class _Plain(Activation):
    """One without options."""

    def __init__(self) -> None:
        super().__init__()


class ReLU(_Plain):
    """max(x, 0) of each entry of x (...). It has no options.

    >>> nn.ReLU()(ts.tensor([-2.0, 0.0, 3.0]))
    tensor([0., 0., 3.])
    """

    function = functional.relu


class LeakyReLU(Activation):
    """x where it is positive, else `negative_slope` x, by default 0.01 x; of each entry of x (...).

    >>> nn.LeakyReLU(negative_slope=0.5)(ts.tensor([-2.0, 0.0, 3.0]))
    tensor([-1.,  0.,  3.])
    """

    function = functional.leaky_relu

    def __init__(self, negative_slope: float = 0.01) -> None:
        super().__init__(negative_slope)


class ELU(Activation):
    """x where it is positive, else `alpha` (exp(x) - 1), by default alpha = 1 (Clevert et al. 2016); of each entry of x
    (...).

    >>> [round(v, 1) for v in nn.ELU(alpha=2.0)(ts.tensor([-9.0, 0.0, 3.0])).tolist()]
    [-2.0, 0.0, 3.0]
    """

    function = functional.elu

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__(alpha)


class GELU(Activation):
    """x Φ(x), with Φ the normal distribution function (Hendrycks & Gimpel 2016); of each entry of x (...).

    `approximate="tanh"` is the paper's approximation, 0.5 x (1 + tanh(sqrt(2/π) (x + 0.044715 x^3))), as in GPT-2.

    >>> x = ts.tensor([-1.0, 0.0, 1.0])
    >>> [round(v, 2) for v in nn.GELU()(x).tolist()]
    [-0.16, 0.0, 0.84]
    >>> ts.all(abs(nn.GELU(approximate="tanh")(x) - nn.GELU()(x)) < 1e-3)
    tensor(True)
    """

    function = functional.gelu

    def __init__(self, approximate: str = "none") -> None:
        super().__init__(approximate)


class SiLU(_Plain):
    """x σ(x), also called swish (Elfwing et al. 2017); of each entry of x (...). It has no options.

    >>> [round(v, 2) for v in nn.SiLU()(ts.tensor([-1.0, 0.0, 1.0])).tolist()]
    [-0.27, 0.0, 0.73]
    """

    function = functional.silu


class Tanh(_Plain):
    """The hyperbolic tangent of each entry of x (...). It has no options.

    >>> [round(v, 2) for v in nn.Tanh()(ts.tensor([-1.0, 0.0, 1.0])).tolist()]
    [-0.76, 0.0, 0.76]
    """

    function = ops.tanh


class Sigmoid(_Plain):
    """σ(x) = 1 / (1 + exp(-x)) of each entry of x (...). It has no options.

    >>> [round(v, 2) for v in nn.Sigmoid()(ts.tensor([-1.0, 0.0, 1.0])).tolist()]
    [0.27, 0.5, 0.73]
    """

    function = ops.sigmoid


class Softplus(_Plain):
    """log(1 + exp(x)), without overflow, of each entry of x (...). It has no options.

    >>> [round(v, 2) for v in nn.Softplus()(ts.tensor([-1.0, 0.0, 1000.0])).tolist()]
    [0.31, 0.69, 1000.0]
    """

    function = functional.softplus


def ours(layer: Any) -> bool:
    """Whether a layer is one of this package as it stands, of which it is certain what it takes."""
    return type(layer).__module__.startswith("tinyseq.") and "forward" not in vars(layer)


def fits(where: str, width: int | None, name: str, layer: Any) -> int | None:
    """How many features, on the last axis, a layer makes of `width` of them; None where that is not certain. One that
    takes others is refused by `name`."""
    gives: int | None
    takes: Any = None
    if not ours(layer):
        return None
    if isinstance(layer, Sequential):
        for i, part in enumerate(layer):
            width = fits(where, width, f"{name}.{i}", part)
            width = None if hasattr(part, "directions") else width  # the next is given a state too
    if isinstance(layer, (Sequential, Dropout, Activation)):
        return width
    if isinstance(layer, Linear):
        gives, takes = layer.weight.shape
    elif isinstance(layer, Embedding):  # of ids
        gives = layer.weight.shape[1]
    elif isinstance(layer, (LayerNorm, RMSNorm)):
        gives = takes = layer.normalized_shape[-1]
    elif hasattr(layer, "in_channels"):
        gives, takes = layer.out_channels, layer.in_channels
    elif hasattr(layer, "directions"):
        gives, takes = layer.directions * layer.sizes[0], layer.input_size
    elif hasattr(layer, "state_size"):  # cells: what follows is given the state
        gives, takes = None if isinstance(layer.state_size, tuple) else layer.state_size, layer.input_size
    else:  # positions, Transformers
        gives = takes = getattr(layer, "d_model", None)
    if None not in (width, takes) and takes != width:
        raise ValueError(f"{where}: expected {name} to take the {width} features that are before it, got "
                         f"{check.describe(layer)}, which takes {takes}")
    return gives


class Sequential(Module):
    """Layers one after another; `layers[i]`, `len` and iteration work, and names are "0.weight", "1.bias", ...

    Each layer is called on what the one before returned. Raises TypeError for a layer that is no Module.

    >>> classify = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    >>> classify(ts.random.normal((2, 5, 8))).shape
    (2, 5, 3)
    >>> len(classify), classify[1], list(classify.state_dict())
    (3, ReLU(), ['0.weight', '0.bias', '2.weight', '2.bias'])
    """

    def __init__(self, *layers: Module) -> None:
        for i, layer in enumerate(layers):
            if not isinstance(layer, Module):
                raise TypeError(f"Sequential: of layers, layer {i} is a {type(layer).__name__}, expected a Module: "
                                "nn.ReLU(), ...")
            setattr(self, str(i), layer)
        fits("Sequential", None, "layers", self)

    def forward(self, x: Any) -> Any:
        """x (...), as the first layer takes it -> what the last one returns; x itself if there are none."""
        for layer in self:
            x = layer(x)
        return x

    def __iter__(self) -> Iterator[Module]:
        return (module for _, module in self.children())

    def __len__(self) -> int:
        return len(list(self.children()))

    def __getitem__(self, index: int) -> Module:
        return list(self)[index]
