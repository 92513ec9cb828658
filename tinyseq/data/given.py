"""What vocabularies, tokenizers, padding and streams are given: lists, ids, states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tinyseq import check


def as_list(expected: str, values: Any) -> list[Any]:
    """What is in an iterable, or in an array of any library."""
    values = values.tolist() if hasattr(values, "tolist") else values
    if not hasattr(values, "__iter__"):
        raise TypeError(f"{expected}, got {values!r}")
    return list(values)


def written(where: str, ids: Any, size: int, end: int | None) -> list[int]:
    """The ids before the first `end`, all of them below `size`."""
    found: list[int] = []
    for given in as_list(f"{where}: expected a sequence of ids", ids):
        i = given if type(given) is int else check.integers(where, id=given)
        if i == end:
            break
        if not 0 <= i < size:
            raise ValueError(f"{where}: unknown id {i}; the ids are 0 to {size - 1}")
        found.append(i)
    return found


def state(name: str, found: Mapping[str, Any], **kinds: type) -> None:
    """Refuse what the class of that name did not give: in its `state_dict` are values of these kinds."""
    check.mapping(f"{name}.load_state_dict", state=found)
    if found.get("kind") != f"tinyseq.data.{name}" or found.keys() != {"kind", *kinds} or (
            not all(isinstance(found[key], kind) for key, kind in kinds.items())):
        raise ValueError(f"{name}.load_state_dict: expected what {name}.state_dict gave, got a dictionary of "
                         f"{some(list(found)) or 'nothing'}")


def some(values: Sequence[Any]) -> str:
    return " ".join(map(repr, values[:40])) + (" …" if len(values) > 40 else "")
