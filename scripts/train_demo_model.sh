#!/usr/bin/env bash
# Make a small model to try things with, on a CPU: synthesise the demo corpus if it is missing, train
# the two folds of configs/demo_gmu.yaml, then a final model on all utterances. Its speech is
# synthetic: it says nothing about people.
#   scripts/train_demo_model.sh
# `make demo-model` sets up .venv first. Run it again to resume; what is finished is skipped.
set -euo pipefail
cd "$(dirname "$0")/.."
default=python
[ -x .venv/bin/python ] && default=.venv/bin/python
python="${PYTHON:-$default}"
echo "[1/3] The demo corpus in data/demo: about a minute, if it is missing"
[ -f data/demo/demo.json ] || "$python" -m scripts.make_demo_corpus
echo "[2/3] Two folds of demo_gmu: some minutes"
"$python" train_gmu.py --config configs/demo_gmu.yaml
echo "[3/3] A final model on all utterances: some minutes"
"$python" -m scripts.fit_all runs/demo_gmu
recordings=(data/demo/Session1/sentences/wav/*/*.wav)
echo "The model is in runs/demo_gmu/final/seed-0. Try it:"
echo "  $python predict.py runs/demo_gmu/final/seed-0 ${recordings[0]}"
