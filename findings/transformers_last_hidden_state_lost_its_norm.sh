#!/usr/bin/env bash
# transformers 5.0.0 and 5.24.0: the last of wav2vec 2.0's hidden_states is not the same tensor.
#
# Models with `do_stable_layer_norm` (the large ones) normalise what their last layer gives. With
# output_hidden_states=True version 5.0.0 returns as last entry what stands behind that norm, which
# is last_hidden_state; 5.24.0 returns what stands before it. modeling_outputs.py describes the tuple
# as the outputs of the embeddings and of each layer. A probe with weights for each layer (as
# SUPERB's) that was trained with one version reads another last layer with the other: same shapes,
# no message.
#
# Seen: 5.0.0: hidden_states[-1] equals last_hidden_state. 5.24.0: it does not; the norm of the
# encoder makes it so. All earlier entries are equal in both. Way out: take last_hidden_state in the
# place of hidden_states[-1].
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/probe.py" <<'PYTHON'
import torch
import transformers
from transformers import AutoConfig, AutoModel

torch.manual_seed(0)
config = AutoConfig.for_model(
    "wav2vec2",
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=64,
    conv_dim=(16,) * 7,
    num_conv_pos_embeddings=8,
    num_conv_pos_embedding_groups=2,
    feat_extract_norm="layer",
    do_stable_layer_norm=True,
)
model = AutoModel.from_config(config).eval()
with torch.no_grad():
    for parameter in model.parameters():
        parameter.copy_(0.2 * torch.sin(torch.arange(parameter.numel())).reshape(parameter.shape))
    output = model(torch.sin(torch.arange(8000) * 0.1)[None], output_hidden_states=True)
    last = output.hidden_states[-1]
    norm = model.encoder.layer_norm(last)
print(
    transformers.__version__,
    "equal to last_hidden_state:",
    torch.allclose(last, output.last_hidden_state, atol=1e-6),
    "after the norm:",
    torch.allclose(norm, output.last_hidden_state, atol=1e-6),
    "entries:",
    len(output.hidden_states),
)
PYTHON
cd "$work"
for version in 5.0.0 5.24.0; do
    python3 -m venv "venv-$version"
    "venv-$version/bin/pip" install --quiet --disable-pip-version-check \
        torch==2.14.1 "transformers==$version"
    "venv-$version/bin/python" probe.py | tee -a found.txt
done
grep -q "^5.0.0 equal to last_hidden_state: True after the norm: False entries: 3$" found.txt
grep -q "^5.24.0 equal to last_hidden_state: False after the norm: True entries: 3$" found.txt
echo "as described: the last entry lost its norm"
