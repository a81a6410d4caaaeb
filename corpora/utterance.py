"""One utterance, and what the published file names of five corpora say about it."""

import re
from collections.abc import Callable, Sequence
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

    @property
    def audio(self) -> AudioSource:
        """What to read: the path of the file, or a segment of it."""
        return audio_source(self.path, self.start, self.end)


# All 10,039 labelled ids match. The letter after the session number is the actor who wears the
# markers; the speaker is the letter of the last group. They differ for half of the utterances.
IEMOCAP_NAME = re.compile(
    r"Ses0(?P<session>[1-5])[FM]_(?P<dialog>impro0[1-8][ab]?|script0[1-3]_[1-3]b?)"
    r"_(?P<speaker>[FM])\d{3}"
)

ESD_NAME = re.compile(r"(?P<speaker>\d{4})_(?P<number>\d{6})")
ESD_EMOTIONS = {name.lower(): name for name in ("Neutral", "Happy", "Angry", "Sad", "Surprise")}
ESD_TEXTS = 350  # sentences per language; the numbers continue from emotion to emotion
# Source: the ReadMe of the corpus; 5 women and 5 men per language (Zhou et al. 2022).
ESD_WOMEN = {"0001", "0002", "0003", "0007", "0009", "0015", "0016", "0017", "0018", "0019"}
ESD_MANDARIN = {f"{number:04d}" for number in range(1, 11)}
ESD_ENGLISH = {f"{number:04d}" for number in range(11, 21)}

# Source: Livingstone & Russo 2018. Modality 03 is audio only, channel 01 is speech.
RAVDESS_NAME = re.compile(
    r"(?P<modality>0[1-3])-(?P<channel>0[12])-(?P<emotion>0[1-8])-0[12]-(?P<statement>0[12])-0[12]"
    r"-(?P<actor>0[1-9]|1\d|2[0-4])"
)
RAVDESS_EMOTIONS = {
    "01": "neutral",
    "02": "calm",
    "03": "happy",
    "04": "sad",
    "05": "angry",
    "06": "fearful",
    "07": "disgust",
    "08": "surprised",
}

# Source: Burkhardt et al. 2005 and the corpus's own page; letters are the German words.
EMODB_NAME = re.compile(r"(?P<speaker>\d\d)(?P<text>[ab]\d\d)(?P<emotion>[WLEAFTN])[a-z]?")
EMODB_EMOTIONS = {
    "W": "anger",  # Wut
    "L": "boredom",  # Langeweile
    "E": "disgust",  # Ekel
    "A": "fear",  # Angst
    "F": "happiness",  # Freude
    "T": "sadness",  # Trauer
    "N": "neutral",
}
EMODB_GENDERS = {
    **dict.fromkeys(("08", "09", "13", "14", "16"), "F"),
    **dict.fromkeys(("03", "10", "11", "12", "15"), "M"),
}

# Source: Cao et al. 2014. The level of one published name is a single X.
CREMAD_NAME = re.compile(
    r"(?P<speaker>1\d{3})_(?P<text>[A-Z]{3})_(?P<emotion>ANG|DIS|FEA|HAP|NEU|SAD)_(?:LO|MD|HI|XX?)"
)


def _from_iemocap(stem: str, path: Path, label: str) -> Utterance | None:
    name = IEMOCAP_NAME.fullmatch(stem)
    if name is None:
        return None
    return Utterance(
        id=stem,
        path=path,
        label=label,
        speaker=f"Ses0{name['session']}_{name['speaker']}",
        session=f"Session{name['session']}",
        gender=name["speaker"],
        portion="improvised" if name["dialog"].startswith("impro") else "scripted",
    )


def _from_esd(stem: str, path: Path, label: str) -> Utterance | None:
    name = ESD_NAME.fullmatch(stem)
    if name is None or name["speaker"] not in ESD_MANDARIN | ESD_ENGLISH:
        return None
    language = "english" if name["speaker"] in ESD_ENGLISH else "mandarin"
    text = (int(name["number"]) - 1) % ESD_TEXTS + 1
    return Utterance(
        id=stem,
        path=path,
        label=label,
        speaker=name["speaker"],
        text_id=f"{language}-{text:03d}",
        gender="F" if name["speaker"] in ESD_WOMEN else "M",
        portion=language,
    )


def _from_ravdess(stem: str, path: Path, label: str) -> Utterance | None:
    name = RAVDESS_NAME.fullmatch(stem)
    if name is None:
        return None
    return Utterance(
        id=stem,
        path=path,
        label=label or RAVDESS_EMOTIONS[name["emotion"]],
        speaker=name["actor"],
        text_id=name["statement"],
        gender="M" if int(name["actor"]) % 2 else "F",
    )


def _from_emodb(stem: str, path: Path, label: str) -> Utterance | None:
    name = EMODB_NAME.fullmatch(stem)
    if name is None or name["speaker"] not in EMODB_GENDERS:
        return None
    return Utterance(
        id=stem,
        path=path,
        label=label or EMODB_EMOTIONS[name["emotion"]],
        speaker=name["speaker"],
        text_id=name["text"],
        gender=EMODB_GENDERS[name["speaker"]],
    )


def _from_cremad(stem: str, path: Path, label: str) -> Utterance | None:
    name = CREMAD_NAME.fullmatch(stem)
    if name is None:
        return None
    return Utterance(
        id=stem,
        path=path,
        label=label or name["emotion"],
        speaker=name["speaker"],
        text_id=name["text"],
    )


_FROM_NAME: dict[str, Callable[[str, Path, str], Utterance | None]] = {
    "iemocap": _from_iemocap,
    "esd": _from_esd,
    "ravdess": _from_ravdess,
    "emodb": _from_emodb,
    "cremad": _from_cremad,
}
NAMED_CORPORA = tuple(_FROM_NAME)


def from_name(corpus: str, stem: str, path: Path, label: str = "") -> Utterance | None:
    """Parse a published file name; return None if it is not a name of that corpus.

    Args:
        corpus: One of `NAMED_CORPORA`.
        stem: The file name without its suffix.
        path: Path of the audio file.
        label: The label; needed for iemocap and esd, whose file names do not say the emotion.

    >>> from_name("iemocap", "Ses01M_impro01_F000", Path("a.wav"), "neu").speaker
    'Ses01_F'
    """
    return _FROM_NAME[corpus](stem, path, label)


def is_audio(path: Path, suffixes: Sequence[str] = AUDIO_SUFFIXES) -> bool:
    """Whether a file has one of the suffixes and is not hidden, as AppleDouble files (`._name`)."""
    return path.suffix.lower() in suffixes and not path.name.startswith(".")
