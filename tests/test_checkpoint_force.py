"""Checkpoints by force: kills, interrupts, several savers and readers, full disks, thousands of mutated files.

Each in both ways that `save` has: writing without a name, and under a temporary one where that cannot be. The thorough
profile takes the full counts; `-s` prints the figures.
"""

import errno
import fcntl
import os
import resource
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from helpers.force import force, named, state, whole
from helpers.interrupts import Interrupt

from tinyseq import checkpoint
from tinyseq.checkpoint import CheckpointError

THOROUGH = os.environ.get("TINYSEQ_TEST_PROFILE") == "thorough"
WAYS = ["nameless", "named"]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "named":
        monkeypatch.setattr(checkpoint, "_nameless", named)
    return str(request.param)


# A process of its own, since one with threads must not fork: it imports once, and forks who saves and dies.
FORCE = """if True:
    import json, os, random, signal, sys, time
    from pathlib import Path
    sys.path.insert(0, sys.argv[1])
    from helpers.force import named, state, whole
    from tinyseq import checkpoint
    folder, way, count, size = Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
    path = folder / "run.safetensors"
    if way == "named":
        checkpoint._nameless = named

    def forked(work):
        number = os.fork()
        if number == 0:
            try:
                work()
            except BaseException as error:
                os.write(2, repr(error).encode())
                os._exit(1)
            os._exit(0)
        return number
"""
KILLS = FORCE + """
    def saves():
        for i in range(10**9):
            checkpoint.save(path, state(i, size))
    chance, left, saved = random.Random(5), 0, 0
    start = time.perf_counter()
    checkpoint.save(path, state(0, size))
    one = time.perf_counter() - start
    for i in range(count):
        child = forked(saves)
        time.sleep(chance.uniform(0.5, 4) * one)
        os.kill(child, (signal.SIGKILL, signal.SIGTERM)[i % 2])
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), status
        saved += whole(path, size)
        files = sorted(os.listdir(folder))
        others = [name for name in files if name != path.name]
        assert path.name in files and len(others) <= 1, files
        assert all(name.startswith("run.safetensors.") and name.endswith(".tmp") for name in others), files
        left += len(others)
        checkpoint.save(path, state(0, size))
        assert os.listdir(folder) == [path.name]
    print(json.dumps({"kills": count, "saves": saved, "left": left}))
"""
SAVERS = FORCE + """
    def saves(k):
        for i in range(count):
            checkpoint.save(path, state(8 * i + k, size))
    checkpoint.save(path, state(0, size))
    children = [forked(lambda: saves(k)) for k in range(8)]
    read = failed = 0
    while children:
        whole(path, size)
        read += 1
        number, status = os.waitpid(-1, os.WNOHANG)
        if number:
            children.remove(number)
            failed += status != 0
    assert os.listdir(folder) == [path.name] and whole(path, size) >= 8 * (count - 1), os.listdir(folder)
    print(json.dumps({"saves": 8 * count, "failed": failed, "reads": read}))
"""


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("size", [1000, 3_000_000], ids=["4 kB", "12 MB"])
def test_a_killed_save_leaves_a_whole_file_and_the_next_one_tidies(size: int, how: str, tmp_path: Path) -> None:
    count = 200 if THOROUGH else 10 if size == 1000 else 6
    figures = force(KILLS, tmp_path, how, count, size)
    assert figures["kills"] == count
    if how == "nameless":   # but where the kill falls between two system calls; of those with names most are left
        assert figures["left"] < count // 2


@pytest.mark.parametrize("how", WAYS)
def test_processes_that_save_to_one_name_do_not_fail(how: str, tmp_path: Path) -> None:
    count = 100 if THOROUGH else 8
    assert force(SAVERS, tmp_path, how, count, 1000)["failed"] == 0


def test_threads_that_save_to_one_name_do_not_fail(way: str, tmp_path: Path) -> None:
    path, count, errors = tmp_path / "a.safetensors", 100 if THOROUGH else 8, []

    def saves(k: int) -> None:
        try:
            for i in range(count):
                checkpoint.save(path, state(8 * i + k))
                whole(path)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=saves, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert os.listdir(tmp_path) == ["a.safetensors"] and whole(path) >= 8 * (count - 1)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("old", [True, False])
def test_an_interrupt_at_any_line_of_save_leaves_nothing(
    old: bool, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, at, done = tmp_path / "a.safetensors", 0, False
    monkeypatch.setattr(os, "fsync", lambda _: None)
    while not done:
        path.unlink(missing_ok=True)
        if old:
            checkpoint.save(path, state(1))
        done = Interrupt(at, "tinyseq.checkpoint").run(lambda: checkpoint.save(path, state(2)))
        at += 1
        assert os.listdir(tmp_path) in ([path.name], [] if not old else [path.name])
        assert not path.exists() or whole(path) in (1, 2)
        assert path.exists() or not old
    assert at > 50 and whole(path) == 2


def test_a_full_disk_is_an_error_of_the_system_and_leaves_the_old_file(way: str, tmp_path: Path) -> None:
    path, limits = tmp_path / "a.safetensors", resource.getrlimit(resource.RLIMIT_FSIZE)
    checkpoint.save(path, state(1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**5, limits[1]))
    try:
        with pytest.raises(CheckpointError, match=r"a.safetensors: File too large") as error:
            checkpoint.save(path, state(2, 10**6))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert isinstance(error.value, OSError) and error.value.errno == errno.EFBIG
    assert os.listdir(tmp_path) == [path.name] and whole(path) == 1


@pytest.mark.parametrize("call", ["fsync", "replace"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_what_the_system_refuses_is_said_with_its_number(
    call: str, number: int, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, state(1))

    def fails(*_: Any) -> None:
        raise OSError(number, os.strerror(number))
    monkeypatch.setattr(os, call, fails)
    with pytest.raises(CheckpointError, match=os.strerror(number)) as error:
        checkpoint.save(path, state(2))
    assert isinstance(error.value, OSError) and error.value.errno == number
    assert os.listdir(tmp_path) == [path.name] and whole(path) == 1


def test_folders_that_are_not_there_and_names_that_cannot_be_are_errors_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, number in [("lost/a", errno.ENOENT), ("file/a", errno.ENOTDIR), ("a" * 256, errno.ENAMETOOLONG)]:
        with pytest.raises(CheckpointError, match=os.strerror(number)) as error:
            checkpoint.save(tmp_path / name, {})
        assert isinstance(error.value, OSError) and error.value.errno == number
    with pytest.raises(CheckpointError, match="expected the name of a regular file"):
        checkpoint.save(tmp_path, {})


def test_where_a_file_cannot_be_given_a_name_it_is_written_under_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuses(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EPERM, "no links here")
    monkeypatch.setattr(os, "link", refuses)
    checkpoint.save(tmp_path / "a.safetensors", state(1))
    assert os.listdir(tmp_path) == ["a.safetensors"] and whole(tmp_path / "a.safetensors") == 1


def test_a_file_that_another_removes_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a save does that sees the temporary file before its process has locked it."""
    taken = []

    def slow(path: str, flags: int) -> int:
        number = named(path, flags)
        os.unlink(path)
        taken.append(path)
        return number
    monkeypatch.setattr(checkpoint, "_nameless", slow)
    checkpoint.save(tmp_path / "a.safetensors", state(1))
    assert taken and os.listdir(tmp_path) == ["a.safetensors"] and whole(tmp_path / "a.safetensors") == 1


def test_a_file_that_another_is_about_to_remove_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a save does that locks the temporary file before its process has, and removes it at the worst moment."""
    path, replace, others = tmp_path / "a.safetensors", os.replace, list[tuple[int, str]]()

    def removed() -> None:
        for other, name in others:
            os.unlink(name)
            os.close(other)
        others.clear()

    def slow(path: str, flags: int) -> int:
        number = named(path, flags)
        others.append((os.open(path, os.O_RDONLY), path))
        fcntl.flock(others[0][0], fcntl.LOCK_EX)
        threading.Timer(0.2, removed).start()
        return number

    def late(source: Path, target: Path) -> None:
        removed()
        replace(source, target)
    monkeypatch.setattr(checkpoint, "_nameless", slow)
    monkeypatch.setattr(os, "replace", late)
    checkpoint.save(path, state(1))
    assert os.listdir(tmp_path) == [path.name] and whole(path) == 1


def test_modes_are_of_the_umask_or_the_old_file(way: str, tmp_path: Path) -> None:
    path, before = tmp_path / "a.safetensors", os.umask(0o027)
    try:
        checkpoint.save(path, state(1))
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        for mode in (0o604, 0o666, 0o400):
            path.chmod(mode)
            checkpoint.save(path, state(1))
            assert stat.S_IMODE(path.stat().st_mode) == mode
    finally:
        os.umask(before)


@pytest.mark.parametrize("there", [True, False])
def test_the_file_behind_a_link_is_written(there: bool, way: str, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "links").mkdir()
    file, link, second = (tmp_path / name for name in ("real/a.safetensors", "links/last.safetensors", "b.safetensors"))
    link.symlink_to("../real/a.safetensors")
    second.symlink_to(link)
    if there:
        checkpoint.save(file, state(1))
    checkpoint.save(second, state(2))
    assert link.is_symlink() and second.is_symlink() and not file.is_symlink() and whole(file) == whole(second) == 2
    assert os.listdir(file.parent) == [file.name] and os.listdir(link.parent) == [link.name]


def test_a_name_may_be_as_long_as_the_system_allows(way: str, tmp_path: Path) -> None:
    for name in ("a" * 255, "é" * 127, "[*]" * 80, "a\n"):
        path = tmp_path / name
        checkpoint.save(path, state(1))
        checkpoint.save(path, state(2))
        assert os.listdir(tmp_path) == [name] and whole(path) == 2
        path.unlink()


def test_what_is_not_a_dead_saves_file_stays(way: str, tmp_path: Path) -> None:
    stay = ["a.safetensors.tmp", "a.safetensors.0123.tmp", "b.safetensors.0123456789abcdef.tmp",
            "a.safetensors.0123456789abcdeg.tmp"]
    dead = tmp_path / "a.safetensors.0123456789abcdef.tmp"
    for name in (*stay, dead.name):
        (tmp_path / name).write_bytes(b"half")
    with dead.open("rb") as living:     # another process writes it
        assert checkpoint._locked(living)
        checkpoint.save(tmp_path / "a.safetensors", state(1))
        assert dead.exists()
    os.mkfifo(tmp_path / "a.safetensors.00112233445566ff.tmp")
    checkpoint.save(tmp_path / "a.safetensors", state(1))
    assert sorted(os.listdir(tmp_path)) == sorted([*stay, "a.safetensors", "a.safetensors.00112233445566ff.tmp"])


def test_the_folder_is_synced_after_the_file_has_its_name(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, synced, sync = tmp_path / "a.safetensors", [], os.fsync

    def fsync(number: int) -> None:
        synced.append((stat.S_ISDIR(os.fstat(number).st_mode), path.exists()))
        sync(number)
    monkeypatch.setattr(os, "fsync", fsync)
    checkpoint.save(path, state(1))
    assert synced == [(False, False), (True, True)]


# --- mutated files
MUTATE = """if True:
    import io, json, random, resource, sys, warnings, zipfile
    from pathlib import Path
    sys.path.insert(0, sys.argv[1])
    from helpers.files import real_files, touch
    from tinyseq import checkpoint
    from tinyseq.checkpoint import CheckpointError
    folder, count, seed = Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    warnings.simplefilter("error")
    real = real_files(folder)
    for name, raw in real:      # what is imported only once
        (folder / name).write_bytes(raw)
        checkpoint.load(folder / name)
    status = Path("/proc/self/status").read_text().splitlines()
    used = int(next(line for line in status if line.startswith("VmSize")).split()[1]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, used + 2**29))
    chance, loaded = random.Random(seed), {"safetensors": 0, "npz": 0, "pt": 0}
    def mutated(raw):
        changed = bytearray(raw)
        for _ in range(chance.choice([1, 1, 2, 4])):
            at = chance.randrange(chance.choice([len(changed), min(200, len(changed))]) + 1)
            new = chance.choice([b"", chance.randbytes(1), chance.randbytes(1), b"9", bytes(8), bytes([255] * 4),
                                 bytes([255] * 8), bytes(changed[at:at + 20])])
            changed[at:at + chance.choice([len(new), len(new), len(new), len(new), 0, 1, 40])] = new
        if chance.random() < 0.1:
            del changed[chance.randrange(len(changed) + 1):]
        return bytes(changed)

    def inside(raw):
        # a zip file with a mutated member, whose checksum is right
        with zipfile.ZipFile(io.BytesIO(raw)) as file:
            for info in file.infolist():
                del info.CRC    # one has none
            members = {info: file.read(info) for info in file.infolist()}
        which, changed = chance.choice([*members, next(iter(members))]), io.BytesIO()
        with zipfile.ZipFile(changed, "w") as file:
            for info, data in members.items():
                file.writestr(info.filename, mutated(data) if info is which else data, info.compress_type)
        return changed.getvalue()

    for kind in loaded:
        files = [(name, raw) for name, raw in real if name.endswith(kind)]
        for i in range(count):
            name, raw = chance.choice(files)
            changed = inside(raw) if kind != "safetensors" and i % 2 else mutated(raw)
            path = folder / name
            path.write_bytes(changed)
            try:
                touch(checkpoint.load(path))
                loaded[kind] += 1
            except CheckpointError as error:
                assert str(path) in str(error) and len(str(error)) < 2000 and "MemoryError" not in str(error), error
    print(json.dumps(loaded))
"""


def test_mutated_files_load_or_are_errors_within_a_limit_of_memory(tmp_path: Path) -> None:
    count = 20_000 if THOROUGH else 300
    loaded = force(MUTATE, tmp_path, count, 2026)
    assert len(loaded) == 3 and all(0 < n < count for n in loaded.values())
