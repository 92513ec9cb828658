#!/usr/bin/env bash
# onnx's ReferenceEvaluator leaves out attributes and inputs of recurrent nodes, in silence.
#
# Version: onnx 1.23.2, NumPy 2.4.6, Python 3.11. Seen on 2026-11-29.
# Guess before: the reference implementation computes what the operator's specification says, or raises.
# Behaviour: for models that `onnx.checker` accepts,
#   - GRU and LSTM compute with Sigmoid and Tanh whatever `activations` names;
#   - `clip` changes nothing in RNN, GRU and LSTM, `input_forget` nothing in LSTM;
#   - `sequence_lens` changes nothing in all three: past a row's length Y is not 0, and Y_h is the state after the padding.
# So a converter that is tested against the reference evaluator alone passes with any of these wrong.
# What to do: judge recurrent nodes by another runtime.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnx==1.23.2 numpy==2.4.6
cat > "$folder/nodes.py" <<'PY'
import numpy as np
import onnx
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

STEPS, BATCH, INPUT, HIDDEN = 4, 2, 3, 2
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def run(op: str, lengths: list[int] | None = None, **attributes: object) -> list[np.ndarray]:
    """Y and Y_h of one node with weights drawn from a fixed seed."""
    rng, rows = np.random.default_rng(0), GATES[op] * HIDDEN
    feeds = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in (
        ("X", (STEPS, BATCH, INPUT)), ("W", (1, rows, INPUT)), ("R", (1, rows, HIDDEN)), ("B", (1, 2 * rows)))}
    if lengths is not None:
        feeds["lens"] = np.array(lengths, np.int32)
    inputs = [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
              for name, a in feeds.items()]
    outputs = [helper.make_tensor_value_info("Y", TensorProto.FLOAT, (STEPS, 1, BATCH, HIDDEN)),
               helper.make_tensor_value_info("Y_h", TensorProto.FLOAT, (1, BATCH, HIDDEN))]
    node = helper.make_node(op, list(feeds), ["Y", "Y_h"], hidden_size=HIDDEN, **attributes)
    model = helper.make_model(helper.make_graph([node], "one", inputs, outputs))
    onnx.checker.check_model(model)
    return ReferenceEvaluator(model).run(None, feeds)


for op, attributes in (("GRU", {"activations": ["Relu", "Relu"]}), ("LSTM", {"activations": ["Relu"] * 3}),
                       ("RNN", {"clip": 0.1}), ("GRU", {"clip": 0.1}), ("LSTM", {"clip": 0.1}),
                       ("LSTM", {"input_forget": 1})):
    difference = max(float(np.abs(a - b).max()) for a, b in zip(run(op, **attributes), run(op)))
    print(f"{op:4} {attributes}: differs from the defaults by {difference}")
    assert difference == 0, "no longer as described"
for op in GATES:
    y, last = run(op, lengths=[4, 2])
    beyond, own, padded = np.abs(y[2:, 0, 1]).max(), np.abs(last[0, 1] - y[1, 0, 1]).max(), np.abs(last[0, 1] - y[3, 0, 1]).max()
    print(f"{op:4} lengths [4, 2]: Y past the second row's end up to {beyond:.2f}; Y_h off its last real step by "
          f"{own:.2f}, off the last step of all by {padded:.2f}")
    assert beyond > 0 and own > 0 and padded == 0, "no longer as described"
PY
"$folder/venv/bin/python" "$folder/nodes.py"
echo "as described"
# Seen:
#   GRU  {'activations': ['Relu', 'Relu']}: differs from the defaults by 0.0
#   (the same for the five lines that follow)
#   RNN  lengths [4, 2]: Y past the second row's end up to 0.94; Y_h off its last real step by 1.33, off the last step of all by 0.00
#   GRU  ... 0.79 ... 0.92 ... 0.00
#   LSTM ... 0.65 ... 0.91 ... 0.00
