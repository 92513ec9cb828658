"""Arrays of other libraries, and NumPy's functions called on a Tensor."""

import re
from typing import Any

import numpy as np
import pytest
from helpers.tensors import leaf

import tinyseq as ts
import tinyseq.functional as F
from tinyseq import nn
from tinyseq.engine import interop


class Column:
    """An array of a library that nobody has heard of: it has NumPy's protocol, and that is all."""

    def __init__(self, values: Any, fails: Exception | None = None) -> None:
        self.values, self.fails = np.asarray(values, np.float32), fails

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        if self.fails:
            raise self.fails
        return self.values


def test_whatever_has_numpys_protocol_is_an_array() -> None:
    column, x = Column([1.0, 2.0]), ts.tensor([3.0, 4.0])
    with ts.use_backend("numpy"):
        assert np.shares_memory(ts.asarray(column).data, column.values)
        assert not np.shares_memory(ts.tensor(column).data, column.values)
    for y in (x + column, column + x, ts.add(column, x), ts.add(a=column, b=x)):
        assert isinstance(y, ts.Tensor) and y.tolist() == [4.0, 6.0]
    assert ts.stack([column, column]).shape == (2, 2) and F.mse_loss(x, column).item() == 4.0
    assert ts.ones(5)[Column([1, 2]).values.astype(int)].shape == (2,)


def test_what_is_recorded_is_a_copy() -> None:
    column, x = Column([1.0, 2.0]), leaf(3.0, 4.0, dtype=np.float32)
    y = (x * column).sum()
    column.values[:] = 7.0
    assert ts.grad(y, x).tolist() == [1.0, 2.0]


CALLS = {
    "asarray": ts.asarray, "tanh": ts.tanh, "add": lambda x: ts.ones(2) + x, "radd": lambda x: x + ts.ones(2),
    "clip": lambda x: ts.clip(ts.ones(2), max=x), "stack": lambda x: ts.stack([x, x]), "embedding": nn.Embedding(3, 2),
    "linear": nn.Linear(2, 3), "layer_norm": nn.LayerNorm(2), "SinusoidalPositions": nn.SinusoidalPositions(2),
    "mse_loss": lambda x: F.mse_loss(ts.ones(2), x), "MultiheadAttention": nn.MultiheadAttention(2, 1),
    "GRU": nn.GRU(2, 3),
    "length_mask": lambda x: nn.length_mask(x, 3), "one_hot": lambda x: ts.one_hot(x, 3),
    "CRF": lambda x: nn.CRF(2)(x, x),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_cannot_be_read_is_refused_by_name_with_the_reason(name: str) -> None:
    column = Column([1.0, 2.0], RuntimeError("it requires a gradient. Use .detach() first."))
    with pytest.raises(TypeError, match=r"\bColumn.*Use .detach\(\) first\).*convert it first") as found:
        CALLS[name](column)
    assert name.removeprefix("r") in str(found.value) or name in ("GRU", "CRF", "embedding")


@pytest.mark.reference
def test_torch_tensors() -> None:
    torch: Any = pytest.importorskip("torch")
    x = torch.ones(3)
    with ts.use_backend("numpy"):
        shared, copied = ts.asarray(x), ts.tensor(x)
    x[0] = 5.0
    assert shared.tolist() == [5.0, 1.0, 1.0] and copied.tolist() == [1.0, 1.0, 1.0]
    for y in (x * ts.ones(3), ts.ones(3) * x, ts.exp(x)):
        assert isinstance(y, ts.Tensor) and y.dtype == np.float32
    lost = {
        "requires_grad": (torch.ones(2, requires_grad=True), r"detach\(\)"),
        "meta": (torch.ones(2, device="meta"), "cpu"), "sparse": (torch.ones(2).to_sparse(), "to_dense"),
        "bfloat16": (torch.ones(2, dtype=torch.bfloat16), "BFloat16"),
        "conj": (torch.ones(2, dtype=torch.complex64).conj(), "resolve_conj"),
        "neg": (torch.ones(2, dtype=torch.complex64).conj().imag, "resolve_neg"),
    }
    for wrong, way in lost.values():
        for call in CALLS.values():
            with pytest.raises(TypeError, match=rf"torch\.Tensor.*{way}"):
                call(wrong)


def test_numbers_in_lists_are_as_wide_as_the_tensor_beside_them() -> None:
    for dtype in (np.float16, np.float32, np.float64):
        x = ts.ones(2, dtype)
        numbers = [0.1, 0.2]
        for y in (x * numbers, numbers * x, x * (0.1, 0.2), ts.stack([x, numbers])[1], ts.minimum(x, numbers)):
            assert y.dtype == dtype and y.tolist() == np.array(numbers, dtype).tolist()
    assert (ts.tensor([1, 2]) * [3, 4]).dtype == np.int64 and ts.exp([1.0]).dtype == np.float32
    assert ts.concat([[1.0], [2.0, 3.0]]).tolist() == [1.0, 2.0, 3.0]


# --- NumPy's functions on a Tensor -----------------------------------------------------------------------------------

NUMPYS = {  # what was called, and what is to be written
    "np.exp(x)": "ts.exp", "np.tanh(x)": "ts.tanh", "np.arctan(x)": "ts.atan", "np.absolute(x)": "ts.abs",
    "np.maximum(x, 0)": "ts.maximum", "np.power(2.0, x, dtype=float)": "ts.pow", "np.concatenate([x, x])": "ts.concat",
    "np.sum(x)": "ts.sum", "np.mean(x, axis=0)": "ts.mean", "np.where(x > 0, x, 0)": "ts.where",
    "np.einsum('i->i', x)": "ts.einsum", "np.linalg.norm(x)": "ts.vector_norm",
    "np.transpose(x)": "ts.matrix_transpose",
    "np.add.reduce(x)": "ts.add", "np.sinc(x)": "ts.op", "np.fft.fft(x)": "ts.op", "np.cbrt(x)": "ts.op",
    "np.add(a, x, out=a)": "ts.add",
}


@pytest.mark.parametrize("call", NUMPYS)
def test_numpys_function_on_a_tensor_names_ours(call: str) -> None:
    names = {"np": np, "x": leaf(1.0, 2.0), "a": np.ones(2)}
    told = rf"^{re.escape(call.partition('(')[0])} was called on a Tensor: write .*{NUMPYS[call]}\b"
    with pytest.raises(TypeError, match=told) as found:
        eval(call, names)
    assert "ts.namespace(x)" in str(found.value) and ".detach()" in str(found.value)


def test_every_name_that_is_told_is_there() -> None:
    assert all(hasattr(np, given) or given == "norm" for given in interop.NAMES)
    assert set(interop.NAMES.values()) <= set(ts.__all__)
    assert all(map(interop.name_of, interop.OPERATORS))
    functions = [f for f in vars(np).values() if callable(f) and not getattr(f, "__name__", "_").startswith("_")]
    assert {interop.name_of(f) for f in functions} - {""} <= set(ts.__all__)


def test_numpy_reads_tensors_without_gradient() -> None:
    with ts.use_backend("numpy"):
        x = ts.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert type(np.concatenate([x, x])) is np.ndarray and np.sum(x) == 10.0 and np.allclose(x, x.numpy())
    y = leaf(1.0, 2.0)
    assert np.shape(y) == (2,) and np.ndim(y) == 1 and np.size(y) == 2


@pytest.mark.parametrize("sign", ["+", "-", "*", "/", "//", "%", "**", "<", "<=", ">", ">=", "==", "!="])
def test_an_operator_beside_an_array_or_a_number_of_numpys_is_ours(sign: str) -> None:
    x, array = ts.tensor([2.0, 3.0]), np.array([3.0, 2.0], np.float32)
    for left in (array, np.float32(3), np.float64(3)):
        y, z = eval(f"a {sign} x", {"a": left, "x": x}), eval(f"a {sign} x", {"a": left, "x": x.numpy()})
        assert isinstance(y, ts.Tensor) and np.array_equal(y.numpy(), z)
