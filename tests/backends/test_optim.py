"""Optimizer steps against their equations, and PyTorch."""

import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers.kernels import BACKENDS, backends, close, dtypes, seeds
from hypothesis import given
from hypothesis import strategies as st
from tinyseq.backends import pool
from tinyseq.backends.numpy import NumpyBackend


def tensors(rng: np.random.Generator, dtype: Any = np.float64, turned: bool = True) -> list[np.ndarray]:
    """Arrays as parameters may be: matrices, vectors, one number, none, and, if `turned`, a transposed one."""
    arrays = [rng.standard_normal(shape).astype(dtype) for shape in ((4, 5), (9,), (), (0, 3), (2, 3, 4))]
    return [*arrays, *[rng.standard_normal((3, 4)).astype(dtype).T] * turned]


@backends
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(momentum=st.sampled_from([0.0, 0.9]), nesterov=st.booleans(), decay=st.sampled_from([0.0, 0.1]),
       turned=st.booleans(), seed=seeds)
def test_sgd_step(backend: NumpyBackend, dtype: Any, momentum: float, nesterov: bool, decay: float,
                  turned: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    params = tensors(rng, dtype, turned)
    buffers = [np.zeros_like(p) for p in params] if momentum else []
    expected = [p.astype(np.float64) for p in params]
    running: list[Any] = [None] * len(params)
    for step in range(3):
        grads = tensors(rng, dtype, turned)
        before = [g.copy() for g in grads]
        backend.sgd_step(params, grads, buffers, 0.1, momentum, nesterov, decay)
        assert all(map(np.array_equal, grads, before))
        for k, g in enumerate(grads):
            d = g + decay * expected[k]
            if momentum:
                running[k] = d if step == 0 else momentum * running[k] + d
                d = d + momentum * running[k] if nesterov else running[k]
            expected[k] = expected[k] - 0.1 * d
    for p, e in zip(params, expected, strict=True):
        close(p, e, dtype)


@backends
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(decay=st.sampled_from([0.0, 0.1]), decoupled=st.booleans(), turned=st.booleans(), seed=seeds)
def test_adam_step(backend: NumpyBackend, dtype: Any, decay: float, decoupled: bool, turned: bool,
                   seed: int) -> None:
    rng = np.random.default_rng(seed)
    params = tensors(rng, dtype, turned)
    m, v = ([np.zeros_like(p) for p in params] for _ in range(2))
    expected = [p.astype(np.float64) for p in params]
    mean, square = ([np.zeros(p.shape) for p in params] for _ in range(2))
    for step in range(1, 4):
        grads = tensors(rng, dtype, turned)
        before = [g.copy() for g in grads]
        backend.adam_step(params, grads, m, v, step, 0.1, 0.8, 0.95, 1e-4, decay, decoupled)
        assert all(map(np.array_equal, grads, before))
        for k, g in enumerate(grads):
            if decoupled:
                expected[k] = expected[k] * (1 - 0.1 * decay)
            d = g + (0 if decoupled else decay) * expected[k]
            mean[k] = 0.8 * mean[k] + 0.2 * d
            square[k] = 0.95 * square[k] + 0.05 * d * d
            hat = np.sqrt(square[k] / (1 - 0.95**step)) + 1e-4
            expected[k] = expected[k] - 0.1 * mean[k] / (1 - 0.8**step) / hat
    for p, e in zip(params, expected, strict=True):
        close(p, e, dtype)


@backends
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(decay=st.sampled_from([0.0, 0.1]), momentum=st.sampled_from([0.0, 0.9]), centered=st.booleans(),
       turned=st.booleans(), seed=seeds)
def test_rmsprop_step(backend: NumpyBackend, dtype: Any, decay: float, momentum: float, centered: bool,
                      turned: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    params = tensors(rng, dtype, turned)
    s, m, b = ([np.zeros_like(p) for p in params] for _ in range(3))
    expected = [p.astype(np.float64) for p in params]
    square, mean, buffer = ([np.zeros(p.shape) for p in params] for _ in range(3))
    for _ in range(3):
        grads = tensors(rng, dtype, turned)
        before = [g.copy() for g in grads]
        backend.rmsprop_step(params, grads, s, m if centered else [], b if momentum else [], 0.1, 0.8, 1e-2, decay,
                             momentum)
        assert all(map(np.array_equal, grads, before))
        for k, g in enumerate(grads):
            d = g + decay * expected[k]
            square[k] = 0.8 * square[k] + 0.2 * d * d
            mean[k] = 0.8 * mean[k] + 0.2 * d
            u = d / (np.sqrt(square[k] - (mean[k] ** 2 if centered else 0)) + 1e-2)
            buffer[k] = momentum * buffer[k] + u
            expected[k] = expected[k] - 0.1 * buffer[k]
    for p, e in zip(params, expected, strict=True):
        close(p, e, dtype)


@backends
@given(decay=st.sampled_from([0.0, 0.1]), turned=st.booleans(), seed=seeds)
def test_lion_step(backend: NumpyBackend, decay: float, turned: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    params = tensors(rng, turned=turned)
    m, expected, mean = [np.zeros_like(p) for p in params], [p.copy() for p in params], [0 * p for p in params]
    for _ in range(3):
        grads = tensors(rng, turned=turned)
        backend.lion_step(params, grads, m, 0.1, 0.8, 0.95, decay)
        for k, g in enumerate(grads):
            expected[k] = expected[k] - 0.1 * (np.sign(0.8 * mean[k] + 0.2 * g) + decay * expected[k])
            mean[k] = 0.95 * mean[k] + 0.05 * g
    for p, e in zip(params, expected, strict=True):
        close(p, e)


def test_masters_follow_what_others_wrote_and_halves_are_rounded() -> None:
    masters = [np.array([1.0001, 2.0, 70000.0], np.float32), np.asarray(np.float32(1e-9))]
    halves = [np.array([1, 5, np.inf], np.float16), np.asarray(np.float16(0))]
    with np.errstate(over="ignore"):
        BACKENDS[0].follow(masters, halves)
        assert masters[0].tolist() == [np.float32(1.0001), 5, 70000] and masters[1] == np.float32(1e-9)
        masters[0] += 1
        BACKENDS[0].round_to(halves, masters)
    assert halves[0].dtype == np.float16 and halves[0].tolist() == [2, 6, np.inf]


@pytest.mark.reference
@pytest.mark.parametrize("name, options", [
    ("SGD", {}), ("SGD", {"momentum": 0.9, "weight_decay": 0.1}),
    ("SGD", {"momentum": 0.9, "nesterov": True}), ("Adam", {"weight_decay": 0.1}),
    ("AdamW", {"weight_decay": 0.1})])
def test_optimizer_steps_are_torchs(name: str, options: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    params = tensors(rng)
    states = [[np.zeros_like(p) for p in params] for _ in range(2)]
    leaves = [torch.tensor(p.copy(), requires_grad=True) for p in params]
    optimizer = getattr(torch.optim, name)(leaves, lr=0.01, **options)
    for step in range(1, 5):
        grads = tensors(rng)
        for leaf, g in zip(leaves, grads, strict=True):
            leaf.grad = torch.tensor(g.copy())
        optimizer.step()
        if name == "SGD":
            BACKENDS[1].sgd_step(params, grads, states[0], 0.01, **options)
        else:
            BACKENDS[1].adam_step(params, grads, *states, step, 0.01, decoupled=name == "AdamW", **options)
    for p, leaf in zip(params, leaves, strict=True):
        close(p, leaf.detach().numpy())


@given(dtypes, seeds)
def test_global_norm_and_scale(dtype: Any, seed: int) -> None:
    grads = tensors(np.random.default_rng(seed), dtype)
    norm = BACKENDS[0].global_norm(grads)
    close(norm, np.linalg.norm(np.concatenate([g.ravel() for g in grads])), dtype)
    before = [g.copy() for g in grads]
    BACKENDS[0].scale(grads, np.float64(0.5))
    for g, b in zip(grads, before, strict=True):
        close(g, b * 0.5, dtype)


@pytest.mark.parametrize("backend", BACKENDS[:1] + BACKENDS[2:])  # but that of tiny pieces
@pytest.mark.parametrize("threads", [1, 3])
def test_large_arrays_are_stepped_in_stretches_without_large_memory(backend: NumpyBackend, threads: int,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    """Every entry once, whoever steps it; after a first step no memory of their size is taken."""
    monkeypatch.setattr(pool, "get_num_threads", lambda: threads)
    monkeypatch.setattr(pool, "LEAST", 1 << 10)
    p, g, m, v, s = (np.full((5, 400_000), value, np.float32) for value in (1, 0.5, 0, 0, 0))

    def step(k: int) -> None:
        backend.sgd_step([p], [g], [m], 0.1, 0.9)
        backend.adam_step([p], [g], [m], [v], k, 0.1, weight_decay=0.1, decoupled=True)
        backend.rmsprop_step([p], [g], [s], [], [], 0.1)
        backend.lion_step([p], [g], [m], 0.1)

    step(1)
    tracemalloc.start()
    try:
        step(2)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < p.nbytes / 2
    assert all((a == a[0, 0]).all() for a in (p, m, v, s))


def test_an_array_is_owned_as_it_is_where_nobody_else_can_see_its_memory() -> None:
    backend, held, whole = BACKENDS[0], np.ones(3), np.ones(6)
    fresh: list[Callable[[], Any]] = [lambda: np.ones(3), lambda: np.ones((2, 3)).T, lambda: np.ones(6).reshape(2, 3)]
    for make in fresh:
        arrays = [make()]
        address = arrays[0].ctypes.data
        assert backend.own(arrays)[0].ctypes.data == address
    shared: list[Callable[[], Any]] = [
        lambda: held, lambda: held[:], lambda: whole.reshape(2, 3), lambda: np.ones(6)[:3], lambda: np.float32(1),
        lambda: np.broadcast_to(np.ones(1), (1,)), lambda: np.frombuffer(bytearray(8)),
        lambda: np.broadcast_to(np.ones(3), (2, 3)), lambda: np.ones((2, 3))[:, ::2]]
    for make in shared:
        arrays = [make()]
        before = np.array(arrays[0])
        (y,) = backend.own(list(arrays))
        assert not np.shares_memory(y, arrays[0]) and y.flags.writeable
        assert np.array_equal(y, before) and y.dtype == before.dtype
    twice = [np.ones(3)] * 2
    a, b = backend.own(twice)
    assert not np.shares_memory(a, b)
