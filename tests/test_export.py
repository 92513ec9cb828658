"""ONNX files that tinyseq writes, run by onnxruntime: what the model computes, at other sizes than the example's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
from tinyseq import checkpoint, export, nn
from tinyseq import functional as F

Sizes = dict[str, Any]
normal = ts.random.normal


def host(value: Any) -> Any:
    return value.detach().numpy() if isinstance(value, ts.Tensor) else np.asarray(value)


def flat(name: str, value: Any) -> dict[str, Any]:
    """The arrays in arguments or results, under the names that they have in the file."""
    found: dict[str, Any] = {}
    export._mapped(lambda key, part: found.update({key: host(part)}), name, value)
    return found


def session(path: Path) -> Any:
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    return runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(path: Path, feeds: dict[str, Any]) -> dict[str, Any]:
    found = session(path)
    assert {each.name for each in found.get_inputs()} == feeds.keys()
    return dict(zip([each.name for each in found.get_outputs()], found.run(None, feeds), strict=True))


def agree(path: Path, model: Any, example: Sizes, *others: Sizes, **how: Any) -> None:
    """What is written for `example` computes what the model does with `others`, and with the example."""
    export.onnx(model, path, **how, **example)
    for other in (example, *others):
        with ts.no_grad():
            expected = flat("output", model(**other))
        for name, y in run(path, flat("", other)).items():
            assert y.shape == expected[name].shape and y.dtype == expected[name].dtype, name
            np.testing.assert_allclose(y, expected[name], atol=1e-4, rtol=1e-4, err_msg=name)


KINDS: dict[str, Any] = {
    "RNN": nn.RNN, "relu": lambda *a, **k: nn.RNN(*a, nonlinearity="relu", **k), "GRU": nn.GRU, "LSTM": nn.LSTM,
    "before": lambda *a, **k: nn.GRU(*a, reset="before", **k)}


def ragged(seed: int, batch: int, steps: int, layer: Any, lengths: bool, state: bool) -> Sizes:
    rng = np.random.default_rng(seed)
    made: Sizes = {"x": rng.normal(size=(batch, steps, 3)).astype(np.float32)}
    begun = [rng.normal(size=(layer.num_layers * layer.directions, batch, 4)).astype(np.float32) for _ in range(2)]
    if state:
        made |= {"state": tuple(begun)} if isinstance(layer, nn.LSTM) else {"h0": begun[0]}
    if lengths:
        made["lengths"] = rng.integers(0, steps + 1, batch)
        for row, n in zip(made["x"], made["lengths"], strict=True):
            row[n:] = np.nan
    return made


@pytest.mark.reference
@given(kind=st.sampled_from([*KINDS]), layers=st.integers(1, 3), both=st.booleans(), bias=st.booleans(),
       lengths=st.booleans(), state=st.booleans(), sizes=st.tuples(*[st.integers(1, 6)] * 2), seed=st.integers(0, 99))
def test_recurrent_layers(kind: str, layers: int, both: bool, bias: bool, lengths: bool, state: bool,
                          sizes: tuple[int, int], seed: int, folder: Path) -> None:
    pytest.importorskip("onnx")
    layer = KINDS[kind](3, 4, num_layers=layers, bidirectional=both, bias=bias).eval()
    path = folder / "a.onnx"
    example = ragged(seed, 2, 3, layer, lengths, state)
    example["x"] = np.nan_to_num(example["x"])
    agree(path, layer, example, ragged(seed, *sizes, layer, lengths, state))
    [found] = nn.convert.from_onnx_nodes(path).values()
    assert type(found) is type(layer) and repr(found) == repr(layer)
    for name, value in layer.state_dict().items():
        np.testing.assert_array_equal(found.state_dict()[name].numpy(), value.numpy())
    nodes = __import__("onnx").load(path).graph.node
    assert sum(node.op_type in ("RNN", "GRU", "LSTM") for node in nodes) == layers


# --- layers, each in a model that is given x (B, T, 8) and lengths

class Around(nn.Module):
    """Layers by name, and what is done with them."""

    def __init__(self, call: Callable[..., Any], **layers: nn.Module) -> None:
        self.call = call
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x: Any, lengths: Any) -> Any:
        return self.call(self, x, lengths)


def usual(model: Any, x: Any, lengths: Any) -> Any: return model.a(x, lengths=lengths)
def plain(model: Any, x: Any, lengths: Any) -> Any: return model.a(x)
def masked(model: Any, x: Any, lengths: Any) -> Any: return model.a(x, x, nn.length_mask(lengths, x.shape[1]))
def causal(model: Any, x: Any, lengths: Any) -> Any: return model.a(x, lengths=lengths, causal=True)


def conv_then_gru(model: Any, x: Any, lengths: Any) -> Any:
    return model.b(model.a(x, lengths=lengths), lengths=model.a.out_lengths(lengths))


def pyramid(model: Any, x: Any, lengths: Any) -> Any:
    """Two steps side by side between recurrent layers (Chan et al. 2016)."""
    lengths = ts.asarray(lengths)
    y, _ = model.a(x, lengths=lengths)
    y = y[:, : y.shape[1] // 2 * 2].reshape(y.shape[0], y.shape[1] // 2, 16)
    return model.b(y, lengths=lengths // 2)[0]


LAYERS: dict[str, Any] = {
    "encoder layer": (usual, lambda: nn.TransformerEncoderLayer(8, 2, 16)),
    "encoder": (usual, lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(
        8, 4, 16, activation="swiglu", norm="rms", norm_first=True, num_kv_heads=2), 2, nn.LayerNorm(8))),
    "causal": (causal, lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, activation="gelu_tanh"), 2)),
    "gelu": (usual, lambda: nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", bias=False)),
    "silu": (usual, lambda: nn.TransformerEncoderLayer(8, 2, 16, activation="silu")),
    "weights": (lambda m, x, n: m.a(x, lengths=n, need_weights=True), lambda: nn.MultiheadAttention(8, 2)),
    "mask": (lambda m, x, n: m.a(x, mask=nn.length_mask(n, x.shape[1]))[0], lambda: nn.MultiheadAttention(8, 2)),
    "cross": (lambda m, x, n: m.a(x[:, :2], x, lengths=n)[0], lambda: nn.MultiheadAttention(8, 2, kdim=8)),
    "window": (lambda m, x, n: m.a(x, lengths=n, causal=True)[0], lambda: nn.MultiheadAttention(8, 2, window=3)),
    "bias": (lambda m, x, n: m.a(x, lengths=n, bias=-1.0 * abs(ts.arange(x.shape[1])[:, None] - ts.arange(
        x.shape[1])).astype(ts.float32))[0], lambda: nn.MultiheadAttention(8, 2)),
    "conv": (usual, lambda: nn.Conv1d(8, 6, 3, padding="same")),
    "causal conv": (usual, lambda: nn.Conv1d(8, 6, 3, dilation=2, causal=True, bias=False)),
    "strided conv": (usual, lambda: nn.Conv1d(8, 6, 3, stride=2, padding=2, dilation=2, groups=2)),
    **{f"{mode} conv": (usual, lambda mode=mode: nn.Conv1d(8, 6, 3, padding=1, padding_mode=mode))
       for mode in ("replicate", "circular")},
    **{f"{mode} conv, whole": (plain, lambda mode=mode: nn.Conv1d(8, 6, 3, padding=1, padding_mode=mode))
       for mode in ("reflect", "replicate", "circular")},
    "max pool": (usual, lambda: nn.MaxPool1d(2, padding=1)),
    "average pool": (usual, lambda: nn.AvgPool1d(3, 1, 1, count_include_pad=False)),
    "batch norm": (usual, lambda: nn.BatchNorm1d(8)), "group norm": (usual, lambda: nn.GroupNorm(2, 8)),
    "prelu": (plain, lambda: nn.PReLU(8)), "learned": (plain, lambda: nn.LearnedPositions(30, 8)),
    "sinusoidal": (plain, lambda: nn.SinusoidalPositions(8)),
    "dot": (masked, lambda: nn.DotAttention(8, 8, scale=True)),
    "additive": (masked, lambda: nn.AdditiveAttention(8, 8, 5)),
    "heads": (masked, lambda: nn.MultiheadContext(8, 8, 2)),
    **{pool: (lambda m, x, n: m.a(x[:, :1], x, nn.length_mask(n, x.shape[1]))[0],
              lambda pool=pool: nn.FixedContext(8, pool, size=5)) for pool in ("last", "both", "mean", "max")},
    "activations": (plain, lambda: nn.Sequential(
        nn.ReLU(), nn.LeakyReLU(0.2), nn.ELU(0.5), nn.Linear(8, 8), nn.GELU(), nn.SiLU(), nn.Tanh(), nn.Sigmoid(),
        nn.Softplus(), nn.LogSigmoid(), nn.GLU(), nn.Softmax(), nn.LogSoftmax(), nn.Identity())),
    "norms": (plain, lambda: nn.Sequential(nn.LayerNorm(8, elementwise_affine=False), nn.RMSNorm(8), nn.Dropout(0.5))),
    "conv, then GRU": (conv_then_gru, lambda: nn.Conv1d(8, 8, 3, stride=2, padding=1),
                       lambda: nn.GRU(8, 4, bidirectional=True)),
    "pyramid": (pyramid, lambda: nn.LSTM(8, 4, bidirectional=True), lambda: nn.GRU(16, 4)),
}


@pytest.mark.reference
@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    ts.manual_seed(0)
    call, *layers = LAYERS[name]
    model = Around(call, **dict(zip("ab", [make() for make in layers], strict=False))).eval()
    for parameter in model.parameters():
        parameter.data = parameter.detach() + 0.1 * normal(parameter.shape)
    agree(tmp_path / "a.onnx", model, {"x": normal((2, 4, 8)), "lengths": [4, 2]},
          {"x": normal((3, 9, 8)), "lengths": [9, 0, 5]}, {"x": normal((1, 5, 8)), "lengths": [4]})
    found = checkpoint.load(tmp_path / "a.onnx")
    for key, value in model.state_dict().items():  # that which no recurrent node holds
        if key in found:
            np.testing.assert_array_equal(found[key], value.numpy())
        assert key in found or "l0" in key or "running" in key or "num_batches" in key, key


# --- functions

def infinite(x: Any) -> tuple[Any, Any]:
    """Numbers, -inf and inf, each beside each."""
    a, b = ts.asarray([0.5, -np.inf, np.inf])[:, None, None, None, None], ts.asarray([0.25, -np.inf, np.inf])
    return a + 0 * x[..., None], b + 0 * x[..., None]


FUNCTIONS: dict[str, Callable[[Any, Any], Any]] = {
    "elementwise": lambda x, n: (ts.sqrt(abs(x)) + ts.exp(-x * x) / 3.0 - x**2 + 1 / (2 + ts.cos(x)), ts.log1p(abs(x)),
                                 ts.expm1(x), ts.log2(abs(x) + 1), ts.log10(abs(x) + 1), ts.trunc(3 * x), ts.square(x),
                                 ts.round(5 * x), ts.sign(x), ts.erf(x), ts.sinh(x), ts.atan(x), ts.asinh(x),
                                 ts.logaddexp(x, 0.0), ts.logaddexp(*infinite(x)), ts.clip(x, -0.5, 0.5),
                                 ts.maximum(x, 0.1), -x, ts.floor(x)),
    "comparisons": lambda x, n: (x > 0, x != x[:, :1], ~((x <= 0.5) & (x >= -0.5)) | (n[:, None, None] == 2),
                                 ts.isfinite(ts.where(x > 0, -np.inf, x)), ts.isnan(x), ts.where(x > 0, x > 1, x < -1),
                                 ts.logical_xor(n > 1, n < 3)),
    "integers": lambda x, n: (n // 2, (n - 3) // 2, (n - 3) % 2, n * n, n.astype(ts.float32) % 1.5, n / 2,
                              ts.one_hot(n % 3, 3), n.astype(ts.int32) + 1, (3 * x) // 2.0),
    "reductions": lambda x, n: (x.sum(1), x.mean((0, 1)), x.max(1), x.min(-1, keepdims=True), ts.prod(x, 2), x.var(1),
                                x.std(1, correction=1), ts.any(x > 1, 1), ts.all(x > -9), x.argmax(-1), ts.argmin(x),
                                ts.logsumexp(x, 1), x.cumulative_sum(1), n.sum(), ts.vector_norm(x, axis=-1)),
    "shapes": lambda x, n: (x.reshape(-1, 8), x.reshape(x.shape[0], -1), x.flatten(1), x.mT, ts.moveaxis(x, 0, 1),
                            x.permute_dims(2, 0, 1), x[:, None], ts.expand_dims(x, (0, 2)), x[:, :, :1].squeeze(2),
                            ts.broadcast_to(x[:, :1], x.shape), ts.flip(x, 1), ts.tile(x, (2, 1, 3)),
                            ts.repeat(x, 3, axis=1), ts.tril(x), ts.triu(x, 1), ts.stack([x, x], 1),
                            ts.concat([x, x[:, :1]], 1), ts.concat([x, x], None), ts.pad(x, [(0, 0), (1, 2), (0, 0)]),
                            *ts.split(x, 2, -1), *ts.split(x, [1], 1), *ts.unstack(x, 2)[:2],
                            x.reshape(x.shape[0] * x.shape[1], 2, 4), ts.pad(x, [(0, 0), (0, x.shape[1]), (0, 0)])),
    "places": lambda x, n: (x[:, -1], x[:, 1:, ::2], x[..., 0], x[:, ::-1], x[:, [0, 2]], x[0], ts.take(x, [1, 0], 2),
                            x[ts.arange(x.shape[0]), n], ts.take_along_axis(x, n[:, None, None], 1), ts.argsort(x, 1),
                            ts.sort(x, -1, descending=True), *ts.topk(x, 2, 1), x[:, None, :, 0], x[:, n[0]]),
    "products": lambda x, n: (x @ x.mT, ts.einsum("btc,bsc->bts", x, x), x @ ts.ones(8), ts.vecdot(x, x),
                              ts.tensordot(x, ts.ones((8, 3)), 1)),
    "lengths": lambda x, n: (ts.arange(x.shape[1]) * 2 + 1, ts.zeros((x.shape[0], 3)) + 1, x / x.shape[1],
                             ts.arange(x.shape[1])[None] < n[:, None], x.sum(1) / ts.maximum(n, 1)[:, None],
                             ts.full((x.shape[1],), 0.5) * 2.0, ts.eye(8) @ x.mT),
}


@pytest.mark.reference
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    ts.manual_seed(1)
    model = Around(lambda _, x, lengths: FUNCTIONS[name](ts.asarray(x), ts.asarray(lengths))).eval()
    agree(tmp_path / "a.onnx", model, *({"x": normal((len(n), t, 8)), "lengths": np.array(n)} for t, n in (
        (4, [3, 2]), (9, [8, 0, 5]), (6, [1] * 5))))


@pytest.mark.reference
def test_numbers_without_axes_come_in_and_out(tmp_path: Path) -> None:
    pytest.importorskip("onnx")

    def both(_: Any, x: Any, lengths: Any) -> Any:
        n = ts.asarray(lengths).astype(ts.float32)
        return x * n, ts.mean(x), [ts.max(x), ts.sum(x > n)]

    for scalar in (np.array(2.0, np.float32), ts.tensor(2.0), np.array(3), ts.tensor(-1)):
        agree(tmp_path / "a.onnx", Around(both).eval(), {"x": normal((2, 4, 8)), "lengths": scalar},
              {"x": normal((3, 5, 8)), "lengths": ts.asarray(scalar) - 1})
        assert [each.shape for each in session(tmp_path / "a.onnx").get_outputs()] == [
            ["batch", "time", 8], [], [], []]
    alone = Around(lambda _, x, lengths: ts.mean(lengths) if x is None else ts.sum(x)).eval()
    for x in (normal((2, 3)), ts.tensor(2.0)):
        agree(tmp_path / "a.onnx", alone, {"x": x, "lengths": None})
        assert [each.name for each in session(tmp_path / "a.onnx").get_outputs()] == ["output"]
    with pytest.raises(ValueError, match="got lengths of float64"):
        export.onnx(alone, tmp_path / "a.onnx", normal((2, 3)), np.array(2.0))


# --- whole models

class Tagger(nn.Module):
    def __init__(self) -> None:
        self.embedding, self.rnn = nn.Embedding(10, 8, 0), nn.LSTM(8, 6, 2, bidirectional=True)
        self.attention, self.out = nn.DotAttention(12, 12), nn.Linear(12, 3)

    def forward(self, tokens: Any, lengths: Any) -> Any:
        y, (h, _) = self.rnn(self.embedding(tokens), lengths=lengths)
        real = nn.length_mask(lengths, tokens.shape[1])
        context, _ = self.attention(ts.concat([h[-2], h[-1]], -1)[:, None], y, real)
        mean = y.sum(1) / ts.maximum(lengths, 1)[:, None].astype(ts.float32)
        return {"row": self.out(context[:, 0] + mean), "tags": self.out(y).argmax(-1), "p": F.log_softmax(self.out(y))}


IDS = [np.array([[1, 2, 3, 4], [5, 6, 7, 0]]), np.random.default_rng(0).integers(0, 10, (3, 9))]
LENGTHS = [[4, 2], [9, 0, 5]]
TOKENS = [{"tokens": ids, "lengths": n} for ids, n in zip(IDS, LENGTHS, strict=True)]
LANGUAGE: dict[str, dict[str, Any]] = {
    "GPT": {"activation": "gelu_tanh"}, "Llama": {"positions": "rotary", "norm": "rms", "activation": "swiglu",
                                                   "num_kv_heads": 1, "bias": False, "tied": False},
    "sinusoidal": {"positions": "sinusoidal"}, "none": {"positions": None}}


@pytest.mark.reference
def test_a_tagger_and_its_bags(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    agree(tmp_path / "a.onnx", Tagger().eval(), *TOKENS)
    for mode in ("mean", "max", "sum"):
        bags = [{"ids": each["tokens"], "lengths": each["lengths"]} for each in TOKENS]
        agree(tmp_path / "b.onnx", nn.EmbeddingBag(10, 4, mode=mode, padding_idx=0).eval(), *bags)
    names = [(each.name, each.shape) for each in session(tmp_path / "a.onnx").get_inputs()]
    assert names == [("tokens", ["batch", "time"]), ("lengths", ["batch"])]
    assert [each.shape for each in session(tmp_path / "a.onnx").get_outputs()] == [
        ["batch", 3], ["batch", "time"], ["batch", "time", 3]]


@pytest.mark.reference
@pytest.mark.parametrize("kind", LANGUAGE)
@pytest.mark.parametrize("padded", [False, True])
def test_a_language_model_and_its_step(kind: str, padded: bool, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    model = nn.LanguageModel(10, 8, 2, 2, 16, max_length=20, **LANGUAGE[kind]).eval()
    agree(tmp_path / "a.onnx", model, *({"tokens": ids} for ids in IDS))
    path = tmp_path / "step.onnx"
    export.onnx(model.step, path, [1, 2], model.start(IDS[0], LENGTHS[0] if padded else None))
    state = model.start(IDS[1], [9, 1, 5] if padded else None)
    feeds = {"state_cache": host(state.cache)} | ({"state_starts": host(state.starts)} if padded else {})
    for tokens in np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]]):
        found = run(path, {"tokens": tokens, **feeds})
        logits, state = model.step(tokens, state)
        np.testing.assert_allclose(found["output_0"], logits.numpy(), atol=1e-4)
        feeds["state_cache"] = found["output_1"]
    if not padded:  # from nothing
        empty = {"state_cache": np.zeros((2, 2, 2, model.layers[0].self_attn.num_kv_heads, 0, 4), np.float32)}
        found = run(path, {"tokens": np.array([1, 2]), **empty})
        np.testing.assert_allclose(found["output_0"], model([[1], [2]])[:, 0].detach().numpy(), atol=1e-4)


@pytest.mark.reference
def test_steps_of_decoders_of_a_memory(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    for model, x in ((nn.ConditionalLanguageModel(10, 8, 2, 2, 16, max_length=20), [1, 2, 3]),
                     (nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 16), 2), normal((3, 8)))):
        model.eval()
        small, large = (model.start(normal((b, s, 8)), mask=nn.length_mask(n, s)) for b, s, n in (
            (2, 5, [5, 2]), (3, 7, [7, 1, 4])))
        _, small = model.step(x[:2], small)
        export.onnx(model.step, tmp_path / "a.onnx", x[:2], small)
        name, state = "tokens" if isinstance(x, list) else "x", large
        for _ in range(3):
            feeds = flat("state", {"cache": state.cache[..., : state.length, :], "memory": state.memory,
                                   "mask": state.mask})
            feeds |= {"state_cache": host(state.cache)[..., : state.length, :], name: host(x)}
            y, state = model.step(x, state)
            np.testing.assert_allclose(run(tmp_path / "a.onnx", feeds)["output_0"], y.numpy(), atol=1e-4)


@pytest.mark.reference
@pytest.mark.parametrize("feed", [None, "attentional", "context"])
@pytest.mark.parametrize("cell", [nn.RNN, nn.GRU, nn.LSTM])
def test_a_translator_in_two_files(cell: Any, feed: str | None, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    decoder = nn.AttentionDecoder(10, 8, 16, nn.AdditiveAttention(16, 16, 7), memory_size=16, cell=cell, feed=feed)
    model = nn.EncoderDecoder(nn.Embedding(10, 8), cell(8, 8, bidirectional=True), decoder).eval()
    source = [{"source": ids, "lengths": n} for ids, n in zip(IDS, LENGTHS, strict=True)]
    agree(tmp_path / "encode.onnx", model.encode, *source)
    states = [model.encode(**each) for each in source]
    agree(tmp_path / "step.onnx", decoder.step, {"tokens": [1, 2], "state": states[0]},
          {"tokens": [1, 2, 3], "state": states[1]})
    state = model.encode(**source[1])  # a loop of both files alone
    encoded = run(tmp_path / "encode.onnx", flat("", source[1]))
    feeds = {name.replace("output", "state"): y for name, y in encoded.items()}
    for tokens in ([1, 2, 3], [4, 5, 6]):
        found = run(tmp_path / "step.onnx", {"tokens": np.array(tokens), **feeds})
        logits, state = decoder.step(tokens, state)
        np.testing.assert_allclose(found["output_0"], logits.detach().numpy(), atol=1e-4)
        feeds |= {name.replace("output_1", "state"): y for name, y in found.items() if name.replace(
            "output_1", "state") in feeds}
    if feed is None:
        agree(tmp_path / "a.onnx", model, source[0] | {"target": IDS[0][:, :3]}, source[1] | {"target": IDS[1][:, :5]})


@pytest.mark.reference
def test_a_decoder_of_two_layers_and_a_layer_that_is_called_twice(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    decoder = nn.AttentionDecoder(10, 8, 16, nn.MultiheadContext(16, 12, 2), memory_size=12, num_layers=2).eval()
    given = ({"tokens": [1] * b, "state": decoder.start(normal((b, s, 12)))} for b, s in ((2, 5), (3, 9)))
    agree(tmp_path / "a.onnx", decoder.step, *given)
    lstm = nn.AttentionDecoder(10, 8, 6, nn.DotAttention(6, 6), memory_size=6, num_layers=2, cell=nn.LSTM).eval()
    for example in (2, 6):  # as many rows, or steps, as vectors have elements
        states = [lstm.start(normal((b, s, 6)), mask=nn.length_mask([s, *[1] * (b - 1)], s))
                  for b, s in ((example, 8 - example), (3, 9))]
        agree(tmp_path / "a.onnx", lstm.step, *({"tokens": [1] * len(state.memory), "state": state}
                                                for state in states))
    twice = Around(lambda m, x, n: m.a(m.a(x, lengths=n)[0], lengths=n)[0], a=nn.GRU(8, 8)).eval()
    agree(tmp_path / "b.onnx", twice, *({"x": normal((len(n), 6, 8)), "lengths": n} for n in ([6, 2], [0, 3, 4])))
    assert len(nn.convert.from_onnx_nodes(tmp_path / "b.onnx")) == 2 and len(checkpoint.load(tmp_path / "b.onnx")) == 3


class Shouting(nn.LanguageModel):
    """A step of its own, by functions of Tensors."""

    def step(self, tokens: Any, state: Any) -> Any:
        return 2.0 * self.out(self.embedding(tokens)) + state, state + 1.0


@pytest.mark.reference
def test_a_step_of_a_class_of_ones_own_is_that(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    agree(tmp_path / "a.onnx", Shouting(10, 8, 2, 1, 16).eval().step,
          *({"tokens": ts.tensor([1] * b), "state": normal((b, 10))} for b in (2, 3)))


@pytest.mark.reference
def test_cells_transformers_and_pieces_of_a_convolution(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    path = tmp_path / "a.onnx"
    for cell in (nn.RNNCell(3, 4), nn.GRUCell(3, 4), nn.GRUCell(3, 4, reset="before")):
        agree(path, cell.eval(), {"x": normal((2, 3)), "h": normal((2, 4))}, {"x": normal((5, 3)), "h": normal((5, 4))})
    agree(path, nn.LSTMCell(3, 4).eval(), {"x": normal((2, 3))}, {"x": normal((5, 3))})
    agree(path, nn.Transformer(8, 2, 1, 1, 16).eval(),
          *({"src": normal((b, s, 8)), "tgt": normal((b, t, 8)), "lengths": n, "causal": True} for b, s, t, n in (
              (2, 4, 3, [4, 2]), (3, 9, 6, [9, 0, 5]))))
    agree(path, nn.Conv1d(8, 6, 3, causal=True).eval().step,
          *({"x": normal((b, t, 8)), "state": normal((2, b, 8))} for b, t in ((2, 4), (5, 7))))


ENCODER: dict[str, Any] = {"vocab_size": 10, "d_model": 8, "nhead": 2, "num_layers": 2, "dim_feedforward": 16}


@pytest.mark.reference
@pytest.mark.parametrize("options", [{}, {"buckets": 8}, {"buckets": 32}])
def test_positions_of_distances(options: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    model = ts.models.Bert(**ENCODER, max_length=300, **options).eval()
    others = [{"tokens": np.random.default_rng(0).integers(0, 10, (2, n)), "lengths": [n, 2]} for n in (9, 200)]
    agree(tmp_path / "a.onnx", model, TOKENS[0], *others)


TINY: dict[str, Any] = {"vocab_size": 10, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
                        "num_attention_heads": 4, "max_position_embeddings": 64, "pad_token_id": 0,
                        "initializer_range": 0.5, "bos_token_id": None, "eos_token_id": None}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("ForTokenClassification", {}), "roberta": ("ForSequenceClassification", {}), "mpnet": ("", {}),
    "distilbert": ("ForSequenceClassification", {"dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 4}),
    "electra": ("", {"embedding_size": 8}), "gpt2": ("ForCausalLM", {"n_embd": 16, "n_layer": 2, "n_head": 4}),
    **{family: ("ForCausalLM", {"num_key_value_heads": 2, "head_dim": 4})
       for family in "llama phi3 smollm3 olmo2 qwen2 qwen3 gemma".split()},
    **{family: ("ForCausalLM", {"num_key_value_heads": 2, "head_dim": 4, "sliding_window": 3})
       for family in "mistral gemma2 gemma3_text".split()}}


@pytest.mark.reference
@pytest.mark.parametrize("family", FAMILIES)
def test_families_of_released_models(family: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    task, options = FAMILIES[family]
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **TINY | options)
    getattr(transformers, f"AutoModel{task}").from_config(config).save_pretrained(tmp_path)
    model = ts.models.load(tmp_path).eval()
    agree(tmp_path / "a.onnx", model, *TOKENS)
    if isinstance(model, nn.LanguageModel):
        export.onnx(model.step, tmp_path / "step.onnx", [1, 2], model.start(IDS[0]))
        state = model.start(IDS[1])
        found = run(tmp_path / "step.onnx", {"tokens": np.array([1, 2, 3]), "state_cache": host(state.cache)})
        np.testing.assert_allclose(found["output_0"], host(model.step([1, 2, 3], state)[0]), atol=1e-4, rtol=1e-4)


# --- the file

@pytest.mark.reference
def test_large_weights_stand_in_a_file_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnx")
    monkeypatch.setattr(export, "LARGEST", 1000)
    model = nn.Sequential(nn.Linear(8, 100), nn.ReLU(), nn.Linear(100, 8)).eval()
    for _ in range(2):
        agree(tmp_path / "a.onnx", model, {"x": normal((2, 4, 8))}, {"x": normal((3, 5, 8))})
    assert 3200 < (tmp_path / "a.onnx.data").stat().st_size < 7000 and (tmp_path / "a.onnx").stat().st_size < 3000
    found = checkpoint.load(tmp_path / "a.onnx")
    assert found.keys() == model.state_dict().keys()
    assert all(np.array_equal(found[name], value.numpy()) for name, value in model.state_dict().items())


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnx", None)
    with pytest.raises(ImportError, match=r"pip install 'tinyseq\[onnx\]'"):
        ts.export.onnx(nn.ReLU().eval(), tmp_path / "a.onnx", ts.ones((2, 3)))


def by_hand(_: Any, x: Any, lengths: Any) -> Any: return x * np.float32(lengths.numpy().mean())
def in_numpy(_: Any, x: Any, lengths: Any) -> Any: return x * ts.asarray(np.sin(np.arange(x.shape[1])))[:, None]
def looped(_: Any, x: Any, lengths: Any) -> Any: return sum(x[:, t] for t in range(x.shape[1]))
def added(_: Any, x: Any, lengths: Any) -> Any: return ts.index_add(x, 1, [0], x[:, :1])
def longest(_: Any, x: Any, lengths: Any) -> Any: return x[:, : int(lengths.numpy().max())]



@pytest.mark.parametrize("count", [lambda mask: mask.sum(1), lambda mask: np.full(len(mask), mask.sum(1).max()),
                                   lambda mask: mask.shape[1] - (~mask).sum(1)])
def test_what_numpy_counted_in_a_mask_is_refused(count: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    model = Around(lambda m, x, mask: m.a(x, lengths=count(np.asarray(mask)))[0], a=nn.GRU(8, 4)).eval()
    for mask in (np.ones((2, 3), bool), np.zeros((2, 3), bool), np.ones((1, 1), bool)):
        with pytest.raises(ValueError, match="by functions of tinyseq"):
            export.onnx(model, tmp_path / "a.onnx", normal((*mask.shape, 8)), mask)


def on_all(_: Any, x: Any, lengths: Any) -> Any: return x * 2.0 if ts.all(x > 0) else x * 0.0
def by_sum(_: Any, x: Any, lengths: Any) -> Any: return x * (2.0 if x.numpy().sum() > 0 else 0.5)


@pytest.mark.parametrize("call", [on_all, by_sum, *(
    lambda _, x, n, to=to: x * (to(ts.max(ts.asarray(n))) > 0) for to in (int, float, bool, lambda y: y.item()))])
def test_a_branch_on_a_number_of_the_input_is_refused(call: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    with pytest.raises(ValueError, match=r"^export.onnx: the model, Around: .*functions of tinyseq"):
        export.onnx(Around(call).eval(), tmp_path / "a.onnx", np.ones((2, 4, 8), np.float32), [4, 2])
    assert not [*tmp_path.iterdir()] and ts.tensor(3.0).item() == 3.0


@pytest.mark.reference
def test_a_number_of_no_input_may_be_one_of_pythons(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    model = Around(lambda m, x, n: x * float(m.a.weight.detach()[0]) + int(ts.arange(3)[2]), a=nn.LayerNorm(8)).eval()
    agree(tmp_path / "a.onnx", model, *({"x": normal((b, 4, 8)), "lengths": None} for b in (2, 3)))
    root = Around(lambda _, x, n: ts.log(x) + ts.sqrt(x)).eval()  # nobody is warned of those of other signs
    agree(tmp_path / "a.onnx", root, *({"x": abs(normal((b, 4, 8))), "lengths": None} for b in (2, 3)))


REFUSED: list[tuple[Any, str]] = [
    (lambda: nn.Linear(8, 2), "expected a model after eval\\(\\), got the model, Linear, in training mode"),
    (lambda: nn.Linear(8, 2, dtype=np.float64).eval(), "float32, got weight of float64"),
    (lambda: nn.LSTM(8, 4, proj_size=2).eval(), "the model, LSTM: what is computed here.* loop"),
    (lambda: Around(usual, a=nn.Scan(nn.RNNCell, 8, 4)).eval(), "a, Scan: what is computed here.* loop"),
    (lambda: Around(usual, a=nn.MinGRU(8, 4)).eval(), "a: `linear_scan` has no form"),
    (lambda: Around(by_hand).eval(), "it is given .* compute what depends on the input by functions of tinyseq"),
    (lambda: Around(in_numpy).eval(), "float64.* was not computed by functions of tinyseq"),
    (lambda: Around(looped).eval(), "changes with the sizes, as in a loop over steps"),
    (lambda: Around(longest).eval(), "does not follow from the length of an axis"),
    (lambda: Around(added).eval(), "`unindex` has no form in ONNX here"),
    (lambda: Around(lambda _, x, lengths: x[x > 0]).eval(), "booleans make a size that depends on numbers"),
    (lambda: Around(lambda _, x, lengths: lengths & 1).eval(), "ONNX has no such node: .*op_type:And"),
    (lambda: Around(lambda _, x, lengths: x).eval(), "no tensor that it computed"),
    (lambda: Around(lambda m, x, n: m.a(x)[0], a=nn.MultiheadAttention(8, 2, window=5)).eval(),
     "windows of attention, 5"),
    (lambda: Around(plain, a=nn.LearnedPositions(5, 8)).eval(),
     r"refuses the example at another size, x \(batch=3, time=10, 8\)"),
    (lambda: nn.LanguageModel(10, 8, 2, 2, 16, positions=nn.RotaryPositions(
        4, rope_type="dynamic", factor=2.0, max_position_embeddings=4)).eval(), "dynamic rotary positions"),
]


@pytest.mark.parametrize("make, says", REFUSED)
def test_what_cannot_be_written_is_refused_by_name(make: Any, says: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    model, options = make(), {"lengths": [4, 2]}
    if not isinstance(model, Around | nn.LSTM):
        options = {}
    with pytest.raises(ValueError, match=f"export.onnx: .*{says}"):
        export.onnx(model, tmp_path / "a.onnx", normal((2, 4, 8)), **options)
    assert not [*tmp_path.iterdir()]


def test_a_path_that_no_file_can_have_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnx")
    for path, kind, says in ((tmp_path, ValueError, "expected the name of a file, this is a folder"),
                             (tmp_path / "none" / "a.onnx", FileNotFoundError, "No such file or directory"),
                             (f"{tmp_path}/{'a' * 300}.onnx", OSError, "too long")):
        for largest in (2**31, 1):
            monkeypatch.setattr(export, "LARGEST", largest)
            with pytest.raises(kind, match=f"export.onnx: path {path}: .*{says}"):
                export.onnx(nn.Linear(3, 2).eval(), path, normal((2, 3)))
    assert not [*tmp_path.iterdir()]


def test_wrong_axes_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    model, path = nn.GRU(3, 4).eval(), tmp_path / "a.onnx"
    for axes, says in (
            ({"y": ("batch",)}, r"axes= of inputs, \['x'\]"), ({"x": ("batch",)}, r"a name or None for each"),
            ({"x": ("batch", "batch", None)}, "one length"), ({"x": ("batch", None, "features")}, "another size")):
        with pytest.raises(ValueError, match=says):
            export.onnx(model, path, normal((2, 5, 3)), axes=axes)
    with pytest.raises(ValueError, match="of 1 or more"):
        export.onnx(model, path, normal((2, 0, 3)))
    for wrong, says in (((nn.GRU, path), "model to be Module"), ((3, path), "model to be Module"),
                        ((model, 3), "path to be")):
        with pytest.raises(TypeError, match=f"export.onnx: expected {says}"):
            export.onnx(*wrong, normal((2, 5, 3)))
    with pytest.raises(TypeError, match="the example does not fit GRU"):
        export.onnx(model, path)
    with pytest.raises(ValueError, match="expected float32, integers or booleans, got x of float64"):
        export.onnx(model, path, np.ones((2, 5, 3)))
    language = nn.LanguageModel(10, 8, 2, 2, 16).eval()
    with pytest.raises(ValueError, match="state after a position or more"):
        export.onnx(language.step, path, [1], language.start(np.zeros((1, 0), int)))
