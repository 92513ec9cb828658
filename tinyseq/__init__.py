"""tinyseq: a tensor-and-autograd engine to read in an afternoon, and sequence layers that stand on it.

    import tinyseq as ts

    x = ts.tensor([1.0, 2.0], requires_grad=True)
    (x * x).sum().backward()
    x.grad                                  # tensor([2., 4.])
"""

from importlib import import_module as _import_module
from os import path as _path
from sys import modules as _modules
from typing import TYPE_CHECKING, Any

from numpy import bool as bool
from numpy import e, float16, float32, float64, inf, int8, int16, int32, int64, nan, newaxis, pi
from numpy import uint8, uint16, uint32, uint64

if not _path.isdir(_path.join(__path__[0], "backends")):  # a checkout, where it stands beside the package
    __path__.append(_path.dirname(__path__[0]))

from tinyseq import backends, check as _check, functional, nn
from tinyseq.engine import random
from tinyseq.backends import use_backend
from tinyseq.backends.threads import get_num_threads, set_num_threads
from tinyseq.engine.ops import (
    abs, acos, acosh, add, all, any, arange, argmax, argmin, argsort, asarray, asin, asinh, astype, atan, atan2, atanh,
    bitwise_and, bitwise_invert, bitwise_left_shift, bitwise_or, bitwise_right_shift, bitwise_xor, broadcast_arrays,
    broadcast_to, can_cast, ceil, clip, clone, concat, copysign, cos, cosh, count_nonzero, cumulative_prod,
    cumulative_sum, diagonal, diff, divide, einsum, empty, empty_like, equal, erf, exp, expand_dims, expm1, eye, finfo,
    flatten, flip, floor, floor_divide, from_dlpack, full, full_like, greater, greater_equal, hypot, iinfo, index_add,
    isclose, isdtype, isfinite, isinf, isnan, less, less_equal, linspace, log, log10, log1p, log2, logaddexp,
    logical_and, logical_not, logical_or, logical_xor, logsumexp, masked_fill, matmul, matrix_transpose, max, maximum,
    mean, meshgrid, min, minimum, moveaxis, multiply, negative, nextafter, nonzero, not_equal, one_hot, ones, ones_like,
    outer, pad, permute_dims, positive, pow, prod, reciprocal, remainder, repeat, reshape, result_type, roll, round,
    searchsorted, sigmoid, sign, signbit, sin, sinh, sort, split, sqrt, square, squeeze, stack, std, subtract, sum,
    swapaxes, take, take_along_axis, tan, tanh, tensor, tensordot, tile, topk, tril, triu, trunc, unique_all,
    unique_counts, unique_inverse, unique_values, unstack, var, vecdot, vector_norm, where, zeros, zeros_like,
)
from tinyseq.engine.methods import VERSIONS as _VERSIONS
from tinyseq.engine.random import manual_seed
from tinyseq.engine.recompute import recompute
from tinyseq.engine.debug import debug
from tinyseq.engine.standard import Info as _Info
from tinyseq.engine.tensor import Tensor, namespace
from tinyseq.engine.graph import enable_grad, no_grad
from tinyseq.engine.autograd import op
from tinyseq.engine.gradients import grad, value_and_grad
from tinyseq.captured import capture

__array_api_version__, __array_namespace_info__ = _VERSIONS[-1], _Info
_modules[f"{__name__}.random"] = random  # so that `import tinyseq.random` finds it too
_modules[f"{__name__}.nn.functional"] = functional

__all__ = [
    "abs", "acos", "acosh", "add", "all", "any", "arange", "argmax", "argmin", "argsort", "asarray", "asin", "asinh",
    "astype", "atan", "atan2", "atanh", "backends", "bitwise_and", "bitwise_invert", "bitwise_left_shift", "bitwise_or",
    "bitwise_right_shift", "bitwise_xor", "bool", "broadcast_arrays", "broadcast_to", "can_cast", "capture", "ceil",
    "clip", "clone", "concat", "copysign", "cos", "cosh", "count_nonzero", "cumulative_prod", "cumulative_sum", "debug",
    "diagonal", "diff", "divide", "e", "einsum", "empty", "empty_like", "enable_grad", "equal", "erf", "exp",
    "expand_dims", "expm1", "eye", "finfo", "flatten", "flip", "float16", "float32", "float64", "floor", "floor_divide",
    "from_dlpack", "full", "full_like", "functional", "get_num_threads", "grad", "greater", "greater_equal", "hypot",
    "iinfo", "index_add", "inf", "int16", "int32", "int64", "int8", "isclose", "isdtype", "isfinite", "isinf", "isnan",
    "less", "less_equal", "linspace", "log", "log10", "log1p", "log2", "logaddexp", "logical_and", "logical_not",
    "logical_or", "logical_xor", "logsumexp", "manual_seed", "masked_fill", "matmul", "matrix_transpose", "max",
    "maximum", "mean", "meshgrid", "min", "minimum", "moveaxis", "multiply", "namespace", "nan", "negative", "newaxis",
    "nextafter", "nn", "no_grad", "nonzero", "not_equal", "one_hot", "ones", "ones_like", "op", "optim", "outer", "pad",
    "permute_dims", "pi", "positive", "pow", "prod", "random", "reciprocal", "recompute", "remainder", "repeat",
    "reshape", "result_type", "roll", "round", "searchsorted", "set_num_threads", "sigmoid", "sign", "signbit", "sin",
    "sinh", "sort", "split", "sqrt", "square", "squeeze", "stack", "std", "subtract", "sum", "swapaxes", "take",
    "take_along_axis", "tan", "tanh", "Tensor", "tensor", "tensordot", "tile", "topk", "tril", "triu", "trunc",
    "uint16", "uint32", "uint64", "uint8", "unique_all", "unique_counts", "unique_inverse", "unique_values", "unstack",
    "use_backend", "value_and_grad", "var", "vecdot", "vector_norm", "where", "zeros", "zeros_like",
]

_lazy = ("checkpoint", "data", "decode", "distributed", "export", "glance", "lens", "logs", "metrics", "models",
         "optim", "plot", "runs", "testing")
_glance = ("profile", "summary")  # functions of that room, as lazy

if TYPE_CHECKING:
    from tinyseq import checkpoint as checkpoint, data as data, decode as decode, distributed as distributed
    from tinyseq import export as export, glance as glance, lens as lens, logs as logs, metrics as metrics
    from tinyseq import models as models, optim as optim, plot as plot, runs as runs, testing as testing
    from tinyseq.glance import profile as profile, summary as summary

    __version__: str
else:  # out of type checkers' sight, so that a misspelt name is an error to them
    def __getattr__(name: str) -> Any:
        """Modules, and `__version__`, that cost more than the rest of the import: loaded when first asked for."""
        if name in _lazy:
            return _import_module(f"tinyseq.{name}")
        if name in _glance:
            return getattr(_import_module("tinyseq.glance"), name)
        if name == "__version__":
            from importlib.metadata import PackageNotFoundError, version

            try:
                return version("tinyseq")
            except PackageNotFoundError:
                return "unknown: a checkout that is not installed"
        _check.missing(_modules[__name__], name)


def __dir__() -> list[str]:
    return sorted({*__all__, *_lazy, *_glance, "__version__"})


for _module, *_kinds in ((functional, Tensor), (nn, nn.Module), (nn.init,), (random,)):
    _check.public(_module.__name__, *_kinds)  # here, so that the engine knows nothing of other libraries' names
