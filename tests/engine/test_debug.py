"""Debugging: the first op that made a NaN or widened, forwards and backwards, with its line."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from helpers.tensors import named

import tinyseq as ts
from tinyseq.engine import autograd


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_debug_names_the_first_op_forwards() -> None:
    x = ts.tensor([0.0, 1.0], requires_grad=True)
    with ts.debug(), pytest.raises(FloatingPointError, match=r"in log\(float32\[2\]\), called at .*test_debug"):
        ts.exp(ts.log(x) * 2)
    assert not np.isfinite(ts.log(x).data).all()  # outside nobody looks


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_debug_names_the_first_op_backwards() -> None:
    x = ts.tensor([0.0, 1.0], requires_grad=True)
    with ts.debug():
        y = ts.sqrt(x * 2).sum()  # its gradient at 0 is infinite
        line = test_debug_names_the_first_op_backwards.__code__.co_firstlineno + 4
        with pytest.raises(FloatingPointError, match=rf"gradient of sqrt\(float32\[2\]\), .*test_debug.py:{line}"):
            y.backward()


def test_debug_sees_float32_become_float64() -> None:
    x = ts.tensor([1.0, 2.0])
    with ts.debug():
        x * 2.0 + np.float64(3) + math.pi
        x.astype(np.float64)
        with pytest.raises(TypeError, match=r"became float64 in multiply\(float32\[2\], float64\[2\]\), called at"):
            x * np.array([1.0, 2.0])
        with pytest.raises(TypeError, match=r"multiply\(float32\[2\], int64\[2\]\)"):
            x * ts.tensor([1, 2])
    with ts.debug():
        ts.where(x > 1, x, -math.inf)  # an infinity that was given, not made


def test_debug_names_a_body_that_writes_to_what_it_is_given() -> None:
    @ts.op
    def masked(x: Any, y: Any) -> Any:
        x[x < 0] = 0  # a second time it changes nothing
        return x + y, (lambda g: g, lambda g: g)

    x = ts.tensor([-1.0, 2.0]).to("numpy")
    with ts.debug(), pytest.raises(ValueError, match=r"masked\(float32\[2\], float32\[2\]\) writes to .* a copy; "
                                                     r".*test_debug.py"):
        masked(x, x + 1)
    pure = ts.op(named("pure", lambda xs: (xs[0] + xs[1], (lambda g: g, lambda g: g))))
    with ts.debug():
        assert pure([x, x]).shape == (2,)


def test_debug_decorates_a_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where nobody watched before: a decorated generator enters its stack without `__enter__`."""
    monkeypatch.setattr(autograd, "_watched", False)

    @ts.debug()
    def steps() -> Iterator[ts.Tensor]:
        yield ts.log(ts.zeros(1))

    with np.errstate(divide="ignore"), pytest.raises(FloatingPointError, match="appeared in log"):
        list(steps())
