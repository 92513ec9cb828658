"""A captured step is the step: bit for bit, on the backend that is active. On a device (CPU-emulated CuPy: see
cupy_on_cpu/README.md) it is recorded and repeated, elsewhere it runs as it is."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

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
