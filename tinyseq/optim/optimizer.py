"""What all optimizers share: the parameters in their groups, what is kept for each, and what is saved."""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import numpy as np

from tinyseq import backends, check
from tinyseq.backends import captured
from tinyseq.engine.tensor import Array, Tensor, namespace
from tinyseq.interrupts import together, uninterrupted
from tinyseq.optim.gradients import gradient, groups, in_place, named, wide
from tinyseq.optim.groups import Group, Parameters, common_lr
from tinyseq.optim.states import loaded

Launches = dict[tuple[Any, ...], list[tuple[int, Tensor, Array, dict[str, Any]]]]


class Optimizer:
    """What all optimizers share: the parameters, their state, and who is skipped.

    `parameters` are leaf Tensors, (name, Tensor) pairs as of `named_parameters()`, or groups, dictionaries with
    "params", which are one or the other, and hyperparameters of their own. Hyperparameters are attributes that may be
    changed at any time; each is checked when it is given. All numbers are finite and at least 0, betas below 1, where
    nothing else is said.

    >>> model = nn.Linear(3, 1)
    >>> optimizer = ts.optim.AdamW(model.named_parameters(), lr=0.01)
    >>> for step in range(10):
    ...     optimizer.lr = 0.01 * min(1, (step + 1) / 5)      # a schedule: a warm-up of five steps
    ...     loss = ts.mean(model(ts.ones((2, 3))) ** 2)
    ...     optimizer.zero_grad()
    ...     loss.backward()
    ...     optimizer.step()
    >>> saved = optimizer.state_dict()                        # `checkpoint.save` writes it
    >>> again = ts.optim.AdamW(model.named_parameters())
    >>> again.load_state_dict(saved)
    >>> again.lr, again.state[0]["steps"]
    (0.01, 10)

    Names tell a state over parameters in another order, of which the shapes alone say nothing where they are equal: of
    `model.parameters()`, which have no names, such a state loads.

    `param_groups` has the groups as dictionaries with all values, to be read and changed. What was set in a group is
    its own; an attribute of the optimizer holds for the groups without a value of their own. `lr` reaches all of them:
    a group's own learning rate keeps its ratio to the optimizer's, so that one schedule drives all groups, as
    PyTorch's LambdaLR does. One that is set while the optimizer's is 0 has no ratio, and stays. Where all groups are
    set to one learning rate, or the only one is, it is the optimizer's.

    >>> optimizer = ts.optim.SGD([{"params": [model.weight]}, {"params": [model.bias], "lr": 0.01}], lr=0.1)
    >>> optimizer.lr, optimizer.momentum = 0.05, 0.9
    >>> [(group["lr"], group["momentum"]) for group in optimizer.param_groups]
    [(0.05, 0.9), (0.005, 0.9)]

    Parameters of float16 have a float32 master (Micikevicius et al. 2018, section 3.1), which is stepped and then
    rounded, so that steps too small for float16 add up. What others write to a parameter is what the next step begins
    with. Whatever else is kept is float32 too.

    There is no lock here: threads that step over the same parameters must bring one, and hold it in each step.

    A new optimizer is a subclass with `slots`, `hyperparameters` (given to this constructor by name) and `_update`.

    Raises TypeError for what is no leaf Tensor, ValueError for no parameters, and for one that is given twice.
    """

    slots: tuple[str, ...] = ()  # names of the arrays kept for each parameter
    hyperparameters: tuple[str, ...] = ("lr",)
    flags: tuple[str, ...] = ()  # hyperparameters that are True or False
    ranges: ClassVar[dict[str, dict[str, float]]] = {}  # of those that are not from 0 up

    @check.constructor
    def __init__(self, /, parameters: Parameters, lr: float, **settings: Any) -> None:
        name = type(self).__name__
        self.parameters: list[Tensor] = []
        self.names: list[str] = []  # where they were given
        self.state: list[dict[str, Any]] = []  # of each parameter, empty before a first step
        self.param_groups: list[Group] = []
        for key, value in {"lr": lr, **settings}.items():
            setattr(self, key, value)
        for label, group in groups(name, parameters):
            self._add(label, group)
        if not self.parameters:
            raise ValueError(f"{name}: no parameters were given")

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.hyperparameters:
            value = self.checked(name, value)
            found = vars(self).get("param_groups", ())  # not before there are any
            joins = name == "lr" and common_lr(found)
            for group in found:
                if joins:
                    group.own -= {"lr"}
                group.follow(name, value)
        super().__setattr__(name, value)

    @property
    def lr(self) -> float:
        """The learning rate, or the one that those of the groups are relative to."""
        return next(iter(common_lr(self.param_groups)), vars(self)["lr"])  # type: ignore[no-any-return]

    @lr.setter
    def lr(self, value: Any) -> None:
        vars(self)["lr"] = value

    @classmethod
    def checked(cls, name: str, value: Any) -> Any:
        """The value of a hyperparameter as it is kept, or an error.

        >>> ts.optim.Adam.checked("lr", 0.1)
        0.1
        """
        where = cls.__name__
        captured.outside(f"{where}.{name} = ...")
        if name in cls.flags:
            check.choice(where, (True, False), **{name: value})
            return value
        if name == "betas":
            try:
                one, two = value
            except (TypeError, ValueError):
                raise TypeError(f"{where}: expected betas to be two numbers, got {value!r}") from None
            return check.numbers(where, least=0, below=1, **{"betas[0]": one, "betas[1]": two})
        return check.numbers(where, **cls.ranges.get(name, {"least": 0, "below": math.inf}), **{name: value})

    def add_param_group(self, group: Mapping[str, Any]) -> None:
        """Step over more parameters from now on, those of a dictionary as the constructor takes them.

        Raises what the constructor raises; then nothing is added.

        >>> optimizer = ts.optim.SGD(nn.Linear(3, 1).parameters(), lr=0.1)
        >>> optimizer.add_param_group({"params": nn.Linear(1, 2).parameters(), "lr": 0.01})
        >>> [group["lr"] for group in optimizer.param_groups]
        [0.1, 0.01]
        """
        where = f"{type(self).__name__}.add_param_group"
        check.mapping(where, group=group)
        self.lr = self.lr  # what the others have in common
        for label, found in groups(where, [group]):
            self._add(label, found)

    def _add(self, where: str, group: Mapping[str, Any]) -> None:
        pairs = named(where, group["params"])
        place = {id(p): i for i, p in enumerate(self.parameters)}
        for i, (name, p) in enumerate(pairs, len(self.parameters)):
            if place.setdefault(id(p), i) != i:
                raise ValueError(f"{where}: parameter {i}{f' ({name})' * bool(name)} was given twice: it is parameter "
                                 f"{place[id(p)]} too; leave it out of one group")
        values = {k: v for k, v in group.items() if k != "params"}
        names, tensors = [name for name, _ in pairs], [p for _, p in pairs]
        made = Group(type(self), {k: vars(self)[k] for k in self.hyperparameters}, tensors, values)
        self._used(made)
        together((self, "parameters", self.parameters + tensors), (self, "names", self.names + names),
                 (self, "state", self.state + [{} for _ in pairs]), (self, "param_groups", [*self.param_groups, made]))

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.hyperparameters)
        lines = [f"{type(self).__name__}({len(self.parameters)} parameter{'s' * (len(self.parameters) > 1)}, {options}"]
        for group in self.param_groups if len(self.param_groups) > 1 or self.param_groups[0].own - {"lr"} else ():
            own = [f"{name}={group[name]!r}" for name in self.hyperparameters if name in group.own]
            lines.append(", ".join([f"{len(group['params'])} of them", *own]))
        return "\n  ".join(lines) + ")"

    @check.explained
    def zero_grad(self) -> None:
        """Forget all gradients."""
        for p in self.parameters:
            p.grad = None

    def step(self, closure: None = None) -> None:
        """Change every parameter that has a gradient, in place; the others stand still, their state too.

        An interrupt (Ctrl-C) waits for the end of the update. Gradients that somebody assigned and that are not like
        their parameters are a TypeError, before anything is changed; of a float16 parameter they may be float32.

        A graph made before the step refuses to be differentiated after it. The engine sees no use of the array
        through `p.detach()`, or while p was frozen: such a graph goes on, with the new values.

        A `closure`, which PyTorch's optimizers call, is a TypeError.
        """
        if closure is not None:
            raise TypeError(f"{type(self).__name__}.step: no closure is called: loss.backward() comes before, and step "
                            "takes nothing")
        where, first = f"{type(self).__name__}.step", 0
        slots_of = [self._used(group) for group in self.param_groups]
        launches: Launches = defaultdict(list)
        for k, group in enumerate(self.param_groups):
            used = {"steps", *slots_of[k]}
            for i, p in enumerate(group["params"], first):
                g = gradient(where, i, p)
                if g is not None and p.requires_grad:
                    state = self.state[i]
                    whole = state if state.keys() >= used else self._whole(p, state, used)
                    launches[k, type(g), whole["steps"] + 1, "master" in whole].append((i, p, g, whole))
            first += len(group["params"])
        if launches:
            captured.again(functools.partial(self._take, where, launches, slots_of),
                           lambda: (self, "state", [dict(state) for state in self.state]))

    def _take(self, where: str, launches: Launches, slots_of: list[set[str]]) -> None:
        """The update, which a step that is repeated does each time with the values and the number of that time."""
        if captured.repeating() and (slots_of != [self._used(group) for group in self.param_groups] or any(
                self.state[i] is not state for members in launches.values() for i, _, _, state in members)):
            raise RuntimeError(f"{where}: what is kept for a parameter is not what it was when the step was recorded "
                               "(a state was loaded, or momentum begun or ended): record it anew, ts.capture(step)")
        with uninterrupted():
            for (k, _, _, masters), members in launches.items():
                places, ps, grads, states = zip(*members, strict=True)
                steps = states[0]["steps"] + 1
                together(*[change for p in ps for change in p._holds(p._data)])  # as p.written() of each
                group = self.param_groups[k]
                slots = [[state[s] for state in states] for s in self.slots if s in slots_of[k]]
                update = functools.partial(self._update, {name: group[name] for name in self.hyperparameters})
                if masters and not captured.repeating():
                    update = functools.partial(_in_float32, update)
                    slots.insert(0, [state["master"] for state in states])
                in_place(where, update, steps, [p._data for p in ps], list(grads), *slots)
                for i, state in zip(places, states, strict=True):
                    self.state[i] = state
                    state["steps"] = steps

    def _used(self, values: Mapping[str, Any]) -> set[str]:
        """The slots that a step with these hyperparameters needs, or an error for those that do not go together."""
        return set(self.slots)

    def _shape(self, slot: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of what is kept for a parameter of this shape."""
        return shape

    def _whole(self, p: Tensor, state: dict[str, Any], used: Iterable[str]) -> dict[str, Any]:
        """A parameter's state with zeros for what it lacks, and a master for what is float16."""
        captured.outside("a first step of a parameter, or of its momentum,", "recorded")
        x, new = p._data, {}
        for slot in self.slots:
            if slot in used and slot not in state:
                new[slot] = namespace(x).zeros_like(x, dtype=wide(p), shape=self._shape(slot, p.shape))
        if p.dtype == np.float16 and "master" not in state:
            new["master"] = x.astype(np.float32)
        return {"steps": 0} | state | new

    def _update(self, values: Mapping[str, Any], steps: int, data: list[Array], grads: list[Array],
                *slots: list[Array]) -> None:
        """Step number `steps`, from 1, in place on `data` and the slots that are used, with a group's values."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Everything that `step` needs to go on: for `load_state_dict` of an optimizer over the same parameters.

        Its name, its hyperparameters, its groups' own ones, the number of its parameters, their shapes and names, and
        for number i that has been stepped "i.steps" and the arrays "i.SLOT". `checkpoint.save` takes it as it is.
        """
        own = {"optimizer": type(self).__name__, "parameters": len(self.parameters)}
        values = {k: getattr(self, k) for k in self.hyperparameters}
        grouped = {"groups": {str(k): group.state() for k, group in enumerate(self.param_groups)},
                   "shapes": tuple([str(p.shape) for p in self.parameters]), "names": tuple(self.names)}
        used = [self._used(group) for group in self.param_groups for _ in group["params"]]
        arrays = {f"{i}.{k}": v if k == "steps" else Tensor(v)
                  for i, (p, s) in enumerate(zip(self.parameters, self.state, strict=True)) if s
                  for k, v in self._whole(p, s, used[i]).items()}
        return own | values | grouped | arrays

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the optimizer that gave `state` stood, with its hyperparameters and those of its groups.

        That of another class, or over parameters of other shapes, groups or names (where both were made with names) is
        a ValueError, as are arrays of other shapes; entries that miss or that nobody knows are a KeyError. Then nothing
        is loaded. A state that was saved before there were groups loads into one group; of float16 parameters the
        masters begin as those are, with a warning.
        """
        self.__dict__.update(loaded(self, state))  # at once, whatever interrupts


def _in_float32(update: Any, steps: int, halves: list[Array], grads: list[Array], masters: list[Array],
                *slots: list[Array]) -> None:
    """The step of float16 parameters."""
    backend = backends.of(halves[0])
    backend.follow(masters, halves)
    update(steps, masters, [backend.asarray(g, np.float32) for g in grads], *slots)
    backend.round_to(halves, masters)
