"""Training in float16: the loss is scaled, so that small gradients are not 0 on their way."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tinyseq import check
from tinyseq.engine import ops
from tinyseq.engine.tensor import Tensor
from tinyseq.interrupts import together
from tinyseq.optim.gradients import divide, leaves


class LossScaler:
    """Dynamic loss scaling for float16 (Micikevicius et al. 2018, section 3.2), by the rules of `torch.amp.GradScaler`.

    Gradients below 6e-8 are 0 in float16. So the loss is multiplied by `scale` before it goes back, and the gradients
    are divided by it after, in float32. Where one of them came to inf or NaN the step is skipped and the scale shrinks
    by `backoff_factor`; after `growth_interval` good steps in a row it grows by `growth_factor`.

    >>> model = nn.Sequential(nn.Embedding(10, 8), nn.Linear(8, 3)).to(ts.float16)
    >>> optimizer, scaler = ts.optim.AdamW(model.parameters()), ts.optim.LossScaler()
    >>> for step in range(3):
    ...     loss = F.cross_entropy(model([1, 4, 2]), [0, 2, 1])   # float32; floating-point inputs: x.astype(ts.float16)
    ...     optimizer.zero_grad()
    ...     scaler.backward(loss)                                 # in the place of loss.backward()
    ...     if scaler.unscale_(model.parameters()):               # False: the gradients overflowed, and are gone
    ...         _ = ts.optim.clip_grad_norm_(model.parameters(), 1.0)
    ...         optimizer.step()
    ...     else:
    ...         print(f"step {step} was skipped: {scaler}")
    >>> scaler
    LossScaler(scale=65536.0, steps=3, skipped=0)

    A skipped step leaves weights and optimizer as they are, bit for bit, without the `if` too: its gradients are None,
    whose norm is 0. `skipped` of `steps` were; of it a loop makes a line for its log, and nobody warns. The first steps
    find the scale: a sum over 4,096 tokens (see `divide_grad_`) begins with some ten that are skipped.

    What runs in float16:

    =====================  =========================================================================================
    weights, activations   float16, and so are gradients on their way back
    sums                   of norms, softmax, attention, recurrences and products: in float32, rounded once
    losses                 float32: those of `functional`, nn.CTCLoss, nn.CRF
    gradients              float32 from `unscale_` to the optimizer, whose own state is float32
    bfloat16               not here: neither backend is whole in it. NumPy with ml_dtypes adds up to 256 ones and then
                           stops; CuPy 14 lacks its batched products and scattered sums. Files in bfloat16 load
                           as float32, and float16 with this scaler is what trains in half the memory
    =====================  =========================================================================================

    Raises ValueError for a scale or growth_interval of 0 or less, a growth_factor below 1 and a backoff_factor that is
    not between 0 and 1.
    """

    settings = ("scale", "growth_factor", "backoff_factor", "growth_interval")
    counts = ("steps", "skipped", "good")
    least = 1e-4  # where shrinking on is of no use
    most = 2.0**126  # and its reciprocal are float32 numbers

    @check.constructor
    def __init__(self, scale: float = 2.0**16, *, growth_factor: float = 2.0, backoff_factor: float = 0.5,
                 growth_interval: int = 2000) -> None:
        self.scale = check.numbers("LossScaler", above=0, most=self.most, scale=scale)
        self.growth_factor = check.numbers("LossScaler", least=1, below=math.inf, growth_factor=growth_factor)
        self.backoff_factor = check.numbers("LossScaler", above=0, below=1, backoff_factor=backoff_factor)
        self.growth_interval = check.integers("LossScaler", 1, growth_interval=growth_interval)
        self.steps = self.skipped = self.good = 0  # good steps since the scale last changed
        self.waiting = False  # gradients, to be divided

    def __repr__(self) -> str:
        return f"LossScaler(scale={self.scale}, steps={self.steps}, skipped={self.skipped})"

    def backward(self, loss: Tensor) -> None:
        """`loss.backward()` of the loss, one number, times `scale`. What overflows on the way back gives no warning.

        Several losses before one `unscale_` add up, as without a scale.
        """
        if not isinstance(loss, Tensor) or loss.size != 1:
            raise TypeError(f"LossScaler.backward: expected a loss, a Tensor of one number, got {check.describe(loss)}")
        self.waiting = True  # before it, as an interrupt may leave some
        with np.errstate(over="ignore", invalid="ignore"):
            loss.backward(ops.full_like(loss.detach(), self.scale))

    def unscale_(self, parameters: Iterable[Tensor], count: float = 1) -> bool:
        """Divide all gradients by `scale` and, as `divide_grad_` does, by `count`; True if all are finite.

        Once a step, before clipping, with the parameters of all optimizers. Gradients of float16 become float32. If one
        number is inf or NaN, they all become None and it is False: the step is to be skipped, and the scale is smaller
        from now on. Where all gradients are None it is True, and no step. One number for all gradients is waited for.

        Raises RuntimeError where no `backward` of this scaler came since the last time, as gradients would be divided
        twice; FloatingPointError where the scale has shrunk below 1e-4, as then it is not the scale that overflows;
        ValueError and TypeError as `divide_grad_`. None but the second changes anything.
        """
        count = check.numbers("LossScaler.unscale_", least=0, below=math.inf, count=count)
        listed = leaves("LossScaler.unscale_", parameters)
        if all([p.grad is None for p in listed]):
            return True
        if not self.waiting:
            raise RuntimeError("LossScaler.unscale_: no scaler.backward(loss) came since gradients were last divided: "
                               "call it once a step, with the parameters of all models: unscale_([*a.parameters(), "
                               "*b.parameters()])")
        found = divide("LossScaler.unscale_", listed, self.scale * (count or 1.0))
        with np.errstate(over="ignore", invalid="ignore"):
            finite = all([math.isfinite(backend.global_norm(grads)) for backend, grads in found.items()])
        change = self._after(finite)
        together(*((p, "grad", None) for p in listed if not finite), *((self, k, v) for k, v in change.items()))
        if not finite and self.scale < self.least:
            raise FloatingPointError(
                f"LossScaler: gradients are not finite, with a scale of {self.scale:.3g} too: the model or its loss "
                "overflows by itself. Look at the loss, lower the learning rate, clip the gradients; float16 holds "
                "numbers up to 65504")
        return finite

    def _after(self, finite: bool) -> dict[str, Any]:
        """What changes with a step."""
        if not finite:
            return {"steps": self.steps + 1, "skipped": self.skipped + 1, "good": 0,
                    "scale": self.scale * self.backoff_factor, "waiting": False}
        grows = self.good + 1 == self.growth_interval
        scale = min(self.scale * self.growth_factor, self.most) if grows else self.scale
        return {"steps": self.steps + 1, "good": 0 if grows else self.good + 1, "scale": scale, "waiting": False}

    def state_dict(self) -> dict[str, Any]:
        """Scale, settings and counts, for `load_state_dict`; `checkpoint.save` takes it as it is."""
        return {"scaler": "LossScaler"} | {k: getattr(self, k) for k in (*self.settings, *self.counts)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the scaler that gave `state` stood. Another object's state is a KeyError or ValueError,
        numbers that cannot be are a TypeError or ValueError; then nothing is loaded."""
        check.mapping("LossScaler.load_state_dict", state=state)
        check.choice("LossScaler.load_state_dict", ("LossScaler",), scaler=state.get("scaler", "LossScaler"))
        missing, unexpected = self.state_dict().keys() - state.keys(), state.keys() - self.state_dict().keys()
        if missing or unexpected:
            raise KeyError(f"LossScaler: this is no state of a LossScaler: missing {sorted(missing) or 'nothing'}, "
                           f"unexpected {sorted(unexpected) or 'nothing'}")
        scale, *others = self.settings
        loaded = LossScaler(state[scale], **{k: state[k] for k in others})
        counts = {k: check.integers("LossScaler.load_state_dict", 0, **{k: state[k]}) for k in self.counts}
        self.__dict__.update(loaded.__dict__ | counts)  # at once, whatever interrupts
