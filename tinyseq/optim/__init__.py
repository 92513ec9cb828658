"""Optimizers and schedules; gradients clipped, divided and scaled; averages of weights.

Each step is in place; on CuPy it is one kernel over 64 parameters, Adafactor's are three. A learning rate is an
attribute, so a schedule is a line of the training loop: `optimizer.lr = schedule(step)`.
"""

from tinyseq import check as _check
from tinyseq.optim import schedules
from tinyseq.optim.algorithms import SGD, Adafactor, Adam, AdamW, Lion, RMSprop
from tinyseq.optim.averages import EMA, SWA
from tinyseq.optim.gradients import clip_grad_norm_, clip_grad_value_, divide_grad_
from tinyseq.optim.groups import decay_groups
from tinyseq.optim.optimizer import Optimizer
from tinyseq.optim.scaling import LossScaler

__all__ = ["Adafactor", "Adam", "AdamW", "EMA", "Lion", "LossScaler", "Optimizer", "RMSprop", "SGD", "SWA",
           "clip_grad_norm_", "clip_grad_value_", "decay_groups", "divide_grad_", "schedules"]

_check.public(__name__, Optimizer)
_check.public(schedules.__name__, schedules.Plateau)
