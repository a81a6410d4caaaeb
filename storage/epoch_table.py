"""epochs.csv of a run folder: the epochs of all folds and seeds in one table.

It is written from the folds' history.csv, whole and atomically after each epoch. So it never has an
epoch twice and lacks none, wherever a training was killed and whichever process resumes it.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from storage.fold_folder import HISTORY, HISTORY_COLUMNS, read_table
from storage.run_folder import FOLDS
from system.files import write_csv
from system.locks import lock

EPOCHS = "epochs.csv"
FOLD = re.compile(r"fold-(\d+)_seed-(\d+)")


def write_epoch_table(folder: Path) -> None:
    """Write epochs.csv: fold, seed, and the columns of history.csv; sorted by fold and seed.

    Several processes may train folds of one run: who writes last has seen the epochs of all.

    Args:
        folder: The run folder.

    Raises:
        RunError: It cannot be written, or a history.csv is corrupt.
    """
    with lock(folder / ".lock.epochs", f"the table of epochs of {folder}", blocking=True):
        rows = list(_rows(folder))
        columns = list(dict.fromkeys(column for row in rows for column in row))
        write_csv(folder / EPOCHS, columns, ([row.get(c, "") for c in columns] for row in rows))


def _rows(folder: Path) -> Iterator[dict[str, str]]:
    found = []
    for file in folder.glob(f"{FOLDS}/*/{HISTORY}"):
        if match := FOLD.fullmatch(file.parent.name):
            found.append((int(match[1]), int(match[2]), file))
    for fold, seed, file in sorted(found):
        for row in read_table(file, HISTORY_COLUMNS, remove=file.parent):
            yield {"fold": str(fold), "seed": str(seed), **row}
