"""Recorded steps on CPU-emulated CuPy: what a repetition launches, and whose memory is whose.

See tests/test_captured.py for what they compute, and cupy_on_cpu/README.md for how to run these.
"""

import ctypes
import gc
import math
import sys
from typing import Any
from unittest.mock import patch

import cupy_on_cpu
import numpy as np
import pytest
from helpers.steps import BATCH, TIME, WORDS, Tagger, language_model

if not getattr(sys.modules.get("cupy"), "_on_cpu", False):
    pytest.skip("tests of the CuPy backend run with: PYTHONPATH=tests python -m pytest -p cupy_on_cpu.plugin",
                allow_module_level=True)

import cupy as cp
from tinyseq.backends import captured, graphs

import tinyseq as ts
import tinyseq.functional as F
from tinyseq import backends, nn, optim

CUPY = backends.load("cupy")
MODELS = {"LSTM": lambda: Tagger(nn.LSTM), "GRU": lambda: Tagger(nn.GRU), "Transformer": language_model}


@pytest.mark.parametrize("name", MODELS)
def test_a_repeated_step_is_one_launch_beside_its_numbers_and_what_it_returns(name: str) -> None:
    model = MODELS[name]()
    optimizer = optim.AdamW(model.parameters(), 0.01)

    @ts.capture
    def step(ids: Any, targets: Any) -> Any:
        loss = F.cross_entropy(model(ids), targets)
        optimizer.zero_grad()
        loss.backward()
        optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss

    ids = ts.tensor(np.random.default_rng(0).integers(0, WORDS, (BATCH, TIME)))
    for _ in range(4):
        step(ids, ids)
    for _ in range(5):
        with cupy_on_cpu.counting() as seen:
            step(ids, ids)
    assert seen.events == {"graph": 1, "launch": 2, "default": 2}  # two copies on the device: of the arguments
    assert seen.kernels == {"tinyseq_put": 1, "tinyseq_copy": 1}


def test_a_step_without_arguments_and_results_is_one_launch_and_its_numbers() -> None:
    for kind in (optim.AdamW, optim.Adafactor):
        parameter = nn.Parameter(np.ones((3, 4), np.float32))
        optimizer = kind([parameter], 0.1)

        @ts.capture
        def step(parameter: Any = parameter, optimizer: Any = optimizer) -> None:
            parameter.grad = ts.ones((3, 4))
            optimizer.step()

        for _ in range(4):
            step()
        with cupy_on_cpu.counting() as seen:
            step()
        assert seen.events == {"graph": 1, "launch": 1}, kind


def test_nobody_else_gets_the_memory_of_a_recording() -> None:
    first = nn.Linear(3, 4)
    step = ts.capture(lambda x: ts.tanh(first(x) * ts.asarray(np.array([2.0, 3, 4, 5], np.float32)) + 1).sum())
    expected = ts.tanh(first(ts.ones((2, 3))) * ts.tensor([2.0, 3, 4, 5]) + 1).sum().item()
    for _ in range(3):
        step(ts.ones((2, 3)))
    cp.get_default_memory_pool().free_all_blocks()
    gc.collect()
    litter = [cp.full(n, math.nan, np.float32) for n in (1, 2, 4, 6, 8, 12, 128, 1000) for _ in range(20)]
    assert step(ts.ones((2, 3))).item() == pytest.approx(expected)
    assert len(litter) == 160


@pytest.mark.parametrize("kind", [lambda: ts.full((3,), 2.0), lambda: cp.full(3, 2.0, np.float32)])
def test_weights_that_their_owner_forgets_are_there_for_the_recording(kind: Any) -> None:
    weight = [kind()]
    step = ts.capture(lambda x: x * weight[0] if weight else x)
    for _ in range(3):
        step(ts.ones(3))
    weight.clear()
    gc.collect()
    cp.get_default_memory_pool().free_all_blocks()
    litter = [cp.full(3, math.nan, np.float32) for _ in range(100)]
    assert step(ts.ones(3)).tolist() == [2.0] * 3
    assert len(litter) == 100


def test_no_memory_of_a_recording_is_given_back_where_there_is_none_left() -> None:
    step = ts.capture(lambda x: ts.tanh(x) @ x.T)
    for _ in range(2):
        step(ts.ones((3, 3)))
    cp.get_default_memory_pool().free_all_blocks()

    def full(*_: Any) -> Any:
        raise cp.cuda.runtime.CUDARuntimeError(2)

    with patch.object(cp.cuda, "Memory", full), pytest.raises(MemoryError, match="no room for 512 bytes more"):
        step(ts.ones((3, 3)))
    for _ in range(4):  # it begins anew
        assert step(ts.ones((3, 3))).shape == (3, 3)


def test_numbers_lie_where_no_launch_of_the_step_writes() -> None:
    def step(x: ts.Tensor, y: ts.Tensor) -> ts.Tensor:
        large = (x * 3).sum()  # of what is in memory that is free, and of their size, when the numbers ask for some
        return F.dropout(y, 0.5) + 0 * large

    again, x, found, expected = ts.capture(step), (ts.ones(2 * captured.WORDS), ts.ones(8)), [], []
    for run, seen in ((again, found), (step, expected)):
        ts.manual_seed(3)
        for _ in range(6):
            seen.append(run(*x).tolist())
    assert found == expected


def test_more_draws_than_one_launch_has_numbers_for() -> None:
    many = captured.WORDS // 2 + 5

    def step() -> ts.Tensor:
        return ts.stack([F.dropout(ts.ones(8), 0.5) for _ in range(many)])

    again, found, expected = ts.capture(step), [], []
    for run, seen in ((again, found), (step, expected)):
        ts.manual_seed(3)
        for _ in range(4):
            seen.append(run().tolist())
    assert found == expected
    with cupy_on_cpu.counting() as counted:
        again()
    assert counted.kernels["tinyseq_put"] == 2


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_many_arrays_are_joined(axis: int) -> None:
    rows = ts.tensor(np.arange(80.0, dtype="float32").reshape(20, 2, 2))
    for join in (ts.stack, ts.concat):
        again = ts.capture(lambda x, join=join: join(ts.unstack(x), axis=axis if join is ts.stack else axis % 2))
        for _ in range(4):
            found = again(rows)
        assert found.tolist() == join(ts.unstack(rows), axis=axis if join is ts.stack else axis % 2).tolist()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("shapes", [((3, 4), (4, 5)), ((2, 3, 4), (4, 5)), ((2, 3, 4), (2, 4, 1)), ((1, 7), (7, 1))])
def test_products_by_our_handle_are_cupys(dtype: str, shapes: Any) -> None:
    rng = np.random.default_rng(0)
    a, b = (ts.tensor(rng.standard_normal(shape).astype(dtype)) for shape in shapes)
    for left, right in ((a, b), (b.mT, a.mT)):
        again = ts.capture(lambda x, y: x @ y)
        for _ in range(4):
            found = again(left, right)
        assert found.tolist() == (left @ right).tolist()


def test_a_handle_says_which_call_failed() -> None:
    products = graphs.products(0, 0)
    with pytest.raises(RuntimeError, match="cublasSetWorkspace_v2 failed with status 7"):
        products._call("SetWorkspace_v2", products.handle, 3, 5)
    assert ctypes.CDLL("libcublas.so.13") is not None


def test_attention_draws_anew_and_forward_alike_backward() -> None:
    def step(x: ts.Tensor) -> Any:
        query = nn.Parameter(x.data)
        y = F.attention(query, x, x, dropout=0.5)
        return y, ts.grad(y.sum(), query)

    rng = np.random.default_rng(0)
    xs = [ts.tensor(rng.standard_normal((2, 5, 4)).astype("float32")) for _ in range(6)]
    again, found, expected = ts.capture(step), [], []
    for run, seen in ((again, found), (step, expected)):
        ts.manual_seed(3)
        for x in xs:
            y, g = run(x)
            seen.append((y.tolist(), g.tolist()))
    assert found == expected
    assert len({str(y) for y, _ in found}) == 6
