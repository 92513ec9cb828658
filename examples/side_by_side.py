"""Do PyTorch's own checkpoints give the same numbers here, and the same tokens?

torch.nn.Transformer (Vaswani et al. 2017), GPT-2 (Radford et al. 2019) and a Llama-like decoder (Touvron et al. 2023:
rotary positions, RMSNorm, SwiGLU, shared heads of keys and values) are made by PyTorch and the `transformers` library
with random weights, saved as their users save them, read by tinyseq, and asked the same. The baseline is PyTorch
itself: differences are float32's rounding.

    pip install 'tinyseq[reference]'
    python examples/side_by_side.py
"""

import argparse
import sys
import tempfile
from pathlib import Path
from _commands import pip_install

import numpy as np

import tinyseq as ts
from tinyseq import decode, models, nn

try:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
except ImportError as error:
    sys.exit(f"PyTorch is what is compared with here ({error}): {pip_install('torch', 'transformers')}")


def transformer(folder: Path) -> tuple[np.ndarray, np.ndarray, str]:
    """torch.nn.Transformer: its output and ours, target causal, and both padded."""
    theirs = torch.nn.Transformer(64, 4, 2, 2, 128, batch_first=True).eval()
    theirs.encoder.use_nested_tensor = False                        # so that padding keeps its place, as 0
    torch.save(theirs.state_dict(), folder / "transformer.pt")
    ours = nn.Transformer(64, 4, 2, 2, 128).eval()
    ours.load(folder / "transformer.pt")
    source, target = torch.randn(2, 9, 64), torch.randn(2, 7, 64)
    lengths = np.array([9, 5])
    padding = torch.tensor(np.arange(9) >= lengths[:, None])        # PyTorch's masks are True where nothing is
    future = torch.triu(torch.ones(7, 7, dtype=torch.bool), 1)
    expected = theirs(source, target, tgt_mask=future, src_key_padding_mask=padding, memory_key_padding_mask=padding)
    found = ours(ts.tensor(source.numpy()), ts.tensor(target.numpy()), lengths=lengths, causal=True)
    return expected.numpy(), found.numpy(), ""


def language_model(theirs: torch.nn.Module, folder: Path) -> tuple[np.ndarray, np.ndarray, str]:
    """A decoder's logits and ours; and whether 20 tokens generated greedily are the same."""
    theirs.eval().save_pretrained(folder)
    ours = models.load(folder)
    prompts = np.random.default_rng(0).integers(1, 100, (2, 6))
    begun = torch.tensor(prompts)
    written = theirs.generate(begun, attention_mask=torch.ones_like(begun), max_new_tokens=20, do_sample=False,
                              eos_token_id=None, pad_token_id=0)[:, 6:].tolist()
    state, last = ours.prompt(prompts.tolist())
    same = [h.tokens for h in decode.greedy(ours, state, last, end=-1, max_length=20)] == written
    return theirs(begun).logits.numpy(), ours(prompts).numpy(), f"20 tokens {'alike' if same else 'NOT alike'}"


@torch.no_grad()
@ts.no_grad()
def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.manual_seed(0)
    gpt2 = GPT2Config(vocab_size=100, n_positions=32, n_embd=64, n_layer=3, n_head=4, bos_token_id=0,
                      eos_token_id=0)
    llama = LlamaConfig(vocab_size=100, hidden_size=64, intermediate_size=96, num_hidden_layers=3,
                        num_attention_heads=4, num_key_value_heads=2)
    for name, check in {
        "torch.nn.Transformer": transformer,
        "GPT-2": lambda folder: language_model(GPT2LMHeadModel(gpt2), folder),
        "Llama-like": lambda folder: language_model(LlamaForCausalLM(llama), folder),
    }.items():
        with tempfile.TemporaryDirectory() as folder:
            expected, found, more = check(Path(folder))
        print(f"{name:22} theirs {expected.flat[:3].round(5)}  here {found.flat[:3].round(5)}  "
              f"largest difference {np.abs(expected - found).max():.1e}  {more}")


if __name__ == "__main__":
    main()
