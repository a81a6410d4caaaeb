"""Read IEMOCAP: its label files name the utterances; their audio is searched below the root."""

import os
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from corpora.audio_files import Tree, first
from corpora.file_names import from_name
from corpora.layout import choose_parts, is_published, not_found, read_published, search
from corpora.utterance import Utterance, is_audio
from system.errors import InputError

# [start - end] <tab> id <tab> label <tab> [valence, activation, dominance], without outer spaces
IEMOCAP_LABEL_LINE = re.compile(
    r"\[\d+\.\d+ - \d+\.\d+\]\t(?P<id>\w+)\t(?P<label>\w+)\t"
    r"\[(?P<ratings>\d+\.\d+, \d+\.\d+, \d+\.\d+)\]"
)
# C-E1: <tab> Neutral; Anger; <tab> (comment); C-F and C-M are the actors' own
IEMOCAP_VOTE_LINE = re.compile(r"C-E\d+:\t(?P<words>[^\t]*)(\t.*)?")
IEMOCAP_WORDS = {
    "neutral": "neu",
    "neutral state": "neu",
    "happiness": "hap",
    "excited": "exc",
    "sadness": "sad",
    "anger": "ang",
    "frustration": "fru",
    "surprise": "sur",
    "fear": "fea",
    "disgust": "dis",
    "other": "oth",
}
# id [start-end]: words
IEMOCAP_TEXT_LINE = re.compile(r"(?P<id>\w+) \[[\d.\- ]+\]: ?(?P<text>.*)")


def read_iemocap(root: Path) -> list[Utterance]:
    """Read all label files, and find the audio of each label.

    Raises:
        InputError: As `readers.read_corpus`.
    """
    tree = search("iemocap", root)
    sessions = _iemocap_sessions(root, tree)
    labels = [
        (label_file, utterance)
        for session in sessions
        for label_file in _visible(session.glob("dialog/EmoEvaluation/*.txt"))
        for utterance in _read_iemocap_labels(label_file)
    ]
    if not labels:
        raise InputError(
            f"no label line in {root}/Session*/dialog/EmoEvaluation/*.txt: put the label files "
            "there as published"
        )
    _refuse_copied_labels(labels)
    files: dict[str, list[Path]] = {}
    for path in filter(is_audio, tree.audio):
        files.setdefault(path.stem, []).append(path)
    utterances = [
        replace(utterance, path=_iemocap_audio(label_file, utterance.id, files))
        for label_file, utterance in labels
    ]
    _refuse_missing_audio(root, tree, utterances)
    texts = _read_iemocap_texts(sessions)
    return [replace(utterance, text_id=texts.get(utterance.id)) for utterance in utterances]


def _iemocap_sessions(root: Path, tree: Tree) -> list[Path]:
    """Return the folders of all sessions, which may lie in several folders."""
    sessions: dict[Path, dict[str, Path]] = {}
    for folder in tree.folders:
        if is_published("iemocap", folder) and (folder / "dialog/EmoEvaluation").is_dir():
            sessions.setdefault(folder.parent, {})[folder.name.lower()] = folder
    kept = choose_parts("iemocap", root, sessions)
    found = [folder for part in kept for folder in sessions[part].values()]
    if not any(_visible(folder.glob("dialog/EmoEvaluation/*.txt")) for folder in found):
        raise not_found("iemocap", root, tree)
    return found


def _read_iemocap_labels(label_file: Path) -> list[Utterance]:
    """Read the lines that begin with `[`; the header has a `[` too, but not at the beginning."""
    utterances: list[Utterance] = []
    for number, line in enumerate(_lines(label_file), start=1):
        if utterances and (vote := IEMOCAP_VOTE_LINE.fullmatch(line)):
            utterances[-1] = _with_vote(utterances[-1], vote["words"])
        if not line.startswith("["):
            continue
        match = IEMOCAP_LABEL_LINE.fullmatch(line)
        utterance = match and from_name("iemocap", match["id"], label_file, match["label"])
        if match is None or utterance is None:
            raise InputError(
                f"{label_file}, line {number}: not an IEMOCAP label line: {line[:80]!r}; expected "
                "'[start - end]<tab>Ses01F_impro01_F000<tab>neu<tab>[v, a, d]'"
            )
        utterances.append(replace(utterance, ratings=tuple(match["ratings"].split(", "))))
    return utterances


def _with_vote(utterance: Utterance, words: str) -> Utterance:
    """Add the vote of an external rater, who may have named several labels."""
    named = [word.strip().lower() for word in words.split(";") if word.strip()]
    if not named:
        return utterance
    vote = "+".join(IEMOCAP_WORDS.get(word, word) for word in named)
    return replace(utterance, votes=";".join(filter(None, (utterance.votes, vote))))


def _refuse_copied_labels(labels: list[tuple[Path, Utterance]]) -> None:
    """Refuse ids that are labelled twice; name the label file that is a copy, never the audio."""
    files: dict[str, list[Path]] = {}
    for label_file, utterance in labels:
        files.setdefault(utterance.id, []).append(label_file)
    twice = [name for name, where in files.items() if len(where) > 1]
    if not twice:
        return
    where = sorted(set(files[twice[0]]))
    dialog = twice[0].rsplit("_", 1)[0]
    copies = [path.name for path in where if path.stem != dialog]
    if len(where) == 1:
        advice = "keep one line for each"
    elif len(copies) < len(where):
        advice = (
            f"a label file is named as its dialog, so {first(copies)} is a copy: move it out of "
            "the folder"
        )
    else:
        advice = "keep one of these label files there"
    raise InputError(
        f"iemocap: {len(twice)} ids occur more than once: {first(twice)}; the first is labelled "
        f"in {first(map(str, where))}: {advice}. The audio files stay as they are"
    )


def _iemocap_audio(label_file: Path, utterance_id: str, files: dict[str, list[Path]]) -> Path:
    """Return the published place of an utterance, or the one other place where it lies."""
    # One dialog's name may begin with another's: the dialog is all but the last group.
    dialog = utterance_id.rsplit("_", 1)[0]
    session = label_file.parents[2]
    session = session.with_name(session.name[:-1] + utterance_id[4:5])
    published = session / "sentences" / "wav" / dialog / f"{utterance_id}.wav"
    found = files.get(utterance_id, [])
    for path in (published.with_suffix(".flac"), published):
        if os.path.lexists(path):
            return path
    inside = [path for path in found if path.is_relative_to(session)] or found
    if len(inside) > 1:
        raise InputError(
            f"the audio of {utterance_id} is in {len(inside)} places, none of them published: "
            f"{first(map(str, inside))}. Set corpus.root to a folder with one of them"
        )
    return inside[0] if inside else published


def _read_iemocap_texts(sessions: list[Path]) -> dict[str, str]:
    """Map each scripted id to its words, letters only; line numbers differ between sessions."""
    texts = {}
    for session in sessions:
        for path in _visible(session.glob("dialog/transcriptions/*script*.txt")):
            for match in filter(None, map(IEMOCAP_TEXT_LINE.fullmatch, _lines(path))):
                words = re.sub(r"\[.*?\]", "", match["text"].lower())  # [LAUGHTER]
                if letters := re.sub(r"[^a-z]", "", words):
                    texts[match["id"]] = letters
    return texts


def _refuse_missing_audio(root: Path, tree: Tree, utterances: list[Utterance]) -> None:
    """Refuse a corpus without any audio file; if only some are missing, they are bad audio."""
    if any(os.path.lexists(utterance.path) for utterance in utterances):
        return
    others = [str(path.relative_to(root)) for path in tree.audio]
    there = f"it holds other audio: {first(others)}" if others else "it holds no audio file"
    raise InputError(
        f"none of {len(utterances)} labelled utterances has a WAV or FLAC file below {root}, as in "
        f"Session*/sentences/wav/<dialog>/: {first(u.id for u in utterances)}; {there}"
    )


def _visible(paths: Iterable[Path]) -> list[Path]:
    """Sort paths and leave out hidden ones, such as AppleDouble files (`._name`)."""
    return sorted(path for path in paths if not path.name.startswith("."))


def _lines(path: Path) -> list[str]:
    return [line.strip() for line in re.split(r"\r\n?|\n", read_published(path))]
