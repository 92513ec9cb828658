"""Recording: what an op takes, returns and says, its definition, and that nothing is kept longer than it is needed."""

import contextlib
import math
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from helpers.tensors import equal, keyword_only, leaf, named

import tinyseq as ts
from tinyseq.engine.tensor import Tensor, namespace
from tinyseq.testing import check_grad

# --- ops -------------------------------------------------------------------------------------------------------------


@ts.op
def joint(a: Any, b: Any, scale: float = 1.0) -> Any:
    """One joint pull-back: scale * a * b."""
    return scale * a * b, lambda g, needs: [scale * g * b if needs[0] else None, scale * g * a if needs[1] else None]


@ts.op
def both(x: Any) -> Any:
    """Several outputs."""
    xp = namespace(x)
    s, c = xp.sin(x), xp.cos(x)
    return (s, c), (lambda g: g[0] * xp.cos(x) - g[1] * xp.sin(x),)


def composed(x: Any, y: Any) -> Any:
    return ts.tanh(x) * y, ts.exp(x)


@ts.op(definition=composed)
def kernel(x: Any, y: Any) -> Any:
    t, e = np.tanh(x), np.exp(x)  # a kernel that knows arrays only
    return (t * y, e), lambda g, needs: [g[0] * y * (1 - t * t) + g[1] * e, g[0] * t]


def test_users_ops() -> None:
    x, y = leaf(0.5, 1.0), leaf(-1.0, 2.0)
    check_grad(lambda x, y: joint(x, y, scale=3.0), x, y, order=2)
    check_grad(lambda x, y: joint(b=x, a=y), x, y, order=2)
    check_grad(both, x, order=2)
    check_grad(lambda x: both(x)[1], x, order=2)
    check_grad(kernel, x, y, order=2)
    check_grad(lambda x: kernel(x * x, y.detach())[0], x, order=2)
    assert joint.__doc__ == "One joint pull-back: scale * a * b."
    s, c = both(x)
    equal(ts.grad([s.sum(), c.sum()], x), np.cos(x.detach().numpy()) - np.sin(x.detach().numpy()))


def test_a_definition_differentiates_to_order_3() -> None:
    x, y = leaf(0.5), leaf(2.0)
    slopes = []
    for f in (kernel, composed):
        z = f(x, y)[0] + f(x * x, y)[1]
        for _ in range(3):
            z = ts.grad(z, x, create_graph=True)
        slopes.append(z.item())
    assert math.isclose(*slopes, rel_tol=1e-12)


def test_an_op_that_lacks_a_pull_back_says_so() -> None:
    @ts.op
    def half(a: Any, b: Any) -> Any:
        return a * b, (lambda g: g * b,)

    equal(half(ts.tensor(2.0), ts.tensor(3.0)), 6.0)
    with pytest.raises(TypeError, match="half: a Tensor has no pull-back of its own"):
        half(leaf(2.0), leaf(3.0))

    @ts.op
    def wrong(a: Any) -> Any:
        return a * 2, (lambda g: g[:1],)

    with pytest.raises(RuntimeError, match=r"pull-back of wrong returned shape \(1,\) for an argument of \(3,\)"):
        wrong(leaf(1.0, 2.0, 3.0)).sum().backward()


def test_tensors_in_lists_and_by_keyword() -> None:
    x, y = leaf(1.0, 2.0), leaf(3.0, 4.0)
    ts.concat(tensors=[x, np.zeros(1), y * 2], axis=0).backward(np.arange(5.0))
    equal(x.grad, [0, 1])
    equal(y.grad, [6, 8])
    equal(ts.grad(ts.multiply(b=x, a=3.0).sum(), x), [3, 3])
    equal(ts.grad(ts.clip(x, max=y, min=None).sum(), x), [1, 1])
    with pytest.raises(TypeError, match="no argument 'dim'; write axis="):
        ts.sum(x, dim=0)
    with pytest.raises(TypeError, match="missing its argument 'a'"):
        ts.add(b=x)
    with pytest.raises(TypeError, match=r"list.*stack"):
        x * [y, y]


def test_an_op_says_what_its_body_lacks() -> None:
    with pytest.raises(TypeError, match=r"forgetful: the body of an op must return \(output, pull-backs\)"):
        ts.op(named("forgetful", lambda x: x * 2))(ts.ones((2, 2)))
    with pytest.raises(TypeError, match="'w' by keyword only"):
        ts.op(keyword_only)(ts.ones(2), w=leaf(1.0))


def test_a_body_is_written_with_the_functions_of_a_namespace() -> None:
    @ts.op
    def softsign(x: Any) -> Any:
        xp = ts.namespace(x)
        size = 1 + xp.abs(x)
        return x / size, (lambda g: g / (size * size),)

    check_grad(softsign, leaf(0.3, -1.2), order=2)
    with pytest.raises(TypeError, match="expected a Tensor or an array"):
        ts.namespace(1.0, None)


def test_definitions_get_tensors_for_constants() -> None:
    scaled = ts.op(definition=lambda x, w: x * w.sigmoid())(
        lambda x, w: (x / (1 + np.exp(-w)), (lambda g: g / (1 + np.exp(-w)), None)))
    x, w = leaf(1.0, 2.0), ts.tensor(np.array([0.3, 0.4]))
    (g,) = ts.grad((scaled(x, w) ** 2).sum(), [x], create_graph=True)
    equal(ts.grad(g.sum(), x), 2 * w.sigmoid().numpy() ** 2)


def test_errors_name_the_op_and_the_shapes() -> None:
    x = ts.ones((2, 3))
    with pytest.raises(ValueError, match=r"^add\(a=float32\[2, 3\], b=float32\[4\]\): .*broadcast"):
        x + ts.ones(4)
    with pytest.raises(ValueError, match=r"^matmul\(a=float32\[2, 3\], b=float32\[2, 3\]\): expected .*same k"):
        x @ x
    with pytest.raises(IndexError, match=r"^getitem\(x=float32\[2, 3\], index=5\)"):
        x[5]
    with pytest.raises(TypeError, match=r"^matmul\(a=float32\[2, 3\], b=2.0\)"):
        x @ 2.0
    with pytest.raises(ValueError, match=r"^concat\(tensors=\[float32\[2, 3\], float32\[4\]\]\)"):
        ts.concat([x, ts.ones(4)])


# --- memory ----------------------------------------------------------------------------------------------------------

# Each runs once; what it holds, an attribute of x, must go with the last reference, not with the collector.
PARTS: dict[str, Callable[[Tensor], Any]] = {
    "backward": lambda x: (x * x).sum().backward(),
    "create_graph": lambda x: ts.grad((x**3).sum(), x, create_graph=True),
    "backward to be differentiated": lambda x: (x**3).sum().backward(create_graph=True),
    "grad of grad": lambda x: ts.grad(ts.grad((x**3).sum(), x, create_graph=True).sum(), x),
    "value_and_grad": lambda x: ts.value_and_grad(lambda y: (y * x).sum())(x),
    "value_and_grad of it": lambda x: ts.value_and_grad(
        lambda y: ts.value_and_grad(lambda z: (z**3 * x).sum())(y)[1].sum())(x),
    "recompute": lambda x: ts.recompute(lambda y: y * x, x).sum().backward(),
    "recompute to be differentiated": lambda x: ts.grad(ts.recompute(lambda y: y * x, x).sum(), x, create_graph=True),
    "recompute in vain": lambda x: ts.recompute(lambda y: y * x, x),
    "several outputs": lambda x: ts.unstack(x * 2)[0].backward(),
    "a definition": lambda x: ts.grad(kernel(x, x)[0].sum(), x, create_graph=True),
    "an op": lambda x: ts.op(named("own", lambda y: (y * x.data, (lambda g: g * x.data,))))(x).sum().backward(),
    "no_grad": lambda x: ts.no_grad()(lambda: x * 2)(),
    "no_grad on a generator": lambda x: [*ts.no_grad()(lambda: (yield x * 2))()],
    "no_grad on a generator that fails": lambda x: thrown(ts.no_grad()(lambda: (yield x * 2))()),
    "assignment": lambda x: (x * 2).__setitem__(0, x[1]),
    "debug": lambda x: debugged(x),
    "an error": lambda x: failing(lambda: x @ ts.ones((3, 3))),
    "an error in backward": lambda x: failing(lambda: twice(x)),
    "an error in recompute": lambda x: failing(lambda: ts.recompute(lambda y: y[9], x)),
}


def failing(fn: Callable[[], Any]) -> None:
    with pytest.raises((ValueError, RuntimeError, IndexError)):
        fn()


def debugged(x: Tensor) -> None:
    with ts.debug():
        (x * x).sum().backward()


def thrown(generator: Iterator[Tensor]) -> None:
    next(generator)
    with contextlib.suppress(KeyError):
        generator.throw(KeyError)  # type: ignore[attr-defined]


def twice(x: Tensor) -> None:
    y = ts.exp(x).sum()
    y.backward()
    y.backward()


@pytest.mark.parametrize("part", PARTS)
def test_nothing_waits_for_the_collector(no_collector: None, part: str) -> None:
    def run() -> list[weakref.ref[Any]]:
        x = leaf(1.0, 2.0)
        PARTS[part](x)
        return [weakref.ref(x), weakref.ref(x.data)]

    assert [ref() for ref in run()] == [None, None]


def test_operands_that_are_left_out_have_pull_backs_too() -> None:
    @ts.op
    def scaled(x: Any, by: Any = None) -> Any:
        return (x if by is None else x * by), (lambda g: g if by is None else g * by, lambda g: g * x)

    x, w = leaf(1.0, 2.0), ts.ones((3, 2), ts.float64, requires_grad=True)
    for y in (scaled(x), x.clip(0.0), ts.clip(x), ts.functional.linear(x, w)):
        assert ts.grad(y.sum(), x).shape == (2,)


def test_an_op_that_was_run_in_float16_goes_with_what_it_holds() -> None:
    held = ts.ones(3)
    seen = weakref.ref(held)
    f = ts.op(wide=True)(named("f", lambda x, array=held: (x + array.data, (lambda g: g,))))
    f(ts.ones(3, dtype=ts.float16))
    del f, held
    assert seen() is None
