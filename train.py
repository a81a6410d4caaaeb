"""Train a fusion without a gate, or one branch: `python train.py --config configs/iemocap.yaml`."""

import sys

from config.fusions import UNGATED
from system.cli import run_entry
from train_gmu import main

if __name__ == "__main__":
    run_entry(main, sys.argv[1:], __doc__, UNGATED, "train_gmu.py")
