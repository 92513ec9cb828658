"""Masks, lengths and refusals: what layers of attention ask of what they are given."""

from typing import Any

import numpy as np
import pytest
from helpers.layers import close, normal

import tinyseq as ts
from tinyseq import nn


def test_what_pytorch_says_otherwise_is_refused_with_the_conversion() -> None:
    x = ts.ones((2, 3, 8))
    layer = nn.TransformerDecoderLayer(8, 2)
    for kind in (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer, nn.MultiheadAttention, nn.Transformer):
        with pytest.raises(ValueError, match="permute_dims"):
            kind(8, 2, batch_first=False)
    for name in ("src_key_padding_mask", "tgt_mask", "tgt_key_padding_mask", "memory_key_padding_mask", "is_causal"):
        with pytest.raises(TypeError, match=f"{name}= is PyTorch's"):
            layer(x, x, **{name: None})
    attend = nn.MultiheadAttention(8, 2)
    for name in ("attn_mask", "key_padding_mask", "average_attn_weights"):
        with pytest.raises(TypeError, match=f"{name}= is PyTorch's"):
            attend(x, **{name: None})
    for kind in (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer, nn.MultiheadAttention, nn.Transformer):
        for device in ("cpu", 0):
            with pytest.raises(ValueError, match=r"device= is PyTorch's; .*\.to"):
                kind(8, 2, device=device)
    for name in ("add_bias_kv", "add_zero_attn"):
        with pytest.raises(ValueError, match=f"{name}= is PyTorch's; .*between"):
            nn.MultiheadAttention(8, 2, **{name: True})
    with pytest.raises(TypeError, match=r"memory_is_causal= is PyTorch's; .*np\.tri"):
        layer(x, x, memory_is_causal=True)
    model = nn.Transformer(8, 2, 1, 1, 6)  # whose masks are of src
    for name in ("src_mask", "tgt_mask", "memory_mask", "tgt_key_padding_mask", "memory_key_padding_mask",
                 "src_is_causal", "memory_is_causal"):
        with pytest.raises(TypeError, match=f"Transformer: {name}= .*tgt_lengths.*decoder"):
            model(x, x, **{name: None})
    for name in ("src_key_padding_mask", "tgt_is_causal"):
        with pytest.raises(TypeError, match=f"Transformer: {name}= is PyTorch's; (here a mask|pass causal)"):
            model(x, x, **{name: None})
    for mask in (np.tri(3, dtype=bool)[None], np.ones((2, 1, 1, 3), bool), [True] * 3):
        with pytest.raises(ValueError, match=r"Transformer: expected mask \(B, S\).*decoder"):
            model(x, x, mask=mask)
    for mask in (np.zeros((2, 3)), np.ones((3, 3), bool), np.ones(3, bool)):  # not boolean, not (B, S)
        with pytest.raises(ValueError, match="boolean mask, True where"):
            attend(x, mask=mask)
    square, future = ts.ones((3, 3, 8)), np.triu(np.ones((3, 3), bool), 1)
    for call in (lambda mask: attend(square, mask=mask), lambda mask: model(square, square, mask=mask, causal=True),
                 lambda mask: layer(square, square, mask=mask), lambda mask: layer(square, square, memory_mask=mask)):
        call(future)  # rows that begin after 1, 2 and 3 steps, as prompts of other lengths are put side by side
        with pytest.raises(ValueError, match=r"mask == 0, of one \(T, S\) .*mask\[None\].* causal=True"):
            call(np.where(future, -np.inf, 0.0))
        call(future.T | np.eye(3, dtype=bool))  # rows of 1, 2 and 3
    attend(square[:2, :2], mask=future[:2, :2])
    attend(square, mask=future[None])
    for lengths in ([1.0, 2.0], [4, 1], [-1, 1], [1], [1, 2, 3]):
        for attending in (attend, nn.TransformerEncoderLayer(8, 2)):
            with pytest.raises(ValueError, match="lengths"):
                attending(x, lengths=lengths)
    with pytest.raises(ValueError, match="lengths as 1 integer"):  # not one row three times
        nn.TransformerEncoderLayer(8, 2)(x[:1], lengths=[1, 2, 3])
    with pytest.raises(ValueError, match=r"expected (src|query)"):
        attend(ts.ones((2, 3, 7)))
    for lengths in (None, [8] * 8):  # (T, E) whose lengths would make a batch of it
        with pytest.raises(ValueError, match=r"expected (src|query)"):
            nn.TransformerEncoderLayer(8, 2)(ts.ones((8, 8)), lengths=lengths)
    with pytest.raises(ValueError, match="rows in its batch"):
        attend(x, ts.ones((3, 3, 8)))
    with pytest.raises(ValueError, match="multiple"):
        nn.MultiheadAttention(8, 3)
    with pytest.raises(ValueError, match="activation"):
        nn.TransformerEncoderLayer(8, 2, activation="tanhh")


def wrong_calls() -> list[tuple[str, Any]]:
    """(who must be named, the call)"""
    x, memory, nothing = ts.ones((2, 3, 8)), ts.ones((2, 4, 8)), np.zeros((2, 3, 8), int)
    attend, keyed = nn.MultiheadAttention(8, 2), nn.MultiheadAttention(8, 2, kdim=5, vdim=6)
    encode, look = nn.TransformerEncoderLayer(8, 2, 16), nn.TransformerDecoderLayer(8, 2, 16)
    whole, learned, waves = nn.Transformer(8, 2, 1, 1, 16), nn.LearnedPositions(5, 8), nn.SinusoidalPositions(8)
    lm, asked = nn.LanguageModel(11, 8, 2, 1, 16, max_length=6), nn.ConditionalLanguageModel(11, 8, 2, 1, 16)
    calls: list[tuple[str, Any]] = []
    for bad in (3, None, "a", [[1.0]], ts.ones((2, 8)), ts.ones((2, 3, 7)), np.ones((2, 3, 8)), nothing):
        calls += [("MultiheadAttention: expected query", lambda b=bad: attend(b)),
                  ("TransformerEncoderLayer: expected src", lambda b=bad: encode(b)),
                  ("Transformer(EncoderLayer)?: expected src", lambda b=bad: whole(b, x)),
                  ("TransformerDecoderLayer: expected tgt", lambda b=bad: look(b, memory)),
                  ("TransformerDecoderLayer: expected tgt", lambda b=bad: whole(x, b)),
                  ("TransformerDecoderLayer: expected memory", lambda b=bad: look(x, b)),
                  ("ConditionalLanguageModel: expected memory", lambda b=bad: asked.start(b)),
                  ("MultiheadAttention: expected key", lambda b=bad: attend.remember(b))]
        if bad is not None:
            calls += [("MultiheadAttention: expected key", lambda b=bad: attend(x, b)),
                      ("MultiheadAttention: expected value", lambda b=bad: attend(x, x, b, lengths=[1, 2])),
                      ("MultiheadAttention: expected key", lambda b=bad: keyed(x, b, ts.ones((2, 3, 6))))]
    for bad in (3, None, "a", ts.ones((2, 3, 7))):
        calls += [("LearnedPositions: expected x", lambda b=bad: learned(b)),
                  ("SinusoidalPositions: expected x", lambda b=bad: waves(b))]
    for mask in (3, "a", np.ones((2, 3)), np.ones((2, 5), bool), np.ones(3, bool), [[1, 1, 1]] * 2):
        calls += [("expected a boolean mask", lambda m=mask: attend(x, mask=m)),
                  ("expected a boolean mask", lambda m=mask: look(x, x, memory_mask=m)),
                  ("ConditionalLanguageModel: expected a boolean mask", lambda m=mask: asked.start(x, mask=m))]
    for lengths in (3, "a", [1.0, 2.0], [1], [9, 1], [-1, 1], [[1, 2]], [True, True], np.array([-1, 1], np.int8)):
        calls += [("MultiheadAttention: expected lengths", lambda n=lengths: attend(x, lengths=n)),
                  ("TransformerEncoderLayer: expected lengths", lambda n=lengths: whole(x, x, lengths=n)),
                  ("MultiheadAttention: expected lengths", lambda n=lengths: look(x, memory, memory_lengths=n)),
                  ("LanguageModel: expected lengths", lambda n=lengths: lm.start([[1, 2, 3]] * 2, n)),
                  ("length_mask: expected lengths", lambda n=lengths: nn.length_mask(n, 4, 2))]
    for state in (3, "a", (), [1]):
        calls += [("LanguageModel: expected a state", lambda s=state: lm([[1], [2]], s)),
                  ("LanguageModel: expected a state", lambda s=state: lm.step([1, 2], s)),
                  ("ConditionalLanguageModel: expected a state", lambda s=state: asked.step([1, 2], s))]
    for tokens in ("a", None, object()):
        calls += [("LanguageModel: expected tokens", lambda t=tokens: lm(t)),
                  ("LanguageModel: expected tokens", lambda t=tokens: lm.step(t, lm.start([[1]])))]
    for prompts in (3, None, [3], [[]], [["a"]], [[1.0]], [[11]], [[-1]], [[2**64 - 1]]):
        calls.append(("LanguageModel: .*(prompt|expected prompts)", lambda p=prompts: lm.prompt(p)))
    for steps in (-1, 2.5, "a", None):
        calls.append(("length_mask: expected an integer 0 <= steps", lambda s=steps: nn.length_mask([1, 2], s)))
    for ids in ([[1]], [1, 2], [[1, 2, 3]]):
        calls.append(("LearnedPositions: expected x .* and ids", lambda i=ids: learned(x, i)))
    return [*calls, ("attention_weights: expected model", lambda: nn.attention_weights(3)),
            ("LearnedPositions: expected at most max_length = 5", lambda: learned(ts.ones((1, 6, 8))))]


def test_wrong_calls_are_named() -> None:
    for who, call in wrong_calls():
        with pytest.raises((TypeError, ValueError, IndexError), match=rf"{who}[\s\S]*(got|id )") as seen:
            call()
            print(who, call.__defaults__)       # what was not refused
        assert type(seen.value) in (TypeError, ValueError, IndexError)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint64"])
def test_lengths_of_every_width_count_alike(dtype: str) -> None:
    layer, rng = nn.TransformerEncoderLayer(8, 2, 8, 0.0, dtype="float64"), np.random.default_rng(0)
    x, lengths = ts.tensor(normal(rng, 3, 200, 8)), np.array([0, 100, 127])
    lm = nn.LanguageModel(11, 8, 2, 1, 8, max_length=300, dtype="float64").eval()
    tokens = rng.integers(0, 11, (3, 200))
    found = []
    for kind in (dtype, "int64"):
        n = lengths.astype(kind)
        state = lm.start(tokens.astype("uint8"), n)
        found.append([nn.length_mask(n, np.int16(200)), layer(x, lengths=n), lm.step(n % 11, state)[0]])
    for narrow, wide in zip(*found, strict=True):
        close(narrow, wide)
