"""Positions are the paper's."""

import itertools

import numpy as np
from helpers.layers import close

import tinyseq as ts
from tinyseq import nn


def test_sinusoidal_positions_are_the_papers() -> None:
    y = nn.SinusoidalPositions(5)(ts.zeros((1, 4, 5), "float64")).numpy()[0]
    for pos, i in itertools.product(range(4), range(5)):
        angle = pos / 10000 ** (2 * (i // 2) / 5)
        close(y[pos, i], np.sin(angle) if i % 2 == 0 else np.cos(angle))
