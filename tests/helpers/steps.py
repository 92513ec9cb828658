"""Steps whose launches on a GPU are counted: training of a recurrent model and of a Transformer, tokens, optimizers."""

from collections.abc import Callable
from typing import Any

import cupy_on_cpu
import numpy as np

import tinyseq as ts
import tinyseq.functional as F
from tinyseq import decode, nn, optim

WORDS, BATCH, TIME, WIDTH = 50, 4, 20, 32


class Tagger(nn.Module):
    """Ids (B, T) -> a label at every step."""

    def __init__(self, cell: Any) -> None:
        self.embedding = nn.Embedding(WORDS, WIDTH)
        self.rnn = cell(WIDTH, WIDTH, num_layers=2)
        self.out = nn.Linear(WIDTH, WORDS)

    def forward(self, ids: ts.Tensor) -> ts.Tensor:
        y: ts.Tensor = self.out(self.rnn(self.embedding(ids))[0])
        return y


def language_model() -> nn.LanguageModel:
    return nn.LanguageModel(WORDS, WIDTH, 4, num_layers=2, dim_feedforward=4 * WIDTH, activation="gelu_tanh")


def training(make: Callable[[], Any], optimizer: Any = optim.AdamW) -> Callable[[], Callable[[], Any]]:
    def begin() -> Callable[[], Any]:
        ts.manual_seed(0)
        model = make()
        stepping = optimizer(model.parameters(), lr=0.01)
        ids, targets = (ts.tensor(a) for a in np.random.default_rng(0).integers(0, WORDS, (2, BATCH, TIME)))

        def step() -> Any:
            loss = F.cross_entropy(model(ids), targets)
            stepping.zero_grad()
            loss.backward()
            optim.clip_grad_norm_(model.parameters(), 1.0)
            stepping.step()
            return loss

        return step

    return begin


def generation() -> Callable[[], Any]:
    model = language_model().eval()
    tokens = decode.stream(model, model.start(np.arange(8)[None]), 3, -1, 40)
    return lambda: next(tokens)


def optimizer(kind: Any) -> Callable[[], Callable[[], Any]]:
    """The optimizer's step alone, of the 28 parameters of a Transformer."""
    def begin() -> Callable[[], Any]:
        parameters = language_model().parameters()
        for p in parameters:
            p.grad = ts.ones(p.shape)
        step: Callable[[], Any] = kind(parameters, 0.01).step
        return step

    return begin


STEPS: dict[str, Callable[[], Callable[[], Any]]] = {
    "LSTM, 2 layers": training(lambda: Tagger(nn.LSTM)),
    "GRU, 2 layers": training(lambda: Tagger(nn.GRU)),
    "Transformer, 2 layers": training(language_model),
    "a token of it": generation,
    **{f"{kind.__name__}'s step": optimizer(kind)
       for kind in (optim.AdamW, optim.RMSprop, optim.Lion, optim.Adafactor)},
}


def steady(step: Callable[[], Any]) -> Any:
    """What a step does when it has come before and CuPy's memory pool has all blocks that it takes: how soon that is
    hangs on the blocks that other work has left there."""
    for _ in range(3):
        step()
    for _ in range(10):
        with cupy_on_cpu.counting() as seen:
            step()
        if not seen["malloc"]:
            break
    return seen
