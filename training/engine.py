"""Training of one model on one split, through stops; corpora and run folders are unknown here."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader
from tqdm import tqdm

from data import Batch, ImageLoader
from evaluation.metrics import scores
from models.losses import FusionLoss, LossTerms
from storage.checkpoints import Checkpoints
from system.files import corrupt_file
from system.signals import Stop
from training.collapse import Signs, alarms
from training.distributed import (
    average_gradients,
    check_number,
    gather_labels,
    gather_views,
    on_any_process,
)
from training.divergence import PARTS, Diverged, describe, is_finite
from training.evaluate import Predictions, evaluate
from training.keeper import Keeper, Snapshot
from training.optim import Schedule, clip_gradients
from training.progress import Progress

log = logging.getLogger(__name__)
T = TypeVar("T")


class Trainer:
    """One model with its loss, optimizers and schedule.

    Args:
        model: Not yet wrapped; returns a `FusionOutput`.
        criterion: Reads logits, targets and views.
        optimizers: All stepped together.
        schedule: Moves their rates.
        accelerator: Device, precision, processes.
        seed: With epoch, batch and process it decides all chance of a step.
        accumulate: Batches a step.
        clip_grad_norm: Largest gradient norm, or None.
        max_bad_steps: Steps in a row that may be skipped because something is not finite.
        names: Of the clips of `train` and `dev`, for messages.
        stop: Says when to end early.
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
        max_bad_steps: int = 3,
        names: Mapping[str, Sequence[str]] | None = None,
        stop: Stop | None = None,
    ) -> None:
        self.plain_model = model
        self.model = accelerator.prepare(model)
        self.criterion = criterion.to(accelerator.device)
        self.optimizers, self.schedule, self.accelerator = optimizers, schedule, accelerator
        self.seed, self.accumulate, self.clip_grad_norm = seed, accumulate, clip_grad_norm
        self.max_bad_steps, self.names, self.stop = max_bad_steps, names or {}, stop or Stop()
        self.progress = Progress()
        self.signs = Signs(model)
        self.trained = [*model.parameters(), *self.criterion.parameters()]

    def fit(
        self,
        train_loader: DataLoader | ImageLoader,
        dev_loader: DataLoader,
        epochs: int,
        patience: int | None,
        checkpoints: Checkpoints,
        minutes: float | None = None,
        after_epoch: Callable[[dict[str, float], Predictions], None] = lambda record, dev: None,
        bar: tqdm | None = None,
    ) -> Progress:
        """Train, or go on with it; every epoch's end is kept, and the weights with the best dev UA.

        Selection, schedule and early stopping all read dev UA; of equal epochs the first is best.

        Args:
            train_loader: Batches of the training split.
            dev_loader: Batches of the dev split.
            epochs: At most.
            patience: Epochs without a better dev UA before training stops, or None.
            checkpoints: Where states are kept, and where the newest of them is found.
            minutes: Between two states within an epoch, or None.
            after_epoch: Gets each row of the history and the dev predictions, on one process.
            bar: Is moved with each batch.

        Raises:
            KeyboardInterrupt: The process was asked to end; the state is saved.
            RunError: Something is not finite and stays so; the last good state is kept.
        """
        bar = bar or tqdm(disable=True)
        keeper = Keeper(checkpoints, minutes, self.stop, self.accelerator, self._snapshot)
        self._begin(checkpoints, keeper)
        bar.update(self.progress.epoch * len(train_loader) + self.progress.batch)
        with self.stop.deferred():
            while not self.progress.is_done(epochs, patience):
                try:
                    self.train_one_epoch(train_loader, bar, keeper)
                    dev = self._evaluate(keeper.watched(dev_loader))
                except Diverged as found:
                    self._go_back(found, checkpoints, keeper)
                    continue
                record = self._close_epoch(dev, checkpoints)
                if self.accelerator.is_main_process:
                    after_epoch(record, dev)
                keeper.save()
                bar.set_postfix(loss=f"{record['loss']:.3f}", dev_ua=f"{record['dev_ua']:.3f}")
            keeper.between_steps()  # all processes go on to the test, or none
        self.accelerator.wait_for_everyone()
        return self.progress

    def train_one_epoch(
        self,
        loader: DataLoader | ImageLoader,
        bar: tqdm | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        """Go through what is left of the epoch; the losses are added up in `progress`.

        Raises:
            Diverged: More steps in a row than are borne had to be skipped.
            KeyboardInterrupt: The process was asked to end; the state is saved.
        """
        progress = self.progress
        loader.batch_sampler.set_epoch(progress.epoch, progress.batch)  # type: ignore[union-attr]
        for window in in_windows(loader, self.accumulate):
            self._draw_anew()
            for batch, terms in zip(window, self.step(window), strict=False):
                progress.add(terms, len(batch.targets))
            progress.batch += len(window)
            if bar is not None:
                bar.update(len(window))
            if keeper is not None:
                keeper.between_steps()

    def step(self, window: Sequence[Batch]) -> list[LossTerms]:
        """Take one optimizer step on the mean loss of some batches, and return their losses.

        Where a loss or gradient is NaN or infinite on any process, no optimizer on any of them
        moves, running statistics are put back, and no losses are returned.

        Raises:
            Diverged: More steps in a row than are borne had to be skipped.
        """
        self.model.train()
        window = [batch.to(self.accelerator.device) for batch in window]
        statistics = [(buffer, buffer.clone()) for buffer in self.plain_model.buffers()]
        found = self._backward(window)
        slopes = self.signs.gradients()
        norm = clip_gradients(self.trained, self.clip_grad_norm)
        finite = torch.stack([*(terms.total for terms in found), norm]).isfinite().all()
        incident = None
        if on_any_process(not finite, self.accelerator):
            totals, names = [terms.total for terms in found], self.names.get("train", ())
            incident = describe(self.plain_model, window, totals, names, self.accelerator)
            for buffer, value in statistics:
                buffer.copy_(value)
        for optimizer in self.optimizers:
            if incident is None:
                optimizer.step()
            optimizer.zero_grad()
        self.schedule.after_step()
        if incident is not None:
            self._skip(incident, found[0])
            return []
        self.progress.bad_in_row = 0
        self.progress.measure(slopes)
        return found

    def state(self) -> dict[str, Any]:
        """Return all that a later process needs to go on as if nothing had happened.

        Chance is no part of it: that of each step follows from seed, epoch, batch and process.
        """
        return {
            "progress": vars(self.progress),
            "model": self.plain_model.state_dict(),
            "criterion": self.criterion.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "schedule": self.schedule.state_dict(),
            "processes": self.accelerator.num_processes,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; those of earlier versions have no criterion.

        Raises:
            ValueError: It is of another model or version.
        """
        try:
            self.progress = Progress(**state["progress"])
            self.plain_model.load_state_dict(state["model"])
            self.criterion.load_state_dict(state.get("criterion", self.criterion.state_dict()))
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.schedule.load_state_dict(state["schedule"])
        except (RuntimeError, KeyError, TypeError) as error:
            raise ValueError(str(error).splitlines()[0]) from error
        self.plain_model.float32 = frozenset(self.progress.float32)  # type: ignore[assignment]

    def _begin(self, checkpoints: Checkpoints, keeper: Keeper) -> None:
        """Go on from the newest state, or keep the one before the first step."""
        state = checkpoints.load(self.accelerator.is_main_process)
        if state is not None:
            check_number(state.get("processes"), self.accelerator, checkpoints.folder)
            try:
                self.load(state)
            except ValueError as error:
                raise corrupt_file(checkpoints.folder, error) from error
            log.info("going on after epoch %d, batch %d", *self.progress.place[:2])
        self.accelerator.wait_for_everyone()  # all have read before one writes
        if state is None:
            keeper.save()

    def _snapshot(self) -> Snapshot | None:
        """Return the state, or None where weights are not finite: the one before is the last."""
        finite = is_finite(self.plain_model) and is_finite(self.criterion)
        return (self.state(), self.progress.place) if finite else None

    def _evaluate(self, batches: Iterable[Batch]) -> Predictions:
        """Predict the dev split, and keep what the signs of collapse are measured in."""
        with self.signs.watching():
            return evaluate(self.model, batches, self.accelerator, self.names.get("dev", ()))

    def _draw_anew(self) -> None:
        """Let chance (Python, NumPy, torch) follow from where we are, not from what was drawn."""
        place = (self.progress.epoch, self.progress.batch, self.accelerator.process_index)
        set_seed(int(np.random.SeedSequence((self.seed, *place)).generate_state(1)[0]))

    def _backward(self, window: Sequence[Batch]) -> list[LossTerms]:
        """Add up the gradients of the mean loss and return each batch's."""
        found = []
        for i, batch in enumerate(window):
            is_last = i + 1 == len(window)
            with nullcontext() if is_last else self.accelerator.no_sync(self.model):
                terms = self._loss(batch)
                self.accelerator.backward(terms.total / len(window))
            found.append(terms.detach())
        average_gradients(self.criterion.parameters())
        return found

    def _loss(self, batch: Batch) -> LossTerms:
        output = self.model(batch.cqt, batch.mel)
        views = labels = None
        if output.z_cqt is not None:
            views = gather_views(output.z_cqt), gather_views(output.z_mel)
            labels = gather_labels(batch.targets)
        return self.criterion(output.logits, batch.targets, views, batch.mix, labels)

    def _skip(self, incident: dict[str, Any], terms: LossTerms) -> None:
        """Note a step that was not taken; too many in a row are not borne."""
        place = {"epoch": self.progress.epoch + 1, "batch": self.progress.batch + 1}
        self.progress.skip(place | incident, terms)
        error = Diverged(**incident)
        log.warning(
            "epoch %(epoch)d, batch %(batch)d is skipped: %(error)s; its clips: %(clips)s",
            {**place, "error": error, "clips": ", ".join(error.clips)},
        )
        if self.progress.bad_in_row > self.max_bad_steps:
            raise error

    def _go_back(self, found: Diverged, checkpoints: Checkpoints, keeper: Keeper) -> None:
        """Return to the end of the last epoch; the parts that failed go on in float32 from there.

        Always an epoch's end, so that what follows does not depend on when a state was saved.

        Raises:
            RunError: They were in float32, or the data are the cause: it would fail again.
        """
        before = self.progress
        reduced = self.accelerator.mixed_precision != "no"
        suspects = [part for part in found.parts or PARTS if part not in before.float32]
        is_main = self.accelerator.is_main_process
        state = checkpoints.load(is_main, between_epochs=True)
        if found.is_data or not reduced or not suspects or state is None:
            precision = "bfloat16 and in float32 alike" if before.float32 else "float32"
            raise found.because(self.schedule.rates(), precision) from found
        self.load(state)
        self.accelerator.wait_for_everyone()
        progress = self.progress
        repair = {"epoch": before.epoch + 1, "what": found.what, "float32": suspects}
        progress.repairs = [*before.repairs, repair | {"back_to_epoch": progress.epoch}]
        progress.bad_steps, progress.incidents = before.bad_steps, before.incidents
        progress.float32 = [*before.float32, *suspects]
        self.plain_model.float32 = frozenset(progress.float32)  # type: ignore[assignment]
        keeper.save(again=True)
        if is_main:
            checkpoints.forget_after(progress.place)
        log.warning(
            "%s: back to the end of epoch %d, from there with %s in float32",
            found,
            progress.epoch,
            " and ".join(suspects),
        )

    def _close_epoch(self, dev: Predictions, checkpoints: Checkpoints) -> dict[str, float]:
        """Move the schedule, keep the weights if they are the best, return the history's row."""
        progress = self.progress
        found = scores(dev.targets.tolist(), dev.preds.tolist(), dev.probs.shape[1])
        rates = zip(self.plain_model.parts(), self.schedule.rates(), strict=True)  # type: ignore
        of_dev = {f"dev_{name}": found[name] for name in ("ua", "wa", "macro_f1", "weighted_f1")}
        record = progress.close_epoch(
            {f"lr_{part}": rate for part, rate in rates},
            {"dev_loss": dev.loss, **of_dev},
            self.signs.of_epoch(dev.gate, self.accelerator) | self.criterion.learned(),
        )
        for alarm in progress.sound(alarms(progress.history, dev.probs.shape[1])):
            log.warning("epoch %(epoch)d, %(what)s: %(words)s", alarm)
        self.schedule.after_epoch(record["dev_ua"])
        if record["dev_ua"] > progress.best_ua:
            progress.best_ua, progress.best_epoch = record["dev_ua"], progress.epoch
            if self.accelerator.is_main_process:
                checkpoints.save_best(self.plain_model.state_dict(), progress.epoch)
        return record


def in_windows(batches: Iterable[T], n: int) -> Iterator[list[T]]:
    """Yield batches n at a time; the last window may be shorter."""
    window: list[T] = []
    for batch in batches:
        window.append(batch)
        if len(window) == n:
            yield window
            window = []
    if window:
        yield window
