"""The equations of cells, any recurrence step by step, and whole layers as one op: `scan`, a kernel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinyseq import backends, check
from tinyseq.check import describe, explained
from tinyseq.engine import ops
from tinyseq.engine.autograd import op, wide
from tinyseq.engine.graph import grad_enabled
from tinyseq.engine.tensor import Like, Tensor
from tinyseq.functional.activations import relu
from tinyseq.functional.arguments import lengths_of, matched, one_dtype, real_steps
from tinyseq.functional.layers import linear


def _same_size(h: Tensor, w_hh: Tensor, gates: int) -> None:
    """Refuse weights that make a state of another size of h (B, H)."""
    if w_hh.shape[0] != gates * h.shape[-1]:
        raise ValueError(f"expected w_hh ({gates} H, H) for h (B, H), got shapes {w_hh.shape} and {h.shape}")


@wide
def rnn_cell(x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Any = None, b_hh: Any = None,
             nonlinearity: str = "tanh") -> Tensor:
    """h' = tanh(W_ih x + b_ih + W_hh h + b_hh), or max(., 0) (Elman 1990). x (B, I), h (B, H) -> (B, H).

    `w_ih` (H, I), `w_hh` (H, H), biases (H,), all of one dtype; `nonlinearity` is "tanh" or "relu".

    >>> x, h, eye = ts.tensor([[1.0, -2.0]]), ts.tensor([[3.0, 0.0]]), ts.eye(2)
    >>> F.rnn_cell(x, h, eye, eye, nonlinearity="relu")
    tensor([[4., 0.]])
    """
    if nonlinearity not in ("tanh", "relu"):
        raise ValueError(f"nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}")
    h, w_hh = ops.operand(h), ops.operand(w_hh)
    _same_size(h, w_hh, 1)
    return (relu if nonlinearity == "relu" else ops.tanh)(linear(x, w_ih, b_ih) + linear(h, w_hh, b_hh))


def _alike(u: Tensor, v: Tensor, state: Tensor) -> bool:
    """Whether kernels take them: all of one dtype, and no batch to be broadcast."""
    return u.shape == v.shape and u.shape[:-1] == state.shape[:-1] and u.dtype == v.dtype == state.dtype


def _lstm_definition(u: Tensor, v: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    i, f, g, o = ops.split(u + v, 4, -1)
    c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(g)
    return ops.sigmoid(o) * ops.tanh(c), c


@op(definition=_lstm_definition)
def _lstm_gates(u: Tensor, v: Tensor, c: Tensor) -> tuple[Any, Any]:
    backend = backends.of(c)
    h, new, gates = backend.lstm_gates(u, v, c)

    def pull(g: Any, needs: Any) -> Any:
        return backend.lstm_gates_backward(*g, gates, c, new)

    return (h, new), pull


@wide
def lstm_cell(x: Tensor, h: Tensor, c: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Any = None,
              b_hh: Any = None) -> tuple[Tensor, Tensor]:
    """c' = f c + i g, h' = o tanh(c'), gates in the order i, f, g, o (Hochreiter & Schmidhuber 1997, Gers et al. 2000).

        i, f, o = sigmoid(W x + b + U h + d), g = tanh(W x + b + U h + d), each with its own H rows of the weights

    x (B, I), h and c (B, H) -> h' and c' (B, H). `w_ih` (4 H, I), `w_hh` (4 H, H), biases (4 H,), all of one dtype.

    >>> x, h, c = ts.ones((2, 3)), ts.zeros((2, 4)), ts.ones((2, 4))
    >>> h, c = F.lstm_cell(x, h, c, ts.zeros((16, 3)), ts.zeros((16, 4)))   # gates of 1/2, and g = 0
    >>> c[0]
    tensor([0.5, 0.5, 0.5, 0.5])
    """
    h, c, w_hh = ops.operand(h), ops.operand(c), ops.operand(w_hh)
    if c.shape != h.shape:
        raise ValueError(f"expected h and c of one shape (B, H), got {h.shape} and {c.shape}")
    _same_size(h, w_hh, 4)
    u, v = linear(x, w_ih, b_ih), linear(h, w_hh, b_hh)
    return (_lstm_gates if _alike(u, v, c) else _lstm_definition)(u, v, c)


def _gru_definition(u: Tensor, v: Tensor, h: Tensor, before: Callable[[Tensor], Tensor] | None = None) -> Tensor:
    """`before` makes of r what is added to u_n, in the place of r v_n."""
    (u_r, u_z, u_n), (v_r, v_z, *v_n) = ops.split(u, 3, -1), ops.split(v, 3 if before is None else 2, -1)
    r, z = ops.sigmoid(u_r + v_r), ops.sigmoid(u_z + v_z)
    n = ops.tanh(u_n + (r * v_n[0] if before is None else before(r)))
    return n + z * (h - n)


@op(definition=_gru_definition)
def _gru_gates(u: Tensor, v: Tensor, h: Tensor) -> tuple[Any, Any]:
    backend = backends.of(h)
    new, gates = backend.gru_gates(u, v, h)

    def pull(g: Any, needs: Any) -> Any:
        return backend.gru_gates_backward(g, gates, v, h)

    return new, pull


@wide
def gru_cell(x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Any = None, b_hh: Any = None,
             reset: str = "after", dropped: Tensor | None = None) -> Tensor:
    """h' = (1 - z) n + z h, gates in the order r, z, n (Cho et al. 2014). x (B, I), h (B, H) -> (B, H).

        r, z = sigmoid(W x + b + U h + d), each with its own H rows of the weights

    `reset="after"`, as PyTorch and cuDNN: n = tanh(W_n x + b_n + r (U_n h + d_n)).
    `reset="before"`, the classic form: n = tanh(W_n x + b_n + U_n (r h) + d_n). `dropped` (B, H)
    takes the place of h in the products with U. `w_ih` (3 H, I), `w_hh` (3 H, H), biases (3 H,).

    >>> x, h = ts.ones((2, 3)), ts.ones((2, 4))
    >>> F.gru_cell(x, h, ts.zeros((12, 3)), ts.zeros((12, 4)))[0]           # z of 1/2, and n = 0
    tensor([0.5, 0.5, 0.5, 0.5])
    """
    if reset not in ("after", "before"):
        raise ValueError(f"reset must be 'after' or 'before' (the recurrent product), got {reset!r}")
    h, w_hh, b_hh = ops.operand(h), ops.operand(w_hh), b_hh if b_hh is None else ops.operand(b_hh)
    dropped = h if dropped is None else ops.operand(dropped)
    u = linear(x, w_ih, b_ih)
    n_rows = slice(2 * h.shape[-1], None)
    _same_size(h, w_hh, 3)
    if reset == "after":
        v = linear(dropped, w_hh, b_hh)
        return (_gru_gates if _alike(u, v, h) else _gru_definition)(u, v, h)

    def candidate(r: Tensor) -> Tensor:
        return linear(r * dropped, w_hh[n_rows], None if b_hh is None else b_hh[n_rows])

    return _gru_definition(u, linear(dropped, w_hh[:n_rows.start], None if b_hh is None else b_hh[:n_rows.start]), h,
                           candidate)


def unroll(step: Callable[[Tensor, tuple[Tensor, ...]], tuple[Tensor, ...]], x: Tensor, state: tuple[Tensor, ...],
           lengths: Like = None, reverse: bool = False) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Any recurrence in one direction: y (B, T, H), the first tensor of the state by step, and the final state.

    `step(x_t (B, I), state) -> state`, where a state is a tuple of Tensors with the batch first. `lengths` and
    `reverse` are those of `scan`: a row's state stands still where its sequence has no entry, its output there is 0,
    and what stands in x there is never seen. A state that comes back with other shapes or dtypes is a ValueError.

    >>> x = ts.tensor([[[1.0], [2.0], [3.0]]])
    >>> y, (total,) = F.unroll(lambda x, state: (state[0] + x,), x, (ts.zeros((1, 1)),))
    >>> y.flatten(), total
    (tensor([1., 3., 6.]), tensor([[6.]]))
    """
    check.function("unroll", step=step)
    try:
        x = ops.operand(x)
        state = tuple([ops.like(x, part) for part in state])
    except (TypeError, ValueError):
        raise TypeError("unroll: expected x to be a Tensor and state a tuple of Tensors, got "
                        f"{describe(x)} and {describe(state)}") from None

    def kinds(s: Any) -> Any:
        return describe(s) if not isinstance(s, (tuple, list)) else [
            f"{a.dtype} {a.shape}" if hasattr(a, "shape") else describe(a) for a in s]

    lengths, mask = lengths_of("unroll", lengths, x), None
    if lengths is not None:
        mask = real_steps(x, lengths)
        x = ops.where(mask, x, 0.0)
    inputs = ops.unstack(x, 1) if x.shape[1] else ()
    outputs: list[Any] = [None] * len(inputs)
    for t in reversed(range(len(inputs))) if reverse else range(len(inputs)):
        new = step(inputs[t], state)
        if kinds(new) != kinds(state):
            raise ValueError(f"unroll: {getattr(step, '__name__', type(step).__name__)} at t = {t} was given a state "
                             f"{kinds(state)} and returned {kinds(new)}: expected the next state, alike in shapes and "
                             "dtypes; whether a cell's is one Tensor (H) or a tuple ((H, ...)) says its state_size")
        state = tuple(new if mask is None else [ops.where(mask[:, t], *pair) for pair in zip(new, state, strict=True)])
        outputs[t] = state[0]
    y = ops.stack(outputs, 1) if outputs else ops.zeros_like(state[0])[:, None][:, :0]
    return y if mask is None else ops.where(mask, y, 0.0), state


def _scan_definition(cell: str, x: Tensor, h0: Tensor, c0: Tensor | None, *rest: Any) -> tuple[Tensor, ...]:
    w_ih, w_hh, b_ih, b_hh, lengths, reverse, h_mask = rest
    weights = (w_ih, w_hh, b_ih, b_hh)

    def step(x: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        h = state[0] if h_mask is None else state[0] * ops.like(x, h_mask)
        if cell == "lstm":
            return lstm_cell(x, h, state[1], *weights)
        if cell.startswith("rnn"):
            return rnn_cell(x, h, *weights, nonlinearity=cell.removeprefix("rnn_")),
        return gru_cell(x, state[0], *weights, reset="before" if cell == "gru_before" else "after", dropped=h),

    y, final = unroll(step, x, (h0,) if c0 is None else (h0, c0), lengths, reverse)
    return y, *final


GATES = {"rnn_tanh": 1, "rnn_relu": 1, "gru": 3, "gru_before": 3, "lstm": 4}


@op(definition=_scan_definition, wide=True)
def _scan(cell: str, x: Tensor, h0: Tensor, c0: Tensor | None, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None,
          b_hh: Tensor | None, lengths: Any, reverse: bool, h_mask: Any) -> tuple[Any, Any]:
    if cell not in GATES or (c0 is None) == (cell == "lstm") or x.ndim != 3 or h0.ndim != 2:
        raise ValueError(f"expected a cell of {', '.join(GATES)}, x (B, T, I), h0 (B, H), c0 (B, H) for an LSTM only")
    batch, rows = x.shape[0], GATES[cell] * h0.shape[1]
    for name, a, shape in (
        ("h0", h0, (batch, h0.shape[1])), ("c0", c0, h0.shape), ("w_ih", w_ih, (rows, x.shape[2])),
        ("w_hh", w_hh, (rows, h0.shape[1])), ("b_ih", b_ih, (rows,)), ("b_hh", b_hh, (rows,)),
        ("h_mask", h_mask, h0.shape),
    ):
        if a is not None and a.shape != shape:
            raise ValueError(f"expected {name} of shape {shape}, as x has shape {x.shape} and h0 has {h0.shape}")
    one_dtype(x=x, h0=h0, c0=c0, w_ih=w_ih, w_hh=w_hh, b_ih=b_ih, b_hh=b_hh)
    backend, keep = backends.of(x), grad_enabled()
    y, h, c, saved = backend.rnn_forward(cell, x, h0, c0, w_ih, w_hh, b_ih, b_hh, lengths, reverse, h_mask, keep)

    def pull(g: Any, needs: tuple[bool, ...]) -> Any:
        gy, gh, gc = (*g, None)[:3]
        return [None, *backend.rnn_backward(cell, saved, gy, gh, gc, needs[1:8])]

    return ((y, h) if c is None else (y, h, c)), pull if keep else None


@explained
def scan(cell: str, x: Tensor, h0: Tensor, c0: Tensor | None, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None = None,
         b_hh: Tensor | None = None, lengths: Like = None, reverse: bool = False,
         h_mask: Like = None) -> tuple[Tensor, ...]:
    """One recurrent layer in one direction, as one op: (y, h_n), or (y, h_n, c_n) for an LSTM.

    `cell` is "rnn_tanh", "rnn_relu", "gru", "gru_before" or "lstm". x (B, T, I), h0 and c0 (B, H), weights (G H, I) and
    (G H, H), biases (G H,), the gates in PyTorch's order; y (B, T, H), final states (B, H). `lengths` (B,) are
    integers, 0 <= length <= T, on the host, where they are checked, or on x's backend: outputs past a row's end are 0,
    its final state is that of its last real step, where `reverse` starts. `h_mask` (B, H), a constant, multiplies h
    where it enters the recurrent product, at every step: dropout with one mask over time (Gal & Ghahramani 2016).

    >>> x, h0, weight = ts.ones((2, 3, 1)), ts.zeros((2, 1)), ts.ones((1, 1))
    >>> y, h = F.scan("rnn_relu", x, h0, None, weight, weight, lengths=[3, 2])      # h' = max(x + h, 0)
    >>> y[:, :, 0]
    tensor([[1., 2., 3.],
            [1., 2., 0.]])
    >>> h
    tensor([[3.],
            [2.]])
    """
    x = ops.operand(x)
    mask, lengths = None if h_mask is None else matched(x, h_mask)._data, lengths_of("scan", lengths, x)
    outputs: tuple[Tensor, ...] = _scan(cell, x, h0, c0, w_ih, w_hh, b_ih, b_hh, lengths, reverse, mask)
    return outputs
