"""The functions that are methods, and what type checkers read of them."""

import ast
import inspect
from pathlib import Path

import tinyseq as ts
from tinyseq.engine import methods, ops
from tinyseq.engine.tensor import Tensor

# What takes a tensor first and is no method: x.where(condition, y) is another in PyTorch; the rest make another tensor
NO_METHODS = {"where", "zeros_like", "ones_like", "full_like", "one_hot", "from_dlpack"}
OF_A_TENSOR = "backward detach item numpy permute_dims reshape to tolist written".split()  # methods of their own


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
    kind = next(node for node in tree.body if isinstance(node, ast.ClassDef))
    written: dict[str, list[str]] = {}
    for node in kind.body:
        if isinstance(node, ast.FunctionDef) and ast.unparse(node.body[0]) == "...":
            args, defaults = node.args.args[1:] + node.args.kwonlyargs, node.args.defaults + node.args.kw_defaults
            given = [""] * (len(args) - len(defaults)) + [f" = {ast.unparse(value)}" for value in defaults]
            written[node.name] = [f"{arg.arg}: {ast.unparse(arg.annotation or arg)}{default}"
                                  for arg, default in zip(args, given, strict=True)]
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Name) and node.value.id in written:
            written |= {target.id: written[node.value.id] for target in node.targets if isinstance(target, ast.Name)}
    assert {*written} == functions().keys() - NO_METHODS - {"permute_dims", "reshape"}
    for name, arguments in written.items():
        parameters = [*inspect.signature(getattr(ops, name)).parameters.values()][1:]
        assert arguments == [f"{p.name}: {'Like' if p.annotation is p.empty else p.annotation}" +
                             (f" = {p.default!r}" if p.default is not p.empty else "") for p in parameters], name
