"""Released architectures, built from the layers here, and the names that their checkpoints give to the parameters.

    model = models.load("all-MiniLM-L6-v2")         # a folder with config.json and weights, as model hubs hold them

A configuration says what transformers 5.24 reads in it; what would change a number and is not computed here is refused.
What a checkpoint calls its tensors stands in `BERT`, `GPT2` and `LLAMA`, as data for `checkpoint.rename`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from tinyseq import check, checkpoint
from tinyseq.engine import ops
from tinyseq.engine.tensor import Like, Tensor
from tinyseq.nn import init
from tinyseq.nn.language import LanguageModel
from tinyseq.nn.layers import Dropout, Embedding, LayerNorm, Linear, Sequential
from tinyseq.nn.masks import cut_padding
from tinyseq.nn.module import Module, matching
from tinyseq.nn.positions import LearnedPositions
from tinyseq.nn.steps import LanguageState
from tinyseq.nn.transformer import TransformerEncoder, TransformerEncoderLayer, checked_sizes

__all__ = ["ACTIVATIONS", "ARCHITECTURES", "BERT", "GPT2", "LLAMA", "Architecture", "Bert", "Headless", "load"]
check.public(__name__)

Config = Mapping[str, Any]
Rules = Mapping[str | tuple[str, ...], str | None]
_HEADS = "ForCausalLM|LMHead|DoubleHeads"     # in the names of architectures with a language model's last layer

# Whatever has weights: its name here, its axes, whose sizes are arguments of the module and two that come of them, and
# what BERT, GPT-2 and Llama call it; several names where it is made of several tensors.
_TABLES = {  # without a bias
    "embedding.": ("vocab_size d_model", "embeddings.word_embeddings.", "wte.", "embed_tokens."),
    "positions.": ("max_length d_model", "embeddings.position_embeddings.", "wpe.", ""),
    "types.": ("segments d_model", "embeddings.token_type_embeddings.", "", ""),
    "out.": ("vocab_size d_model", "", "lm_head.", "lm_head."),
}
_ENDS = {
    "norm.": ("d_model", "embeddings.LayerNorm.", "ln_f.", "norm."),
    "pooler.": ("d_model d_model", "pooler.dense.", "", ""),
}
_LAYER = {
    "self_attn.in_proj_": ("projected d_model", "attention.self.query. attention.self.key. attention.self.value.",
                           "attn.c_attn.", "self_attn.q_proj. self_attn.k_proj. self_attn.v_proj."),
    "self_attn.out_proj.": ("d_model d_model", "attention.output.dense.", "attn.c_proj.", "self_attn.o_proj."),
    "linear1.": ("hidden d_model", "intermediate.dense.", "mlp.c_fc.", "mlp.gate_proj. mlp.up_proj."),
    "linear2.": ("d_model dim_feedforward", "output.dense.", "mlp.c_proj.", "mlp.down_proj."),
    "norm1.": ("d_model", "attention.output.LayerNorm.", "ln_1.", "input_layernorm."),
    "norm2.": ("d_model", "output.LayerNorm.", "ln_2.", "post_attention_layernorm."),
}
_ANY = {"{}": "{}"}


def _rules(
    column: int, theirs: str, ours: str, norms: Mapping[str, str] = _ANY, matrices: Mapping[str, str] = _ANY,
) -> dict[str | tuple[str, ...], str | None]:
    """Names of the parts above, in one column, and ours: those in layers behind `theirs` and `ours`, with what stands
    at the end, "weight" there and here, where it is another for `norms` and the `matrices` in layers."""
    rules: dict[str | tuple[str, ...], str | None] = {}
    for before, after, parts in (("", "", _TABLES | _ENDS), (theirs, ours, _LAYER)):
        for part, (axes, *names) in parts.items():
            for old, new in (norms if axes == "d_model" else matrices if before else _ANY).items():
                if found := tuple(f"{before}{name}{old}" for name in names[column].split()):
                    rules[found] = f"{after}{part}{new}"
    return rules


BERT: Rules = _rules(0, "encoder.layer.{}.", "encoder.layers.{}.", norms={   # as the first checkpoints have them, too
    "gamma": "weight", "beta": "bias", **_ANY}) | {"embeddings.position_ids": None}
GPT2: Rules = _rules(1, "h.{}.", "layers.{}.", matrices={   # which are (in, out)
    "weight.T": "weight", "bias": "bias"}) | {"h.{}.attn.bias": None, "h.{}.attn.masked_bias": None}
LLAMA: Rules = _rules(2, "layers.{}.", "layers.{}.") | {"layers.{}.self_attn.rotary_emb.inv_freq": None}
ACTIVATIONS = {  # their names, and ours
    "gelu": "gelu", "gelu_python": "gelu", "gelu_new": "gelu_tanh", "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu", "silu": "silu", "swish": "silu"}


class Bert(Module):
    """BERT's encoder (Devlin et al. 2019): tokens, positions and segments embedded and summed, then post-norm layers.

    forward(tokens (B, T), lengths (B,) or None, types (B, T), which segment, or None for 0) -> hidden (B, T, E), 0
    after a row's end, and the pooler's tanh(W h_1 + b) of the first position, (B, E), or None without a pooler.

    >>> model = ts.models.Bert(vocab_size=100, d_model=8, nhead=2, num_layers=1, dim_feedforward=16).eval()
    >>> hidden, pooled = model([[5, 7, 9]])
    >>> hidden.shape, pooled.shape
    ((1, 3, 8), (1, 8))
    """

    def __init__(
        self, vocab_size: int, d_model: int, nhead: int, num_layers: int, dim_feedforward: int, max_length: int = 512,
        segments: int = 2, activation: str = "gelu", layer_norm_eps: float = 1e-12, dropout: float = 0.1,
        dtype: Any = np.float32,
    ) -> None:
        check.integers("Bert", 1, vocab_size=vocab_size, num_layers=num_layers, max_length=max_length,
                       segments=segments)
        checked_sizes("Bert", d_model, nhead, dim_feedforward, dropout, activation)
        check.numbers("Bert", least=0, layer_norm_eps=layer_norm_eps)
        self.embedding = Embedding(vocab_size, d_model, dtype=dtype)
        self.positions = LearnedPositions(max_length, d_model, dtype)
        self.types = Embedding(segments, d_model, dtype=dtype)
        self.norm, self.dropout = LayerNorm(d_model, layer_norm_eps, dtype=dtype), Dropout(dropout)
        self.encoder = TransformerEncoder(
            TransformerEncoderLayer(d_model, nhead, dim_feedforward, dropout, activation, layer_norm_eps, dtype=dtype),
            num_layers)
        self.pooler: Linear | None = Linear(d_model, d_model, dtype=dtype)

    def forward(self, tokens: Like, lengths: Like = None, types: Like = None) -> tuple[Tensor, Tensor | None]:
        tokens, cut = cut_padding("Bert", tokens, lengths, self.positions.weight.shape[0])
        types = types if types is None or not cut else ops.asarray(types)[:, : tokens.shape[1]]
        words = self.embedding(tokens)
        if words.ndim != 3:
            raise ValueError(f"Bert: expected tokens (B, T), got shape {words.shape[:-1]}")
        if types is not None and np.shape(types) != words.shape[:2]:
            raise ValueError(f"Bert: expected types {words.shape[:2]}, as the tokens, got shape {np.shape(types)}")
        segments = self.types.weight[0] if types is None else self.types(types)
        hidden: Tensor = self.encoder(self.dropout(self.norm(self.positions(words + segments))), lengths=lengths)
        hidden = ops.pad(hidden, [(0, 0), (0, cut), (0, 0)]) if cut else hidden
        return hidden, None if self.pooler is None else ops.tanh(self.pooler(ops.sum(hidden[:, :1], 1)))


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


# --- a configuration, whose every value is held to what it can be ---------------------------------------------------


class Architecture(NamedTuple):
    """What a configuration and a checkpoint of one kind of model call things: a row of `ARCHITECTURES`.

    >>> ts.models.ARCHITECTURES["gpt2"].sizes["d_model"]
    'n_embd'
    """

    module: type[Bert] | type[LanguageModel]
    sizes: Mapping[str, str]            # the module's arguments, and what the configuration calls them
    eps: tuple[str, float]              # the name, and what it is where nothing is said
    activation: tuple[str, str, Mapping[str, str]]  # likewise, and what its values are here
    dropout: str | None                 # its name, 0.1 where nothing is said; or none
    prefix: str                         # that some checkpoints put before the tensors' names
    names: Rules                        # the tensors' names
    foreign: str | tuple[str, ...]      # how those begin that do not belong to the model
    tied: bool                          # whether the last layer is the embedding where nothing is said
    expected: Config                    # what other options, which would change numbers, must be; None: nothing
    more: Callable[[Config, dict[str, Any]], dict[str, Any]] = lambda config, arguments: {}     # other arguments
    usual: Mapping[str, Callable[[dict[str, Any]], int]] = {}     # sizes that are null, of others
    aliases: Mapping[str, str] = {}             # other names of the sizes


def _arguments(family: Architecture, config: Config) -> dict[str, Any]:
    """The arguments of the module, as a configuration of this family has them."""
    kind = config["model_type"]
    for alias in family.aliases.keys() & config.keys():
        if config.get(name := family.aliases[alias], config[alias]) != config[alias]:
            raise ValueError(f"{kind}: {name} is {config[name]!r}, and its other name {alias} is {config[alias]!r}")
        config = {**config, name: config[alias]}
    a: dict[str, Any] = {}
    for argument, name in family.sizes.items():
        said = config.get(name)
        usual = family.usual.get(argument) if said is None else None
        a[argument] = usual(a) if usual else check.integers(kind, 1, **{name: said})
    if a["d_model"] % a["nhead"]:
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


def _llama(config: Config, a: dict[str, Any]) -> dict[str, Any]:
    """Rotary positions of the plain frequencies, whose base stands in one of two dictionaries, or beside them."""
    width, heads, head = a["d_model"], a["nhead"], config.get("head_dim")
    if head is not None and check.integers("llama", 1, head_dim=head) * heads != width:
        raise ValueError(f"llama: expected head_dim as hidden_size / num_attention_heads, {width} / {heads}, got "
                         f"{head}")
    given = {key: config[key] for key in ("rope_scaling", "rope_parameters") if config.get(key)}
    rope: Any = next(iter(given.values()), {})
    if any(value != rope for value in given.values()):
        raise ValueError(f"llama: expected rope_scaling or rope_parameters, not both and different, got {given}")
    if not isinstance(rope, Mapping) or rope.get("rope_type", rope.get("type", "default")) != "default" or (
            not rope.keys() <= {"rope_type", "type", "rope_theta"}):
        raise ValueError(f"llama: expected default rotary positions, rope_type 'default' and a rope_theta, got {given}")
    base = rope.get("rope_theta", config.get("rope_theta", 1e4))
    return {"positions": "rotary", "norm": "rms", "bias": False,
            "rotary_base": check.numbers("llama", least=1, below=math.inf, rope_theta=base)}


_SIZES = {"vocab_size": "vocab_size", "d_model": "hidden_size", "dim_feedforward": "intermediate_size",
          "num_layers": "num_hidden_layers", "nhead": "num_attention_heads"}
_PLAIN: Config = dict.fromkeys((
    "quantization_config", "per_layer_config", "pruned_heads", "layer_types", "sliding_window",
    "attn_logit_softcapping", "final_logit_softcapping", "embedding_multiplier", "residual_multiplier",
    "attention_multiplier", "logits_scaling", "logit_scale")) | {
    "add_cross_attention": False, "is_decoder": False, "partial_rotary_factor": 1}
ARCHITECTURES = {
    "bert": Architecture(
        Bert, {**_SIZES, "max_length": "max_position_embeddings", "segments": "type_vocab_size"},
        ("layer_norm_eps", 1e-12), ("hidden_act", "gelu", ACTIVATIONS), "hidden_dropout_prob", "bert.", BERT,
        ("cls.", "classifier.", "qa_outputs."), True, {**_PLAIN, "position_embedding_type": "absolute"}),
    "gpt2": Architecture(
        LanguageModel, {"vocab_size": "vocab_size", "d_model": "n_embd", "dim_feedforward": "n_inner",
                        "num_layers": "n_layer", "nhead": "n_head", "max_length": "n_positions"},
        ("layer_norm_epsilon", 1e-5), ("activation_function", "gelu_new", ACTIVATIONS), "resid_pdrop", "transformer.",
        GPT2, "score.", True, {**_PLAIN, "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False},
        usual={"dim_feedforward": lambda a: 4 * a["d_model"]},
        aliases={"hidden_size": "n_embd", "num_attention_heads": "n_head", "num_hidden_layers": "n_layer",
                 "max_position_embeddings": "n_positions"}),
    "llama": Architecture(
        LanguageModel, {**_SIZES, "num_kv_heads": "num_key_value_heads"}, ("rms_norm_eps", 1e-6),
        ("hidden_act", "silu", {"silu": "swiglu", "swish": "swiglu"}), None, "model.", LLAMA, "score.", False,
        {**_PLAIN, "attention_bias": False, "mlp_bias": False}, _llama,
        {"num_kv_heads": lambda a: a["nhead"]}),
}


# --- weights, which are held to the configuration before anything as large is built ---------------------------------


def _shapes(a: Mapping[str, Any], has: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shapes of all parameters of the module of arguments `a`, with a last layer and a pooler if it `has` them."""
    width, layers = a["d_model"], "encoder.layers" if "segments" in a else "layers"
    sizes = {**a, "projected": width + 2 * (width // a["nhead"]) * a.get("num_kv_heads", a["nhead"]),
             "hidden": a["dim_feedforward"] * (2 if a["activation"] == "swiglu" else 1)}
    parts = {part: axes for part, (axes, *_) in _ENDS.items() if part == "norm." or f"{part}weight" in has}
    parts |= {f"{layers}.{i}.{part}": axes for i in range(a["num_layers"]) for part, (axes, *_) in _LAYER.items()}
    found = {f"{part}weight": axes for part, (axes, *_) in _TABLES.items()
             if axes.split()[0] in a and (part != "out." or "out.weight" in has)}
    found |= {f"{part}weight": axes for part, axes in parts.items()}
    found |= {f"{part}bias": axes.split()[0] for part, axes in parts.items() if a.get("bias", True)}
    return {name: tuple(sizes[axis] for axis in axes.split()) for name, axes in found.items()}


def _own(state: Mapping[str, Any], family: Architecture) -> dict[str, Any]:
    """The tensors that belong to the model, without the prefix of their names."""
    if other := [key for key, value in state.items() if not (isinstance(key, str) and isinstance(value, np.ndarray))]:
        raise ValueError(f"expected tensors by name, and {other[:5]} are none")
    kept = [key for key in state if not key.startswith(family.foreign)]
    own = {key.removeprefix(family.prefix): state[key] for key in kept}
    if len(own) < len(kept):
        raise ValueError(f"tensors come with {family.prefix!r} before their names, and without")
    return own


def _agree(a: Mapping[str, Any], names: Mapping[str, str], state: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Refuse weights that are not those of the module of arguments `a`, whose sizes the configuration calls `names`."""
    there = {"num_layers": sum(key.endswith("linear2.weight") for key in state)}
    for part, (axes, *_) in (_TABLES | _LAYER).items():
        end = f"{part}weight"
        first = next((value.shape for key, value in state.items() if key.endswith(end)), ())
        there = dict(zip(axes.split(), first, strict=False)) | there
    if "projected" in there:
        there["num_kv_heads"] = (there["projected"] - a["d_model"]) * a["nhead"] // (2 * a["d_model"])
    if wrong := [f"{name} is {a[argument]} where the weights have {there[argument]}" for argument, name in names.items()
                 if a[argument] != there.get(argument, a[argument])]:
        raise ValueError(", ".join(wrong))
    wanted = _shapes(a, state)
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


def load(path: checkpoint.Name, config: Config | None = None) -> Any:
    """The model of a folder with `config.json` and weights, or of a file of weights beside it, ready for use (`eval`);
    `config` takes its place. float32, whatever the weights are in. Its "model_type" is "bert" (a `Bert`), "gpt2" or
    "llama" (a `nn.LanguageModel`). Training drops at one rate everywhere, hidden_dropout_prob or resid_pdrop; a Llama
    drops nothing.

    A last layer among the weights that differs from the embedding is one of its own, whatever "tie_word_embeddings"
    says. Where the weights have none, and the embedding is not tied to it or "architectures" names a model without it
    (GPT2Model, LlamaModel), a `Headless` comes back, whose output is hidden states, as `AutoModel`'s in transformers.

    Raises `CheckpointError`, a ValueError, for another architecture, for an option that the model here does not have,
    for a configuration that makes no model, and for weights that are not its own, before memory is taken for any.

    >>> ts.models.load("all-MiniLM-L6-v2")                      # a folder that somebody has still to download
    Traceback (most recent call last):
    tinyseq.checkpoint.CheckpointNotFoundError: ...models.load: path all-MiniLM-L6-v2: config.json: No such file...
    >>> ts.models.load("model.safetensors", config={"model_type": "t5"})
    Traceback (most recent call last):
    tinyseq.checkpoint.CheckpointError: ...expected model_type to be one of 'bert', 'gpt2', 'llama', got 't5'
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
        state = checkpoint.rename(_own(state, family), family.names, strict=False)
        module: Any = family.module
        if module is LanguageModel:
            head = _head(state, tied, config)
            module, arguments["tied"] = (Headless, True) if head is None else (module, head)
        _agree(arguments, family.sizes, state)
        with init.skip():
            model = module(**arguments)
    if isinstance(model, Bert) and "pooler.weight" not in state:
        model.pooler = None
    model.load_state_dict(state)
    return model.eval()
