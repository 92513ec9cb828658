"""Transformers (Vaswani et al. 2017): layers, and stacks of them.

Names, constructor arguments and state_dict keys are PyTorch's; the layout is (batch, time, features), masks are boolean
and True takes part, `lengths` (B,) count the real positions of each row, what stands after them changes nothing, and
outputs there are 0.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import numpy as np

from tinyseq import backends, check, functional
from tinyseq.engine import ops
from tinyseq.engine.tensor import Array, Like, Tensor
from tinyseq.nn import init, masks
from tinyseq.nn.layers import Dropout, LayerNorm, Linear, RMSNorm
from tinyseq.nn.masks import Attending, length_mask, refuse
from tinyseq.nn.module import Module
from tinyseq.nn.multihead import MultiheadAttention
from tinyseq.nn.steps import Between, LanguageState, Pair, VectorStack, call_few, gelu_tanh, own_step, plain

Sublayer = Callable[[Tensor], Tensor]
ACTIVATIONS: dict[str, Sublayer] = {"relu": functional.relu, "gelu": functional.gelu, "gelu_tanh": gelu_tanh,
                                    "silu": functional.silu, "swiglu": functional.swiglu}


def _real(name: str, x: Tensor, lengths: Like) -> Tensor:
    """x (B, T, E) with 0 after each row's length; attention refuses another x."""
    if lengths is None or x.ndim != 3:
        return x
    return ops.where(ops.like(x, length_mask(lengths, x.shape[1], len(x), name))[..., None], x, 0.0)


def checked_sizes(name: str, d_model: int, nhead: int, dim_feedforward: int, dropout: float,
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

    def __init__(self, d_model: int, nhead: int, dim_feedforward: int = 2048, dropout: float = 0.1,
                 activation: str | Sublayer = "relu", layer_norm_eps: float = 1e-5, batch_first: bool = True,
                 norm_first: bool = False, bias: bool = True, device: None = None, dtype: Any = np.float32, *,
                 norm: str = "layer", num_kv_heads: int | None = None) -> None:
        refuse(self, batch_first=not batch_first, device=device is not None)
        name = type(self).__name__
        check.choice(name, ("layer", "rms"), norm=norm)
        d_model, dim_feedforward = checked_sizes(name, d_model, nhead, dim_feedforward, dropout, activation)
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

    def forward(self, src: Tensor, *, mask: Like = None, lengths: Like = None, causal: bool = False,
                between: Between | None = None, look: Sublayer | None = None) -> Tensor:
        """src (B, T, E) -> (B, T, E); the arguments are those of `MultiheadAttention`. `look` comes after it."""
        name, given = type(self).__name__, {"tgt" if self.crosses else "src": src}
        src = masks.vectors(name, self.d_model, getattr(self.self_attn, "dtype", None), **given)
        attend: Sublayer = lambda x: self.self_attn(x, mask=mask, lengths=lengths, causal=causal, between=between)[0]
        y = self._around(attend, look, _real(name, src, lengths), lambda layer, x: layer(x), self.dropout)
        return _real(name, y, lengths)

    def _around(self, attend: Any, look: Any, x: Any, call: Callable[[Any, Any], Any], dropout: Any) -> Any:
        """The layer around its attention to itself and to a memory; `call` is how its parts are called."""
        first = self.norm_first
        x = x + dropout(attend(call(self.norm1, x))) if first else call(self.norm1, x + dropout(attend(x)))
        norm = self.norm2
        if look is not None:
            x = x + dropout(look(call(norm, x))) if first else call(norm, x + dropout(look(x)))
            norm = self.norm3
        y = call(self.linear1, call(norm, x) if first else x)
        y = x + dropout(call(self.linear2, dropout(call(self.activation, y))))
        return y if first else call(norm, y)

    def step(self, x: Array, past: Array, n: int, mask: Array | None, turn: Any, look: Any = None) -> Any:
        """`forward` of one more position x, on arrays: see `step` of `MultiheadAttention`."""
        attend: Any = lambda x: self.self_attn.step(x, past, n, mask, turn)
        call = partial(call_few, backends.of(x))
        dropout = (lambda x: x) if plain(self.dropout, Dropout) else partial(call, self.dropout)
        return self._around(attend, look, x, call, dropout)


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
            memory = masks.vectors(type(self).__name__, self.d_model, getattr(self.self_attn, "dtype", None),
                                   memory=memory)
        look: Sublayer = lambda x: self.multihead_attn(x, memory, mask=memory_mask, lengths=memory_lengths)[0]
        return super().forward(tgt, look=look, **options)

    def step(  # type: ignore[override]
        self, x: Array, past: Array, n: int, mask: Array | None, turn: Any, memory: Any,
        memory_mask: Array | None,
    ) -> tuple[Array, Array]:
        """As of a `TransformerEncoderLayer`, and the weights (B, heads, S) of the memory: see `look` there."""
        weights: Any = None

        def look(x: Array) -> Array:
            nonlocal weights
            y, weights = self.multihead_attn.look(x, memory[0], memory[1], memory_mask)
            return y

        return super().step(x, past, n, mask, turn, look), weights


class TransformerEncoder(VectorStack, Attending):
    """`num_layers` copies of a layer one after another, then `norm`. The other arguments are PyTorch's, which change no
    number there either.

    `start`, `read` and `step` are `forward` with `causal=True`, of a part of the positions after the other.
    """

    def __init__(self, encoder_layer: TransformerEncoderLayer, num_layers: int, norm: Module | None = None,
                 enable_nested_tensor: bool = True, mask_check: bool = True) -> None:
        name, layer = type(self).__name__, "decoder_layer" if self.crosses else "encoder_layer"
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

    crosses = True

    def __init__(self, decoder_layer: TransformerDecoderLayer, num_layers: int, norm: Module | None = None) -> None:
        super().__init__(decoder_layer, num_layers, norm)

    def forward(self, tgt: Tensor, memory: Tensor, **masks: Any) -> Tensor:  # type: ignore[override]
        """tgt (B, T, E), memory (B, S, E) -> (B, T, E); the masks are the layers'."""
        return super().forward(tgt, memory, **masks)

    def start(self, memory: Tensor, lengths: Like = None, mask: Like = None) -> LanguageState:
        """The state before the first position: each layer's keys and values of memory (B, S, E), of which `lengths`
        (B,) and `mask` (B, S) say what is real."""
        return self._remember(memory, mask, lengths)


class Transformer(Attending):
    """Encoder and decoder of vectors (Vaswani et al. 2017, figure 1), without embeddings. Initialised as PyTorch's.
    `options` are those of `TransformerEncoderLayer`. A `custom_encoder` and `custom_decoder` are called as ours are.

    For `tinyseq.decode` a model around it, which has a Transformer, an embedding, positions and `out`, takes one step:

    >>> def start(self, source, lengths=None):
    ...     return self.transformer.start(self.positions(self.embedding(source)), lengths=lengths)
    >>> def step(self, tokens, state):
    ...     x = self.positions(self.embedding(tokens), state.length)
    ...     y, state = self.transformer.step(x, state)
    ...     return self.out(y), state
    >>> def forward(self, tokens, state):       # all steps at once, for `decode.score` and for training
    ...     x = self.positions(self.embedding(tokens), state.length + np.arange(tokens.shape[1]))
    ...     return self.out(self.transformer.read(x, state))
    """

    _masks = ("mask= (B, S) and lengths= are of src, tgt_lengths= and causal=True of tgt; with other masks call "
              "model.decoder(tgt, model.encoder(src, mask=...), mask=..., memory_mask=...)")
    conversions: ClassVar = Attending.conversions | dict.fromkeys((
        "src_mask", "tgt_mask", "memory_mask", "tgt_key_padding_mask", "memory_key_padding_mask", "src_is_causal",
        "memory_is_causal"), _masks)

    def __init__(self, d_model: int = 512, nhead: int = 8, num_encoder_layers: int = 6, num_decoder_layers: int = 6,
                 dim_feedforward: int = 2048, dropout: float = 0.1, activation: str | Sublayer = "relu",
                 custom_encoder: Any = None, custom_decoder: Any = None, **options: Any) -> None:
        check.integers("Transformer", 1, num_encoder_layers=num_encoder_layers, num_decoder_layers=num_decoder_layers)
        checked_sizes("Transformer", d_model, nhead, dim_feedforward, dropout, activation)
        first = TransformerEncoderLayer(d_model, nhead, dim_feedforward, dropout, activation, **options)
        second = TransformerDecoderLayer(d_model, nhead, dim_feedforward, dropout, activation, **options)
        check.instance("Transformer", Callable | None, custom_encoder=custom_encoder, custom_decoder=custom_decoder)
        self.encoder = custom_encoder or TransformerEncoder(first, num_encoder_layers, copy.deepcopy(first.norm1))
        self.decoder = custom_decoder or TransformerDecoder(second, num_decoder_layers, copy.deepcopy(second.norm1))
        for parameter in self.parameters():
            if parameter.ndim > 1:
                init.xavier_uniform_(parameter)

    def forward(self, src: Tensor, tgt: Tensor, *, mask: Like = None, lengths: Like = None, tgt_lengths: Like = None,
                causal: bool = False) -> Tensor:
        """src (B, S, E), tgt (B, T, E) -> (B, T, E). `mask` (B, S) and `lengths` (B,) are of src, in the encoder and
        where the decoder looks at it; `causal` hides the future of tgt."""
        memory = self._encode(src, mask, lengths)
        return self.decoder(  # type: ignore[no-any-return]
            tgt, memory, memory_mask=mask, memory_lengths=lengths, lengths=tgt_lengths, causal=causal)

    def _encode(self, src: Tensor, mask: Like, lengths: Like) -> Tensor:
        if mask is not None and np.ndim(mask) != 2:  # both attentions would take others, if S = T
            raise ValueError(f"Transformer: expected mask (B, S), got {np.ndim(mask)} axes: {self._masks}")
        src = masks.vectors("Transformer", None, src=src)
        if mask is not None:  # 0 times a NaN would be one, in gradients of the encoder
            real = masks.attention_mask("Transformer", src, (len(src), 1, src.shape[1], src.shape[1]), mask)
            src = ops.where(real[:, 0, 0, :, None], src, 0.0)  # type: ignore[index]
        return self.encoder(src, mask=mask, lengths=lengths)  # type: ignore[no-any-return]

    def start(self, src: Tensor, *, mask: Like = None, lengths: Like = None) -> LanguageState:
        """The state before the first position of tgt, for `step` and `read`: the decoder's keys and values of what the
        encoder makes of src (B, S, E). In `read` gradients reach src."""
        for method in ("step", "read"):
            own_step(type(self).__name__, self, method)
            own_step(f"{type(self).__name__}: custom_decoder", self.decoder, method)
        return self.decoder.start(self._encode(src, mask, lengths), lengths, mask)

    def read(self, x: Tensor, state: LanguageState) -> Tensor:
        """`forward` with `causal=True` of tgt's positions x (B, T, E) after those of a state: (B, T, E)."""
        return self.decoder.read(x, state)

    def step(self, x: Tensor, state: LanguageState) -> tuple[Tensor, LanguageState]:
        """`read` of one position, x (B, E) -> (B, E), and the state then. Without gradient; call `eval()` before."""
        return self.decoder.step(x, state)
