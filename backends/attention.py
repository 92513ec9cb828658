"""Attention in blocks of queries: forward and backward without the whole matrix of weights."""

import math
from collections.abc import Iterator
from types import ModuleType
from typing import Any, NamedTuple

Array = Any
Index = tuple[Any, ...]


def blocks(shape: tuple[int, ...], size: int, whole: int = 0) -> Iterator[Index]:
    """Index tuples that cut an array of `shape` into views of about `size` elements or fewer.

    The last `whole` axes are never cut. Cutting by index works on any strides, and on a mask broadcast to
    `shape`.
    """
    inner = math.prod(shape[1:])
    if len(shape) <= whole or inner * shape[0] <= size:
        yield (...,)
    elif inner <= size or len(shape) - 1 <= whole:
        step = max(1, size // max(inner, 1))
        for i in range(0, shape[0], step):
            yield (slice(i, i + step), ...)
    else:
        for i in range(shape[0]):
            for rest in blocks(shape[1:], size, whole):
                yield (i, *rest)


class Attention(NamedTuple):
    """What is asked: key, value and mask are broadcast to the query's leading axes and to (..., T, S)."""

    query: Array
    key: Array
    value: Array
    mask: Array | None
    causal: bool
    scale: float
    dropout: tuple[float, int, int]  # probability, seed, stream


class AttentionKernels:
    """The part of a backend that runs attention; a backend adds `xp` and `dropout_mask`.

    A block is all scores of some queries: about `scores` numbers, which stay in the cache, but no fewer than `rows`
    queries, as products with few rows are slow. So memory grows with S, not with T S. Of a block forward keeps the
    logarithms of the softmax's denominators, and backward computes the rest again (Rabe & Staats 2021, Dao et al.
    2022).
    """

    xp: ModuleType
    scores = 1 << 17
    rows = 128

    def dropout_mask(self, shape: tuple[int, ...], p: float, seed: int, stream: int, start: int = 0) -> Array:
        raise NotImplementedError

    def attention(self, query: Array, key: Array, value: Array, mask: Array | None, causal: bool, scale: float,
                  dropout: tuple[float, int, int]) -> tuple[Array, Any]:
        """softmax(query key^T scale) value (Vaswani et al. 2017): (y (..., T, E), saved).

        query (..., T, D); key (..., S, D) and value (..., S, E) with leading axes that broadcast to the query's. The
        boolean `mask`, broadcast to (..., T, S), says who takes part; `causal` keeps query t from keys beyond S - T +
        t. A query that sees none gets zeros. dropout: probability, seed and stream of what is dropped of the weights.
        """
        xp, lead = self.xp, query.shape[:-2]
        key, value = (xp.broadcast_to(x, (*lead, *x.shape[-2:])) for x in (key, value))
        if mask is not None:
            mask = xp.broadcast_to(mask, (*query.shape[:-1], key.shape[-2]))
        a = Attention(query, key, value, mask, causal, scale, dropout)
        y = xp.zeros_like(query, shape=(*query.shape[:-1], value.shape[-1]))  # with the axes of query in their order
        sizes = xp.empty((*query.shape[:-1], 1), dtype=query.dtype)
        for i, j, row in self._attention_blocks(a):
            e, shift = self._attention_scores(a, query[i] * scale, i, j, row)
            e -= shift
            xp.exp(e, out=e)
            total = self._row_sum(e)
            total = xp.where(total > 0, total, 1)
            sizes[i] = xp.log(total) + shift
            if dropout[0]:
                e *= self._attention_kept(a, i, e.shape)
                total *= 1 - dropout[0]
            self._multiply(e, value[j], y[i])
            y[i] /= total
        return y, (a, y, sizes)

    def attention_backward(self, g: Array, saved: Any) -> tuple[Array, Array, Array]:
        """(dquery, dkey, dvalue), the last two with the leading axes of the query.

        With weights p = exp(scores - sizes) and d = g value^T: dscores = p (d - sum(g y)), dquery = dscores key scale,
        dkey = dscores^T query scale, dvalue = p^T g.
        """
        xp, (a, y, sizes) = self.xp, saved
        query, key, value, scale, p = a.query, a.key, a.value, a.scale, a.dropout[0]
        dquery, dkey, dvalue = (xp.zeros_like(x) for x in (query, key, value))
        for i, j, row in self._attention_blocks(a):
            q, h = query[i] * scale, g[i]
            e, _ = self._attention_scores(a, q, i, j, row)
            e -= sizes[i]
            xp.exp(e, out=e)
            d, used = self._times_transposed(h, value[j]), e
            if p:
                keep = self._attention_kept(a, i, e.shape) * query.dtype.type(1 / (1 - p))
                d *= keep
                used = e * keep
            d -= xp.vecdot(h, y[i])[..., None]
            d *= e
            add = e.shape[-2] < query.shape[-2]
            self._multiply(xp.matrix_transpose(used), h, dvalue[j], add)
            self._multiply(xp.matrix_transpose(d), q, dkey[j], add)
            self._multiply(d, key[j], dquery[i])
            dquery[i] *= scale
        return dquery, dkey, dvalue

    def _times_transposed(self, a: Array, b: Array) -> Array:
        """a b^T: with many rows, b is better turned first, as BLAS is slow to read small matrices by columns."""
        turned = self.xp.matrix_transpose(b)
        return self.xp.matmul(a, self.xp.ascontiguousarray(turned) if a.shape[-2] > 16 else turned)

    def _multiply(self, a: Array, b: Array, y: Array, add: bool = False) -> None:
        """y = a @ b, or y += a @ b."""
        if add:
            y += self.xp.matmul(a, b)
        else:
            self.xp.matmul(a, b, out=y)

    def _attention_blocks(self, a: Attention) -> Iterator[tuple[Index, Index, int]]:
        """The index of a block's queries, that of the keys which one of them may see, and the first query's number."""
        shape = (*a.query.shape[:-1], a.key.shape[-2])
        axis, (t, s) = len(shape) - 2, shape[-2:]
        for i in blocks(shape, max(self.scores, self.rows * s), whole=1) if math.prod(shape) else ():
            start, stop, _ = (i[axis] if len(i) > axis + 1 else slice(t)).indices(t)
            seen = s - t + stop if a.causal else s
            if seen > 0:
                yield i, (*i[:-1][:axis], ..., slice(seen), slice(None)), start

    def _attention_scores(self, a: Attention, q: Array, i: Index, j: Index, row: int) -> tuple[Array, Any]:
        """A block's scores, -inf where a query may not look, and what to subtract from them before exp."""
        xp, minus = self.xp, q.dtype.type(-math.inf)
        e = self._times_transposed(q, a.key[j])
        tame = self._attention_tame(e)
        if a.mask is not None:
            mask = a.mask[i][..., :e.shape[-1]]
            mask = mask[tuple(slice(1 if step == 0 else None) for step in mask.strides)]  # once what is broadcast
            e += xp.where(mask, q.dtype.type(0), minus)
        if a.causal:
            first = a.key.shape[-2] - a.query.shape[-2] + row + 1  # keys that the first of the queries sees
            later = e[..., max(first, 0):]
            later += xp.triu(xp.full(later.shape[-2:], minus), k=min(first, 0))
        return e, 0 if tame else self._row_max(e)

    def _attention_tame(self, e: Array) -> bool:
        """Whether exp of no score is too large or too small, which spares the maximum of each row."""
        far = math.log(self.xp.finfo(e.dtype).max) / 3
        return bool(e.size and -far < e.min() and e.max() < far)

    def _attention_kept(self, a: Attention, i: Index, shape: tuple[int, ...]) -> Array:
        """Dropout's mask of a block, from all weights' mask."""
        whole = (*a.query.shape[:-1], a.key.shape[-2])
        starts = (n if isinstance(n, int) else n.start for n in i[:-1])
        start = sum(n * math.prod(whole[axis + 1:]) for axis, n in enumerate(starts))
        return self.dropout_mask((*shape[:-1], whole[-1]), *a.dropout, start)[..., :shape[-1]]

    def _row_max(self, x: Array) -> Array:
        """The largest entry of each row, (..., 1); a finite number for rows of -inf, so that x - max stays
        -inf."""
        return self.xp.maximum(self.xp.max(x, axis=-1, keepdims=True), self.xp.finfo(x.dtype).min)

    def _row_sum(self, x: Array) -> Array:
        """The sum of each row, (..., 1): a product with ones is much faster than a reduction of short
        rows."""
        return self.xp.matmul(x, self.xp.ones((x.shape[-1], 1), dtype=x.dtype))
