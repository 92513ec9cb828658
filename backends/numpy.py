"""The NumPy backend: a namespace of array functions, and by inheritance the hand-written kernels of each theme.

Most kernels are a pair of methods, forward and backward, on raw arrays: forward returns the result and what
backward needs, backward turns the gradient of the result (called `g`) into gradients of the inputs.
All but sums.py is written on `self.xp`, so a backend whose library looks like NumPy inherits it and overrides
what it has faster; sums.py is NumPy's own, to be overridden.

Rules that every kernel keeps: it never writes to its inputs (but an optimizer's step, which is made to), keeps
their dtype, takes arrays of any strides and of size zero, and gives no NaN and no warning for entries of -inf or
+-1e4. Large elementwise work runs in pieces of `self.block` elements, so that the chain of small steps stays in the
processor's cache.
"""

import operator
from types import ModuleType
from typing import Any

import numpy as np
from tinyseq.backends.activations import ActivationKernels
from tinyseq.backends.attention import AttentionKernels
from tinyseq.backends.layers import LayerKernels
from tinyseq.backends.linear import LinearKernels
from tinyseq.backends.losses import LossKernels
from tinyseq.backends.memory import keep_memory
from tinyseq.backends.normalisation import NormalisationKernels
from tinyseq.backends.optim import OptimKernels
from tinyseq.backends.paths import PathKernels
from tinyseq.backends.recurrent import RecurrentKernels
from tinyseq.backends.steps import StepKernels
from tinyseq.backends.sums import SumKernels
from tinyseq.backends.threads import ProductKernels, settle

Array = Any


class NumpyBackend(ActivationKernels, NormalisationKernels, LossKernels, LayerKernels, OptimKernels, AttentionKernels,
                   LinearKernels, PathKernels, ProductKernels, RecurrentKernels, StepKernels, SumKernels):
    """NumPy arrays, and the portable version of every kernel."""

    name = "numpy"
    array_types: tuple[type, ...] = (np.ndarray, np.generic)  # arrays, and what NumPy makes of 0-d ones

    def __init__(self) -> None:
        keep_memory()
        settle()
        self.xp = self.namespace(np)

    def namespace(self, library: ModuleType) -> ModuleType:
        """`library` under Array API 2024.12 names: a new module with its functions and those that it
        lacks."""
        xp = ModuleType(f"tinyseq.backends.{self.name}.xp", "Array functions under Array API names.")
        public = {k: v for k, v in vars(library).items() if not k.startswith("__") or k == "__getattr__"}
        ours = (self.sum, self.mean, self.cumulative_sum, self.erf, self.sigmoid, self.getitem, self.unindex,
                self.matmul)
        new = {"unstack": self.unstack, "cumulative_prod": library.cumprod}  # NumPy's own are new in 2.1
        vars(xp).update(new | public | {f.__name__: f for f in ours})
        return xp

    # ---- arrays in and out

    def asarray(self, data: Any, dtype: Any = None, copy: bool | None = None) -> Array:
        """`data` (numbers, nested lists, a NumPy array) as an array of this backend."""
        return self.xp.asarray(data, dtype=dtype, copy=copy)

    def upload(self, array: np.ndarray[Any, Any]) -> Array:
        """`array` as one of this backend, ready when this returns: for a thread that does nothing else."""
        return self.asarray(array)

    def asnumpy(self, array: Array) -> np.ndarray[Any, Any]:
        """`array` as a NumPy array in host memory."""
        return np.asarray(array)

    def synchronize(self) -> None:
        """Wait until all work handed to the device is done: here it always is."""

    # ---- functions that the library lacks

    def unstack(self, x: Array, /, *, axis: int = 0) -> tuple[Array, ...]:
        return tuple(self.xp.moveaxis(x, axis, 0))

    getitem = staticmethod(operator.getitem)
