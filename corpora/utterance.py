"""One utterance of a corpus, and what a file must be called to count as audio."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from audio.segment import AudioSource, audio_source

AUDIO_SUFFIXES = (".wav", ".flac")  # of the published corpora
LISTED_SUFFIXES = (*AUDIO_SUFFIXES, ".ogg", ".opus", ".mp3", ".aiff", ".aif")  # of manifests
NO_SPEAKER = "speaker unknown"  # of every utterance of a corpus whose speakers nobody knows


@dataclass(frozen=True)
class Utterance:
    """One labelled recording.

    Args:
        id: Unique in its corpus.
        path: Path of the audio file.
        label: The corpus's own label ("neu"); after `select_labels`, the class name ("neutral").
        speaker: Name of the speaker, unique in its corpus; `NO_SPEAKER` if nobody knows it.
        session: Name of the recording session; None if the corpus has no sessions.
        text_id: The same for the same words; None if improvised or unknown.
        gender: Gender of the speaker, "F" or "M"; None if unknown.
        portion: What `corpus.subset` selects: improvised or scripted, english or mandarin, or None.
        start: Where the utterance begins in its file, s.
        end: Where it ends in its file, s; None is the end of the file.
        split: What the manifest's column `split` says, or None; read by `protocol.split: given`.
        fold: What the manifest's column `fold` says, or None; read by `protocol.split: given`.
        ratings: Valence, arousal and dominance as the corpus writes them, "" where one is missing;
            None if it has none.
        votes: What raters chose, as `votes.read_votes` reads it; None if the corpus does not say.
        target: What is to be predicted, after `select_targets`; None for a class, which `label` is.
        corpus: Key of its corpus where there are several, which id, speaker, session and text begin
            with; else None.
    """

    id: str
    path: Path
    label: str
    speaker: str
    session: str | None = None
    text_id: str | None = None
    gender: str | None = None
    portion: str | None = None
    start: float = 0.0
    end: float | None = None
    split: str | None = None
    fold: str | None = None
    ratings: tuple[str, ...] | None = None
    votes: str | None = None
    target: tuple[float, ...] | None = None
    corpus: str | None = None

    @property
    def audio(self) -> AudioSource:
        """What to read: the path of the file, or a segment of it."""
        return audio_source(self.path, self.start, self.end)


def is_audio(path: Path, suffixes: Sequence[str] = AUDIO_SUFFIXES) -> bool:
    """Whether a file has one of the suffixes and is not hidden, as AppleDouble files (`._name`)."""
    return path.suffix.lower() in suffixes and not path.name.startswith(".")
