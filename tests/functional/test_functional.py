"""Every function of `tinyseq.functional` against a NumPy twin, its composed definition, central differences, PyTorch.

One row a function. `make(choose)` returns arguments and options; all chance is in `choose`, which picks from a list.
Floating-point arrays become Tensors, None and integers stay what they are.
"""

import inspect
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pytest
from helpers.rows import layout
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
import tinyseq.functional as F
from tinyseq import nn
from tinyseq.functional.recurrence import GATES
from tinyseq.testing import check_grad

Choose = Callable[[Sequence[Any]], Any]

SHAPES: list[tuple[int, ...]] = [(), (1,), (4,), (0,), (2, 3), (2, 0), (0, 3), (2, 1, 3)]
AXES = [s for s in SHAPES if s]


def draw(choose: Choose, *shapes: tuple[int, ...], shift: float = 0.01) -> list[Any]:
    """Numbers in +-2 on a grid of 0.02 that is moved off 0 by `shift`, so that no kink is near."""
    rng = np.random.default_rng(choose(range(100)))
    return [np.asarray(0.02 * np.round(50 * rng.uniform(-2, 2, s)) + shift) for s in shapes]


def ids(choose: Choose, shape: tuple[int, ...], size: int) -> Any:
    return np.random.default_rng(choose(range(100))).integers(0, size, shape)


# --- twins in NumPy ------------------------------------------------------------------------------------------------


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def erf(x: Any) -> Any:
    return np.asarray(np.vectorize(math.erf, otypes=[np.float64])(x))


def softmax(x: Any, axis: int = -1, mask: Any = None) -> Any:
    e = np.exp(x) * (True if mask is None else mask)
    total = e.sum(axis, keepdims=True)
    return e / np.where(total == 0, 1, total)


def gelu(x: Any, approximate: str = "none") -> Any:
    inner = erf(x / np.sqrt(2)) if approximate == "none" else np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))
    return 0.5 * x * (1 + inner)


def glu(x: Any, axis: int = -1) -> Any:
    a, b = np.split(x, 2, axis)
    return a * sigmoid(b)


def linear(x: Any, w: Any, b: Any = None) -> Any:
    return np.einsum("...i,oi->...o", x, w) + (0 if b is None else b)


def layer_norm(x: Any, shape: Any, weight: Any, bias: Any, eps: float) -> Any:
    axes = tuple(range(x.ndim - len(shape), x.ndim))
    y = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)
    return y * (1 if weight is None else weight) + (0 if bias is None else bias)


def swiglu(x: Any) -> Any:
    a, b = np.split(x, 2, -1)
    return a * sigmoid(a) * b


def rms_norm(x: Any, shape: Any, weight: Any, eps: float) -> Any:
    axes = tuple(range(x.ndim - len(shape), x.ndim))
    return x / np.sqrt((x * x).mean(axes, keepdims=True) + eps) * (1 if weight is None else weight)


def attention_weights(q: Any, k: Any, mask: Any = None, scale: Any = None) -> Any:
    return softmax(q @ np.swapaxes(k, -1, -2) * (scale or q.shape[-1] ** -0.5), -1, mask)


def attention(q: Any, k: Any, v: Any, mask: Any = None, scale: Any = None) -> Any:
    return attention_weights(q, k, mask, scale) @ v


def rnn_cell(x: Any, h: Any, *weights: Any, nonlinearity: str) -> Any:
    a = gates(x, h, 1, *weights)
    z = a[0][0] + a[1][0]
    return np.tanh(z) if nonlinearity == "tanh" else np.maximum(z, 0)


def gates(x: Any, h: Any, n: int, w: Any, u: Any, b: Any, d: Any) -> Any:
    return np.split(linear(x, w, b), n, -1), np.split(linear(h, u, d), n, -1)


def lstm_cell(x: Any, h: Any, c: Any, *weights: Any) -> Any:
    i, f, g, o = (p + q for p, q in zip(*gates(x, h, 4, *weights), strict=True))
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def gru_cell(x: Any, h: Any, w: Any, u: Any, b: Any, d: Any, reset: str) -> Any:
    (x_r, x_z, x_n), (h_r, h_z, h_n) = gates(x, h, 3, w, u, b, d)
    r, z = sigmoid(x_r + h_r), sigmoid(x_z + h_z)
    size = h.shape[1]
    inner = r * h_n if reset == "after" else (r * h) @ u[2 * size:].T + (0 if d is None else d[2 * size:])
    return (1 - z) * np.tanh(x_n + inner) + z * h


def reduce(losses: Any, reduction: str, count: float | None = None) -> Any:
    if reduction == "none":
        return losses
    if reduction == "mean":
        return losses.sum() / (count or losses.size)
    return losses.sum() / (len(losses) if reduction == "batchmean" and losses.ndim else 1)


def cross_entropy(x: Any, targets: Any, weight: Any = None, ignore_index: int = -100, reduction: str = "mean",
                  label_smoothing: float = 0.0) -> Any:
    return nll_loss(np.log(softmax(x)), targets, weight, ignore_index, reduction, label_smoothing)


def nll_loss(logs: Any, targets: Any, weight: Any = None, ignore_index: int = -100, reduction: str = "mean",
             smoothing: float = 0.0) -> Any:
    classes = logs.shape[-1]
    weight = np.ones(classes) if weight is None else weight
    losses, count = np.zeros(targets.shape), 0.0
    for at in np.ndindex(targets.shape):
        if targets[at] != ignore_index:
            target = np.full(classes, smoothing / classes)
            target[targets[at]] += 1 - smoothing
            losses[at] = -(target * weight * logs[at]).sum()
            count += weight[targets[at]]
    return reduce(losses, reduction, count or 1)


def huber_loss(x: Any, t: Any, reduction: str, delta: float) -> Any:
    d = abs(x - t)
    return reduce(np.where(d <= delta, d * d / 2, delta * (d - delta / 2)), reduction)


def binary(p: Any, t: Any, reduction: str, pos_weight: Any = None) -> Any:
    return reduce(-(t * np.log(p) * (1 if pos_weight is None else pos_weight) + (1 - t) * np.log(1 - p)), reduction)


def kl_div(logs: Any, t: Any, reduction: str, log_target: bool) -> Any:
    p = np.exp(t) if log_target else t
    return reduce(p * (np.log(np.where(p > 0, p, 1)) - logs), reduction)


# --- PyTorch's, where arguments differ -----------------------------------------------------------------------------


def torch_classes(name: str) -> Callable[..., Any]:
    def loss(torch: Any, x: Any, targets: Any, weight: Any = None, **options: Any) -> Any:
        if not bool((targets != options.get("ignore_index", -100)).any()) and options["reduction"] == "mean":
            return None  # there a mean over nothing is NaN
        y = getattr(torch.nn.functional, name)(x.reshape(-1, x.shape[-1]), targets.reshape(-1), weight, **options)
        return y if y.ndim == 0 else y.reshape(targets.shape)

    return loss


def torch_softmax(torch: Any, x: Any, axis: int = -1, mask: Any = None) -> Any:
    if mask is None:
        return torch.softmax(x, axis)
    return torch.softmax(x.masked_fill(~mask, -1e30), axis) * mask  # all masked: 0, without a NaN on the way back


def torch_attention_weights(torch: Any, q: Any, k: Any, mask: Any = None, scale: Any = None) -> Any:
    return torch_softmax(torch, q @ k.mT * (scale or q.shape[-1] ** -0.5), -1, mask)


def torch_attention(torch: Any, q: Any, k: Any, v: Any, mask: Any = None, scale: Any = None) -> Any:
    return torch_attention_weights(torch, q, k, mask, scale) @ v


def torch_cell(torch: Any, *args: Any, nonlinearity: str = "", reset: str = "") -> Any:
    if reset == "before":
        return None
    return (getattr(torch, f"rnn_{nonlinearity}_cell") if nonlinearity else torch.gru_cell)(*args)


# --- the rows ------------------------------------------------------------------------------------------------------


class Row(NamedTuple):
    name: str  # in tinyseq.functional
    make: Callable[[Choose], tuple[list[Any], dict[str, Any]]]
    twin: Any  # the same in NumPy; None where the composed definition is the twin
    torch: Any  # a name in torch.nn.functional, or a function that takes torch first; None: not there
    wrong: Sequence[tuple[Any, ...]] = ()  # illegal arguments, options in a dict at the end; then the error's pattern
    before: Callable[[], Any] = lambda: None  # called first

    def arguments(self, choose: Choose) -> tuple[list[Any], dict[str, Any]]:
        arguments, options = self.make(choose)
        return [np.asarray(x) if isinstance(x, np.generic) else x for x in arguments], options

    def __call__(self, *args: Any, **options: Any) -> Any:
        self.before()
        return getattr(F, self.name)(*args, **options)


def elementwise(*, low: float = -2, **options: Any) -> Any:
    def make(choose: Choose) -> Any:
        x = np.maximum(draw(choose, choose(SHAPES))[0], low)
        return [x], {k: choose(v) for k, v in options.items()}

    return make


def along(even: bool = False, mask: bool = False) -> Any:
    def make(choose: Choose) -> Any:
        shape = choose([(2,), (4, 0), (2, 4), (2, 1, 4)] if even else AXES)
        axis = choose([a for a in range(-len(shape), len(shape)) if not even or shape[a] % 2 == 0])
        options = {"axis": axis}
        if mask and choose([True, False]):
            options["mask"] = np.random.default_rng(choose(range(100))).random(choose([shape, shape[-1:]])) > 0.5
        return draw(choose, shape), options

    return make


def make_linear(choose: Choose) -> Any:
    width, out = choose([0, 1, 3]), choose([1, 2, 0])
    x, w, b = draw(choose, (*choose([(), (2,), (0,), (2, 3)]), width), (out, width), (out,))
    return [x, w, choose([b, None])], {}


def make_embedding(choose: Choose) -> Any:
    return [ids(choose, choose(SHAPES), 5), *draw(choose, (5, choose([1, 3])))], {"padding_idx": choose([None, 2, -1])}


def make_layer_norm(choose: Choose) -> Any:
    shape = choose([(3,), (2, 3)])
    x, w, b = draw(choose, (*choose([(), (2,), (0,), (2, 2)]), *shape), shape, shape)
    return [x, shape, choose([w, None]), choose([b, None]), 1e-2], {}


def make_swiglu(choose: Choose) -> Any:
    return draw(choose, choose([(2,), (0, 4), (3, 2), (2, 1, 4)])), {}


def make_rms_norm(choose: Choose) -> Any:
    (x, shape, weight, _, eps), _ = make_layer_norm(choose)
    return [x, shape, weight, eps], {}


def make_attention_weights(choose: Choose) -> Any:
    (query, key, _), options = make_attention(choose)
    return [query, key], options


def make_attention(choose: Choose) -> Any:
    batch, t, s = choose([(), (2,), (2, 3), (0,)]), choose([1, 3]), choose([1, 4])
    mask = np.random.default_rng(choose(range(100))).random((*batch, 1, s)) > 0.4
    return draw(choose, (*batch, t, 2), (*batch, s, 2), (*batch, s, 3)), {
        "mask": choose([None, mask]), "scale": choose([None, 0.3])}


def weights(choose: Choose, gates: int, width: int, hidden: int) -> list[Any]:
    w, u, b, d = draw(choose, (gates * hidden, width), (gates * hidden, hidden), (gates * hidden,), (gates * hidden,))
    return [w / 2, u / 2, *choose([(b, d), (None, None), (b, None), (None, d)])]


def cell(gates: int, states: int = 1, **options: Any) -> Any:
    def make(choose: Choose) -> Any:
        batch, width, hidden = choose([1, 3, 0]), choose([1, 2]), choose([1, 3])
        x_h = draw(choose, (batch, width), *[(batch, hidden)] * states)
        return [*x_h, *weights(choose, gates, width, hidden)], {k: choose(v) for k, v in options.items()}

    return make


def scan(name: str) -> Any:
    def make(choose: Choose) -> Any:
        batch, steps, width, hidden = choose([3, 4, 1, 0]), choose([4, 3, 1, 0]), choose([2, 2, 0]), choose([1, 3])
        x, h, c = draw(choose, (batch, steps, width), (batch, hidden), (batch, hidden))
        lengths = choose([None, ids(choose, (batch,), steps + 1)])
        mask = choose([None, ids(choose, (batch, hidden), 3)])
        return [name, x, h, c if name == "lstm" else None, *weights(choose, GATES[name], width, hidden), lengths,
                choose([False, True]), mask], {}

    return make


def class_loss(smoothing: bool) -> Any:
    def make(choose: Choose) -> Any:
        shape = choose([(3,), (2, 3), (), (0,), (2, 0)])
        (x, w), targets = draw(choose, (*shape, 4), (4,)), ids(choose, shape, 4)
        options = {"weight": choose([None, abs(w)]), "ignore_index": choose([-100, 1, -1]),
                   "reduction": choose(["mean", "sum", "none"])}
        targets = np.where(ids(choose, shape, 3) == 0, options["ignore_index"], targets)
        if smoothing:
            options["label_smoothing"] = choose([0.0, 0.1, 1.0])
        return [x if smoothing else np.log(softmax(x)), targets], options

    return make


def soft_loss(choose: Choose) -> Any:
    shape = choose([(3,), (2, 3), (), (0,)])
    x, w, t = draw(choose, (*shape, 4), (4,), (*shape, 4))
    return [x, softmax(t)], {"weight": choose([None, abs(w)]), "label_smoothing": choose([0.0, 0.1, 1.0]),
                             "reduction": choose(["mean", "sum", "none"]) if 0 not in shape else "sum"}


def soft_cross_entropy(x: Any, t: Any, weight: Any, reduction: str, label_smoothing: float) -> Any:
    t = ((1 - label_smoothing) * t + label_smoothing / 4) * (1 if weight is None else weight)
    return reduce(-(t * np.log(softmax(x))).sum(-1), reduction)


def torch_soft(torch: Any, x: Any, t: Any, **options: Any) -> Any:
    y = torch.nn.functional.cross_entropy(x.reshape(-1, 4), t.reshape(-1, 4), **options)
    return y if y.ndim == 0 else y.reshape(x.shape[:-1])


def pair(x_map: Any = None, t_map: Any = None, **options: Any) -> Any:
    def make(choose: Choose) -> Any:
        chosen = {k: choose(v) for k, v in options.items()}
        shape = choose(SHAPES)
        if 0 in shape:
            chosen["reduction"] = "sum"  # the mean of nothing is NaN
        x, t = draw(choose, shape)[0], draw(choose, shape, shift=0.015)[0]
        return [x if x_map is None else x_map(x), t if t_map is None else t_map(t, **chosen)], chosen

    return make


REDUCTIONS = {"reduction": ["mean", "sum", "none"]}
a, b, narrow, whole = np.zeros((2, 3)), np.zeros((3, 5)), np.zeros((2, 3), "float32"), np.zeros((2, 3), int)
three = (np.zeros((6, 4)), np.zeros((6, 2)))
two_shapes = [(whole, a, "floating-point .*, got int64"), (a, b, r"\(2, 3\).*\(3, 5\)"),
              (a, a, {"reduction": "avg"}, "reduction .* 'avg'")]
class_errors = [
    (a, np.zeros(3, int), r"\(2, 3\) and \(3,\)"), (a, np.zeros(2), "float64"), (a, np.array([0, 3]), "id 3 .* < 3"),
    (a, np.array([0, -1]), "id -1"), (a, np.zeros(2, int), {"weight": np.ones(4)}, r"\(3,\).*\(4,\)"),
    (a, np.zeros(2, int), {"reduction": "avg"}, "reduction .* 'avg'"),
    (a, np.zeros(2, int), {"ignore_index": 0.5}, "ignore_index to be an integer, got 0.5"),
    (whole, np.zeros(2, int), "floating-point .*, got int64")]

ROWS = [
    Row("relu", elementwise(), lambda x: np.maximum(x, 0), "relu"),
    Row("leaky_relu", elementwise(negative_slope=[0.01, 0.2]), lambda x, negative_slope: np.where(
        x > 0, x, negative_slope * x), "leaky_relu"),
    Row("elu", elementwise(alpha=[1.0, 0.5]), lambda x, alpha: np.where(x > 0, x, alpha * (np.exp(x) - 1)), "elu"),
    Row("gelu", elementwise(approximate=["none", "tanh"]), gelu, "gelu", [
        (a, "tan", r"2, 3.*'none' or 'tanh'"), (whole, "gelu.*floating-point numbers, got int64: use x.astype")]),
    Row("silu", elementwise(), lambda x: x * sigmoid(x), "silu"),
    Row("softplus", elementwise(), lambda x: np.log(1 + np.exp(x)), "softplus"),
    Row("log_sigmoid", elementwise(), lambda x: np.log(sigmoid(x)), "logsigmoid"),
    Row("glu", along(even=True), glu, lambda torch, x, axis: torch.nn.functional.glu(x, axis), [(a, "glu.*: .*2, 3")]),
    Row("swiglu", make_swiglu, swiglu, None, [(a, "glu.*: .*2, 3")]),
    Row("softmax", along(mask=True), softmax, torch_softmax, [
        (a, 2, "softmax.*2, 3.*axis 2"), (a, {"mask": np.ones(2, bool)}, "softmax.*2, 3.*2"),
        (a, {"mask": np.ones(3)}, "softmax.*2, 3.*float"), (whole, "softmax.*got int64: use x.astype")]),
    Row("log_softmax", along(), lambda x, axis: np.log(softmax(x, axis)),
        lambda torch, x, axis: torch.log_softmax(x, axis), [
            (a, 2, "log_softmax.*2, 3.*axis 2"), (whole, "log_softmax.*got int64: use x.astype")]),
    Row("linear", make_linear, linear, "linear", [
        (a, b, "linear.*2, 3.*3, 5"), (a, a, np.ones(3), "linear.*2, 3.*3"), (a, a, np.ones(1), "linear.*2, 3.*1"),
        (a, narrow, "linear.*x float64, weight float32: .*module.to.*x.astype"),
        (a, a, np.ones(2, "float32"), "bias float32")]),
    Row("embedding", make_embedding, lambda i, w, padding_idx: w[i], "embedding", [
        (np.array([0, 2]), a, "id 2 .* < 2"), (np.array([-1]), a, "id -1"), (np.ones(3), a, "float64.*3"),
        (np.array([0]), np.ones(4), r"\(4,\)"), (np.array([0]), a, 2, r"embedding.*: .* -2 <= padding_idx <= 1, got 2"),
        (np.array([0]), a, 0.5, "embedding.*: .*padding_idx.* got 0.5")]),
    Row("layer_norm", make_layer_norm, layer_norm, "layer_norm", [
        (a, 2, r"\(2, 3\).*\(2,\)"), (a, 3, np.ones(2), r"weight.*\(2,\).*\(3,\)"),
        (a, (2, 3), np.ones(a.shape), np.ones(3), r"bias.*\(3,\).*\(2, 3\)"),
        (a, (1, 2, 3), r"\(2, 3\).*\(1, 2, 3\)"), (a, (), r"\(2, 3\).*\(\)"),
        (narrow, 3, np.ones(3), "x float32, weight float64")]),
    Row("rms_norm", make_rms_norm, rms_norm, None, [
        (a, 2, r"\(2, 3\).*\(2,\)"), (a, 3, np.ones(2), r"weight.*\(2,\).*\(3,\)"), (a, (), r"\(2, 3\).*\(\)"),
        (narrow, 3, np.ones(3), "x float32, weight float64")]),
    Row("dropout", elementwise(p=[0.0, 0.3]), lambda x, p: x * (np.random.Philox(key=3).random_raw(
        (x.size + 1) // 2).view(np.uint32)[:x.size].reshape(x.shape) >= p * 2**32) / (1 - p), None,
        [(a, 1.0, "got 1.0"), (a, -0.1, "got -0.1")], before=lambda: ts.manual_seed(3)),
    Row("attention", make_attention, attention, torch_attention, [
        (a, b, b, r"\(2, 3\), \(3, 5\)"), (a, a, np.zeros((4, 2)), r"\(4, 2\)"), (a[0], a, a, r"\(3,\)"),
        (np.ones((2, 3, 1, 2)), *[np.ones((2, 2, 1, 2))] * 2, "a part of the heads"), (narrow, a, a, "query float32"),
        (a, a, a, {"mask": np.ones((3, 2), bool)}, r"\(2, 2\), got \(3, 2\)"),
        (a, a, a, {"mask": np.zeros((2, 2))}, "float64.*mask == 0")]),
    Row("attention_weights", make_attention_weights, attention_weights, torch_attention_weights, [
        (a, b, r"\(2, 3\), \(3, 5\)"), (narrow, a, "query float32"),
        (a, a, {"mask": np.zeros((2, 2))}, "float64.*mask == 0")]),
    Row("rnn_cell", cell(1, nonlinearity=["tanh", "relu"]), rnn_cell, torch_cell, [
        (a, a, b, a, "w_hh=.*: expected"), (a, a, a, a, None, None, "gelu", "'tanh' or 'relu'.*'gelu'")]),
    Row("lstm_cell", cell(4, 2), lstm_cell, lambda torch, x, h, c, *w: torch.lstm_cell(x, (h, c), *w), [
        (a, a, a, b, a, "w_hh=.*: expected")]),
    Row("gru_cell", cell(3, reset=["after", "before"]), gru_cell, torch_cell, [
        (a, a, b, a, "w_hh=.*: expected"), (a, a, a, a, None, None, "never", "'after' or 'before'.*'never'")]),
    *(Row("scan", scan(name), None, None) for name in GATES if name != "gru"),
    Row("scan", scan("gru"), None, None, [
        ("gru2", np.ones((2, 5, 4)), np.ones((2, 2)), None, *three, "scan.*gru2.*2, 5, 4.*gru, gru_before"),
        ("lstm", np.ones((2, 5, 4)), np.ones((2, 2)), None, *three, "c0"),
        ("gru", np.ones((2, 5, 4)), np.ones((2, 2)), np.ones((2, 2)), *three, "c0"),
        ("gru", np.ones((2, 4)), np.ones((2, 2)), None, *three, r"x \(B, T, I\)"),
        ("gru", np.ones((2, 5, 4)), np.ones((1, 2)), None, *three, r"h0 of shape \(2, 2\)"),
        ("gru", np.ones((2, 5, 3)), np.ones((2, 2)), None, *three, r"w_ih of shape \(6, 3\)"),
        ("gru", np.ones((2, 5, 4)), np.ones((2, 2)), None, three[0], three[0], r"w_hh of shape \(6, 2\)"),
        ("gru", np.ones((2, 5, 4)), np.ones((2, 2)), None, *three, np.ones(2), r"b_ih of shape \(6,\)"),
        ("gru", np.ones((2, 5, 4)), np.ones((2, 2)), None, *three, None, np.ones(2), r"b_hh of shape \(6,\)"),
        *(("gru", np.ones((2, 5, 4)), np.ones((2, 2)), None, *three, None, None, lengths, message)
          for lengths, message in ((np.ones(3, int), r"2 integers.*\(3,\)"), (np.ones(2, bool), "dtype bool"),
                                   ([0.5, 1.0], "dtype float64"), ([0, 6], r"from 0 to the 5 steps.*\[0, 6\]"),
                                   ([-1, 2], r"\[-1, 2\]"))),
        ("gru", np.ones((2, 5, 4)), np.ones((2, 2), "float32"), None, *three, "x float64, h0 float32.*astype")]),
    Row("cross_entropy", class_loss(True), cross_entropy, torch_classes("cross_entropy"), [
        *class_errors, (a, np.zeros(2, int), {"label_smoothing": 1.5}, "label_smoothing.*1.5"),
        (a, np.zeros(2, int), {"label_smoothing": "0.1"}, "cross_entropy.*label_smoothing.*'0.1'"),
        (a, a, {"ignore_index": 1}, "no ignore_index where targets are probabilities, got 1")]),
    Row("cross_entropy", soft_loss, soft_cross_entropy, torch_soft),
    Row("nll_loss", class_loss(False), nll_loss, torch_classes("nll_loss"), class_errors),
    Row("mse_loss", pair(**REDUCTIONS), lambda x, t, reduction: reduce((x - t) ** 2, reduction), "mse_loss",
        two_shapes),
    Row("l1_loss", pair(**REDUCTIONS), lambda x, t, reduction: reduce(abs(x - t), reduction), "l1_loss", two_shapes),
    Row("huber_loss", pair(**REDUCTIONS, delta=[1.0, 0.3]), huber_loss, "huber_loss", [
        *two_shapes, *((a, a, {"delta": d}, f"huber_loss.* delta, got {d}") for d in (-1, 0.0))]),
    Row("binary_cross_entropy", pair(sigmoid, lambda t, **_: sigmoid(t), **REDUCTIONS), binary,
        "binary_cross_entropy", [*two_shapes, (a - 0.5, a, "from 0 to 1, got -0.5 .*with_logits"),
                                 (a + 1.5, a, "got 1.5")]),
    Row("binary_cross_entropy_with_logits",
        pair(None, lambda t, **_: sigmoid(t), **REDUCTIONS, pos_weight=[None, np.array(2.5)]),
        lambda x, t, **options: binary(sigmoid(x), t, **options), "binary_cross_entropy_with_logits", two_shapes),
    Row("kl_div", pair(lambda x: np.minimum(x, -0.1), lambda t, log_target, **_: t if log_target else abs(t) + 0.1,
                       reduction=["mean", "sum", "none", "batchmean"], log_target=[False, True]),
        kl_div, "kl_div", two_shapes),
]

every_row = pytest.mark.parametrize("row", ROWS, ids=lambda r: r.name)
FILES = [module for name, module in sys.modules.items() if name.startswith(F.__name__)]
KERNELS = {name: f for file in FILES for name, f in vars(file).items() if getattr(f, "definition", None)}


@contextmanager
def composed() -> Iterator[None]:
    """Every op with a kernel is its composed definition."""
    with pytest.MonkeyPatch.context() as patch:
        for file, (name, kernel) in product(FILES, KERNELS.items()):
            if name in vars(file):
                patch.setattr(file, name, kernel.definition)
        yield


def is_float(x: Any) -> bool:
    return isinstance(x, np.ndarray) and x.dtype.kind == "f"


def tensors(arguments: Sequence[Any], dtype: Any, choose: Choose) -> list[Any]:
    """Floating-point arrays as leaves, read-only and in all sorts of strides."""
    return [ts.Tensor(ts.asarray(layout(np.array(x, dtype), choose(range(4)))).data, True) if is_float(x) else x
            for x in arguments]


def masks(options: dict[str, Any]) -> dict[str, Any]:
    return {k: ts.asarray(v) if isinstance(v, np.ndarray) and v.dtype == bool else v for k, v in options.items()}


def flat(y: Any) -> list[Any]:
    return list(y) if isinstance(y, tuple) else [y]


def close(got: Any, expected: Any, dtype: Any) -> None:
    """Equal within 1e-10 or (float32) 1e-5 of the largest entry, or of 0.5 where all are small."""
    assert got.shape == expected.shape and got.dtype == dtype
    scale = np.abs(expected).max(initial=0.5)
    np.testing.assert_allclose(got, expected, rtol=0, atol=scale * (1e-10 if dtype == "float64" else 1e-5))


def results(fn: Any, arguments: Sequence[Any], options: dict[str, Any]) -> list[Any]:
    """Outputs of fn, then the gradients of their randomly weighted sum with respect to the Tensors among arguments."""
    outputs = flat(fn(*arguments, **options))
    leaves = [x for x in arguments if isinstance(x, ts.Tensor) and x.requires_grad]
    roots = [(y, ts.asarray(seed(i, y.shape), y.dtype)) for i, y in enumerate(outputs) if y.requires_grad]
    found = ts.grad([y for y, _ in roots], leaves, [g for _, g in roots], allow_unused=True) if roots else []
    return [y.detach().numpy() for y in outputs] + [
        np.zeros(x.shape, x.dtype) if g is None else g.numpy() for x, g in zip(leaves, found or leaves, strict=True)]


def seed(i: int, shape: tuple[int, ...]) -> Any:
    """What output number i is weighted by: numbers of any dtype."""
    return np.random.default_rng(i).standard_normal(shape).astype(np.float16).astype(np.float64)


def test_every_public_function_has_a_row_and_every_kernel_a_definition() -> None:
    public = {name for name, f in vars(F).items() if inspect.isfunction(f) and f.__module__.startswith(F.__name__)
              and not name.startswith("_")} - {"unroll", "rotate", "checked_lengths"}  # elsewhere
    assert public == {row.name for row in ROWS}
    assert {name.lstrip("_") for name in KERNELS} <= public
    assert all(row.twin or f"_{row.name}" in KERNELS for row in ROWS)


@every_row
@given(data=st.data())
def test_values_are_the_twins(row: Row, data: st.DataObject) -> None:
    choose = lambda options: data.draw(st.sampled_from(options))
    arguments, options = row.arguments(choose)
    dtype = choose(["float32", "float64"])
    if row.twin is not None:
        got = flat(row(*tensors(arguments, dtype, choose), **masks(options)))
        for y, z in zip(got, flat(row.twin(*arguments, **options)), strict=True):
            close(y.detach().numpy(), np.asarray(z), dtype)


@every_row
@given(data=st.data())
def test_gradients_are_central_differences(row: Row, data: st.DataObject) -> None:
    choose = lambda options: data.draw(st.sampled_from(options))
    arguments, options = row.arguments(choose)
    if (row.name == "scan" and arguments[0] == "rnn_relu") or options.get("nonlinearity") == "relu":
        return  # kinks anywhere: the composed definition and PyTorch judge its gradients
    if options.get("padding_idx") is not None:
        return  # gradient 0 by decree
    check_grad(lambda *args: row(*args, **masks(options)), *tensors(arguments, "float64", choose), order=2)


@pytest.mark.parametrize("row", [r for r in ROWS if {r.name, f"_{r.name}"} & set(KERNELS)], ids=lambda r: r.name)
@given(data=st.data())
def test_equal_to_the_composed_definition(row: Row, data: st.DataObject) -> None:
    choose = lambda options: data.draw(st.sampled_from(options))
    arguments, options = row.arguments(choose)
    dtype = choose(["float32", "float64"])
    leaves = tensors(arguments, dtype, choose)
    got = results(row, leaves, masks(options))
    with composed():
        expected = results(row, leaves, masks(options))
    for y, z in zip(got, expected, strict=True):
        close(y, z, dtype)


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides:UserWarning")
@pytest.mark.parametrize("row", [r for r in ROWS if r.torch], ids=lambda r: r.name)
@given(data=st.data())
def test_equal_to_pytorch(row: Row, data: st.DataObject) -> None:
    torch = pytest.importorskip("torch")
    choose = lambda options: data.draw(st.sampled_from(options))
    arguments, options = row.arguments(choose)
    dtype = choose(["float32", "float64"])

    def convert(x: Any, grad: bool) -> Any:
        if not isinstance(x, np.ndarray):
            return x
        return torch.tensor(x.astype(dtype), requires_grad=grad) if is_float(x) else torch.tensor(x)

    given_ = [convert(x, True) for x in arguments]
    options_ = {k: convert(v, False) for k, v in options.items()}
    if callable(row.torch):
        outputs = row.torch(torch, *given_, **options_)
    else:
        outputs = getattr(torch.nn.functional, row.torch)(*given_, **options_)
    if outputs is None:
        return
    sum((y * torch.tensor(seed(i, y.shape), dtype=y.dtype)).sum() for i, y in enumerate(flat(outputs))).backward()
    expected = [y.detach() for y in flat(outputs)]
    expected += [x.grad if x.grad is not None else torch.zeros_like(x) for x in given_ if isinstance(x, torch.Tensor)
                 and x.requires_grad]
    for y, z in zip(results(row, tensors(arguments, dtype, choose), masks(options)), expected, strict=True):
        close(y, z.numpy(), dtype)


@pytest.mark.parametrize("row", [r for r in ROWS if r.wrong], ids=lambda r: r.name)
def test_wrong_arguments_are_named(row: Row) -> None:
    for *arguments, pattern in row.wrong:
        options = arguments.pop() if isinstance(arguments[-1], dict) else {}
        arguments = [ts.tensor(x) if is_float(x) else x for x in arguments]
        with pytest.raises((TypeError, ValueError, IndexError), match=pattern):
            row(*arguments, **options)


# --- far out -------------------------------------------------------------------------------------------------------

dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])
INF = math.inf


@dtypes
@pytest.mark.parametrize("name, expected, slope", [
    ("relu", [0, 0, 1e4], [0, 0, 1]), ("leaky_relu", [-1e2, 0, 1e4], [0.01, 0.01, 1]), ("elu", [-1, 0, 1e4], [0, 1, 1]),
    ("gelu", [0, 0, 1e4], [0, 0.5, 1]), ("silu", [0, 0, 1e4], [0, 0.5, 1]),
    ("softplus", [0, math.log(2), 1e4], [0, 0.5, 1]), ("log_sigmoid", [-1e4, -math.log(2), 0], [1, 0.5, 0]),
])
def test_activations_far_out(name: str, expected: list[float], slope: list[float], dtype: str) -> None:
    x = ts.tensor([-1e4, 0, 1e4], dtype, requires_grad=True)
    y, dx = results(getattr(F, name), [x], {})[0], ts.grad(getattr(F, name)(x).sum(), x).numpy()
    np.testing.assert_allclose(y, expected, rtol=1e-6)
    np.testing.assert_allclose(dx, slope, rtol=1e-6)


@dtypes
@pytest.mark.parametrize("kernel", [True, False])
def test_softmax_far_out(kernel: bool, dtype: str) -> None:
    x = ts.tensor([[1e4, 1e4, -1e4], [-INF, 1e4, -1e4], [-INF, -1e4, -1e4], [-INF] * 3], dtype, requires_grad=True)
    expected = [[0.5, 0.5, 0], [0, 1, 0], [0, 0.5, 0.5], [0, 0, 0]]
    half = -math.log(2)
    logs = [[half, half, -2e4 + half], [-INF, 0, -2e4], [-INF, half, half], [-INF] * 3]
    with pytest.MonkeyPatch.context() if kernel else composed():
        y, dx = results(F.softmax, [x], {})
        z, dz = results(F.log_softmax, [x], {})
    rounding = 1e-6 if kernel or dtype == "float64" else 1e-3  # the definition subtracts a logarithm of size 1e4
    np.testing.assert_allclose(y, expected, rtol=rounding)
    np.testing.assert_allclose(z, logs, rtol=rounding)
    assert np.isfinite(dx).all() and np.isfinite(dz).all()
    assert not dx[3].any() and not dx[np.array(expected) == 0].any()


@pytest.mark.parametrize("kernel", [True, False])
def test_a_fully_masked_row_gives_zeros_and_no_nan(kernel: bool) -> None:
    q, k, v = (ts.tensor(x, requires_grad=True) for x in draw(lambda _: 1, (1, 2, 3), (1, 4, 3), (1, 4, 3)))
    mask = ts.tensor([[[True, False, True, True], [False] * 4]])
    with pytest.MonkeyPatch.context() if kernel else composed():
        for order in (1, 2):
            y, w = F.attention(q, k, v, mask), F.attention_weights(q, k, mask)
            found = ts.grad(ts.sum(y * y) + ts.sum(w**3), [q, k, v], create_graph=True)
            if order == 2:
                found = ts.grad(sum(ts.sum(g * g) for g in found), [q, k, v])
            assert all(np.isfinite(g.detach().numpy()).all() for g in found)
            assert not y.detach().numpy()[0, 1].any() and not found[0].detach().numpy()[0, 1].any()
            assert found[0].detach().numpy()[0, 0].any()


@dtypes
@pytest.mark.parametrize("kernel", [True, False])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_far_out(smoothing: float, kernel: bool, dtype: str) -> None:
    low = -1e4 if smoothing else -INF
    logits = ts.tensor([[1e4, -1e4, low], [-1e4, 1e4, low], [INF, math.nan, 0]], dtype, requires_grad=True)
    with pytest.MonkeyPatch.context() if kernel else composed():
        losses, dx = results(F.cross_entropy, [logits, np.array([0, 0, -100])], {
            "reduction": "none", "label_smoothing": smoothing})
    spread = smoothing / 3
    np.testing.assert_allclose(losses, [4e4 * spread, 2e4 * (1 - spread), 0], rtol=1e-6)
    assert np.isfinite(dx).all() and not dx[2].any()


@dtypes
def test_cross_entropy_with_all_targets_ignored_is_zero(dtype: str) -> None:
    for loss in (F.cross_entropy, F.nll_loss):
        for reduction in ("mean", "sum"):
            y, dx = results(loss, [ts.tensor(a, dtype, requires_grad=True), np.array([7, 7])], {
                "ignore_index": 7, "reduction": reduction})
            assert y == 0 and not dx.any()


@dtypes
def test_binary_cross_entropies_far_out(dtype: str) -> None:
    target = ts.tensor([0, 1, 0, 1])  # integers widen nothing
    x = ts.tensor([-1e4, -1e4, 1e4, 1e4], dtype, requires_grad=True)
    y, dx = results(F.binary_cross_entropy_with_logits, [x, target], {"reduction": "none"})
    close(y, np.array([0, 1e4, 1e4, 0]), dtype)
    close(dx / seed(0, (4,)).astype(dtype), np.array([0, -1, 1, 0]), dtype)
    y = F.binary_cross_entropy(ts.sigmoid(x), target, reduction="none").detach().numpy()
    close(y, np.array([0, 100, 100, 0]), dtype)


@dtypes
def test_binary_cross_entropy_keeps_nan(dtype: str) -> None:
    y, dx = results(F.binary_cross_entropy, [ts.tensor([math.nan, 0.5], dtype, requires_grad=True), [1, 1]],
                    {"reduction": "none"})
    assert np.isnan([y[0], dx[0]]).all() and np.isfinite([y[1], dx[1]]).all()


@pytest.mark.reference
@dtypes
def test_binary_cross_entropy_is_torchs_at_the_ends(dtype: str) -> None:
    torch = pytest.importorskip("torch")
    p, t = (x.ravel() for x in np.meshgrid(np.array([0, 1e-40, 1e-20, 1e-7, 1 - 1e-7, 1], dtype), [0, 0.3, 1]))
    ours, theirs = ts.tensor(p, requires_grad=True), torch.tensor(p, requires_grad=True)
    y = F.binary_cross_entropy(ours, t, reduction="none")
    z = torch.nn.functional.binary_cross_entropy(theirs, torch.tensor(t.astype(dtype)), reduction="none")
    ts.sum(y).backward()
    z.sum().backward()
    np.testing.assert_allclose(y.detach().numpy(), z.detach().numpy(), rtol=1e-6)
    assert ours.grad is not None
    np.testing.assert_allclose(ours.grad.numpy(), theirs.grad.numpy(), rtol=1e-6)


# --- where data goes -----------------------------------------------------------------------------------------------


class Elsewhere:
    """An active backend that is not the model's, and that nothing may be put on."""

    name, array_types, xp = "elsewhere", (), np

    def asarray(self, data: Any, dtype: Any = None, copy: bool | None = None) -> Any:
        raise AssertionError("host data went to the active backend, not to the one where x lives")


@pytest.mark.parametrize("order", [1, 2])
def test_host_data_goes_where_the_model_is(order: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, p = ts.tensor(np.ones((2, 3)), requires_grad=True), ts.tensor(np.full((2, 3), 0.5), requires_grad=True)
    sequence, layer = ts.tensor(np.ones((2, 4, 3), "float32"), requires_grad=True), nn.GRU(3, 3)
    memory, attention, table = ts.tensor(np.ones((2, 4, 3), "float32")), nn.DotAttention(3, 3), nn.Embedding(4, 3, 0)
    monkeypatch.setattr(ts.backends, "active", Elsewhere)
    cases: list[tuple[ts.Tensor, Callable[[], ts.Tensor]]] = [
        (x, lambda: F.softmax(x, -1, [[True, False, True]])),
        (x, lambda: F.cross_entropy(x, [0, 1], [0.5, 1.0, 2.0], label_smoothing=0.1)),
        (x, lambda: F.cross_entropy(x, np.array([0, 1]), np.ones(3))),
        (x, lambda: F.nll_loss(x * x, [0, 1], [0.5, 1.0, 2.0])),
        (x, lambda: F.nll_loss(x * x, [0, 1])),
        *((x, lambda loss=loss: loss(x, [[0.0] * 3] * 2)) for loss in (F.mse_loss, F.l1_loss, F.huber_loss)),
        (p, lambda: F.binary_cross_entropy(p, [[0.0] * 3] * 2)),
        (x, lambda: F.binary_cross_entropy_with_logits(x, np.zeros((2, 3)), pos_weight=[1.0, 2.0, 3.0])),
        (x, lambda: F.kl_div(x, [[0.2] * 3] * 2)),
        (sequence, lambda: layer(sequence, lengths=[4, 2])[0]),
        (sequence, lambda: attention(sequence, memory, np.ones((2, 4), bool))[0]),
        (table.weight, lambda: table([[0, 2]])),
    ]
    for leaf, f in cases:
        y = ts.sum(f())
        assert y.dtype == leaf.dtype
        slope = ts.grad(y * y, leaf, create_graph=order == 2)
        if order == 2:
            ts.grad(ts.sum(slope * slope), leaf, allow_unused=True)


def test_losses_take_arrays() -> None:
    rows = np.array([[0.1, 0.9], [0.8, 0.2]])
    for loss in (F.cross_entropy, F.nll_loss):
        assert loss(rows, [0, 1]).item() == loss(ts.tensor(rows), [0, 1]).item()  # type: ignore[arg-type]
    for loss in (F.mse_loss, F.binary_cross_entropy, F.kl_div):
        assert loss(rows, rows / 2).item() == loss(ts.tensor(rows), rows / 2).item()  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint64"])
@pytest.mark.parametrize("reverse", [False, True])
def test_lengths_may_be_of_any_integer_type_or_a_list(dtype: str, reverse: bool) -> None:
    _, x, h, _, *more = scan("gru")(lambda options: options[0])[0]
    x = np.random.default_rng(0).standard_normal((3, 5, x.shape[2]))
    arguments = ["gru", *(ts.tensor(v) for v in (x, np.ones((3, h.shape[1])))), None,
                 *(None if v is None else ts.tensor(v) for v in more[:4])]
    expected = F.scan(*arguments, np.array([2, 0, 4]), reverse)
    for lengths in (np.array([2, 0, 4], dtype), ts.tensor(np.array([2, 0, 4], dtype)), [2, 0, 4]):
        for y, z in zip(F.scan(*arguments, lengths, reverse), expected, strict=True):
            assert np.array_equal(y.numpy(), z.numpy())


# --- dropout -------------------------------------------------------------------------------------------------------


@given(st.floats(0.05, 0.95), st.integers(0, 2**64 - 1))
def test_dropout_rate_scale_and_seed(p: float, number: int) -> None:
    x = ts.ones((4000,), ts.float64)
    ts.manual_seed(number)
    y, other = F.dropout(x, p).numpy(), F.dropout(x, p).numpy()
    ts.manual_seed(number)
    assert (F.dropout(x, p).numpy() == y).all() and (other != y).any()
    kept = y != 0
    assert abs(kept.mean() - (1 - p)) < 6 * math.sqrt(p * (1 - p) / 4000)
    np.testing.assert_allclose(y[kept], 1 / (1 - p))
    state = ts.random.get_state()
    assert F.dropout(x, p, training=False) is x and F.dropout(x, 0.0) is x and ts.random.get_state() == state


def test_recompute_replays_dropout() -> None:
    x = ts.ones((50,), requires_grad=True)
    ts.manual_seed(1)
    plain = F.dropout(x, 0.5)
    ts.manual_seed(1)
    again = ts.recompute(lambda x: F.dropout(x, 0.5), x)
    following = F.dropout(ts.ones((50,)), 0.5).numpy()
    again.backward(ts.ones((50,)))
    assert (plain.detach().numpy() == again.detach().numpy()).all()
    assert x.grad is not None and (x.grad.numpy() == plain.detach().numpy()).all()
    assert (following != plain.detach().numpy()).any()


# --- losses: their width, and the ends of the numbers --------------------------------------------------------------

NAMES = ["cross_entropy", "cross_entropy of probabilities", "nll_loss", "mse_loss", "l1_loss", "huber_loss",
         "binary_cross_entropy", "binary_cross_entropy_with_logits", "kl_div"]


def lossy(name: str, rng: Any, size: float = 1.0) -> tuple[Any, Any, Any]:
    """A loss and arguments for it, in float64."""
    x = size * rng.standard_normal((6, 5))
    targets = rng.integers(0, 5, 6) if name in ("cross_entropy", "nll_loss") else softmax(rng.standard_normal((6, 5)))
    x = 0.5 + 0.5 * np.tanh(x) if name == "binary_cross_entropy" else x - np.logaddexp.reduce(x, -1, keepdims=True) if (
        name in ("nll_loss", "kl_div")) else x
    return getattr(F, name.partition(" ")[0]), x, targets


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@given(st.sampled_from(["float16", "float32", "float64"]), st.sampled_from([1.0, 300.0]), st.integers(0, 99))
def test_a_loss_is_as_wide_as_its_input_and_rounded_once(
    name: str, reduction: str, dtype: str, size: float, number: int,
) -> None:
    loss, x, targets = lossy(name, np.random.default_rng(number), size)
    x = x.astype(dtype)
    given_ = targets if targets.dtype.kind == "i" else targets.astype([dtype, "float64"][number % 2])
    with np.errstate(over="ignore", invalid="ignore"):
        y, dx = results(loss, [ts.tensor(x, requires_grad=True), given_], {"reduction": reduction})
        assert y.dtype == dx.dtype == dtype
        wide, _ = results(loss, [ts.tensor(x.astype("float64"), requires_grad=True), given_], {"reduction": reduction})
        one = np.spacing(abs(wide).astype(dtype).max()).astype("float64") * (1 if dtype == "float16" else 40)
    if np.isfinite(one):
        np.testing.assert_allclose(y.astype("float64"), wide, rtol=0, atol=one)


def test_every_loss_has_a_name_here() -> None:
    losses = {name for name in vars(F) if name.endswith("_loss") or "entropy" in name or name.endswith("_div")}
    assert {name for name in losses if name[0] != "_"} == {name.partition(" ")[0] for name in NAMES}


EDGES = np.array([-INF, -1e4, -1e-3, 0.0, 1e-3, 1e4, INF])


@dtypes
@pytest.mark.reference
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("name", ["mse_loss", "l1_loss", "huber_loss", "binary_cross_entropy_with_logits", "kl_div"])
def test_losses_are_torchs_at_the_ends_of_the_numbers(name: str, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    x, t = (a.ravel().astype(dtype) for a in np.meshgrid(EDGES, EDGES if name[0] in "mlh" else [0, 0.3, 1]))
    x = np.minimum(x, 0) if name == "kl_div" else x
    theirs = torch.tensor(x, requires_grad=True)
    z = getattr(torch.nn.functional, name)(theirs, torch.tensor(t), reduction="none")
    z.sum().backward()
    y, dx = results(lambda x: getattr(F, name)(x, t, reduction="none"), [ts.tensor(x, requires_grad=True)], {})
    y_, dx_ = z.detach().numpy(), theirs.grad.numpy() * seed(0, x.shape).astype(dtype)
    ours = np.isnan(y_) & ~np.isnan(y)                  # theirs have 0 inf and inf - inf on the way
    assert name in ("binary_cross_entropy_with_logits", "kl_div") or not ours.any()
    np.testing.assert_allclose(y[~ours], y_[~ours], rtol=1e-5)
    real = ~np.isnan(y_)
    np.testing.assert_allclose(dx[real], dx_[real], rtol=1e-5, atol=1e-8)
    right = (x > 0) == t if name[0] == "b" else ours
    np.testing.assert_array_equal(y[ours], np.where(right[ours], 0, INF))
    np.testing.assert_allclose(dx[ours], seed(0, x.shape)[ours] * ((x > 0) - t)[ours], rtol=1e-6)


@dtypes
def test_the_right_answer_at_infinity_costs_nothing(dtype: str) -> None:
    x = ts.tensor(np.array([INF, -INF, INF, -INF], dtype), requires_grad=True)
    y, dx = results(F.binary_cross_entropy_with_logits, [x, [1.0, 0.0, 0.0, 1.0]], {"reduction": "none"})
    assert y.tolist() == [0, 0, INF, INF]
    np.testing.assert_array_equal(dx, seed(0, (4,)).astype(dtype) * [0, 0, 1, -1])
    logits = ts.tensor(np.array([[1.0, -INF, 1.0], [0.0, -INF, -INF]], dtype), requires_grad=True)
    y, dx = results(F.cross_entropy, [logits, [[0.5, 0.0, 0.5], [1.0, 0.0, 0.0]]], {"reduction": "none"})
    np.testing.assert_allclose(y, [math.log(2), 0], rtol=1e-6)
    np.testing.assert_allclose(dx, np.zeros((2, 3)), atol=1e-7)
    assert F.cross_entropy(logits, [[0.5, 0.5, 0.0]] * 2, reduction="sum").item() == INF
    assert F.kl_div(ts.tensor(math.log(0.5)), 1.0, "batchmean").item() == pytest.approx(math.log(2))


# --- zeros of a divergence -----------------------------------------------------------------------------------------


def test_kl_div_counts_no_impossible_class() -> None:
    logs = ts.tensor([-1e4, -1.0], requires_grad=True)
    y, dx = results(F.kl_div, [logs, [0, 1]], {"reduction": "none"})
    assert y.tolist() == [0, 1] and dx[0] == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nothing_times_minus_infinity_is_nothing(dtype: Any) -> None:
    x = ts.tensor(np.array([-math.inf, 0.0, 1e4], dtype), requires_grad=True)
    assert F.silu(x).tolist() == [0, 0, 1e4] and ts.grad(F.silu(x).sum(), x).tolist() == [0, 0.5, 1]
    logs = np.array([-math.inf, 0.0], dtype)
    for target, log_target in ((logs, True), (np.exp(logs), False)):
        given = [ts.tensor(a, requires_grad=True) for a in (logs, target)]
        losses = F.kl_div(*given, "none", log_target)
        assert losses.tolist() == [0, 0]
        assert [g.tolist() for g in ts.grad(losses.sum(), given)] == [[0, -1], [0, 1]]


@pytest.mark.parametrize("kernel", [True, False])
@given(value=st.floats(-(2.0**99), 2.0**99, width=32), rows=st.integers(1, 3), size=st.integers(1, 300))
def test_layer_norm_of_one_value_is_exactly_zero(kernel: bool, value: float, rows: int, size: int) -> None:
    x = ts.full((rows, size), value, requires_grad=True)
    norm = F.normalisation._layer_norm if kernel else F.normalisation._layer_norm.definition
    assert not norm(x, None, None, 1, 1e-5).detach().numpy().any()


@every_row
@given(data=st.data())
def test_float16_is_computed_in_float32_and_rounded_once(row: Row, data: st.DataObject) -> None:
    """Outputs and gradients against those in float64 of the same numbers: near, and finite where they fit."""
    choose = lambda options: data.draw(st.sampled_from(options))
    arguments, options = row.arguments(choose)
    # probabilities; rounded before a sum; saturated step after step, where float32 has no digits left
    alone = {"binary_cross_entropy": 1, "kl_div": 1, "nll_loss": 1, "linear": 10, "scan": 1}
    stretch = alone.get(row.name) or choose([1, 1, 30, 300])
    arguments = [np.asarray(x * stretch, np.float16) if is_float(x) else x for x in arguments]
    with np.errstate(over="ignore"):  # what does not fit becomes infinite
        got = results(row, tensors(arguments, "float16", choose), masks(options))
        expected = results(row, tensors(arguments, "float64", choose), masks(options))
    slack = 1e-5 * max(np.abs(z[np.isfinite(z)]).max(initial=stretch) for z in expected)  # where float32 cancels
    for y, z in zip(got, expected, strict=True):
        assert y.dtype == np.float16
        fits = np.abs(z) < 65504
        scale = np.abs(z[fits]).max(initial=3 * 20 * 20 if row.name == "linear" else 2.0**-14)
        assert np.isfinite(y[fits]).all()
        np.testing.assert_allclose(y[fits], z[fits], rtol=0, atol=4 * 2.0**-11 * scale + slack)


def test_float16_norms_and_attention_of_large_numbers() -> None:
    x = ts.tensor([[3e4, -3e4, 1e4, -1e4]], np.float16)
    for norm in (F.layer_norm, F.rms_norm):
        assert abs(norm(x, 4).numpy() - [[1.342, -1.342, 0.447, -0.447]]).max() < 1e-3
        assert not norm(ts.zeros((1, 4), np.float16), 4, eps=1e-12).numpy().any()
    q = ts.full((1, 3, 4), 300.0, np.float16)
    assert (F.attention(q, q, q, scale=1.0).numpy() == 300).all()  # scores of 360,000
