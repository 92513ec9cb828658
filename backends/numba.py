"""The Numba backend: NumPy's arrays and its portable code, with the kernels that matter compiled by Numba.

Needs Numba: pip install 'tinyseq[fast]'. A kernel is compiled at its first call, a line on standard error says so, and
kept on disk for the next process (in __pycache__ beside the kernel's file, or where NUMBA_CACHE_DIR says).
"""

try:
    import numba as _numba  # noqa: F401
except ImportError as error:
    raise ImportError(f"the numba backend needs Numba, which does not load here ({error}): pip install 'tinyseq[fast]'"
                      ) from error

from tinyseq.backends.compiled.activations import CompiledActivations
from tinyseq.backends.compiled.cells import CompiledCells
from tinyseq.backends.compiled.layers import CompiledLayers
from tinyseq.backends.compiled.linear import CompiledLinear
from tinyseq.backends.compiled.losses import CompiledLosses
from tinyseq.backends.compiled.normalisation import CompiledNormalisation
from tinyseq.backends.compiled.optim import CompiledOptim
from tinyseq.backends.compiled.paths import CompiledPaths
from tinyseq.backends.compiled.products import CompiledProducts, share_products
from tinyseq.backends.compiled.recurrent import CompiledRecurrence
from tinyseq.backends.compiled.steps import CompiledSteps
from tinyseq.backends.numpy import NumpyBackend


class NumbaBackend(CompiledActivations, CompiledCells, CompiledLayers, CompiledLinear, CompiledLosses,
                   CompiledNormalisation, CompiledOptim, CompiledPaths, CompiledProducts, CompiledRecurrence,
                   CompiledSteps, NumpyBackend):
    """NumPy arrays; kernels of float32 and float64 compiled, of float16 the portable ones."""

    name = "numba"

    def __init__(self) -> None:
        super().__init__()
        share_products()
