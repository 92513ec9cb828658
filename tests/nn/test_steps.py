"""A step is forward of one position more, whatever stands in the model; what cannot step is refused by name."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
import tinyseq.functional as F
from tinyseq import decode, nn

seeds = st.integers(0, 2**32 - 1)
FLOAT = "float64"
BASES: list[dict[str, Any]] = [
    {"positions": "learned", "activation": "gelu_tanh", "max_length": 30},
    {"positions": "rotary", "norm": "rms", "activation": "swiglu", "bias": False, "num_kv_heads": 2},
    {"positions": "sinusoidal", "norm_first": False, "last_norm": True, "tied": False, "out_bias": True},
    {"positions": None, "norm_first": False, "norm": "rms", "layer_norm_eps": None, "num_kv_heads": 1},
    {"positions": "learned", "last_norm": False, "out_bias": True, "activation": "silu"},
]


def close(got: Any, expected: Any) -> None:
    got, expected = (x.detach().numpy() if hasattr(x, "detach") else np.asarray(x) for x in (got, expected))
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-10 * max(1, np.abs(expected).max(initial=0)))


def normal(rng: np.random.Generator, *shape: int) -> Any:
    return rng.standard_normal(shape)


def shaken(module: Any, seed: int = 0) -> Any:
    """The module for use, its parameters such that biases and norms are not 0 and 1."""
    rng = np.random.default_rng(seed)
    for tensor in module.parameters():
        tensor.data = ts.asarray(tensor.detach().numpy() + 0.3 * normal(rng, *tensor.shape)).data
    return module.eval()


# --- what may stand in a model in place of its own -------------------------------------------------------------------


class Identity(nn.Module):
    def forward(self, x: Any) -> Any:
        return x


class Louder(nn.Module):
    def forward(self, x: Any) -> Any:
        return 1.5 * x


class Affine(nn.Linear):
    def forward(self, x: Any) -> Any:
        return 2.0 * super().forward(x) + 1.0


class SquareNorm(nn.LayerNorm):
    def forward(self, x: Any) -> Any:
        return ts.square(super().forward(x))


class Spoken(nn.Embedding):
    def forward(self, ids: Any) -> Any:
        return -super().forward(ids)


class Shouted(nn.Module):
    """An embedding that is none, and has no weight of its own name."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def forward(self, ids: Any) -> Any:
        return 3.0 * self.inner(ids)


class LatePositions(nn.LearnedPositions):
    def forward(self, x: Any, ids: Any = None) -> Any:
        return 2.0 * super().forward(x, ids)


class RampPositions(nn.Module):
    def forward(self, x: Any, ids: Any = None) -> Any:
        ids = ts.asarray(ids).astype(FLOAT)
        return x + ids[..., None]


class Doubled(nn.MultiheadAttention):
    def forward(self, *args: Any, **options: Any) -> Any:
        y, weights = super().forward(*args, **options)
        return 2.0 * y, weights

    def step(self, *args: Any) -> Any:
        return 2.0 * super().step(*args)

    def look(self, *args: Any) -> Any:
        y, weights = super().look(*args)
        return 2.0 * y, weights


def twice(kind: Any) -> Any:
    """A layer that is run, and stepped, as its parent and then added to itself."""
    class Twice(kind):  # type: ignore[misc]
        def forward(self, *args: Any, **options: Any) -> Any:
            return 2.0 * super().forward(*args, **options)

        def step(self, *args: Any) -> Any:
            found = super().step(*args)
            return (2.0 * found[0], found[1]) if isinstance(found, tuple) else 2.0 * found

    return Twice


def of_kind(kind: Any, old: Any, **changes: Any) -> Any:
    """A copy of a module as of another class."""
    new = copy.copy(old)
    new.__class__ = kind
    vars(new).update(changes)
    return new


def linear(*sizes: int) -> Any:
    return nn.Linear(*sizes, dtype=FLOAT)


def patched(module: Any) -> Any:
    inner = type(module).forward
    module.forward = lambda x: -inner(module, x)
    return module


REPLACED: dict[str, Callable[[Any], Any]] = {
    "head with a bias": lambda m: setattr(m, "out", linear(16, 7)),
    "head of a subclass": lambda m: setattr(m, "out", Affine(16, 7, dtype=FLOAT)),
    "head of several layers": lambda m: setattr(m, "out", nn.Sequential(linear(16, 5), nn.Tanh(), linear(5, 7))),
    "head whose forward is its own": lambda m: patched(m.out),
    "last norm of the other kind": lambda m: setattr(m, "norm", nn.RMSNorm(16, 1e-3, dtype=FLOAT)),
    "last norm that learns nothing": lambda m: setattr(m, "norm", nn.LayerNorm(16, elementwise_affine=False)),
    "last norm of a subclass": lambda m: setattr(m, "norm", SquareNorm(16, dtype=FLOAT)),
    "last norm none": lambda m: setattr(m, "norm", None),
    "embedding of a subclass": lambda m: setattr(m, "embedding", Spoken(7, 16, dtype=FLOAT)),
    "embedding of another kind": lambda m: setattr(m, "embedding", Shouted(m.embedding)),
    "embedding whose forward is its own": lambda m: patched(m.embedding),
    "positions of a subclass": lambda m: setattr(m, "positions", LatePositions(20, 16, FLOAT)),
    "positions of another kind": lambda m: setattr(m, "positions", RampPositions()),
    "dropout of another kind": lambda m: setattr(m, "dropout", Louder()),
}
OF_A_LAYER: dict[str, Callable[[Any], Any]] = {
    "norms of a subclass": lambda x: setattr(x, "norm1", SquareNorm(16, dtype=FLOAT)),
    "norms that are none": lambda x: setattr(x, "norm2", Identity()),
    "norms of the other kind": lambda x: setattr(x, "norm2", nn.RMSNorm(16, dtype=FLOAT)),
    "another activation": lambda x: vars(x).update(
        activation=ts.tanh, linear1=linear(16, 24), linear2=linear(24, 16)),
    "an activation that is a module": lambda x: vars(x).update(
        activation=nn.GELU("tanh"), linear1=linear(16, 24), linear2=linear(24, 16)),
    "a wider network": lambda x: vars(x).update(
        linear1=nn.Sequential(linear(16, 8), nn.ReLU(), linear(8, 6)), activation=F.relu,
        linear2=Affine(6, 16, dtype=FLOAT)),
    "dropout of another kind": lambda x: setattr(x, "dropout", Louder()),
    "attention of a subclass": lambda x: setattr(x, "self_attn", of_kind(Doubled, x.self_attn)),
    "another last matrix of attention": lambda x: setattr(x.self_attn, "out_proj", nn.Sequential(
        linear(16, 3), Affine(3, 16, dtype=FLOAT))),
    "memory's attention of a subclass": lambda x: hasattr(x, "multihead_attn") and setattr(
        x, "multihead_attn", of_kind(Doubled, x.multihead_attn)),
    "post-norm": lambda x: setattr(x, "norm_first", not x.norm_first),
    "layers of a subclass": lambda x: setattr(x, "__class__", twice(type(x))),
}


def model(base: dict[str, Any], conditional: bool, replaced: list[str], in_layers: list[str]) -> Any:
    kind = nn.ConditionalLanguageModel if conditional else nn.LanguageModel
    lm = kind(7, 16, 4, 2, 24, dtype=FLOAT, **base)
    for name in replaced:
        REPLACED[name](lm)
    for i, name in enumerate(in_layers):
        OF_A_LAYER[name](lm.layers[i % 2])
    return shaken(lm)


@given(base=st.sampled_from(BASES), conditional=st.booleans(), seed=seeds, batch=st.integers(1, 3),
       ragged=st.booleans(), replaced=st.lists(st.sampled_from([*REPLACED]), max_size=3, unique=True),
       in_layers=st.lists(st.sampled_from([*OF_A_LAYER]), max_size=3, unique=True))
def test_a_step_is_forward_whatever_stands_in_the_model(
    base: dict[str, Any], conditional: bool, seed: int, batch: int, ragged: bool, replaced: list[str],
    in_layers: list[str],
) -> None:
    rng = np.random.default_rng(seed)
    lm = model(base, conditional, replaced, in_layers)
    tokens, read = rng.integers(0, 7, (batch, 7)), 0 if conditional else 4
    lengths = rng.integers(0, read + 1, batch) if ragged else np.full(batch, read)
    if conditional:
        memory = ts.asarray(normal(rng, batch, 5, 16))
        state = lm.start(memory, None, np.arange(5) < rng.integers(1, 6, (batch, 1)) if ragged else None)
        full = lm(tokens, state).detach().numpy()
    else:
        state, full = lm.start(tokens[:, :read], lengths if ragged else None), lm(tokens).detach().numpy()
    rows = np.arange(batch)
    for t in range(3):
        logits, state = lm.step(tokens[rows, lengths + t], state)
        assert not logits.requires_grad
        close(logits, full[rows, lengths + t])
        order = rng.permutation(batch)
        state, tokens, lengths, full = decode.take_rows(state, order), tokens[order], lengths[order], full[order]


def test_prompts_of_a_model_with_other_layers() -> None:
    for base in BASES:
        lm = model(base, False, ["head with a bias", "embedding of another kind"], ["attention of a subclass"])
        prompts = [[1, 2, 3], [4], [5, 6]]
        for prompt, found in zip(prompts, decode.greedy(lm, *lm.prompt(prompts), -1, 4), strict=True):
            tokens = list(prompt)
            for _ in range(4):
                tokens.append(int(lm(np.array([tokens])).detach().numpy()[0, -1].argmax()))
            assert found.tokens == tokens[len(prompt):]


def test_a_step_in_float16_is_forward_too() -> None:
    for base in BASES[:2]:
        lm = nn.LanguageModel(7, 16, 4, 2, 24, dtype="float16", **base).eval()
        tokens = np.array([[1, 2, 3, 4]])
        full, state = lm(tokens).detach().numpy(), lm.start(tokens[:, :1])
        for t in range(1, 4):
            logits, state = lm.step(tokens[:, t], state)
            assert logits.dtype == "float16"
            np.testing.assert_allclose(logits.numpy(), full[:, t], rtol=0, atol=5e-3)


# --- what cannot step ------------------------------------------------------------------------------------------------


class Loud(nn.MultiheadAttention):
    def forward(self, *args: Any, **options: Any) -> Any:
        y, weights = super().forward(*args, **options)
        return 2.0 * y, weights


def forward_alone(kind: Any) -> Any:
    def forward(self: Any, *args: Any, **options: Any) -> Any:
        return 2.0 * kind.forward(self, *args, **options)

    return type("Alone", (kind,), {"forward": forward})


class Stepping(nn.Module):
    def forward(self, x: Any, **options: Any) -> Any:
        return x

    def step(self, x: Any, *args: Any) -> Any:
        return x


class Hearing(nn.Module):
    def __init__(self, width: int, dtype: Any) -> None:
        self.rnn = nn.GRU(width, width, dtype=dtype)

    def forward(self, x: Any) -> Any:
        return self.rnn(x)[0]


NEVER: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a layer of another kind": (lambda m: m.layers.__setitem__(1, linear(16, 16)), r"layers\.1: .* Linear"),
    "a layer without a step": (
        lambda m: setattr(m.layers[1], "__class__", forward_alone(type(m.layers[1]))), r"layers\.1: .* Alone"),
    "a layer whose forward is its own": (lambda m: patched(m.layers[0]), r"layers\.0: "),
    "attention without a step": (
        lambda m: setattr(m.layers[1].self_attn, "__class__", Loud), r"layers\.1\.self_attn: .* Loud"),
    "attention of another kind": (lambda m: setattr(m.layers[0], "self_attn", Identity()), r"layers\.0\.self_attn: "),
    "attention with other parts": (
        lambda m: setattr(m.layers[0].self_attn, "heads", lambda x: x), r"layers\.0\.self_attn: "),
    "no layers": (lambda m: setattr(m, "layers", []), "got none"),
    "a layer of one's own without attention": (
        lambda m: m.layers.__setitem__(0, Stepping()), r"layers\.0: expected a layer with `self_attn`"),
    "a head that looks back": (
        lambda m: setattr(m, "out", nn.Sequential(Hearing(16, FLOAT), nn.Linear(16, 7, dtype=FLOAT))), r"out\.0\.rnn "),
    "an embedding with positions": (
        lambda m: setattr(m, "embedding", nn.Sequential(m.embedding, nn.SinusoidalPositions(16))), r"embedding\.1 "),
    "a head of another dtype": (lambda m: setattr(m, "out", nn.Linear(16, 7)), "out of float64"),
    "a model whose forward is its own": (lambda m: patched(m), "beside its `forward`"),
    "a class whose forward is its own": (
        lambda m: setattr(m, "__class__", forward_alone(type(m))), "beside its `forward`"),
    "other heads": (
        lambda m: setattr(m.layers[1], "self_attn", nn.MultiheadAttention(16, 2, dtype=FLOAT)), r"share a cache, got"),
}


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("name", [*NEVER])
def test_what_cannot_step_is_refused_by_name(conditional: bool, name: str) -> None:
    lm = model(BASES[0], conditional, [], [])
    change, message = NEVER[name]
    change(lm)
    calls = [lambda: lm.start(ts.ones((2, 3, 16), FLOAT))] if conditional else [
        lambda: lm.start([[1, 2]]), lambda: lm.prompt([[1, 2], [3]])]
    for call in calls:
        with pytest.raises((TypeError, ValueError), match=rf"^{type(lm).__name__}: .*{message}"):
            call()


def test_attention_to_a_memory_without_a_look_is_refused() -> None:
    lm = model(BASES[0], True, [], [])
    lm.layers[1].multihead_attn.__class__ = Loud
    with pytest.raises(TypeError, match=r"layers\.1\.multihead_attn: expected a layer with a `look` .*, got Loud"):
        lm.start(ts.ones((2, 3, 16), FLOAT))


@pytest.mark.parametrize("kind", ["TransformerEncoder", "TransformerDecoder", "Transformer"])
def test_a_stack_whose_forward_is_its_own_is_refused(kind: str) -> None:
    model = nn.Transformer(16, 4, 1, 1, 24)
    stack = {"TransformerEncoder": model.encoder, "TransformerDecoder": model.decoder, "Transformer": model}[kind]
    stack.__class__ = forward_alone(type(stack))
    with pytest.raises(TypeError, match=r"Alone: expected a layer with a `(step|read)` beside its `forward`"):
        stack.start(ts.ones((2, 3, 16)))


def test_layers_that_keep_nothing_are_refused() -> None:
    class Deaf(nn.TransformerEncoderLayer):
        def forward(self, src: Any, **options: Any) -> Any:
            return super().forward(src, causal=True)

        def step(self, *args: Any) -> Any:
            return super().step(*args)

    lm = model(BASES[0], False, [], [])
    lm.layers[0].__class__ = Deaf
    with pytest.raises(TypeError, match=r"expected layers\.0 to call `between` once"):
        lm.start([[1, 2]])
    assert lm([[1, 2]]).shape == (1, 2, 7)


# --- stacks of vectors -----------------------------------------------------------------------------------------------

STACKS: list[dict[str, Any]] = [
    {}, {"norm_first": True, "activation": "gelu"}, {"norm": "rms", "layer_norm_eps": None, "num_kv_heads": 2}]


@given(options=st.sampled_from(STACKS), seed=seeds, batch=st.integers(0, 3), seen=st.integers(0, 4),
       ragged=st.sampled_from([None, "mask", "lengths", "both"]))
def test_a_transformer_steps_as_its_full_pass(options: dict[str, Any], seed: int, batch: int, seen: int,
                                              ragged: str | None) -> None:
    rng = np.random.default_rng(seed)
    whole = shaken(nn.Transformer(16, 4, 2, 2, 24, dtype=FLOAT, **options))
    src, tgt = ts.tensor(normal(rng, batch, seen, 16), requires_grad=True), normal(rng, batch, 70, 16)
    real: Any = {}
    if ragged in ("mask", "both"):
        real["mask"] = rng.random((batch, seen)) < 0.7
    if ragged in ("lengths", "both"):
        real["lengths"] = rng.integers(0, seen + 1, batch)
    full, state = whole(src, ts.asarray(tgt), causal=True, **real), whole.start(src, **real)
    read = whole.read(ts.asarray(tgt), state)
    close(read, full)
    if batch and seen:
        sums = [ts.grad(ts.sum(y * y), [src, *whole.parameters()], allow_unused=True) for y in (full, read)]
        for a, b in zip(*sums, strict=True):
            close(b, a)
    expected, first = full.detach().numpy(), state
    for t in range(3 if seed % 4 else 70):
        y, state = whole.step(ts.asarray(tgt[:, t]), state)
        close(y, expected[:, t])
        order = rng.permutation(batch)
        state, tgt, expected = decode.take_rows(state, order), tgt[order], expected[order]
        first = decode.take_rows(first, order)
    with ts.no_grad():
        _, second = whole.step(ts.asarray(tgt[:, 0]), first)
        close(whole.read(ts.asarray(tgt[:, 1:5]), second), expected[:, 1:5])  # goes on where a state stands


@given(options=st.sampled_from(STACKS), seed=seeds, batch=st.integers(1, 3), steps=st.integers(0, 4),
       ragged=st.booleans(), filler=st.sampled_from([0.0, np.nan]))
def test_a_causal_encoder_steps_as_its_full_pass(options: dict[str, Any], seed: int, batch: int, steps: int,
                                                 ragged: bool, filler: float) -> None:
    rng = np.random.default_rng(seed)
    layer = nn.TransformerEncoderLayer(16, 4, 24, dtype=FLOAT, **options)
    stack = shaken(nn.TransformerEncoder(layer, 2, nn.LayerNorm(16, dtype=FLOAT)))
    lengths = rng.integers(0, steps + 1, batch) if ragged else np.full(batch, steps)
    src, rows = normal(rng, batch, steps + 3, 16), np.arange(batch)
    full = stack(ts.asarray(src), causal=True).detach().numpy()
    padded = np.where((np.arange(steps) < lengths[:, None])[..., None], src[:, :steps], filler)
    state = stack.start(ts.asarray(padded), lengths if ragged else None)
    with ts.no_grad():
        read = stack.read(ts.asarray(np.stack([src[i, n : n + 3] for i, n in enumerate(lengths)])), state)
    for t in range(3):
        y, state = stack.step(ts.asarray(src[rows, lengths + t]), state)
        close(y, full[rows, lengths + t])
        close(read[:, t], y)


class Translator(nn.Module):
    """A user's own: what PyTorch's users write around nn.Transformer."""

    def __init__(self, width: int = 16, **options: Any) -> None:
        self.embedding = nn.Embedding(9, width, dtype=FLOAT)
        self.positions = nn.LearnedPositions(40, width, FLOAT)
        self.transformer = nn.Transformer(width, 4, 2, 2, 24, dtype=FLOAT, **options)
        self.out = nn.Linear(width, 9, dtype=FLOAT)

    def start(self, source: Any, lengths: Any = None) -> Any:
        return self.transformer.start(self.positions(self.embedding(source)), lengths=lengths)

    def forward(self, tokens: Any, state: Any) -> Any:
        x = self.positions(self.embedding(tokens), state.length + np.arange(np.shape(tokens)[1]))
        return self.out(self.transformer.read(x, state))

    def step(self, tokens: Any, state: Any) -> Any:
        y, state = self.transformer.step(self.positions(self.embedding(tokens), state.length), state)
        return self.out(y), state


class Slow:
    """The same by the full pass for each token: its state are the tokens so far, and what forward takes."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def step(self, tokens: Any, state: Any) -> Any:
        given, first = state
        given = np.concatenate([given, np.asarray(tokens)[:, None]], 1)
        logits = self.model(given, first)
        return logits[:, -1], (given, first)


@given(options=st.sampled_from(STACKS), seed=seeds, batch=st.integers(1, 3))
def test_a_users_module_decodes_as_its_full_pass(options: dict[str, Any], seed: int, batch: int) -> None:
    rng = np.random.default_rng(seed)
    net = shaken(Translator(**options), seed % 7)
    source, lengths = rng.integers(0, 9, (batch, 5)), rng.integers(1, 6, batch)
    state = net.start(source, lengths)
    slow, start = Slow(net), (np.zeros((batch, 0), int), state)
    for way in (lambda d, s: decode.greedy(d, s, 1, 2, 12), lambda d, s: decode.sample(d, s, 1, 2, 12, seed=seed),
                lambda d, s: [h for row in decode.beam(d, s, 1, 2, 8, width=3, n_best=2) for h in row]):
        for fast, by_hand in zip(way(net, state), way(slow, start), strict=True):
            assert fast.tokens == by_hand.tokens
            close(fast.score, by_hand.score)
    found = decode.greedy(net, state, 1, -1, 6)
    target = np.array([h.tokens for h in found])
    scores = decode.score(net, state, 1, target, align=True)
    close(scores.total, [h.score for h in found])
    close(scores.alignment, np.stack([h.alignment for h in found]))


def test_a_transformer_that_cannot_step_says_so() -> None:
    def decoder(tgt: Any, memory: Any, **options: Any) -> Any:
        return tgt

    class Alone(nn.TransformerDecoder):
        def forward(self, *args: Any, **options: Any) -> Any:
            return 2.0 * super().forward(*args, **options)

    x = ts.ones((2, 3, 8))
    layer = nn.TransformerDecoderLayer(8, 2, 8)
    for custom in (decoder, Alone(layer, 1)):
        whole = nn.Transformer(8, 2, 1, 1, 8, custom_decoder=custom)
        assert whole(x, x).shape == x.shape
        with pytest.raises(TypeError, match=r"^Transformer: custom_decoder: expected a layer with a `step`"):
            whole.start(x)
    whole = nn.Transformer(8, 2, 1, 1, 8, custom_encoder=lambda src, **options: src)
    whole.decoder.layers[0].self_attn.__class__ = Loud
    with pytest.raises(TypeError, match=r"^TransformerDecoder: layers\.0\.self_attn: .* got Loud"):
        whole.start(x)


def test_stacks_refuse_what_is_not_theirs() -> None:
    whole = nn.Transformer(8, 2, 1, 1, 8).eval()
    stack = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 8), 1).eval()
    x = ts.ones((2, 3, 8))
    other = stack.start(x)
    for wrong in (None, 3, "a", other):
        for call in (whole.step, whole.read):
            with pytest.raises((TypeError, ValueError), match="TransformerDecoder: expected a state that its own"):
                call(x[:, 0], wrong)
    for wrong in (3, "a", x[:, 0].astype("float64"), x[:1, 0], x, np.ones(2)):
        with pytest.raises((TypeError, ValueError), match=r"TransformerEncoder: expected x \(2, E\) of float32"):
            stack.step(wrong, other)
    for wrong in (3, None, x[:, 0], x[:1], x.astype("float64")):
        with ts.no_grad(), pytest.raises((TypeError, ValueError), match=r"expected x \(2, T, E\) of float32"):
            stack.read(wrong, other)
    with pytest.raises(RuntimeError, match="no gradient reaches what a state has read"):
        stack.read(x, other)
    for wrong in (3, x[0]):
        with pytest.raises((TypeError, ValueError), match=r"expected (src|memory)"):
            stack.start(wrong)
        with pytest.raises((TypeError, ValueError), match=r"expected (src|memory)"):
            whole.start(wrong)


# --- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [nn.LanguageModel, nn.ConditionalLanguageModel])
def test_a_last_norm_and_a_bias_of_the_logits_are_options(kind: Any) -> None:
    names = [set(kind(7, 8, 2, 1, 8, **options).state_dict()) for options in (
        {}, {"norm_first": False}, {"norm_first": False, "last_norm": True, "out_bias": True}, {"last_norm": False})]
    norm = {"norm.weight", "norm.bias"}
    assert norm <= names[0] and not norm & names[1] and names[2] == names[0] | {"out.bias"}
    assert names[3] == names[0] - norm
    tied = kind(7, 8, 2, 1, 8, out_bias=True)
    assert tied.out.weight is tied.embedding.weight and tied.out.bias.shape == (7,)


# --- PyTorch ---------------------------------------------------------------------------------------------------------


@pytest.mark.reference
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("seed", range(3))
def test_pytorchs_own_encoder_decoder_is_decoded_token_for_token(seed: int) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(seed)

    class Theirs(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.positions = torch.nn.Embedding(9, 16), torch.nn.Embedding(40, 16)
            self.transformer = torch.nn.Transformer(16, 4, 2, 2, 24, batch_first=True)
            self.out = torch.nn.Linear(16, 9)

        def forward(self, source: Any, tokens: Any, padding: Any) -> Any:
            src, tgt = (self.embedding(x) + self.positions(torch.arange(x.shape[1])) for x in (source, tokens))
            hidden = torch.nn.Transformer.generate_square_subsequent_mask(tokens.shape[1], dtype=torch.float64) < 0
            return self.out(self.transformer(src, tgt, tgt_mask=hidden, src_key_padding_mask=padding,
                                             memory_key_padding_mask=padding))

    theirs = Theirs().double().eval()
    ours = Translator()
    ours.load_state_dict(theirs.state_dict())
    ours.eval()
    rng = np.random.default_rng(seed)
    source, lengths = rng.integers(0, 9, (4, 6)), np.array([6, 3, 1, 5])
    state = ours.start(source, lengths)
    found = decode.greedy(ours, state, 1, -1, 30)
    tokens = torch.ones(4, 1, dtype=torch.long)
    with torch.no_grad():
        for _ in range(30):
            logits = theirs(torch.tensor(source), tokens, torch.tensor(np.arange(6) >= lengths[:, None]))
            tokens = torch.cat([tokens, logits[:, -1:].argmax(-1)], 1)
    assert [h.tokens for h in found] == tokens[:, 1:].tolist()
    close(ours(tokens[:, :-1].numpy(), state), logits.numpy())
