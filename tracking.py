"""TensorBoard of one fold: losses apart, learning rates, dev scores, gate histogram, confusion."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter

LOSS_TERMS = ("loss", "cross_entropy", "nt_xent", "consistency", "diversity")


class Tracker:
    """Writes one event file, begun with the first epoch that is logged.

    In a resumed fold it hides what earlier files say of that epoch and of later ones.

    Args:
        folder: Of the fold.
        classes: Names, in the order of the targets.
    """

    def __init__(self, folder: Path, classes: Sequence[str]) -> None:
        self.folder, self.classes = folder, classes
        self._writer: SummaryWriter | None = None

    def log_epoch(
        self, record: Mapping[str, float], confusion: NDArray, gate: NDArray | None
    ) -> None:
        """Write one epoch: its row of the history, dev confusion (K, K), dev gate (N, D)."""
        epoch = int(record["epoch"])
        writer = self._begin(epoch)
        for name, value in record.items():
            if name in LOSS_TERMS:
                writer.add_scalar(f"loss/{name}", value, epoch)
            elif name.startswith("lr_"):
                writer.add_scalar(f"learning_rate/{name[3:]}", value, epoch)
            elif name.startswith("dev_"):
                writer.add_scalar(f"dev/{name[4:]}", value, epoch)
        if gate is not None:
            writer.add_histogram("gate, 1 = CQT, 0 = Mel", gate, epoch)
        writer.add_figure("dev confusion", confusion_figure(confusion, self.classes), epoch)
        writer.flush()

    def close(self) -> None:
        """Finish the event file."""
        if self._writer is not None:
            self._writer.close()

    def _begin(self, epoch: int) -> SummaryWriter:
        if self._writer is None:
            resumed = any(self.folder.glob("events.out.tfevents.*"))
            self._writer = SummaryWriter(str(self.folder), purge_step=epoch if resumed else None)
        return self._writer


def confusion_figure(confusion: NDArray, classes: Sequence[str]) -> Figure:
    """Draw counts by target (row) and prediction (column), coloured by recall: (K, K)."""
    side = 1.6 + 0.7 * len(classes)  # inches
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    share = confusion / confusion.sum(1, keepdims=True).clip(min=1)
    axes.imshow(share, vmin=0, vmax=1, cmap="Blues")
    for row, counts in enumerate(confusion):
        for column, count in enumerate(counts):
            colour = "white" if share[row, column] > 0.5 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=colour)
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("predicted")
    axes.set_ylabel("spoken as")
    return figure
