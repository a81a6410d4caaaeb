"""Rows of predictions.csv, read one at a time: as text, those of 1000 classes would fill memory."""

import csv
import os
from collections.abc import Iterator, Sequence
from io import BufferedReader, TextIOWrapper
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from system.files import MAX_TABLE
from system.regular import open_regular

COLUMNS = ("split", "utterance", "speaker", "target", "pred")
GATE = "gate_mean"  # the last column, behind a prob_<class> for each class
ROUNDING = 1e-5  # by which a probability, written with six decimals, may be wrong


class Row(NamedTuple):
    """The prediction for one utterance."""

    utterance: str
    speaker: str
    target: int  # class index
    pred: int  # class index
    probs: NDArray  # (K,)
    gate: float | None  # mean over units, 1 = CQT, 0 = Mel


def prob_columns(classes: Sequence[str]) -> list[str]:
    """Return the names of the columns with the probabilities of the classes."""
    return [f"prob_{name}" for name in classes]


def read_rows(path: Path, classes: Sequence[str], split: str) -> Iterator[Row]:
    """Yield the rows of one split.

    Args:
        path: The file.
        classes: Class names, in the order of the targets.
        split: "dev" or "test".

    Raises:
        OSError: The file cannot be read.
        ValueError: It is too large, not such a table, or holds what no model predicts.
        csv.Error: It is not CSV.
    """
    names = [*COLUMNS, *prob_columns(classes), GATE]
    index = {name: i for i, name in enumerate(classes)}
    with TextIOWrapper(BufferedReader(open_regular(path)), "utf-8", newline="") as file:
        if os.fstat(file.fileno()).st_size > MAX_TABLE:
            raise ValueError(f"it is larger than {MAX_TABLE / 1e6:g} MB")
        lines = csv.reader(file)
        header = next(lines, [])
        if missing := [name for name in names if name not in header]:
            raise ValueError(f"it has no column {', '.join(missing[:3])}")
        places = [header.index(name) for name in names]
        for row in lines:
            if len(row) != len(header):
                raise ValueError(f"it is cut short in line {lines.line_num}")
            if row[places[0]] == split:
                try:
                    yield _read_row([row[place] for place in places], index)
                except (KeyError, ValueError) as error:
                    raise ValueError(f"line {lines.line_num}: {error}") from error


def _read_row(values: Sequence[str], index: dict[str, int]) -> Row:
    _, utterance, speaker, target, pred, *numbers, gate = values
    probs = np.array(numbers, dtype=float)
    share = float(gate) if gate else None
    if not (probs >= 0).all() or not abs(probs.sum() - 1) <= ROUNDING + ROUNDING * len(probs):
        raise ValueError("its probabilities are not numbers from 0 to 1 that add up to 1")
    row = Row(utterance, speaker, index[target], index[pred], probs, share)
    if probs[row.pred] < probs.max() - ROUNDING:
        raise ValueError(f"pred is {pred}, which is not the most probable class")
    if share is not None and not 0 <= share <= 1:
        raise ValueError(f"{GATE} is {gate}, not a number from 0 to 1")
    return row
