"""Train a gated fusion: `python train_gmu.py --config configs/iemocap_gmu.yaml`."""

import sys

from config.fusions import GATED
from training.command import train_command

if __name__ == "__main__":
    sys.exit(train_command(sys.argv[1:], __doc__ or "", GATED, "train.py"))
