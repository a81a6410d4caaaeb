"""Trackers that a run may write its epochs and scores to, and the packages that they need."""

from collections.abc import Sequence

from system.errors import InputError
from system.extras import check_extra

TRACKERS = ("tensorboard", "wandb", "mlflow", "csv")
BY_FOLD = ("wandb", "mlflow", "csv")  # those that know a run with its folds, not one folder alone
EXTRA = "trackers"
PACKAGES = {"wandb": "wandb", "mlflow": "mlflow"}  # of this extra, by tracker


def check_trackers(trackers: Sequence[str]) -> None:
    """Refuse a tracker whose package is not installed, before anything slow is imported.

    Args:
        trackers: `run.trackers`.

    Raises:
        InputError: Names the package and the extra that installs it.
    """
    for tracker in trackers:
        if tracker in PACKAGES:
            check_extra(f"run.trackers={tracker}", PACKAGES[tracker], EXTRA)


def refuse_trackers_by_fold(trackers: Sequence[str], command: str) -> None:
    """Refuse trackers of runs where a command trains outside a run folder.

    Args:
        trackers: `run.trackers`.
        command: Name of the command, for the message.

    Raises:
        InputError: Says which trackers may stay.
    """
    refused = [tracker for tracker in trackers if tracker in BY_FOLD]
    if refused:
        kept = ",".join(tracker for tracker in trackers if tracker not in BY_FOLD)
        raise InputError(
            f"run.trackers={','.join(refused)} has no effect on {command}, whose trainings are not "
            f"folds of a run: give run.trackers=[{kept}]"
        )
