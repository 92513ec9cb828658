"""A small training with everything in it that has a state: what is killed, resumed and compared bit by bit.

`parts` makes them all; each stand-in has what the kit's own object of that kind has, `state_dict` and
`load_state_dict`, and that can be put in its place.
"""

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import tinyseq as ts
from tinyseq import nn, optim, runs

STEPS = 60
EVERY = 3


class Shuffled:
    """Rows of random numbers, in batches and in another order each time round."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.rows = np.random.default_rng(1).standard_normal((20, 8)).astype(np.float32)
        self.order, self.at = self.rng.permutation(20), 0

    def __next__(self) -> Any:
        if self.at == 20:
            self.order, self.at = self.rng.permutation(20), 0
        self.at += 4
        return self.rows[self.order[self.at - 4:self.at]]

    def state_dict(self) -> dict[str, Any]:
        return {"order": self.order, "at": self.at, "rng": self.rng.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.rng.bit_generator.state = state["rng"]
        self.order, self.at = np.array(state["order"]), state["at"]


class Average:
    """Of the weights."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.mean = model, {k: ts.tensor(v) for k, v in model.state_dict().items()}

    def update(self) -> None:
        for k, v in self.model.state_dict().items():
            self.mean[k] = 0.9 * self.mean[k] + 0.1 * v

    def state_dict(self) -> dict[str, Any]:
        return dict(self.mean)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state.keys() != self.mean.keys():
            raise KeyError(f"Average: expected {[*self.mean]}, got {[*state]}")
        self.mean = {k: ts.tensor(v) for k, v in state.items()}


class Values:
    """Numbers that change: of a loss scale, of a schedule that looks at the loss, of a metric."""

    def __init__(self, **values: Any) -> None:
        self.__dict__.update(values)

    def state_dict(self) -> dict[str, Any]:
        return dict(self.__dict__)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state.keys() != self.__dict__.keys():
            raise KeyError(f"Values: expected {[*self.__dict__]}, got {[*state]}")
        self.__dict__.update({k: list(v) if isinstance(v, list) else v for k, v in state.items()})


def parts(seed: int = 0) -> dict[str, Any]:
    """All of a new training, and the random state that it begins with."""
    ts.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, 8))
    return {"model": model, "optimizer": optim.Adam(model.parameters(), lr=0.01), "data": Shuffled(seed),
            "average": Average(model), "scale": Values(scale=1024.0, good=0), "schedule": Values(best=1e9, lr=0.01),
            "metrics": Values(losses=[], count=0), "noise": np.random.default_rng(seed)}


def step(model: Any, optimizer: Any, data: Any, average: Any, scale: Any, schedule: Any, metrics: Any,
         noise: Any) -> float:
    """One step, which draws from every source; its loss."""
    optimizer.lr = schedule.lr * random.uniform(0.9, 1.1)
    x = next(data)
    x = x + 0.1 * (noise.standard_normal(x.shape) + np.random.standard_normal(x.shape)).astype(np.float32)
    loss = ts.mean((model(ts.tensor(x)) - ts.tensor(x)) ** 2)
    optimizer.zero_grad()
    (loss * scale.scale).backward()
    for p in optimizer.parameters:
        p.grad = p.grad / scale.scale
    optimizer.step()
    average.update()
    scale.good += 1
    if scale.good == 7:
        scale.scale, scale.good = scale.scale * 2, 0
    value = float(loss)
    schedule.lr = schedule.lr if value < schedule.best else schedule.lr * 0.99
    schedule.best = min(schedule.best, value)
    metrics.losses.append(value)
    metrics.count += len(x)
    return value


def train(folder: Path, note: Callable[[int, bool], object] = lambda step, saving: None, until: int = STEPS) -> None:
    """A run from where it stands to its end; `note` hears where it is."""
    note(0, False)
    own = parts()
    with runs.Run(folder, **own, keep=2, best="min") as run:
        for i in range(run.resume(), until):
            note(i, False)
            loss = step(**own)
            if (i + 1) % EVERY == 0 or run.interrupted:
                note(i, True)
                run.save(i + 1, loss, text="a vocabulary", epoch=i // 5)
                note(i, False)
                if run.interrupted:
                    break
