"""What `import tinyseq` costs beyond `import numpy`: `python tests/benchmarks/import_time.py [processes]`.

Each process imports NumPy first, then tinyseq, under -X importtime. What is then counted for tinyseq, with
all it imports that NumPy had not, is the cost beyond NumPy. The aim is 50 ms at most.
"""

import os
import re
import statistics
import subprocess
import sys

# own µs | with all it imports, µs | two spaces a level, name
LINE = re.compile(r"import time:\s*(\d+) \|\s*(\d+) \| ( *)(\S+)")


def measure() -> tuple[float, float, list[tuple[float, str]]]:
    """ms of NumPy, ms of tinyseq after it, and (own ms, name) of each module that tinyseq brought in."""
    command = [sys.executable, "-X", "importtime", "-c", "import numpy; import tinyseq"]
    # as installed: the bytecode is there, although PYTHONDONTWRITEBYTECODE may be set here
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    trace = LINE.findall(run.stderr)
    rows = [row[2:] for row in trace]
    start, end = rows.index(("", "numpy")), rows.index(("", "tinyseq"))
    numpy, tinyseq = (int(trace[i][1]) / 1e3 for i in (start, end))
    return numpy, tinyseq, [(int(row[0]) / 1e3, row[3]) for row in trace[start + 1 : end + 1]]


def main(processes: int = 15) -> None:
    measure()                                   # writes the bytecode and fills the disk cache
    runs = [measure() for _ in range(processes)]
    for name, column in (("numpy", 0), ("tinyseq beyond it", 1)):
        times = sorted(run[column] for run in runs)
        low, middle, high = times[0], statistics.median(times), times[-1]
        print(f"{name:18} {middle:6.1f} ms ({low:.1f} to {high:.1f}), the median of {processes} processes")
    modules = sorted(runs, key=lambda run: run[1])[processes // 2][2]
    print("dearest modules:", ", ".join(f"{name} {ms:.1f} ms" for ms, name in sorted(modules)[:-7:-1]))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
