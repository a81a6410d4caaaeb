"""How long a training process takes to load a batch, without a feature store."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from corpora.utterance import Utterance
from data import Batch, ImageAugment, ImageDataset
from features import SpectrogramImages
from storage.kept_features import KeptFeatures
from training.build import make_dataset, make_train_loader
from training.session import Fold


def time_input(
    fold: Fold, some: Sequence[Utterance], batch: Batch, images: SpectrogramImages | None
) -> float:
    """Return the seconds in which this process loads a batch as in training.

    Stored images are read from memory, as from files that the system has in its cache. Without a
    front end none are read.
    """
    hashes = fold.hashes(some)
    store: Any = fold.session.store if images is None else _Images(batch, hashes, images)
    run = fold.config.run.model_copy(update={"workers": 0})
    config = fold.config.model_copy(update={"run": run})
    plan = replace(fold.session.plan, utterances=some)  # of which statistics are known
    session = replace(fold.session, config=config, plan=plan, store=store)
    small = replace(fold, session=session, split=replace(fold.split, train=tuple(some)))
    if config.train.features == "frozen":
        rows = {key: range(i, i + 1) for i, key in enumerate(hashes)}
        features = KeptFeatures(rows, {"cqt": batch.cqt, "mel": batch.mel})
        train = ImageDataset(features, hashes, fold.targets(some), ImageAugment())
    else:
        train = make_dataset(small, some, training=True)
    loader = make_train_loader(small, train)
    n_loaded, seconds = 0, 0.0
    for is_timed in (False, True):
        wait_for(fold.session.accelerator)
        start = time.perf_counter()
        for loaded in loader:
            loaded.to(fold.session.accelerator.device)
            n_loaded += is_timed
        wait_for(fold.session.accelerator)
        seconds = time.perf_counter() - start
    return seconds / n_loaded


def wait_for(accelerator: Accelerator) -> None:
    """Wait until the device has computed all: its kernels run on after Python returns."""
    if accelerator.device.type != "cpu":
        torch.accelerator.synchronize()


class _Images:
    """The images of a batch, in the place of a feature store."""

    def __init__(self, batch: Batch, hashes: Sequence[str], images: SpectrogramImages) -> None:
        self.settings, self.record = images.settings, tuple(batch.cqt.shape[1:])
        self.rows = {key: range(i, i + 1) for i, key in enumerate(hashes)}
        self._images = {"cqt": batch.cqt.half().numpy(), "mel": batch.mel.half().numpy()}

    def images(self, name: str) -> np.ndarray:
        """Return the images of `cqt` or `mel`."""
        return self._images[name]
