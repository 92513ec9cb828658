"""The laws of sequence layers hold for ours, and a layer that breaks one is told which."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

import tinyseq as ts
import tinyseq.functional as F
from tinyseq import nn
from tinyseq.engine import ops
from tinyseq.testing import check_sequence_layer, laws

FLOAT = {"dtype": "float64"}
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "RNN": lambda: nn.RNN(2, 3, **FLOAT),
    "RNN, relu": lambda: nn.RNN(2, 3, nonlinearity="relu", **FLOAT),
    "GRU in float32": lambda: nn.GRU(2, 3),
    "GRU, both ways, reset before": lambda: nn.GRU(2, 3, bidirectional=True, reset="before", **FLOAT),
    "LSTM, stacked": lambda: nn.LSTM(2, 3, 2, **FLOAT),
    "LSTM, both ways": lambda: nn.LSTM(2, 3, bidirectional=True, **FLOAT),
    "Transformer": lambda: nn.TransformerEncoderLayer(2, 1, 4, **FLOAT).eval(),
    "Transformer, stacked": lambda: nn.TransformerEncoder(
        nn.TransformerEncoderLayer(2, 1, 4, norm_first=True, **FLOAT), 2, nn.LayerNorm(2, **FLOAT)).eval(),
    "scan of LSTM cells, both ways": lambda: nn.Scan(lambda i, h: nn.LSTMCell(i, h, **FLOAT), 2, 3, bidirectional=True),
}


@pytest.mark.parametrize("name", LAYERS)
def test_the_laws_hold(name: str) -> None:
    check_sequence_layer(LAYERS[name](), 2)


def test_a_layer_that_is_called_otherwise_and_keeps_no_state() -> None:
    linear = nn.Linear(2, 3, **FLOAT)
    mask = lambda x, lengths: nn.length_mask(lengths, x.shape[1])[:, :, None]
    real = lambda x, lengths, y: ts.where(mask(x, lengths), y, 0.0)
    check_sequence_layer(linear, 2, causal=True, call=lambda x, n: real(x, n, linear(real(x, n, x))))
    with pytest.raises(AssertionError, match=r"no gradient leaks .*\n.* gradient of weight at .* is nan"):
        check_sequence_layer(linear, 2, causal=True, call=lambda x, n: real(x, n, linear(x)))


# --- one fault each --------------------------------------------------------------------------------------------------


@ts.op
def spilling(x: Any) -> Any:
    return x + 0.0, (lambda g: g + 1.0,)


def following(x: ts.Tensor) -> ts.Tensor:
    """x_{t+1} at step t."""
    return ts.concat([x[:, 1:], 0.0 * x[:, :1]], 1)


def overwritten(x: ts.Tensor) -> ts.Tensor:
    x.data[:, 0] = 0.0
    return x


def no_zeros(lengths: Any) -> Any:
    if not np.all(lengths):
        raise IndexError("an empty row")
    return lengths


def rows(lengths: Any, like: ts.Tensor) -> ts.Tensor:
    """(1, B, 1): 1 where a row has a step."""
    return ops.like(like, np.sign(lengths))[None, :, None].astype(like.dtype)


class Faulty(nn.Module):
    """A GRU around which something goes wrong: `fault(gru, x, state, lengths)` -> y and the final state."""

    input_size = 2

    def __init__(self, fault: Callable[..., Any], both: bool) -> None:
        self.gru, self.fault = nn.GRU(2, 3, bidirectional=both, **FLOAT), fault

    def forward(self, x: ts.Tensor, state: Any = None, lengths: Any = None) -> Any:
        return self.fault(self.gru, x, state, lengths)


def at_end(y_and_state: Any, change: Callable[[ts.Tensor], ts.Tensor]) -> Any:
    return change(y_and_state[0]), y_and_state[1]


ONE, BOTH = False, True
FAULTS = {
    "batch mixing": (
        ONE, lambda f, x, s, n: f(x + x.mean(axis=0, keepdims=True), s, n),
        "a batch equals its rows one at a time", r"output at row 0, step 0"),
    "rows told apart": (
        ONE, lambda f, x, s, n: f(x + ops.like(x, np.arange(len(n)))[:, None, None].astype(x.dtype), s, n),
        "permuting the batch permutes the result", r"output at row 0, step 0"),
    "future leak": (
        ONE, lambda f, x, s, n: f(x + following(x), s, n),
        "a causal layer never sees the future", r"output at row 0, step 0 .* when x changes from step 1 on"),
    "padding leak backwards": (
        BOTH, lambda f, x, s, n: at_end(f(x, s), lambda y: ts.where(nn.length_mask(n, x.shape[1])[:, :, None], y, 0.0)),
        "what stands in the padding changes nothing", r"output at row 0, step 0 .* lengths = \[1\]"),
    "counts the padding": (
        BOTH, lambda f, x, s, n: at_end(f(x, s, n), lambda y: y / x.shape[1]),
        "more padding changes nothing", r"output at row 0, step 0 .* lengths = \[1\]"),
    "goes on past the end": (
        BOTH, lambda f, x, s, n: f(x, s),
        "outputs past the end are zero", r"output at row 0, step 0 .* lengths = \[0\]"),
    "wrong last state": (
        ONE, lambda f, x, s, n: (f(x, s, n)[0], f(x, s)[1]),
        "the final state is that of the last real step", r"state 0 of row 0, which has no step, .*lengths = \[0\]"),
    "state of the longest row": (
        ONE, lambda f, x, s, n: (f(x, s, n)[0], f(x, s, np.full(len(n), max(n)))[1]),
        "the final state is that of the last real step", r"state 0 of row [01], which has no step,.*\[\d, \d\]"),
    "state not taken": (
        ONE, lambda f, x, s, n: f(x, None, n),
        "a sequence fed in pieces gives what it gives whole", r"output at row 0, step 1 .* cut before step 1"),
    "state one step too old": (
        ONE, lambda f, x, s, n: (f(x, s, n)[0], f(x, s, np.maximum(n - 1, 0))[1]),
        "a sequence fed in pieces gives what it gives whole", r"output at row 0, step 1 .* cut before step 1"),
    "empty rows forget": (
        ONE, lambda f, x, s, n: (f(x, s, n)[0], f(x, s, n)[1] * rows(n, x)),
        "length 0 gives the initial state", r"state 0 of row 0"),
    "empty rows refused": (
        ONE, lambda f, x, s, n: f(x, s, no_zeros(n)),
        "every length from 0 to T is legal", r"IndexError: an empty row.*lengths = \[0\]"),
    "inputs written to": (
        ONE, lambda f, x, s, n: f(overwritten(x), s, n),
        "inputs are not written to", r"lengths = "),
    "lengths written to": (
        ONE, lambda f, x, s, n: (n.sort(), f(x, s, n))[1],
        "inputs are not written to", r"lengths = "),
    "gradient leak": (
        ONE, lambda f, x, s, n: f(spilling(x), s, n),
        "no gradient leaks into the padding, or out of it", r"gradient of x at row 0, step 0 is 1, expected 0"),
    "NaN in the gradient": (
        ONE, lambda f, x, s, n: f(x + ts.sqrt(0.0 * x), s, n),
        "outputs and gradients are finite", r"gradient of x at row 0, step 0 is nan"),
    "chance": (
        ONE, lambda f, x, s, n: f(ts.functional.dropout(x, 0.5), s, n),
        "the same call gives the same result", r"output at row 0, step 0"),
    "cannot be called": (
        ONE, lambda f, x, s, n: f(x[:, :, :1], s, n),
        "rows without padding are legal", r"it raised ValueError"),
    "cannot go on from its state": (
        ONE, lambda f, x, s, n: (f(x, s, n)[0], f(x, s, n)[1][:, :, :2]),
        "rows without padding are legal", r"it raised ValueError.*in the state after"),
    "arrays for Tensors": (
        ONE, lambda f, x, s, n: (f(x, s, n)[0].detach().numpy(), f(x, s, n)[1]),
        "it returns y, or y and the final state: Tensors, these in tuples", r"out came ndarray, Tensor"),
    "three results": (
        ONE, lambda f, x, s, n: (*f(x, s, n), x),
        "it returns y, or y and the final state: Tensors, these in tuples", r"out came Tensor, Tensor, Tensor"),
    "nothing": (
        ONE, lambda f, x, s, n: None,
        "it returns y, or y and the final state: Tensors, these in tuples", r"out came NoneType"),
    "trimmed outputs": (
        ONE, lambda f, x, s, n: at_end(f(x, s, n), lambda y: y[:, : max(n)]),
        "outputs are (batch, time, ...), and of x's dtype",
        r"x is float64 \(1, 1, 2\), the output float64 \(1, 0, 3\)"),
    "another dtype": (
        ONE, lambda f, x, s, n: at_end(f(x, s, n), lambda y: y.astype("float32")),
        "outputs are (batch, time, ...), and of x's dtype",
        r"output float32 \(1, 1, 3\), the state float64 \(1, 1, 3\)"),
}


@pytest.fixture
def few_examples() -> Iterator[None]:
    """Always the same ones: enough for every fault below."""
    before = settings.get_current_profile_name()
    settings.register_profile("few", settings.get_profile("ci"), max_examples=10)
    settings.load_profile("few")
    yield
    settings.load_profile(before)


@pytest.mark.usefixtures("few_examples")
@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_named_with_its_step(name: str) -> None:
    both, fault, law, where = FAULTS[name]
    ts.manual_seed(0)
    with pytest.raises(AssertionError) as caught, np.errstate(all="ignore"):
        check_sequence_layer(Faulty(fault, both).eval())
    report = str(caught.value)
    assert report.startswith(f"Faulty breaks a law: {law}\n")
    assert re.search(where, report, re.DOTALL), report
    assert not getattr(caught.value, "__notes__", []) and len(report.splitlines()) < 20


@pytest.mark.parametrize("layer", [nn.LSTM(2, 3, 2, dropout=0.5), nn.GRU(2, 3, recurrent_dropout=0.1),
                                   nn.TransformerEncoderLayer(2, 1, 4, 0.01)], ids=lambda layer: type(layer).__name__)
def test_chance_of_a_layer_in_training_is_one_line(layer: nn.Module) -> None:
    with pytest.raises(AssertionError) as caught:
        check_sequence_layer(layer, 2)
    assert str(caught.value) == (f"{type(layer).__name__} is in training mode, and what it computes is left to chance "
                                 "(dropout): call eval() first, or say seed=0 for the laws that hold with the same "
                                 "numbers drawn")
    drawn = ts.random.get_state()
    check_sequence_layer(layer, 2, seed=0)
    assert ts.random.get_state() == drawn
    assert caught.value.__cause__ is None and not getattr(caught.value, "__notes__", [])


class Careless(nn.Module):
    """Faults that show in training alone, inside, or now and then."""

    def __init__(self, fault: str) -> None:
        self.rnn, self.fault, self.input_size, self.calls = nn.GRU(2, 3), fault, 2, 0

    def forward(self, x: ts.Tensor, lengths: Any = None) -> Any:
        self.calls += 1
        y = self.rnn(x, lengths=None if self.fault == "mask" and self.training else lengths)[0]
        if self.fault == "inside":
            y = ts.concat([y, y], 2) @ ts.ones((3, 3))
        return 2 * y if self.fault == "memory" and self.calls == 30 else F.dropout(y, 0.3, self.training)


@pytest.mark.parametrize(("fault", "law"), [
    ("", ""), ("mask", "outputs past the end are zero"), ("memory", "the same call gives the same result"),
    ("inside", "rows without padding are legal\n  it raised ValueError: ")])
def test_faults_in_training_inside_or_now_and_then_are_named(fault: str, law: str) -> None:
    for layer in (Careless(fault), Careless(fault).eval()):
        if fault and (layer.training or fault != "mask"):
            with pytest.raises(AssertionError, match=f"^Careless breaks a law: {law}"):
                check_sequence_layer(layer, seed=0)
        else:
            check_sequence_layer(layer, seed=0)


def test_examples_are_few_but_where_a_profile_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    monkeypatch.setattr(laws, "LAWS", {"counted": ((False,), lambda f, case: (calls.append(1), ({}, {}, ""))[1])})
    for said, expected in ((None, laws.EXAMPLES), (7, 7)):
        before = settings.get_current_profile_name()
        own = {} if said is None else {"max_examples": said}
        settings.register_profile("said", settings.get_profile("default"), **own)
        settings.load_profile("said")
        try:
            calls.clear()
            check_sequence_layer(nn.GRU(2, 3))
        finally:
            settings.load_profile(before)
        assert len(calls) == expected


@pytest.mark.parametrize("fault", ["", "    nn.GRU.forward = lambda self, x, lengths: (x + x.mean(axis=0), None)\n"])
def test_nothing_is_left_in_the_working_folder(fault: str, tmp_path: Path) -> None:
    """Nor is hypothesis told another place for good."""
    program = ("from hypothesis import given, strategies as st, settings\n"
               "from tinyseq import nn\n"
               "from tinyseq.testing import check_sequence_layer\n"
               "settings.register_profile('few', max_examples=2); settings.load_profile('few')\n"
               f"try:\n{fault}    check_sequence_layer(nn.GRU(2, 3))\nexcept AssertionError: pass\n")
    environment = {k: v for k, v in os.environ.items() if k != "HYPOTHESIS_STORAGE_DIRECTORY"}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True)
    assert list(tmp_path.iterdir()) == []
    subprocess.run([sys.executable, "-c", program + "given(st.text())(lambda text: None)()"], cwd=tmp_path,
                   env=environment, check=True)
    assert [path.name for path in tmp_path.iterdir()] == [".hypothesis"]


def test_the_page_in_docs_says_what_happens() -> None:
    page = (Path(__file__).parents[2] / "docs" / "laws.md").read_text()
    broken, mended = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    with pytest.raises(AssertionError, match="RunningMean breaks a law: outputs past the end are zero") as caught:
        exec(broken, names)
    assert "lengths = [0], x (1, 1, 2) =" in str(caught.value)
    exec(mended, names)


def test_what_is_called_otherwise_is_told_so() -> None:
    with pytest.raises(AssertionError, match=r"it takes \(x, lengths\); what is called otherwise needs call="):
        check_sequence_layer(nn.Linear(2, 2), 2)
    with pytest.raises(AssertionError, match=r"it takes \(x, lengths\); .*\n  it raised TypeError: too many pos"):
        check_sequence_layer(nn.Linear(2, 2), 2, call=lambda x: x)


def test_missing_hypothesis_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    with pytest.raises(ImportError, match=r"pip install 'tinyseq\[test\]'"):
        check_sequence_layer(nn.RNN(2, 3))
