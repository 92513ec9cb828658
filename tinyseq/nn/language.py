"""Language models: embedding, positions, causal layers; and a step with a cache of keys and values."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from tinyseq import backends, check
from tinyseq.engine import ops
from tinyseq.engine.graph import no_grad
from tinyseq.engine.tensor import Like, Tensor
from tinyseq.nn import init
from tinyseq.nn.layers import Dropout, Embedding, Linear
from tinyseq.nn.masks import length_mask
from tinyseq.nn.positions import LearnedPositions, SinusoidalPositions
from tinyseq.nn.rotary import RotaryPositions
from tinyseq.nn.steps import LanguageState, Stack, call_few, features_first, places, plain, rows_first
from tinyseq.nn.transformer import Sublayer, TransformerDecoderLayer, TransformerEncoderLayer, checked_sizes


class LanguageModel(Stack):
    """Logits of the next token from all before it: embedding, positions, causal layers, norm, and a linear layer.

        model(tokens) -> logits                         (B, T) integers -> (B, T, vocab_size): after each token
        model.start(tokens, lengths) -> state           prompts (B, T), read in one pass
        model.step(tokens, state) -> logits, state      one token more, (B,) -> (B, vocab_size), with a cache of keys
        model.prompt(prompts) -> state, tokens          prompts as lists of any lengths, for `tinyseq.decode`

    `positions` are "learned" (`max_length` of them), "sinusoidal" (with embeddings times sqrt(d_model)), "rotary" (of
    frequencies `rotary_base`^(-2i/D)), `RotaryPositions`, a tuple of them and None that layers have in turn, or None.
    `tied`: the last layer's weight is the embedding; `out_bias`: it has a
    bias. `last_norm`: a norm before it, as with pre-norm unless it is False. The others are those of
    `TransformerEncoderLayer`; pre-norm unless `norm_first=False`. GPT-2 has learned positions and `gelu_tanh`; Llama
    has rotary ones, `norm="rms"`, `activation="swiglu"`, `bias=False`, and fewer `num_kv_heads`.

    >>> model = nn.LanguageModel(vocab_size=10, d_model=8, nhead=2, num_layers=2, dim_feedforward=16, dropout=0.0)
    >>> tokens = ts.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 9, 0]])
    >>> logits = model(tokens[:, :-1])
    >>> logits.shape
    (2, 4, 10)
    >>> F.cross_entropy(logits, tokens[:, 1:]).backward()     # each token from those before it
    >>> state = model.eval().start(tokens[:, :3])
    >>> last, state = model.step(tokens[:, 3], state)
    >>> ts.all(abs(last - logits[:, 3]) < 1e-5)
    tensor(True)
    >>> from tinyseq import decode
    >>> [len(h.tokens) <= 6 for h in decode.greedy(model, *model.prompt([[1, 2], [3]]), end=0, max_length=6)]
    [True, True]

    Whatever layers stand in the place of the model's own, `step` is `forward` of that token, as long as each but the
    layers of the stack treats each position by itself; those that have no step are refused by `start`, as is a model
    whose class changed `forward` and not `step`.

    Errors: ValueError for shapes that do not fit, for a state that another model made, and past `max_length` learned
    positions; IndexError for tokens from vocab_size on.
    """

    layer: type[TransformerEncoderLayer] = TransformerEncoderLayer

    def __init__(self, vocab_size: int, d_model: int, nhead: int, num_layers: int, dim_feedforward: int = 2048,
                 dropout: float = 0.1, *,
                 positions: str | RotaryPositions | tuple[RotaryPositions | None, ...] | None = "learned",
                 max_length: int = 1024,
                 rotary_base: float = 1e4, tied: bool = True, norm_first: bool = True, last_norm: bool | None = None,
                 out_bias: bool = False, dtype: Any = np.float32, activation: str | Sublayer = "relu",
                 layer_norm_eps: float = 1e-5, bias: bool = True, norm: str = "layer",
                 num_kv_heads: int | None = None) -> None:
        name = type(self).__name__
        rotary = positions if isinstance(positions, tuple) else (positions,)
        if not all(isinstance(each, RotaryPositions | None) for each in rotary):
            check.choice(name, ("learned", "sinusoidal", "rotary", None), positions=positions)
        vocab_size, num_layers, max_length = check.integers(name, 1, vocab_size=vocab_size, num_layers=num_layers,
                                                            max_length=max_length)
        d_model, dim_feedforward = checked_sizes(name, d_model, nhead, dim_feedforward, dropout, activation,
                                                 layer_norm_eps, norm, num_kv_heads)
        rotary_base, width = check.numbers(name, above=0, rotary_base=rotary_base), d_model // nhead
        if positions == "rotary" and width % 2:
            raise ValueError(f"{name}: expected positions='rotary' with an even width d_model / nhead, got {width}")
        self._rotary = (RotaryPositions(width, rotary_base),) if positions == "rotary" else tuple(
            each for each in rotary if not isinstance(each, str))
        self.embedding = Embedding(vocab_size, d_model, dtype=dtype)
        self._scale = math.sqrt(d_model) if positions == "sinusoidal" else 1.0
        init.normal_(self.embedding.weight, std=0.02 if self._scale == 1 else 1 / self._scale)
        self.positions: Any = (LearnedPositions(max_length, d_model, dtype) if positions == "learned" else
                          SinusoidalPositions(d_model) if positions == "sinusoidal" else None)
        self.dropout = Dropout(dropout)
        self.layers = [self.layer(d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps,
                                  norm_first=norm_first, bias=bias, dtype=dtype, norm=norm, num_kv_heads=num_kv_heads)
                       for _ in range(num_layers)]
        last_norm = norm_first if last_norm is None else last_norm
        self.norm = copy.deepcopy(self.layers[0].norm1) if last_norm else None
        self.out = Linear(d_model, vocab_size, out_bias, dtype=dtype)
        if tied:
            self.out.weight = self.embedding.weight  # type: ignore[assignment]

    def _check(self, tokens: Like, axes: int, state: LanguageState | None) -> None:
        """Refuse tokens that are not (B,) or (B, T), with the B of a state, and a state that another kind made."""
        if state is not None or self.crosses or axes == 1:
            self._own(state)
        shape = getattr(tokens, "shape", None) or np.shape(
            ops.asarray(tokens) if isinstance(tokens, (list, tuple)) else tokens)
        rows = "B" if state is None else len(state.cache)
        if len(shape) != axes or rows not in ("B", shape[0]):
            raise ValueError(f"{type(self).__name__}: expected tokens ({rows},{' T' * (axes - 1)}), got shape {shape}")

    def forward(self, tokens: Like, state: LanguageState | None = None, lengths: Like = None) -> Tensor:
        """Logits (B, T, V) of the token after each of `tokens` (B, T), after those of `state`, if there is one.

        No token sees a later one, so padding after a row's end changes nothing before it; where learned positions do
        not reach as far as the padding, `lengths` (B,) say where the rows end.
        """
        self._check(tokens, 2, state)
        n, starts = (0, None) if state is None else (state.length, state.starts)
        x = self.dropout(self._place(self.embedding(tokens), n, starts, lengths))
        return self.out(self._read(x, state)[0])

    def _place(self, x: Tensor, n: int, starts: Tensor | None, lengths: Like = None, one: bool = False) -> Tensor:
        """Embeddings (B, T, E) in their positions after the n-th. A row's own positions, less its start and up to its
        length, are those that must be there. `one`: a step, without gradient."""
        x = x if self._scale == 1 else x * self._scale
        if self.positions is None:
            return x
        if one and starts is None and plain(self.positions, LearnedPositions) and n < len(self.positions.weight._data):
            return Tensor(x._data + self.positions.weight._data[n])  # without what ops cost
        ids, end = places(x, n, starts), n + x.shape[1]
        if isinstance(self.positions, LearnedPositions) and end > (most := self.positions.weight.shape[0]):
            name, ends = type(self).__name__, end - (np.zeros(len(x), int) if starts is None else starts.numpy())
            if lengths is not None:
                ends += length_mask(lengths, x.shape[1], len(x), name).numpy().sum(1) - x.shape[1]
            if (reached := ends.max(initial=0)) > most:
                raise ValueError(f"{name}: learned positions reach max_length = {most}, not {reached} tokens")
            ids = ops.minimum(ops.like(x, ids), most - 1)
        return self.positions(x, ids)

    def start(self, tokens: Like, lengths: Like = None) -> LanguageState:
        """The state after tokens (B, T), of each row the first `lengths` (B,), all read in one pass. T may be 0."""
        self._check(tokens, 2, None)
        _, home = next(self.named_parameters())
        tokens = ops.like(home, tokens)
        if lengths is not None:  # the ids behind them are nobody's
            real = length_mask(lengths, tokens.shape[1], len(tokens), type(self).__name__)
            tokens = ops.where(ops.like(home, real), tokens, 0)
        with no_grad():
            return super().start(self.dropout(self._place(self.embedding(tokens), 0, None, lengths)), lengths)

    @no_grad()
    def step(self, tokens: Like, state: LanguageState) -> tuple[Tensor, LanguageState]:
        """Logits (B, V) of the token after `tokens` (B,), and the state then. Without gradient; call `eval()` before,
        and before `start`, or what drops out may do so here too."""
        self._check(tokens, 1, state)
        backend = backends.of(state.cache._data)
        call = partial(call_few, backend)
        if plain(self.embedding, Embedding):  # its rows are taken without what an op costs
            weight = self.embedding.weight._data
            ids = ops.check_ids(type(self).__name__, tokens, len(weight))
            x = Tensor(backend.embedding(weight, backend.xp.asarray(ids))[:, None])
        else:
            x = self.embedding(ops.asarray(tokens)[:, None])
        x = self._place(x, state.length, state.starts, one=True)
        y, state = self._step(call(self.dropout, features_first(x._data[:, 0])), state)
        return rows_first(call(self.out, y)), state

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
            if plain(self.embedding, Embedding):
                ops.check_ids(f"{type(self).__name__}: prompt {i}", p, len(self.embedding.weight))
        lengths = np.array([len(p) for p in rows], int)
        tokens = np.zeros((len(rows), lengths.max(initial=1)), np.int64)
        for row, p in zip(tokens, rows, strict=True):
            row[: len(p)] = p
        lengths -= 1
        alike = (lengths == lengths.max(initial=0)).all()
        state = self.start(tokens[:, :-1], None if alike else lengths)
        return state, tokens[np.arange(len(prompts)), lengths]


class ConditionalLanguageModel(LanguageModel):
    """A `LanguageModel` of `TransformerDecoderLayer`s, which also attend to a memory (B, S, d_model): the decoder of an
    `EncoderDecoder` whose encoder is a `TransformerEncoder`. The arguments are those of `LanguageModel`.

        model.start(memory, mask=mask) -> state
        model(tokens, state) -> logits                  (B, T) integers -> (B, T, vocab_size)
        model.step(tokens, state) -> logits, state      (B,) -> (B, vocab_size)

    >>> model = nn.ConditionalLanguageModel(vocab_size=10, d_model=8, nhead=2, num_layers=2, dim_feedforward=16).eval()
    >>> state = model.start(ts.random.normal((2, 5, 8)), mask=nn.length_mask([5, 2], 5))
    >>> tokens = ts.tensor([[1, 3, 4], [1, 5, 2]])
    >>> logits = model(tokens, state)
    >>> first, state = model.step(tokens[:, 0], state)
    >>> logits.shape, ts.all(abs(first - logits[:, 0]) < 1e-5), state.weights.shape
    ((2, 3, 10), tensor(True), (2, 5))
    """

    layer = TransformerDecoderLayer
    crosses = True
    states = 0  # an `EncoderDecoder` has none of the encoder's to hand on

    def start(self, memory: Tensor, hidden: None = None, mask: Like = None) -> LanguageState:
        """The state before the first token; mask (B, S) is True where memory is real. There is no `hidden` state."""
        if hidden is not None:
            raise ValueError(f"{type(self).__name__}: expected no hidden state, got {check.describe(hidden)}")
        return self._remember(memory, mask)
