#!/usr/bin/env bash
# Train the variants of configs/ablation/contrastive on the same folds and compare each with
# NAME_gmu_contrastive.
#   scripts/ablation_contrastive.sh demo
#   scripts/ablation_contrastive.sh esd --only positives ignored corpus.root=/path/to/ESD
# Otherwise as scripts/ablation.sh: run the command again to resume; finished jobs are skipped.
set -euo pipefail
exec "$(dirname "$0")/ablation.sh" --variants contrastive "$@"
