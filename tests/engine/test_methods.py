"""The functions that are methods, and what type checkers read of them."""

import ast
import inspect
import operator
from pathlib import Path

import numpy as np
import pytest

import tinyseq as ts
from tinyseq import functional
from tinyseq.engine import methods, ops
from tinyseq.engine.tensor import Tensor

# What takes a tensor first and is no method: x.where(condition, y) is another in PyTorch; the rest make another tensor
NO_METHODS = {"where", "zeros_like", "ones_like", "full_like", "one_hot", "from_dlpack", "empty_like"}
OF_A_TENSOR = "backward detach item numpy permute_dims reshape softmax to tolist written".split()  # of their own

# Operators: those that a Tensor may stand to the right of, and the others
OF_TWO = "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift".split()
OTHERS = "neg abs invert eq ne lt le gt ge".split()


def functions() -> dict[str, inspect.Signature]:
    """The functions of ts that take a tensor first, or two, which may be lambdas without annotations."""
    found = {name: inspect.signature(f) for name in ts.__all__ if inspect.isfunction(f := getattr(ts, name))
             and f.__module__.startswith("tinyseq.engine")}
    first = {name: next(iter(signature.parameters.values()), None) for name, signature in found.items()}
    return {name: found[name] for name, p in first.items() if p and p.name in ("x", "a", "condition", "ids")}


def test_functions_of_a_tensor_are_its_methods_and_methods_are_functions() -> None:
    wanted = functions().keys() - NO_METHODS
    assert len(wanted) > 90 and {*functions()} >= NO_METHODS
    public = {name for name, f in vars(Tensor).items() if inspect.isfunction(f) and not name.startswith("_")}
    assert public == wanted | {*OF_A_TENSOR}
    alone = {"permute_dims", "reshape"}  # which take what is in the tuple too
    assert [name for name in wanted - alone if getattr(Tensor, name) is not getattr(ts, name)] == []


def test_type_checkers_read_the_signatures_of_the_functions() -> None:
    """The methods stand in methods.py without a body: with the arguments, defaults and annotations of the functions."""
    tree = ast.parse(Path(methods.__file__).read_text("utf-8"))
    kind = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Methods")
    written: dict[str, list[str]] = {}
    for node in kind.body:
        if isinstance(node, ast.FunctionDef) and ast.unparse(node.body[0]) == "...":
            args, defaults = node.args.args[1:] + node.args.kwonlyargs, [
                *node.args.defaults, *[value for value in node.args.kw_defaults if value]]
            given = [""] * (len(args) - len(defaults)) + [f" = {ast.unparse(value)}" for value in defaults]
            written[node.name] = [f"{arg.arg}: {ast.unparse(arg.annotation or arg)}{default}"
                                  for arg, default in zip(args, given, strict=True)]
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Name) and node.value.id in written:
            written |= {target.id: written[node.value.id] for target in node.targets if isinstance(target, ast.Name)}
    methods_alone = {name: arguments for name, arguments in written.items() if not name.startswith("__")}
    assert {*methods_alone} == (functions().keys() | {"backward", "softmax"}) - NO_METHODS - {"permute_dims", "reshape"}
    operators = {f"__{side}{name}__" for side in ("", "r") for name in OF_TWO} | {f"__{name}__" for name in OTHERS}
    assert written.keys() - methods_alone.keys() == operators
    for name, arguments in methods_alone.items():
        parameters = [*inspect.signature(getattr(ops, name, functional.softmax)).parameters.values()][1:]
        assert arguments == [f"{p.name}: {'Like' if p.annotation is p.empty else p.annotation}" +
                             (f" = {p.default!r}" if p.default is not p.empty else "") for p in parameters], name


@pytest.mark.parametrize("name", OF_TWO + OTHERS)
def test_an_operator_of_tensors_is_that_of_arrays(name: str) -> None:
    one, two = np.array([6, 5, 3]), np.array([3, 2, 3])
    mine, one_operand = getattr(operator, f"__{name}__"), name in ("neg", "abs", "invert")
    expected = mine(one) if one_operand else mine(one, two)
    results = [mine(ts.tensor(one))] if one_operand else [
        mine(ts.tensor(one), ts.tensor(two)), mine(ts.tensor(one), two), mine(one, ts.tensor(two))]
    for found in results:
        assert isinstance(found, Tensor)
        np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.parametrize("name", OF_TWO)
def test_a_tensor_stands_on_the_right_too(name: str) -> None:
    if name != "matmul":
        mine, x = getattr(operator, f"__{name}__"), np.array([1, 2, 3])
        np.testing.assert_array_equal(mine(7, ts.tensor(x)).numpy(), mine(7, x))
    with pytest.raises(TypeError, match=r"\(a='seven', b=int64\[3\]\): expected a to be a Tensor"):
        getattr(Tensor, f"__r{name}__")(ts.tensor([1, 2, 3]), "seven")


def test_a_tensor_is_an_array_of_the_standard() -> None:
    x = ts.tensor([[1.75, -2.5]], requires_grad=True)
    assert x.__array_namespace__(api_version="2024.12") is ts and ts.__array_api_version__ == "2024.12"
    assert x.device == x.backend and x.to_device(x.device) is x
    assert x.long().tolist() == [[1, -2]] and x.long().dtype == ts.int64
    assert ts.tensor([1, 2]).float().dtype == ts.float32 and ts.ones(2, ts.float64).float().dtype == ts.float32
    (x.float() * x.clone() * x.softmax(-1)).sum().backward()
    assert x.grad is not None
    with pytest.raises(ValueError, match=r"api_version.*2024\.12.*'1999\.01'"):
        x.__array_namespace__(api_version="1999.01")
    with pytest.raises(ValueError, match="to_device: expected stream to be None, got 3"):
        x.to_device(x.device, stream=3)
    with pytest.raises(ValueError, match="unknown backend 'gpu'"):
        x.to_device("gpu")
