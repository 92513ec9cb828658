"""What tests of optimizers share: cases of each with options, parameters and gradients by chance, comparisons."""

from typing import Any

import numpy as np
import pytest

import tinyseq as ts
from tinyseq import optim

SHAPES = [(3, 4), (5,), (), (0, 2), (2, 3, 2)]
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "SGD": ("SGD", {}), "momentum": ("SGD", {"momentum": 0.9}),
    "Nesterov": ("SGD", {"momentum": 0.8, "nesterov": True}),
    "SGD decay": ("SGD", {"momentum": 0.9, "weight_decay": 0.1}), "Adam": ("Adam", {}),
    "Adam decay": ("Adam", {"betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.1}),
    "AdamW": ("AdamW", {}), "AdamW decay": ("AdamW", {"weight_decay": 0.3}), "RMSprop": ("RMSprop", {}),
    "RMSprop all": ("RMSprop", {"alpha": 0.9, "eps": 1e-3, "weight_decay": 0.1, "momentum": 0.8, "centered": True}),
    "Adafactor": ("Adafactor", {}),
    "Adafactor all": ("Adafactor", {"beta2_decay": -0.5, "eps": (1e-4, 1e-2), "d": 1.5, "weight_decay": 0.1}),
    "Lion": ("Lion", {}), "Lion decay": ("Lion", {"betas": (0.8, 0.7), "weight_decay": 0.1})}
OPTIMIZERS = {name: cls for name, cls in vars(optim).items()
              if isinstance(cls, type) and issubclass(cls, optim.Optimizer) and cls is not optim.Optimizer}
every_case = pytest.mark.parametrize("case", CASES)
every_optimizer = pytest.mark.parametrize("name", sorted(OPTIMIZERS))


def make(case: str, parameters: Any, lr: float = 0.1) -> Any:
    name, options = CASES[case]
    return OPTIMIZERS[name](parameters, lr, **options)


def leaves(rng: np.random.Generator, dtype: str = "float64") -> list[ts.Tensor]:
    return [ts.tensor(rng.standard_normal(s).astype(dtype), requires_grad=True) for s in SHAPES]


def set_grads(rng: np.random.Generator, parameters: Any) -> None:
    for p in parameters:
        p.grad = ts.tensor(rng.standard_normal(p.shape).astype(p.dtype))


def values(parameters: Any) -> list[Any]:
    return [p.detach().numpy().copy() for p in parameters]


def close(got: Any, expected: Any) -> None:
    for x, y in zip(got, expected, strict=True):
        assert x.shape == y.shape and x.dtype == y.dtype
        scale = np.abs(y).max(initial=0.1)
        np.testing.assert_allclose(x, y, rtol=0, atol=scale * (1e-10 if y.dtype == "float64" else 1e-5))
