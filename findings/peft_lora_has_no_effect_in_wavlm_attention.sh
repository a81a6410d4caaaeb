#!/usr/bin/env bash
# peft 0.21.2 with transformers 5.24.0: LoRA in the attention of WavLM is never computed, and nothing
# says so.
#
# WavLM's attention does not call its linear layers `q_proj`, `k_proj`, `v_proj` and `out_proj`. It
# hands their weights to torch's multi_head_attention_forward. An adapter wraps the call of a layer,
# and so is never asked. It is counted as trainable, its parameters get no gradient (None, not zero),
# and whatever is written into them leaves the output as it was. These four are the usual targets of
# LoRA. In the feed-forward part (`intermediate_dense`, `output_dense`) adapters work, and so they do
# in the attention of wav2vec 2.0 and HuBERT, which call their layers.
#
# Seen: WavLM, targets q_proj and v_proj: 256 trainable parameters, no gradient, equal output with
# adapters full of ones. The same with output_dense: gradients, another output. HuBERT with q_proj
# and v_proj: gradients, another output. Way out: name the feed-forward layers, and look at the
# gradients of one step.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.14.1 transformers==5.24.0 peft==0.21.2
cd "$work"
venv/bin/python - <<'PYTHON'
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModel

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 2,
}


def adapted(kind: str, targets: list[str]) -> tuple[int, int, bool]:
    """Return trainable parameters, those with a gradient, whether adapters of ones have an effect."""
    torch.manual_seed(0)
    model = AutoModel.from_config(AutoConfig.for_model(kind, **SMALL))
    model = get_peft_model(model, LoraConfig(r=2, target_modules=targets)).eval()
    waveform, head = torch.randn(1, 8000), torch.nn.Linear(32, 2)  # as in a training
    output = model(waveform).last_hidden_state
    head(output).square().sum().backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    n = sum(p.numel() for p in trained)
    n_with_gradient = sum(p.numel() for p in trained if p.grad is not None)
    with torch.no_grad():
        for parameter in trained:
            parameter.fill_(1.0)
        changed = not torch.equal(model(waveform).last_hidden_state, output)
    return n, n_with_gradient, changed


found = {
    (kind, targets): adapted(kind, targets.split())
    for kind, targets in (
        ("wavlm", "q_proj v_proj"),
        ("wavlm", "output_dense"),
        ("hubert", "q_proj v_proj"),
    )
}
for (kind, targets), (n, with_gradient, changed) in found.items():
    print(f"{kind}, {targets}: {n} trainable, {with_gradient} with a gradient, output changed: {changed}")
assert found["wavlm", "q_proj v_proj"] == (256, 0, False)
assert found["wavlm", "output_dense"] == (192, 192, True)
assert found["hubert", "q_proj v_proj"] == (256, 256, True)
print("as described: adapters in WavLM's attention are never computed")
PYTHON
