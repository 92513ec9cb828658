"""Norms over batches and sequences, a slope that is learnt, bags: PyTorch's numbers, and the laws of padding."""

from typing import Any

import numpy as np
import pytest
from helpers.layers import close, holding, judge, normal, same
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
from tinyseq import nn
from tinyseq.testing import check_grad, check_sequence_layer


def turned(theirs: Any, x: Any) -> Any:
    return theirs(x.mT).mT if x.ndim == 3 else theirs(x)


@pytest.mark.reference
@pytest.mark.parametrize("momentum", [0.1, None])
@given(st.sampled_from([(4, 3), (2, 5, 3)]), st.booleans(), st.booleans(), st.integers(0, 3))
def test_batch_norm_is_pytorchs(momentum: Any, shape: Any, affine: bool, tracked: bool, batches: int) -> None:
    torch = pytest.importorskip("torch")
    ours = nn.BatchNorm1d(3, 1e-3, momentum, affine, tracked, dtype=np.float64)
    theirs = torch.nn.BatchNorm1d(3, 1e-3, momentum, affine, tracked, dtype=torch.float64)
    rng = np.random.default_rng(0)
    for _ in range(batches):
        x = normal(rng, *shape) * 2 + 1
        close(ours(ts.tensor(x)), turned(theirs, torch.tensor(x)))
    for k, v in theirs.state_dict().items():
        close(ours.state_dict()[k], v)
    x = normal(rng, *shape)
    for mode in (False, True):
        judge(ours.train(mode), theirs.train(mode), lambda m, x: [m(x)], lambda m, x: [turned(m, x)], [x], "float64")


@pytest.mark.reference
@given(st.sampled_from([(1, 4), (2, 4), (4, 4), (2, 6)]), st.sampled_from([(3,), (3, 5), (2, 1)]), st.booleans())
def test_group_norm_is_pytorchs(sizes: Any, lead: Any, affine: bool) -> None:
    torch = pytest.importorskip("torch")
    ours = nn.GroupNorm(*sizes, 1e-3, affine, dtype=np.float64)
    theirs = torch.nn.GroupNorm(*sizes, 1e-3, affine, dtype=torch.float64)
    x = normal(np.random.default_rng(0), *lead, sizes[1])
    judge(ours, theirs, lambda m, x: [m(x)], lambda m, x: [turned(m, x)], [x], "float64")


def test_norms_keep_the_laws_of_padding() -> None:
    check_sequence_layer(nn.GroupNorm(2, 4, dtype=np.float64), 4, causal=False)
    check_sequence_layer(nn.BatchNorm1d(3, dtype=np.float64).eval(), 3, causal=True)


@pytest.mark.parametrize("lengths", [[4, 2, 0], [1, 3, 4]])
def test_a_batch_norm_of_padded_rows_is_that_of_their_steps(lengths: Any) -> None:
    x, lengths = normal(np.random.default_rng(0), 3, 4, 2), np.array(lengths)
    real = np.arange(4) < lengths[:, None]
    padded, flat = nn.BatchNorm1d(2, dtype=np.float64), nn.BatchNorm1d(2, dtype=np.float64)
    y = padded(ts.tensor(holding(x, lengths, np.nan)), lengths).detach().numpy()
    close(y[real], flat(ts.tensor(x[real])))
    assert not y[~real].any()
    for k, v in flat.state_dict().items():
        close(padded.state_dict()[k], v)


def test_gradients_are_right_and_so_are_theirs() -> None:
    rng = np.random.default_rng(0)
    for norm in (nn.BatchNorm1d(4, dtype=np.float64), nn.GroupNorm(2, 4, dtype=np.float64)):
        check_grad(lambda x, *_, norm=norm: norm(x, lengths=[3, 1]), ts.tensor(normal(rng, 2, 3, 4)), order=2)


def test_running_numbers_are_no_part_of_a_graph_and_one_batch_of_one_is_refused() -> None:
    norm = nn.BatchNorm1d(2)
    norm(ts.ones((3, 2), requires_grad=True)).sum().backward()
    assert norm.running_mean is not None and not norm.running_mean.requires_grad
    assert [*norm.state_dict()] == ["weight", "bias", "running_mean", "running_var", "num_batches_tracked"]
    if norm.weight is None or norm.weight.backend != "numpy":
        return  # on a device nobody looks
    with pytest.raises(ValueError, match=r"at least 2 positions .* got 1"):
        norm(ts.ones((1, 2)))
    with pytest.raises(ValueError, match=r"at least 2 positions .* got 1"):
        norm(ts.ones((2, 4, 2)), lengths=[1, 0])
    assert norm.eval()(ts.ones((1, 2))).shape == (1, 2)


@pytest.mark.reference
@pytest.mark.parametrize("given_", [(), (3,), (1, 0.5)])
def test_prelu_is_pytorchs(given_: Any) -> None:
    torch = pytest.importorskip("torch")
    x = normal(np.random.default_rng(0), 4, 3).round()
    judge(nn.PReLU(*given_, dtype=np.float64), torch.nn.PReLU(*given_, dtype=torch.float64), lambda m, x: [m(x)],
          lambda m, x: [m(x)], [x], "float64")


def test_prelu_of_an_infinity_has_a_gradient() -> None:
    prelu = nn.PReLU()
    prelu(ts.tensor([np.inf, -1.0])).sum().backward()
    assert prelu.weight.grad is not None and prelu.weight.grad.tolist() == [-1.0]


@pytest.mark.reference
@given(st.data())
def test_bags_are_pytorchs(data: st.DataObject) -> None:
    torch = pytest.importorskip("torch")
    draw = lambda *options: data.draw(st.sampled_from(options))
    mode, padding_idx = draw("sum", "mean", "max"), draw(None, 1, -1)
    ours = nn.EmbeddingBag(6, 3, mode=mode, padding_idx=padding_idx, dtype=np.float64)
    theirs = torch.nn.EmbeddingBag(6, 3, mode=mode, padding_idx=padding_idx, dtype=torch.float64)
    theirs.load_state_dict({"weight": torch.tensor(ours.weight.detach().numpy())})
    ids = np.array(data.draw(st.lists(st.integers(0, 5), min_size=6, max_size=6)))
    offsets = draw(None, [0], [0, 3], [0, 0, 2, 6])
    ids = ids.reshape(2, 3) if offsets is None else ids
    weights = normal(np.random.default_rng(0), *ids.shape) if mode == "sum" and draw(True, False) else None
    y = ours(ids, offsets, weights)
    z = theirs(torch.tensor(ids), None if offsets is None else torch.tensor(offsets),
               None if weights is None else torch.tensor(weights))
    close(y, z)
    (y * y).sum().backward()
    (z * z).sum().backward()
    close(ours.weight.grad, theirs.weight.grad)


def test_a_bag_with_lengths_is_that_of_its_ids() -> None:
    for mode in ("sum", "mean", "max"):
        bag = nn.EmbeddingBag(6, 3, mode=mode, padding_idx=0)
        y = bag([[3, 4, 5], [2, 9 % 6, 1], [1, 1, 1]], lengths=[3, 1, 0])
        same(y[1], bag([[2]])[0])
        assert y[2].tolist() == [0.0, 0.0, 0.0] == bag([[0, 0]])[0].tolist()


@pytest.mark.parametrize("call, message", [
    (lambda: nn.GroupNorm(3, 4), "multiple of num_groups, got 4 and 3"),
    (lambda: nn.BatchNorm1d(3)(ts.ones((2, 3, 4))), r"\(B, T, 3\), channels last, got shape \(2, 3, 4\)"),
    (lambda: nn.BatchNorm1d(3)(ts.ones((2, 3), dtype=np.float64)), "x of float32"),
    (lambda: nn.GroupNorm(1, 3)(ts.ones((2, 3)), lengths=[1, 2]), "with lengths, got shape"),
    (lambda: nn.PReLU(3)(ts.ones((2, 4))), "channel for each of num_parameters"),
    (lambda: nn.EmbeddingBag(3, 2)([0, 1]), "perhaps with lengths"),
    (lambda: nn.EmbeddingBag(3, 2)([0, 1], [1, 2]), r"begin at 0 .* got \[1, 2\]"),
    (lambda: nn.EmbeddingBag(3, 2)([[0, 1]], per_sample_weights=[[1.0, 2.0]]), "expected mode='sum'"),
    (lambda: nn.EmbeddingBag(3, 2)([[0, 3]]), "id 3 is out of range"),
    (lambda: nn.EmbeddingBag(3, 0.5), "EmbeddingBag: expected an integer 0 <= embedding_dim"),
])
def test_what_does_not_fit_is_refused(call: Any, message: str) -> None:
    with ts.use_backend("numpy"), pytest.raises((ValueError, TypeError, IndexError), match=message):
        call()  # on a device nobody looks
