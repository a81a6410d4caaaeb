"""Train a gated fusion: `python train_gmu.py --config configs/iemocap_gmu.yaml`."""

import sys

from cli import train_command
from schema import GATED

if __name__ == "__main__":
    sys.exit(train_command(sys.argv[1:], __doc__ or "", GATED, "train.py"))
