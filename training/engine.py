"""Train one model on one split, in plain functions over one `TrainingState`.

    fit                  epochs: train, evaluate dev, keep the best weights, stop early
      train_one_epoch    batches in windows of `accumulate`
        train_step       forward, loss, backward, clip, optimizers; a bad step moves nothing
        train_unseen     several such steps before the host waits for the device

Selection, schedule and early stopping all read the main score of the task on dev, UA of classes.
The module knows neither corpora nor run folders. Random draws of a step depend on (seed, epoch,
batch, rank) alone, so a training that was stopped anywhere ends in the bytes of one that never was.
"""

import itertools
import logging
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import TypeVar

import numpy as np
import torch
from accelerate.utils import set_seed
from torch.utils.data import DataLoader
from tqdm import tqdm

from config.tasks import CLASS
from data import Batch, ImageLoader
from evaluation.tasks import Task, make_task
from model_gmu import FusionOutput
from models.compiled import log_compiling
from models.losses import FusionLoss, LossTerms
from system.files import corrupt_file
from system.output import progress_bar
from training.checkpoints import Checkpoints, Progress
from training.collapse import collapse_warnings
from training.distributed import (
    average_gradients,
    from_first,
    gather_labels,
    gather_views,
)
from training.divergence import Diverged, describe
from training.evaluate import Predictions, evaluate
from training.fallback import fall_back_to_float32, skip_step
from training.gradient_cache import cached_backward
from training.optim import clip_gradients
from training.resume_with import check_same_number
from training.saver import AFFORDABLE, CheckpointSaver, Spacing
from training.state import TrainingState
from training.step import Step, read

log = logging.getLogger(__name__)
T = TypeVar("T")
AfterEpoch = Callable[[dict[str, float], Predictions | None], None]


def fit(
    state: TrainingState,
    train_loader: DataLoader | ImageLoader,
    dev_loader: DataLoader | None,
    epochs: int,
    patience: int | None,
    checkpoints: Checkpoints,
    spacing: Spacing = AFFORDABLE,
    after_epoch: AfterEpoch = lambda record, dev: None,
    resume_with: int | None = None,
) -> Progress:
    """Train to the end, or resume; save states and the best weights.

    Args:
        state: The model and what trains it.
        train_loader: Batches of the training split.
        dev_loader: Batches of the dev split; None selects the last epoch.
        epochs: Largest number of epochs.
        patience: Epochs without a better dev UA before training stops early; None never does, as
            it must be without a dev split.
        checkpoints: Where states are saved, and found again. Of equal epochs the first is best.
        spacing: How often a state is saved; the first and the last always are.
        after_epoch: Called on one process with each row of the history and the dev predictions, or
            None.
        resume_with: Number of processes that may resume the state of another number.

    Raises:
        KeyboardInterrupt: The process was asked to end; the state is saved.
        RunError: Losses or gradients stay NaN or infinite; the last good state is kept.
    """
    saver = CheckpointSaver(
        checkpoints, spacing, state.stop, state.accelerator, state.snapshot, state.look_every
    )
    n, title = len(train_loader), state.title
    hidden = not title or not state.accelerator.is_main_process
    with progress_bar(epochs * n, title, "batch", hidden) as bar, state.stop.deferred(), saver:
        resume(state, checkpoints, saver, resume_with)
        bar.update(state.progress.epoch * n + state.progress.batch)
        while not state.progress.is_done(epochs, patience):
            epoch = f"{title}, epoch {state.progress.epoch + 1} of {epochs}"
            bar.set_description(epoch, refresh=False)
            try:
                train_one_epoch(state, train_loader, bar, saver)
                dev = None if dev_loader is None else _evaluate_dev(state, dev_loader, saver)
            except Diverged as error:
                fall_back_to_float32(state, error, saver)
                continue
            record = _close_epoch(state, dev, saver, epochs)
            if state.accelerator.is_main_process:
                log_compiling(state.model)
                after_epoch(record, dev)
            saver.end_epoch()
            main = () if dev is None else (f"dev_{_task(state, dev).main}",)
            bar.set_postfix({k: f"{record[k]:.3f}" for k in ("loss", *main)}, refresh=False)
        saver.finish()
        saver.maybe_save()  # all processes continue with the test, or none
    state.accelerator.wait_for_everyone()
    return state.progress


def _evaluate_dev(state: TrainingState, loader: DataLoader, saver: CheckpointSaver) -> Predictions:
    """Return the dev predictions of the weights that may be selected."""
    with state.monitor.recording(), state.evaluated():
        batches, names = saver.watched(loader), state.names.get("dev", ())
        return evaluate(state.wrapped, batches, state.accelerator, names, state.task)


def train_one_epoch(
    state: TrainingState,
    loader: DataLoader | ImageLoader,
    bar: tqdm | None = None,
    saver: CheckpointSaver | None = None,
) -> None:
    """Train on what is left of the epoch; `progress` sums the losses.

    Raises:
        Diverged: More than `max_bad_steps` consecutive steps were skipped.
        KeyboardInterrupt: The process was asked to end; the state is saved.
    """
    progress = state.progress
    loader.batch_sampler.set_epoch(  # type: ignore[union-attr]
        progress.epoch, progress.batch, state.divisor
    )
    state.criterion.start_epoch(progress.epoch)
    windows = in_windows(loader, state.accumulate)
    while taken := train_unseen(state, windows):
        for window, step in taken:
            if step is None:
                _seed(state, progress.batch)
                step = train_step(state, window)
            progress.add_step(window, step.losses, step.norms)
        if saver is not None:
            saver.maybe_save()
        if bar is not None:
            bar.update(sum(len(window) for window, _ in taken))


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


def train_step(state: TrainingState, window: Sequence[Batch], look: bool = True) -> Step:
    """Take one optimizer step on the mean loss of some batches.

    Where a loss or gradient is NaN or infinite on any process, no optimizer on any process moves,
    running statistics are restored, and no losses are returned.

    Args:
        state: The training.
        window: Batches of the step.
        look: Wait for the device to see whether all is finite, and return numbers; without, the
            caller has to look, and to read them.

    Raises:
        Diverged: More than `max_bad_steps` consecutive steps were skipped.
    """
    accelerator = state.accelerator
    window = [batch.to(accelerator.device) for batch in window]
    if not state.model.training:
        state.model.train()
    if look:
        state.undo.keep_statistics()
    losses: list[LossTerms] = []
    for i, batch in enumerate(window):
        is_last = i + 1 == len(window)
        if state.backbone_batch is not None:
            terms = cached_backward(state, batch, loss_terms, len(window))
            losses.append(terms.detach())
            continue
        with nullcontext() if is_last else accelerator.no_sync(state.wrapped):
            output = state.wrapped(*batch.inputs)
            terms = loss_terms(state.criterion, output, batch)
            total = terms.total / len(window) if len(window) > 1 else terms.total
            total.backward()  # as Accelerate does where it scales no losses
        losses.append(terms.detach())
    ddp_knows = state.backbone_batch is None
    average_gradients(state.criterion.parameters() if ddp_knows else state.trained)
    norms = state.monitor.gradient_norms()
    norm = clip_gradients(state.trained, state.clip_grad_norm)
    step = Step([terms.named() for terms in losses], norm, norms)
    incident = None
    if look:
        step = read([step])[0]
    if look and not step.is_finite:
        totals, names = [terms.total for terms in losses], state.names.get("train", ())
        incident = describe(state.model, window, totals, names, accelerator)
        state.undo.restore_statistics()
    for optimizer in state.optimizers:
        if incident is None:
            optimizer.step()
        optimizer.zero_grad()
    state.schedule.after_step()
    if incident is None and state.average is not None:
        state.average.update(state.schedule.steps)
    if incident is not None:
        skip_step(state, incident, losses[0])
        return step._replace(losses=[])
    if look:
        state.progress.bad_in_row = 0
    return step


def train_unseen(
    state: TrainingState, windows: Iterator[list[Batch]]
) -> list[tuple[list[Batch], Step | None]]:
    """Take a step on each of the next windows before the host waits for the device; read them.

    Each step is taken as its window arrives, so that the device computes while others are loaded.

    Returns:
        The windows with their steps; None where one was not finite on some process and all were
        undone, so that `train_step` takes them one at a time. One window without its step while the
        optimizers have no state to go back to, and where each step is looked at. None at the end.
    """
    most = max(1, state.look_every // state.accumulate)
    if most == 1 or not state.undo.is_ready():
        return [(window, None) for window in itertools.islice(windows, 1)]
    taken: list[list[Batch]] = []
    steps: list[Step] = []
    batch = state.progress.batch
    for window in itertools.islice(windows, most):
        if not taken:
            state.undo.keep_all()
        taken.append(window)
        _seed(state, batch)
        steps.append(train_step(state, window, look=False))
        batch += len(window)
    if not taken:
        return []
    steps = read(steps)
    if not all(step.is_finite for step in steps):
        state.undo.restore_all()
        return [(window, None) for window in taken]
    state.progress.bad_in_row = 0
    return list(zip(taken, steps, strict=True))


def _seed(state: TrainingState, batch: int) -> None:
    """Seed all that a step draws, by its place."""
    place = (state.progress.epoch, batch, state.accelerator.process_index)
    seed = int(np.random.SeedSequence((state.seed, *place)).generate_state(1)[0])
    if state.accelerator.device.type != "cpu":
        set_seed(seed)
        return
    random.seed(seed)  # as `set_seed` does; for a GPU, too, it would note a traceback each time
    np.random.seed(seed)
    torch.default_generator.manual_seed(seed)


def loss_terms(criterion: FusionLoss, output: FusionOutput, batch: Batch) -> LossTerms:
    """Return the losses of a batch; the negatives of NT-Xent come from all processes."""
    views = labels = features = None
    if output.views is not None:
        views = [gather_views(view) for view in output.views]
        labels = gather_labels(batch.targets)
        if criterion.alpha_on == "features" and output.pooled is not None:
            features = [gather_views(pooled) for pooled in output.pooled]
    return criterion(output.logits, batch.targets, views, batch.mix, labels, features)


def resume(
    state: TrainingState,
    checkpoints: Checkpoints,
    saver: CheckpointSaver,
    resume_with: int | None = None,
) -> None:
    """Load the newest state; save the one before the first step, or that of other processes."""
    saved = from_first(checkpoints.load)  # one process decides which state is intact
    now, before = state.accelerator.num_processes, None
    if saved is not None:
        before = saved.get("processes") or now
        check_same_number(before, now, checkpoints.folder, resume_with)
        try:
            state.load_state_dict(saved)
        except ValueError as error:
            raise corrupt_file(checkpoints.folder, error) from error
        state.divisor = saved.get("divisor") or before
        if before == now:
            saver.saved = state.progress.place
        log.info("resuming after epoch %d, batch %d", *state.progress.place[:2])
    state.accelerator.wait_for_everyone()  # all have read before one writes
    if before != now:
        saver.finish()  # before processes that load data are forked beside its thread


def _close_epoch(
    state: TrainingState, dev: Predictions | None, saver: CheckpointSaver, epochs: int
) -> dict[str, float]:
    """Move the schedule, keep the weights if they are the best, return the history's row.

    Without dev predictions the weights of the last of all epochs are kept.
    """
    progress, task = state.progress, _task(state, dev)
    scores, gate = {}, None
    if dev is not None:
        found = task.scores(dev.targets, dev.preds, dev.probs).named()
        scores = {"dev_loss": dev.loss, **{f"dev_{name}": score for name, score in found.items()}}
        gate = dev.gate
    rates = zip(state.model.parts(), state.schedule.rates(), strict=True)  # type: ignore
    record = progress.close_epoch(
        {f"lr_{part}": rate for part, rate in rates},
        scores,
        state.monitor.epoch_measures(gate, state.accelerator) | state.criterion.learned(),
    )
    for warning in progress.record_warnings(
        collapse_warnings(progress.history, task.n_directions + 1)
    ):
        log.warning("epoch %(epoch)d, %(what)s: %(words)s", warning)
    score = None if dev is None else record[f"dev_{task.main}"]
    state.schedule.after_epoch(score)
    if progress.epoch == epochs if score is None else score > progress.best_score:
        progress.best_score = progress.best_score if score is None else score
        progress.best_epoch = progress.epoch
        saver.keep_best(state.selected_weights(), progress.epoch)
    return record


def _task(state: TrainingState, dev: Predictions | None) -> Task:
    n_classes = 0 if dev is None else dev.probs.shape[1]
    return state.task or make_task(CLASS, [str(k) for k in range(n_classes)])
