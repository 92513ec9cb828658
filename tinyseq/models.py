"""Released architectures, built from the layers here, and the names that their checkpoints give to the parameters.

    model = models.load("all-MiniLM-L6-v2")         # a folder with config.json and weights, as model hubs hold them

What a checkpoint calls its tensors stands in `BERT`, `GPT2` and `LLAMA`, as data for `checkpoint.rename`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tinyseq import checkpoint, ops
from tinyseq.nn import init
from tinyseq.nn.layers import Dropout, Embedding, LayerNorm, Linear
from tinyseq.nn.module import Module
from tinyseq.nn.multihead import cut_padding
from tinyseq.nn.transformer import LanguageModel, LearnedPositions, TransformerEncoder, TransformerEncoderLayer
from tinyseq.tensor import Like, Tensor

Config = Mapping[str, Any]
Rules = Mapping[str | tuple[str, ...], str | None]

BERT: Rules = {
    "embeddings.word_embeddings.weight": "embedding.weight",
    "embeddings.position_embeddings.weight": "positions.weight",
    "embeddings.token_type_embeddings.weight": "types.weight",
    "embeddings.LayerNorm.gamma": "norm.weight", "embeddings.LayerNorm.beta": "norm.bias",  # the first checkpoints
    "encoder.layer.{}.attention.output.LayerNorm.gamma": "encoder.layers.{}.norm1.weight",
    "encoder.layer.{}.attention.output.LayerNorm.beta": "encoder.layers.{}.norm1.bias",
    "encoder.layer.{}.output.LayerNorm.gamma": "encoder.layers.{}.norm2.weight",
    "encoder.layer.{}.output.LayerNorm.beta": "encoder.layers.{}.norm2.bias",
    "embeddings.LayerNorm.{}": "norm.{}",
    "embeddings.position_ids": None,
    ("encoder.layer.{}.attention.self.query.{}", "encoder.layer.{}.attention.self.key.{}",
     "encoder.layer.{}.attention.self.value.{}"): "encoder.layers.{}.self_attn.in_proj_{}",
    "encoder.layer.{}.attention.output.dense.{}": "encoder.layers.{}.self_attn.out_proj.{}",
    "encoder.layer.{}.attention.output.LayerNorm.{}": "encoder.layers.{}.norm1.{}",
    "encoder.layer.{}.intermediate.dense.{}": "encoder.layers.{}.linear1.{}",
    "encoder.layer.{}.output.dense.{}": "encoder.layers.{}.linear2.{}",
    "encoder.layer.{}.output.LayerNorm.{}": "encoder.layers.{}.norm2.{}",
    "pooler.dense.{}": "pooler.{}",
}
GPT2: Rules = {
    "wte.weight": "embedding.weight", "wpe.weight": "positions.weight", "ln_f.{}": "norm.{}",
    "h.{}.ln_1.{}": "layers.{}.norm1.{}", "h.{}.ln_2.{}": "layers.{}.norm2.{}",
    "h.{}.attn.c_attn.weight.T": "layers.{}.self_attn.in_proj_weight",  # its weights are (in, out)
    "h.{}.attn.c_attn.bias": "layers.{}.self_attn.in_proj_bias",
    "h.{}.attn.c_proj.weight.T": "layers.{}.self_attn.out_proj.weight",
    "h.{}.attn.c_proj.bias": "layers.{}.self_attn.out_proj.bias",
    "h.{}.mlp.c_fc.weight.T": "layers.{}.linear1.weight", "h.{}.mlp.c_fc.bias": "layers.{}.linear1.bias",
    "h.{}.mlp.c_proj.weight.T": "layers.{}.linear2.weight", "h.{}.mlp.c_proj.bias": "layers.{}.linear2.bias",
    "h.{}.attn.bias": None, "h.{}.attn.masked_bias": None, "lm_head.weight": "out.weight",
}
LLAMA: Rules = {
    "embed_tokens.weight": "embedding.weight", "norm.weight": "norm.weight", "lm_head.weight": "out.weight",
    ("layers.{}.self_attn.q_proj.weight", "layers.{}.self_attn.k_proj.weight", "layers.{}.self_attn.v_proj.weight"):
        "layers.{}.self_attn.in_proj_weight",
    "layers.{}.self_attn.o_proj.weight": "layers.{}.self_attn.out_proj.weight",
    ("layers.{}.mlp.gate_proj.weight", "layers.{}.mlp.up_proj.weight"): "layers.{}.linear1.weight",
    "layers.{}.mlp.down_proj.weight": "layers.{}.linear2.weight",
    "layers.{}.input_layernorm.weight": "layers.{}.norm1.weight",
    "layers.{}.post_attention_layernorm.weight": "layers.{}.norm2.weight",
    "layers.{}.self_attn.rotary_emb.inv_freq": None,
}
ACTIVATIONS = {  # their names, and ours
    "gelu": "gelu", "gelu_python": "gelu", "gelu_new": "gelu_tanh", "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu", "silu": "silu", "swish": "silu"}


class Bert(Module):
    """BERT's encoder (Devlin et al. 2019): tokens, positions and segments embedded and summed, then post-norm layers.

    forward(tokens (B, T), lengths (B,) or None, types (B, T), which segment, or None for 0) -> hidden (B, T, E), 0
    after a row's end, and the pooler's tanh(W h_1 + b) of the first position, (B, E), or None without a pooler.
    """

    def __init__(
        self, vocab_size: int, d_model: int, nhead: int, num_layers: int, dim_feedforward: int, max_length: int = 512,
        segments: int = 2, activation: str = "gelu", layer_norm_eps: float = 1e-12, dropout: float = 0.1,
        dtype: Any = np.float32,
    ) -> None:
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
        if words.ndim != 3 or words.shape[1] > self.positions.weight.shape[0]:
            raise ValueError(f"Bert: expected tokens (B, T) of at most {self.positions.weight.shape[0]} positions, got "
                             f"shape {words.shape[:-1]}")
        segments = self.types.weight[0] if types is None else self.types(types)
        hidden: Tensor = self.encoder(self.dropout(self.norm(self.positions(words + segments))), lengths=lengths)
        hidden = ops.pad(hidden, [(0, 0), (0, cut), (0, 0)]) if cut else hidden
        return hidden, None if self.pooler is None else ops.tanh(self.pooler(ops.sum(hidden[:, :1], 1)))


def _activation(name: str) -> str:
    if name not in ACTIVATIONS:
        raise ValueError(f"expected an activation of {', '.join(ACTIVATIONS)}, got {name!r}")
    return ACTIVATIONS[name]


def _positive(config: Config, name: str, default: float) -> float:
    if not isinstance(value := config.get(name, default), (int, float)) or not 0 < value < math.inf:
        raise ValueError(f"expected {name} as a positive number, got {value!r}")
    return value


def _bert(config: Config) -> Bert:
    return Bert(config["vocab_size"], config["hidden_size"], config["num_attention_heads"],
                config["num_hidden_layers"], config["intermediate_size"], config["max_position_embeddings"],
                config["type_vocab_size"], _activation(config["hidden_act"]),
                _positive(config, "layer_norm_eps", 1e-12), config.get("hidden_dropout_prob", 0.1))


def _gpt2(config: Config) -> LanguageModel:
    width = config["n_embd"]
    return LanguageModel(
        config["vocab_size"], width, config["n_head"], config["n_layer"], config.get("n_inner") or 4 * width,
        config.get("resid_pdrop", 0.1), max_length=config["n_positions"], tied=config.get("tie_word_embeddings", True),
        activation=_activation(config.get("activation_function", "gelu_new")),
        layer_norm_eps=_positive(config, "layer_norm_epsilon", 1e-5))


def _llama(config: Config) -> LanguageModel:
    rope = {**config, **(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    heads, kind = config["num_attention_heads"], rope.get("rope_type", rope.get("type", "default"))
    if kind != "default" or config.get("head_dim") not in (None, config["hidden_size"] // heads):
        raise ValueError(f"models: llama: expected default rotary positions, and heads that share the width, got "
                         f"{kind!r} and head_dim {config.get('head_dim')}")
    return LanguageModel(
        config["vocab_size"], config["hidden_size"], heads, config["num_hidden_layers"], config["intermediate_size"],
        0.0, positions="rotary", rotary_base=_positive(rope, "rope_theta", 1e4), norm="rms", bias=False,
        activation="swiglu", num_kv_heads=config.get("num_key_value_heads") or heads,
        layer_norm_eps=_positive(config, "rms_norm_eps", 1e-6), tied=config.get("tie_word_embeddings", False))


class Architecture(NamedTuple):
    """How a configuration becomes a module, what it calls its sizes (words, width, inner width, layers, learned
    positions and segments), a prefix that some checkpoints put before names, the names, those that do not belong to it,
    and what must stand in the configuration, if anything does."""

    build: Callable[[Config], Module]
    sizes: tuple[str, ...]
    prefix: str
    names: Rules
    foreign: str | tuple[str, ...]
    expected: Config


_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
ARCHITECTURES = {
    "bert": Architecture(
        _bert, (*_SIZES, "max_position_embeddings", "type_vocab_size"), "bert.", BERT,
        ("cls.", "classifier.", "qa_outputs."), {
            "position_embedding_type": "absolute", "is_decoder": False}),
    "gpt2": Architecture(
        _gpt2, ("vocab_size", "n_embd", "n_inner", "n_layer", "n_positions"), "transformer.", GPT2, "score.", {
            "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False}),
    "llama": Architecture(_llama, _SIZES, "model.", LLAMA, "score.", {
        "hidden_act": "silu", "attention_bias": False, "mlp_bias": False}),
}


def _agree(config: Config, names: Sequence[str], state: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Refuse sizes that the weights do not have, before anything as large is built."""
    table, last = state.get("embedding.weight"), [v for k, v in state.items() if k.endswith(".linear2.weight")]
    if table is None or not last or table.ndim != 2 or last[0].ndim != 2:
        raise ValueError(f"expected matrices called embedding.weight and ...linear2.weight among the weights, got "
                         f"{sorted(state)[:5]}")
    places = [len(state[key]) for key in ("positions.weight", "types.weight") if key in state]
    sizes = zip(names, (*table.shape, last[0].shape[1], len(last), *places), strict=False)
    wrong = [f"{name} is {config[name]!r} where the weights have {size}" for name, size in sizes
             if config.get(name, size) not in (size, None)]
    if wrong:
        raise ValueError(", ".join(wrong))


def load(path: str | os.PathLike[str], config: Config | None = None) -> Any:
    """The model of a folder with `config.json` and weights, or of a file of weights beside it, ready for use (`eval`);
    `config` takes its place. float32, whatever the weights are in. Its "model_type" is "bert" (a `Bert`), "gpt2" or
    "llama" (a `nn.LanguageModel`). Training drops at one rate everywhere, hidden_dropout_prob or resid_pdrop; a Llama
    drops nothing.

    Raises ValueError for another architecture, and for an option that the model here does not have; `CheckpointError`
    for a configuration that makes no model; it and `Module.load_state_dict`'s errors for weights that do not fit.
    """
    with checkpoint._blame(f"{path}: config"):
        folder = Path(path).parent if os.path.isfile(path) else path
        config = dict(json.loads(Path(folder, "config.json").read_text("utf-8")) if config is None else config)
    kind = config.get("model_type")
    if kind not in list(ARCHITECTURES):  # it may be anything
        raise ValueError(f"models: {path}: expected a model_type of {', '.join(ARCHITECTURES)}, got {kind!r}")
    build, sizes, prefix, names, foreign, expected = ARCHITECTURES[kind]
    wrong = [f"{key}={config[key]!r}" for key, value in expected.items() if config.get(key, value) != value]
    if wrong:
        raise ValueError(f"models: {path}: {kind} is not implemented here with {', '.join(wrong)}")
    state = checkpoint.load(path)
    if other := [key for key, value in state.items() if not (isinstance(key, str) and isinstance(value, np.ndarray))]:
        raise checkpoint.CheckpointError(f"{path}: expected tensors by name, and {other[:5]} are none")
    state = {key.removeprefix(prefix): value for key, value in state.items() if not key.startswith(foreign)}
    state = checkpoint.rename(state, names)
    with checkpoint._blame(f"{path}: config"), init.skip():
        _agree(config, sizes, state)
        model = build(config)
    if isinstance(model, LanguageModel) and model.out.weight is model.embedding.weight and (
            "embedding.weight" in state):
        state["out.weight"] = state["embedding.weight"]
    if isinstance(model, Bert) and "pooler.weight" not in state:
        model.pooler = None
    model.load_state_dict(state)
    return model.eval()
