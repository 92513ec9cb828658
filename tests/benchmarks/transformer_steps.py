"""What a cache saves nn.Transformer: `python tests/benchmarks/transformer_steps.py [seconds]`.

An encoder-decoder as PyTorch's users write it (embedding, positions, nn.Transformer, a linear head; width 128, 4 heads,
3 + 3 layers) decodes 30 tokens greedily, of a source of 20 and for a batch of 1 and 8, float32: by `start` and `step`,
and by the full pass over all tokens so far for each token, both after one pass of the encoder. They take turns for some
seconds (3) a batch; the medians. The aim: at least 3 times faster.
"""

import statistics
import sys
import time
from typing import Any

import numpy as np

import tinyseq as ts
from tinyseq import decode, nn

VOCABULARY, WIDTH, SOURCE, TOKENS = 1000, 128, 20, 30


class Translator(nn.Module):
    def __init__(self) -> None:
        self.embedding, self.positions = nn.Embedding(VOCABULARY, WIDTH), nn.LearnedPositions(64, WIDTH)
        self.transformer = nn.Transformer(WIDTH, 4, 3, 3, 4 * WIDTH)
        self.out = nn.Linear(WIDTH, VOCABULARY)

    def start(self, source: Any) -> Any:
        return self.transformer.start(self.positions(self.embedding(source)))

    def forward(self, tokens: Any, state: Any) -> Any:
        return self.out(self.transformer.read(self.positions(self.embedding(tokens)), state))

    def step(self, tokens: Any, state: Any) -> Any:
        y, state = self.transformer.step(self.positions(self.embedding(tokens), state.length), state)
        return self.out(y), state


def cached(model: Any, source: Any) -> Any:
    return [h.tokens for h in decode.greedy(model, model.start(source), 1, -1, TOKENS)]


@ts.no_grad()
def full_passes(model: Any, source: Any) -> Any:
    state, tokens = model.start(source), np.ones((len(source), 1), int)
    for _ in range(TOKENS):
        last = model(tokens, state).numpy()[:, -1].argmax(-1)
        tokens = np.concatenate([tokens, last[:, None]], 1)
    return tokens[:, 1:].tolist()


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 3.0
    model = Translator().eval()
    print("batch   ms for 30 tokens: cache   full passes   full passes / cache")
    for batch in (1, 8):
        source = np.random.default_rng(0).integers(0, VOCABULARY, (batch, SOURCE))
        assert cached(model, source) == full_passes(model, source)
        times: dict[Any, list[float]] = {cached: [], full_passes: []}
        began = time.perf_counter()
        while time.perf_counter() - began < seconds:
            for way in times:
                start = time.perf_counter()
                way(model, source)
                times[way].append((time.perf_counter() - start) * 1000)
        fast, slow = (statistics.median(found) for found in times.values())
        print(f"{batch:5} {fast:25.1f} {slow:13.1f} {slow / fast:21.1f}")


if __name__ == "__main__":
    main()
