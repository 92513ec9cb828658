"""Weights of recurrent layers from other libraries, as a `state_dict`: `gru.load_state_dict(from_keras(gru, ...))`.

From Keras and ONNX a call converts one layer, in one direction or both, into the keys of the layer number `index` of a
tinyseq RNN, GRU or LSTM; for a stack they are joined, `from_keras(lstm, w0, c0) | from_keras(lstm, w1, c1, index=1)`.
What the layer cannot compute is a ValueError with both equations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tinyseq.nn.recurrent import GRU, KEYS, LSTM, RNN

State = dict[str, Any]
EQUATIONS = {
    "rnn_tanh": "h' = tanh(W x + b + U h + d)",
    "rnn_relu": "h' = relu(W x + b + U h + d)",
    "gru": "n = tanh(W x + b + r * (U h + d)), which is reset='after'",
    "gru_before": "n = tanh(W x + b + U (r * h) + d), which is reset='before'",
    "lstm": "i, f, o = sigmoid(W x + b + U h + d), g = tanh(likewise), c' = f * c + i * g, h' = o * tanh(c')",
}


def from_torch(layer: Any, state: Mapping[str, Any]) -> State:
    """The state_dict of a torch.nn.RNN, GRU or LSTM, of all its layers at once: its keys are ours.

    Values are tensors on the CPU, or arrays. A state_dict does not tell tanh from relu: choose `nonlinearity` alike.
    """
    _same(layer, EQUATIONS["gru" if _name(layer) == "GRU" else layer.kind])
    if any(key.startswith("weight_hr") for key in state):
        _same(layer, "h' = W_hr (o * tanh(c')), which is proj_size > 0")
    return {key: np.asarray(value) for key, value in state.items()}


def from_keras(layer: Any, weights: Sequence[Any], config: Mapping[str, Any], index: int = 0) -> State:
    """`get_weights()` and `get_config()` of a Keras SimpleRNN, GRU or LSTM, or of a Bidirectional around one.

    For each direction a kernel (I, G H), a recurrent_kernel (H, G H), and, with `use_bias`, a bias (G H,), or (2, G H)
    for a GRU with `reset_after`; the gates in the order z, r, h or i, f, c, o. What `config` lacks is as by default.
    """
    name = _name(layer)
    two = "layer" in config
    cell = config["layer"]["config"] if two else config
    size = 2 + cell.get("use_bias", True)
    if "class_name" in config or len(weights) != size * (1 + two):
        raise ValueError(f"from_keras: expected what get_config() returns, as is, and {size * (1 + two)} arrays: a "
                         "kernel, recurrent_kernel, and with use_bias a bias, for each direction; got the keys "
                         f"{sorted(config)} and {len(weights)} arrays")
    f, g = cell.get("activation", "tanh"), cell.get("recurrent_activation", "sigmoid")
    kind = {"RNN": f"rnn_{f}", "GRU": "gru" if cell.get("reset_after", True) else "gru_before", "LSTM": "lstm"}[name]
    plain = name == "RNN" or (f, g) == ("tanh", "sigmoid")
    _same(layer, EQUATIONS.get(kind, f"activation={f!r}") if plain else f"activation={f!r}, recurrent_activation={g!r}")
    if cell.get("go_backwards") or (two and config.get("merge_mode") != "concat"):
        _same(layer, "y in reversed order (go_backwards), or another merge_mode than 'concat'")
    parts = []
    for kernel, recurrent, *bias in (weights[:size], weights[size:])[: 1 + two]:
        b = np.asarray(bias[0] if bias else np.zeros(kernel.shape[1]))
        if bias and (b.ndim == 2) != (kind == "gru"):
            raise ValueError(f"from_keras: bias of shape {b.shape}: (2, 3 H) is that of a GRU with reset_after=True")
        parts.append((np.transpose(kernel), np.transpose(recurrent), *(b if b.ndim == 2 else (b, 0 * b))))
    return _state(layer, index, parts, (1, 0, 2) if name == "GRU" else None)


def from_onnx(layer: Any, W: Any, R: Any, B: Any = None, P: Any = None, *, index: int = 0, **attributes: Any) -> State:
    """The tensors and attributes of an ONNX RNN, GRU or LSTM node.

    W (D, G H, I), R (D, G H, H), and B (D, 2 G H) or None, for D directions; the gates in the order z, r, h or
    i, o, f, c. Attributes that are left out have ONNX's defaults: `linear_before_reset` is 0.
    """
    name = _name(layer)
    usual = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}[name] * len(W)
    given = [f.decode() if isinstance(f, bytes) else f for f in attributes.get("activations") or usual]
    gru = "gru" if attributes.get("linear_before_reset", 0) else "gru_before"
    kind = {"RNN": f"rnn_{given[0].lower()}", "GRU": gru, "LSTM": "lstm"}[name]
    plain = given == (given[:1] * len(W) if name == "RNN" else usual)
    _same(layer, EQUATIONS.get(kind, f"activations={given}") if plain else f"activations={given}")
    if P is not None and np.any(P):
        _same(layer, "i = sigmoid(W x + b + U h + d + P * c), and so on, with peepholes P")
    direction = "bidirectional" if len(W) == 2 else "forward"
    needed = {"clip": None, "input_forget": 0, "direction": direction, "hidden_size": layer.hidden_size}
    known = {*needed, "activations", "activation_alpha", "activation_beta", "layout", "linear_before_reset"}
    if not attributes.keys() <= known:
        raise ValueError(f"from_onnx: expected attributes of {sorted(known)}, got {sorted(attributes)}")
    for option, value in needed.items():
        found = attributes.get(option, value)
        if (found.decode() if isinstance(found, bytes) else found) != value:
            _same(layer, f"{option}={found!r} in place of {value!r}")
    biases = np.zeros((len(W), 2 * np.shape(W)[1])) if B is None else np.asarray(B)
    parts = [(w, r, *np.split(b, 2)) for w, r, b in zip(np.asarray(W), np.asarray(R), biases, strict=True)]
    return _state(layer, index, parts, {"RNN": None, "GRU": (1, 0, 2), "LSTM": (0, 2, 3, 1)}[name])


def _name(layer: Any) -> str:
    for kind in (RNN, GRU, LSTM):
        if isinstance(layer, kind):
            return kind.__name__
    raise TypeError(f"expected the nn.RNN, GRU or LSTM that the weights are for, got a {type(layer).__name__}")


def _same(layer: Any, equation: str) -> None:
    """Refuse weights that are made for another equation than the layer's."""
    if equation != EQUATIONS[layer.kind]:
        ours = f"the {type(layer).__name__} here computes {EQUATIONS[layer.kind]}"
        raise ValueError(f"these weights are for {equation}; {ours}")


def _state(layer: Any, index: int, parts: Sequence[Any], order: Sequence[int] | None) -> State:
    """Keys and checked values from (W, U, b, d) of each direction, the gates brought into PyTorch's order."""
    state: State = {}
    if len(parts) != layer.directions:
        raise ValueError(f"{type(layer).__name__} has {layer.directions} direction(s), the weights have {len(parts)}")
    for suffix, arrays in zip(("", "_reverse"), parts, strict=False):
        for key, a in zip(KEYS, arrays, strict=True):
            name = f"{key}_l{index}{suffix}"
            here = getattr(layer, name, None)
            if here is None and not np.any(a):
                continue  # no bias here, and none there
            if here is None or here.shape != a.shape:
                raise ValueError(f"{name}: {a.shape} given, {None if here is None else here.shape} here")
            gates = a.reshape(-1, layer.hidden_size, *a.shape[1:])
            state[name] = gates[list(order or range(len(gates)))].reshape(a.shape)
    return state
