"""What trains one fold's model, built from its config: loss, optimizers, schedule."""

import torch
from accelerate import Accelerator
from torch import Tensor

from config.schema import Config
from data import TrainBatches
from model_gmu import MaxMViTGMU
from models.losses import FusionLoss
from system.signals import Stop
from training.engine import Trainer
from training.job import FoldJob
from training.optim import Schedule, build_optimizers


def build_model(config: Config, n_classes: int, n_channels: int) -> MaxMViTGMU:
    """Build the model of a config for images of so many channels."""
    model = MaxMViTGMU.from_config(config.model, n_classes, n_channels)
    if config.train.channels_last:
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model


def build_trainer(
    job: FoldJob,
    model: MaxMViTGMU,
    train_targets: Tensor,
    accelerator: Accelerator,
    stop: Stop | None = None,
) -> Trainer:
    """Give the model its loss, optimizers and schedule."""
    config, optim = job.config, job.config.optim
    loss = _build_loss(config, train_targets, len(job.classes)).to(accelerator.device)
    parts = model.to(accelerator.device).parts()
    optimizers = build_optimizers(
        {**parts, "head": [*parts["head"], *loss.parameters()]},
        optim.optimizer.model_dump(exclude_none=True),
        optim.lr,
        optim.backbone_lr_scale,
        optim.weight_decay,
    )
    n_batches = len(train_batches(job, len(job.split.train), accelerator))
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
        loss,
        optimizers,
        schedule,
        accelerator,
        job.chance,
        config.train.accumulate,
        config.train.clip_grad_norm,
        config.train.max_bad_steps,
        {part: job.names(utterances) for part, utterances in job.split.parts()},
        stop,
    )


def train_batches(job: FoldJob, n: int, accelerator: Accelerator) -> TrainBatches:
    """Return which of n training clips meet in which batch of this process."""
    size, rank, world = share_of(job, accelerator)
    return TrainBatches(n, size, job.chance, rank, world)


def share_of(job: FoldJob, accelerator: Accelerator) -> tuple[int, int, int]:
    """Return batch size, number of this process, number of processes."""
    return job.config.train.batch_size, accelerator.process_index, accelerator.num_processes


def _build_loss(config: Config, targets: Tensor, n_classes: int) -> FusionLoss:
    weights = None
    if config.loss.class_weights == "balanced":
        counts = torch.bincount(targets, minlength=n_classes)
        weights = len(targets) / (n_classes * counts.clamp_min(1))  # (K,)
    values = config.loss.model_dump(exclude={"class_weights"}, exclude_none=True)
    return FusionLoss(class_weights=weights, **values)
