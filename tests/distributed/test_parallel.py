"""Steps of several processes are those of one on the joined batch: losses, weights and who has a gradient."""

import os
import re
from typing import Any

import numpy as np
import pytest
from helpers.ranks import needs_mpi, run

import tinyseq as ts
from tinyseq import nn, optim
from tinyseq.distributed.parallel import Arrivals, Bucket, DataParallel
from tinyseq.engine.gradients import pull_back

F = ts.functional


class Branches(nn.Module):
    """A step uses one of two heads, or none: which of the parameters get a gradient depends on the rows."""

    def __init__(self) -> None:
        self.heads = [nn.Linear(5, 4), nn.Linear(5, 4)]     # before what is used first
        self.embedding = nn.Embedding(7, 6)
        self.gru = nn.GRU(6, 5)
        self.idle = nn.Linear(2, 2)
        self.scale = nn.Parameter(1.0)
        self.frozen = nn.Linear(5, 5).requires_grad_(False)

    def forward(self, ids: Any, head: int) -> Any:
        y, _ = self.gru(self.embedding(ids))
        return self.heads[head](self.frozen(y) * self.scale)


def rows_of(rng: np.random.Generator, most: int) -> list[Any]:
    """(ids, targets, head) of each row of a batch."""
    return [(rng.integers(0, 7, (1, 4)), rng.integers(0, 4, (1, 4)), int(rng.integers(0, 2)))
            for _ in range(rng.integers(1, most))]


def loss_of(model: nn.Module, rows: list[Any], ignore: int) -> tuple[Any, int]:
    """Sum over the tokens that are not `ignore`, and how many they are."""
    total, count = None, 0
    for ids, targets, head in rows:
        logits = model(ts.tensor(ids), head)
        loss = F.cross_entropy(logits, ts.tensor(targets), ignore_index=ignore, reduction="sum")
        total, count = loss if total is None else total + loss, count + int((targets != ignore).sum())
    return total, count


def alone(batches: list[Any], dtype: Any, optimizer: Any) -> tuple[list[Any], Any]:
    """The judge: one process, plain `backward` of a mean."""
    ts.manual_seed(1)
    model = Branches().to(dtype)
    step = optimizer(model.parameters(), lr=0.05)
    said: list[Any] = []
    for rows in batches:
        total, count = loss_of(model, rows, 3)
        model.zero_grad()
        if count:
            loss = total / count
            loss.backward()
            norm = optim.clip_grad_norm_(model.parameters(), 0.5)
            step.step()
            said.append((loss.item(), norm.item(), [p.grad is not None for p in model.parameters()]))
    return said, model


def together(world: Any, batches: list[Any], dtype: Any, optimizer: Any, bucket_bytes: int, pieces: int
             ) -> tuple[list[Any], Any]:
    ts.manual_seed(1 + world.rank)          # other parameters, but on rank 0
    model = Branches().to(dtype)
    parallel = DataParallel(world, model, bucket_bytes)
    step = optimizer(model.parameters(), lr=0.05)
    said: list[Any] = []
    for rows in batches:
        own = world.share(rows)
        if not world.sum(loss_of(model, own, 3)[1]):
            continue
        model.zero_grad()
        earlier, counts = 0.0, 0
        for piece in range(1, pieces):      # gradients of these accumulate before the last
            total, count = loss_of(model, own[piece::pieces], 3)
            if total is not None:
                total.backward()
                earlier, counts = earlier + total.item(), counts + count
        total, count = loss_of(model, own[::pieces], 3)
        mean = parallel.backward(total, counts + count, earlier=earlier)
        norm = optim.clip_grad_norm_(model.parameters(), 0.5)
        step.step()
        said.append((mean, norm.item(), [p.grad is not None for p in model.parameters()]))
    return said, model


def compare(world: Any, seed: int, dtype: Any = ts.float64, tolerance: float = 1e-10) -> None:
    rng = np.random.default_rng(seed)
    batches = [rows_of(rng, 7) for _ in range(4)]
    optimizer = (optim.AdamW, optim.SGD)[seed % 2]
    bucket_bytes, pieces = int(rng.choice([1, 100, 700, 2**21])), int(rng.integers(1, 4))
    expected, one = alone(batches, dtype, optimizer)
    said, many = together(world, batches, dtype, optimizer, bucket_bytes, pieces)
    assert len(said) == len(expected)
    for (a, norm, has), (b, wanted, had) in zip(said, expected, strict=True):
        assert np.isclose(a, b, rtol=tolerance, atol=tolerance) and has == had, (seed, a, b, has, had)
        assert np.isclose(norm, wanted, rtol=tolerance, atol=tolerance), (seed, norm, wanted)
    for (name, p), q in zip(many.named_parameters(), one.parameters(), strict=True):
        assert p.dtype == q.dtype
        assert np.allclose(p.detach().numpy(), q.detach().numpy(), rtol=tolerance, atol=tolerance), (seed, name)
    weights = [p.detach().numpy().tobytes() for p in many.parameters()]
    assert world.broadcast(weights) == weights, "the ranks' weights are not bitwise the same"


def many_cases(world: Any) -> None:
    for seed in range(30 if os.environ.get("TINYSEQ_TEST_PROFILE") != "thorough" else 500):
        compare(world, seed)
    for seed in range(4):
        compare(world, seed, ts.float32, 1e-4)


@needs_mpi
@pytest.mark.parametrize("ranks", [2, 3])
def test_several_processes_train_as_one_on_the_joined_batch(ranks: int) -> None:
    """Unequal shards, ranks without rows, parameters without gradients on some ranks or on all; any bucket size."""
    run(ranks, __file__, "many_cases")


@pytest.mark.parametrize("on_device", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_alone_it_is_plain_backward(seed: int, on_device: bool) -> None:
    """Through the host too, as arrays of a GPU go to an MPI that does not read them."""
    world = ts.distributed.World()
    world.on_device = on_device
    compare(world, seed)


def of_other_models(world: Any) -> None:
    for wrong, text in [(nn.Linear(3, 2 + world.rank), "weight is float32 (3, 3), trained there, float32 (2, 3)"),
                        (nn.Linear(3, 2).to((ts.float32, ts.float64)[world.rank]), "weight is float64 (2, 3)"),
                        (nn.Linear(3, 2, bias=not world.rank), "bias is missing there, float32 (2,), trained on"),
                        (nn.Linear(3, 2).requires_grad_(not world.rank), "weight is float32 (2, 3) there")]:
        with pytest.raises(ValueError) as error:
            DataParallel(world, wrong)
        assert text in str(error.value), str(error.value)
    model = nn.Linear(3, 2)
    parallel = DataParallel(world, model)
    with pytest.raises(ValueError, match="no rank counted anything"):
        parallel.backward(None, 0)
    assert model.weight.grad is None
    parallel.backward(ts.sum(model(ts.ones((1, 3)))) if world.rank else None, world.rank)     # it goes on after that
    assert model.weight.grad.tolist() == [[1.0] * 3] * 2


def half(world: Any) -> None:
    """float16 travels as float32: what overflows on the way but not in the mean is right, what overflows is so on all
    ranks."""
    model = nn.Module()
    model.w = nn.Parameter(ts.ones(3, dtype=ts.float16))
    parallel = DataParallel(world, model)
    parallel.backward(ts.sum(model.w * ts.tensor([4e4, 1.0, 1e-7], dtype=ts.float16)), 1)
    assert model.w.grad.dtype == ts.float16
    assert np.array_equal(model.w.grad.numpy(), np.array([4e4, 1.0, 1e-7], np.float16)), model.w.grad
    model.zero_grad()
    with np.errstate(over="ignore"):
        parallel.backward(ts.sum(model.w) * (np.inf if world.rank else 1.0), 1)
    overflowed = not bool(ts.all(ts.isfinite(model.w.grad)))
    assert overflowed and world.sum(int(overflowed)) == world.size


@needs_mpi
def test_models_that_differ_are_told_by_name_on_all_ranks() -> None:
    run(2, __file__, "of_other_models")


@needs_mpi
def test_float16_is_summed_in_float32() -> None:
    run(2, __file__, "half")


def scaled(world: Any) -> None:
    """By the rules of LossScaler: as one process on all rows, with a piece before it too; what overflows on one rank is
    a skipped step on all."""
    ts.manual_seed(0)
    model, other = nn.Linear(4, 3).to(ts.float16), nn.Linear(4, 3).to(ts.float16)
    other.load_state_dict(model.state_dict())
    rng = np.random.default_rng(0)
    x, targets = rng.normal(size=(8, 4)).astype(np.float16), rng.integers(0, 3, 8)
    loss = lambda model, x, targets: F.cross_entropy(model(ts.tensor(x)), ts.tensor(targets), reduction="sum")
    scaler, alone = optim.LossScaler(1024.0), optim.LossScaler(1024.0)
    whole = loss(other, x, targets)
    alone.backward(whole)
    assert alone.unscale_(other.parameters(), count=8)
    parallel = DataParallel(world, model)
    first, last = [loss(model, world.share(x)[i::2], world.share(targets)[i::2]) for i in (0, 1)]
    scaler.backward(first)
    mean = parallel.backward(last, len(world.share(x)), earlier=first.item(), scaler=scaler)
    assert np.isclose(mean, whole.item() / 8, rtol=1e-3)
    assert scaler.unscale_(model.parameters())
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert np.allclose(p.grad.numpy(), q.grad.numpy(), rtol=2e-2, atol=1e-4)
    model.zero_grad()
    big = loss(model, world.share(x), world.share(targets)) * (1e30 if world.rank == world.size - 1 else 1.0)
    parallel.backward(big, 4, scaler=scaler)
    assert not scaler.unscale_(model.parameters())
    assert world.gather(scaler.state_dict()) == [scaler.state_dict()] * world.size and scaler.scale == 512


def test_a_loss_scaler_alone() -> None:
    scaled(ts.distributed.World())


@needs_mpi
def test_a_loss_scaler_with_ranks() -> None:
    run(2, __file__, "scaled")


def of_cupy(world: Any) -> None:
    import cupy_on_cpu

    cupy_on_cpu.install()
    with ts.use_backend("cupy"):
        assert nn.Linear(2, 2).weight.backend == "cupy"
        for seed in range(3):
            compare(world, seed)
        scaled(world)


@needs_mpi
def test_arrays_of_cupy_go_through_the_host() -> None:
    """On the emulated device, whose kernels are compiled the first time."""
    pytest.importorskip("cupy", reason="cupy is not installed")
    run(2, __file__, "of_cupy", seconds=900)


class Spy(ts.distributed.World):
    """A world of one that says what it is asked for, in turn."""

    def __init__(self) -> None:
        self.said: list[Any] = []

    def start(self, array: Any, broadcast: bool = False) -> Any:
        self.said.append(("start", array.nbytes, array.dtype.name))
        return super().start(array, broadcast)

    def test(self, exchange: Any) -> bool:
        self.said.append(("test",))
        return super().test(exchange)


def test_gradients_are_sent_while_backward_goes_on() -> None:
    """In the order in which they come from the second step on, whatever the order of the layers' attributes."""
    model, world = nn.Module(), Spy()
    model.a, model.b, model.c = (nn.Linear(8, 8, bias=False) for _ in range(3))
    parallel = DataParallel(world, model, 1)

    @ts.op
    def told(x: Any) -> Any:
        def pull(g: Any) -> Any:
            world.said.append(("pull",))
            return g
        return x, (pull,)

    for _ in range(2):
        x, world.said = ts.ones((2, 8)), []
        for layer in (model.b, model.c, model.a):
            x = layer(told(x))
        parallel.backward(ts.sum(told(x)), 2)
    starts = [i for i, what in enumerate(world.said) if what == ("start", 256, "float32")]
    pulls = [i for i, what in enumerate(world.said) if what == ("pull",)]
    assert len(starts) == 3 and pulls[0] < starts[0] < pulls[1] < starts[1] < pulls[2] < starts[2]
    assert any(what == ("test",) for what in world.said[starts[0] : starts[2]])


def test_buckets_hold_about_as_much_as_was_asked_each_of_one_dtype() -> None:
    model = nn.Module()
    model.layers = [nn.Linear(8, 8) for _ in range(6)]
    model.layers[2].to(ts.float64)
    model.layers[4].to(ts.float16)
    parallel = DataParallel(ts.distributed.World(), model, 600)
    buckets = parallel._buckets
    assert sum(bucket.flat.size for bucket in buckets) == 6 * 72
    assert all(bucket.flat.flags.c_contiguous and bucket.flat.nbytes < 600 + 8 * 64 for bucket in buckets)
    assert {bucket.flat.dtype.name for bucket in buckets} == {"float32", "float64"}
    assert len(buckets) <= 6


@pytest.mark.parametrize("layout", [np.asfortranarray, lambda g: g[::-1][::-1], lambda g: np.repeat(g, 2, 0)[::2]])
def test_gradients_of_any_layout_keep_their_places(layout: Any) -> None:
    with ts.use_backend("numpy"):
        bucket = Bucket(ts.distributed.World(), {7: nn.Parameter(ts.zeros((3, 4)))}, "float32")
    g = np.arange(12, dtype=np.float32).reshape(3, 4)
    bucket.put(7, layout(g), layout(g))
    assert bucket.flat.tolist() == (2 * np.arange(12)).tolist()


def test_gradients_are_arrays_of_their_own() -> None:
    """The next step, or a user who writes to one, changes no other."""
    model = nn.Linear(3, 2)
    parallel = DataParallel(ts.distributed.World(), model)
    parallel.backward(ts.sum(model(ts.ones((1, 3)))), 1)
    kept = model.weight.grad
    model.zero_grad()
    parallel.backward(ts.sum(model(5 * ts.ones((1, 3)))), 1)
    assert kept.tolist() == [[1.0] * 3] * 2 and model.weight.grad.tolist() == [[5.0] * 3] * 2
    assert kept.data.flags.c_contiguous and kept.data.flags.owndata


def test_leaves_that_are_no_parameters_keep_their_own_gradients() -> None:
    model, x = nn.Linear(3, 2), ts.ones((1, 3), requires_grad=True)
    parallel = DataParallel(ts.distributed.World(), model)
    for times in (1, 2):
        model.zero_grad()
        parallel.backward(ts.sum(model(x)), 4)
        assert np.allclose(x.grad.numpy(), times * model.weight.detach().numpy().sum(0), rtol=1e-5)


def test_wrong_calls_say_what_to_do() -> None:
    world, model = ts.distributed.World(), nn.Linear(3, 2)
    parallel = DataParallel(world, model)
    loss = ts.sum(model(ts.ones((1, 3))))
    for call, kind, text in [
        (lambda: DataParallel(model, world), TypeError, "expected world to be that of ts.distributed.mpi"),
        (lambda: DataParallel(world, [model]), TypeError, "expected model to be an nn.Module, got"),
        (lambda: DataParallel(world, model, 0), ValueError, "bucket_bytes"),
        (lambda: DataParallel(world, nn.Tanh()), ValueError, "no parameter of this model requires a gradient"),
        (lambda: parallel.backward(model(ts.ones((1, 3))), 1), ValueError, "a Tensor of one element, a sum"),
        (lambda: parallel.backward(3.0, 1), ValueError, "a Tensor of one element, a sum"),
        (lambda: parallel.backward(loss, -1), ValueError, "count"),
        (lambda: parallel.backward(loss, True), TypeError, "count"),
        (lambda: parallel.backward(loss, 1, scaler=2.0), TypeError, "scaler"),
        (lambda: parallel.backward(loss, 1, earlier="1"), TypeError, "earlier"),
    ]:
        with pytest.raises(kind, match=text):
            call()
    parallel.backward(loss, 1)              # none of them has begun


def test_parameters_that_the_model_did_not_train_at_first_are_refused() -> None:
    world, model = ts.distributed.World(), nn.Linear(3, 2)
    model.bias.requires_grad = False
    parallel = DataParallel(world, model)
    model.bias.requires_grad = True
    with pytest.raises(RuntimeError, match=r"of shape \(2,\) is not among those that the model trained"):
        parallel.backward(ts.sum(model(ts.ones((1, 3)))), 1)
    with pytest.raises(RuntimeError, match="an earlier one was interrupted"):
        parallel.backward(ts.sum(model(ts.ones((1, 3)))), 1)
    parallel = DataParallel(world, model)
    model.to(ts.float64)
    with pytest.raises(RuntimeError, match="is float64, and was float32"):
        parallel.backward(ts.sum(model(ts.ones((1, 3), dtype=ts.float64))), 1)


def test_a_tied_parameter_has_one_place() -> None:
    model = nn.Module()
    model.a = nn.Linear(4, 4, bias=False)
    model.b = nn.Linear(4, 4, bias=False)
    model.b.weight = model.a.weight
    x, plain = ts.ones((2, 4)), nn.Parameter(model.a.weight.detach().numpy().copy())
    ts.sum(x @ plain.T @ plain.T).backward()
    DataParallel(ts.distributed.World(), model, 1).backward(ts.sum(model.b(model.a(x))), 1)
    assert np.allclose(model.a.weight.grad.numpy(), plain.grad.numpy(), rtol=1e-5)


def test_gradients_of_leaves_are_told_at_once_and_are_those_of_backward() -> None:
    """Right after the pull of the first op that used each, once, and whole."""
    said: list[Any] = []

    class Told(Arrivals):
        def __init__(self) -> None:
            super().__init__(lambda *_: None)

        def __setitem__(self, node: Any, g: Any) -> None:
            said.append(([w is node.tensor() for w in ws].index(True), g.copy()))

    @ts.op
    def marked(x: Any, name: str) -> Any:
        return x, (lambda g: said.append(name) or g, None)

    def loss() -> ts.Tensor:
        y = ws[2] * ts.ones(3)
        for w, name in ((ws[0], "a"), (ws[1], "b"), (ws[0], "c")):
            y = ts.tanh(marked(y, name) * w)
        return y.sum()

    ws = [ts.tensor(np.linspace(i, i + 1, 3), requires_grad=True) for i in range(4)]     # the last is not used
    loss().backward()
    said.clear()
    left = pull_back([loss()], [None], wanted=None, create_graph=False, retain_graph=False, into=Told())
    assert not left
    order = [what if isinstance(what, str) else what[0] for what in said]
    assert order == ["c", 1, "b", 0, "a", 2]    # 0 is whole when the first of its two uses is behind
    for i, g in (what for what in said if not isinstance(what, str)):
        assert np.array_equal(ws[i].grad.numpy(), ts.Tensor(g).numpy())
    x = ts.tensor(2.0, requires_grad=True)
    left = pull_back([x], [None], wanted=None, create_graph=False, retain_graph=False, into=Told())
    assert {node: float(g) for node, g in left.items()} == {x.node: 1.0}


def test_a_profile_sees_the_walk_back_of_several_processes() -> None:
    model = nn.Linear(3, 2)
    parallel = DataParallel(ts.distributed.World(), model)
    with ts.profile() as profile:
        parallel.backward(ts.sum(model(ts.ones((4, 3)))), 4)
    assert re.search(r"Python in the walk back +[\d.]+", str(profile)), str(profile)
