"""A stream goes on, from any point, with exactly what would have come: whatever its stages are."""

import gzip
import json
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
from tinyseq import checkpoint, data
from tinyseq.data import Stream

Make = Callable[[], Stream[Any]]
sizes = st.integers(1, 9)
texts = st.lists(st.text("ab é\U0001f600", max_size=9), max_size=30)


def noisy(item: Any, rng: np.random.Generator) -> Any:
    return [item, int(rng.integers(1000))] if isinstance(item, int) else item[rng.integers(len(item) + 1):]


@st.composite
def sources(draw: st.DrawFn, folder: Path) -> Make:
    """Streams of texts."""
    lines, kind = draw(texts), draw(st.sampled_from(["lines", "json", "pairs", "gzip", "text", "items", "function"]))
    cut = draw(st.integers(0, len(lines)))
    paths = [folder / "a.txt", folder / "b.txt"]
    for path, part in zip(paths, (lines[:cut], lines[cut:]), strict=True):
        rows = [json.dumps(x) for x in part] if kind == "json" else part
        raw = "".join(row + "\n" for row in rows).encode()
        path.write_bytes(gzip.compress(raw) if kind == "gzip" else raw)
    if kind == "pairs":
        return lambda: data.pairs(paths, paths).map("".join)
    size = draw(sizes)
    return {"lines": lambda: data.lines(paths), "json": lambda: data.json_lines(paths),
            "gzip": lambda: data.lines(paths), "text": lambda: data.text(paths, size),
            "items": lambda: data.items(lines), "function": lambda: data.items(lambda: iter(lines))}[kind]


@st.composite
def pipelines(draw: st.DrawFn, folder: Path) -> Make:
    """Any stages on any source, in an order in which their items fit."""
    source, steps, batches = draw(sources(folder)), [], False
    kinds = "map noise filter shuffle repeat bucket windows prefetch batch contiguous shard".split()
    for kind in draw(st.lists(st.sampled_from(kinds), max_size=6)):
        a, b, c = draw(sizes), draw(sizes), draw(st.integers(0, 2**40))
        if kind in ("map", "noise", "filter", "windows", "contiguous", "bucket", "batch") and batches:
            continue        # which are of texts, and these of batches
        if (kind == "contiguous" and steps) or (kind == "shard" and not batches):
            continue
        steps.append({
            "map": lambda s: s.map(str.upper), "noise": lambda s, c=c: s.map(noisy, seed=c),
            "filter": lambda s, a=a: s.filter(lambda x: len(x) < a + 2), "shuffle": lambda s, a=a, c=c: s.shuffle(a, c),
            "repeat": lambda s, a=a: s.repeat(a % 3 + 1), "bucket": lambda s, a=a: s.bucket(a),
            "windows": lambda s, a=a, b=b: s.windows(max(a, b), min(a, b)), "prefetch": lambda s, a=a: s.prefetch(a),
            "batch": lambda s, a=a, b=b: s.batch(a if b % 2 else None, tokens=a + 60 if b % 3 or b == 6 else None),
            "contiguous": lambda s, a=a, b=b, c=c: s.contiguous(c % 4 + 1, max(a, b), min(a, b)),
            "shard": lambda s, a=a, b=b: s.shard(min(a, b) - 1, max(a, b)),
        }[kind])
        batches = batches or kind in ("batch", "contiguous")

    def make() -> Stream[Any]:
        stream = source()
        for step in steps:
            stream = step(stream)
        return stream

    return make


def made(make: Make) -> Stream[Any] | None:
    """The stream, unless it would read packed files by parts."""
    try:
        return make()
    except ValueError as error:
        assert "contiguous" in str(error)
        return None


@given(st.data())
def test_a_stream_goes_on_from_any_point_with_what_would_have_come(folder: Path, draws: st.DataObject) -> None:
    """For three epochs, through a file, with a thread and without, in the same stream and in a new one."""
    make = draws.draw(pipelines(folder))
    stream = made(make)
    if stream is None:
        return
    whole = [list(stream) for _ in range(3)]
    assert stream.epoch == 3
    epoch, ahead, behind = draws.draw(st.integers(0, 1)), draws.draw(st.booleans()), draws.draw(st.booleans())
    k = draws.draw(st.integers(0, len(whole[epoch])))
    first = make().prefetch(3) if ahead else make()
    for _ in range(epoch):
        list(first)
    running = iter(first)
    assert list(islice(running, k)) == whole[epoch][:k]
    checkpoint.save(folder / "run.safetensors", {"data": first.state_dict()})
    state = checkpoint.load(folder / "run.safetensors")["data"]
    assert json.loads(json.dumps(state)) == json.loads(json.dumps(first.state_dict()))
    after = make().prefetch(2) if behind else make()
    after.load_state_dict(json.loads(json.dumps(state)) if draws.draw(st.booleans()) else state)
    assert after.epoch == epoch
    assert [list(after) for _ in range(2 - epoch)] == [whole[epoch][k:], *whole[epoch + 1:2]]
    running.close()  # type: ignore[attr-defined]
    assert list(first) == whole[epoch][k:] and list(first) == whole[epoch + 1]
    first.load_state_dict(state)        # back
    assert list(first) == whole[epoch][k:]


@given(st.lists(st.integers(), max_size=40), sizes, sizes, st.integers(0, 9))
def test_every_item_comes_once_an_epoch(items: list[int], a: int, b: int, seed: int) -> None:
    stream = data.items(items).shuffle(a, seed).bucket(b, length=abs).batch(a).shuffle(b, seed).prefetch(2)
    for _ in range(3):
        assert sorted(x for batch in stream for x in batch) == sorted(items)


def test_epochs_differ_and_a_seed_repeats_them() -> None:
    first, again, other = (data.items(range(50)).shuffle(50, seed) for seed in (0, 0, [0, 1]))
    epochs = [list(first) for _ in range(3)]
    assert epochs == [list(again) for _ in range(3)] and epochs[0] != epochs[1] != epochs[2]
    assert list(other) not in epochs


@given(st.lists(st.tuples(st.text("a", max_size=9), st.text("b", max_size=9)), max_size=40), st.integers(9, 40),
       sizes, st.none() | sizes)
def test_budgets_are_kept_and_used(rows: list[tuple[str, str]], tokens: int, buffer: int, size: int | None) -> None:
    """No batch is larger, and none could have taken the item that came next."""
    ordered = list(data.items(rows).bucket(buffer))
    batches = list(data.items(rows).bucket(buffer).batch(size, tokens=tokens))
    assert [row for batch in batches for row in batch] == ordered and [] not in batches
    padded = lambda batch: max(len(x) for row in batch for x in row) * len(batch)
    for batch, after in zip(batches, [*batches, None][1:], strict=True):
        assert padded(batch) <= tokens and len(batch) <= (size or 99)
        assert after is None or len(batch) == size or padded([*batch, after[0]]) > tokens


def test_buckets_pad_less() -> None:
    lengths = np.random.default_rng(0).integers(0, 50, 1000)
    rows = data.items(lengths.tolist())
    waste = [sum(max(batch) * len(batch) - sum(batch) for batch in stream.batch(10))
             for stream in (rows, rows.bucket(100, length=int))]
    assert waste[1] < waste[0] / 3
    assert list(data.items([2, 1, 4, 3, 6, 5, 7]).bucket(2, length=int)) == [1, 2, 4, 3, 5, 6, 7]


@given(texts, sizes, sizes, st.sampled_from([str, list, np.array]))
def test_windows_are_those_of_all_items_joined(items: list[str], a: int, b: int, kind: Any) -> None:
    size, step, whole = max(a, b), min(a, b), "".join(items)
    stream = data.items([kind(list(x)) if kind is np.array else kind(x) for x in items if x]).windows(size, step)
    windows = ["".join(x) for x in stream]
    starts = [i for i in range(0, len(whole), step) if i == 0 or i + size - step < len(whole)]
    assert windows == [whole[i:i + size] for i in starts] == ["".join(x) for x in stream]
    assert all(isinstance(x, np.ndarray if kind is np.array else kind) for x in stream)


@given(texts, st.integers(1, 5), sizes, sizes, sizes, st.sampled_from(["text", "lines", "items"]))
def test_rows_of_contiguous_batches_continue_each_other(folder: Path, lines: list[str], rows: int, a: int, b: int,
                                                        piece: int, kind: str) -> None:
    """Joined, and one after the other, they are the text."""
    size, step = max(a, b), min(a, b)
    (folder / "a.txt").write_text("\n".join(lines[:3]) + "\n" * bool(lines[:3]), "utf-8")
    (folder / "b.txt").write_text("\n".join(lines[3:]), "utf-8")
    paths = [folder / "a.txt", folder / "b.txt"]
    source = {"text": data.text(paths, piece), "lines": data.lines(paths), "items": data.items(lines)}[kind]
    joined = [""] * rows
    for batch in source.contiguous(rows, size, step):
        assert len(batch) == rows and any(batch)
        for i, window in enumerate(batch):
            if window:
                assert joined[i][len(joined[i]) - (size - step):] == window[:size - step] or not joined[i]
            joined[i] += window[size - step if joined[i] else 0:]
    assert "".join(joined) == "".join(source)
    if len("".join(lines)) > 20 * rows and kind == "text":
        assert min(map(len, joined)) > 0


@given(st.lists(st.integers(), max_size=40), sizes, st.integers(1, 4), st.integers(1, 4), st.integers(0, 9))
def test_processes_share_batches_and_another_number_of_them_goes_on(items: list[int], size: int, before: int,
                                                                    after: int, k: int) -> None:
    """All see as many batches, some with no row."""
    make = lambda: data.items(items).shuffle(7, seed=0).batch(size)
    whole = list(make())
    k = min(k, len(whole))
    first = [make().shard(rank, before).prefetch(2) for rank in range(before)]
    parts = [list(islice(stream, k)) for stream in first]
    states = [stream.state_dict() for stream in first]
    assert all(state == states[0] for state in states)
    second = [make().shard(rank, after) for rank in range(after)]
    for stream in second:
        stream.load_state_dict(states[-1])
    for ranks, expected in ((parts, whole[:k]), ([list(stream) for stream in second], whole[k:])):
        assert all(len(batches) == len(expected) for batches in ranks)
        for shares, batch in zip(zip(*ranks, strict=True), expected, strict=True):
            assert sorted(x for share in shares for x in share) == sorted(batch)
    ids, lengths = next(iter(data.items([[1]]).batch(1).shard(1, 2).map(data.pad)))
    assert ids.shape == (0, 0) and lengths.shape == (0,)


def test_streams_made_of_one_share_nothing() -> None:
    whole = data.items(range(9))
    a, b = whole.batch(2), whole.map(str)
    it = iter(a)
    assert next(it) == [0, 1] and next(iter(whole)) == 0 and next(iter(b)) == "0" and next(it) == [2, 3]
    assert list(whole.batch(9)) == [list(range(9))]        # from the start, whatever was read of `whole`
    assert next(iter(whole)) == 1


def test_two_loops_over_a_stream_share_its_position() -> None:
    stream = data.items(range(6)).prefetch(2)
    a, b = iter(stream), iter(stream)
    assert [next(a), next(b), next(a), next(b), *a] == [*range(6)]


@pytest.mark.parametrize("prefetch", [False, True])
@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_after_an_error_the_stream_stands_where_it_stood(kind: type[BaseException], prefetch: bool) -> None:
    bad = [True]

    def fails(x: int) -> int:
        if x == 13 and bad[0]:
            raise kind("of mine")
        return x

    stream = data.items(range(20)).map(fails).shuffle(5, seed=0).batch(2).windows(3)
    stream = stream.prefetch(2) if prefetch else stream
    got: list[Any] = []
    with pytest.raises(kind, match="of mine"):
        got.extend(iter(stream))
    state = stream.state_dict()
    bad[0] = False
    whole = list(data.items(range(20)).shuffle(5, seed=0).batch(2).windows(3))
    again = data.items(range(20)).map(fails).shuffle(5, seed=0).batch(2).windows(3)
    again.load_state_dict(state)
    assert 0 < len(got) < len(whole) and list(again) == list(stream) == whole[len(got):]


def test_another_stream_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a\nb\n")
    make = lambda: data.lines(path).shuffle(10, seed=0).batch(2)
    state = make().state_dict()
    for other, told in ((data.lines(path).shuffle(10, seed=1).batch(2), "shuffle"), (data.lines(path), "batch"),
                        (data.lines(path).shuffle(10, seed=0).batch(3), r"batch\(size=3"),
                        (data.lines([path, path]).shuffle(10, seed=0).batch(2), "over 2 files, got one over 1"),
                        (data.text(path).shuffle(10, seed=0).batch(2), "text")):
        with pytest.raises(ValueError, match=rf"^Stream.load_state_dict: expected the state of .*{told}"):
            other.load_state_dict(state)
        assert len(list(other)) > 0 and other.epoch == 1
    more = ({"kind": "x"}, {**state, "more": 1}, {**state, "files": 3})
    for wrong in ({}, state | {"kind": "tinyseq.data.Vocabulary"}, *more):
        with pytest.raises(ValueError, match=r"^Stream.load_state_dict: expected what Stream.state_dict gave, got"):
            make().load_state_dict(wrong)
    for wrong in ({**state, "stages": 3}, {**state, "files": []}, {**state, "files": [3]}):
        with pytest.raises(ValueError, match=r"^Stream.load_state_dict: "):
            make().load_state_dict(wrong)
    for position in (None, 3, (), (0, 0, 0), (0, 0, -1, (0, 0)), (0, 0, 0, (0, "x")), (0, 0.5, 0, (0, 0)), "abcd"):
        stream = make()
        with pytest.raises(ValueError, match=r"^Stream.load_state_dict: the position is broken"):
            stream.load_state_dict(state | {"position": position})
        assert list(stream) == list(make())
    with pytest.raises(TypeError, match=r"^Stream.load_state_dict: expected state to be a dictionary"):
        make().load_state_dict(None)  # type: ignore[arg-type]
    (tmp_path / "moved.txt").write_bytes(path.read_bytes())
    data.lines(tmp_path / "moved.txt").shuffle(10, seed=0).batch(2).load_state_dict(state)
    for text, told in (("a\nc\n", "the content differs"), ("a\n", r"2 bytes now, \[4, '.*'\] then")):
        path.write_text(text)
        with pytest.raises(ValueError, match=rf"a.txt is not the file that it was when the state was saved: {told}"):
            make().load_state_dict(state)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    def most(lines: int) -> int:
        path = tmp_path / "long.txt"
        path.write_text("".join(f"{i} {'x' * (i % 50)}\n" for i in range(lines)))
        stream = data.lines(path).shuffle(100, seed=0).bucket(100).batch(tokens=500).shuffle(10, seed=1).prefetch(2)
        text = data.text(path, 1000).contiguous(4, 100)
        tracemalloc.start()
        assert sum(map(len, stream)) == lines and sum(len(row) for rows in text for row in rows) == path.stat().st_size
        assert len(json.dumps(stream.state_dict())) < 1000
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    most(100)                           # what is loaded at first use
    assert most(50_000) < 300_000       # of 1.6 MB


def test_wrong_stages_are_refused() -> None:
    stream = data.items([[1], [2, 3]])
    calls: list[tuple[Callable[[], Any], Any, str]] = [
        (lambda: stream.batch(), TypeError, "Stream.batch: expected size"),
        (lambda: list(stream.batch(tokens=1)), ValueError, "an item of length 2 is longer than a batch, tokens=1"),
        (lambda: list(stream.map(tuple).shard(0, 1)), TypeError, "Stream.shard: expected batches, lists of items"),
        (lambda: stream.shard(2, 2), ValueError, "expected an integer 0 <= rank <= 1, got 2"),
        (lambda: list(data.items([1, 2]).bucket(2)), TypeError, "expected items with a length, .* got 1: give length="),
        (lambda: stream.windows(2, 3), ValueError, "Stream.windows: expected an integer 1 <= step <= 2, got 3"),
        (lambda: stream.contiguous(1, 2, 3), ValueError, "Stream.contiguous: expected an integer 1 <= step <= 2"),
        (lambda: stream.shuffle(4, 0).contiguous(2, 3), ValueError, r"an epoch of shuffle.* cannot be cut into parts"),
        (lambda: stream.prefetch().contiguous(2, 3), ValueError, "an epoch of prefetch cannot be cut into parts"),
        (lambda: data.items(lambda: [1]).contiguous(2, 3), ValueError, r"items\(a function\) cannot be cut"),
        (lambda: list(data.items([]).repeat()), ValueError, "the stream has no items"),
        (lambda: stream.shuffle(4, -1), ValueError, "seed"), (lambda: stream.shuffle(4, "a"), TypeError, "seed"),
        (lambda: Stream(3), TypeError, "lines, json_lines, pairs"),  # type: ignore[arg-type]
    ]
    for call, kind, told in calls:
        with pytest.raises(kind, match=told):
            call()
    assert list(data.items([]).repeat(3)) == list(data.items([]).shuffle(3, 0).batch(2)) == []


def test_endless_epochs() -> None:
    def numbers() -> Iterator[int]:
        yield from range(3)

    stream = data.items(numbers).shuffle(3, seed=0).repeat().batch(2)
    got = list(islice(stream, 30))
    joined = [[x for batch in got[i:i + 3] for x in batch] for i in range(0, 30, 3)]
    assert all(sorted(numbers) == [0, 0, 1, 1, 2, 2] for numbers in joined) and stream.epoch == 0
    assert len(set(map(tuple, joined))) > 3


def test_the_example_of_the_module(tmp_path: Path) -> None:
    """Pairs by a budget, as arrays."""
    rows = [([1] * n, [2] * (n + 1)) for n in range(1, 9)]
    sides = lambda batch: [data.pad(side) for side in zip(*batch, strict=True)]
    stream = data.items(rows).bucket(8).batch(tokens=30).map(sides)
    for (source, source_lengths), (target, target_lengths) in stream:
        assert source.shape == (len(source_lengths), source_lengths.max()) and source.size <= 30
        assert target.shape == (len(target_lengths), target_lengths.max()) and target.size <= 30
    frames = data.items([ts.random.normal((n, 3)).numpy() for n in (2, 5)])
    x, lengths = next(iter(frames.batch(2).map(data.pad)))
    assert x.shape == (2, 5, 3) and x.dtype == np.float32 and lengths.tolist() == [2, 5]
