"""What the layers of the same names compute: linear maps, embeddings, dropout."""

from __future__ import annotations

from typing import Any

from tinyseq import backends, check
from tinyseq.check import explained
from tinyseq.engine import ops, random
from tinyseq.engine.autograd import op
from tinyseq.engine.tensor import Like, Out, Tensor, namespace
from tinyseq.functional.arguments import one_dtype


@op
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Out:
    """x (..., I) times weight (O, I) transposed, plus bias (O,): (..., O), all of one dtype.

    >>> weight, bias = ts.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), ts.tensor([0.0, 0.0, 1.0])
    >>> F.linear(ts.tensor([1.0, -1.0]), weight, bias)
    tensor([-1., -1.,  0.])
    >>> F.linear(ts.ones((4, 3)), weight)
    Traceback (most recent call last):
    ValueError: linear(x=float32[4, 3], weight=float32[3, 2]): expected x (..., I) and weight (O, I) with the same I
    """
    xp = namespace(x, weight)
    if weight.ndim != 2 or x.ndim == 0 or x.shape[-1] != weight.shape[1]:
        raise ValueError("expected x (..., I) and weight (O, I) with the same I")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError("expected weight (O, I) and bias (O,) with the same O")
    one_dtype(x=x, weight=weight, bias=bias)
    y = ops.matmul_arrays(x, xp.matrix_transpose(weight))
    if bias is not None:
        y += bias  # the product is ours; on Tensors this is y = y + bias
    return y, (lambda g: ops.matmul_arrays(g, weight), lambda g: ops.matmul_over_rows(g, x), lambda g: g)


def _embedding_definition(weight: Tensor, ids: Any, padding_idx: int | None) -> Tensor:
    rows = weight[ids]
    if padding_idx is None:
        return rows
    return ops.where(ops.like(weight, ids != padding_idx)[..., None], rows, rows.detach())


@op(definition=_embedding_definition)
def _embedding(weight: Tensor, ids: Any, padding_idx: int | None) -> Out:
    backend, height = backends.of(weight), weight.shape[0]
    return backend.embedding(weight, ids), (lambda g: backend.embedding_backward(g, ids, height, padding_idx),)


@explained
def embedding(ids: Like, weight: Tensor, padding_idx: int | None = None) -> Tensor:
    """Rows of weight (V, E) at integer ids (...): (..., E). The row `padding_idx`, from -V to V - 1, gets no gradient.

    An id below 0 or above V - 1 is an IndexError; if it is on a device already, nobody looks, and its row is NaN.

    >>> weight = ts.tensor([[0.0, 0.0], [1.0, 2.0], [3.0, 4.0]])
    >>> F.embedding([2, 1], weight)
    tensor([[3., 4.],
            [1., 2.]])
    >>> F.embedding([3], weight)
    Traceback (most recent call last):
    IndexError: embedding(ids=[3], weight=float32[3, 2]): id 3 is out of range, expected 0 <= id < 3 (ids of shape (1,))
    """
    weight = ops.asarray(weight)
    if weight.ndim != 2:
        raise ValueError(f"expected weight (V, E), got shape {weight.shape}")
    height = weight.shape[0]
    if padding_idx is not None:
        padding_idx = check.integers("embedding", -height, height - 1, padding_idx=padding_idx) % height
    return _embedding(weight, ops.like(weight, ops.check_ids("embedding", ids, height))._data, padding_idx)


def _dropout_definition(x: Tensor, p: float, seed: int, stream: int) -> Any:
    return x * backends.of(x._data).dropout_mask(x.shape, p, seed, stream) * (1 / (1 - p))


@op(definition=_dropout_definition, wide=True)
def _dropout(x: Tensor, p: float, seed: int, stream: int) -> Out:
    backend = backends.of(x)
    y, keep = backend.dropout(x, p, seed, stream)
    return y, (lambda g: backend.dropout_backward(g, keep, p),)


@explained
def dropout(x: Tensor, p: float = 0.5, training: bool = True, *, generator: random.Generator | None = None) -> Tensor:
    """Entries 0 with probability p, the others divided by 1 - p, of x's shape and dtype; x itself unless `training`
    (Srivastava et al. 2014).

    Takes the next random stream, of `generator` if given; the same (seed, stream) drops the same entries on every
    backend.

    >>> ts.manual_seed(0)
    >>> F.dropout(ts.ones(8), 0.5)
    tensor([0., 0., 2., 0., 0., 0., 0., 2.])
    >>> F.dropout(ts.ones(3), 0.5, training=False)
    tensor([1., 1., 1.])
    """
    if not 0 <= p < 1:
        raise ValueError(f"expected 0 <= p < 1, got {p}")
    if training not in (True, False):
        raise TypeError(f"expected training to be True or False, got {check.describe(training)}")
    x = ops.operand(x)  # or an error, where nothing is dropped too
    return _dropout(x, p, *random.next_stream(generator)) if training and p > 0 else x
