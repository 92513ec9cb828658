"""What streams are made of: a stage's mark is where it stands, in plain numbers, and its copies stand alone."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyseq.data import stages
from tinyseq.data.stages import END, Items, Shuffle, Stage


def plain(mark: Any) -> bool:
    return all(map(plain, mark)) if isinstance(mark, tuple) else type(mark) in (int, bool)


def chain(kind: str, items: list[str]) -> Stage:
    feed = Items(items)
    made: dict[str, Any] = {
        "items": lambda: feed, "map": lambda: stages.Map(feed, str), "filter": lambda: stages.Filter(feed, len),
        "random": lambda: stages.RandomMap(feed, lambda x, rng: (x, rng.random()), (1,)),
        "repeat": lambda: stages.Repeat(feed, 2), "shuffle": lambda: Shuffle(feed, 3, (1,)),
        "bucket": lambda: stages.Bucket(feed, 3, len), "batch": lambda: stages.Batch(feed, 2, 5, stages.length),
        "windows": lambda: stages.Windows(feed, 3, 2),
        "rows": lambda: stages.Rows(feed.part(0, 2), feed.part(1, 2))}
    return made[kind]().fresh()


KINDS = "items map filter random repeat shuffle bucket batch windows rows".split()


@pytest.mark.parametrize("kind", KINDS)
@given(items=st.lists(st.text("ab", max_size=5), max_size=9))
def test_a_mark_is_plain_and_leads_to_the_same_items(kind: str, items: list[str]) -> None:
    stage, given, marks = chain(kind, items), [], []
    while given.count(END) < 3:
        marks.append(stage.mark())
        given.append(stage.next())
    other = chain(kind, items)
    for i in range(len(marks)):
        assert plain(marks[i])
        other.seek(marks[i])
        assert other.mark() == marks[i]
        assert [other.next() for _ in given[i:]] == given[i:]
    copy = stage.fresh()
    assert [copy.next() for _ in given] == given and stage.settings == copy.settings


def test_settings_along_a_chain() -> None:
    source = Items("abcd")
    stage = Shuffle(stages.Shard(stages.Batch(stages.Map(source, str), 2, None, len), 0, 1), 3, (1,))
    assert [before.settings for before in stages.along(stage)] == [
        "items(4 of them)", "map", "batch(size=2, tokens=None)", "", "shuffle(buffer=3, seed=(1,))"]
    rows = stages.Rows(source.part(0, 2), source.part(1, 2))
    assert [before.settings for before in stages.along(rows)] == ["items(4 of them)", "contiguous(rows=2)"]


def test_lengths() -> None:
    assert stages.length("abc") == stages.length(("a", "abc", [1])) == 3 and stages.length(()) == 0
    assert stages.length(["a", "longer"]) == stages.length(np.ones((2, 80))) == stages.length([np.int64(1), 2]) == 2
    assert stages.length([]) == 0 == stages.length(np.ones((0, 80)))
    pair = [[1, 2, 3], [4]]
    for item in (3, {"ids": [1, 2, 3]}, pair, [np.ones(3), np.ones(2)], ([1], pair), [{"id": 1}], [(1, 2), (3,)]):
        with pytest.raises(TypeError, match=r"expected items with a length, .*: give length=, a function of an item"):
            stages.measured(stages.length, item)    # whose len is not how many tokens it takes
    assert stages.measured(len, pair) == 2 and stages.measured(stages.length, tuple(pair)) == 3


def test_no_item_waits_for_a_whole_block() -> None:
    """But the first."""
    read: list[int] = []
    stage = Shuffle(stages.Map(Items(range(100)), lambda x: read.append(x) or x), 10, (1,)).fresh()
    counts = []
    for _ in range(100):
        stage.next()
        counts.append(len(read))
    assert counts == [*range(11, 101), *[100] * 10]
