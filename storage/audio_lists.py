"""Lists in a run folder of what the run does not use: bad files, labels, files not read."""

from pathlib import Path
from typing import TYPE_CHECKING

from audio.segment import file_order
from system.files import corrupt_file, read_json, write_json

if TYPE_CHECKING:
    from corpora.plan import Plan

BAD_AUDIO, UNREAD_AUDIO = "bad_audio.json", "unread_audio.json"


def write_audio_lists(folder: Path, plan: "Plan") -> None:
    """Write the lists that are not empty.

    Args:
        folder: The run folder.
        plan: Plan of the run.

    Raises:
        RunError: A file cannot be written.
    """
    if plan.bad:
        bad = {str(source): plan.bad[source] for source in sorted(plan.bad, key=file_order)}
        write_json(folder / BAD_AUDIO, bad)
    if words := [*plan.relabelled.words(), *plan.unread.words()]:
        files = list(plan.unread.files) if plan.unread.named else []
        write_json(folder / UNREAD_AUDIO, {"words": words, "files": files})
    else:  # an earlier start of the run may have found some
        (folder / UNREAD_AUDIO).unlink(missing_ok=True)


def read_unread_audio(folder: Path) -> list[str]:
    """Return what of the corpus is not used, or has another label there, in words.

    Raises:
        RunError: The list is corrupt.
    """
    file = folder / UNREAD_AUDIO
    if not file.exists():
        return []
    words = read_json(file, "words")["words"]
    if not (isinstance(words, list) and all(isinstance(line, str) for line in words)):
        raise corrupt_file(file, "words are not texts")
    return words
