"""Statistics of each speaker's images, for `train.normalize: speaker`; no label is read.

They are over all utterances of a speaker in the plan, whatever the split. So a tested speaker's
unlabelled utterances are used: a transductive protocol, which its id says.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from audio.parallel import in_parallel
from audio.row_norm import RowNorm, RowSums, SpeakerNorm
from corpora.plan import Plan
from corpora.utterance import Utterance
from features import SpectrogramImages
from storage.feature_store import IMAGES, FeatureStore
from storage.shards import ShardImages, Shards
from training.divergence import DATA, UTTERANCES_NAMED, Diverged, named

log = logging.getLogger(__name__)

CHUNK = 64  # recordings whose images wait to be added
Images = Sequence[NDArray]  # CQT and Mel images of one recording, 2 x (n, C, H, W)


@dataclass(frozen=True)
class SpeakerStatistics:
    """The statistics of all speakers of a plan.

    Args:
        index: Row of each speaker.
        rows: Mean and deviation, (S, C, H) each.
    """

    index: dict[str, int]
    rows: RowNorm

    def of(self, utterances: Sequence[Utterance]) -> SpeakerNorm:
        """Return what standardises the images of some utterances."""
        index = [self.index[utterance.speaker] for utterance in utterances]
        return SpeakerNorm(self.rows, torch.tensor(index))


def speaker_statistics(
    plan: Plan, store: FeatureStore, shards: Shards | None, device: torch.device, workers: int
) -> SpeakerStatistics:
    """Add up the images of all utterances of a plan, in its order, by speaker.

    With shards they come from these, which hold all utterances; the store has dev and test alone.

    Args:
        plan: Utterances and their audio hashes.
        store: Feature store of the images.
        shards: What training reads in the place of audio files or the store, or None.
        device: Device that computes the images of shards of audio.
        workers: Number of threads that do; 0 or 1 uses the caller's alone.

    Raises:
        RunError: Some images are not finite, or a shard is corrupt.
    """
    utterances = plan.utterances
    index = {name: i for i, name in enumerate(sorted({u.speaker for u in utterances}))}
    hashes = [plan.hashes[utterance.audio] for utterance in utterances]
    if shards is None:
        images = _stored(store, hashes)
    elif shards.has_images:
        images = _stored(shards.images(hashes), hashes)
    else:
        images = _computed(shards, hashes, store.settings, device, workers)
    log.info("train.normalize=speaker: images of %d speakers are added up", len(index))
    sums = RowSums(len(index), store.record)
    finite = [
        sums.add(index[utterance.speaker], pair)
        for utterance, pair in zip(utterances, images, strict=True)
    ]
    if bad := np.flatnonzero(~np.array(finite))[:UTTERANCES_NAMED].tolist():
        names = named(bad, [utterance.id for utterance in utterances])
        raise Diverged("normalization", [DATA], names).because((), "")
    return SpeakerStatistics(index, sums.norm())


def _stored(store: FeatureStore | ShardImages, hashes: Sequence[str]) -> Iterator[Images]:
    """Yield the stored images of recordings."""
    views: list[Any] = [store.images(name) for name in IMAGES]
    for key in hashes:
        rows = np.array(store.rows[key])
        yield [view[rows] for view in views]


def _computed(
    shards: Shards,
    hashes: Sequence[str],
    settings: dict[str, Any],
    device: torch.device,
    workers: int,
) -> Iterator[Images]:
    """Yield the images of recordings in shards of audio, in the store's precision."""
    front_end = SpectrogramImages(**settings).to(device)
    members = shards.audio(hashes)

    def compute(i: int) -> Images:
        waveform = shards.read_audio(members[i], front_end.input_rate, hashes[i])
        with torch.inference_mode():
            pair = front_end(front_end.cut(torch.from_numpy(waveform)).to(device))
        return [image.half().cpu().numpy() for image in pair]

    for start in range(0, len(hashes), CHUNK):
        chunk = range(start, min(start + CHUNK, len(hashes)))
        yield from (images for _, images in in_parallel(compute, chunk, workers))
