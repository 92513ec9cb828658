"""What a model is made of: rows as layers are called, totals that are their sums, and nothing that changes."""

import gc
import tracemalloc
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
from tinyseq import functional, nn
from tinyseq.glance import calls
from tinyseq.glance.table import WIDTH


def encoder_decoder() -> tuple[nn.Module, tuple[Any, ...]]:
    model = nn.EncoderDecoder(nn.Embedding(9, 4), nn.GRU(4, 3, bidirectional=True),
                              nn.AttentionDecoder(7, 4, 6, nn.DotAttention(6, 6), 6, 0.1))
    return model, (np.ones((2, 5), int), np.array([5, 3]), np.ones((2, 4), int))


MODELS: dict[str, Any] = {
    "linear": lambda: (nn.Linear(3, 4), (ts.ones((2, 3)),)),
    "sequential": lambda: (nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.LSTM(4, 2)), (ts.ones((2, 5, 3)),)),
    "encoder_decoder": encoder_decoder,
    "transformer": lambda: (nn.Transformer(8, 2, 2, 2, 16), (ts.ones((2, 5, 8)), ts.ones((2, 4, 8)))),
}


@pytest.mark.parametrize("name", MODELS)
def test_totals_are_sums_and_those_of_the_model(name: str) -> None:
    model, inputs = MODELS[name]()
    parameters = model.parameters()
    parameters[0].requires_grad = False
    found = ts.summary(model, *inputs)
    assert found.parameters == sum(row.parameters for row in found.rows) == sum(p.size for p in parameters)
    assert found.trainable == sum(row.trainable for row in found.rows) == sum(p.size for p in parameters[1:])
    assert found.multiply_adds == sum(row.multiply_adds for row in found.rows) > 0
    assert found.activation_bytes == sum(row.activations for row in found.rows)
    assert found.activation_bytes > 0 or name == "linear"       # which keeps its input, and that is the user's
    assert found.parameter_bytes == 4 * found.parameters
    assert (found.gradient_bytes, found.optimizer_bytes) == (4 * found.trainable, 8 * found.trainable)
    assert "are frozen" in str(found) and f"{found.multiply_adds:,}" in str(found)


@pytest.mark.parametrize("name", MODELS)
def test_rows_are_named_as_the_model_names_its_modules(name: str) -> None:
    model, inputs = MODELS[name]()
    found, modules = ts.summary(model, *inputs), {"": model, **dict(model.named_modules())}
    assert [row.kind for row in found.rows] == [type(modules[row.path]).__name__ for row in found.rows]
    assert found.rows[0].path == "" and found.rows[0].depth == 0 and found.rows[1:2] == [
        row for row in found.rows[1:2] if row.depth == 1]
    assert len({row.path for row in found.rows}) == len(found.rows)
    calling = {path for path, module in modules.items() if type(module).__name__ not in ("ModuleList", "DotAttention")}
    assert calling == {row.path for row in found.rows}
    lines = str(found).splitlines()
    assert all(len(line) <= WIDTH for line in lines) and lines[2].startswith("(model)")


class Odd(nn.Module):
    """Shares a layer, calls one twice, uses another's weight without a call, and keeps a state."""

    def __init__(self) -> None:
        self.table = nn.Embedding(6, 4)
        self.layer = nn.Linear(4, 4)
        self.again = self.layer
        self.parts = [nn.Linear(4, 4), {"deep": nn.Linear(4, 2)}]
        self.scale = nn.Parameter(ts.ones(4))
        self.mean = nn.Buffer(ts.zeros(4))

    def forward(self, x: Any) -> Any:
        self.mean = self.mean + 1
        self.seen = x
        x = functional.dropout(self.again(self.layer(x)) * self.scale, 0.5, self.training)
        return {"logits": x @ self.table.weight.mT, "parts": [self.parts[0](x), None]}, 3


def test_layers_as_they_are_called() -> None:
    model = Odd()
    found = ts.summary(model, ts.ones((2, 4)))
    assert [(row.path, row.depth, row.calls, row.parameters) for row in found.rows] == [
        ("", 0, 1, 4), ("layer", 1, 2, 20), ("parts.0", 1, 1, 20), ("table", 1, 0, 24), ("parts.1.deep", 1, 0, 10)]
    assert found.parameters == sum(p.size for p in model.parameters())
    assert [row.multiply_adds for row in found.rows] == [2 * 4 * 6, 2 * 2 * 4 * 4, 2 * 4 * 4, 0, 0]
    assert found.rows[0].output == [{"logits": (2, 6), "parts": [(2, 4), None]}, "int"]
    text = str(found)
    assert "logits (2, 6), parts (2, 4), Non…" in text and "  parts.1.deep  Linear" in text


def test_a_layer_that_two_others_share_has_its_parameters_counted_once() -> None:
    shared = nn.Linear(4, 4)
    model = nn.Sequential(nn.Sequential(shared, nn.Tanh()), nn.Sequential(shared))
    found = ts.summary(model, ts.ones((2, 4)))
    assert [(row.path, row.parameters, row.multiply_adds) for row in found.rows if row.kind == "Linear"] == [
        ("0.0", 20, 32), ("1.0", 0, 32)]
    assert found.parameters == 20


def test_nothing_changes() -> None:
    model = nn.Sequential(Odd())
    model[0].layer.weight.grad = ts.ones((4, 4))
    ts.manual_seed(3)
    before, state = ts.random.get_state(), {k: v.numpy() for k, v in model.state_dict().items()}
    kept, grads = dict(vars(model[0])), [p.grad for p in model.parameters()]
    for mode in (True, False):
        model.train(mode)
        ts.summary(model, ts.ones((2, 4)))
        with ts.no_grad():
            assert ts.summary(model, ts.ones((2, 4))).activation_bytes > 0
        with pytest.raises(ValueError, match="linear"):
            ts.summary(model, ts.ones((2, 3)))
        assert model.training is mode and model[0].layer.training is mode
        assert ts.random.get_state() == before
        assert all(p.grad is g for p, g in zip(model.parameters(), grads, strict=True))
        assert vars(model[0]) == kept | {"training": mode}
        assert all((v.numpy() == state[k]).all() for k, v in model.state_dict().items())
    assert nn.Module.__call__ is calls._plain_call      # nobody looks on


class Written(nn.Module):
    def __init__(self) -> None:
        self.count, self.own = nn.Buffer(ts.zeros(2)), ts.random.Generator(5)

    def forward(self, x: Any) -> Any:
        self.count.data = self.count.numpy() + 1
        self.later = functional.dropout(x, 0.5, generator=self.own)
        return self.later


def test_buffers_written_in_place_and_own_generators_are_put_back() -> None:
    model = Written()
    before = model.own.get_state()
    ts.summary(model, ts.ones(3))
    assert model.count.tolist() == [0.0, 0.0] and model.own.get_state() == before and not hasattr(model, "later")


@dataclass
class Output:
    hidden: Any
    states: Any


class Returning(nn.Module):
    def __init__(self, make: Any) -> None:
        self.make, self.w = make, nn.Parameter(ts.ones(1))

    def forward(self, x: Any) -> Any:
        return self.make(x * self.w)


def test_outputs_of_all_kinds() -> None:
    x = ts.ones((2, 3))
    for make, shapes, kept in [
        (lambda y: Output(y, (y, [y])), {"hidden": (2, 3), "states": [(2, 3), [(2, 3)]]}, 24),
        (lambda y: (y.sum(), None), [(), None], 24), (lambda y: {"y": y}, {"y": (2, 3)}, 24), (lambda y: 5, "int", 0),
    ]:
        found = ts.summary(Returning(lambda y, make=make: make(ts.tanh(y))), x)
        assert found.rows[0].output == shapes and found.activation_bytes == kept


def test_a_table_of_a_depth_has_what_lies_deeper() -> None:
    model, inputs = MODELS["transformer"]()
    found = ts.summary(model, *inputs)
    for depth in (0, 1, 2, None):
        lines = found.table(depth).split("\n\n")[0].splitlines()[2:]
        assert len(lines) == sum(depth is None or row.depth <= depth for row in found.rows)
    assert f"{found.parameters:,}" in found.table(0).splitlines()[2]
    with pytest.raises(ValueError, match=r"Summary.table: .*depth"):
        found.table(-1)


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(TypeError, match="summary: expected model to be Module"):
        ts.summary(lambda x: x, ts.ones(2))  # type: ignore[arg-type]


LAYERS: dict[str, tuple[Any, Any]] = {
    "linear": (nn.Linear(64, 64), (256, 64)),
    "stack": (nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 8), nn.ReLU()), (256, 64)),
    "norm": (nn.Sequential(nn.Linear(64, 64), nn.LayerNorm(64), nn.Dropout(0.1)), (256, 64)),
    "gru": (nn.GRU(64, 64), (32, 16, 64)),
    "lstm": (nn.LSTM(64, 64, num_layers=2, bidirectional=True), (32, 16, 64)),
    "attention": (nn.TransformerEncoderLayer(64, 4, 128), (16, 32, 64)),
    "mingru": (nn.MinGRU(64, 64), (32, 16, 64)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_activations_are_what_the_memory_says(name: str) -> None:
    """Of the graph alone, after the output has gone: to 2 % or 20 kB, which the nodes and closures take."""
    if ts.zeros(1).backend != "numpy":
        pytest.skip("tracemalloc sees the host's memory")
    model, shape = LAYERS[name]
    x = ts.ones(shape)
    expected = ts.summary(model, x).activation_bytes

    def graph() -> Any:
        out = model(x)
        return (out[0] if isinstance(out, tuple) else out).node

    graph()
    gc.collect()
    tracemalloc.start()
    try:
        node = graph()
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert node is not None and held == pytest.approx(expected, rel=0.02, abs=20_000)
    assert expected > 70_000 or name == "linear"


@given(st.integers(1, 4), st.integers(1, 4))
def test_of_what_is_given_copies_count_alone(rows: int, size: int) -> None:
    x, layer = np.ones((rows, size), np.float32), nn.Linear(size, 3)
    assert ts.summary(layer, ts.tensor(x)).activation_bytes == 0
    assert ts.summary(layer, x).activation_bytes == x.nbytes


@given(st.integers(1, 4), st.integers(1, 4))
def test_an_activation_counts_where_it_is_made_once(rows: int, size: int) -> None:
    model = nn.Sequential(nn.Linear(3, size), nn.Tanh(), nn.Linear(size, 2), nn.Linear(2, 1))
    found = ts.summary(model, ts.ones((rows, 3)))       # the input is not counted; tanh's output is, and linear's
    assert [row.activations for row in found.rows] == [0, 0, 4 * rows * size, 0, 4 * rows * 2]


def test_recomputed_parts_keep_little() -> None:
    class Recomputed(nn.Module):
        def __init__(self) -> None:
            self.inner = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 8))

        def forward(self, x: Any) -> Any:
            return ts.recompute(self.inner, x)

    model = Recomputed()
    assert ts.summary(model, ts.ones((5, 8))).activation_bytes == 0
    assert ts.summary(model.inner, ts.ones((5, 8))).activation_bytes == 5 * 64 * 4
    assert ts.summary(model, ts.ones((5, 8))).multiply_adds == 2 * 5 * 8 * 64
