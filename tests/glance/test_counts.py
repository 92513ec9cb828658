"""Multiply-adds by formula are those by hand, and those that PyTorch counts."""

import sys
import types
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
from tinyseq import functional, nn
from tinyseq.engine import autograd
from tinyseq.glance import counts
from tinyseq.glance.calls import Calls
from tinyseq.glance.counts import multiply_adds


class Counter(Calls):
    """The multiply-adds of all ops in a block."""

    found = 0

    def forward(self, name: str, body: Any, raw: Any, kwargs: Any, out: Any, pulls: Any) -> Any:
        self.found += multiply_adds(body, raw)
        return pulls


def count(fn: Any, *args: Any, **kwargs: Any) -> int:
    with Counter() as counter:
        fn(*args, **kwargs)
    return counter.found


lengths = st.integers(0, 4)


def by_hand(a: np.ndarray, b: np.ndarray) -> int:
    """Entries of the product, each a sum of so many products."""
    return int((a @ b).size * a.shape[-1])


@given(st.lists(st.tuples(st.integers(1, 3), st.sampled_from([(0, 0), (0, 1), (1, 0)])), max_size=3), lengths, lengths,
       lengths, st.integers(0, 2), st.sampled_from([(0, 0), (1, 0), (0, 1), (1, 1)]))
def test_matrix_products(lead: list[Any], n: int, k: int, m: int, short: int, vectors: tuple[int, int]) -> None:
    shape_a = tuple(1 if one[0] else size for size, one in lead)
    shape_b = tuple(1 if one[1] else size for size, one in lead)[short:]
    a, b = np.ones((k,) if vectors[0] else (*shape_a, n, k)), np.ones((k,) if vectors[1] else (*shape_b, k, m))
    assert count(ts.matmul, ts.tensor(a), ts.tensor(b)) == by_hand(a, b)


def test_other_products_are_matrix_products() -> None:
    a, b = ts.ones((2, 3, 4)), ts.ones((2, 4, 5))
    assert count(ts.einsum, "bij,bjk->bik", a, b) == 2 * 3 * 4 * 5
    assert count(ts.einsum, "bij,bjk->ik", a, b) == 2 * 3 * 4 * 5
    assert count(ts.tensordot, a, ts.ones((4, 6)), 1) == 2 * 3 * 4 * 6
    assert count(functional.linear, a, ts.ones((7, 4)), ts.ones(7)) == 2 * 3 * 4 * 7
    assert count(functional.linear, a, weight=ts.ones((7, 4))) == 2 * 3 * 4 * 7
    assert count(lambda: a.astype(ts.float16) @ b) == 2 * 3 * 4 * 5
    assert count(functional.linear, a.astype(ts.float16), ts.ones((7, 4), dtype=ts.float16)) == 2 * 3 * 4 * 7
    assert count(lambda: ts.tanh(a) * 2 + a.sum() - functional.softmax(a)) == 0


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), lengths, lengths, lengths, lengths)
def test_attention(batch: int, groups: int, shared: int, t: int, s: int, d: int, e: int) -> None:
    query, key, value = ts.ones((batch, groups * shared, t, d)), ts.ones((batch, groups, s, d)), ts.ones((
        batch, groups, s, e))
    assert count(functional.attention, query, key, value) == batch * groups * shared * t * s * (d + e)
    assert count(functional.attention, query, key, value, causal=True) == batch * groups * shared * t * s * (d + e)


@pytest.mark.parametrize(("make", "gates"), [(nn.RNN, 1), (nn.GRU, 3), (nn.LSTM, 4)])
@given(batch=st.integers(1, 3), steps=st.integers(1, 4), inputs=st.integers(1, 4), hidden=st.integers(1, 4))
def test_recurrences(make: Any, gates: int, batch: int, steps: int, inputs: int, hidden: int) -> None:
    x = ts.ones((batch, steps, inputs))
    one = batch * steps * gates * hidden * (inputs + hidden)
    assert count(make(inputs, hidden), x) == one
    assert count(make(inputs, hidden), x, lengths=[1] * batch) == one       # padding counts
    both = 2 * one + 2 * batch * steps * gates * hidden * (2 * hidden + hidden)
    assert count(make(inputs, hidden, num_layers=2, bidirectional=True), x) == both


def test_convolutions() -> None:
    conv = nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2)
    assert count(conv, ts.ones((2, 7, 4))) == 2 * 4 * 6 * 2 * 3


def test_scans() -> None:
    assert count(functional.linear_scan, ts.ones(3), ts.ones((2, 5, 3))) == 2 * 5 * 3
    x, layer = ts.ones((2, 5, 3)), nn.MinGRU(3, 4)
    assert count(layer, x) == 2 * 5 * 3 * 2 * 4 + 2 * 5 * 4     # z and h~, then the scan
    assert count(nn.LRU(3, 4), x) == 2 * 5 * (8 * 3 + 4 * 4 + 4 * 8 + 4 * 3)   # B x, 4 complex numbers, C h, D x


def called(function: Any) -> set[str]:
    """The names in a function, and in those of its module that are no ops and that it calls."""
    found: set[str] = set()
    pending = [function.__code__]
    for code in pending:                                    # grows as it goes
        pending += [part for part in code.co_consts if isinstance(part, types.CodeType)]
        for name in {*code.co_names} - found:
            other = function.__globals__.get(name)
            if isinstance(other, types.FunctionType) and other.__module__ == function.__module__ \
                    and not hasattr(other, "__wrapped__"):
                pending.append(other.__code__)
        found |= {*code.co_names}
    return found


def test_every_op_that_runs_a_kernel_of_products_has_a_formula() -> None:
    """Found by their code: ops whose body, or what that calls in its module, names a kernel of products or scans."""
    kernels = {"matmul", "matmul_arrays", "attention", "rnn_forward", "linear_scan", "conv1d"}
    rooms = ("tinyseq.engine.", "tinyseq.functional.")
    bodies = {op.__wrapped__ for name, m in sys.modules.items() if name.startswith(rooms) for op in vars(m).values()
              if hasattr(op, "__wrapped__") and op.__code__.co_filename == autograd.__file__}
    assert len(bodies) > 50
    assert {body.__name__ for body in bodies if kernels & called(body)} == {body.__name__ for body in counts._OF_BODY}


@pytest.mark.reference
def test_pytorch_counts_twice_as_many_flops() -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    def flops(model: Any, *inputs: Any) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(*inputs)
        return int(counter.get_total_flops())

    x = np.ones((2, 5, 8), np.float32)
    pairs = [
        (nn.Linear(8, 3), torch.nn.Linear(8, 3), (x,)),
        (nn.Transformer(8, 2, 2, 2, 16).eval(), torch.nn.Transformer(8, 2, 2, 2, 16, batch_first=True).train(),
         (x, np.ones((2, 4, 8), np.float32))),
        (nn.MultiheadAttention(8, 2), torch.nn.MultiheadAttention(8, 2, batch_first=True), (x, x, x)),
    ]
    for ours, theirs, inputs in pairs:
        expected = flops(theirs, *map(torch.tensor, inputs))
        assert 2 * ts.summary(ours, *inputs).multiply_adds == expected > 0, type(ours)
    for kind, gates in {"LSTM": 4, "GRU": 3}.items():   # whose fused kernel it does not count: by steps of the cell
        cell = flops(getattr(torch.nn, f"{kind}Cell")(8, 4), torch.tensor(x[:, 0]))
        assert 2 * ts.summary(getattr(nn, kind)(8, 4), x).multiply_adds == 5 * cell == 2 * 5 * 2 * gates * 4 * (8 + 4)
