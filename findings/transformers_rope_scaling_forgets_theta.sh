#!/usr/bin/env bash
# transformers: an old `rope_scaling` beside `rope_parameters` in config.json wins, and the base of the rotations is lost.
#
# Version: transformers 5.24.0, torch 2.13.0 (CPU), Python 3.11. Seen on 2026-11-29.
# Guess before: `rope_parameters`, which transformers 5 writes, is what it reads; an old key that says "default" (no
# scaling) beside it changes nothing.
# Behaviour: a Llama saved with rope_theta 500,000 has it inside `rope_parameters`. With
# `"rope_scaling": {"rope_type": "default"}` added to the file, as older tools write, the loaded configuration has
# rope_theta 10,000: every rotation has another frequency. Nothing is said, and the logits of the same weights differ by
# more than 1. With the theta repeated inside `rope_scaling`, or with null there, they are the same.
# What to do: one of the two keys in a file; a reader of such files should refuse both together.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6 transformers==5.24.0
cat > "$folder/rope.py" <<'PY'
import json
import sys
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

folder = Path(sys.argv[1], "model")
torch.manual_seed(0)
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
    initializer_range=1.0, rope_parameters={"rope_type": "default", "rope_theta": 500_000.0})).eval()
model.save_pretrained(folder)
written = json.loads((folder / "config.json").read_text())
tokens = torch.arange(1, 13)[None]
off = []
for scaling in (None, {"rope_type": "default"}, {"rope_type": "default", "rope_theta": 500_000.0}):
    (folder / "config.json").write_text(json.dumps(written | {"rope_scaling": scaling}))
    loaded = LlamaForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        off.append(float((loaded(tokens).logits - model(tokens).logits).abs().max()))
    print(f"rope_scaling {scaling}: theta {loaded.config.rope_parameters['rope_theta']:.0f}, logits off by {off[-1]:.3f}")
assert off[0] == off[2] == 0 and off[1] > 0.5, "no longer as described"
PY
"$folder/venv/bin/python" "$folder/rope.py" "$folder" 2> "$folder/said" || { cat "$folder/said" >&2; exit 1; }
echo "as described"
# Seen:
#   rope_scaling None: theta 500000, logits off by 0.000
#   rope_scaling {'rope_type': 'default'}: theta 10000, logits off by 1.902
#   rope_scaling {'rope_type': 'default', 'rope_theta': 500000.0}: theta 500000, logits off by 0.000
