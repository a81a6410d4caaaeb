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
                card = read_card(member)
                if card.is_transductive:
                    raise InputError(f"{member} needs statistics of its speakers")
                if "file" in card.model.reads:
                    raise InputError(f"{member} needs a vector of each recording: use predict.py")
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
        speech_model: Folder of the speech model of those that read one; None is where each was
            trained with it.

    Attributes:
        names: Their names, in the order of the page.
    """

    def __init__(
        self, folders: Mapping[str, Path], device: str, speech_model: str | None = None
    ) -> None:
        self.names = list(folders)
        self._folders, self._device, self._speech = dict(folders), device, speech_model
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
                folder = self._folders[name]
                reads = read_card(member_folders(folder)[0]).model.reads
                speech = self._speech if "speech" in reads else None
                self._loaded[name] = load(folder, self._device, speech_model=speech)
            self._loaded.move_to_end(name)
            while len(self._loaded) > KEPT:
                self._loaded.popitem(last=False)
            return self._loaded[name]
