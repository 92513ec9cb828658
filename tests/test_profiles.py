"""What a profile and a traceback call the functions that users called: by their public names, forward and back."""

import ast
import cProfile
import pstats
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers.tensors import leaf
from test_wrong_calls import GOOD, names, parts

import tinyseq as ts
from tinyseq import backends
from tinyseq.engine.debug import flat

names = names  # the fixture
FUNCTIONS = [text for text in GOOD if text.startswith(("ts.", "F.")) and not text.startswith("ts.from_dlpack")]
UNNAMED = {"<lambda>", "call", "body", "wrapped"}
FOLDERS = tuple(path.rsplit("/", 1)[0] for path in (ts.__file__, str(backends.__file__)))


def recorded(x: Any, dtype: Any = None) -> Any:
    """What an argument is, with a gradient where it can have one."""
    if isinstance(x, ts.Tensor) and x.dtype.kind == "f":
        return x if x.requires_grad else leaf(x.detach().numpy(), dtype=dtype or x.dtype)
    return type(x)(recorded(y, dtype) for y in x) if type(x) in (list, tuple) else x


def seen(run: Callable[[], Any]) -> set[str]:
    """The names of tinyseq's functions in the profile of a call and of the way back."""
    profile = cProfile.Profile()
    with profile:
        for y in flat(run()):
            if isinstance(y, ts.Tensor) and y.requires_grad and not y.is_leaf:
                y.backward(np.ones(y.shape), retain_graph=True)
    stats: dict[tuple[str, int, str], Any] = pstats.Stats(profile).stats  # type: ignore[attr-defined]
    return {name for file, _, name in stats if file.startswith(FOLDERS)}


def run_of(text: str, names: dict[str, Any], dtype: Any = None) -> tuple[Any, Callable[[], Any]]:
    """The function of a call as it is written, and the call."""
    call: Any = ast.parse(text, mode="eval").body
    fn = eval(ast.unparse(call.func), names)
    args = [recorded(eval(ast.unparse(a), names), dtype) for a in call.args]
    named = {k.arg: recorded(eval(ast.unparse(k.value), names), dtype) for k in call.keywords}
    return fn, lambda: fn(*args, **named)


@pytest.mark.parametrize("text", FUNCTIONS, ids=lambda text: parts(text)[1])
@pytest.mark.filterwarnings("ignore")
def test_functions_have_their_public_names(text: str, names: dict[str, Any]) -> None:
    fn, run = run_of(text, names)
    found = seen(run)
    assert not found & UNNAMED, sorted(found)
    if not isinstance(fn, type) and fn.__module__.startswith("tinyseq"):
        assert fn.__name__ in found


@pytest.mark.parametrize("name", ["multiply", "exp", "sum", "matmul", "max", "take", "layer_norm", "maximum", "where"])
def test_pull_backs_have_the_name_of_their_op(name: str, names: dict[str, Any]) -> None:
    text = next(text for text in FUNCTIONS if parts(text)[1] in (f"ts.{name}", f"F.{name}"))
    wanted = {"take": "getitem"}.get(name, name)
    assert any(found.startswith(f"{wanted}.pull") for found in seen(run_of(text, names)[1]))


def test_float16_too(names: dict[str, Any]) -> None:
    for text in ("ts.exp(x=X)", "F.softmax(x=X, axis=0)", "F.gelu(x=X)", "ts.std(x=X)"):
        fn, run = run_of(text, names, np.float16)
        found = seen(run)
        assert not found & UNNAMED and fn.__name__ in found


def test_a_traceback_names_them() -> None:
    def failing(x: Any) -> Any:
        raise RuntimeError("here")

    for op, wanted in ((ts.op(failing), ["failing", "failing"]), (ts.multiply, ["multiply", "multiply"])):
        try:
            op(*[ts.ones(i + 2) for i in range(len(wanted) if op is ts.multiply else 1)])
        except (RuntimeError, ValueError) as error:
            shown = traceback.extract_tb((error.__cause__ or error).__traceback__)
            assert [frame.name for frame in shown][-2:] == wanted
        else:
            pytest.fail("nothing was raised")
