"""Layers on a NumPy-like library with gradients of its own, as its users write them: for jit.py and hips.py."""

from collections.abc import Callable
from typing import Any

import contenders as given

Array = Any


def sigmoid(xp: Any, x: Array) -> Array:
    return 0.5 * xp.tanh(0.5 * x) + 0.5


def step(xp: Any, cell: str, w: Any, x: Array, state: Any) -> Any:
    """The state after a step; x is the input's part of all gates."""
    h = state[0]
    g = h @ w["weight_hh_l0"].T + w["bias_hh_l0"]
    if cell == "LSTM":
        i, f, c, o = xp.split(x + g, 4, axis=-1)
        c = sigmoid(xp, f) * state[1] + sigmoid(xp, i) * xp.tanh(c)
        return sigmoid(xp, o) * xp.tanh(c), c
    if cell == "GRU":
        (rx, zx, nx), (r, z, n) = xp.split(x, 3, axis=-1), xp.split(g, 3, axis=-1)
        z, n = sigmoid(xp, zx + z), xp.tanh(nx + sigmoid(xp, rx + r) * n)
        return ((1 - z) * n + z * h,)
    return (xp.tanh(x + g),)


def recurrent(xp: Any, scan: Callable[..., Any], cell: str, batch: int, steps: int, width: int, hidden: int) -> Any:
    """(loss of x and weights, x, weights): scan(step, state, xs) gives the states h of all steps, time first."""
    g = given.numbers("g", batch, steps, hidden)
    first = tuple(xp.zeros((batch, hidden), "float32") for _ in range(2 if cell == "LSTM" else 1))

    def loss(x: Array, w: Any) -> Array:
        gates = xp.swapaxes(x @ w["weight_ih_l0"].T + w["bias_ih_l0"], 0, 1)
        states = scan(lambda state, x: step(xp, cell, w, x, state), first, gates)
        return xp.sum(xp.swapaxes(states, 0, 1) * g)

    return loss, given.numbers("x", batch, steps, width), given.recurrent_weights(cell, width, hidden)


def layer_norm(xp: Any, x: Array, weight: Array, bias: Array) -> Array:
    mean = xp.mean(x, axis=-1, keepdims=True)
    variance = xp.mean((x - mean) ** 2, axis=-1, keepdims=True)
    return (x - mean) / xp.sqrt(variance + 1e-5) * weight + bias


def transformer(xp: Any, softmax: Callable[[Array], Array], batch: int, steps: int, width: int, heads: int) -> Any:
    """(loss of x and weights, x, weights) of two layers."""
    g, w = given.numbers("g", batch, steps, width), given.transformer_weights(2, width)

    def apart(x: Array) -> Array:
        return xp.swapaxes(xp.reshape(x, (batch, steps, heads, width // heads)), 1, 2)

    def layer(x: Array, w: Any, name: str) -> Array:
        def linear(x: Array, part: str, mark: str = ".") -> Array:
            return x @ w[f"{name}{part}{mark}weight"].T + w[f"{name}{part}{mark}bias"]

        q, k, v = map(apart, xp.split(linear(x, "self_attn.in_proj", "_"), 3, axis=-1))
        y = softmax(q @ xp.swapaxes(k, 2, 3) * (width // heads) ** -0.5) @ v
        y = linear(xp.reshape(xp.swapaxes(y, 1, 2), x.shape), "self_attn.out_proj")
        x = layer_norm(xp, x + y, w[f"{name}norm1.weight"], w[f"{name}norm1.bias"])
        y = linear(xp.maximum(linear(x, "linear1"), 0), "linear2")
        return layer_norm(xp, x + y, w[f"{name}norm2.weight"], w[f"{name}norm2.bias"])

    def loss(x: Array, w: Any) -> Array:
        return xp.sum(layer(layer(x, w, "layers.0."), w, "layers.1.") * g)

    return loss, given.numbers("x", batch, steps, width), w
