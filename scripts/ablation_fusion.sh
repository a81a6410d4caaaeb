#!/usr/bin/env bash
# Train the variants of configs/ablation/fusion on the same folds and compare each with NAME_gmu.
#   scripts/ablation_fusion.sh demo
#   scripts/ablation_fusion.sh iemocap --only cross_attention cqt_only mel_only --jobs 4 --dry-run
# Otherwise as scripts/ablation.sh: run the command again to resume; finished jobs are skipped.
set -euo pipefail
exec "$(dirname "$0")/ablation.sh" --variants fusion "$@"
