#!/usr/bin/env bash
# torch.no_grad() in two asyncio tasks of one thread: the mode leaks into other tasks, and stays off for good.
#
# Version: torch 2.13.0 (CPU), Python 3.11. Seen on 2026-11-29.
# Guess before: the context manager belongs to the task that entered it, as decimal's context does (a ContextVar).
# Behaviour: the mode belongs to the thread, and each exit puts back what its entry found. While a task is inside and
# awaits, code of every other task records no gradient. Where two tasks leave in the order in which they entered, the
# first puts back True while the second is still inside, and the second puts back False: from there
# on nothing in this thread records a gradient, though no task is inside any more.
# What to do: no `await` inside `with torch.no_grad()`; gather inputs first, evaluate in one stretch.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cat > "$folder/tasks.py" <<'PY'
import asyncio

import torch


async def evaluate(inside: asyncio.Event, leave: asyncio.Event) -> None:
    with torch.no_grad():
        inside.set()
        await leave.wait()


async def main() -> None:
    inside, leave = ([asyncio.Event(), asyncio.Event()] for _ in range(2))
    tasks = []
    for i in range(2):
        tasks.append(asyncio.create_task(evaluate(inside[i], leave[i])))
        await inside[i].wait()
    print("beside two tasks that are inside:", torch.is_grad_enabled())
    for i, what in enumerate(("the first has left, the second is inside:", "both have left:")):
        leave[i].set()
        await tasks[i]
        print(what, torch.is_grad_enabled())


asyncio.run(main())
print("after the loop:", torch.is_grad_enabled())
PY
"$folder/venv/bin/python" "$folder/tasks.py" | tee "$folder/seen"
diff "$folder/seen" - <<'SEEN'
beside two tasks that are inside: False
the first has left, the second is inside: True
both have left: False
after the loop: False
SEEN
echo "as described"
