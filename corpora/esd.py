"""Read the Emotional Speech Dataset: emotions by folder."""

from pathlib import Path

from corpora.audio_files import first
from corpora.file_names import ESD_EMOTIONS
from corpora.named import read_named
from corpora.utterance import Utterance
from system.errors import InputError


def read_esd(root: Path) -> list[Utterance]:
    """Read all files that lie in a folder of an emotion.

    Raises:
        InputError: As `read_named`; or files lie in no such folder.
    """

    def emotion_of(path: Path) -> str:
        folders = reversed(path.relative_to(root).parent.parts)
        return next((ESD_EMOTIONS[f.lower()] for f in folders if f.lower() in ESD_EMOTIONS), "")

    utterances = read_named("esd", root, label_of=emotion_of)
    unlabelled = [str(u.path.relative_to(root)) for u in utterances if not u.label]
    if unlabelled:
        raise InputError(
            f"{len(unlabelled)} of {len(utterances)} files of esd lie in no folder of an emotion "
            f"({', '.join(ESD_EMOTIONS.values())}), which is their label: {first(unlabelled)}. "
            "Use the published folders, speaker/emotion, or list the files in a manifest"
        )
    return utterances
