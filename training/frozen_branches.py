"""Heads trained on the features of frozen branches.

Both branches come from other runs (`warm_start`) and stay as they are: evaluation mode, no
gradient. So the features of a recording never change. They are computed once for each fold and
origin, kept beside the feature store, and shared by all fusions and seeds that have this origin.
"""

import hashlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from config.fusions import IMAGES
from corpora.utterance import Utterance
from data import Batch, ImageDataset
from model_gmu import Features, FusionOutput, MaxMViTGMU
from models.settings import ModelSettings
from storage.kept_features import (
    KeptFeatures,
    features_file,
    in_order,
    n_rows,
    read_features,
    write_features,
)
from system.errors import RunError
from system.files import make_folder
from system.locks import lock
from system.output import progress_bar
from system.temporary import remove_leftovers
from training.batches import EvalBatches
from training.distributed import from_first
from training.origins import WHOLE, Origins
from training.session import Fold

CROPS_AT_ONCE = 16  # whatever the batches of the training: the last bits depend on it
VERSION = 1  # raised when equal facts give other features


class HeadOnly(nn.Module):
    """The head of a network, on features in the place of images; its parameters are the head's.

    Args:
        whole: The network, whose branches are kept aside.

    Shape:
        feat_cqt (B, D_cqt), feat_mel (B, D_mel) -> FusionOutput
    """

    graphs = None  # of compiled backbones

    def __init__(self, whole: MaxMViTGMU) -> None:
        super().__init__()
        self.head = whole.head
        self._aside = (whole,)  # in a tuple, its branches are none of this module's
        self.train()  # the head, which was in evaluation mode with its branches

    @property
    def whole(self) -> MaxMViTGMU:
        """The network, with the head that is trained."""
        return self._aside[0]

    @property
    def settings(self) -> ModelSettings:
        """Settings of the network."""
        return self.whole.settings

    @property
    def float32(self) -> frozenset[str]:
        """Parts that compute without autocast."""
        return self.whole.float32

    @float32.setter
    def float32(self, parts: frozenset[str]) -> None:
        self.whole.float32 = parts

    def forward(self, *features: Tensor | None) -> FusionOutput:
        """Return the head's output."""
        return self.whole.fuse(self.features(*features))

    def features(self, *features: Tensor | None) -> Features:
        """Return the features of both images, None for one that is not read."""
        read = self.whole.settings.reads
        given = zip(IMAGES, features, strict=True)
        return tuple(feature if branch in read else None for branch, feature in given)

    def parts(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters of the head."""
        return {"head": list(self.head.parameters())}

    def without_decay(self) -> list[nn.Parameter]:
        """Return no parameter: position tables are in the branches."""
        return []


def keep_features(fold: Fold, model: MaxMViTGMU, origins: Origins) -> KeptFeatures:
    """Return the features of a fold's recordings, computed where no run has kept them.

    Args:
        fold: The training.
        model: Network on its device, whose branches have the weights of their origins.
        origins: From `find_origins`.

    Raises:
        RunError: They cannot be written, are corrupt, or are not finite.
    """
    every = [u for _, part in fold.split.parts() for u in part]
    by_key = dict(zip(feature_keys(fold, every), every, strict=True))
    utterances = [by_key[key] for key in sorted(by_key)]
    stored = fold.session.store.rows
    rows = in_order({key: stored[key.split()[0]] for key in by_key})
    if WHOLE in origins:
        origins = dict.fromkeys(model.settings.reads, origins[WHOLE])
    files = {branch: _file(fold, model, branch, origins, rows) for branch in origins}

    def features() -> dict[str, Tensor]:
        return {
            branch: _keep(fold, model, branch, file, utterances, n_rows(rows))
            for branch, file in files.items()
        }

    return KeptFeatures(rows, from_first(features))


def feature_keys(fold: Fold, utterances: Sequence[Utterance]) -> list[str]:
    """Return what names the features of utterances: their audio hashes.

    Where images are standardised by speaker, one recording may have the features of two: then the
    speaker follows the hash.
    """
    hashes = fold.hashes(utterances)
    if fold.session.speakers is None:
        return hashes
    return [f"{key} {u.speaker}" for key, u in zip(hashes, utterances, strict=True)]


def _file(
    fold: Fold, model: MaxMViTGMU, branch: str, origins: Origins, rows: Mapping[str, range]
) -> Path:
    """Return the file of a branch's features, named after all that decides them."""
    train, speakers = fold.config.train, fold.session.speakers
    facts: dict[str, Any] = {
        "version": VERSION,
        "branch": branch,
        "weights": origins[branch].weights,
        "images": fold.session.store.folder.name,
        "tokens": model.fusion.reads_tokens,
        "device": fold.session.accelerator.device.type,  # processors round unlike
        "precision": train.precision,
        "channels_last": train.channels_last,
        "speakers": None if speakers is None else _digest(speakers.rows),
    }
    return features_file(Path(fold.config.run.store), facts, rows)


def _digest(tensors: Sequence[Tensor]) -> str:
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in tensors)).hexdigest()


def _keep(
    fold: Fold,
    model: MaxMViTGMU,
    branch: str,
    file: Path,
    utterances: Sequence[Utterance],
    n: int,
) -> Tensor:
    """Read a file of features; compute it first if it is missing. A second process waits."""
    if not file.exists():
        make_folder(file.parent)
        place = file.with_name(f".{file.stem}.lock")
        with lock(place, f"the features of the {branch} branch in {file}", blocking=True):
            remove_leftovers(file.parent)
            if not file.exists():
                write_features(file, compute_features(fold, model, branch, utterances))
    return read_features(file, n)


def what_trains(
    fold: Fold, network: MaxMViTGMU, batch: Batch
) -> tuple[MaxMViTGMU | HeadOnly, Batch, float]:
    """Return what a config trains, its inputs for a batch of images, and seconds of their making.

    Args:
        fold: The training.
        network: The whole network.
        batch: Images.

    Returns:
        The network, the batch and 0; or the head, the features of the batch and the seconds that
        the branches take for those of a crop.
    """
    if fold.config.train.features == "trained":
        return network, batch, 0.0
    device = fold.session.accelerator.device
    network = network.to(device).eval()
    seconds = 0.0
    for _ in range(2):  # the first warms up
        start = time.perf_counter()
        with torch.no_grad(), fold.session.accelerator.autocast():
            features = network.features(*(image.to(device) for image in (batch.cqt, batch.mel)))
            cqt, mel = (
                torch.zeros(len(batch.targets), 0) if f is None else f.float().cpu()
                for f in features
            )
        seconds = time.perf_counter() - start
    return HeadOnly(network), batch._replace(cqt=cqt, mel=mel), seconds / len(batch.targets)


@torch.inference_mode()
def compute_features(
    fold: Fold, model: MaxMViTGMU, branch: str, utterances: Sequence[Utterance]
) -> Tensor:
    """Return the features of utterances, a row a crop, on the CPU: (rows, D), or (rows, N, D).

    Args:
        fold: The training, whose feature store has the images.
        model: Network on its device; put into evaluation mode.
        branch: `cqt` or `mel`.
        utterances: Whose features, in their order.

    Raises:
        RunError: Some are not finite.
    """
    model.eval()
    accelerator, hashes = fold.session.accelerator, fold.hashes(utterances)
    norm, targets = fold.norm(utterances), [0] * len(utterances)
    images = ImageDataset(fold.session.store, hashes, targets, norm=norm)
    title = f"{fold.title}, features of the {branch} branch"
    found: list[Tensor] = []
    with progress_bar(len(images), title, "crop") as bar, accelerator.autocast():
        for batch in EvalBatches(len(images), CROPS_AT_ONCE):
            some = images.__getitems__(batch).to(accelerator.device)
            found.append(model.encode(branch, getattr(some, branch)).float().cpu())
            bar.update(len(batch))
    features = torch.cat(found)
    if not bool(features.isfinite().all()):
        raise RunError(
            f"the {branch} branch that model.{branch}_from or model.from names gives features that "
            "are NaN or infinite: give another folder as run.store=, where all images are computed "
            "anew, or train.precision=float32; else name another run"
        )
    return features
