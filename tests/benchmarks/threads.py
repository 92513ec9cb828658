"""What threads do to a model, where the machine is idle and where it is not: `python tests/benchmarks/threads.py`.

Each task runs in processes that take turns: with what tinyseq chooses where nobody says a number, with one thread, with
all, which is what OpenBLAS takes by itself. Two loads: nothing beside, and as many busy processes as there are
processors. Figures are the median over the rounds of milliseconds a step; the last column is the default by the best
of the others, to be 1.2 at most. Options: rounds (5), then names of tasks. Takes about four minutes.
"""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
VARIABLES = ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")


def readme() -> Callable[[], object]:
    """A step of the program in README's "Use it"."""
    import tinyseq as ts
    from tinyseq import functional as F
    from tinyseq import nn, optim

    ids = ts.random.integers((256, 20), 0, 10)
    is_odd = ids.numpy().sum(axis=1) % 2
    embed, rnn, head = nn.Embedding(10, 16), nn.GRU(16, 32), nn.Linear(32, 2)
    optimizer = optim.Adam([*embed.parameters(), *rnn.parameters(), *head.parameters()], lr=0.01)

    def step() -> None:
        states, _ = rnn(embed(ids))
        loss = F.cross_entropy(head(states[:, -1]), is_odd)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def reversal() -> Callable[[], object]:
    """A step of an encoder-decoder with attention that learns to reverse 12 digits, 64 rows, width 64."""
    from tinyseq import functional as F
    from tinyseq import nn, optim

    digits = np.random.default_rng(0).integers(0, 10, (64, 12))
    embed, encoder = nn.Embedding(10, 64), nn.GRU(64, 64, bidirectional=True)
    decoder = nn.AttentionDecoder(11, 64, 128, nn.DotAttention(128, 128), 128)
    optimizer = optim.Adam([p for part in (embed, encoder, decoder) for p in part.parameters()], lr=0.01)
    shifted = np.concatenate([np.full((64, 1), 10), digits[:, :0:-1]], axis=1)

    def step() -> None:
        memory, _ = encoder(embed(digits))
        loss = F.cross_entropy(decoder(shifted, decoder.start(memory)), digits[:, ::-1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def generation() -> Callable[[], object]:
    """8 tokens of a language model of 6 layers of width 384, as in table.py."""
    from tinyseq import decode, nn

    model = nn.LanguageModel(1000, 384, 12, 6, 4 * 384, activation="gelu_tanh").eval()
    prompt = np.arange(65)[None]

    def step() -> None:
        decode.greedy(model, model.start(prompt[:, :-1]), prompt[:, -1], -1, 8)

    return step


def large() -> Callable[[], object]:
    """A training step of a Transformer layer of width 1,024 on 1,024 tokens: most of it large products."""
    import tinyseq as ts
    from tinyseq import nn, optim

    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(1024, 8, 4096, dropout=0.0), 1)
    optimizer, x = optim.SGD(model.parameters(), lr=0.01), ts.random.normal((8, 128, 1024))

    def step() -> None:
        optimizer.zero_grad()
        model(x).mean().backward()
        optimizer.step()

    return step


TASKS = {"readme": readme, "reversal": reversal, "generation": generation, "large": large}


def measure(name: str) -> None:
    """Mean milliseconds a step, of one second or three steps: a median would not see the steps that wait."""
    step = TASKS[name]()
    step()
    count, began = 0, time.perf_counter()
    while count < 3 or time.perf_counter() - began < 1:
        step()
        count += 1
    print((time.perf_counter() - began) * 1000 / count)


def once(name: str, threads: int) -> float:
    environment = {k: v for k, v in os.environ.items() if k not in VARIABLES}
    if threads:
        environment["OPENBLAS_NUM_THREADS"] = str(threads)
    done = subprocess.run([sys.executable, __file__, "--measure", name], env=environment, stdout=subprocess.PIPE,
                          text=True, check=True)
    return float(done.stdout)


def main(rounds: int = 5, *names: str) -> None:
    choices = {"default": 0, "1 thread": 1, f"{CORES} threads": CORES}
    print(f"ms a step{'beside':>11}", *(f"{choice:>10}" for choice in choices), " default / best")
    for load in (0, CORES):
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(load)]
        try:
            for name in names or TASKS:
                found: dict[str, list[float]] = {choice: [] for choice in choices}
                for turn in range(rounds):
                    for choice in list(choices)[:: 1 if turn % 2 else -1]:
                        found[choice].append(once(name, choices[choice]))
                ms = {choice: statistics.median(times) for choice, times in found.items()}
                ratio = statistics.median(a / min(b) for a, *b in zip(*found.values(), strict=True))
                print(f"{name:12} {load:>2} busy ", *(f"{x:10.2f}" for x in ms.values()), f"{ratio:15.2f}", flush=True)
        finally:
            for process in busy:
                process.kill()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(sys.argv[2])
    else:
        main(*map(int, sys.argv[1:2]), *sys.argv[2:])
