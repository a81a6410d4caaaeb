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
from torch.utils.tensorboard.summary import histogram, scalar

from evaluation.figures import MANY, short
from system.files import append

LOSS_TERMS = ("loss", "cross_entropy", "nt_xent", "consistency", "diversity")
GATE_BINS = np.linspace(0, 1, 51)
DPI = 100


class Tracker:
    """Writes one event file, begun with the first epoch that is logged.

    In a resumed fold it hides that epoch and later ones of earlier files.

    Args:
        folder: Folder of the fold.
        classes: Class names, in the order of the targets.

    Raises:
        RunError: The disk is full, lost or read-only, or the folder is gone.
    """

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        self.folder, self.classes = folder, classes
        self._file = folder / _file_name()

    def log_epoch(
        self,
        record: Mapping[str, float],
        confusion: NDArray | None,
        gate: NDArray | None,
        earlier: Sequence[Mapping[str, float]] = (),
    ) -> None:
        """Write one epoch, after the numbers of earlier ones that are not in this file.

        Args:
            record: Its row of the history.
            confusion: Dev confusion (K, K), or None.
            gate: Dev gate (N, D), or None.
            earlier: Rows of these epochs.

        Raises:
            RunError: The disk is full, lost or read-only, or the folder is gone.
        """
        records, step = [*earlier, record], int(record["epoch"])
        if not self._file.exists():
            _append(self._file, self._beginning(int(records[0]["epoch"])))
        summaries = [(int(row["epoch"]), summary) for row in records for summary in _numbers(row)]
        if gate is not None:
            summaries.append((step, histogram("gate, 1 = CQT, 0 = Mel", gate, GATE_BINS)))
        if confusion is not None:
            png = _png(confusion_figure(confusion, self.classes))
            summaries.append((step, _image("dev confusion", png)))
        _append(self._file, [Event(step=place, summary=summary) for place, summary in summaries])

    def _beginning(self, epoch: int) -> list[Event]:
        events = [Event(file_version="brain.Event:2")]
        if any(self.folder.glob("events.out.tfevents.*")):
            start = SessionLog(status=SessionLog.START)
            events.append(Event(step=epoch, session_log=start))
        return events


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


def _numbers(record: Mapping[str, float]) -> list[Summary]:
    return [scalar(_tag(name), value) for name, value in record.items() if _tag(name)]


def _file_name() -> str:
    return f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}.{os.getpid()}"


def _append(file: Path, events: Sequence[Event]) -> None:
    written = io.BytesIO()
    records = RecordWriter(written)
    for event in events:
        event.wall_time = time.time()
        records.write(event.SerializeToString())
    append(file, written.getvalue())


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
