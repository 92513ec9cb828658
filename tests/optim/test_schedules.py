"""Schedules are PyTorch's where PyTorch has them, and say what they are after their last step."""

import itertools
import math
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import tinyseq as ts
from tinyseq import checkpoint
from tinyseq.optim import schedules

rates, counts = st.floats(1e-6, 10.0), st.integers(1, 40)
ALL: list[Any] = [lambda: schedules.linear(0.5, 10, 0.1), lambda: schedules.cosine(0.5, 10, 0.1),
                  lambda: schedules.inverse_sqrt(0.5, 10), lambda: schedules.one_cycle(0.5, 10),
                  lambda: schedules.warmup(3, schedules.cosine(0.5, 7)), lambda: schedules.Plateau(0.5)]


def judged(make: Any, steps: int, lr: float = 1.0, figures: Any = None) -> list[float]:
    """The learning rates that a scheduler of PyTorch's gives in each step."""
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    scheduler, found = make(torch.optim.lr_scheduler, optimizer), []
    for step in range(steps):
        found.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step(*() if figures is None else (figures[step],))
    return found


def ours(schedule: Any, steps: int) -> list[float]:
    return [schedule(step) for step in range(steps)]


@pytest.mark.reference
@given(start=rates, end=rates, steps=counts)
def test_linear_is_torchs(start: float, end: float, steps: int) -> None:
    start, end = sorted((start, end))
    wanted = judged(lambda room, o: room.LinearLR(o, start / end, 1.0, steps), steps + 5, end)
    assert ours(schedules.linear(start, steps, end), steps + 5) == pytest.approx(wanted, rel=1e-9)
    wanted = judged(lambda room, o: room.PolynomialLR(o, steps, 1.0), steps + 5, end)
    assert ours(schedules.linear(end, steps), steps + 5) == pytest.approx(wanted, rel=1e-9, abs=1e-12)


@pytest.mark.reference
@given(start=rates, end=st.just(0.0) | rates, steps=counts)
def test_cosine_is_torchs(start: float, end: float, steps: int) -> None:
    """To its last step; there it stays."""
    wanted = judged(lambda room, o: room.CosineAnnealingLR(o, steps, end), steps + 1, start)
    found = ours(schedules.cosine(start, steps, end), steps + 5)
    assert found[:steps + 1] == pytest.approx(wanted, rel=1e-9, abs=1e-9 * max(start, end))
    assert found[steps:] == [end] * 5


@pytest.mark.reference
@given(peak=rates, steps=st.integers(2, 40), rise=st.floats(0.05, 0.95), start=st.floats(1, 100), end=st.floats(1, 1e4))
def test_one_cycle_is_torchs(peak: float, steps: int, rise: float, start: float, end: float) -> None:
    assume(float(rise * steps) != 1.0)      # where PyTorch divides by zero, as the peak is in step 0
    wanted = judged(lambda room, o: room.OneCycleLR(o, peak, steps, pct_start=rise, div_factor=start,
                                                    final_div_factor=end, cycle_momentum=False), steps)
    schedule = schedules.one_cycle(peak, steps, rise, peak / start, peak / start / end)
    assert ours(schedule, steps) == pytest.approx(wanted, rel=1e-9, abs=1e-9 * peak)
    assert schedule(steps) == schedule(9 * steps) == pytest.approx(peak / start / end)


@pytest.mark.reference
@given(peak=rates, warm=st.integers(1, 20), steps=counts, part=st.floats(0.01, 1.0))
def test_warmup_is_torchs(peak: float, warm: int, steps: int, part: float) -> None:
    pytest.importorskip("torch")
    wanted = judged(lambda room, o: room.SequentialLR(o, [
        room.LinearLR(o, part, 1.0, warm), room.CosineAnnealingLR(o, steps)], [warm]), warm + steps + 1, peak)
    schedule = schedules.warmup(warm, schedules.cosine(peak, steps), part * peak)
    assert ours(schedule, warm + steps + 1) == pytest.approx(wanted, rel=1e-9, abs=1e-9 * peak)


@given(peak=rates, warm=counts)
def test_warmup_by_default_is_a_line_without_0(peak: float, warm: int) -> None:
    found = ours(schedules.warmup(warm, lambda step: peak - step * peak / 99), warm + 2)
    assert found[:warm + 1] == pytest.approx([peak * (i + 1) / (warm + 1) for i in range(warm + 1)])
    assert found[warm + 1] < found[warm]
    assert schedules.warmup(0, schedules.linear(peak, 2))(0) == peak


@given(dim=st.integers(1, 2048), warm=counts)
def test_inverse_sqrt_after_a_warmup_is_the_transformers(dim: int, warm: int) -> None:
    """d^-0.5 min(step^-0.5, step warmup^-1.5), Vaswani et al. 2017, equation 3."""
    schedule = schedules.warmup(warm, schedules.inverse_sqrt((dim * warm) ** -0.5, warm), start=0.0)
    wanted = [dim**-0.5 * min(step**-0.5, step * warm**-1.5) for step in range(1, 3 * warm)]
    assert ours(schedule, 3 * warm)[1:] == pytest.approx(wanted)


@pytest.mark.reference
@given(figures=st.lists(st.floats(0.1, 2) | st.sampled_from([math.nan, math.inf, 1.0]), min_size=1, max_size=40),
       factor=st.floats(0.1, 0.9), patience=st.integers(0, 3), cooldown=st.integers(0, 3),
       mode=st.sampled_from(["min", "max"]),
       threshold=st.sampled_from([0.0, 1e-4, 0.3]), floor=st.sampled_from([0.0, 0.05]), cut=st.integers(0, 40))
def test_a_plateau_is_torchs(figures: list[float], cut: int, **options: Any) -> None:
    """Also where its state goes on in another."""
    theirs = {"min_lr": options["floor"], **{k: v for k, v in options.items() if k != "floor"}}
    wanted = judged(lambda room, o: room.ReduceLROnPlateau(o, eps=0, **theirs), len(figures) + 1, 0.1, [*figures, 1.0])
    plateau, found = schedules.Plateau(0.1, **options), [0.1]
    for i, figure in enumerate(figures):
        if i == cut:
            state, plateau = plateau.state_dict(), schedules.Plateau(9.0)
            plateau.load_state_dict(state)
        found.append(plateau.update(figure))
        assert plateau(i) == found[-1]
    assert found == pytest.approx(wanted)


@given(figures=st.lists(st.floats(-2, 2) | st.just(math.nan), min_size=1, max_size=40),
       threshold=st.sampled_from([0.0, 1e-4, 0.3]), mode=st.sampled_from(["min", "max"]))
def test_better_is_better_by_a_part_of_the_bests_size(figures: list[float], threshold: float, mode: str) -> None:
    """Of negative figures too: none is the best that is worse, and both modes mirror each other."""
    plateau, mirror = (schedules.Plateau(0.1, mode=m, threshold=threshold, patience=1)
                       for m in (mode, {"min": "max", "max": "min"}[mode]))
    sign = 1 if mode == "max" else -1
    for figure in figures:
        best = plateau.best
        assert plateau.update(figure) == mirror.update(-figure) and plateau.best == -mirror.best
        if plateau.best != best and math.isfinite(best):
            assert sign * (figure - best) >= 0.999 * threshold * abs(best) and sign * (figure - best) > 0


def test_a_plateau_is_saved_and_refuses_what_is_none(tmp_path: Any) -> None:
    plateau = schedules.Plateau(0.1, mode="max")        # whose best is -inf
    checkpoint.save(tmp_path / "a.safetensors", plateau.state_dict())
    again = schedules.Plateau(1.0)
    again.load_state_dict(checkpoint.load(tmp_path / "a.safetensors"))
    assert again.state_dict() == plateau.state_dict() and repr(again) == "Plateau(0.1, best=-inf, bad=0 of 10)"
    state = plateau.state_dict()
    for wrong, kind in (({}, KeyError), (state | {"x": 1}, KeyError), (state | {"schedule": "x"}, KeyError),
                        (3, TypeError),
                        (state | {"value": -1.0}, ValueError), (state | {"bad": 0.5}, TypeError),
                        (state | {"mode": "mean"}, ValueError), (state | {"best": "x"}, (TypeError, ValueError))):
        with pytest.raises(kind, match="Plateau"):
            again.load_state_dict(wrong)  # type: ignore[arg-type]
        assert again.state_dict() == state
    with pytest.raises(TypeError, match=r"Plateau\.update: expected figure to be a number, got 'x'"):
        again.update("x")  # type: ignore[arg-type]
    assert again.update(ts.tensor(3.0)) == 0.1 and again.best == 3  # type: ignore[arg-type]


@pytest.mark.parametrize("number", range(len(ALL)))
def test_a_step_is_an_integer_from_0(number: int) -> None:
    schedule = ALL[number]()
    for wrong in (-1, 0.5, "1", None, True):
        with pytest.raises((TypeError, ValueError), match="expected an integer 0 <= step, got"):
            schedule(wrong)
    assert all(type(schedule(step)) is float and 0 <= schedule(step) <= 0.5 for step in (0, 1, 5, 9, 10, 1000))


def test_one_cycle_is_whole_at_its_ends() -> None:
    for rise, steps in itertools.product((0.0, 0.5, 1.0), (2, 3, 9)):
        found = ours(schedules.one_cycle(1.0, steps, rise), steps + 2)
        assert all(0 <= x <= 1 and math.isfinite(x) for x in found)
