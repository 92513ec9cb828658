"""Where did the NaN come from?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tinyseq.check import describe
from tinyseq.engine.autograd import joint, users_line, watching
from tinyseq.engine.tensor import Array, namespace


class debug(watching):
    """Find where a NaN or an infinity comes from, or where float32 silently became float64: `with ts.debug():`.

    Checks every op of this thread in the block, and, whenever that is, its gradient on the way back, and raises
    FloatingPointError (or TypeError for a widened dtype) at the first whose inputs were fine and whose output is not,
    with its name, its shapes and the user's line; ValueError at an op of your own whose body writes to NumPy arrays
    that it is given. Slow: every value is looked at, and such a body runs twice.

    >>> x = ts.tensor([1.0, 0.0])
    >>> with ts.debug(), np.errstate(divide="ignore"):
    ...     y = ts.log(x)
    Traceback (most recent call last):
    FloatingPointError: a NaN or an infinity appeared in log(float32[2]), called at ...
    """

    def forward(self, name: str, body: Any, raw: list[Any], kwargs: dict[str, Any], out: Any, pulls: Any) -> Any:
        where = users_line()
        if not str(body.__module__).startswith("tinyseq."):
            try:  # once more, as what was written is not told from what was there
                body(*map(_closed, raw), **kwargs)
            except ValueError as error:
                if "read-only" not in str(error):
                    raise
                given = ", ".join(map(describe, raw))
                raise ValueError(f"{name}({given}) writes to what it is given: work on a copy; {where}") from error
        _check_finite(name, raw, out, where)

        def pull(g: Any, needs: tuple[bool, ...]) -> Any:
            found = joint(pulls)(g, needs)
            _check_finite(f"the gradient of {name}", [g], found, where)
            return found

        return pulls if pulls is None else pull


def _closed(x: Any) -> Any:
    """An argument of a body whose NumPy arrays cannot be written to."""
    if isinstance(x, np.ndarray):
        x = x.view()
        x.flags.writeable = False
    return type(x)(map(_closed, x)) if isinstance(x, (list, tuple)) else x


def flat(x: Any) -> Iterator[Any]:
    """The arrays and Tensors in nested lists and tuples."""
    if isinstance(x, (list, tuple)):
        for y in x:
            yield from flat(y)
    elif hasattr(x, "dtype") and not isinstance(x, type):
        yield x


def _check_finite(name: str, raw: list[Any], out: Any, where: str) -> None:
    given = f"{name}({', '.join(map(describe, raw))}), {where}"
    before, after = ([a for a in flat(x) if a.dtype.kind == "f"] for x in (raw, out))
    finite: Callable[[list[Array]], bool] = lambda arrays: all(bool(namespace(a).isfinite(a).all()) for a in arrays)
    if finite(before) and not finite(after) and all(math.isfinite(a) for a in raw if type(a) is float):
        raise FloatingPointError(f"a NaN or an infinity appeared in {given}")
    single, double = (any(a.dtype.name == n for a in part) for n, part in (("float32", before), ("float64", after)))
    if name != "astype" and single and double:
        raise TypeError(f"float32 became float64 in {given}: one argument is float64, or an integer array; use .astype")
