"""Export a trained model as a bundle: one folder with all that labelling needs, see `bundle_file`.

The folder is written beside its place and renamed, so that what has its name is whole.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.bundle_file import (
    CERTIFICATE,
    EXAMPLE,
    FORMAT,
    GRAPH,
    BundleFile,
    Member,
    Score,
    Tested,
    write_bundle,
)
from inference.members import BUNDLE, MEMBERS, member_folders
from storage.folders import CARD, CONFIG, FINAL
from system.errors import InputError, RunError, first_line
from system.extras import check_extra
from system.files import copy_file, disk_error, make_folder, sync_folder
from system.regular import file_sha256
from system.temporary import hidden_folder

if TYPE_CHECKING:
    from inference.emotion_model import EmotionModel
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
    """

    path: Path
    folders: list[Path]
    run: Path | None


def find_source(path: Path, to: Path) -> Source:
    """Check what is to be exported and where to, before anything slow is imported.

    Raises:
        InputError: There is no finished fold or final model, `to` is there already, or a package is
            missing.
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
    for package in ("onnx", "onnxscript", "onnxruntime"):
        check_extra("a bundle", package, "onnx")
    return Source(path, folders, _run_around(path, folders[0]))


def _run_around(path: Path, member: Path) -> Path | None:
    """Return the run that a model belongs to; another folder may have a config.yaml of its own."""
    if (path / CONFIG).is_file():
        return path
    place = member.resolve()
    run = place.parent.parent
    return run if place.parent.name in (FOLDS, FINALS) and (run / CONFIG).is_file() else None


def export_bundle(source: Source, to: Path, audonnx: bool = False) -> BundleFile:
    """Write a bundle.

    Args:
        source: From `find_source`.
        to: Folder of the bundle, not there yet.
        audonnx: Whether audonnx/ is written, which has the weights once more.

    Raises:
        InputError: The model is of a baseline or needs the statistics of speakers.
        RunError: A file is corrupt, the disk is full, or ONNX Runtime computes something else.
    """
    from inference.bundle_card import write_card  # slow: torch, timm
    from inference.emotion_model import EmotionModel
    from inference.exporting import write_audonnx, write_graph
    from inference.graph import n_weights

    model = EmotionModel(source.folders)
    run = None if source.run is None else _run_of(source)
    log.info("%d models, %.1f M weights", len(model.members), n_weights(model.members) / 1e6)
    with _new_folder(to) as folder:
        is_large = BYTES_PER_WEIGHT * n_weights(model.members) > LARGEST_FILE
        free_batch = write_graph(model, folder / GRAPH, is_large)
        _copy_members(model, folder, is_large)
        bundle = _describe(source, model, run, free_batch)
        if source.run is not None:
            copy_file(source.run / CERTIFICATE, folder / CERTIFICATE)
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
    from inference.network import FILE, check_network, export_network

    for member, calibration in zip(model.members, model.calibrations, strict=True):
        own = folder / MEMBERS / member.folder.name
        make_folder(own)
        for name in (WEIGHTS, CARD):
            copy_file(member.folder / name, own / name)
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
        if (member.folder / FINAL).is_file():
            copy_file(member.folder / FINAL, own / FINAL)
        if calibration.temperature is not None:
            write_calibration(own, calibration)


def _describe(
    source: Source, model: "EmotionModel", run: "Run | None", free_batch: bool
) -> BundleFile:
    """Return what bundle.json says."""
    from inference.graph import OPSET
    from storage.model_card import read_card

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
        opset=OPSET,
        corpus=first.corpus,
        protocol=first.protocol,
        certificate=first.certificate,
        members=members,
        is_final=(model.members[0].folder / FINAL).is_file(),
        tested=None if run is None else _tested(run),
        versions={package: version(package) for package in PACKAGES},
    )


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
