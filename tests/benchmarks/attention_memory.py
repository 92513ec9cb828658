"""What attention over long sequences needs: `python tests/benchmarks/attention_memory.py [longest]`.

A training step of one layer of self-attention, width 256 in 4 heads, batch 1, float32: projections, attention,
gradients of everything. Each length is a process of its own, whose peak memory is compared with that of one that only
imported tinyseq. The aim: memory grows linearly (as much more for each 1,024 steps at every length), and length 8,192
takes less than 1.5 GB in all.
"""

import resource
import subprocess
import sys
import time

import tinyseq as ts
from tinyseq import functional, nn

WIDTH, HEADS = 256, 4
LENGTHS = (1_024, 2_048, 4_096, 8_192, 16_384)


def step(length: int) -> None:
    """A training step, gradients included."""
    projection, out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
    x = ts.random.normal((1, length, WIDTH))
    heads = ts.reshape(projection(x), (1, length, 3, HEADS, WIDTH // HEADS))
    query, key, value = ts.unstack(ts.permute_dims(heads, (2, 0, 3, 1, 4)))
    y = ts.permute_dims(functional.attention(query, key, value, causal=True), (0, 2, 1, 3))
    ts.mean(ts.square(out(ts.reshape(y, (1, length, WIDTH))))).backward()


def measure(length: int) -> None:
    """Print the seconds and the peak of the memory, in MB, before and after a step."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start = time.perf_counter()
    step(length)
    print(time.perf_counter() - start, before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main(longest: int = LENGTHS[-1]) -> None:
    print("  length  seconds    MB in all   for the step   for each 1,024   the weights alone would be")
    for length in (n for n in LENGTHS if n <= longest):
        done = subprocess.run([sys.executable, __file__, "--measure", str(length)], capture_output=True, text=True,
                              check=True)
        seconds, before, after = map(float, done.stdout.split())
        used, weights = after - before, HEADS * length**2 * 4 / 2**20
        print(f"{length:8,} {seconds:8.2f} {after:12.0f} {used:14.0f} {used / length * 1024:16.0f} {weights:28,.0f}")


if __name__ == "__main__":
    measure(int(sys.argv[2])) if sys.argv[1:2] == ["--measure"] else main(*map(int, sys.argv[1:]))
