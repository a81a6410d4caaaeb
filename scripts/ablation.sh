#!/usr/bin/env bash
# Train concat, gmu and gmu_contrastive on the same folds, and cheap baselines (--no-baselines leaves
# them out), and print one table.
#   scripts/ablation.sh demo
#   scripts/ablation.sh iemocap --jobs 4 corpus.root=/path/to/IEMOCAP_full_release "run.seeds=[0,1,2]"
#   scripts/ablation.sh iemocap corpus.root=/path/to/IEMOCAP_full_release --dry-run
#   scripts/ablation.sh demo --frozen "run.seeds=[0,1,2]"   # heads on branches that are trained once
# Paths start from the repository. Run the same command again to resume; finished jobs are skipped.
# scripts/ablation.py says how.
set -euo pipefail
cd "$(dirname "$0")/.."
default=python
[ -x .venv/bin/python ] && default=.venv/bin/python
exec "${PYTHON:-$default}" -m scripts.ablation "$@"
