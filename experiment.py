"""One experiment: plan and certify a corpus, then train, test and sum up folds x seeds."""

import logging
import platform
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from config import dump_config, flatten, load_config
from corpora import Utterance, read_corpus
from errors import InputError, RunError
from files import alone, read_json, write_json, write_text
from fold import build_model, run_fold
from job import FoldJob
from protocol import (
    LabelSet,
    Split,
    certify,
    get_fold,
    label_set,
    make_splits,
    protocol_id,
    select_labels,
)
from schema import Config
from store import FeatureStore, find_bad, hash_files
from summary import summarize

log = logging.getLogger(__name__)

FREE = ("run.", "corpus.root", "corpus.manifest")  # keys that may differ in a resumed run
PACKAGES = ("torch", "torchvision", "torchaudio", "timm", "accelerate", "numpy", "scipy", "soxr")


@dataclass(frozen=True)
class Plan:
    """All that is settled before anything is trained."""

    config: Config
    labels: LabelSet
    utterances: Sequence[Utterance]
    hashes: Mapping[Path, str]
    bad: Mapping[Path, str]  # left out: {path: reason}
    splits: Sequence[Split]
    certificate: Mapping[str, Any]

    def wanted(self) -> Sequence[Split]:
        """Return the folds that the config asks for."""
        folds = self.config.run.folds
        return self.splits if folds is None else [get_fold(self.splits, k) for k in folds]


def make_plan(config: Config) -> Plan:
    """Read the corpus, choose labels, split, and certify the splits.

    Raises:
        InputError: Whatever is wrong with the corpus, the labels, the audio, the folds, or a leak.
    """
    corpus = config.corpus
    manifest = None if corpus.manifest is None else Path(corpus.manifest)
    found = read_corpus(corpus.name, Path(corpus.root), manifest)
    labels = label_set(corpus.name, corpus.labels, found)
    utterances = select_labels(
        found, labels, corpus.subset, corpus.expect_published_counts or False
    )
    hashes, bad = _hash_and_check(config, [u.path for u in utterances])
    plan = Plan(config, labels, utterances, hashes, {}, [], {})
    return leave_out(plan, bad)


def run_experiment(config: Config, command: Sequence[str], overwrite: bool = False) -> Path:
    """Train and test every fold and seed that is not finished; return the run folder.

    Args:
        config: What to run.
        command: The command line, for environment.json.
        overwrite: Remove what an earlier run of this name left, and start anew.

    Raises:
        InputError: The config, the corpus or the run folder is not as it must be.
        RunError: Training or writing failed; what was finished is kept.
    """
    accelerator = make_accelerator(config)
    folder = Path(config.run.root) / config.name
    check_run_folder(folder, config, overwrite)
    accelerator.wait_for_everyone()  # the first process may begin to write the folder
    plan = make_plan(config)
    store = FeatureStore(Path(config.run.store), feature_settings(config))
    with accelerator.main_process_first():
        build_model(config, len(plan.labels.classes), store.record[0])  # fails now, not hours later
        _check_writable(folder.parent)
        plan = fill_store(plan, store)
        if accelerator.is_main_process:
            _open_run_folder(folder, plan, command, overwrite)
    for split in plan.wanted():
        for seed in config.run.seeds:
            job = FoldJob(config, plan.labels.classes, split, seed, plan.hashes, plan.certificate)
            run_fold(job, folder, store, accelerator)
            if accelerator.is_main_process:
                summarize(folder, plan.certificate, config.model.fusion)
    accelerator.wait_for_everyone()
    return folder


def make_accelerator(config: Config) -> Accelerator:
    """Return the device, precision and processes; the same seed gives the same weights on them."""
    torch.use_deterministic_algorithms(True, warn_only=True)  # a few CUDA kernels have no such form
    precision = "bf16" if config.train.precision == "bfloat16" else "no"
    return Accelerator(mixed_precision=precision, cpu=config.run.device == "cpu")


def feature_settings(config: Config) -> dict[str, Any]:
    """Return the arguments of `SpectrogramImages`, which also name the feature store."""
    return {**config.features.model_dump(), "image_size": config.model.image_size}


def remarks(plan: Plan) -> list[str]:
    """Return what the leakage gate let pass and a reader should know."""
    found = []
    for fold in plan.certificate["folds"]:
        shared = fold["text_in_train_and_test"]
        if shared["texts"] and any(fold["fold"] == split.fold for split in plan.wanted()):
            found.append(
                f"fold {fold['fold']}: {shared['texts']} texts are in train and test, spoken in "
                f"{shared['test_utterances']} test clips"
            )
    mixed = plan.certificate["identical_recordings"]["recordings_with_different_classes"]
    if mixed:
        found.append(f"{mixed} recordings occur more than once, under different classes")
    return found


def fill_store(plan: Plan, store: FeatureStore) -> Plan:
    """Compute the pictures that are missing; return the plan without the files that are bad."""
    paths = {plan.hashes[u.path]: u.path for u in plan.utterances}
    return leave_out(plan, store.build(paths, plan.config.run.workers))


def check_run_folder(folder: Path, config: Config, overwrite: bool) -> None:
    """Refuse a folder of another config, or one that is no run folder.

    `run.*` and the corpus's place may differ: they say where and how much to run and change no
    fold; that the data are the same is what the certificate is for.
    """
    if Path(config.run.store).resolve().is_relative_to(folder.resolve()):
        raise InputError(
            f"run.store={config.run.store} lies in the run folder {folder}, which --overwrite "
            "removes: change name or run.store"
        )
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (folder / "config.yaml").is_file():
        raise InputError(
            f"{folder} is no run folder (no config.yaml in it): change name or run.root"
        )
    if overwrite:
        return
    there = flatten(_read_config_of(folder).model_dump())
    now = flatten(config.model_dump())
    differences = [
        f"  {key}: {there.get(key)!r} there, {now.get(key)!r} now"
        for key in sorted(there.keys() | now.keys())
        if there.get(key) != now.get(key) and not key.startswith(FREE)
    ]
    if differences:
        raise InputError(
            f"{folder} was made with another config:\n"
            + "\n".join(differences)
            + "\nChange `name` to keep both, or give --overwrite to start anew"
        )


def _read_config_of(folder: Path) -> Config:
    try:
        return load_config(folder / "config.yaml")
    except InputError as error:
        raise InputError(
            f"{error}\n{folder} is damaged or of another version: give --overwrite to start anew"
        ) from None


def _check_writable(folder: Path) -> None:
    """Fail before the pictures are computed, not after."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise RunError(f"run.root={folder} cannot be written: {error.strerror}") from error


def _hash_and_check(
    config: Config, paths: Sequence[Path]
) -> tuple[Mapping[Path, str], Mapping[Path, str]]:
    """Return {path: SHA-256}, and {path: reason} of bad files as far as they are in the way here.

    Broken files often have equal bytes (none, or a header), which is no leak between splits.
    """
    rate = config.features.input_rate or config.features.sample_rate
    workers = config.run.workers
    hashes, bad = hash_files(paths, workers)
    times = Counter(hashes.values())
    bad |= find_bad((path for path, key in hashes.items() if times[key] > 1), rate, workers)
    if bad and config.corpus.on_bad_audio == "error":
        bad |= find_bad(hashes, rate, workers)  # so that all of them are listed at once
    return hashes, bad


def leave_out(plan: Plan, bad: Mapping[Path, str]) -> Plan:
    """Leave out bad audio where the config allows it, and (re)make splits and certificate."""
    config = plan.config
    if bad and config.corpus.on_bad_audio == "error":
        listed = "\n".join(f"  {path} {reason}" for path, reason in sorted(bad.items()))
        raise InputError(
            f"{len(bad)} audio files cannot be used:\n{listed}\n"
            "Repair or remove them, or set corpus.on_bad_audio=skip to leave them out"
        )
    if plan.splits and not bad:
        return plan
    keep = [u for u in plan.utterances if u.path not in bad]
    protocol = config.protocol
    splits = make_splits(
        keep,
        protocol.split,
        protocol.dev,
        protocol.n_folds,
        plan.hashes,
        protocol.allow_speaker_overlap,
    )
    name = protocol_id(
        plan.labels.name, protocol.split, protocol.dev, config.corpus.subset, protocol.n_folds
    )
    certificate = certify(splits, plan.hashes, name, protocol.allow_speaker_overlap)
    plan = replace(
        plan, utterances=keep, splits=splits, certificate=certificate, bad={**plan.bad, **bad}
    )
    plan.wanted()  # a fold that does not exist is refused before anything is computed
    return plan


def _open_run_folder(folder: Path, plan: Plan, command: Sequence[str], overwrite: bool) -> None:
    """Write what describes the run, after checking that the folder is about the same data."""
    for lock in folder.glob("folds/*/state/lock") if overwrite else ():
        with alone(lock, str(lock.parent.parent)):
            pass
    if overwrite and folder.exists():
        doomed = folder.with_name(f".{folder.name}.removed")
        shutil.rmtree(doomed, ignore_errors=True)
        folder.rename(doomed)  # at once: a kill leaves no half of a run folder
        shutil.rmtree(doomed)
    file = folder / "split_certificate.json"
    if file.exists() and read_json(file, "id")["id"] != plan.certificate["id"]:
        raise InputError(
            f"the corpus or its splits changed since {folder} was begun (certificate "
            f"{read_json(file)['id']} there, {plan.certificate['id']} now): change `name` to keep "
            "both, or give --overwrite to start anew"
        )
    write_text(folder / "config.yaml", dump_config(plan.config))
    write_json(file, plan.certificate)
    write_json(folder / "environment.json", _environment(command, plan.config.run.device))
    for line in remarks(plan):
        log.info("%s", line)
    if plan.bad:
        bad = {str(path): reason for path, reason in sorted(plan.bad.items())}
        write_json(folder / "bad_audio.json", bad)
        log.warning("%d bad audio files left out, listed in bad_audio.json", len(bad))


def _environment(command: Sequence[str], device: str) -> dict[str, Any]:
    on_gpu = torch.cuda.is_available() and device != "cpu"
    return {
        "command": list(command),
        "git_commit": _git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name() if on_gpu else platform.processor() or "cpu",
        "threads": torch.get_num_threads(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def _git_commit() -> str | None:
    """Return the commit of the code, with `-dirty` where files differ from it."""
    found = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return found.stdout.strip() or None
