"""The Tensor that users hold: writing, copying, printing, numbers and NumPy's arrays beside it."""

import copy
import pickle

import numpy as np
import pytest
from helpers.tensors import equal, leaf

import tinyseq as ts
from tinyseq.engine.tensor import Tensor
from tinyseq.testing import check_grad


def test_only_leaves_can_be_written_to() -> None:
    y = leaf(1.0) * 2
    with pytest.raises(RuntimeError, match=r"only leaves can be written to.*multiply"):
        y.data = np.array(3.0)
    equal(y, 2.0)
    with pytest.raises(ValueError, match=r"shape \(\) .* shape \(1,\)"):
        leaf(1.0).data = np.ones(1)
    with pytest.raises(RuntimeError, match="assignment to a leaf"):
        leaf(1.0, 2.0)[0] = 1.0


def test_integers_and_comparisons_carry_no_gradient() -> None:
    x = leaf(1.0, 2.0)
    for y in (x > 1, x.argmax(), x.astype(np.int64), ts.isnan(x), x.argsort(), x == x):
        assert not y.requires_grad
    with pytest.raises(TypeError, match=r"floating-point.*int64"):
        ts.tensor([1, 2], requires_grad=True)
    with pytest.raises(RuntimeError, match="leaves only"):
        (x * 2).requires_grad = False


def test_a_step_by_hand() -> None:
    w = same = leaf(1.0, 2.0)
    loss = (w * w).sum()
    loss.backward(retain_graph=True)
    with ts.no_grad():
        w -= 0.5 * w.grad
        w += 1
        w *= 2
        w /= 4
    assert w is same and w.requires_grad
    equal(w, [0.5, 0.5])
    with pytest.raises(RuntimeError, match="written"):
        loss.backward()
    v = w
    v += 1  # recorded: a new tensor
    assert v is not w and not v.is_leaf


def test_copies() -> None:
    x = leaf(1.0, 2.0)
    (x * x).sum().backward()
    deep, loaded = copy.deepcopy(x), pickle.loads(pickle.dumps(x))
    for twin in (deep, loaded):
        assert twin.requires_grad and twin.is_leaf and not np.shares_memory(twin.data, x.data)
        equal(twin, [1.0, 2.0])
    equal(deep.grad, [2.0, 4.0])
    pair = copy.deepcopy([x, x])
    assert pair[0] is pair[1]
    for make in (copy.deepcopy, pickle.dumps):
        with pytest.raises(RuntimeError, match=r"only leaves can be .*multiply.*detach"):
            make(x * 2)


def test_numpy_meets_tensors() -> None:
    x = leaf(1.0, 2.0, dtype=np.float32)
    array = np.array([3.0, 4.0], np.float32)
    for y in (array * x, x * array, array @ x, array - x, array < x, array**x):
        assert isinstance(y, Tensor)
    assert (array * x).requires_grad
    for scalar in (2, 2.0, True, np.float64(2), np.int64(2)):
        for y in (scalar * x, x + scalar, x**scalar, scalar - x, ts.maximum(x, scalar), ts.where(x > 1, x, scalar)):
            assert isinstance(y, Tensor) and y.dtype == np.float32
    for take in (np.asarray, Tensor.numpy, lambda t: np.from_dlpack(t)):
        with pytest.raises(RuntimeError, match=r"silently drop the gradient.*\.detach\(\)"):
            take(x)
    assert np.asarray(x.detach()) is x.data or np.shares_memory(np.asarray(x.detach()), x.data)
    assert np.asarray(x.detach(), dtype=np.float64).dtype == np.float64
    assert np.shares_memory(np.from_dlpack(x.detach()), x.data)


def test_numpys_arrays_beside_a_tensor() -> None:
    """Those without axes are numbers; others follow NumPy's rules, and go where the Tensor lives."""
    x = ts.tensor([1.0, 2.0, 3.0], requires_grad=True)
    for y in (x * np.array(2.0), np.array(2.0) * x, ts.where(np.array([True, False, True]), x, np.array(7.0))):
        assert y.dtype == np.float32 and y.backend == x.backend
    for y in (x + np.ones(3), np.ones(3) + x, ts.maximum(x, np.ones(3)), ts.divide(np.ones(3), x)):
        assert y.dtype == np.float64 and y.backend == x.backend
    assert (x * np.ones(3, np.float32)).dtype == np.float32
    assert ts.grad(ts.sum(x * np.arange(3)), x).tolist() == [0, 1, 2]
    assert (x > np.array([0, 5, 0])).tolist() == [True, False, True]


def test_repr() -> None:
    assert repr(ts.tensor([[1.0, 2.5], [3.0, 4.0]])) == "tensor([[1. , 2.5],\n        [3. , 4. ]])"
    assert repr(leaf(1.0)) == "tensor(1., dtype=float64, requires_grad=True)"
    assert repr(ts.tensor([1, 2])) == "tensor([1, 2])"
    assert repr(ts.tensor(True)) == "tensor(True)"
    assert repr(ts.zeros((0, 3))) == "tensor([], shape=(0, 3))"
    assert repr(ts.tensor(2.0, requires_grad=True) * 2) == "tensor(4., op=multiply)"


def test_len_iteration_bool_item() -> None:
    x = leaf([[1.0, 2.0], [3.0, 4.0]])
    assert len(x) == 2 and [row.shape for row in x] == [(2,), (2,)]
    first, _ = x
    first.sum().backward()
    equal(x.grad, [[1, 1], [0, 0]])
    assert ts.tensor([[3.0]]) and not ts.tensor(0) and ts.tensor([2.5]).item() == 2.5
    assert (int(ts.tensor(3)), float(ts.tensor(3)), [10, 20, 30][ts.tensor(1)]) == (3, 3.0, 20)
    assert x.tolist() == [[1.0, 2.0], [3.0, 4.0]]
    for wrong, message in ((lambda: bool(x), "ambiguous"), (x.item, r"\(2, 2\)"), (lambda: len(leaf(1.0)), "0-dim"),
                           (lambda: iter(leaf(1.0)), "0-dim"), (lambda: [1][ts.tensor(0.0)], "float32"),  # type: ignore
                           (lambda: x[0].T, r"\.mT")):
        with pytest.raises((TypeError, ValueError), match=message):
            wrong()
    assert x.T.shape == (2, 2) and hash(x) != hash(first) and x in {x: 1}


def test_to_dtype_and_backend() -> None:
    x = leaf(1.0, 2.0)
    assert x.to("float32").dtype == x.to(ts.float32).dtype == np.float32 and x.to(x.backend) is x
    check_grad(lambda x: x.to(ts.float64) * 2, x)
    with pytest.raises(ValueError, match="unknown backend 'nowhere'"):
        x.to("nowhere")


def test_no_backend_and_no_dtype_is_refused() -> None:
    with pytest.raises(TypeError, match=r"to\(.*got None"):
        ts.ones(2).to(None)


def test_small_things_users_type() -> None:
    assert f"{ts.tensor(1.23456):.2f}" == "1.23"
    with pytest.raises(TypeError, match=r"ts\.stack"):
        ts.tensor([ts.ones(2), ts.ones(2)])
    assert ts.__version__.count(".") == 2
    z = ts.zeros(2, requires_grad=True)
    ts.vector_norm(z, ord=3).backward()
    equal(z.grad, [0.0, 0.0])


def test_shapes_may_be_given_by_place_or_by_name() -> None:
    x = ts.arange(6.0)
    assert x.reshape(2, 3).shape == x.reshape((2, 3)).shape == x.reshape(shape=(2, 3)).shape == (2, 3)
    y = x.reshape(1, 2, 3)
    assert y.permute_dims(2, 0, 1).shape == y.permute_dims((2, 0, 1)).shape == y.permute_dims(axes=(2, 0, 1)).shape
    with pytest.raises(TypeError, match=r"permute_dims.*no argument 'dims'; write axes="):
        y.permute_dims(dims=(2, 0, 1))


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3, 4)])
def test_flatten(shape: tuple[int, ...]) -> None:
    a = np.arange(float(np.prod(shape))).reshape(shape)
    equal(ts.asarray(a).flatten(), a.reshape(-1))
    for axis in range(len(shape)):
        wanted = a.reshape(*shape[:axis], int(np.prod(shape[axis:])))
        equal(ts.flatten(ts.asarray(a), axis), wanted)
        equal(ts.flatten(ts.asarray(a), axis - len(shape)), wanted)
    with pytest.raises(IndexError, match=r"flatten.*start_axis=4"):
        ts.asarray(a).flatten(4)
