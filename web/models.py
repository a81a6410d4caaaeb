"""The models of the page: loaded when they are asked for, the latest ones kept."""

import logging
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from threading import Lock

from inference.emotion_model import EmotionModel, load
from inference.members import member_folders
from storage.model_card import read_card
from system.errors import InputError, RunError, first_line

log = logging.getLogger(__name__)
KEPT = 2  # loaded models in memory


def usable_models(found: Mapping[str, Path]) -> dict[str, Path]:
    """Return the models that label recordings of anybody; log why others are left out.

    Raises:
        InputError: There is none.
    """
    usable = {}
    for name, folder in found.items():
        try:
            for member in member_folders(folder):
                if read_card(member).is_transductive:
                    raise InputError(f"{member} needs statistics of its speakers")
        except (InputError, RunError) as error:
            log.warning("left out of the page: %s (%s)", name, first_line(error))
        else:
            usable[name] = folder
    if not usable:
        raise InputError("none of these models can label recordings of other people, see above")
    return usable


class Models:
    """Loads models.

    Args:
        folders: Folder of each by the name that the page shows.
        device: As `run.device`.

    Attributes:
        names: Their names, in the order of the page.
    """

    def __init__(self, folders: Mapping[str, Path], device: str) -> None:
        self.names = list(folders)
        self._folders, self._device = dict(folders), device
        self._loaded: OrderedDict[str, EmotionModel] = OrderedDict()
        self._lock = Lock()

    def named(self, name: str) -> EmotionModel:
        """Return a model; one of those that were used last is in memory.

        Raises:
            InputError: It cannot label recordings.
            RunError: A file of it is corrupt.
        """
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = load(self._folders[name], self._device)
            self._loaded.move_to_end(name)
            while len(self._loaded) > KEPT:
                self._loaded.popitem(last=False)
            return self._loaded[name]
