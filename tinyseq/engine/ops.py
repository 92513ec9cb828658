"""The functions of tensors under one name, as `namespace(x)` of a Tensor x: under the names of the Array API standard
(2024.12) where it has them, and a few of the engine's own helpers."""

from collections.abc import Callable
from typing import Any

from tinyseq.check import called
from tinyseq.engine.gradients import backward, identity
from tinyseq.engine.creation import (
    arange, asarray, eye, from_dlpack, full, full_like, like, linspace, ones, ones_like, operand, tensor, zeros,
    zeros_like,
)
from tinyseq.engine.elementwise import (
    abs, acos, acosh, add, asin, asinh, astype, atan, atan2, atanh, bitwise_and, bitwise_invert, bitwise_or,
    bitwise_xor, ceil, clip, cos, cosh, divide, equal, erf, exp, expm1, floor, floor_divide, greater, greater_equal,
    isfinite, isinf, isnan, less, less_equal, log, log10, log1p, log2, logaddexp, logical_and, logical_not,
    logical_or, logical_xor, maximum, minimum, multiply, negative, not_equal, pow, reciprocal, remainder, round,
    sigmoid, sign, sin, sinh, sqrt, square, subtract, tan, tanh, to_backend, trunc, where,
)
from tinyseq.engine.indexing import (
    argsort, as_int64, check_ids, getitem, index_add, one_hot, setitem, sort, take, take_along_axis, topk, unindex,
)
from tinyseq.engine.shapes import (
    broadcast_to, concat, expand_dims, flatten, flip, matrix_transpose, moveaxis, pad, permute_dims, repeat, reshape,
    roll, split, squeeze, stack, tile, tril, triu, unstack,
)
from tinyseq.engine.reductions import (
    all, any, argmax, argmin, logsumexp, max, mean, min, prod, std, sum, var, vector_norm,
)
from tinyseq.engine.products import einsum, matmul, matmul_arrays, matmul_over_rows, outer, tensordot, vecdot
from tinyseq.engine.searching import (
    count_nonzero, isclose, nonzero, searchsorted, unique_all, unique_counts, unique_inverse, unique_values,
)
from tinyseq.engine.standard import (
    bitwise_left_shift, bitwise_right_shift, broadcast_arrays, can_cast, clone, copysign, cumulative_prod,
    cumulative_sum, diagonal, diff, empty, empty_like, finfo, hypot, iinfo, isdtype, masked_fill, meshgrid, nextafter,
    positive, result_type, signbit, swapaxes,
)
from tinyseq.engine.methods import Methods
from tinyseq.engine.tensor import Like, Tensor

_OPERATORS: dict[str, Callable[..., Any]] = {
    "add": add, "sub": subtract, "mul": multiply, "truediv": divide, "floordiv": floor_divide, "mod": remainder,
    "pow": pow, "matmul": matmul, "and": bitwise_and, "or": bitwise_or, "xor": bitwise_xor,
    "lshift": bitwise_left_shift, "rshift": bitwise_right_shift,
    "neg": negative, "abs": abs, "invert": bitwise_invert,
    "eq": equal, "ne": not_equal, "lt": less, "le": less_equal, "gt": greater, "ge": greater_equal,
}


def _from_right(function: Callable[..., Any]) -> Any:
    """The operator of a Tensor on the right: of `1 - x`."""
    def call(b: Tensor, a: Like) -> Any: return function(a, b)
    return called(call, function.__name__)


# A method is the function, and so is an operator: an error of one is that of both.
for _name in vars(Methods):
    if not _name.startswith("_") and _name != "softmax":  # which `functional` puts there
        setattr(Tensor, _name, globals()[_name])
for _name, _function in _OPERATORS.items():
    setattr(Tensor, f"__{_name}__", _function)
    if hasattr(Methods, f"__r{_name}__"):
        setattr(Tensor, f"__r{_name}__", _from_right(_function))
