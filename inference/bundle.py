"""Export a trained model as a bundle: one folder with all that labelling needs, see `bundle_file`.

The folder is written beside its place and renamed, so that what has its name is whole.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config.fusions import IMAGES
from inference.bundle_file import (
    CERTIFICATE,
    EXAMPLE,
    FORMAT,
    GRAPH,
    BundleFile,
    Member,
    Score,
    Sources,
    Tested,
    write_bundle,
)
from inference.members import BUNDLE, MEMBERS, SPEECH, member_folders
from storage.folders import CARD, CONFIG, FINAL
from storage.model_card import ModelCard, read_card
from storage.source_facts import speech_facts
from system.errors import InputError, RunError, first_line
from system.extras import check_extra
from system.files import copy_file, disk_error, make_folder, sync_folder
from system.regular import file_sha256
from system.temporary import hidden_folder

if TYPE_CHECKING:
    from inference.emotion_model import EmotionModel
    from inference.predictor import FoldModel
    from storage.run_folder import Run

log = logging.getLogger(__name__)

SHIPPED = Path(__file__).parent / "shipped" / EXAMPLE
FOLDS, FINALS = "folds", "final"  # as in `storage.run_folder`, which imports torch
WEIGHTS = "model.safetensors"
PACKAGES = ("torch", "timm", "onnx", "onnxscript", "onnxruntime")
LARGEST_FILE = 1_900_000_000  # bytes of weights in one ONNX file, which ends at 2 GiB
BYTES_PER_WEIGHT = 4


@dataclass(frozen=True)
class Source:
    """What is exported.

    Attributes:
        path: As the user named it.
        folders: Folder of each member.
        run: Run that they belong to; None where its folder is not around them.
        beside: Branches that are read beside the images; with any there is no graph.
    """

    path: Path
    folders: list[Path]
    run: Path | None
    beside: tuple[str, ...] = ()


def find_source(path: Path, to: Path, audonnx: bool = False) -> Source:
    """Check what is to be exported and where to, before anything slow is imported.

    Args:
        path: Folder of a run, a fold or a final model.
        to: Folder of the bundle.
        audonnx: Whether audonnx/ is to be written.

    Raises:
        InputError: There is no finished fold or final model, `to` is there already, a package is
            missing, or audonnx/ is asked for and there can be no graph.
    """
    if (path / BUNDLE).is_file():
        raise InputError(
            f"{path} is a bundle already: name the run that it was made of, or copy it"
        )
    folders = member_folders(path)
    if to.exists() or to.is_symlink():
        raise InputError(f"{to} is there already: name a folder that is not, or remove it")
    if not to.absolute().parent.is_dir():
        raise InputError(f"the folder of --to {to} is not there: make {to.absolute().parent}")
    beside = tuple(name for name in read_card(folders[0]).model.reads if name not in IMAGES)
    if beside and audonnx:
        raise InputError(
            f"--audonnx: {path} reads the branch {' and '.join(beside)}, which is in no ONNX "
            "graph: leave --audonnx out"
        )
    for package in () if beside else ("onnx", "onnxscript", "onnxruntime"):
        check_extra("a bundle", package, "onnx")
    return Source(path, folders, _run_around(path, folders[0]), beside)


def _run_around(path: Path, member: Path) -> Path | None:
    """Return the run that a model belongs to; another folder may have a config.yaml of its own."""
    if (path / CONFIG).is_file():
        return path
    place = member.resolve()
    run = place.parent.parent
    return run if place.parent.name in (FOLDS, FINALS) and (run / CONFIG).is_file() else None


def export_bundle(
    source: Source,
    to: Path,
    audonnx: bool = False,
    speech_model: str | None = None,
    with_speech_model: bool = False,
) -> BundleFile:
    """Write a bundle.

    Args:
        source: From `find_source`.
        to: Folder of the bundle, not there yet.
        audonnx: Whether audonnx/ is written, which has the weights once more.
        speech_model: Folder of the speech model, or its name on the hub; None is where the training
            had it.
        with_speech_model: Whether the bundle gets a copy of it.

    Raises:
        InputError: The model is of a baseline, needs the statistics of speakers, or was trained
            with another speech model; an option has no effect on it.
        RunError: A file is corrupt, the disk is full, or ONNX Runtime computes something else.
    """
    from inference.bundle_card import write_card  # slow: torch, timm
    from inference.emotion_model import EmotionModel
    from inference.exporting import write_audonnx, write_graph
    from inference.graph import n_weights

    model = EmotionModel(source.folders, speech_model=speech_model)
    speech = model.members[0].speech
    if with_speech_model and speech is None:
        raise InputError(f"--with-speech-model: {source.path} reads none, leave it out")
    run = None if source.run is None else _run_of(source)
    log.info("%d models, %.1f M weights", len(model.members), n_weights(model.members) / 1e6)
    with _new_folder(to) as folder:
        is_large = BYTES_PER_WEIGHT * n_weights(model.members) > LARGEST_FILE
        free_batch = not source.beside and write_graph(model, folder / GRAPH, is_large)
        _copy_members(model, folder, is_large)
        if with_speech_model and speech is not None:
            make_folder(folder / SPEECH)
            for file in speech.model.files.every():
                copy_file(file, folder / SPEECH / file.name)
        bundle = _describe(source, model, run, free_batch)
        if source.run is not None:
            copy_file(source.run / CERTIFICATE, folder / CERTIFICATE)
        if not source.beside:
            copy_file(SHIPPED, folder / EXAMPLE)
        if audonnx:
            write_audonnx(folder, bundle)
        write_bundle(folder, bundle)
        write_card(folder, bundle)
    return bundle


def _run_of(source: Source) -> "Run":
    """Return the run, with the one fold alone if that is exported."""
    from storage.run_folder import read_run  # slow: torch

    assert source.run is not None
    run = read_run(source.run)
    if source.path.resolve().parent.name != FOLDS:
        return run
    exported = [fold for fold in run.folds if fold.folder.name == source.path.resolve().name]
    return replace(run, folds=exported, left_out=()) if exported else run


def _copy_members(model: "EmotionModel", folder: Path, is_large: bool) -> None:
    """Copy what rebuilds each model, so that `load` takes the bundle, and export its network."""
    from inference.calibration import write_calibration

    for member, calibration in zip(model.members, model.calibrations, strict=True):
        own = folder / MEMBERS / member.folder.name
        make_folder(own)
        for name in (WEIGHTS, CARD):
            copy_file(member.folder / name, own / name)
        if member.reads_images_alone:
            _export_network(member, own, is_large)
        if (member.folder / FINAL).is_file():
            copy_file(member.folder / FINAL, own / FINAL)
        if calibration.temperature is not None:
            write_calibration(own, calibration)


def _export_network(member: "FoldModel", own: Path, is_large: bool) -> None:
    """Write the graph of a member's network, without which PyTorch runs it."""
    from inference.network import FILE, check_network, export_network

    try:
        export_network(member.model, own / FILE, is_large)
        check_network(member.model, own)
    except (
        RunError,
        RuntimeError,
        ValueError,
    ) as error:  # torch.onnx.OnnxExporterError among them
        log.warning("no network.onnx for %s, PyTorch runs it: %s", own.name, first_line(error))
        for file in own.glob(f"{FILE}*"):  # its weights, too
            file.unlink()


def _describe(
    source: Source, model: "EmotionModel", run: "Run | None", free_batch: bool
) -> BundleFile:
    """Return what bundle.json says."""
    from inference.graph import OPSET

    cards = [read_card(member.folder) for member in model.members]
    first, images = cards[0], model.members[0].images
    members = [
        Member(
            name=member.folder.name,
            fold=card.fold,
            seed=card.seed,
            weights=file_sha256(member.folder / WEIGHTS),
            temperature=calibration.temperature,
            training_data=card.training_data,
        )
        for member, card, calibration in zip(model.members, cards, model.calibrations, strict=True)
    ]
    longest = [card.training_data.seconds.max for card in cards if card.training_data]
    return BundleFile(
        format=FORMAT,
        name=(source.run or source.path).resolve().name,
        task=model.task,
        classes=list(model.classes),
        scale=None if model.scale is None else list(model.scale),
        sample_rate=model.sample_rate,
        features=images.settings,
        trim_db=images.trim_db,
        crop_seconds=images.settings["seconds"],
        longest_seconds=max(longest) if longest else None,
        fusion=first.model.fusion,
        has_gate=model.members[0].model.head.has_one_gate,
        free_batch=free_batch,
        opset=None if source.beside else OPSET,
        sources=_sources(first, source) if source.beside else None,
        corpus=first.corpus,
        protocol=first.protocol,
        certificate=first.certificate,
        members=members,
        is_final=(model.members[0].folder / FINAL).is_file(),
        tested=None if run is None else _tested(run),
        versions={package: version(package) for package in _packages(source)},
    )


def _sources(card: ModelCard, source: Source) -> Sources:
    reads_speech = "speech" in source.beside
    return Sources(
        branches=list(card.model.reads),
        speech=speech_facts(card, source.folders[0]) if reads_speech else None,
        trained=card.settings().what_is_trained,
        vector_width=card.model.vector_width,
    )


def _packages(source: Source) -> Sequence[str]:
    """Return the packages whose versions are told."""
    if not source.beside:
        return PACKAGES
    return ("torch", "timm", *["transformers"] * ("speech" in source.beside))


def _tested(run: "Run") -> Tested:
    from evaluation.summary import describe_run  # slow: scipy

    summary = describe_run(run)
    names: tuple[str, ...] = tuple(Score.model_fields)
    scores: Mapping[str, Any] = summary.test
    return Tested(
        run=summary.name,
        folds=summary.folds,
        seeds=summary.seeds,
        n_folds=summary.n_folds,
        n=summary.n,
        n_speakers=summary.n_speakers,
        speaker_dependent=summary.speaker_dependent,
        synthetic=summary.synthetic,
        scores={
            key: Score(**{name: getattr(score, name) for name in names})
            for key, score in scores.items()
        },
        per_class_recall=summary.per_class_recall,
        commits=summary.commits,
    )


@contextmanager
def _new_folder(to: Path) -> Iterator[Path]:
    """Yield a folder that gets the name `to` once the block has filled it."""
    try:
        with hidden_folder(to.absolute()) as hidden:
            folder = hidden / to.name
            folder.mkdir()
            yield folder
            folder.rename(to)
            sync_folder(to.absolute().parent)
    except OSError as error:
        raise disk_error(f"cannot write {to}", to.absolute().parent, error, None) from error
