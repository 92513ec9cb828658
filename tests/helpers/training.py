"""A small training with everything of the kit that has a state: what is killed, resumed and compared bit by bit."""

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import tinyseq as ts
from tinyseq import data, metrics, nn, optim, runs

STEPS = 60
EVERY = 3
ROWS = np.random.default_rng(1).standard_normal((22, 8)).astype(np.float32)


class Values:
    """Any part with a state: its numbers."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)

    def state_dict(self) -> dict[str, Any]:
        return dict(self.__dict__)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state.keys() != self.__dict__.keys():
            raise KeyError(f"Values: expected {[*self.__dict__]}, got {[*state]}")
        self.__dict__.update({k: list(v) if isinstance(v, list) else v for k, v in state.items()})


def noisy(row: Any, rng: np.random.Generator) -> Any:
    return row + 0.1 * rng.standard_normal(8, np.float32)


def parts(seed: int = 0) -> dict[str, Any]:
    """All of a new training, and the random state that it begins with.

    The model is of float16, so that its optimizer has masters and some steps overflow; one group has a learning rate
    of its own; the batches, of blocks that are mixed, reach from one epoch into the next.
    """
    ts.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, 8)).to("float16")
    decaying, others = optim.decay_groups(model, 0.1)
    return {"model": model, "optimizer": optim.AdamW([decaying, others | {"lr": 0.02}], lr=0.01),
            "data": data.items(ROWS).map(noisy, seed=1).shuffle(8, seed=0).repeat().batch(4).map(np.stack).prefetch(2),
            "average": optim.EMA(model, 0.9, warmup=True), "scaler": optim.LossScaler(2.0**18, growth_interval=3),
            "schedule": optim.schedules.Plateau(0.01, factor=0.95, patience=1), "metrics": metrics.Mean(),
            "noise": np.random.default_rng(seed)}


def step(batch: Any, model: Any, optimizer: Any, average: Any, scaler: Any, schedule: Any, metrics: Any, noise: Any,
         **_: Any) -> float:
    """One step, which draws from every source; its loss."""
    optimizer.lr = schedule.value * random.uniform(0.9, 1.1)
    other = noise.standard_normal(batch.shape) + np.random.standard_normal(batch.shape)
    x = ts.tensor(batch + 0.1 * other, "float16")
    loss = ts.mean((model(x).astype("float32") - x.astype("float32")) ** 2)
    optimizer.zero_grad()
    scaler.backward(loss)
    if scaler.unscale_(model.parameters()):
        optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    average.update()
    schedule.update(float(loss))
    metrics.update(float(loss) * len(batch), len(batch))
    return float(loss)


def learn(own: dict[str, Any], count: int) -> None:
    """So many steps."""
    for _, batch in zip(range(count), own["data"], strict=False):
        step(batch, **own)


def train(folder: Path, note: Callable[[int, bool], object] = lambda step, saving: None, until: int = STEPS) -> None:
    """A run from where it stands to its end; `note` hears where it is."""
    note(0, False)
    own = parts()
    with runs.Run(folder, **own, keep=2, best="min") as run:
        for i, batch in enumerate(own["data"], run.resume()):
            if i >= until:
                break
            note(i, False)
            loss = step(batch, **own)
            if (i + 1) % EVERY == 0 or run.interrupted:
                note(i, True)
                run.save(i + 1, loss, text="a vocabulary", epoch=i // 5)
                note(i, False)
                if run.interrupted:
                    break
