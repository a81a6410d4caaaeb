"""A finished run opened again: its frozen models, their images, and the inputs of their heads."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader

from config.effects import whole_key
from config.loading import load_stored_config
from config.schema import Config
from config.several import each_corpus, roots, with_members
from corpora.plan import Plan, make_plan
from corpora.splits import get_fold
from data import Batch, ImageDataset, build_loader
from gates.head_inputs import HeadInputs, over_crops
from inference.predictor import check_same_predictions, frozen_model
from model_gmu import Features, MaxMViTGMU
from models.compiled import Graphs
from models.gmu import ForcedGate
from storage.folders import CARD, CONFIG
from storage.ledger import record_test_evaluation
from storage.model_card import read_card
from storage.run_folder import FoldResult, Run
from storage.source_facts import KnownModel, speech_facts
from system.compilers import compiler_problem
from system.devices import choose_device
from system.errors import InputError, RunError, nearest
from system.files import corrupt_file, read_json
from training.batches import EvalBatches
from training.beside import Sources, open_sources, source_facts, trained_model
from training.build import eval_batch_size, make_dataset
from training.same_sources import NAMES, changed_source
from training.session import Fold, Session, feature_settings, make_accelerator, open_store

log = logging.getLogger(__name__)

PLACES = (
    *("corpus.root", "corpus.manifest", "protocol.folds", "model.speech.model", "model.vectors"),
    *("run.store", "run.compile_cache", "run.device", "run.workers"),
)
CROPS_AT_ONCE = 256  # through the head
OnBatch = Callable[[], Any]  # called after each batch


class Fused(NamedTuple):
    """The outputs of the head for a split, averaged over the crops of each utterance."""

    probs: NDArray  # (N, K) probabilities, or ratings (N, D)
    # (N, units) or (N, 1), share of the first of two sources: of images 1 = CQT, 0 = Mel. Of more
    gate: NDArray | None  # sources (N, n, units) or (N, n, 1), their shares
    share: NDArray | None  # (N, n) each source's share of the size of the fused vector
    preds: NDArray  # (N,) most probable classes, or ratings (N, D)


@dataclass(frozen=True)
class FrozenFold:
    """The frozen model of one fold and seed, and its utterances."""

    result: FoldResult
    fold: Fold
    model: MaxMViTGMU

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.model.cqt_mean.device

    def record_evaluation(self, run: Path, kind: str) -> None:
        """Write a line into the ledger; call it once the test utterances were evaluated."""
        folder, n = self.result.folder, len(self.fold.split.test)
        card = read_json(folder / CARD)
        record_test_evaluation(run, card, n, folder, kind, f"{kind} of the frozen weights")

    def n_batches(self, split: str) -> int:
        """Return the number of batches of a split."""
        return len(self._loader(split))

    @torch.inference_mode()
    def head_inputs(self, split: str, on_batch: OnBatch = lambda: None) -> HeadInputs:
        """Return the inputs of the head for each crop of a split, on the CPU."""
        utterances, features = [], []
        for batch in self._batches(split):
            utterances.append(batch.utterance.cpu().numpy())
            features.append([_on_cpu(f) for f in self.model.features(*batch.inputs)])
            on_batch()
        columns = zip(*features, strict=True)
        joined = tuple(None if c[0] is None else torch.cat(c) for c in columns)
        return HeadInputs(np.concatenate(utterances), joined)

    @torch.inference_mode()
    def means(self, split: str, on_batch: OnBatch = lambda: None) -> Features:
        """Return the mean features of a split over utterances: (D,) each, or tokens (T, D)."""
        n_crops = np.bincount(self._dataset(split).utterances)
        sums: list[Tensor | None] = [None] * len(self.model.sources)
        for batch in self._batches(split):
            weights = torch.from_numpy(1 / n_crops[batch.utterance.cpu().numpy()]).to(self.device)
            for i, feature in enumerate(self.model.features(*batch.inputs)):
                if feature is not None:
                    added = torch.einsum("b,b...->...", weights, feature.double())
                    sums[i] = added if (total := sums[i]) is None else total + added
            on_batch()
        return tuple(None if s is None else (s / len(n_crops)).float().cpu() for s in sums)

    @torch.inference_mode()
    def fuse(self, inputs: HeadInputs, forced_gate: ForcedGate | None = None) -> Fused:
        """Return the outputs of the frozen head; `forced_gate` overrides its gate."""
        parts: list[list[Tensor]] = []
        inside: list[tuple[Tensor, ...]] = []
        with ExitStack() as hooks:
            if (gmu := self.model.head.gmu) is not None:
                hook = gmu.register_forward_hook(lambda module, args, output: inside.append(output))
                hooks.callback(hook.remove)
            for start in range(0, len(inputs.utterance), CROPS_AT_ONCE):
                some = slice(start, start + CROPS_AT_ONCE)
                features = (None if f is None else f[some].to(self.device) for f in inputs.features)
                output = self.model.fuse(tuple(features), forced_gate)
                parts.append([self.fold.task.outputs(output.logits.float()).cpu()])
                if output.gate is not None:
                    _, weights, *hidden = inside.pop()
                    parts[-1] += [output.gate.cpu(), _share(weights, hidden).cpu()]
        columns = [
            over_crops(torch.cat(c).numpy(), inputs.utterance) for c in zip(*parts, strict=True)
        ]
        gate, share = columns[1:] if len(columns) > 1 else (None, None)
        return Fused(columns[0], gate, share, self.fold.task.preds(columns[0]))

    def check_intact(self, fused: Fused) -> None:
        """Refuse weights and images that no longer give the predictions of the run.

        Raises:
            RunError: An utterance gets another prediction than in predictions.csv, beyond rounding.
        """
        precision = self.fold.config.train.precision
        check_same_predictions(self.result, fused.preds, precision, "test utterances")

    def _dataset(self, split: str) -> ImageDataset:
        return make_dataset(self.fold, dict(self.fold.split.parts())[split])

    def _loader(self, split: str) -> DataLoader:
        config, dataset = self.fold.config, self._dataset(split)
        batches = EvalBatches(len(dataset), eval_batch_size(config))
        return build_loader(dataset, batches, self.device, config.run.workers)

    def _batches(self, split: str) -> Iterator[Batch]:
        return (batch.to(self.device) for batch in self._loader(split))


@dataclass(frozen=True)
class FrozenRun:
    """A finished run with its corpus and feature store."""

    run: Run
    session: Session

    def folds(self) -> Iterator[FrozenFold]:
        """Yield the frozen folds and seeds, one at a time.

        Raises:
            RunError: A file of a fold is corrupt, or not of this run.
        """
        for result in self.run.folds:
            yield self._open(result)

    def _open(self, result: FoldResult) -> FrozenFold:
        folder, card = result.folder, read_card(result.folder)
        images = card.features.model_dump() == feature_settings(self.session.config)
        if tuple(card.classes) != result.classes or not images:
            reason = "its classes or images are not those of the run"
            raise corrupt_file(folder / CARD, reason, remove=folder)
        split = get_fold(self.session.plan.splits, result.fold)
        fold = self.session.fold(split, result.seed)
        if fold.ids(split.test) != result.test.utterances.tolist():
            reason = "its test utterances are not those of the split"
            raise corrupt_file(folder / "predictions.csv", reason, remove=folder)
        speech = trained_model(self.session.config, self.session.sources)
        model = frozen_model(folder, card, speech).to(self.session.accelerator.device)
        if fold.config.train.compile:
            if fold.config.train.channels_last:  # as the weights were when the graphs were made
                model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            model.graphs = Graphs(eval_size=eval_batch_size(fold.config))
        return FrozenFold(result, fold, model)


def open_run(run: Run, overrides: Sequence[str] = (), trains: bool = False) -> FrozenRun:
    """Open the corpus and the feature store of a run; compute images and states that are missing.

    The speech model is loaded where states are missing, a part of it was trained, or `overrides`
    name it.

    Args:
        run: Run from `read_run`.
        overrides: `section.key=value` for keys of `PLACES`, where corpus or store have moved.
        trains: Whether a training follows, which needs the speech model itself.

    Raises:
        InputError: An override of another key, the corpus or a source beside the images is missing,
            or is not that of the run.
        RunError: A file of the run is corrupt.
    """
    keys = [override.split("=")[0].strip() for override in overrides]
    for key in keys:
        if whole_key(key) not in PLACES:
            raise InputError(
                f"{key}: only paths and devices may be overridden; {nearest(key, PLACES)}"
            )
    config = _moved(load_stored_config(run.folder / CONFIG, overrides), run)
    is_named = "model.speech.model" in map(whole_key, keys)
    known = None if trains or is_named else _known_model(config, run)
    sources = _same_sources(config, run, known)
    config = _compiled_where_possible(config)
    plan = make_plan(config, keep=True)
    if config.corpus.on_bad_audio == "error":  # otherwise bad audio is still to be left out
        _check_same_utterances(plan, run)
    if known is not None and not _has_states(sources["speech"], plan):
        try:
            sources = _same_sources(config, run, None)
        except (InputError, RunError) as error:
            raise type(error)(
                f"{error}. It is needed, since {config.run.store} lacks hidden states of some "
                "recordings: give model.speech.model= where it lies now, or run.store= that has all"
            ) from error
    session = Session(config, plan, open_store(config), make_accelerator(config), opened=sources)
    session = session.with_images()
    _check_same_utterances(session.plan, run)
    return FrozenRun(run, session)


def _compiled_where_possible(config: Config) -> Config:
    """Evaluate eagerly on a machine without a compiler, which changes rounding alone."""
    if not config.train.compile:
        return config
    device = torch.device(choose_device(config.run.device).name).type
    if (problem := compiler_problem(device)) is None:
        return config
    log.info("evaluated eagerly, though the run was compiled: %s", problem)
    eager = config.train.model_copy(update={"compile": False})
    run = config.run.model_copy(update={"compile_cache": None})
    return config.model_copy(update={"train": eager, "run": run})


def _moved(config: Config, run: Run) -> Config:
    """Resolve relative paths from the current folder, else from where the run was started.

    Shards are for training alone: the config that is returned names none.
    """
    started = str(run.folds[0].environment().get("folder", "."))

    def place(path: str) -> str:
        given = Path(path).expanduser()
        from_start = Path(started, given)
        return str(from_start) if not given.exists() and from_start.exists() else path

    config = with_members(
        config, {key: _places(own, place) for key, own in each_corpus(config).items()}
    )
    model, folds = config.model, config.protocol.folds
    speech = {"model": None if model.speech.model is None else place(model.speech.model)}
    beside: dict[str, Any] = {"speech": model.speech.model_copy(update=speech)}
    beside["vectors"] = None if model.vectors is None else place(model.vectors)
    protocol = {"folds": None if folds is None else place(folds)}
    own: dict[str, Any] = {"shards": None}  # may be gone; the store gets training images, too
    own |= {"store": place(config.run.store), "folds": run.fold_numbers, "seeds": run.seeds}
    if config.run.compile_cache is not None:
        own["compile_cache"] = place(config.run.compile_cache)
    return config.model_copy(
        update={
            "model": model.model_copy(update=beside),
            "protocol": config.protocol.model_copy(update=protocol),
            "run": config.run.model_copy(update=own),
        }
    )


def _places(config: Config, place: Callable[[str], str]) -> dict[str, str]:
    """Return where the files of one corpus are."""
    corpus = config.corpus
    manifest = {} if corpus.manifest is None else {"manifest": place(corpus.manifest)}
    return {"root": place(corpus.root), **manifest}


def _check_same_utterances(plan: Plan, run: Run) -> None:
    now, then = plan.certificate, run.certificate
    if now["id"] != then["id"]:
        raise InputError(
            f"{roots(plan.config)} is not the corpus that {run.folder} was made on: its "
            f"utterances or splits give certificate {now['id']} ({now.get('utterances')} "
            f"utterances), the run has {then['id']} ({then.get('utterances')} utterances). Set "
            "corpus.root= to the folder of the original corpus"
        )


def _known_model(config: Config, run: Run) -> KnownModel | None:
    """Return what the run says of a speech model that it read as it was; None if there is none."""
    if "speech" not in config.model.reads or config.model.speech.is_trained:
        return None
    folder = run.folds[0].folder
    facts = speech_facts(card := read_card(folder), folder)
    return KnownModel(facts, (card.model.speech_shape or [0, 0])[1])


def _has_states(source: Any, plan: Plan) -> bool:
    """Return whether the hidden states of all recordings are kept."""
    return set(plan.hashes.values()) <= source.rows.keys()


def _same_sources(config: Config, run: Run, known: KnownModel | None) -> Sources:
    """Open the sources; refuse another speech model, or other vectors, than the run has read."""
    sources = open_sources(config, known)
    now = source_facts(sources)
    then: Mapping[Any, dict[str, Any]] = read_card(run.folds[0].folder).sources if now else {}
    if branch := changed_source(then, now):
        key, name = NAMES[branch]
        raise InputError(
            f"{now[branch][name]} is not the {then[branch].get(name)} that the branch {branch} of "
            f"{run.folder} has read: its content differs. Set {key}= to the original"
        )
    return sources


def _on_cpu(feature: Tensor | None) -> Tensor | None:
    return None if feature is None else feature.float().cpu()


def _share(gate: Tensor, hidden: Sequence[Tensor]) -> Tensor:
    """Return |g_s h_s| / sum over t of |g_t h_t|, sums over units: n x (B, D) -> (B, n)."""
    shares = (gate, 1 - gate) if len(hidden) == 2 else gate.unbind(1)
    sizes = [(g * h).abs().sum(1) for g, h in zip(shares, hidden, strict=True)]  # n x (B,)
    total = sum(sizes[1:], sizes[0]).clamp_min(torch.finfo(sizes[0].dtype).tiny)
    return torch.stack([size / total for size in sizes], 1)
