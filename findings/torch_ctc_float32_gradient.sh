#!/usr/bin/env bash
# torch's ctc_loss in float32: over long inputs the loss is right and the gradient is not.
#
# Version: torch 2.13.0 (CPU), Python 3.11. Seen on 2026-11-29.
# Guess before: the forward and backward variables are logarithms, so both the loss and the gradient have float32's
# error, about 1e-6, whatever the length.
# Behaviour: alpha and beta are sums over all frames and grow with the length, to thousands; the gradient is
# exp(alpha + beta - loss), a difference of such numbers, and an ulp of 30,000 is 0.002. Against float64 on the very
# same input (64 classes, a label every 10 frames) the loss stays within 1e-5, the gradient is off, in norm, by
#     100 frames 0.00007, 1,000 frames 0.002, 4,000 frames 0.02, 12,000 frames 0.08
# and by up to 0.12 of its largest entry. Nothing warns: the loss looks exact.
# What to do: over long inputs hand ctc_loss float64 log-probabilities (the network can stay in float32).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cat > "$folder/ctc.py" <<'PY'
import torch


def loss_and_gradient(x: torch.Tensor, dtype: torch.dtype) -> tuple[float, torch.Tensor]:
    frames = x.shape[0]
    labels = (torch.arange(frames // 10) % 63 + 1)[None]
    x = x.detach().to(dtype).requires_grad_()
    log_probs = x.log_softmax(-1)
    loss = torch.nn.functional.ctc_loss(log_probs, labels, [frames], [frames // 10], reduction="sum")
    loss.backward()
    return loss.item(), x.grad.double()


off = {}
for frames in (100, 1_000, 4_000, 12_000):
    torch.manual_seed(0)
    x = torch.randn(frames, 1, 64)
    (narrow, g), (wide, right) = loss_and_gradient(x, torch.float32), loss_and_gradient(x, torch.float64)
    off[frames] = float((g - right).norm() / right.norm())
    print(f"{frames:6} frames: loss off by {abs(narrow - wide) / wide:.0e}, gradient off by {off[frames]:.5f}")
    assert abs(narrow - wide) / wide < 1e-5
assert off[100] < 0.001 and 0.01 < off[4_000] < 0.04 and 0.04 < off[12_000] < 0.2, "no longer as described"
PY
"$folder/venv/bin/python" "$folder/ctc.py"
echo "as described"
