"""Rotary positions: plain ones, and what stretching leaves alone; test_models.py holds them to transformers."""

from typing import Any

import numpy as np
import pytest
from helpers.layers import close
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
from tinyseq import nn

LONG = {"original_max_position_embeddings": 64}
KINDS: list[dict[str, Any]] = [
    {"rope_type": "linear"}, {"rope_type": "dynamic", "max_position_embeddings": 30},
    {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0, **LONG}, {"rope_type": "yarn", **LONG}]


@given(kind=st.sampled_from(KINDS), width=st.integers(2, 20), base=st.floats(2, 1e6))
def test_stretched_by_one_is_not_stretched(kind: dict[str, Any], width: int, base: float) -> None:
    plain = nn.RotaryPositions(2 * width, base)
    close(plain.frequencies(), base ** (-np.arange(width) / width))
    x, ids = ts.zeros((1, 5, 2 * width), "float64"), np.arange(20, 25)
    for a, b in zip(plain.angles(x, ids), nn.RotaryPositions(2 * width, base, factor=1.0, **kind).angles(x, ids),
                    strict=True):
        close(a, b)


@given(kind=st.sampled_from(KINDS), factor=st.floats(1.5, 50), length=st.integers(0, 100))
def test_no_wave_is_shorter_than_before_and_long_ones_are_stretched(
        kind: dict[str, Any], factor: float, length: int) -> None:
    plain = nn.RotaryPositions(32, 1e5).frequencies()
    found = nn.RotaryPositions(32, 1e5, factor=factor, **kind).frequencies(length)
    assert (found <= plain * (1 + 1e-12)).all()
    if kind["rope_type"] != "dynamic":
        close(found[-1], plain[-1] / factor)
    if kind["rope_type"] != "linear":
        close(found[0], plain[0])
    if kind["rope_type"] == "dynamic":
        assert (length <= 30) == np.allclose(found, plain, rtol=1e-12)


def test_a_text_that_goes_on_is_one_longer() -> None:
    rotary = nn.RotaryPositions(4, rope_type="dynamic", factor=2.0, max_position_embeddings=8)
    x = ts.zeros((1, 10, 4))
    close(rotary.angles(x, np.arange(9), ahead=1)[0], rotary.angles(x, np.arange(10))[0][:9])
    assert np.abs(rotary.angles(x, np.arange(9))[0].numpy() - rotary.angles(x, np.arange(10))[0][:9].numpy()).max() > 0


@pytest.mark.parametrize(("arguments", "words"), [
    ((3,), "an even width, .*got width 3"), ((4, 0.0), "0 < base"), ((4, 10.0, "su"), "rope_type to be one of"),
    ((2, 10.0, "dynamic", {"factor": 2.0, "max_position_embeddings": 8}), "even width, 4 or more"),
    ((4, 1.0, "yarn", {"factor": 2.0, **LONG}), "base > 1"),
    ((4, 10.0, "linear"), "rope_type 'linear' needs factor"),
    ((4, 10.0, "default", {"factor": 2.0}), "rope_type 'default' has no factor"),
    ((4, 10.0, "linear", {"factor": 0}), "0 < factor"),
    ((4, 10.0, "yarn", {"factor": 2.0, "truncate": 1.5, **LONG}), "truncate to be one of"),
    ((4, 10.0, "llama3", {"factor": 2.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0, **LONG}),
     "low_freq_factor <"),
])
def test_what_makes_no_positions_is_named(arguments: Any, words: str) -> None:
    *first, more = arguments if isinstance(arguments[-1], dict) else (*arguments, {})
    with pytest.raises(ValueError, match=f"RotaryPositions: .*{words}"):
        nn.RotaryPositions(*first, **more)


@given(width=st.integers(1, 4), seed=st.integers(0, 99))
def test_what_is_not_turned_stays(width: int, seed: int) -> None:
    x = ts.asarray(np.random.default_rng(seed).standard_normal((2, 3, 5, 8)))
    cos, sin = nn.RotaryPositions(2 * width).angles(x, np.arange(5))
    y = ts.nn.functional.rotate(x, cos, sin)
    close(y[..., 2 * width :], x[..., 2 * width :])
    close(y[..., : 2 * width], ts.nn.functional.rotate(x[..., : 2 * width], cos, sin))
    with pytest.raises(ValueError, match="at most half as wide as x"):
        ts.nn.functional.rotate(x[..., : 2 * width - 1], cos, sin)


def model_of(seed: int, **options: Any) -> nn.LanguageModel:
    """Three layers with heads of their own: wide, normed, capped, with windows; two with positions."""
    ts.manual_seed(seed)
    rotary = (nn.RotaryPositions(4, 50.0), nn.RotaryPositions(6, 20.0, "linear", factor=2.0), None)
    model = nn.LanguageModel(9, 8, 2, 3, 12, 0.0, positions=rotary, norm="rms")
    for layer, window in zip(model.layers, (2, None, 3), strict=True):
        layer.self_attn = nn.MultiheadAttention(8, 4, num_kv_heads=2, head_dim=6, window=window, **options)
    return model.eval()


@pytest.mark.parametrize("options", [
    {}, {"softcap": 2.0}, {"q_norm": nn.RMSNorm(6), "k_norm": nn.RMSNorm(6)},
    {"q_norm": nn.RMSNorm(24), "k_norm": nn.RMSNorm(12), "softcap": 2.0}], ids=["plain", "softcap", "each", "all"])
@given(seed=st.integers(0, 99), lengths=st.lists(st.integers(1, 7), min_size=1, max_size=3))
def test_a_step_is_forward_whatever_the_heads_have(options: dict[str, Any], seed: int, lengths: list[int]) -> None:
    model = model_of(seed, **options)
    tokens = np.random.default_rng(seed).integers(0, 9, (len(lengths), 9))
    with ts.no_grad():
        whole = model(tokens).numpy()
        state = model.start(tokens[:, :7], lengths)
        for _ in range(2):
            rows, places = np.arange(len(lengths)), np.array(lengths) + state.length - 7
            logits, state = model.step(tokens[rows, places], state)
            np.testing.assert_allclose(logits.numpy(), whole[rows, places], atol=1e-5)


def test_a_window_hides_what_is_farther_and_nothing_else() -> None:
    attention = nn.MultiheadAttention(8, 2, window=3, dtype=np.float64)
    x = ts.asarray(np.random.default_rng(0).standard_normal((1, 6, 8)))
    _, weights = attention(x, causal=True, need_weights=True)
    near = np.subtract.outer(np.arange(6), np.arange(6))
    assert ((weights.detach().numpy() > 0) == ((near >= 0) & (near < 3))).all()


def test_capped_scores_have_gradients() -> None:
    attention = nn.MultiheadAttention(4, 2, head_dim=3, softcap=2.0, dtype=np.float64)
    x = ts.tensor(np.random.default_rng(0).standard_normal((1, 3, 4)), requires_grad=True)
    ts.testing.check_grad(lambda x: attention(x, causal=True)[0], x)
