"""Groups of parameters, each with hyperparameters of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn, Self

from tinyseq import check
from tinyseq.check import describe
from tinyseq.engine.tensor import Tensor

__all__ = ["decay_groups"]

Parameters = Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[Mapping[str, Any]]


def decay_groups(model: Any, weight_decay: float) -> list[dict[str, Any]]:
    """The parameters of a module in two groups, for an optimizer: weights that decay, and what does not.

    Biases and norms do not decay: what has fewer than two axes or "bias" in its own name, and all that a class holds
    whose name, or that of its base, ends with Norm. Nothing is gained where they are small. Matrices do, embeddings
    among them, as in the training of BERT, GPT-2 and their like. Names come along, a shared parameter comes once. The
    groups are dictionaries, to be changed or added to.

    >>> model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    >>> groups = ts.optim.decay_groups(model, 0.1)
    >>> [([name for name, _ in group["params"]], group["weight_decay"]) for group in groups]
    [(['0.weight'], 0.1), (['0.bias', '1.weight', '1.bias'], 0.0)]
    >>> optimizer = ts.optim.AdamW(groups, lr=1e-3)

    Raises TypeError for what is no module, ValueError for a weight_decay below 0.
    """
    if isinstance(model, type) or not hasattr(model, "named_modules"):
        raise TypeError(f"decay_groups: expected model to be a module, got {describe(model)}")
    weight_decay = check.numbers("decay_groups", least=0, weight_decay=weight_decay)
    pairs, decayed = list(model.named_parameters()), set[str]()
    modules = {"": model, **dict(model.named_modules())}
    for name, p in pairs:
        place, _, own = name.rpartition(".")
        while place not in modules:  # in a list of parameters
            place, _, own = place.rpartition(".")
        norm = any(kind.__name__.endswith("Norm") for kind in type(modules[place]).__mro__)
        if p.ndim > 1 and "bias" not in own and not norm:
            decayed.add(name)
    return [{"params": [(name, p) for name, p in pairs if name in decayed], "weight_decay": weight_decay},
            {"params": [(name, p) for name, p in pairs if name not in decayed], "weight_decay": 0.0}]


class Group(dict[str, Any]):
    """One of an optimizer's `param_groups`: "params", a tuple, and the value of each hyperparameter.

    Values may be changed at any time, and are checked then. Those that were given are the group's own; the others are
    the optimizer's, and change with it. An own learning rate keeps its ratio to the optimizer's.
    """

    __slots__ = ("kind", "own", "ratio", "whole")

    def __init__(self, kind: Any, defaults: Mapping[str, Any], params: Iterable[Tensor],
                 values: Mapping[str, Any]) -> None:
        super().__init__({"params": tuple(params), **defaults})
        self.kind, self.own = kind, frozenset[str]()
        self.whole = defaults["lr"]  # the optimizer's learning rate
        self.ratio = (self.whole, self.whole)  # an own learning rate and the optimizer's, when it was given
        self.update(values)

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (dict(self), {name: getattr(self, name) for name in self.__slots__})

    def __setitem__(self, name: str, value: Any) -> None:
        if name == "params":
            raise TypeError(f"{self.kind.__name__}: a group keeps its params; optimizer.add_param_group adds others")
        if name not in self.kind.hyperparameters:
            from tinyseq import names

            known = ["params", *self.kind.hyperparameters]
            raise KeyError(f"{self.kind.__name__}: no entry {name!r} of a group; " + "; ".join(
                [*names.meant(name, known), f"it takes {', '.join(known)}"]))
        value = self.kind.checked(name, value)
        if name == "lr":
            self.ratio = (value, self.whole)
        self.own |= {name}
        super().__setitem__(name, value)

    def follow(self, name: str, value: Any) -> None:
        """The optimizer's value is another now."""
        if name == "lr":
            self.whole = value
        if name == "lr" in self.own:
            own, whole = self.ratio
            super().__setitem__(name, own * (value / whole) if whole else own)
        elif name not in self.own:
            super().__setitem__(name, value)

    def update(self, *args: Any, **values: Any) -> None:
        for name, value in dict(*args, **values).items():
            self[name] = value

    def __ior__(self, values: Any) -> Self:  # type: ignore[override, misc]
        self.update(values)
        return self

    def _fixed(self, *args: Any) -> NoReturn:
        raise TypeError(f"{self.kind.__name__}: entries of a group are changed, group[name] = value, and never go")

    __delitem__ = pop = popitem = clear = setdefault = _fixed

    def state(self) -> dict[str, Any]:
        """What is saved: how many parameters it has, and its own values."""
        values = {name: self[name] for name in self.kind.hyperparameters if name in self.own}
        return {"parameters": len(self["params"])} | values | ({"ratio": self.ratio} if "lr" in values else {})


def common_lr(groups: Sequence[Group]) -> list[Any]:
    """The learning rate that all groups were given alike, or none: a schedule makes other ones alike for a while."""
    if not groups or "lr" not in groups[0].own:
        return []
    given = {group.ratio if "lr" in group.own else None for group in groups}
    return [groups[0]["lr"]] if len(given) == 1 else []


def _again(entries: dict[str, Any], slots: dict[str, Any]) -> Group:
    """A copy of a group."""
    group = Group.__new__(Group)
    dict.update(group, entries)
    for name, value in slots.items():
        setattr(group, name, value)
    return group
