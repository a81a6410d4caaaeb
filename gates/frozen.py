"""A finished run, opened again: frozen weights, the images they saw, and what the head gets."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from config.loading import flatten, load_config
from config.schema import Config
from corpora.plan import Plan, make_plan
from corpora.splits import get_fold
from data import Batch, EvalBatches, build_loader
from features import SpectrogramImages
from inference.predictor import check_same_classes, chosen_device, frozen_model
from model_gmu import Features, MaxMViTGMU
from storage.feature_store import FeatureStore
from storage.ledger import record_test_evaluation
from storage.model_card import read_card
from storage.run_folder import FoldResult, Run
from system.errors import InputError, RunError, nearest
from system.files import corrupt_file, read_json
from training.experiment import feature_settings, fill_store
from training.fold import make_dataset
from training.job import FoldJob

BRANCHES = ("cqt", "mel")
PLACES = ("corpus.root", "corpus.manifest", "run.store", "run.device", "run.workers")
CROPS_AT_ONCE = 256  # through the head
Tick = Callable[[], Any]  # called after each batch


class Seen(NamedTuple):
    """What the fusion head gets of a split, a crop a row; a clip's crops follow each other."""

    clip: NDArray  # (M,) place of the crop's clip
    features: Features  # (M, D) each, or tokens (M, N, D); None for a branch that is not there

    def swapped(self, branch: str, feature: Tensor) -> "Seen":
        """Return the same with other features of one branch; one row stands for all crops."""
        there = dict(zip(BRANCHES, self.features, strict=True))
        own = there[branch]
        if own is None:
            raise ValueError(f"there is no {branch} branch")
        there[branch] = feature.expand_as(own)
        return Seen(self.clip, (there["cqt"], there["mel"]))

    def of_donors(self, donors: NDArray) -> Features:
        """Return the features of other clips: crop j of a clip gets its donor's j modulo its crops.

        Args:
            donors: (N,) place of each clip's donor.
        """
        starts = np.unique(self.clip, return_index=True)[1]  # (N,)
        n_crops = np.diff(starts, append=len(self.clip))
        nth = np.arange(len(self.clip)) - starts[self.clip]
        giver = donors[self.clip]  # (M,)
        rows = torch.from_numpy(starts[giver] + nth % n_crops[giver])
        cqt, mel = (None if f is None else f[rows] for f in self.features)
        return cqt, mel


class Fused(NamedTuple):
    """What the head makes of a split: means over the crops of each clip."""

    probs: NDArray  # (N, K)
    gate: NDArray | None  # (N, D) or (N, 1), 1 = CQT, 0 = Mel
    share: NDArray | None  # (N,) part of the fused vector's size that is CQT's, 1 = CQT, 0 = Mel

    @property
    def preds(self) -> NDArray:
        """Most probable class of each clip: (N,)."""
        return self.probs.argmax(1)


@dataclass(frozen=True)
class FrozenFold:
    """The frozen model of one fold and seed, and its clips."""

    one: FoldResult
    job: FoldJob
    model: MaxMViTGMU
    store: FeatureStore

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.model.cqt_mean.device

    def record_evaluation(self, run: Path, kind: str) -> None:
        """Write a line into the ledger, before the test clips are looked at."""
        card, n = read_json(self.one.folder / "model.json"), len(self.job.split.test)
        record_test_evaluation(run, card, n, self.one.folder, kind, f"{kind} of the frozen weights")

    def n_batches(self, part: str) -> int:
        """Return how many batches a split has."""
        return len(self._loader(part))

    @torch.inference_mode()
    def look(self, part: str, tick: Tick = lambda: None) -> Seen:
        """Return what the head gets of each crop of a split; it stays on the CPU."""
        clips, found = [], []
        for batch in self._batches(part):
            clips.append(batch.clip.cpu().numpy())
            found.append([_kept(f) for f in self.model.features(batch.cqt, batch.mel)])
            tick()
        cqt, mel = (
            None if column[0] is None else torch.cat(column) for column in zip(*found, strict=True)
        )
        return Seen(np.concatenate(clips), (cqt, mel))

    @torch.inference_mode()
    def means(self, part: str, tick: Tick = lambda: None) -> Features:
        """Return the mean features of a split, a clip counts once: (D,) each, or tokens (N, D)."""
        clips = make_dataset(self.job, self.store, self._clips(part)).clips
        n_crops = np.bincount(clips)
        sums: list[Tensor | None] = [None, None]
        for batch in self._batches(part):
            weights = torch.from_numpy(1 / n_crops[batch.clip.cpu().numpy()]).to(self.device)
            for i, feature in enumerate(self.model.features(batch.cqt, batch.mel)):
                if feature is not None:
                    added = torch.einsum("b,b...->...", weights, feature.double())
                    sums[i] = added if (total := sums[i]) is None else total + added
            tick()
        cqt, mel = (None if s is None else (s / len(n_crops)).float().cpu() for s in sums)
        return cqt, mel

    @torch.inference_mode()
    def fuse(self, seen: Seen, forced_gate: float | None = None) -> Fused:
        """Return what the frozen head makes of features, also with a gate of our own."""
        parts: list[list[Tensor]] = []
        inside: list[tuple[Tensor, ...]] = []
        hook = None
        if (gmu := self.model.head.gmu) is not None:
            hook = gmu.register_forward_hook(lambda module, given, output: inside.append(output))
        for start in range(0, len(seen.clip), CROPS_AT_ONCE):
            some = slice(start, start + CROPS_AT_ONCE)
            cqt, mel = (None if f is None else f[some].to(self.device) for f in seen.features)
            output = self.model.fuse((cqt, mel), forced_gate)
            parts.append([output.logits.softmax(1).cpu()])
            if output.gate is not None:
                parts[-1] += [output.gate.cpu(), _share(*inside.pop()[1:]).cpu()]
        if hook is not None:
            hook.remove()
        columns = [_over_crops(torch.cat(c).numpy(), seen.clip) for c in zip(*parts, strict=True)]
        gate, share = columns[1:] if len(columns) > 1 else (None, None)
        return Fused(columns[0], gate, share)

    def check_intact(self, fused: Fused) -> None:
        """Refuse weights and images that no longer say of the test clips what the run says.

        Raises:
            RunError: A clip gets another class than in predictions.csv, but for rounding.
        """
        precision = self.job.config.train.precision
        check_same_classes(self.one, fused.preds, precision, "test clips")

    def _clips(self, part: str) -> Sequence[Any]:
        return dict(self.job.split.parts())[part]

    def _loader(self, part: str) -> DataLoader:
        config = self.job.config
        dataset = make_dataset(self.job, self.store, self._clips(part))
        batches = EvalBatches(len(dataset), config.train.batch_size)
        return build_loader(dataset, batches, self.device, config.run.workers)

    def _batches(self, part: str) -> Iterator[Batch]:
        return (batch.to(self.device) for batch in self._loader(part))


@dataclass(frozen=True)
class FrozenRun:
    """A finished run whose clips and images are at hand."""

    run: Run
    plan: Plan
    store: FeatureStore

    def folds(self) -> Iterator[FrozenFold]:
        """Yield the frozen folds and seeds, one at a time.

        Raises:
            RunError: A file of a fold is corrupt, or not of this run.
        """
        device = chosen_device(flatten(self.plan.config.model_dump()))
        for one in self.run.folds:
            yield self._open(one, device)

    def _open(self, one: FoldResult, device: str) -> FrozenFold:
        card = read_card(one.folder)
        images = card.features.model_dump() == feature_settings(self.plan.config)
        if tuple(card.classes) != one.classes or not images:
            reason = "its classes or images are not those of the run"
            raise corrupt_file(one.folder / "model.json", reason, remove=one.folder)
        split = get_fold(self.plan.splits, one.fold)
        plan = self.plan
        job = FoldJob(plan.config, one.classes, split, one.seed, plan.hashes, plan.certificate, {})
        if job.names(split.test) != one.test.utterances.tolist():
            reason = "its test clips are not those of the split"
            raise corrupt_file(one.folder / "predictions.csv", reason, remove=one.folder)
        try:
            model = frozen_model(one.folder, card).to(device)
        except RunError:
            raise
        except (InputError, RuntimeError, TypeError) as error:
            raise corrupt_file(one.folder, f"no model can be made of it: {error}") from error
        return FrozenFold(one, job, model, self.store)


def open_run(run: Run, overrides: Sequence[str] = ()) -> FrozenRun:
    """Find the clips and images of a run again; images that are missing are computed.

    Args:
        run: From `read_run`.
        overrides: `section.key=value` of `PLACES`: where things are now.

    Raises:
        InputError: Another key, the corpus is missing, or it is not what the run was made on.
        RunError: A file of the run is corrupt.
    """
    for override in overrides:
        if (key := override.split("=")[0].strip()) not in PLACES:
            raise InputError(f"{key}: only where things are may be changed; {nearest(key, PLACES)}")
    config = _moved(load_config(run.folder / "config.yaml", overrides), run)
    plan = make_plan(config, keep=True)
    if config.corpus.on_bad_audio == "error":  # else more clips may be left out yet
        _check_same_clips(plan, run)
    store = FeatureStore(Path(config.run.store), SpectrogramImages(**feature_settings(config)))
    plan = fill_store(plan, store)
    _check_same_clips(plan, run)
    return FrozenRun(run, plan, store)


def _moved(config: Config, run: Run) -> Config:
    """Let relative places start here or, where there is nothing, where the run was started."""
    begun = str(run.folds[0].environment().get("folder", "."))

    def place(path: str) -> str:
        known = Path(path).expanduser()
        there = Path(begun, known)
        return str(there) if not known.exists() and there.exists() else path

    corpus = {"root": place(config.corpus.root)}
    if config.corpus.manifest is not None:
        corpus["manifest"] = place(config.corpus.manifest)
    own = {"store": place(config.run.store), "folds": run.fold_numbers, "seeds": run.seeds}
    return config.model_copy(
        update={
            "corpus": config.corpus.model_copy(update=corpus),
            "run": config.run.model_copy(update=own),
        }
    )


def _check_same_clips(plan: Plan, run: Run) -> None:
    here, there = plan.certificate, run.certificate
    if here["id"] != there["id"]:
        raise InputError(
            f"{plan.config.corpus.root} is not the corpus that {run.folder} was made on: its clips "
            f"or splits give certificate {here['id']} ({here.get('utterances')} clips), the run "
            f"has {there['id']} ({there.get('utterances')} clips). Give corpus.root= the folder "
            "that it was made on"
        )


def _kept(feature: Tensor | None) -> Tensor | None:
    return None if feature is None else feature.float().cpu()


def _share(gate: Tensor, h_cqt: Tensor, h_mel: Tensor) -> Tensor:
    """Return CQT's part of the sizes of both terms of the fused vector: (B, D) x 3 -> (B,)."""
    cqt, mel = (gate * h_cqt).abs().sum(1), ((1 - gate) * h_mel).abs().sum(1)
    return cqt / (cqt + mel).clamp_min(torch.finfo(cqt.dtype).tiny)


def _over_crops(values: NDArray, clip: NDArray) -> NDArray:
    """Return the mean over each clip's crops: (M, ...) -> (N, ...)."""
    starts = np.unique(clip, return_index=True)[1]
    n_crops = np.diff(starts, append=len(clip))
    total = np.add.reduceat(values, starts, axis=0)
    return total / n_crops.reshape(-1, *[1] * (values.ndim - 1)).astype(values.dtype)
