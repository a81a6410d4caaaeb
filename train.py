"""Train a fusion without a gate, or one branch: `python train.py --config configs/iemocap.yaml`."""

import sys

from config.fusions import UNGATED
from training.command import train_command

if __name__ == "__main__":
    sys.exit(train_command(sys.argv[1:], __doc__ or "", UNGATED, "train_gmu.py"))
