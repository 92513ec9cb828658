"""One position more: any layer of few vectors, and a stack of layers that keeps its keys and values.

A step of a stack is its `forward` of one position after those that a state has read. Layers of exactly the types here
take a kernel of the backend; any other is called as `forward` calls it, on one position. Layers of a stack, and their
attention, have a `step` of their own: one whose `step` is not of its `forward` is refused by name by `start`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import cycle, islice
from typing import Any, ClassVar, NamedTuple

import numpy as np

from tinyseq import backends, check, functional
from tinyseq.engine import ops
from tinyseq.engine.graph import grad_enabled, no_grad
from tinyseq.engine.tensor import Array, Like, Tensor, namespace
from tinyseq.nn.layers import Dropout, LayerNorm, Linear, RMSNorm
from tinyseq.nn.masks import length_mask, masked_memory, numbers, vectors
from tinyseq.nn.module import Module
from tinyseq.nn.rotary import RotaryPositions

FEW = {Linear, LayerNorm, RMSNorm, Dropout}  # a backend has kernels of them
PARTS = "heads", "parts"  # methods of attention that `step` knows
Pair = tuple[Tensor, Tensor]
Between = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


class LanguageState(NamedTuple):
    """Where a language model or a stack of layers stands: all layers' keys and values, cache (B, layers, 2,
    num_kv_heads, capacity, D), of which `length` positions are read and `filled`, an array (), are written, by this
    state or one that shares the cache; where in them each row begins, starts (B,), None for 0; of a decoder, each
    layer's keys and values of the memory, its mask (B, S), and the last step's attention to it (B, S), the last layer's
    mean over heads.

    >>> model = nn.LanguageModel(10, d_model=8, nhead=2, num_layers=3, dim_feedforward=16).eval()
    >>> state = model.start([[1, 2, 3], [4, 5, 0]], lengths=[3, 2])
    >>> state.length, state.cache.shape, state.starts         # rows end side by side: the second begins one later
    (3, (2, 3, 2, 2, 3, 4), tensor([0, 1]))
    >>> logits, after = model.step([6, 6], state)
    >>> state.length, after.length
    (3, 4)
    """

    cache: Tensor
    length: int
    filled: Array
    starts: Tensor | None = None
    memory: tuple[Pair, ...] = ()
    mask: Tensor | None = None
    weights: Tensor | None = None

    def __repr__(self) -> str:
        return check.fields(self)


def gelu_tanh(x: Tensor) -> Tensor:
    """`functional.gelu` by the tanh approximation."""
    return functional.gelu(x, "tanh")


def plain(layer: Any, kind: type) -> bool:
    """Whether a layer is of exactly that kind, with its forward."""
    return type(layer) is kind and "forward" not in layer.__dict__


def call_few(backend: Any, layer: Any, x: Array) -> Array:
    """What a layer, or a function, makes of few vectors, features first: x (E,), of a batch of one, or (E, B) -> (F,)
    or (F, B). Where the backend has no kernel of it, it is called on (B, 1, E)."""
    kind = type(layer)
    if kind in FEW and "forward" not in layer.__dict__:
        if kind is Linear:
            return backend.linear_few(x, layer.weight._data, None if layer.bias is None else layer.bias._data)
        if kind is Dropout:
            return x
        weight, bias = layer.weight, None if kind is RMSNorm else layer.bias
        return backend.norm_few(x, None if weight is None else weight._data, None if bias is None else bias._data,
                                layer.eps, kind is LayerNorm)
    if layer is gelu_tanh:
        return backend.gelu_few(x)
    y = layer(Tensor(x.T.reshape(-1, 1, len(x))))._data
    return y[0, 0] if x.ndim == 1 else y[:, 0].T


def own_step(where: str, layer: Any, step: str = "step", parts: tuple[str, ...] = (), **needs: type) -> None:
    """Refuse a layer that has no `step`, or whose class changed what that is a step of, be it in its `parts`; ours have
    what they need. `needs` are attributes that a layer of somebody's own must have too."""
    whole = {step, "forward", "__call__", *parts}
    own: Any = next((vars(c) for c in (layer, *type(layer).__mro__) if whole & getattr(c, "__dict__", {}).keys()), {})
    ours = hasattr(layer, step) and own.get("__module__", "").startswith("tinyseq.")
    for name, kind in needs.items():
        if hasattr(layer, step) and not isinstance(getattr(layer, name, None), kind):
            raise TypeError(f"{where}: expected a layer with `{name}`, which says how its keys and values are kept, "
                            f"got {check.describe(layer)}")
    if step not in own and not ours:
        raise TypeError(f"{where}: expected a layer with a `{step}` beside its `forward`, which does the same for one "
                        f"position, got {check.describe(layer)}: write one, or call the model on all positions")


def places(x: Tensor, n: int, starts: Tensor | None, steps: int = 0) -> Like:
    """The positions after the n-th of x (B, T, ...), or of so many steps, in rows that begin at `starts` (B,), if they
    do not all at 0: (T,) or (B, T)."""
    ids = np.arange(n, n + (steps or x.shape[1]))
    return ids if starts is None else ops.maximum(ops.like(x, ids) - starts[:, None], 0)


class Stack(Module):
    """Layers one after another and then `norm`, if there is one, of a part of the positions after the other. No
    position sees a later one, and what is not a layer of the stack treats each by itself.

    Keys and values are kept in buffers that double when they are full; a step writes one position into them. A state
    may be stepped from as often as one likes: the first step from it writes into the shared buffer, after the last
    position that the state reads; a further one copies it.
    """

    layers: list[Any]
    norm: Any
    crosses: ClassVar[bool] = False  # whether the layers attend to a memory too
    _rotary: tuple[RotaryPositions | None, ...] = ()  # a layer; a shorter pattern is repeated

    def start(self, src: Tensor, lengths: Like = None) -> LanguageState:
        """The state after src (B, T, E), of each row the first `lengths` (B,). T may be 0. Each row's next
        position is state.length, less state.starts unless that is None."""
        name = type(self).__name__
        src = vectors(name, None, src=src)
        state = self._empty(src)
        with no_grad():
            if lengths is not None:  # the rows' ends are put side by side
                real = length_mask(lengths, src.shape[1], len(src), name)
                starts = ops.sum(ops.like(src, ~real), 1)
                src = ops.where(ops.like(src, real)[..., None], src, 0.0)
                src = ops.take_along_axis(src, places(src, 0, starts)[..., None], 1)
                state = state._replace(starts=starts)
            cache = ops.stack([ops.stack(pair, 1) for pair in self._read(src, state, 1)[1]], 1)
        return state._replace(cache=cache, length=src.shape[1], filled=np.array(src.shape[1]))

    def _empty(self, src: Tensor) -> LanguageState:
        """The state before the first position of vectors such as src (B, T, E)."""
        heads, width = self._steps_alike(src.dtype)
        cache = namespace(src._data).zeros((len(src), len(self.layers), 2, heads, 0, width), dtype=src.dtype)
        return LanguageState(Tensor(cache), 0, np.array(0))

    def _steps_alike(self, dtype: Any) -> tuple[int, int]:
        """num_kv_heads and head_dim of all layers. What has no step that does as its forward is refused by name."""
        name, shapes = type(self).__name__, dict[tuple[int, int], int]()
        own_step(name, self)
        for i, layer in enumerate(self.layers):
            own_step(f"{name}: layers.{i}", layer, self_attn=Module)
            own_step(f"{name}: layers.{i}.self_attn", layer.self_attn, "step", PARTS, num_kv_heads=int, head_dim=int)
            if self.crosses:
                own_step(f"{name}: layers.{i}.multihead_attn", getattr(layer, "multihead_attn", None), "look", PARTS)
            shapes.setdefault((layer.self_attn.num_kv_heads, layer.self_attn.head_dim), i)
        if len(shapes) != 1:
            raise ValueError(f"{name}: expected layers of one (num_kv_heads, head_dim), which share a cache, got "
                             f"{' and '.join(f'{shape} of layers.{i}' for shape, i in shapes.items()) or 'none'}")
        for path, part in self.named_modules():
            if not (part.alone or re.fullmatch(r"positions|layers\.\d+(\.(self|multihead)_attn.*)?", path)):
                raise TypeError(f"{name}: {path} looks at more than one position, or where it stands, got "
                                f"{check.describe(part)}: it has no step; call the model on all positions")
            found = getattr(getattr(part, "weight", None), "dtype", dtype)
            if type(part) in FEW and re.fullmatch(r"(layers\.\d+\.)?\w+", path) and found != dtype:
                raise TypeError(f"{name}: expected {path} of {dtype}, as what it is given, got {found}: .to(dtype)")
        return next(iter(shapes))

    def _remember(self, memory: Tensor, mask: Like, lengths: Like = None) -> LanguageState:
        """The state before the first position of layers that attend to a memory (B, S, E)."""
        name = type(self).__name__
        memory, mask = masked_memory(name, memory, mask)
        if lengths is not None:
            memory, real = masked_memory(name, memory, length_mask(lengths, memory.shape[1], len(memory), name))
            mask = real if mask is None else mask & real
        first = getattr(next(iter(self.layers), None), "multihead_attn", None)
        vectors(name, getattr(first, "embed_dim", None), getattr(first, "dtype", None), memory=memory)
        state = self._empty(memory)  # which refuses layers that have no multihead_attn
        return state._replace(memory=tuple(layer.multihead_attn.remember(memory) for layer in self.layers), mask=mask)

    def _own(self, state: Any, x: Any = None, axes: int = 0) -> Any:
        """Refuse a state that another kind made. The vectors x, if given, must be of its rows and dtype."""
        if not isinstance(state, LanguageState) or self.crosses is not bool(state.memory) or (
                state.cache.shape[1] != len(self.layers)):
            raise (ValueError if state is None or isinstance(state, LanguageState) else TypeError)(
                f"{type(self).__name__}: expected a state that its own `start` made, got {check.describe(state)}")
        if axes:
            name, rows, dtype = type(self).__name__, len(state.cache), state.cache.dtype
            wanted = f"x ({rows},{' T,' * (axes - 2)} E) of {dtype}, as the state"
            x = numbers(name, wanted, x, state.cache)
            if x.ndim != axes or len(x) != rows or x.dtype != dtype:
                raise ValueError(f"{name}: expected {wanted}, got {check.describe(x)}")
        return x

    def _read(self, x: Tensor, state: LanguageState | None, ahead: int = 0) -> tuple[Tensor, list[Pair]]:
        """What the stack makes of x (B, T, E) after a state, if there is one, and each layer's keys and values of x;
        `ahead` is how many positions more there will be at least."""
        n, starts = (0, None) if state is None else (state.length, state.starts)
        if n and grad_enabled():
            raise RuntimeError(f"{type(self).__name__}: no gradient reaches what a state has read: give all positions "
                               "to forward, or read on under ts.no_grad()")
        mask = None if starts is None else ops.like(x, np.arange(n + x.shape[1])) >= starts[:, None]
        turns, kept = self._turns(x, places(x, n, starts), ahead), list[Pair]()

        def between(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            if turn := turns[len(kept)]:
                q, k = functional.rotate(q, *turn), functional.rotate(k, *turn)
            kept.append((k, v))
            if state is not None and n:
                past = state.cache[:, len(kept) - 1, :, :, :n]
                k, v = ops.concat([past[:, 0], k], 2), ops.concat([past[:, 1], v], 2)
            return q, k, v

        for i, layer in enumerate(self.layers):
            more: Any = {} if state is None or not state.memory else {
                "memory": state.memory[i], "memory_mask": state.mask}
            x = layer(x, mask=mask, causal=True, between=between, **more)
            if state is not None and len(kept) != i + 1:
                raise TypeError(f"{type(self).__name__}: expected layers.{i} to call `between` once, which keeps its "
                                f"keys and values, got {check.describe(layer)}")
        return x if self.norm is None else self.norm(x), kept

    def _turns(self, x: Tensor, ids: Like, ahead: int = 0) -> list[list[Tensor] | None]:
        """Each layer's cos and sin of positions `ids`, (T,) or (B, T), for all heads; None where nothing is turned."""
        made = {r: [ops.expand_dims(angle, -3) for angle in r.angles(x, ids, ahead)]
                for r in {*self._rotary} if r is not None}
        return [None if r is None else made[r] for r in islice(cycle(self._rotary or (None,)), len(self.layers))]

    def _step(self, x: Array, state: LanguageState) -> tuple[Array, LanguageState]:
        """`step` on arrays, features first."""
        n, cache, filled = state.length, state.cache._data, state.filled
        backend = backends.of(cache)
        if filled.item() != n or n == cache.shape[4]:  # somebody went on from here, or it is full
            longer = backend.xp.zeros((*cache.shape[:4], max(2 * n, 64), cache.shape[5]), dtype=cache.dtype)
            longer[..., :n, :] = cache[..., :n, :]
            cache, filled = longer, np.array(n)
        filled[...] = n + 1
        mask = None if state.starts is None else backend.xp.arange(n + 1) >= state.starts._data[:, None]
        looked = None if state.mask is None else state.mask._data
        turns: Any = [turn and [angle._data[..., 0, :, :] for angle in turn] for turn in self._turns(
            state.cache, places(state.cache, n, state.starts, 1))]
        weights: Any = None
        for i, layer in enumerate(self.layers):
            if state.memory:
                memory = [a._data for a in state.memory[i]]
                x, weights = layer.step(x, cache[:, i], n, mask, turns[i], memory, looked)
            else:
                x = layer.step(x, cache[:, i], n, mask, turns[i])
        x = x if self.norm is None else call_few(backend, self.norm, x)
        return x, LanguageState(Tensor(cache), n + 1, filled, state.starts, state.memory, state.mask,
                                None if weights is None else Tensor(weights.mean(axis=1)))


class VectorStack(Stack):
    """A stack that is given vectors."""

    def read(self, x: Tensor, state: LanguageState) -> Tensor:
        """x (B, T, E) -> (B, T, E), after the positions of a state, all at once: what `step` makes of them in turn."""
        return self._read(self._own(state, x, 3), state)[0]

    @no_grad()
    def step(self, x: Tensor, state: LanguageState) -> tuple[Tensor, LanguageState]:
        """x (B, E), one position after those of a state -> (B, E), and the state then. Without gradient; call `eval()`
        before."""
        y, state = self._step(features_first(self._own(state, x, 2)._data), state)
        return rows_first(y), state


def features_first(x: Array) -> Array:
    """x (B, E) as (E, B), or (E,) of a batch of one, which is faster."""
    return x[0] if len(x) == 1 else x.T


def rows_first(x: Array) -> Tensor:
    """Few vectors (E,) or (E, B) as (B, E)."""
    return Tensor(x[None] if x.ndim == 1 else x.T)
