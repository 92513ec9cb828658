"""Where a step spends its time: times add up, ops and modules are named, a trace is nested. No time is asserted."""

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinyseq as ts
from tinyseq import nn, optim
from tinyseq.engine.autograd import watching
from tinyseq.glance import calls
from tinyseq.glance.table import WIDTH


def training(model: nn.Module, *inputs: Any) -> Any:
    """One step, of the sum of what a model gives."""
    optimizer = optim.AdamW(model.parameters(), lr=1e-3)

    def step() -> None:
        out = model(*inputs)
        optimizer.zero_grad()
        (out[0] if isinstance(out, tuple) else out).sum().backward()
        optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def encoder_decoder() -> Any:
    model = nn.EncoderDecoder(nn.Embedding(9, 4), nn.GRU(4, 3, bidirectional=True),
                              nn.AttentionDecoder(7, 4, 6, nn.DotAttention(6, 6), 6, 0.1))
    return training(model, np.ones((2, 5), int), np.array([5, 3]), np.ones((2, 4), int))


STEPS: dict[str, Any] = {
    "sequential": lambda: training(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), ts.ones((5, 3))),
    "encoder_decoder": encoder_decoder,
    "transformer": lambda: training(nn.Transformer(8, 2, 1, 1, 16), ts.ones((2, 5, 8)), ts.ones((2, 4, 8))),
}


def add_up(profile: ts.profile) -> None:
    """Every nanosecond is in one place, and none is negative."""
    own = sum(event.own for event in profile.events)
    assert 0 <= own <= profile.wall - profile.spent
    assert all(0 <= event.own <= event.net <= event.end - event.start for event in profile.events)
    assert 0 <= profile.python <= 1 and profile.kernels <= own
    ops, modules = profile.ops(), profile.modules()
    assert sum(op["forward"] + op["backward"] for op in ops) == profile.kernels
    roots = [row for row in modules if row["depth"] < 2]        # what is outside of all, and the outermost
    walks = sum(event.own for event in profile.events if event.kind == "backward")
    assert sum(row["forward"] + row["backward"] for row in roots) == own - walks
    assert sum(op["made"] for op in ops) == sum(row["made"] for row in roots)


@pytest.mark.parametrize("name", STEPS)
def test_times_and_bytes_add_up(name: str) -> None:
    step = STEPS[name]()
    with ts.profile() as profile:
        step()
    add_up(profile)
    text = str(profile)
    assert all(len(line) <= WIDTH for line in text.splitlines()) and text.startswith("wall ")
    first = len(profile.events)
    with profile:
        step()
    add_up(profile)
    assert len(profile.events) == 2 * first     # adds up
    assert [event[:4] for event in profile.events[first:]] == [event[:4] for event in profile.events[:first]]


def test_ops_and_modules_of_a_step_by_hand() -> None:
    model, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), ts.ones((5, 3))
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    with ts.profile() as profile:
        loss = (model(x) * 2.0).sum()
        loss.backward()
        optimizer.step()
    found = {op["name"]: (op["calls"], op["pulls"], op["made"]) for op in profile.ops()}
    weights = 4 * (3 * 4 + 2 * 4)                   # the gradients of x, of both weights; that of a bias is g itself
    assert found["linear"] == (2, 5, 4 * 5 * (4 + 2) + weights + 4 * 5 * 4)
    assert found["tanh"] == (1, 1, 2 * 4 * 5 * 4)
    assert found["multiply"] == (1, 1, 2 * 4 * 5 * 2) and found["sum"][:2] == (1, 1)
    assert found["SGD.step"][:2] == (1, 0)
    rows = {row["path"]: row for row in profile.modules()}
    assert [(row["path"], row["kind"], row["depth"], row["calls"]) for row in rows.values()] == [
        ("", "", 0, 0), ("Sequential", "Sequential", 1, 1), ("Sequential.0", "Linear", 2, 1),
        ("Sequential.1", "Tanh", 2, 1), ("Sequential.2", "Linear", 2, 1)]
    assert rows["Sequential.1"]["made"] == 2 * 4 * 5 * 4 and rows["Sequential"]["made"] == (
        found["linear"][2] + found["tanh"][2])
    assert rows["Sequential.1"]["backward"] == next(
        op["backward"] for op in profile.ops() if op["name"] == "tanh")
    kinds = {event.kind for event in profile.events}
    assert kinds == {"module", "op", "pull", "backward", "update"}


@pytest.mark.parametrize("name", STEPS)
def test_the_results_are_those_without(name: str) -> None:
    found = []
    for watched in (False, True):
        ts.manual_seed(0)
        step = STEPS[name]()
        with ts.profile() if watched else ts.enable_grad():
            step()
        found.append(next(cell.cell_contents for cell in step.__closure__ if isinstance(cell.cell_contents, nn.Module)))
    for a, b in zip(*(model.parameters() for model in found), strict=True):
        assert (a == b).all()


@pytest.mark.parametrize("memory", [False, True])
def test_a_trace_is_nested(memory: bool, tmp_path: Path) -> None:
    step = STEPS["encoder_decoder"]()
    with ts.profile(memory=memory) as profile:
        step()
        thread = threading.Thread(target=lambda: profile.__enter__() and (step(), profile.__exit__()))
        thread.start()
        thread.join()
    profile.trace(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text("utf-8"))["traceEvents"]
    spans = [event for event in events if event["ph"] == "X"]
    assert len(spans) == len(profile.events) and {event["ph"] for event in events} == {"M", "X", *"C" * memory}
    named = {event["tid"] for event in events if event["ph"] == "M"}
    assert len(named) == 2 == len({event["tid"] for event in spans}) and named == {event["tid"] for event in spans}
    for thread_id in named:
        open_: list[Any] = []
        own = [event for event in spans if event["tid"] == thread_id]
        for event in own:
            assert event["ts"] >= 0 and event["dur"] >= 0 and {"module", "made"} == event["args"].keys()
            while open_ and open_[-1]["ts"] + open_[-1]["dur"] <= event["ts"] + 1e-6:
                open_.pop()
            if open_:       # begins inside of what is open, and ends in it
                assert event["ts"] + event["dur"] <= open_[-1]["ts"] + open_[-1]["dur"] + 1e-6
                assert open_[-1]["cat"] in ("module", "backward", "pull", "op")
            if event["cat"] == "op" and event["args"]["module"]:
                assert any(outer["name"] == event["args"]["module"] for outer in open_)
            open_.append(event)
        names = {event["name"] for event in own}
        assert {"EncoderDecoder", "EncoderDecoder.encoder", "scan", "scan.pull", "backward", "AdamW.step"} <= names
    assert (profile.peak > 0) == memory


def test_an_error_leaves_the_table_up_to_there() -> None:
    class Wrong(nn.Module):
        def __init__(self) -> None:
            self.first, self.second = nn.Linear(3, 4), nn.Linear(3, 4)

        def forward(self, x: Any) -> Any:
            return self.second(self.first(x))

    model = Wrong()
    with pytest.raises(ValueError, match=r"^second: linear\("), ts.profile() as profile:
        model(ts.ones((2, 3)))
    add_up(profile)
    assert [op["calls"] for op in profile.ops()] == [2] and "  second" in str(profile)
    assert nn.Module.__call__ is calls._plain_call and not watching.stack.get()
    with profile:       # and it goes on
        model.first(ts.ones(3))
    assert profile._threads[threading.get_ident()].here is profile.outside
    add_up(profile)


def test_inside_another_it_is_refused() -> None:
    with ts.profile() as profile, pytest.raises(RuntimeError, match="inside of another profile"), profile:
        pass
    with ts.profile(), pytest.raises(RuntimeError, match="inside of another profile"), ts.profile():
        pass
    assert nn.Module.__call__ is calls._plain_call
    with pytest.raises(TypeError, match="not a decorator"):
        ts.profile()(lambda: None)
    with pytest.raises(ValueError, match="memory"):
        ts.profile(memory=3)  # type: ignore[arg-type]


def test_no_grad_and_what_is_done_later() -> None:
    model, x = nn.Linear(3, 4), ts.ones((5, 3))
    with ts.profile() as profile:
        with ts.no_grad():
            model(x)
        loss = model(x).sum()
    before = len(profile.events)
    loss.backward()             # outside: not measured, and as ever
    assert len(profile.events) == before and model.weight.grad is not None
    assert {op["name"]: (op["calls"], op["pulls"]) for op in profile.ops()} == {"linear": (2, 0), "sum": (1, 0)}
    late = model(x).sum()       # not made inside: its pull-backs are not seen, the walk is
    with ts.profile() as profile:
        late.backward()
    assert profile.ops() == [] and [event.kind for event in profile.events] == ["backward"]


def test_recomputed_ops_are_backward_and_belong_to_their_modules() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh())
    outer = nn.Linear(2, 3)
    with ts.profile() as profile:
        y = ts.recompute(model, outer(ts.ones((5, 2))))
        calls_before = profile.modules()
        y.sum().backward()
    add_up(profile)
    tanh = next(op for op in profile.ops() if op["name"] == "tanh")
    assert (tanh["calls"], tanh["pulls"]) == (2, 1) and tanh["forward"] and tanh["backward"]
    rows = profile.modules()
    assert [(row["path"], row["calls"]) for row in rows] == [(row["path"], row["calls"]) for row in calls_before]
    assert rows[-1]["path"] == "Sequential.1" and rows[-1]["backward"] > tanh["backward"] - 1


def test_gradients_of_gradients_are_seen() -> None:
    x = ts.tensor([1.0, 2.0], requires_grad=True)
    with ts.profile() as profile:
        slope = ts.grad((x**3).sum(), x, create_graph=True)
        again = ts.grad(slope.sum(), x)
    assert again.tolist() == [6.0, 12.0]
    add_up(profile)
    assert sum(event.kind == "backward" for event in profile.events) >= 2


def test_debug_inside_sees_the_ops_instead() -> None:
    with ts.profile() as profile, ts.debug():
        ts.ones(3) * 2
    assert profile.ops() == []


def test_functions_outside_modules_have_a_row() -> None:
    with ts.profile() as profile:
        ts.tanh(ts.ones(3))
    outside, = profile.modules()
    assert (outside["path"], outside["depth"], outside["made"]) == ("", 0, 12) and "(outside modules)" in str(profile)
    assert "(outside modules)" in str(ts.profile())     # of one that was never entered


def test_threads_add_up() -> None:
    profile, together = ts.profile(), threading.Barrier(3)      # else one may get another's number

    def run() -> None:
        step = STEPS["sequential"]()
        with profile:
            together.wait(60)
            step()

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    add_up(profile)
    assert next(op["calls"] for op in profile.ops() if op["name"] == "tanh") == 3 == len(profile._threads)


def test_a_device_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each op, pull-back and update on a device ends when the device has done it."""
    x = ts.ones((2, 3), requires_grad=True)
    if ts.backends.on_host(x.data):
        pytest.skip("all is done when NumPy or a compiled kernel returns")
    backend, waited = ts.backends.active(), []
    monkeypatch.setattr(type(backend), "synchronize", lambda self: waited.append(1))
    optimizer = optim.SGD([x], lr=0.1)
    with ts.profile(memory=True) as profile:
        (x * x).sum().backward()
        optimizer.step()
    assert len(waited) >= len([event for event in profile.events if event.kind in ("op", "pull")])
    assert profile.peak > 0
