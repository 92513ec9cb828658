"""How many times a training step, or a token of generation, asks the GPU for work, by kind.

    PYTHONPATH=tests python -m cupy_on_cpu tests/benchmarks/launches.py [--names]

Each request costs microseconds of the host's time whatever its size, so that they bound what small models take. CuPy
makes the same ones on its CPU emulator as on a GPU, and there they can be counted; a product by cuBLAS, one here, may
be several kernels. tests/backends/test_cupy.py holds the sums.
"""

import argparse
from collections import Counter

from helpers.steps import STEPS, steady

import tinyseq as ts


def kind(kernel: str) -> str:
    """Whose kernel it is."""
    return ("ours" if kernel.startswith("tinyseq_") else "CuPy's" if kernel.startswith("cupy_") else
            "products" if kernel.startswith("gemm") else "cuBLAS's and Thrust's other")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--names", action="store_true", help="each kernel's launches too")
    names = parser.parse_args().names
    ts.use_backend("cupy")
    for name, make in STEPS.items():
        seen = steady(make())
        kinds: Counter[str] = Counter()
        for kernel, n in seen.kernels.items():
            kinds[kind(kernel)] += n
        copies = {event: seen[event] for event in ("h2d", "d2h", "d2d", "memset", "sync")}
        print(f"{name}: {seen['launch']} launches", *(f"{n} {what}" for what, n in kinds.most_common()),
              *(f"{n} {event}" for event, n in copies.items() if n), sep=", ")
        for kernel, n in seen.kernels.most_common() if names else ():
            print(f"    {n:4} {kernel}")


if __name__ == "__main__":
    main()
