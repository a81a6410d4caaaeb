"""Training and evaluation of one model on one split; corpora and run folders are unknown here."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from tqdm import tqdm

from data import Batch, PictureLoader
from errors import RunError
from files import damaged, load_state, save_state, save_tensors
from losses import FusionLoss, LossTerms
from metrics import scores
from optim import Schedule


class Predictions(NamedTuple):
    """What a model says of every clip of a split, in the split's order."""

    targets: NDArray  # (N,)
    probs: NDArray  # (N, K)
    gate: NDArray | None  # (N, D), 1 = CQT, 0 = Mel
    loss: float  # mean cross-entropy

    @property
    def preds(self) -> NDArray:
        """Most probable class of each clip: (N,)."""
        return self.probs.argmax(1)


@dataclass
class Progress:
    """How far a training has come; with the weights and optimizers, all that resuming needs."""

    epoch: int = 0  # epochs done
    best_epoch: int = 0
    best_ua: float = -1.0
    history: list[dict[str, float]] = field(default_factory=list)

    def waited(self) -> int:
        """Epochs since the best one."""
        return self.epoch - self.best_epoch


class Trainer:
    """One model with its loss, optimizers and schedule.

    Args:
        model: Not yet wrapped; returns a `FusionOutput`.
        criterion: Reads logits, targets and views.
        optimizers: All stepped together.
        schedule: Moves their rates.
        accelerator: Device, precision, processes.
        seed: Of dropout; with epoch and process it decides all chance in an epoch.
        accumulate: Batches a step.
        clip_grad_norm: Largest gradient norm, or None.
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: FusionLoss,
        optimizers: Sequence[Optimizer],
        schedule: Schedule,
        accelerator: Accelerator,
        seed: int = 0,
        accumulate: int = 1,
        clip_grad_norm: float | None = None,
    ) -> None:
        self.plain_model = model
        self.model = accelerator.prepare(model)
        self.criterion = criterion.to(accelerator.device)
        self.optimizers, self.schedule, self.accelerator = optimizers, schedule, accelerator
        self.seed, self.accumulate, self.clip_grad_norm = seed, accumulate, clip_grad_norm
        self.progress = Progress()

    def fit(
        self,
        train_loader: DataLoader | PictureLoader,
        dev_loader: DataLoader,
        epochs: int,
        patience: int | None,
        weights_file: Path,
        state_file: Path,
        after_epoch: Callable[[dict[str, float], Predictions], None] = lambda record, dev: None,
        bar: tqdm | None = None,
    ) -> Progress:
        """Train, keep the weights with the best dev UA, save the state after every epoch.

        Goes on from `progress`, see `load`. Selection, schedule and early stopping all read dev
        UA; of equal epochs the first is kept.
        """
        while self.progress.epoch < epochs and not self._out_of_patience(patience):
            train_loader.batch_sampler.set_epoch(self.progress.epoch)  # type: ignore[union-attr]
            losses = self.train_one_epoch(train_loader, bar)
            dev = evaluate(self.model, dev_loader, self.accelerator)
            record = self._record(losses, dev)
            self.schedule.after_epoch(record["dev_ua"])
            if record["dev_ua"] > self.progress.best_ua:
                self.progress.best_ua = record["dev_ua"]
                self.progress.best_epoch = self.progress.epoch
                if self.accelerator.is_main_process:
                    save_tensors(weights_file, self.plain_model.state_dict())
            if self.accelerator.is_main_process:
                after_epoch(record, dev)
                save_state(state_file, self.state())
            if bar is not None:
                bar.set_postfix(loss=f"{record['loss']:.3f}", dev_ua=f"{record['dev_ua']:.3f}")
        self.accelerator.wait_for_everyone()
        return self.progress

    def train_one_epoch(self, loader: Iterable[Batch], bar: tqdm | None = None) -> dict[str, float]:
        """Take one pass over the training split and return the mean of each loss term.

        Raises:
            RunError: The loss is NaN or infinite; the last whole epoch is kept on disk.
        """
        torch.manual_seed(_seed_of(self.seed, self.progress.epoch, self.accelerator.process_index))
        sums: dict[str, float] = {}
        for window in _windows(loader, self.accumulate):
            for batch, terms in zip(window, self.step(window), strict=True):
                _add(sums, terms, len(batch.targets))
            if bar is not None:
                bar.update(len(window))
        n = sums.pop("n")
        return {name: value / n for name, value in sums.items()}

    def step(self, window: Sequence[Batch]) -> list[LossTerms]:
        """Take one optimizer step on the mean loss of some batches, and return their losses."""
        self.model.train()
        found = []
        for i, batch in enumerate(window):
            batch = batch.to(self.accelerator.device)
            is_last = i + 1 == len(window)
            with nullcontext() if is_last else self.accelerator.no_sync(self.model):
                terms = self._loss(batch)
                self.accelerator.backward(terms.total / len(window))
            found.append(terms.detach())
        if self.clip_grad_norm is not None:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.clip_grad_norm)
        for optimizer in self.optimizers:
            optimizer.step()
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        self.schedule.after_step()
        return found

    def state(self) -> dict[str, Any]:
        """Return all that a later process needs to go on as if nothing had happened."""
        return {
            "progress": vars(self.progress),
            "model": self.plain_model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "schedule": self.schedule.state_dict(),
        }

    def load(self, state_file: Path) -> None:
        """Go on from a saved state."""
        state = load_state(state_file)
        try:
            self.progress = Progress(**state["progress"])
            self.plain_model.load_state_dict(state["model"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.schedule.load_state_dict(state["schedule"])
        except (RuntimeError, KeyError, TypeError, ValueError) as error:
            raise damaged(state_file, str(error).splitlines()[0]) from error

    def _loss(self, batch: Batch) -> LossTerms:
        output = self.model(batch.cqt, batch.mel)
        views = None
        if output.z_cqt is not None:
            views = gather_views(output.z_cqt), gather_views(output.z_mel)
        terms = self.criterion(output.logits, batch.targets, views, batch.mix)
        if not torch.isfinite(terms.total):
            rates = ", ".join(f"{rate:g}" for rate in self.schedule.rates())
            raise RunError(
                f"the loss became {float(terms.total.detach())} in epoch {self.progress.epoch + 1} "
                f"(learning rates {rates}): lower optim.lr, set train.clip_grad_norm, or use "
                "train.precision=float32. The state of the last whole epoch is kept"
            )
        return terms

    def _record(self, losses: Mapping[str, float], dev: Predictions) -> dict[str, float]:
        """Close the epoch and return its row of the history."""
        self.progress.epoch += 1
        found = scores(dev.targets.tolist(), dev.preds.tolist(), dev.probs.shape[1])
        record = {"epoch": self.progress.epoch, "loss": losses["total"]}
        record |= {name: value for name, value in losses.items() if name != "total"}
        record |= {
            f"lr_{part}": rate
            for part, rate in zip(("cqt", "mel", "head"), self.schedule.rates(), strict=True)
        }
        record |= {"dev_loss": dev.loss}
        record |= {f"dev_{name}": found[name] for name in ("ua", "wa", "macro_f1", "weighted_f1")}
        self.progress.history.append(record)
        return record

    def _out_of_patience(self, patience: int | None) -> bool:
        return patience is not None and self.progress.waited() >= patience


@torch.inference_mode()
def evaluate(model: nn.Module, loader: DataLoader, accelerator: Accelerator) -> Predictions:
    """Predict every clip of a split once: the mean over its crops, whatever the processes.

    Raises:
        RunError: A prediction is NaN.
    """
    model.eval()
    parts: list[tuple[NDArray, ...]] = []
    for batch in loader:
        batch = batch.to(accelerator.device)
        output = model(batch.cqt, batch.mel)
        logits = output.logits.float()
        losses = F.cross_entropy(logits, batch.targets, reduction="none")  # (B,)
        gates = output.gate.float() if output.gate is not None else logits[:, :0]  # (B, D or 0)
        tensors = (batch.clip, batch.targets, logits.softmax(1), gates, losses)
        parts.append(tuple(tensor.cpu().numpy() for tensor in tensors))
    if accelerator.num_processes > 1:
        parts = gather_object(parts)
    columns = zip(*parts, strict=True)
    clip, targets, probs, gate, ce = (np.concatenate(column) for column in columns)
    if not np.isfinite(probs).all():
        raise RunError("the model predicts NaN: its weights have diverged; lower optim.lr")
    order = clip.argsort(kind="stable")
    starts = np.unique(clip[order], return_index=True)[1]  # of each clip's crops
    n_crops = np.diff(starts, append=len(order))

    def over_crops(column: NDArray) -> NDArray:
        total = np.add.reduceat(column[order], starts, axis=0)
        return total / n_crops.reshape(-1, *[1] * (column.ndim - 1)).astype(column.dtype)

    return Predictions(
        targets[order][starts],
        over_crops(probs),
        over_crops(gate) if gate.shape[1] else None,
        float(over_crops(ce).mean()),
    )


def gather_views(z: Tensor) -> Tensor:
    """Join the views of all processes, so that every clip on any of them is a negative.

    Each process computes the same loss of all views and has the gradient of its own alone; DDP then
    averages, so the own part's gradient is multiplied by the number of processes.

    Shape:
        (B, P) -> (world * B, P)
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return z
    world, rank = dist.get_world_size(), dist.get_rank()
    pieces = [torch.empty_like(z) for _ in range(world)]
    dist.all_gather(pieces, z.detach().contiguous())
    pieces[rank] = z.detach() + world * (z - z.detach())  # value z, gradient world times
    return torch.cat(pieces)


def _windows(loader: Iterable[Batch], n: int) -> Iterator[list[Batch]]:
    """Yield the batches n at a time; the last window may be shorter."""
    window: list[Batch] = []
    for batch in loader:
        window.append(batch)
        if len(window) == n:
            yield window
            window = []
    if window:
        yield window


def _add(sums: dict[str, float], terms: LossTerms, n: int) -> None:
    """Add up the losses of n clips."""
    for name, value in terms._asdict().items():
        if value is not None:
            sums[name] = sums.get(name, 0.0) + float(value) * n
    sums["n"] = sums.get("n", 0.0) + n


def _seed_of(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0])
