"""Laws that hold for every differentiable function, for your own ops and layers too.

    from tinyseq.testing import check_grad
    check_grad(my_op, ts.tensor([0.3, -1.2]), order=2)

Each check raises AssertionError with what was given and what was found. `check_sequence_layer` holds a layer to the
laws of sequences, `parity` a whole training on one backend to NumPy's, op by op; `python -m tinyseq.testing.gpu` checks
and times the GPU at hand.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from tinyseq import backends, check
from tinyseq.check import describe
from tinyseq.engine.tensor import Tensor
from tinyseq.engine.gradients import grad
from tinyseq.testing.compare import parity as parity
from tinyseq.testing.laws import check_sequence_layer as check_sequence_layer

__all__ = ["check_grad", "check_sequence_layer", "parity"]
check.public(__name__)

Function = Callable[..., Any]  # takes Tensors, returns a Tensor or tuples of them
Host = np.ndarray[Any, np.dtype[np.float64]]


def check_grad(fn: Function, *inputs: Any, order: int = 1, step: float = 1e-5, tolerance: float = 1e-6,
               seed: int = 0) -> None:
    """Compare the gradients of `fn(*inputs)` with central differences, in float64.

    The outputs, weighted by random numbers, are summed; the sum's slope along one random unit direction over all
    floating-point inputs must be what the gradients say, within `tolerance` of their size. `order=2` checks in the same
    way the gradient as a function of the inputs and the weights (through `create_graph`), which must also be the one
    found without it: that of an op's `definition`. Choose inputs where `fn` is smooth: not at a tie, not at a jump.
    Inputs that are no floating-point Tensors are passed on as they are. The parameters of a module given as `fn` itself
    are checked as inputs, in float64 too; a function around one takes `module.to(ts.float64)`, and does not check them.
    What is left to chance, as dropout in training, or does not depend on any input, is an AssertionError.

    >>> from tinyseq.testing import check_grad
    >>> check_grad(lambda x: x * ts.sigmoid(x), ts.tensor([0.3, -1.2]), order=2)
    >>> try:
    ...     check_grad(lambda x: x * x.detach(), ts.tensor([0.3, -1.2]))          # half of the gradient is cut off
    ... except AssertionError as error:
    ...     print(error)
    <lambda>: wrong slope along a random unit direction: expected ..., got ...
      input 0, float64[2], alone: expected ..., got ...  <- differs
    """
    check.function("check_grad", fn=fn)
    check.numbers("check_grad", above=0, step=step, tolerance=tolerance)
    places = [i for i, x in enumerate(inputs) if isinstance(x, Tensor) and x.dtype.kind == "f"]
    check.choice("check_grad", (1, 2), order=order)
    seed = check.integers("check_grad", 0, seed=seed)
    if not places:
        raise ValueError(f"check_grad: expected a floating-point Tensor among the inputs, got {inputs}")
    parameters = dict(fn.named_parameters()) if hasattr(fn, "named_parameters") else {}
    points = [x if x.dtype == np.float64 else x.astype(np.float64)
              for x in [*(inputs[i] for i in places), *parameters.values()]]
    names = [*(f"input {i}" for i in places), *parameters]

    def of_floats(*floats: Tensor, fn: Function = fn) -> Any:
        with _lent(parameters.values(), floats[len(places) :]):
            return fn(*(dict(enumerate(inputs)) | dict(zip(places, floats, strict=False))).values())

    rng, name, function = np.random.default_rng(seed), _name(fn), of_floats
    for first in (True, False)[:order]:
        outputs = _called(name, function, points, names)
        weights = [_like(rng.standard_normal(y.shape), y) for y in outputs]
        found = _compare(name, function, points, weights, rng, step, tolerance, names)
        if first and all(g is None for g in found) and any(x.size for x in points):
            raise AssertionError(f"{name}: no output depends on {', '.join(names)}: there is nothing to check")
        function = functools.partial(_gradients, function, len(points))
        if first and order == 2:  # what is differentiated next is what was checked
            if getattr(fn, "definition", None):
                own = _outputs(functools.partial(of_floats, fn=fn.definition), points)  # type: ignore[attr-defined]
                _same(f"{name}: its definition gives something else", own, outputs, tolerance)
            _same(f"{name}: the gradient with create_graph, of an op by its definition, is another",
                  function(*map(_leaf, points), *weights), found, tolerance)
        name, points = f"the gradient of {name}", [*points, *weights]
        names += [f"weights of output {i}" for i in range(len(weights))]


def check_shapes(fn: Function, *inputs: Any, shape: Any, dtype: Any = None,
                 wrong: Sequence[tuple[Any, ...]] = ()) -> None:
    """`fn(*inputs)` has the declared `shape` (and `dtype`), and each of the `wrong` argument lists raises.

    For several outputs, nested or not, `shape` is the list of their shapes in order. The error for wrong arguments is a
    TypeError, ValueError or IndexError whose message names the shape of every Tensor among them.

    >>> from tinyseq.testing import check_shapes
    >>> x = ts.ones((2, 5, 3))
    >>> check_shapes(nn.LSTM(3, 4), x, shape=[(2, 5, 4), (1, 2, 4), (1, 2, 4)], dtype=ts.float32)
    >>> check_shapes(nn.Linear(3, 4), x, shape=(2, 5, 4), wrong=[(ts.ones((2, 7)),)])
    >>> check_shapes(nn.Linear(3, 4), x, shape=(2, 5, 3))
    Traceback (most recent call last):
    AssertionError: Linear(float32[2, 5, 3]) has shape [(2, 5, 4)], expected [(2, 5, 3)]
    """
    check.function("check_shapes", fn=fn)
    outputs = _flat(fn(*inputs))
    found, declared = [y.shape for y in outputs], list(shape) if isinstance(shape, list) else [shape]
    given = f"{_name(fn)}({', '.join(map(describe, inputs))})"
    if found != declared:
        raise AssertionError(f"{given} has shape {found}, expected {declared}")
    for y in outputs:
        if dtype is not None and y.dtype != dtype:
            raise AssertionError(f"{given} has dtype {y.dtype}, expected {np.dtype(dtype)}")
    for arguments in wrong:
        given = f"{_name(fn)}({', '.join(map(describe, arguments))})"
        try:
            fn(*arguments)
        except (TypeError, ValueError, IndexError) as error:
            for x in arguments:
                if isinstance(x, Tensor) and ", ".join(map(str, x.shape)) not in str(error):
                    raise AssertionError(f"{given}: the error does not name shape {x.shape}: {error}") from error
        else:
            raise AssertionError(f"{given} is illegal, and raised nothing")


@contextmanager
def _lent(parameters: Iterable[Tensor], values: Iterable[Tensor]) -> Iterator[None]:
    """Parameters that have other values, and other places in the graph, for a while."""
    held = [(p, p._data, p.node) for p in parameters]
    try:
        for (p, *_), x in zip(held, values, strict=True):
            p._data, p.node = x._data, x.node
        yield
    finally:
        for p, data, node in held:
            p._data, p.node = data, node


def _called(name: str, fn: Function, points: Sequence[Tensor], names: Sequence[str]) -> list[Tensor]:
    """The outputs, which must be the same in two calls that leave what they are given as it is."""
    before = [x.detach().numpy().copy() for x in points]
    outputs = _outputs(fn, list(map(_leaf, points)))
    for which, x, held in zip(names, points, before, strict=True):
        if not np.array_equal(x.detach().numpy(), held, equal_nan=True):
            raise AssertionError(f"{name}: it wrote to its {which}, {describe(x)}: work on a copy")
    _same(f"{name}: two calls differ, by what is left to chance (dropout: call eval() first) or remembered",
          _outputs(fn, list(map(_leaf, points))), outputs, 1e-9)
    return outputs


def _same(problem: str, found: Sequence[Tensor | None], expected: Sequence[Tensor | None], tolerance: float) -> None:
    """Refuse, with a `problem`, what differs by more than `tolerance` of its size; None is zeros."""
    for i, pair in enumerate(zip(found, expected, strict=True)):
        a, b = (0.0 if x is None else x.detach().numpy() for x in pair)
        if (np.shape(a) != np.shape(b) and None not in pair) or not np.allclose(
                a, b, tolerance, tolerance * (0.01 + np.max(np.abs(b), initial=0.0)), equal_nan=True):
            raise AssertionError(f"{problem}: at {i} got {a}, expected {b}")


def _compare(name: str, fn: Function, inputs: Sequence[Tensor], weights: Sequence[Tensor], rng: np.random.Generator,
             step: float, tolerance: float, names: Sequence[str]) -> Sequence[Tensor | None]:
    """Hold the slope that the gradients give to that of central differences. Returns the gradients."""
    found = _gradients(fn, len(inputs), *map(_leaf, inputs), *weights, create_graph=False)
    gradients = [np.zeros(x.shape) if g is None else g.numpy() for x, g in zip(inputs, found, strict=True)]
    for i, (x, g) in enumerate(zip(inputs, gradients, strict=True)):
        if g.shape != x.shape or g.dtype != x.dtype:
            raise AssertionError(f"{name}: {names[i]} is {describe(x)}, its gradient {g.dtype}{list(g.shape)}")
    size = np.sqrt(sum(np.sum(g * g) for g in gradients)) + 0.01
    directions = [rng.standard_normal(x.shape) for x in inputs]
    length = np.sqrt(sum(np.sum(d * d) for d in directions)) or 1.0

    def value(which: Sequence[int], shift: float) -> float:
        """The weighted sum of the outputs, with the inputs `which` moved along the direction."""
        moves = [shift / length * d if i in which else 0.0 for i, d in enumerate(directions)]
        moved = [_leaf(_like(x.detach().numpy() + move, x)) for x, move in zip(inputs, moves, strict=True)]
        pairs = zip(weights, _outputs(fn, moved), strict=True)
        return float(sum(np.sum(w.detach().numpy() * y.detach().numpy()) for w, y in pairs))

    def slopes(which: Sequence[int]) -> tuple[bool, str]:
        """Whether that of central differences and that of the gradients differ, and both in words."""
        expected = (value(which, step) - value(which, -step)) / (2 * step)
        got = float(sum(np.sum(gradients[i] * directions[i]) for i in which) / length)
        differ = not abs(expected - got) <= tolerance * (size + abs(expected))
        return differ, f"expected {expected:.10g}, got {got:.10g}"

    differ, said = slopes(range(len(inputs)))
    if differ:
        lines = [f"{name}: wrong slope along a random unit direction: {said}"]
        for i, x in enumerate(inputs):
            differ, said = slopes([i])
            said += "" if not differ else "  <- differs" + (found[i] is None) * ": no gradient reaches it"
            lines.append(f"  {names[i]}, {describe(x)}, alone: {said}")
        raise AssertionError("\n".join(lines))
    return found  # type: ignore[no-any-return]


def _gradients(fn: Function, n: int, *args: Tensor, create_graph: bool = True) -> Any:
    """Gradients by the first n arguments of the sum of fn's outputs, weighted by the others; None by unused ones."""
    pairs = [(y, w) for y, w in zip(_outputs(fn, args[:n]), args[n:], strict=True) if y.requires_grad]
    if not pairs:
        return [None] * n
    outputs, seeds = zip(*pairs, strict=True)
    return grad(outputs, args[:n], seeds, create_graph=create_graph, allow_unused=True)


def _outputs(fn: Function, inputs: Sequence[Tensor]) -> list[Tensor]:
    return [y for y in _flat(fn(*inputs)) if y.dtype.kind == "f"]


def _flat(outputs: Any) -> list[Tensor]:
    """The Tensors in an output: one, or nested tuples and lists of them."""
    if isinstance(outputs, (tuple, list)):
        return [y for part in outputs for y in _flat(part)]
    if not isinstance(outputs, Tensor | None):
        raise AssertionError(f"expected a Tensor or tuples of them, got {type(outputs).__name__}")
    return [] if outputs is None else [outputs]


def _leaf(x: Tensor) -> Tensor:
    """A leaf on the same array: its strides, and whether it may be written to, stay as they are."""
    return Tensor(x.data, requires_grad=True)


def _like(values: Host, x: Tensor) -> Tensor:
    return Tensor(backends.of(x.data).asarray(values))


def _name(fn: Function) -> str:
    return getattr(fn, "__name__", type(fn).__name__)
