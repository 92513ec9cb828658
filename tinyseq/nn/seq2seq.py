"""Encoder and decoder: from a sequence of one length to a sequence of another.

A decoder is three functions, which `tinyseq.decode` and training share: `start(memory, ...) -> state`,
`step(tokens, state) -> (logits, state)` and the teacher-forced `forward(tokens, state) -> logits`. A state is a
NamedTuple of Tensors with the batch first, or None: whatever a decoder needs to go on, indexable by row.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tinyseq import ops
from tinyseq.nn.attention import Attention
from tinyseq.nn.layers import Dropout, Embedding, Linear
from tinyseq.nn.module import Module
from tinyseq.nn.recurrent import GRU
from tinyseq.tensor import Like, Tensor, namespace


def length_mask(lengths: Like, steps: int) -> Tensor:
    """(B,) lengths -> (B, steps) booleans: True at the real positions."""
    if isinstance(lengths, Tensor):  # where they are: looking at a device would wait for it
        return ops.like(lengths, namespace(lengths._data).arange(steps)) < ops.expand_dims(lengths, 1)
    return ops.asarray(np.arange(steps) < np.asarray(lengths)[:, None])


class DecoderState(NamedTuple):
    """Where an attention decoder stands: hidden (B, H), memory (B, S, M), its keys (B, S, K), mask (B, S) or None, and
    the attention weights (B, S) of the last step, or None before the first."""

    hidden: Tensor
    memory: Tensor
    keys: Tensor
    mask: Tensor | None
    weights: Tensor | None = None


class AttentionDecoder(Module):
    """A GRU over the tokens so far, attention from its states to the memory, and logits of the next token.

    s_t = GRU(E y_{t-1}, s_{t-1}),  c_t = attention(s_t, memory),  logits_t = W_o tanh(W_c [c_t; s_t])
    (Luong et al. 2015, equations 5 and 6). As no context is fed back into the GRU, training runs the whole target
    through it at once, and attention is one batched product.

    `attention` takes queries of `hidden_size` H features to a memory of `memory_size` M; of tokens there are
    `vocab_size` V.
    """

    def __init__(
        self, vocab_size: int, embedding_dim: int, hidden_size: int, attention: Attention, memory_size: int,
        dropout: float = 0.0,
    ) -> None:
        self.embedding = Embedding(vocab_size, embedding_dim)
        self.rnn = GRU(embedding_dim, hidden_size)
        self.attention = attention
        self.combine = Linear(memory_size + hidden_size, hidden_size)
        self.dropout = Dropout(dropout)
        self.out = Linear(hidden_size, vocab_size)

    def start(self, memory: Tensor, hidden: Tensor, mask: Like = None) -> DecoderState:
        """The state before the first token: memory (B, S, M), hidden (B, H), mask (B, S): True where memory is real."""
        expected = (memory.shape[0], self.rnn.hidden_size)
        if hidden.shape != expected:
            raise ValueError(f"AttentionDecoder: expected a first hidden state (B, H) = {expected}, got {hidden.shape}")
        mask = None if mask is None else ops.like(memory, mask)
        return DecoderState(hidden, memory, self.attention.keys(memory), mask)

    def forward(self, tokens: Like, state: DecoderState) -> Tensor:
        """Logits (B, T, V) of the token after each of `tokens` (B, T), all of them given: teacher forcing."""
        return self._advance(tokens, state)[0]

    def step(self, tokens: Like, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Logits (B, V) of the token after `tokens` (B,), and the state then."""
        logits, state = self._advance(ops.expand_dims(ops.like(state.hidden, tokens), 1), state)
        return logits[:, 0], state

    def _advance(self, tokens: Like, state: DecoderState) -> tuple[Tensor, DecoderState]:
        s, h = self.rnn(self.embedding(tokens), ops.expand_dims(state.hidden, 0))
        context, weights = self.attention(s, state.memory, state.mask, state.keys)
        combined = self.dropout(ops.tanh(self.combine(ops.concat([context, s], -1))))
        return self.out(combined), state._replace(hidden=h[0], weights=weights[:, -1])


class EncoderDecoder(Module):
    """An encoder, embedding and recurrent layer, and a decoder that attends to it.

    The encoder's outputs (B, S, M) are the decoder's memory; the final states of its last layer, those of both
    directions side by side, are the decoder's first hidden state.
    """

    def __init__(self, embedding: Module, encoder: Any, decoder: Any) -> None:
        self.embedding, self.encoder, self.decoder = embedding, encoder, decoder

    def encode(self, source: Like, lengths: Like = None) -> Any:
        """Source ids (B, S) and their lengths (B,) -> the decoder's first state."""
        memory, final = self.encoder(self.embedding(source), lengths=lengths)
        final = final[0] if isinstance(final, tuple) else final  # h of an LSTM's (h, c)
        hidden = ops.concat(list(final[-self.encoder.directions :]), -1)
        mask = None if lengths is None else length_mask(lengths, memory.shape[1]).to(memory.backend)
        return self.decoder.start(memory, hidden, mask)

    def forward(self, source: Like, lengths: Like, target: Like) -> Tensor:
        """Logits (B, T, V) of the token after each of `target` (B, T), which begins with the start symbol."""
        logits: Tensor = self.decoder(target, self.encode(source, lengths))
        return logits
