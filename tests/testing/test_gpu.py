"""`python -m tinyseq.testing.gpu`: its checks can fail, and it runs as far as a machine without a GPU lets it."""

import functools
import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tinyseq.backends.numpy import NumpyBackend

import tinyseq as ts
from tinyseq import backends
from tinyseq.testing import gpu

TESTS = Path(__file__).parents[1]


KERNELS = {name for name in dir(NumpyBackend) if name[0] != "_" and callable(getattr(NumpyBackend, name))}
KERNELS -= set("namespace asarray asnumpy synchronize upload unstack cumulative_sum copies own best_paths".split())
KERNELS -= set("lstm_gates lstm_gates_backward gru_gates gru_gates_backward layer_few".split())  # portable on a device
OP_OF = {  # where it has another name than its kernel
    "sum_pool1d": "avg_pool1d", "sum_pool1d_backward": "avg_pool1d",
    "rnn_forward": "scan", "rnn_backward": "scan", "unindex": "getitem", "dropout_mask": "dropout",
    "alignments_forward": "alignments", "chain_forward": "chain", "global_norm": "clip_grad_norm_",
    "scale": "clip_grad_norm_", "sgd_step": "SGD.step", "adam_step": "AdamW.step",
    "rmsprop_step": "RMSprop.step", "adafactor_step": "Adafactor.step", "lion_step": "Lion.step",
    "follow": "SGD.step", "round_to": "SGD.step", "clip_entries": "clip_grad_value_",
}

UPDATES = {"scale", "clip_entries", "follow", "round_to", *(kernel for kernel in OP_OF if kernel.endswith("_step"))}


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """NumPy under CuPy's name, so that the checks run anywhere; ids out of range give NaN."""

    class StandIn(NumpyBackend):
        name = "cupy"

        def embedding(self, table: Any, ids: Any) -> Any:
            known = (ids >= 0) & (ids < len(table))
            return np.where(known[..., None], table[np.where(known, ids, 0)], np.array(np.nan, dtype=table.dtype))

    class OfTheActiveBackend:
        def __getattr__(self, name: str) -> Any:
            return getattr(backends.active().xp, name)

    backends.load("numpy")  # which is put back afterwards
    backend = StandIn()
    monkeypatch.setitem(backends._loaded, "cupy", backend)
    monkeypatch.setitem(backends.namespaces, np.ndarray, OfTheActiveBackend())
    with ts.use_backend("cupy"):
        yield backend


def replace(backend: Any, kernel: str, change: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Put `change(kernel, *args)` in the place of the kernel."""
    changed = functools.partial(change, getattr(backend, kernel))
    for place in (backend, backend.xp) if hasattr(backend.xp, kernel) else (backend,):
        monkeypatch.setattr(place, kernel, changed, raising=False)


def wrong_ops() -> set[str]:
    return {name for name, problem in gpu.check_kernels([gpu.SMALL]).items() if problem}


def test_nothing_is_wrong_and_every_kernel_is_run(stand_in: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = set()
    for kernel in KERNELS:
        def seen(right: Any, *args: Any, kernel: str = kernel, **kwargs: Any) -> Any:
            run.add(kernel)
            return right(*args, **kwargs)

        replace(stand_in, kernel, seen, monkeypatch)
    assert wrong_ops() == set()
    assert run == KERNELS


@pytest.mark.parametrize("kernel", sorted(KERNELS - UPDATES))
def test_a_wrong_kernel_is_reported(kernel: str, stand_in: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(right: Any, *args: Any, **kwargs: Any) -> Any:
        result = right(*args, **kwargs)
        first, *rest = result if isinstance(result, tuple) else (result,)
        if first.dtype.kind != "i":  # of integers are places
            first = ~first if first.dtype.kind in "bu" else first * 1.01 + 0.01
        return (first, *rest) if isinstance(result, tuple) else first

    replace(stand_in, kernel, wrong, monkeypatch)
    op, found = OP_OF.get(kernel, kernel.removesuffix("_backward")), wrong_ops()
    name = f"the gradient of {op}" if kernel == "unindex" or kernel.endswith("_backward") else op
    assert {"random_raw"} <= found if kernel == "random_raw" else {f"{name} float32", f"{name} float64"} <= found
    used = ("erf", "getitem", "matmul", "mean", "sigmoid", "softmax", "unindex", "random_raw", "sum")  # by others
    assert all(op in name for name in found) or kernel in used


@pytest.mark.parametrize("kernel", sorted(UPDATES))
def test_a_wrong_update_is_reported(kernel: str, stand_in: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    replace(stand_in, kernel, lambda *args, **kwargs: None, monkeypatch)
    assert {f"{OP_OF[kernel]} float32", f"{OP_OF[kernel]} float64"} <= wrong_ops()


def test_the_large_extent_agrees_too(stand_in: Any) -> None:
    assert not any(gpu.check_kernels([gpu.LARGE]).values())


def test_the_large_extent_leaves_each_path_of_one_warp_block_or_launch() -> None:
    pytest.importorskip("cupy")
    from tinyseq.backends.cupy import BLOCK, MANY

    rows, columns, ids, arrays, batch = gpu.LARGE
    assert rows // 4 >= 32 and rows > 128  # warps of a row along either axis; stretches of layer norm
    assert rows * columns > 256 * BLOCK and arrays > MANY  # an optimizer's blocks come round, and launches
    assert ids[0] * ids[1] > 1024 and batch * 40 > 2 * BLOCK  # tiles of ids; blocks of a recurrent step


def test_ids_out_of_range_and_sums_in_float16_are_reported(stand_in: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (gpu.beyond(stand_in), gpu.half_product(stand_in)) == ("", "")
    monkeypatch.setattr(stand_in, "embedding", lambda table, ids: table[ids % len(table)])
    assert "expected nan" in gpu.beyond(stand_in)

    def summed_in_float16(a: Any, b: Any) -> Any:
        return np.add.accumulate(a[:, None] * b.T, axis=-1, dtype=np.float16)[..., -1]

    monkeypatch.setattr(stand_in.xp, "matmul", summed_in_float16)
    assert "largest difference" in gpu.half_product(stand_in)


def test_models_are_checked_in_step(stand_in: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gpu.check_models() == dict.fromkeys(gpu.MODELS, "")
    right = stand_in.layer_norm_backward
    wrong = lambda *args: [part * 1.001 for part in right(*args)]
    monkeypatch.setattr(stand_in, "layer_norm_backward", wrong, raising=False)
    problems = gpu.check_models()
    assert "the gradient of layer_norm(float32[4, 6, 16]" in problems["Transformer"] and not problems["LSTM"]


def test_time_is_a_median_of_blocks_after_warming_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now, calls, waits = [0.0], [0], [0]

    def step() -> None:
        calls[0] += 1
        now[0] += 5.0 if calls[0] <= 3 or calls[0] == 10 else 0.04  # slow while it warms up, and once by chance

    monkeypatch.setattr(gpu.time, "perf_counter", lambda: now[0])
    found = gpu.milliseconds(step, lambda: waits.__setitem__(0, waits[0] + 1))
    assert found == pytest.approx(40)
    assert (calls[0], waits[0]) == (3 + 1 + 7 * 3, 1 + 1 + 7)


def test_the_table_has_a_row_a_model_and_size(stand_in: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "milliseconds", lambda step, wait: float(step().item() > 0))
    rows = gpu.table(None, stand_in.synchronize, [(8, 2), (4, 3)])[3:]
    assert len(rows) == 1 + 4 * 2
    assert rows[-1] == "| Transformer | 4 | 3 | 1.00 | nan | nan |"


@pytest.mark.reference
@pytest.mark.parametrize("kind", gpu.MODELS)
def test_pytorch_gets_the_same_work(kind: str) -> None:
    import torch

    steps = (gpu.training(kind, ts.random.normal((3, gpu.TIME, 8)), ts.nn, ts.optim),
             gpu.training(kind, torch.randn(3, gpu.TIME, 8), torch.nn, torch.optim))
    first, again = ([step().item() for step in steps] for _ in range(2))
    assert again[0] < first[0] and again[1] < first[1]
    ours, theirs = (inspect.getclosurevars(step).nonlocals["optimizer"] for step in steps)
    shapes = sorted(tuple(p.shape) for group in theirs.param_groups for p in group["params"])
    assert sorted(p.shape for p in ours.parameters) == shapes


def test_without_a_gpu_it_says_what_is_wrong(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "tinyseq.testing.gpu", "--quick"], capture_output=True, text=True,
                          cwd=tmp_path, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 1
    assert "\n    " in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_report_of_emulated_cupy(tmp_path: Path) -> None:
    sys.path.insert(0, str(TESTS))
    import cupy_on_cpu

    sys.path.remove(str(TESTS))
    if cupy_on_cpu.missing():
        pytest.skip(str(cupy_on_cpu.missing()))
    (tmp_path / "script.py").write_text("from tinyseq.testing import gpu\nraise SystemExit(gpu.main(['--quick']))\n")
    done = subprocess.run([sys.executable, "-m", "cupy_on_cpu", "script.py"], capture_output=True, text=True,
                          cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(TESTS)})
    assert done.returncode == 0, done.stdout + done.stderr
    text = (tmp_path / "tinyseq-gpu-report.md").read_text()
    assert text.startswith("# tinyseq on CPU-emulated CuPy\n")
    assert "4 of 4 agree" in text and "whose times mean nothing" in text and "| LSTM |" not in text
