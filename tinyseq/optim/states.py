"""What a saved optimizer gives to another: everything is checked before anything is changed."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from tinyseq import backends, check
from tinyseq.engine.tensor import Tensor
from tinyseq.optim.gradients import wide
from tinyseq.optim.groups import Group

KNOWN = ("groups", "shapes", "names")  # what a state has since there are groups


def loaded(optimizer: Any, state: Mapping[str, Any]) -> Any:
    """The attributes of an optimizer that goes on with a state."""
    name = type(optimizer).__name__
    _same_kind(optimizer, state)
    early = not state.keys() & set(KNOWN)
    if early:
        state = {**state, **_since(optimizer, state)}
    _same_parameters(optimizer, state)
    other = copy.copy(optimizer)
    other.param_groups = []
    for key in optimizer.hyperparameters:
        if key in state:
            setattr(other, key, state[key])
    if "groups" in state:
        other.param_groups = [_group(other, k, group["params"], state["groups"][str(k)])
                              for k, group in enumerate(optimizer.param_groups)]
    other.state = _arrays(other, state)
    if early and any("master" in own for own in other.state):
        warnings.warn(f"{name}.load_state_dict: this state was saved before float16 parameters had float32 masters, "
                      "which begin as the parameters are now", stacklevel=3)
    return vars(other)


def _same_kind(optimizer: Any, state: Mapping[str, Any]) -> None:
    """Refuse what is no state of such an optimizer."""
    name, count = type(optimizer).__name__, len(optimizer.parameters)
    if not isinstance(state, Mapping):
        raise TypeError(f"{name}.load_state_dict: expected what state_dict() gave, got a {type(state).__name__}")
    if "param_groups" in state:
        raise ValueError(f"{name}: this is the state of a PyTorch optimizer, whose moments are not taken: begin "
                         "with new ones, and set the learning rate, optimizer.lr = ...")
    given = state.get("optimizer", name), state.get("parameters", count)
    if given != (name, count):
        raise ValueError(f"{name}: this state was saved by another optimizer, {given[0]} over {given[1]} "
                         f"parameters; this is {name} over {count}")


def _since(optimizer: Any, state: Mapping[str, Any]) -> dict[str, Any]:
    """What a state lacks that was saved before there were groups and masters."""
    parameters = optimizer.parameters
    masters = {f"{i}.master": p.detach().astype(np.float32) for i, p in enumerate(parameters)
               if f"{i}.steps" in state and p.dtype == np.float16}
    return {"groups": {"0": {"parameters": len(parameters)}}, "shapes": [str(p.shape) for p in parameters],
            "names": optimizer.names, **masters}


def _same_parameters(optimizer: Any, state: Mapping[str, Any]) -> None:
    """Refuse a state over parameters in other groups, of other shapes or other names."""
    name, count = type(optimizer).__name__, len(optimizer.parameters)
    try:
        groups = dict(state.get("groups", {"0": {"parameters": count}}))
        sizes = [groups[str(k)]["parameters"] for k in range(len(groups))]
        shapes = [str(shape) for shape in state.get("shapes", [p.shape for p in optimizer.parameters])]
        names = [str(known) for known in state.get("names", optimizer.names)]
        if len(shapes) != count or len(names) != count:
            raise ValueError
    except (TypeError, ValueError, KeyError):
        raise ValueError(f"{name}: the groups, shapes or names of this state are not what state_dict() gave") from None
    here = [len(group["params"]) for group in optimizer.param_groups]
    if "groups" in state and sizes != here:
        raise ValueError(f"{name}: this state was saved by an optimizer with groups of {sizes} parameters; here are "
                         f"groups of {here}")
    rows = zip(names, optimizer.names, shapes, optimizer.parameters, strict=True)
    wrong = [f"parameter {i}: {f'{there} {shape}'.strip()} given, {f'{own} {p.shape}'.strip()} here"
             for i, (there, own, shape, p) in enumerate(rows)
             if shape != str(p.shape) or (there and own and there != own)]
    if wrong:
        raise ValueError(f"{name}: this state was saved by an optimizer over other parameters, or in another order: "
                         f"{'; '.join(wrong)}")


def _group(other: Any, k: int, params: tuple[Tensor, ...], saved: Mapping[str, Any]) -> Group:
    """A group as it was saved."""
    own = {key: value for key, value in saved.items() if key not in ("parameters", "ratio")}
    group = Group(type(other), {key: getattr(other, key) for key in other.hyperparameters}, params, own)
    if "lr" in own:
        name, given = type(other).__name__, saved.get("ratio", group.ratio)
        check.instance(name, (tuple, list), ratio=given)
        group.ratio = check.numbers(name, least=0, below=math.inf, **{f"ratio[{i}]": x for i, x in enumerate(given)})
        if len(given) != 2:
            raise ValueError(f"{name}: expected ratio of group {k} to be two numbers, got {given}")
    return group


def _arrays(other: Any, state: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What was kept for each parameter."""
    name, slots = type(other).__name__, (*other.slots, "master")
    used = [other._used(group) for group in other.param_groups for _ in group["params"]] or [set()] * len(other.names)
    found, wanted = list[list[str] | None](), dict[str, Any]()
    for i, p in enumerate(other.parameters):
        given = {s for s in slots if f"{i}.{s}" in state}
        needed = [s for s in other.slots if s in given | used[i]] + ["master"] * (p.dtype == np.float16)
        stepped = bool(given) or f"{i}.steps" in state
        found.append(needed if stepped else None)
        for s in needed if stepped else ():
            shape = p.shape if s == "master" else other._shape(s, p.shape)
            wanted[f"{i}.{s}"] = np.broadcast_to(np.zeros((), wide(p)), shape)  # none of its memory
    steps = [f"{i}.steps" for i, needed in enumerate(found) if needed is not None]
    keys = dict.fromkeys(["optimizer", "parameters", *other.hyperparameters, *KNOWN, *steps, *wanted])
    missing, unexpected = [k for k in keys if k not in state], [k for k in state if k not in keys]
    if missing or unexpected:
        raise KeyError(f"{name}: this state was saved by another optimizer, or in part: missing "
                       f"{missing or 'nothing'}, unexpected {unexpected or 'nothing'}; of one that lacks settings, "
                       "optimizer.state_dict() | state has them")
    arrays, kept = check.arrays(name, wanted, state), list[dict[str, Any]]()
    for i, (p, saved) in enumerate(zip(other.parameters, found, strict=True)):
        own: dict[str, Any] = {}
        if saved is not None:
            own["steps"] = check.integers(f"{name}.load_state_dict", 0, **{f"{i}.steps": state[f"{i}.steps"]})
            for s in saved:
                own[s] = backends.of(p._data).asarray(arrays[f"{i}.{s}"], wide(p), copy=True)
        kept.append(own)
    return kept
