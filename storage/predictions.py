"""Rows of predictions.csv, read one at a time: as text, those of 1000 classes would fill memory.

The columns are those in `COLUMNS`, then those of the format of the task, then `GATE`, and of gated
fusions of other sources than both images `gate_<source>`:

    class       target, pred: class names; prob_<class>
    dimensions  target_<dimension>, pred_<dimension>: ratings in units of the corpus
    distribution  target, pred: class names; target_<class>, prob_<class>: shares
"""

import csv
import os
from collections.abc import Callable, Iterator, Sequence
from io import BufferedReader, TextIOWrapper
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from config.fusions import SOURCES, share_column
from config.tasks import CLASS, DISTRIBUTION, RATINGS
from system.files import MAX_TABLE
from system.regular import open_regular

COLUMNS = ("split", "utterance", "speaker")
GATE = "gate_mean"  # the last column
ROUNDING = 1e-5  # by which a probability, written with six decimals, may be wrong

Cells = tuple[list[str], list[str]]  # before and after the times of a segment


class Row(NamedTuple):
    """The prediction for one utterance."""

    utterance: str
    speaker: str
    target: Any  # class index, or (D,) ratings
    pred: Any  # likewise
    probs: NDArray  # (K,) probabilities, or (D,) ratings
    gate: float | None  # mean over units, 1 = CQT, 0 = Mel
    shares: tuple[float, ...] = ()  # of each source, mean over units; of others than both images


class Format(Protocol):
    """The columns of one task."""

    before: Sequence[str]
    after: Sequence[str]

    def cells(self, target: Any, pred: Any, probs: NDArray) -> Cells:
        """Return the cells of a prediction."""

    def read(self, before: Sequence[str], after: Sequence[str]) -> tuple[Any, Any, NDArray]:
        """Return target, prediction and outputs of some cells."""

    def column(self, values: Sequence[Any]) -> NDArray:
        """Return targets or predictions of all rows as an array."""


class ClassFormat:
    """Names of classes, and the probability of each.

    Args:
        classes: Class names, in the order of the targets.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes, self.index = classes, {name: i for i, name in enumerate(classes)}
        self.before: Sequence[str] = ("target", "pred")
        self.after: Sequence[str] = [f"prob_{name}" for name in classes]

    def cells(self, target: Any, pred: Any, probs: NDArray) -> Cells:
        """Return the cells of a prediction."""
        return [self.classes[target], self.classes[pred]], [f"{p:.6f}" for p in probs]

    def read(self, before: Sequence[str], after: Sequence[str]) -> tuple[Any, Any, NDArray]:
        """Return class indices and probabilities.

        Raises:
            ValueError: They are not what a model predicts.
        """
        target, pred = (self.index[name] for name in before)
        probs = np.array(after, dtype=float)
        if not (probs >= 0).all() or not abs(probs.sum() - 1) <= ROUNDING + ROUNDING * len(probs):
            raise ValueError("its probabilities are not numbers from 0 to 1 that add up to 1")
        if probs[pred] < probs.max() - ROUNDING:
            raise ValueError(f"pred is {before[1]}, which is not the most probable class")
        return target, pred, probs

    def column(self, values: Sequence[Any]) -> NDArray:
        """Return class indices: (N,)."""
        return np.array(values, dtype=int)


class RatingFormat:
    """Ratings, and the predicted ones.

    Args:
        dimensions: Names of the dimensions, in the order of the targets.
    """

    def __init__(self, dimensions: Sequence[str]) -> None:
        self.n = len(dimensions)
        self.before: Sequence[str] = [f"target_{name}" for name in dimensions]
        self.after: Sequence[str] = [f"pred_{name}" for name in dimensions]

    def cells(self, target: Any, pred: Any, probs: NDArray) -> Cells:
        """Return the cells of a prediction."""
        return [f"{rating:.6f}" for rating in target], [f"{rating:.6f}" for rating in probs]

    def read(self, before: Sequence[str], after: Sequence[str]) -> tuple[Any, Any, NDArray]:
        """Return ratings, and twice the predicted ones.

        Raises:
            ValueError: They are not finite numbers.
        """
        target, pred = np.array(before, dtype=float), np.array(after, dtype=float)
        if not np.isfinite([*target, *pred]).all():
            raise ValueError("its ratings are not finite numbers")
        return target, pred, pred

    def column(self, values: Sequence[Any]) -> NDArray:
        """Return ratings: (N, D)."""
        return np.array(values, dtype=float).reshape(len(values), self.n)


class VoteFormat(ClassFormat):
    """Shares of the raters' votes and the predicted ones; `target` has most votes, `pred` leads.

    Shares have six digits, however small: their logarithms enter scores.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__(classes)
        self.after = [*(f"target_{name}" for name in classes), *self.after]

    def cells(self, target: Any, pred: Any, probs: NDArray) -> Cells:
        """Return the cells of a prediction."""
        named = [self.classes[int(np.argmax(target))], self.classes[pred]]
        return named, [f"{share:.6g}" for share in (*target, *probs)]

    def read(self, before: Sequence[str], after: Sequence[str]) -> tuple[Any, Any, NDArray]:
        """Return shares of votes, class index and predicted shares.

        Raises:
            ValueError: They are not shares.
        """
        n = len(self.classes)
        _, pred, shares = super().read(before, after[n:])
        _, _, target = super().read([before[0], before[0]], after[:n])  # its own leader
        return target, pred, shares

    def column(self, values: Sequence[Any]) -> NDArray:
        """Return shares (N, K), or class indices (N,)."""
        return np.array(values)


FORMATS: dict[str, Callable[[Sequence[str]], Format]] = {
    CLASS: ClassFormat,
    RATINGS: RatingFormat,
    DISTRIBUTION: VoteFormat,
}


def read_rows(path: Path, form: Format, split: str) -> Iterator[Row]:
    """Yield the rows of one split.

    Args:
        path: The file.
        form: Columns of the task.
        split: "dev" or "test".

    Raises:
        OSError: The file cannot be read.
        ValueError: It is too large, not such a table, or holds what no model predicts.
        csv.Error: It is not CSV.
    """
    names = [*COLUMNS, *form.before, *form.after, GATE]
    with TextIOWrapper(BufferedReader(open_regular(path)), "utf-8", newline="") as file:
        if os.fstat(file.fileno()).st_size > MAX_TABLE:
            raise ValueError(f"it is larger than {MAX_TABLE / 1e6:g} MB")
        lines = csv.reader(file)
        header = next(lines, [])
        if missing := [name for name in names if name not in header]:
            raise ValueError(f"it has no column {', '.join(missing[:3])}")
        places = [header.index(name) for name in names]
        shares = [header.index(name) for name in map(share_column, SOURCES) if name in header]
        for row in lines:
            if len(row) != len(header):
                raise ValueError(f"it is cut short in line {lines.line_num}")
            if row[places[0]] == split:
                try:
                    found = _read_row([row[place] for place in places], form)
                    yield found._replace(shares=_shares([row[place] for place in shares]))
                except (KeyError, ValueError) as error:
                    raise ValueError(f"line {lines.line_num}: {error}") from error


def _shares(cells: Sequence[str]) -> tuple[float, ...]:
    shares = tuple(map(float, cells))
    if shares and not (min(shares) >= 0 and abs(sum(shares) - 1) <= ROUNDING * len(shares)):
        raise ValueError(f"shares of the gate are {', '.join(cells)}, which do not add up to 1")
    return shares


def _read_row(values: Sequence[str], form: Format) -> Row:
    _, utterance, speaker, *cells, gate = values
    n = len(form.before)
    share = float(gate) if gate else None
    target, pred, probs = form.read(cells[:n], cells[n:])
    if share is not None and not 0 <= share <= 1:
        raise ValueError(f"{GATE} is {gate}, not a number from 0 to 1")
    return Row(utterance, speaker, target, pred, probs, share)
