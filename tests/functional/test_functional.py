"""Laws of all functions of `tinyseq.functional`, whose table is in `helpers/functions.py`.

Against a NumPy twin, the composed definition, central differences and PyTorch.
"""

import inspect
from typing import Any

import numpy as np
import pytest
from helpers.functions import KERNELS, ROWS, Row, close, composed, flat, is_float, masks, results, seed, tensors
from helpers.tensors import apart, by_name, is_wide
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
import tinyseq.functional as F
from tinyseq import nn
from tinyseq.testing import check_grad

every_row = pytest.mark.parametrize("row", ROWS, ids=lambda r: r.name)


def test_activations_are_all_here() -> None:
    """What stands between layers is in F, also what is a function of any tensor, and so in ts; and is what nn has."""
    kinds = {kind for kind in vars(nn).values() if inspect.isclass(kind) and issubclass(kind, nn.Activation)}
    functions = {vars(kind)["function"] for kind in kinds if "function" in vars(kind)}
    assert len(functions) == 9 and functions <= {getattr(F, name) for name in F.__all__}
    assert F.tanh is ts.tanh and F.sigmoid is ts.sigmoid and {"softmax", "log_softmax", "log_sigmoid"} < {*F.__all__}
    assert {name for name, f in vars(F).items() if inspect.isfunction(f) and name[0] != "_"} == {*F.__all__}


def test_every_public_function_has_a_row_and_every_kernel_a_definition() -> None:
    public = {name for name, f in vars(F).items() if inspect.isfunction(f) and f.__module__.startswith(F.__name__)
              and not name.startswith("_")} - {"unroll", "rotate", "associative_scan"}  # elsewhere
    assert public == {row.name for row in ROWS}
    assert {name.lstrip("_") for name in KERNELS} - {"lstm_gates", "gru_gates"} <= public  # those are parts of cells
    assert all(row.twin or f"_{row.name}" in KERNELS for row in ROWS)


@every_row
@given(data=st.data())
def test_values_are_the_twins(row: Row, data: st.DataObject) -> None:
    choose = lambda options: data.draw(st.sampled_from(options))
    arguments, options = row.arguments(choose)
    dtype = choose(["float32", "float64"])
    if row.twin is not None:
        got = flat(row(*tensors(arguments, dtype, choose), **masks(options)))
        for y, z in zip(got, flat(row.twin(*arguments, **options)), strict=True):
            close(y.detach().numpy(), np.asarray(z), dtype)


@every_row
@given(data=st.data())
def test_gradients_are_central_differences(row: Row, data: st.DataObject) -> None:
    choose = lambda options: data.draw(st.sampled_from(options))
    arguments, options = row.arguments(choose)
    if (row.name == "scan" and arguments[0] == "rnn_relu") or options.get("nonlinearity") == "relu":
        return  # kinks anywhere: the composed definition and PyTorch judge its gradients
    if options.get("padding_idx") is not None:
        return  # gradient 0 by decree
    check_grad(lambda *args: row(*args, **masks(options)), *tensors(arguments, "float64", choose), order=2)


@every_row
@given(data=st.data())
def test_gradients_are_their_owners(row: Row, data: st.DataObject) -> None:
    choose = lambda options: data.draw(st.sampled_from(options))
    arguments, options = row.arguments(choose)
    given = tensors(arguments, choose(["float32", "float64"]), choose)
    apart(row(*given, **masks(options)), [x for x in given if isinstance(x, ts.Tensor)])


@pytest.mark.parametrize("row", [r for r in ROWS if {r.name, f"_{r.name}"} & set(KERNELS)], ids=lambda r: r.name)
@given(data=st.data())
def test_equal_to_the_composed_definition(row: Row, data: st.DataObject) -> None:
    choose = lambda options: data.draw(st.sampled_from(options))
    arguments, options = row.arguments(choose)
    dtype = choose(["float32", "float64"])
    leaves = tensors(arguments, dtype, choose)
    got = results(row, leaves, masks(options))
    with composed():
        expected = results(row, leaves, masks(options))
    for y, z in zip(got, expected, strict=True):
        close(y, z, dtype)


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides:UserWarning")
@pytest.mark.parametrize("row", [r for r in ROWS if r.torch], ids=lambda r: r.name)
@given(data=st.data())
def test_equal_to_pytorch(row: Row, data: st.DataObject) -> None:
    torch = pytest.importorskip("torch")
    choose = lambda options: data.draw(st.sampled_from(options))
    arguments, options = row.arguments(choose)
    dtype = choose(["float32", "float64"])

    def convert(x: Any, grad: bool) -> Any:
        if not isinstance(x, np.ndarray):
            return x
        return torch.tensor(x.astype(dtype), requires_grad=grad) if is_float(x) else torch.tensor(x)

    given_ = [convert(x, True) for x in arguments]
    options_ = {k: convert(v, False) for k, v in options.items()}
    if callable(row.torch):
        outputs = row.torch(torch, *given_, **options_)
    else:
        outputs = getattr(torch.nn.functional, row.torch)(*given_, **options_)
    if outputs is None:
        return
    sum((y * torch.tensor(seed(i, y.shape), dtype=y.dtype)).sum() for i, y in enumerate(flat(outputs))).backward()
    expected = [y.detach() for y in flat(outputs)]
    expected += [x.grad if x.grad is not None else torch.zeros_like(x) for x in given_ if isinstance(x, torch.Tensor)
                 and x.requires_grad]
    for y, z in zip(results(row, tensors(arguments, dtype, choose), masks(options)), expected, strict=True):
        close(y, z.numpy(), dtype)


@pytest.mark.parametrize("row", [r for r in ROWS if r.wrong], ids=lambda r: r.name)
def test_wrong_arguments_are_named(row: Row) -> None:
    for *arguments, pattern in row.wrong:
        options = arguments.pop() if isinstance(arguments[-1], dict) else {}
        arguments = [ts.tensor(x) if is_float(x) else x for x in arguments]
        with pytest.raises((TypeError, ValueError, IndexError), match=pattern):
            row(*arguments, **options)


@every_row
@given(data=st.data())
def test_float16_is_computed_in_float32_and_rounded_once(row: Row, data: st.DataObject) -> None:
    """Outputs and gradients against those in float64 of the same numbers: near, and finite where they fit. A loss is
    float32, and so are its digits."""
    choose = lambda options: data.draw(st.sampled_from(options))
    arguments, options = row.arguments(choose)
    # probabilities; rounded before a sum; saturated step after step, where float32 has no digits left; a power of T
    alone = {"binary_cross_entropy": 1, "kl_div": 1, "nll_loss": 1, "linear": 10, "scan": 1, "linear_scan": 10}
    stretch = alone.get(row.name) or choose([1, 1, 30, 300])
    arguments = [np.asarray(x * stretch, np.float16) if is_float(x) else x for x in arguments]
    with np.errstate(over="ignore"):  # what does not fit becomes infinite
        got = results(row, tensors(arguments, "float16", choose), masks(options))
        expected = results(row, tensors(arguments, "float64", choose), masks(options))
    slack = 1e-5 * max(np.abs(z[np.isfinite(z)]).max(initial=stretch) for z in expected)  # where float32 cancels
    loss = row.name.endswith(("_loss", "cross_entropy", "cross_entropy_with_logits", "_div"))
    for i, (y, z) in enumerate(zip(got, expected, strict=True)):
        assert y.dtype == (np.float32 if loss and i == 0 else np.float16)
        fits = np.abs(z) < np.finfo(y.dtype).max
        scale = np.abs(z[fits]).max(initial=3 * 20 * 20 if row.name == "linear" else 2.0**-14)
        assert np.isfinite(y[fits]).all()
        unit = 2.0**-21 if loss and i == 0 else 2.0**-11
        np.testing.assert_allclose(y[fits], z[fits], rtol=0, atol=4 * unit * scale + slack)


@every_row
@given(data=st.data())
def test_float16_by_position_and_by_name_is_the_same(row: Row, data: st.DataObject) -> None:
    choose = lambda options: data.draw(st.sampled_from(options))
    arguments, options = row.arguments(choose)
    stretch = choose([1, 300]) if is_wide(vars(F)[row.name]) else 1
    leaves = tensors([np.asarray(stretch * x) if is_float(x) else x for x in arguments], "float16", choose)

    def named(*args: Any, **options: Any) -> Any:
        row.before()
        return by_name(vars(F)[row.name])(*args, **options)

    with np.errstate(over="ignore"):  # what does not fit becomes infinite
        found = [results(fn, leaves, masks(options)) for fn in (row, named)]
    for y, z in zip(*found, strict=True):
        np.testing.assert_array_equal(y, z)
