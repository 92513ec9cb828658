"""Transformers (Vaswani et al. 2017): layers, stacks, and language models with a cache of keys and values.

Names, constructor arguments and state_dict keys are PyTorch's; the layout is (batch, time, features), masks are boolean
and True takes part, `lengths` (B,) count the real positions of each row, what stands after them changes nothing, and
outputs there are 0.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any, ClassVar, NamedTuple

import numpy as np

from tinyseq import backends, check, functional, ops
from tinyseq.nn import init, multihead
from tinyseq.nn.attention import masked_memory
from tinyseq.nn.layers import Dropout, Embedding, LayerNorm, Linear, RMSNorm
from tinyseq.nn.module import Module, Parameter
from tinyseq.nn.multihead import Attending, Between, MultiheadAttention, Pair, length_mask, product, refuse
from tinyseq.tensor import Array, Like, Tensor, grad_enabled, namespace, no_grad


def gelu_tanh(x: Tensor) -> Tensor:
    """`functional.gelu` by the tanh approximation."""
    return functional.gelu(x, "tanh")


Sublayer = Callable[[Tensor], Tensor]
ACTIVATIONS: dict[str, Sublayer] = {"relu": functional.relu, "gelu": functional.gelu, "gelu_tanh": gelu_tanh,
                                    "silu": functional.silu, "swiglu": functional.swiglu}


def _real(name: str, x: Tensor, lengths: Like) -> Tensor:
    """x (B, T, E) with 0 after each row's length; attention refuses another x."""
    if lengths is None or x.ndim != 3:
        return x
    return ops.where(ops.like(x, length_mask(lengths, x.shape[1], len(x), name))[..., None], x, 0.0)


@lru_cache
def _average(n: int, dtype: Any) -> Array:
    """What n features are multiplied by to get their mean."""
    return np.full(n, 1 / n, dtype=dtype)


def _normal(x: Array, norm: Any) -> Array:
    """A norm of few vectors (E,) or (E, B), as arrays: short, where NumPy's kernel is for many."""
    if not isinstance(x, np.ndarray):  # a launch for each line below would take longer than the kernel
        return norm(Tensor(x.T))._data.T
    average = _average(len(x), x.dtype)
    y = x if isinstance(norm, RMSNorm) else x - average.dot(x)
    y = y * (average.dot(y * y) + (np.finfo(x.dtype).eps if norm.eps is None else norm.eps)) ** -0.5
    rows = y.T
    rows *= norm.weight._data
    if isinstance(norm, LayerNorm) and norm.bias is not None:
        rows += norm.bias._data
    return y


def _gelu_tanh(x: Array) -> Array:
    """`gelu_tanh` of few numbers, as arrays."""
    u = x * x
    u *= 0.044715 * math.sqrt(2 / math.pi)
    u += math.sqrt(2 / math.pi)
    u *= x
    np.tanh(u, out=u)
    u *= x
    u += x
    u *= 0.5
    return u


def _sizes(name: str, d_model: int, nhead: int, dim_feedforward: int, dropout: float,
           activation: str | Sublayer = "relu") -> tuple[int, int]:
    """d_model and dim_feedforward, checked with what else a layer has, in the name of who was asked for it."""
    d_model, nhead, dim_feedforward = check.integers(name, 1, d_model=d_model, nhead=nhead,
                                                     dim_feedforward=dim_feedforward)
    if d_model % nhead:
        raise ValueError(f"{name}: expected d_model to be a multiple of nhead, got {d_model} and {nhead}")
    check.numbers(name, least=0, below=1, dropout=dropout)
    if isinstance(activation, type) or (activation not in ACTIVATIONS and not callable(activation)):
        raise ValueError(f"{name}: expected activation to be one of {', '.join(ACTIVATIONS)}, or a function, got "
                         f"{check.describe(activation)}")
    return d_model, dim_feedforward


class TransformerEncoderLayer(Attending):
    """Self-attention, then the same two linear layers at each position, each added to what it was given.

    `norm_first`: x + f(norm(x)), else norm(x + f(x)). `activation` is "relu", "gelu", "gelu_tanh", "silu", "swiglu"
    (of which linear1 makes both halves: it has 2 x dim_feedforward rows), or a function. `norm` is "layer" or "rms".
    `num_kv_heads` as of `MultiheadAttention`.
    """

    def __init__(
        self, d_model: int, nhead: int, dim_feedforward: int = 2048, dropout: float = 0.1,
        activation: str | Sublayer = "relu", layer_norm_eps: float = 1e-5, batch_first: bool = True,
        norm_first: bool = False, bias: bool = True, device: None = None, dtype: Any = np.float32, *,
        norm: str = "layer", num_kv_heads: int | None = None,
    ) -> None:
        refuse(self, batch_first=not batch_first, device=device is not None)
        name = type(self).__name__
        check.choice(name, ("layer", "rms"), norm=norm)
        d_model, dim_feedforward = _sizes(name, d_model, nhead, dim_feedforward, dropout, activation)
        if layer_norm_eps is not None or norm == "layer":  # None is RMSNorm's own
            check.numbers(name, least=0, layer_norm_eps=layer_norm_eps)
        if num_kv_heads is not None:
            check.integers(name, 1, num_kv_heads=num_kv_heads)
        self.norm_first, self.d_model = norm_first, d_model
        self.activation = ACTIVATIONS[activation] if isinstance(activation, str) else activation
        self.self_attn = MultiheadAttention(d_model, nhead, dropout, bias, num_kv_heads=num_kv_heads, dtype=dtype)
        if self.crosses:
            self.multihead_attn = MultiheadAttention(d_model, nhead, dropout, bias, dtype=dtype)
        self.linear1 = Linear(d_model, dim_feedforward * (2 if activation == "swiglu" else 1), bias, dtype=dtype)
        self.linear2 = Linear(dim_feedforward, d_model, bias, dtype=dtype)
        kind: Any = RMSNorm if norm == "rms" else partial(LayerNorm, bias=bias)
        self.norm1, self.norm2 = (kind(d_model, layer_norm_eps, dtype=dtype) for _ in range(2))
        if self.crosses:
            self.norm3 = kind(d_model, layer_norm_eps, dtype=dtype)
        self.dropout = Dropout(dropout)

    crosses = False  # attention to a memory too

    def forward(
        self, src: Tensor, *, mask: Like = None, lengths: Like = None, causal: bool = False,
        between: Between | None = None, look: Sublayer | None = None,
    ) -> Tensor:
        """src (B, T, E) -> (B, T, E); the arguments are those of `MultiheadAttention`. `look` comes after it."""
        name = type(self).__name__
        multihead.vectors(name, self.d_model, self.linear1.weight.dtype, **{"tgt" if self.crosses else "src": src})
        attend: Sublayer = lambda x: self.self_attn(x, mask=mask, lengths=lengths, causal=causal, between=between)[0]
        feed: Sublayer = lambda x: self.linear2(self.dropout(self.activation(self.linear1(x))))
        x, parts = _real(name, src, lengths), [attend, feed] if look is None else [attend, look, feed]
        for norm, part in zip((self.norm1, self.norm2, getattr(self, "norm3", None)), parts, strict=False):
            x = x + self.dropout(part(norm(x))) if self.norm_first else norm(x + self.dropout(part(x)))
        return _real(name, x, lengths)

    def step(self, x: Array, past: Array, n: int, mask: Array | None, turn: Any, memory: Any = None,
             memory_mask: Array | None = None) -> tuple[Array, Array | None]:
        """`forward` of one more position x, on arrays, and the weights (B, heads, S) of the memory: see `step` and
        `look` of `MultiheadAttention`."""
        first, weights = self.norm_first, None
        y = self.self_attn.step(_normal(x, self.norm1) if first else x, past, n, mask, turn)
        y += x
        x = y if first else _normal(y, self.norm1)
        if self.crosses:
            query = _normal(x, self.norm2) if first else x
            y, weights = self.multihead_attn.look(query, memory[0], memory[1], memory_mask)
            y += x
            x = y if first else _normal(y, self.norm2)
        norm = self.norm3 if self.crosses else self.norm2
        y = product(_normal(x, norm) if first else x, self.linear1.weight, self.linear1.bias)
        short = self.activation is gelu_tanh and isinstance(y, np.ndarray)
        y = _gelu_tanh(y) if short else self.activation(Tensor(y.T))._data.T
        y = product(y, self.linear2.weight, self.linear2.bias)
        y += x
        return y if first else _normal(y, norm), weights


class TransformerDecoderLayer(TransformerEncoderLayer):
    """A `TransformerEncoderLayer` with attention to a memory between its two parts."""

    crosses = True

    def forward(  # type: ignore[override]
        self, tgt: Tensor, memory: Tensor | Pair, *, memory_mask: Like = None, memory_lengths: Like = None,
        **options: Any,
    ) -> Tensor:
        """tgt (B, T, E), memory (B, S, E), or what `multihead_attn.remember` made of it -> (B, T, E).

        `memory_mask` and `memory_lengths` are of the attention to the memory, the other options of that to itself.
        """
        if not isinstance(memory, tuple):
            multihead.vectors(type(self).__name__, self.d_model, self.linear1.weight.dtype, memory=memory)
        look: Sublayer = lambda x: self.multihead_attn(x, memory, mask=memory_mask, lengths=memory_lengths)[0]
        return super().forward(tgt, look=look, **options)


class TransformerEncoder(Attending):
    """`num_layers` copies of a layer one after another, then `norm`. The other arguments are PyTorch's, which change no
    number there either."""

    def __init__(
        self, encoder_layer: TransformerEncoderLayer, num_layers: int, norm: Module | None = None,
        enable_nested_tensor: bool = True, mask_check: bool = True,
    ) -> None:
        name, layer = type(self).__name__, "decoder_layer" if isinstance(self, TransformerDecoder) else "encoder_layer"
        check.instance(name, Module, **{layer: encoder_layer})
        check.instance(name, Module | None, norm=norm)
        self.layers = [copy.deepcopy(encoder_layer) for _ in range(check.integers(name, 1, num_layers=num_layers))]
        self.norm = norm

    def forward(self, src: Tensor, *args: Any, **masks: Any) -> Tensor:
        """src (B, T, E) -> (B, T, E); the arguments are the layers'."""
        for layer in self.layers:
            src = layer(src, *args, **masks)
        return src if self.norm is None else _real(type(self).__name__, self.norm(src), masks.get("lengths"))


class TransformerDecoder(TransformerEncoder):
    """`num_layers` copies of a `TransformerDecoderLayer` one after another, then `norm`."""

    def __init__(self, decoder_layer: TransformerDecoderLayer, num_layers: int, norm: Module | None = None) -> None:
        super().__init__(decoder_layer, num_layers, norm)

    def forward(self, tgt: Tensor, memory: Tensor, **masks: Any) -> Tensor:  # type: ignore[override]
        """tgt (B, T, E), memory (B, S, E) -> (B, T, E); the masks are the layers'."""
        return super().forward(tgt, memory, **masks)


class Transformer(Attending):
    """Encoder and decoder of vectors (Vaswani et al. 2017, figure 1), without embeddings. Initialised as PyTorch's.
    `options` are those of `TransformerEncoderLayer`. A `custom_encoder` and `custom_decoder` are called as ours are."""

    _masks = ("mask= (B, S) and lengths= are of src, tgt_lengths= and causal=True of tgt; with other masks call "
              "model.decoder(tgt, model.encoder(src, mask=...), mask=..., memory_mask=...)")
    conversions: ClassVar = Attending.conversions | dict.fromkeys((
        "src_mask", "tgt_mask", "memory_mask", "tgt_key_padding_mask", "memory_key_padding_mask", "src_is_causal",
        "memory_is_causal"), _masks)

    def __init__(
        self, d_model: int = 512, nhead: int = 8, num_encoder_layers: int = 6, num_decoder_layers: int = 6,
        dim_feedforward: int = 2048, dropout: float = 0.1, activation: str | Sublayer = "relu",
        custom_encoder: Any = None, custom_decoder: Any = None, **options: Any,
    ) -> None:
        check.integers("Transformer", 1, num_encoder_layers=num_encoder_layers, num_decoder_layers=num_decoder_layers)
        _sizes("Transformer", d_model, nhead, dim_feedforward, dropout, activation)
        first = TransformerEncoderLayer(d_model, nhead, dim_feedforward, dropout, activation, **options)
        second = TransformerDecoderLayer(d_model, nhead, dim_feedforward, dropout, activation, **options)
        check.instance("Transformer", Callable | None, custom_encoder=custom_encoder, custom_decoder=custom_decoder)
        self.encoder = custom_encoder or TransformerEncoder(first, num_encoder_layers, copy.deepcopy(first.norm1))
        self.decoder = custom_decoder or TransformerDecoder(second, num_decoder_layers, copy.deepcopy(second.norm1))
        for parameter in self.parameters():
            if parameter.ndim > 1:
                init.xavier_uniform_(parameter)

    def forward(
        self, src: Tensor, tgt: Tensor, *, mask: Like = None, lengths: Like = None, tgt_lengths: Like = None,
        causal: bool = False,
    ) -> Tensor:
        """src (B, S, E), tgt (B, T, E) -> (B, T, E). `mask` (B, S) and `lengths` (B,) are of src, in the encoder and
        where the decoder looks at it; `causal` hides the future of tgt."""
        if mask is not None and np.ndim(mask) != 2:  # both attentions would take others, if S = T
            raise ValueError(f"Transformer: expected mask (B, S), got {np.ndim(mask)} axes: {self._masks}")
        multihead.vectors("Transformer", None, src=src)
        if mask is not None:  # 0 times a NaN would be one, in gradients of the encoder
            real = multihead.attention_mask("Transformer", src, (len(src), 1, src.shape[1], src.shape[1]), mask)
            src = ops.where(real[:, 0, 0, :, None], src, 0.0)  # type: ignore[index]
        memory = self.encoder(src, mask=mask, lengths=lengths)
        return self.decoder(  # type: ignore[no-any-return]
            tgt, memory, memory_mask=mask, memory_lengths=lengths, lengths=tgt_lengths, causal=causal)


# --- language models -----------------------------------------------------------------------------------------------


class SinusoidalPositions(Module):
    """x (B, T, d_model) plus sin and cos of its positions at frequencies from 1 to 1/10000, in turn (Vaswani et al.
    2017, section 3.5). Of any length; there is nothing to learn."""

    def __init__(self, d_model: int) -> None:
        self.d_model = d_model = check.integers("SinusoidalPositions", 1, d_model=d_model)
        self._frequencies = 10000.0 ** (-np.arange(0, d_model, 2) / d_model)

    def forward(self, x: Tensor, ids: Like = None) -> Tensor:
        """`ids`, (T,) or (B, T), are the positions: 0, 1, 2, ... unless given."""
        _placed(self, x, self.d_model, ids)
        x = ops.asarray(x)
        cos, sin = _angles(x, ids, self._frequencies)
        waves = ops.reshape(ops.stack([sin, cos], -1), (*sin.shape[:-1], 2 * sin.shape[-1]))
        return x + waves[..., : self.d_model]


class LearnedPositions(Module):
    """x (B, T, d_model) plus rows of weight (max_length, d_model): one a position, for max_length positions."""

    def __init__(self, max_length: int, d_model: int, dtype: Any = np.float32) -> None:
        max_length, d_model = check.integers("LearnedPositions", 1, max_length=max_length, d_model=d_model)
        self.weight = init.normal_(Parameter(ops.zeros((max_length, d_model), dtype)), std=0.02)

    def forward(self, x: Tensor, ids: Like = None) -> Tensor:
        """`ids`, (T,) or (B, T), are the positions: 0, 1, 2, ... unless given."""
        most, width = self.weight.shape
        _placed(self, x, width, ids)
        if ids is None and x.shape[-2] > most:
            raise ValueError(f"LearnedPositions: expected at most max_length = {most} positions, got {x.shape[-2]}")
        return x + functional.embedding(np.arange(x.shape[-2]) if ids is None else ids, self.weight)


def _placed(module: Module, x: Any, width: int, ids: Like) -> None:
    """Refuse x that is not (..., d_model), and positions that are not one for each vector."""
    shape, given = np.shape(x), () if ids is None else np.shape(ids)
    if len(shape) < 2 or shape[-1] != width or (given and shape[-1 - len(given) : -1] != given):
        raise ValueError(f"{type(module).__name__}: expected x (B, T, {width}) and ids (T,) or (B, T), got shapes "
                         f"{shape} and {given}")


def _angles(x: Tensor, ids: Like, frequencies: Any) -> tuple[Tensor, Tensor]:
    """cos and sin (..., D/2) of ids (...) times frequencies (D/2,), as x's dtype and where it lives."""
    ids = ops.like(x, np.arange(x.shape[-2]) if ids is None else ids)
    angles = ids[..., None] * ops.like(x, frequencies)  # in float64
    return ops.cos(angles).astype(x.dtype), ops.sin(angles).astype(x.dtype)


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
        return x, None if self._frequencies is None else _angles(x, ids, self._frequencies)

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
        multihead.vectors(type(self).__name__, attention.embed_dim, attention.out_proj.weight.dtype, memory=memory)
        pairs = tuple(layer.multihead_attn.remember(memory) for layer in self.layers)
        return self._empty(memory.shape[0])._replace(memory=pairs, mask=mask)
