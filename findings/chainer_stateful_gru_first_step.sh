#!/usr/bin/env bash
# Chainer: a StatefulGRU leaves three of its biases out of its first step.
#
# Version: Chainer 7.8.1, NumPy 1.23.5 (CPU), Python 3.8. Seen on 2026-11-30.
# Guess before: L.StatefulGRU after reset_state() begins with h = 0, so its first output is that of L.StatelessGRU, which
# has the same parameters and equations, for h = 0.
# Behaviour: without a state the links U, U_r and U_z are not called at all, and their biases (which are trained from the
# second step on) are missing: z = sigmoid(W_z x + b) and n = tanh(W x + b) alone. The outputs of the two links differ from
# the first step on. With set_state(zeros) they are the same.
# What to do: when weights go elsewhere, compare with set_state(zeros), or expect the first steps of each row to differ.
# It runs with a Python 3.8 or 3.9, which Chainer needs: PYTHON=python3.8 findings/chainer_stateful_gru_first_step.sh
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3.8}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet chainer==7.8.1 numpy==1.23.5
cat > "$folder/gru.py" <<'PY'
import chainer
import chainer.links as L
import numpy as np

rng = np.random.RandomState(0)
stateful, stateless = L.StatefulGRU(3, 4), L.StatelessGRU(3, 4)
for (name, p), (same, q) in zip(sorted(stateful.namedparams()), sorted(stateless.namedparams())):
    assert name == same
    p.array[...] = q.array[...] = rng.standard_normal(p.shape)
x, zeros = rng.standard_normal((2, 3)).astype(np.float32), np.zeros((2, 4), np.float32)
expected = stateless(chainer.Variable(zeros), x).array
off = float(abs(stateful(x).array - expected).max())
stateful.set_state(chainer.Variable(zeros))
given = float(abs(stateful(x).array - expected).max())
print(f"first step of StatefulGRU beside StatelessGRU's from zeros: off by {off:.3f}; with set_state(zeros) by {given:.1e}")
assert off > 0.05 and given < 1e-6, "no longer as described"
PY
"$folder/venv/bin/python" -W ignore "$folder/gru.py"
