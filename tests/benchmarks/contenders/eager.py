"""PyTorch in eager mode, as a user writes it."""

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import contenders as given

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
Call = Callable[[], Any]
FIRST = "import torch; print(torch.nn.GRU(32, 32)(torch.ones(5, 1, 32))[0].sum().item())"


def filled(module: Any, prefix: str = "") -> Any:
    with torch.no_grad():
        named = dict(module.named_parameters())
        for name, value in given.weights(named, prefix).items():
            named[name].copy_(torch.from_numpy(value))
    return module


def leaf(array: Any) -> Any:
    return torch.from_numpy(np.asarray(array)).requires_grad_()


def gradients(f: Callable[[Any], Any], x: Any, g: Any, module: Any = None) -> Call:
    """Forward and backward: the gradients of x and of the parameters, g being the output's."""
    leaves, g = [leaf(x), *(module.parameters() if module else ())], torch.from_numpy(np.asarray(g))
    return lambda: torch.autograd.grad(f(leaves[0]), leaves, g)


def recurrent(cell: str, batch: int, steps: int, width: int, hidden: int) -> Call:
    layer = filled(getattr(nn, cell)(width, hidden, batch_first=True))
    x, g = given.numbers("x", batch, steps, width), given.numbers("g", batch, steps, hidden)
    return gradients(lambda x: layer(x)[0], x, g, layer)


def ragged(batch: int, steps: int, width: int, hidden: int) -> Call:
    layer = filled(nn.LSTM(width, hidden, 2, bidirectional=True, batch_first=True))
    lengths = torch.from_numpy(given.integers("lengths", steps, batch) + 1)

    def run(x: Any) -> Any:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(layer(packed)[0], batch_first=True, total_length=steps)[0]

    return gradients(run, given.numbers("x", batch, steps, width), given.numbers("g", batch, steps, 2 * hidden), layer)


def cell_loop(batch: int, steps: int, width: int) -> Call:
    cell = filled(nn.LSTMCell(width, width))

    def loop(x: Any) -> Any:
        h, outputs = (torch.zeros(batch, width), torch.zeros(batch, width)), []
        for x_t in x.unbind(1):
            h = cell(x_t, h)
            outputs.append(h[0])
        return torch.stack(outputs, 1)

    return gradients(loop, given.numbers("x", batch, steps, width), given.numbers("g", batch, steps, width), cell)


def layer_norm(*shape: int) -> Call:
    layer = filled(nn.LayerNorm(shape[-1]), "norm.")
    return gradients(layer, given.numbers("x", *shape), given.numbers("g", *shape), layer)


def gelu(*shape: int) -> Call:
    return gradients(F.gelu, given.numbers("x", *shape), given.numbers("g", *shape))


def softmax(*shape: int) -> Call:
    return gradients(lambda x: F.softmax(x, -1), given.numbers("x", *shape), given.numbers("g", *shape))


def transformer(batch: int, steps: int, width: int, heads: int) -> Call:
    layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.0, batch_first=True)
    model = filled(nn.TransformerEncoder(layer, 2))
    return gradients(model, given.numbers("x", batch, steps, width), given.numbers("g", batch, steps, width), model)


def cross_entropy(rows: int, classes: int) -> Call:
    ids = torch.from_numpy(given.integers("ids", classes, rows))
    return gradients(lambda x: F.cross_entropy(x, ids), given.numbers("x", rows, classes), np.float32(1))


def embedding(count: int, vocabulary: int, width: int) -> Call:
    ids, g = torch.from_numpy(given.integers("ids", vocabulary, count)), given.numbers("g", count, width)
    return gradients(lambda w: F.embedding(ids, w), given.numbers("x", vocabulary, width), g)


def dropout(*shape: int) -> Call:
    return gradients(lambda x: F.dropout(x, 0.5), given.numbers("x", *shape), given.numbers("g", *shape))


def adamw(count: int, width: int) -> Call:
    parameters = []
    for p, g in zip(*given.optimizer_arrays(count, width), strict=True):
        parameters.append(leaf(p))
        parameters[-1].grad = torch.from_numpy(g)
    optimizer, limits = torch.optim.AdamW(parameters, 1e-4), (0.999**n for n in itertools.count())

    def step() -> Any:
        norm = nn.utils.clip_grad_norm_(parameters, next(limits))
        optimizer.step()
        return [norm, parameters[0].detach()]

    return step


def ctc(batch: int, steps: int, classes: int, labels: int) -> Call:
    logits, targets = given.ctc_arrays(batch, steps, classes, labels)
    lengths = torch.full((batch,), steps), torch.full((batch,), labels)
    targets = torch.from_numpy(targets)
    return gradients(lambda x: F.ctc_loss(F.log_softmax(x, -1), targets, *lengths),
                     np.ascontiguousarray(logits.transpose(1, 0, 2)), np.float32(1))


class Layer(nn.Module):
    """A pre-norm layer with a cache of keys and values that is allocated once."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.self_attn = heads, nn.MultiheadAttention(width, heads)     # for its weights and their names
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.linear1, self.linear2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Any, cache: Any, n: int) -> Any:
        batch, steps, _ = x.shape
        qkv = F.linear(self.norm1(x), self.self_attn.in_proj_weight, self.self_attn.in_proj_bias).chunk(3, -1)
        q, k, v = (a.view(batch, steps, self.heads, -1).transpose(1, 2) for a in qkv)
        cache[0][:, :, n : n + steps], cache[1][:, :, n : n + steps] = k, v
        y = F.scaled_dot_product_attention(q, cache[0][:, :, : n + steps], cache[1][:, :, : n + steps],
                                           is_causal=steps > 1)
        x = x + self.self_attn.out_proj(y.transpose(1, 2).reshape(batch, steps, -1))
        return x + self.linear2(F.gelu(self.linear1(self.norm2(x)), approximate="tanh"))


class LanguageModel(nn.Module):
    """GPT-2's layers."""

    def __init__(self, layers: int, width: int) -> None:
        super().__init__()
        heads = width // 32 if width < 768 else 12
        self.embedding, self.positions = nn.Embedding(given.VOCABULARY, width), nn.Embedding(1024, width)
        self.layers, self.norm = nn.ModuleList(Layer(width, heads) for _ in range(layers)), nn.LayerNorm(width)

    def caches(self, batch: int) -> Any:
        return [[torch.zeros(batch, layer.heads, given.PROMPT + given.TOKENS, layer.norm1.weight.numel() // layer.heads)
                 for _ in range(2)] for layer in self.layers]

    def forward(self, ids: Any, caches: Any, n: int) -> Any:
        x = self.embedding(ids) + self.positions(torch.arange(n, n + ids.shape[1]))
        for layer, cache in zip(self.layers, caches, strict=True):
            x = layer(x, cache, n)
        return F.linear(self.norm(x[:, -1]), self.embedding.weight)


def generation(layers: int, width: int) -> Call:
    model, prompt = filled(LanguageModel(layers, width)).eval(), torch.arange(given.PROMPT + 1)[None]
    caches = model.caches(1)
    torch.inference_mode()(model)(prompt[:, :-1], caches, 0)

    @torch.inference_mode()
    def generate() -> Any:
        last, tokens = prompt[:, -1:], []
        for n in range(given.PROMPT, given.PROMPT + given.TOKENS):
            last = model(last, caches, n).argmax(-1, keepdim=True)
            tokens.append(last.item())
        return [tokens]

    return generate


def beam(layers: int, width: int, beams: int) -> Call:
    model, prompt = filled(LanguageModel(layers, width)).eval(), torch.arange(given.PROMPT + 1)[None]
    first = model.caches(1)
    torch.inference_mode()(model)(prompt[:, :-1], first, 0)

    @torch.inference_mode()
    def generate() -> Any:
        caches = [[a.clone() for a in pair] for pair in first]
        last, scores, tokens = prompt[:, -1:], torch.zeros(1, 1), torch.zeros(1, 0, dtype=torch.long)
        for n in range(given.PROMPT, given.PROMPT + given.TOKENS):
            totals = (scores + F.log_softmax(model(last, caches, n), -1)).flatten()
            values, places = totals.topk(beams)
            parents, last = places // given.VOCABULARY, (places % given.VOCABULARY)[:, None]
            scores, tokens = values[:, None], torch.cat([tokens[parents], last], 1)
            caches = [[a[parents] for a in pair] for pair in caches]
        return [tokens[0]]

    return generate


def one_row(cell: str, steps: int, width: int) -> Call:
    layer = filled(getattr(nn, cell)(width, width, batch_first=True))
    x = torch.from_numpy(given.numbers("x", 1, steps, width))
    return torch.no_grad()(lambda: [layer(x)[0]])


def one_row_both_ways(steps: int, width: int) -> Call:
    layer = filled(nn.GRU(width, width, 2, bidirectional=True, batch_first=True))
    x = torch.from_numpy(given.numbers("x", 1, steps, width))
    return torch.no_grad()(lambda: [layer(x)[0]])


def first_result() -> Call:
    return lambda: subprocess.run([sys.executable, "-c", FIRST], check=True, stdout=subprocess.PIPE) and []
