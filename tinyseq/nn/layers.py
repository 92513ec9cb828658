"""Layers without memory: Linear, Embedding, LayerNorm, Dropout, activations, Sequential.

Constructor arguments, initial distributions and state_dict names are PyTorch's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from inspect import signature
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyseq import check, functional
from tinyseq.engine import ops
from tinyseq.engine.tensor import Like, Tensor
from tinyseq.nn import init
from tinyseq.nn.module import Module, Parameter


class Linear(Module):
    """x (..., in_features) -> x weight^T + bias (..., out_features). weight (out, in), bias (out,)."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True, *, dtype: Any = np.float32) -> None:
        in_features, out_features = check.integers("Linear", 0, in_features=in_features, out_features=out_features)
        bound = 1 / math.sqrt(in_features) if in_features else 0.0
        self.in_features, self.out_features = in_features, out_features
        self.weight = Parameter(ops.zeros((out_features, in_features), dtype))
        self.bias = Parameter(ops.zeros((out_features,), dtype)) if bias else None
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


class Embedding(Module):
    """Integer ids (...) -> rows of weight (num_embeddings, embedding_dim): (..., embedding_dim).

    Normally distributed at first; the row `padding_idx` starts at 0 and stays there.
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None, *,
                 dtype: Any = np.float32) -> None:
        num_embeddings, embedding_dim = check.integers("Embedding", 0, num_embeddings=num_embeddings,
                                                       embedding_dim=embedding_dim)
        self.padding_idx = padding_idx
        self.weight = init.normal_(Parameter(ops.zeros((num_embeddings, embedding_dim), dtype)))
        if padding_idx is not None:
            padding_idx = check.integers("Embedding", -num_embeddings, num_embeddings - 1, padding_idx=padding_idx)
            self.padding_idx = padding_idx % num_embeddings
            self.weight.data = ops.setitem(self.weight.detach(), padding_idx, 0.0)

    def forward(self, ids: Like) -> Tensor:
        return functional.embedding(ids, self.weight, self.padding_idx)

    def extra_repr(self) -> str:
        padding = [] if self.padding_idx is None else [f"padding_idx={self.padding_idx}"]
        return ", ".join([*map(str, self.weight.shape), *padding])


def _shape(where: str, normalized_shape: Any) -> tuple[int, ...]:
    """The trailing axes that a norm is over: one length or several."""
    many = isinstance(normalized_shape, (tuple, list)) and normalized_shape
    return tuple(check.integers(where, 0, normalized_shape=n) for n in (many or [normalized_shape]))


class LayerNorm(Module):
    """Trailing axes `normalized_shape` are given mean 0 and variance 1, then scaled and shifted (Ba et al. 2016)."""

    def __init__(self, normalized_shape: int | Sequence[int], eps: float = 1e-5, elementwise_affine: bool = True,
                 bias: bool = True, *, dtype: Any = np.float32) -> None:
        shape = _shape("LayerNorm", normalized_shape)
        self.normalized_shape, self.eps = shape, check.numbers("LayerNorm", least=0, eps=eps)
        self.weight = Parameter(ops.ones(shape, dtype)) if elementwise_affine else None
        self.bias = Parameter(ops.zeros(shape, dtype)) if elementwise_affine and bias else None

    def forward(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}"


class RMSNorm(Module):
    """Trailing axes `normalized_shape` are divided by the root of their mean square, then scaled (Zhang & Sennrich
    2019). `eps` is the dtype's unless given."""

    def __init__(self, normalized_shape: int | Sequence[int], eps: float | None = None, elementwise_affine: bool = True,
                 *, dtype: Any = np.float32) -> None:
        shape = _shape("RMSNorm", normalized_shape)
        self.normalized_shape, self.eps = shape, None if eps is None else check.numbers("RMSNorm", least=0, eps=eps)
        self.weight = Parameter(ops.ones(shape, dtype)) if elementwise_affine else None

    def forward(self, x: Tensor) -> Tensor:
        return functional.rms_norm(x, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}"


class Dropout(Module):
    """In training, zero each entry with probability p and divide the others by 1 - p (Srivastava et al. 2014).

    Like all layers it draws from the generator of the `with generator:` around the call, else from the thread's own.
    """

    def __init__(self, p: float = 0.5) -> None:
        self.p = check.numbers("Dropout", least=0, below=1, p=p)

    def forward(self, x: Tensor) -> Tensor:
        return functional.dropout(x, self.p, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}"


class Activation(Module):
    """A function of `tinyseq.functional` as a module, with its options, by place or by name: what `Sequential` and its
    key names need. An option that the function does not have or take is an error when the module is made."""

    function: Callable[..., Tensor]

    def __init__(self, *args: Any, **options: Any) -> None:
        takes = signature(type(self).function)
        try:
            self.options = dict([*takes.bind(None, *args, **options).arguments.items()][1:])
        except TypeError:
            given = ", ".join([*map(repr, args), *(f"{k}={v!r}" for k, v in options.items())])
            raise TypeError(f"{type(self).__name__}: expected options of {[*takes.parameters][1:]}, got "
                            f"{given}") from None
        self.forward(ops.zeros(7))  # which refuses an option's value

    def forward(self, x: Tensor) -> Tensor:
        return type(self).function(x, **self.options)

    def extra_repr(self) -> str:
        return ", ".join(f"{k}={v!r}" for k, v in self.options.items())


class _Plain(Activation):
    """One without options."""

    if TYPE_CHECKING:  # as below: what checkers know of the options, which the function has at runtime
        def __init__(self) -> None: ...


class ReLU(_Plain):
    """max(x, 0)."""

    function = functional.relu


class LeakyReLU(Activation):
    """x where it is positive, else `negative_slope` x."""

    function = functional.leaky_relu
    if TYPE_CHECKING:
        def __init__(self, negative_slope: float = 0.01) -> None: ...

class ELU(Activation):
    """x where it is positive, else `alpha` (exp(x) - 1) (Clevert et al. 2016)."""

    function = functional.elu
    if TYPE_CHECKING:
        def __init__(self, alpha: float = 1.0) -> None: ...

class GELU(Activation):
    """x times the normal distribution function of x, or `approximate="tanh"` (Hendrycks & Gimpel 2016)."""

    function = functional.gelu
    if TYPE_CHECKING:
        def __init__(self, approximate: str = "none") -> None: ...

class SiLU(_Plain):
    """x sigmoid(x), also called swish (Elfwing et al. 2017)."""

    function = functional.silu


class Tanh(_Plain):
    """The hyperbolic tangent."""

    function = ops.tanh


class Sigmoid(_Plain):
    """1 / (1 + exp(-x))."""

    function = ops.sigmoid


class Softplus(_Plain):
    """log(1 + exp(x))."""

    function = functional.softplus


class Sequential(Module):
    """Layers one after another; `layers[i]`, `len` and iteration work, and names are "0.weight", "1.bias", ..."""

    def __init__(self, *layers: Module) -> None:
        for i, layer in enumerate(layers):
            if not isinstance(layer, Module):
                raise TypeError(f"Sequential: of layers, layer {i} is a {type(layer).__name__}, expected a Module: "
                                "nn.ReLU(), ...")
            setattr(self, str(i), layer)

    def forward(self, x: Any) -> Any:
        for layer in self:
            x = layer(x)
        return x

    def __iter__(self) -> Iterator[Module]:
        return (module for _, module in self.children())

    def __len__(self) -> int:
        return len(list(self.children()))

    def __getitem__(self, index: int) -> Module:
        return list(self)[index]
