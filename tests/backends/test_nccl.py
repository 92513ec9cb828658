"""NCCL down to the call: what the bindings are told, by a stand-in that records it. No machine here has two GPUs."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

cp = pytest.importorskip("cupy", reason="cupy is not installed")

from tinyseq.backends import nccl  # noqa: E402


class Recorded:
    """cupy.cuda.nccl, and streams and devices, that write down what they are told."""

    NCCL_FLOAT32, NCCL_FLOAT64, NCCL_SUM = 7, 8, 0

    def __init__(self) -> None:
        self.said: list[Any] = []

    def NcclCommunicator(self, *given: Any) -> Any:
        self.said.append(("communicator", *given))
        return SimpleNamespace(allReduce=lambda *told: self.said.append(("allReduce", *told)))

    def stream(self, name: str) -> Any:
        return SimpleNamespace(ptr=f"{name}.ptr", record=lambda: self.said.append((name, "record")) or f"{name}.event",
                               wait_event=lambda event: self.said.append((name, "waits for", event)))


def array(values: Any) -> Any:
    """What the communicator looks at of an array of CuPy."""
    return SimpleNamespace(data=SimpleNamespace(ptr="array.ptr"), size=values.size, dtype=values.dtype,
                           flags=values.flags, shape=values.shape, strides=values.strides)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    own = Recorded()
    monkeypatch.setattr(nccl, "binding", lambda: own)
    cuda = SimpleNamespace(
        Device=lambda: SimpleNamespace(pci_bus_id="0000:19:00.0"),
        Stream=lambda non_blocking: own.stream("sums"), get_current_stream=lambda: own.stream("work"))
    monkeypatch.setattr(nccl, "cp", SimpleNamespace(cuda=cuda))
    return own


@pytest.mark.parametrize(("dtype", "code"), [(np.float32, 7), (np.float64, 8)])
def test_a_sum_runs_in_place_after_what_made_the_array_and_before_what_uses_it(recorded: Recorded, dtype: Any,
                                                                              code: int) -> None:
    communicator = nccl.Communicator(8, "id", 6)
    assert recorded.said == [("communicator", 8, "id", 6)]
    recorded.said = []
    event = communicator.sum(array(np.zeros(6, dtype)))
    assert recorded.said == [
        ("work", "record"), ("sums", "waits for", "work.event"),
        ("allReduce", "array.ptr", "array.ptr", 6, code, 0, "sums.ptr"), ("sums", "record")]
    recorded.said = []
    communicator.wait(event)
    assert recorded.said == [("work", "waits for", "sums.event")]


@pytest.mark.parametrize("values", [np.zeros((2, 3), np.float32).T, np.zeros(6, np.float32)[::2]])
def test_arrays_that_lie_otherwise_are_refused(recorded: Recorded, values: Any) -> None:
    communicator = nccl.Communicator(2, "id", 0)
    with pytest.raises(ValueError, match="expected a C-contiguous array"):
        communicator.sum(array(values))


def test_without_the_library_the_error_says_what_to_install() -> None:
    try:
        nccl.binding()
    except ImportError as error:
        assert str(error).startswith("distributed.nccl: CuPy cannot use NCCL here: ")
        assert "nvidia-nccl" in str(error) or "no libnccl" in str(error)
    else:
        assert nccl.unique_id()
