#!/usr/bin/env bash
# timm 1.0.31 with torch 2.14.1: gradient checkpointing of MaxViT counts every batch twice.
#
# `model.set_grad_checkpointing()` runs the blocks of each stage again in the backward pass. The
# batch norms in them are in training mode then, too, and move their running statistics a second
# time: after one step they have moved by 1 - (1 - m)^2 of the way to the batch instead of m (m is
# the momentum), and `num_batches_tracked` is 2. Gradients are equal, so the training loss is the
# same; the evaluation, which reads these statistics, is another. The stem, outside the blocks,
# counts once.
#
# Seen: 0 of the batch norms in stages at 1, all at 2; running means as far as two moves lead.
# Installs some gigabytes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 timm==1.0.31
cd "$work"
venv/bin/python - <<'PYTHON'
import timm
import torch
from torch import nn


def train_once(checkpointing: bool) -> tuple[dict[str, nn.BatchNorm2d], list[torch.Tensor]]:
    torch.manual_seed(0)
    model = timm.create_model("test_maxvit", img_size=64, in_chans=1, num_classes=4).train()
    model.set_grad_checkpointing(checkpointing)
    torch.manual_seed(1)
    model(torch.rand(8, 1, 64, 64)).square().sum().backward()
    norms = {n: m for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    return norms, [p.grad for p in model.parameters()]


plain, slopes = train_once(False)
twice, others = train_once(True)
assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(slopes, others, strict=True))
for name, norm in plain.items():
    counted, again = norm.num_batches_tracked.item(), twice[name].num_batches_tracked.item()
    assert (counted, again) == ((1, 2) if name.startswith("stages.") else (1, 1)), name
name = next(name for name in plain if name.startswith("stages."))
norm, m = plain[name], plain[name].momentum
batch = norm.running_mean / m  # it began at 0
assert torch.allclose(twice[name].running_mean, (1 - (1 - m) ** 2) * batch, rtol=1e-4)
print(f"{name}: momentum {m}; batches counted: {norm.num_batches_tracked.item()} without,",
      f"{twice[name].num_batches_tracked.item()} with gradient checkpointing")
print("as described: equal gradients, running statistics moved twice")
PYTHON
