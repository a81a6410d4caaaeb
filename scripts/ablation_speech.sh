#!/usr/bin/env bash
# Train the variants of configs/ablation/speech on the same folds, and cheap baselines, and compare
# each with NAME_gmu.
#   scripts/ablation_speech.sh ravdess_wavlm
#   scripts/ablation_speech.sh iemocap_wavlm --only images speech_only --jobs 4 --dry-run
# Otherwise as scripts/ablation.sh: run the command again to resume; finished jobs are skipped.
set -euo pipefail
exec "$(dirname "$0")/ablation.sh" --variants speech "$@"
