"""What both playgrounds begin with: weights, and scripts of examples/ in a Python that has no matplotlib."""

import json
import sys
from types import ModuleType

import numpy as np

sys.modules.setdefault("tinyseq.plot", ModuleType("tinyseq.plot"))      # which the scripts import; here the page draws


def read(path: str) -> dict[str, np.ndarray]:
    """Arrays of float16 from a safetensors file, as float32: Pyodide has not the library that `ts.checkpoint` needs."""
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        raw = file.read()
    header.pop("__metadata__", None)
    return {name: np.frombuffer(raw[slice(*entry["data_offsets"])], "<f2").astype("f").reshape(entry["shape"])
            for name, entry in header.items()}
