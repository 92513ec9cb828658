"""What goes to NCCL and what does not; the calls themselves: tests/backends/test_nccl.py."""

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tinyseq as ts
from tinyseq.distributed import over_nccl


class Device:
    """A stand-in for an array of a GPU."""


def test_nccl_sums_what_is_on_a_gpu_and_leaves_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    world = ts.distributed.World()
    world.size = 2
    world.broadcast = lambda value: calls.append(("broadcast", value)) or value     # type: ignore[method-assign]
    communicator = SimpleNamespace(sum=lambda array: calls.append(("sum", array)) or "event",
                                   wait=lambda event: calls.append(("wait", event)))
    made = SimpleNamespace(unique_id=lambda: "id", Communicator=lambda *given: calls.append(given) or communicator)
    bus = iter(["19", "3b", "19", "19"])
    made.gpu = lambda: next(bus)
    world.gather = lambda value: [value, f"{next(bus)} of {value.split()[-1]}"]         # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, "tinyseq.backends.nccl", made)
    monkeypatch.setattr(over_nccl.backends, "load", lambda name: None)
    gpus = ts.distributed.nccl(world)
    assert isinstance(gpus, over_nccl.NCCLWorld) and (gpus.rank, gpus.size, gpus.on_device) == (0, 2, True)
    assert calls == [("broadcast", "id"), (2, "id", 0)]
    device = Device()
    monkeypatch.setattr(over_nccl.backends, "on_host", lambda array: not isinstance(array, Device))
    exchange = gpus.start(device)
    assert exchange.array is device and gpus.test(exchange)
    gpus.wait(exchange)
    host = np.ones(2)
    assert gpus.start(host).array is host and gpus.test(gpus.start(host))
    gpus.wait(gpus.start(host))
    with pytest.raises(RuntimeError, match=r"ranks \[0, 1\] share GPUs \(19 of .*call distributed.mpi\(\) before"):
        ts.distributed.nccl(world)
    assert calls[2:] == [("sum", device), ("wait", "event")]


def test_nccl_alone_has_nothing_to_do() -> None:
    world = ts.distributed.World()
    assert ts.distributed.nccl(world) is world
    with pytest.raises(TypeError, match=r"expected the world of ts.distributed.mpi\(\), got"):
        ts.distributed.nccl(2)      # type: ignore[arg-type]
