"""Searching and sets: places are int64 everywhere, NaN is found as the standard says, wrong calls are named."""

from typing import Any

import numpy as np
import pytest

import tinyseq as ts
from tinyseq import backends, nn
from tinyseq.engine import creation


def test_each_nan_is_another_value() -> None:
    values, first, inverse, counts = ts.unique_all(ts.tensor([np.nan, 1.0, np.nan, 1.0]))
    assert np.isnan(values.tolist()).tolist() == [False, True, True] and counts.tolist() == [2, 1, 1]
    assert first.tolist()[0] == 1 and inverse.tolist()[1::2] == [0, 0]
    assert ts.count_nonzero(ts.tensor([np.nan, 0.0, -0.0])).item() == 1


def test_what_has_parts_has_their_names() -> None:
    x = ts.tensor([[3, 1], [3, 2]])
    assert x.unique_counts().counts.tolist() == [1, 1, 2] and x.unique_inverse().inverse_indices.shape == x.shape
    assert x.unique_all()._fields == ("values", "indices", "inverse_indices", "counts")
    assert x[x.nonzero()].tolist() == [3, 1, 3, 2]


def test_what_is_not_sorted_is_refused() -> None:
    if backends.on_host(ts.ones(1).data):  # on a device nobody looks
        with pytest.raises(ValueError, match=r"searchsorted\(a=float32\[2\].*ascending order, or a sorter"):
            ts.searchsorted(ts.tensor([2.0, 1.0]), 1.5)
    assert ts.searchsorted(ts.tensor([2.0, 1.0]), 1.5, sorter=[1, 0]).item() == 1
    with pytest.raises(ValueError, match="one axis"):
        ts.searchsorted(ts.ones((2, 2)), 1.5)
    with pytest.raises(ValueError, match="at least one axis"):
        ts.nonzero(ts.tensor(1.0))


def test_closeness_is_of_a_tolerance_and_the_size_of_b() -> None:
    x = ts.tensor([1.0, np.nan, np.inf, 100.0])
    assert ts.isclose(x, [1.1, np.nan, np.inf, 110.0], rtol=0, atol=0.2).tolist() == [True, False, True, False]
    assert ts.isclose(x, x, equal_nan=True).all()


NARROW = ("nonzero", "argmax", "argmin", "argsort", "searchsorted", "unique")


def narrowed(fn: Any) -> Any:
    """A function whose int64 results are int32, as those are where NumPy's own integers have 32 bits."""
    def narrow(y: Any) -> Any:
        if isinstance(y, tuple):
            return tuple(map(narrow, y))
        return y.astype(np.int32) if getattr(y, "dtype", None) == np.int64 else y

    return lambda *args, **kwargs: narrow(fn(*args, **kwargs))


@pytest.mark.skipif(backends.active().name != "numpy", reason="of NumPy's integers")
def test_integers_have_64_bits_where_numpys_have_32(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under WebAssembly."""
    xp = backends.active().xp
    for name in NARROW:
        monkeypatch.setattr(xp, name, narrowed(getattr(xp, name)))
    monkeypatch.setattr(creation, "read", narrowed(creation.read))
    monkeypatch.setattr(creation.np, "int_", np.int32)
    monkeypatch.setattr(ts.random, "host_generator", lambda generator: Narrow(np.random.default_rng(0)))
    x, flags = ts.tensor([[0.5, 2.0], [3.0, 0.0]]), ts.tensor([True, False])
    found = [ts.tensor([1, 2]), ts.tensor(3), ts.asarray([[1]]), *x.nonzero(), x.argmax(), x.argmax(1), x.argmin(0),
             x.argsort(), x.argsort(descending=True), x.topk(1)[1], x[0].searchsorted(1.0), x.count_nonzero(1),
             *x.unique_all()[1:], x.unique_inverse().inverse_indices, x.unique_counts().counts, flags.sum(),
             flags.cumulative_sum(), flags.cumulative_prod(), flags.prod(), ts.arange(3), ts.full(2, 7), x.long(),
             ts.random.permutation(4), ts.random.integers(3, 0, 9), ts.tensor([1, 2], dtype=ts.int32).sum(),
             ts.random.categorical([0.5, 0.5])]
    assert [y.dtype for y in found] == [np.dtype(np.int64)] * len(found)
    assert nn.Embedding(5, 2)([1, 2]).shape == (2, 2)


class Narrow:
    """A generator whose permutations are of 32 bits."""

    def __init__(self, generator: np.random.Generator) -> None:
        self.generator = generator

    def __getattr__(self, name: str) -> Any:
        return narrowed(getattr(self.generator, name)) if name == "permutation" else getattr(self.generator, name)
