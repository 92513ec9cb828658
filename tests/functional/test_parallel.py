"""Scans of associative functions, and what the linear one promises beside the laws of all functions."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
import tinyseq.functional as F
from tinyseq.functional.parallel import turning_scan
from tinyseq.testing import check_grad


def linear(x: Any, y: Any) -> Any:
    """(a, b), then (c, d): h -> c (a h + b) + d."""
    return x[0] * y[0], y[0] * x[1] + y[1]


def in_turn(combine: Any, xs: list[Any]) -> list[Any]:
    ys = xs[:1]
    for x in xs[1:]:
        ys.append(combine(ys[-1], x))
    return ys


@given(st.integers(1, 40), st.booleans(), st.integers(0, 2), st.integers(0, 99))
def test_order_is_kept_of_what_does_not_commute(steps: int, reverse: bool, axis: int, seed: int) -> None:
    xs = np.random.default_rng(seed).standard_normal((steps, 2, 3, 3)) / 2
    turned = xs[::-1] if reverse else xs
    expected = np.stack(in_turn(np.matmul, list(turned)))
    matmul = lambda x, y: ts.moveaxis(ts.moveaxis(x, axis, 0) @ ts.moveaxis(y, axis, 0), 0, axis)
    y = F.associative_scan(matmul, ts.tensor(np.moveaxis(xs, 0, axis)), axis, reverse)
    assert np.allclose(np.moveaxis(y.numpy(), axis, 0), expected[::-1] if reverse else expected, atol=1e-12)


@given(st.integers(0, 20), st.booleans(), st.integers(0, 99))
def test_the_linear_recurrence_is_one(steps: int, reverse: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = (ts.tensor(rng.standard_normal((2, steps, 3))) for _ in range(2))
    for axis in (1, -2):
        found = F.associative_scan(linear, (a, b), axis, reverse)
        assert isinstance(found, tuple) and isinstance(F.associative_scan(linear, [a, b], axis), list)
        assert np.allclose(found[1].numpy(), F.linear_scan(a, b, reverse=reverse).numpy(), atol=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 5, 8])
@pytest.mark.parametrize("reverse", [False, True])
def test_gradients_of_both_orders(steps: int, reverse: bool) -> None:
    x = ts.random.normal((steps, 2, 2))
    check_grad(lambda x: F.associative_scan(ts.matmul, x, 0, reverse), x, order=2)
    check_grad(lambda x, y: F.associative_scan(linear, [x, y], 0, reverse), x, x + 1, order=2)


def test_few_calls_of_combine() -> None:
    calls = []
    F.associative_scan(lambda x, y: calls.append(len(x)) or x + y, ts.ones(1000), 0)
    assert len(calls) <= 2 * 10 and sum(calls) <= 2 * 1000


def test_wrong_scans_are_named() -> None:
    x = ts.ones((4, 2))
    for call, words in (
        (lambda: F.associative_scan(lambda x, y: x.sum(), x, 0), r"combine was given .*\[2, 2\].*got \[float32\[\]\]"),
        (lambda: F.associative_scan(lambda x, y: (x, y), x, 0), "expected what looks like the second"),
        (lambda: F.associative_scan(linear, (x, x[:3]), 0), r"equally long along axis 0, got .*4, 2.*3, 2"),
        (lambda: F.associative_scan(3, x, 0), "expected combine to be a function, got 3"),
        (lambda: F.associative_scan(ts.add, x, 2), "axis 2 is out of range"),
        (lambda: F.associative_scan(linear, (), 0), "expected xs"),
        (lambda: F.linear_scan(x[None].astype(ts.float64), x[None]), "one dtype, got a float64, b float32"),
        (lambda: F.linear_scan(x, x[None], reverse="no"), "linear_scan.*: expected reverse to be bool, got 'no'"),
        (lambda: F.associative_scan(ts.add, x, 0, 1), "associative_scan.*: expected reverse to be bool, got 1"),
        (lambda: F.linear_scan(x, x[None], lengths=[5]), "linear_scan.*lengths .*from 0 to the 4 steps"),
    ):
        with pytest.raises((TypeError, ValueError, IndexError), match=words):
            call()


@pytest.mark.parametrize("a", [2, [1, 0, 1], np.array([True, False, True]), ts.tensor([2, 0, 1])])
def test_whole_numbers_are_as_wide_as_b(a: Any) -> None:
    b, h0 = ts.random.normal((2, 5, 3)), np.array([[1, 2, 3], [0, 0, 1]])
    expected = F.linear_scan(ts.asarray(a).astype(ts.float32), b, h0.astype("f"))
    found = F.linear_scan(a, b, h0)
    assert found.dtype == "float32" and np.array_equal(found.numpy(), expected.numpy())


@pytest.mark.parametrize("reverse", [False, True])
def test_a_state_that_turns_is_a_complex_recurrence(reverse: bool) -> None:
    """Against NumPy's complex numbers; gradients of both orders against differences."""
    rng = np.random.default_rng(0)
    kept, angle, h0 = rng.uniform(0, 1, 3), rng.uniform(0, 6, 3), rng.standard_normal((2, 6))
    b = rng.standard_normal((2, 70, 6))
    state, expected = h0[:, :3] + 1j * h0[:, 3:], np.empty((2, 70, 3), complex)
    for t in range(70)[:: -1 if reverse else 1]:
        expected[:, t] = state = kept * np.exp(1j * angle) * state + b[:, t, :3] + 1j * b[:, t, 3:]
    h = turning_scan(*map(ts.tensor, (kept, angle, b, h0)), reverse).numpy()
    assert np.allclose(h[..., :3] + 1j * h[..., 3:], expected, atol=1e-12)
    check_grad(lambda *given: turning_scan(*given, reverse), *map(ts.tensor, (kept, angle, b[:, :4], h0)), order=2)


def test_a_debugger_says_what_was_called() -> None:
    with ts.debug(), np.errstate(all="ignore"), pytest.raises(FloatingPointError, match=r"appeared in linear_scan\("):
        F.linear_scan(1e30, ts.ones((1, 4, 1)))


def test_what_stands_in_the_padding_is_never_seen() -> None:
    a, b = np.full((2, 3, 1), np.nan, "f"), np.full((2, 3, 1), np.inf, "f")
    a[0, :2], b[0, :2] = 0.5, 1
    for reverse in (False, True):
        leaves = ts.tensor(a, requires_grad=True), ts.tensor(b, requires_grad=True)
        y = F.linear_scan(*leaves, lengths=[2, 0], reverse=reverse)
        grads = ts.grad(y.sum(), leaves)
        assert all(np.isfinite(g.numpy()).all() and not g.numpy()[1].any() for g in (y.detach(), *grads))
