"""settings.json of a folder of trainings that is no run: the config and corpus it was made with."""

from pathlib import Path

from config.loading import complete_stored, flatten
from config.schema import Config
from storage.folders import describe_changes
from storage.run_folder import FREE
from system.errors import InputError
from system.files import read_json, write_json

SETTINGS = "settings.json"


def keep_settings(folder: Path, config: Config, certificate: str, remedy: str) -> None:
    """Write the settings of a folder; if they are there, check that they are the same.

    Args:
        folder: The folder, locked.
        config: What it is trained with.
        certificate: Id of the split certificate.
        remedy: What to do if they differ, without the folder's name at the end.

    Raises:
        InputError: The folder was made with another config or corpus, or by a version whose
            settings cannot be used today.
    """
    file = folder / SETTINGS
    now = {**flatten(config.model_dump()), "certificate": certificate}
    if not file.exists():
        write_json(file, now)
        return
    stored = read_json(file, "certificate")
    was = stored.pop("certificate")
    try:
        before = {**complete_stored(stored, file), "certificate": was}
    except InputError as error:
        raise InputError(f"{folder} is of another version: {error}\n{remedy} {folder}") from None
    if differences := describe_changes(before, now, FREE):
        raise InputError(
            f"{folder} was made with another config or corpus:\n"
            + "\n".join(differences)
            + f"\n{remedy} {folder}"
        )
