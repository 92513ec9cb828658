"""Encoder and decoder: from a sequence of one length to a sequence of another.

A decoder is three functions, which `tinyseq.decode` and training share: `start(memory, ...) -> state`,
`step(tokens, state) -> (logits, state)` and the teacher-forced `forward(tokens, state) -> logits`. A state is a
NamedTuple of Tensors with the batch first, tuples of them, or None: whatever a decoder needs to go on, indexable by
row.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from tinyseq import check
from tinyseq.engine import ops, random
from tinyseq.engine.tensor import Like, Tensor, namespace
from tinyseq.nn.contexts import Attention
from tinyseq.nn.layers import Dropout, Embedding, Linear, fits, ours
from tinyseq.nn.masks import cut_padding, length_mask, masked_memory, numbers, vectors
from tinyseq.nn.module import Module
from tinyseq.nn.positions import LearnedPositions
from tinyseq.nn.recurrent import GRU, LSTM, RNN

Hidden = Tensor | tuple[Tensor, Tensor]  # s (B, H), or (h, c) of an LSTM


class DecoderState(NamedTuple):
    """Where an attention decoder stands: hidden (B, H), of several layers (B, L, H), or (h, c) of an LSTM; memory (B,
    S, M), the keys that its attention made of that, and mask (B, S) or None; the attention weights (B, S) of the last
    step, or None before the first; and with input feeding the attentional vector (B, H) of the last step.

    >>> decoder = nn.AttentionDecoder(10, 8, 16, nn.DotAttention(16, 12), memory_size=12)
    >>> state = decoder.start(ts.random.normal((2, 5, 12)))
    >>> logits, after = decoder.step([1, 1], state)
    >>> state.weights, after.weights.shape, after.hidden.shape
    (None, (2, 5), (2, 16))
    """

    hidden: Hidden
    memory: Tensor
    keys: Any
    mask: Tensor | None
    weights: Tensor | None = None
    fed: Tensor | None = None

    def __repr__(self) -> str:
        return check.fields(self)


class AttentionDecoder(Module):
    """A recurrent layer over the tokens so far, a context from its states, and logits of the next token.

        decoder.start(memory, hidden=None, mask=None) -> state
        decoder.step(tokens, state) -> logits, state    one step: (B,) integers -> (B, V)
        decoder(tokens, state) -> logits                teacher forcing: (B, T) integers -> (B, T, V)

    `feed` says what of the context enters the recurrence. E y is a token's embedding, memory the h_1 ... h_m:

        None           s_t = RNN(E y_{t-1}, s_{t-1}),           c_t = attention(s_t, memory)
        "attentional"  s_t = RNN([E y_{t-1}; a_{t-1}], s_{t-1}), c_t = attention(s_t, memory),  a_0 = 0
        "context"      s_t = RNN([E y_{t-1}; c_t], s_{t-1}),     c_t = attention(s_{t-1}, memory)

        a_t = tanh(W_c [c_t; s_t]),  logits_t = W_o a_t

    None and "attentional", input feeding, are Luong et al. 2015 (equations 5 and 6, section 3.3); "context" is the
    recurrence of Bahdanau et al. 2015 and, with a `FixedContext`, of Cho et al. 2014. `attention=None` has no context
    at all, s_0 is all that it knows of the memory, and logits_t = W_o s_t (Sutskever et al. 2014). Training runs the
    whole target through at once where no step waits for a context: without `feed`, or with "context" and a
    `FixedContext`; else step by step.

    `attention` takes queries of `hidden_size` H features to a memory of `memory_size` M; of tokens there are
    `vocab_size` V. `cell` is nn.GRU, nn.LSTM or nn.RNN. `dropout` falls on a_t before W_o. Of several `num_layers` the
    state is that of all, s_t that of the last, and `start` takes hidden (B, L, H). `order="sc"` has W_c see [s_t; c_t].

    Parameters: embedding.weight (V, embedding_dim), rnn, of the `cell`, attention, combine.weight (H, C + H), which is
    W_c, and out.weight (V, H), which is W_o, both with a bias.

    >>> decoder = nn.AttentionDecoder(vocab_size=10, embedding_dim=8, hidden_size=16,
    ...                               attention=nn.AdditiveAttention(16, 12, 8), memory_size=12)
    >>> state = decoder.start(ts.random.normal((2, 5, 12)), mask=nn.length_mask([5, 2], 5))
    >>> logits, after = decoder.step([1, 1], state)
    >>> logits.shape, after.weights.shape
    ((2, 10), (2, 5))
    >>> decoder([[1, 4, 7], [1, 3, 2]], state).shape
    (2, 3, 10)

    Errors: ValueError for sizes and shapes that do not fit, and for `feed` without an attention; TypeError for what is
    no attention, no state, no integers; IndexError for tokens from vocab_size on.
    """

    def __init__(self, vocab_size: int, embedding_dim: int, hidden_size: int, attention: Attention | None,
                 memory_size: int = 0, dropout: float = 0.0, cell: type[GRU | LSTM | RNN] = GRU,
                 feed: str | None = None, *, num_layers: int = 1, order: str = "cs") -> None:
        check.choice("AttentionDecoder", ("cs", "sc"), order=order)
        num_layers = check.integers("AttentionDecoder", 1, num_layers=num_layers)
        check.choice("AttentionDecoder", (None, "attentional", "context"), feed=feed)
        check.instance("AttentionDecoder", Attention | None, attention=attention)
        if isinstance(cell, Module) or not callable(cell):
            raise TypeError(f"AttentionDecoder: expected cell to be a class, nn.GRU, nn.LSTM or nn.RNN, got {cell!r}")
        if feed and attention is None:
            raise ValueError(f"AttentionDecoder: expected feed=None with attention=None, got {feed=}")
        vocab_size, embedding_dim, hidden_size = check.integers(
            "AttentionDecoder", 1, vocab_size=vocab_size, embedding_dim=embedding_dim, hidden_size=hidden_size)
        memory_size = check.integers("AttentionDecoder", 0, memory_size=memory_size)
        dropout = check.numbers("AttentionDecoder", least=0, below=1, dropout=dropout)
        context_size = 0 if attention is None else attention.context_size or memory_size
        if attention is not None and not context_size:
            raise ValueError("AttentionDecoder: expected memory_size, the features that attention looks at, got 0")
        for name, size in (("query_size", hidden_size), ("memory_size", memory_size)):
            if size and getattr(attention, name, None) not in (None, size):
                raise ValueError(f"AttentionDecoder: expected an attention with {name}={size}, as the decoder's "
                                 f"{name.replace('query', 'hidden')}, got {getattr(attention, name)}")
        fed = {None: 0, "attentional": hidden_size, "context": context_size}[feed]
        self.feed, self.memory_size, self.num_layers, self.order = feed, memory_size, num_layers, order
        self.embedding = Embedding(vocab_size, embedding_dim)
        width = embedding_dim + fed
        self.rnn = cell(width, hidden_size) if num_layers == 1 else cell(width, hidden_size, num_layers)
        self.states = 2 if isinstance(self.rnn, LSTM) else 1
        self.attention: Any = attention
        self.combine = None if attention is None else Linear(context_size + hidden_size, hidden_size)
        self.dropout = Dropout(dropout)
        self.out = Linear(hidden_size, vocab_size)

    @property
    def fused(self) -> bool:
        """Whether all steps run at once: none of them waits for what the step before looked at.

        >>> attention = nn.DotAttention(query_size=16, memory_size=12)
        >>> nn.AttentionDecoder(10, 8, 16, attention, memory_size=12).fused
        True
        """
        return self.feed is None or (self.feed == "context" and getattr(self.attention, "fixed", False))

    def start(self, memory: Tensor, hidden: Hidden | None = None, mask: Like = None) -> DecoderState:
        """The state before the first token: memory (B, S, M), an encoder's or any other; s_0 (B, H), of an LSTM also
        (h, c), of several layers (B, L, H), zeros unless given; mask (B, S): True where memory is real."""
        memory, real = masked_memory("AttentionDecoder", memory, mask)
        if self.attention is not None:
            vectors("AttentionDecoder", self.memory_size or None, self.out.weight.dtype, memory=memory)
        layers = (self.num_layers,) * (self.num_layers > 1)
        expected = (memory.shape[0], *layers, self.rnn.hidden_size)
        zeros = Tensor(namespace(memory._data).zeros(expected, dtype=memory.dtype))
        wanted = f"at most {self.states} of a first hidden state (B,{' L,' * len(layers)} H) = {expected}"
        parts = hidden if isinstance(hidden, tuple) else () if hidden is None else (hidden,)
        given = [numbers("AttentionDecoder", wanted, part, memory) for part in parts]
        if len(given) > self.states or any(part.shape != expected for part in given):
            raise ValueError(f"AttentionDecoder: expected {wanted}, got {check.describe(hidden)}")
        h, c, *_ = (*given, zeros, zeros)
        keys = None if self.attention is None else self.attention.keys(memory, real)
        fed = (zeros[:, -1] if layers else zeros) if self.feed == "attentional" else None
        return DecoderState((h, c) if self.states == 2 else h, memory, keys, real, None, fed)

    def forward(self, tokens: Like, state: DecoderState, sampling: float = 0.0) -> Tensor:
        """Logits (B, T, V) of the token after each of `tokens` (B, T), all of them given: teacher forcing.

        Scheduled sampling (Bengio et al. 2015): with probability `sampling` a step after the first gets, in place of
        the token given, the one that is most probable after the step before.
        """
        sampling = check.numbers("AttentionDecoder", least=0, most=1, sampling=sampling)
        return self._advance(self._tokens(tokens, state, 2), state, sampling)[0]

    def step(self, tokens: Like, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Logits (B, V) of the token after `tokens` (B,), and the state then."""
        logits, state = self._advance(self._tokens(tokens, state, 1)[:, None], state)
        return logits[:, 0], state

    def _tokens(self, tokens: Like, state: DecoderState, axes: int) -> Tensor:
        """Tokens (B,) or (B, T) where the state lives; anything else is refused, and a state that is none."""
        check.instance("AttentionDecoder", DecoderState, state=state)
        expected = f"tokens ({len(state.memory)},{' T' * (axes - 1)})"
        found = numbers("AttentionDecoder", f"{expected} as integers", tokens, state.memory)
        if found.ndim != axes or len(found) != len(state.memory):
            raise ValueError(f"AttentionDecoder: expected {expected}, got shape {found.shape}")
        return found

    def _advance(self, tokens: Like, state: DecoderState, sampling: float = 0.0) -> tuple[Tensor, DecoderState]:
        x = self.embedding(tokens)
        if x.shape[1] < 2 or (self.fused and not sampling):
            a, state = self._run(x, state)
            return self.out(self.dropout(a)), state
        coins = ops.like(x, random.host_generator().random((*x.shape[:2], 1)) < sampling) if sampling else None
        outputs: list[Tensor] = []
        for t in range(x.shape[1]):
            now = x[:, t : t + 1]
            if coins is not None and t:
                own = ops.argmax(self.out(outputs[-1].detach()), -1)
                now = ops.where(coins[:, t : t + 1], self.embedding(own), now)
            a, state = self._run(now, state)
            outputs.append(a)
        return self.out(self.dropout(ops.concat(outputs, 1))), state

    def _run(self, x: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Embeddings (B, T, E) -> a (B, T, H) and the state after them; one step at most, unless `fused`."""
        context = weights = None
        memory = (state.memory, state.mask, state.keys)
        before: tuple[Tensor, ...] = state.hidden if isinstance(state.hidden, tuple) else (state.hidden,)
        fed = None if state.fed is None else ops.expand_dims(state.fed, 1)
        if self.feed == "context":
            query = before[0][:, -1:] if self.num_layers > 1 else ops.expand_dims(before[0], 1)
            context, weights = self.attention.attend(query, *memory)
            fed = context
        if fed is not None:
            x = ops.concat([x, ops.broadcast_to(fed, (*x.shape[:2], fed.shape[2]))], -1)
        several = self.num_layers > 1
        first: Any = tuple([ops.moveaxis(part, 1, 0) if several else part[None] for part in before])  # (L, B, H)
        s, final = self.rnn(x, first if self.states == 2 else first[0])
        last: Any = final if self.states == 2 else (final,)
        after = [ops.moveaxis(part, 0, 1) if several else part[0] for part in last]
        hidden: Any = tuple(after) if self.states == 2 else after[0]
        if self.combine is None:
            return s, state._replace(hidden=hidden)
        if context is None:
            context, weights = self.attention.attend(s, *memory)
        context = ops.broadcast_to(context, (*s.shape[:2], context.shape[2]))
        a = ops.tanh(self.combine(ops.concat([context, s] if self.order == "cs" else [s, context], -1)))
        if not a.shape[1]:
            return a, state
        return a, state._replace(hidden=hidden, weights=None if weights is None else weights[:, -1],
                                 fed=None if state.fed is None else a[:, -1])


class EncoderDecoder(Module):
    """An encoder, embedding and sequence layer, and a decoder that takes its memory and final state.

    The encoder is any sequence layer: `encoder(x, lengths=lengths)` gives its outputs (B, S, M), the decoder's memory,
    and its final state, (layers x directions, B, H) or a tuple of such; that of the last layer, or of all where the
    decoder has several, both directions side by side, is the decoder's first state: h, and c too if the decoder's
    `states` is 2. A layer that gives outputs alone starts the decoder at zeros.

    Training minimises minus the mean conditional log-likelihood, -1/N sum_n sum_t log p(y_t | y_<t, x): with targets
    `y` (B, T + 1) that begin with the start symbol and end with the end symbol, `cross_entropy(model(x, lengths, y[:,
    :-1]), y[:, 1:], ignore_index=pad)` is that by token.

    >>> decoder = nn.AttentionDecoder(10, 8, 16, nn.DotAttention(16, 16), memory_size=16)
    >>> model = nn.EncoderDecoder(nn.Embedding(10, 8), nn.GRU(8, 8, bidirectional=True), decoder)
    >>> x, lengths = ts.tensor([[3, 4, 5], [6, 7, 0]]), [3, 2]
    >>> y = ts.tensor([[1, 5, 4, 3, 2], [1, 7, 6, 2, 0]])     # 1 is the start symbol, 2 the end, 0 padding
    >>> optimizer = ts.optim.Adam(model.parameters())
    >>> logits = model(x, lengths, y[:, :-1])
    >>> logits.shape
    (2, 4, 10)
    >>> F.cross_entropy(logits, y[:, 1:], ignore_index=0).backward()
    >>> optimizer.step()
    >>> from tinyseq import decode
    >>> found = decode.beam(model.eval().decoder, model.encode(x, lengths), start=1, end=2, max_length=6, width=3)
    >>> len(found), len(found[0][0].tokens) <= 6              # the best one of each row
    (2, True)
    """

    def __init__(self, embedding: Module, encoder: Any, decoder: Any) -> None:
        check.instance("EncoderDecoder", Module, embedding=embedding)
        check.layer("EncoderDecoder", encoder=encoder, decoder=decoder)
        self.embedding, self.encoder, self.decoder = embedding, encoder, decoder
        width = fits("EncoderDecoder", fits("EncoderDecoder", None, "embedding", embedding), "encoder", encoder)
        if type(decoder) is AttentionDecoder:
            wanted = {"memory_size": decoder.memory_size if decoder.attention else 0,
                      "hidden_size": decoder.rnn.hidden_size if ours(encoder) and hasattr(encoder, "directions") else 0}
            for name, size in wanted.items():
                if width and size not in (0, width):
                    raise ValueError(f"EncoderDecoder: expected a decoder with {name}={width}, as the features of the "
                                     f"encoder, got {size}")
        elif ours(decoder) and getattr(decoder, "crosses", False):
            fits("EncoderDecoder", width, "decoder.layers.0", decoder.layers[0])

    def encode(self, source: Like, lengths: Like = None) -> Any:
        """Source (B, S, ...), as the embedding takes it, and lengths (B,) -> the decoder's first state. Padding may be
        wider than positions that the embedding learns."""
        reach = [m.weight.shape[0] for _, m in self.embedding.named_modules() if isinstance(m, LearnedPositions)]
        source, cut = cut_padding("EncoderDecoder", source, lengths, min(reach)) if reach else (source, 0)
        outputs = self.encoder(self.embedding(source), lengths=lengths)
        memory, final = outputs if isinstance(outputs, tuple) else (outputs, ())
        memory = ops.pad(memory, [(0, 0), (0, cut), (0, 0)]) if cut else memory
        directions = getattr(self.encoder, "directions", 1)
        parts = (final if isinstance(final, tuple) else (final,))[: getattr(self.decoder, "states", 1)]
        layers = getattr(self.decoder, "num_layers", 1) if type(self.decoder) is AttentionDecoder else 1
        for part in parts if layers > 1 else ():
            if len(part) != layers * directions:
                raise ValueError(f"EncoderDecoder: expected an encoder of the decoder's {layers} layers, got final "
                                 f"states {part.shape}, of {len(part) // directions}")
        of_layer = [tuple(ops.concat(list(part[i : i + directions or None]), -1) for part in parts)
                    for i in range(-layers * directions, 0, directions)]
        hidden = of_layer[0] if layers == 1 else tuple(ops.stack(list(part), 1) for part in zip(*of_layer, strict=True))
        mask = None if lengths is None else length_mask(
            lengths, memory.shape[1], len(memory), "EncoderDecoder").to(memory.backend)
        return self.decoder.start(memory, hidden if len(hidden) > 1 else (*hidden, None)[0], mask)

    def forward(self, source: Like, lengths: Like, target: Like, **options: Any) -> Tensor:
        """Logits (B, T, V) of the token after each of `target` (B, T), which begins with the start symbol.

        `options` are the decoder's: `sampling=0.25`.
        """
        logits: Tensor = self.decoder(target, self.encode(source, lengths), **options)
        return logits
