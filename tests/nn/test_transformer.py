"""Transformers: PyTorch's weights, outputs and gradients; the laws of sequence layers; caches equal the full pass."""

import copy
import inspect
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
import tinyseq.functional as F
from tinyseq import decode, models, nn
from tinyseq.testing import check_grad

dtypes = st.sampled_from(["float32", "float64"])
seeds = st.integers(0, 2**32 - 1)


def close(got: Any, expected: Any, scale: float = 1.0) -> None:
    """Equal within 1e-10 or (float32) 1e-5 of the largest entry, or of 1 where all are small."""
    got, expected = (x.detach().numpy() if hasattr(x, "detach") else np.asarray(x) for x in (got, expected))
    assert got.shape == expected.shape
    scale *= max(1, np.abs(expected).max(initial=0))
    np.testing.assert_allclose(got, expected, rtol=0, atol=scale * (1e-10 if got.dtype == "float64" else 1e-5))


def normal(rng: np.random.Generator, *shape: int, dtype: Any = "float64") -> Any:
    """Numbers that nobody may write to."""
    x = rng.standard_normal(shape).astype(dtype)
    x.flags.writeable = False
    return x


def leaf(x: Any) -> ts.Tensor:
    return ts.Tensor(ts.asarray(x).data, requires_grad=True)


def judge(ours: Any, theirs: Any, inputs: list[Any], mine: dict[str, Any], torchs: dict[str, Any],
          real: Any = None) -> None:
    """With the same weights, outputs (at the real positions) and all gradients are equal."""
    torch = pytest.importorskip("torch")
    assert list(ours.state_dict()) == list(theirs.state_dict())
    rng = np.random.default_rng(0)
    for tensor in ours.parameters():  # biases and norms that are not 0 and 1 show more
        tensor.data = normal(rng, *tensor.shape, dtype=tensor.dtype) * 0.3 + (tensor.detach().numpy() == 1)
    theirs.load_state_dict({k: torch.tensor(v.numpy()) for k, v in ours.state_dict().items()})
    xs, zs = [leaf(x) for x in inputs], [torch.tensor(x, requires_grad=True) for x in inputs]
    y, z = ours(*xs, **mine), theirs(*zs, **torchs)
    y, z = (y[0], z[0]) if isinstance(y, tuple) else (y, z)
    real = np.ones(y.shape[:2], bool) if real is None else real
    close(ts.where(ts.asarray(real[..., None]), y, 0.0), torch.where(torch.tensor(real[..., None]), z, 0))
    weight = normal(rng, *y.shape, dtype=y.dtype) * real[..., None]
    ts.sum(y * ts.asarray(weight)).backward()
    (z * torch.tensor(weight)).sum().backward()
    for a, b in zip([*xs, *ours.parameters()], [*zs, *theirs.parameters()], strict=True):
        close(a.grad, b.grad, 10)


SIZES = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 4))


def torch_mask(lengths: Any, steps: int) -> Any:
    """What PyTorch calls a key padding mask: True is left out."""
    torch = pytest.importorskip("torch")
    return torch.tensor(np.arange(steps) >= lengths[:, None])


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
        judge(ours, Self(theirs), inputs, given, torchs)
        w = ours(ts.asarray(inputs[0]), need_weights=True, **given)[1]
        v = theirs(*[torch.tensor(inputs[0])] * 3, average_attn_weights=False, **torchs)[1]
        close(w, v)
    else:
        inputs += [normal(rng, batch, seen, wide.get(k, 8), dtype=dtype) for k in ("kdim", "vdim")]
        judge(ours, theirs, inputs, given, torchs)


class Self:
    """PyTorch's attention of a sequence to itself, as a function of one argument."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def __call__(self, x: Any, **options: Any) -> Any:
        return self.module(x, x, x, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)


@pytest.mark.reference
@given(dtype=dtypes, bias=st.booleans(), norm_first=st.booleans(), activation=st.sampled_from(["relu", "gelu"]),
       cross=st.booleans(), training=st.booleans(), padded=st.booleans(), causal=st.booleans(), sizes=SIZES, seed=seeds)
def test_layers_and_stacks_are_torchs(dtype: str, bias: bool, norm_first: bool, activation: str, cross: bool,
                                      training: bool, padded: bool, causal: bool, sizes: Any, seed: int) -> None:
    torch = pytest.importorskip("torch")
    batch, steps, seen = sizes
    rng = np.random.default_rng(seed)
    name, kind = ("Decoder" if cross else "Encoder"), getattr(torch, dtype)
    options: dict[str, Any] = {"dim_feedforward": 6, "dropout": 0.0, "activation": activation, "layer_norm_eps": 0.01,
                               "norm_first": norm_first, "bias": bias}

    def stack(library: Any, dtype: Any, **more: Any) -> Any:
        layer = getattr(library, f"Transformer{name}Layer")(8, 2, batch_first=True, dtype=dtype, **options)
        norm = library.LayerNorm(8, dtype=dtype)
        return getattr(library, f"Transformer{name}")(layer, 2, norm, **more).train(training)

    lengths = rng.integers(1, steps + 1, batch)
    memory_lengths = rng.integers(1, seen + 1, batch)
    ours, torchs = {"causal": causal}, {}
    if causal:
        torchs["tgt_mask" if cross else "mask"] = torch.triu(torch.ones(steps, steps, dtype=torch.bool), 1)
    if padded:
        ours["lengths"] = lengths
        torchs["tgt_key_padding_mask" if cross else "src_key_padding_mask"] = torch_mask(lengths, steps)
    if padded and cross:
        ours["memory_lengths"], torchs["memory_key_padding_mask"] = memory_lengths, torch_mask(memory_lengths, seen)
    inputs = [normal(rng, batch, n, 8, dtype=dtype) for n in (steps, seen)[: 1 + cross]]
    theirs = stack(torch.nn, kind, **({} if cross else {"enable_nested_tensor": False}))
    mine = stack(nn, dtype)
    judge(mine, theirs, inputs, ours, torchs, np.arange(steps) < lengths[:, None] if padded else None)
    if padded:
        y = mine(*[ts.asarray(x) for x in inputs], **ours).detach().numpy()
        assert not y[np.arange(steps) >= lengths[:, None]].any()


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@given(dtype=dtypes, norm_first=st.booleans(), sizes=SIZES, seed=seeds)
def test_transformer_is_torchs(dtype: str, norm_first: bool, sizes: Any, seed: int) -> None:
    torch = pytest.importorskip("torch")
    batch, steps, seen = sizes
    rng = np.random.default_rng(seed)
    options: dict[str, Any] = {"dim_feedforward": 6, "dropout": 0.0, "layer_norm_eps": 0.01, "norm_first": norm_first,
                               "batch_first": True}
    lengths = rng.integers(1, seen + 1, batch)
    inputs = [normal(rng, batch, n, 8, dtype=dtype) for n in (seen, steps)]
    hidden = torch_mask(lengths, seen)
    judge(nn.Transformer(8, 2, 1, 2, dtype=dtype, **options),
          torch.nn.Transformer(8, 2, 1, 2, dtype=getattr(torch, dtype), **options), inputs,
          {"lengths": lengths, "causal": True},
          {"src_key_padding_mask": hidden, "memory_key_padding_mask": hidden,
           "tgt_mask": torch.triu(torch.ones(steps, steps, dtype=torch.bool), 1)})


@pytest.mark.reference
@pytest.mark.parametrize("name", ["MultiheadAttention", "TransformerEncoderLayer", "TransformerDecoderLayer",
                                  "TransformerEncoder", "TransformerDecoder", "Transformer"])
def test_arguments_are_torchs_in_their_order(name: str) -> None:
    torch = pytest.importorskip("torch")
    ours, theirs = (inspect.signature(getattr(library, name)).parameters for library in (nn, torch.nn))
    options = inspect.signature(nn.TransformerEncoderLayer).parameters if "options" in ours else {}
    positional = [key for key, p in ours.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == list(theirs)[: len(positional)] and set(theirs) <= {*ours, *options}
    same = set(theirs) - {"activation", "batch_first", "dtype"}
    assert all({**options, **ours}[key].default == theirs[key].default for key in same)


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


def test_stacks_take_what_torchs_take() -> None:
    x = ts.asarray(normal(np.random.default_rng(0), 2, 3, 8, dtype="float32"))
    layer = nn.TransformerDecoderLayer(8, 2, 6, 0.0)
    decoder = nn.TransformerDecoder(decoder_layer=layer, num_layers=1)
    close(decoder(tgt=x, memory=x, causal=True), layer(x, x, causal=True))
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 6, 0.0), 1, enable_nested_tensor=False)
    model = nn.Transformer(8, 2, custom_encoder=encoder, custom_decoder=decoder)
    assert (model.encoder, model.decoder) == (encoder, decoder)
    close(model(x, x, lengths=[3, 1], causal=True), decoder(x, encoder(x, lengths=[3, 1]), memory_lengths=[3, 1],
                                                            causal=True))


@pytest.mark.reference
@given(dtype=dtypes, affine=st.booleans(), eps=st.sampled_from([None, 0.1]), sizes=SIZES, seed=seeds)
def test_rms_norm_is_torchs(dtype: str, affine: bool, eps: Any, sizes: Any, seed: int) -> None:
    torch = pytest.importorskip("torch")
    x = normal(np.random.default_rng(seed), *sizes, dtype=dtype)
    for shape in (sizes[-1], sizes[1:]):
        judge(nn.RMSNorm(shape, eps, affine, dtype=dtype),
              torch.nn.RMSNorm(shape, eps, affine, dtype=getattr(torch, dtype)), [x], {}, {})


def test_the_weights_of_a_layer_that_is_used_twice_come_twice() -> None:
    model = nn.LanguageModel(9, 8, 2, 2, 6, positions=None).eval()
    ids, twin = np.array([[1, 2, 3]]), copy.deepcopy(model)
    model.layers[1], twin.layers[1] = model.layers[0], copy.deepcopy(twin.layers[0])
    (_, shared), (_, apart) = nn.attention_weights(model, ids), nn.attention_weights(twin, ids)
    assert list(shared) == list(apart) == ["layers.0.self_attn", "layers.1.self_attn"]
    for name, weights in apart.items():
        close(shared[name], weights)


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
    for lengths in ([1.0, 2.0], [4, 1], [-1, 1], [1], [1, 2, 3]):
        for attending in (attend, nn.TransformerEncoderLayer(8, 2)):
            with pytest.raises(ValueError, match="lengths"):
                attending(x, lengths=lengths)
    with pytest.raises(ValueError, match="lengths as 1 integers"):  # not one row three times
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


# --- laws ------------------------------------------------------------------------------------------------------------


@given(cross=st.booleans(), sizes=SIZES, seed=seeds)
def test_padding_rows_and_future_change_nothing(cross: bool, sizes: Any, seed: int) -> None:
    batch, steps, seen = sizes
    rng = np.random.default_rng(seed)
    layer: Any = (nn.TransformerDecoderLayer if cross else nn.TransformerEncoderLayer)(8, 2, 6, dtype="float64").eval()
    lengths, memory_lengths = rng.integers(0, steps + 1, batch), rng.integers(0, seen + 1, batch)
    x, memory = normal(rng, batch, steps, 8), normal(rng, batch, seen, 8)

    def run(x: Any, memory: Any, rows: Any = slice(None)) -> Any:
        more = {"memory_lengths": memory_lengths[rows]} if cross else {}
        return layer(*[ts.asarray(a[rows]) for a in (x, memory)][: 1 + cross], lengths=lengths[rows], causal=True,
                     **more).detach().numpy()

    y = run(x, memory)
    other, garbage = x.copy(), memory.copy()
    other[np.arange(steps) >= lengths[:, None]], garbage[np.arange(seen) >= memory_lengths[:, None]] = 7, -7
    close(run(other, garbage), y)
    longer = [np.concatenate([a, np.ones_like(a)], 1) for a in (x, memory)]
    close(run(*longer)[:, :steps], y)
    for i in range(batch):
        close(run(x, memory, slice(i, i + 1)), y[i : i + 1])
    order = rng.permutation(batch)
    close(run(x, memory, order), y[order])
    other[np.arange(steps) >= lengths[:, None]], garbage[np.arange(seen) >= memory_lengths[:, None]] = np.nan, np.nan
    close(run(other, garbage), y)
    changed = x.copy()
    changed[:, -1] += 1  # the last position is nobody's past
    close(run(changed, memory)[:, :-1], y[:, :-1])


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


def test_dropout_falls_where_it_should() -> None:
    x = ts.asarray(normal(np.random.default_rng(0), 2, 3, 8))
    layer = nn.TransformerDecoderLayer(8, 2, 6, dropout=0.5, dtype="float64")
    runs = []
    for seed in (0, 0, 1):
        ts.manual_seed(seed)
        runs.append(layer(x, x).detach().numpy())
    assert np.array_equal(runs[0], runs[1]) and not np.array_equal(runs[0], runs[2])
    ts.manual_seed(0)
    layer(x, x)  # of both attentions' weights, after both, in the feed-forward and after it
    assert ts.random.get_state() == (0, 6)
    layer.eval()
    close(layer(x, x), layer(x, x))
    assert ts.random.get_state() == (0, 6)


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


def test_gradients_of_new_functions_are_central_differences() -> None:
    rng = np.random.default_rng(0)
    x, w, angle = (ts.asarray(normal(rng, *shape)) for shape in ((2, 3, 4), (4,), (3, 2)))
    check_grad(F.swiglu, x, order=2)
    check_grad(lambda x, w: F.rms_norm(x, 4, w, 0.1), x, w, order=2)
    check_grad(lambda x: F.rotate(x, ts.cos(angle), ts.sin(angle)), x, order=2)


def test_rotary_scores_depend_on_distance_alone() -> None:
    rng = np.random.default_rng(0)
    q, k = normal(rng, 6), normal(rng, 6)
    score = lambda i, j: np.dot(*[F.rotate(ts.asarray(a), ts.cos(t), ts.sin(t)).numpy() for a, t in (
        (q, ts.asarray(i * np.array([1, 0.3, 0.1]))), (k, ts.asarray(j * np.array([1, 0.3, 0.1]))))])
    close(score(7, 4), score(3, 0))
    close(score(0, 0), q @ k)
    assert abs(score(7, 3) - score(7, 4)) > 1e-3


def test_sinusoidal_positions_are_the_papers() -> None:
    y = nn.SinusoidalPositions(5)(ts.zeros((1, 4, 5), "float64")).numpy()[0]
    for pos, i in itertools.product(range(4), range(5)):
        angle = pos / 10000 ** (2 * (i // 2) / 5)
        close(y[pos, i], np.sin(angle) if i % 2 == 0 else np.cos(angle))


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


def test_heads_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from tinyseq import plot
    weights = np.full((2, 3, 4, 5), 0.2)
    plot.heads(weights, tmp_path / "all.png")
    plot.heads(weights[0], tmp_path / "one.png")
    assert (tmp_path / "all.png").stat().st_size > (tmp_path / "one.png").stat().st_size > 0
    with pytest.raises(ValueError, match=r"got shape \(4, 5\)"):
        plot.heads(weights[0, 0], tmp_path / "none.png")


# --- language models -------------------------------------------------------------------------------------------------

KINDS: list[dict[str, Any]] = [
    {"positions": "learned", "activation": "gelu_tanh", "max_length": 200},  # GPT-2
    {"positions": "rotary", "norm": "rms", "activation": "swiglu", "bias": False, "num_kv_heads": 2},  # Llama
    {"positions": "sinusoidal", "activation": "relu", "norm_first": False, "tied": False, "bias": False},
    {"positions": None, "activation": ts.tanh, "norm": "rms", "norm_first": False, "num_kv_heads": 1,
     "layer_norm_eps": None},
]


def model(kind: dict[str, Any], conditional: bool = False) -> Any:
    cls = nn.ConditionalLanguageModel if conditional else nn.LanguageModel
    lm = cls(11, 16, 4, 2, 24, dtype="float64", **kind)
    rng = np.random.default_rng(0)
    for tensor in lm.parameters():
        tensor.data = tensor.detach().numpy() + 0.3 * normal(rng, *tensor.shape)
    return lm.eval()


@given(kind=st.sampled_from(KINDS), batch=st.integers(0, 3), steps=st.integers(0, 4), seed=seeds)
def test_cached_steps_are_the_full_pass(kind: dict[str, Any], batch: int, steps: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    lm, more = model(kind), 3
    tokens, lengths = rng.integers(0, 11, (batch, steps + more)), rng.integers(0, steps + 1, batch)
    full = lm(tokens).detach().numpy()
    state = lm.start(tokens[:, :steps], None if (lengths == steps).all() else lengths)
    rows, first = np.arange(batch), state
    for t in range(more):
        logits, state = lm.step(tokens[rows, lengths + t], state)
        close(logits, full[rows, lengths + t])
        order = rng.permutation(batch)  # as a beam does
        state, tokens, lengths, full = decode.take_rows(state, order), tokens[order], lengths[order], full[order]
    with ts.no_grad():  # teacher forcing from a state, which has stayed what it was
        tokens, lengths = rng.integers(0, 11, (batch, steps + more)), first.length - (
            0 if first.starts is None else first.starts.numpy())
    with ts.no_grad():
        again = lm(tokens[:, -more:], first)
        for t in range(more):
            logits, first = lm.step(tokens[:, steps + t], first)
            close(again[:, t], logits)


@given(kind=st.sampled_from(KINDS), seed=seeds)
def test_a_state_stepped_from_twice_stays_what_it_was(kind: dict[str, Any], seed: int) -> None:
    rng = np.random.default_rng(seed)
    lm = model(kind)
    tokens = rng.integers(0, 11, (2, 66))  # further than the first buffer reaches
    states = [lm.start(tokens[:, :1])]
    for t in range(1, 66):
        states.append(lm.step(tokens[:, t], states[-1])[1])
    assert len({id(state.cache.data) for state in states[1:]}) == 2  # buffers; a step of its own copies nothing
    for n in rng.choice(65, 2):
        branches = []
        for _ in range(3):  # three continuations of one state, step by step in turn
            branches.append([tokens[:, : n + 1], states[n]])
        for _ in range(2):
            for branch in branches:
                token = rng.integers(0, 11, 2)
                branch[0] = np.concatenate([branch[0], token[:, None]], 1)
                logits, branch[1] = lm.step(token, branch[1])
                close(logits, lm(branch[0])[:, -1])
    close(lm.step(tokens[:, 0], states[-1])[0], lm(np.concatenate([tokens, tokens[:, :1]], 1))[:, -1])
    kept, rest = decode.take_rows(states[-1], [1]), decode.take_rows(states[-1], slice(0, 1))
    for state, row in ((kept, 1), (rest, 0), (states[-1], slice(None)), (kept, 1)):
        token = rng.integers(0, 11, 2)[row : row + 1] if isinstance(row, int) else rng.integers(0, 11, 2)
        prefix = tokens[row : row + 1] if isinstance(row, int) else tokens
        close(lm.step(token, state)[0], lm(np.concatenate([prefix, token[:, None]], 1))[:, -1])


@given(kind=st.sampled_from(KINDS[:1] + KINDS[2:3]), batch=st.integers(0, 3), seen=st.integers(0, 4), seed=seeds)
def test_a_decoder_steps_as_it_is_taught(kind: dict[str, Any], batch: int, seen: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    decoder = model(kind, conditional=True)
    memory, mask = ts.asarray(normal(rng, batch, seen, 16)), np.arange(seen) < rng.integers(0, seen + 1, (batch, 1))
    tokens = rng.integers(0, 11, (batch, 4))
    state = decoder.start(memory, None, mask)
    full, (_, weights) = decoder(tokens, state), nn.attention_weights(decoder, tokens, state)
    for t in range(4):
        logits, state = decoder.step(tokens[:, t], state)
        close(logits, full[:, t])
        close(state.weights, weights["layers.1.multihead_attn"].detach().numpy().mean(1)[:, t])
        order = rng.permutation(batch)
        state, tokens, full = decode.take_rows(state, order), tokens[order], full[order]
        weights = {k: w[order] for k, w in weights.items()}


def test_gradients_of_a_decoder_reach_its_encoder() -> None:
    rng = np.random.default_rng(0)
    embedding = nn.Sequential(nn.Embedding(11, 16, dtype="float64"), nn.SinusoidalPositions(16))
    layer = nn.TransformerEncoderLayer(16, 2, 8, dtype="float64")
    whole = nn.EncoderDecoder(embedding, nn.TransformerEncoder(layer, 1), model(KINDS[0], conditional=True))
    logits = whole(rng.integers(0, 11, (2, 5)), [5, 3], rng.integers(0, 11, (2, 4)))
    ts.sum(logits * logits).backward()
    assert logits.shape == (2, 4, 11) and all(p.grad is not None for p in whole.parameters())
    whole = nn.EncoderDecoder(nn.Embedding(11, 16), nn.GRU(16, 16), nn.ConditionalLanguageModel(11, 16, 2, 1, 8))
    assert whole([[1, 2]], [2], [[1]]).shape == (1, 1, 11)  # of a recurrent encoder it takes the memory alone


def test_prompts_of_any_length_are_generated_from_at_once() -> None:
    lm = model(KINDS[1])
    prompts = [[1, 2, 3, 4], [5], [6, 7]]
    state, last = lm.prompt(prompts)
    together = decode.greedy(lm, state, last, -1, 6)
    for prompt, got in zip(prompts, together, strict=True):
        tokens = list(prompt)
        for _ in range(6):
            tokens.append(int(lm(np.array([tokens])).detach().numpy()[0, -1].argmax()))
        assert got.tokens == tokens[len(prompt) :]
    assert decode.greedy(lm, *lm.prompt([]), -1, 6) == []
    for wrong in ([[1], []], [[1], [1.0, 2.0]], [[1], [True]], [[1], 2], [[1], "a"], [[1], [[1, 2]]]):
        with pytest.raises(ValueError, match=r"prompt 1 is empty or no list of integers: .* one token or more"):
            lm.prompt(wrong)


@given(seed=seeds, batch=st.integers(1, 4), reach=st.integers(3, 7), max_length=st.integers(1, 6),
       wide=st.integers(0, 3))
def test_a_rows_own_learned_positions_decide(seed: int, batch: int, reach: int, max_length: int, wide: int) -> None:
    """Each way to use them, to the last position and past it: a batch is its rows one at a time, refused if one is."""
    rng = np.random.default_rng(seed)
    lm = model({"positions": "learned", "max_length": reach})
    prompts = [rng.integers(0, 11, rng.integers(1, reach + 1)).tolist() for _ in range(batch)]
    targets = [rng.integers(0, 11, rng.integers(0, reach + 2 - len(p) + (seed % 5 == 0))).tolist() for p in prompts]

    def padded(rows: Any) -> tuple[Any, Any]:
        sizes = [len(row) for row in rows]
        return np.array([[*row, *[3] * (max(sizes) + wide - len(row))] for row in rows], int), np.array(sizes)

    def read(rows: Any) -> Any:
        state = lm.start(*padded([p[:-1] for p in rows]))
        return state, [p[-1] for p in rows]

    ways: list[Any] = [lambda p, _, decode=way: decode(lm, *read(p), 2, max_length) for way in (
        decode.greedy, lambda *a: decode.sample(*a, seed=[7] * len(a[2])), decode.beam)]

    def said(found: Any) -> Any:
        return [h.tokens for h in (found if isinstance(found, list) else [found])]

    ways.append(lambda p, t: decode.score(lm, *read(p), *padded(t), align=True).total.tolist())
    ways.append(lambda p, _: decode.greedy(lm, *lm.prompt(p), 2, max_length))
    for way in ways:
        alone = []
        with ts.no_grad():
            for p, t in zip(prompts, targets, strict=True):
                try:
                    alone += way([p], [t])
                except ValueError as error:
                    alone.append(str(error))
            if any(isinstance(x, str) for x in alone):
                with pytest.raises(ValueError, match=f"learned positions reach max_length = {reach}, not"):
                    way(prompts, targets)
            elif isinstance(alone[0], float):
                close(np.array(way(prompts, targets)), np.array(alone))
            else:
                assert [said(x) for x in way(prompts, targets)] == [said(x) for x in alone]


@given(seed=seeds, batch=st.integers(1, 3), wide=st.integers(0, 4), kind=st.sampled_from(["decoder", "bert"]))
def test_padding_may_be_wider_than_an_encoders_positions(seed: int, batch: int, wide: int, kind: str) -> None:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 5, batch)
    tokens = rng.integers(0, 11, (batch, 4 + wide))
    types = rng.integers(0, 2, tokens.shape)
    layer = nn.TransformerEncoderLayer(16, 2, 8, dtype="float64")
    embedding = nn.Sequential(nn.Embedding(11, 16, dtype="float64"), nn.LearnedPositions(4, 16, "float64"))
    whole = nn.EncoderDecoder(embedding, nn.TransformerEncoder(layer, 1), model(KINDS[0], conditional=True)).eval()
    bert = models.Bert(11, 16, 2, 1, 8, 4, dtype="float64").eval()

    def run(tokens: Any, types: Any, lengths: Any) -> Any:
        if kind == "bert":
            return bert(tokens, lengths, types)
        state = whole.encode(tokens, lengths)
        assert state.mask.shape == tokens.shape
        return [whole.decoder(np.array([[1, 2]] * len(tokens)), state)]

    together, listed = run(tokens, types, lengths), run(tokens.tolist() if kind == "bert" else tokens, types, lengths)
    for i, n in enumerate(lengths):
        for found, again, alone in zip(together, listed, run(tokens[i : i + 1, :n], types[i : i + 1, :n], [n]),
                                       strict=True):
            close(found[i : i + 1, : alone.shape[1]], alone)
            close(again, found)
    with pytest.raises((ValueError, IndexError), match=r"positions|out of range"):
        run(np.ones((1, 5), int), None, [5])


def test_a_step_in_float16_overflows_no_earlier_than_forward() -> None:
    attend = nn.MultiheadAttention(64, 1, bias=False, dtype="float16")
    attend.load_state_dict({"in_proj_weight": 40 * np.tile(np.eye(64), (3, 1)), "out_proj.weight": np.eye(64)})
    x, past = ts.ones((1, 1, 64), "float16"), ts.zeros((1, 2, 1, 1, 64), "float16")
    close(ts.asarray(attend.step(x.data[0, 0], past.data, 0, None, None)), attend(x)[0][0, 0])  # of a score of 12,800


@given(conditional=st.booleans(), batch=st.integers(1, 3), shape=st.lists(st.integers(0, 3), max_size=3),
       tensor=st.booleans())
def test_tokens_of_another_shape_are_refused(conditional: bool, batch: int, shape: list[int], tensor: bool) -> None:
    lm = model(KINDS[0], conditional)
    state = lm.start(ts.ones((batch, 2, 16), "float64") if conditional else np.ones((batch, 2), int))
    tokens: Any = np.ones(shape, int)
    tokens = ts.asarray(tokens) if tensor else tokens
    if shape != [batch]:
        with pytest.raises(ValueError, match=rf"{type(lm).__name__}: expected tokens \({batch},\), got shape"):
            lm.step(tokens, state)
    if len(shape) != 2 or shape[0] != batch:
        with ts.no_grad(), pytest.raises(ValueError, match=rf"expected tokens \({batch}, T\), got shape"):
            lm(tokens, state)
    if len(shape) != 2 and not conditional:
        with pytest.raises(ValueError, match=r"expected tokens \(B, T\), got shape"):
            lm.start(tokens)
    for wrong, error in (([1.0] * batch, TypeError), ([True] * batch, TypeError), ([-1] * batch, IndexError),
                         ([11] * batch, IndexError)):
        with pytest.raises(error, match="expected"):
            lm.step(wrong, state)
    right = np.ones(batch, int)
    close(lm.step(right, state)[0], lm.step(right, state)[0])  # what was refused has changed nothing


def test_a_language_model_says_what_it_cannot_do() -> None:
    lm = nn.LanguageModel(11, 16, 4, 1, 24, max_length=3)
    state = lm.start(np.zeros((1, 2), int))
    with pytest.raises(RuntimeError, match="no gradient reaches what a state has read"):
        lm(np.zeros((1, 1), int), state)
    _, state = lm.step([1], state)
    with pytest.raises(ValueError, match="max_length = 3, not 4 tokens"):
        lm.step([1], state)
    for heads, layers, positions, message in (
        (4, 1, "relative", "positions .*, got 'relative'"), (4, 0, None, "1 <= num_layers"),
        (16, 1, "rotary", "even width d_model / nhead, got 1"),
    ):
        with pytest.raises(ValueError, match=message):
            nn.LanguageModel(11, 16, heads, layers, positions=positions)
    with pytest.raises(ValueError, match="1 <= nhead, got 0"):
        nn.LanguageModel(11, 16, 0, 1)
    with pytest.raises(ValueError, match=r"tokens \(B, T\)"):
        lm([1, 2])
    with pytest.raises(ValueError, match="in lists of equal lengths"):
        lm([[1], [1, 2]])
    for lengths in ([1], [1, 2, 2], [[1, 2]], [1.0, 2.0], [3, 1]):
        with pytest.raises(ValueError, match="expected lengths as 2 integers from 0 to the 2 steps"):
            lm.start(np.zeros((2, 2), int), lengths)
    decoder, memory = nn.ConditionalLanguageModel(11, 16, 4, 1, 24), ts.ones((2, 4, 16))
    for hidden in (ts.ones((2, 16)), np.ones((2, 4), bool)):  # a mask in its place would hide nothing
        with pytest.raises(ValueError, match="expected no hidden state"):
            decoder.start(memory, hidden)
    for owner, other in ((decoder, lm.start([[1]])), (decoder, None), (lm, decoder.start(memory[:1]))):
        with ts.no_grad(), pytest.raises(ValueError, match="a state that its own `start` made"):
            owner([[1]], other)
    deeper = nn.LanguageModel(11, 16, 4, 2, 24)
    for owner, other in ((lm, decoder.start(memory[:1])), (lm, None), (decoder, None), (deeper, lm.start([[1]]))):
        with pytest.raises(ValueError, match="a state that its own `start` made"):
            owner.step([1], other)


def test_ids_in_the_padding_of_a_prompt_are_nobodys() -> None:
    lm = model(KINDS[1])
    states = [lm.start([[pad, pad], [1, pad]], [0, 1]) for pad in (-1, 3)]
    close(*(lm.step([1, 2], state)[0] for state in states))


def test_tied_weights_count_once_and_copies_stay_tied() -> None:
    lm = copy.deepcopy(nn.LanguageModel(11, 16, 4, 1, 24))
    assert lm.out.weight is lm.embedding.weight
    assert len(lm.parameters()) == len(list(lm.state_dict())) - 1


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


@given(seed=seeds, where=st.sampled_from(["encoder", "decoder", "conditional", "whole"]),
       bad=st.sampled_from([np.nan, np.inf, 1e4]))
def test_padding_may_be_nan_in_values_and_gradients(seed: int, where: str, bad: float) -> None:
    """By lengths and, of a memory, by masks: what zeros there give, of every weight too."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 4, 2)
    hidden = np.arange(3) >= lengths[:, None]
    ts.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 8, 0.0, dtype="float64", norm_first=bool(seed % 2))
    stack = nn.TransformerEncoder(layer, 1, nn.LayerNorm(8, dtype="float64"))
    whole = nn.Transformer(8, 2, 1, 1, 8, 0.0, dtype="float64")
    crossing = nn.TransformerDecoderLayer(8, 2, 8, 0.0, dtype="float64")
    lm = nn.ConditionalLanguageModel(11, 8, 2, 1, 8, 0.0, dtype="float64")
    found = []
    for filler in (0.0, bad):
        values = np.where(hidden[..., None], filler, normal(np.random.default_rng(seed), 2, 3, 8))
        x = ts.tensor(values, requires_grad=True)
        plain = ts.tensor(normal(np.random.default_rng(1), 2, 4, 8))
        for module in (stack, crossing, lm, whole):
            module.zero_grad()
        y = (stack(x, lengths=lengths) if where == "encoder" else crossing(plain, x, memory_mask=~hidden)
             if where == "decoder" else whole(x, plain, mask=~hidden) if where == "whole" else
             lm([[1, 2], [3, 4]], lm.start(x, mask=~hidden)))
        ts.sum(y * y).backward()
        module = {"encoder": stack, "decoder": crossing, "conditional": lm, "whole": whole}[where]
        found.append([y, x.grad, *(p.grad for p in module.parameters() if p.grad is not None)])
    for zero, other in zip(*found, strict=True):
        close(other, zero)


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
