"""What the server of docs/threads-and-serving.md answers in a second: `python tests/benchmarks/serving.py [rounds]`.

Processes take turns: one runs the page's code, this one asks with 1 and with 8 clients at once, 20 tokens a request,
each by a new connection, for a second each. As the page has it; with all of OpenBLAS's threads; without `no_grad`; with
Python's own queue of 5 connections. Beside nothing, and beside as many busy processes as there are processors. Medians
over rounds (3), and what the longest of all requests took: near a second or more where the queue is short, as a
connection that found no place in it is tried again after one.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from itertools import chain, pairwise
from pathlib import Path

from threads import CORES, VARIABLES

PAGE = Path(__file__).parents[2] / "docs" / "threads-and-serving.md"
CHOICES = {"as on the page": (), f"{CORES} threads": ("threads",), "without no_grad": ("grad",),
           "a queue of 5": ("queue",)}


def serve(*changes: str) -> None:
    """The page's program, at a free port, which is printed."""
    code, start = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    names: dict[str, object] = {}
    code = code.replace("with ts.no_grad():", "with ts.enable_grad():") if "grad" in changes else code
    exec(code.replace("request_queue_size = 128", "request_queue_size = 5") if "queue" in changes else code, names)
    server = eval(start.replace("8000", "0").removesuffix(".serve_forever()\n"), names)
    print(server.server_port, flush=True)
    server.serve_forever()


def answered(port: int, client: int, seconds: float = 1.0) -> list[float]:
    """Seconds of each request, asked when the one before was answered: the pieces of a session of 20 requests."""
    done, ends = 0, [time.perf_counter()]
    while ends[-1] - ends[0] < seconds:
        connection = HTTPConnection("127.0.0.1", port)
        connection.request("POST", "/", json.dumps({"session": f"{client} {done // 20}", "ids": list(range(20))}))
        json.loads(connection.getresponse().read())
        connection.close()
        done += 1
        ends.append(time.perf_counter())
    return [after - before for before, after in pairwise(ends)]


def once(*changes: str) -> list[float]:
    """Requests a second, of 1 client and of 8 at once, and the milliseconds of the longest."""
    environment = {k: v for k, v in os.environ.items() if k not in VARIABLES}
    if "threads" in changes:
        environment["OPENBLAS_NUM_THREADS"] = str(CORES)
    server = subprocess.Popen([sys.executable, __file__, "--serve", *changes], env=environment, stdout=subprocess.PIPE,
                              text=True)
    try:
        assert server.stdout
        port = int(server.stdout.readline())
        found = []
        for clients in (1, 8):
            with ThreadPoolExecutor(clients) as pool:
                answered(port, 0, 0.1)
                began = time.perf_counter()
                took = [*chain(*pool.map(lambda client: answered(port, client), range(clients)))]
                found.append(len(took) / (time.perf_counter() - began))
        return [*found, max(took) * 1e3]
    finally:
        server.kill()


def main(rounds: int = 3) -> None:
    print("requests a second, beside  1 client  8 clients  longest of 8's [ms]")
    for load in (0, CORES):
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(load)]
        try:
            found: dict[str, list[list[float]]] = {choice: [] for choice in CHOICES}
            for _ in range(rounds):
                for choice, changes in CHOICES.items():
                    found[choice].append(once(*changes))
            for choice, runs in found.items():
                alone, many, longest = zip(*runs, strict=True)
                print(f"{choice:17} {load:>2} busy {statistics.median(alone):9.0f} {statistics.median(many):10.0f} "
                      f"{max(longest):20.0f}", flush=True)
        finally:
            for process in busy:
                process.kill()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(*sys.argv[2:])
    else:
        main(*map(int, sys.argv[1:]))
