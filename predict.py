"""Label recordings: `python predict.py runs/demo_gmu/folds/fold-1_seed-0 recording.wav ...`."""

import argparse
import os
import sys
from pathlib import Path

from corpora.splits import SPEAKER_DEPENDENT
from corpora.stamps import speaker_stamp
from storage.folders import check_is_fold
from system.cli import run_cli, run_entry
from system.errors import InputError


def main() -> int:
    """Print a line for each recording, and what is unlike the training data; return the status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("fold", type=Path, metavar="FOLD", help="folder of a finished fold")
    parser.add_argument("recordings", nargs="+", type=Path, metavar="FILE", help="WAV, FLAC, OGG")
    arguments = parser.parse_args()

    def work() -> None:
        check_is_fold(arguments.fold)
        if not any(os.path.lexists(path) for path in arguments.recordings):
            raise InputError(f"there is no file {', '.join(map(str, arguments.recordings))}")
        from inference.predictor import FoldModel, label_table  # slow: torch, timm
        from inference.unlike import unlike_lines

        model = FoldModel(arguments.fold)
        if SPEAKER_DEPENDENT in model.protocol:
            stamp = speaker_stamp(model.protocol)
            print(f"{stamp}; other speakers may fare worse", file=sys.stderr)
        labels = [model.label(path) for path in arguments.recordings]
        print(label_table(labels))
        outside = {str(label.path): label.unlike for label in labels}
        for line in unlike_lines(outside, model.training_data):
            print(line, file=sys.stderr)
        bad = sum(label.problem is not None for label in labels)
        if bad:
            raise InputError(f"{bad} of {len(labels)} files are not usable audio, see above")

    return run_cli(work)


if __name__ == "__main__":
    run_entry(main)
