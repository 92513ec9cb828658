"""Layers without memory: PyTorch's weights, outputs and gradients; their options, padding and names."""

from typing import Any

import numpy as np
import pytest
from helpers.layers import SIZES, dtypes, judge, judge_real, normal, same, seeds
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
import tinyseq.functional as F
from tinyseq import nn


@pytest.mark.reference
@given(dtype=dtypes, bias=st.booleans(), sizes=st.tuples(*[st.integers(1, 5)] * 4), seed=seeds)
def test_linear_embedding_and_layer_norm_are_torchs(dtype: str, bias: bool, sizes: Any, seed: int) -> None:
    torch = pytest.importorskip("torch")
    batch, steps, width, out = sizes
    kind, rng = getattr(torch, dtype), np.random.default_rng(seed)
    ids, one = rng.integers(0, out, (batch, steps)), lambda m, *a: [m(*a)]
    x = normal(rng, batch, steps, width, dtype=dtype)
    judge(nn.Linear(width, out, bias, dtype=dtype), torch.nn.Linear(width, out, bias, dtype=kind), one, one, [x], dtype)
    for shape in (width, (steps, width)):
        options: dict[str, Any] = {"eps": 0.1, "bias": bias}  # a small eps makes much of two numbers' rounding
        judge(nn.LayerNorm(shape, **options, dtype=dtype), torch.nn.LayerNorm(shape, **options, dtype=kind), one, one,
              [x], dtype)
    for padding in (None, -1):
        judge(nn.Embedding(out, width, padding, dtype=dtype), torch.nn.Embedding(out, width, padding, dtype=kind),
              lambda m: [m(ids)], lambda m: [m(torch.tensor(ids))], [], dtype)


@pytest.mark.reference
@given(dtype=dtypes, affine=st.booleans(), eps=st.sampled_from([None, 0.1]), sizes=SIZES, seed=seeds)
def test_rms_norm_is_torchs(dtype: str, affine: bool, eps: Any, sizes: Any, seed: int) -> None:
    torch = pytest.importorskip("torch")
    x = normal(np.random.default_rng(seed), *sizes, dtype=dtype)
    for shape in (sizes[-1], sizes[1:]):
        judge_real(nn.RMSNorm(shape, eps, affine, dtype=dtype),
                   torch.nn.RMSNorm(shape, eps, affine, dtype=getattr(torch, dtype)), [x], {}, {})


def test_sequential_and_activations() -> None:
    x = ts.asarray(normal(np.random.default_rng(0), 4, 4, dtype="float32"))
    layers = [nn.Linear(4, 4), nn.ReLU(), nn.LeakyReLU(negative_slope=0.2), nn.ELU(alpha=0.5), nn.GELU(), nn.SiLU(),
              nn.Tanh(), nn.Sigmoid(), nn.Softplus()]
    functions = [layers[0], F.relu, lambda x: F.leaky_relu(x, 0.2), lambda x: F.elu(x, 0.5), F.gelu, F.silu, ts.tanh,
                 ts.sigmoid, F.softplus]
    model, y = nn.Sequential(*layers), x
    for f in functions:
        y = f(y)
    same(model(x), y)
    assert len(model) == 9 and model[1] is layers[1] and list(model) == layers and model[-1] is layers[-1]
    with pytest.raises(TypeError, match="layer 1 is a function, expected a Module"):
        nn.Sequential(nn.ReLU(), F.relu)  # type: ignore[arg-type]


def test_embedding_pads_with_zeros_and_names_wrong_ids() -> None:
    embedding = nn.Embedding(4, 3, padding_idx=-1)
    assert not embedding(np.array([3])).detach().numpy().any() and embedding([[1, 2]]).shape == (1, 2, 3)
    ts.sum(embedding([3, 1, 1])).backward()
    assert embedding.weight.grad.numpy()[:, 0].tolist() == [0, 2, 0, 0]
    with pytest.raises(IndexError, match="id 4"):
        embedding([4])
    with pytest.raises(ValueError, match=r"Embedding: .* padding_idx <= 3, got 4"):
        nn.Embedding(4, 3, padding_idx=4)
    with pytest.raises(ValueError, match=r"0 <= p < 1, got 1"):
        nn.Dropout(1)


def test_activations_take_their_options_by_place_and_no_others() -> None:
    x = ts.tensor([-1.0, 2.0])
    same(nn.LeakyReLU(0.2)(x), F.leaky_relu(x, 0.2))
    same(nn.ELU(0.5)(x), F.elu(x, 0.5))
    same(nn.GELU("tanh")(x), F.gelu(x, "tanh"))
    for wrong, message in ((lambda: nn.ReLU(inplace=True), r"ReLU: expected no options, got inplace=True"),
                           (lambda: nn.Softplus(2.0), r"Softplus: expected no options, got 2.0")):
        with pytest.raises(TypeError, match=message):
            wrong()


class Unknown(nn.Module):
    def forward(self, x: Any) -> Any:
        return x


PARTS = ["Linear", "Dropout", "GELU", "LayerNorm", "RMSNorm", "Sequential", "Unknown"]


@given(st.lists(st.tuples(st.sampled_from(PARTS), st.integers(1, 3), st.integers(1, 3)), max_size=6))
def test_a_sequential_is_refused_exactly_if_it_could_not_run(kinds: Any) -> None:
    """Unless a layer of somebody's own is in it, which may change the width."""
    layers: list[Any] = []
    for kind, a, b in kinds:
        layers.append({"Linear": lambda a=a, b=b: nn.Linear(a, b), "Dropout": nn.Dropout, "GELU": nn.GELU,
                       "LayerNorm": lambda a=a: nn.LayerNorm((2, a)), "RMSNorm": lambda a=a: nn.RMSNorm(a),
                       "Sequential": lambda a=a, b=b: nn.Sequential(nn.Linear(a, b), nn.SiLU()),
                       "Unknown": Unknown}[kind]())

    def runs(width: int) -> bool:
        x = ts.ones((2, width))
        try:
            for layer in layers:
                x = layer(x)
        except ValueError:
            return False
        return True

    known = [layer for layer in layers if not isinstance(layer, Unknown)]
    if any(map(runs, (1, 2, 3))):
        assert len(nn.Sequential(*layers)) == len(layers)
    elif len(known) == len(layers):
        with pytest.raises(ValueError, match=r"Sequential: expected layers\.\d(\.\d)? to take the \d .* takes \d"):
            nn.Sequential(*layers)


def test_a_width_that_is_not_certain_is_not_refused() -> None:
    class Folds(nn.Linear):
        def forward(self, x: Any) -> Any:
            return super().forward(x.reshape((-1, self.in_features)))

    changed = nn.Linear(4, 4)
    changed.forward = lambda x: x[..., :2]  # type: ignore[method-assign]
    model = nn.Sequential(nn.Linear(3, 4), Folds(2, 3), nn.Dropout(), nn.Linear(3, 5), Unknown(), nn.Linear(5, 4),
                          changed, nn.Linear(2, 1))
    assert model(ts.ones((2, 3))).shape == (4, 1)
