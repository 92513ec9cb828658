"""Two backends in step: which op is the first to compute something else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tinyseq import backends, check
from tinyseq.check import describe
from tinyseq.engine.autograd import joint, users_line, watching
from tinyseq.engine.debug import flat


class parity(watching):
    """Run a training on its own backend and on NumPy in step; AssertionError names the first op in which they part.

        ts.use_backend("cupy")
        with parity():
            train(steps=200)

    Each op, each gradient and each optimizer step inside the block is computed a second time by the NumPy backend, from
    the very same inputs. So rounding does not add up over the steps, and the op that is named is the one that differs,
    not one that was handed a difference. Random numbers are part of it: an op gets its seed and stream as arguments.

    Shapes, dtypes, integers and booleans must be equal. Floating-point entries may differ by `tolerance` times the
    rounding error of their dtype, relative to the largest entry of the output plus a hundredth of the largest input (of
    a gradient: of the one it was made from, times the largest input if that is above 1). `compared` counts the results
    held against NumPy's so far. Slow: everything is copied to the host.

    On NumPy itself there is nothing to compare, which is an error too:

    >>> from tinyseq.testing import parity
    >>> with ts.use_backend("numpy"), parity():
    ...     y = ts.ones(3) * 2
    Traceback (most recent call last):
    ValueError: parity compared nothing: all ops ran on NumPy itself; ts.use_backend chooses another
    """

    def __init__(self, tolerance: float = 200.0) -> None:
        self.tolerance, self.compared = check.numbers("parity", above=0, tolerance=tolerance), 0
        self.numpy = backends.load("numpy")

    def forward(self, name: str, body: Any, raw: list[Any], kwargs: dict[str, Any], out: Any, pulls: Any) -> Any:
        """What the engine calls after each op: hold its output to NumPy's; returns `pulls`, whose gradients are held
        too.
        """
        backend = next((backends.of(a) for a in flat(out)), self.numpy)
        if backend is self.numpy:  # on the host: nothing to compare
            return pulls
        given = f"{name.lstrip('_')}({', '.join(map(describe, raw))}), {users_line()}"
        inputs = _hosts(raw)
        expected, others = _on_numpy(body, *inputs, **_hosts(kwargs))
        size = _largest(inputs)
        self._hold(backend.name, given, out, expected, size)
        if pulls is None or others is None:
            return pulls
        ours, theirs = joint(pulls), joint(others)

        def pull(g: Any, needs: tuple[bool, ...]) -> Any:
            found, host = list(ours(g, needs)), _hosts(g)
            wanted = list(_on_numpy(theirs, host, needs))
            for i, (h, r, need) in enumerate(zip(found, wanted, needs, strict=False)):
                if need and not (h is None and r is None):
                    what = f"the gradient of {given}, for input {i}, from {describe(g)}"
                    self._hold(backend.name, what, h, r, _largest(host) * max(1.0, size))
            return found

        return pull

    def _hold(self, backend: str, given: str, found: Any, expected: Any, size: float) -> None:
        self.compared += 1
        if problem := difference(found, expected, size, self.tolerance):
            raise AssertionError(f"{backend} and numpy part in {given}: {problem}")

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        if exc[0] is None and not self.compared:
            raise ValueError("parity compared nothing: all ops ran on NumPy itself; ts.use_backend chooses another")


def difference(found: Any, expected: Any, size: float = 0.0, tolerance: float = 200.0) -> str:
    """How arrays of any backend (nested in lists and tuples) differ from those expected, or "": `parity`'s rule.

    `size` is that of what they were computed from.
    """
    ours, theirs = (list(flat(_hosts(x))) for x in (found, expected))
    if len(ours) != len(theirs):
        return f"{len(ours)} arrays, {len(theirs)} expected"
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        what = describe(a) if len(ours) == 1 else f"array {i}, {describe(a)}"
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"{what}, expected {describe(b)}"
        if not a.size:
            continue
        with np.errstate(all="ignore"):
            apart = np.where((a == b) | ((a != a) & (b != b)), 0.0, np.abs(a.astype(float) - b))
        apart[np.isnan(apart)] = np.inf  # a NaN on one side alone
        rounding = tolerance * np.finfo(a.dtype).eps if a.dtype.kind == "f" else 0.0
        allowed = float(rounding * (_largest([b]) + 0.01 * size))
        worst = np.unravel_index(np.argmax(apart), apart.shape)
        if apart[worst] > allowed:
            place = f" at {tuple(map(int, worst))}" if worst else ""
            return (f"{what}, largest difference {apart[worst]:.3g}{place}: {a[worst]!s}, "
                    f"expected {b[worst]!s} within {allowed:.2g}")
    return ""


def _on_numpy(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    with backends.use_backend("numpy"), np.errstate(all="ignore"):
        return function(*args, **kwargs)


def _hosts(x: Any) -> Any:
    """`x` with its arrays on the host."""
    if isinstance(x, dict):
        return {k: _hosts(v) for k, v in x.items()}
    if isinstance(x, (list, tuple)):
        return (list if isinstance(x, list) else tuple)(map(_hosts, x))
    return np.asarray(backends.of(x).asnumpy(x)) if hasattr(x, "dtype") and not isinstance(x, type) else x


def _largest(x: Any) -> float:
    """The largest finite absolute value among floating-point arrays on the host."""
    return max((float(np.abs(a).max(initial=0.0, where=np.isfinite(a))) for a in flat(x) if a.dtype.kind == "f"),
               default=0.0)
