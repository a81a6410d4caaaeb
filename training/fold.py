"""One fold with one seed: build, train, select on dev, test once, write the fold's folder."""

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from corpora.readers import Utterance
from data import (
    EvalBatches,
    ImageAugment,
    ImageDataset,
    ImageLoader,
    WaveformDataset,
    build_loader,
)
from features import SpectrogramImages
from model_gmu import MaxMViTGMU
from storage.checkpoints import Checkpoints
from storage.feature_store import FeatureStore
from storage.ledger import record_test_evaluation
from storage.tensors import load_tensors
from system.files import copy_file, make_folder, read_json, remove_leftovers, write_csv, write_json
from system.locks import lock
from system.signals import Stop
from training.divergence import CLIPS_NAMED, DATA, Diverged, named
from training.engine import Trainer
from training.evaluate import Predictions, evaluate
from training.job import FoldJob
from training.progress import Progress
from training.results import score, write_metrics, write_model_card, write_predictions
from training.tensorboard import Tracker
from training.trainers import build_model, build_trainer, share_of, train_batches

log = logging.getLogger(__name__)


class Training(NamedTuple):
    """A model with all that trains it."""

    model: MaxMViTGMU
    trainer: Trainer
    loader: DataLoader | ImageLoader  # of the training split


def run_fold(
    job: FoldJob, run: Path, store: FeatureStore, accelerator: Accelerator, stop: Stop
) -> None:
    """Train and test one fold, or go on with it, or leave it alone where it is finished.

    Raises:
        RunError: Training diverged, a file could not be written (the last state is kept), or
            another process is at work on this fold.
        KeyboardInterrupt: The process was asked to end; the state is saved.
    """
    folder = run / "folds" / job.name
    if accelerator.is_main_process:
        make_folder(folder / "state", inside=run)
    locked = lock(folder / "state" / "lock", f"{job.name} in {run}")
    with locked if accelerator.is_main_process else nullcontext():
        for place in (folder, folder / "state"):
            remove_leftovers(place)
        if (folder / "metrics.json").exists():
            log.info("%s is finished", job.name)
            Checkpoints(folder / "state").remove()  # a kill may have left them
        else:
            _train_and_test(job, folder, run, store, accelerator, stop)


def _train_and_test(
    job: FoldJob,
    folder: Path,
    run: Path,
    store: FeatureStore,
    accelerator: Accelerator,
    stop: Stop,
) -> None:
    log.info(
        "%s: train %d, dev %d, test %d clips", job.name, *(len(p) for _, p in job.split.parts())
    )
    start = time.monotonic()
    model, trainer, _ = train_fold(job, folder, store, accelerator, stop)
    checkpoints = Checkpoints(folder / "state")
    best = checkpoints.best(trainer.progress.best_epoch)
    model.load_state_dict(load_tensors(best))
    if accelerator.is_main_process:
        copy_file(best, folder / "model.safetensors")
        write_model_card(job, folder, model, store)
    with stop.deferred():  # a test that is broken off would be a second look at the test data
        _test(trainer, job, folder, run, store, accelerator, start)
        if accelerator.is_main_process:
            checkpoints.remove()
    accelerator.free_memory()


def train_fold(
    job: FoldJob,
    folder: Path,
    store: FeatureStore,
    accelerator: Accelerator,
    stop: Stop,
    watch: Callable[[Progress], None] = lambda progress: None,
) -> Training:
    """Train on the train split and select on dev, or go on with it; no test clip is looked at.

    Args:
        job: What to train.
        folder: Gets history, curves, and in its folder `state` the states and the best weights.
        store: Holds the images.
        accelerator: Device and processes.
        stop: Says when to end early.
        watch: Gets the progress after each epoch, before its state is saved; may raise.

    Raises:
        RunError: Training diverged or a file could not be written; the last state is kept.
        KeyboardInterrupt: The process was asked to end; the state is saved.
    """
    training = prepare(job, store, accelerator, stop)
    _fit(training, job, folder, store, watch)
    return training


def prepare(
    job: FoldJob, store: FeatureStore, accelerator: Accelerator, stop: Stop | None = None
) -> Training:
    """Build a fold's model and its trainer, before the first step."""
    torch.manual_seed(job.chance)
    train = make_dataset(job, store, job.split.train, training=True)
    model = build_model(job.config, len(job.classes), store.record[0])
    if job.config.train.normalize:
        model.set_normalization(_statistics(job, store, train))
    trainer = build_trainer(job, model, train.targets, accelerator, stop)
    return Training(model, trainer, _train_loader(job, train, store, accelerator))


def _statistics(
    job: FoldJob, store: FeatureStore, train: ImageDataset
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return mean and deviation of the training images.

    Raises:
        RunError: Some images are not finite; through these numbers all clips would be NaN.
    """
    found = store.statistics(train.rows.tolist())
    if not all(bool(values.isfinite().all()) for pair in found.values() for values in pair):
        finite = [all(np.isfinite(view[row]).all() for view in train.views) for row in train.rows]
        bad = np.unique(train.clips[~np.array(finite)])[:CLIPS_NAMED]
        clips = named(bad.tolist(), job.names(job.split.train))
        raise Diverged("normalization", [DATA], clips).because((), "")
    return found


def make_dataset(
    job: FoldJob, store: FeatureStore, utterances: Sequence[Utterance], training: bool = False
) -> ImageDataset:
    """Return the stored images of one split; only training is augmented."""
    hashes = [job.hashes[u.path] for u in utterances]
    augment = _image_augment(job) if training else None
    return ImageDataset(store, hashes, job.targets(utterances), augment, job.chance)


def _image_augment(job: FoldJob) -> ImageAugment:
    values = job.config.augment.model_dump()
    return ImageAugment(*(values[name] for name in ImageAugment._fields))


def _train_loader(
    job: FoldJob, train: ImageDataset, store: FeatureStore, accelerator: Accelerator
) -> DataLoader | ImageLoader:
    """Return the batches of the training split, from the store or from waveforms."""
    config, device = job.config, accelerator.device
    batches = train_batches(job, len(train), accelerator)
    if config.train.images == "stored":
        return build_loader(train, batches, device, config.run.workers)
    images = SpectrogramImages(**store.settings)
    clips = WaveformDataset(
        [u.path for u in job.split.train],
        [job.hashes[u.path] for u in job.split.train],
        train.targets.tolist(),
        images.input_rate,
        images.crop_size,
        config.augment.model_dump(exclude=set(ImageAugment._fields)),
        job.chance,
    )
    loader = build_loader(clips, batches, device, config.run.workers)
    return ImageLoader(loader, images, _image_augment(job), device)


def _fit(
    training: Training,
    job: FoldJob,
    folder: Path,
    store: FeatureStore,
    watch: Callable[[Progress], None],
) -> None:
    """Train, or go on with it, and write history and curves."""
    _, trainer, loader = training
    config, accelerator = job.config.train, trainer.accelerator
    dev = _eval_loader(job, store, job.split.dev, accelerator)
    tracker = Tracker(folder, job.classes)

    def after_epoch(record: dict[str, float], found: Predictions) -> None:
        history = trainer.progress.history
        write_csv(folder / "history.csv", list(record), [list(row.values()) for row in history])
        tracker.log_epoch(record, np.array(score(found, job)["confusion"]), found.gate)
        watch(trainer.progress)

    bar = tqdm(
        total=config.epochs * len(loader),
        desc=job.name,
        unit="batch",
        disable=not accelerator.is_main_process,
    )
    with bar:
        trainer.fit(
            loader,
            dev,
            config.epochs,
            config.patience,
            Checkpoints(folder / "state"),
            config.checkpoint_minutes,
            after_epoch,
            bar,
        )


def _eval_loader(
    job: FoldJob, store: FeatureStore, utterances: Sequence[Utterance], accelerator: Accelerator
):
    size, rank, world = share_of(job, accelerator)
    dataset = make_dataset(job, store, utterances)
    batches = EvalBatches(len(dataset), size, rank, world)
    return build_loader(dataset, batches, accelerator.device, job.config.run.workers)


def _test(
    trainer: Trainer,
    job: FoldJob,
    folder: Path,
    run: Path,
    store: FeatureStore,
    accelerator: Accelerator,
    start: float,
) -> None:
    """Evaluate the frozen best weights: dev again, then test, once, noted in the ledger."""
    progress = trainer.progress
    parts = {"dev": job.split.dev, "test": job.split.test}
    if accelerator.is_main_process:
        why = f"test after selection of epoch {progress.best_epoch} on dev"
        record_test_evaluation(
            run, read_json(folder / "model.json"), len(job.split.test), folder, "test", why
        )
    found = {}
    for name, part in parts.items():
        loader = _eval_loader(job, store, part, accelerator)
        try:
            found[name] = evaluate(trainer.model, loader, accelerator, job.names(part))
        except Diverged as error:
            raise error.because(trainer.schedule.rates(), job.config.train.precision) from error
    if accelerator.is_main_process:
        write_predictions(job, folder, parts, found)
        seconds = round(time.monotonic() - start, 1)
        write_json(folder / "environment.json", {**job.environment, "seconds": seconds})
        write_metrics(job, folder, found, progress)
    accelerator.wait_for_everyone()
