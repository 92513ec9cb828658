"""Models as files that other programs run: ONNX, by running the model and writing down what it computed.

A model is run on an example at three sizes of the axes that may vary, and the ops that it calls are compared: what is
the same each time is a constant, and what is not has to follow from the length of an axis that is at hand, or it is
refused. So no size of the example stays in the file. Recurrent layers are one node each, other ops one or a few, and
what has no form of its own is traced into (the definition of a kernel, or the body of an op, on Tensors).
"""

from __future__ import annotations

import inspect
import itertools
import math
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Never

import numpy as np

from tinyseq import backends, check, checkpoint
from tinyseq.engine import ops
from tinyseq.engine.autograd import Slots
from tinyseq.engine.debug import flat
from tinyseq.engine.graph import no_grad
from tinyseq.engine.tensor import Tensor
from tinyseq.glance.calls import Calls
from tinyseq.nn.convolution import Conv1d
from tinyseq.nn.language import LanguageModel
from tinyseq.nn.module import Module
from tinyseq.nn.recurrent import GRU, LSTM, RNN, weights_of
from tinyseq.nn.seq2seq import DecoderState
from tinyseq.nn.steps import LanguageState, Stack

__all__ = ["onnx"]
check.public(__name__)

Array = Any
Names = tuple[str | None, ...]  # of the axes of an input; None for one that does not vary
Given = list[tuple[str, Any]]   # arguments with their names

OPSET, IR = 18, 8               # of ONNX 1.13, which onnxruntime reads from 1.14 on
LARGEST = 2**31 - 2**20         # bytes of a file of Protocol Buffers; weights beyond that stand in a file beside it
_lock = threading.RLock()       # of Tensor.item, while a model is traced
LAYERS = {RNN: "RNN", GRU: "GRU", LSTM: "LSTM"}
GATES = {"RNN": [0], "GRU": [1, 0, 2], "LSTM": [0, 3, 1, 2]}    # ours in the order of ONNX: z, r, h and i, o, f, c
# In which order a small, a middle and a large size are tried of each axis that varies: another for each, so that what
# grows with one axis, in whatever way, is never as long as another. What is added to them differs too.
ORDERS = {(0, 1, 2): 3, (1, 2, 0): 5, (2, 0, 1): 7, (0, 2, 1): 11, (1, 0, 2): 13}


class _NotInOnnx(Exception):
    """What ONNX, or onnxruntime, cannot do."""


class _Length(tuple[int, ...]):
    """An integer that varies: what it is at each of the sizes."""


class _Value(NamedTuple):
    """A tensor of the graph. Its shape has a `_Length` where it varies."""

    name: str
    dtype: Any
    shape: tuple[Any, ...] = ()


class _Call(NamedTuple):
    """A call of an op, or of a recurrent layer, in the module `path`, on arrays."""

    name: str
    path: str
    args: list[Any]
    outs: list[Array]


def onnx(model: Any, path: str | os.PathLike[str], *example: Any,
         axes: Mapping[str, Sequence[str | None]] | None = None, **options: Any) -> None:
    """Write what `model(*example, **options)` computes as an ONNX file, for any batch and any length.

        model      a Module after `eval()`, with weights of float32, or a method of one: `decoder.step`
        example    what it takes: arrays, also of no axes, lists of numbers, tuples and dictionaries of them are inputs
                   of the file, named after the arguments (`x`, `lengths`, `state_0`); all else is as it is given here
        axes       names of the axes of an input that may vary, None for one that does not: {"h0": (None, "batch",
                   None)}. Axes of one name have one length

    Unless `axes` say otherwise, the first axis of the first input is the batch, and the second one of ids (B, T) and of
    vectors (B, T, F) is time; in other inputs axes of the same lengths are the same. Integers are int64. The outputs
    are "output", or of a tuple output_0 and so on; what comes out as it went in is left out.

    The model is run three times, at other sizes than the example's, which may be as small as you like. RNN, GRU and
    LSTM become nodes of that name, with `sequence_lens` from `lengths`; initialisers have the names of the state_dict,
    so that `checkpoint.load` and `nn.convert.from_onnx_nodes` read them back. `LanguageModel.step` and the `step` of
    other stacks take the cache as a tensor: state_cache, whose fifth axis is what was read so far, and return it one
    longer as output_1; begin with an empty one. Needs onnx (`pip install 'tinyseq[onnx]'`), to run the file none of
    tinyseq.

    >>> tagger = nn.Sequential(nn.Embedding(100, 8), nn.Linear(8, 3)).eval()
    >>> ts.export.onnx(tagger, "tagger.onnx", [[1, 2, 3], [4, 5, 6]])

    Errors: checkpoint.CheckpointError, or CheckpointOSError, for a path that cannot be written. ValueError for a model
    in training mode, for weights of another dtype, and, by name, for what ONNX or onnxruntime cannot do: cells that run
    step by step, numbers that NumPy or Python computed from the input, such as int(x.sum()), dropout. A branch of
    Python's on a shape, or on what `.numpy()` gave, is refused only if it goes another way at one of the three sizes.
    """
    try:
        import onnx as package
    except ImportError as error:
        raise ImportError("export.onnx needs onnx; run: pip install 'tinyseq[onnx]'") from error
    owner = model if isinstance(model, Module) else getattr(model, "__self__", model)
    check.instance("export.onnx", Module, model=owner)
    check.instance("export.onnx", str | os.PathLike, path=path)
    check.mapping("export.onnx", axes=axes or {})
    target = Path(path)
    with checkpoint._blame(f"export.onnx: path {path}"):
        if target.is_dir():
            raise ValueError("expected the name of a file, this is a folder")
        target.parent.stat()
    _refuse(owner)
    try:
        inputs, traces = _traced(owner, *_called(model, owner, example, options), axes or {})
        graph = _Ops(package, owner)
        proto = graph.model(inputs, traces)
    except _NotInOnnx as error:
        raise ValueError(f"export.onnx: {error}") from None
    whole = sum(len(tensor.raw_data) for tensor in graph.weights.values()) < LARGEST
    with checkpoint._blame(f"export.onnx: path {path}"):
        if not whole:
            target.with_name(f"{target.name}.data").unlink(missing_ok=True)  # onnx writes behind what is there
            package.save_model(proto, target, save_as_external_data=True, location=f"{target.name}.data")
    try:
        package.checker.check_model(proto if whole else target, full_check=True)
    except (package.checker.ValidationError, package.shape_inference.InferenceError) as error:
        raise ValueError(f"export.onnx: ONNX has no such node: {error}") from error
    with checkpoint._blame(f"export.onnx: path {path}"):
        if whole:
            checkpoint._replace(target, lambda file: file.writelines([proto.SerializeToString()]))


def _refuse(owner: Module) -> None:
    """Refuse a model that cannot be exported, whatever it computes."""
    for name, module in [("", owner), *owner.named_modules()]:
        label = f"{name or 'the model'}, {type(module).__name__}"
        if module.training:
            raise ValueError(f"export.onnx: expected a model after eval(), got {label}, in training mode")
        if any(rotary is not None and rotary.rope_type == "dynamic" for rotary in getattr(module, "_rotary", ())):
            raise ValueError(f"export.onnx: {label}, has dynamic rotary positions, which change with the length of the "
                             "text: they are not written")
    for name, tensor in owner.named_tensors():
        if tensor.dtype.kind == "f" and tensor.dtype != np.float32:
            raise ValueError(f"export.onnx: expected weights of float32, got {name} of {tensor.dtype}: "
                             "model.to(ts.float32) before")


# --- what the model is given ------------------------------------------------------------------------------------------

def _called(model: Any, owner: Module, example: Any, options: Any) -> tuple[Any, Given, dict[str, Names]]:
    """The function to run, its arguments with their names, and the axes of those that are known."""
    own: Any = getattr(model, "__func__", None)
    if isinstance(owner, Stack) and own and own.__name__ == "step" and own.__module__.startswith("tinyseq."):
        return _stack_step(owner, *example, **options)
    takes = inspect.signature(owner.forward if model is owner else model)
    try:
        bound = takes.bind(*example, **options)
    except TypeError as error:
        raise TypeError(f"export.onnx: the example does not fit {type(owner).__name__}{takes}: {error}") from None
    many = inspect.Parameter.VAR_POSITIONAL
    names = [name for name in bound.arguments if takes.parameters[name].kind < many]
    more = [f"args_{i}" for i in range(len(bound.args) - len(names))]
    given = [*zip([*names, *more], bound.args, strict=False), ("", bound.kwargs)]
    known: dict[str, Names] = {}
    if isinstance(owner, (*LAYERS, Conv1d)):
        known |= dict.fromkeys(("h0", "state", "state_0", "state_1"), (None, "batch", None))
    for name, value in [*given[:-1], *bound.kwargs.items()]:
        known |= _decoder_axes(name, value) if isinstance(value, DecoderState) else {}
    return lambda *args: model(*args[:-1], **args[-1]), given, known


def _decoder_axes(name: str, state: DecoderState) -> dict[str, Names]:
    """The axes of the parts of a decoder's state, but for what its attention keeps."""
    found: dict[str, Names] = {}
    for field, begin in (("hidden", ("batch",)), ("memory", ("batch", "memory")), ("mask", ("batch", "memory")),
                         ("weights", ("batch", "memory")), ("fed", ("batch",))):
        def note(key: str, part: Any, begin: Names = begin) -> None:
            found[key] = (*begin, *[None] * (part.ndim - len(begin)))

        _mapped(note, f"{name}_{field}", getattr(state, field))
    return found


def _stack_step(stack: Any, x: Any, state: LanguageState) -> tuple[Any, Given, dict[str, Names]]:
    """`stack.step(x, state)` as a function of tensors alone, by the ops of a whole sequence."""
    check.instance("export.onnx", LanguageState, state=state)
    language = isinstance(stack, LanguageModel)

    def step(x: Tensor, parts: dict[str, Any]) -> tuple[Tensor, Tensor]:
        cache, n = parts["cache"], parts["cache"].shape[4]
        state = LanguageState(cache, n, np.array(n), parts["starts"], tuple(parts["memory"]), parts["mask"])
        x = stack._place(stack.embedding(x[:, None]), n, state.starts) if language else x[:, None]
        y, kept = stack._read(x, state)
        new = ops.stack([ops.stack(list(pair), 1) for pair in kept], 1)
        return (stack.out(y) if language else y)[:, 0], ops.concat([cache, new], 4)

    if not state.length:
        raise ValueError("export.onnx: expected an example's state after a position or more, got one of length 0: take "
                         "a step before; what runs the file may begin with none")
    memory: dict[str, Names] = {f"state_memory_{i}_{k}": ("batch", None, "memory", None)
                                for i in range(len(state.memory)) for k in range(2)}
    parts = {"cache": state.cache[..., : state.length, :], "starts": state.starts, "memory": state.memory,
             "mask": state.mask}
    return step, [("tokens" if language else "x", x), ("state", parts)], {
        "state_cache": ("batch", None, None, None, "past", None), "state_mask": ("batch", "memory"), **memory}


def _label(owner: Module, path: str) -> str:
    """The name and kind of a module of the model."""
    return f"{path or 'the model'}, {type(dict(owner.named_modules()).get(path, owner)).__name__}"


def _is_array(x: Any) -> bool: return hasattr(x, "ndim") and not isinstance(x, np.generic)


def _mapped(change: Callable[[str, Any], Any], name: str, value: Any) -> Any:
    """`value` with change(name, array) in the place of each array and each list of numbers."""
    def below(key: Any, part: Any) -> Any: return _mapped(change, f"{name}_{key}" if name else str(key), part)

    if isinstance(value, dict):
        return {key: below(key, part) for key, part in value.items()}
    if hasattr(value, "_fields"):
        return type(value)(*map(below, value._fields, value))
    if isinstance(value, tuple) or (isinstance(value, list) and any(map(_is_array, value))):
        return type(value)(itertools.starmap(below, enumerate(value)))
    return change(name, value) if isinstance(value, list) or _is_array(value) else value


def _named(inputs: Mapping[str, Any], told: Mapping[str, Any]) -> tuple[dict[str, Names], dict[str, int]]:
    """The names of the axes of each input, and their lengths in the example."""
    found: dict[str, Names] = {}
    lengths: dict[str, int] = {}
    for name, array in inputs.items():
        found[name] = tuple(told[name]) if name in told else _usual(name, array, lengths)
        for axis, n in zip(found[name], array.shape, strict=False):
            if not n or len(found[name]) != array.ndim or (axis and lengths.setdefault(axis, n) != n):
                raise ValueError("export.onnx: expected a name or None for each axis, of 1 or more, and one length for "
                                 f"axes of one name, got {name} {array.shape} with axes {found[name]} and {lengths}")
    if told.keys() - inputs.keys() or len(lengths) > len(ORDERS):
        raise ValueError(f"export.onnx: expected axes= of inputs, {[*inputs]}, and at most {len(ORDERS)} that vary, "
                         f"got {[*told]} and {[*lengths]}")
    return found, lengths


def _usual(name: str, array: Any, lengths: Mapping[str, int]) -> Names:
    """The axes of an input that nobody named, beside those that were met before."""
    names: list[str | None] = [None] * array.ndim
    batch = lengths.get("batch", *array.shape[:1])
    if batch not in array.shape[:2]:
        return tuple(names)
    names[array.shape.index(batch)] = "batch"
    times = {n: axis for axis, n in lengths.items() if axis != "batch"}
    sequence = array.ndim == 3 or (array.ndim == 2 and array.dtype.kind != "f")
    for i in range(1, 2 if array.ndim == 3 and array.dtype.kind == "f" else array.ndim):
        if names[0] == "batch" and (array.shape[i] in times or (i == 1 and sequence)):
            names[i] = times.get(array.shape[i], f"{name}_time" if times else "time")
    return tuple(names)


def _resized(array: Any, names: Names, sizes: Mapping[str, int], k: int) -> Any:
    """An example of other sizes and, so that nothing of it stays in the file, of other numbers, integers no larger."""
    for axis, name in enumerate(names):
        if name is not None:
            array = np.take(array, np.arange(sizes[name]) % array.shape[axis], axis)
    array = np.roll(array, k) if array.ndim else array
    if array.dtype == np.bool:  # so that how many are true is no length
        return array ^ (np.arange(array.size).reshape(array.shape) ** 2 % 7 == k)
    if array.dtype.kind == "f":
        return array * np.float32((1, -0.875, 0.75)[k])  # of other signs, which branches look at
    return np.maximum(array - (k == 2), 0) if array.dtype.kind == "i" else array


# --- what it computes -------------------------------------------------------------------------------------------------

def _traced(owner: Module, function: Any, given: Given, known: Mapping[str, Names],
            told: Mapping[str, Any]) -> tuple[dict[str, Names], list[Any]]:
    """The inputs with the names of their axes; and at each of the sizes the Tensors given, calls, and outputs."""
    inputs: dict[str, Any] = {}

    def note(name: str, value: Any) -> None:
        inputs[name] = array = ops.asarray(value)._host()
        inputs[name] = array = array.astype(np.int64) if array.dtype.kind in "iu" else array
        if array.dtype not in (np.float32, np.int64, np.bool):
            raise ValueError(f"export.onnx: expected float32, integers or booleans, got {name} of {array.dtype}")

    for pair in given:
        _mapped(note, *pair)
    axes, lengths = _named(inputs, {name: known[name] for name in known if name in inputs} | dict(told))
    home, traces = next((tensor for _, tensor in owner.named_tensors()), None), []
    window = max([getattr(module, "window", None) or 0 for module in owner.modules()])
    if short := [axis for axis, n in lengths.items() if axis != "batch" and n < window]:
        raise ValueError(f"export.onnx: expected an example as long as the windows of attention, {window}, which show "
                         f"in longer ones alone, got {short} of {lengths}")
    for k in range(3):
        sizes = {axis: (n + 1, n + 1 + more, 2 * n + 2 + more)[order[k]]
                 for (axis, n), (order, more) in zip(lengths.items(), ORDERS.items(), strict=False)}
        arrays = {name: _resized(array, axes[name], sizes, k) for name, array in inputs.items()}
        tensors = {name: ops.asarray(a) if home is None else ops.like(home, a) for name, a in arrays.items()}
        trace, outputs = _Trace(owner, [tensor._data for tensor in tensors.values()]), dict[str, Any]()
        try:
            with no_grad(), trace, _items_by(trace), np.errstate(all="ignore"):  # of log(x), where x changed its sign
                out = function(*[_mapped(lambda name, _: tensors[name], *pair) for pair in given])  # noqa: B023
        except (TypeError, ValueError, IndexError, RuntimeError) as error:
            shapes = [f"{name} (" + ", ".join(f"{axis}={n}" if axis else str(n) for axis, n in zip(
                axes[name], tensor.shape, strict=True)) + ")" for name, tensor in tensors.items()]
            raise ValueError(f"export.onnx: the model refuses the example at another size, {', '.join(shapes)}: say "
                             f"which axes vary, axes={{...}}, or give a smaller example: {error}") from error
        _mapped(outputs.__setitem__, "output", out)
        traces.append((tensors, trace.calls, outputs))
    return axes, traces


def _array(y: Any) -> Array:
    return y if type(y) in backends.arrays else np.asarray(y)


def _unwrapped(value: Any) -> Any:
    """Arrays in the place of Tensors."""
    if isinstance(value, (list, tuple)):
        return [_unwrapped(part) for part in value]
    return value._data if isinstance(value, Tensor) else value


def _wrapped(value: Any) -> Any:
    """Tensors in the place of arrays that are operands."""
    if type(value) is Slots:
        return [_wrapped(part) for part in value]
    return Tensor(value) if type(value) in backends.arrays else value


class _Trace(Calls):
    """A run of the model: the ops that it calls, and its recurrent layers as one call each."""

    def __init__(self, owner: Module, given: Sequence[Array]) -> None:
        super().__init__()
        self.owner, self.given = owner, given
        self.calls: list[_Call] = []
        self.path, self.whole, self.running = "", False, list[Any]()
        self.names = {id(module): name for name, module in owner.named_modules()}
        self.definitions = {f.body: f.definition for room, module in [*sys.modules.items()]
                            if room.startswith("tinyseq.") for f in vars(module).values()
                            if getattr(f, "definition", None) is not None and hasattr(f, "body")}

    def call(self, plain: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        module, above = args[0], self.path
        self.path = self.names.get(id(module), above)
        try:
            if type(module) not in LAYERS or "forward" in vars(module) or getattr(module, "proj_size", None):
                return plain(*args, **kwargs)
            given = inspect.signature(module.forward).bind(*args[1:], **kwargs).arguments
            self.whole = True
            y, final = plain(*args, **kwargs)
            state = given.get("state", given.get("h0"))
            parts = [] if state is None else [*state] if isinstance(state, (list, tuple)) else [state]
            self._add("recurrent", [module, given["x"], parts, given.get("lengths")],
                      [y, *final] if isinstance(final, tuple) else [y, final])
            return y, final
        finally:
            self.path, self.whole = above, False

    def run(self, body: Any, raw: list[Any], kwargs: dict[str, Any]) -> Any:
        if self.whole:
            return body(*raw, **kwargs)
        name, ours = body.__name__.lstrip("_"), body.__module__.startswith("tinyseq.")
        bound = inspect.signature(body).bind(*raw, **kwargs)
        bound.apply_defaults()
        if ours and name in vars(_Ops):
            out, _ = body(*raw, **kwargs)
            out = tuple(map(_array, out)) if type(out) is tuple else _array(out)
            self._add(name, [*bound.arguments.values()], out if type(out) is tuple else [out])
            return out, None
        out = None
        if body not in self.running:
            self.running.append(body)
            args, options = [_wrapped(x) for x in bound.args], {key: _wrapped(x) for key, x in bound.kwargs.items()}
            out = self.definitions[body](*args, **options) if body in self.definitions else body(*args, **options)[0]
            self.running.pop()
        if not all(isinstance(y, Tensor) for y in (out if isinstance(out, tuple) else [out])):
            raise _NotInOnnx(f"`{name}` has no form in ONNX here")
        return tuple(_unwrapped(out)) if isinstance(out, tuple) else out._data, None

    def item(self, plain: Callable[..., Any], tensor: Tensor) -> Any:
        """What `tensor.item()` returns, unless it follows from what is given."""
        varies = {*map(id, self.given)}
        for call in self.calls:
            if not varies.isdisjoint(map(id, flat(call.args))):
                varies.update(map(id, flat(call.outs)))
        if id(tensor._data) in varies:
            raise _NotInOnnx(f"{_label(self.owner, self.path)}: item(), int(), float() or bool() of what depends "
                             "on the input would stay as it is: use functions of tinyseq, such as ts.where")
        return plain(tensor)

    def _add(self, name: str, args: list[Any], outs: Any) -> None:
        self.calls.append(_Call(name, self.path, _unwrapped(args), _unwrapped(outs)))


@contextmanager
def _items_by(trace: _Trace) -> Iterator[None]:
    """Ask `trace` for what `item()` of this thread's Tensors returns; int(), float() and bool() call it, too."""
    plain = Tensor.item

    def item(tensor: Tensor) -> Any: return trace.item(plain, tensor) if trace in trace.stack.get() else plain(tensor)

    with _lock:
        setattr(Tensor, "item", item)  # noqa: B010 - not in type checkers' sight
        try:
            yield
        finally:
            setattr(Tensor, "item", plain)  # noqa: B010


# --- what stands in the file ------------------------------------------------------------------------------------------

class _Graph:
    """Nodes, weights and values of the file, as far as it is written."""

    def __init__(self, package: Any, owner: Module) -> None:
        self.helper, self.numpy = package.helper, package.numpy_helper
        self.owner, self.nodes = owner, list[Any]()
        self.weights: dict[str, Any] = {}
        self.path = ""
        self.known: dict[tuple[int, ...], _Value] = {}          # by the ids of an array at each of the sizes
        self.axes: dict[_Length, tuple[str, int]] = {}          # of each length that varies, a value that has it
        self.made: dict[Any, str] = {}                          # lengths and constants
        self.tensors = dict(owner.named_tensors())
        for name, tensor in self.tensors.items():
            self.known.setdefault((id(tensor._data),) * 3, _Value(name, tensor.dtype, tensor.shape))

    def __call__(self, kind: str, *inputs: Any, outputs: int = 1, name: str = "", **attributes: Any) -> Any:
        """The name of a new node's output, or those of several. Integers among the inputs become constants."""
        names = [x if isinstance(x, str) else x.name if isinstance(x, _Value) else self.ints(x) for x in inputs]
        for weight in self.tensors.keys() & {*names} - self.weights.keys():
            self.weight(weight, self.tensors[weight]._host())
        label = name or f"{self.path}/{kind}_{len(self.nodes)}"
        made = [label] if outputs == 1 else [f"{label}.{i}" for i in range(outputs)]
        self.nodes.append(self.helper.make_node(kind, names, made, label, **attributes))
        return made[0] if outputs == 1 else made

    def refuse(self, text: str) -> Never:
        raise _NotInOnnx(f"{_label(self.owner, self.path)}: {text}")

    def weight(self, name: str, array: Any) -> str:
        self.weights[name] = self.numpy.from_array(np.ascontiguousarray(array), name)
        return name

    def constant(self, data: Any, dtype: Any = None) -> str:
        array = np.asarray(data, dtype)
        key = (array.dtype, array.shape, array.tobytes())
        if key not in self.made:
            self.made[key] = self("Constant", value=self.numpy.from_array(array))
        return self.made[key]

    def type(self, dtype: Any) -> int:
        return int(self.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def cast(self, x: Any, dtype: Any) -> Any:
        """The name of a value, or of a number that may vary, as a `dtype`."""
        if isinstance(x, _Length):
            x = _Value(self("Squeeze", self.length(x)), np.dtype(np.int64))
        if not isinstance(x, _Value):
            return self.constant(x, dtype)
        return x.name if x.dtype == dtype else self("Cast", x, to=self.type(dtype))

    # --- lengths
    def ints(self, numbers: Any) -> str:
        """An integer (), or several (n,) of which some may vary."""
        if not isinstance(numbers, (list, tuple)) or not any(isinstance(n, _Length) for n in numbers):
            return self.constant(numbers, np.int64)
        parts = [self.length(n) if isinstance(n, _Length) else self.constant([n]) for n in numbers]
        return str(parts[0] if len(parts) == 1 else self("Concat", *parts, axis=0))

    def length(self, n: _Length) -> str:
        """An integer (1,) that varies, from a length at hand."""
        if n not in self.made:
            self.made[n] = self._derived(n)
        return self.made[n]

    def _derived(self, n: _Length) -> Any:
        if n in self.axes:
            name, axis = self.axes[n]
            return self("Shape", name, start=axis, end=axis + 1)
        for s in self.axes:
            m, rest = divmod(n[1] - n[0], s[1] - s[0]) if s[1] != s[0] else (0, 1)
            if m > 0 and not rest and all(v - n[0] == m * (u - s[0]) for u, v in zip(s, n, strict=True)):
                return self("Add", self("Mul", self.length(s), [m]), [n[0] - m * s[0]])
            for m in (2, 3, 4):
                for part in (1, m):
                    if all(v == u // m * part for u, v in zip(s, n, strict=True)):
                        return self("Mul", self("Div", self.length(s), [m]), [part])
        for s, t in itertools.combinations_with_replacement(self.axes, 2):
            for kind, both in (("Mul", np.multiply), ("Add", np.add)):
                if (both(s, t) == n).all():
                    return self(kind, self.length(s), self.length(t))
        self.refuse(f"a number that is {n[0]}, {n[1]} and {n[2]} at the sizes that were tried does not follow from the "
                    "length of an axis: compute it by functions of tinyseq")

    # --- what the model was given and computed
    def merged(self, parts: Sequence[Any]) -> Any:
        """An argument, as it was at each of the sizes."""
        first = parts[0]
        if all(type(part) in backends.arrays for part in parts):
            return self.value(parts)
        if isinstance(first, slice):
            return slice(*(self.merged([getattr(s, end) for s in parts]) for end in ("start", "stop", "step")))
        if isinstance(first, (list, tuple)) and len({len(part) for part in parts}) == 1:
            return [self.merged(each) for each in zip(*parts, strict=True)]
        if all(part is first or (type(part) is type(first) and part == first) for part in parts):
            return first
        if all(type(part) is int for part in parts):
            return _Length(parts)
        self.refuse(f"it is given {', '.join(map(check.describe, parts))} at the sizes that were tried: compute what "
                    "depends on the input by functions of tinyseq")

    def shape(self, arrays: Sequence[Array]) -> tuple[Any, ...]:
        return tuple(self.merged([tuple(array.shape) for array in arrays]))

    def note(self, name: str, arrays: Sequence[Array]) -> _Value:
        """Remember what the arrays are called, and which lengths they have."""
        value = self.known[tuple(map(id, arrays))] = _Value(name, arrays[0].dtype, self.shape(arrays))
        for axis, n in enumerate(value.shape):
            if isinstance(n, _Length):
                self.axes.setdefault(n, (name, axis))
        return value

    def value(self, arrays: Sequence[Array]) -> _Value:
        key = tuple(map(id, arrays))
        if key not in self.known:
            self.known[key] = _Value(self._given(arrays), arrays[0].dtype, self.shape(arrays))
        return self.known[key]

    def _given(self, arrays: Sequence[Array]) -> Any:
        """Arrays that no op computed: constants, or what follows from lengths, all one number or in equal steps."""
        host = [backends.of(a).asnumpy(a) for a in arrays]
        shape, first, kind = self.shape(arrays), host[0], host[0].dtype
        if all(a.shape == first.shape and np.array_equal(a, first, equal_nan=kind.kind == "f") for a in host):
            return self.constant(first)
        if all(a.size and (a == first.flat[0]).all() for a in host):
            return self("Expand", self.constant(first.flat[0], kind), self.ints(shape))
        flat = [a.reshape(-1) for a in host]
        step = int(flat[-1][1] - flat[-1][0]) if kind.kind == "i" and flat[-1].size > 1 else 0
        if kind.kind != "i" or any(max(a.shape, default=1) != a.size or (
                a.reshape(-1) != a.flat[0] + step * np.arange(a.size)).any() for a in host):
            self.refuse(f"an array {check.describe(first)} that changes with the input was not computed by functions "
                        "of tinyseq: use them instead of NumPy's, on Tensors")
        start, n = (self.merged([int(v) for v in part]) for part in ([a[0] for a in flat], [a.size for a in flat]))
        y = self("Mul", self("Range", 0, self.cast(n, np.int64), 1), step)
        y = _Value(self("Add", y, self.cast(start, np.int64)), np.dtype(np.int64), (n,))
        return self.cast(y._replace(name=self.shaped(y, shape)), kind)

    def shaped(self, x: _Value, new: Sequence[Any]) -> Any:
        """x in another shape, without a length where 0, for that of the same axis, or one -1 will do."""
        target = [0 if isinstance(n, _Length) and x.shape[i : i + 1] == (n,) else n for i, n in enumerate(new)]
        left = [i for i, n in enumerate(target) if isinstance(n, _Length)]
        for i in left[-1:]:
            target[i] = -1
        return self("Reshape", x, target)

    # --- the whole
    def model(self, inputs: Mapping[str, Names], traces: Sequence[Any]) -> Any:
        """The file, of what `_traced` found."""
        tensors, calls, outputs = zip(*traces, strict=True)
        given = {name: self.note(name, [each[name]._data for each in tensors]) for name in inputs}
        for each in itertools.zip_longest(*calls):
            self._write(each)
        self.path, made = "", dict[str, _Value]()
        if any(each.keys() != outputs[0].keys() for each in outputs):
            self.refuse(f"it gives {[*outputs[0]]} at one size, and others at another")
        for name in outputs[0]:
            value = self.value([_array(_unwrapped(each[name])) for each in outputs])
            if value.name not in given:
                made[name] = value._replace(name=self("Identity", value, name=name))
        if not made:
            self.refuse("it gives no tensor that it computed")
        named = {given[x].shape[i]: axis for x, axes in inputs.items() for i, axis in enumerate(axes) if axis}

        def info(name: str, value: _Value) -> Any:
            shape = [named.get(n, f"{name}_{i}") if isinstance(n, _Length) else n for i, n in enumerate(value.shape)]
            return self.helper.make_tensor_value_info(name, self.type(value.dtype), shape)

        nodes, wanted = list[Any](), {*made}
        for node in self.nodes[::-1]:  # those that the outputs come from
            if wanted.intersection(node.output):
                wanted.update(node.input)
                nodes.insert(0, node)
        self.weights = {name: tensor for name, tensor in self.weights.items() if name in wanted}
        graph = self.helper.make_graph(nodes, "tinyseq", [info(*pair) for pair in given.items()],
                                       [info(*pair) for pair in made.items()], [*self.weights.values()])
        return self.helper.make_model(graph, producer_name="tinyseq", ir_version=IR,
                                      opset_imports=[self.helper.make_opsetid("", OPSET)])

    def _write(self, calls: Sequence[_Call | None]) -> None:
        """The nodes of a call, which has to be the same one at each of the sizes."""
        found = [call for call in calls if call is not None]
        self.path = found[0].path
        if len({(call.name, call.path, len(call.args), len(call.outs)) for call in found}) > 1 or len(found) < 3:
            self.refuse(f"what is computed here, `{found[0].name}`, changes with the sizes, as in a loop over steps: "
                        "of such layers RNN, GRU and LSTM (no proj_size) have a form in ONNX, and a decoder's step has")
        args = [self.merged(each) for each in zip(*[call.args for call in found], strict=True)]
        arrays = [*zip(*[call.outs for call in found], strict=True)]
        outs = [_Value("", each[0].dtype, self.shape(each)) for each in arrays]
        names = getattr(_Ops, found[0].name)(self, outs, *args)
        for name, each in zip([names] if isinstance(names, str) else names, arrays, strict=True):
            self.note(name, each)


# --- ops: (graph, what came out, without a name yet, the arguments in their order) -> a name, or one an output --------

def _typed(kind: str, dtype: Any = None) -> Any:
    """An op whose operands are all of a given type, or that of the result, or if that is boolean of their own."""
    def emit(g: _Graph, outs: Any, *args: Any) -> Any:
        own = [x.dtype if isinstance(x, _Value) else 0 if isinstance(x, _Length) else x for x in args]
        both = dtype or (outs[0].dtype if outs[0].dtype != np.bool else np.result_type(*own))
        return g(kind, *[g.cast(x, both) for x in args])
    return emit


def _axes(x: _Value, axis: Any) -> list[int]:
    return [*range(len(x.shape))] if axis is None else [axis] if isinstance(axis, int) else [*axis]


def _reduction(kind: str, dtype: Any = None) -> Any:
    """An op over axes, computed in a given type or that of the result."""
    def emit(g: _Graph, outs: Any, x: _Value, axis: Any, keepdims: bool, *_: Any) -> Any:
        inside = np.dtype(dtype or outs[0].dtype)
        y = g(kind, g.cast(x, inside), _axes(x, axis), keepdims=int(keepdims), noop_with_empty_axes=1)
        return g.cast(_Value(y, inside), outs[0].dtype)
    return emit


def _place(kind: str) -> Any:
    """The place of an extreme along an axis, or in all."""
    return lambda g, outs, x, axis, keepdims: g(kind, x, axis=axis, keepdims=int(keepdims)) if axis is not None else g(
        "Reshape", g(kind, g("Reshape", x, [-1]), axis=0), [1] * len(outs[0].shape))


def _cast(emit: Any) -> Any:
    """An op of operands of the result's dtype, which `emit` is given too."""
    return lambda g, outs, *args: emit(g, *[g.cast(x, outs[0].dtype) for x in args], outs[0].dtype)


def _moved(g: _Graph, outs: Any, x: _Value, move: Callable[[Any], Any]) -> Any:
    """Axes in the order in which a function of NumPy puts them."""
    lengths = move(np.broadcast_to(0, range(1, len(x.shape) + 1))).shape
    return g("Transpose", x, perm=[n - 1 for n in lengths])


class _Ops(_Graph):
    """How each op is written, under its name."""

    abs, acos, acosh, asin, asinh, atan, atanh, ceil, cos, cosh, erf, exp, floor, log, negative, round, sigmoid, sign, \
        sin, sinh, sqrt, tan, tanh, isnan, isinf = map(_typed, (
            "Abs Acos Acosh Asin Asinh Atan Atanh Ceil Cos Cosh Erf Exp Floor Log Neg Round Sigmoid Sign Sin Sinh Sqrt "
            "Tan Tanh IsNaN IsInf").split())
    add, subtract, multiply, divide, pow, maximum, minimum, equal, less, less_equal, greater, greater_equal = map(
        _typed, "Add Sub Mul Div Pow Max Min Equal Less LessOrEqual Greater GreaterOrEqual".split())
    logical_not, logical_and, logical_or, logical_xor = (_typed(kind, np.bool) for kind in "Not And Or Xor".split())
    sum, mean, max, min, prod = map(_reduction, "ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd".split())
    any, all = _reduction("ReduceMax", np.int32), _reduction("ReduceMin", np.int32)
    argmax, argmin = _place("ArgMax"), _place("ArgMin")
    not_equal = lambda g, outs, a, b: g("Not", _typed("Equal")(g, outs, a, b))
    isfinite = lambda g, outs, x: g("Not", g("Or", g("IsNaN", x), g("IsInf", x)))
    square = lambda g, outs, x: g("Mul", x, x)
    expm1 = lambda g, outs, x: g("Sub", g("Exp", x), g.constant(1, x.dtype))
    log1p = lambda g, outs, x: g("Log", g("Add", x, g.constant(1, x.dtype)))
    log2 = lambda g, outs, x: g("Div", g("Log", x), g.constant(math.log(2), x.dtype))
    log10 = lambda g, outs, x: g("Div", g("Log", x), g.constant(math.log(10), x.dtype))
    trunc = lambda g, outs, x: g("Mul", g("Sign", x), g("Floor", g("Abs", x)))
    astype = lambda g, outs, x, *_: g.cast(x, outs[0].dtype)
    reshape = flatten = expand_dims = squeeze = lambda g, outs, x, *_: g.shaped(x, outs[0].shape)
    broadcast_to = lambda g, outs, x, _: g("Expand", x, g.ints(outs[0].shape))
    permute_dims = lambda g, outs, x, axes: _moved(g, outs, x, lambda a: a.transpose(axes))
    matrix_transpose = lambda g, outs, x: _moved(g, outs, x, np.matrix_transpose)
    moveaxis = lambda g, outs, x, *ends: _moved(g, outs, x, lambda a: np.moveaxis(a, *ends))
    tril = lambda g, outs, x, k: g("Trilu", x, g.cast(k, np.int64), upper=0)
    triu = lambda g, outs, x, k: g("Trilu", x, g.cast(k, np.int64), upper=1)
    unstack = lambda g, outs, x, axis: [g("Gather", x, i, axis=axis) for i in range(len(outs))]
    flip = lambda g, outs, x, axis: g.sliced(x, [(axis, slice(None, None, -1)) for axis in _axes(x, axis)])
    cumulative_sum = lambda g, outs, x, axis: g("CumSum", g.cast(x, outs[0].dtype), axis)
    argsort = lambda g, outs, x, axis, down, _: g("TopK", x, g.ints([x.shape[axis]]), axis=axis, largest=int(down),
                                                  outputs=2)[1]
    embedding = lambda g, outs, weight, ids, _: g("Gather", weight, g.cast(ids, np.int64))
    log_softmax = lambda g, outs, x, axis: g("LogSoftmax", x, axis=axis)

    bitwise_and, bitwise_or, bitwise_xor, bitwise_invert = map(_typed, "And Or Xor Not".split())  # of booleans alone
    logaddexp = _cast(lambda g, a, b, dtype: g("Add", g("Max", a, b), g("Log", g("Add", g.constant(1, dtype), g(
        "Exp", g("Where", g("Equal", a, b), g.constant(0, dtype), g("Neg", g("Abs", g("Sub", a, b)))))))))  # -inf twice
    floor_divide = _cast(lambda g, a, b, dtype: g("Floor", g("Div", a, b)) if dtype.kind == "f" else g(
        "Div", g("Sub", a, g("Mod", a, b)), b))  # Div alone rounds towards 0
    remainder = _cast(lambda g, a, b, dtype: g("Mod", a, b) if dtype.kind != "f" else g(
        "Sub", a, g("Mul", g("Floor", g("Div", a, b)), b)))

    def where(self, outs: Any, condition: Any, a: Any, b: Any) -> Any:
        c, a, b = self.cast(condition, np.bool), *(self.cast(x, outs[0].dtype) for x in (a, b))
        if outs[0].dtype != np.bool:
            return self("Where", c, a, b)
        return self("Or", self("And", c, a), self("And", self("Not", c), b))  # which onnxruntime has no Where of

    # --- shapes and places
    def concat(self, outs: Any, tensors: Sequence[Any], axis: int | None) -> Any:
        parts = [self.cast(x, outs[0].dtype) for x in tensors]
        parts = parts if axis is not None else [self("Reshape", x, [-1]) for x in parts]
        return self("Concat", *parts, axis=axis or 0)

    def stack(self, outs: Any, tensors: Sequence[Any], axis: int) -> Any:
        parts = [self("Unsqueeze", self.cast(x, outs[0].dtype), [axis]) for x in tensors]
        return self("Concat", *parts, axis=axis)

    def split(self, outs: Any, x: _Value, sections: Any, axis: int) -> Any:
        if len(outs) == 1:
            return x.name
        return self("Split", x, self.ints([y.shape[axis] for y in outs]), axis=axis, outputs=len(outs))

    def repeat(self, outs: Any, x: _Value, repeats: Any, axis: int) -> Any:
        if isinstance(repeats, list):
            self.refuse("`repeat` by several numbers has no form in ONNX here")
        apart, after = self("Unsqueeze", x, [axis % len(x.shape) + 1]), len(x.shape) - axis % len(x.shape) - 1
        times = [*[1] * (len(x.shape) - after), repeats, *[1] * after]
        return self.shaped(_Value(self("Tile", apart, times), x.dtype), outs[0].shape)

    def tile(self, outs: Any, x: _Value, repetitions: Sequence[Any]) -> Any:
        n = len(outs[0].shape)
        apart = self.shaped(x, [1] * (n - len(x.shape)) + [*x.shape])
        return self("Tile", apart, self.ints([1] * (n - len(repetitions)) + [*repetitions]))

    def pad(self, outs: Any, x: _Value, pad_width: Sequence[Any], constant_values: float) -> Any:
        widths = self.ints([pair[side] for side in (0, 1) for pair in pad_width])
        return self("Pad", x, widths, self.constant(constant_values, x.dtype))

    def getitem(self, outs: Any, x: _Value, index: Any) -> Any:
        parts = [*index] if isinstance(index, list) else [index]
        at = next((i for i, part in enumerate(parts) if part is Ellipsis), len(parts))
        whole = len(x.shape) - sum(part is not None and part is not Ellipsis for part in parts)
        parts[at : at + 1] = [slice(None)] * whole
        axes = [*itertools.accumulate((part is not None for part in parts), initial=0)]
        places = [i for i, part in enumerate(parts) if part is not None and not isinstance(part, slice)]
        arrays = [parts[i] for i in places if isinstance(parts[i], _Value)]
        apart = arrays and places != [*range(places[0], places[0] + len(places))]
        if apart or any(part.dtype == np.bool for part in arrays) or (len(arrays) > 1 and places[0] > 0):
            self.refuse("this index is not written: of several arrays they stand first and side by side, and booleans "
                        "make a size that depends on numbers")
        y: Any = self.sliced(x, [(axis, part) for axis, part in zip(axes, parts, strict=False)
                                 if isinstance(part, slice) and part != slice(None)])
        if len(arrays) > 1:
            lead = self.ints(outs[0].shape[: len(outs[0].shape) - len(parts) + len(places)])
            each = [self("Unsqueeze", self("Expand", self.cast(parts[i], np.int64), lead), [-1]) for i in places]
            y, places = self("GatherND", y, self("Concat", *each, axis=-1)), []
        for i in places[::-1]:
            y = self("Gather", y, self.cast(parts[i], np.int64), axis=axes[i])
        new, out = [], 0
        for part in parts:
            new += [out] if part is None else []
            out += len(part.shape) if isinstance(part, _Value) else part is None or isinstance(part, slice)
        return self("Unsqueeze", y, new) if new else y

    def sliced(self, x: _Value, slices: Sequence[tuple[int, slice]]) -> Any:
        """x cut along axes."""
        if not slices:
            return x.name
        most, ends = np.iinfo(np.int64).max, [(part.start, part.stop, part.step or 1) for _, part in slices]
        starts = [(0 if step > 0 else most) if start is None else start for start, _, step in ends]
        stops = [(most if step > 0 else -most) if stop is None else stop for _, stop, step in ends]
        return self("Slice", x, starts, stops, [axis for axis, _ in slices], [step for *_, step in ends])

    def one_hot(self, outs: Any, ids: Any, num_classes: int, dtype: Any) -> Any:
        found = self("Equal", self("Unsqueeze", self.cast(ids, np.int64), [-1]), [*range(num_classes)])
        return self.cast(_Value(found, np.dtype(np.bool)), outs[0].dtype)

    # --- layers
    def matmul(self, outs: Any, a: _Value, b: _Value) -> Any:
        return self("MatMul", self.cast(a, outs[0].dtype), self.cast(b, outs[0].dtype))

    def linear(self, outs: Any, x: _Value, weight: _Value, bias: _Value | None) -> Any:
        y = self("MatMul", x, self("Transpose", weight, perm=[1, 0]))
        return y if bias is None else self("Add", y, bias)

    def softmax(self, outs: Any, x: _Value, axis: int, mask: Any) -> Any:
        if mask is None:
            return self("Softmax", x, axis=axis)
        mask = self.cast(mask, np.bool)
        y = self("Softmax", self("Where", mask, x, self.constant(-1e30, x.dtype)), axis=axis)
        return self("Where", mask, y, self.constant(0, x.dtype))  # where none takes part all are 0

    def layer_norm(self, outs: Any, x: _Value, weight: Any, bias: Any, ndim: int, eps: float) -> Any:
        weight = self.constant(np.ones(x.shape[-ndim:]), x.dtype) if weight is None else weight
        return self("LayerNormalization", x, weight, *[bias] * (bias is not None), axis=-ndim, epsilon=eps)

    def _windows(self, kind: str, x: _Value, *more: Any, **attributes: Any) -> Any:
        """A node that has the channels before time."""
        y = self(kind, self("Transpose", x, perm=[0, 2, 1]), *more, **attributes)
        return self("Transpose", y, perm=[0, 2, 1])

    def conv1d(self, outs: Any, x: _Value, weight: _Value, bias: Any, stride: int, dilation: int, groups: int) -> Any:
        return self._windows("Conv", x, weight, *[bias] * (bias is not None), strides=[stride], dilations=[dilation],
                             group=groups)

    def max_pool1d(self, outs: Any, x: _Value, size: int, stride: int, dilation: int) -> Any:
        return self._windows("MaxPool", x, kernel_shape=[size], strides=[stride], dilations=[dilation])

    def avg_pool1d(self, outs: Any, x: _Value, size: int, stride: int) -> Any:
        return self._windows("AveragePool", x, kernel_shape=[size], strides=[stride])

    def recurrent(self, outs: Any, layer: Any, x: _Value, state: Sequence[_Value], lengths: Any) -> Any:
        """Layer after layer, both directions in one node; time comes first there."""
        kind, ways, n = LAYERS[type(layer)], layer.directions, layer.num_layers
        options: dict[str, Any] = {"hidden_size": layer.hidden_size,
                                   "direction": "bidirectional" if ways == 2 else "forward"}
        if kind == "GRU":
            options["linear_before_reset"] = int(layer.reset == "after")
        if kind == "RNN":
            options["activations"] = [layer.nonlinearity.capitalize()] * ways
        ends = "" if lengths is None else self.cast(lengths, np.int32)
        begun = [self("Split", part, [ways] * n, axis=0, outputs=n) if n > 1 else [part.name] for part in state]
        y, finals, name = self("Transpose", x, perm=[1, 0, 2]), list[Any](), self.path or kind
        taken = {node.name for node in self.nodes}
        while name in taken:  # it is called more than once
            name += "_"
        for k in range(n):
            ways_of = [weights_of(layer, f"_l{k}{way}") for way in ("", "_reverse")[:ways]]
            start = [part[k] for part in begun]
            y, *final = self(kind, y, *(self._gates(kind, part, k, ways_of) for part in "WRB"), ends, *start,
                             outputs=len(outs), name=f"{name}.{k}" if k else name, **options)
            if ends and start:  # of a row without steps onnxruntime gives 0
                some = self("Unsqueeze", self("Greater", ends, self.constant(0, np.int32)), [0, 2])
                final = [self("Where", some, *pair) for pair in zip(final, start, strict=True)]
            finals.append(final)
            y = self("Reshape", self("Transpose", y, perm=[0, 2, 1, 3]), [0, 0, ways * layer.hidden_size])
        return [self("Transpose", y, perm=[1, 0, 2]), *(self("Concat", *parts, axis=0)
                                                        for parts in zip(*finals, strict=True))]

    def _gates(self, kind: str, part: str, k: int, weights: Sequence[Any]) -> str:
        """W (D, G H, I), R (D, G H, H) or B (D, 2 G H) of layer k, from those of each direction; "" for no bias."""
        name = f"{self.path or kind}.{part}_l{k}"
        if name in self.weights or (part == "B" and weights[0][2] is None):
            return name if name in self.weights else ""

        def ordered(a: Tensor) -> Any:
            host = a._host()
            return host.reshape(len(GATES[kind]), -1, *host.shape[1:])[GATES[kind]].reshape(host.shape)

        each = [[ordered(a) for a in way[slice(*{"W": (0, 1), "R": (1, 2), "B": (2, 4)}[part])]] for way in weights]
        return self.weight(name, np.stack([np.concatenate(way) for way in each]))
