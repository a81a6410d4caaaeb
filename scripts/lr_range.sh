#!/usr/bin/env bash
# Say with a figure whether a config's learning rate is usable for its model and optimizers.
#   scripts/lr_range.sh configs/demo_gmu.yaml optim.lr=0.02
#   scripts/lr_range.sh configs/ravdess_small_gmu.yaml corpus.root=/path/to/ravdess --steps 300
# Paths start from the repository. experiments/lr_range.py says what usable means.
set -euo pipefail
cd "$(dirname "$0")/.."
default=python
[ -x .venv/bin/python ] && default=.venv/bin/python
exec "${PYTHON:-$default}" -m scripts.lr_range "$@"
