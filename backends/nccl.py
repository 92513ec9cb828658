"""Sums over the GPUs of several processes, by NVIDIA's NCCL through CuPy's own bindings.

Checked down to the call only, with a stand-in for the bindings that records it: no machine of several GPUs was there.
"""

from __future__ import annotations

import warnings
from typing import Any

import cupy as cp

Array = Any


def binding() -> Any:
    """`cupy.cuda.nccl`; an ImportError where it finds no library, which else is a warning."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        from cupy.cuda import nccl
    if not nccl.available:
        reason = " ".join(str(warning.message) for warning in said).split() or ["no libnccl was found"]
        raise ImportError(f"distributed.nccl: CuPy cannot use NCCL here: {' '.join(reason)}")
    return nccl


def unique_id() -> Any:
    """What one rank makes and all need to find each other: to be sent by other means."""
    return binding().get_unique_id()


def gpu() -> str:
    """Which GPU of its machine this process uses, whatever number it has here."""
    return str(cp.cuda.Device().pci_bus_id)


class Communicator:
    """This process's GPU among those of all."""

    def __init__(self, size: int, unique: Any, rank: int) -> None:
        self.nccl = binding()
        self.communicator = self.nccl.NcclCommunicator(size, unique, rank)
        self.stream = cp.cuda.Stream(non_blocking=True)  # so that sums go on beside the work that comes after

    def sum(self, array: Array) -> Any:
        """Begin to sum an array in place, once it is computed. Hold it until `wait` for what this returns."""
        if not array.flags.c_contiguous:  # of Fortran order NCCL would sum what lies where
            raise ValueError(f"NCCL sums what lies in memory: expected a C-contiguous array, got shape {array.shape}, "
                             f"strides {array.strides}")
        kinds = {"f": self.nccl.NCCL_FLOAT32, "d": self.nccl.NCCL_FLOAT64}
        self.stream.wait_event(cp.cuda.get_current_stream().record())
        self.communicator.allReduce(array.data.ptr, array.data.ptr, array.size, kinds[array.dtype.char],
                                    self.nccl.NCCL_SUM, self.stream.ptr)
        return self.stream.record()

    def wait(self, event: Any) -> None:
        """Let what the current stream does from here on wait for that sum."""
        cp.cuda.get_current_stream().wait_event(event)
