"""One row a function of `tinyseq.functional`, its NumPy twin, PyTorch's. `functional/test_functional.py` runs them.

`make(choose)` returns arguments and options; all chance is in `choose`, which picks from a list.
Floating-point arrays become Tensors, None and integers stay what they are.
"""

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pytest
from helpers.rows import layout

import tinyseq as ts
import tinyseq.functional as F
from tinyseq.functional.recurrence import GATES

Choose = Callable[[Sequence[Any]], Any]

SHAPES: list[tuple[int, ...]] = [(), (1,), (4,), (0,), (2, 3), (2, 0), (0, 3), (2, 1, 3)]
AXES = [s for s in SHAPES if s]


def draw(choose: Choose, *shapes: tuple[int, ...], shift: float = 0.01) -> list[Any]:
    """Numbers in +-2 on a grid of 0.02 that is moved off 0 by `shift`, so that no kink is near."""
    rng = np.random.default_rng(choose(range(100)))
    return [np.asarray(0.02 * np.round(50 * rng.uniform(-2, 2, s)) + shift) for s in shapes]


def ids(choose: Choose, shape: tuple[int, ...], size: int) -> Any:
    return np.random.default_rng(choose(range(100))).integers(0, size, shape)


# --- twins in NumPy --------------------------------------------------------------------------------------------------


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


def smooth_l1_loss(x: Any, t: Any, reduction: str, beta: float) -> Any:
    d = abs(x - t)
    return reduce(np.where(d < beta, d * d / (2 * (beta or 1)), d - beta / 2), reduction)


def binary(p: Any, t: Any, reduction: str, weight: Any = None, pos_weight: Any = None) -> Any:
    losses = -(t * np.log(p) * (1 if pos_weight is None else pos_weight) + (1 - t) * np.log(1 - p))
    return reduce(losses * (1 if weight is None else weight), reduction)


def kl_div(logs: Any, t: Any, reduction: str, log_target: bool) -> Any:
    p = np.exp(t) if log_target else t
    return reduce(p * (np.log(np.where(p > 0, p, 1)) - logs), reduction)


# --- PyTorch's, where arguments differ -------------------------------------------------------------------------------


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


def spans(x: Any, size: int, stride: int, dilation: int = 1) -> Any:
    """Every window of x (B, T, C), one after the other: (n, B, size, C)."""
    starts = range(0, x.shape[1] - dilation * (size - 1), stride)
    return np.stack([x[:, i : i + dilation * (size - 1) + 1 : dilation] for i in starts])


def make_conv1d(choose: Choose) -> Any:
    groups, few, out, size = choose([1, 2]), choose([1, 2]), choose([1, 2]), choose([1, 2, 3])
    x, w, b = draw(choose, (choose([1, 2]), choose([5, 8]), groups * few), (groups * out, few, size), (groups * out,))
    stride = choose([1, 2])
    padding = choose([0, 1, 3, "valid", *["same"] * (stride == 1)])
    return [x, w, choose([b, None])], {"stride": stride, "padding": padding, "dilation": choose([1, 2]),
                                       "groups": groups}


def conv1d(x: Any, w: Any, b: Any, stride: int, padding: Any, dilation: int, groups: int) -> Any:
    whole = dilation * (w.shape[2] - 1)
    around = {"same": (whole // 2, whole - whole // 2), "valid": (0, 0)}.get(padding) or (padding, padding)
    seen = spans(np.pad(x, [(0, 0), around, (0, 0)]), w.shape[2], stride, dilation)
    parts = zip(np.split(seen, groups, -1), np.split(w, groups), strict=True)
    y = np.concatenate([np.einsum("nbkc,ock->bno", part, v) for part, v in parts], -1)
    return y if b is None else y + b


def make_pool(**options: Any) -> Any:
    def make(choose: Choose) -> Any:
        size = choose([1, 2, 3])
        x, = draw(choose, (choose([1, 2]), choose([5, 8]), choose([1, 2])))
        x += 0.004 * np.arange(x.size).reshape(x.shape)  # no two are alike
        return [x], {"kernel_size": size, "stride": choose([None, 1, 2]), "padding": choose([0, size // 2]),
                     **{k: choose(v) for k, v in options.items()}}

    return make


def max_pool1d(x: Any, kernel_size: int, stride: Any, padding: int, dilation: int) -> Any:
    x = np.pad(x, [(0, 0), (padding, padding), (0, 0)], constant_values=-np.inf)
    return spans(x, kernel_size, stride or kernel_size, dilation).max(2).swapaxes(0, 1)


def avg_pool1d(x: Any, kernel_size: int, stride: Any, padding: int, count_include_pad: bool) -> Any:
    x = np.pad(x, [(0, 0), (padding, padding), (0, 0)], constant_values=0 if count_include_pad else np.nan)
    return np.nanmean(spans(x, kernel_size, stride or kernel_size), 2).swapaxes(0, 1)


def channels_first(name: str) -> Any:
    def theirs(torch: Any, x: Any, *more: Any, **options: Any) -> Any:
        return getattr(torch.nn.functional, name)(x.mT, *more, **options).mT

    return theirs


MODES = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}


def make_pad(choose: Choose) -> Any:
    x, = draw(choose, choose([(3, 4), (2, 3, 4)]))
    widths = [choose([(0, 0), (1, 2), (2, 0)]) for _ in x.shape[1:]]
    return [x], {"pad_width": [(0, 0), *widths], "mode": choose([*MODES])}


def torch_pad(torch: Any, x: Any, pad_width: Any, mode: str) -> Any:
    if x.ndim == 2 and mode != "constant":  # PyTorch's take a batch or channels besides
        return torch_pad(torch, x[None], [(0, 0), *pad_width], mode)[0]
    flat = [n for pair in pad_width[:0:-1] for n in pair]
    return torch.nn.functional.pad(x[None], flat, mode)[0]


# --- the rows --------------------------------------------------------------------------------------------------------


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


def make_linear_scan(choose: Choose) -> Any:
    batch, steps, width = choose([1, 3]), choose([0, 1, 2, 7]), choose([1, 3])
    shape = choose([(batch, steps, width), (steps, width), (1, 1, width), (width,)])
    arguments = draw(choose, shape, (batch, steps, width), (batch, width))
    lengths = choose([None, *([[min(3, steps)] * batch, [steps, *[0] * (batch - 1)]])])
    return arguments, {"lengths": lengths, "reverse": choose([False, True])}


def linear_scan(a: Any, b: Any, h: Any, lengths: Any, reverse: bool) -> Any:
    a, y = np.broadcast_to(a, b.shape), np.zeros(b.shape)
    for row in range(len(b)):
        state, length = h[row], b.shape[1] if lengths is None else lengths[row]
        for t in reversed(range(length)) if reverse else range(length):
            state = y[row, t] = a[row, t] * state + b[row, t]
    return y


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
a, b, narrow, whole = np.zeros((2, 3)), np.zeros((3, 5)), np.zeros((2, 3), "float32"), np.zeros((2, 3), "i8")
three = (np.zeros((6, 4)), np.zeros((6, 2)))
two_shapes = [(whole, a, "floating-point .*, got int64"), (a, b, r"\(2, 3\).*\(3, 5\)"),
              (a, a, {"reduction": "avg"}, "reduction .* 'avg'")]
wider = (a, a, np.ones((2, 1, 1)), r"weight.*\(2, 1, 1\)|\(2, 3\)")
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
    Row("conv1d", make_conv1d, conv1d, channels_first("conv1d"), [
        (np.ones((2, 3)), np.ones((1, 3, 1)), r"\(B, T, C\).*\(O, C / groups, K\)"),
        (np.ones((2, 2, 3)), np.ones((1, 3, 3)), "at least the 3 steps of a window, got 2"),
        (np.ones((2, 2, 3)), np.ones((1, 2, 3)), "2, 2, 3.*1, 2, 3"),
        (np.ones((2, 2, 3)), np.ones((1, 3, 1), "float32"), "weight float32")]),
    Row("max_pool1d", make_pool(dilation=[1, 2]), max_pool1d, channels_first("max_pool1d"), [
        (a, 2, r"x \(B, T, C\)"), (np.ones((2, 2, 3)), 3, "3 steps of a window, got 2"),
        (np.ones((2, 2, 3)), 2, 1, 2, "padding <= 1, got 2")]),
    Row("avg_pool1d", make_pool(count_include_pad=[True, False]), avg_pool1d, lambda torch, x, **options: (
        channels_first("avg_pool1d")(torch, x, **options)), [(a, 2, r"x \(B, T, C\)")]),
    Row("pad", make_pad, lambda x, pad_width, mode: np.pad(x, pad_width, MODES[mode]), torch_pad, [
        (a, (1, 1), r"a pair of widths for each of 2 axes"), (a, [(0, 0), (3, 0)], "reflect", "at least 4 entries"),
        (a, [(0, 0), (-1, 0)], "reflect", "0 <= before, got -1"), (a, [(0, 0), (1, 0)], "edge", "mode to be one of")]),
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
    Row("linear_scan", make_linear_scan, linear_scan, None, [
        (np.ones((2, 3, 4)), np.ones((2, 5, 4)), "linear_scan.*2, 3, 4.*2, 5, 4"),
        (np.ones((2, 5, 4)), np.ones((5, 4)), "linear_scan.*expected b .B, T, H.*5, 4"),
        (np.ones(4), np.ones((2, 5, 4)), np.ones((1, 4)), "linear_scan.*expected h0 .B, H. = .2, 4.*1, 4")]),
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
    Row("smooth_l1_loss", pair(**REDUCTIONS, beta=[1.0, 0.3, 0.0]), smooth_l1_loss, "smooth_l1_loss", [
        *two_shapes, (a, a, {"beta": -1}, "smooth_l1_loss.* beta, got -1")]),
    Row("binary_cross_entropy",
        pair(sigmoid, lambda t, **_: sigmoid(t), **REDUCTIONS, weight=[None, np.array(2.5), np.array(0.0)]), binary,
        "binary_cross_entropy", [*two_shapes, wider, (a - 0.5, a, "from 0 to 1, got -0.5 .*with_logits"),
                                 (a + 1.5, a, "got 1.5")]),
    Row("binary_cross_entropy_with_logits",
        pair(None, lambda t, **_: sigmoid(t), **REDUCTIONS, weight=[None, np.array(0.5)],
             pos_weight=[None, np.array(2.5)]),
        lambda x, t, **options: binary(sigmoid(x), t, **options), "binary_cross_entropy_with_logits",
        [*two_shapes, wider]),
    Row("kl_div", pair(lambda x: np.minimum(x, -0.1), lambda t, log_target, **_: t if log_target else abs(t) + 0.1,
                       reduction=["mean", "sum", "none", "batchmean"], log_target=[False, True]),
        kl_div, "kl_div", two_shapes),
]


# --- what is done with a row -----------------------------------------------------------------------------------------

FILES = [module for name, module in sys.modules.items() if name.startswith(F.__name__)]
KERNELS = {name: f for file in FILES for name, f in vars(file).items() if getattr(f, "definition", None)}

dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


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
