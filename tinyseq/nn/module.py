"""Modules: objects that own parameters."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from inspect import Signature, signature
from reprlib import recursive_repr
from typing import Any, ClassVar, NamedTuple, ParamSpec, Protocol, Self, TypeVar

import numpy as np

from tinyseq import check
from tinyseq.check import describe
from tinyseq.engine import ops
from tinyseq.engine.tensor import Tensor
from tinyseq.interrupts import together

P = ParamSpec("P")
R = TypeVar("R", covariant=True)


class Computes(Protocol[P, R]):
    """What has a `forward`: a module's call takes and returns what that does, for type checkers too."""

    def forward(self, *args: P.args, **kwargs: P.kwargs) -> R: ...


class Parameter(Tensor):
    """A tensor that a Module trains: `requires_grad` unless said otherwise. A copy: optimizers write into it.

    `data` is a Tensor, an array, or nested lists of numbers. One that hangs on an attribute of a Module is found by
    `parameters()` and saved.

    >>> class Scale(nn.Module):
    ...     def __init__(self, size):
    ...         self.weight = nn.Parameter(ts.ones(size))
    ...     def forward(self, x):
    ...         return x * self.weight
    >>> [(name, p.shape, p.requires_grad) for name, p in Scale(3).named_parameters()]
    [('weight', (3,), True)]
    """

    __slots__ = ()

    @check.constructor
    def __init__(self, data: Any, requires_grad: bool = True) -> None:
        super().__init__(ops.tensor(data, None, requires_grad)._data, requires_grad)


class Buffer(Tensor):
    """A tensor that a Module saves and moves with its parameters, and does not train. A copy.

    >>> class Centered(nn.Module):
    ...     def __init__(self, size):
    ...         self.mean = nn.Buffer(ts.zeros(size))
    ...     def forward(self, x):
    ...         if self.training:
    ...             self.mean = 0.9 * self.mean + 0.1 * ts.mean(x, axis=0)        # becomes the buffer
    ...         return x - self.mean
    >>> layer = Centered(2)
    >>> _ = layer(ts.ones((5, 2)))
    >>> layer.state_dict(), layer.parameters()
    ({'mean': tensor([0.1, 0.1])}, [])
    """

    __slots__ = ()

    @check.constructor
    def __init__(self, data: Any, *, requires_grad: bool = False) -> None:
        super().__init__(ops.tensor(data)._data, requires_grad)


class IncompatibleKeys(NamedTuple):
    """What `load_state_dict` did not load: names that a state lacked, and names that the module lacks."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Module:
    """The base of all layers: subclass it, make parameters and layers in `__init__`, compute in `forward`.

    Whatever hangs on an attribute is found by walking them, through lists, tuples and dicts: a `Parameter` is trained
    and saved, a `Buffer` saved, a Module is walked in turn. Any other Tensor, such as one that `forward` keeps to be
    looked at, is neither saved nor moved, so that a state_dict has the same names after a forward as before it. A
    Tensor that is assigned to a buffer's name becomes the buffer, without its history: `self.mean = 0.9 * self.mean +
    ...`; anything else but None in the place of a parameter or buffer is a TypeError. Modules in a set or in a layer
    that is no Module, and plain Tensors that require a gradient, would not be trained: `parameters` and `state_dict`
    refuse them. A parameter that hangs in two places counts once, and a module that hangs below itself is not entered
    again.

    An error in a module that hangs on others begins with its path: "decoder.attention.query: linear(...): ...".

    >>> class Classifier(nn.Module):
    ...     def __init__(self):
    ...         self.embedding = nn.Embedding(1000, 64)
    ...         self.out = nn.Linear(64, 2)
    ...     def forward(self, ids):
    ...         return self.out(self.embedding(ids).mean(axis=1))
    >>> model = Classifier()
    >>> model([[7, 2, 9], [4, 4, 1]]).shape               # a call is a call of forward
    (2, 2)
    >>> [(name, p.shape) for name, p in model.named_parameters()]
    [('embedding.weight', (1000, 64)), ('out.weight', (2, 64)), ('out.bias', (2,))]
    """

    training: bool = True
    shown: ClassVar[tuple[str, ...]] = ()  # arguments in a `repr` that has their defaults too
    alone: ClassVar[bool] = True  # whether each position is treated by itself, so that a step may call it on one

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What a call of the module computes: write your own, with whatever arguments and results it needs."""
        raise NotImplementedError(f"{type(self).__name__} has no forward method: write one, or call another method")

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.__module__.startswith("tinyseq.") and "__init__" in vars(cls):
            cls.__init__ = check.constructor(cls.__init__)  # type: ignore[method-assign, assignment]

    def __call__(self: Computes[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return self.forward(*args, **kwargs)
        except Exception as error:
            _place(error)
            raise

    def __setattr__(self, name: str, value: Any) -> None:
        old = vars(self).get(name)
        if isinstance(old, (Parameter, Buffer)) and not isinstance(value, (Parameter, Buffer, Module, type(None))):
            if isinstance(old, Parameter) or not isinstance(value, Tensor):
                raise TypeError(f"{type(self).__name__}: expected {name} to stay a {type(old).__name__}, got "
                                f"{describe(value)}: write into it, {name}.data = ..., or give a new one")
            value = Buffer(value)
        super().__setattr__(name, value)

    # --- what it holds
    def children(self) -> Iterator[tuple[str, Module]]:
        """(name, module) of the modules that hang on this one directly, in the order of its attributes.

        >>> [name for name, _ in nn.Sequential(nn.Sequential(nn.Tanh()), nn.Tanh()).children()]
        ['0', '1']
        """
        return ((name, value) for name, value in _entries(self) if isinstance(value, Module))

    def modules(self) -> Iterator[Module]:
        """This module and all below it, each once.

        >>> [type(module).__name__ for module in nn.Sequential(nn.Linear(2, 3), nn.Tanh()).modules()]
        ['Sequential', 'Linear', 'Tanh']
        """
        yield from {id(module): module for _, module in [("", self), *self.named_modules()]}.values()

    def named_modules(self) -> Iterator[tuple[str, Module]]:
        """(name, module) of all that hang below this one; one that hangs in several places comes under each name.

        >>> [name for name, _ in nn.Sequential(nn.Sequential(nn.Tanh()), nn.Tanh()).named_modules()]
        ['0', '0.0', '1']
        """
        return ((name, value) for name, value in _walk(self) if isinstance(value, Module))

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """(name, tensor) of every parameter and buffer; one that hangs in several places comes under each name.

        A plain leaf Tensor that requires a gradient is a TypeError, unless its name begins with an underscore: nobody
        would train it. So is what holds modules but is no list, tuple, dict or Module.

        >>> [(name, tensor.shape) for name, tensor in nn.Linear(2, 3).named_tensors()]
        [('weight', (3, 2)), ('bias', (3,))]
        """
        for name, value in _walk(self):
            if isinstance(value, (Parameter, Buffer)):
                yield name, value
            elif isinstance(value, Tensor) and value.requires_grad and "._" not in f".{name}":
                raise TypeError(f"{type(self).__name__}: {name} is a plain Tensor that requires a gradient: wrap "
                                "it in nn.Parameter to train it, or let its name begin with an underscore")
            elif not isinstance(value, (Module, Tensor)):
                raise TypeError(f"{type(self).__name__}: {name}, a {type(value).__name__}, holds modules or parameters "
                                f"that nobody would train or save: {_lost(value)}")

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """(name, parameter), each parameter once, under its first name."""
        seen: set[int] = set()
        for name, tensor in self.named_tensors():
            if isinstance(tensor, Parameter) and id(tensor) not in seen:
                seen.add(id(tensor))
                yield name, tensor

    def parameters(self) -> list[Parameter]:
        """Every parameter once, frozen ones included: what an optimizer takes."""
        return [parameter for _, parameter in self.named_parameters()]

    # --- modes
    def train(self, mode: bool = True) -> Self:
        """Switch dropout and the like on, here and below."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Self:
        """Switch dropout and the like off, here and below."""
        return self.train(False)

    def requires_grad_(self, value: bool = True) -> Self:
        """Freeze (False) or train (True) every parameter here and below.

        >>> nn.Linear(2, 3).requires_grad_(False).weight.requires_grad
        False
        """
        for parameter in self.parameters():
            parameter.requires_grad = value
        return self

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters."""
        for parameter in self.parameters():
            parameter.grad = None

    def to(self, target: Any) -> Self:
        """Move every parameter and buffer to a backend (`"cupy"`), or convert the floating-point ones to a dtype of
        floating-point numbers.

        In place, all or none: optimizers made before keep their own moments where they are, so move first.
        """
        if (not isinstance(target, str) or hasattr(np, target)) and not check.is_dtype(target, "f"):
            raise TypeError(f"{type(self).__name__}.to: expected target to be a backend's name or a floating-point "
                            f"dtype, float16 (which trains with optim.LossScaler) to float64, got {describe(target)}")
        changes: list[tuple[Any, str, Any]] = []
        for tensor in {id(t): t for _, t in self.named_tensors()}.values():
            moved = tensor.detach().to(target)
            if moved._data is not tensor._data and (tensor.dtype.kind == "f" or moved.dtype == tensor.dtype):
                changes += [*tensor._holds(moved._data), (tensor, "grad", None)]
        together(*changes)
        return self

    # --- saving
    def state_dict(self) -> dict[str, Tensor]:
        """Name -> tensor, of every parameter and buffer; the tensors share memory with the module's."""
        return {name: tensor.detach() for name, tensor in self.named_tensors()}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> IncompatibleKeys:
        """Copy values (Tensors, or arrays of any library that NumPy reads) into the parameters and buffers by name.

        Missing and unexpected names are a KeyError, or without `strict` what is returned. Raises ValueError for what is
        no array, for wrong shapes and for floats where integers are. Each error names all of them, and then nothing is
        loaded. Values are converted to the dtype and the backend that are here, float64 to float32 too.
        """
        where = f"load_state_dict into {type(self).__name__}"
        check.mapping(where, state=state)
        own = dict(self.named_tensors())
        keys = matching(where, own, state, strict)
        wanted = {k: tensor for k, tensor in own.items() if k in state}
        for k, array in check.arrays(where, wanted, state).items():
            own[k].data = array.astype(own[k].dtype)
        return keys

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state_dict as a safetensors file, whole or not at all: an interrupted save leaves the old file."""
        from tinyseq import checkpoint

        checkpoint.save(path, self.state_dict())

    def load(self, path: str | os.PathLike[str], strict: bool = True, key: str | None = None) -> IncompatibleKeys:
        """`load_state_dict` from a file that `checkpoint.load` reads: safetensors, `.npz`, or PyTorch's, by content.

        `key` names the dictionary to take where the file holds several, such as "model" beside "optimizer".
        """
        from tinyseq import checkpoint

        state = checkpoint.load(path)
        inner = [k for k, value in state.items() if isinstance(value, dict)]
        if inner if key is None else key not in inner:
            raise checkpoint.CheckpointError(f"{path}: key={key!r}, and it holds the dictionaries {inner}: name one")
        try:
            return self.load_state_dict(state if key is None else state[key], strict)
        except (KeyError, ValueError) as error:
            raise type(error)(f"{path}: {error.args[0]}") from error

    @recursive_repr("(see above)")
    def __repr__(self) -> str:
        lines = [f"({name}): {module!r}".replace("\n", "\n  ") for name, module in self.children()]
        inside = self.extra_repr()
        return f"{type(self).__name__}({inside})" if not lines else "\n  ".join(
            [f"{type(self).__name__}({inside}", *lines]) + "\n)"

    def extra_repr(self) -> str:
        """What `repr` shows between the brackets: of the constructor's arguments those without a default, and those
        that differ from it or are always `shown`, where an attribute of that name is a number, text or a tuple. A layer
        that an argument switches off is None.

        >>> nn.Linear(2, 3, bias=False).extra_repr()
        '2, 3, bias=False'
        """
        said, takes = [], signature(type(self).__init__).parameters
        for name, value in ((name, vars(self)[name]) for name in takes if name in vars(self)):
            default = takes[name].default
            value = value is not None if default is True and not isinstance(value, bool) else value
            value = getattr(value, "__name__", value)  # of a function
            if isinstance(value, (int, float, str, tuple)) and (value != default or name in self.shown):
                said.append(describe(value) if default is Signature.empty else f"{name}={describe(value)}")
        return ", ".join(said)


def matching(where: str, names: Collection[str], state: Mapping[str, Any], strict: bool = True) -> IncompatibleKeys:
    """The `names` of a module that a state lacks, and those that it has besides: refused, if `strict`."""
    missing, unexpected = [k for k in names if k not in state], [k for k in state if k not in names]
    if strict and (missing or unexpected):
        first = str(next(iter(state), ""))
        above = next((a for k in names if {(a := first.removesuffix(k)) + name for name in names} == state.keys()), "")
        renamed = f'; checkpoint.rename(state, {{"{above}": ""}}) has these names' if above else ""
        raise KeyError(f"{where}: missing {missing or 'nothing'}, unexpected {unexpected or 'nothing'}; strict=False "
                       f"loads what fits{renamed}")
    return IncompatibleKeys(missing, unexpected)


def _entries(module: Module) -> Iterator[tuple[str, Any]]:
    """(name, Module, leaf Tensor or what is `_lost`) of a module's attributes, through lists, tuples and dicts."""
    stack = [*reversed(vars(module).items())]
    while stack:
        name, value = stack.pop()
        if isinstance(value, (Module, Tensor)):
            if isinstance(value, Module) or value.is_leaf:
                yield name, value
        elif isinstance(value, (list, tuple, dict)):
            inside = value.items() if isinstance(value, dict) else enumerate(value)
            stack += [(f"{name}.{key}", v) for key, v in reversed(list(inside))]
        elif (callable(value) or isinstance(value, (set, frozenset))) and _lost(value):
            yield name, value


def _lost(value: Any) -> str:
    """Of what holds modules without a name to be found by, what to do; else nothing."""
    inside: Iterable[Any] = ()
    remedy = ""
    if isinstance(value, (set, frozenset)):
        inside, remedy = value, "a set has no order to name them by: make it a list or a dict"
    elif not isinstance(value, type):
        inside, remedy = getattr(value, "__dict__", {}).values(), "let its class extend nn.Module"
    return remedy if any(isinstance(part, (Module, Parameter, Buffer)) for part in inside) else ""


def _walk(module: Module, prefix: str = "", above: tuple[Module, ...] = ()) -> Iterator[tuple[str, Any]]:
    """(name, value) as of `_entries`, of all that hangs on a module and below, without what leads back to it."""
    above = (*above, module)
    for name, value in _entries(module):
        if not isinstance(value, Module):
            yield prefix + name, value
        elif value not in above:
            yield prefix + name, value
            yield from _walk(value, f"{prefix}{name}.", above)


def _place(error: Exception) -> None:
    """Begin an error with the path from the outermost module that was called to the innermost, once. It may not be by
    `__call__` that it was called: a module is what a frame knows as `self`."""
    frames = check.frames(error)
    caller = sys._getframe(1)
    if [frame for frame in frames if frame.f_code is caller.f_code][-1] is not caller:
        return  # it was told further in
    call = frames[-1].f_locals
    if isinstance(error, TypeError) and frames[-1] is caller:  # what it takes is something else
        name = f"{type(call['self']).__name__}.forward"
        error.args = (check.misfit(error, name, call["self"].forward, call["kwargs"]),)
    called = [own for frame in frames if isinstance(own := frame.f_locals.get("self"), Module)]
    paths = (path for inner in called[::-1] for outer in called for path, part in _walk(outer) if part is inner)
    path = next(paths, "")
    text = re.sub(r"^\w+: (?=\w+\()", "", str(error))  # who called the function says less than the path
    if path and error.args == (str(error),):
        error.args = (f"{path}: {text}",)
    elif path:
        error.add_note(f"in {path}")
