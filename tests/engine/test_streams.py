"""Random streams: whose numbers a draw takes, and that nobody else changes them."""

import asyncio
import copy
import itertools
import os
import pickle
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.interrupts import Interrupt, in_threads
from hypothesis import given
from hypothesis import strategies as st
from tinyseq.random import Generator

import tinyseq as ts
from tinyseq import checkpoint, data, decode, functional, nn, optim, random
from tinyseq.nn import init

THOROUGH = os.environ.get("TINYSEQ_TEST_PROFILE") == "thorough"
seeds = st.integers(0, 2**64 - 1)


def in_a_thread(fn: Callable[[], Any], name: str | None = None) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(fn()), name=name, daemon=True)
    thread.start()
    thread.join(60)
    return found[0]


def draw() -> list[float]:
    """Some numbers, from two streams."""
    return [*random.normal(2).tolist(), *random.uniform(2).tolist()]


class Model:
    """Logits of three tokens that are about as likely, whatever came before."""

    def step(self, tokens: Any, state: Any) -> Any:
        return ts.zeros((len(tokens), 3)), state


def sampled(**more: Any) -> Any:
    return [h.tokens for h in decode.sample(Model(), ts.zeros((4, 1)), 0, -1, 5, **more)]


ONES = ts.ones((8, 8))
DRAWS: dict[str, Callable[..., Any]] = {
    "normal": lambda **by: random.normal((3, 2), **by),
    "uniform": lambda **by: random.uniform((3, 2), **by),
    "integers": lambda **by: random.integers((3, 2), 0, 1000, **by),
    "permutation": lambda **by: random.permutation(20, **by),
    "bernoulli": lambda **by: random.bernoulli(0.5, (8, 8), **by),
    "categorical": lambda **by: random.categorical(ONES / 8, **by),
    "dropout": lambda **by: functional.dropout(ONES, 0.5, **by),
    "attention": lambda **by: functional.attention(ONES, ONES, ts.eye(8), dropout=0.5, **by),
    "sample": sampled,
    "stream": lambda **by: [s.tokens for s in decode.stream(Model(), ts.zeros((4, 1)), 0, -1, 9, 1.0, **by)],
    "batches": lambda **by: data.batches([3] * 40, 4, **by) if by else data.batches([3] * 40, 4,
                                                                                    generator=random.current()),
    "recurrent_": lambda **by: init.recurrent_(GRU, **by).weight_ih_l0,
    **{name: lambda name=name, **by: getattr(init, name)(ts.zeros((8, 8)), **by) for name in (
        "uniform_", "normal_", "xavier_uniform_", "xavier_normal_", "kaiming_uniform_", "kaiming_normal_",
        "orthogonal_")},
}
GRU = nn.GRU(3, 4)


def numbers(x: Any) -> Any:
    return [np.array(part.detach().numpy() if isinstance(part, ts.Tensor) else part)
            for part in (x if isinstance(x, list) else [x])]


@pytest.mark.parametrize("name", DRAWS)
def test_whatever_draws_takes_a_generator_or_the_blocks_or_the_threads_own(name: str) -> None:
    make, g = DRAWS[name], Generator(7)
    ts.manual_seed(7)
    usual = [numbers(make()), numbers(make()), random.get_state()]
    ts.manual_seed(5)
    passed = [numbers(make(generator=g)), numbers(make(generator=g)), g.get_state()]
    g.set_state((7, 0))
    with g:
        inside = [numbers(make()), numbers(make()), random.get_state()]
    assert random.get_state() == (5, 0)
    for found in (passed, inside):
        np.testing.assert_equal(found, usual)
    assert str(usual[0]) != str(usual[1])
    for wrong in (7, np.random.default_rng(7)):
        with pytest.raises(TypeError, match=r"expected generator to be (a )?tinyseq\.random\.Generator.*, got "):
            make(generator=wrong)


@given(seeds, st.integers(0, 2**64 - 1))
def test_the_numbers_are_numpys_philox(seed: int, stream: int) -> None:
    rng = np.random.Generator(np.random.Philox(key=seed, counter=stream << 128))
    g = Generator(seed)
    g.set_state([np.uint64(seed), stream])  # type: ignore[list-item]
    assert repr(g) == f"Generator(seed={seed}, stream={stream})"
    np.testing.assert_array_equal(random.normal(3, dtype="float64", generator=g).numpy(), rng.standard_normal(3))


def test_a_generators_state_goes_through_a_checkpoint(tmp_path: Path) -> None:
    g = Generator(2**64 - 1)
    random.normal(1, generator=g)
    checkpoint.save(tmp_path / "run.safetensors", {"random": g.get_state()})
    wanted = random.normal(3, generator=g).tolist()
    again = Generator(0)
    again.set_state(checkpoint.load(tmp_path / "run.safetensors")["random"])
    assert random.normal(3, generator=again).tolist() == wanted
    for twin in (copy.deepcopy(again), pickle.loads(pickle.dumps(again))):
        assert twin is not again and twin.get_state() == again.get_state()


WRONG_STATES = [(1, 2, 3), (1,), 5, "12", None, (1.5, 0), (-1, 0), (0, -1), (2**64, 0), (0, 2**64), (True, 0), ("a", 0)]


@pytest.mark.parametrize("state", WRONG_STATES)
def test_wrong_states_are_refused_and_nothing_changes(state: Any) -> None:
    g, before = Generator(3), random.get_state()
    for set_state in (random.set_state, g.set_state):
        with pytest.raises((TypeError, ValueError), match=r"set_state: expected .*(seed|stream).*, got "):
            set_state(state)
    assert random.get_state() == before and g.get_state() == (3, 0)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.5, "3", None, True, np.float64(3)])
def test_wrong_seeds_are_refused(seed: Any) -> None:
    for name, make in (("manual_seed", ts.manual_seed), ("Generator", Generator)):
        message = rf"{name}: expected an integer 0 <= seed <= {2**64 - 1}, got "
        with pytest.raises((TypeError, ValueError), match=message):
            make(seed)


def test_seeds_may_be_numpys() -> None:
    ts.manual_seed(np.int64(3))  # type: ignore[arg-type]
    assert random.get_state() == (3, 0) and type(random.get_state()[0]) is int


def test_threads_draw_what_the_main_thread_decides_and_none_alike() -> None:
    found = []
    for _ in range(2):
        ts.manual_seed(4)
        found.append([draw(), in_a_thread(draw, "a"), in_a_thread(draw, "b"), draw(), in_a_thread(draw, "a")])
    assert found[0] == found[1]
    assert len({x for numbers in found[0] for x in numbers}) == 5 * 4
    ts.manual_seed(5)
    assert in_a_thread(draw, "a") != found[0][1]
    random.set_state((4, 0))
    assert in_a_thread(draw, "a") == found[0][1]


def test_manual_seed_in_a_thread_is_that_threads_own() -> None:
    def seeded() -> Any:
        ts.manual_seed(6)
        assert random.get_state() == (6, 0)
        return draw()

    ts.manual_seed(4)
    assert in_a_thread(seeded) == in_a_thread(seeded)
    assert random.get_state() == (4, 0)
    ts.manual_seed(6)
    assert draw() == in_a_thread(seeded)


def test_threads_that_share_a_generator_never_draw_alike() -> None:
    g, found = Generator(0), list[tuple[int, int]]()
    in_threads(*[lambda: found.extend([random.next_stream(g) for _ in range(50)])] * 4, switch_in="_next")
    assert len(set(found)) == 200 and g.get_state() == (0, 200)


def test_asyncio_tasks_may_each_have_a_generator() -> None:
    async def task(seed: int) -> Any:
        with Generator(seed):
            found = []
            for _ in range(3):
                found += draw()
                await asyncio.sleep(0)
        return found

    async def all_at_once() -> Any:
        return await asyncio.gather(*map(task, range(3)))

    assert asyncio.run(all_at_once()) == [asyncio.run(task(seed)) for seed in range(3)]


def training(seed: int, steps: int = 5) -> list[Any]:
    """The weights after a few steps, all chance in which begins with `seed`."""
    ts.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.TransformerEncoderLayer(8, 2, 8, 0.2), nn.Linear(8, 1))
    optimizer, x = optim.Adam(model.parameters()), random.normal((2, 3, 4))
    for _ in range(steps):
        optimizer.zero_grad()
        ts.recompute(lambda x: functional.mse_loss(model(x), ts.zeros((2, 3, 1))), x).backward()
        optimizer.step()
    return [p.detach().numpy() for p in model.parameters()]


def test_trainings_in_threads_are_those_that_run_alone() -> None:
    many, usual = 64 if THOROUGH else 8, sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(training, range(many)))
    finally:
        sys.setswitchinterval(usual)
    for seed in range(many):
        np.testing.assert_equal(found[seed], training(seed))


@pytest.mark.parametrize("create_graph", [False, True])
def test_recompute_draws_again_what_any_generator_gave(create_graph: bool) -> None:
    g, inner = Generator(1), Generator(2)

    def noisy(x: Any) -> Any:
        x = functional.dropout(x, 0.5, generator=g) * random.normal(64)
        with inner:
            return functional.dropout(x, 0.5) * x

    slopes = []
    for run in (lambda fn, x: fn(x), ts.recompute):
        for one, seed in ((g, 1), (inner, 2), (random, 3)):
            one.set_state((seed, 0))
        x = ts.ones(64, requires_grad=True)
        y = run(noisy, x).sum()
        states = [one.get_state() for one in (g, inner, random)]
        slopes.append(ts.grad(y, x, create_graph=create_graph).detach().numpy())
        assert [one.get_state() for one in (g, inner, random)] == states == [(1, 1), (2, 1), (3, 1)]
    np.testing.assert_array_equal(*slopes)


def test_an_interrupt_at_any_line_of_a_draw_locks_nothing() -> None:
    def draws() -> None:
        random.manual_seed(1)
        functional.dropout(ONES, generator=Generator(3))
        random.get_state()

    for n in itertools.count():
        ended = Interrupt(n).run(draws)
        assert in_a_thread(lambda: random.next_stream(Generator(5))) == (5, 0)  # would wait for ever
        if ended:
            break
    assert n > 20
