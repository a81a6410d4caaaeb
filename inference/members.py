"""The folders of the models that label together; imports nothing slow."""

from pathlib import Path

from storage.folders import CARD, CONFIG, check_is_fold, is_finished
from system.errors import RunError
from system.files import read_json

BUNDLE, MEMBERS, SPEECH = "bundle.json", "members", "speech"
WANTED = "a model: name a run with a finished fold, a fold, a final model or a bundle"


def member_folders(folder: Path) -> list[Path]:
    """Return the folder of each model in the folder of a run, fold, final model or bundle.

    Raises:
        InputError: It is none of these, or no fold of the run is finished; names folds nearby.
        RunError: Models of a bundle are missing, or its bundle.json is corrupt.
    """
    if (folder / CARD).is_file():
        return [folder if folder.name not in ("", "..") else folder.resolve()]
    if (folder / BUNDLE).is_file():
        return _members(folder)
    if (folder / CONFIG).is_file():
        cards = sorted(folder.glob(f"folds/*/{CARD}"))
        if found := [card.parent for card in cards if is_finished(card.parent)]:
            return found
    check_is_fold(folder, WANTED)  # refuses it: there is no model.json
    return []


def own_speech_model(folder: Path) -> str | None:
    """Return the folder of the speech model that a bundle holds; None of all others."""
    own = folder / SPEECH
    return str(own) if (folder / BUNDLE).is_file() and own.is_dir() else None


def _members(bundle: Path) -> list[Path]:
    """Return the folders of a bundle's models, all that its bundle.json names."""
    way = f"restore it from a copy, or remove {bundle} and export the run again"
    try:
        listed = read_json(bundle / BUNDLE, "members")["members"]
        names = {Path(one["name"]).name for one in listed}
    except (RunError, TypeError, KeyError) as error:
        raise RunError(f"{bundle / BUNDLE} is corrupt: {way}") from error
    found = sorted(card.parent for card in bundle.glob(f"{MEMBERS}/*/{CARD}"))
    if not names or names != {folder.name for folder in found}:
        differ = ", ".join(sorted(names ^ {folder.name for folder in found})) or "none is there"
        raise RunError(f"{bundle / MEMBERS} does not hold the models of {BUNDLE} ({differ}): {way}")
    return found
