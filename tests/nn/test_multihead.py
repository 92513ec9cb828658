"""Multi-head attention: PyTorch's, with masks of every shape, grouped heads, and the weights that are looked at."""

import copy
from typing import Any

import numpy as np
import pytest
from helpers.layers import SIZES, close, dtypes, judge_real, leaf, normal, seeds, torch_mask
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
from tinyseq import nn


@pytest.mark.reference
@given(dtype=dtypes, bias=st.booleans(), kind=st.sampled_from(["self", "cross", "wide"]), sizes=SIZES,
       padded=st.booleans(), causal=st.booleans(), seed=seeds)
def test_multihead_attention_is_torchs(dtype: str, bias: bool, kind: str, sizes: Any, padded: bool, causal: bool,
                                       seed: int) -> None:
    torch = pytest.importorskip("torch")
    batch, steps, seen = sizes
    rng = np.random.default_rng(seed)
    seen = steps if kind == "self" else seen
    wide: dict[str, Any] = {"kdim": 3, "vdim": 5} if kind == "wide" else {}
    ours = nn.MultiheadAttention(8, 2, bias=bias, dtype=dtype, **wide)
    theirs = torch.nn.MultiheadAttention(8, 2, bias=bias, batch_first=True, dtype=getattr(torch, dtype), **wide)
    lengths = rng.integers(1, seen + 1, batch)
    given: dict[str, Any] = {"lengths": lengths} if padded else {}
    torchs: dict[str, Any] = {"key_padding_mask": torch_mask(lengths, seen)} if padded else {}
    if causal and kind == "self":
        given["causal"], torchs["attn_mask"] = True, torch.triu(torch.ones(steps, steps, dtype=torch.bool), 1)
    inputs = [normal(rng, batch, steps, 8, dtype=dtype)]
    if kind == "self":
        judge_real(ours, Self(theirs), inputs, given, torchs)
        w = ours(ts.asarray(inputs[0]), need_weights=True, **given)[1]
        v = theirs(*[torch.tensor(inputs[0])] * 3, average_attn_weights=False, **torchs)[1]
        close(w, v)
    else:
        inputs += [normal(rng, batch, seen, wide.get(k, 8), dtype=dtype) for k in ("kdim", "vdim")]
        judge_real(ours, theirs, inputs, given, torchs)


class Self:
    """PyTorch's attention of a sequence to itself, as a function of one argument."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __call__(self, x: Any, **options: Any) -> Any:
        return self.module(x, x, x, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)


@pytest.mark.reference
@given(zeros=st.booleans(), causal=st.booleans(), sizes=SIZES, seed=seeds)
def test_keys_in_front_are_torchs_bias_kv_and_zero_attn(zeros: bool, causal: bool, sizes: Any, seed: int) -> None:
    torch = pytest.importorskip("torch")
    batch, steps, _ = sizes
    rng = np.random.default_rng(seed)
    theirs = torch.nn.MultiheadAttention(8, 2, add_bias_kv=not zeros, add_zero_attn=zeros, batch_first=True,
                                         dtype=torch.float64)
    ours, x = nn.MultiheadAttention(8, 2, dtype="float64"), normal(rng, batch, steps, 8)
    state = {k: v.numpy() for k, v in theirs.state_dict().items()}
    assert ours.load_state_dict(state, strict=False).unexpected_keys == ([] if zeros else ["bias_k", "bias_v"])
    k0, v0 = (ts.asarray(np.broadcast_to(np.zeros(8) if zeros else state[key], (batch, 1, 8)).reshape(
        batch, 1, 2, 4).swapaxes(1, 2)) for key in ("bias_k", "bias_v"))
    lengths = rng.integers(1, steps + 1, batch)
    y = ours(ts.asarray(x), lengths=lengths + 1, causal=causal,
             between=lambda q, k, v: (q, ts.concat([k0, k], 2), ts.concat([v0, v], 2)))[0]
    future = torch.triu(torch.ones(steps, steps, dtype=torch.bool), 1) if causal else None
    close(y, theirs(*[torch.tensor(x)] * 3, key_padding_mask=torch_mask(lengths, steps), attn_mask=future)[0])


@given(ndim=st.integers(2, 4), ragged=st.booleans(), causal=st.booleans(), sizes=SIZES, seed=seeds)
def test_masks_of_every_shape_say_who_takes_part(ndim: int, ragged: bool, causal: bool, sizes: Any, seed: int) -> None:
    batch, steps, seen = sizes
    rng = np.random.default_rng(seed)
    attend = nn.MultiheadAttention(8, 2, dtype="float64")
    x, memory = ts.asarray(normal(rng, batch, steps, 8)), ts.asarray(normal(rng, batch, seen, 8))
    full = (batch, 2, steps, seen)
    shape = {2: (batch, seen), 3: (batch, steps, seen), 4: full}[ndim]
    mask = rng.random([rng.choice([1, n]) for n in shape]) < 0.6
    lengths = rng.integers(0, seen + 1, batch) if ragged else np.full(batch, seen)
    _, weights = attend(x, memory, mask=mask, lengths=lengths if ragged else None, causal=causal, need_weights=True)
    taking = mask.reshape(mask.shape[0], *(1,) * (4 - ndim), *mask.shape[1:])
    taking = taking & (np.arange(seen) < lengths[:, None])[:, None, None]
    taking = taking & np.tri(steps, seen, seen - steps, dtype=bool) if causal else taking
    assert np.array_equal(weights.detach().numpy() > 0, np.broadcast_to(taking, full))


@pytest.mark.parametrize("cross", [False, True])
def test_what_no_query_sees_may_be_nan(cross: bool) -> None:
    attend, rng = nn.MultiheadAttention(8, 2, dtype="float64"), np.random.default_rng(0)
    query, memory = normal(rng, 3, 4, 8), normal(rng, 3, 4, 8)
    real = np.array([[1, 1, 0, 0], [0, 0, 0, 0], [1, 0, 1, 1]], bool)
    masks: Any = ({"mask": real}, {"mask": real[:, None]}, {"lengths": [2, 0, 3]})
    for mask in masks:
        taking = np.arange(4) < np.array([[2], [0], [3]]) if "lengths" in mask else real
        dirty = [np.where(taking[..., None], a, np.nan) for a in (query, memory)]
        results = []
        for x, m in ((query, memory), (query if cross else dirty[0], dirty[1])):
            attend.zero_grad()
            leaves = [leaf(x), leaf(m)]
            y = attend(*leaves[: 1 + cross], **mask)[0]
            results.append([ts.where(ts.asarray(taking[..., None]), y, 0.0)])
            if cross:  # where x is a query too, its NaN comes to its own output
                ts.sum(y * y).backward()
                results[-1] += [*(p.grad for p in attend.parameters()), leaves[0].grad, leaves[1].grad]
        for got, expected in zip(*results, strict=True):
            close(got, expected)


@given(heads=st.sampled_from([(4, 2), (4, 1), (2, 2)]), seed=seeds)
def test_grouped_heads_are_heads_repeated(heads: Any, seed: int) -> None:
    many, few = heads
    rng = np.random.default_rng(seed)
    grouped, full = nn.MultiheadAttention(8, many, num_kv_heads=few, dtype="float64"), nn.MultiheadAttention(
        8, many, dtype="float64")
    state = {k: v.numpy() for k, v in grouped.state_dict().items()}
    state["in_proj_bias"] = normal(rng, *state["in_proj_bias"].shape)
    grouped.load_state_dict(state)
    for name in ("in_proj_weight", "in_proj_bias"):
        q, k, v = np.split(state[name], [8, 8 + few * 8 // many])
        widen = lambda a: np.repeat(a.reshape(few, 8 // many, -1), many // few, 0).reshape(8, -1).reshape(
            -1, *a.shape[1:])
        state[name] = np.concatenate([q, widen(k), widen(v)])
    full.load_state_dict(state)
    x = ts.asarray(normal(rng, 2, 3, 8))
    close(grouped(x, causal=True)[0], full(x, causal=True)[0])


def test_a_step_in_float16_overflows_no_earlier_than_forward() -> None:
    attend = nn.MultiheadAttention(64, 1, bias=False, dtype="float16")
    attend.load_state_dict({"in_proj_weight": 40 * np.tile(np.eye(64), (3, 1)), "out_proj.weight": np.eye(64)})
    x, past = ts.ones((1, 1, 64), "float16"), ts.zeros((1, 2, 1, 1, 64), "float16")
    close(ts.asarray(attend.step(x.data[0, 0], past.data, 0, None, None)), attend(x)[0][0, 0])  # of a score of 12,800


# --- its weights -----------------------------------------------------------------------------------------------------


def test_the_weights_of_a_layer_that_is_used_twice_come_twice() -> None:
    model = nn.LanguageModel(9, 8, 2, 2, 6, positions=None).eval()
    ids, twin = np.array([[1, 2, 3]]), copy.deepcopy(model)
    model.layers[1], twin.layers[1] = model.layers[0], copy.deepcopy(twin.layers[0])
    (_, shared), (_, apart) = nn.attention_weights(model, ids), nn.attention_weights(twin, ids)
    assert list(shared) == list(apart) == ["layers.0.self_attn", "layers.1.self_attn"]
    for name, weights in apart.items():
        close(shared[name], weights)


def test_weights_of_every_layer_and_head() -> None:
    rng = np.random.default_rng(0)
    model = nn.Transformer(8, 2, 1, 2, 6, dtype="float64")
    src, tgt = ts.asarray(normal(rng, 2, 3, 8)), ts.asarray(normal(rng, 2, 4, 8))
    model.eval()
    y, weights = nn.attention_weights(model, src, tgt, lengths=[3, 1], causal=True)
    close(y, model(src, tgt, lengths=[3, 1], causal=True))
    weights = {name: w.detach() for name, w in weights.items()}
    _, other = nn.attention_weights(model.encoder, src)
    assert list(other) == ["layers.0.self_attn"]
    assert {name: w.shape for name, w in weights.items()} == {
        "encoder.layers.0.self_attn": (2, 2, 3, 3),
        **{f"decoder.layers.{i}.{part}": (2, 2, 4, n) for i in range(2)
           for part, n in (("self_attn", 4), ("multihead_attn", 3))}}
    for w in weights.values():
        close(w.numpy().sum(-1), np.ones(w.shape[:-1]))
    looks = weights["decoder.layers.1.multihead_attn"].numpy()
    with pytest.raises(ValueError, match=r"expected (src|query)"):
        nn.attention_weights(model.encoder, src[..., :7])
    seen = len(other)
    model.encoder(src)  # nobody watches any more
    assert len(other) == seen and nn.multihead._seen.get() is None
    assert not looks[1, ..., 1:].any() and not np.triu(weights["decoder.layers.0.self_attn"].numpy(), 1).any()


def test_alibi_is_a_bias() -> None:
    """Press et al. 2022: nearer keys weigh more, by slopes of the heads; a part of the batch sees no padding."""
    attention = nn.MultiheadAttention(8, num_heads=2, dtype=np.float64)
    nn.init.zeros_(attention.in_proj_weight)
    slopes, place = 2.0 ** -np.array([4.0, 8.0])[:, None, None], np.arange(5)
    bias = slopes * -abs(place[:, None] - place)
    _, weights = attention(ts.ones((3, 5, 8), dtype=np.float64), lengths=[5, 2, 0], bias=bias, need_weights=True)
    assert weights is not None
    expected = np.exp(bias) / np.exp(bias).sum(-1, keepdims=True)
    np.testing.assert_allclose(weights[0].detach().numpy(), expected)
    assert ts.all(weights[1, :, :, 2:] == 0) and ts.all(weights[2] == 0)


@given(seed=seeds, capped=st.booleans(), together=st.booleans())
def test_a_step_looks_at_a_memory_with_all_that_the_heads_have(seed: int, capped: bool, together: bool) -> None:
    ts.manual_seed(seed)
    decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 8, 0.0), 2).eval()
    for layer in decoder.layers:
        wide = 12 if together else 6
        layer.multihead_attn = nn.MultiheadAttention(8, 2, head_dim=6, softcap=0.3 if capped else None,
                                                     q_norm=nn.RMSNorm(wide), k_norm=nn.RMSNorm(wide))
    tgt, memory = ts.random.normal((3, 4, 8)), ts.random.normal((3, 5, 8))
    whole, state = decoder(tgt, memory, memory_lengths=[5, 2, 1], causal=True), decoder.start(memory, [5, 2, 1])
    for t in range(4):
        y, state = decoder.step(tgt[:, t], state)
        close(y, whole[:, t])
    decoder.layers[0].multihead_attn.window = 2
    with pytest.raises(ValueError, match=r"look: a window counts from the last query"):
        decoder.step(tgt[:, 0], state)


def test_layers_and_encoders_hand_a_bias_on() -> None:
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 8, 0.0), 2).eval()
    x, bias = ts.random.normal((2, 4, 8)), ts.random.normal((2, 4, 4))
    far = np.where(np.tri(4) > 0, 0.0, -np.inf).astype("f")
    close(encoder(x, bias=far), encoder(x, causal=True))
    _, weights = nn.attention_weights(encoder, x, bias=bias)
    _, unbiased = nn.attention_weights(encoder, x)
    first = [w["layers.0.self_attn"] for w in (weights, unbiased)]
    close(first[0], ts.nn.functional.softmax(ts.log(first[1]) + bias, -1))
