"""What a model is made of: its layers as they are called, and what each makes, holds and computes."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Iterator
from operator import attrgetter
from typing import Any

import numpy as np

from tinyseq import check
from tinyseq.engine import random
from tinyseq.engine.graph import Leaf, Node, enable_grad
from tinyseq.engine.tensor import Tensor
from tinyseq.glance.calls import Calls, Place, owner
from tinyseq.glance.counts import multiply_adds
from tinyseq.glance.table import amount, table
from tinyseq.nn.module import Module, Parameter


@dataclasses.dataclass
class Row:
    """A layer of a `Summary`: what is its own, without that of the layers below it, which have rows of their own.

    `path` is that of `named_modules()`, "" of the model itself; `kind` the class; `depth` the number of calls that it
    is inside of; `calls` how often it was called there, 0 of one whose parameters others use. `output` has the shape of
    each tensor of the last call's output, in tuples and dictionaries as they came. A parameter counts in the first row
    that has it. `activations` are the bytes that are kept for the gradient, `multiply_adds` those of all calls.

    >>> ts.summary(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), ts.ones((2, 3))).rows[1]
    Row(path='0', kind='Linear', depth=1, calls=1, output=(2, 4), parameters=16, trainable=16, multiply_adds=24,
        activations=0)
    """

    path: str
    kind: str
    depth: int
    calls: int
    output: Any
    parameters: int
    trainable: int
    multiply_adds: int
    activations: int


@dataclasses.dataclass(repr=False)
class Summary:
    """What `ts.summary` found: `rows`, and the totals of what they have. It prints as a table; `table(depth)` leaves
    out what lies deeper.

    `parameter_bytes` are those of parameters and buffers, `activation_bytes` those of the rows. `gradient_bytes` and
    `optimizer_bytes` are an estimate: a gradient of its parameter's dtype, and Adam's two moments in float32 (wider if
    the parameter is), of each trainable parameter.

    >>> found = ts.summary(nn.Linear(3, 4), ts.ones((2, 3)))
    >>> found.parameters, found.multiply_adds, found.parameter_bytes, found.optimizer_bytes
    (16, 24, 64, 128)

    >>> found.trainable, found.activation_bytes
    (16, 0)
    >>> print(found.table(depth=0))
    layer...
    """

    rows: list[Row]
    parameter_bytes: int
    gradient_bytes: int
    optimizer_bytes: int

    @property
    def parameters(self) -> int:
        """How many numbers the model's parameters have, each parameter counted once."""
        return sum(row.parameters for row in self.rows)

    @property
    def trainable(self) -> int:
        """How many of them are trained."""
        return sum(row.trainable for row in self.rows)

    @property
    def multiply_adds(self) -> int:
        """Those of the forward pass."""
        return sum(row.multiply_adds for row in self.rows)

    @property
    def activation_bytes(self) -> int:
        """What is kept between the forward pass and the backward pass."""
        return sum(row.activations for row in self.rows)

    def table(self, depth: int | None = None) -> str:
        """The rows down to a `depth`, all if None, where one has what lies deeper in it too; and the totals."""
        shown: list[Row] = []
        for row in self.rows:
            if depth is None or row.depth <= check.integers("Summary.table", 0, depth=depth):
                shown.append(dataclasses.replace(row))
            else:
                for name in ("parameters", "trainable", "multiply_adds", "activations"):
                    setattr(shown[-1], name, getattr(shown[-1], name) + getattr(row, name))
        lines = [_line(row, above) for row, above in zip(shown, _above(shown), strict=True)]
        head = ("layer", "class", "output", "calls", "parameters", "multiply-adds", "kept")
        frozen = self.parameters - self.trainable
        return "\n".join([
            table(head, lines, left=3), "",
            f"parameters      {self.parameters:,}" + f", of which {frozen:,} are frozen" * bool(frozen),
            f"multiply-adds   {self.multiply_adds:,} in one forward pass",
            f"memory          {amount(self.parameter_bytes, 'B')} parameters and buffers, "
            f"{amount(self.activation_bytes, 'B')} kept for the gradient;",
            f"                about {amount(self.gradient_bytes, 'B')} gradients, "
            f"{amount(self.optimizer_bytes, 'B')} Adam's two moments"])

    def __repr__(self) -> str:
        return self.table()


def summary(model: Module, *inputs: Any, **options: Any) -> Summary:
    """The layers of `model` as `model(*inputs, **options)` calls them: shapes, parameters, multiply-adds, memory.

    The forward pass is run once, in the mode that the model is in, and recorded, so that what is kept for the gradient
    is known; nothing of it stays: random state, buffers, modes and gradients are as before. Inputs are real ones, as
    they say what no shape does (ids below which number, lengths, which is the mask): `ts.zeros((2, 5, 3))` will do for
    vectors.

    A row has what is its own: functions that a forward calls directly, and parameters that hang on the module itself,
    count there. A layer that is called twice in one place has one row, with both calls in it; a layer that is never
    called and has parameters has one without calls. Multiply-adds are those of matrix products, linear maps,
    attention, recurrences and scans (PyTorch's flop counter divided by 2, where it counts them), padding included;
    entry-wise functions, norms and losses do none. "kept" is what the arrays take that are held from the forward to
    the backward pass, without parameters and the Tensors that are given. Copies of inputs count: an op that keeps
    a NumPy array keeps one, as its owner may refill it.

    >>> model = nn.Sequential(nn.Linear(64, 256), nn.Tanh(), nn.Linear(256, 10))
    >>> ts.summary(model, ts.zeros((32, 64)))
    layer    class       output     calls  parameters  multiply-adds     kept
    -------  ----------  ---------  -----  ----------  -------------  -------
    (model)  Sequential  (32, 10)       1           -              -        -
      0      Linear      (32, 256)      1      16,640          524 k        -
      1      Tanh        (32, 256)      1           -              -  32.8 kB
      2      Linear      (32, 10)       1       2,570         81.9 k        -
    <BLANKLINE>
    parameters      19,210
    multiply-adds   606,208 in one forward pass
    memory          76.8 kB parameters and buffers, 32.8 kB kept for the gradient;
                    about 76.8 kB gradients, 154 kB Adam's two moments
    """
    check.instance("summary", Module, model=model)
    tensors = list({id(t): t for _, t in model.named_tensors()}.values())
    restore, seen = _snapshot(model, tensors), _Seen()
    try:
        with seen, enable_grad():
            out = model(*inputs, **options)
        top = next(iter(seen.outside.below.values()))
        _keep(seen, top, out, [*tensors, *_tensors([inputs, options])])
    finally:
        restore()
    _add_uncalled(seen, top)
    counted: set[int] = set()
    rows = [_row(place, depth, top, counted) for depth, place in top.walk()]
    trained = [p for p in model.parameters() if p.requires_grad]
    return Summary(rows, sum(t._data.nbytes for t in tensors), sum(p._data.nbytes for p in trained),
                   sum(2 * p.size * np.promote_types(p.dtype, np.float32).itemsize for p in trained))


class _Layer(Place):
    """What was seen of a module in its place."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.output: Any = None
        self.multiply_adds = self.activations = 0


class _Seen(Calls):
    """A forward pass as it runs."""

    Place: type[Any] = _Layer

    def __init__(self) -> None:
        super().__init__()
        self.here: Any = self.outside
        self.pulls: dict[int, tuple[Any, _Layer]] = {}  # of each pull-back, where it was made; it is kept alive

    def call(self, plain: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        above, self.here = self.here, self.place(args[0], self.here)
        try:
            out = plain(*args, **kwargs)
            self.here.calls += 1
            self.here.output = _shapes(out)
            return out
        finally:
            self.here = above

    def forward(self, name: str, body: Any, raw: list[Any], kwargs: dict[str, Any], out: Any, pulls: Any) -> Any:
        self.here.multiply_adds += multiply_adds(body, raw)
        found = pulls if type(pulls) is tuple else (pulls,)
        self.pulls |= {id(pull): (pull, self.here) for pull in found if pull is not None}
        return pulls


def _snapshot(model: Module, tensors: list[Tensor]) -> Callable[[], None]:
    """A function that puts everything back that a forward pass may change."""
    modules = list(model.modules())
    attributes = [dict(vars(module)) for module in modules]
    values = [(t, t._data.copy()) for t in tensors if not isinstance(t, Parameter)]
    generators = {id(g): g for found in attributes for g in found.values() if isinstance(g, random.Generator)}
    states = [(g, g.get_state()) for g in [random.current(), *generators.values()]]

    def restore() -> None:
        for module, found in zip(modules, attributes, strict=True):
            for name in vars(module).keys() - found.keys():
                del vars(module)[name]
            vars(module).update(found)
        for buffer, value in values:
            buffer._data[...] = value
        for generator, state in states:
            generator.set_state(state)

    return restore


def _keep(seen: _Seen, top: _Layer, out: Any, own: list[Tensor]) -> None:
    """Add to each place the bytes of the arrays that the pull-backs hold which were made there, but the `own` ones."""
    counted = {id(owner(t._data)) for t in own}
    nodes = {t.node: None for t in _tensors(out) if t.node is not None}
    pending = list(nodes)
    for node in pending:  # grows as it goes
        new = {parent: None for parent in node.parents if parent is not None and parent not in nodes}
        nodes |= new
        pending += new
    for node in sorted(pending, key=attrgetter("serial")):
        if isinstance(node, Leaf) or node.index is not None:
            continue
        pulls = node.pulls if type(node.pulls) is tuple else (node.pulls,)
        place = next((seen.pulls[id(pull)][1] for pull in pulls if id(pull) in seen.pulls), top)
        for array in map(owner, _held([*pulls, node.args, node.kwargs])):
            if id(array) not in counted:
                counted.add(id(array))
                place.activations += array.nbytes


def _held(found: list[Any]) -> Iterator[Any]:
    """The arrays that functions hold, and lists, tuples, dictionaries and plain objects in them."""
    met: set[int] = set()
    for x in found:  # grows as it goes
        if id(x) in met or isinstance(x, (type, types.ModuleType, Module, Node, str)):
            continue
        met.add(id(x))
        if isinstance(x, Tensor):
            found.append(x._data)
        elif hasattr(x, "nbytes") and hasattr(x, "shape"):
            yield x
        elif isinstance(x, types.FunctionType):
            found += [cell.cell_contents for cell in x.__closure__ or () if _filled(cell)]
            found += x.__defaults__ or ()
        elif isinstance(x, types.MethodType):
            found += [x.__self__, x.__func__]
        elif isinstance(x, (list, tuple, set)):
            found += x
        elif isinstance(x, dict):
            found += x.values()
        elif hasattr(x, "func") and hasattr(x, "args"):  # a partial
            found += [x.func, x.args, x.keywords]
        elif dataclasses.is_dataclass(x) or isinstance(x, types.SimpleNamespace):
            found += vars(x).values()


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # not yet
        return False


def _tensors(x: Any) -> list[Tensor]:
    """The Tensors in what a forward pass takes or returns."""
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        x = vars(x)
    if isinstance(x, dict):
        x = list(x.values())
    return [t for part in x for t in _tensors(part)] if isinstance(x, (list, tuple)) else [
        x] if isinstance(x, Tensor) else []


def _shapes(x: Any) -> Any:
    """The shapes in what a forward pass returns, in the tuples and dictionaries that they came in."""
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        x = vars(x)
    if hasattr(x, "shape"):
        return tuple(x.shape)
    if isinstance(x, dict):
        return {key: _shapes(part) for key, part in x.items()}
    return [_shapes(part) for part in x] if isinstance(x, (list, tuple)) else type(x).__name__ if x is not None else x


def _add_uncalled(seen: _Seen, top: Any) -> None:
    """Places for the modules that have parameters of their own and were never called, below those that were."""
    called = {id(place.module): place for _, place in top.walk()}
    for path, module in top.module.named_modules():
        if id(module) not in called and _own(module):
            whole = f"{top.path}.{path}"
            above = max((place for place in called.values() if whole.startswith(f"{place.path}.")),
                        key=lambda place: len(place.path))
            called[id(module)] = seen.place(module, above)


def _own(module: Module) -> list[Parameter]:
    """The parameters that hang on a module and on none below it."""
    below = {id(p) for _, child in module.children() for p in child.parameters()}
    return [p for p in module.parameters() if id(p) not in below]


def _row(place: Any, depth: int, top: Any, counted: set[int]) -> Row:
    new = [p for p in _own(place.module) if id(p) not in counted]
    counted |= {id(p) for p in new}
    return Row(place.path.removeprefix(top.path).removeprefix("."), place.kind, depth, place.calls, place.output,
               sum(p.size for p in new), sum(p.size for p in new if p.requires_grad), place.multiply_adds,
               place.activations)


def _above(rows: list[Row]) -> Iterator[str]:
    """The path of the row that each row is below of."""
    open_: list[str] = []
    for row in rows:
        del open_[row.depth :]
        yield open_[-1] if open_ else ""
        open_.append(row.path)


def _line(row: Row, above: str) -> tuple[str, ...]:
    label = row.path.removeprefix(f"{above}." if above else "") or "(model)"
    return ("  " * row.depth + label, row.kind, _text(row.output) if row.calls else "-", f"{row.calls or '-'}",
            f"{row.parameters:,}" if row.parameters else "-", amount(row.multiply_adds), amount(row.activations, "B"))


def _text(output: Any) -> str:
    """Shapes as a reader takes them in: "(2, 5, 8), (1, 2, 8)"."""
    if isinstance(output, dict):
        return ", ".join(f"{key} {_text(part)}" for key, part in output.items())
    if isinstance(output, list):
        return ", ".join(f"[{_text(part)}]" if isinstance(part, list) else _text(part) for part in output)
    return str(output)
