"""Batches of images for training and evaluation, from the feature store or from waveforms."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
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
    recording_id,
)
from audio.reading import BadAudio, read_audio
from audio.row_norm import RowNorm, SpeakerNorm
from audio.trim import trim_silence
from config.fusions import SOURCES
from features import SpectrogramImages
from storage.feature_store import FeatureStore
from storage.kept_features import KeptFeatures
from storage.shards import ShardImages
from system.errors import RunError
from system.signals import ignore_signals

Item = tuple[int, int]  # (epoch, index in the split); the epoch is part of the seed
# What a branch reads beside images, of utterances of a split by their index: (B, ...), or `Frames`
Vectors = Callable[[NDArray], Any]
NOTHING: Mapping[str, Vectors] = MappingProxyType({})


class Batch(NamedTuple):
    """What the model and the loss read; images are float16 as stored until they are on a device."""

    utterance: Tensor  # (B,) index of the utterance in the split
    cqt: Tensor  # (B, C, H, W) dB; features (B, D) of a frozen branch
    mel: Tensor  # (B, C, H, W) dB; likewise
    targets: Tensor  # (B,) class indices, or (B, D) ratings
    mix: Mix | None = None  # which images are mixed with which, in training with mixup
    norm: RowNorm | None = None  # of each image's speaker; None if none or already applied
    speech: Any = None  # (B, L, D) pooled hidden states, or `Frames`; None if not read
    file: Tensor | None = None  # (B, D) vectors of the user's own; None if not read

    @property
    def inputs(self) -> tuple[Any, ...]:
        """What the network reads, in the order of SOURCES; both images where it reads no others."""
        if self.speech is None and self.file is None:
            return self.cqt, self.mel
        return self.cqt, self.mel, self.speech, self.file

    def take(self, rows: Any) -> "Batch":
        """Return the rows of a slice or an index."""
        return Batch(*(_each(value, lambda tensor: tensor[rows]) for value in self))

    def to(self, device: torch.device) -> "Batch":
        """Move all tensors to a device; images become float32 there, and are standardised."""
        moved = self if self.targets.device == device else Batch(*(_move(v, device) for v in self))
        return moved.widened().standardised()

    def widened(self) -> "Batch":
        """Return the batch with images, and what is read beside them, in float32."""
        return self.changed(lambda tensor: tensor.float() if tensor.is_floating_point() else tensor)

    def changed(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """Return the batch with a change of all inputs."""
        values = zip(SOURCES, self.inputs, strict=False)
        return self._replace(**{branch: _each(value, change) for branch, value in values})

    def standardised(self) -> "Batch":
        """Return the batch of float32 with `norm` applied, where there is one."""
        if self.norm is None:
            return self
        cqt, mel = self.norm(self.cqt, self.mel)
        return self._replace(cqt=cqt, mel=mel, norm=None)

    def pin_memory(self) -> "Batch":
        """Pin all tensors; DataLoader calls this on a GPU."""
        return Batch(*(_each(value, Tensor.pin_memory) for value in self))


class Waveforms(NamedTuple):
    """A batch before its images are computed."""

    utterance: Tensor  # (B,) index of the utterance in the split
    waveform: Tensor  # (B, T), padded with zeros
    lengths: Tensor  # (B,) samples
    targets: Tensor  # (B,) class indices, or (B, D) ratings
    keys: Tensor  # (B, 3) seed, epoch, recording id: seed the augmentation

    def pin_memory(self) -> "Waveforms":
        """Pin all tensors; DataLoader calls this on a GPU."""
        return Waveforms(*(value.pin_memory() for value in self))


class ImageAugment(NamedTuple):
    """Random changes of images, see `augment_images` and `draw_mix`."""

    freq_mask: float = 0.0
    time_mask: float = 0.0
    time_shift: float = 0.0
    freq_shift: float = 0.0
    level_db: float = 0.0
    mixup: float = 0.0
    top_db: float = 80.0  # of the images, see `SpectrogramImages`

    def __call__(self, batch: Batch, keys: Sequence[Sequence[int]]) -> Batch:
        """Return a changed batch; `keys` holds (seed, epoch, recording id) of each image."""
        changes = self[:5]
        if any(changes) or self.mixup:
            batch = batch.widened()
        if any(changes):
            pairs = [
                augment_images((cqt, mel), key, *changes, self.top_db)
                for cqt, mel, key in zip(batch.cqt, batch.mel, keys, strict=True)
            ]
            cqt, mel = (torch.stack(images) for images in zip(*pairs, strict=True))
            batch = batch._replace(cqt=cqt, mel=mel)
        if self.mixup:
            batch = batch.standardised()  # after masks and shifts, which fill in dB
            mix = Mix(*(tensor.to(batch.cqt.device) for tensor in draw_mix(keys, self.mixup)))
            batch = batch.changed(lambda tensor: mix_images(tensor, mix))._replace(mix=mix)
        return batch


class ImageDataset(Dataset):
    """The stored images of one split; items are (epoch, index).

    In training an index is an utterance, of which one crop is drawn; in evaluation all crops come.

    Args:
        store: Feature store, or shards, with the images of all utterances; or their features, kept
            of frozen branches, which take the images' place.
        hashes: Audio hash of each utterance.
        targets: Class index of each utterance, or its ratings.
        augment: Random changes in training; None for dev and test.
        seed: Base seed of the augmentation.
        norm: Statistics of the utterances' speakers, which batches carry; None for none.
        beside: What the branches `speech` and `file` read, of utterances by their index.
    """

    def __init__(
        self,
        store: FeatureStore | ShardImages | KeptFeatures,
        hashes: Sequence[str],
        targets: Sequence[Any],
        augment: ImageAugment | None = None,
        seed: int = 0,
        norm: SpeakerNorm | None = None,
        beside: Mapping[str, Vectors] = NOTHING,
    ) -> None:
        self.beside = beside
        self.store, self.stored = store, (store.images("cqt"), store.images("mel"))
        self.crops = [store.rows[key] for key in hashes]
        self.rows = np.concatenate([np.array(rows) for rows in self.crops])  # (crops,) in the store
        self.utterances = np.repeat(np.arange(len(hashes)), [len(rows) for rows in self.crops])
        self.ids = [recording_id(key) for key in hashes]
        self.targets = as_targets(targets)
        self.augment, self.seed, self.norm = augment, seed, norm

    def __len__(self) -> int:
        return len(self.rows) if self.augment is None else len(self.crops)

    def __getitem__(self, item: Item) -> Batch:
        return self.__getitems__([item])

    def __getitems__(self, items: Sequence[Item]) -> Batch:
        """Return a batch of (epoch, index) pairs; the loader calls this in place of `[]`."""
        index = np.array([i for _, i in items])
        if self.augment is None:
            return self._batch(self.utterances[index], self.rows[index])
        keys = [(self.seed, epoch, self.ids[i]) for epoch, i in items]
        rows = self.rows[index]
        if len(self.rows) > len(self.crops):  # not one crop each
            rows = np.array([self._draw(i, key) for i, key in zip(index, keys, strict=True)])
        return self.augment(self._batch(index, rows), keys)

    def _batch(self, utterances: NDArray, rows: NDArray) -> Batch:
        cqt, mel = (torch.from_numpy(images[rows]) for images in self.stored)
        index = torch.from_numpy(utterances)
        norm = None if self.norm is None else self.norm.of(index)
        more = {branch: vectors(utterances) for branch, vectors in self.beside.items()}
        return Batch(index, cqt, mel, self.targets[utterances], norm=norm, **more)

    def _draw(self, i: int, key: Sequence[int]) -> int:
        """Return the row of one crop of an utterance."""
        rows = self.crops[i]
        return rows[draw_index(len(rows), key) if len(rows) > 1 else 0]


class WaveformDataset(Dataset):
    """The waveforms of the training split, randomly changed; items are (epoch, index).

    Args:
        sources: Audio file of each utterance, a segment of it, or a member of a shard.
        hashes: Audio hash of each utterance.
        targets: Class index of each utterance, or its ratings.
        sample_rate: Sampling rate of the waveforms, Hz.
        crop_size: Samples of a random crop; None keeps whole recordings.
        augment: Keyword arguments of `augment_waveform`.
        seed: Base seed of the augmentation.
        read: Reads a source at a rate, and checks that it has a hash; as `read_audio`.
        trim_db: Silence to leave out at both ends, see `trim_silence`.
    """

    def __init__(
        self,
        sources: Sequence[Any],
        hashes: Sequence[str],
        targets: Sequence[Any],
        sample_rate: int,
        crop_size: int | None,
        augment: Mapping[str, Any],
        seed: int = 0,
        read: Callable[[Any, int, str], NDArray[np.float32]] = read_audio,
        trim_db: float | None = None,
    ) -> None:
        self.sources, self.hashes, self.read = sources, hashes, read
        self.ids = [recording_id(key) for key in hashes]
        self.targets = as_targets(targets)
        self.sample_rate, self.crop_size = sample_rate, crop_size
        self.augment, self.seed, self.trim_db = dict(augment), seed, trim_db

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, item: Item) -> Waveforms:
        return self.__getitems__([item])

    def __getitems__(self, items: Sequence[Item]) -> Waveforms:
        """Return a batch of (epoch, index) pairs; the loader calls this in place of `[]`."""
        index = [i for _, i in items]
        keys = [(self.seed, epoch, self.ids[i]) for epoch, i in items]
        waveforms = [self._waveform(i, key) for i, key in zip(index, keys, strict=True)]
        lengths = torch.tensor([len(waveform) for waveform in waveforms])
        waveform = pad_sequence(waveforms, batch_first=True)  # (B, T)
        return Waveforms(
            torch.tensor(index), waveform, lengths, self.targets[index], torch.tensor(keys)
        )

    def _waveform(self, i: int, key: Sequence[int]) -> Tensor:
        try:
            samples = self.read(self.sources[i], self.sample_rate, self.hashes[i])
        except BadAudio as error:
            words = "Put the recording back, and run the same command again"
            raise RunError(f"{self.sources[i]} {error}. {words}") from error
        samples = trim_silence(torch.from_numpy(samples), self.sample_rate, self.trim_db).numpy()
        changed = torch.from_numpy(augment_waveform(samples, self.sample_rate, key, **self.augment))
        return changed if self.crop_size is None else draw_crop(changed, self.crop_size, key)


class ImageLoader:
    """Turns a loader of waveforms into one of images, computed per batch on a device.

    Args:
        loader: Loader that yields `Waveforms`.
        images: Front end that computes the images.
        augment: Random changes of the images.
        device: Device that computes the images.
        norm: Statistics of the utterances' speakers; None for none.
        beside: What the branches `speech` and `file` read, of utterances by their index.
    """

    def __init__(
        self,
        loader: DataLoader,
        images: SpectrogramImages,
        augment: ImageAugment,
        device: torch.device,
        norm: SpeakerNorm | None = None,
        beside: Mapping[str, Vectors] = NOTHING,
    ) -> None:
        self.beside = beside
        self.loader, self.images = loader, images.to(device)
        self.augment, self.device, self.norm = augment, device, norm
        self.batch_sampler = loader.batch_sampler

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Batch]:
        for waveforms in self.loader:
            yield self.to_images(waveforms)

    @torch.no_grad()
    def to_images(self, waveforms: Waveforms) -> Batch:
        """Return the images of a batch."""
        norm = None if self.norm is None else self.norm.of(waveforms.utterance)
        utterance, waveform, lengths, targets, keys = (_move(v, self.device) for v in waveforms)
        cqt, mel = self.images(waveform, lengths)
        rows = waveforms.utterance.numpy()
        more = {branch: vectors(rows) for branch, vectors in self.beside.items()}
        more |= {"norm": norm}
        more = {name: _move(value, self.device) for name, value in more.items()}
        batch = Batch(utterance, cqt, mel, targets, **more).widened()
        return self.augment(batch, keys.tolist())


class BatchLoader(DataLoader):
    """A loader of complete batches, straight from the dataset where this process reads them."""

    def __iter__(self) -> Any:
        if self.num_workers or self.pin_memory:
            return super().__iter__()
        return map(self.dataset.__getitems__, self.batch_sampler)  # type: ignore


def build_loader(
    dataset: Dataset, batches: Sampler, device: torch.device, workers: int
) -> DataLoader:
    """Return a loader of complete batches; on a CPU the training process reads them itself."""
    on_gpu = device.type == "cuda"
    return BatchLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=_identity,
        num_workers=workers if on_gpu else 0,  # on a CPU they would take the cores that train
        worker_init_fn=ignore_signals,
        persistent_workers=on_gpu and workers > 0,
        pin_memory=on_gpu,
    )


def as_targets(targets: Sequence[Any]) -> Tensor:
    """Return class indices (N,) as int64, or ratings (N, D) as float32."""
    found = torch.as_tensor(np.asarray(targets))
    return found.float() if found.is_floating_point() else found.long()


def _each(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Change a tensor, or those of a tuple such as Mix, RowNorm or Frames; None stays."""
    if isinstance(value, tuple):
        return type(value)(*(change(tensor) for tensor in value))
    return None if value is None else change(value)


def _move(value: Any, device: torch.device) -> Any:
    return _each(value, lambda tensor: tensor.to(device, non_blocking=True))


def _identity(batch: Any) -> Any:
    return batch
