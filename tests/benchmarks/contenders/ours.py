"""tinyseq, as a user writes it; the backend is the environment's."""

import itertools
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

import contenders as given
import tinyseq as ts
from tinyseq import decode as decoding
from tinyseq import functional as F
from tinyseq import nn, optim

Call = Callable[[], Any]
FIRST = "import tinyseq as ts; print(ts.sum(ts.nn.GRU(32, 32)(ts.ones((1, 5, 32)))[0]).item())"


def filled(module: Any, prefix: str = "") -> Any:
    module.load_state_dict(given.weights(module.state_dict(), prefix))
    return module


def leaf(array: Any) -> Any:
    return ts.tensor(array, requires_grad=True)


def gradients(f: Callable[[Any], Any], x: Any, g: Any, module: Any = None) -> Call:
    """Forward and backward: the gradients of x and of the parameters, g being the output's."""
    leaves, g = [leaf(x), *(module.parameters() if module else ())], ts.tensor(g)
    return lambda: ts.grad(f(leaves[0]), leaves, g)


def recurrent(cell: str, batch: int, steps: int, width: int, hidden: int) -> Call:
    layer = filled(getattr(nn, cell)(width, hidden))
    x, g = given.numbers("x", batch, steps, width), given.numbers("g", batch, steps, hidden)
    return gradients(lambda x: layer(x)[0], x, g, layer)


def ragged(batch: int, steps: int, width: int, hidden: int) -> Call:
    layer = filled(nn.LSTM(width, hidden, 2, bidirectional=True))
    lengths = given.integers("lengths", steps, batch) + 1
    return gradients(lambda x: layer(x, lengths=lengths)[0], given.numbers("x", batch, steps, width),
                     given.numbers("g", batch, steps, 2 * hidden), layer)


def cell_loop(batch: int, steps: int, width: int) -> Call:
    cell = filled(nn.LSTMCell(width, width))

    def loop(x: Any) -> Any:
        h, outputs = (ts.zeros((batch, width)), ts.zeros((batch, width))), []
        for x_t in ts.unstack(x, axis=1):
            h = cell(x_t, h)
            outputs.append(h[0])
        return ts.stack(outputs, 1)

    return gradients(loop, given.numbers("x", batch, steps, width), given.numbers("g", batch, steps, width), cell)


def layer_norm(*shape: int) -> Call:
    layer = filled(nn.LayerNorm(shape[-1]), "norm.")
    return gradients(layer, given.numbers("x", *shape), given.numbers("g", *shape), layer)


def gelu(*shape: int) -> Call:
    return gradients(F.gelu, given.numbers("x", *shape), given.numbers("g", *shape))


def softmax(*shape: int) -> Call:
    return gradients(F.softmax, given.numbers("x", *shape), given.numbers("g", *shape))


def transformer(batch: int, steps: int, width: int, heads: int) -> Call:
    model = filled(nn.TransformerEncoder(nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.0), 2))
    return gradients(model, given.numbers("x", batch, steps, width), given.numbers("g", batch, steps, width), model)


def cross_entropy(rows: int, classes: int) -> Call:
    ids = given.integers("ids", classes, rows)
    return gradients(lambda x: F.cross_entropy(x, ids), given.numbers("x", rows, classes), np.float32(1))


def embedding(count: int, vocabulary: int, width: int) -> Call:
    ids, g = given.integers("ids", vocabulary, count), given.numbers("g", count, width)
    return gradients(lambda w: F.embedding(ids, w), given.numbers("x", vocabulary, width), g)


def dropout(*shape: int) -> Call:
    return gradients(lambda x: F.dropout(x, 0.5), given.numbers("x", *shape), given.numbers("g", *shape))


def adamw(count: int, width: int) -> Call:
    parameters = []
    for p, g in zip(*given.optimizer_arrays(count, width), strict=True):
        parameters.append(leaf(p))
        parameters[-1].grad = ts.tensor(g)
    optimizer, limits = optim.AdamW(parameters, 1e-4), (0.999**n for n in itertools.count())

    def step() -> Any:
        norm = optim.clip_grad_norm_(parameters, next(limits))      # smaller each time, so that it does clip
        optimizer.step()
        return [norm, parameters[0].detach()]

    return step


def ctc(batch: int, steps: int, classes: int, labels: int) -> Call:
    logits, targets = given.ctc_arrays(batch, steps, classes, labels)
    loss, lengths = nn.CTCLoss(), ([steps] * batch, [labels] * batch)
    return gradients(lambda x: loss(F.log_softmax(x), targets, *lengths), logits, np.float32(1))


def language_model(layers: int, width: int) -> Any:
    heads = width // 32 if width < 768 else 12
    model = nn.LanguageModel(given.VOCABULARY, width, heads, layers, 4 * width, activation="gelu_tanh").eval()
    state = given.weights(model.state_dict())
    model.load_state_dict(state | {"out.weight": state["embedding.weight"]})
    return model


def generation(layers: int, width: int) -> Call:
    model, prompt = language_model(layers, width), np.arange(given.PROMPT + 1)[None]
    state = model.start(prompt[:, :-1])
    return lambda: [decoding.greedy(model, state, prompt[:, -1], -1, given.TOKENS)[0].tokens]


def beam(layers: int, width: int, beams: int) -> Call:
    model, prompt = language_model(layers, width), np.arange(given.PROMPT + 1)[None]
    state = model.start(prompt[:, :-1])
    return lambda: [decoding.beam(model, state, prompt[:, -1], -1, given.TOKENS, beams)[0][0].tokens]


def one_row(cell: str, steps: int, width: int) -> Call:
    layer, x = filled(getattr(nn, cell)(width, width)), ts.tensor(given.numbers("x", 1, steps, width))
    return ts.no_grad()(lambda: [layer(x)[0]])


def decode(steps: int, tags: int) -> Call:
    crf, x = filled(nn.CRF(tags)), ts.tensor(given.numbers("x", 1, steps, tags))
    return lambda: crf.decode(x)


def one_row_both_ways(steps: int, width: int) -> Call:
    layer, x = filled(nn.GRU(width, width, 2, bidirectional=True)), ts.tensor(given.numbers("x", 1, steps, width))
    return ts.no_grad()(lambda: [layer(x)[0]])


def tagger(steps: int, width: int, tags: int) -> Call:
    embed, out = filled(nn.Embedding(given.WORDS, width), "embedding."), filled(nn.Linear(2 * width, tags), "out.")
    layer, crf = filled(nn.GRU(width, width, bidirectional=True)), filled(nn.CRF(tags))
    ids = given.integers("ids", given.WORDS, 1, steps)
    return ts.no_grad()(lambda: crf.decode(out(layer(embed(ids))[0])))


def first_result() -> Call:
    return lambda: subprocess.run([sys.executable, "-c", FIRST], check=True, stdout=subprocess.PIPE) and []
