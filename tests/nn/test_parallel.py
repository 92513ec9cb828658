"""MinGRU, MinLSTM and LRU against loops in NumPy, held to the laws of sequences, and step by step."""

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
import tinyseq.functional as F
from tinyseq import decode, nn, optim
from tinyseq import testing as laws

LAYERS = {"MinGRU": nn.MinGRU, "MinLSTM": nn.MinLSTM, "LRU": nn.LRU}
every_layer = pytest.mark.parametrize("name", LAYERS)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def by_hand(name: str, weights: Any, x: Any, h: Any, order: Any) -> tuple[Any, Any]:
    """One layer in one direction, step by step in float64 or complex128: y (B, T, H) and the last state (B, H)."""
    y = np.zeros((*x.shape[:2], h.shape[1]))
    if name == "LRU":
        (b, b_im), (c, c_im) = np.split(weights["weight_ih"], 2), np.split(weights["weight_ho"], 2, 1)
        kept = np.exp(-np.exp(weights["nu"]) + 1j * np.exp(weights["theta"]))
        for t in order:
            h = kept * h + np.exp(weights["gamma"]) * (x[:, t] @ (b + 1j * b_im).T)
            y[:, t] = (h @ (c - 1j * c_im).T).real + x[:, t] @ weights["weight_io"].T
        return y, h
    for t in order:
        *gates, new = np.split(x[:, t] @ weights["weight_ih"].T + weights["bias_ih"], 2 if name == "MinGRU" else 3, 1)
        if name == "MinGRU":
            z = sigmoid(gates[0])
            h = (1 - z) * h + z * new
        else:
            f, i = map(sigmoid, gates)
            h = f / (f + i) * h + i / (f + i) * new
        y[:, t] = h
    return y, h


def pair(name: str, state: Any, k: int) -> Any:
    """The state of the k-th layer and direction as one array."""
    return state[0].numpy()[k] + 1j * state[1].numpy()[k] if name == "LRU" else state.numpy()[k]


@every_layer
@ts.no_grad()
@given(st.integers(1, 3), st.sampled_from([0, 1, 4, 70]), st.booleans(), st.booleans(), st.integers(0, 99))
def test_equal_to_a_loop(name: str, rows: int, steps: int, both: bool, given_state: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    layer = LAYERS[name](2, 5, bidirectional=both, dtype=ts.float64)
    weights = {k: v.numpy() for k, v in layer.state_dict().items()}
    x, shape = rng.standard_normal((rows, steps, 2)), (1 + both, rows, 5)
    first: Any = [rng.standard_normal(shape) * given_state for _ in range(2 if name == "LRU" else 1)]
    first = tuple(map(ts.tensor, first)) if name == "LRU" else ts.tensor(first[0])
    y, last = layer(x, first)
    for k, suffix in enumerate(["_l0", "_l0_reverse"][: 1 + both]):
        mine = {key.removesuffix(suffix): w for key, w in weights.items() if key.endswith(suffix)}
        expected, state = by_hand(name, mine, x, pair(name, first, k), range(steps)[:: -1 if k else 1])
        assert np.allclose(y.numpy()[..., 5 * k : 5 * k + 5], expected, atol=1e-10)
        assert np.allclose(pair(name, last, k), state, atol=1e-10)


@every_layer
@pytest.mark.parametrize("more", [{}, {"num_layers": 2, "bidirectional": True, "dropout": 0.3}])
def test_holds_the_laws_of_sequences(name: str, more: Any) -> None:
    laws.check_sequence_layer(LAYERS[name](2, 3, **more).eval(), 2, causal=not more)


@every_layer
@ts.no_grad()
def test_a_step_is_forward_of_one_position(name: str) -> None:
    layer, x = LAYERS[name](3, 4, num_layers=2), ts.random.normal((2, 300, 3))
    y, last = layer(x)
    state, outputs = None, []
    for t in range(x.shape[1]):
        out, state = layer(x[:, t : t + 1], state)
        outputs.append(out)
    for a, b in ((ts.concat(outputs, 1), y), *zip(state, last, strict=True)):
        assert np.abs(a.numpy() - b.numpy()).max() < 1e-5 * np.abs(b.numpy()).max()


@every_layer
def test_gradients_of_the_second_order(name: str) -> None:
    layer = LAYERS[name](2, 3, dtype=ts.float64)
    laws.check_grad(lambda x: layer(x, lengths=[4, 2])[0], ts.random.normal((2, 4, 2)), order=2)
    x, state = ts.random.normal((2, 4, 2), dtype=ts.float64), layer.state_dict()

    def of_parameters(*values: ts.Tensor) -> ts.Tensor:
        for key, value in zip(state, values, strict=True):
            object.__setattr__(layer, key, value)
        return layer(x, lengths=[4, 2])[0]

    laws.check_grad(of_parameters, *state.values(), order=2)


@every_layer
def test_learns_to_remember(name: str) -> None:
    """The first number, 20 steps on, by gates that pass over the others; an LRU, which has none, sees it alone."""
    ts.manual_seed(0)
    layer = LAYERS[name](2, 16, **({"r_min": 0.9, "max_phase": 0.3} if name == "LRU" else {}))
    head, first = nn.Linear(16, 1), np.zeros((64, 20, 1), "f")
    first[:, 0] = 1
    if name != "LRU":
        begin = {"MinGRU": [-3, 0], "MinLSTM": [3, -3, 0]}[name]  # memories of some 20 steps
        layer.bias_ih_l0.data = np.repeat(np.array(begin, "f"), 16)
    optimizer = optim.Adam([*layer.parameters(), *head.parameters()], lr=0.02)
    for _ in range(150):
        numbers = ts.random.normal((64, 20, 1))
        x = ts.concat([numbers * first if name == "LRU" else numbers, ts.asarray(first)], -1)
        loss = ts.mean((head(layer(x)[0][:, -1]) - numbers[:, 0]) ** 2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1


@given(st.integers(0, 999))
def test_the_ring_on_which_an_lru_begins(seed: int) -> None:
    ts.manual_seed(seed)
    layer = nn.LRU(1, 400, r_min=0.5, r_max=0.9, max_phase=1.0)
    radius, phase = np.exp(-np.exp(layer.nu_l0.detach().numpy())), np.exp(layer.theta_l0.detach().numpy())
    assert radius.min() >= 0.499 and radius.max() <= 0.901 and phase.min() > 0 and phase.max() <= 1
    assert abs(np.mean(radius**2) - (0.25 + 0.81) / 2) < 0.06  # uniform by area
    assert np.allclose(np.exp(layer.gamma_l0.detach().numpy()), np.sqrt(1 - radius**2), atol=1e-4)


def test_wrong_rings_are_named() -> None:
    for options, words in (({"r_min": 1.0}, "0 <= r_min < 1"), ({"r_min": 0.5, "r_max": 0.4}, "0.5 < r_max <= 1"),
                           ({"max_phase": 0}, "0 < max_phase")):
        with pytest.raises(ValueError, match=f"LRU: expected a number {words}"):
            nn.LRU(1, 2, **options)


@every_layer
def test_ten_thousand_steps_of_float32_stay_those_of_float64(name: str) -> None:
    ts.manual_seed(1)
    layer, x = LAYERS[name](2, 8), ts.random.normal((1, 10_000, 2))
    with ts.no_grad():
        y = layer(x)[0].numpy()
        exact = layer.to(ts.float64)(x.astype(ts.float64))[0].numpy()
    assert np.abs(y - exact).max() < 2e-5 * np.abs(exact).max()


@every_layer
@pytest.mark.parametrize("both", [False, True])
def test_gradients_over_ten_thousand_steps_of_float32_are_those_of_float64(name: str, both: bool) -> None:
    """Of a phase too, where what each step adds in a turning frame is as much larger as it is late."""
    ts.manual_seed(2)
    layer, x = LAYERS[name](2, 8, bidirectional=both), ts.random.normal((1, 10_000, 2))
    weight, found = ts.random.normal((1, 10_000, 8 * (1 + both))), []
    for dtype in ts.float32, ts.float64:
        layer, leaf = layer.to(dtype), ts.tensor(x.numpy().astype(dtype), requires_grad=True)
        found.append(ts.grad(ts.sum(layer(leaf)[0] * weight.astype(dtype)), [leaf, *layer.parameters()]))
    for key, narrow, exact in zip(["x", *layer.state_dict()], *found, strict=True):
        assert np.abs(narrow.numpy() - exact.numpy()).max() < 1e-5 * np.abs(exact.numpy()).max(), key


def test_a_lambda_is_never_beyond_1() -> None:
    layer, x = nn.LRU(1, 4), ts.zeros((1, 1, 1))
    layer.nu_l0.data = np.array([-1e30, -18, -16, 1e30], "f")
    with np.errstate(over="ignore"):  # of exp(1e30)
        one, rounded, below, none = layer.multipliers(x).detach().numpy()[0, 0]
    assert one == rounded == 1 > below > 1 - 1e-6 and none == 0
    layer = layer.to(ts.float64)
    layer.nu_l0.data = np.array([-38.0, -36, -20, 0])
    one, *below = layer.multipliers(x).detach().numpy()[0, 0]
    assert one == 1 and max(below) < 1


@every_layer
def test_multipliers_of_what_is_no_input_are_refused(name: str) -> None:
    layer = LAYERS[name](3, 4)
    assert layer.multipliers(np.ones((2, 5, 3), "f")).shape == (2, 5, 4)
    for x in ts.ones((2, 5, 2)), ts.ones((5, 3)), [1, 2], "no":
        with pytest.raises((TypeError, ValueError), match=rf"^{name}: expected x \(B, T, 3\), got"):
            layer.multipliers(x)


@pytest.mark.reference
@pytest.mark.parametrize("name", ["MinGRU", "MinLSTM"])
def test_with_positive_candidates_equal_to_mingru_pytorch(name: str) -> None:
    """Whose log-space form maps a candidate by g, the paper's appendix B.3, and has its rows first."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("minGRU_pytorch", reason="minGRU-pytorch is not installed (pip install 'tinyseq[reference]')")
    from minGRU_pytorch.minGRU import minGRU
    from minGRU_pytorch.minLSTM import minLSTM

    theirs = {"MinGRU": minGRU, "MinLSTM": minLSTM}[name](4).double()
    layer = LAYERS[name](4, 4, bias=False, dtype=ts.float64)
    [weight] = theirs.parameters()
    candidate, gates = weight.detach().numpy()[:4], weight.detach().numpy()[4:]
    layer.load_state_dict({"weight_ih_l0": np.concatenate([gates, candidate])})
    x = 3 * np.random.default_rng(0).standard_normal((2, 50, 4))
    mine, torchs = ts.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    odds, new = layer._odds_and_new(layer._weights(0), mine)
    y = F.linear_scan(ts.sigmoid(odds), ts.sigmoid(-odds) * ts.where(new >= 0, new + 0.5, ts.sigmoid(new)))
    z = theirs(torchs)
    assert np.allclose(y.detach().numpy(), z.detach().numpy(), atol=1e-10)
    ts.sum(y**2).backward()
    (z**2).sum().backward()
    assert np.allclose(mine.grad.numpy(), torchs.grad.numpy(), atol=1e-9)
    assert np.allclose(layer.weight_ih_l0.grad.numpy()[-4:], weight.grad.numpy()[:4], atol=1e-8)


class Speaker(nn.Module):
    """A language model to decode with: its states stand batch first, as `tinyseq.decode` takes them."""

    def __init__(self, layer: nn.Module, letters: int = 7) -> None:
        self.embedding, self.rnn = nn.Embedding(letters, layer.input_size), layer
        self.out = nn.Linear(layer.hidden_size, letters)

    def forward(self, ids: Any, state: Any = None) -> Any:
        y, state = self.rnn(self.embedding(ids), state)
        return self.out(y), state

    def start(self, ids: Any) -> Any:
        return self.turned(self(ids)[1])

    def step(self, ids: Any, state: Any) -> Any:
        logits, state = self(np.asarray(ids)[:, None], self.turned(state))
        return logits[:, 0], self.turned(state)

    def turned(self, state: Any) -> Any:
        """(layers, B, H) to (B, layers, H) and back."""
        return ts.moveaxis(state, 0, 1) if isinstance(state, ts.Tensor) else tuple(map(self.turned, state))


@every_layer
def test_a_language_model_of_it_is_decoded(name: str) -> None:
    ts.manual_seed(0)
    model, prompt = Speaker(LAYERS[name](5, 6, num_layers=2)).eval(), np.array([[1, 2, 3], [4, 5, 6], [2, 2, 2]])
    with ts.no_grad():
        found = decode.greedy(model, model.start(prompt[:, :-1]), prompt[:, -1], -1, 8)
        for row, hypothesis in zip(prompt, found, strict=True):
            ids = list(row)
            for token in hypothesis.tokens:  # all read again for each
                assert token == model(np.array([ids]))[0].numpy()[0, -1].argmax()
                ids.append(token)
        beam = decode.beam(model, model.start(prompt[:, :-1]), prompt[:, -1], 0, max_length=6, width=3)
    assert len(beam) == len(found) == 3 and len(found[0].tokens) == 8


@every_layer
def test_it_is_saved_copied_moved_and_shown_as_other_layers(name: str, tmp_path: Any) -> None:
    layer = LAYERS[name](2, 3, num_layers=2, bidirectional=True, dropout=0.5)
    assert repr(layer) == f"{name}(2, 3, num_layers=2, dropout=0.5, bidirectional=True)"
    layer.save(tmp_path / "layer.safetensors")
    other = LAYERS[name](2, 3, num_layers=2, bidirectional=True)
    other.load(tmp_path / "layer.safetensors")
    x = ts.random.normal((2, 4, 2))
    assert np.array_equal(layer.eval()(x)[0].detach().numpy(), other.eval()(x)[0].detach().numpy())
    wide = copy.deepcopy(layer).to(ts.float64)
    y, state = wide(x.astype(ts.float64))
    assert y.dtype == "float64" and {s.dtype for s in (state if name == "LRU" else [state])} == {np.dtype("float64")}
    assert {str(p.dtype) for p in LAYERS[name](2, 3, dtype="float64").parameters()} == {"float64"}
    with pytest.raises(ValueError, match=rf"recurrent_: {name} holds no weight_hh"):  # none is recurrent
        nn.init.recurrent_(layer)


@pytest.mark.parametrize("name", ["MinGRU", "MinLSTM"])
def test_what_a_gate_that_is_nearly_shut_lets_in_keeps_its_digits(name: str) -> None:
    layer = LAYERS[name](1, 1, dtype=ts.float32)
    gates = [-20.0] if name == "MinGRU" else [8.0, -20.0]
    layer.load_state_dict({"weight_ih_l0": np.zeros((len(gates) + 1, 1)), "bias_ih_l0": np.array([*gates, 1.0])})
    with ts.no_grad():
        h = layer(ts.zeros((1, 1, 1)))[0].item()
    taken = sigmoid(-20.0) if name == "MinGRU" else sigmoid(-20.0) / (sigmoid(8.0) + sigmoid(-20.0))
    assert abs(h / taken - 1) < 1e-5
