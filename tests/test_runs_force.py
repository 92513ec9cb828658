"""Runs by force: processes that are killed at any moment, ended by signals, or meet each other.

The thorough profile takes ten times as many moments; `-s` prints the figures.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.force import force
from helpers.training import train

from tinyseq import runs
from tinyseq.checkpoint import CheckpointError

THOROUGH = os.environ.get("TINYSEQ_TEST_PROFILE") == "thorough"

# A process of its own, since one with threads must not fork: it imports once, and forks who trains and dies.
FORCE = """if True:
    import json, mmap, os, random, signal, struct, sys, time, traceback
    from pathlib import Path
    sys.path.insert(0, sys.argv[1])
    from helpers.files import same
    from helpers.force import named
    from helpers.training import STEPS, train
    from tinyseq import checkpoint, runs
    base, count = Path(sys.argv[2]), int(sys.argv[3])
    where = mmap.mmap(-1, 16)       # which a child and this process share
    latest = "latest.safetensors"

    def note(step, saving):
        where[:16] = struct.pack("qq", step, saving)

    def forked(work, *arguments):
        number = os.fork()
        if number == 0:
            try:
                work(*arguments)
            except BaseException:
                os.write(2, traceback.format_exc().encode())
                os._exit(1)
            os._exit(0)
        return number

    def ended(child):
        status = os.waitpid(child, 0)[1]
        assert not os.WIFEXITED(status) or os.WEXITSTATUS(status) == 0, "a child failed"
        return os.WIFSIGNALED(status)

    def undisturbed(folder):
        start = time.perf_counter()
        ended(forked(train, folder))
        return checkpoint.load(folder / latest), time.perf_counter() - start

    def whole(folder):
        "What another process may load at any time is whole, and what is there is of the run."
        for name in os.listdir(folder):
            path = folder / name
            if name.endswith(".safetensors"):
                runs._read(path)
            else:
                assert name == ".lock" or name.endswith(".tmp"), name
"""
KILLS = FORCE + """
    chance = random.Random(int(sys.argv[4]))
    expected, took = undisturbed(base / "whole")
    moments, finished, inside, left, nameless = [], 0, 0, 0, checkpoint._nameless

    def killed_at(line):
        # at that line of the files that save and resume, after its other lines of this process
        seen = 0
        def trace(frame, event, _):
            nonlocal seen
            if frame.f_code.co_filename not in (runs.__file__, checkpoint.__file__):
                return None
            if event == "line":
                seen += 1
                if seen == line:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace
        sys.settrace(trace)
        train(folder, note)

    def killed_after(call, times):
        # before or after a call of the system's that changes what is on the disk
        owner, real, seen = os, getattr(os, call), 0
        def counted(*arguments, **options):
            nonlocal seen
            seen += 1
            if seen == times and before:
                os.kill(os.getpid(), signal.SIGKILL)
            done = real(*arguments, **options)
            if seen == times:
                os.kill(os.getpid(), signal.SIGKILL)
            return done
        before = chance.random() < 0.5
        setattr(os, call, counted)
        train(folder, note)

    while len(moments) < count:
        folder = base / str(finished)
        checkpoint._nameless = chance.choice([nameless, named])     # as where no file can be without a name
        way = chance.choice(["time", "time", "line", "call"])
        if way == "time":
            moment = chance.uniform(0, took)
            child = forked(train, folder, note)
            time.sleep(moment)
            os.kill(child, signal.SIGKILL)
        elif way == "line":
            moment = chance.randrange(1, 8000)
            child = forked(killed_at, moment)
        else:
            moment = chance.choice(["replace", "link", "fsync", "unlink"]), chance.randrange(1, 30)
            child = forked(killed_after, *moment)
        if ended(child):
            step, saving = struct.unpack("qq", where[:16])
            moments.append([folder.name, way, moment, step, saving])
            inside += saving
            left += sum(name.endswith(".tmp") for name in os.listdir(folder)) if folder.exists() else 0
            if folder.exists():
                whole(folder)
            if len(moments) < count:
                continue
            ended(forked(train, folder))        # to its end
        try:
            same(checkpoint.load(folder / latest), expected)
            same(checkpoint.load(folder / "best.safetensors"), checkpoint.load(base / "whole/best.safetensors"))
            assert sorted(os.listdir(folder)) == sorted(os.listdir(base / "whole")), os.listdir(folder)
        except BaseException:
            print([m for m in moments if m[0] == folder.name], file=sys.stderr)
            raise
        finished += 1
    print(json.dumps({"kills": len(moments), "saving": inside, "runs": finished, "left": left,
                      "steps": len({m[3] for m in moments})}))
"""
SIGNALS = FORCE + """
    expected, took = undisturbed(base / "whole")
    chance, seen = random.Random(3), []

    def told(number):
        sent = []
        def note(step, saving):
            if step == at and not sent:
                sent.append(number)
                os.kill(os.getpid(), number)
        train(folder, note)

    for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2"):
        folder, at = base / name, chance.randrange(3, STEPS - 3)
        child = forked(told, getattr(signal, name))
        assert not ended(child), "it was killed, and not told"
        state = checkpoint.load(folder / latest)
        assert state["step"] == at + 1, (name, at, state["step"])
        ended(forked(train, folder))
        same(checkpoint.load(folder / latest), expected)
        seen.append(name)
    print(json.dumps({"signals": len(seen)}))
"""
READS = FORCE + """
    children = []
    for k in range(3):
        def reads():
            while not (base / "stop").exists():
                for name in (latest, "best.safetensors"):
                    runs._read(base / "run" / name)
        train(base / "run", until=3)
        children.append(forked(reads))
    for until in range(6, 10 * count, 3):
        train(base / "run", until=until)
    (base / "stop").touch()
    assert not any([ended(child) for child in children])
    print(json.dumps({"saves": until // 3}))
"""
FORKS = FORCE + """
    from helpers.training import Values
    from tinyseq.checkpoint import CheckpointError
    run, ready, go = runs.Run(base / "run", x=Values(value=1)), os.pipe(), os.pipe()

    def writes():
        os.close(go[1])
        os.write(ready[1], b".")
        os.read(go[0], 1)       # or its parent has ended
        try:
            run.save(1)
        except CheckpointError as error:
            assert "writes to it" in str(error)
        else:
            raise AssertionError("a child wrote beside its parent")

    with run:
        child = forked(writes)
        os.read(ready[0], 1)
    other = runs._Lock(base / "run" / ".lock")      # which the child does not hold on to
    os.write(go[1], b".")
    ended(child)
    print(json.dumps({"files": len(os.listdir(base / "run"))}))
"""


def test_a_run_that_is_killed_at_any_moment_comes_to_the_same_bits(tmp_path: Path) -> None:
    count = 500 if THOROUGH else 50
    figures = force(KILLS, tmp_path, count, 7)
    assert figures["kills"] == count and figures["runs"] >= 2
    assert figures["saving"] >= count // 3, "too few kills fell into a save"
    assert figures["steps"] >= 8, "the kills fell into few steps"


def test_a_run_that_is_told_to_end_saves_and_goes_on(tmp_path: Path) -> None:
    assert force(SIGNALS, tmp_path, 0) == {"signals": 5}


def test_others_load_latest_and_best_while_they_are_replaced(tmp_path: Path) -> None:
    assert force(READS, tmp_path, 30 if THOROUGH else 10)["saves"] > 20


def test_a_child_process_neither_writes_nor_holds_the_lock(tmp_path: Path) -> None:
    assert force(FORKS, tmp_path, 0) == {"files": 1}


HOLDS = """if True:
    import sys, time
    sys.path.insert(0, sys.argv[1])
    from helpers.training import parts
    from tinyseq import runs
    run = runs.Run(sys.argv[2], **parts())
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_folder_that_another_process_writes_to_is_told_until_it_dies(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDS, str(Path(__file__).parent), str(tmp_path)]
    environment = os.environ | {"TINYSEQ_BACKEND": "numpy"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as other:
        try:
            assert other.stdout is not None and other.stdout.readline() == "held\n"
            with pytest.raises(CheckpointError, match=f"process {other.pid} on .* writes to it: end that, or take"):
                train(tmp_path)
            assert runs.Run(tmp_path, model=runs._Random(), writes=False).resume() == 0
        finally:
            other.send_signal(signal.SIGKILL)
    train(tmp_path, until=3)
