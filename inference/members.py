"""The folders of the models that label together; imports nothing slow."""

from pathlib import Path

from storage.folders import CARD, CONFIG, check_is_fold, is_finished
from system.errors import InputError

BUNDLE, MEMBERS = "bundle.json", "members"


def member_folders(folder: Path) -> list[Path]:
    """Return the folder of each model in the folder of a run, fold, final model or bundle.

    Raises:
        InputError: It is none of these, or no fold of the run is finished; names folds nearby.
    """
    if (folder / CARD).is_file():
        return [folder]
    if (folder / BUNDLE).is_file():
        found = sorted(card.parent for card in folder.glob(f"{MEMBERS}/*/{CARD}"))
        if not found:
            raise InputError(f"{folder} is a bundle without models: {MEMBERS}/ holds none")
        return found
    if (folder / CONFIG).is_file():
        cards = sorted(folder.glob(f"folds/*/{CARD}"))
        if found := [card.parent for card in cards if is_finished(card.parent)]:
            return found
    check_is_fold(folder)  # refuses it: there is no model.json
    return []
