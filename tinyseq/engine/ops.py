"""The functions of tensors under one name, as `namespace(x)` of a Tensor x: under the names of the Array API standard
(2024.12) where it has them, and a few of the engine's own helpers."""

from tinyseq.engine.gradients import backward, identity
from tinyseq.engine.creation import (
    arange, asarray, eye, from_dlpack, full, full_like, like, linspace, ones, ones_like, operand, raw, tensor, zeros,
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
    all, any, argmax, argmin, cumulative_sum, logsumexp, max, mean, min, prod, std, sum, var, vector_norm,
)
from tinyseq.engine.products import einsum, matmul, matmul_arrays, matmul_over_rows, outer, tensordot, vecdot
from tinyseq.engine.methods import Methods
from tinyseq.engine.tensor import Tensor

for _name in vars(Methods):
    if not _name.startswith("_"):
        setattr(Tensor, _name, globals()[_name])  # so that a method is the function, and an error of one that of both
