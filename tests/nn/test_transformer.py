"""Transformers: PyTorch's weights, outputs and gradients; padding, rows and the future change nothing."""

import inspect
from typing import Any

import numpy as np
import pytest
from helpers.layers import SIZES, close, dtypes, judge_real, normal, seeds, torch_mask
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
from tinyseq import nn


@pytest.mark.reference
@given(dtype=dtypes, bias=st.booleans(), norm_first=st.booleans(), activation=st.sampled_from(["relu", "gelu"]),
       cross=st.booleans(), training=st.booleans(), padded=st.booleans(), causal=st.booleans(), sizes=SIZES, seed=seeds)
def test_layers_and_stacks_are_torchs(dtype: str, bias: bool, norm_first: bool, activation: str, cross: bool,
                                      training: bool, padded: bool, causal: bool, sizes: Any, seed: int) -> None:
    torch = pytest.importorskip("torch")
    batch, steps, seen = sizes
    rng = np.random.default_rng(seed)
    name, kind = ("Decoder" if cross else "Encoder"), getattr(torch, dtype)
    options: dict[str, Any] = {"dim_feedforward": 6, "dropout": 0.0, "activation": activation, "layer_norm_eps": 0.01,
                               "norm_first": norm_first, "bias": bias}

    def stack(library: Any, dtype: Any, **more: Any) -> Any:
        layer = getattr(library, f"Transformer{name}Layer")(8, 2, batch_first=True, dtype=dtype, **options)
        norm = library.LayerNorm(8, dtype=dtype)
        return getattr(library, f"Transformer{name}")(layer, 2, norm, **more).train(training)

    lengths = rng.integers(1, steps + 1, batch)
    memory_lengths = rng.integers(1, seen + 1, batch)
    ours, torchs = {"causal": causal}, {}
    if causal:
        torchs["tgt_mask" if cross else "mask"] = torch.triu(torch.ones(steps, steps, dtype=torch.bool), 1)
    if padded:
        ours["lengths"] = lengths
        torchs["tgt_key_padding_mask" if cross else "src_key_padding_mask"] = torch_mask(lengths, steps)
    if padded and cross:
        ours["memory_lengths"], torchs["memory_key_padding_mask"] = memory_lengths, torch_mask(memory_lengths, seen)
    inputs = [normal(rng, batch, n, 8, dtype=dtype) for n in (steps, seen)[: 1 + cross]]
    theirs = stack(torch.nn, kind, **({} if cross else {"enable_nested_tensor": False}))
    mine = stack(nn, dtype)
    judge_real(mine, theirs, inputs, ours, torchs, np.arange(steps) < lengths[:, None] if padded else None)
    if padded:
        y = mine(*[ts.asarray(x) for x in inputs], **ours).detach().numpy()
        assert not y[np.arange(steps) >= lengths[:, None]].any()


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@given(dtype=dtypes, norm_first=st.booleans(), sizes=SIZES, seed=seeds)
def test_transformer_is_torchs(dtype: str, norm_first: bool, sizes: Any, seed: int) -> None:
    torch = pytest.importorskip("torch")
    batch, steps, seen = sizes
    rng = np.random.default_rng(seed)
    options: dict[str, Any] = {"dim_feedforward": 6, "dropout": 0.0, "layer_norm_eps": 0.01, "norm_first": norm_first,
                               "batch_first": True}
    lengths = rng.integers(1, seen + 1, batch)
    inputs = [normal(rng, batch, n, 8, dtype=dtype) for n in (seen, steps)]
    hidden = torch_mask(lengths, seen)
    judge_real(nn.Transformer(8, 2, 1, 2, dtype=dtype, **options),
          torch.nn.Transformer(8, 2, 1, 2, dtype=getattr(torch, dtype), **options), inputs,
          {"lengths": lengths, "causal": True},
          {"src_key_padding_mask": hidden, "memory_key_padding_mask": hidden,
           "tgt_mask": torch.triu(torch.ones(steps, steps, dtype=torch.bool), 1)})


@pytest.mark.reference
@pytest.mark.parametrize("name", ["MultiheadAttention", "TransformerEncoderLayer", "TransformerDecoderLayer",
                                  "TransformerEncoder", "TransformerDecoder", "Transformer"])
def test_arguments_are_torchs_in_their_order(name: str) -> None:
    torch = pytest.importorskip("torch")
    ours, theirs = (inspect.signature(getattr(library, name)).parameters for library in (nn, torch.nn))
    options = inspect.signature(nn.TransformerEncoderLayer).parameters if "options" in ours else {}
    positional = [key for key, p in ours.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == list(theirs)[: len(positional)] and set(theirs) <= {*ours, *options}
    same = set(theirs) - {"activation", "batch_first", "dtype"}
    assert all({**options, **ours}[key].default == theirs[key].default for key in same)


def test_stacks_take_what_torchs_take() -> None:
    x = ts.asarray(normal(np.random.default_rng(0), 2, 3, 8, dtype="float32"))
    layer = nn.TransformerDecoderLayer(8, 2, 6, 0.0)
    decoder = nn.TransformerDecoder(decoder_layer=layer, num_layers=1)
    close(decoder(tgt=x, memory=x, causal=True), layer(x, x, causal=True))
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 6, 0.0), 1, enable_nested_tensor=False)
    model = nn.Transformer(8, 2, custom_encoder=encoder, custom_decoder=decoder)
    assert (model.encoder, model.decoder) == (encoder, decoder)
    close(model(x, x, lengths=[3, 1], causal=True), decoder(x, encoder(x, lengths=[3, 1]), memory_lengths=[3, 1],
                                                            causal=True))


@given(cross=st.booleans(), sizes=SIZES, seed=seeds)
def test_padding_rows_and_future_change_nothing(cross: bool, sizes: Any, seed: int) -> None:
    batch, steps, seen = sizes
    rng = np.random.default_rng(seed)
    layer: Any = (nn.TransformerDecoderLayer if cross else nn.TransformerEncoderLayer)(8, 2, 6, dtype="float64").eval()
    lengths, memory_lengths = rng.integers(0, steps + 1, batch), rng.integers(0, seen + 1, batch)
    x, memory = normal(rng, batch, steps, 8), normal(rng, batch, seen, 8)

    def run(x: Any, memory: Any, rows: Any = slice(None)) -> Any:
        more = {"memory_lengths": memory_lengths[rows]} if cross else {}
        return layer(*[ts.asarray(a[rows]) for a in (x, memory)][: 1 + cross], lengths=lengths[rows], causal=True,
                     **more).detach().numpy()

    y = run(x, memory)
    other, garbage = x.copy(), memory.copy()
    other[np.arange(steps) >= lengths[:, None]], garbage[np.arange(seen) >= memory_lengths[:, None]] = 7, -7
    close(run(other, garbage), y)
    longer = [np.concatenate([a, np.ones_like(a)], 1) for a in (x, memory)]
    close(run(*longer)[:, :steps], y)
    for i in range(batch):
        close(run(x, memory, slice(i, i + 1)), y[i : i + 1])
    order = rng.permutation(batch)
    close(run(x, memory, order), y[order])
    other[np.arange(steps) >= lengths[:, None]], garbage[np.arange(seen) >= memory_lengths[:, None]] = np.nan, np.nan
    close(run(other, garbage), y)
    changed = x.copy()
    changed[:, -1] += 1  # the last position is nobody's past
    close(run(changed, memory)[:, :-1], y[:, :-1])


def test_dropout_falls_where_it_should() -> None:
    x = ts.asarray(normal(np.random.default_rng(0), 2, 3, 8))
    layer = nn.TransformerDecoderLayer(8, 2, 6, dropout=0.5, dtype="float64")
    runs = []
    for seed in (0, 0, 1):
        ts.manual_seed(seed)
        runs.append(layer(x, x).detach().numpy())
    assert np.array_equal(runs[0], runs[1]) and not np.array_equal(runs[0], runs[2])
    ts.manual_seed(0)
    layer(x, x)  # of both attentions' weights, after both, in the feed-forward and after it
    assert ts.random.get_state() == (0, 6)
    layer.eval()
    close(layer(x, x), layer(x, x))
    assert ts.random.get_state() == (0, 6)


@given(seed=seeds, where=st.sampled_from(["encoder", "decoder", "conditional", "whole"]),
       bad=st.sampled_from([np.nan, np.inf, 1e4]))
def test_padding_may_be_nan_in_values_and_gradients(seed: int, where: str, bad: float) -> None:
    """By lengths and, of a memory, by masks: what zeros there give, of every weight too."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 4, 2)
    hidden = np.arange(3) >= lengths[:, None]
    ts.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 8, 0.0, dtype="float64", norm_first=bool(seed % 2))
    stack = nn.TransformerEncoder(layer, 1, nn.LayerNorm(8, dtype="float64"))
    whole = nn.Transformer(8, 2, 1, 1, 8, 0.0, dtype="float64")
    crossing = nn.TransformerDecoderLayer(8, 2, 8, 0.0, dtype="float64")
    lm = nn.ConditionalLanguageModel(11, 8, 2, 1, 8, 0.0, dtype="float64")
    found = []
    for filler in (0.0, bad):
        values = np.where(hidden[..., None], filler, normal(np.random.default_rng(seed), 2, 3, 8))
        x = ts.tensor(values, requires_grad=True)
        plain = ts.tensor(normal(np.random.default_rng(1), 2, 4, 8))
        for module in (stack, crossing, lm, whole):
            module.zero_grad()
        y = (stack(x, lengths=lengths) if where == "encoder" else crossing(plain, x, memory_mask=~hidden)
             if where == "decoder" else whole(x, plain, mask=~hidden) if where == "whole" else
             lm([[1, 2], [3, 4]], lm.start(x, mask=~hidden)))
        ts.sum(y * y).backward()
        module = {"encoder": stack, "decoder": crossing, "conditional": lm, "whole": whole}[where]
        found.append([y, x.grad, *(p.grad for p in module.parameters() if p.grad is not None)])
    for zero, other in zip(*found, strict=True):
        close(other, zero)


def test_an_activation_of_pytorchs_is_refused_when_the_layer_is_made() -> None:
    theirs: Any = lambda x: x
    theirs.__module__ = "torch.nn.functional"
    for make in (nn.TransformerEncoderLayer, nn.Transformer):
        with pytest.raises(ValueError, match=r"activation to be one of relu, .*of torch$"):
            make(8, 2, activation=theirs)
