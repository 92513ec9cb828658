"""What is given is taken from any library, and what is no list, no id and no state is told as it is."""

from typing import Any

import numpy as np
import pytest

import tinyseq as ts
from tinyseq.data import given


def test_lists_of_any_library() -> None:
    for values in ([1, 2], (1, 2), np.array([1, 2]), ts.tensor([1, 2]), iter([1, 2])):
        assert given.as_list("f: expected ids", values) == [1, 2]
    with pytest.raises(TypeError, match=r"^f: expected ids, got 3$"):
        given.as_list("f: expected ids", 3)


def test_ids_end_at_the_end() -> None:
    assert given.written("f", [5, np.uint8(3), 2, 99], size=6, end=2) == [5, 3]
    assert given.written("f", [0, 2], size=6, end=None) == [0, 2]
    for ids, kind, told in (([6], ValueError, "f: unknown id 6; the ids are 0 to 5"), ([-1], ValueError, "id -1"),
                            ([True], TypeError, "f: expected an integer id, got True"),
                            (3, TypeError, "f: expected a sequence of ids, got 3")):
        with pytest.raises(kind, match=told):
            given.written("f", ids, size=6, end=2)


def test_the_state_of_something_else_is_told_by_its_keys() -> None:
    own: dict[str, Any] = {"kind": "tinyseq.data.Thing", "a": 1}
    given.state("Thing", own, a=int)
    for other in ({}, {"a": 1}, own | {"kind": "x"}, own | {"a": "1"}, own | {"b": 1}):
        told = " ".join(map(repr, other)) or "nothing"
        with pytest.raises(ValueError, match=rf"^Thing.load_state_dict: expected what .* a dictionary of {told}$"):
            given.state("Thing", other, a=int)
    with pytest.raises(TypeError, match=r"^Thing.load_state_dict: expected state to be a dictionary, got 3$"):
        given.state("Thing", 3, a=int)  # type: ignore[arg-type]
    assert given.some(range(50)).endswith("39 …")
