"""Build what trains one fold from its config: model, loss, optimizers, schedule, loaders."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from audio.reading import read_audio
from config.schema import Config
from config.tasks import RatingScale
from corpora.utterance import Utterance
from data import (
    ImageAugment,
    ImageDataset,
    ImageLoader,
    WaveformDataset,
    build_loader,
)
from features import SpectrogramImages
from model_gmu import MaxMViTGMU
from models.losses import FusionLoss
from models.synced_norms import sync_batch_norms
from storage.feature_store import FeatureStore
from storage.fold_folder import STATE
from storage.kept_features import KeptFeatures
from storage.shards import ShardImages
from training.batches import EvalBatches, TrainBatches
from training.beside import open_sources, source_shapes, statistics_of_each, trained_model
from training.checkpoints import Checkpoints
from training.compiling import training_graphs
from training.divergence import DATA, UTTERANCES_NAMED, Diverged, named
from training.frozen_branches import HeadOnly, feature_keys, keep_features
from training.optim import Schedule, build_optimizers
from training.origins import Origins
from training.session import Fold, feature_settings
from training.state import TrainingState
from training.stream import waveform_statistics
from training.warm_start import start_branches

log = logging.getLogger(__name__)


class Training(NamedTuple):
    """A training before its first step."""

    state: TrainingState
    train_loader: DataLoader | ImageLoader
    kept: KeptFeatures | None = None  # of frozen branches, which evaluation reads, too


def build_training(fold: Fold, origins: Origins, factors: Sequence[float] = ()) -> Training:
    """Build a fold's model, what trains it, and the batches of its training split.

    Args:
        fold: The training.
        origins: From `find_origins`: where branches start that start from another run.
        factors: Factor of the learning rates in each epoch, in the place of a schedule.
    """
    torch.manual_seed(fold.rng_seed)
    store = fold.session.store
    if fold.config.train.features == "frozen":
        return _build_head_training(fold, origins, factors)
    train = make_train_data(fold)
    model = build_model(fold.config, len(fold.classes), store.record[0])
    if fold.config.train.normalize is True:
        model.set_normalization(_statistics(fold, train))
    read, n = fold.beside(fold.split.train), len(fold.split.train)
    model.set_normalization(statistics_of_each(read, n))
    start_branches(model, fold, origins)
    state = build_state(fold, model, train.targets, factors)
    return Training(state, make_train_loader(fold, train))


def _build_head_training(fold: Fold, origins: Origins, factors: Sequence[float]) -> Training:
    """Build the training of a head on features that frozen branches give."""
    whole = build_model(fold.config, len(fold.classes), fold.session.store.record[0])
    start_branches(whole, fold, origins)
    kept = keep_features(fold, whole.to(fold.session.accelerator.device), origins)
    train = make_dataset(fold, fold.split.train, training=True, kept=kept)
    state = build_state(fold, HeadOnly(whole), train.targets, factors)
    return Training(state, make_train_loader(fold, train), kept)


def build_model(config: Config, n_classes: int, n_channels: int) -> MaxMViTGMU:
    """Build the model of a config for images with `n_channels` channels."""
    sources = open_sources(config)
    shapes, speech = source_shapes(sources), trained_model(config, sources)
    model = MaxMViTGMU.from_config(config.model, n_classes, n_channels, shapes, speech)
    if config.train.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if config.train.gradient_checkpointing:
        model.checkpoint_gradients()
    return model


def build_untrained(config: Config, n_classes: int) -> MaxMViTGMU:
    """Build a config's network for a measurement: no corpus is opened, no weights are read."""
    wishes = {"pretrained": False, "cqt_weights": None, "mel_weights": None}
    model = config.model.model_copy(update=wishes)
    n_channels = SpectrogramImages(**feature_settings(config)).n_channels
    return build_model(config.model_copy(update={"model": model}), n_classes, n_channels)


def build_state(
    fold: Fold,
    model: MaxMViTGMU | HeadOnly,
    train_targets: Tensor,
    factors: Sequence[float] = (),
) -> TrainingState:
    """Give a model its loss, optimizers and schedule.

    Args:
        fold: The training.
        model: The untrained model, or its untrained head.
        train_targets: Targets of the training split, for class weights.
        factors: See `build_training`.
    """
    config, optim, accelerator = fold.config, fold.config.optim, fold.session.accelerator
    loss = build_loss(config, train_targets, len(fold.classes), fold.task.scale)
    loss = loss.to(accelerator.device)
    if config.train.sync_batch_norm:
        sync_batch_norms(model, accelerator.device)
    batches = train_batches(fold, len(fold.split.train))
    if config.train.compile:
        model.graphs = training_graphs(config, batches, eval_batch_size(config))
    parts = model.to(accelerator.device).parts()
    optimizers = build_optimizers(
        {**parts, "head": [*parts["head"], *loss.parameters()]},
        optim.optimizer.model_dump(exclude_none=True),
        optim.lr,
        optim.branch_lr_scales(),
        optim.weight_decay,
        model.without_decay(),
    )
    steps_per_epoch = -(-len(batches) // config.train.accumulate)
    schedule = Schedule(
        optimizers,
        "replayed" if factors else optim.schedule,
        n_steps=steps_per_epoch * config.train.epochs,
        factors=factors,
        n_warmup=round(steps_per_epoch * warmup_epochs(config)),
        factor=optim.plateau_factor or 0.1,
        patience=optim.plateau_patience or 0,
        min_lr=optim.min_lr or 0.0,
    )
    return TrainingState(
        model=model,
        criterion=loss,
        optimizers=optimizers,
        schedule=schedule,
        accelerator=accelerator,
        seed=fold.rng_seed,
        accumulate=config.train.accumulate,
        backbone_batch=config.train.backbone_batch,
        clip_grad_norm=config.train.clip_grad_norm,
        max_bad_steps=config.train.max_bad_steps,
        names={part: fold.ids(utterances) for part, utterances in fold.split.parts()},
        stop=fold.session.stop,
        title=fold.title,
        ema=config.train.ema,
        task=fold.task,
    )


def warmup_epochs(config: Config) -> float:
    """Return the epochs of warm-up: half of a training that would consist of nothing else."""
    warmup, epochs = config.optim.warmup_epochs or 0.0, config.train.epochs
    if warmup < epochs:
        return warmup
    log.info(
        "optim.warmup_epochs=%g leaves nothing of train.epochs=%d for the cosine: the rate rises "
        "for %g epochs instead",
        *(warmup, epochs, epochs / 2),
    )
    return epochs / 2


def nt_xent_warmup_epochs(config: Config) -> int:
    """Return the epochs over which the weight of NT-Xent rises: at most half of the training."""
    warmup, epochs = config.loss.nt_xent_warmup_epochs or 0, config.train.epochs
    if warmup < epochs:
        return warmup
    log.info(
        "loss.nt_xent_warmup_epochs=%d leaves no epoch of train.epochs=%d with the whole weight: "
        "it rises for %d epochs instead",
        *(warmup, epochs, epochs // 2),
    )
    return epochs // 2


def build_loss(
    config: Config, targets: Tensor, n_classes: int, scale: RatingScale | None = None
) -> FusionLoss:
    """Build the loss; balanced class weights are those of the training targets (N,)."""
    weights = None
    if config.loss.class_weights == "balanced":
        counts = torch.bincount(targets, minlength=n_classes)
        weights = len(targets) / (n_classes * counts.clamp_min(1))  # (K,)
    values = config.loss.model_dump(exclude={"class_weights"}, exclude_none=True)
    if config.loss.nt_xent_warmup_epochs:
        values["nt_xent_warmup_epochs"] = nt_xent_warmup_epochs(config)
    values["branches"] = config.model.reads
    return FusionLoss(class_weights=weights, rating_scale=scale, **values)


def make_dataset(
    fold: Fold,
    utterances: Sequence[Utterance],
    training: bool = False,
    kept: KeptFeatures | None = None,
) -> ImageDataset:
    """Return the stored images of one split, or its kept features; only training is augmented.

    Args:
        fold: The training.
        utterances: The split.
        training: Whether it is for training.
        kept: Features that take the images' place.
    """
    augment = _image_augment(fold.config) if training else None
    hashes, targets = fold.hashes(utterances), fold.targets(utterances)
    if kept is not None:
        keys = feature_keys(fold, utterances)
        return ImageDataset(kept, keys, targets, augment, fold.rng_seed)
    shards = fold.session.shards
    store: FeatureStore | ShardImages = fold.session.store
    if training and shards is not None and shards.has_images:
        store = shards.images(hashes)
    norm, beside = fold.norm(utterances), fold.beside(utterances)
    return ImageDataset(store, hashes, targets, augment, fold.rng_seed, norm, beside)


def make_train_data(fold: Fold) -> ImageDataset | WaveformDataset:
    """Return the training split: its stored images, or its audio where the store has none of it."""
    shards = fold.session.shards
    if shards is not None and not shards.has_images:
        return make_waveforms(fold)
    return make_dataset(fold, fold.split.train, training=True)


def make_waveforms(fold: Fold, augmented: bool = True) -> WaveformDataset:
    """Return waveforms of the training split: trimmed, cropped, changed as in training, or not."""
    images = SpectrogramImages(**fold.session.store.settings)
    hashes, shards = fold.hashes(fold.split.train), fold.session.shards
    sources: Sequence[Any] = [utterance.audio for utterance in fold.split.train]
    read: Callable[[Any, int, str], NDArray[np.float32]] = read_audio
    if shards is not None:
        sources, read = shards.audio(hashes), shards.read_audio
    augment = fold.config.augment.model_dump(exclude=set(ImageAugment._fields))
    return WaveformDataset(
        sources,
        hashes,
        fold.targets(fold.split.train),
        images.input_rate,
        images.crop_size if augmented else None,
        augment if augmented else {},
        fold.rng_seed,
        read,
        images.trim_db if augmented else None,
    )


def eval_loader(
    fold: Fold, utterances: Sequence[Utterance], kept: KeptFeatures | None = None
) -> DataLoader:
    """Return this process's batches of a split, each crop once; of kept features, if given."""
    _, rank, world = _batch_share(fold)
    dataset = make_dataset(fold, utterances, kept=kept)
    batches = EvalBatches(len(dataset), eval_batch_size(fold.config), rank, world)
    return build_loader(dataset, batches, fold.session.accelerator.device, _workers(fold))


def eval_batch_size(config: Config) -> int:
    """Return the number of crops of a batch in evaluation, on one process."""
    train = config.train
    return train.eval_batch_size or train.backbone_batch or train.batch_size


def train_batches(fold: Fold, n: int) -> TrainBatches:
    """Return this process's batches of n training utterances, as indices."""
    size, rank, world = _batch_share(fold)
    balanced = fold.config.train.sampling == "balanced"
    targets = fold.targets(fold.split.train) if balanced else None
    batches = TrainBatches(n, size, fold.rng_seed, rank, world, targets)
    batches.set_epoch(0, divisor=Checkpoints(fold.folder / STATE).divisor())
    return batches


def _batch_share(fold: Fold) -> tuple[int, int, int]:
    """Return batch size, rank of this process, number of processes."""
    accelerator: Accelerator = fold.session.accelerator
    size = fold.config.train.batch_size
    return size, accelerator.process_index, accelerator.num_processes


def make_train_loader(
    fold: Fold, train: ImageDataset | WaveformDataset
) -> DataLoader | ImageLoader:
    """Return the batches of the training split, from the store or from waveforms."""
    config, device = fold.config, fold.session.accelerator.device
    batches = train_batches(fold, len(train))
    if config.train.images == "stored":
        return build_loader(train, batches, device, _workers(fold))
    images = SpectrogramImages(**fold.session.store.settings)
    loader = build_loader(make_waveforms(fold), batches, device, config.run.workers)
    norm, beside = fold.norm(fold.split.train), fold.beside(fold.split.train)
    return ImageLoader(loader, images, _image_augment(config), device, norm, beside)


def _workers(fold: Fold) -> int:
    """Return the processes that load data; features are in memory already."""
    return 0 if fold.config.train.features == "frozen" else fold.config.run.workers


def _image_augment(config: Config) -> ImageAugment:
    values = config.augment.model_dump(include=set(ImageAugment._fields), exclude_none=True)
    return ImageAugment(**values, top_db=config.features.top_db)


def _statistics(
    fold: Fold, train: ImageDataset | WaveformDataset
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return mean and deviation of the training images.

    Raises:
        RunError: Some images are not finite; normalised by these numbers all would be NaN.
    """
    if not isinstance(train, ImageDataset):
        images = SpectrogramImages(**fold.session.store.settings)
        device, workers = fold.session.accelerator.device, fold.config.run.workers
        plain = make_waveforms(fold, augmented=False)
        statistics, bad = waveform_statistics(plain, images, device, workers)
    else:
        assert not isinstance(train.store, KeptFeatures)
        statistics = train.store.statistics(train.rows.tolist())
        bad = []
        if not all(bool(v.isfinite().all()) for pair in statistics.values() for v in pair):
            finite = [all(np.isfinite(x[row]).all() for x in train.stored) for row in train.rows]
            bad = np.unique(train.utterances[~np.array(finite)]).tolist()
    if bad:
        names = named(bad[:UTTERANCES_NAMED], fold.ids(fold.split.train))
        raise Diverged("normalization", [DATA], names).because((), "")
    return statistics
