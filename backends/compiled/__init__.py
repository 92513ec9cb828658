"""Kernels that Numba compiles, by theme, and what they are made of.

A kernel is a plain loop over contiguous arrays under `@compiled`: it is compiled at its first call for each combination
of dtypes, which a line on standard error tells, and kept on disk. It holds no lock and makes no threads of its own, so
that any thread may call it: `backends.pool` shares out what is large.

What makes a loop fast: it runs over flat stretches, with few arrays in it (LLVM gives up where it cannot tell that many
do not overlap); numbers have the arrays' dtype, or the loop is widened to float64; functions of numbers come from
`numbers`, since `math`'s are calls.
"""

import hashlib
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numba
import numba.extending
from numba.core import event
from numba.core.caching import FunctionCache
from numba.core.imputils import impl_ret_borrowed

FAST = {"contract", "nsz", "arcp", "afn", "reassoc"}  # not nnan, ninf: a NaN and a mask's -inf stay what they are


@cache
def digest() -> str:
    """Of all kernels' source: a compiled function has others of other files in it, of which Numba does not know."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


class _Cache(FunctionCache):
    def _index_key(self, sig: Any, codegen: Any) -> Any:
        return *super()._index_key(sig, codegen), digest()


Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """The function as a kernel, compiled at its first call: there is no check of bounds inside."""
    kernel = numba.njit(cache=True, nogil=True, fastmath=FAST, error_model="numpy")(function)
    kernel._cache = _Cache(function)
    return kernel  # type: ignore[no-any-return]


def inline(function: Function) -> Function:
    """The function as a part of the kernels that call it."""
    return numba.njit(forceinline=True, fastmath=FAST, error_model="numpy")(function)  # type: ignore[no-any-return]


def exact(function: Function) -> Function:
    """The same for arithmetic that is rounded as it is written."""
    return numba.njit(forceinline=True, fastmath=False, error_model="numpy")(function)  # type: ignore[no-any-return]


def intrinsic(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of instructions for LLVM: `function` gives its signature and what builds it."""
    return numba.extending.intrinsic(function)  # type: ignore[no-any-return]


@intrinsic
def contiguous(context: Any, a: Any) -> Any:
    """The array, of which only the caller knows that its entries stand side by side."""
    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return impl_ret_borrowed(context, builder, signature.return_type, args[0])

    return a.copy(layout="C")(a), build


@intrinsic
def apart(context: Any) -> Any:
    """Says in an `inline` function that its arrays do not overlap, which LLVM cannot check where they are many."""
    def build(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        for argument in builder.function.args:
            if argument.name.endswith(".4"):  # the data of an array
                argument.add_attribute("noalias")
        return context.get_dummy_value()

    return numba.types.void(), build


def by_dtype(float32: Function, float64: Function) -> Function:
    """One function of two of a number x, which a kernel of either dtype calls."""
    def function(x: Any) -> Any:
        raise NotImplementedError("for compiled kernels")

    @numba.extending.overload(  # type: ignore[untyped-decorator]
        function, jit_options={"fastmath": FAST, "forceinline": True, "error_model": "numpy"})
    def choose(x: Any) -> Any:
        return float32 if x == numba.types.float32 else float64

    return function  # type: ignore[return-value]


class _Progress(event.Listener):
    """Says what is compiled, and how long it took: of ours alone, the outermost of a nest."""

    depth = 0
    start = 0.0

    def on_start(self, event: Any) -> None:
        self.depth += 1
        if self.depth == 1:
            self.start = time.perf_counter()
            self._say(event, "")

    def on_end(self, event: Any) -> None:
        self.depth -= 1
        if not self.depth:
            self._say(event, f" {time.perf_counter() - self.start:.1f} s\n")

    def _say(self, event: Any, end: str) -> None:
        function = event.data["dispatcher"].py_func
        if function.__module__.startswith(__name__):
            print(end or f"tinyseq: compiling {function.__name__} for the numba backend ...", end="", file=sys.stderr,
                  flush=True)


event.register("numba:compile", _Progress())
