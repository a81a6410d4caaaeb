#!/usr/bin/env bash
# Train the variants of configs/ablation/fusion on the same folds and compare each with NAME_gmu.
#   scripts/ablation_fusion.sh demo
#   scripts/ablation_fusion.sh iemocap --only cross_attention cqt_only mel_only --jobs 4 --dry-run
# As scripts/ablation.sh in all else: what was stopped goes on, what is finished is not repeated.
set -euo pipefail
exec "$(dirname "$0")/ablation.sh" --study fusion "$@"
