"""Gradients summed over all ranks, in buckets that travel while `backward` goes on (Li et al. 2020, "PyTorch
Distributed", sections 3.2.2 and 3.2.3).

Every rank sends the same buckets in the same order, whatever it computed: parameters that got no gradient are zeros,
and beside the buckets goes a vector of who got one. So a rank without rows takes part, and where no rank has a gradient
there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tinyseq import backends, check
from tinyseq.distributed.world import Exchange, World
from tinyseq.engine import gradients, ops
from tinyseq.engine.graph import Leaf
from tinyseq.engine.tensor import Array, Tensor
from tinyseq.nn.module import Module, Parameter
from tinyseq.optim import LossScaler

_TRAVELS_AS = {"float16": "float32"}  # MPI and NCCL would round each partial sum


class Bucket:
    """A flat array with a place for each of some gradients."""

    def __init__(self, world: World, parameters: dict[int, Parameter], dtype: str) -> None:
        ends = np.cumsum([p.size for p in parameters.values()])
        self.backend = backends.of(next(iter(parameters.values()))._data) if world.on_device else backends.load("numpy")
        self.flat: Array = self.backend.xp.empty(int(ends[-1]), dtype=dtype)
        self.places = {i: self.flat[end - p.size : end].reshape(p.shape)
                       for (i, p), end in zip(parameters.items(), ends, strict=True)}
        self.missing = len(parameters)  # gradients that are not here yet
        self.exchange: Exchange | None = None

    def put(self, i: int, *parts: Array) -> None:
        """Write the sum of gradients, of any layout, to the place of parameter i: 0 if there are none."""
        own = [g if isinstance(g, self.backend.array_types) else backends.of(g).asnumpy(g) for g in parts]
        self.places[i][...] = own[0] if own else 0
        for g in own[1:]:
            self.places[i][...] += g
        self.missing -= 1


class Arrivals(dict[Any, Any]):
    """What `pull_back` fills: hands each leaf's gradient on at once when it is complete."""

    def __init__(self, take: Callable[[Tensor, Array], None]) -> None:
        super().__init__()
        self.take = take

    def __setitem__(self, leaf: Any, g: Array) -> None:
        tensor = leaf.tensor()
        if tensor is not None:
            self.take(tensor, g)

    def order(self, nodes: list[Any]) -> list[Any]:
        """The nodes, each leaf right before the first that uses it: going back its gradient is complete there."""
        placed: dict[Any, None] = {}
        for node in nodes:
            if type(node) is not Leaf:
                placed |= dict.fromkeys(parent for parent in node.parents if type(parent) is Leaf)
                placed[node] = None
        return list(placed)


class DataParallel:
    """A model whose `backward` gives every rank the gradient of the whole batch.

    All ranks get the parameters and buffers of rank 0 first. Names, shapes and dtypes are compared over the ranks:
    where one differs it is a ValueError on all of them. Gradients travel in buckets of about `bucket_bytes`.

    With sums as losses and what they counted (tokens, rows), steps are those of one process on the joined batch:

    >>> world, model = ts.distributed.World(), nn.Linear(3, 2)
    >>> parallel = ts.distributed.DataParallel(world, model)
    >>> x, targets = ts.ones((4, 3)), ts.tensor([0, 1, 1, 0])
    >>> loss = F.cross_entropy(model(world.share(x)), world.share(targets), reduction="sum")
    >>> mean = parallel.backward(loss, count=4)
    >>> bool(np.isclose(mean, float(loss) / 4))
    True
    >>> ts.optim.SGD(model.parameters(), lr=0.1).step()
    """

    def __init__(self, world: World, model: Module, bucket_bytes: int = 2**21) -> None:
        if not isinstance(world, World):
            raise TypeError("DataParallel: expected world to be that of ts.distributed.mpi(), got "
                            f"{check.describe(world)}")
        if not isinstance(model, Module):
            raise TypeError(f"DataParallel: expected model to be an nn.Module, got {check.describe(model)}")
        self.world, self.model = world, model
        self.bucket_bytes = check.integers("DataParallel", 1, bucket_bytes=bucket_bytes)
        _begin_alike(world, model)
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        if not self._parameters:
            raise ValueError("DataParallel: no parameter of this model requires a gradient")
        self._numbers = {id(p): i for i, p in enumerate(self._parameters)}
        self._dtypes = [p.dtype for p in self._parameters]
        self._came: dict[int, None] = {}  # whose gradients are there, in their order
        self._learned = self._begun = False  # the order that gradients come in; a backward that has not ended
        self._fill(reversed(range(len(self._parameters))))

    def backward(self, loss: Tensor | None, count: float, *, earlier: float = 0.0,
                 scaler: LossScaler | None = None) -> float:
        """Set every parameter's `.grad`, on all ranks, to that of the sum of all losses over the sum of all counts.

        `loss`, of one element, is a sum over this rank's rows, or None where it has none, and `count` what it sums
        over. To accumulate, call `loss.backward()` for the rows before and this for the last, with what all of them
        counted and, as `earlier`, the sum of the losses before; `.grad` must have been None at first. The gradients are
        those times the scale of `scaler`, whose `unscale_` comes next. Returns the sum of all losses over that
        of the counts, without the scale.

        Every rank calls it, once a step. A parameter that no rank's loss depends on has the gradient None. Raises
        ValueError, on all ranks, where nothing was counted, and RuntimeError for a parameter that the model did not
        train when it was made parallel.
        """
        where = "DataParallel.backward"
        count = check.numbers(where, least=0, count=count)
        earlier, scale = check.numbers(where, earlier=earlier), 1.0
        if scaler is not None:
            check.instance(where, LossScaler, scaler=scaler)
            scaler.waiting, scale = True, scaler.scale
        if loss is not None and (not isinstance(loss, Tensor) or loss.size != 1):
            raise ValueError(f"{where}: expected loss to be a Tensor of one element, a sum, got "
                             f"{check.describe(loss)}")
        if self._begun:
            raise RuntimeError(f"{where}: an earlier one was interrupted: begin again from a checkpoint")
        self._begun, self._came, self._sent = True, {}, 0
        begun = self.world.begin("backward")
        for bucket in self._buckets:
            bucket.missing = len(bucket.places)
        if loss is not None:
            told: Any = None if scale == 1 else "ignore"  # what overflows of a scaled loss is for unscale_
            with np.errstate(over=told, invalid=told):
                gradients.pull_back([loss], [ops.full_like(loss.detach(), scale)], wanted=None, create_graph=False,
                                    retain_graph=False, into=Arrivals(self._take))
        has = self._rest()
        self.world.alike(begun)
        said = np.array([count, earlier + (0.0 if loss is None else loss.item()), *has])
        self.world.wait(self.world.start(said))
        total = float(said[0])
        for bucket in self._buckets:
            if bucket.exchange is not None:
                self.world.wait(bucket.exchange)
            if total:
                self._give(bucket, total, said[2:])
        if not self._learned:
            self._learn()
        self._begun = False
        if not total:
            raise ValueError(f"{where}: no rank counted anything (count is 0): leave this step out, on all ranks")
        return float(said[1]) / total

    # --- the way of a gradient
    def _fill(self, order: Iterable[int]) -> None:
        """Buckets for the parameters of these numbers, in this order, each of one dtype and about `bucket_bytes`."""
        groups: list[tuple[str, dict[int, Parameter]]] = []
        open_: dict[tuple[str, str], tuple[int, dict[int, Parameter]]] = {}  # the last of its kind, and its bytes
        for i in order:
            p = self._parameters[i]
            kind = p.backend, _TRAVELS_AS.get(p.dtype.name, p.dtype.name)
            size, members = open_.get(kind, (self.bucket_bytes, {}))
            if size >= self.bucket_bytes:
                size, members = 0, {}
                groups.append((kind[1], members))
            members[i] = p
            open_[kind] = size + p.size * np.dtype(kind[1]).itemsize, members
        self._buckets = [Bucket(self.world, members, dtype) for dtype, members in groups]
        self._bucket_of = {i: bucket for bucket in self._buckets for i in bucket.places}

    def _take(self, tensor: Tensor, g: Array) -> None:
        """A leaf's gradient, complete: into its bucket, which is sent once it and those before it are whole."""
        i = self._numbers.get(id(tensor))
        if i is None and isinstance(tensor, Parameter):
            raise RuntimeError(f"DataParallel.backward: a parameter of shape {tensor.shape} is not among those that "
                               "the model trained when it was made parallel: DataParallel(world, model) again, with "
                               "all that it trains")
        if i is None:
            tensor.grad = gradients.grown(tensor.grad, g)
            return
        if tensor.dtype != self._dtypes[i]:
            raise RuntimeError(f"DataParallel.backward: a parameter of shape {tensor.shape} is {tensor.dtype}, and was "
                               f"{self._dtypes[i]} when its model was made parallel: call .to() before")
        self._bucket_of[i].put(i, g, *[] if tensor.grad is None else [tensor.grad._data])
        self._came[i] = None
        self._send()

    def _send(self) -> None:
        """Send the next buckets that are whole, and let go on what was sent."""
        if self._sent and (last := self._buckets[self._sent - 1].exchange) is not None:
            self.world.test(last)
        while self._sent < len(self._buckets) and not self._buckets[self._sent].missing:
            bucket = self._buckets[self._sent]
            bucket.exchange = self.world.start(bucket.flat)
            self._sent += 1

    def _rest(self) -> list[bool]:
        """Send what this backward did not reach: zeros, or what was there. Returns who has a gradient on this rank."""
        held = [() if p.grad is None else (p.grad._data,) for p in self._parameters]
        for i, gradient in enumerate(held):
            if i not in self._came:
                self._bucket_of[i].put(i, *gradient)
        self._send()
        return [i in self._came or bool(gradient) for i, gradient in enumerate(held)]

    def _give(self, bucket: Bucket, total: float, has: Array) -> None:
        """Each parameter its part of the sum, divided by what all ranks counted: an array of its own."""
        with np.errstate(over="ignore"):  # of float16, which then is infinite, on all ranks
            for i, place in bucket.places.items():
                p = self._parameters[i]
                p.grad = Tensor(backends.of(p._data).asarray(place / total, dtype=self._dtypes[i])) if has[i] else None

    def _learn(self) -> None:
        """Buckets in the order in which gradients came: on the first of the ranks where most did."""
        came = max(self.world.gather([*self._came]), key=len)
        self._fill([*came, *(i for i in reversed(range(len(self._parameters))) if i not in set(came))])
        self._learned = bool(came)


def _begin_alike(world: World, model: Module) -> None:
    """Rank 0's parameters and buffers for all ranks, whose models are compared first."""
    tensors = {id(t): (name, t) for name, t in reversed([*model.named_tensors()])}  # each under its first name
    named = dict(reversed(tensors.values()))
    facts = {name: f"{t.dtype} {t.shape}{', trained' * t.requires_grad}" for name, t in named.items()}
    first, *others = world.collect("DataParallel", facts)
    for rank, theirs in enumerate(others, 1):
        if differ := [name for name in first | theirs if first.get(name) != theirs.get(name)]:
            said = [f"{name} is {theirs.get(name, 'missing')} there, {first.get(name, 'missing')} on rank 0"
                    for name in differ[:5]]
            raise ValueError(f"DataParallel: the model of rank {rank} is not like that of rank 0, in {len(differ)} "
                             f"of its parameters and buffers: {'; '.join(said)}")
        if [*theirs] != [*first]:
            raise ValueError(f"DataParallel: the model of rank {rank} has its parameters in another order than that "
                             f"of rank 0: {[*theirs][:5]}..., and {[*first][:5]}...")
    for tensor in named.values():
        values = np.array(tensor._host(), order="C")
        world.wait(world.start(values.reshape(-1).view(np.uint8), broadcast=True))  # bytes: of any dtype
        if world.rank:
            tensor.data = values
