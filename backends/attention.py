"""Attention in blocks of queries and keys: forward and backward without the whole matrix of weights."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from tinyseq.backends.rows import RowKernels, blocks

Array = Any
Index = tuple[Any, ...]


class Attention(NamedTuple):
    """What is asked: key, value and mask are broadcast to the query's leading axes and to (..., T, S)."""

    query: Array
    key: Array
    value: Array
    mask: Array | None
    causal: bool
    scale: float
    dropout: tuple[float, int, int]  # probability, seed, stream


class AttentionKernels(RowKernels):
    """The part of a backend that runs attention; a backend adds `xp` and `dropout_mask`.

    A block is the scores of some queries and at least `keys` keys, about `scores` numbers, which stay in the cache:
    memory grows with T + S, not with T S. Forward goes from keys to keys by a running maximum and sum (Milakov &
    Gimelshein 2018), and keeps the logarithm of each query's sum, from which backward computes the weights again (Rabe
    & Staats 2021, Dao et al. 2022).
    """

    dropout_mask: Callable[..., Array]
    scores = 1 << 17
    keys = 512

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
        turned = self._by_columns(key, query)
        for i, parts in self._attention_blocks(a):
            q, kept, top, total = query[i] * scale, self._attention_kept(a, i), xp.finfo(query.dtype).min, 0
            for j, place in parts:
                e = xp.matmul(q, xp.matrix_transpose(turned[j]))
                tame = len(parts) == 1 and self._attention_tame(e)
                self._attention_hide(a, e, i, place)
                old, top = top, 0 if tame else xp.maximum(self._row_max(e), top)
                e -= top
                xp.exp(e, out=e)
                # what stood above the old maximum fades; where nothing did, the difference may overflow
                fade = xp.exp(xp.where(total > 0, old, top) - top) if place.start else 0
                total = total * fade + self._row_sum(e)
                e = e if kept is None else e * kept[..., place]
                self._multiply(e, value[j], y[i], fade)
            total = xp.where(total > 0, total, 1)
            sizes[i] = xp.log(total) + top
            y[i] /= total * (1 - dropout[0])
        return y, (a, y, sizes)

    def attention_backward(self, g: Array, saved: Any) -> tuple[Array, Array, Array]:
        """(dquery, dkey, dvalue), the last two with the leading axes of the query.

        With weights p = exp(scores - sizes) and d = g value^T: dscores = p (d - sum(g y)), dquery = dscores key scale,
        dkey = dscores^T query scale, dvalue = p^T g.
        """
        xp, (a, y, sizes) = self.xp, saved
        query, key, value, scale = a.query, a.key, a.value, a.scale
        dquery, dkey, dvalue = (xp.zeros_like(x) for x in (query, key, value))
        turned_key, turned_value = (self._by_columns(x, query) for x in (key, value))
        for i, parts in self._attention_blocks(a):
            q, h, kept = query[i] * scale, g[i], self._attention_kept(a, i)
            hy = xp.vecdot(h, y[i])[..., None]
            for j, place in parts:
                e = xp.matmul(q, xp.matrix_transpose(turned_key[j]))
                self._attention_hide(a, e, i, place)
                e -= sizes[i]
                xp.exp(e, out=e)
                d, used = xp.matmul(h, xp.matrix_transpose(turned_value[j])), e
                if kept is not None:
                    keep = kept[..., place] * query.dtype.type(1 / (1 - a.dropout[0]))
                    d *= keep
                    used = e * keep
                d -= hy
                d *= e
                again = q.shape[-2] < query.shape[-2]
                self._multiply(xp.matrix_transpose(used), h, dvalue[j], again)
                self._multiply(xp.matrix_transpose(d), q, dkey[j], again)
                self._multiply(d, key[j], dquery[i], place.start > 0)
            dquery[i] *= scale
        return dquery, dkey, dvalue

    def _by_columns(self, x: Array, query: Array) -> Array:
        """x (..., S, D), whose transpose many queries are multiplied with: in memory column after column, as BLAS is
        slow to turn small matrices."""
        if query.shape[-2] <= 16:
            return x
        xp, one = self.xp, tuple(slice(1 if step == 0 else None) for step in x.strides)  # once what is broadcast
        turned = xp.ascontiguousarray(xp.matrix_transpose(x[one]))
        return xp.broadcast_to(xp.matrix_transpose(turned), x.shape)

    def _multiply(self, a: Array, b: Array, y: Array, fade: Any = 0) -> None:
        """y = y fade + a @ b, in place."""
        if isinstance(fade, int) and not fade:
            self.xp.matmul(a, b, out=y)
        else:
            y *= fade
            y += self.xp.matmul(a, b)

    def _attention_blocks(self, a: Attention) -> Iterator[tuple[Index, list[tuple[Index, slice]]]]:
        """The index of some queries, and of the keys that one of them may see, in parts, each with its place in S."""
        t, s = a.query.shape[-2], a.key.shape[-2]
        axis, most = a.query.ndim - 2, max(self.keys, self.scores // max(t, 1))
        shape = (*a.query.shape[:-1], min(s, most))
        for i in blocks(shape, self.scores, whole=1) if math.prod(shape) else ():
            stop = i[axis].indices(t)[1] if len(i) > axis + 1 else t
            seen = s - t + stop if a.causal else s
            places = [slice(n, min(n + most, seen)) for n in range(0, seen, most)]
            if places:
                yield i, [((*i[:-1][:axis], ..., place, slice(None)), place) for place in places]

    def _attention_hide(self, a: Attention, e: Array, i: Index, place: slice) -> None:
        """Write -inf into the scores of queries i and the keys at `place` where a query may not look."""
        xp, minus, t = self.xp, e.dtype.type(-math.inf), a.query.shape[-2]
        if a.mask is not None:
            mask = a.mask[i][..., place]
            mask = mask[tuple(slice(1 if step == 0 else None) for step in mask.strides)]  # once what is broadcast
            e += xp.where(mask, e.dtype.type(0), minus)
        if a.causal:
            row = i[a.query.ndim - 2].start if len(i) > a.query.ndim - 1 else 0
            first = a.key.shape[-2] - t + row + 1 - place.start  # keys of these that the first of the queries sees
            later = e[..., max(first, 0):]
            later += xp.triu(xp.full(later.shape[-2:], minus), k=min(first, 0))

    def _attention_tame(self, e: Array) -> bool:
        """Whether exp of no score is too large or too small, which spares the maximum of each row."""
        far = math.log(self.xp.finfo(e.dtype).max) / 3
        return bool(e.size and -far < e.min() and e.max() < far)

    def _attention_kept(self, a: Attention, i: Index) -> Array | None:
        """Which weights of queries i dropout keeps, from all weights' mask; None for all."""
        whole = (*a.query.shape[:-1], a.key.shape[-2])
        start = sum(cut.start * math.prod(whole[axis + 1:]) for axis, cut in enumerate(i[:-1]))
        shape = (*a.query[i].shape[:-1], whole[-1])
        return self.dropout_mask(shape, *a.dropout, start) if a.dropout[0] else None
