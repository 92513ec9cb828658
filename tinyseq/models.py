"""Released architectures, built from the layers here, and the names that their checkpoints give to the parameters.

    model = models.load("all-MiniLM-L6-v2")         # a folder with config.json and weights, as model hubs hold them

A configuration says what transformers 5.24 reads in it; what would change a number and is not computed here is refused.
Each family is a row of `ARCHITECTURES`: what its configuration and its tensors are called, and what its layers have.
docs/models.md says what was tried.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from tinyseq import check, checkpoint
from tinyseq.engine import ops
from tinyseq.engine.tensor import Like, Tensor
from tinyseq.nn import init
from tinyseq.nn.language import LanguageModel
from tinyseq.nn.layers import GELU, Dropout, Embedding, LayerNorm, Linear, ReLU, RMSNorm, Sequential, Tanh
from tinyseq.nn.masks import cut_padding
from tinyseq.nn.module import Module, matching
from tinyseq.nn.multihead import MultiheadAttention
from tinyseq.nn.positions import LearnedPositions
from tinyseq.nn.rotary import LONGEST, RotaryPositions
from tinyseq.nn.steps import LanguageState, gelu_tanh
from tinyseq.nn.transformer import TransformerEncoder, TransformerEncoderLayer, checked_sizes

__all__ = ["ACTIVATIONS", "ARCHITECTURES", "BERT", "GPT2", "LLAMA", "Architecture", "Bert", "Classifier", "Headless",
           "load"]
check.public(__name__)

Config = Mapping[str, Any]
Rules = Mapping[str | tuple[str, ...], str | None]
_Rules = dict[str | tuple[str, ...], str | None]
_HEADS = "ForCausalLM|LMHead|DoubleHeads"     # in the names of architectures with a language model's last layer

# Whatever has weights, and its axes: sizes that are arguments of the module, or come of them.
_TABLES = {"embedding.": "vocab_size embedded", "positions.": "max_length embedded", "types.": "segments embedded",
           "bias.": "buckets nhead", "out.": "vocab_size d_model"}     # without a bias
_ENDS = {"norm.": "embedded", "project.": "d_model embedded", "pooler.": "d_model d_model"}
_LAYER = {
    "self_attn.in_proj_": "projected d_model", "self_attn.out_proj.": "d_model attended",
    "self_attn.out_proj.0.": "d_model attended", "self_attn.out_proj.1.": "d_model", "self_attn.q_norm.": "queries",
    "self_attn.k_norm.": "keys", "linear1.": "hidden d_model", "linear2.": "d_model dim_feedforward",
    "linear2.0.": "d_model dim_feedforward", "linear2.1.": "d_model", "norm1.": "d_model", "norm2.": "d_model"}
_AXES = _TABLES | _ENDS | _LAYER
_ANY = {"{}": "{}"}


def _rules(
    parts: Mapping[str, str], theirs: str, ours: str, norms: Mapping[str, str] = _ANY,
    matrices: Mapping[str, str] = _ANY,
) -> dict[str | tuple[str, ...], str | None]:
    """Names of the parts here and there, those in layers behind `ours` and `theirs`, with what stands at the end,
    "weight" there and here, where it is another for `norms` and the `matrices` in layers."""
    rules: dict[str | tuple[str, ...], str | None] = {}
    for part, names in parts.items():
        before, after = (theirs, ours) if part in _LAYER else ("", "")
        ends = norms if " " not in _AXES[part] else matrices if before else _ANY
        for old, new in ends.items():
            rules[tuple(f"{before}{name}{old}" for name in names.split())] = f"{after}{part}{new}"
    return rules


# What BERT, GPT-2, Llama, and those that came after them, call the parts; several names where it is made of several.
_BERT = {
    "embedding.": "embeddings.word_embeddings.", "positions.": "embeddings.position_embeddings.",
    "types.": "embeddings.token_type_embeddings.", "norm.": "embeddings.LayerNorm.", "pooler.": "pooler.dense.",
    "self_attn.in_proj_": "attention.self.query. attention.self.key. attention.self.value.",
    "self_attn.out_proj.": "attention.output.dense.", "norm1.": "attention.output.LayerNorm.",
    "linear1.": "intermediate.dense.", "linear2.": "output.dense.", "norm2.": "output.LayerNorm."}
_DISTILBERT = {part: name for part, name in _BERT.items() if part not in ("types.", "pooler.")} | {
    "self_attn.in_proj_": "attention.q_lin. attention.k_lin. attention.v_lin.",
    "self_attn.out_proj.": "attention.out_lin.", "norm1.": "sa_layer_norm.",
    "linear1.": "ffn.lin1.", "linear2.": "ffn.lin2.", "norm2.": "output_layer_norm."}
_ELECTRA = {part: name for part, name in _BERT.items() if part != "pooler."} | {"project.": "embeddings_project."}
_MPNET = {part: name for part, name in _BERT.items() if part != "types."} | {
    "self_attn.in_proj_": "attention.attn.q. attention.attn.k. attention.attn.v.",
    "self_attn.out_proj.": "attention.attn.o.", "norm1.": "attention.LayerNorm.",
    "bias.": "encoder.relative_attention_bias."}
_GPT2 = {
    "embedding.": "wte.", "positions.": "wpe.", "norm.": "ln_f.", "out.": "lm_head.",
    "self_attn.in_proj_": "attn.c_attn.", "self_attn.out_proj.": "attn.c_proj.", "norm1.": "ln_1.",
    "linear1.": "mlp.c_fc.", "linear2.": "mlp.c_proj.", "norm2.": "ln_2."}
_LLAMA = {
    "embedding.": "embed_tokens.", "norm.": "norm.", "out.": "lm_head.",
    "self_attn.in_proj_": "self_attn.q_proj. self_attn.k_proj. self_attn.v_proj.",
    "self_attn.out_proj.": "self_attn.o_proj.", "norm1.": "input_layernorm.",
    "linear1.": "mlp.gate_proj. mlp.up_proj.", "linear2.": "mlp.down_proj.", "norm2.": "post_attention_layernorm."}
_NORMED = {"self_attn.q_norm.": "self_attn.q_norm.", "self_attn.k_norm.": "self_attn.k_norm."}
_PHI3 = _LLAMA | {"self_attn.in_proj_": "self_attn.qkv_proj.", "linear1.": "mlp.gate_up_proj."}
_AFTER = {    # what a sublayer gives is normalised before it is added
    "self_attn.out_proj.0.": "self_attn.o_proj.", "self_attn.out_proj.1.": "post_attention_layernorm.",
    "linear2.0.": "mlp.down_proj.", "linear2.1.": "post_feedforward_layernorm."}
_GEMMA2 = {part: name for part, name in _LLAMA.items() if f"{part}0." not in _AFTER} | _AFTER | {
    "norm2.": "pre_feedforward_layernorm."}
_OLMO2 = {part: name for part, name in _GEMMA2.items() if part not in ("norm1.", "norm2.")} | _NORMED

_FIRST = {"gamma": "weight", "beta": "bias", **_ANY}    # as the first checkpoints have norms, too
_IDS: _Rules = {"embeddings.position_ids": None}
_ROTARY: _Rules = {"layers.{}.self_attn.rotary_emb.inv_freq": None}
BERT: Rules = _rules(_BERT, "encoder.layer.{}.", "encoder.layers.{}.", _FIRST) | _IDS
GPT2: Rules = _rules(_GPT2, "h.{}.", "layers.{}.", matrices={   # which are (in, out)
    "weight.T": "weight", "bias": "bias"}) | {"h.{}.attn.bias": None, "h.{}.attn.masked_bias": None}
LLAMA: Rules = _rules(_LLAMA, "layers.{}.", "layers.{}.") | _ROTARY
ACTIVATIONS = {  # their names, and ours
    "gelu": "gelu", "gelu_python": "gelu", "gelu_new": "gelu_tanh", "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu", "silu": "silu", "swish": "silu"}


class Bert(Module):
    """BERT's encoder (Devlin et al. 2019): tokens, positions and segments embedded and summed, then post-norm layers.
    RoBERTa and XLM-R are the same; DistilBERT has no `segments` (None); ELECTRA's embeddings may have another size,
    `embedding_size`, and are then projected; MPNet adds to its scores a number for each of `buckets` distances.

    >>> model = ts.models.Bert(vocab_size=100, d_model=8, nhead=2, num_layers=1, dim_feedforward=16).eval()
    >>> hidden, pooled = model([[5, 7, 9]])
    >>> hidden.shape, pooled.shape
    ((1, 3, 8), (1, 8))
    """

    def __init__(
        self, vocab_size: int, d_model: int, nhead: int, num_layers: int, dim_feedforward: int, max_length: int = 512,
        segments: int | None = 2, activation: str = "gelu", layer_norm_eps: float = 1e-12, dropout: float = 0.1,
        dtype: Any = np.float32, *, embedding_size: int | None = None, buckets: int | None = None,
    ) -> None:
        sizes = {"segments": segments, "embedding_size": embedding_size, "buckets": buckets}
        check.integers("Bert", 1, vocab_size=vocab_size, num_layers=num_layers, max_length=max_length,
                       **{name: size for name, size in sizes.items() if size is not None})
        checked_sizes("Bert", d_model, nhead, dim_feedforward, dropout, activation)
        check.numbers("Bert", least=0, layer_norm_eps=layer_norm_eps)
        width = embedding_size or d_model
        self.embedding = Embedding(vocab_size, width, dtype=dtype)
        self.positions = LearnedPositions(max_length, width, dtype)
        self.types = Embedding(segments, width, dtype=dtype) if segments else None
        self.norm, self.dropout = LayerNorm(width, layer_norm_eps, dtype=dtype), Dropout(dropout)
        self.project = Linear(width, d_model, dtype=dtype) if width != d_model else None
        self.encoder = TransformerEncoder(
            TransformerEncoderLayer(d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, dtype=dtype),
            num_layers)
        self.bias = Embedding(buckets, nhead, dtype=dtype) if buckets else None
        self.pooler: Linear | None = Linear(d_model, d_model, dtype=dtype)

    def forward(self, tokens: Like, lengths: Like = None, types: Like = None) -> tuple[Tensor, Tensor | None]:
        """tokens (B, T), lengths (B,) or None, types (B, T), which segment, or None for 0: integers -> hidden
        (B, T, E), 0 after a row's end, and the pooler's tanh(W h_1 + b) of the first position (B, E), or None."""
        tokens, cut = cut_padding("Bert", tokens, lengths, self.positions.weight.shape[0])
        types = types if types is None or not cut else ops.asarray(types)[:, : tokens.shape[1]]
        words = self.embedding(tokens)
        if words.ndim != 3:
            raise ValueError(f"Bert: expected tokens (B, T), got shape {words.shape[:-1]}")
        if types is not None and (self.types is None or np.shape(types) != words.shape[:2]):
            wanted = f"types {words.shape[:2]}, as the tokens" if self.types else "no types, for it has no segments"
            raise ValueError(f"Bert: expected {wanted}, got shape {np.shape(types)}")
        if self.types is not None:
            words = words + (self.types.weight[0] if types is None else self.types(types))
        hidden: Tensor = self.dropout(self.norm(self.positions(words)))
        hidden = self.encoder(hidden if self.project is None else self.project(hidden), lengths=lengths,
                              bias=None if self.bias is None else _relative(self.bias, words.shape[1]))
        hidden = ops.pad(hidden, [(0, 0), (0, cut), (0, 0)]) if cut else hidden
        return hidden, None if self.pooler is None else ops.tanh(self.pooler(ops.sum(hidden[:, :1], 1)))


def _relative(table: Embedding, steps: int) -> Tensor:
    """What is added to scores, (heads, T, T): numbers of a `table` (buckets, heads), half of the buckets for what comes
    later, half for what came before, wider the farther, to 128 (T5, Raffel et al. 2020, section 2.1; MPNet).
    """
    half = len(table.weight) // 2
    exact = half // 2
    far = np.arange(exact + 129)  # as far as the last is all that is farther
    ratio = np.log(np.maximum(far, 1).astype(np.float32) / exact) / math.log(128 / exact) * (half - exact)
    bucket = np.where(far < exact, far, np.minimum(exact + ratio.astype(np.int64), half - 1))
    place = ops.like(table.weight, np.arange(steps))
    ahead = place - place[:, None]
    near = ops.like(table.weight, bucket)[ops.minimum(ops.abs(ahead), len(far) - 1)]
    return ops.permute_dims(table(near + half * (ahead > 0)), (2, 0, 1))


class Headless(LanguageModel):
    """A `LanguageModel` without its last layer: forward(tokens (B, T)) -> hidden states (B, T, E) after the last norm.
    It reads on from a state, and has no next token to `step` to.

    >>> model = ts.models.Headless(vocab_size=100, d_model=8, nhead=2, num_layers=1, dim_feedforward=16).eval()
    >>> model([[5, 7, 9]]).shape
    (1, 3, 8)
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.out = Sequential()  # type: ignore[assignment]

    def step(self, tokens: Like, state: LanguageState) -> tuple[Tensor, LanguageState]:
        raise ValueError("Headless: the checkpoint has no language-model head, so there are no next tokens: call the "
                         "model for hidden states")


class Classifier(Module):
    """A `model`, a `Bert` or `Headless`, and a `head` that makes logits of its vectors, for as many `labels`, if they
    have names: for `each` token, or for a row, of the pooler, the first position or, of a `Headless`, the last.
    >>> bert = ts.models.Bert(vocab_size=100, d_model=8, nhead=2, num_layers=1, dim_feedforward=16)
    >>> tagger = ts.models.Classifier(bert, nn.Linear(8, 3), each=True, labels=["O", "B", "I"])
    >>> tagger([[5, 7, 9]], lengths=[2]).shape
    (1, 3, 3)
    """

    def __init__(self, model: Bert | Headless, head: Module, each: bool = False,
                 labels: list[str] | tuple[str, ...] | None = None) -> None:
        check.instance("Classifier", Bert | Headless, model=model)
        check.instance("Classifier", Module, head=head)
        self.model, self.head, self.each = model, head, each
        if labels is not None:
            check.instance("Classifier", list | tuple, labels=labels)
        self.labels = None if labels is None else tuple(labels)

    def forward(self, tokens: Like, lengths: Like = None, types: Like = None) -> Tensor:
        """tokens (B, T), lengths (B,) or None, types (B, T) or None -> logits (B, labels), or (B, T, labels)."""
        if isinstance(self.model, Bert):
            hidden, pooled = self.model(tokens, lengths, types)
            row = hidden[:, 0] if pooled is None else pooled
        elif types is not None:
            raise ValueError("Classifier: expected no types, for the model has no segments")
        else:
            hidden = self.model(tokens, lengths=lengths)
            last = np.full(len(hidden), hidden.shape[1]) if lengths is None else lengths
            row = ops.take_along_axis(hidden, ops.maximum(ops.like(hidden, last) - 1, 0)[:, None, None], 1)[:, 0]
        y: Tensor = self.head(hidden if self.each else row)
        return y


def _geglu(x: Tensor) -> Tensor:
    """gelu_tanh(a) b, a and b the halves of x (..., 2 F) -> (..., F): the gated unit of Gemma (Shazeer 2020).
    """
    a, b = ops.split(x, 2, -1)
    return gelu_tanh(a) * b


class _CappedLinear(Linear):
    """A `Linear` without bias whose outputs x are cap tanh(x / cap): never beyond the cap.
    """

    def __init__(self, in_features: int, out_features: int, cap: float) -> None:
        super().__init__(in_features, out_features, bias=False)
        self.cap = cap

    def forward(self, x: Tensor) -> Tensor:
        return ops.tanh(super().forward(x) / self.cap) * self.cap


# --- a configuration, whose every value is held to what it can be ---------------------------------------------------


class Architecture(NamedTuple):
    """What a configuration and a checkpoint of one kind of model call things: a row of `ARCHITECTURES`.

    >>> ts.models.ARCHITECTURES["gpt2"].sizes["d_model"]
    'n_embd'
    """

    module: type[Bert] | type[LanguageModel]
    sizes: Mapping[str, str]            # the module's arguments, and what the configuration calls them
    eps: tuple[str, float]              # the name, or none, and what it is where nothing is said
    activation: tuple[str, str, Mapping[str, str]]  # likewise, and what its values are here
    dropout: str | None                 # its name, 0.1 where nothing is said; or none
    prefix: str                         # that some checkpoints put before the tensors' names
    parts: Mapping[str, str]            # what has weights, and what it is called there
    names: Rules                        # the tensors' names
    foreign: tuple[str, ...]            # how those begin that do not belong to the model
    tied: bool                          # whether the last layer is the embedding where nothing is said
    expected: Config                    # what other options, which would change numbers, must be; None: nothing
    heads: Mapping[str, tuple[Any, ...]]    # of classifiers, of rows and of each token: the layers of their heads
    more: Callable[[Config, dict[str, Any]], dict[str, Any]] = lambda config, arguments: {}     # other arguments
    usual: Mapping[str, Callable[[dict[str, Any]], int]] = {}     # sizes that are null, of others
    aliases: Mapping[str, str] = {}             # other names of the sizes
    defaults: Mapping[str, Any] = {}                 # what else is where nothing is said
    adapt: Callable[[dict[str, Any], Any], None] = lambda state, arguments: None   # weights kept otherwise there


def _arguments(family: Architecture, config: Config) -> dict[str, Any]:
    """The arguments of the module, as a configuration of this family has them."""
    kind = config["model_type"]
    for alias in family.aliases.keys() & config.keys():
        if config.get(name := family.aliases[alias], config[alias]) != config[alias]:
            raise ValueError(f"{kind}: {name} is {config[name]!r}, and its other name {alias} is {config[alias]!r}")
        config = {**config, name: config[alias]}
    config = {**family.defaults, **config}
    a: dict[str, Any] = {}
    for argument, name in family.sizes.items():
        said = config.get(name)
        usual = family.usual.get(argument) if said is None else None
        a[argument] = usual(a) if usual else check.integers(kind, 1, **{name: said})
    if a["d_model"] % a["nhead"] and config.get("head_dim") is None:
        raise ValueError(f"{kind}: expected {family.sizes['nhead']} to divide {family.sizes['d_model']}, got "
                         f"{a['nhead']} and {a['d_model']}")
    name, eps = family.eps
    a["layer_norm_eps"] = check.numbers(kind, least=1e-30, below=1e30, **{name: config.get(name, eps)})  # float32's
    name, usually, known = family.activation
    check.choice(kind, tuple(known), **{name: config.get(name, usually)})
    a["activation"] = known[config.get(name, usually)]
    a["dropout"] = 0.0 if family.dropout is None else check.numbers(
        kind, least=0, below=1, **{family.dropout: config.get(family.dropout, 0.1)})
    return a | family.more(config, a)


class _Layers(NamedTuple):
    """What a decoder's layers have that is no argument of a `LanguageModel`.
    """

    head_dim: int
    windows: tuple[int | None, ...]     # a layer
    biases: str = ""                    # of attention: "", "qkv" or "all"
    normed: str = ""                    # queries and keys: "", "each" head or "all" together
    norms: str = "before"               # where the norms are: "before" a sublayer, "after" it, or "both"
    caps: tuple[float | None, float | None] = (None, None)  # of attention's scores, and of logits
    scaled: bool = False                # embeddings times sqrt(d_model)
    sharp: float = 1.0                  # what queries are multiplied by


def _decoder(config: Config, a: dict[str, Any], *, biases: str = "", near: Any = None, base: float = 1e4,
             local: float | None = None, turning: Any = None, partly: bool = False, stretched: bool = True,
             normed: str = "", norms: str = "before", scaled: bool = False, switched: bool = False) -> dict[str, Any]:
    """Arguments and layers of a decoder with rotary positions: `near(config, i)` says whether layer i has a window,
    `turning(config, i)` whether it has positions; `local` is the base of those with a window, where it is another."""
    kind, layers, heads = config["model_type"], a["num_layers"], a["nhead"]
    if heads % a["num_kv_heads"]:
        raise ValueError(f"{kind}: expected num_key_value_heads to divide num_attention_heads, got "
                         f"{a['num_kv_heads']} and {heads}")
    head_dim = config.get("head_dim")
    head_dim = a["d_model"] // heads if head_dim is None else check.integers(kind, 1, head_dim=head_dim)
    windows = _windows(kind, config, layers, near, switched)
    given = {key: config[key] for key in ("rope_scaling", "rope_parameters") if config.get(key)}
    if len(given) > 1:
        raise ValueError(f"{kind}: expected rope_scaling or rope_parameters, not both, got {given}")
    name, rope = next(iter(given.items()), ("rope_parameters", {}))
    make = partial(_rotary, kind, config, head_dim, partly, stretched, name)
    if local is None:
        rotary = make(rope, config.get("rope_theta", base))
        positions = [rotary if turning is None or turning(config, i) else None for i in range(layers)]
    else:
        apart: Any = {"full_attention": rope} if name == "rope_scaling" else rope
        if not isinstance(apart, Mapping) or not apart.keys() <= {"full_attention", "sliding_attention"}:
            raise ValueError(f"{kind}: expected rope_parameters of full_attention and of sliding_attention, got {rope}")
        rotary = make(apart.get("full_attention") or {}, config.get("rope_theta", base))
        other = make(apart.get("sliding_attention") or {}, config.get("rope_local_base_freq", local))
        positions = [rotary if window is None else other for window in windows]
    attention_cap, logit_cap = (None if config.get(key) is None else check.numbers(
        kind, above=0, below=1e30, **{key: config[key]}) for key in (
            "attn_logit_softcapping", "final_logit_softcapping"))
    scalar = config.get("query_pre_attn_scalar")
    scalar = head_dim if scalar is None else check.numbers(kind, above=0, below=1e30, query_pre_attn_scalar=scalar)
    check.choice(kind, (True, False), attention_bias=config.get("attention_bias", False))
    biases = biases or "all" * config.get("attention_bias", False)
    return {"positions": tuple(positions), "norm": "rms", "bias": False, "layers": _Layers(
        head_dim, windows, biases, normed, norms, (attention_cap, logit_cap), scaled, math.sqrt(head_dim / scalar))}


def _rotary(kind: str, config: Config, head_dim: int, partly: bool, stretched: bool, name: str, rope: Any,
            base: Any) -> RotaryPositions:
    """The rotary positions that a dictionary and what stands beside it in a configuration describe."""
    if not isinstance(rope, Mapping) or not all(isinstance(key, str) for key in rope):
        raise ValueError(f"{kind}: expected {name} to be a dictionary, got {rope}")
    rope = {key: value for key, value in rope.items() if key != "type"} | {
        "rope_type": rope.get("rope_type", rope.get("type", "default"))}
    base = check.numbers(kind, least=1, below=math.inf, rope_theta=rope.pop("rope_theta", base))
    part = check.numbers(kind, above=0, most=1, partial_rotary_factor=rope.pop(
        "partial_rotary_factor", config.get("partial_rotary_factor", 1.0)))
    if part != 1 and not partly:
        raise ValueError(f"{kind} is not implemented here with partial_rotary_factor={part}")
    longest = {"llama3": LONGEST, "yarn": LONGEST, "dynamic": "max_position_embeddings"}.get(str(rope["rope_type"]))
    if longest:
        most = config.get("max_position_embeddings")
        rope[longest] = config[longest] if longest in config else rope.get(longest, most)
    try:
        if not stretched and rope["rope_type"] != "default":
            raise ValueError(f"expected rope_type 'default', got {rope['rope_type']!r}")
        return RotaryPositions(int(head_dim * part), base, **rope)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{kind}: {name}, with head_dim, or hidden_size / num_attention_heads, {head_dim}: "
                         f"{error}") from None


def _windows(kind: str, config: Config, layers: int, near: Any, switched: bool) -> tuple[int | None, ...]:
    """How far each layer sees, None for all. `switched`: windows are off unless use_sliding_window."""
    size = config.get("sliding_window")
    if near is None or (switched and not config["use_sliding_window"]):
        size = None
    elif size is not None:
        check.integers(kind, 1, sliding_window=size)
    types = config.get("layer_types")
    if types is None:
        return tuple(size if near is not None and near(config, i) else None for i in range(layers))
    if not isinstance(types, list) or len(types) != layers or any(
            t != "full_attention" and (t != "sliding_attention" or size is None) for t in types):
        raise ValueError(f"{kind}: expected layer_types, num_hidden_layers = {layers} times 'full_attention' or, with "
                         f"sliding_window and use_sliding_window, 'sliding_attention', got {types} and {size}")
    return tuple(size if t == "sliding_attention" else None for t in types)


def _offset(config: Config, a: dict[str, Any]) -> dict[str, Any]:
    """Positions are counted from after the padding's, whose own nobody looks at."""
    pad = check.integers(config["model_type"], 0, pad_token_id=config["pad_token_id"])
    if a["max_length"] <= pad + 1:
        raise ValueError(f"{config['model_type']}: expected max_position_embeddings > {pad + 1}, got {a['max_length']}")
    return {"offset": pad + 1}


def _turning(config: Config, i: int) -> bool:
    """Whether a layer of SmolLM 3 has positions: all but each fourth, or as the configuration lists it."""
    given, kind = config.get("no_rope_layers"), config["model_type"]
    each = check.integers(kind, 1, no_rope_layer_interval=config.get("no_rope_layer_interval", 4))
    if given is None:
        return bool((i + 1) % each)
    if not isinstance(given, list) or i >= len(given) or given[i] not in (0, 1):
        raise ValueError(f"{kind}: expected no_rope_layers, 0 or 1 a layer, 0 of one without positions, got {given}")
    return bool(given[i])


def _after_padding(state: dict[str, Any], a: dict[str, Any]) -> None:
    offset = a.pop("offset")
    a["max_length"] -= offset
    state["positions.weight"] = state["positions.weight"][offset:]


def _gemma(state: dict[str, Any], a: dict[str, Any]) -> None:
    """Norms hold what their weights are above 1, and scores have a scale of their own."""
    layers: _Layers = a["layers"]
    for key, value in state.items():
        if value.ndim == 1 and key.endswith("weight"):
            state[key] = value.astype(np.float32) + 1
        if layers.sharp != 1 and key.endswith("q_norm.weight" if layers.normed else "in_proj_weight"):
            state[key] = np.array(state[key], np.float32)
            state[key][: layers.head_dim * a["nhead"]] *= layers.sharp


_SIZES = {"vocab_size": "vocab_size", "d_model": "hidden_size", "dim_feedforward": "intermediate_size",
          "num_layers": "num_hidden_layers", "nhead": "num_attention_heads"}
_BERT_SIZES = _SIZES | {"max_length": "max_position_embeddings", "segments": "type_vocab_size"}
_PLAIN: Config = dict.fromkeys((
    "quantization_config", "per_layer_config", "pruned_heads", "layer_types", "sliding_window",
    "attn_logit_softcapping", "final_logit_softcapping", "query_pre_attn_scalar", "embedding_multiplier",
    "residual_multiplier", "attention_multiplier", "logits_scaling", "logit_scale", "use_bidirectional_attention")) | {
    "add_cross_attention": False, "is_decoder": False, "partial_rotary_factor": 1, "mlp_bias": False}
_FOREIGN = ("cls.", "classifier.", "qa_outputs.", "lm_head.", "pre_classifier.", "vocab_", "discriminator_predictions.",
            "generator_", "sequence_summary.")
_DENSE = ("classifier.dense.", Tanh, "classifier.out_proj.")
_LAYERS = "layers.{}.", "layers.{}."


def _without(*keys: str) -> Config:
    return {key: value for key, value in _PLAIN.items() if key not in keys}


_bert = Architecture(
    Bert, _BERT_SIZES, ("layer_norm_eps", 1e-12), ("hidden_act", "gelu", ACTIVATIONS), "hidden_dropout_prob", "bert.",
    _BERT, BERT, _FOREIGN, True, {**_PLAIN, "position_embedding_type": "absolute"},
    {"Sequence": ("classifier.",), "Token": ("classifier.",)})
_roberta = _bert._replace(
    prefix="roberta.", more=_offset, adapt=_after_padding, defaults={"pad_token_id": 1},
    heads={"Sequence": _DENSE, "Token": ("classifier.",)})
_llama = Architecture(
    LanguageModel, {**_SIZES, "num_kv_heads": "num_key_value_heads"}, ("rms_norm_eps", 1e-6),
    ("hidden_act", "silu", {"silu": "swiglu", "swish": "swiglu"}), None, "model.", _LLAMA, LLAMA, ("score.",), False,
    _PLAIN, {"Sequence": ("score.",), "Token": ("score.",)}, _decoder, {"num_kv_heads": lambda a: a["nhead"]})
_gemma1 = _llama._replace(
    activation=("hidden_act", "gelu_pytorch_tanh", {"gelu_pytorch_tanh": "geglu", "gelu": "geglu"}), tied=True,
    more=partial(_decoder, scaled=True), adapt=_gemma, defaults={"head_dim": 256, "num_key_value_heads": 16})
_gemma2 = _gemma1._replace(
    activation=("hidden_activation", "gelu_pytorch_tanh", {"gelu_pytorch_tanh": "geglu"}), parts=_GEMMA2,
    names=_rules(_GEMMA2, *_LAYERS) | _ROTARY,
    expected=_without("layer_types", "sliding_window", "attn_logit_softcapping", "final_logit_softcapping",
                      "query_pre_attn_scalar"),
    more=partial(_decoder, scaled=True, norms="both", near=lambda config, i: i % 2 == 0),
    defaults={"head_dim": 256, "num_key_value_heads": 4, "query_pre_attn_scalar": 256, "sliding_window": 4096,
              "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0})
_sliding = _without("layer_types", "sliding_window")
_qwen: dict[str, Any] = {"expected": _sliding, "defaults": {
    "num_key_value_heads": 32, "use_sliding_window": False, "sliding_window": 4096, "max_window_layers": 28}}
_last: Any = lambda config, i: i >= check.integers(
    config["model_type"], 0, max_window_layers=config["max_window_layers"])
_every: Any = lambda config, i: True
ARCHITECTURES = {
    "bert": _bert,
    "roberta": _roberta, "xlm-roberta": _roberta,
    "distilbert": _bert._replace(
        sizes={"vocab_size": "vocab_size", "d_model": "dim", "dim_feedforward": "hidden_dim", "num_layers": "n_layers",
               "nhead": "n_heads", "max_length": "max_position_embeddings"},
        eps=("", 1e-12), activation=("activation", "gelu", ACTIVATIONS), dropout="dropout", prefix="distilbert.",
        parts=_DISTILBERT, names=_rules(_DISTILBERT, "transformer.layer.{}.", "encoder.layers.{}.") | _IDS,
        heads={"Sequence": ("pre_classifier.", ReLU, "classifier."), "Token": ("classifier.",)},
        more=lambda config, a: {"segments": None},
        aliases={"hidden_size": "dim", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"}),
    "electra": _bert._replace(
        sizes={**_BERT_SIZES, "embedding_size": "embedding_size"}, prefix="electra.", parts=_ELECTRA,
        names=_rules(_ELECTRA, "encoder.layer.{}.", "encoder.layers.{}.") | _IDS, defaults={"embedding_size": 128},
        heads={"Sequence": ("classifier.dense.", GELU, "classifier.out_proj."), "Token": ("classifier.",)}),
    "mpnet": _bert._replace(
        sizes={**_SIZES, "max_length": "max_position_embeddings", "buckets": "relative_attention_num_buckets"},
        prefix="mpnet.", parts=_MPNET, names=_rules(_MPNET, "encoder.layer.{}.", "encoder.layers.{}.") | _IDS,
        expected={**_PLAIN, "relative_attention_num_buckets": 32}, defaults={"relative_attention_num_buckets": 32},
        heads={"Sequence": _DENSE, "Token": ("classifier.",)}, more=lambda config, a: {"segments": None, "offset": 2},
        adapt=_after_padding),
    "gpt2": Architecture(
        LanguageModel, {"vocab_size": "vocab_size", "d_model": "n_embd", "dim_feedforward": "n_inner",
                        "num_layers": "n_layer", "nhead": "n_head", "max_length": "n_positions"},
        ("layer_norm_epsilon", 1e-5), ("activation_function", "gelu_new", ACTIVATIONS), "resid_pdrop", "transformer.",
        _GPT2, GPT2, ("score.", "classifier."), True, {
            **_PLAIN, "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False},
        {"Sequence": ("score.",), "Token": ("classifier.",)}, usual={"dim_feedforward": lambda a: 4 * a["d_model"]},
        aliases={"hidden_size": "n_embd", "num_attention_heads": "n_head", "num_hidden_layers": "n_layer",
                 "max_position_embeddings": "n_positions"}),
    "llama": _llama,
    "mistral": _llama._replace(
        expected={**_without("sliding_window"), "attention_bias": False}, more=partial(_decoder, near=_every),
        defaults={"num_key_value_heads": 8, "sliding_window": 4096}),
    "qwen2": _llama._replace(more=partial(_decoder, biases="qkv", near=_last, switched=True), **_qwen),
    "qwen3": _llama._replace(
        parts=_LLAMA | _NORMED, names=_rules(_LLAMA | _NORMED, *_LAYERS) | _ROTARY, expected=_sliding,
        more=partial(_decoder, normed="each", near=_last, switched=True),
        defaults=_qwen["defaults"] | {"head_dim": 128}),
    "smollm3": _llama._replace(
        tied=True, expected=_sliding, defaults={"num_key_value_heads": 4, "use_sliding_window": False},
        more=partial(_decoder, base=2e6, near=lambda config, i: not _turning(config, i), turning=_turning,
                     switched=True)),
    "gemma": _gemma1,
    "gemma2": _gemma2,
    "gemma3_text": _gemma2._replace(
        parts=_GEMMA2 | _NORMED, names=_rules(_GEMMA2 | _NORMED, *_LAYERS) | _ROTARY,
        expected=_without("layer_types", "sliding_window", "final_logit_softcapping", "query_pre_attn_scalar"),
        more=partial(_decoder, base=1e6, local=1e4, scaled=True, norms="both", normed="each", near=lambda config, i: (
            (i + 1) % check.integers("gemma3_text", 1, sliding_window_pattern=config["sliding_window_pattern"]))),
        defaults={"head_dim": 256, "num_key_value_heads": 4, "query_pre_attn_scalar": 256, "sliding_window": 4096,
                  "sliding_window_pattern": 6}),
    "phi3": _llama._replace(
        eps=("rms_norm_eps", 1e-5), dropout="resid_pdrop", parts=_PHI3, names=_rules(_PHI3, *_LAYERS) | _ROTARY,
        expected={**_without("sliding_window", "partial_rotary_factor"), "attention_bias": False},
        more=partial(_decoder, near=_every, partly=True, stretched=False), defaults={"resid_pdrop": 0.0}),
    "olmo2": _llama._replace(
        eps=("rms_norm_eps", 1e-5), parts=_OLMO2, names=_rules(_OLMO2, *_LAYERS) | _ROTARY,
        more=partial(_decoder, normed="all", norms="after")),
}


# --- weights, which are held to the configuration before anything as large is built ---------------------------------


def _lengths(a: Mapping[str, Any]) -> dict[str, int]:
    """The lengths of axes: arguments of the module, and what comes of them."""
    layers: _Layers | None = a.get("layers")
    head_dim = a["d_model"] // a["nhead"] if layers is None else layers.head_dim
    queries, keys = (head_dim * a.get(name, a["nhead"]) for name in ("nhead", "num_kv_heads"))
    alone = layers is not None and layers.normed == "each"
    return {**a, "embedded": a.get("embedding_size", a["d_model"]), "attended": queries,
            "projected": queries + 2 * keys, "queries": head_dim if alone else queries,
            "keys": head_dim if alone else keys, "hidden": a["dim_feedforward"] * (1 + ("glu" in a["activation"]))}


def _shapes(family: Architecture, a: Mapping[str, Any], has: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shapes of all parameters of the module of arguments `a`, with a last layer and a pooler if it `has` them."""
    lengths, layers = _lengths(a), "encoder.layers" if family.module is Bert else "layers"
    there = {"out.": "out.weight" in has, "pooler.": "pooler.weight" in has,
             "project.": lengths["embedded"] != a["d_model"]}
    biases = {"all": ("self_attn.in_proj_", "self_attn.out_proj.", "self_attn.out_proj.0."),
              "qkv": ("self_attn.in_proj_",), "": ()}[a["layers"].biases if "layers" in a else ""]
    found: dict[str, tuple[int, ...]] = {}
    for part in family.parts:
        biased = part in biases if "layers" in a else part not in _TABLES
        for name in [f"{layers}.{i}.{part}" for i in range(a["num_layers"])] if part in _LAYER else [part]:
            shape = tuple(lengths[axis] for axis in _AXES[part].split())
            if there.get(part, True):
                found |= {f"{name}weight": shape} | ({f"{name}bias": shape[:1]} if biased else {})
    return found


def _own(state: Mapping[str, Any], family: Architecture) -> dict[str, Any]:
    """The tensors that belong to the model, without the prefix of their names."""
    if other := [key for key, value in state.items() if not (isinstance(key, str) and isinstance(value, np.ndarray))]:
        raise ValueError(f"expected tensors by name, and {other[:5]} are none")
    out = family.parts.get("out.", " ")
    kept = [key for key in state if key.startswith(out) or not key.startswith(family.foreign)]
    own = {key.removeprefix(family.prefix): state[key] for key in kept}
    if len(own) < len(kept):
        raise ValueError(f"tensors come with {family.prefix!r} before their names, and without")
    return own


def _agree(family: Architecture, a: Mapping[str, Any], state: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Refuse weights that are not those of the module of arguments `a`."""
    names, lengths = family.sizes, _lengths(a)
    there = {"num_layers": sum(key.endswith("linear1.weight") for key in state)}
    for part in family.parts:
        first = next((value.shape for key, value in state.items() if key.endswith(f"{part}weight")), ())
        there = dict(zip(_AXES[part].split(), first, strict=False)) | there
    there["embedding_size"] = there.get("embedded", 0)
    if "projected" in there and "num_kv_heads" in a:
        there["num_kv_heads"] = (there["projected"] - lengths["attended"]) * a["nhead"] // (2 * lengths["attended"])
        names = {**names, "attended": f"{names['nhead']} x head_dim"}
        has = any(key.endswith("self_attn.in_proj_bias") for key in state)
        if "layers" in a and has is not (a["layers"].biases != ""):
            raise ValueError(f"attention has {'no ' * (not has)}biases among the weights, and attention_bias says "
                             "otherwise")
    if wrong := [f"{name} is {lengths[argument]} where the weights have {there[argument]}"
                 for argument, name in names.items() if lengths[argument] != there.get(argument, lengths[argument])]:
        raise ValueError(f"{', '.join(wrong)}, with {names['nhead']} {a['nhead']}")
    wanted = _shapes(family, a, state)
    matching("the weights", wanted, state)
    check.shapes("the weights", wanted, state)


def _head(state: dict[str, Any], tied: bool, config: Config) -> bool | None:
    """Whether a language model's last layer is the embedding, as transformers decides it; None if it has none: there
    is no such tensor, and nothing ties one, or the architectures that are named do not have it."""
    said = str(config.get("architectures") or "")
    headed = re.search(_HEADS, said)
    if "out.weight" not in state and headed and not tied:
        raise ValueError(f"the weights lack the last layer, out.weight, which architectures={said} with "
                         "tie_word_embeddings=False has; one that names no language model would give hidden states")
    if "out.weight" not in state and not headed and (said or not tied):
        return None
    for name, other in (("embedding.weight", "out.weight"), ("out.weight", "embedding.weight")):
        if tied and other in state:     # it stands for both
            state.setdefault(name, state[other])
    out, embedding = state.get("out.weight", ()), state.get("embedding.weight", ())
    return tied and (out is embedding or np.array_equal(out, embedding))


def _classes(family: Architecture, state: Mapping[str, Any], config: Config) -> tuple[Any, ...] | None:
    """Of a classifier: its head, that head's weights, whether it is of each token, and its labels; or None."""
    found = re.search("For(Sequence|Token)Classification", str(config.get("architectures") or ""))
    if found is None:
        return None
    names = [name for name in family.heads[found[1]] if isinstance(name, str)]
    weights = {f"{3 * i + 1}.{end}": state[f"{name}{end}"] for i, name in enumerate(names) for end in ("weight", "bias")
               if f"{name}{end}" in state}
    count, width = 3 * len(names) - 2, config.get(family.sizes["d_model"])
    rows = np.shape(weights.get(f"{count}.weight", ()))[:1]
    wanted = {f"{3 * i + 1}.weight": (*((width,) if i + 1 < len(names) else rows or (0,)), width)
              for i in range(len(names))}
    wanted |= {name.replace("weight", "bias"): shape[:1] for name, shape in wanted.items()
               if name.replace("weight", "bias") in weights}
    matching(f"the head of {found[0]}, {', '.join(names)}", wanted, weights)
    check.shapes(f"the head of {found[0]}", wanted, weights)
    labels = config.get("id2label")
    if labels is not None and (not isinstance(labels, Mapping) or {str(key) for key in labels} != {
            str(i) for i in range(rows[0])}):
        raise ValueError(f"expected id2label for the {rows[0]} rows of {names[-1]}weight, got {labels}")
    named = labels and [str(labels.get(str(i), labels.get(i))) for i in range(rows[0])]
    return family.heads[found[1]], weights, found[1] == "Token", named


def _classifier(model: Any, parts: tuple[Any, ...], weights: Mapping[str, Any], each: bool, labels: Any) -> Classifier:
    """What `_classes` says, around the model: a dropout before each layer, and activations between them."""
    layers: list[Module] = []
    for part in parts:
        if isinstance(part, str):
            layer = f"{len(layers) + 1}."
            outputs, inputs = weights[f"{layer}weight"].shape
            layers += [Dropout(model.dropout.p), Linear(inputs, outputs, bias=f"{layer}bias" in weights)]
        else:
            layers.append(part())
    return Classifier(model, Sequential(*layers), each, labels)


def _build(module: Any, arguments: Mapping[str, Any]) -> Any:
    """The module of those arguments, with layers as its family has them."""
    a = dict(arguments)
    layers: _Layers | None = a.pop("layers", None)
    if layers is None:
        return module(**a)
    nhead, kv_heads, activation, width = a["nhead"], a.pop("num_kv_heads"), a["activation"], a["d_model"]
    norm: Any = partial(RMSNorm, eps=a["layer_norm_eps"])
    lengths = _lengths(arguments)
    model = module(**a | {"nhead": 1, "activation": "swiglu"})
    model._scale = math.sqrt(width) if layers.scaled else 1.0
    attention_cap, logit_cap = layers.caps
    for layer, window in zip(model.layers, layers.windows, strict=True):
        layer.self_attn = MultiheadAttention(
            width, nhead, a["dropout"], layers.biases != "", num_kv_heads=kv_heads, head_dim=layers.head_dim,
            window=window, q_norm=norm(lengths["queries"]) if layers.normed else None,
            k_norm=norm(lengths["keys"]) if layers.normed else None,
            softcap=attention_cap)
        if layers.biases == "qkv":
            layer.self_attn.out_proj.bias = None
        if layers.norms != "before":
            layer.self_attn.out_proj = Sequential(layer.self_attn.out_proj, norm(width))
            layer.linear2 = Sequential(layer.linear2, norm(width))
        if layers.norms == "after":
            layer.norm1, layer.norm2 = Sequential(), Sequential()
        if activation == "geglu":
            layer.activation = _geglu
    if logit_cap is not None and module is LanguageModel:
        capped = _CappedLinear(width, a["vocab_size"], logit_cap)
        capped.weight, model.out = model.out.weight, capped
    return model


def load(path: checkpoint.Name, config: Config | None = None) -> Any:
    """The model of a folder with `config.json` and weights, or of a file of weights beside it, ready for use (`eval`);
    `config` takes its place. float32, whatever the weights are in. Its "model_type" is one of `ARCHITECTURES`: an
    encoder is a `Bert`, a decoder a `nn.LanguageModel` (docs/models.md has a row for each). Training drops at one rate
    everywhere, hidden_dropout_prob, dropout or resid_pdrop; other decoders drop nothing.

    A last layer among the weights that differs from the embedding is one of its own, whatever "tie_word_embeddings"
    says. Where the weights have none, and the embedding is not tied to it or "architectures" names a model without it
    (GPT2Model, LlamaModel), a `Headless` comes back, whose output is hidden states, as `AutoModel`'s in transformers.
    Where "architectures" names a classifier, of sequences or tokens, it is a `Classifier`.

    Raises `CheckpointError`, a ValueError, for another architecture, for an option that the model here does not have,
    for a configuration that makes no model, and for weights that are not its own, before memory is taken for any.

    >>> ts.models.load("all-MiniLM-L6-v2")                      # a folder that somebody has still to download
    Traceback (most recent call last):
    tinyseq.checkpoint.CheckpointNotFoundError: ...models.load: path all-MiniLM-L6-v2: config.json: No such file...
    >>> ts.models.load("model.safetensors", config={"model_type": "t5"})
    Traceback (most recent call last):
    tinyseq.checkpoint.CheckpointError: ...expected model_type to be one of 'bert', 'roberta', ..., got 't5'
    """
    path = checkpoint._as_path("models.load", path)
    check.mapping("models.load", config={} if config is None else config)
    named = f"models.load: path {path}: {'config.json' if config is None else 'config'}"
    with checkpoint._blame(named):
        folder = path.parent if path.is_file() else path
        config = checkpoint._read_json(folder / "config.json") if config is None else dict(config)
        kind: Any = config.get("model_type")
        check.choice("models", tuple(ARCHITECTURES), model_type=kind)
        family = ARCHITECTURES[kind]
        if wrong := [f"{key}={config[key]!r}" for key, value in family.expected.items()
                     if config.get(key, value) != value and (value is not None or config[key])]:
            raise ValueError(f"{kind} is not implemented here with {', '.join(wrong)}")
        arguments, tied = _arguments(family, config), config.get("tie_word_embeddings", family.tied)
        check.choice(kind, (True, False), tie_word_embeddings=tied)
    state = checkpoint.load(path)
    with checkpoint._blame(named):
        classes = _classes(family, state, config)
        state = checkpoint.rename(_own(state, family), family.names, strict=False)
        module: Any = family.module
        if module is LanguageModel:
            head = None if classes else _head(state, tied, config)
            module, arguments["tied"] = (Headless, True) if head is None else (module, head)
        _agree(family, arguments, state)
        family.adapt(state, arguments)
        with init.skip():
            model = _build(module, arguments)
            whole = model if classes is None else _classifier(model, *classes)
        if classes and isinstance(model, Bert) and family.prefix == "bert." and not classes[2] and (
                "pooler.weight" not in state):
            raise ValueError("the weights lack the pooler, which a classifier of rows looks at")
    if isinstance(model, Bert) and "pooler.weight" not in state:
        model.pooler = None
    model.load_state_dict(state)
    if classes:
        whole.head.load_state_dict(classes[1])
    return whole.eval()
