"""The states from which one training can go on, and the best weights of each."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from storage.tensors import load_state, load_tensors, save_state, save_tensors
from system.errors import RunError
from system.files import corrupt_file, is_unreachable

log = logging.getLogger(__name__)

KEPT = 2  # states
NAME = re.compile(r"epoch-(\d+)_batch-(\d+)_best-(\d+)\.safetensors")


class Place(NamedTuple):
    """Where in a training a state was saved; later places are larger."""

    epoch: int  # epochs done
    batch: int  # batches done of the next one
    best_epoch: int  # 0 before the first

    @property
    def name(self) -> str:
        """Of its file."""
        return f"epoch-{self.epoch:04d}_batch-{self.batch:05d}_best-{self.best_epoch:04d}"


class Checkpoints:
    """The states of one training in a folder: the newest two, and the newest between two epochs.

    `epoch-<e>_batch-<b>_best-<k>.safetensors` is the state after e epochs and b batches of the
    next; `best-<k>.safetensors` holds the weights of epoch k, the best until then.

    Args:
        folder: For these files and a lock.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, state: Mapping[str, Any], place: Place) -> None:
        """Write a state, then remove those that it makes needless, with their best weights.

        Raises:
            RunError: It cannot be written; the states before it are as they were.
        """
        save_state(self._file(place), state)
        places = self._places()
        kept = {*places[:KEPT], *[one for one in places if one.batch == 0][:1]}
        needed = {*map(self._file, kept), *(self.best(one.best_epoch) for one in kept)}
        for file in set(self.folder.glob("*.safetensors")) - needed:
            file.unlink(missing_ok=True)

    def save_best(self, weights: Mapping[str, Tensor], epoch: int) -> None:
        """Write the weights of the best epoch so far, before the state that says so."""
        save_tensors(self.best(epoch), weights)

    def best(self, epoch: int) -> Path:
        """Return the file with the weights of an epoch that was the best."""
        return self.folder / f"best-{epoch:04d}.safetensors"

    def load(self, is_main: bool = True, between_epochs: bool = False) -> dict[str, Any] | None:
        """Return the newest state that is whole; None where there is none at all.

        A corrupt one is removed once an older one was found to be whole.

        Args:
            is_main: Whether this process is the one that removes.
            between_epochs: Look only at states at the end of an epoch or before the first.

        Raises:
            RunError: There are states, and all are corrupt.
        """
        broken: list[Path] = []
        reason: object = None
        for place in [one for one in self._places() if not (between_epochs and one.batch)]:
            file = self._file(place)
            try:
                state = load_state(file)
                if place.best_epoch:
                    load_tensors(self.best(place.best_epoch))
            except RunError as error:
                if isinstance(error.__cause__, Exception) and is_unreachable(error.__cause__):
                    raise  # it may be whole
                broken.append(file)
                reason = error.__cause__ or error
                continue
            if is_main:
                _remove(broken, file.name)
            return state
        if broken:
            raise corrupt_file(broken[0], reason, remove=self.folder.parent)
        return None

    def forget_after(self, place: Place) -> None:
        """Remove the states after a place to which training has returned."""
        for later in [one for one in self._places() if one > place]:
            self._file(later).unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove all of it: the fold is tested."""
        for file in self.folder.glob("*.safetensors"):
            file.unlink(missing_ok=True)

    def _file(self, place: Place) -> Path:
        return self.folder / f"{place.name}.safetensors"

    def _places(self) -> list[Place]:
        """Return the places of all states, the newest first."""
        matches = [NAME.fullmatch(path.name) for path in self.folder.glob("epoch-*")]
        return sorted((Place(*map(int, m.groups())) for m in matches if m), reverse=True)


def _remove(broken: list[Path], used: str) -> None:
    for file in broken:
        log.warning("%s is corrupt and was removed; going on from %s", file, used)
        file.unlink(missing_ok=True)
