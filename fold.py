"""One fold with one seed: build, train, select on dev, test once, write the fold's folder."""

import logging
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from batches import EvalBatches, TrainBatches
from corpora import Utterance
from data import ImageDataset, PictureAugment, PictureLoader, WaveformDataset, build_loader
from disk import make_folder
from engine import Predictions, Trainer, evaluate
from features import SpectrogramImages
from files import alone, load_tensors, read_json, write_csv, write_json
from job import FoldJob
from ledger import note
from losses import FusionLoss
from model_gmu import MaxMViTGMU
from optim import Schedule, build_optimizers
from records import score, write_metrics, write_model_card, write_predictions
from schema import Config
from store import FeatureStore
from tracking import Tracker

log = logging.getLogger(__name__)


def run_fold(job: FoldJob, run: Path, store: FeatureStore, accelerator: Accelerator) -> None:
    """Train and test one fold, or go on with it, or leave it alone where it is finished.

    Raises:
        RunError: Training diverged, a file could not be written (the last epoch's state is kept),
            or another process is at work on this fold.
    """
    folder = run / "folds" / job.name
    if accelerator.is_main_process:
        make_folder(folder / "state", inside=run)
    lock = alone(folder / "state" / "lock", f"{job.name} in {run}")
    with lock if accelerator.is_main_process else nullcontext():
        if (folder / "metrics.json").exists():
            log.info("%s is finished", job.name)
        else:
            _train_and_test(job, folder, run, store, accelerator)


def _train_and_test(
    job: FoldJob, folder: Path, run: Path, store: FeatureStore, accelerator: Accelerator
) -> None:
    log.info(
        "%s: train %d, dev %d, test %d clips", job.name, *(len(p) for _, p in job.split.parts())
    )
    start = time.monotonic()
    torch.manual_seed(job.chance)
    train = make_dataset(job, store, job.split.train, training=True)
    model = build_model(job.config, len(job.classes), store.record[0])
    if job.config.train.normalize:
        model.set_normalization(store.statistics(train.rows.tolist()))
    trainer = build_trainer(job, model, train.targets, accelerator)
    loader = _train_loader(job, train, store, accelerator)
    best_epoch = _fit(trainer, job, loader, folder, store, accelerator)
    if accelerator.is_main_process:
        write_model_card(job, folder, model, store)
    accelerator.wait_for_everyone()
    model.load_state_dict(load_tensors(folder / "model.safetensors"))
    _test(trainer, job, folder, run, store, accelerator, best_epoch, start)
    accelerator.free_memory()


def build_model(config: Config, n_classes: int, n_channels: int) -> MaxMViTGMU:
    """Build the model of a config for pictures of so many channels."""
    model = MaxMViTGMU(n_classes, n_channels=n_channels, **config.model.model_dump())
    if config.train.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def build_trainer(
    job: FoldJob, model: MaxMViTGMU, train_targets: Tensor, accelerator: Accelerator
) -> Trainer:
    """Give the model its loss, optimizers and schedule."""
    config, optim = job.config, job.config.optim
    optimizers = build_optimizers(
        model.to(accelerator.device).parts(),
        optim.optimizer.model_dump(),
        optim.lr,
        optim.backbone_lr_scale,
        optim.weight_decay,
    )
    n_batches = len(_train_batches(job, len(job.split.train), accelerator))
    steps_per_epoch = -(-n_batches // config.train.accumulate)
    schedule = Schedule(
        optimizers,
        optim.schedule,
        n_steps=steps_per_epoch * config.train.epochs,
        n_warmup=round(steps_per_epoch * (optim.warmup_epochs or 0)),
        factor=optim.plateau_factor or 0.1,
        patience=optim.plateau_patience or 0,
        min_lr=optim.min_lr or 0.0,
    )
    return Trainer(
        model,
        _build_loss(config, train_targets, len(job.classes)),
        optimizers,
        schedule,
        accelerator,
        job.chance,
        config.train.accumulate,
        config.train.clip_grad_norm,
    )


def make_dataset(
    job: FoldJob, store: FeatureStore, utterances: Sequence[Utterance], training: bool = False
) -> ImageDataset:
    """Return the stored pictures of one split; only training is augmented."""
    hashes = [job.hashes[u.path] for u in utterances]
    augment = _picture_augment(job) if training else None
    return ImageDataset(store, hashes, job.targets(utterances), augment, job.chance)


def _picture_augment(job: FoldJob) -> PictureAugment:
    values = job.config.augment.model_dump()
    return PictureAugment(*(values[name] for name in PictureAugment._fields))


def _train_loader(
    job: FoldJob, train: ImageDataset, store: FeatureStore, accelerator: Accelerator
) -> DataLoader | PictureLoader:
    """Return the batches of the training split, from the store or from waveforms."""
    config, device = job.config, accelerator.device
    batches = _train_batches(job, len(train), accelerator)
    if config.train.pictures == "stored":
        return build_loader(train, batches, device, config.run.workers)
    images = SpectrogramImages(**store.settings)
    clips = WaveformDataset(
        [u.path for u in job.split.train],
        [job.hashes[u.path] for u in job.split.train],
        train.targets.tolist(),
        images.input_rate,
        images.crop_size,
        config.augment.model_dump(exclude=set(PictureAugment._fields)),
        job.chance,
    )
    loader = build_loader(clips, batches, device, config.run.workers)
    return PictureLoader(loader, images, _picture_augment(job), device)


def _build_loss(config: Config, targets: Tensor, n_classes: int) -> FusionLoss:
    weights = None
    if config.loss.class_weights == "balanced":
        counts = torch.bincount(targets, minlength=n_classes)
        weights = len(targets) / (n_classes * counts.clamp_min(1))  # (K,)
    loss = config.loss
    return FusionLoss(
        loss.alpha or 0.0,  # null where the fusion has no views, and then unused
        loss.temperature or 1.0,
        loss.nt_xent or "simclr",
        loss.label_smoothing,
        weights,
    )


def _train_batches(job: FoldJob, n: int, accelerator: Accelerator) -> TrainBatches:
    size, rank, world = _share(job, accelerator)
    return TrainBatches(n, size, job.chance, rank, world)


def _share(job: FoldJob, accelerator: Accelerator) -> tuple[int, int, int]:
    return job.config.train.batch_size, accelerator.process_index, accelerator.num_processes


def _fit(
    trainer: Trainer,
    job: FoldJob,
    loader: DataLoader | PictureLoader,
    folder: Path,
    store: FeatureStore,
    accelerator: Accelerator,
) -> int:
    """Train and return the best epoch; its weights are in model.safetensors."""
    config = job.config
    dev = _eval_loader(job, store, job.split.dev, accelerator)
    state = folder / "state" / "last.safetensors"
    if state.exists():
        trainer.load(state)
        log.info("%s goes on after epoch %d", job.name, trainer.progress.epoch)
    is_main = accelerator.is_main_process
    tracker = Tracker(folder, job.classes, trainer.progress.epoch) if is_main else None

    def after_epoch(record: dict[str, float], found: Predictions) -> None:
        history = trainer.progress.history
        write_csv(folder / "history.csv", list(record), [list(row.values()) for row in history])
        if tracker is not None:
            confusion = score(found, job)["confusion"]
            tracker.log_epoch(record, np.array(confusion), found.gate)

    with tqdm(
        total=config.train.epochs * len(loader),
        initial=trainer.progress.epoch * len(loader),
        desc=job.name,
        unit="batch",
        disable=not is_main,
    ) as bar:
        progress = trainer.fit(
            loader,
            dev,
            config.train.epochs,
            config.train.patience,
            folder / "model.safetensors",
            state,
            after_epoch,
            bar,
        )
    return progress.best_epoch


def _eval_loader(
    job: FoldJob, store: FeatureStore, utterances: Sequence[Utterance], accelerator: Accelerator
):
    size, rank, world = _share(job, accelerator)
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
    best_epoch: int,
    start: float,
) -> None:
    """Evaluate the frozen best weights: dev again, then test, once, noted in the ledger."""
    parts = {"dev": job.split.dev, "test": job.split.test}
    if accelerator.is_main_process:
        why = f"test after selection of epoch {best_epoch} on dev"
        note(run, read_json(folder / "model.json"), len(job.split.test), folder, "test", why)
    found = {
        name: evaluate(trainer.model, _eval_loader(job, store, part, accelerator), accelerator)
        for name, part in parts.items()
    }
    if accelerator.is_main_process:
        write_predictions(job, folder, parts, found)
        seconds = round(time.monotonic() - start, 1)
        write_json(folder / "environment.json", {**job.environment, "seconds": seconds})
        write_metrics(job, folder, found, best_epoch, trainer.progress.epoch)
    accelerator.wait_for_everyone()
