"""Laws of all metrics: however what is counted is cut, ordered, merged, saved and sent, the figure is that of all."""

import inspect
import math
import pickle
import random
from collections.abc import Callable
from functools import reduce
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
from tinyseq import checkpoint, metrics
from tinyseq.metrics import Metric

numbers = st.floats(-1e6, 1e6, width=32)
counts = st.integers(0, 1000)
words = st.lists(st.sampled_from("the cat sat on a mat , .".split()), max_size=6).map(" ".join)
tags = st.sampled_from(["O", "B-PER", "I-PER", "B-art/work", "I-art/work"])
ids = st.integers(0, 3)

# Of each class how it is made, what an item is, and how a batch of them is an update
Case = tuple[Callable[[], Any], st.SearchStrategy[Any], Callable[[list[Any]], tuple[Any, ...]]]
PAIRS = st.tuples(st.lists(ids, max_size=4), st.lists(st.lists(ids, max_size=4), min_size=1, max_size=3))
TEXTS = st.tuples(words, st.lists(words, min_size=1, max_size=3))


def columns(batch: list[Any]) -> tuple[Any, ...]:
    return tuple(zip(*batch, strict=True)) if batch else ((), ())


def arrays(batch: list[Any]) -> tuple[Any, ...]:
    one, other = columns(batch)
    return ts.tensor(np.array(one, "float32")), np.array(other, int)


def rows(batch: list[Any]) -> tuple[Any, ...]:
    said, true, lengths = zip(*batch, strict=True) if batch else (np.ones((0, 3), int), np.ones((0, 3), int), [])
    return ts.tensor(np.array(said, int)), np.array(true, int), np.array(lengths, int)


CASES: dict[str, Case] = {
    **{name: (getattr(metrics, name), st.tuples(numbers, counts), arrays)
       for name in ("Mean", "Perplexity", "BitsPerCharacter")},
    "Accuracy": (lambda: metrics.Accuracy(ignore_index=0), st.tuples(
        st.lists(ids, min_size=3, max_size=3), st.lists(ids, min_size=3, max_size=3), st.integers(0, 3)), rows),
    "TokenErrorRate": (metrics.TokenErrorRate, PAIRS, columns),
    "SequenceErrorRate": (metrics.SequenceErrorRate, PAIRS, columns),
    "SpanF1": (metrics.SpanF1, st.lists(st.tuples(tags, tags), max_size=5).map(
        lambda row: ([a for a, _ in row], [b for _, b in row])), columns),
    "BLEU": (lambda: metrics.BLEU(lowercase=True), TEXTS, columns),
    "CHRF": (lambda: metrics.CHRF(word_order=2), TEXTS, columns),
}
NEEDED = {"TokenErrorRate": "rapidfuzz", "BLEU": "sacrebleu", "CHRF": "sacrebleu"}
ALL = [name for name in metrics.__all__ if inspect.isclass(getattr(metrics, name)) and name != "Metric"]


def test_every_metric_has_a_case() -> None:
    assert sorted(CASES) == sorted(ALL)


def case_of(name: str) -> Case:
    if name in NEEDED:
        pytest.importorskip(NEEDED[name], reason="a library is not installed (pip install 'tinyseq[examples,test]')")
    return CASES[name]


each = pytest.mark.parametrize("name", ALL)


def figure(metric: Metric) -> Any:
    """What it computes, or that it is not defined."""
    try:
        return metric.compute()
    except ValueError as error:
        assert "nothing is counted" in str(error) and type(metric).__name__ in str(error)
        assert repr(metric) == f"{type(metric).__name__}: nothing is counted"
        return "nothing"


def same(one: Metric, other: Metric) -> bool:
    """Exactly, but for sums of floats in another order."""
    a, b = one.sums(), other.sums()
    exact = {name for name in a if isinstance(a[name], int)}
    size = sum(abs(value) for value in a.values())
    return a.keys() == b.keys() and all(a[n] == b[n] for n in exact) and all(
        math.isclose(a[n], b[n], rel_tol=1e-12, abs_tol=1e-8 + 1e-12 * size) for n in a.keys() - exact) and (
        a != b or str(figure(one)) == str(figure(other)))


@each
@given(data=st.data())
def test_any_cut_order_and_tree_gives_the_figure_of_all_at_once(name: str, data: st.DataObject) -> None:
    make, item, batch = case_of(name)
    items = data.draw(st.lists(item, max_size=8))
    whole = make()
    whole.update(*batch(items))

    shuffled = data.draw(st.permutations(items))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(items)), max_size=4)))
    parts = [shuffled[a:b] for a, b in zip([0, *cuts], [*cuts, len(items)], strict=True)]   # empty ones too
    one = make()
    for part in parts:
        one.update(*batch(part))
    assert same(one, whole)

    forest = []
    for part in parts:
        forest.append(make())
        forest[-1].update(*batch(part))
    while len(forest) > 1:
        a, b = (forest.pop(data.draw(st.integers(0, len(forest) - 1))) for _ in range(2))
        before = b.sums()
        forest.append(a.merge(b))
        assert b.sums() == before                           # who is merged stays as it is
    assert same(forest[0], whole)


@each
@given(data=st.data())
def test_a_state_goes_on_where_it_was(name: str, data: st.DataObject, tmp_path_factory: Any) -> None:
    """In mid-evaluation, through a file or to another process; summed over ranks, where the names are the same."""
    make, item, batch = case_of(name)
    items = data.draw(st.lists(item, max_size=6))
    cut = data.draw(st.integers(0, len(items)))
    whole, first, second, other = make(), make(), make(), make()
    whole.update(*batch(items))
    first.update(*batch(items[:cut]))
    path = tmp_path_factory.mktemp("state") / "metric.safetensors"
    checkpoint.save(path, first.state_dict())
    state = checkpoint.load(path)
    second.load_state_dict(state)
    assert second.sums() == first.sums() and repr(second) == repr(first)    # whole numbers as such
    second.update(*batch(items[cut:]))
    assert same(second, whole)
    assert pickle.loads(pickle.dumps(first.state_dict()))["names"] == first.state_dict()["names"]

    other.update(*batch(items[cut:]))
    states = [first.state_dict(), other.state_dict()]
    if states[0]["names"] == states[1]["names"]:
        merged = make()
        merged.load_state_dict(states[0] | {key: states[0][key] + states[1][key] for key in ("counts", "sums")})
        assert same(merged, whole)
    whole.reset()
    assert whole.sums() == make().sums()
    assert figure(whole) == "nothing"


@each
def test_of_nothing_there_is_no_figure(name: str) -> None:
    make, _, batch = case_of(name)
    metric = make()
    for _ in range(2):
        assert figure(metric) == "nothing"
        metric.update(*batch([]))
    with pytest.raises(ValueError, match=rf"^{type(metric).__name__}.compute: nothing is counted"):
        metric.compute()


@each
def test_another_metric_or_another_state_is_refused_and_changes_nothing(name: str) -> None:
    make, _, _ = case_of(name)
    metric = make()
    metric.add(**{name: 3 for name in metric.names})
    before = metric.sums()
    other = metrics.Accuracy(ignore_index=7)
    with pytest.raises((TypeError, ValueError), match=rf"{name}.merge: expected other to be"):
        metric.merge(other)
    with pytest.raises(TypeError, match="got 3"):
        metric.merge(3)
    good = metric.state_dict()
    for state, message in ((other.state_dict(), r"this is the state of Accuracy\(ignore_index=7\), expected that of"),
                           ({}, "without"), (good | {"sums": np.ones(99)}, r"got float64\[99\]"),
                           (good | {"names": ("a",), "counts": ["a"]}, r"expected counts \(int\)"),
                           (good | {"counts": good["counts"] + 0.5}, r"expected counts \(int\).*got float64"),
                           (good | {"names": ("a", "b"), "counts": np.ones(1, int)}, "of a, b"),
                           *[(good | {"names": metric.names[::-1]}, "expected counts")] * bool(metric.names)):
        with pytest.raises(ValueError, match=rf"^{name}.load_state_dict: .*{message}"):
            metric.load_state_dict(state)
    with pytest.raises(TypeError, match="dictionary"):
        metric.load_state_dict(3)
    assert metric.sums() == before


def test_counts_above_the_whole_numbers_of_a_float_are_exact() -> None:
    one, other = metrics.Mean(), metrics.Mean()
    one.add(total=0.5, count=2**53 + 1)
    other.load_state_dict(one.state_dict())
    assert other.sums() == {"total": 0.5, "count": 2**53 + 1} and f"{2**53 + 1:,}" in repr(other)


def test_a_class_of_ones_own_has_the_same_laws() -> None:
    class Length(Metric):
        names = ("tokens", "texts")

        def update(self, texts: list[str]) -> None:
            self.add(tokens=sum(map(len, texts)), texts=len(texts))

        def compute(self) -> float:
            return self.sums()["tokens"] / self.sums()["texts"]

    texts = ["a" * random.Random(0).randint(0, 9) for _ in range(20)]
    parts = []
    for i in range(0, 20, 3):
        parts.append(Length())
        parts[-1].update(texts[i:i + 3])
    assert reduce(Length.merge, parts).compute() == sum(map(len, texts)) / 20 and repr(parts[0]).startswith("Length ")


def test_what_is_counted_on_a_device_stays_there_until_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Any] = []
    metric = metrics.Accuracy()
    from tinyseq import backends
    for_host = backends.active().asnumpy
    monkeypatch.setattr(type(backends.active()), "asnumpy", lambda self, a: reads.append(a) or for_host(a))
    for _ in range(3):
        metric.update(ts.tensor([1, 2]), ts.tensor([1, 3]))
    reads.clear()
    metric.update(ts.tensor([1, 2]), ts.tensor([1, 3]))
    assert not reads
    assert metric.compute() == 0.5
    assert len(reads) == 2
