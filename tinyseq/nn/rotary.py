"""Rotary positions (Su et al. 2021), of the plain frequencies or stretched for longer texts than were trained on."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tinyseq import check
from tinyseq.engine import ops
from tinyseq.engine.tensor import Like, Tensor
from tinyseq.nn.positions import angles

LONGEST = "original_max_position_embeddings"
SCALINGS: dict[str, tuple[set[str], set[str]]] = {  # what each needs, and may have besides
    "default": (set(), set()), "linear": ({"factor"}, set()),
    "dynamic": ({"factor", "max_position_embeddings"}, set()),
    "llama3": ({"factor", "low_freq_factor", "high_freq_factor", LONGEST}, set()),
    "yarn": ({"factor", LONGEST}, {"attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim",
                                   "truncate"})}


class RotaryPositions:
    """The angles by which `functional.rotate` turns the first `width` entries of each head's queries and keys: entries
    i and i + width/2 of position t by t f_i, f_i = `base`^(-2i/width), changed as `rope_type` says:

        "linear"    f_i / factor (Chen et al. 2023)
        "dynamic"   the base grows with the length, from max_position_embeddings on; what a state has read stays turned
                    as it was when the text was as short, so that there `step` is not quite `forward`
        "llama3"    long waves by 1 / factor, short ones as they are, a ramp from low_freq_factor to high_freq_factor
        "yarn"      likewise, from beta_slow to beta_fast turns in original_max_position_embeddings; cosines and sines
                    times an attention_factor (Peng et al. 2023)

    The names of the other arguments are those in a configuration of transformers, and so are their defaults.

    >>> rotary = nn.RotaryPositions(4, base=100.0, rope_type="linear", factor=2.0)
    >>> cos, sin = rotary.angles(ts.zeros((1, 3, 4)), [0, 1, 2])
    >>> cos.shape, [round(a, 3) for a in sin[1].tolist()]     # sin(1 / 2), sin(0.1 / 2)
    ((3, 2), [0.479, 0.05])
    >>> model = nn.LanguageModel(10, 8, nhead=2, num_layers=2, positions=rotary)

    Errors: ValueError for a type that is not here and for arguments that it lacks or does not have.
    """

    def __init__(self, width: int, base: float = 1e4, rope_type: str = "default", **scaling: Any) -> None:
        name = "RotaryPositions"
        self.width, self.base = check.integers(name, 1, width=width), check.numbers(name, above=0, base=base)
        check.choice(name, tuple(SCALINGS), rope_type=rope_type)
        needed, allowed = SCALINGS[rope_type]
        scaling = {key: value for key, value in scaling.items() if value is not None}
        if missing := needed - scaling.keys():
            raise ValueError(f"{name}: rope_type {rope_type!r} needs {', '.join(sorted(missing))}, got {scaling}")
        if other := scaling.keys() - needed - allowed:
            raise ValueError(f"{name}: rope_type {rope_type!r} has no {', '.join(sorted(other))}")
        self.truncate = scaling.pop("truncate", True)
        check.choice(name, (True, False), truncate=self.truncate)
        self.scaling = {key: check.numbers(name, above=0, below=math.inf, **{key: value})
                        for key, value in scaling.items()}
        self.rope_type, self.factor = rope_type, self._attention_factor() if rope_type == "yarn" else 1.0
        if width % 2 or (rope_type == "dynamic" and width < 4) or (rope_type == "yarn" and base <= 1):
            raise ValueError(f"{name}: expected an even width{', 4 or more' * (rope_type == 'dynamic')}, and with "
                             f"'yarn' base > 1, got width {width} and base {base}")
        if rope_type == "llama3" and self.scaling["low_freq_factor"] >= self.scaling["high_freq_factor"]:
            raise ValueError(f"{name}: expected low_freq_factor < high_freq_factor, got {self.scaling}")

    def angles(self, x: Tensor, ids: Like, ahead: int = 0) -> tuple[Tensor, Tensor]:
        """cos and sin (..., width/2) of positions `ids` (...), as x's dtype and where it lives, in a text that ends as
        many positions `ahead` of the last."""
        dynamic = self.rope_type == "dynamic" and 0 not in np.shape(ids)
        length = int(ops.max(ops.asarray(ids))) + 1 + ahead if dynamic else 0
        cos, sin = angles(x, ids, self.frequencies(length))
        return (cos, sin) if self.factor == 1 else (cos * self.factor, sin * self.factor)

    def frequencies(self, length: int = 0) -> Any:
        """(width/2,): the frequencies of a text of that length, which only "dynamic" looks at.

        >>> nn.RotaryPositions(4, base=100.0).frequencies()
        array([1. , 0.1]...)
        """
        s, base, factor = self.scaling, self.base, self.scaling.get("factor", 1.0)
        if self.rope_type == "dynamic":
            longest = s["max_position_embeddings"]
            base *= (factor * max(length, longest) / longest - (factor - 1)) ** (self.width / (self.width - 2))
        plain = base ** (-np.arange(0, self.width, 2) / self.width)
        if self.rope_type in ("default", "dynamic"):
            return plain
        kept: Any = 0.0  # how much of each frequency stays as it is
        if self.rope_type == "llama3":
            turns = s[LONGEST] * plain / (2 * math.pi)
            kept = (turns - s["low_freq_factor"]) / (s["high_freq_factor"] - s["low_freq_factor"])
        elif self.rope_type == "yarn":
            low, high = self._ramp()
            kept = 1 - (np.arange(self.width // 2) - low) / (high - low)
        kept = np.clip(kept, 0, 1)
        return plain * kept + plain / factor * (1 - kept)

    def _ramp(self) -> tuple[float, float]:
        """Where YaRN's ramp begins and ends, among the frequencies."""
        low, high = (self.width * math.log(self.scaling[LONGEST] / (self.scaling.get(name, turns) * 2 * math.pi)) / (
            2 * math.log(self.base)) for name, turns in (("beta_fast", 32), ("beta_slow", 1)))
        low, high = (math.floor(low), math.ceil(high)) if self.truncate else (low, high)
        low, high = max(low, 0), min(high, self.width - 1)
        return low, high + 0.001 * (low == high)

    def _attention_factor(self) -> float:
        s, log = self.scaling, 0.1 * math.log(max(self.scaling["factor"], 1.0))
        both = {"mscale", "mscale_all_dim"} <= s.keys()
        usual = (log * s["mscale"] + 1) / (log * s["mscale_all_dim"] + 1) if both else log + 1
        return float(s.get("attention_factor", usual))
