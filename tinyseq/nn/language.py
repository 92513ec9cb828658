"""Language models: embedding, positions, causal layers; and a step with a cache of keys and values."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tinyseq import backends, check, functional
from tinyseq.engine import ops
from tinyseq.engine.graph import grad_enabled, no_grad
from tinyseq.engine.tensor import Array, Like, Tensor, namespace
from tinyseq.nn import init, masks
from tinyseq.nn.layers import Dropout, Embedding, Linear
from tinyseq.nn.masks import length_mask, masked_memory
from tinyseq.nn.module import Module
from tinyseq.nn.multihead import Pair, product
from tinyseq.nn.positions import LearnedPositions, SinusoidalPositions, angles
from tinyseq.nn.transformer import TransformerDecoderLayer, TransformerEncoderLayer, _normal, _sizes


class LanguageState(NamedTuple):
    """Where a language model stands: all layers' keys and values, cache (B, layers, 2, num_kv_heads, capacity, D), of
    which `length` positions are read and `filled`, an array (), are written, by this state or one that shares the
    cache; where in them the text of each row begins, starts (B,), None for 0; of a decoder, each layer's keys and
    values of the memory, its mask (B, S), and the last step's attention to it (B, S), the last layer's mean over
    heads."""

    cache: Tensor
    length: int
    filled: Array
    starts: Tensor | None = None
    memory: tuple[Pair, ...] = ()
    mask: Tensor | None = None
    weights: Tensor | None = None


class LanguageModel(Module):
    """Logits of the next token from all before it: embedding, positions, causal layers, norm, and a linear layer.

    `positions` are "learned" (`max_length` of them), "sinusoidal" (with embeddings times sqrt(d_model)), "rotary" (of
    frequencies `rotary_base`^(-2i/D)) or None. `tied`: the last layer's weight is the embedding. `options` are those
    of `TransformerEncoderLayer`; pre-norm unless `norm_first=False`. GPT-2 has learned positions and `gelu_tanh`; Llama
    has rotary ones, `norm="rms"`, `activation="swiglu"`, `bias=False`, and fewer `num_kv_heads`.

    `start` reads prompts, all rows at once; `step` goes on from a cache in buffers that double when they are full. It
    writes one position into them. A state may be stepped from as often as one likes: the first step from it writes into
    the shared buffer, after the last position that the state reads; a further one copies it.
    """

    layer: type[TransformerEncoderLayer] = TransformerEncoderLayer

    def __init__(
        self, vocab_size: int, d_model: int, nhead: int, num_layers: int, dim_feedforward: int = 2048,
        dropout: float = 0.1, *, positions: str | None = "learned", max_length: int = 1024, rotary_base: float = 1e4,
        tied: bool = True, norm_first: bool = True, dtype: Any = np.float32, **options: Any,
    ) -> None:
        name = type(self).__name__
        check.choice(name, ("learned", "sinusoidal", "rotary", None), positions=positions)
        vocab_size, num_layers, max_length = check.integers(name, 1, vocab_size=vocab_size, num_layers=num_layers,
                                                            max_length=max_length)
        d_model, dim_feedforward = _sizes(name, d_model, nhead, dim_feedforward, dropout)
        rotary_base, width = check.numbers(name, above=0, rotary_base=rotary_base), d_model // nhead
        if positions == "rotary" and width % 2:
            raise ValueError(f"{name}: expected positions='rotary' with an even width d_model / nhead, got {width}")
        self.embedding = Embedding(vocab_size, d_model, dtype=dtype)
        self._scale = math.sqrt(d_model) if positions == "sinusoidal" else 1.0
        init.normal_(self.embedding.weight, std=0.02 if self._scale == 1 else 1 / self._scale)
        self.positions = (LearnedPositions(max_length, d_model, dtype) if positions == "learned" else
                          SinusoidalPositions(d_model) if positions == "sinusoidal" else None)
        self._frequencies = rotary_base ** (-np.arange(0, width, 2) / width) if positions == "rotary" else None
        self.dropout = Dropout(dropout)
        options |= {"norm_first": norm_first, "dtype": dtype}
        self.layers = [self.layer(d_model, nhead, dim_feedforward, dropout, **options) for _ in range(num_layers)]
        self.norm = copy.deepcopy(self.layers[0].norm1) if norm_first else None
        self.out = Linear(d_model, vocab_size, False, dtype=dtype)
        if tied:
            self.out.weight = self.embedding.weight  # type: ignore[assignment]

    def _check(self, tokens: Like, axes: int, state: LanguageState | None = None) -> None:
        """Refuse tokens that are not (B,) or (B, T), with the B of a state, and a state that another kind made."""
        memory = state.memory if isinstance(state, LanguageState) else ()
        if self.layer.crosses is not bool(memory) or (state is None and axes == 1) or (state is not None and not (
                isinstance(state, LanguageState) and state.cache.shape[1] == len(self.layers))):
            raise (ValueError if state is None or isinstance(state, LanguageState) else TypeError)(
                f"{type(self).__name__}: expected a state that its own `start` made, got {check.describe(state)}")
        shape = ops.asarray(tokens).shape if isinstance(tokens, (list, tuple)) else np.shape(tokens)
        rows = None if state is None else state.cache.shape[0]
        if len(shape) != axes or (rows is not None and shape[0] != rows):
            raise ValueError(f"{type(self).__name__}: expected tokens ({'B' if rows is None else rows},"
                             f"{' T' * (axes - 1)}), got shape {shape}")

    def forward(self, tokens: Like, state: LanguageState | None = None, lengths: Like = None) -> Tensor:
        """Logits (B, T, V) of the token after each of `tokens` (B, T), after those of `state`, if there is one.

        No token sees a later one, so padding after a row's end changes nothing before it; where learned positions do
        not reach as far as the padding, `lengths` (B,) say where the rows end.
        """
        return self.out(self._read(tokens, state, lengths)[0])  # type: ignore[no-any-return]

    def _read(self, tokens: Like, state: LanguageState | None, lengths: Like = None) -> tuple[Tensor, list[Pair]]:
        """What the last layer makes of tokens (B, T), and each layer's keys and values of them."""
        self._check(tokens, 2, state)
        if state is not None and state.length and grad_enabled():
            raise RuntimeError(f"{type(self).__name__}: no gradient reaches what a state has read: give all tokens to "
                               "forward, or read on under ts.no_grad()")
        x = self.embedding(tokens)
        n, starts = (0, None) if state is None else (state.length, state.starts)
        ids: Like = np.arange(n, n + x.shape[1])
        mask = None
        if starts is not None:
            ids = ops.maximum(ops.like(x, ids) - starts[:, None], 0)
            mask = ops.like(x, np.arange(n + x.shape[1])) >= starts[:, None]
        x, turn = self._place(x, ids, n + x.shape[1], starts, lengths)
        turn = turn and [ops.expand_dims(angle, -3) for angle in turn]
        kept: list[Pair] = []

        def between(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            if turn is not None:
                q, k = functional.rotate(q, *turn), functional.rotate(k, *turn)
            kept.append((k, v))
            if state is not None and n:
                past = state.cache[:, len(kept) - 1, :, :, :n]
                k, v = ops.concat([past[:, 0], k], 2), ops.concat([past[:, 1], v], 2)
            return q, k, v

        x = self.dropout(x)
        for i, layer in enumerate(self.layers):
            more: Any = {} if state is None or not state.memory else {
                "memory": state.memory[i], "memory_mask": state.mask}
            x = layer(x, mask=mask, causal=True, between=between, **more)
        return x if self.norm is None else self.norm(x), kept

    def _place(self, x: Tensor, ids: Like, end: int, starts: Tensor | None, lengths: Like = None) -> tuple[Tensor, Any]:
        """Embeddings (..., E) with their positions, ids below `end`; and cos and sin (..., D/2) of rotary ones. A row's
        own positions, less its start and up to its length, are those that must be there."""
        if isinstance(self.positions, LearnedPositions) and end > (most := self.positions.weight.shape[0]):
            name, ends = type(self).__name__, end - (np.zeros(len(x), int) if starts is None else starts.numpy())
            if lengths is not None:
                ends += length_mask(lengths, x.shape[-2], len(x), name).numpy().sum(1) - x.shape[-2]
            if (reached := ends.max(initial=0)) > most:
                raise ValueError(f"{name}: learned positions reach max_length = {most}, not {reached} tokens")
            ids = ops.minimum(ops.like(x, ids), most - 1)
        x = x if self._scale == 1 else x * self._scale
        if isinstance(ids, int) and isinstance(self.positions, LearnedPositions):  # a step: short
            x = Tensor(x._data + self.positions.weight._data[ids])
        elif self.positions is not None:
            x = self.positions(x, ids)
        return x, None if self._frequencies is None else angles(x, ids, self._frequencies)

    def start(self, tokens: Like, lengths: Like = None) -> LanguageState:
        """The state after tokens (B, T), of each row the first `lengths` (B,), all read in one pass. T may be 0."""
        self._check(tokens, 2)
        weight = self.embedding.weight
        with no_grad():
            tokens, starts = ops.like(weight, tokens), None
            if lengths is not None:  # the rows' ends are put side by side
                real = length_mask(lengths, tokens.shape[1], len(tokens), type(self).__name__)
                starts = ops.sum(ops.like(weight, ~real), 1)
                places = ops.like(weight, np.arange(tokens.shape[1])) - starts[:, None]
                tokens = ops.where(places < 0, 0, ops.take_along_axis(tokens, ops.maximum(places, 0), 1))
            state = self._empty(tokens.shape[0])._replace(starts=starts)
            _, kept = self._read(tokens, state)
            cache = ops.stack([ops.stack(pair, 1) for pair in kept], 1)
        return state._replace(cache=cache, length=tokens.shape[1], filled=np.array(tokens.shape[1]))

    def prompt(self, prompts: Sequence[Sequence[int]]) -> tuple[LanguageState, Any]:
        """What `tinyseq.decode` needs to go on with prompts of any lengths above 0: the state after all but their last
        tokens, and those, (B,)."""
        if not hasattr(prompts, "__iter__"):
            raise TypeError(f"{type(self).__name__}: expected prompts as lists of integers, got {prompts!r}")
        rows = [np.asarray(p.numpy() if isinstance(p, Tensor) else p) for p in prompts]
        for i, p in enumerate(rows):
            if p.ndim != 1 or not p.size or p.dtype.kind not in "iu":
                raise ValueError(f"{type(self).__name__}: prompt {i} is empty or no list of integers: expected one "
                                 f"token or more, got {p.dtype} {p.shape}")
            ops.check_ids(f"{type(self).__name__}: prompt {i}", p, len(self.embedding.weight))
        lengths = np.array([len(p) for p in rows], int)
        tokens = np.zeros((len(rows), lengths.max(initial=1)), np.int64)
        for row, p in zip(tokens, rows, strict=True):
            row[: len(p)] = p
        lengths -= 1
        alike = (lengths == lengths.max(initial=0)).all()
        state = self.start(tokens[:, :-1], None if alike else lengths)
        return state, tokens[np.arange(len(prompts)), lengths]

    def _empty(self, batch: int) -> LanguageState:
        attention, weight = self.layers[0].self_attn, self.embedding.weight._data
        shape = (batch, len(self.layers), 2, attention.num_kv_heads, 0, attention.head_dim)
        return LanguageState(Tensor(namespace(weight).zeros(shape, dtype=weight.dtype)), 0, np.array(0))

    @no_grad()
    def step(self, tokens: Like, state: LanguageState) -> tuple[Tensor, LanguageState]:
        """Logits (B, V) of the token after `tokens` (B,), and the state then. Without dropout and gradient."""
        self._check(tokens, 1, state)
        n, cache, filled = state.length, state.cache._data, state.filled
        xp = namespace(cache)
        if filled.item() != n or n == cache.shape[4]:  # somebody went on from here, or it is full
            longer = xp.zeros((*cache.shape[:4], max(2 * n, 64), cache.shape[5]), dtype=cache.dtype)
            longer[..., :n, :] = cache[..., :n, :]
            cache, filled = longer, np.array(n)
        filled[...] = n + 1
        mask, ids = (None, n) if state.starts is None else (
            xp.arange(n + 1) >= state.starts._data[:, None], n - state.starts)
        weight = self.embedding.weight._data  # whose rows are taken without what an op costs
        rows = xp.asarray(ops.check_ids(type(self).__name__, tokens, len(weight)))
        x = Tensor(backends.of(weight).embedding(weight, rows))
        placed, turn = self._place(x, ids, n + 1, state.starts)
        weights, turn = None, turn and [angle._data[..., None, :] for angle in turn]
        x = placed._data[0] if len(placed) == 1 else placed._data.T  # a batch of one: a vector, which is faster
        looked = None if state.mask is None else state.mask._data
        for i, layer in enumerate(self.layers):
            memory = [a._data for a in state.memory[i]] if state.memory else None
            x, weights = layer.step(x, cache[:, i], n, mask, turn, memory, looked)
        x = x if self.norm is None else _normal(x, self.norm)
        return Tensor(product(x, self.out.weight, None).T.reshape(len(cache), len(self.out.weight))), state._replace(
            cache=Tensor(cache), length=n + 1, filled=filled,
            weights=None if weights is None else Tensor(weights.mean(axis=1)))


class ConditionalLanguageModel(LanguageModel):
    """A `LanguageModel` of `TransformerDecoderLayer`s, which also attend to a memory (B, S, d_model): the decoder of an
    `EncoderDecoder` whose encoder is a `TransformerEncoder`."""

    layer = TransformerDecoderLayer
    states = 0  # an `EncoderDecoder` has none of the encoder's to hand on

    def start(self, memory: Tensor, hidden: None = None, mask: Like = None) -> LanguageState:
        """The state before the first token; mask (B, S) is True where memory is real. There is no `hidden` state."""
        if hidden is not None:
            raise ValueError(f"{type(self).__name__}: expected no hidden state, got {check.describe(hidden)}")
        memory, mask = masked_memory(type(self).__name__, memory, mask)
        attention = self.layers[0].multihead_attn
        masks.vectors(type(self).__name__, attention.embed_dim, attention.out_proj.weight.dtype, memory=memory)
        pairs = tuple(layer.multihead_attn.remember(memory) for layer in self.layers)
        return self._empty(memory.shape[0])._replace(memory=pairs, mask=mask)
