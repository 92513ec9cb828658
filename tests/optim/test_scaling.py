"""Float16 with loss scaling trains as float32 does; a step that overflows leaves everything as it was."""

import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
from tinyseq import checkpoint, nn, optim
from tinyseq import functional as F

EMULATED = os.environ.get("TINYSEQ_TEST_PROFILE") == "emulated"


def scaled(scaler: optim.LossScaler, p: ts.Tensor, *gradient: float) -> None:
    """A backward that leaves this gradient."""
    scaler.backward(ts.sum(p.astype(ts.float64)))
    p.grad = ts.full(p.shape, 0.0, p.dtype) + ts.tensor(gradient, p.dtype)


class Masters:
    """Adam on float32 copies of float16 weights, whatever the optimizers keep themselves."""

    def __init__(self, model: nn.Module, lr: float) -> None:
        self.parameters = model.parameters()
        self.copies = [ts.tensor(p.detach().astype(ts.float32), requires_grad=True) for p in self.parameters]
        self.inner = optim.AdamW(self.copies, lr)

    def step(self) -> None:
        for copy, p in zip(self.copies, self.parameters, strict=True):
            copy.grad = p.grad
        self.inner.step()
        for copy, p in zip(self.copies, self.parameters, strict=True):
            p.data = copy.detach().astype(p.dtype)


class Tagger(nn.Module):
    """Tags of ragged rows, through a GRU in both directions."""

    def __init__(self) -> None:
        self.embedding, self.rnn = nn.Embedding(12, 16), nn.GRU(16, 16, bidirectional=True)
        self.norm, self.out = nn.LayerNorm(32), nn.Linear(32, 4)

    def loss(self, rng: np.random.Generator) -> ts.Tensor:
        ids, lengths = rng.integers(0, 12, (8, 9)), rng.integers(1, 10, 8)
        tags = np.where(np.arange(9) < lengths[:, None], (ids + np.roll(ids, 1, 1) * (np.arange(9) > 0)) % 4, -100)
        y, _ = self.rnn(self.embedding(ids), lengths=lengths)
        return F.cross_entropy(self.out(self.norm(y)), tags)


class Language(nn.LanguageModel):
    def __init__(self) -> None:
        super().__init__(12, 16, 2, 2, 32)

    def loss(self, rng: np.random.Generator) -> ts.Tensor:
        text = (rng.integers(0, 12, (8, 1)) + np.arange(10) * rng.integers(1, 3, (8, 1))) % 12
        return F.cross_entropy(self(text[:, :-1]), text[:, 1:])


class Reverser(nn.Module):
    """Reads ragged rows and writes them backwards."""

    def __init__(self) -> None:
        self.source, self.target = nn.Embedding(12, 16), nn.Embedding(13, 16)
        self.both, self.out = nn.Transformer(16, 2, 1, 1, 32), nn.Linear(16, 12)

    def loss(self, rng: np.random.Generator) -> ts.Tensor:
        ids, lengths = rng.integers(0, 12, (8, 6)), rng.integers(1, 7, 8)
        real = np.arange(6) < lengths[:, None]
        back = np.take_along_axis(ids, np.maximum(lengths[:, None] - 1 - np.arange(6), 0), 1)
        before = np.concatenate([np.full((8, 1), 12), back[:, :-1]], 1)
        y = self.both(self.source(ids), self.target(before), lengths=lengths)
        return F.cross_entropy(self.out(y), np.where(real, back, -100))


def trained(kind: Callable[[], Any], dtype: Any, steps: int) -> tuple[list[float], optim.LossScaler]:
    ts.manual_seed(0)
    model, scaler, losses = kind().to(dtype), optim.LossScaler(), []
    optimizer, rng = Masters(model, 1e-2), np.random.default_rng(1)
    for _ in range(steps):
        loss = model.loss(rng)
        model.zero_grad()
        scaler.backward(loss)
        if scaler.unscale_(model.parameters()):
            optim.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        assert loss.dtype == "float32" and all(p.dtype == dtype for p in model.parameters())
        losses.append(loss.item())
    return losses, scaler


@pytest.mark.parametrize("kind", [Tagger, Language, Reverser])
def test_training_in_float16_reaches_the_loss_of_float32(kind: Any) -> None:
    """Within 0.05 nats over the last sixth of 120 steps, of a loss that fell by much more."""
    steps = 24 if EMULATED and kind is not Tagger else 120     # seconds each there
    half, scaler = trained(kind, np.float16, steps)
    single, _ = trained(kind, np.float32, steps)
    ends = [np.mean(losses[-steps // 6:]) for losses in (half, single)]
    assert abs(ends[0] - ends[1]) < 0.05 and ends[1] < single[0] - 0.3
    assert scaler.steps == steps and scaler.skipped <= 3
    np.testing.assert_allclose(half[:5], single[:5], rtol=5e-3)


def stepped(scale: float) -> list[Any]:
    """Weights of float32 after 5 scaled steps with clipping."""
    ts.manual_seed(0)
    model, rng, scaler = Tagger(), np.random.default_rng(0), optim.LossScaler(scale)
    optimizer = optim.AdamW(model.parameters(), 1e-2)
    for _ in range(5):
        loss = model.loss(rng)
        optimizer.zero_grad()
        scaler.backward(loss)
        assert scaler.unscale_(model.parameters())
        optim.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
    return [p.detach().numpy() for p in model.parameters()]


def test_a_power_of_two_changes_no_bit_of_float32() -> None:
    for x, y in zip(stepped(1.0), stepped(2.0**16), strict=True):
        np.testing.assert_array_equal(x, y)


def test_what_is_0_in_float16_arrives() -> None:
    """A gradient of 1e-9: lost without a scale, and 1e-9 with one."""
    p = ts.ones(3, "float16", requires_grad=True)
    for scaler, expected in ((optim.LossScaler(1.0), 0.0), (optim.LossScaler(), 1e-9)):
        p.grad = None
        scaler.backward(ts.sum(p.astype(ts.float32)) * 1e-9)
        assert scaler.unscale_([p]) and p.grad.dtype == "float32"
        np.testing.assert_allclose(p.grad.numpy(), expected, rtol=1e-3)


OPTIMIZERS = sorted(name for name, cls in vars(optim).items() if isinstance(cls, type) and cls is not optim.Optimizer
                    and issubclass(cls, optim.Optimizer))


@pytest.mark.parametrize("looks", [True, False])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_overflow_skips_the_step_says_so_and_goes_on(name: str, looks: bool) -> None:
    """Weights and optimizer bit for bit, without the `if` too; no warning, which would be an error here."""
    ts.manual_seed(0)
    model, scaler = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).to(ts.float16), optim.LossScaler(64.0)
    optimizer, x = getattr(optim, name)(model.parameters(), lr=0.01), ts.ones((2, 3), "float16")

    def everything() -> dict[str, Any]:
        state = model.state_dict() | optimizer.state_dict()
        return {k: v.numpy().tobytes() if isinstance(v, ts.Tensor) else v for k, v in state.items()}

    def step(factor: float) -> bool:
        optimizer.zero_grad()
        scaler.backward(F.mse_loss(model(x), ts.ones((2, 1), "float16")) * factor)
        good = scaler.unscale_(model.parameters())
        if good or not looks:
            optim.clip_grad_norm_(model.parameters(), 1.0)
            optim.clip_grad_value_(model.parameters(), 1.0)
            optimizer.step()
        return good

    assert step(1.0)
    before = everything()
    assert not step(1e6) and everything() == before
    assert repr(scaler) == "LossScaler(scale=32.0, steps=2, skipped=1)"
    assert all(p.grad is None for p in model.parameters())
    assert step(1.0) and everything() != before
    assert (scaler.scale, scaler.steps, scaler.skipped) == (32.0, 3, 1)


@given(good=st.lists(st.booleans(), max_size=40), interval=st.integers(1, 5), power=st.integers(-3, 3))
def test_the_scale_follows_its_rules(good: list[bool], interval: int, power: int) -> None:
    """Against torch's, written out: growth after `interval` good steps in a row, halving at once."""
    p, scaler = ts.ones(2, requires_grad=True), optim.LossScaler(2.0**power, growth_interval=interval)
    scale, row = 2.0**power, 0
    for fine in good:
        scaled(scaler, p, 1.0, 1.0 if fine else [math.inf, math.nan][row % 2])
        try:
            assert scaler.unscale_([p]) == fine
        except FloatingPointError:
            assert scale / 2 < scaler.least
            return
        row = row + 1 if fine else 0
        scale = scale if fine else scale / 2
        if row == interval:
            scale, row = scale * 2, 0
        assert scaler.scale == scale
    assert (scaler.steps, scaler.skipped) == (len(good), len(good) - sum(good))


@pytest.mark.reference
@given(good=st.lists(st.booleans(), max_size=30), interval=st.integers(1, 4))
def test_the_scale_is_torchs(good: list[bool], interval: int) -> None:
    torch = pytest.importorskip("torch")
    p, ours = ts.ones(2, requires_grad=True), optim.LossScaler(growth_interval=interval)
    q, theirs = torch.ones(2, requires_grad=True), torch.amp.GradScaler("cpu", growth_interval=interval)
    judge = torch.optim.SGD([q], 0.1)
    for fine in good:
        value = [1.0, 1.0 if fine else math.inf]
        scaled(ours, p, *value)
        q.grad = torch.tensor(value)
        theirs.scale(torch.tensor(1.0))
        theirs.step(judge)
        theirs.update()
        try:
            ours.unscale_([p])
        except FloatingPointError:
            return
        assert ours.scale == theirs.get_scale()


def test_no_gradient_is_no_overflow() -> None:
    """Frozen parameters, and a step in which nothing was computed."""
    p, scaler = ts.ones(2, requires_grad=True), optim.LossScaler()
    for _ in range(2):
        assert scaler.unscale_([p, ts.ones(3)]) and scaler.scale == 2.0**16 and p.grad is None
    assert scaler.steps == scaler.good == 0


def test_gradients_are_divided_once() -> None:
    """Twice, and of one model after another, is refused: nothing changes."""
    (p, q), scaler = (ts.ones(2, requires_grad=True) for _ in range(2)), optim.LossScaler()
    for fine in (True, False):
        p.grad = q.grad = None
        scaler.backward(ts.sum(p + q))
        p.grad = p.grad if fine else ts.full(2, math.inf)
        assert scaler.unscale_([p]) == fine
        before = scaler.state_dict()
        for some in ([p, q], [q]):
            with pytest.raises(RuntimeError, match=r"LossScaler\.unscale_: .* once a step, .* of all models: unscale_"):
                scaler.unscale_(some)
            assert scaler.state_dict() == before and q.grad.tolist() == [2.0**16] * 2
            assert (p.grad.tolist() == [1.0] * 2) if fine else p.grad is None


def test_a_small_scale_is_no_error_of_a_finite_step() -> None:
    p, scaler = ts.ones(2, requires_grad=True), optim.LossScaler(1e-5)
    scaler.backward(ts.sum(p))
    assert scaler.unscale_([p]) and scaler.scale == 1e-5 and (scaler.steps, scaler.skipped) == (1, 0)
    scaled(scaler, p, math.inf)
    with pytest.raises(FloatingPointError, match="with a scale of 5e-06 too"):
        scaler.unscale_([p])


def test_numbers_that_fit_are_no_overflow() -> None:
    """Neither their squares nor their sum decide."""
    p, q = ts.ones(2, requires_grad=True), ts.ones(3, "float16", requires_grad=True)
    scaler = optim.LossScaler(1.0)
    scaled(scaler, p, 2e38, 2e38)
    q.grad = ts.full(3, 65504.0, "float16")
    assert scaler.unscale_([p, q]) and p.grad.tolist() == ts.full(2, 2e38).tolist()


def test_a_model_that_overflows_by_itself_ends_with_an_error() -> None:
    p, scaler = ts.ones(2, requires_grad=True), optim.LossScaler()
    with pytest.raises(FloatingPointError, match=r"with a scale of .* too: the model or its loss overflows by itself"):
        for _ in range(100):
            scaled(scaler, p, math.nan, 1.0)
            assert not scaler.unscale_([p])
    assert p.grad is None and 25 < scaler.skipped == scaler.steps < 50


def test_a_loss_of_float16_finds_a_scale_that_it_holds() -> None:
    """65536 is more than float16 holds: a loss by hand costs one step."""
    p, scaler = ts.ones(2, "float16", requires_grad=True), optim.LossScaler()
    found = []
    for _ in range(3):
        p.grad = None
        scaler.backward(ts.mean(p * p))
        found.append(scaler.unscale_([p]))
    assert found == [False, True, True] and scaler.scale == 2.0**15 and p.grad.tolist() == [1.0, 1.0]


def test_a_scaler_goes_on_from_its_state(tmp_path: Any) -> None:
    saved = optim.LossScaler(2.0**10, growth_factor=4, backoff_factor=0.25, growth_interval=3)
    again = optim.LossScaler()
    p = ts.ones(1, requires_grad=True)
    for value in (1.0, math.inf, 1.0, 1.0):
        scaled(saved, p, value)
        saved.unscale_([p])
    checkpoint.save(tmp_path / "a.safetensors", {"scaler": saved.state_dict()})
    again.load_state_dict(checkpoint.load(tmp_path / "a.safetensors")["scaler"])
    for scaler in (saved, again):
        scaled(scaler, p, 1.0)
        scaler.unscale_([p])
        assert scaler.state_dict() == {
            "scaler": "LossScaler", "scale": 2.0**10, "growth_factor": 4.0, "backoff_factor": 0.25,
            "growth_interval": 3, "steps": 5, "skipped": 1, "good": 0}


@pytest.mark.parametrize("wrong, error, says", [
    ({"scale": -1.0}, ValueError, "scale"), ({"steps": 0.5}, TypeError, "steps"), ({"more": 1}, KeyError, "more"),
    ({"scaler": "EMA"}, ValueError, "EMA"), ({"good": -1}, ValueError, "good")])
def test_a_wrong_state_loads_nothing(wrong: dict[str, Any], error: Any, says: str) -> None:
    scaler = optim.LossScaler(8.0)
    before = scaler.state_dict()
    with pytest.raises(error, match=f"LossScaler.*{says}"):
        scaler.load_state_dict(optim.LossScaler(4.0).state_dict() | wrong)
    with pytest.raises(KeyError, match=r"no state of a LossScaler: missing .*scale"):
        scaler.load_state_dict(optim.SGD([ts.ones(1, requires_grad=True)]).state_dict())
    assert scaler.state_dict() == before


def test_wrong_calls_are_named() -> None:
    for options, error in (({"scale": 0}, ValueError), ({"growth_factor": 0.5}, ValueError),
                           ({"scale": "1"}, TypeError), ({"backoff_factor": 1.0}, ValueError),
                           ({"growth_interval": 0}, ValueError)):
        with pytest.raises(error, match=f"LossScaler: expected .*{next(iter(options))}"):
            optim.LossScaler(**options)
    for loss in (1.0, ts.ones(2, requires_grad=True), None):
        with pytest.raises(TypeError, match=r"LossScaler\.backward: expected a loss, a Tensor of one number, got"):
            optim.LossScaler().backward(loss)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"LossScaler\.unscale_: expected parameters"):
        optim.LossScaler().unscale_(nn.Linear(2, 2))  # type: ignore[arg-type]


@pytest.mark.parametrize("ask", [lambda: nn.Linear(2, 2).to("bfloat16"), lambda: ts.bfloat16,
                                 lambda: nn.Linear(2, 2).to(pytest.importorskip("ml_dtypes").bfloat16)])
def test_bfloat16_is_refused_by_name(ask: Any) -> None:
    with pytest.raises((TypeError, ValueError, AttributeError), match="bfloat16") as caught:
        ask()
    assert "LossScaler" in str(caught.value)
