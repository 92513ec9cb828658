"""Wrong calls: how arguments are checked, and how an error says in whose call, what was given, what was expected.

    size, layers = check.integers("GRU", 1, input_size=input_size, num_layers=num_layers)
    p = check.numbers("Dropout", least=0, below=1, p=p)
    check.choice("RNN", ("tanh", "relu"), nonlinearity=nonlinearity)

`integers` and `numbers` return plain Python numbers, so that what came as a narrow NumPy integer is not reckoned with
in its width. `explain` costs nothing before there is an error: it reads the names of the arguments, and what they
should be, from the signature of the public function that was called.
"""

from __future__ import annotations

import functools
import operator
import re
import reprlib
import sys
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter, Signature, signature
from types import CodeType, FrameType
from typing import Any, Concatenate, NoReturn, ParamSpec, TypeVar

import numpy as np

P = ParamSpec("P")
R = TypeVar("R")


def integers(where: str, least: int | None = None, most: int | None = None, /, **given: Any) -> Any:
    """The `given` integers from `least` to `most`: one int, or a tuple of them in their order.

    Anything with `__index__` but a bool is an integer. Another type is a TypeError, one out of range a ValueError.
    """
    return _within(where, "an integer", operator.index, given, least, most)


def numbers(where: str, *, least: float | None = None, above: float | None = None, most: float | None = None,
            below: float | None = None, **given: Any) -> Any:
    """The `given` real numbers as floats, one or a tuple, >= `least`, > `above`, <= `most`, < `below`; never NaN.

    Python's and NumPy's numbers and what has one element and `__float__` (a 0-dimensional Tensor) are taken; a bool or
    text is a TypeError, a number out of range a ValueError.
    """
    return _within(where, "a number", _real, given, least, most, above, below)


def _real(value: Any) -> float:
    if not hasattr(value, "__float__") or getattr(value, "size", 1) != 1:
        raise TypeError
    return float(value)


def _within(where: str, kind: str, convert: Callable[[Any], float], given: Mapping[str, Any], least: float | None,
            most: float | None, above: float | None = None, below: float | None = None) -> Any:
    values = []
    for name, value in given.items():
        try:
            number = convert(None if isinstance(value, (bool, np.bool)) else value)
            if number != number or (least is not None and number < least) or (most is not None and number > most) or (
                    above is not None and number <= above) or (below is not None and number >= below):
                raise ValueError
        except (TypeError, ValueError) as error:
            low = f"{least} <= " if least is not None else f"{above} < " if above is not None else ""
            high = f" <= {most}" if most is not None else f" < {below}" if below is not None else ""
            raise type(error)(f"{where}: expected {kind} {low}{name}{high}, got {describe(value)}") from None
        values.append(number)
    return values[0] if len(values) == 1 else tuple(values)


def choice(where: str, among: Sequence[Any], **given: Any) -> None:
    """Refuse, with a ValueError, what is not `among` the values that an argument can have."""
    for name, value in given.items():
        if not any(type(value) is type(x) and value == x for x in among):
            raise ValueError(f"{where}: expected {name} to be one of {', '.join(map(repr, among))}, got {value!r}")


def function(where: str, **given: Any) -> None:
    """Refuse, with a TypeError, what cannot be called."""
    _refuse(where, "a function", callable, given)


def layer(where: str, **given: Any) -> None:
    """Refuse, with a TypeError, what cannot be called as a layer, as its class cannot."""
    _refuse(where, "a module or a function", lambda value: callable(value) and not isinstance(value, type), given)


def shapes(where: str, wanted: Mapping[str, tuple[int, ...]], given: Mapping[str, Any]) -> None:
    """Refuse what of the `given`, by the names of `wanted`, is no array or has another shape. The error names all."""
    lists = [f"{k}: {type(given[k]).__name__}" for k in wanted if not hasattr(given[k], "shape")]
    if lists:  # nested lists in a hostile file are small there and without end as arrays
        raise ValueError(f"{where}: expected arrays, got {'; '.join(lists)}")
    wrong = [f"{k}: {tuple(given[k].shape)} given, {shape} here" for k, shape in wanted.items()
             if tuple(given[k].shape) != shape]
    if wrong:
        raise ValueError(f"{where}: wrong shapes: {'; '.join(wrong)}")


def arrays(where: str, wanted: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The `given` Tensors or arrays of any library, by the names of `wanted`, on the host: of the shapes that those
    have and of dtypes that can become theirs. A ValueError names all that are not."""
    shapes(where, {k: x.shape for k, x in wanted.items()}, given)
    found = {k: np.asarray(given[k]._host() if hasattr(given[k], "_host") else given[k], order="C") for k in wanted}
    wrong = [f"{k}: {describe(x)} given, {describe(wanted[k])} here" for k, x in found.items()
             if not np.can_cast(x.dtype, wanted[k].dtype, "same_kind")]
    if wrong:
        raise ValueError(f"{where}: wrong dtypes: {'; '.join(wrong)}")
    return found


def mapping(where: str, **given: Any) -> None:
    """Refuse, with a TypeError, what is no dictionary."""
    _refuse(where, "a dictionary", lambda value: isinstance(value, Mapping), given)


def instance(where: str, kind: Any, /, **given: Any) -> None:
    """Refuse, with a TypeError, what is no instance of a class, or of a union of classes."""
    def fits(value: Any) -> bool:
        return isinstance(value, kind)

    _refuse(where, getattr(kind, "__name__", kind), fits, given)


def _refuse(where: str, wanted: Any, fits: Callable[[Any], bool], given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        if not fits(value):
            raise TypeError(f"{where}: expected {name} to be {wanted}, got {describe(value)}")


REAL = frozenset({np.float32, np.float64, np.float16, np.int64, np.bool})  # dtypes that need no look


def dtype(value: Any) -> Any:
    """A dtype of real numbers or booleans; what is none is a TypeError."""
    if value not in REAL and not is_dtype(value):
        raise TypeError(f"expected a dtype of real numbers or booleans, got {value}")
    return value


def is_dtype(value: Any, kinds: str = "biuf") -> bool:
    """Whether that is a dtype of these kinds."""
    try:
        return value is not None and np.dtype(value).kind in kinds
    except TypeError:
        return False


def fitting(data: Any, dtype: Any) -> None:
    """Refuse numbers on the host that a narrower integer dtype does not hold: they would be others."""
    narrow = np.dtype(dtype).kind in "iu" and not np.can_cast(data.dtype, dtype)
    if narrow and isinstance(data, np.ndarray) and data.size:
        low, high, most = data.min(), data.max(), np.iinfo(dtype)
        if not (low >= most.min and high <= most.max):  # not of a NaN
            raise ValueError(f"expected numbers from {most.min} to {most.max} for {most.dtype}, got {low} to {high}")


def scalar(value: Any) -> Any:
    """Refuse what is no number: NumPy makes NaN of None, and broadcasts lists."""
    if not isinstance(value, (int, float)) and getattr(value, "ndim", 1) != 0:
        raise TypeError("expected a number")
    return value


def operand(x: Any) -> Any:
    """Refuse None and text, which NumPy's logic finds false or true."""
    if x is None or isinstance(x, str):
        raise TypeError("expected numbers")
    return x


def no_flag(axis: Any) -> Any:
    """Refuse a boolean, which is 0 or 1 to NumPy, as an axis: a flag stands in its place."""
    if type(axis) is bool:
        raise TypeError("expected an axis")
    return axis


# --- names that are not there ----------------------------------------------------------------------------------------


def public(module: str, *kinds: type) -> None:
    """What a module lists, as tab completion asks, is its `__all__`; another name, or one that these classes' objects
    lack, is an error that says what to write."""
    room = sys.modules[module]
    vars(room).update(__dir__=lambda: sorted(room.__all__), __getattr__=functools.partial(missing, room))
    for kind in kinds:
        setattr(kind, "__getattr__", missing)  # noqa: B010 - not in type checkers' sight


def missing(owner: object, name: str) -> NoReturn:
    """`__getattr__` of modules and classes: an error that says what to write in the place of a name."""
    if name[:2] == "__":  # what Python and NumPy ask for
        raise AttributeError(name)
    from tinyseq.names import missing as tell  # `from tinyseq import names` would ask here for it

    tell(owner, name)


# --- what an error says ----------------------------------------------------------------------------------------------


_SHORT = reprlib.Repr()
_SHORT.maxstring = 80  # so that a path is told whole
_LONG = reprlib.Repr()
_LONG.maxlist = 32  # tokens


def describe(a: Any) -> str:
    """An argument in an error: dtype and shape of an array, a short form of what is plain, the type of what is not."""
    if isinstance(a, type):
        return a.__name__
    if type(a).__name__ == "dtype" and hasattr(np, name := str(a).rpartition(".")[2]):  # PyTorch's
        return f"{a} (here ts.{name})"
    if hasattr(a, "dtype") and hasattr(a, "shape"):
        if not isinstance(a.dtype, np.dtype):
            return f"{kind_of(a)} of {a.dtype}{list(a.shape)}"
        return f"{a.dtype}{list(a.shape)}" if a.shape or not isinstance(a, np.generic) else repr(a)
    if isinstance(a, (list, tuple)) and _holds_array(a):
        return "[" + ", ".join(map(describe, a)) + "]"
    plain = (list, tuple, dict, set, str, bytes, int, float, complex, slice, np.dtype, type(None), type(...))
    return _SHORT.repr(a) if isinstance(a, plain) else kind_of(a)


def kind_of(a: Any) -> str:
    """The name of an argument's type: with its library's for an array of another, as torch.Tensor."""
    kind = type(a)
    foreign = hasattr(a, "__array__") and not isinstance(getattr(a, "dtype", None), np.dtype)
    return f"{kind.__module__.partition('.')[0]}.{kind.__name__}" if foreign else kind.__name__


def fields(a: Any) -> str:
    """The `repr` of a NamedTuple, with shapes in the place of arrays."""
    shown = {k: f"{v:.4g}" if isinstance(v, float) else _LONG.repr(v) if isinstance(v, list) and not _holds_array(v)
             else describe(v) for k, v in a._asdict().items()}
    return f"{type(a).__name__}({', '.join(f'{k}={v}' for k, v in shown.items())})"


def _holds_array(a: Any) -> bool:
    return any(map(_holds_array, a)) if isinstance(a, (list, tuple)) else hasattr(a, "dtype")


def _array(a: Any) -> bool:
    return (hasattr(a, "__array__") or (hasattr(a, "dtype") and hasattr(a, "shape"))) and not isinstance(a, type)


def _number(a: Any) -> bool:
    return isinstance(a, (int, float, np.number)) or (_array(a) and not getattr(a, "shape", None))


def _integer(a: Any) -> bool:
    return hasattr(a, "__index__") and not isinstance(a, (bool, np.bool))


def _integers(a: Any) -> bool:
    return isinstance(a, (list, tuple, range, np.ndarray)) and all(map(_integer, a))


_FITTING: dict[str, tuple[str, Callable[[Any], bool]]] = {  # by annotation: what to call it, and what it is
    "Tensor": ("a Tensor or an array", _array),
    "Like": ("a Tensor, an array or a number", lambda a: _array(a) or _number(a) or isinstance(a, (list, tuple))),
    "Sequence[Like]": ("a list or tuple of Tensors", lambda a: isinstance(a, (list, tuple)) and any(map(_array, a))),
    "Axis": ("an integer, a tuple of integers or None", lambda a: a is None or _integer(a) or _integers(a)),
    "Shape": ("an integer or a sequence of integers", lambda a: _integer(a) or _integers(a)),
    "Sequence[int]": ("a sequence of integers", _integers),
    "int": ("an integer", _integer),
    "float": ("a number", _number),
    "str": ("text", lambda a: isinstance(a, str)),
    "dtype": ("a dtype of real numbers or booleans", is_dtype),
}
_FITTING["int | Sequence[int]"] = _FITTING["Shape"]


def called(function: Any, name: str) -> Any:
    """A function under the `name` that profiles and tracebacks show, which they read in its code; what is made in it,
    the pull-backs of an op, has that name in front."""

    def renamed(code: CodeType, name: str) -> CodeType:
        inner = [(c, c.co_name.replace("<lambda>", "pull")) if isinstance(c, CodeType) else (c, "<")
                 for c in code.co_consts]
        consts = tuple([c if n.startswith("<") else renamed(c, f"{name}.{n}") for c, n in inner])
        return code.replace(co_name=name, co_qualname=name, co_consts=consts)

    if hasattr(function, "__code__"):
        function.__code__ = renamed(function.__code__, name)
    return function


def explained(function: Callable[P, R]) -> Callable[P, R]:
    """A public function that is made of others: its errors name it and its arguments, as an op's do."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except (TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
            raise explain(error, function, args, kwargs) from error

    return called(call, function.__name__)  # type: ignore[no-any-return]


def users_frame() -> FrameType:
    """The innermost frame outside tinyseq."""
    frame = sys._getframe(1)
    while frame.f_back and frame.f_globals.get("__name__", "").partition(".")[0] == "tinyseq":
        frame = frame.f_back
    return frame


def frames(error: Exception) -> list[FrameType]:
    """From the outermost caller of who caught an error to where it was raised."""
    from traceback import walk_stack, walk_tb  # here, as only errors have a use for it

    trace: Any = error.__traceback__
    return [frame for frame, _ in [*[*walk_stack(trace.tb_frame)][:0:-1], *walk_tb(trace)]]


def constructor(init: Callable[Concatenate[Any, P], None]) -> Callable[Concatenate[Any, P], None]:
    """An `__init__`, of a private base too: arguments that are missing, unknown or too many are an error that names the
    class that was called, with all that it takes, and before it the one that was making it."""

    def make(self: Any, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            init(self, *args, **kwargs)
        except TypeError as error:
            if error.__traceback__ is None or error.__traceback__.tb_next:  # from within
                raise
            maker = next(frame for frame in frames(error) if frame.f_code is make.__code__).f_locals["self"]
            owner = "" if maker is self else f"{type(maker).__name__}: "
            raise TypeError(owner + misfit(error, type(self).__name__, init, kwargs)) from None

    return functools.wraps(init)(make)  # type: ignore[return-value]


def misfit(error: Exception, name: str, function: Callable[..., Any], given: Mapping[str, Any]) -> str:
    """What Python says of a call whose arguments a function does not take, in words: with all that it takes, or what to
    write for an argument that it does not know."""
    takes = [p.replace(annotation=p.empty) for p in signature(function).parameters.values() if p.name != "self"]
    unknown = next((word for word in given if word not in [p.name for p in takes]), "")
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in takes):
        from tinyseq import names

        return f"{name}: {names.unknown(unknown, [p.name for p in takes])}"
    lack = str(error).partition("() ")[2]
    lack = "too many arguments by place" if lack.startswith("takes") else lack
    return re.sub(r"<class '[\w.]*\b(\w+)'>", r"\1", f"{name}{Signature(takes)}: {lack}")


def explain(error: Exception, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Exception:
    """An `error` with the name and the arguments of the public function that was called, and with the class, or the
    function of another kind, that called that."""
    from tinyseq import names

    owner, frame = "", sys._getframe(2)
    while frame and frame.f_globals.get("__name__", "").startswith("tinyseq"):
        room, path = frame.f_globals["__name__"].partition(".")[2], frame.f_code.co_qualname.split(".")
        public = not any(part.startswith(("_", "<")) for part in path)
        if room == "engine.gradients" and public:  # the engine on its way back
            break
        if not room.startswith(("check", "engine.", "functional.")) and (public or "self" in frame.f_locals):
            owner = type(frame.f_locals["self"]).__name__ if "self" in frame.f_locals else path[-1]
        frame = frame.f_back  # type: ignore[assignment]
    text, name, parameters = str(error), function.__name__.lstrip("_"), signature(function).parameters
    unknown = next((key for key in kwargs if key not in parameters), "")
    whole = "" if isinstance(error, IndexError) or "missing" in text else names.by_place(name, list(parameters), args)
    if unknown or whole or not text.startswith(f"{name}("):  # as an inner call has told already
        named = {**dict(zip(parameters, args, strict=False)), **kwargs}
        shown = ", ".join(f"{'x' if key == 'self' else key}={describe(a)}" for key, a in named.items()
                          if key != "self" or _array(a))
        misfit = "" if isinstance(error, IndexError) else _misfit(named, parameters, error)
        if unknown or whole:
            misfit = whole or names.unknown(unknown, list(parameters))
        text = f"{name}({shown}): {misfit or text.removeprefix(f'{name}: ')}"
    text = f"{owner}: {text}" if owner and not text.startswith(f"{owner}: ") else text
    # NumPy has subclasses; an attribute that is missing means that the argument is no tensor
    bases = {AttributeError: TypeError, TypeError: TypeError, IndexError: IndexError}
    kind = next((bases[base] for base in type(error).__mro__ if base in bases), ValueError)
    return kind(text)


def _misfit(named: Mapping[str, Any], parameters: Mapping[str, Any], error: Exception) -> str:
    """Which argument is not what its annotation says, in words; or nothing."""
    for name, value in named.items():
        kind = parameters[name].annotation if name in parameters else ""
        if value is None and (not kind or parameters[name].default is None or str(kind).endswith("None")):
            continue
        kind = name if name == "dtype" else "Like" if kind is Parameter.empty else str(kind).removesuffix(" | None")
        words, fits = _FITTING.get(kind, ("", lambda a: True))
        if isinstance(error, AttributeError) and getattr(error, "obj", error) is value and not (
                isinstance(getattr(value, "dtype", None), np.dtype)):
            words, fits = _FITTING["Tensor"][0], lambda a: False
        if not fits(value):
            return f"expected {name} to be {words}, got {describe(value)}"
    return ""
