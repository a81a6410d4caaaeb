#!/usr/bin/env bash
# torch 2.14.1 with safetensors 0.6.2: a fused AdamW goes on with the moments of other elements.
#
# A channels-last kernel has channels-last moments. safetensors takes contiguous tensors alone, so a
# saved state holds contiguous moments; `load_state_dict` keeps that order. A fused optimizer then
# walks through weight, gradient and moments as they lie in memory, and pairs each weight with the
# moments of another one. Nothing is said; the plain optimizer goes on exactly.
#
# Seen (CPU): after two steps, a restore and two more, the plain optimizer has equal weights, the
# fused one differs by more than the learning rate. Way out: copy loaded moments into
# `torch.empty_like(parameter)`. Installs some gigabytes.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.14.1 safetensors==0.6.2 numpy packaging
cd "$work"
venv/bin/python - <<'PYTHON'
import torch
from safetensors.torch import load_file, save_file

LR = 0.1


def train(fused: bool, restored: bool) -> torch.Tensor:
    torch.manual_seed(1)
    kernel = torch.nn.Parameter(torch.randn(4, 3, 3, 3).to(memory_format=torch.channels_last))
    optimizer = torch.optim.AdamW([kernel], lr=LR, fused=fused)
    for step in range(4):
        if restored and step == 2:
            moments = optimizer.state_dict()["state"][0]
            save_file({k: v.contiguous() for k, v in moments.items()}, "state.safetensors")
            groups = optimizer.state_dict()["param_groups"]
            optimizer = torch.optim.AdamW([kernel], lr=LR, fused=fused)
            saved = {"state": {0: load_file("state.safetensors")}, "param_groups": groups}
            optimizer.load_state_dict(saved)
        gradient = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(step))
        kernel.grad = gradient.to(memory_format=torch.channels_last)
        optimizer.step()
    return kernel.detach()


apart = {}
for fused in (False, True):
    apart[fused] = float((train(fused, False) - train(fused, True)).abs().max())
    print(f"fused={fused}: the restored training differs by {apart[fused]:.3f}")
assert apart[False] == 0 and apart[True] > LR
print("as described: the fused optimizer went on with permuted moments")
PYTHON
