"""The rows of table.py: what is measured, and the numbers that all contenders begin with.

Each module here is a contender, and each function in it a row's work: it makes the weights and data, and returns the
call that is timed. What that returns (outputs and gradients) is the same for all contenders.
"""

import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Array = Any


class Row(NamedTuple):
    """A title, the function that each contender has for it, its arguments, and whom ratios are against."""

    title: str
    work: str
    arguments: tuple[Any, ...] = ()
    against: str = "PyTorch"


def _rows(work: str, *cases: tuple[Any, ...], against: str = "PyTorch", title: str = "") -> list[Row]:
    """A row for each case: arguments are the case's; texts in it name the row."""
    rows = []
    for case in cases:
        sizes = ",".join(str(n) for n in case if not isinstance(n, str))
        names = [title, *(n for n in case if isinstance(n, str))]
        rows.append(Row(" ".join([*filter(None, names), f"({sizes})" * bool(sizes)]), work, case, against))
    return rows


STEPS = [                                                       # of training
    *_rows("recurrent", ("LSTM", 8, 50, 32, 32), ("LSTM", 16, 32, 64, 64), ("LSTM", 32, 64, 256, 256),
           ("LSTM", 64, 100, 512, 512), ("LSTM", 128, 20, 128, 256), ("GRU", 16, 32, 64, 64), ("GRU", 32, 64, 256, 256),
           ("RNN", 16, 32, 64, 64), ("RNN", 32, 64, 256, 256)),
    *_rows("ragged", (32, 64, 128, 128), title="LSTM, 2 layers, both ways, lengths"),
    *_rows("cell_loop", (32, 50, 128), title="LSTMCell in a loop"),
    *_rows("layer_norm", (8192, 512), title="LayerNorm"),
    *_rows("gelu", (8192, 512), title="GELU"),
    *_rows("softmax", (8192, 512), title="softmax"),
    *_rows("transformer", (16, 32, 64, 4), (32, 64, 256, 4), (8, 256, 384, 6), title="Transformer, 2 layers"),
    *_rows("cross_entropy", (2048, 10_000), (1024, 50_000), title="cross-entropy"),
    *_rows("embedding", (8192, 50_000, 256), title="embedding"),
    *_rows("dropout", (8192, 512), title="dropout"),
    *_rows("adamw", (100, 64), (5, 1024), title="clip, AdamW"),
    *_rows("ctc", (16, 200, 64, 30), title="CTC"),
]
ROWS = [
    *STEPS,
    *_rows("generation", (4, 128), (6, 384), (12, 768), title="generation"),
    *_rows("beam", (4, 128, 4), title="beam search"),
    *_rows("one_row", ("RNN", 15, 128), ("GRU", 15, 128), ("LSTM", 15, 128), against="by hand", title="one row:"),
    *_rows("decode", (15, 60), against="by hand", title="one row: CRF.decode"),
    *_rows("one_row_both_ways", (15, 128), against="onnxruntime", title="one row: GRU, 2 layers, both ways"),
    *_rows("tagger", (15, 128, 60), against="onnxruntime", title="one row: BiGRU-CRF tagger"),
    *_rows("first_result", (), title="import and first result"),
]
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}                      # of each cell
VOCABULARY, PROMPT, TOKENS = 1000, 64, 8                        # of generation
WORDS = 5000                                                    # that the tagger knows


def numbers(name: str, *shape: int) -> Array:
    """Normal float32 numbers that the name tells: a million, and then the same again."""
    rng, count = np.random.default_rng(zlib.crc32(name.encode())), math.prod(shape)
    return np.resize(rng.standard_normal(min(count, 1 << 20), dtype=np.float32), shape)


def integers(name: str, high: int, *shape: int) -> Array:
    return np.random.default_rng(zlib.crc32(name.encode())).integers(0, high, shape)


def weight(name: str, shape: Sequence[int]) -> Array:
    """A parameter as a layer of that name begins: around 1 in a norm, elsewhere within 1 / sqrt(its last axis)."""
    values = np.random.default_rng(zlib.crc32(name.encode())).uniform(-1, 1, shape) / np.sqrt(shape[-1])
    return (values + ("norm" in name and "weight" in name)).astype(np.float32)


def weights(shapes: Mapping[str, Any], prefix: str = "") -> dict[str, Array]:
    """Parameters by name, from their shapes or from what has shapes; the prefix tells layers of like names apart."""
    return {name: weight(prefix + name, getattr(shape, "shape", shape)) for name, shape in shapes.items()}


def recurrent_weights(cell: str, features: int, hidden: int, layers: int = 1, both: bool = False) -> dict[str, Array]:
    """Those of a recurrent layer, under PyTorch's names."""
    n, shapes = GATES[cell] * hidden, {}
    for end in (f"_l{k}{way}" for k in range(layers) for way in ("", "_reverse")[: 1 + both]):
        width = features if end.startswith("_l0") else hidden * (1 + both)
        shapes |= {f"weight_ih{end}": (n, width), f"weight_hh{end}": (n, hidden), f"bias_ih{end}": (n,),
                   f"bias_hh{end}": (n,)}
    return weights(shapes)


def transformer_weights(layers: int, width: int) -> dict[str, Array]:
    """Those of a TransformerEncoder, under PyTorch's names."""
    shapes = {"self_attn.in_proj_weight": (3 * width, width), "self_attn.in_proj_bias": (3 * width,),
              "self_attn.out_proj.weight": (width, width), "self_attn.out_proj.bias": (width,),
              "linear1.weight": (4 * width, width), "linear1.bias": (4 * width,), "linear2.weight": (width, 4 * width),
              "linear2.bias": (width,), "norm1.weight": (width,), "norm1.bias": (width,), "norm2.weight": (width,),
              "norm2.bias": (width,)}
    return weights({f"layers.{k}.{name}": shape for k in range(layers) for name, shape in shapes.items()})


def optimizer_arrays(count: int, width: int) -> tuple[list[Array], list[Array]]:
    """Parameters and gradients."""
    return tuple([numbers(f"{what} {i}", width, width) for i in range(count)] for what in "pg")  # type: ignore[return-value]


def ctc_arrays(batch: int, steps: int, classes: int, labels: int) -> tuple[Array, Array]:
    """Logits (B, T, C), and targets (B, S) without equal neighbours."""
    return numbers("logits", batch, steps, classes), (np.arange(labels) + np.arange(batch)[:, None]) % (classes - 1) + 1
