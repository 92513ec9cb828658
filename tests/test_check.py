"""The checks of numbers that every constructor and function shares."""

import math
from typing import Any

import numpy as np
import pytest

import tinyseq as ts
from tinyseq import check


@pytest.mark.parametrize("value", [3, np.int8(3), np.uint64(3), ts.tensor(3)])
def test_integers_come_back_as_pythons(value: Any) -> None:
    assert type(check.integers("f", 1, n=value)) is int
    assert check.integers("f", 1, 3, n=value, m=2) == (3, 2)


@pytest.mark.parametrize("value", [2.5, "3", True, np.True_, None, [3], math.nan, ts.tensor(3.0)])
def test_what_is_no_integer_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^f: expected an integer 1 <= n <= 5, got "):
        check.integers("f", 1, 5, n=value)


@pytest.mark.parametrize("value", [0.5, np.float16(0.5), ts.tensor(0.5)])
def test_numbers_come_back_as_pythons(value: Any) -> None:
    assert type(check.numbers("f", p=value)) is float
    assert check.numbers("f", least=0, below=1, p=value, q=0) == (0.5, 0.0)


@pytest.mark.parametrize("value", ["0.5", True, None, [0.5], np.True_])
def test_what_is_no_number_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^f: expected a number 0 <= p < 1, got "):
        check.numbers("f", least=0, below=1, p=value)


@pytest.mark.parametrize("value, bounds", [(math.nan, {}), (-1, {"least": 0}), (0, {"above": 0}), (2, {"most": 1}),
                                           (1, {"below": 1})])
def test_numbers_out_of_range_are_refused(value: float, bounds: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"^f: expected a number .*p.*, got "):
        check.numbers("f", **bounds, p=value)


def test_integers_out_of_range_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"^GRU: expected an integer 1 <= hidden_size, got 0$"):
        check.integers("GRU", 1, input_size=2, hidden_size=0)


def test_a_choice_names_all() -> None:
    check.choice("RNN", ("tanh", "relu"), nonlinearity="relu")
    with pytest.raises(ValueError, match="RNN: expected nonlinearity to be one of 'tanh', 'relu', got 'gelu'"):
        check.choice("RNN", ("tanh", "relu"), nonlinearity="gelu")
    with pytest.raises(ValueError, match="one of True, False, got 1"):
        check.choice("f", (True, False), flag=1)
