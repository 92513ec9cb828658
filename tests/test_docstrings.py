"""What `help()` shows: every public class and function has an example, and each example is run."""

import doctest
import inspect
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import numpy as np
import pytest

import tinyseq as ts
from tinyseq import functional, nn

ROOMS = ["tinyseq", *(f"tinyseq.{room}" for room in """
    checkpoint data decode functional lens metrics models nn nn.convert nn.init optim plot random testing
""".split())]
if find_spec("matplotlib") is None:
    ROOMS.remove("tinyseq.plot")
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def public(room: ModuleType) -> Iterator[tuple[str, object]]:
    """The classes and functions that a room has for its users, those of __all__ or those that are made there."""
    names = getattr(room, "__all__", None) or [
        name for name, value in vars(room).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == room.__name__]
    for name in names:
        value = getattr(room, name)
        dtype = inspect.isclass(value) and issubclass(value, np.generic)
        if callable(value) and not dtype and not isinstance(value, ModuleType):
            yield name, value


SHOWN = {f"{room}.{name}": value for room in ROOMS for name, value in public(import_module(room))}
SHOWN |= {f"tinyseq.Tensor.{name}": value for name, value in vars(ts.Tensor).items()
          if not name.startswith("_") and inspect.isfunction(value)}


@pytest.mark.parametrize("name", SHOWN)
def test_every_public_name_has_an_example_that_runs(name: str, tmp_path, monkeypatch) -> None:
    if name == "tinyseq.metrics.token_error_rate":
        pytest.importorskip("rapidfuzz", reason="rapidfuzz is not installed (pip install 'tinyseq[examples]')")
    monkeypatch.chdir(tmp_path)
    ts.manual_seed(0)
    given = {"ts": ts, "nn": nn, "F": functional, "np": np}
    finder = doctest.DocTestFinder(recurse=inspect.isclass(SHOWN[name]))
    tests = [test for test in finder.find(SHOWN[name], name.rpartition(".")[2], globs=given) if test.examples]
    assert tests, f"{name} has no example (`>>> ...`) in its docstring"
    for test in tests:
        runner = doctest.DocTestRunner(optionflags=OPTIONS, verbose=False)
        said: list[str] = []
        with ts.use_backend("numpy"):  # whose arrays they show
            runner.run(test, out=said.append)
        assert not runner.failures, "".join(said)
