"""What the published file names of corpora say: speaker, emotion and, for some, text and gender.

A corpus is one row of `NAMINGS`; IEMOCAP and ESD, whose labels are not in the names, have a
function each.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from corpora.utterance import Utterance

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


class Naming(NamedTuple):
    """How a corpus names its files.

    Args:
        pattern: Of a name without its suffix, with the groups `speaker`, `emotion` and, where the
            name says it, `text`. A group `rest` follows the speaker where published copies write
            the speaker in several ways; the id is then speaker, `_`, rest.
        labels: Group `emotion` -> the corpus's own label.
        speaker_of: Returns the speaker of (match, path), or None if they say none.
        gender_of: Returns the gender of a speaker, F or M, or None.
    """

    pattern: re.Pattern[str]
    labels: Mapping[str, str]
    speaker_of: Callable[[re.Match[str], Path], str | None] = lambda name, path: name["speaker"]
    gender_of: Callable[[str], str | None] = lambda speaker: None


SAVEE_SPEAKERS = ("DC", "JE", "JK", "KL")
# Source: the published data.tsv; nine speakers, one of two genders each.
NEMO_WOMEN = ("EB0", "IC0", "KD0", "MK0")
EMODB_WOMEN = ("08", "09", "13", "14", "16")


def _savee_speaker(name: re.Match[str], path: Path) -> str | None:
    """Return the speaker of DC_a01.wav, or of DC/a01.wav as the authors publish it."""
    folder = path.parent.name.upper()
    return name["speaker"] or (folder if folder in SAVEE_SPEAKERS else None)


NAMINGS = {
    # Source: Livingstone & Russo 2018. Modality 03 is audio only, channel 01 is speech.
    "ravdess": Naming(
        re.compile(
            r"0[1-3]-0[12]-(?P<emotion>0[1-8])-0[12]-(?P<text>0[12])-0[12]"
            r"-(?P<speaker>0[1-9]|1\d|2[0-4])"
        ),
        {
            "01": "neutral",
            "02": "calm",
            "03": "happy",
            "04": "sad",
            "05": "angry",
            "06": "fearful",
            "07": "disgust",
            "08": "surprised",
        },
        gender_of=lambda actor: "M" if int(actor) % 2 else "F",
    ),
    # Source: Burkhardt et al. 2005 and the corpus's own page; letters are the German words.
    "emodb": Naming(
        re.compile(r"(?P<speaker>03|08|09|1[0-6])(?P<text>[ab]\d\d)(?P<emotion>[WLEAFTN])[a-z]?"),
        {
            "W": "anger",  # Wut
            "L": "boredom",  # Langeweile
            "E": "disgust",  # Ekel
            "A": "fear",  # Angst
            "F": "happiness",  # Freude
            "T": "sadness",  # Trauer
            "N": "neutral",
        },
        gender_of=lambda speaker: "F" if speaker in EMODB_WOMEN else "M",
    ),
    # Source: Cao et al. 2014. The level of one published name is a single X.
    "cremad": Naming(
        re.compile(
            r"(?P<speaker>1\d{3})_(?P<text>[A-Z]{3})_(?P<emotion>ANG|DIS|FEA|HAP|NEU|SAD)"
            r"_(?:LO|MD|HI|XX?)"
        ),
        {name: name for name in ("ANG", "DIS", "FEA", "HAP", "NEU", "SAD")},
    ),
    # Source: AudioData/Info.txt of the corpus; four men. The numbers of the sentences that several
    # emotions share are not published there, so no text is told.
    "savee": Naming(
        re.compile(
            r"(?:(?P<speaker>DC|JE|JK|KL)_?)?(?P<rest>(?P<emotion>sa|su|[adfhn])"
            r"(?:0[1-9]|[12]\d|30))"
        ),
        {
            "a": "anger",
            "d": "disgust",
            "f": "fear",
            "h": "happiness",
            "n": "neutral",
            "sa": "sadness",
            "su": "surprise",
        },
        _savee_speaker,
        gender_of=lambda speaker: "M",
    ),
    # Source: EmoBox's list of all 2800 names. Two women; one published name lacks an F:
    # OAF_neutral/OA_bite_neutral.wav.
    "tess": Naming(
        re.compile(
            r"(?P<speaker>OAF?|YAF)_(?P<rest>(?P<text>[a-z]+)"
            r"_(?P<emotion>angry|disgust|fear|happy|neutral|ps|sad))"
        ),
        {
            "angry": "angry",
            "disgust": "disgust",
            "fear": "fear",
            "happy": "happy",
            "neutral": "neutral",
            "ps": "pleasant surprise",
            "sad": "sad",
        },
        lambda name, path: name["speaker"] if name["speaker"] != "OA" else "OAF",
        gender_of=lambda speaker: "F",
    ),
    # Source: Costantini et al. 2014; EmoBox's list: 6 actors x 7 emotions x 14 sentences.
    "emovo": Naming(
        re.compile(
            r"(?P<emotion>dis|gio|neu|pau|rab|sor|tri)-(?P<speaker>[fm][123])"
            r"-(?P<text>b[1-3]|l[1-4]|n[1-5]|d[12])"
        ),
        {
            "dis": "disgust",  # disgusto
            "gio": "joy",  # gioia
            "neu": "neutral",
            "pau": "fear",  # paura
            "rab": "anger",  # rabbia
            "sor": "surprise",  # sorpresa
            "tri": "sadness",  # tristezza
        },
        gender_of=lambda speaker: speaker[0].upper(),
    ),
    # Source: data.tsv of the corpus: one number for the same words throughout, two genders.
    "nemo": Naming(
        re.compile(
            r"(?P<speaker>EB0|IC0|KD0|KS0|MK0|MP0|SM0|TP0|WR0)"
            r"_(?P<emotion>anger|fear|happiness|neutral|sadness|surprised)_(?P<text>[1-9]\d?)"
        ),
        {name: name for name in ("anger", "fear", "happiness", "neutral", "sadness", "surprised")},
        gender_of=lambda speaker: "F" if speaker in NEMO_WOMEN else "M",
    ),
    # Source: readme of version 1.0, later actors are named alike; EmoBox's list of 604 names has
    # six numbers, the first written 1 and 01. Who is a woman or a man is not published.
    "aesdd": Naming(
        re.compile(r"(?P<emotion>[adfhs])(?P<text>[01]\d|20) \((?P<speaker>0?\d)\)[ab]?"),
        {"a": "anger", "d": "disgust", "f": "fear", "h": "happiness", "s": "sadness"},
        lambda name, path: str(int(name["speaker"])),
    ),
    # Source: README of the corpus. Its names hold 29 speakers, the README counts 38.
    "urdu": Naming(
        re.compile(r"(?P<speaker>S[FM]\d{1,2})_F\d{1,2}_(?P<emotion>[AHNS])\d{2,4}"),
        {"A": "Angry", "H": "Happy", "N": "Neutral", "S": "Sad"},
        gender_of=lambda speaker: speaker[1],
    ),
}


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


def _from_naming(naming: Naming, stem: str, path: Path, label: str) -> Utterance | None:
    name = naming.pattern.fullmatch(stem)
    speaker = name and naming.speaker_of(name, path)
    if name is None or speaker is None:
        return None
    groups = name.groupdict()
    return Utterance(
        id=f"{speaker}_{name['rest']}" if "rest" in groups else stem,
        path=path,
        label=label or naming.labels[name["emotion"]],
        speaker=speaker,
        text_id=groups.get("text"),
        gender=naming.gender_of(speaker),
    )


NAMED_CORPORA = ("iemocap", "esd", *NAMINGS)


def from_name(corpus: str, stem: str, path: Path, label: str = "") -> Utterance | None:
    """Parse a published file name; return None if it is not a name of that corpus.

    Args:
        corpus: One of `NAMED_CORPORA`.
        stem: The file name without its suffix.
        path: Path of the audio file; SAVEE's folder may say the speaker.
        label: The label; needed for iemocap and esd, whose file names do not say the emotion.

    >>> from_name("iemocap", "Ses01M_impro01_F000", Path("a.wav"), "neu").speaker
    'Ses01_F'
    >>> from_name("savee", "sa03", Path("AudioData/JK/sa03.wav")).id
    'JK_sa03'
    """
    if corpus == "iemocap":
        return _from_iemocap(stem, path, label)
    if corpus == "esd":
        return _from_esd(stem, path, label)
    return _from_naming(NAMINGS[corpus], stem, path, label)
