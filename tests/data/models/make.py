"""How the files beside this one were made: python make.py, with the `reference` extra installed."""

from pathlib import Path

import numpy as np
import torch
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

HERE = Path(__file__).parent
MODELS = {
    "bert": (BertModel, BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=12)),
    "gpt2": (GPT2LMHeadModel, GPT2Config(
        vocab_size=40, n_positions=24, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)),
    "llama": (LlamaForCausalLM, LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=24, bos_token_id=0, eos_token_id=0)),
}


@torch.no_grad()
def main() -> None:
    expected, rng = {}, np.random.default_rng(0)
    for seed, (name, (make, config)) in enumerate(MODELS.items()):
        torch.manual_seed(seed)
        model = make(config).eval()
        for parameter in model.parameters():  # far from their initial distribution, where biases are 0 and norms 1
            parameter.add_(0.3 * torch.randn_like(parameter))
        model.save_pretrained(HERE / name)
        (HERE / name / "generation_config.json").unlink(missing_ok=True)
        tokens = torch.tensor(rng.integers(1, 40, (3, 7)))
        expected[f"{name}.tokens"] = tokens
        if name == "bert":
            mask = torch.arange(7) < torch.tensor([[7], [3], [5]])
            types = torch.tensor(rng.integers(0, 2, (3, 7)))
            found = model(tokens, mask, types)
            expected |= {"bert.mask": mask, "bert.types": types, "bert.pooled": found.pooler_output,
                         "bert.hidden": found.last_hidden_state * mask[..., None]}
        else:
            expected[f"{name}.logits"] = model(tokens).logits
            expected[f"{name}.generated"] = model.generate(
                tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=12, do_sample=False, eos_token_id=None,
                pad_token_id=0)[:, 7:]
    np.savez_compressed(HERE / "expected.npz", **{key: value.numpy() for key, value in expected.items()})


if __name__ == "__main__":
    main()
