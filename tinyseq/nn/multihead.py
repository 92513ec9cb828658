"""Multi-head attention, the Transformer's: between all positions; a recurrent decoder's is in nn/contexts.py.

Every position asks every other one, in several subspaces at once (Vaswani et al. 2017).
"""

from __future__ import annotations

import math
from contextvars import ContextVar
from typing import Any

import numpy as np

from tinyseq import backends, check, functional
from tinyseq.engine import ops
from tinyseq.engine.tensor import Array, Like, Tensor
from tinyseq.nn import init
from tinyseq.nn.layers import Linear
from tinyseq.nn.masks import Attending, attention_mask, refuse, vectors
from tinyseq.nn.module import Module, Parameter
from tinyseq.nn.steps import Between, Pair, call_few

_seen: ContextVar[list[tuple[Module, Tensor]] | None] = ContextVar("seen", default=None)  # weights, if somebody looks


class MultiheadAttention(Attending):
    """Every position asks every other, in several subspaces at once (Vaswani et al. 2017, equation 1, section 3.2.2):

        head_i = softmax(Q_i K_i^T / sqrt(D) + bias_i) V_i        Q = W_q query + b_q, K and V of key and value alike
        y      = W_o [head_1; ...; head_n] + b_o                  n = `num_heads`, D = embed_dim / n features a head

        attention(query, key=None, value=None, *, mask=None, lengths=None, causal=False, need_weights=False,
                  bias=None) -> y (B, T, E), and the weights (B, n, T, S) or None
        query (B, T, E), key (B, S, kdim), value (B, S, vdim), E = `embed_dim`: see `forward`

    Parameters are PyTorch's: in_proj_weight (3E, E), W_q, W_k and W_v one under the other, in_proj_bias (3E,),
    out_proj.weight (E, E), out_proj.bias (E,). With a `kdim` or `vdim` that is not E, q_proj_weight (E, E),
    k_proj_weight (E, kdim) and v_proj_weight (E, vdim) stand in the first one's place. Matrices begin Xavier uniform,
    but out_proj.weight as of Linear; biases begin at 0, and are None without `bias`. `dropout` falls on the weights, in
    training. With fewer `num_kv_heads` several query heads share a head of keys and values (Ainslie et al. 2023): W_k
    and W_v then have num_kv_heads D rows each. D may be another `head_dim`; W_o is then (E, n D).

    A `window` hides the keys that stand as many positions or more before a query. `q_norm` and `k_norm` are norms, as
    wide as D or as all heads together, of projected queries and keys, before `between`. `softcap` is that of
    `functional.attention`.

    >>> attention = nn.MultiheadAttention(8, num_heads=2)
    >>> x = ts.random.normal((2, 5, 8))
    >>> y, weights = attention(x, lengths=[5, 2], causal=True, need_weights=True)
    >>> y.shape, weights.shape, attention.in_proj_weight.shape
    ((2, 5, 8), (2, 2, 5, 5), (24, 8))
    >>> ts.all(weights[1, :, :, 2:] == 0), ts.all(ts.triu(weights, k=1) == 0)     # padding, and the future
    (tensor(True), tensor(True))

    Errors: ValueError for shapes and masks that do not fit, and for options of PyTorch that are not here; TypeError for
    x of another dtype than the weights, and for PyTorch's mask arguments, with the conversion.
    """

    in_proj_weight: Parameter
    q_proj_weight: Parameter
    k_proj_weight: Parameter
    v_proj_weight: Parameter

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0, bias: bool = True,
                 add_bias_kv: bool = False, add_zero_attn: bool = False, kdim: int | None = None,
                 vdim: int | None = None, batch_first: bool = True, device: None = None, dtype: Any = np.float32, *,
                 num_kv_heads: int | None = None, head_dim: int | None = None, window: int | None = None,
                 q_norm: Module | None = None, k_norm: Module | None = None, softcap: float | None = None) -> None:
        refuse(self, batch_first=not batch_first, device=device is not None, add_bias_kv=add_bias_kv,
               add_zero_attn=add_zero_attn)
        kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        embed_dim, num_heads, kv_heads = check.integers("MultiheadAttention", 1, embed_dim=embed_dim,
                                                        num_heads=num_heads, num_kv_heads=kv_heads)
        kdim, vdim, head_dim, window = (
            size if size is None else check.integers("MultiheadAttention", 1, **{name: size}) for name, size in (
                ("kdim", kdim), ("vdim", vdim), ("head_dim", head_dim), ("window", window)))
        if (embed_dim % num_heads and head_dim is None) or num_heads % kv_heads:
            raise ValueError(f"MultiheadAttention: expected embed_dim to be a multiple of num_heads, and that of "
                             f"num_kv_heads, got {embed_dim}, {num_heads} and {kv_heads}")
        check.instance("MultiheadAttention", Module | None, q_norm=q_norm, k_norm=k_norm)
        if softcap is not None:
            softcap = check.numbers("MultiheadAttention", above=0, below=math.inf, softcap=softcap)
        self.embed_dim, self.num_heads, self.num_kv_heads = embed_dim, num_heads, kv_heads
        self.dropout = check.numbers("MultiheadAttention", least=0, below=1, dropout=dropout)
        self.head_dim, self.bias, self.kdim, self.vdim = head_dim or embed_dim // num_heads, bias, kdim, vdim
        self.window, self.q_norm, self.k_norm, self.softcap = window, q_norm, k_norm, softcap
        wide, narrow = self.head_dim * num_heads, self.head_dim * kv_heads
        self._rows = [wide, wide + narrow]  # where the rows of K and of V begin
        self.packed = {kdim, vdim} <= {None, embed_dim}
        shapes = {"in_proj_weight": (wide + 2 * narrow, embed_dim)} if self.packed else {
            "q_proj_weight": (wide, embed_dim), "k_proj_weight": (narrow, kdim or embed_dim),
            "v_proj_weight": (narrow, vdim or embed_dim)}
        for name, shape in shapes.items():
            setattr(self, name, init.xavier_uniform_(Parameter(ops.zeros(shape, dtype))))
        self.in_proj_bias = Parameter(ops.zeros((wide + 2 * narrow,), dtype)) if bias else None
        self.out_proj = Linear(wide, embed_dim, bias, dtype=dtype)
        if self.out_proj.bias is not None:
            init.zeros_(self.out_proj.bias)

    @property
    def dtype(self) -> Any:
        """The dtype of the weights, which inputs must have."""
        return self._weights()[0].dtype

    def _weights(self) -> tuple[Parameter, Parameter, Parameter]:
        """Those that project queries, keys and values: one three times, or three."""
        return (self.in_proj_weight,) * 3 if self.packed else (
            self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)

    def forward(self, query: Tensor, key: Tensor | Pair | None = None, value: Tensor | None = None, *,
                mask: Like = None, lengths: Like = None, causal: bool = False, need_weights: bool = False,
                between: Between | None = None, bias: Like = None) -> tuple[Tensor, Tensor | None]:
        """query (B, T, E), key (B, S, kdim), value (B, S, vdim) -> (B, T, E), and the weights (B, heads, T, S) or None.

        Without a key the query attends to itself; without a value it is the key, which may also be what `remember`
        made of both. The boolean `mask`, (B, S), (B, T, S) or (B, heads, T, S), is True where a position takes part, as
        are the first `lengths` (B,) of S. `causal` hides what comes after a query; the last query stands at the last
        key. A query that sees no key gets out_proj.bias. `bias`, numbers of the weights' dtype that broadcast to (B,
        heads, T, S), is added to the scores: ALiBi's, T5's. `between` may change the heads' (queries, keys, values):
        turn them (`functional.rotate`), put earlier ones in front.
        """
        name = type(self).__name__
        query = vectors(name, self.embed_dim, self.dtype, query=query)
        masked, taking = mask is not None or lengths is not None, None
        if masked and between is None and not isinstance(key, tuple):  # what no query sees is 0: 0 times NaN is NaN
            key = query if key is None else key
            if key is not query or value is not None:
                key, value = self._fits(key, value)
            scores = (len(query), self.num_heads, query.shape[1], key.shape[1])
            taking = attention_mask(name, query, scores, mask, lengths)
            real = ops.any(taking, (1, 2))[..., None]  # type: ignore[arg-type]
            key, value = (a if a is None else ops.where(real, a, 0.0) for a in (key, value))
        if key is None and value is None and self.packed:
            qkv = functional.linear(query, self.in_proj_weight, self.in_proj_bias)
            q, k, v = ops.split(qkv, self._rows, -1)
            q, k, v = map(self.heads, (_normal(q, self.q_norm), _normal(k, self.k_norm), v))
        else:
            key = query if key is None else key
            q = self.heads(_normal(functional.linear(query, *self.parts()[0]), self.q_norm))
            k, v = key if isinstance(key, tuple) else self.remember(key, value)
        q, k, v = (q, k, v) if between is None else between(q, k, v)
        if k.shape[0] != q.shape[0]:
            raise ValueError(f"{name}: the query has {q.shape[0]} rows in its batch, the key {k.shape[0]}")
        if masked and taking is None:
            taking = attention_mask(name, q, (*q.shape[:3], k.shape[2]), mask, lengths)
        if self.window is not None and k.shape[2] > self.window:
            here = ops.like(q, np.arange(k.shape[2] - q.shape[2], k.shape[2]))
            near = ops.like(q, np.arange(k.shape[2])) > here[:, None] - self.window
            taking = near if taking is None else taking & near
        y = functional.attention(q, k, v, taking, causal, dropout=self.dropout if self.training else 0.0, bias=bias,
                                 softcap=self.softcap)
        weights, seen = None, _seen.get()
        if need_weights or seen is not None:
            weights = functional.attention_weights(q, k, taking, causal, bias=bias, softcap=self.softcap)
            if seen is not None:
                seen.append((self, weights))
        y = ops.reshape(ops.permute_dims(y, (0, 2, 1, 3)), (*query.shape[:2], self._rows[0]))
        return self.out_proj(y), weights if need_weights else None

    def remember(self, key: Tensor, value: Tensor | None = None) -> Pair:
        """The heads' keys and values (B, num_kv_heads, S, D) of key (B, S, kdim) and value (B, S, vdim).

        >>> attention = nn.MultiheadAttention(8, num_heads=2)
        >>> keys, values = attention.remember(ts.ones((3, 5, 8)))
        >>> keys.shape, values.shape
        ((3, 2, 5, 4), (3, 2, 5, 4))
        >>> y, weights = attention.look(np.ones((8, 3), np.float32), keys.data, values.data, None)
        >>> y.shape, weights.shape
        ((8, 3), (3, 2, 5))
        """
        key, value = self._fits(key, value)
        _, (w_k, b_k), (w_v, b_v) = self.parts()
        value, k = key if value is None else value, _normal(functional.linear(key, w_k, b_k), self.k_norm)
        return self.heads(k), self.heads(functional.linear(value, w_v, b_v))

    def _fits(self, key: Any, value: Any) -> tuple[Tensor, Tensor | None]:
        """Keys (B, S, kdim) and values (B, S, vdim), or None where the keys are that; others are refused."""
        name, (_, w_k, w_v) = type(self).__name__, self._weights()
        first = vectors(name, w_k.shape[1], w_k.dtype, key=key)
        second = vectors(name, w_v.shape[1], w_v.dtype, value=first if value is None else value)
        if first.shape[:2] != second.shape[:2]:
            raise ValueError(f"{name}: expected key and value (B, S, .), got shapes {first.shape} and {second.shape}")
        return first, None if value is None else second

    def step(self, x: Array, past: Array, n: int, mask: Array | None, turn: Any) -> Array:
        """`forward` of one more position to itself and the n before, on arrays: x (E, B), or (E,) of a batch of one, as
        it comes. `past` (B, 2, num_kv_heads, capacity, D) holds their keys and values, and gets those of x; mask
        (B, n + 1)."""
        backend, (batch, _, few, _, wide) = backends.of(x), past.shape
        bias = None if self.in_proj_bias is None else self.in_proj_bias._data
        qkv = backend.linear_few(x, self.in_proj_weight._data, bias).T
        qkv = qkv.reshape(batch, self.num_heads + 2 * few, wide)
        for norm, part in ((self.q_norm, qkv[:, : self.num_heads]), (self.k_norm, qkv[:, self.num_heads : -few])):
            if norm is not None:
                part[...] = _normal_few(part, norm)
        if turn is not None:
            turned = qkv[:, :-few]
            turned[...] = functional.rotate.body(turned, *turn)[0]  # type: ignore[attr-defined]
        past[:, :, :, n] = qkv[:, self.num_heads :].reshape(batch, 2, few, wide)
        q, near = qkv[:, : self.num_heads], slice(max(0, n + 1 - (self.window or n + 1)), n + 1)
        mask = mask if mask is None else mask[:, near]
        y, _ = backend.attention_few(q, past[:, 0, :, near], past[:, 1, :, near], mask, self.softcap or 0.0)
        return call_few(backend, self.out_proj, y.reshape(*x.T.shape[:-1], self._rows[0]).T)

    def look(self, x: Array, k: Array, v: Array, mask: Array | None) -> tuple[Array, Array]:
        """`forward` of one position x, as that of `step`, to what `remember` made of a memory: as x, and the weights
        (B, heads, S); mask (B, S)."""
        if self.window is not None:
            raise ValueError("MultiheadAttention.look: a window counts from the last query, which no step knows: "
                             "expected window=None of attention to a memory, or all positions at once")
        backend, rows = backends.of(x), slice(self._rows[0])
        bias = None if self.in_proj_bias is None else self.in_proj_bias._data[rows]
        q = backend.linear_few(x, self._weights()[0]._data[rows], bias).T
        q = _normal_few(q.reshape(len(k), self.num_heads, self.head_dim), self.q_norm)
        y, weights = backend.attention_few(q, k, v, mask, self.softcap or 0.0)
        weights = weights.reshape(len(k), self.num_heads, k.shape[2])
        return call_few(backend, self.out_proj, y.reshape(*x.T.shape[:-1], self._rows[0]).T), weights

    def parts(self) -> list[tuple[Tensor, Tensor | None]]:
        """(W, b) of the projections of query, key and value: W (heads D, inputs), b (heads D,) or None.

        >>> [weight.shape for weight, bias in nn.MultiheadAttention(8, num_heads=2, kdim=6).parts()]
        [(8, 8), (8, 6), (8, 8)]
        """
        weights = ops.split(self.in_proj_weight, self._rows) if self.packed else self._weights()
        biases = (None,) * 3 if self.in_proj_bias is None else ops.split(self.in_proj_bias, self._rows)
        return list(zip(weights, biases, strict=True))

    def heads(self, x: Tensor) -> Tensor:
        """(B, T, heads D) -> (B, heads, T, D)."""
        heads = (x.shape[2] // self.head_dim, self.head_dim)
        return ops.permute_dims(ops.reshape(x, (*x.shape[:2], *heads)), (0, 2, 1, 3))

    def extra_repr(self) -> str:
        said = super().extra_repr().replace(f", num_kv_heads={self.num_heads}", "")
        usual = self.head_dim * self.num_heads == self.embed_dim
        return said.replace(f", head_dim={self.head_dim}", "") if usual else said


def _normal(x: Tensor, norm: Any) -> Tensor:
    """x (B, T, heads D), each head normalised by itself, or all together, as wide as the norm is."""
    if norm is None:
        return x
    wide = len(norm.weight)
    return ops.reshape(norm(ops.reshape(x, (*x.shape[:2], x.shape[2] // wide, wide))), x.shape)


def _normal_few(x: Array, norm: Any) -> Array:
    """Heads (B, heads, D) of one position, normalised."""
    return x if norm is None else _normal(Tensor(x.reshape(len(x), 1, -1)), norm)._data.reshape(x.shape)


def attention_weights(model: Module, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Tensor]]:
    """`model(*args, **kwargs)`, and the weights (B, heads, T, S) of each `MultiheadAttention` in it by its name, as
    "layers.0.self_attn" ("" of the model itself): before dropout, in the order of use. `tinyseq.plot.heads` draws them.

    A module that hangs in several places gives its uses their names in turn; of more uses than names the last stays.

    >>> model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), num_layers=2)
    >>> y, weights = nn.attention_weights(model, ts.random.normal((2, 5, 8)), lengths=[5, 2])
    >>> {name: w.shape for name, w in weights.items()}
    {'layers.0.self_attn': (2, 2, 5, 5), 'layers.1.self_attn': (2, 2, 5, 5)}
    """
    check.instance("attention_weights", Module, model=model)
    names: dict[int, list[str]] = {id(model): [""]}
    for name, module in model.named_modules():
        names.setdefault(id(module), []).append(name)
    seen: list[tuple[Module, Tensor]] = []
    token = _seen.set(seen)
    try:
        y = model(*args, **kwargs)
    finally:
        _seen.reset(token)
    found = {}
    for module, weights in seen:
        left = names[id(module)]
        found[left.pop(0) if len(left) > 1 else left[0]] = weights
    return y, found
