"""Arguments by place: whatever has PyTorch's name has them in PyTorch's order, or takes them by name alone.

Code that is carried over runs on, or is refused; a number never comes silently to mean another thing. What keeps the
order of NumPy or the Array API stands in `OTHERWISE`, each with a row of docs/coming-from-pytorch.md.
"""

import inspect
import re
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import tinyseq as ts
from tinyseq import functional, nn, optim, random
from tinyseq.nn import init

PAGE = Path(__file__).parents[1] / "docs" / "coming-from-pytorch.md"

OTHERWISE = {  # why, and what the page's row has
    "ts.split": ("NumPy's: how many parts", "`torch.split(x, 2)`"),
    "Tensor.split": ("as ts.split", "`torch.split(x, 2)`"),
    "ts.pad": ("NumPy's: a pair for every axis", "`F.pad("),
    "F.pad": ("as ts.pad", "`F.pad("),
    "F.lstm_cell": ("PyTorch's, without documentation, has h and c in a list: a list is an error", "`torch.lstm_cell("),
    "ts.searchsorted": ("the Array API's", "`torch.searchsorted("),
    "Tensor.softmax": ("as F.softmax", "`torch.softmax("),
    "ts.random.bernoulli": ("probabilities and a shape", "`torch.bernoulli("),
    "F.softmax": ("third is PyTorch's private _stacklevel, a dtype of torch.softmax: an error", "`torch.softmax("),
}

SAME = {  # PyTorch's words for ours
    "x": "input", "a": "input self x", "b": "other exponent vec2 y", "ids": "input", "logits": "input",
    "probs": "input", "log_probs": "input", "targets": "target", "h": "hx", "h0": "hx", "state": "hx",
    "axis": "dim dims", "start_axis": "start_dim", "axis1": "axis0", "axis2": "axis1",
    "axes": "dims dims_self", "keepdims": "keepdim", "correction": "unbiased", "shape": "size",
    "indices": "index", "values": "source", "k": "diagonal", "repetitions": "dims", "shift": "shifts", "stop": "end",
    "num": "steps", "n_rows": "n", "n_cols": "m", "subscripts": "equation args", "operands": "tensors",
    "value": "val", "low": "a from", "high": "b to", "grad": "gradient grad_tensors", "data": "obj t",
    "target": "device dtype", "parameters": "params", "layers": "args",
}

WRITTEN = {"asarray": ["obj"]}  # of what has neither signature nor schema


def by_place(fn: Callable[..., Any]) -> list[str]:
    """What a function takes by place, without self."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD,
             inspect.Parameter.VAR_POSITIONAL)
    return [p.name for p in inspect.signature(fn).parameters.values() if p.kind in kinds and p.name != "self"]


def ours(made: Any) -> list[str]:
    """What ours takes by place."""
    if not inspect.isclass(made):
        return [name for name in by_place(made) if name != "args"]
    return by_place(made)


def theirs(torch: Any, known: Any, name: str) -> Iterator[list[str]]:
    """The orders in which PyTorch's takes arguments by place: its Python signature, or the schemas of what has none."""
    constructor = known.__init__ if inspect.isclass(known) else known
    for written in typing.get_overloads(constructor) if inspect.isfunction(constructor) else []:
        yield by_place(written)
    try:
        order = by_place(known)
        if order == ["args"] and not inspect.isclass(known):  # as of max_pool1d, which chooses among several
            raise ValueError
        yield order
    except ValueError:
        if name in WRITTEN:
            yield WRITTEN[name]
        for room in ("", "linalg_", "special_"):
            for schema in torch._C._jit_get_schemas_for_operator(f"aten::{room}{name}"):
                order = ["input" if a.name == "self" else a.name for a in schema.arguments if not a.kwarg_only]
                yield order[type(known).__name__ == "method_descriptor":]


def walked(torch: Any) -> Iterator[tuple[str, Any, Any]]:
    """(how ours is called, ours, PyTorch's) of all that have one name."""
    more = (torch, torch.linalg, torch.special, torch.nn.functional, torch.autograd)
    rooms: list[tuple[str, Any, list[str], tuple[Any, ...]]] = [
        ("nn.", nn, nn.__all__, (torch.nn, torch.nn.utils)),
        ("init.", init, init.__all__, (torch.nn.init,)),
        ("optim.", optim, optim.__all__, (torch.optim, torch.nn.utils)),
        ("F.", functional, functional.__all__, (torch.nn.functional, torch, torch.special)),
        ("ts.", ts, ts.__all__, more),
        ("ts.random.", random, [n for n, x in vars(random).items() if inspect.isfunction(x)], (torch,)),
        ("Tensor.", ts.zeros((1, 1)), [n for n in vars(ts.Tensor) if not n.startswith("_")], (torch.Tensor,))]
    for room, here, names, there in rooms:
        for name in names:
            made = getattr(here, name)
            known = next((f for f in (getattr(module, name, None) for module in there) if callable(f)), None)
            if not callable(made) or known is None or made in (nn.Module, optim.Optimizer) or (
                    inspect.isclass(made) and room in ("ts.", "ts.random.")):  # dtypes, and what has rows of the page
                continue
            yield room + name, made, known
            if hasattr(made, "forward"):
                yield f"{room}{name}.forward", made.forward, known.forward


def fits(mine: list[str], order: list[str]) -> bool:
    """Whether each place means the same, as far as both have it."""
    return all(a == b or b in SAME.get(a, "").split() for a, b in zip(mine, order, strict=False))


def judged(torch: Any, name: str, made: Any, known: Any) -> str:
    """What is wrong with an order of arguments, or nothing. A constructor has none by place that PyTorch has not: the
    next PyTorch may have another there."""
    mine, orders = ours(made), list(theirs(torch, known, name.rpartition(".")[2]))
    strict = name.startswith(("nn.", "init.", "optim.")) and not name.endswith(".forward")
    if len(mine) < 2 and not strict:
        return ""  # one argument has one place
    if not orders:
        return f"{name}: PyTorch's has no signature, write one"
    reach = max(min(len(mine), len(order)) for order in orders)  # a shorter way to call it does not count
    good = [order for order in orders if min(len(mine), len(order)) == reach and fits(mine, order)]
    good = [order for order in good if not strict or len(mine) <= len(order) or order == ["args"]]
    return "" if good else f"{name}: {mine} by place, {' or '.join(map(str, orders))} in PyTorch"


@pytest.mark.reference
def test_what_has_pytorchs_name_has_its_order_by_place() -> None:
    torch = pytest.importorskip("torch")
    wrong: dict[str, str] = {}
    names = set()
    for name, made, known in walked(torch):
        names.add(name)
        if said := judged(torch, name, made, known):
            wrong[name] = said
    assert "\n".join(said for name, said in wrong.items() if name not in OTHERWISE) == ""
    assert set(OTHERWISE) <= set(wrong), "what is no exception any more"
    assert names >= {"nn.LSTM", "nn.LeakyReLU", "nn.Transformer.forward", "init.kaiming_uniform_", "optim.SGD",
                     "optim.clip_grad_norm_", "F.cross_entropy", "ts.index_add", "ts.vector_norm", "Tensor.sum"}
    assert len(names) > 190


@pytest.mark.reference
def test_an_argument_in_the_wrong_place_is_found() -> None:
    torch = pytest.importorskip("torch")

    class GRU(nn.GRU):
        def __init__(self, input_size: int, hidden_size: int, bias: bool = True, num_layers: int = 1) -> None:
            super().__init__(input_size, hidden_size, num_layers, bias)

    def sgd(parameters: Any, lr: float, momentum: float, weight_decay: float) -> None: ...
    def kaiming(tensor: Any, gain: float) -> None: ...
    def cross_entropy(logits: Any, targets: Any, weight: Any, ignore_index: int) -> None: ...
    def total(x: Any, keepdims: Any, axis: Any) -> None: ...

    for name, made, known in (
        ("nn.GRU", GRU, torch.nn.GRU), ("optim.SGD", sgd, torch.optim.SGD),
        ("init.kaiming_uniform_", kaiming, torch.nn.init.kaiming_uniform_), ("ts.sum", total, torch.sum),
        ("F.cross_entropy", cross_entropy, torch.nn.functional.cross_entropy), ("Tensor.sum", total, torch.Tensor.sum),
    ):
        assert judged(torch, name, made, known).startswith(f"{name}: ["), name


def test_exceptions_have_their_row_of_the_page() -> None:
    rows = re.findall(r"^\| (.*?) \|", PAGE.read_text("utf-8"), re.MULTILINE)
    assert [name for name, (_, text) in OTHERWISE.items() if not any(text in row for row in rows)] == []
