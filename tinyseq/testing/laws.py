"""The laws of sequence layers, held to any layer by hypothesis: `check_sequence_layer`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from tinyseq import check
from tinyseq.engine import ops, random
from tinyseq.engine.debug import flat
from tinyseq.engine.gradients import grad
from tinyseq.engine.tensor import Tensor

Host = np.ndarray[Any, Any]
Arrays = dict[str, Host]  # by name; the batch is on the first axis, time on the second of those in BY_STEP
WRITES = "inputs are not written to"
EXAMPLES = 25  # of a law, where nobody said how many
BY_STEP = ("output", "gradient of x")
Expected = tuple[Arrays, Arrays, str]  # what was found; what of it was expected; when
Check = Callable[["_Layer", "Case"], Expected]


def check_sequence_layer(layer: Any, features: int | None = None, *, call: Callable[..., Any] | None = None,
                         causal: bool | None = None, seed: int | None = None) -> None:
    """Hold a sequence layer to its laws; AssertionError names the law, the row, the step, the smallest failing input.

        check_sequence_layer(nn.GRU(3, 4, bidirectional=True))
        check_sequence_layer(encoder, 8, call=lambda x, lengths: encoder(x, nn.length_mask(lengths, x.shape[1])))

    `features` is the width of x, by default `layer.input_size`. The layer is called as `layer(x, lengths=lengths)`, x a
    Tensor (B, T, features) of its parameters' dtype, lengths integers (B,) from 0 to T, and returns y (B, T, ...), or y
    and the final state: a Tensor (..., B, H) or nested tuples of them. Where its forward has an argument `state` or
    `h0`, such a state goes in too. What is called otherwise needs `call(x, lengths)`, or `call(x, lengths,
    state=None)`. A `causal` layer never looks ahead: by default one that takes a state, if neither it nor a layer
    within says `bidirectional = True`. Call `layer.eval()` before where there is dropout; or give a `seed`: each call
    then draws the same numbers, and the layer is held to the laws that do not change the shape of x (SHAPED).

    The laws: the same call gives the same result; inputs are not written to (they are read-only); outputs and gradients
    are finite; permuting the batch permutes the result; a batch equals its rows one at a time; a causal layer never
    sees the future; a sequence fed in pieces gives what it gives whole; every length from 0 to T is legal; outputs past
    the end are zero; results have x's dtype; NaN in the padding changes nothing, nor does more of it; the final state
    is that of the last real step; length 0 gives the initial state; no gradient leaks into the padding, or out of it.
    Equal is what differs by 1e-10 (float64) or 1e-5 at most, of the largest entry, or of 1. Each law is tried on 25
    examples, a few seconds for a small layer; where a profile of Hypothesis says another number than its own 100, on
    as many. Nothing is left in the working folder.

    >>> from tinyseq.testing import check_sequence_layer
    >>> linear = nn.Linear(2, 3)
    >>> try:
    ...     check_sequence_layer(linear, 2, call=lambda x, lengths: linear(x))    # its bias stands in the padding
    ... except AssertionError as error:
    ...     print(error)
    Linear breaks a law: outputs past the end are zero
      the output at row 0, step 0 is ..., expected 0
      in the smallest such input, lengths = [0], x (1, 1, 2) =
    [[[...]]]
    """
    check.function("check_sequence_layer", layer=layer, **{} if call is None else {"call": call})
    width = getattr(layer, "input_size", None) if features is None else features
    if seed is not None:
        seed = check.integers("check_sequence_layer", 0, seed=seed)
    tried = _Layer(layer, check.integers("check_sequence_layer", 1, features=width), call, causal, seed)
    drawn, row = random.get_state(), np.ones((1, 1, tried.width))
    tried.run(Case(row, np.array([1]), row[:, :0]))
    if random.get_state() != drawn and getattr(layer, "training", False) and seed is None:
        raise AssertionError(f"{tried.name} is in training mode, and what it computes is left to chance (dropout): "
                             "call eval() first, or say seed=0 for the laws that hold with the same numbers drawn")
    with _no_folder():
        for padded in BOTH:
            for law, (kinds, of) in LAWS.items():
                if padded in kinds and (seed is None or law in SHAPED):
                    _try(tried, law, of, padded)


class Case(NamedTuple):
    """What a law is tried on."""

    x: Host  # (B, T, F)
    lengths: Host  # (B,)
    before: Host  # (B, 2, F), what was fed before; or (B, 0, F): the initial state is the layer's own
    cut: int = 1  # a step, 1 <= cut <= T

    @property
    def padding(self) -> Host:
        """(B, T), True past the end of each row."""
        return np.arange(self.x.shape[1]) >= self.lengths[:, None]

    def rows(self, rows: Any) -> Case:
        return self._replace(x=self.x[rows], lengths=self.lengths[rows], before=self.before[rows])

    def refilled(self) -> Case:
        return self._replace(x=_with(self.x, self.padding, np.nan))

    def __str__(self) -> str:
        before = f"\n  in the state after\n{self.before}" if self.before.size else ""
        return f"in the smallest such input, lengths = {self.lengths.tolist()}, x {self.x.shape} =\n{self.x}{before}"


class _Layer:
    """The layer that is checked, as a function of host arrays."""

    def __init__(self, layer: Any, width: int, call: Callable[..., Any] | None, causal: bool | None,
                 seed: int | None) -> None:
        self.signature = inspect.signature(call or getattr(layer, "forward", layer))
        self.key = next((key for key in ("state", "h0") if key in self.signature.parameters), "")
        self.call, self.named = call or layer, call is None
        self.numbers: Any = nullcontext if seed is None else partial(random.Generator, seed)
        self.name = getattr(layer, "__name__", type(layer).__name__)
        modules, named = (layer.modules(), layer.named_parameters()) if hasattr(layer, "modules") else ((), ())
        two_ways = any(getattr(module, "bidirectional", False) for module in modules)
        self.causal = bool(self.key) and not two_ways if causal is None else causal
        self.parameters = {f"gradient of {name}": p for name, p in named if p.requires_grad}
        self.width, self.dtype = width, next((p.dtype for p in self.parameters.values()), np.dtype(np.float32))

    def run(self, case: Case, state: Any = None) -> tuple[Tensor, Tensor, Any]:
        """x, y and the final state."""
        state = self.start(case) if case.before.size else state
        options = {} if state is None else {self.key: state}
        data, lengths = case.x.astype(self.dtype), case.lengths.copy()
        data.flags.writeable = lengths.flags.writeable = False
        x = Tensor(ops.asarray(data).data, requires_grad=True)
        given = f"x, lengths{f', {self.key}' * bool(options)}"
        args, options = ((x,), {"lengths": lengths} | options) if self.named else ((x, lengths), options)
        law = f"it takes ({given}); what is called otherwise needs call=lambda {given}: ..."
        try:
            self.signature.bind(*args, **options)
            law = "every length from 0 to T is legal" if case.padding.any() else "rows without padding are legal"
            with self.numbers():
                out = self.call(*args, **options)
        except Exception as error:
            law = WRITES if "read-only" in str(error) else law
            raise self.broken(law, f"it raised {type(error).__name__}: {error}", case) from error
        y, final = out if isinstance(out, tuple) and len(out) == 2 else (out, None)
        parts = [y, *flat(final)]
        if not all(isinstance(part, Tensor) for part in parts):
            kinds = ", ".join(type(part).__name__ for part in (out if isinstance(out, tuple) else [out]))
            raise self.broken("it returns y, or y and the final state: Tensors, these in tuples", f"out came {kinds}",
                              case)
        if not np.array_equal(x._host(), data, equal_nan=True):  # a device knows no read-only arrays
            raise self.broken(WRITES, "x changed", case)
        if y.shape[:2] != x.shape[:2] or {part.dtype for part in parts} != {x.dtype}:
            came = ", the state ".join(f"{part.dtype} {part.shape}" for part in parts)
            raise self.broken("outputs are (batch, time, ...), and of x's dtype",
                              f"x is {x.dtype} {x.shape}, the output {came}", case)
        return x, y, final

    def broken(self, law: str, found: str, case: Case) -> AssertionError:
        return AssertionError(f"{self.name} breaks a law: {law}\n  {found}\n  {case}")

    def start(self, case: Case) -> Any:
        """The initial state: what `case.before` leads to."""
        return self.run(Case(case.before, np.full(len(case.x), 2), case.before[:, :0]))[2]

    def outputs(self, case: Case, steps: int | None = None) -> Arrays:
        return {"output": self.run(case)[1]._host()[:, :steps]}

    def states(self, state: Any) -> Arrays:
        return {f"state {i}": np.moveaxis(s._host(), -2, 0) for i, s in enumerate(flat(state))}

    def __call__(self, case: Case, state: Any = None) -> Arrays:
        _, y, final = self.run(case, state)
        return {"output": y._host()} | self.states(final)

    def gradients(self, case: Case) -> Arrays:
        """Of a sum over all that comes out: by x, and by the parameters."""
        x, y, final = self.run(case)
        leaves = {"gradient of x": x} | self.parameters
        total: Any = sum(ops.sum(ops.sin(part + 1)) for part in (x[:, :, :0], y, *flat(final)))
        found = zip(leaves.items(), grad(total, list(leaves.values()), allow_unused=True), strict=True)
        return {name: np.zeros(p.shape) if g is None else g._host() for (name, p), g in found}


@contextmanager
def _no_folder() -> Iterator[None]:
    """Hypothesis' notes go where they are forgotten, not into a folder .hypothesis of where we are."""
    try:
        from hypothesis import configuration
    except ImportError as error:
        raise ImportError("check_sequence_layer needs hypothesis; run: pip install 'tinyseq[test]'") from error
    before = getattr(configuration, "__hypothesis_home_directory", None)
    with TemporaryDirectory() as folder:
        configuration.set_hypothesis_home_dir(folder)
        try:
            yield
        finally:
            configuration.set_hypothesis_home_dir(before)


def _try(layer: _Layer, law: str, of: Check, padded: bool) -> None:
    """Let hypothesis look for a case in which the law is broken."""
    from hypothesis import HealthCheck, given, settings
    from hypothesis.errors import Flaky
    from hypothesis.strategies import integers, lists, sampled_from

    chosen = settings().max_examples

    @settings(max_examples=EXAMPLES if chosen == 100 else chosen, database=None, deadline=None,
              report_multiple_bugs=False, suppress_health_check=[HealthCheck.too_slow])
    @given(lists(integers(0, 6), min_size=1, max_size=4), integers(1, 6), integers(1, 6), integers(0, 99),
           sampled_from([0, 2] if layer.key else [0]))
    def attempt(lengths: list[int], steps: int, cut: int, seed: int, begun: int) -> None:
        rng, rows = np.random.default_rng(seed), len(lengths)
        x, before = (rng.uniform(-2, 2, (rows, n, layer.width)).round(1) for n in (steps, begun))
        case = Case(x, np.minimum(lengths if padded else steps, [steps] * rows), before, min(cut, steps))
        found, expected, when = of(layer, case)
        for name in expected:
            wrong = _differ(name, found[name], expected[name], case)
            if wrong:
                raise layer.broken(law, f"{wrong} {when}", case)

    try:
        attempt()
    except Flaky:
        raise AssertionError(f"{layer.name} breaks a law: the same call gives the same result\n  {law}: this was "
                             "broken once, and not again by the same input: what does it remember?") from None
    except AssertionError as error:  # without what hypothesis adds to it
        raise AssertionError(str(error)) from error.__cause__


def _differ(name: str, found: Host, expected: Host, case: Case) -> str:
    """Where arrays differ by more than rounding does, the first step of all, or ""."""
    if found.shape != expected.shape:
        return f"the {name} has shape {found.shape}, expected {expected.shape}"
    tolerance = (1e-10 if expected.dtype == np.float64 else 1e-5) * max(1.0, float(abs(expected).max(initial=0)))
    wrong: list[Any] = np.argwhere(~(abs(found - expected) <= tolerance)).tolist()  # a NaN is wrong too
    if not wrong:
        return ""
    at = min(map(tuple, wrong), key=lambda at: (at[1] if name in BY_STEP else 0, at))
    where = f"at row {at[0]}, step {at[1]}" if name in BY_STEP else f"at {at}"
    if name.startswith("state"):
        last = case.lengths[at[0]] - 1
        where = f"of row {at[0]}, " + (f"whose last step is {last}," if last >= 0 else "which has no step,")
    return f"the {name} {where} is {found[at]:.6g}, expected {expected[at]:.6g}"


def _with(a: Host, place: Any, value: Any = 0) -> Host:
    """A copy with other values in some places."""
    a = a.copy()
    a[place] = value
    return a


def _alone(f: _Layer, case: Case) -> Expected:
    rows, batch = [f(case.rows([i])) for i in range(len(case.x))], f(case)
    return batch, {k: np.concatenate([row[k] for row in rows]) for k in batch}, "as when the row comes alone"


def _pieces(f: _Layer, case: Case) -> Expected:
    cut = case.cut
    if not (f.key and f.causal and cut < case.x.shape[1]):
        return {}, {}, ""
    _, y, state = f.run(case._replace(x=case.x[:, :cut], lengths=np.minimum(case.lengths, cut)))
    found = f(Case(case.x[:, cut:], case.lengths - cut, case.before[:, :0]), state)
    found["output"] = np.concatenate([y._host(), found["output"]], 1)
    return found, f(case), f"when the sequence is cut before step {cut}"


def _leak(f: _Layer, case: Case) -> Expected:
    expected = f.gradients(case)
    expected["gradient of x"] = _with(expected["gradient of x"], case.padding)
    return f.gradients(case.refilled()), expected, "when NaN stands in the padding"


WHOLE, PADDED, BOTH = (False,), (True,), (False, True)  # rows without padding, with it
LAWS: dict[str, tuple[tuple[bool, ...], Check]] = {
    "the same call gives the same result": (WHOLE, lambda f, case: (f(case), f(case), "as before")),
    "a causal layer never sees the future": (WHOLE, lambda f, case: (
        f.outputs(case._replace(x=_with(case.x, np.s_[:, case.cut :], 7.0)), case.cut * f.causal),
        f.outputs(case, case.cut * f.causal), f"when x changes from step {case.cut} on")),
    "outputs and gradients are finite": (PADDED, lambda f, case: (found := f(case) | f.gradients(case), found, "")),
    "outputs past the end are zero": (PADDED, lambda f, case: (
        found := f.outputs(case), {"output": _with(found["output"], case.padding)}, "")),
    "what stands in the padding changes nothing": (PADDED, lambda f, case: (
        f.outputs(case.refilled()), f.outputs(case), "when NaN stands there")),
    "more padding changes nothing": (PADDED, lambda f, case: (
        f.outputs(case._replace(x=np.concatenate([case.x, case.x], 1)), case.x.shape[1]), f.outputs(case),
        "when the padding is longer")),
    "the final state is that of the last real step": (PADDED, lambda f, case: (
        f(case.refilled()), f.states(f.run(case._replace(x=case.x[:, : max(1, *case.lengths)]))[2]),
        "when the padding is NaN, and longer")),
    "length 0 gives the initial state": (PADDED, lambda f, case: (
        f(case._replace(lengths=0 * case.lengths)), f.states(f.start(case)) if case.before.size else {},
        "when all lengths are 0")),
    "no gradient leaks into the padding, or out of it": (PADDED, _leak),
    "permuting the batch permutes the result": (BOTH, lambda f, case: (
        {k: a[::-1] for k, a in f(case.rows(np.s_[::-1])).items()}, f(case), "when the rows come in reversed order")),
    "a batch equals its rows one at a time": (BOTH, _alone),
    "a sequence fed in pieces gives what it gives whole": (WHOLE, _pieces),
}
SHAPED = (  # laws whose calls have one shape: they hold of a layer that draws the same numbers in each
    "the same call gives the same result", "a causal layer never sees the future", "outputs and gradients are finite",
    "outputs past the end are zero", "what stands in the padding changes nothing", "length 0 gives the initial state",
    "no gradient leaks into the padding, or out of it",
)
