"""TensorBoard: curves of one fold (losses, rates, dev scores, gates, confusion); an analysis.

The events of an epoch are appended at once and synced, by this thread. TensorBoard's own writer
uses a second thread, which prints a traceback when the disk is full and leaves half a record.
"""

import io
import os
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import histogram, hparams, scalar

from evaluation.figures import MANY, short
from system.files import append, atomic_write

LOSS_TERMS = ("loss", "cross_entropy", "ccc_loss", "nt_xent", "consistency", "diversity")
GATE = "gate, 1 = CQT, 0 = Mel"
SHARE = "gate_mean_"  # begins the columns of the history that have the shares of n sources
SCORES = "scores.tfevents"  # behind all others in the order of names, in which they are read
GATE_BINS = np.linspace(0, 1, 51)
DPI = 100
Hyperparameter = str | int | float | bool


class Tracker:
    """Writes one event file, begun with the first epoch that is logged, and one with the scores.

    In a resumed fold it hides that epoch and later ones of earlier files.

    Args:
        folder: Folder of the fold.
        classes: Class names, in the order of the targets.
        hyperparameters: Shown in the tab HPARAMS beside the scores.
    """

    name = "tensorboard"

    def __init__(
        self,
        folder: Path,
        classes: Sequence[str],
        hyperparameters: Mapping[str, Hyperparameter] | None = None,
    ) -> None:
        self.folder, self.classes = folder, classes
        self.hyperparameters = dict(hyperparameters or {})
        self._file = folder / _file_name()
        self._logged: set[int] | None = None  # epochs in the files; None before the first

    def start(self) -> None:
        """Do nothing: files are begun with the first epoch."""

    def log_epoch(
        self,
        history: Sequence[Mapping[str, float]],
        confusion: NDArray | None,
        gate: NDArray | None,
        n_new: int = 1,
    ) -> None:
        """Write the newest epochs, and the numbers of earlier ones that are not in the files.

        Args:
            history: Rows of all epochs.
            confusion: Dev confusion of the last (K, K); None is not shown.
            gate: Its dev gate, (N, D) or (N, n, D) of n sources, if there is one.
            n_new: Number of its last rows that replace what the files have.

        Raises:
            RunError: The disk is full, lost or read-only, or the folder is gone.
        """
        epoch = int(history[-1]["epoch"])
        events, logged = self._beginning(epoch + 1 - n_new)
        missing = [row for row in history if row["epoch"] not in logged]
        if not missing:
            return
        events += [event for row in missing for event in _numbers(row)]
        for name, values in _gates(history[-1], gate):
            events.append(Event(step=epoch, summary=histogram(name, values, GATE_BINS)))
        if confusion is not None:
            figure = _image("dev confusion", _png(confusion_figure(confusion, self.classes)))
            events.append(Event(step=epoch, summary=figure))
        _append(self._file, events)
        self._logged = {int(row["epoch"]) for row in history}

    def _beginning(self, epoch: int) -> tuple[list[Event], set[int]]:
        """Return what goes before an epoch, and the epochs that are in the files and stay."""
        if self._logged is not None:
            logged, events, hides = self._logged, [], epoch in self._logged
        else:
            hides = any(self.folder.glob("events.out.tfevents.*"))
            logged = _epochs_in(self.folder) if hides else set()
            events = [Event(file_version="brain.Event:2")]
        if hides:  # this epoch and all later ones
            events.append(Event(step=epoch, session_log=SessionLog(status=SessionLog.START)))
        return events, {earlier for earlier in logged if earlier < epoch}

    def log_scores(self, scores: Mapping[str, float], step: int) -> None:
        """Write scores and hyperparameters in a file of their own, as often as it takes.

        Args:
            scores: Scores of the finished fold by tag.
            step: Number of its epochs.

        Raises:
            RunError: The file cannot be written.
        """
        summaries = [scalar(tag, value) for tag, value in scores.items()]
        summaries += hparams(self.hyperparameters, dict(scores))
        events = [Event(step=step, summary=summary) for summary in summaries]
        data = _records([Event(file_version="brain.Event:2"), *events])
        with atomic_write(self.folder / SCORES, len(data)) as temporary:
            temporary.write_bytes(data)

    def end(self, status: str) -> None:
        """Do nothing: all is on the disk."""


def write_analysis(
    folder: Path,
    scalars: Mapping[str, float],
    histograms: Mapping[str, NDArray],
    images: Mapping[str, bytes],
) -> None:
    """Write the results of a gate analysis as one event file, all at step 0.

    Args:
        folder: Folder without events of another analysis.
        scalars: Values by tag.
        histograms: Gates by tag.
        images: PNG files by tag.

    Raises:
        RunError: The disk is full, lost or read-only, or the folder is gone.
    """
    summaries = [scalar(tag, value) for tag, value in scalars.items()]
    summaries += [histogram(tag, values, GATE_BINS) for tag, values in histograms.items()]
    summaries += [_image(tag, png) for tag, png in images.items()]
    events = [Event(step=0, summary=summary) for summary in summaries]
    _append(folder / _file_name(), [Event(file_version="brain.Event:2"), *events])


def _file_name() -> str:
    return f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"


def _append(file: Path, events: Sequence[Event]) -> None:
    append(file, _records(events))


def _records(events: Sequence[Event]) -> bytes:
    written = io.BytesIO()
    records = RecordWriter(written)
    for event in events:
        event.wall_time = time.time()
        records.write(event.SerializeToString())
    return written.getvalue()


def _numbers(row: Mapping[str, float]) -> list[Event]:
    summaries = [scalar(_tag(name), value) for name, value in row.items() if _tag(name)]
    return [Event(step=int(row["epoch"]), summary=summary) for summary in summaries]


def _epochs_in(folder: Path) -> set[int]:
    """Return the epochs that TensorBoard finds in the event files of a fold."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # slow

    events = EventAccumulator(str(folder), {"scalars": 0, "images": 1, "histograms": 1}).Reload()
    shown = "loss/loss" in events.Tags()["scalars"]
    return {event.step for event in events.Scalars("loss/loss")} if shown else set()


def _gates(row: Mapping[str, float], gate: NDArray | None) -> list[tuple[str, NDArray]]:
    """Return the histograms of a gate; of n sources one each, named as in the history's row."""
    if gate is None:
        return []
    if gate.ndim == 2:
        return [(GATE, gate)]
    names = [key.removeprefix(SHARE) for key in row if key.startswith(SHARE)]
    return [(f"gate, share of {name}", gate[:, i]) for i, name in enumerate(names)]


def _tag(name: str) -> str:
    """Return what TensorBoard calls a column of the history; empty is not shown.

    >>> _tag("nt_xent"), _tag("lr_cqt"), _tag("dev_ua"), _tag("rank_cqt"), _tag("epoch")
    ('loss/nt_xent', 'learning_rate/cqt', 'dev/ua', 'health/rank_cqt', '')
    """
    if name in LOSS_TERMS:
        return f"loss/{name}"
    kind, _, rest = name.partition("_")
    if kind in ("grad", "gate", "rank", "alignment", "uniformity", "temperature"):
        return f"health/{name}"
    group = {"lr": "learning_rate", "dev": "dev"}.get(kind)
    return f"{group}/{rest}" if group else ""


def _image(tag: str, png: bytes) -> Summary:
    width, height = struct.unpack(">II", png[16:24])
    image = Summary.Image(height=height, width=width, colorspace=4, encoded_image_string=png)
    return Summary(value=[Summary.Value(tag=tag, image=image)])


def _png(figure: Figure) -> bytes:
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=DPI)
    return png.getvalue()


def confusion_figure(confusion: NDArray, classes: Sequence[str]) -> Figure:
    """Draw counts by target (row) and prediction (column), coloured by recall: (K, K).

    Beyond `MANY` classes the figure grows no further: it has no numbers then, and the
    names of as many classes, at equal distances.
    """
    n = len(classes)
    side = 1.6 + 0.7 * min(n, MANY)  # inches
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    share = confusion / confusion.sum(1, keepdims=True).clip(min=1)
    axes.imshow(share, vmin=0, vmax=1, cmap="Blues", interpolation="nearest")
    if n <= MANY:
        for (row, column), count in np.ndenumerate(confusion):
            colour = "white" if share[row, column] > 0.5 else "black"
            number = axes.text(column, row, str(count), ha="center", va="center", color=colour)
            number.set_in_layout(False)  # it is inside: to measure 400 texts takes seconds
    named = range(0, n, -(-n // MANY))
    names = [short(classes[k]) for k in named]
    axes.set_xticks(named, names, rotation=45, ha="right", parse_math=False)
    axes.set_yticks(named, names, parse_math=False)
    axes.set_xlabel("predicted")
    axes.set_ylabel("spoken as")
    return figure
