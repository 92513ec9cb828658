"""One row an op: the function, its NumPy twin, how its arguments are made. `test_ops.py` runs them.

A row's `make(choose)` returns shapes and keyword arguments. All chance is in `choose`, which picks from a list, so
that hypothesis, or a fixed palette on a slow device, can do the choosing. Nothing here assumes a backend: arrays
become tensors in `inputs`, keyword arguments stay as they are.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

import tinyseq as ts
from tinyseq.engine import ops

Choose = Callable[[Sequence[Any]], Any]
Make = Callable[[Choose], tuple[list[Any], dict[str, Any]]]

NUMBER = "a Python number"  # in place of a shape
SHAPES = [(), (1,), (3,), (0,), (2, 3), (3, 1), (2, 0), (0, 3), (2, 1, 3), (3, 2, 4)]
FULL = [s for s in SHAPES if 0 not in s]
AXES = [s for s in SHAPES if s]  # with an axis to choose
MATRICES = [s for s in SHAPES if len(s) > 1]
FLOATS = ("float32", "float64")
NUMBERS = (*FLOATS, "int64")
ANY = (*NUMBERS, "bool")
REAL = (-2.0, 2.0)


class Row(NamedTuple):
    name: str  # in tinyseq.ops
    make: Make
    twin: Callable[..., Any]
    fn: Callable[..., Any]
    kinds: Sequence[str]  # dtypes of the operands
    domain: Any  # (low, high) of all operands, or a list with one for each
    smooth: bool | None  # True: gradients are checked; False: there is none; None: neither
    wrong: Sequence[tuple[Any, ...]]  # illegal calls: arrays stand for tensors, a dict at the end for keywords

    def domain_of(self, i: int) -> Any:
        return self.domain[i] if isinstance(self.domain, list) else self.domain


def row(name: str, make: Make, twin: Any = None, *, fn: Any = None, kinds: Sequence[str] = FLOATS, domain: Any = REAL,
        smooth: bool | None = True, wrong: Sequence[tuple[Any, ...]] = ()) -> Row:
    return Row(name, make, twin or getattr(np, name), fn or getattr(ops, name), kinds, domain, smooth, wrong)


def inputs(row: Row, choose: Choose, shapes: Sequence[Any], dtypes: Sequence[str], smooth: bool) -> list[Any]:
    """Operands: NumPy arrays, read-only, of all sorts of strides, or Python numbers. Equal entries unless `smooth`."""
    rng = np.random.default_rng(choose(range(1000)))
    found = []
    for i, (shape, dtype) in enumerate(zip(shapes, dtypes, strict=True)):
        low, high = row.domain_of(i)
        x = rng.uniform(low, high, () if shape is NUMBER else shape)
        if dtype == "bool":
            x = x > (low + high) / 2
        elif dtype == "int64" or not (smooth or choose([True, False])):
            x = np.clip(np.round(x), math.ceil(low), math.floor(high))
        x = np.asarray(x, dtype=dtype)
        found.append(x.item() if shape is NUMBER else layout(x, choose(range(4))))
    return found


def layout(x: Any, kind: int) -> Any:
    """x as it is, backwards along each axis, as a transposed copy or as a strided slice; always read-only."""
    if kind == 1:
        x = np.asarray(np.flip(np.flip(x).copy()))
    elif kind == 2:
        x = np.array(x, order="F")
    elif kind == 3 and x.ndim:
        x = np.repeat(x, 2, axis=-1)[..., ::2]
    x.flags.writeable = False
    return x


# --- how arguments are made ------------------------------------------------------------------------------------------


def none(**kwargs: Any) -> Make:
    return lambda choose: ([], {k: choose(v) for k, v in kwargs.items()})


def one(shapes: Sequence[Any] = SHAPES, **kwargs: Any) -> Make:
    """One operand; each keyword's value from its list."""
    return lambda choose: ([choose(shapes)], {k: choose(v) for k, v in kwargs.items()})


def several(n: int, numbers: bool = True) -> Make:
    """n operands that broadcast together; one of them may be a Python number."""

    def make(choose: Choose) -> tuple[list[Any], dict[str, Any]]:
        shape = choose(SHAPES)
        shapes: list[Any] = [tuple(choose([m, m, 1]) for m in shape[choose(range(len(shape) + 1)):]) for _ in range(n)]
        shapes[choose(range(n))] = shape
        if numbers:
            shapes[choose(range(n))] = choose([NUMBER, shape, shape])
        return shapes, {}

    return make


def along(shapes: Sequence[Any] = AXES, **kwargs: Any) -> Make:
    """One operand and one of its axes."""

    def make(choose: Choose) -> tuple[list[Any], dict[str, Any]]:
        shape = choose(shapes)
        more = {k: choose(v(shape) if callable(v) else v) for k, v in kwargs.items()}
        return [shape], {"axis": choose(range(-len(shape), len(shape)))} | more

    return make


def reduced(shapes: Sequence[Any] = SHAPES, **kwargs: Any) -> Make:
    """One operand; all axes, one or several."""

    def make(choose: Choose) -> tuple[list[Any], dict[str, Any]]:
        shape = choose(shapes)
        axes = [None, *range(-len(shape), len(shape))] + ([(0, -1), (1, 0), (-1,)] if len(shape) > 1 else [])
        return [shape], {"axis": choose(axes), "keepdims": choose([False, True])} | {
            k: choose(v) for k, v in kwargs.items()}

    return make


def products(choose: Choose) -> tuple[list[Any], dict[str, Any]]:
    """Operands of a matrix product: 1-D, batched, broadcast, empty."""
    n, k, m, batch = (choose([1, 2, 3, 0, 2]) for _ in range(4))
    left = [(k,), (n, k), (batch, n, k), (1, n, k), (2, batch, n, k)]
    right = [(k,), (k, m), (batch, k, m), (1, k, m), (batch, k, m)]
    return [choose(left), choose(right)], {}


def joined(new_axis: bool) -> Make:
    def make(choose: Choose) -> tuple[list[Any], dict[str, Any]]:
        shape = choose(SHAPES if new_axis else AXES)
        axis = choose(range(-len(shape) - new_axis, len(shape) + new_axis))
        shapes = [list(shape) for _ in range(choose([1, 2, 3]))]
        if not new_axis:
            for s in shapes:
                s[axis] = choose([0, 1, 3])
        return [tuple(s) for s in shapes], {"axis": axis}

    return make


def permuted(choose: Choose) -> tuple[list[Any], dict[str, Any]]:
    shape = choose(SHAPES)
    left = [i - len(shape) if choose([False, True]) else i for i in range(len(shape))]
    return [shape], {"axes": tuple(left.pop(choose(range(len(left)))) for _ in shape)}


def widened(choose: Choose) -> tuple[list[Any], dict[str, Any]]:
    shape = choose(SHAPES)
    return [tuple(choose([m, 1]) for m in shape[choose(range(len(shape) + 1)):])], {"shape": shape}


def reshaped(choose: Choose) -> tuple[list[Any], dict[str, Any]]:
    shape, new = choose([((), (1, 1)), ((2, 3), (3, 2)), ((2, 3), -1), ((3, 2, 4), (2, -1, 3)), ((0, 3), (3, 0, 2)),
                         ((6,), (2, 3)), ((1,), ())])
    return [shape], {"shape": new}


INDICES = [  # for a (3, 2, 4)
    0, -1, slice(None), slice(None, None, -1), slice(2, 0, -2), slice(5, 9), ..., None, (..., 1), (1, ..., -1),
    (None, slice(1, None), None, 0), (slice(None), [1, 1, 0]), np.array([0, 2, 2, -1]), np.array([[0, 1], [2, 0]]),
    (np.array([0, 1, 1]), np.array([0, 0, 0])), (np.array([0, 1, 1]), slice(None), np.array([1, 1, 3])),
    (slice(None, None, -1), np.array([[1], [0]]), np.array([2, 2])), (0, np.array([1, 1]), ...), [2, 0, 2],
    np.arange(24).reshape(3, 2, 4) % 3 == 0, np.array([True, False, True]), (slice(None), np.array([True, False])),
    (np.array([True, False, True]), 0, np.array([1, 1])), (np.array([], dtype=int), None), (0, 1, 2), np.array(1),
    (np.array([True, True, False]), slice(None, None, -2), -1), (2, None, ..., slice(None, None, 2)),
]


def indexed(value: bool) -> Make:
    cube = np.arange(24).reshape(3, 2, 4)

    def make(choose: Choose) -> tuple[list[Any], dict[str, Any]]:
        index = choose([i for i in INDICES if not value or len(np.unique(cube[i])) == cube[i].size])  # each place once
        shape = cube[index].shape
        values = [choose([(), shape, shape[-1:], (1, *shape) if index is INDICES[0] else shape])] if value else []
        return [cube.shape, *values], {"index": index}

    return make


def spots(choose: Choose) -> tuple[list[Any], dict[str, Any]]:
    index = choose(INDICES)
    return [np.empty((3, 2, 4))[index].shape], {"index": index, "shape": (3, 2, 4)}


def added(choose: Choose) -> tuple[list[Any], dict[str, Any]]:
    shape = choose(FULL[1:])
    axis = choose(range(-len(shape), len(shape)))
    n, values = choose([0, 1, 5]), list(shape)
    values[axis] = n
    indices = np.array([choose(range(-shape[axis], shape[axis])) for _ in range(n)], dtype=int)
    return [shape, tuple(values)], {"indices": indices, "axis": axis}


def einsums(choose: Choose) -> tuple[list[Any], dict[str, Any]]:
    text, *shapes = choose([
        ("ij,jk->ik", (2, 3), (3, 4)), ("bij,bjk", (2, 2, 3), (2, 3, 2)), ("i,i->", (3,), (3,)), ("ij->ji", (2, 3)),
        ("ii->i", (3, 3)), ("ii", (3, 3)), ("ij,j,k->", (2, 3), (3,), (2,)), ("...ij,...j->...i", (2, 2, 3), (3,)),
        ("i,j->ij", (2,), (3,)), ("ijk->k", (3, 2, 4)), ("iji,j->i", (2, 3, 2), (3,)), ("ij,ij->ij", (2, 3), (1, 3)),
        ("ij,jk,kl->il", (2, 3), (3, 2), (2, 3)), ("ij,jk->ik", (2, 0), (0, 3)), ("->", ()), (",i", (), (3,)),
        ("b...i,i...->b...", (2, 3), (3,)), ("iii->i", (2, 2, 2)), ("ij,kj->ik", (0, 3), (2, 3)),
    ])
    return list(shapes), {"subscripts": text}


def contracted(choose: Choose) -> tuple[list[Any], dict[str, Any]]:
    a, b, axes = choose([((2, 3), (3, 4), 1), ((2, 3), (2, 3), 2), ((2,), (3,), 0), ((), (), 0),
                         ((2, 3, 4), (4, 3), ([1, 2], [1, 0])),
                         ((2, 3), (4, 3), ((-1,), (1,))), ((0, 3), (3, 2), 1), ((2, 0), (0, 3), 1)])
    return [a, b], {"axes": axes}


# --- twins that NumPy lacks ------------------------------------------------------------------------------------------


def np_erf(x: Any) -> Any:
    return np.vectorize(math.erf, otypes=[x.dtype])(x)


def np_sigmoid(x: Any) -> Any:
    return (1 / (1 + np.exp(-x.astype(np.float64)))).astype(x.dtype)


def np_logsumexp(x: Any, axis: Any, keepdims: bool) -> Any:
    with np.errstate(divide="ignore"):
        return np.log(np.sum(np.exp(x), axis=axis, keepdims=keepdims))


def np_where(a: Any, b: Any, condition: Any) -> Any:
    if not hasattr(a, "dtype") and not hasattr(b, "dtype"):
        return np.where(condition, np.float32(a), np.float32(b))
    return np.where(condition, a, b)


def np_flatten(x: Any, start_axis: int) -> Any:
    first = start_axis % x.ndim
    return x.reshape(*x.shape[:first], math.prod(x.shape[first:]))


def np_sort(x: Any, axis: int, descending: bool) -> Any:
    return np.flip(np.sort(x, axis=axis), axis=axis) if descending else np.sort(x, axis=axis)


def np_argsort(x: Any, axis: int, descending: bool) -> Any:
    keys = x.astype(np.float64)
    return np.argsort(-keys if descending else keys, axis=axis, stable=True)


def np_topk(x: Any, k: int, axis: int, largest: bool) -> Any:
    places = np.take(np_argsort(x, axis, largest), range(k), axis=axis)
    return np.take_along_axis(x, places, axis), places


def np_unstack(x: Any, axis: int) -> Any:
    return tuple(np.moveaxis(x, axis, 0))


def np_unindex(values: Any, index: Any, shape: Any) -> Any:
    y = np.zeros(shape, values.dtype)
    np.add.at(y, index, values)
    return y


def np_setitem(x: Any, value: Any, index: Any) -> Any:
    y = x.copy()
    y[index] = value
    return y


def np_index_add(x: Any, values: Any, indices: Any, axis: int) -> Any:
    y = np.array(x, dtype=np.result_type(x, values))
    np.add.at(y, (*(slice(None),) * (axis % x.ndim), indices), values)
    return y


def running(fn: Any, first: int) -> Any:
    """NumPy's `cumsum` or `cumprod`, with the first of all before the others."""
    def twin(x: Any, axis: int, include_initial: bool) -> Any:
        y = fn(x, axis)
        edge = np.full([1 if i == axis % x.ndim else n for i, n in enumerate(x.shape)], first, y.dtype)
        return np.concat([edge, y], axis) if include_initial else y

    return twin


def np_unique_inverse(x: Any) -> Any:
    values, inverse = np.unique(x, return_inverse=True)
    return values, inverse.reshape(x.shape)


def np_unique_all(x: Any) -> Any:
    values, first, inverse, counts = np.unique(x, return_index=True, return_inverse=True, return_counts=True)
    return values, first, inverse.reshape(x.shape), counts


PLACES = np.array([-1.5, -1.0, 0.0, 1.0, 1.0])

# --- the table -------------------------------------------------------------------------------------------------------

F23, F34, F4, I3, B3 = (np.ones((2, 3), np.float32), np.ones((3, 4), np.float32), np.ones(4, np.float32),
                        np.ones(3, np.int64), np.ones(3, bool))
NOT_A_TENSOR = [("text",), (None,)]
DIFFER = [(F23, F4), (F23, "text")]


def unary(names: str, **more: Any) -> list[Row]:
    return [row(name, one(), **{"wrong": NOT_A_TENSOR} | more) for name in names.split()]


def binary(names: str, **more: Any) -> list[Row]:
    return [row(name, several(2), **{"wrong": DIFFER} | more) for name in names.split()]


ROWS = [
    # creation
    row("tensor", one(), lambda x: x, kinds=ANY, smooth=False,
        wrong=[(["a"],), ([[1.0], [1.0, 2.0]],), (1j,), (None,), ([300], "int8"), (-1, "uint8")]),
    row("asarray", one(), lambda x: x, kinds=ANY, wrong=[(["a"],)]),
    row("like", one(), lambda x: x, kinds=NUMBERS, smooth=False, fn=lambda x: ops.like(x, x.detach().numpy())),
    row("from_dlpack", one(), lambda x: x, kinds=NUMBERS, smooth=False, fn=lambda x: ops.from_dlpack(x.data.copy())),
    row("tensor", none(data=[1.5, [1, 2], [[1.0, 2.0]], True, []]), smooth=False,
        twin=lambda data: np.asarray(data, np.float32 if np.asarray(data).dtype == np.float64 else None)),
    *[row(name, none(shape=SHAPES, dtype=["float32"]), smooth=False) for name in ("zeros", "ones")],
    row("full", none(shape=SHAPES, fill_value=[1.5, 2, True]), smooth=False,
        twin=lambda shape, fill_value: np.full(shape, fill_value, np.float32 if fill_value == 1.5 else None)),
    *[row(name, one(dtype=[None, "float32"]), kinds=ANY, smooth=False) for name in ("zeros_like", "ones_like")],
    row("empty", none(shape=SHAPES), smooth=False, twin=lambda shape: np.zeros(shape, np.float32)),
    row("empty_like", one(dtype=[None, "float32"]), np.zeros_like, kinds=ANY, smooth=False),
    row("full_like", one(fill_value=[3], dtype=[None, "float32"]), kinds=ANY, smooth=False),
    row("arange", none(start=[0, 5], stop=[None, 7], step=[1, 2]), smooth=False),
    row("arange", none(start=[0.0], stop=[1.5], step=[0.5]), smooth=False,
        twin=lambda **k: np.arange(**k).astype("float32")),
    row("linspace", none(start=[0], stop=[1.5], num=[0, 1, 4], endpoint=[True, False]), smooth=False,
        twin=lambda **k: np.linspace(**k).astype("float32")),
    row("eye", none(n_rows=[0, 2], n_cols=[None, 3], k=[0, 1]), smooth=False,
        twin=lambda n_rows, n_cols, k: np.eye(n_rows, n_cols, k, np.float32)),
    row("one_hot", one(num_classes=[3, 5]), lambda ids, num_classes: np.eye(num_classes, dtype=np.float32)[ids],
        kinds=["int64"], domain=(0, 2), smooth=False, wrong=[(F23, 3), (I3, 1), (-I3, 3), (B3, 3)]),
    # elementwise, differentiable
    row("identity", one(), lambda x: x, kinds=ANY),
    *unary("negative square sin cos tanh", kinds=NUMBERS),
    *unary("abs sign floor ceil trunc round", kinds=NUMBERS),
    *unary("exp expm1 tan sinh cosh asinh atan", kinds=NUMBERS, domain=(-1.4, 1.4)),
    *unary("erf", twin=np_erf), *unary("sigmoid", twin=np_sigmoid),
    *unary("sqrt log log2 log10 reciprocal", domain=(0.3, 3)), *unary("log1p atanh asin acos", domain=(-0.9, 0.9)),
    *unary("acosh", domain=(1.1, 3)),
    row("negative", one(), kinds=FLOATS, wrong=[(B3,)]),
    *binary("add multiply", kinds=ANY), *binary("subtract maximum minimum", kinds=NUMBERS, wrong=[*DIFFER]),
    row("subtract", several(2), wrong=[(B3, B3)]),
    *binary("logaddexp"), *binary("atan2", domain=[REAL, (0.3, 2)]),
    *binary("divide remainder", kinds=NUMBERS, domain=[REAL, (1, 3)]),
    *binary("floor_divide", kinds=NUMBERS, domain=[REAL, (1, 3)], smooth=False),
    row("pow", several(2), domain=[(0.3, 2.0), REAL], wrong=DIFFER),
    row("pow", several(2), domain=[(1, 3), (0, 3)], kinds=NUMBERS, wrong=[(I3, -1)]),
    row("pow", one(b=[0, 1, 2, 3, 2.0, -1.0]), lambda x, b: x**b, fn=lambda x, b: x**b, domain=(0.3, 2.0)),
    row("clip", several(3, numbers=False), domain=[REAL, (-1.5, -0.5), (0.5, 1.5)],
        twin=lambda x, a, b: np.minimum(np.maximum(x, a), b), wrong=[(F23, F4, None), (F23, None, F4)]),
    *[row("clip", one(**k), lambda x, min, max: np.clip(x, min, max), kinds=NUMBERS)  # NumPy 2.0: by position only
      for k in ({"min": [-1], "max": [None]}, {"min": [None, -1], "max": [1]})],
    row("where", several(3), lambda a, b, c: np_where(a, b, np.asarray(c) > 0),
        fn=lambda a, b, c: ts.where(c > 0, a, b), kinds=NUMBERS,
        wrong=[(F23, F4, 0), (F4, 0, F23), (F23, "a", F23)]),
    row("astype", one(dtype=["float64"]), lambda x, dtype: x.astype(dtype), kinds=ANY, wrong=[(F23, "text")]),
    row("astype", one(dtype=["float32", "int64", "bool"]), lambda x, dtype: x.astype(dtype), kinds=ANY, smooth=None),
    row("to_backend", one(name=["numpy"]), lambda x, name: x, kinds=ANY, wrong=[(F23, "nowhere")]),
    *unary("positive", kinds=NUMBERS), *unary("clone", twin=lambda x: x, kinds=ANY),
    *unary("signbit", smooth=False), *binary("nextafter", smooth=False),
    *binary("hypot", domain=[(0.3, 2.0), REAL]), *binary("copysign", domain=[(0.3, 2.0), (0.3, 2.0)]),
    *binary("copysign", domain=[(0.3, 2.0), (-2.0, -0.3)]),
    row("masked_fill", lambda choose: ([s := choose(SHAPES), s[choose(range(len(s) + 1)):]], {"value": choose([2, 0])}),
        lambda x, y, value: np.where(y > 0, value, x).astype(x.dtype),
        fn=lambda x, y, value: ts.masked_fill(x, y > 0, value), kinds=NUMBERS, wrong=[(F23, F4, {"value": 0.0})]),
    # comparisons and logic
    *binary("equal not_equal less less_equal greater greater_equal logical_and logical_or logical_xor", kinds=ANY,
            smooth=False, wrong=[(F23, F4)]),
    *unary("logical_not isnan isinf isfinite", kinds=ANY, smooth=False),
    *binary("bitwise_and bitwise_or bitwise_xor", kinds=("int64", "bool"), smooth=False, wrong=[(F23, F23)]),
    *binary("bitwise_left_shift bitwise_right_shift", kinds=("int64",), domain=[(-3, 3), (0, 3)], smooth=False,
            wrong=[(F23, F23)]),
    *unary("bitwise_invert", kinds=("int64", "bool"), smooth=False),
    # reductions
    row("sum", reduced(), kinds=ANY, wrong=[(F23, 2), ("text",), (F23, (0, 0)), (F23, 0.5)]),
    row("mean", reduced(FULL), kinds=ANY, wrong=[(F23, 2)]),
    row("prod", reduced(), kinds=NUMBERS, domain=(0.3, 2), wrong=[(F23, 2)]),
    *[row(name, reduced(FULL, correction=[0, 0.5]), kinds=NUMBERS, wrong=[(F23, 2), (F23, 0, 2), (F23, None, 7.5)])
      for name in ("var", "std")],
    *[row(name, reduced(FULL), kinds=ANY, wrong=[(F23, 2), (F23[:0],)]) for name in ("max", "min")],
    row("logsumexp", reduced(FULL), np_logsumexp, wrong=[(F23, 2)]),
    row("logsumexp", reduced(), np_logsumexp, smooth=None),
    row("cumulative_sum", along(include_initial=[False, True]), running(np.cumsum, 0), kinds=ANY,
        wrong=[(F23, 2), (F23, None), (F23, True)]),
    row("cumulative_prod", along(include_initial=[False, True]), running(np.cumprod, 1), kinds=ANY, wrong=[(F23, 2)]),
    row("cumulative_prod", along(), np.cumprod, kinds=NUMBERS, domain=(0.3, 2)),
    *[row(name, one(dtype=["int32", "float64"]), smooth=None, kinds=("int64", "float32")) for name in ("sum", "prod")],
    row("count_nonzero", reduced(), kinds=ANY, smooth=False, wrong=[(F23, 2)]),
    row("diff", along(n=[0, 1, 2]), lambda x, axis, n: np.diff(x, n, axis), kinds=ANY,
        wrong=[(F23, {"axis": 2}), (F23, {"n": -1})]),
    row("diff", lambda choose: ([(2, 3), (2, 1), (2, 2)], {}), kinds=NUMBERS,
        fn=lambda x, before, after: ts.diff(x, prepend=before, append=after),
        twin=lambda x, before, after: np.diff(x, prepend=before, append=after)),
    *[row(name, reduced(), kinds=ANY, smooth=False, wrong=[(F23, 2)]) for name in ("any", "all")],
    *[row(name, along(FULL[1:], keepdims=[False, True]), kinds=ANY, smooth=False, wrong=[(F23, 2), (F23[:0],)])
      for name in ("argmax", "argmin")],
    *[row(name, one(FULL), kinds=NUMBERS, smooth=False) for name in ("argmax", "argmin")],
    # searching and sets
    row("nonzero", one(AXES), kinds=ANY, smooth=False, wrong=[("text",)]),
    row("searchsorted", several(1), lambda x: np.searchsorted(PLACES, x), kinds=NUMBERS, smooth=False,
        fn=lambda x: ts.searchsorted(ts.tensor(PLACES), x), wrong=[("text",)]),
    row("searchsorted", one([(4,)]), lambda x: np.searchsorted(np.sort(x), x[:2], side="right"), kinds=NUMBERS,
        fn=lambda x: ts.searchsorted(x, x[:2], side="right", sorter=ts.argsort(x)), smooth=False),
    row("isclose", several(2), kinds=NUMBERS, smooth=False, wrong=[(F23, F4), (F23, "text"), (F23, F23, -1.0)]),
    *[row(f"unique_{name}", one(), twin, kinds=ANY, smooth=False, wrong=[("text",)]) for name, twin in (
        ("values", np.unique), ("counts", lambda x: np.unique(x, return_counts=True)), ("inverse", np_unique_inverse),
        ("all", np_unique_all))],
    # sorting
    row("sort", along(descending=[False, True]), np_sort, kinds=ANY, wrong=[(F23, 2)]),
    row("argsort", along(descending=[False, True]), np_argsort, kinds=ANY, smooth=False, wrong=[(F23, 2)]),
    row("topk", along(k=[0, 1], largest=[False, True], shapes=[(1,), (3,), (2, 3), (3, 2, 4)]), np_topk, kinds=ANY,
        wrong=[(F23, 4), (F23, -1), (F23, 1, 2)]),
    # products
    row("matmul", products, kinds=NUMBERS, wrong=[(F23, F23), (F23, F4), (F23, 2.0), (2.0, F23)]),
    row("vecdot", lambda choose: ([(*s, 3) for s in choose([((), ()), ((2,), (1,)), ((), (2,)), ((2, 1), (0,))])], {}),
        lambda a, b: np.sum(a * b, axis=-1), kinds=NUMBERS, wrong=[(F23, F4), (F23, F4[:1]), (F23, F23, 2)]),
    row("outer", lambda choose: ([choose([(3,), (0,), (1,)]), choose([(2,), (0,)])], {}), kinds=NUMBERS,
        wrong=[(F23, F4)]),
    row("tensordot", contracted, kinds=NUMBERS, wrong=[(F23, F23, 1), (F23, F34, 3), (F23, F34, ((0, 1), (0,)))]),
    row("einsum", einsums, lambda *xs, subscripts: np.einsum(subscripts, *xs), kinds=NUMBERS,
        fn=lambda *xs, subscripts: ts.einsum(subscripts, *xs),
        wrong=[(F23, F23, {"subscripts": "ij,jk"}), (F23, {"subscripts": "ijk"}), (F23, {"subscripts": "ij->k"}),
               (F23, {"subscripts": "ij,jk"})]),
    row("vector_norm", reduced(FULL, ord=[0.5]), np.linalg.vector_norm, domain=(0.3, 2)),
    *[row("vector_norm", reduced(FULL, ord=[k]), np.linalg.vector_norm, domain=(0.3, 2)) for k in (1, 2, 3, math.inf)],
    # shape
    row("reshape", reshaped, lambda x, shape: np.reshape(x, shape), kinds=ANY, wrong=[(F23, (4, 2)), (F23, (-1, 4))]),
    row("flatten", one([(3,), (2, 3), (3, 2, 4), (2, 0, 3)], start_axis=[0, -1]), np_flatten, kinds=ANY,
        wrong=[(F23, 2), (F23, -3), (F23, {"start_axis": True})]),
    row("flatten", one([(), (3, 2, 4), (0, 2)]), np.ravel, kinds=ANY),
    row("permute_dims", permuted, kinds=ANY, wrong=[(F23, (0,)), (F23, (0, 0)), (F23, (0, 2))]),
    row("matrix_transpose", one(MATRICES), kinds=ANY, wrong=[(F4,)]),
    row("moveaxis", along(destination=lambda s: range(-len(s), len(s))), kinds=ANY, wrong=[(F23, 2, 0), (F23, 0, -3)],
        fn=lambda x, axis, destination: ts.moveaxis(x, axis, destination),
        twin=lambda x, axis, destination: np.moveaxis(x, axis, destination)),
    row("moveaxis", one([(3, 2, 4)], source=[(0, 1), (-1, 0)], destination=[(2, 0), (0, 1)]), kinds=ANY),
    row("swapaxes", one(MATRICES, axis1=[0, -1], axis2=[0, 1]), kinds=ANY, wrong=[(F23, 0, 2), (F23, True, 0)],
        twin=lambda x, axis1, axis2: np.swapaxes(x, axis1, axis2)),
    row("diagonal", one(MATRICES, offset=[0, 1, -1, 3]), kinds=ANY, wrong=[(F4,)],
        twin=lambda x, offset: np.diagonal(x, offset, -2, -1)),
    row("broadcast_arrays", several(3, numbers=False), np.broadcast_arrays, kinds=ANY,
        fn=lambda *xs: ts.broadcast_arrays(*xs)),
    row("meshgrid", lambda choose: ([choose([(2,), (0,), (1,)]) for _ in range(choose([1, 2, 3]))],
                                    {"indexing": choose(["xy", "ij"])}), kinds=ANY,
        fn=lambda *xs, indexing: ts.meshgrid(*xs, indexing=indexing),
        twin=lambda *xs, indexing: tuple(np.meshgrid(*xs, indexing=indexing)),
        wrong=[(F23, {"indexing": "xy"})]),
    row("expand_dims", one(axis=[0, -1, (0, -1)]), kinds=ANY, wrong=[(F23, 4)]),
    row("squeeze", one([(1,), (1, 3, 1), (2, 1, 0)], axis=[None]), kinds=ANY),
    row("squeeze", one([(3, 1), (1, 1), (2, 0, 1)], axis=[-1, (-1,)]), kinds=ANY, wrong=[(F23, 0), (F23, 2)]),
    row("broadcast_to", widened, kinds=ANY, wrong=[(F23, (3, 2)), (F23, (3,))]),
    row("concat", joined(False), lambda *xs, axis: np.concat(xs, axis=axis), kinds=ANY,
        fn=lambda *xs, axis: ts.concat(xs, axis),
        wrong=[(F23, F34, {"axis": 1}), (F23, F4, {"axis": 0}), (F23, {"axis": 2})]),
    row("concat", lambda choose: ([choose(SHAPES) for _ in range(choose([1, 2, 3]))], {}), kinds=ANY,
        fn=lambda *xs: ts.concat(xs, None), twin=lambda *xs: np.concat(xs, axis=None)),
    row("stack", joined(True), lambda *xs, axis: np.stack(xs, axis=axis), kinds=ANY,
        fn=lambda *xs, axis: ts.stack(xs, axis), wrong=[(F23, F34, {"axis": 0}), (F23, {"axis": 3})]),
    row("unstack", along(), np_unstack, kinds=ANY, wrong=[(F23, 2)]),
    row("split", one([(4,), (4, 0), (4, 3)], sections=[1, 2, [1], [1, 3], [0, 5]]), kinds=ANY,
        twin=lambda x, sections: tuple(np.split(x, sections)), wrong=[(F23, 3), (F23, 0), (F23, 1, 2)]),
    row("flip", one(axis=[None]), kinds=ANY), row("flip", along(), kinds=ANY, wrong=[(F23, 2)]),
    row("roll", along(shift=[0, 1, -1, 5]), kinds=ANY, wrong=[(F23, 1, 2)]),
    row("roll", one(shift=[1, -2]), kinds=ANY),
    row("roll", one(MATRICES, shift=[(1, -1), [2, 0]], axis=[(0, 1), (-1, 0)]), kinds=ANY),
    row("repeat", along(repeats=[0, 1, 3]), kinds=ANY, wrong=[(F23, -1, {"axis": 0}), (F23, 1, {"axis": 2})]),
    row("repeat", one([(3,), (2, 3), (0, 3)], repeats=[[0, 2, 1], np.array([1, 1, 3])], axis=[-1]), kinds=ANY,
        wrong=[(F23, [1, 2], {"axis": 1})]),
    row("tile", one(repetitions=[(2,), (1, 2), (0, 1), (2, 1, 1, 3)]),
        lambda x, repetitions: np.tile(x, repetitions), kinds=ANY),
    row("pad", one([(3,)], pad_width=[[(1, 2)], ((0, 0),)], constant_values=[0.0, 1.0]), kinds=NUMBERS,
        wrong=[(F23, [(1, 1)]), (F23, [(1, 1), (-1, 0)])]),
    row("pad", one([(2, 3), (0, 3)], pad_width=[[(0, 1), (2, 0)]]), kinds=ANY),
    *[row(name, one(MATRICES, k=[0, 1, -1]), kinds=ANY, wrong=[(F4,)]) for name in ("tril", "triu")],
    # indexing
    row("getitem", indexed(False), lambda x, index: x[index], kinds=ANY,
        wrong=[(F23, 2), (F23, (0, 0, 0)), (F23, 0.5), (F23, B3), (F23, (slice(None), [3])), (F23, "text")]),
    row("setitem", indexed(True), np_setitem, kinds=NUMBERS, fn=lambda x, value, index: ops.setitem(x, index, value),
        wrong=[(F23, F4, {"index": 0}), (F23, F4, {"index": 2})]),
    row("unindex", spots, np_unindex, kinds=NUMBERS, wrong=[(F4, 0, (2, 3)), (F4, [0], (2, 3))]),
    row("take", along(FULL[1:], indices=[np.array([0, 0]), np.array([[0], [-1]]), np.array([], int)]), np.take,
        kinds=ANY, wrong=[(F23, I3 * 5), (F23, F4), (F23, B3, 1), (F23, I3, 2)]),
    row("take_along_axis", along(FULL[1:], indices=lambda s: [np.indices(s).sum(0) % min(s), np.full(s, -1)]),
        np.take_along_axis, kinds=ANY,
        wrong=[(F23, I3), (F23, F23), (F23, F23 > 0), (F23, np.full((2, 3), 5))]),
    row("index_add", added, np_index_add, kinds=NUMBERS,
        fn=lambda x, values, indices, axis: ts.index_add(x, axis, indices, values),
        wrong=[(F23, F23.T, {"indices": [0, 1, 1], "axis": 0}), (F23, F23, {"indices": [0.5, 0.5], "axis": 0}),
               (F23, F23, {"indices": [0, 2], "axis": 0})]),
]
