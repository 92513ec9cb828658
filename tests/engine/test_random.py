"""Draws of distributions: what they are like, and that every backend draws the same."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
from tinyseq import functional, random


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("low, high", [(0.0, 1.0), (-3.0, -1.0), (0.1, 0.3)])
def test_uniform_draws_are_below_high_in_any_dtype(low: float, high: float, dtype: str,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    class Highest:
        def uniform(self, low: float, high: float, shape: Any) -> Any:
            return np.full(shape, np.nextafter(high, low))

    monkeypatch.setattr(ts.random, "host_generator", lambda generator: Highest())
    draws = ts.random.uniform((2,), low, high, dtype)
    assert draws.dtype == dtype and (draws.numpy() < np.dtype(dtype).type(high)).all()


@given(st.integers(1, 6), st.integers(0, 2**32))
def test_a_class_is_drawn_as_often_as_its_row_says(classes: int, seed: int) -> None:
    weights = np.random.default_rng(seed).exponential(size=(2, classes)) * (np.arange(classes) != classes // 2)
    probs = functional.softmax(ts.tensor(np.log(np.maximum(weights, 1e-300))))  # of which one is 0
    g = random.Generator(seed)
    drawn = random.categorical(probs.broadcast_to((4000, 2, classes)), generator=g)
    assert drawn.shape == (4000, 2) and drawn.dtype == ts.int64 and g.get_state() == (seed, 1)
    found = np.stack([np.bincount(column, minlength=classes) for column in drawn.numpy().astype(np.intp).T]) / 4000
    np.testing.assert_allclose(found, probs.numpy(), atol=0.05)
    assert (found[probs.numpy() == 0] == 0).all()


@given(st.integers(0, 2**32))
def test_booleans_are_drawn_as_often_as_they_say(seed: int) -> None:
    p = np.array([0.0, 0.25, 1.0])
    drawn = random.bernoulli(p, (4000, 3), generator=random.Generator(seed))
    assert drawn.dtype == bool
    np.testing.assert_allclose(drawn.numpy().mean(0), p, atol=0.05)
    again = random.bernoulli(ts.tensor(p, requires_grad=True), (4000, 3), generator=random.Generator(seed))
    assert (again == drawn).all() and not again.requires_grad


def test_draws_are_philoxs_of_their_stream() -> None:
    """The same on every backend, and in every version."""
    g = random.Generator(7)
    g.set_state((7, 3))
    drawn = np.random.Generator(np.random.Philox(key=7, counter=3 << 128)).random(5)
    assert random.bernoulli(0.5, 5, generator=g).tolist() == (drawn < 0.5).tolist()
    g.set_state((7, 3))
    probs = ts.tensor([[0.25, 0.25, 0.5]] * 5)
    assert random.categorical(probs, generator=g).tolist() == [int(u >= 0.25) + int(u >= 0.5) for u in drawn]


@pytest.mark.parametrize("probs", [[0.5, 0.6], [0.2, 0.2], [-0.5, 1.5], [2.0, -1.0], [float("nan"), 1.0], 1.0, []])
def test_what_is_no_distribution_is_refused(probs: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"categorical\(probs=.*(probabilities|add up to 1)"):
        random.categorical(probs)
    if probs not in (1.0, [], [0.5, 0.6], [0.2, 0.2]):
        with pytest.raises(ValueError, match=r"bernoulli\(p=.*probabilities from 0 to 1"):
            random.bernoulli(probs)


def test_a_class_without_a_chance_is_not_drawn_by_a_0(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lowest:
        def random(self, shape: Any) -> Any:
            return np.zeros(shape)

    monkeypatch.setattr(ts.random, "host_generator", lambda generator: Lowest())
    assert random.categorical([0.0, 0.0, 1.0]).item() == 2 and not random.bernoulli(0.0).item()
