#!/usr/bin/env bash
# Train the variants of configs/ablation/contrastive on the same folds and compare each with
# NAME_gmu_contrastive.
#   scripts/ablation_contrastive.sh demo
#   scripts/ablation_contrastive.sh esd --only positives ignored corpus.root=/path/to/ESD
# As scripts/ablation.sh in all else: what was stopped goes on, what is finished is not repeated.
set -euo pipefail
exec "$(dirname "$0")/ablation.sh" --study contrastive "$@"
