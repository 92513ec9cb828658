"""What `help()` shows of all that is public: shapes, dtypes, what a method does, and an example, which is run."""

import doctest
import inspect
import re
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import pytest

import tinyseq as ts
from tinyseq import functional, nn
from tinyseq.engine.autograd import watching
from tinyseq.engine.methods import Standard
from tinyseq.glance.calls import Calls

ROOT = Path(__file__).parents[1]
MISSING = () if find_spec("matplotlib") else ("plot",)
NEEDED = {"metrics.token_error_rate": "rapidfuzz", "metrics.TokenErrorRate": "rapidfuzz", "metrics.BLEU": "sacrebleu",
          "metrics.CHRF": "sacrebleu", "logs.progress": "tqdm", "logs.TensorBoard": "tensorboardX",
          "data.Tokenizer": "tokenizers", "export.onnx": "onnx", "nn.convert.from_onnx_nodes": "onnx",
          "nn.convert.from_keras_layers": "h5py"}
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
TENSORS = re.compile(r"(?<!str, )(?<!Iterable\[)\b(Tensor|Like|ArrayLike|Array|Outs?|Host|ndarray|NDArray)\b")
FIRST = r"\.\.\.|\d* ?[A-Z][^\W_]?|[a-z]|num|n_rows|ranks|rows|tokens|outputs|heads D"
SHAPE = re.compile(          # (B, T, H), of x's shape, ...; or `x.shape` in an example
    rf"\((\.\.\.\)|({FIRST}),(\s*(\.\.\.|[\w' +*/-]{{1,20}}),?)*\))|\b[Ss]hapes?\b|\bbroadcast|\bby entry\b|"
    r"\b0-dimensional\b|\bwith length 1\b|\bone (number|element)\b|\.shape\b")
CALLED = {"forward", *vars(watching), *vars(Calls), "back", "call"}     # by `layer(x)`, and by the engine
DTYPE = re.compile(r"dtype|float(16|32|64|ing)|int(64|eger)|[Bb]oolean|True where|whole numbers")


def rooms(name: str, room: ModuleType) -> Iterator[tuple[str, ModuleType]]:
    """The modules that users see: this one, and those that it shows as its own."""
    yield name, room
    for key in dir(room):
        if not key.startswith("_") and key not in ("backends", *MISSING):
            below = getattr(room, key)
            if isinstance(below, ModuleType) and below.__name__.startswith(f"{room.__name__}."):
                yield from rooms(f"{name}.{key}", below)


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


def members(cls: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties of a class, but what Module, Tensor or a tuple gave it as it is."""
    for name in dir(cls):
        found = inspect.getattr_static(cls, name)
        owner = next(base for base in cls.__mro__ if name in vars(base))
        if not name.startswith("_") and isinstance(found, (FunctionType, property, classmethod, staticmethod)) and (
                owner is cls or owner not in (nn.Module, ts.Tensor, tuple)):
            yield name, found


ROOMS = dict(rooms("tinyseq", ts))
SHOWN = {f"{room}.{name}": value for room, module in ROOMS.items() for name, value in public(module)}
SHOWN |= {f"tinyseq.Tensor.{name}": value for name, value in {**vars(Standard), **vars(ts.Tensor)}.items()
          if not name.startswith("_") and isinstance(value, (FunctionType, property))}
MEMBERS = {(name, member): found for name, value in SHOWN.items() if inspect.isclass(value) and value is not ts.Tensor
           and not issubclass(value, Exception) for member, found in members(value)}


def docstring(name: str, member: str = "") -> tuple[type | None, str]:
    """What is said of a name, or a member of it: by the class itself or one above; and the class that says it."""
    value = SHOWN[name]
    if not member:
        return None, inspect.getdoc(value) or ""
    assert isinstance(value, type)
    texts = {base: getattr(getattr(found, "__func__", found), "__doc__", "") for base in value.__mro__
             if (found := vars(base).get(member))}
    return next(((base, text) for base, text in texts.items() if text), (None, ""))


def examples(name: str) -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder(recurse=inspect.isclass(SHOWN[name]))
    given = {"ts": ts, "nn": nn, "F": functional, "np": np}
    return [test for test in finder.find(SHOWN[name], name.rpartition(".")[2], globs=given) if test.examples]


@pytest.fixture
def ready(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A name whose examples may run now: in an empty folder, but for the files that they read."""
    name: str = request.param
    for needed in NEEDED.get(name.partition(".")[2], "").split():
        pytest.importorskip(needed, reason=f"{needed} is not installed (pip install 'tinyseq[examples,test]')")
    monkeypatch.chdir(tmp_path)
    zipfile.ZipFile(ROOT / "tests/data/frameworks/keras.zip").extract("model.keras")
    ts.manual_seed(0)
    return name


@pytest.mark.parametrize("ready", SHOWN, indirect=True)
def test_every_public_name_has_an_example_that_runs(ready: str) -> None:
    tests = examples(ready)
    assert tests, f"{ready} has no example (`>>> ...`) in its docstring"
    sources = "".join(example.source for test in tests for example in test.examples)
    assert "+SKIP" not in sources
    assert inspect.isclass(SHOWN[ready]) or ready.rpartition(".")[2] in sources, f"{ready} is not in its own example"
    for test in tests:
        runner = doctest.DocTestRunner(optionflags=OPTIONS, verbose=False)
        said: list[str] = []
        with ts.use_backend("numpy"):  # another one's name stands in what a Tensor prints
            runner.run(test, out=said.append)
        assert not runner.failures, "".join(said)


def test_every_room_is_on_the_site() -> None:
    listed = re.search(r'^ROOMS = """(.*?)"""', (ROOT / "docs/_extensions/api.py").read_text("utf-8"), re.DOTALL | re.M)
    assert listed and {*listed[1].split()} - {*MISSING} == {name.removeprefix("tinyseq.") for name in ROOMS}


# --- shapes and dtypes ------------------------------------------------------------------------------------------------


def of_tensors(value: Any) -> bool:
    """Whether it takes or gives tensors or arrays, as its annotations say; many under names are not looked into."""
    value = getattr(value, "fget", None) or getattr(value, "__func__", value)
    try:
        found = inspect.signature(value)
    except (TypeError, ValueError):
        return False
    said = [found.return_annotation, *(p.annotation for p in found.parameters.values())]
    return any(TENSORS.search(str(annotation)) for annotation in said)


SHAPED = [(name, "") for name, value in SHOWN.items() if of_tensors(value)]
SHAPED += [pair for pair, value in MEMBERS.items() if of_tensors(value)]


@pytest.mark.parametrize(("name", "member"), SHAPED)
def test_whatever_takes_or_gives_tensors_says_their_shapes(name: str, member: str) -> None:
    said = docstring(name, member)[1]
    assert SHAPE.search(said), f"{name} {member}: no shape, such as (B, T, H) or \"of x's shape\", in: {said}"


def dtypes(value: Any) -> Iterator[np.dtype[Any]]:
    """Those of tensors and arrays, in lists, tuples and dicts too."""
    if hasattr(value, "dtype"):
        yield np.dtype(value.dtype)
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ():
        yield from dtypes(part)


FUNCTIONS = [name for name, member in SHAPED if not member and not inspect.isclass(SHOWN[name])
             and not name.startswith("tinyseq.Tensor.")]


@pytest.mark.parametrize("ready", FUNCTIONS, indirect=True)
def test_a_dtype_that_no_argument_has_is_said(ready: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a function whose example has it."""
    function: Any = SHOWN[ready]
    new: set[np.dtype[Any]] = set()

    def watched(*args: Any, **options: Any) -> Any:
        result = function(*args, **options)
        new.update({*dtypes(result)} - {*dtypes((args, options))})
        return result

    room, _, name = ready.rpartition(".")
    monkeypatch.setattr(ROOMS[room], name, watched)
    for test in examples(ready):
        with ts.use_backend("numpy"):
            doctest.DocTestRunner(optionflags=OPTIONS, verbose=False).run(test, out=lambda said: None)
    said = re.sub(r"^\s*(>>>|\.\.\. ).*", "", docstring(ready)[1], flags=re.MULTILINE)
    assert not new or DTYPE.search(said), f"{ready} gives {new}, and does not say so"


# --- methods ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "member"), MEMBERS)
def test_every_method_says_what_it_does(name: str, member: str) -> None:
    """In its own docstring, or that of the method which it replaces; but what Module says of all is not enough."""
    cls = SHOWN[name]
    above, said = docstring(name, member)
    general = above is nn.Module and cls is not nn.Module and member != "extra_repr"
    assert said and not general, f"{name}.{member} has no docstring of its own"
    if member in ("forward", "step", "start", "read") and name.startswith("tinyseq.nn.") and cls is not nn.Module:
        assert re.search(r"\((B|E|\.\.\.)[,)]", said), f"{name}.{member} does not say of which shape x is: {said}"


def test_every_method_is_in_an_example() -> None:
    """Of its class, of another name or of a page that is run."""
    pages = "".join(page.read_text("utf-8") for page in ROOT.glob("docs/*.md"))
    blocks = re.findall(r"^```python\n(>>> .*?)^```$", pages, re.DOTALL | re.MULTILINE)
    texts = [doctest.DocTestParser().get_examples(block) for block in blocks]
    texts += [test.examples for name in SHOWN for test in examples(name)]
    shown = {name for text in texts for example in text for name in re.findall(r"\.(\w+)", example.source)}
    assert not [f"{name}.{member}" for name, member in MEMBERS if member not in shown | CALLED]


@pytest.mark.parametrize("name", [name for name in SHOWN if name.startswith("tinyseq.nn.")])
def test_the_examples_of_layers_print_what_comes_out(name: str) -> None:
    tests = doctest.DocTestFinder().find(SHOWN[name], name)
    assert any(example.want for test in tests for example in test.examples), f"{name}: its example shows nothing"
