"""Batches of images, from the feature store or from waveforms: nothing lost, all repeatable."""

import signal
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset, Sampler

from audio.augment import (
    Mix,
    augment_images,
    augment_waveform,
    draw_crop,
    draw_index,
    draw_mix,
    mix_images,
)
from audio.reading import BadAudio, read_audio
from features import SpectrogramImages
from storage.feature_store import FeatureStore
from system.errors import RunError
from system.signals import SIGNALS

Item = tuple[int, int]  # (epoch, index)


class Batch(NamedTuple):
    """Clips on their way to the model."""

    clip: Tensor  # (B,) place in the split
    cqt: Tensor  # (B, C, H, W) dB
    mel: Tensor  # (B, C, H, W) dB
    targets: Tensor  # (B,)
    mix: Mix | None = None  # which images hold a second clip, in training with mixup

    def to(self, device: torch.device) -> "Batch":
        """Move all tensors."""
        return Batch(*(_moved(value, device) for value in self))

    def pin_memory(self) -> "Batch":
        """Pin all tensors; the loader asks for it on a GPU."""
        return Batch(*(_pinned(value) for value in self))


class Waveforms(NamedTuple):
    """Clips on their way to the images."""

    clip: Tensor  # (B,) place in the split
    waveform: Tensor  # (B, T)
    lengths: Tensor  # (B,) samples
    targets: Tensor  # (B,)
    keys: Tensor  # (B, 3) seed, epoch, clip: the chance of the augmentation

    def pin_memory(self) -> "Waveforms":
        """Pin all tensors; the loader asks for it on a GPU."""
        return Waveforms(*(_pinned(value) for value in self))


class ImageAugment(NamedTuple):
    """Changes to images, see `augment_images` and `draw_mix`."""

    freq_mask: float = 0.0
    time_mask: float = 0.0
    time_shift: float = 0.0
    mixup: float = 0.0

    def __call__(self, batch: Batch, keys: Sequence[Sequence[int]]) -> Batch:
        """Return a changed batch; keys are (seed, epoch, clip) of each clip."""
        if any(self[:3]):
            pairs = [
                augment_images((cqt, mel), key, *self[:3])
                for cqt, mel, key in zip(batch.cqt, batch.mel, keys, strict=True)
            ]
            cqt, mel = (torch.stack(images) for images in zip(*pairs, strict=True))
            batch = batch._replace(cqt=cqt, mel=mel)
        if self.mixup:
            drawn = draw_mix(keys, self.mixup)
            mix = Mix(*(tensor.to(batch.cqt.device) for tensor in drawn))
            mixed = mix_images(batch.cqt, mix), mix_images(batch.mel, mix)
            batch = batch._replace(cqt=mixed[0], mel=mixed[1], mix=mix)
        return batch


class ImageDataset(Dataset):
    """The stored images of one split; an item is asked for as (epoch, index).

    Workers hold no state: what is drawn follows from the item.

    Args:
        store: Holds the images of all clips.
        hashes: Audio hash of each clip.
        targets: Class index of each clip.
        augment: Changes in training; None for dev and test, where an item is a crop and all crops
            of a clip come, while in training it is a clip, and one of its crops is drawn.
        seed: Of the augmentation.
    """

    def __init__(
        self,
        store: FeatureStore,
        hashes: Sequence[str],
        targets: Sequence[int],
        augment: ImageAugment | None = None,
        seed: int = 0,
    ) -> None:
        self.views = store.view("cqt"), store.view("mel")
        self.crops = [store.rows[key] for key in hashes]
        self.rows = np.concatenate([np.array(rows) for rows in self.crops])  # of all crops
        self.clips = np.repeat(np.arange(len(hashes)), [len(rows) for rows in self.crops])
        self.ids = [clip_id(key) for key in hashes]
        self.targets = torch.as_tensor(targets, dtype=torch.long)
        self.augment, self.seed = augment, seed

    def __len__(self) -> int:
        return len(self.rows) if self.augment is None else len(self.crops)

    def __getitem__(self, item: Item) -> Batch:
        return self.__getitems__([item])

    def __getitems__(self, items: Sequence[Item]) -> Batch:
        """Return a batch of (epoch, index) pairs; the loader calls this in place of `[]`."""
        index = np.array([i for _, i in items])
        if self.augment is None:
            return self._batch(self.clips[index], self.rows[index])
        keys = [(self.seed, epoch, self.ids[i]) for epoch, i in items]
        rows = np.array([self._draw(i, key) for i, key in zip(index, keys, strict=True)])
        return self.augment(self._batch(index, rows), keys)

    def _batch(self, clips: NDArray, rows: NDArray) -> Batch:
        cqt, mel = (torch.from_numpy(view[rows]).float() for view in self.views)
        return Batch(torch.from_numpy(clips), cqt, mel, self.targets[clips])

    def _draw(self, i: int, key: Sequence[int]) -> int:
        """Return the row of one of a clip's crops."""
        return self.crops[i][draw_index(len(self.crops[i]), key)]


class WaveformDataset(Dataset):
    """The recordings of the training split, changed as waveforms; items are (epoch, index).

    Args:
        paths: File of each clip.
        hashes: Audio hash of each clip.
        targets: Class index of each clip.
        sample_rate: Hz of the waveforms.
        crop_size: Samples of a crop; None takes clips whole.
        augment: Arguments of `augment_waveform`.
        seed: Of the augmentation.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        hashes: Sequence[str],
        targets: Sequence[int],
        sample_rate: int,
        crop_size: int | None,
        augment: Mapping[str, Any],
        seed: int = 0,
    ) -> None:
        self.paths, self.hashes = paths, hashes
        self.ids = [clip_id(key) for key in hashes]
        self.targets = torch.as_tensor(targets, dtype=torch.long)
        self.sample_rate, self.crop_size = sample_rate, crop_size
        self.augment, self.seed = dict(augment), seed

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, item: Item) -> Waveforms:
        return self.__getitems__([item])

    def __getitems__(self, items: Sequence[Item]) -> Waveforms:
        """Return a batch of (epoch, index) pairs; the loader calls this in place of `[]`."""
        index = [i for _, i in items]
        keys = [(self.seed, epoch, self.ids[i]) for epoch, i in items]
        clips = [self._waveform(i, key) for i, key in zip(index, keys, strict=True)]
        lengths = torch.tensor([len(clip) for clip in clips])
        waveform = pad_sequence(clips, batch_first=True)  # (B, T)
        return Waveforms(
            torch.tensor(index), waveform, lengths, self.targets[index], torch.tensor(keys)
        )

    def _waveform(self, i: int, key: Sequence[int]) -> Tensor:
        try:
            samples = read_audio(self.paths[i], self.sample_rate, self.hashes[i])
        except BadAudio as error:
            raise RunError(
                f"{self.paths[i]} {error}. Put the recording back, and run the same command again"
            ) from error
        changed = torch.from_numpy(augment_waveform(samples, self.sample_rate, key, **self.augment))
        return changed if self.crop_size is None else draw_crop(changed, self.crop_size, key)


class ImageLoader:
    """A loader of waveforms as one of images, computed a batch at a time on the device.

    Args:
        loader: Yields `Waveforms`.
        images: Computes the images.
        augment: Changes them.
        device: Where.
    """

    def __init__(
        self,
        loader: DataLoader,
        images: SpectrogramImages,
        augment: ImageAugment,
        device: torch.device,
    ) -> None:
        self.loader, self.images = loader, images.to(device)
        self.augment, self.device = augment, device
        self.batch_sampler = loader.batch_sampler

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        for waveforms in self.loader:
            yield self.to_images(waveforms)

    @torch.no_grad()
    def to_images(self, waveforms: Waveforms) -> Batch:
        """Return the images of a batch."""
        clip, waveform, lengths, targets, keys = (_moved(v, self.device) for v in waveforms)
        cqt, mel = self.images(waveform, lengths)
        return self.augment(Batch(clip, cqt, mel, targets), keys.tolist())


class TrainBatches(Sampler):
    """Shuffled batches of near-equal size, the same for the same (seed, epoch).

    The clips of an epoch are dealt evenly over its batches, so that there is no short last batch
    to drop and none of one clip, which batch normalization cannot take. With several processes
    each has as many batches of the same sizes; up to `world - 1` clips are seen twice for it.

    Args:
        n: Clips in the split.
        batch_size: Largest number of clips a batch (one more where only that avoids a lone clip).
        seed: Of the order.
        rank: This process.
        world: Number of processes.
    """

    def __init__(self, n: int, batch_size: int, seed: int, rank: int = 0, world: int = 1) -> None:
        self.n, self.seed, self.rank, self.world = n, seed, rank, world
        self.epoch = self.first = 0
        self.n_own = -(-n // world)
        self.n_batches = max(1, min(-(-self.n_own // batch_size), self.n_own // 2))

    def set_epoch(self, epoch: int, first: int = 0) -> None:
        """Choose the order of the next pass, and how many of its batches have been seen."""
        self.epoch, self.first = epoch, first

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[list[Item]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.n)
        order = np.resize(order, self.n_own * self.world)  # repeats from the start to fill up
        for own in np.array_split(order[self.rank :: self.world], self.n_batches)[self.first :]:
            yield [(self.epoch, int(i)) for i in own]


class EvalBatches(Sampler):
    """Each item once, in order, dealt over the processes in as many batches on each.

    DDP synchronises buffers in every forward: a process with one more would wait for the others.
    """

    def __init__(self, n: int, batch_size: int, rank: int = 0, world: int = 1) -> None:
        n_batches = -(-n // (world * batch_size))
        self.batches = np.array_split(range(n)[rank::world], n_batches)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Item]]:
        for own in self.batches:
            yield [(0, int(i)) for i in own]


def build_loader(
    dataset: Dataset, batches: Sampler, device: torch.device, workers: int
) -> DataLoader:
    """Return a loader of whole batches; on a CPU the training process reads for itself."""
    on_gpu = device.type == "cuda"
    n_workers = workers if on_gpu else 0  # they would take the cores that train
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=_as_it_is,
        num_workers=n_workers,
        worker_init_fn=_leave_signals,
        persistent_workers=n_workers > 0,
        pin_memory=on_gpu,
    )


def _leave_signals(worker: int) -> None:
    """Let the training process decide when to end: a signal to all of them must not end workers."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def clip_id(audio_hash: str) -> int:
    """Return the clip's part of the augmentation's chance: the same in any fold or order."""
    return int(audio_hash[:8], 16)


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, Mix):
        return Mix(*(_moved(tensor, device) for tensor in value))
    return None if value is None else value.to(device, non_blocking=True)


def _pinned(value: Any) -> Any:
    if isinstance(value, Mix):
        return Mix(*(tensor.pin_memory() for tensor in value))
    return None if value is None else value.pin_memory()


def _as_it_is(batch: Any) -> Any:
    return batch
