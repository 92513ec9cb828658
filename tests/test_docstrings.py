"""What `help()` shows: an example of every public class and function, which is run, and what each method does."""

import doctest
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

import numpy as np
import pytest

import tinyseq as ts
from tinyseq import functional, nn
from tinyseq.engine.methods import Standard

ROOMS = ["tinyseq", *(f"tinyseq.{room}" for room in """
    checkpoint data decode distributed export functional glance lens logs metrics models nn nn.convert nn.init optim
    optim.schedules plot random runs testing
""".split())]
if find_spec("matplotlib") is None:
    ROOMS.remove("tinyseq.plot")
NEEDED = {"metrics.token_error_rate": "rapidfuzz", "metrics.TokenErrorRate": "rapidfuzz", "metrics.BLEU": "sacrebleu",
          "metrics.CHRF": "sacrebleu", "logs.progress": "tqdm", "logs.TensorBoard": "tensorboardX",
          "data.Tokenizer": "tokenizers", "export.onnx": "onnx"}
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def public(room: ModuleType) -> Iterator[tuple[str, object]]:
    """The classes and functions that a room has for its users, those of __all__ or those that are made there."""
    names = getattr(room, "__all__", None) or [
        name for name, value in vars(room).items()
        if not name.startswith("_") and f"{getattr(value, '__module__', '')}.".startswith(f"{room.__name__}.")]
    for name in names:
        value = getattr(room, name)
        dtype = inspect.isclass(value) and issubclass(value, np.generic)
        if callable(value) and not dtype and not isinstance(value, ModuleType):
            yield name, value


SHOWN = {f"{room}.{name}": value for room in ROOMS for name, value in public(import_module(room))}
SHOWN |= {f"tinyseq.Tensor.{name}": value for name, value in {**vars(Standard), **vars(ts.Tensor)}.items()
          if not name.startswith("_") and inspect.isfunction(value)}


@pytest.mark.parametrize("name", SHOWN)
def test_every_public_name_has_an_example_that_runs(name: str, tmp_path, monkeypatch) -> None:
    for needed in NEEDED.get(name.partition(".")[2], "").split():
        pytest.importorskip(needed, reason=f"{needed} is not installed (pip install 'tinyseq[examples,test]')")
    monkeypatch.chdir(tmp_path)
    ts.manual_seed(0)
    given = {"ts": ts, "nn": nn, "F": functional, "np": np}
    finder = doctest.DocTestFinder(recurse=inspect.isclass(SHOWN[name]))
    tests = [test for test in finder.find(SHOWN[name], name.rpartition(".")[2], globs=given) if test.examples]
    assert tests, f"{name} has no example (`>>> ...`) in its docstring"
    for test in tests:
        runner = doctest.DocTestRunner(optionflags=OPTIONS, verbose=False)
        said: list[str] = []
        with ts.use_backend("numpy"):  # another one's name stands in what a Tensor prints
            runner.run(test, out=said.append)
        assert not runner.failures, "".join(said)


def methods(cls: type) -> Iterator[str]:
    """The public methods and properties of a class, but what Module, Tensor or a tuple gave it as it is."""
    for name in dir(cls):
        found = inspect.getattr_static(cls, name)
        owner = next(base for base in cls.__mro__ if name in vars(base))
        if not name.startswith("_") and (inspect.isfunction(found) or isinstance(found, property)) and (
                owner is cls or owner not in (nn.Module, ts.Tensor, tuple)):
            yield name


METHODS = [(name, method) for name, value in SHOWN.items() if inspect.isclass(value)
           and name.split(".")[1] in "data distributed glance logs metrics nn optim runs testing".split()
           for method in methods(value)]


@pytest.mark.parametrize(("name", "method"), METHODS)
def test_every_method_says_what_it_does(name: str, method: str) -> None:
    """In its own docstring, or that of the method which it replaces; but what Module says of all is not enough."""
    cls = SHOWN[name]
    assert isinstance(cls, type)
    texts = {base: getattr(vars(base).get(method), "__doc__", "") for base in cls.__mro__}
    above, said = next(((base, text) for base, text in texts.items() if text), (None, ""))
    general = above is nn.Module and cls is not nn.Module and method != "extra_repr"
    assert said and not general, f"{name}.{method} has no docstring of its own"
    if method in ("forward", "step", "start", "read") and name.startswith("tinyseq.nn.") and cls is not nn.Module:
        assert re.search(r"\((B|E|\.\.\.)[,)]", said), f"{name}.{method} does not say of which shape x is: {said}"


@pytest.mark.parametrize("name", [name for name in SHOWN if name.startswith("tinyseq.nn.")])
def test_the_examples_of_layers_print_what_comes_out(name: str) -> None:
    tests = doctest.DocTestFinder().find(SHOWN[name], name)
    assert any(example.want for test in tests for example in test.examples), f"{name}: its example shows nothing"
