"""A captured step is the step: bit for bit, on the backend that is active. On a device (CPU-emulated CuPy: see
cupy_on_cpu/README.md) it is recorded and repeated, elsewhere it runs as it is."""

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tinyseq.backends import captured

import tinyseq as ts
import tinyseq.functional as F
from tinyseq import backends, nn, optim

WORDS = 11
on_a_device = pytest.mark.skipif(not hasattr(backends.active(), "recording"), reason="it is recorded on a device")


class Tagger(nn.Module):
    """Ids (B, T) -> a label at every step, with dropout between and after two recurrent layers."""

    def __init__(self, cell: Any = nn.LSTM) -> None:
        self.embedding, self.out = nn.Embedding(WORDS, 8), nn.Linear(8, WORDS)
        self.rnn, self.dropout = cell(8, 8, num_layers=2, dropout=0.2), nn.Dropout(0.1)

    def forward(self, ids: ts.Tensor) -> ts.Tensor:
        y: ts.Tensor = self.out(self.dropout(self.rnn(self.embedding(ids))[0]))
        return y


class Normed(nn.Module):
    """Ids (B, T) -> labels, through batch normalisation, which keeps running means; a part is computed again."""

    def __init__(self) -> None:
        self.embedding, self.norm = nn.Embedding(WORDS, 8), nn.BatchNorm1d(8)
        self.out = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, WORDS))

    def forward(self, ids: ts.Tensor) -> ts.Tensor:
        y: ts.Tensor = ts.recompute(self.out, self.norm(self.embedding(ids)))
        return y


def language_model() -> nn.LanguageModel:
    return nn.LanguageModel(WORDS, 8, 2, num_layers=2, dim_feedforward=16)


def groups(model: Any) -> Any:
    first, *rest = model.parameters()
    return optim.AdamW([{"params": [first], "lr": 0.001}, {"params": rest, "weight_decay": 0.1}], lr=0.01)


CASES: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "a line, SGD": (lambda: nn.Sequential(nn.Embedding(WORDS, 4), nn.Linear(4, WORDS)),
                    lambda model: optim.SGD(model.parameters(), 0.1)),
    "LSTM, AdamW": (Tagger, lambda model: optim.AdamW(model.parameters(), 0.01)),
    "GRU, groups": (lambda: Tagger(nn.GRU), groups),
    "Transformer, AdamW": (language_model, lambda model: optim.AdamW(model.parameters(), 0.01)),
    "batch norm, RMSprop": (Normed, lambda model: optim.RMSprop(model.parameters(), 0.01, momentum=0.9, centered=True)),
    "batch norm, Lion": (Normed, lambda model: optim.Lion(model.parameters(), 0.001, weight_decay=0.1)),
    "float16, Nesterov": (lambda: Tagger().to(ts.float16),
                          lambda model: optim.SGD(model.parameters(), 0.1, momentum=0.9, nesterov=True)),
    "Adafactor": (Tagger, lambda model: optim.Adafactor(model.parameters(), 0.01)),
}


def batches(steps: int, size: int = 3, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, WORDS, (steps, 2, size, 5))


def train(case: str, wrap: Callable[[Any], Any], steps: int) -> tuple[Any, ...]:
    """(what each step returned, model, optimizer, state of the random numbers, gradients) of a training."""
    ts.manual_seed(0)
    make, optimizer_of = CASES[case]
    model = make()
    optimizer = optimizer_of(model)
    schedule = optim.schedules.warmup(5, optim.schedules.cosine(optimizer.lr, steps=steps))

    @wrap
    def step(batch: Any, *, targets: ts.Tensor) -> Any:
        loss = F.cross_entropy(model(batch["ids"]), targets)
        optimizer.zero_grad()
        loss.backward()
        norm = optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss, {"norm": norm, "nothing": None}

    seen = []
    for i, (ids, targets) in enumerate(batches(steps)):
        optimizer.lr = schedule(i)
        seen.append(step({"ids": ids}, targets=ts.tensor(targets)))  # an array, and a Tensor
    return ([(float(loss), float(more["norm"])) for loss, more in seen], bits(model.state_dict()),
            bits(optimizer.state_dict()), ts.random.get_state(), bits(dict(enumerate(model.parameters()))))


def bits(state: Any) -> dict[Any, Any]:
    """What a state holds, to be compared bit by bit; of parameters the gradients."""
    return {k: v if not isinstance(v, ts.Tensor) else None if v.requires_grad and v.grad is None
            else (v.grad if v.requires_grad else v).detach().numpy().tobytes() for k, v in state.items()}


@pytest.mark.parametrize("case", CASES)
def test_a_captured_training_is_the_training(case: str) -> None:
    steps = 50
    for found, expected in zip(train(case, ts.capture, steps), train(case, lambda step: step, steps), strict=True):
        assert found == expected


# --- what is refused: by a sentence that names the line --------------------------------------------------------------


def small(body: Callable[[Any, Any, ts.Tensor], Any], begin: bool = True) -> tuple[Any, Any, Any]:
    """(captured step, model, optimizer): the step computes a loss, goes back, and then does what `body` does."""
    ts.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 2), nn.Dropout(0.5))
    optimizer = optim.AdamW(model.parameters(), 0.01)

    def step(x: ts.Tensor, *rest: Any) -> Any:
        loss = ts.mean(model(x) ** 2)
        if begin:
            optimizer.zero_grad()
        loss.backward()
        return body(model, optimizer, loss)

    return ts.capture(step), model, optimizer


def looks(model: Any, optimizer: Any, loss: ts.Tensor) -> None:
    optimizer.step()
    if loss.item() < 0:
        raise AssertionError


def by_its_bool(model: Any, optimizer: Any, loss: ts.Tensor) -> None:
    assert not loss < 0


def draws_on_the_host(model: Any, optimizer: Any, loss: ts.Tensor) -> Any:
    return loss.detach() + ts.random.normal(())


def draws_from_a_generator(model: Any, optimizer: Any, loss: ts.Tensor) -> Any:
    return F.dropout(loss.detach(), 0.5, generator=ts.random.Generator(3))


def sets_the_rate(model: Any, optimizer: Any, loss: ts.Tensor) -> None:
    optimizer.lr = 0.1


def sets_a_groups_rate(model: Any, optimizer: Any, loss: ts.Tensor) -> None:
    optimizer.param_groups[0]["lr"] = 0.1


def returns_a_number(model: Any, optimizer: Any, loss: ts.Tensor) -> Any:
    return loss, optimizer.lr


def averages(model: Any, optimizer: Any, loss: ts.Tensor) -> None:
    optim.EMA(model, 0.9).update()


def scales(model: Any, optimizer: Any, loss: ts.Tensor) -> None:
    scaler = optim.LossScaler()
    optimizer.zero_grad()
    scaler.backward(ts.mean(model(ts.ones((2, 3)))))
    scaler.unscale_(model.parameters())


KEPT: list[Any] = []


def keeps(model: Any, optimizer: Any, loss: ts.Tensor) -> None:
    KEPT[:] = [loss.detach()]


def sorts(model: Any, optimizer: Any, loss: ts.Tensor) -> Any:
    return ts.sort(model[0].weight.detach())


REFUSED: dict[Callable[..., Any], str] = {
    looks: r"test_captured.py:\d+: if loss.item\(\) < 0:: .*D2H",
    by_its_bool: "assert not loss < 0: .*D2H",
    draws_on_the_host: r"ts.random.normal\(\(\)\): float32\[\] comes from the host and is not what it was before",
    draws_from_a_generator: "generator=.*: draw in a block",
    sets_the_rate: "AdamW.lr = ... is no part of a step that is repeated",
    sets_a_groups_rate: "AdamW.lr = ... is no part of a step that is repeated",
    returns_a_number: "it returns 0.01, which would be the same ever after",
    averages: "EMA.update is no part of a step",
    scales: "unscale_.*D2H",
    keeps: r"a tensor float32\[\] that it computes is kept beside what it returns",
    sorts: r"ts.sort\(.*during stream capture",
}


def everything(model: Any, optimizer: Any) -> list[Any]:
    return [ts.random.get_state(), bits(optimizer.state_dict()), bits(model.state_dict()),
            bits(dict(enumerate(model.parameters())))]


@on_a_device
@pytest.mark.parametrize("body", REFUSED, ids=lambda body: body.__name__)
def test_what_cannot_be_repeated_is_refused_and_leaves_all_as_it_was(body: Callable[..., Any]) -> None:
    step, model, optimizer = small(body)
    before: list[Any] = []
    with pytest.raises(RuntimeError, match=REFUSED[body]):
        for _ in range(3):
            before.append(everything(model, optimizer))
            step(ts.ones((4, 3)))
    KEPT.clear()
    if len(before) == 3:  # it was recorded, of which nothing is left
        assert everything(model, optimizer) == before[2]


@on_a_device
def test_gradients_of_before_the_step_are_refused() -> None:
    step, _, _ = small(lambda model, optimizer, loss: loss, begin=False)
    with pytest.raises(RuntimeError, match=r"loss.backward\(\): a gradient from before the step is used or added to"):
        for _ in range(3):
            step(ts.ones((4, 3)))
    model = nn.Linear(3, 2)
    step = ts.capture(optim.SGD(model.parameters(), 0.1).step)  # which none of its ops reads
    with pytest.raises(RuntimeError, match="a gradient from before the step is used or added to"):
        for p in model.parameters():
            p.grad = ts.ones_like(p)
        for _ in range(3):
            step()


@on_a_device
def test_gradients_may_be_forgotten_outside() -> None:
    step, model, _ = small(lambda model, optimizer, loss: loss, begin=False)
    for _ in range(4):
        loss = step(ts.ones((4, 3)))
        assert model[0].weight.grad is not None
        for p in model.parameters():
            p.grad = None
    assert loss.shape == ()


@on_a_device
def test_other_arguments_are_refused_with_both() -> None:
    def add(x: Any, more: Any, by: Any = 2) -> Any: return {"sum": x + more["y"][0] * by}

    step, x = ts.capture(add), ts.ones((2, 3))
    for _ in range(2):  # before it is recorded, and after
        for call, told in [
                (lambda: step(ts.ones((3, 3)), {"y": [x]}), r"args\[0\] was float32\[2, 3\], and is float32\[3, 3\]"),
                (lambda: step(x, {"y": [x.astype(ts.float64)]}), r"args\[1\]\['y'\]\[0\] was float32.*float64\[2, 3\]"),
                (lambda: step(x, {"y": [x]}, 3), r"args\[2\] was not there, and is 3"),
                (lambda: step(x, {"y": []}), r"args\[1\]\['y'\]\[0\] was float32\[2, 3\], and is not there"),
                (lambda: step(x, more={"y": [x]}), r"args.* is not there; kwargs\['more'\]"),
                (lambda: step(None, {"y": [x]}), r"args\[0\] was float32\[2, 3\], and is None")]:
            for _ in range(3):
                assert step(x, {"y": [np.full((2, 3), 3, np.float32)]})["sum"].tolist() == [[7.0] * 3] * 2
            with pytest.raises(ValueError, match=f"capture: {told}"):
                call()
    with pytest.raises(TypeError, match=r"capture: args\[0\] requires a gradient, .*detach"):
        step(nn.Parameter(np.ones((2, 3), np.float32)), {"y": [x]})


@on_a_device
def test_what_changed_since_is_refused() -> None:
    def trained(model: Any, optimizer: Any, loss: ts.Tensor) -> Any:
        optimizer.step()
        return loss

    def state(model: Any, optimizer: Any) -> None: optimizer.load_state_dict(optimizer.state_dict())
    def weights(model: Any, optimizer: Any) -> None: model.load_state_dict(model.state_dict())
    def mode(model: Any, optimizer: Any) -> None: model.eval()

    for change, told in ((state, "what is kept for a parameter is not what it was"),
                         (weights, r"a tensor float32\[2, 3\] that it uses has another array since then"),
                         (mode, "Linear was switched by train")):
        step, model, optimizer = small(trained)
        for _ in range(4):
            step(ts.ones((4, 3)))
        change(model, optimizer)
        before = everything(model, optimizer)
        with pytest.raises(RuntimeError, match=told):
            step(ts.ones((4, 3)))
        assert everything(model, optimizer)[1:] == before[1:]


@on_a_device
def test_a_new_parameter_and_a_new_momentum_are_refused() -> None:
    model, calls = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)), []
    optimizer = optim.SGD(model.parameters(), 0.1)

    @ts.capture
    def step(x: ts.Tensor) -> None:
        calls.append(1)
        model[1].weight.requires_grad = len(calls) > 2
        optimizer.zero_grad()
        ts.sum(model(x)).backward()
        optimizer.step()

    with pytest.raises(RuntimeError, match="a first step of a parameter, or of its momentum, is no part of a step"):
        for _ in range(3):
            step(ts.ones((4, 3)))
    plain, _, optimizer = small(lambda model, optimizer, loss: optimizer.step())
    for _ in range(3):
        plain(ts.ones((4, 3)))
    optimizer = optim.SGD(model.parameters(), 0.1)

    @ts.capture
    def descend() -> None:
        optimizer.zero_grad()
        ts.sum(model(ts.ones((4, 3)))).backward()
        optimizer.step()

    for _ in range(3):
        descend()
    optimizer.momentum = 0.9
    with pytest.raises(RuntimeError, match="momentum begun or ended"):
        descend()


def test_what_a_step_gives_stays_what_it_was() -> None:
    double = ts.capture(lambda x: (x * 2, [x, None]))
    seen = [double(ts.full((2,), float(i))) for i in range(6)]
    assert [(y.tolist(), more[0].tolist(), more[1]) for y, more in seen] == [
        ([2.0 * i] * 2, [float(i)] * 2, None) for i in range(6)]


def test_a_captured_step_inside_another_is_a_part_of_it() -> None:
    inner = ts.capture(lambda x: x + 1)
    outer = ts.capture(lambda x: inner(x) * 2)
    assert [outer(ts.full((), float(i))).item() for i in range(5)] == [2.0, 4.0, 6.0, 8.0, 10.0]


def test_modules_and_functions_of_nothing_are_captured() -> None:
    model, x = nn.Linear(3, 2), ts.ones((2, 3))
    call = ts.capture(model)
    total = nn.Parameter(np.zeros((), np.float32))

    def grow() -> None:
        total.data = total.detach() + 1

    growing = ts.capture(grow)
    assert growing.__name__ == "grow"
    for _ in range(5):
        growing()
        assert call(x).tolist() == model(x).tolist()
    assert total.item() == 5


def recordings() -> int:
    gc.collect()
    return sum(isinstance(x, captured.Recording) for x in gc.get_objects())


@on_a_device
def test_a_recording_is_gone_with_its_step() -> None:
    step, _, _ = small(lambda model, optimizer, loss: loss)
    for _ in range(4):
        step(ts.ones((4, 3)))
    assert recordings() == 1
    del step
    assert recordings() == 0
