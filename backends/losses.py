"""Cross-entropy, forward and backward, without an array of probabilities."""

from typing import Any

from tinyseq.backends.rows import Array, RowKernels


class LossKernels(RowKernels):
    """The part of a backend that measures predictions; a backend adds `xp`."""

    def cross_entropy(self, logits: Array, targets: Array, weight: Array | None = None,
                      smoothing: float = 0.0, ignore_index: int = -100) -> tuple[Array, Array, Any]:
        """Cross-entropy of softmax(logits) (N, C) with integer targets (N,): (losses (N,), weights (N,),
        saved).

        loss_n = (1 - s) w[t_n] (-log p_n[t_n]) + s/C sum_c w_c (-log p_n[c]), with class weights `weight`
        (C,) or ones and s = smoothing: torch.nn.functional.cross_entropy, label smoothing after Szegedy et
        al. 2016. `weights` is w[t_n]: a mean over the batch is losses.sum() / weights.sum(). A row whose
        target is `ignore_index` has loss, weight and gradient zero whatever its logits. Other targets must be
        in [0, C).
        """
        xp = self.xp
        classes, dtype = logits.shape[1], logits.dtype
        kept = targets != ignore_index
        targets = xp.where(kept, targets, 0)
        spread = xp.ones(classes, dtype=dtype) if weight is None else weight.astype(dtype, copy=False)
        weights = kept * spread[targets]
        top, sums, losses = (xp.empty(kept.shape, dtype=dtype) for _ in range(3))

        def work(x: Array, t: Array, keep: Array, w: Array, m: Array, s: Array, loss: Array) -> None:
            m[...] = self._row_max(x)[:, 0]
            z = x - m[:, None]
            at_target = xp.take_along_axis(z, t[:, None], axis=1)[:, 0]
            total = z @ spread if smoothing else 0
            s[...] = self._row_sum(xp.exp(z, out=z))[:, 0]
            log_s = xp.log(xp.maximum(s, 1))
            loss[...] = (1 - smoothing) * w * (log_s - xp.where(keep, at_target, 0))
            if smoothing:
                loss += (smoothing / classes) * (spread.sum() * log_s - total)
            xp.copyto(loss, 0, where=~keep)

        self._by_pieces(work, -1, logits, targets, kept, weights, top, sums, losses)
        return losses, weights, (logits, targets, kept, weights, spread, smoothing, top, sums)

    def cross_entropy_backward(self, g: Array, saved: Any) -> Array:
        """dlogits (N, C) for g (N,): p ((1 - s) w[t] + s/C sum(w)) - (1 - s) w[t] onehot(t) - s/C w, times
        g."""
        xp = self.xp
        logits, targets, kept, weights, spread, smoothing, top, sums = saved
        dx = xp.empty(logits.shape, dtype=logits.dtype)
        flat = g * (smoothing / max(logits.shape[1], 1))
        hit = g * weights * (1 - smoothing)
        scale = (hit + flat * spread.sum()) / xp.maximum(sums, 1)

        def work(d: Array, x: Array, t: Array, keep: Array, m: Array, a: Array, b: Array, c: Array) -> None:
            xp.subtract(x, m[:, None], out=d)
            xp.exp(d, out=d)
            d *= a[:, None]
            if smoothing:
                d -= b[:, None] * spread
            d[xp.arange(d.shape[0]), t] -= c
            xp.copyto(d, 0, where=~keep[:, None])

        self._by_pieces(work, -1, dx, logits, targets, kept, top, scale, flat, hit)
        return dx
