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
from tinyseq.nn.layers import Dropout, LayerNorm, Linear, RMSNorm, fits
from tinyseq.nn.masks import Attending, length_mask, refuse
from tinyseq.nn.module import Module
from tinyseq.nn.multihead import MultiheadAttention
from tinyseq.nn.steps import Between, LanguageState, Pair, VectorStack, call_few, gelu_tanh, own_step, plain

Sublayer = Callable[[Tensor], Tensor]
ACTIVATIONS: dict[str, Sublayer] = {"relu": functional.relu, "gelu": functional.gelu, "gelu_tanh": gelu_tanh,
                                    "silu": functional.silu, "swiglu": functional.swiglu}

OURS = tuple(ACTIVATIONS.values())


def _real(name: str, x: Tensor, lengths: Like) -> Tensor:
    """x (B, T, E) with 0 after each row's length; attention refuses another x."""
    if lengths is None or x.ndim != 3:
        return x
    return ops.where(ops.like(x, length_mask(lengths, x.shape[1], len(x), name))[..., None], x, 0.0)


def checked_sizes(name: str, d_model: int, nhead: int, dim_feedforward: int, dropout: float,
                  activation: str | Sublayer = "relu", layer_norm_eps: float | None = 1e-5, norm: str = "layer",
                  num_kv_heads: int | None = None) -> tuple[int, int]:
    """d_model and dim_feedforward, checked with what else a layer has, in the name of who was asked for it."""
    d_model, nhead, dim_feedforward = check.integers(name, 1, d_model=d_model, nhead=nhead,
                                                     dim_feedforward=dim_feedforward)
    if d_model % nhead:
        raise ValueError(f"{name}: expected d_model to be a multiple of nhead, got {d_model} and {nhead}")
    check.numbers(name, least=0, below=1, dropout=dropout)
    foreign = str(getattr(activation, "__module__", "")).startswith("torch")
    if isinstance(activation, type) or foreign or (activation not in ACTIVATIONS and not callable(activation)):
        raise ValueError(f"{name}: expected activation to be one of {', '.join(ACTIVATIONS)}, or a function of Tensors "
                         f"as those of nn.functional, got {check.describe(activation)}{' of torch' * foreign}")
    check.choice(name, ("layer", "rms"), norm=norm)
    if layer_norm_eps is not None or norm == "layer":  # None is RMSNorm's own
        check.numbers(name, least=0, layer_norm_eps=layer_norm_eps)
    if num_kv_heads is not None:
        check.integers(name, 1, num_kv_heads=num_kv_heads)
    return d_model, dim_feedforward


class TransformerEncoderLayer(Attending):
    """Self-attention, then the same two linear layers at each position, each added to what it was given (Vaswani et al.
    2017, sections 3.1 and 3.3):

        x = norm1(x + attention(x)), y = norm2(x + f(x))          f(x) = W_2 activation(W_1 x + b_1) + b_2, equation 2
        x = x + attention(norm1(x)), y = x + f(norm2(x))          with `norm_first`

        layer(src, *, mask=None, lengths=None, causal=False, bias=None) -> y
        src (B, T, E), lengths (B,), mask (B, T), (B, T, T) or (B, heads, T, T) -> y (B, T, E), E = `d_model`

    `nhead` heads; `dropout` falls on the attention's weights, behind the activation, and on all that is added.
    `activation` is "relu", "gelu", "gelu_tanh", "silu", "swiglu" (of which linear1 makes both halves: it has 2 x
    dim_feedforward rows), or a function. `norm` is "layer" or "rms". `num_kv_heads` as of `MultiheadAttention`.

    Parameters are PyTorch's: self_attn, a MultiheadAttention, linear1.weight (dim_feedforward, E), linear2.weight (E,
    dim_feedforward), norm1, norm2.

    >>> layer = nn.TransformerEncoderLayer(d_model=8, nhead=2, dim_feedforward=16, norm_first=True).eval()
    >>> x = ts.random.normal((2, 5, 8))
    >>> y = layer(x, lengths=[5, 2])
    >>> y.shape, ts.all(y[1, 2:] == 0)                        # 0 in the padding, which nobody looks at
    ((2, 5, 8), tensor(True))
    >>> ts.all(abs(layer(x[1:, :2]) - y[1:, :2]) < 1e-5)
    tensor(True)

    Errors: ValueError for sizes, shapes and masks that do not fit, TypeError for PyTorch's mask arguments, with the
    conversion, and for x of another dtype than the weights.
    """

    def __init__(self, d_model: int, nhead: int, dim_feedforward: int = 2048, dropout: float = 0.1,
                 activation: str | Sublayer = "relu", layer_norm_eps: float = 1e-5, batch_first: bool = True,
                 norm_first: bool = False, bias: bool = True, device: None = None, dtype: Any = np.float32, *,
                 norm: str = "layer", num_kv_heads: int | None = None) -> None:
        refuse(self, batch_first=not batch_first, device=device is not None)
        d_model, dim_feedforward = checked_sizes(type(self).__name__, d_model, nhead, dim_feedforward, dropout,
                                                 activation, layer_norm_eps, norm, num_kv_heads)
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
                bias: Like = None, between: Between | None = None, look: Sublayer | None = None) -> Tensor:
        """src (B, T, E) -> (B, T, E); the arguments are those of `MultiheadAttention`. `look` comes after it."""
        name, given = type(self).__name__, {"tgt" if self.crosses else "src": src}
        src = masks.vectors(name, self.d_model, getattr(self.self_attn, "dtype", None), **given)
        more = {} if bias is None else {"bias": bias}
        attend: Sublayer = lambda x: self.self_attn(x, mask=mask, lengths=lengths, causal=causal, between=between,
                                                    **more)[0]
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

    def _parts(self) -> tuple[Any, ...] | None:
        """What `layer_few` of a backend takes, of a layer whose parts are all our own."""
        attn, kind = self.self_attn, type(self.norm1)
        linears, norms = (attn.out_proj, self.linear1, self.linear2), (self.norm1, self.norm2)
        parts, ours = (*linears, *norms, attn, self.dropout), [Linear] * 3 + [kind] * 2 + [MultiheadAttention, Dropout]
        plain = all(x is None for x in (attn.window, attn.q_norm, attn.k_norm, attn.softcap))
        if kind not in (LayerNorm, RMSNorm) or [*map(type, parts)] != ours or self.activation not in OURS or (
                not plain or any(["forward" in part.__dict__ for part in parts])):
            return None
        pairs = [(attn.in_proj_weight, attn.in_proj_bias), *[(p.weight, p.bias) for p in linears],
                 *[(p.weight, p.bias if kind is LayerNorm else None) for p in norms]]
        return ([None if a is None else a._data for pair in pairs for a in pair], [p.eps for p in norms],
                attn.num_heads, self.activation.__name__, self.norm_first, kind is LayerNorm)

    def step(self, x: Array, past: Array, n: int, mask: Array | None, turn: Any, look: Any = None) -> Any:
        """`forward` of one more position, on arrays: x (E, B), or (E,) of a batch of one, and the same comes out. A
        stack calls it; the other arguments are those of `MultiheadAttention.step`."""
        backend = backends.of(x)
        if look is None and (y := backend.layer_few(self._parts, x, past, n, mask, turn)) is not None:
            return y
        attend: Any = lambda x: self.self_attn.step(x, past, n, mask, turn)
        call = partial(call_few, backend)
        dropout = (lambda x: x) if plain(self.dropout, Dropout) else partial(call, self.dropout)
        return self._around(attend, look, x, call, dropout)


class TransformerDecoderLayer(TransformerEncoderLayer):
    """A `TransformerEncoderLayer` with attention to a memory between its two parts: `multihead_attn`, and norm3 after
    it.

        layer(tgt, memory, *, memory_mask=None, memory_lengths=None, mask=None, lengths=None, causal=False) -> y
        tgt (B, T, E), memory (B, S, E), memory_lengths (B,) -> y (B, T, E); `causal=True` hides what comes later in tgt

    >>> layer = nn.TransformerDecoderLayer(d_model=8, nhead=2, dim_feedforward=16).eval()
    >>> tgt, memory = ts.random.normal((2, 3, 8)), ts.random.normal((2, 5, 8))
    >>> y = layer(tgt, memory, memory_lengths=[5, 2], causal=True)
    >>> y.shape
    (2, 3, 8)
    >>> ts.all(abs(layer(tgt[:, :1], memory, memory_lengths=[5, 2]) - y[:, :1]) < 1e-5)
    tensor(True)
    """

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

    The copies begin with the same weights, `layers.0.linear1.weight` and so on, as in PyTorch.

    `start`, `read` and `step` are `forward` with `causal=True`, of a part of the positions after the other.

    >>> encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), num_layers=3).eval()
    >>> x = ts.random.normal((2, 5, 8))
    >>> y = encoder(x, causal=True)
    >>> y.shape, len(encoder.layers)
    ((2, 5, 8), 3)
    >>> state = encoder.start(x[:, :4])                       # the keys and values of four positions
    >>> last, state = encoder.step(x[:, 4], state)
    >>> last.shape, ts.all(abs(last - y[:, 4]) < 1e-5)
    ((2, 8), tensor(True))
    """

    def __init__(self, encoder_layer: TransformerEncoderLayer, num_layers: int, norm: Module | None = None,
                 enable_nested_tensor: bool = True, mask_check: bool = True) -> None:
        name, layer = type(self).__name__, "decoder_layer" if self.crosses else "encoder_layer"
        check.instance(name, Module, **{layer: encoder_layer})
        check.instance(name, Module | None, norm=norm)
        self.layers = [copy.deepcopy(encoder_layer) for _ in range(check.integers(name, 1, num_layers=num_layers))]
        self.norm, self.d_model = norm, getattr(self.layers[0], "d_model", None)
        fits(name, fits(name, None, layer, encoder_layer), "norm", norm)

    def forward(self, src: Tensor, *args: Any, **masks: Any) -> Tensor:
        """src (B, T, E) -> (B, T, E); the arguments are the layers'."""
        for layer in self.layers:
            src = layer(src, *args, **masks)
        return src if self.norm is None else _real(type(self).__name__, self.norm(src), masks.get("lengths"))


class TransformerDecoder(TransformerEncoder):
    """`num_layers` copies of a `TransformerDecoderLayer` one after another, then `norm`.

    `start`, `read` and `step` are `forward` with `causal=True`, of a part of the positions after the other.

    >>> decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 16), num_layers=2).eval()
    >>> tgt, memory = ts.random.normal((2, 3, 8)), ts.random.normal((2, 5, 8))
    >>> y = decoder(tgt, memory, memory_lengths=[5, 2], causal=True)
    >>> state = decoder.start(memory, lengths=[5, 2])
    >>> first, state = decoder.step(tgt[:, 0], state)
    >>> first.shape, ts.all(abs(first - y[:, 0]) < 1e-5), state.weights.shape
    ((2, 8), tensor(True), (2, 5))
    """

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
    What is not about numbers of layers is as of `TransformerEncoderLayer`. A `custom_encoder` and `custom_decoder` are
    called as ours are.

        transformer(src, tgt, *, mask=None, lengths=None, tgt_lengths=None, causal=False) -> y
        src (B, S, E), tgt (B, T, E), E = `d_model`; mask (B, S) and lengths (B,) of src -> y (B, T, E)

    >>> transformer = nn.Transformer(8, 2, num_encoder_layers=1, num_decoder_layers=1, dim_feedforward=16)
    >>> src, tgt = ts.random.normal((2, 5, 8)), ts.random.normal((2, 3, 8))
    >>> transformer(src, tgt, lengths=[5, 2], causal=True).shape
    (2, 3, 8)

    For `tinyseq.decode` a model around it, which has a Transformer, an embedding, positions and `out`, takes one step:

    >>> class Translator(nn.Module):
    ...     def __init__(self, vocab_size, d_model):
    ...         self.embedding, self.positions = nn.Embedding(vocab_size, d_model), nn.SinusoidalPositions(d_model)
    ...         self.transformer = nn.Transformer(d_model, 2, 1, 1, 16)
    ...         self.out = nn.Linear(d_model, vocab_size)
    ...     def start(self, source, lengths=None):
    ...         return self.transformer.start(self.positions(self.embedding(source)), lengths=lengths)
    ...     def step(self, tokens, state):
    ...         x = self.positions(self.embedding(tokens)[:, None], [state.length])[:, 0]
    ...         y, state = self.transformer.step(x, state)
    ...         return self.out(y), state
    ...     def forward(self, tokens, state):       # all steps at once, for `decode.score` and for training
    ...         x = self.positions(self.embedding(tokens), state.length + np.arange(tokens.shape[1]))
    ...         return self.out(self.transformer.read(x, state))
    >>> from tinyseq import decode
    >>> model = Translator(vocab_size=10, d_model=8).eval()
    >>> found = decode.greedy(model, model.start([[3, 4, 5], [6, 0, 0]], lengths=[3, 1]), start=1, end=2, max_length=7)
    >>> len(found), len(found[0].tokens) <= 7
    (2, True)
    """

    _masks = ("mask= (B, S) and lengths= are of src, tgt_lengths= and causal=True of tgt; with other masks call "
              "model.decoder(tgt, model.encoder(src, mask=...), mask=..., memory_mask=...)")
    conversions: ClassVar = Attending.conversions | dict.fromkeys((
        "src_mask", "tgt_mask", "memory_mask", "tgt_key_padding_mask", "memory_key_padding_mask", "src_is_causal",
        "memory_is_causal"), _masks)

    def __init__(self, d_model: int = 512, nhead: int = 8, num_encoder_layers: int = 6, num_decoder_layers: int = 6,
                 dim_feedforward: int = 2048, dropout: float = 0.1, activation: str | Sublayer = "relu",
                 custom_encoder: Any = None, custom_decoder: Any = None, layer_norm_eps: float = 1e-5,
                 batch_first: bool = True, norm_first: bool = False, bias: bool = True, device: None = None,
                 dtype: Any = np.float32, *, norm: str = "layer", num_kv_heads: int | None = None) -> None:
        check.integers("Transformer", 1, num_encoder_layers=num_encoder_layers, num_decoder_layers=num_decoder_layers)
        refuse(self, batch_first=not batch_first, device=device is not None)
        checked_sizes("Transformer", d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, norm,
                      num_kv_heads)
        options = (d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first, bias,
                   device, dtype)
        first = TransformerEncoderLayer(*options, norm=norm, num_kv_heads=num_kv_heads)
        second = TransformerDecoderLayer(*options, norm=norm, num_kv_heads=num_kv_heads)
        check.layer("Transformer", **{name: given for name, given in (
            ("custom_encoder", custom_encoder), ("custom_decoder", custom_decoder)) if given is not None})
        self.encoder = custom_encoder or TransformerEncoder(first, num_encoder_layers, copy.deepcopy(first.norm1))
        self.decoder = custom_decoder or TransformerDecoder(second, num_decoder_layers, copy.deepcopy(second.norm1))
        width = fits("Transformer", None, "encoder", self.encoder)
        fits("Transformer", width, "decoder", self.decoder)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                init.xavier_uniform_(parameter)

    def forward(self, src: Tensor, tgt: Tensor, *, mask: Like = None, lengths: Like = None, tgt_lengths: Like = None,
                causal: bool = False) -> Tensor:
        """src (B, S, E), tgt (B, T, E) -> (B, T, E). `mask` (B, S) and `lengths` (B,) are of src, in the encoder and
        where the decoder looks at it; `causal` hides the future of tgt."""
        memory = self._encode(src, mask, lengths)
        return self.decoder(
            tgt, memory, memory_mask=mask, memory_lengths=lengths, lengths=tgt_lengths, causal=causal)

    def _encode(self, src: Tensor, mask: Like, lengths: Like) -> Tensor:
        if mask is not None and np.ndim(mask) != 2:  # both attentions would take others, if S = T
            raise ValueError(f"Transformer: expected mask (B, S), got {np.ndim(mask)} axes: {self._masks}")
        src = masks.vectors("Transformer", None, src=src)
        if mask is not None:  # 0 times a NaN would be one, in gradients of the encoder
            real = masks.attention_mask("Transformer", src, (len(src), 1, src.shape[1], src.shape[1]), mask)
            src = ops.where(real[:, 0, 0, :, None], src, 0.0)  # type: ignore[index]
        return self.encoder(src, mask=mask, lengths=lengths)

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
