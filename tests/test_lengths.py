"""Laws of all that takes lengths or ids: integers of any width say the same, and the padding is not looked at."""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import tinyseq as ts
from tinyseq import data, decode, lens, nn
from tinyseq import functional as F
from tinyseq.engine.debug import flat

STEPS, WIDE, CLASSES = 150, 4, 130     # more of them than an int8 counts to
RNG = np.random.default_rng(0)
LENGTHS, IDS = np.array([127, 0, 100]), np.array([[0, 1, 100], [100, 127, 0]])
STEP_IDS = RNG.integers(0, 128, (3, STEPS))
NAMES = {"ids", "indices", "lengths", "input_lengths", "target_lengths", "memory_lengths", "tgt_lengths", "targets",
         "tags", "tokens", "source", "target", "start", "end", "max_length", "padding_idx", "ignore_index"}
Call = Callable[[Callable[[Any], Any]], Any]     # given `i`, which makes integers of a dtype, what is to be the same


def numbers(*shape: int) -> Any:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype("float32")


def made(make: Callable[[], Any]) -> Any:
    ts.manual_seed(0)
    return make()


def trained(call: Callable[[Any], Any], layer: Any, *shape: Any) -> list[Any]:
    """What `call` makes of an array, or of numbers of some shape, and the gradients of all that has one."""
    x = ts.tensor(shape[0] if isinstance(shape[0], np.ndarray) else numbers(*shape), requires_grad=True)
    outputs = [y for y in flat(call(x)) if isinstance(y, ts.Tensor)]
    leaves = [x, *(layer.parameters() if layer else ())]
    found = ts.grad(sum((ts.sum(ts.square(y)) for y in outputs), ts.zeros(())), leaves, allow_unused=True)
    return [y.detach() for y in outputs] + [ts.zeros(()) if g is None else g for g in found]


def through(make: Callable[[], Any], **arguments: Any) -> Call:
    """A sequence layer, whose integer arguments are by name."""
    def call(i: Any) -> Any:
        layer = made(make)
        return trained(lambda x: layer(x, **{k: i(v) for k, v in arguments.items()}), layer, 3, STEPS, WIDE)

    return call


def attending(i: Any, name: str = "lengths") -> Any:
    layer = made(lambda: nn.TransformerDecoderLayer(WIDE, 2, 8, dropout=0.0))
    memory = ts.tensor(numbers(3, STEPS, WIDE))
    return trained(lambda x: layer(x, memory, **{name: i(LENGTHS)}), layer, 3, STEPS, WIDE)


def decoder() -> Any:
    return nn.AttentionDecoder(CLASSES, 3, 4, nn.DotAttention(4, 4), memory_size=4)


def translate(i: Any, then: Callable[[Any, Any], Any]) -> Any:
    model = made(lambda: nn.EncoderDecoder(nn.Embedding(CLASSES, WIDE), nn.GRU(WIDE, 4), decoder()))
    return then(model, model.encode(i(STEP_IDS), i(LENGTHS)))


def language(i: Any, positions: str | None, then: Callable[[Any], Any]) -> Any:
    return then(made(lambda: nn.LanguageModel(CLASSES, WIDE, 2, 1, 8, dropout=0.0, positions=positions)))


def reading(model: Any, i: Any) -> Any:
    state = model.start(i(STEP_IDS), i(LENGTHS))
    return model(i(STEP_IDS)), *model.step(i(STEP_IDS[:, 0]), state)[:1]


def found(rows: list[Any]) -> list[Any]:
    each = [h for row in rows for h in (row if isinstance(row, list) else [row])]
    return [np.array([*h.tokens, h.score]) for h in each]


LAYERS: dict[str, Callable[[], Any]] = {
    "RNN": lambda: nn.RNN(WIDE, 3, bidirectional=True), "GRU": lambda: nn.GRU(WIDE, 3, 2),
    "MinGRU": lambda: nn.MinGRU(WIDE, 3, bidirectional=True), "MinLSTM": lambda: nn.MinLSTM(WIDE, 3),
    "LRU": lambda: nn.LRU(WIDE, 3, bidirectional=True), "LSTM": lambda: nn.LSTM(WIDE, 3),
    "Scan": lambda: nn.Scan(nn.GRUCell, WIDE, 3),
    "LSTM, projected": lambda: nn.LSTM(WIDE, 3, proj_size=2),
    "Conv1d": lambda: nn.Conv1d(WIDE, 3, 3, padding="same"),
    "Conv1d, causal": lambda: nn.Conv1d(WIDE, 3, 3, causal=True),
    "Conv1d, reflect": lambda: nn.Conv1d(WIDE, 3, 3, padding=1, padding_mode="reflect"),
    "MaxPool1d": lambda: nn.MaxPool1d(3, 1, 1), "AvgPool1d": lambda: nn.AvgPool1d(3, 1, 1, count_include_pad=False),
    "BatchNorm1d": lambda: nn.BatchNorm1d(WIDE), "GroupNorm": lambda: nn.GroupNorm(2, WIDE),
    "TransformerEncoderLayer": lambda: nn.TransformerEncoderLayer(WIDE, 2, 8, 0.0),
    "TransformerEncoder": lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(WIDE, 2, 8, 0.0), 1),
}
ROWS: dict[str, Call] = {
    **{name: through(make, lengths=LENGTHS) for name, make in LAYERS.items()},
    "MultiheadAttention": lambda i: trained(lambda x: made(lambda: nn.MultiheadAttention(WIDE, 2))(x, x, x, lengths=i(
        LENGTHS))[0], None, 3, STEPS, WIDE),
    "TransformerDecoderLayer": lambda i: attending(i) + attending(i, "memory_lengths"),
    "TransformerDecoder": lambda i: trained(lambda x: made(lambda: nn.TransformerDecoder(nn.TransformerDecoderLayer(
        WIDE, 2, 8, 0.0), 1))(x, x, lengths=i(LENGTHS), memory_lengths=i(LENGTHS)), None, 3, STEPS, WIDE),
    "Transformer": lambda i: trained(lambda x: made(lambda: nn.Transformer(WIDE, 2, 1, 1, 8, 0.0))(
        x, x, lengths=i(LENGTHS), tgt_lengths=i(LENGTHS)), None, 3, STEPS, WIDE),
    "EmbeddingBag": lambda i: trained(lambda x: made(lambda: nn.EmbeddingBag(CLASSES, 2, padding_idx=i(100)))(
        i(IDS), lengths=i([3, 1])) * x[0, 0], None, 2, 2),
    **{name: lambda i, name=name: trained(lambda x: getattr(nn, name)(ignore_index=i(127))(
        F.log_softmax(x), i(IDS)), None, 2, 3, CLASSES) for name in ("CrossEntropyLoss", "NLLLoss")},
    "length_mask": lambda i: nn.length_mask(i(LENGTHS), STEPS),
    "scan": lambda i: trained(lambda x: F.scan(
        "rnn_tanh", x, ts.zeros((3, 2)), None, ts.ones((2, WIDE)), ts.ones((2, 2)), lengths=i(LENGTHS), reverse=True),
        None, 3, STEPS, WIDE),
    "linear_scan": lambda i: trained(lambda x: F.linear_scan(
        ts.sigmoid(x), x, lengths=i(LENGTHS), reverse=True), None, 3, STEPS, WIDE),
    "unroll": lambda i: trained(lambda x: F.unroll(
        lambda x, s: (x + s[0],), x, (ts.zeros((3, WIDE)),), i(LENGTHS)), None, 3, STEPS, WIDE),
    "CTCLoss": lambda i: trained(lambda x: nn.CTCLoss(i(0), "none")(F.log_softmax(x), i([[1, 2, 3] * 40] * 3), i(
        [127, 125, 0]), i([100, 120, 0])), None, 3, STEPS, WIDE),
    "CRF": lambda i: trained(lambda x: made(lambda: nn.CRF(WIDE))(
        x, i(STEP_IDS % WIDE), i(LENGTHS)), None, 3, STEPS, WIDE),
    "CRF.decode": lambda i: [np.array(row) for row in made(lambda: nn.CRF(WIDE)).decode(
        numbers(3, STEPS, WIDE), i(LENGTHS))],
    "embedding": lambda i: trained(lambda x: F.embedding(i(IDS), x, i(100)), None, CLASSES, WIDE),
    "Embedding": lambda i: trained(lambda x: made(lambda: nn.Embedding(CLASSES, 2, i(100)))(
        i(IDS)) * x[0, 0], None, 2, 2),
    "one_hot": lambda i: ts.one_hot(i(IDS), CLASSES),
    "take": lambda i: trained(lambda x: ts.take(x, i(IDS), i(1)), None, 2, CLASSES),
    "take_along_axis": lambda i: trained(lambda x: ts.take_along_axis(x, i(IDS), i(1)), None, 2, CLASSES),
    "index_add": lambda i: trained(lambda x: ts.index_add(x, 0, i(IDS[0]), ts.ones((3, 2))), None, CLASSES, 2),
    "getitem": lambda i: trained(lambda x: (x[i(IDS)], x[:, i(IDS)], x[i(100)]), None, CLASSES, CLASSES),
    **{name: lambda i, name=name: trained(lambda x: getattr(F, name)(
        F.log_softmax(x), i(IDS), ignore_index=i(127)), None, 2, 3, CLASSES) for name in ("cross_entropy", "nll_loss")},
    "LearnedPositions": lambda i: made(lambda: nn.LearnedPositions(i(127), 3))(ts.zeros((2, 3, 3)), i(IDS % 127)),
    "SinusoidalPositions": lambda i: nn.SinusoidalPositions(4)(ts.zeros((2, 3, 4)), i(IDS)),
    "RotaryPositions": lambda i: nn.RotaryPositions(4).angles(ts.zeros((2, 3, 4)), i(IDS)),
    **{f"LanguageModel, {p}": lambda i, p=p: language(i, p, lambda model: reading(model, i))
       for p in ("learned", "sinusoidal", "rotary", None)},
    "AttentionDecoder": lambda i: translate(i, lambda model, state: model.decoder(i(STEP_IDS[:, :5]), state)),
    "EncoderDecoder": lambda i: made(lambda: translate(i, lambda model, _: model(i(STEP_IDS), i(LENGTHS), i(
        STEP_IDS[:, :9]), sampling=0.5))),
    "score": lambda i: translate(i, lambda model, state: [s.detach() for s in decode.score(
        model.decoder, state, i(0), i(STEP_IDS), i(LENGTHS)) if s is not None]),
    **{name: lambda i, name=name: translate(i, lambda model, state: found(getattr(decode, name)(
        model.decoder, state, i(0), i(1), i(7)))) for name in ("greedy", "beam")},
    "sample": lambda i: translate(i, lambda model, state: found(decode.sample(
        model.decoder, state, i(0), i(1), i(7), top_k=i(100), seed=i(3)))),
    "retained": lambda i: [lens.retained(made(lambda: nn.GRU(WIDE, 3)), numbers(3, STEPS, WIDE), i(LENGTHS))],
    "gate_saturation": lambda i: list(lens.gate_saturation(made(lambda: nn.GRU(WIDE, 3)), numbers(3, STEPS, WIDE), i(
        LENGTHS)).values()),
    "gradients_through_time": lambda i: lens.gradients_through_time(
        made(lambda: nn.GRU(WIDE, 3)), numbers(3, STEPS, WIDE), lambda y: ts.sum(y), i(LENGTHS)),
    "batches": lambda i: data.batches(i(LENGTHS), i(2), i(1)),
    "Vocabulary.decode": lambda i: [np.array(data.Vocabulary("ab").decode(i([0, 3, 1, 4, 2, 3])))],
    "pad": lambda i: data.pad([i([1, 127]), i([3])]),
}


def hosted(result: Any) -> list[Any]:
    return [x.detach().numpy() if isinstance(x, ts.Tensor) else np.asarray(x) for x in (
        result if isinstance(result, (list, tuple)) else [result])]


@pytest.mark.parametrize("name", ROWS)
def test_integers_of_every_width_say_the_same(name: str) -> None:
    expected = hosted(ROWS[name](lambda v: np.asarray(v, np.int64)[()]))
    for dtype in ("int8", "int16", "int32", "uint8", "uint16", "uint32", "uint64"):
        tensor = lambda a: ts.asarray(a) if a.ndim and name not in ("batches", "pad") else a
        for kind in (np.asarray, tensor):
            got = hosted(ROWS[name](lambda v, kind=kind, dtype=dtype: kind(np.asarray(v, dtype))[()]))
            for x, y in zip(got, expected, strict=True):
                np.testing.assert_array_equal(x, y, dtype)


def test_all_that_takes_lengths_or_ids_has_a_row() -> None:
    called = {row.partition(",")[0].partition(".")[0] for row in ROWS}
    for module in (F, nn, decode, data, lens):
        for name, f in vars(module).items():
            if name.startswith("_") or not getattr(f, "__module__", "").startswith(module.__name__):
                continue
            methods = vars(f).items() if inspect.isclass(f) else [("", f)]
            arguments = {a for key, m in methods if inspect.isfunction(m) and (key[:1] != "_" or key == "__init__")
                         for a in inspect.signature(m).parameters}
            assert not arguments & NAMES or name in called or name in NOT_INTEGERS, (name, arguments & NAMES)


NOT_INTEGERS = {"mse_loss", "l1_loss", "huber_loss", "smooth_l1_loss", "binary_cross_entropy", "kl_div",
                "binary_cross_entropy_with_logits", "stream", "Module", "items", "pairs", "Tokenizer",
                "Stream", "MSELoss", "L1Loss", "HuberLoss", "SmoothL1Loss", "BCELoss", "BCEWithLogitsLoss", "KLDivLoss"}


# --- what stands in the padding ------------------------------------------------------------------------------------


def padded(fill: float) -> Any:
    """(3, 6, WIDE) with `fill` past the lengths SOME."""
    x = numbers(3, 6, WIDE)
    x[np.arange(6) >= SOME[:, None]] = fill
    return x


SOME = np.array([4, 0, 6])
Filled = Callable[[Any, Any], Any]     # (layer, x with anything in its padding) -> what is not to notice
LOOKING: dict[str, tuple[Callable[[], Any], Filled]] = {
    **{name: (make, lambda layer, x: layer(x, lengths=SOME)) for name, make in LAYERS.items()},
    "CRF": (lambda: nn.CRF(WIDE), lambda crf, x: crf(x, STEP_IDS[:, :6] % WIDE, SOME)),
    "CTCLoss": (lambda: None, lambda _, x: nn.CTCLoss()(x, [[1, 2]] * 3, SOME, [2, 0, 2])),
    "cross_entropy": (lambda: None, lambda _, x: F.cross_entropy(x, np.where(np.arange(6) < SOME[:, None], 1, -100))),
    "nll_loss": (lambda: None, lambda _, x: F.nll_loss(x, np.where(np.arange(6) < SOME[:, None], 1, -100))),
    "MultiheadAttention": (lambda: nn.MultiheadAttention(WIDE, 2), lambda layer, x: layer(
        ts.tensor(numbers(3, 2, WIDE)), x, x, lengths=SOME)[0]),
    "TransformerDecoderLayer": (lambda: nn.TransformerDecoderLayer(WIDE, 2, 8, 0.0), lambda layer, x: layer(
        ts.tensor(numbers(3, 2, WIDE)), x, memory_lengths=SOME)),
    "Transformer": (lambda: nn.Transformer(WIDE, 2, 1, 1, 8, 0.0), lambda layer, x: layer(
        x, x, lengths=SOME, tgt_lengths=SOME)),
    **{name: (make, lambda layer, x: layer(ts.tensor(numbers(3, 2, WIDE)), x, nn.length_mask(SOME, 6))[0])
       for name, make in {
           "DotAttention": lambda: nn.DotAttention(WIDE, WIDE),
           "AdditiveAttention": lambda: nn.AdditiveAttention(WIDE, WIDE, 3),
           "MultiheadContext": lambda: nn.MultiheadContext(WIDE, WIDE, 2),
           **{f"FixedContext, {pool}": lambda pool=pool: nn.FixedContext(WIDE, pool)
              for pool in ("last", "both", "mean", "max")}}.items()},
    "AttentionDecoder": (decoder, lambda layer, x: layer([[1, 2]] * 3, layer.start(x, None, nn.length_mask(SOME, 6)))),
    "unroll": (lambda: None, lambda _, x: F.unroll(lambda x, s: (x * s[0],), x, (ts.ones((3, WIDE)),), SOME)),
}


@pytest.mark.parametrize("fill", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", LOOKING)
def test_nothing_in_the_padding_is_looked_at(name: str, fill: float) -> None:
    make, call = LOOKING[name]

    def results(fill: float) -> list[Any]:
        layer = made(make)
        return hosted(trained(lambda x: call(layer, x), layer, padded(fill)))

    with np.errstate(invalid="ignore"):  # inf - inf in an ignored row of cross-entropy
        found = results(fill)
    for x, y in zip(found, results(0.0), strict=True):
        np.testing.assert_array_equal(x, y)
        assert np.isfinite(y).all()


def test_all_layers_with_lengths_are_looked_at() -> None:
    layers = {name for name, f in vars(nn).items() if inspect.isclass(f) and issubclass(f, nn.Module) and any(
        a in inspect.signature(f.forward).parameters for a in ("lengths", "input_lengths", "memory_lengths"))}
    ids = {"EncoderDecoder", "EmbeddingBag", "LanguageModel", "ConditionalLanguageModel"}  # NaN is none
    assert layers - ids <= {name.partition(",")[0] for name in LOOKING}
