"""Arguments that are numbers, checked in one way: what was given, what was expected, in whose call.

    size, layers = check.integers("GRU", 1, input_size=input_size, num_layers=num_layers)
    p = check.numbers("Dropout", least=0, below=1, p=p)
    check.choice("RNN", ("tanh", "relu"), nonlinearity=nonlinearity)

Each returns plain Python numbers, so that what came as a narrow NumPy integer is not reckoned with in its width.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np


def integers(where: str, least: int | None = None, most: int | None = None, /, **given: Any) -> Any:
    """The `given` integers from `least` to `most`: one int, or a tuple of them in their order.

    Anything with `__index__` but a bool is an integer. Another type is a TypeError, one out of range a ValueError.
    """
    values = []
    for name, value in given.items():
        try:
            number = operator.index(None if isinstance(value, (bool, np.bool)) else value)
        except TypeError:
            raise TypeError(_message(where, "an integer", name, value, least, most)) from None
        if (least is not None and number < least) or (most is not None and number > most):
            raise ValueError(_message(where, "an integer", name, value, least, most))
        values.append(number)
    return values[0] if len(values) == 1 else tuple(values)


def numbers(
    where: str, *, least: float | None = None, above: float | None = None, most: float | None = None,
    below: float | None = None, **given: Any,
) -> Any:
    """The `given` real numbers as floats, one or a tuple, >= `least`, > `above`, <= `most`, < `below`; never NaN.

    Python's and NumPy's numbers and what has one element and `__float__` (a 0-dimensional Tensor) are taken; a bool or
    text is a TypeError, a number out of range a ValueError.
    """
    values = []
    for name, value in given.items():
        if isinstance(value, (bool, np.bool)) or not hasattr(value, "__float__") or getattr(value, "size", 1) != 1:
            raise TypeError(_message(where, "a number", name, value, least, most, above, below))
        number = float(value)
        if (math.isnan(number) or (least is not None and number < least) or (most is not None and number > most)
                or (above is not None and number <= above) or (below is not None and number >= below)):
            raise ValueError(_message(where, "a number", name, value, least, most, above, below))
        values.append(number)
    return values[0] if len(values) == 1 else tuple(values)


def choice(where: str, among: Sequence[Any], **given: Any) -> None:
    """Refuse, with a ValueError, what is not `among` the values that an argument can have."""
    for name, value in given.items():
        if not any(type(value) is type(x) and value == x for x in among):
            raise ValueError(f"{where}: expected {name} to be one of {', '.join(map(repr, among))}, got {value!r}")


def _message(where: str, kind: str, name: str, value: Any, least: Any, most: Any, above: Any = None,
             below: Any = None) -> str:
    low = f"{least} <= " if least is not None else f"{above} < " if above is not None else ""
    high = f" <= {most}" if most is not None else f" < {below}" if below is not None else ""
    got = type(value).__name__ if hasattr(value, "__array__") and getattr(value, "ndim", 0) else repr(value)
    return f"{where}: expected {kind} {low}{name}{high}, got {got}"
