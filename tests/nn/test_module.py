"""Modules: what they hold, save, copy and say."""

import copy
import inspect
import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.layers import close, same
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
from tinyseq import decode, nn, optim
from tinyseq.nn import init


class Nested(nn.Module):
    """Parameters in lists, tuples and dicts, under private names too; a tied weight, a buffer."""

    def __init__(self) -> None:
        self.layers = [nn.Linear(2, 2), {"in": (nn.Linear(2, 2, bias=False), nn.Dropout())}]
        self.scale = nn.Parameter(ts.tensor(2.0))
        self.tied = self.layers[0].weight
        self.count = nn.Buffer([3])
        self._gain = nn.Parameter(ts.ones(3))
        self._seen = [ts.ones(3), ts.ones(3, requires_grad=True)]
        self.name = "nested"

    def forward(self, x: Any) -> Any:
        return self.layers[1]["in"][1](self.layers[0](x)) * self.scale


def test_parameters_are_found_wherever_they_hang() -> None:
    model = Nested()
    names = ["layers.0.weight", "layers.0.bias", "layers.1.in.0.weight", "scale", "_gain"]
    assert [name for name, _ in model.named_parameters()] == names
    assert [id(p) for p in model.parameters()] == [id(p) for _, p in model.named_parameters()]
    assert list(model.state_dict()) == [*names[:-1], "tied", "count", "_gain"]
    assert [name for name, _ in model.children()] == ["layers.0", "layers.1.in.0", "layers.1.in.1"]
    assert len(list(model.modules())) == 4


def test_modes_reach_everything() -> None:
    model = Nested()
    assert all(m.training for m in model.train().modules()) and not any(m.training for m in model.eval().modules())
    x = ts.ones((50, 2))
    same(model(x), model(x))
    model.train()
    assert (model(x).detach().numpy() != model(x).detach().numpy()).any()
    model.requires_grad_(False)
    assert not any(p.requires_grad for p in model.parameters()) and not model(x).requires_grad
    assert len(model.parameters()) == 5
    model.requires_grad_()
    ts.sum(model(x)).backward()
    assert model.scale.grad is not None
    model.zero_grad()
    assert model.scale.grad is None


def test_to_converts_numbers_and_voids_older_graphs() -> None:
    model = Nested()
    y = ts.sum(model.eval()(ts.ones((1, 2))))
    assert model.to(ts.float64) is model
    assert [t.dtype for t in model.state_dict().values()] == ["float64"] * 5 + ["int64", "float64"]
    assert model.tied is model.layers[0].weight and all(p.requires_grad for p in model.parameters())
    assert model(ts.ones((1, 2), "float64")).dtype == "float64"
    with pytest.raises(RuntimeError, match="written"):
        y.backward()
    assert model.to(model.scale.backend).scale.backend == model.scale.backend
    assert [t.dtype for t in model.to("float32").state_dict().values()] == ["float32"] * 5 + ["int64", "float32"]


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])
def test_modules_copy_and_pickle(duplicate: Any) -> None:
    model = Nested().eval()
    model.scale.requires_grad = False
    twin, x = duplicate(model), ts.ones((1, 2))
    same(twin(x), model(x))
    assert not twin.training and twin.tied is twin.layers[0].weight and not twin.scale.requires_grad
    before = model(x)
    init.zeros_(twin.scale)
    same(model(x), before)
    stack = nn.Sequential(nn.Linear(2, 2), nn.GELU(approximate="tanh"))
    for layer in (nn.LSTM(2, 3, 2), stack, nn.AdditiveAttention(4, 3, 5)):
        assert repr(duplicate(layer)) == repr(layer)


def test_state_dicts_are_copied_in_and_errors_load_nothing() -> None:
    ts.manual_seed(0)
    model, other = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    state = model.state_dict()
    before = {k: v.numpy().copy() for k, v in state.items()}
    model.load_state_dict({k: v.numpy().astype("float64") * 2 for k, v in state.items()})
    assert all(v.dtype == "float32" and (v.numpy() == 2 * before[k]).all() for k, v in model.state_dict().items())
    with pytest.raises(KeyError, match=r"Sequential: missing \['2.weight', '2.bias'\], unexpected nothing"):
        model.load_state_dict(other.state_dict())
    with pytest.raises(KeyError, match=r"missing nothing, unexpected \['2.weight', '2.bias'\]"):
        other.load_state_dict(model.state_dict())
    wrong = {k: np.zeros((4, *v.shape)) if k.endswith("bias") else np.zeros(v.shape) for k, v in state.items()}
    with pytest.raises(ValueError, match=r"0.bias: \(4, 3\) given, \(3,\) here; 2.bias: \(4, 1\) given"):
        model.load_state_dict(wrong)
    assert all((v.numpy() == 2 * before[k]).all() for k, v in model.state_dict().items())
    model.load_state_dict(other.state_dict(), strict=False)
    same(model.state_dict()["0.bias"], other.state_dict()["0.bias"])
    same(model.state_dict()["2.bias"], ts.asarray(2 * before["2.bias"]))
    y = ts.sum(model(ts.ones((1, 2))))
    model.load_state_dict(model.state_dict())
    with pytest.raises(RuntimeError, match="written"):
        y.backward()


def test_files_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, twin, path = Nested(), Nested(), tmp_path / "model.safetensors"
    model.save(path)
    twin.load(path)
    for k, v in model.state_dict().items():
        assert twin.state_dict()[k].dtype == v.dtype
        same(twin.state_dict()[k], v)
    before = path.read_bytes()
    init.zeros_(model.scale)
    for broken in ("os.fsync", "os.replace"):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="disk"):
            patch.setattr(broken, lambda *args: (_ for _ in ()).throw(OSError("the disk is full")))
            model.save(path)
        assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
    model.save(path)
    assert path.read_bytes() != before and list(tmp_path.iterdir()) == [path]


def test_what_modules_say() -> None:
    assert repr(Nested()) == (
        "Nested(\n  (layers.0): Linear(2, 2, bias=True)\n  (layers.1.in.0): Linear(2, 2, bias=False)\n"
        "  (layers.1.in.1): Dropout(p=0.5)\n)")
    model = nn.Sequential(nn.Embedding(9, 2, padding_idx=-9), nn.Sequential(nn.LayerNorm(2), nn.LeakyReLU(
        negative_slope=0.1)), nn.LSTM(2, 3, 2, dropout=0.1, bidirectional=True))
    assert repr(model) == (
        "Sequential(\n  (0): Embedding(9, 2, padding_idx=0)\n  (1): Sequential(\n    (0): LayerNorm((2,), eps=1e-05)\n"
        "    (1): LeakyReLU(negative_slope=0.1)\n  )\n"
        "  (2): LSTM(2, 3, num_layers=2, dropout=0.1, bidirectional=True)\n)")
    with pytest.raises(NotImplementedError, match="Module has no forward"):
        nn.Module()(1)


DIFFERENT = """
RNN(6, 5, nonlinearity='relu') | LSTM(2, 3, bias=False) | GRU(2, 3, num_layers=2, recurrent_dropout=0.1) | LSTM(2, 3)
GRU(2, 3, bidirectional=True, reset='before') | RNNCell(2, 3, bias=False, nonlinearity='relu') | GRUCell(2, 3)
CTCLoss(blank=3) | CTCLoss() | CTCLoss(reduction='sum', zero_infinity=True) | CRF(4) | SinusoidalPositions(4)
LearnedPositions(9, 4) | LayerNorm((2, 3), eps=1e-05, bias=False) | LayerNorm((2,), eps=0.1) | RMSNorm((2,))
LayerNorm((2,), eps=1e-05, elementwise_affine=False, bias=False) | RMSNorm((2,), eps=0.1, elementwise_affine=False)
Dropout(p=0.5) | Linear(2, 3, bias=True) | Embedding(3, 2, padding_idx=0) | DotAttention(4, 4, scale=True)
FixedContext(4, pool='max') | MultiheadAttention(8, 2, dropout=0.1, bias=False | AdditiveAttention(4, 6, 8
MultiheadAttention(8, 4, kdim=3, num_kv_heads=2 | TransformerEncoderLayer(8, activation='gelu', norm_first=True
""".strip().replace("\n", " | ").split(" | ")


@pytest.mark.parametrize("said", DIFFERENT)
def test_modules_say_what_differs_from_the_default(said: str) -> None:
    call = said.replace("Layer(8", "Layer(8, 2").rstrip(")") + ")" * (said.count("(") > 0)
    call = call + ")" * (call.count("(") - call.count(")"))
    assert repr(eval(f"nn.{call}")).startswith(said)


def test_parameters_are_copies_and_take_numbers() -> None:
    x, frozen = np.ones(3, "float32"), np.ones(3, "float32")
    frozen.flags.writeable = False
    for data in (x, frozen, ts.asarray(x)):
        p = nn.Parameter(data)
        assert p.requires_grad and p.dtype == "float32"
        p.grad = ts.ones(3)
        optim.SGD([p], 1.0).step()
        assert p.tolist() == [0, 0, 0] and x.tolist() == [1, 1, 1] and frozen.tolist() == [1, 1, 1]
    assert nn.Parameter([1.0, 2.0]).shape == (2,) and not nn.Parameter(x, requires_grad=False).requires_grad


def test_only_parameters_are_trained_and_what_was_computed_is_not_kept() -> None:
    model = Nested()
    names, state = [name for name, _ in model.named_parameters()], list(model.state_dict())
    model.seen = model(ts.ones((1, 2)))  # type: ignore[attr-defined]
    assert [name for name, _ in model.named_parameters()] == names and list(model.state_dict()) == state
    assert all(isinstance(p, nn.Parameter) for p in model.parameters())
    model.layers.append({"w": ts.ones(2, requires_grad=True)})
    for ask in (model.parameters, model.state_dict):
        with pytest.raises(TypeError, match=r"Nested: layers.2.w is a plain Tensor that requires .* nn.Parameter"):
            ask()


class Averaging(nn.Module):
    """A running mean, and the last input kept to be looked at."""

    def __init__(self) -> None:
        self.mean, self.out = nn.Buffer(ts.zeros(2)), nn.Linear(2, 2)

    def forward(self, x: Any) -> Any:
        self.last, self.all = x * 1.0, {"x": [x * 1.0]}
        self.mean = 0.5 * self.mean + 0.5 * ts.mean(self.out(x), 0)
        return self.out(x - self.mean)


@pytest.mark.parametrize("recorded", [True, False])
def test_what_a_forward_computes_never_becomes_a_buffer(recorded: bool) -> None:
    model = Averaging()
    before = {k: v.numpy().copy() for k, v in model.state_dict().items()}
    assert list(before) == ["mean", "out.weight", "out.bias"]
    with ts.enable_grad() if recorded else ts.no_grad():
        model(ts.ones((3, 2)))
    after = model.state_dict()
    assert list(after) == list(before) and (after["mean"].numpy() != before["mean"]).all()
    assert type(model.mean) is nn.Buffer and not model.mean.requires_grad and len(model.parameters()) == 2
    twin = pickle.loads(pickle.dumps(copy.deepcopy(model))).to(ts.float64)
    assert twin.mean.dtype == "float64" and type(twin.mean) is nn.Buffer and twin.last.dtype == "float32"
    twin.load_state_dict(before)
    assert twin.mean.tolist() == [0, 0]


def test_a_module_may_know_its_parent() -> None:
    parent = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2)))
    names = list(parent.state_dict())
    parent[1].parent = [parent]  # type: ignore[attr-defined]
    assert list(parent.state_dict()) == names and len(parent.parameters()) == 4
    assert len(list(parent.eval().modules())) == 4 and not parent[0].training
    assert "(parent.0): (see above)" in repr(parent)
    assert list(copy.deepcopy(parent).state_dict()) == names


@pytest.mark.reference
def test_torchs_safetensors_load_here_and_ours_there(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file, save_file

    theirs, ours = torch.nn.GRU(3, 4, 2, bidirectional=True), nn.GRU(3, 4, 2, bidirectional=True)
    save_file(theirs.state_dict(), tmp_path / "theirs.safetensors")
    ours.load(tmp_path / "theirs.safetensors")
    for k, v in theirs.state_dict().items():
        close(ours.state_dict()[k], v)
    ours.save(tmp_path / "ours.safetensors")
    theirs.load_state_dict(load_file(tmp_path / "ours.safetensors"))


# --- what is not trained is told --------------------------------------------------------------------------------------


def holding(value: Any, name: str = "kept") -> nn.Module:
    module = nn.Module()
    setattr(module, name, value)
    return module


@pytest.mark.parametrize("name", ["kept", "_kept", "__kept"])
@pytest.mark.parametrize("wrap", [
    lambda x: x, lambda x: [x], lambda x: (x,), lambda x: {"a": x}, lambda x: [{"a": ({1: [x]},)}]])
@pytest.mark.parametrize("make", [lambda: nn.Linear(2, 3), lambda: nn.Parameter([1.0]), lambda: nn.Buffer([1.0])])
def test_what_hangs_anywhere_under_any_name_is_found(make: Any, wrap: Any, name: str) -> None:
    value = make()
    module = holding(wrap(value), name)
    wanted = value.state_dict().values() if isinstance(value, nn.Module) else [value]
    assert [t.shape for t in module.state_dict().values()] == [t.shape for t in wanted]
    assert all(key.startswith(f"{name}") for key in module.state_dict())
    assert not isinstance(value, nn.Module) or value in list(module.modules())


class Plain:
    """A layer of somebody who forgot nn.Module."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __call__(self, x: Any) -> Any:
        return self.inner(x)


@pytest.mark.parametrize("wrap", [
    lambda x: {x}, lambda x: frozenset([x]), lambda x: [{"a": {x}}], lambda x: holding({x}), lambda x: Plain(x)])
@pytest.mark.parametrize("make", [lambda: nn.Linear(2, 3), lambda: nn.Parameter([1.0]), lambda: nn.Buffer([1.0])])
def test_modules_in_a_set_or_in_a_layer_that_is_no_module_are_refused(make: Any, wrap: Any) -> None:
    module = holding(wrap(make()))
    for ask in (module.parameters, module.state_dict, lambda: module.to(ts.float64)):
        with pytest.raises(TypeError, match=r"^Module: kept[.\w]*, a \w+, holds .*(a dict|extend nn.Module)$"):
            ask()
    for value in ({"a", 3}, Plain(3), nn.Linear, np.sum, holding.__call__):
        assert not holding(value).parameters()


def test_a_parameter_stays_one_and_a_buffer() -> None:
    """A Tensor or array in its place would be trained and saved no more."""
    layer, model = nn.Linear(2, 2), Averaging()
    state = list(layer.state_dict()), list(model.state_dict())
    for value in (layer.weight * 0.9, ts.ones((2, 2)), layer.weight.detach(), np.ones((2, 2)), 1.0):
        for under in (ts.no_grad(), ts.enable_grad()):
            with under, pytest.raises(TypeError, match=r"Linear: expected weight to stay a Parameter, got .*data ="):
                layer.weight = value  # type: ignore[assignment]
    for value in (np.ones(2), 1.0, [1.0, 2.0]):
        with pytest.raises(TypeError, match=r"Averaging: expected mean to stay a Buffer, got .*mean.data ="):
            model.mean = value  # type: ignore[assignment]
    assert (list(layer.state_dict()), list(model.state_dict())) == state
    layer.weight, layer.bias = nn.Parameter(ts.ones((2, 2))), None
    layer.weight = nn.Buffer(ts.ones((2, 2)))  # type: ignore[assignment]
    assert list(layer.state_dict()) == ["weight"] and not layer.parameters()


S, IDS, MASK = ts.ones((2, 3, 4)), np.array([[1, 0, 3], [2, 2, 1]]), np.ones((2, 3), bool)
DECODER = dict(vocab_size=5, embedding_dim=2, hidden_size=4, memory_size=4)
FORWARDS: dict[str, tuple[Any, Any]] = {  # of each layer, how it is made and called
    "Linear": (lambda: nn.Linear(4, 2), lambda m: m(S)), "Embedding": (lambda: nn.Embedding(4, 3, 0), lambda m: m(IDS)),
    "Sequential": (lambda: nn.Sequential(nn.Linear(4, 2), nn.ReLU()), lambda m: m(S)),
    **{name: (lambda name=name: getattr(nn, name)(4), lambda m: m(S)) for name in (
        "LayerNorm", "RMSNorm", "SinusoidalPositions")},
    **{name: (getattr(nn, name), lambda m: m(S)) for name in (
        "Dropout", "ReLU", "LeakyReLU", "ELU", "GELU", "SiLU", "Tanh", "Sigmoid", "Softplus")},
    **{name: (lambda name=name: getattr(nn, name)(4, 3, 2, dropout=0.5, bidirectional=True, recurrent_dropout=0.5),
              lambda m: m(S, lengths=[3, 1])) for name in ("RNN", "GRU", "LSTM")},
    **{name: (lambda name=name: getattr(nn, name)(4, 3, 2, dropout=0.5, bidirectional=True),
              lambda m: m(S, lengths=[3, 1])) for name in ("MinGRU", "MinLSTM", "LRU")},
    "Conv1d": (lambda: nn.Conv1d(4, 3, 2, causal=True), lambda m: (m(S, lengths=[3, 1]), m.step(S))),
    **{name: (lambda name=name: getattr(nn, name)(2), lambda m: m(S, lengths=[3, 1])) for name in (
        "MaxPool1d", "AvgPool1d")},
    "BatchNorm1d": (lambda: nn.BatchNorm1d(4), lambda m: m(S, lengths=[3, 1])),
    "GroupNorm": (lambda: nn.GroupNorm(2, 4), lambda m: m(S, lengths=[3, 1])),
    "EmbeddingBag": (lambda: nn.EmbeddingBag(4, 3, padding_idx=0), lambda m: m(IDS)),
    **{name: (getattr(nn, name), lambda m: m(S)) for name in (
        "PReLU", "Softmax", "LogSoftmax", "GLU", "LogSigmoid", "Identity")},
    **{name: (lambda name=name: getattr(nn, name)(ts.ones(4)), lambda m: m(S, IDS)) for name in (
        "CrossEntropyLoss", "NLLLoss")},
    **{name: (getattr(nn, name), lambda m: m(S, S)) for name in (
        "MSELoss", "L1Loss", "HuberLoss", "SmoothL1Loss", "BCELoss", "BCEWithLogitsLoss", "KLDivLoss")},
    "Scan": (lambda: nn.Scan(nn.LSTMCell, 4, 3), lambda m: m(S, lengths=[3, 0])),
    **{name: (lambda name=name: getattr(nn, name)(4, 3), lambda m: m(S[0])) for name in (
        "RNNCell", "GRUCell", "LSTMCell")},
    "MultiheadAttention": (lambda: nn.MultiheadAttention(4, 2, 0.5), lambda m: m(S, mask=MASK, need_weights=True)),
    "AdditiveAttention": (lambda: nn.AdditiveAttention(4, 4, 3), lambda m: m(S, S, MASK)),
    "DotAttention": (lambda: nn.DotAttention(4, 4, True), lambda m: m(S, S, MASK)),
    "FixedContext": (lambda: nn.FixedContext(4, "mean", 3), lambda m: m(S, S, MASK)),
    "MultiheadContext": (lambda: nn.MultiheadContext(4, 4, 2), lambda m: m(S, S, MASK)),
    "TransformerEncoderLayer": (lambda: nn.TransformerEncoderLayer(4, 2, 8), lambda m: m(S, lengths=[3, 1])),
    "TransformerDecoderLayer": (lambda: nn.TransformerDecoderLayer(4, 2, 8), lambda m: m(S, S, memory_mask=MASK)),
    "TransformerEncoder": (lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8), 2, nn.LayerNorm(4)),
                           lambda m: (m(S), m.step(S[:, 0], m.start(S)))),
    "TransformerDecoder": (lambda: nn.TransformerDecoder(nn.TransformerDecoderLayer(4, 2, 8), 2),
                           lambda m: (m(S, S), m.step(S[:, 0], m.start(S)))),
    "Transformer": (lambda: nn.Transformer(4, 2, 1, 1, 8), lambda m: (m(S, S), m.step(S[:, 0], m.start(S)))),
    "LearnedPositions": (lambda: nn.LearnedPositions(3, 4), lambda m: m(S)),
    "LanguageModel": (lambda: nn.LanguageModel(4, 4, 2, 2, 8), lambda m: (m(IDS), m.step(IDS[:, 0], m.start(IDS)))),
    "ConditionalLanguageModel": (lambda: nn.ConditionalLanguageModel(4, 4, 2, 2, 8),
                                 lambda m: (m(IDS, m.start(S)), m.step(IDS[:, 0], m.start(S)))),
    "AttentionDecoder": (lambda: nn.AttentionDecoder(attention=nn.AdditiveAttention(4, 4, 3), feed="context",
                                                     **DECODER),
                         lambda m: (m(IDS, m.start(S)), m.step(IDS[:, 0], m.start(S)))),
    "EncoderDecoder": (lambda: nn.EncoderDecoder(nn.Embedding(4, 3), nn.GRU(3, 4), nn.AttentionDecoder(
        attention=nn.DotAttention(4, 4), **DECODER)), lambda m: m(IDS, [3, 1], IDS)),
    "CRF": (lambda: nn.CRF(4), lambda m: (m(S, IDS), m.decode(S))),
    "CTCLoss": (nn.CTCLoss, lambda m: m(ts.functional.log_softmax(S), [[1], [2]], [3, 2], [1, 1])),
}


@pytest.mark.parametrize("name", [name for name in nn.__all__ if isinstance(getattr(nn, name), type)
                                  and issubclass(getattr(nn, name), nn.Module)
                                  and getattr(nn, name) not in (nn.Module, nn.Activation, nn.Attention)])
def test_no_layers_forward_changes_its_state_dict(name: str) -> None:
    """With and without gradient, in training and after it."""
    make, call = FORWARDS[name]
    layer = make()
    before = {key: (id(t), t.dtype, t.shape) for key, t in layer.named_tensors()}
    for mode in (True, False):
        for under in (ts.no_grad(), ts.enable_grad()):
            with under:
                call(layer.train(mode))
            assert {key: (id(t), t.dtype, t.shape) for key, t in layer.named_tensors()} == before
            assert list(layer.state_dict()) == list(before)


@given(st.lists(st.tuples(st.sampled_from(["x", "_x", "mean", "kept"]), st.integers(0, 5)), max_size=6),
       st.booleans(), st.booleans())
def test_no_way_to_keep_what_was_computed_changes_a_state_dict(ways: Any, recorded: bool, nested: bool) -> None:
    """Under a new name, a private one, a buffer's, one of a list; as it is, in containers, by setattr and by vars."""
    class Keeps(nn.Module):
        def __init__(self) -> None:
            self.inner, self.mean, self.kept = nn.Linear(2, 2), nn.Buffer(ts.zeros(2)), [nn.Linear(2, 2), {}]

        def forward(self, x: Any) -> Any:
            for name, way in ways:
                y = ts.mean(self.inner(x), 0)
                if name == "kept":
                    self.kept[1][way] = (y, [y])  # type: ignore[index]
                elif name == "mean":
                    self.mean = y
                else:
                    value = [y, [y], (y, {"y": y}), {1: y}, y.detach(), [y.detach()]][way]
                    setattr(self, name, value) if way % 2 else vars(self).update({name: value})

    model = Keeps()
    whole = nn.Sequential(model, nn.Linear(2, 2)) if nested else model
    names = list(whole.state_dict()), [name for name, _ in whole.named_parameters()]
    for _ in range(2):
        with ts.enable_grad() if recorded else ts.no_grad():
            model(ts.ones((3, 2)))
        assert (list(whole.state_dict()), [name for name, _ in whole.named_parameters()]) == names


# --- errors say where ------------------------------------------------------------------------------------------------


class Fails(nn.Module):
    """Raises what it is given, so or so deep in calls of its own."""

    def forward(self, error: Exception, depth: int = 0) -> Any:
        if depth:
            return self.forward(error, depth - 1)
        raise error


class Holds(nn.Module):
    """A module somewhere in it, which its `forward` calls, or its `step`, or one that is handed on."""

    def __init__(self, inner: Any, place: str) -> None:
        self.by = {"attribute": inner, "list": [None, inner], "nested": {"a": [(inner,)]}, "private": None}[place]
        if place == "private":
            self._by = inner
        self.inner = lambda: inner

    def forward(self, *args: Any) -> Any:
        return self.inner()(*args)

    def step(self, *args: Any) -> Any:
        return self.inner().step(*args) if hasattr(self.inner(), "step") else self.inner()(*args)


PLACES = {"attribute": "by", "list": "by.1", "nested": "by.a.0.0", "private": "_by"}


@given(st.lists(st.sampled_from(list(PLACES)), max_size=4), st.integers(0, 2), st.booleans(),
       st.sampled_from([TypeError, ValueError, IndexError, RuntimeError, ZeroDivisionError]))
def test_an_error_in_a_module_begins_with_its_path(places: list[str], depth: int, step: bool, kind: type) -> None:
    model, error = Fails(), kind("what is wrong")
    for place in reversed(places):
        model = Holds(model, place)  # type: ignore[assignment]
    with pytest.raises(kind) as caught:
        (model.step if step and places else model)(error, depth)  # type: ignore[operator]
    path = ".".join(PLACES[place] for place in places)
    assert caught.value is error and str(error) == (f"{path}: what is wrong" if places else "what is wrong")


def test_errors_that_are_no_text_have_a_note_and_what_is_caught_costs_nothing() -> None:
    model = Holds(Fails(), "list")
    for error in (KeyError("name"), OSError(2, "no file"), UnicodeDecodeError("utf-8", b"", 0, 1, ""), ValueError(3)):
        before = str(error)
        with pytest.raises(type(error)) as caught:
            model(error)
        assert str(caught.value) == before and caught.value.__notes__ == ["in by.1"]
    other = Holds(Fails(), "nested")

    class Tries(nn.Module):
        def __init__(self) -> None:
            self.first, self.second = model, other

        def forward(self, error: Exception) -> Any:
            try:
                return self.first(error)
            except ValueError:
                return self.second(TypeError("second"))

    with pytest.raises(TypeError, match=r"^second\.by\.a\.0\.0: second$"):
        Tries()(ValueError("first"))


def test_a_shape_that_does_not_fit_is_told_by_path() -> None:
    decoder = nn.AttentionDecoder(5, 2, 3, nn.AdditiveAttention(3, 4, 5), 4)
    state = decoder.start(ts.ones((1, 6, 4)))
    model = nn.EncoderDecoder(nn.Embedding(5, 2), nn.GRU(2, 4), nn.ConditionalLanguageModel(7, 4, 2, 2, 8))
    stack = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8), 2)
    decoder.attention.query.weight = nn.Parameter(ts.ones((5, 2)))
    model.decoder.layers[1].linear1.weight = nn.Parameter(ts.ones((8, 3)))
    stack.layers[1].self_attn.out_proj.weight = nn.Parameter(ts.ones((4, 5)))
    told = r": linear\(x=float32\[[\d, ]+\], weight=float32\[[\d, ]+\], bias=.*\): expected x"
    for call, path in (
        (lambda: decoder([[1]], state), r"attention\.query"), (lambda: decoder.step([1], state), r"attention\.query"),
        (lambda: decode.greedy(decoder, state, 1, 0, 3), r"attention\.query"),
        (lambda: model([[1, 2]], None, [[1]]), r"decoder\.layers\.1\.linear1"),
        (lambda: stack(ts.ones((1, 2, 4))), r"layers\.1\.self_attn\.out_proj"),
        (lambda: stack.start(ts.ones((1, 2, 4))), r"layers\.1\.self_attn\.out_proj"),
    ):
        with pytest.raises(ValueError, match=rf"^{path}{told}"):
            call()
    plain = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8), 2)
    with pytest.raises(ValueError, match=r"^layers\.0\.self_attn: MultiheadAttention: expected a boolean mask"):
        plain(ts.ones((1, 2, 4)), mask=np.ones((1, 3), bool))
    with pytest.raises(TypeError, match=r"^0\.encoder: TransformerEncoder: attn_mask= is PyTorch's"):
        nn.Sequential(Encodes(plain))(ts.ones((1, 2, 4)))


class Encodes(nn.Module):
    def __init__(self, encoder: nn.Module) -> None:
        self.encoder = encoder

    def forward(self, x: Any) -> Any:
        return self.encoder(x, attn_mask=None)


CLASSES = [name for name in nn.__all__ if isinstance(getattr(nn, name), type)
           and issubclass(getattr(nn, name), (nn.Module, ts.Tensor)) and name != "Activation"]  # which has no function


@pytest.mark.parametrize("name", sorted({*CLASSES} - {"Sequential"}))
def test_a_constructor_shows_all_that_it_takes(name: str) -> None:
    """In `help`, in an editor and in its errors: no class hands on what its own signature does not have."""
    taken = inspect.signature(getattr(nn, name)).parameters.values()
    assert not [p.name for p in taken if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]


class Calls(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        self.inner = inner

    def forward(self, x: Any, **options: Any) -> Any:
        return self.inner(x, **options)


def test_a_call_that_does_not_fit_says_what_to_write() -> None:
    """In the name of the class that was called, not of that which has the method; and where it hangs."""
    x = ts.ones((2, 5, 4))
    for call, said in (
        (lambda: nn.GRU(4, 3)(x, hx=None), "GRU.forward: no argument 'hx'; write h0=; it takes x, h0, lengths"),
        (lambda: nn.LSTM(4, 3)(x, hx=None), "LSTM.forward: no argument 'hx'; write state=; it takes x, state, lengths"),
        (lambda: nn.RNN(4, 3)(), "RNN.forward(x, h0=None, lengths=None): missing 1 required positional argument: 'x'"),
        (lambda: nn.Linear(4, 3)(x, x), "Linear.forward(x): too many arguments by place"),
        (lambda: Calls(nn.Linear(4, 3))(x, bias=1), "inner: Linear.forward: no argument 'bias'; it takes x"),
        (lambda: nn.LSTM(4, 3, num_layer=2), "LSTM: no argument 'num_layer'; write num_layers=; it takes "),
    ):
        with pytest.raises(TypeError, match="^" + re.escape(said)):
            call()


@pytest.mark.parametrize("name", CLASSES)
def test_wrong_arguments_of_a_constructor_name_the_public_class(name: str) -> None:
    """None, one too many, and one that is not known: of every class, those not yet written too."""
    kind = getattr(nn, name)
    taken = inspect.signature(kind).parameters.values()
    needed = [p for p in taken if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    several = any(p.kind is p.VAR_POSITIONAL for p in taken)
    calls: list[Any] = [lambda: kind(unknown=1), lambda: kind(*[1] * len(needed), unknown=1)]
    calls += [kind] * bool(needed) + [lambda: kind(1, 1, 1, *["relu"] * (name == "RNN"), *[1] * 30)] * (not several)
    for call in calls:
        with pytest.raises(TypeError) as caught:
            call()
        text = str(caught.value)
        assert re.match(rf"{name}\b", text) and not re.search(r"(?<![\w'])_", text), text
    if needed:
        listed = ", ".join(p.name for p in needed)
        with pytest.raises(TypeError, match=rf"^{name}\({listed}[,)].*missing .*{needed[0].name}"):
            kind()


def test_a_prefix_before_all_names_is_told_with_the_rule_that_removes_it() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    for prefix in ("module.", "a.b."):
        state = {prefix + k: v for k, v in model.state_dict().items()}
        with pytest.raises(KeyError) as error:
            model.load_state_dict(state)
        assert f'checkpoint.rename(state, {{"{prefix}": ""}}) has these names' in error.value.args[0]
        model.load_state_dict(ts.checkpoint.rename(state, {prefix: ""}))
        with pytest.raises(KeyError, match=r"loads what fits[\"']$"):
            model.load_state_dict(state | {"more": ts.ones(1)})


def test_a_dtype_of_another_library_is_told_with_ours() -> None:
    theirs = type("dtype", (), {"__repr__": lambda self: "torch.float64"})()
    for call in (nn.Linear(2, 3).to, lambda dtype: nn.Linear(2, 3, dtype=dtype), ts.ones(2).astype):
        with pytest.raises(TypeError, match=r"got torch\.float64 \(here ts\.float64\)"):
            call(theirs)
