"""Files of a pretrained speech model: a local folder, or the hub's cache, filled where it can be.

Only what is read is downloaded: config, feature extractor and weights, never code. Everything else
then happens without a network, with one folder.
"""

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import huggingface_hub
from huggingface_hub.errors import EntryNotFoundError, HFValidationError
from huggingface_hub.utils import validate_repo_id
from torch import Tensor

from models.weights import read_tensors, why_unreachable
from system.errors import InputError, RunError, first_line
from system.files import MAX_CARD, read_text
from system.regular import file_sha256

CONFIG = "config.json"
EXTRACTORS = ("preprocessor_config.json", "processor_config.json")  # the latter by a processor
INDEX = ".index.json"  # behind the name of weights that are split into several files
WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the first that is there is read


class SpeechFiles(NamedTuple):
    """A folder that holds a model in the layout of transformers.

    Attributes:
        name: As the user gave it, for messages.
        folder: Folder of the files.
        extractor: File with the settings of the feature extractor.
        weights: Files of the weights.
        is_cached: Whether the folder is a part of the hub's cache.
        revision: Of a model of the hub, as the user gave it.
    """

    name: str
    folder: Path
    extractor: Path
    weights: tuple[Path, ...]
    is_cached: bool
    revision: str | None = None

    def config(self) -> dict[str, Any]:
        """Read config.json.

        Raises:
            InputError: It is not JSON of an object.
        """
        file = self.folder / CONFIG
        try:
            config = json.loads(read_text(file, MAX_CARD))
        except (OSError, ValueError, RecursionError) as error:
            raise self.refuse(f"{file} cannot be read: {first_line(error)}") from error
        if not isinstance(config, dict):
            raise self.refuse(f"{file} holds no settings")
        return config

    def tensors(self) -> dict[str, Tensor]:
        """Read the weights by name; no code in them is executed.

        Raises:
            InputError: A file cannot be read as tensors.
        """
        found: dict[str, Tensor] = {}
        for file in self.weights:
            try:
                found |= read_tensors(file)
            except Exception as error:  # unpickling a foreign file may raise anything
                reason = first_line(error).split(". ")[0]  # torch then advises to trust the file
                raise self.refuse(f"{file} cannot be read as tensors: {reason}") from error
        return found

    def identity(self) -> str:
        """Return the SHA-256 of config, feature extractor and weights, wherever they lie."""
        files = (self.folder / CONFIG, self.extractor, *self.weights)
        return hashlib.sha256("".join(map(file_sha256, files)).encode()).hexdigest()

    def every(self) -> list[Path]:
        """Return all files that loading reads, indices of split weights included."""
        indices = [self.folder / f"{name}{INDEX}" for name in WEIGHTS]
        found = [self.folder / CONFIG, self.extractor, *self.weights]
        return found + [file for file in indices if file.is_file()]

    def refuse(self, reason: str) -> InputError:
        """Return the error for files that cannot be used."""
        way = (
            # the whole model: its snapshots are links to files beside them
            f"remove {self.folder.parents[1]} and give the same command again, which downloads it "
            "anew"
            if self.is_cached
            else "name a folder that save_pretrained of transformers wrote, or a model of the hub"
        )
        return InputError(f"the speech model {self.name} cannot be used: {reason}. Either {way}")


def find_speech_files(name: str, revision: str | None) -> SpeechFiles:
    """Find a model's files, and download them if need be.

    Args:
        name: A folder, or a name on the hub such as microsoft/wavlm-base-plus.
        revision: Branch, tag or commit on the hub; None is its main branch.

    Raises:
        InputError: There is no such folder, or files are missing in it; the name is empty.
        RunError: The model is not in the cache and cannot be downloaded.
    """
    if not name:
        raise InputError(
            "the name of the speech model is empty: give a folder that transformers saved, or a "
            "name on the hub, which is like microsoft/wavlm-base-plus"
        )
    folder = Path(name).expanduser()
    if folder.exists():
        if revision is not None:
            raise InputError(
                f"the speech model {name} is a folder here, which has no revision {revision!r}: "
                "leave the revision out"
            )
        return _in_folder(name, folder, is_cached=False)
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise InputError(
            f"the speech model {name}: there is no such folder, and it cannot be a name on the "
            "hub, which is like microsoft/wavlm-base-plus"
        ) from error
    folder = _cached(name, revision) or _download(name, revision)
    return _in_folder(name, folder, is_cached=True)._replace(revision=revision)


def _in_folder(name: str, folder: Path, is_cached: bool) -> SpeechFiles:
    """Return the files in a folder."""
    extractor = next((file for n in EXTRACTORS if (file := folder / n).is_file()), folder)
    files = SpeechFiles(name, folder, extractor, (), is_cached)
    if not (folder / CONFIG).is_file():
        raise files.refuse(f"there is no {CONFIG} in {folder}{_about_emotion2vec(name)}")
    if (folder / "adapter_config.json").is_file():
        raise files.refuse(f"{folder} holds an adapter beside it: merge_and_unload it first")
    weights = _weights(files)
    if not weights:
        raise files.refuse(f"there is neither {' nor '.join(WEIGHTS)} in {folder}")
    if not extractor.is_file():
        raise files.refuse(
            f"there is no {EXTRACTORS[0]} in {folder}, which holds the sampling rate and whether "
            "waveforms are normalized. Save that of the model it was trained from beside it: "
            f"AutoFeatureExtractor.from_pretrained(NAME).save_pretrained({str(folder)!r})"
        )
    return files._replace(weights=weights)


def _about_emotion2vec(name: str) -> str:
    """Return why emotion2vec is not there: its weights are published for FunASR alone."""
    if "emotion2vec" not in name.lower():
        return ""
    return " (emotion2vec is published for FunASR; transformers has no layout for it)"


def _weights(files: SpeechFiles) -> tuple[Path, ...]:
    """Return the files of the weights, in order; none if they are not there."""
    for name in WEIGHTS:
        file = files.folder / name
        if file.is_file():
            return (file,)
        index = files.folder / f"{name}{INDEX}"
        if index.is_file():
            return tuple(files.folder / part for part in _parts(files, index))
    return ()


def _parts(files: SpeechFiles, index: Path) -> list[str]:
    """Return the names in an index of weights, all of which must lie beside it."""
    try:
        parts = sorted(
            {str(name) for name in json.loads(read_text(index, MAX_CARD))["weight_map"].values()}
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise files.refuse(f"{index} names no weights") from error
    for part in parts:
        if Path(part).name != part or not (files.folder / part).is_file():
            raise files.refuse(f"{part}, which {index.name} names, is not in {files.folder}")
    return parts


def _cached(name: str, revision: str | None) -> Path | None:
    """Return the folder of a model that is in the cache with all its files."""
    found = huggingface_hub.try_to_load_from_cache(name, CONFIG, revision=revision)
    if not isinstance(found, str):  # else None, or a marker for a file that the hub lacks
        return None
    try:
        return _in_folder(name, Path(found).parent, is_cached=True).folder
    except InputError:
        return None


def _download(name: str, revision: str | None) -> Path:
    """Download a model's files into the cache of the hub; return their folder."""
    if reason := why_unreachable(huggingface_hub.constants.ENDPOINT):
        raise RunError(_no_model(name, reason))
    try:
        folder = Path(huggingface_hub.hf_hub_download(name, CONFIG, revision=revision)).parent
        fetch = functools.partial(  # one commit: the branch may move on meanwhile
            huggingface_hub.hf_hub_download, name, revision=folder.name
        )
        _fetch_first(fetch, EXTRACTORS)
        index = _fetch_first(fetch, [file for n in WEIGHTS for file in (n, f"{n}{INDEX}")])
        if index is not None and index.name.endswith(INDEX):
            for part in sorted(set(json.loads(read_text(index, MAX_CARD))["weight_map"].values())):
                fetch(part)
    except Exception as error:  # the hub's client and its HTTP library raise many kinds
        raise RunError(_no_model(name, first_line(error))) from error
    return folder


def _fetch_first(fetch: Callable[[str], str], names: Sequence[str]) -> Path | None:
    """Download the first of some files that the hub has; return it."""
    for name in names:
        try:
            return Path(fetch(name))
        except EntryNotFoundError:
            continue
    return None


def _no_model(name: str, reason: str) -> str:
    return (
        f"the speech model {name} is neither a folder here nor in the hub's cache ({reason}). "
        "Either name a folder that holds it, or give the same command once on a machine with a "
        f"network and copy its cache, {huggingface_hub.constants.HF_HUB_CACHE}, to this one"
    )
