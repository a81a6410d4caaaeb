"""Read the Emotional Speech Dataset: emotions by folder, words by its transcripts.

Its transcripts are in five encodings: ASCII, UTF-8, UTF-16, GB 2312 and Latin-1, some Mandarin
speakers' in one, some in another, and some lines have spaces in the place of tabs.
Source: issue 1 of the repository HLTSingapore/Emotional-Speech-Data, which lists them file by file.
"""

import codecs
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from corpora.audio_files import Tree, first
from corpora.columns import log_once
from corpora.file_names import ESD_EMOTIONS, ESD_ENGLISH, ESD_MANDARIN
from corpora.layout import search
from corpora.named import read_named
from corpora.names import clean_text
from corpora.published_tables import find_table
from corpora.utterance import Utterance
from system.errors import InputError
from system.files import MAX_LABELS, read_bytes

# GB 18030 contains GB 2312, Windows-1252 the printed part of Latin-1.
ENCODINGS = ("utf-8", "gb18030", "cp1252", "latin-1")
BOMS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
CHINESE = {"中立": "Neutral", "快乐": "Happy", "生气": "Angry", "伤心": "Sad", "惊喜": "Surprise"}
IDEOGRAPH = re.compile("[\u3400-\u9fff]")
LINE = re.compile(r"(?P<id>\d{4}_\d{6})\s+(?P<words>\S.*?)(?:(?P<gap>\s+)(?P<last>\S+))?\s*")


class Line(NamedTuple):
    """What a transcript says of an utterance; the emotion is None where it says none."""

    words: str
    emotion: str | None


def read_esd(root: Path) -> list[Utterance]:
    """Read all files that lie in a folder of an emotion.

    Their texts are told by their numbers, and called by their words where there are transcripts.

    Raises:
        InputError: As `read_named`; or files lie in no such folder, or a transcript cannot be read.
    """

    def emotion_of(path: Path) -> str:
        folders = reversed(path.relative_to(root).parent.parts)
        return next((ESD_EMOTIONS[f.lower()] for f in folders if f.lower() in ESD_EMOTIONS), "")

    tree = search("esd", root)
    utterances = read_named("esd", root, tree, emotion_of)
    unlabelled = [str(u.path.relative_to(root)) for u in utterances if not u.label]
    if unlabelled:
        raise InputError(
            f"{len(unlabelled)} of {len(utterances)} files of esd lie in no folder of an emotion "
            f"({', '.join(ESD_EMOTIONS.values())}), which is their label: {first(unlabelled)}. "
            "Use the published folders, speaker/emotion, or list the files in a manifest"
        )
    lines = _read_transcripts(tree, {one.speaker for one in utterances})
    _tell_other_emotions(utterances, lines)
    texts = _name_texts(utterances, lines)
    return [replace(one, text_id=texts.get(str(one.text_id), one.text_id)) for one in utterances]


def decode_transcript(content: bytes, mandarin: bool) -> str:
    """Return the text of a transcript, whichever encoding it is in.

    In an English one Chinese signs among the words say that the encoding is another one: the byte
    of a curly apostrophe in Windows-1252 and the letter behind it are a Chinese sign in GB 18030.

    Args:
        content: Content of the file.
        mandarin: Whether its words may be Chinese.
    """
    if content.startswith(BOMS):
        return content.decode("utf-16", errors="replace")
    if b"\0" in content[:2]:  # ids are ASCII
        return content.decode("utf-16-be" if content[0] == 0 else "utf-16-le", errors="replace")
    for encoding in ENCODINGS[:-1]:
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        lines = _parse(text).values()
        if mandarin or not any(IDEOGRAPH.search(line.words) for line in lines):
            return text.removeprefix("\ufeff")
    return content.decode(ENCODINGS[-1])


def _read_transcripts(tree: Tree, speakers: Iterable[str]) -> dict[str, Line]:
    """Return what the transcripts say of each id."""
    found: dict[str, Line] = {}
    for speaker in sorted({*speakers} & (ESD_MANDARIN | ESD_ENGLISH)):
        path = find_table("esd", tree, f"{speaker}.txt")
        if path is None:
            continue
        try:
            content = read_bytes(path, MAX_LABELS)
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read {path}: {error}") from error
        text = decode_transcript(content, speaker in ESD_MANDARIN)
        found |= _parse(text)
        strange = [line for line in _split(text) if line.strip() and not _match(line)]
        if strange:
            log_once(f"{path}: {len(strange)} lines that say no utterance: {first(strange[:3])}")
    return found


def _parse(text: str) -> dict[str, Line]:
    lines = {}
    for match in filter(None, map(_match, _split(text))):
        words, last = match["words"], match["last"] or ""
        emotion = CHINESE.get(last, ESD_EMOTIONS.get(last.lower()))
        if last not in (*CHINESE, *ESD_EMOTIONS.values()) and "\t" not in (match["gap"] or ""):
            emotion = None  # a line of words alone may end in `sad`
        lines[match["id"]] = Line(words if emotion else f"{words} {last}".strip(), emotion)
    return lines


def _split(text: str) -> list[str]:
    return re.split(r"\r\n?|\n", text)


def _match(line: str) -> re.Match[str] | None:
    return LINE.fullmatch(line.strip("\ufeff \t\0"))


def _tell_other_emotions(utterances: Iterable[Utterance], lines: Mapping[str, Line]) -> None:
    """Log files that lie in the folder of another emotion than their transcript says."""
    other = [
        f"{one.id} ({one.label}, transcript {lines[one.id].emotion})"
        for one in utterances
        if one.id in lines and lines[one.id].emotion not in (None, one.label)
    ]
    if other:
        log_once(
            f"esd: {len(other)} files lie in the folder of another emotion than their transcript "
            f"says; the folder counts: {first(other)}"
        )


def _name_texts(utterances: Iterable[Utterance], lines: Mapping[str, Line]) -> dict[str, str]:
    """Map numbered texts to their words: what most of those who speak one say by their transcripts.

    The numbers decide who says the same, since single transcripts have errors; two numbers with
    the same words are one text.
    """
    said: dict[str, Counter[str]] = defaultdict(Counter)
    for one in utterances:
        words = re.findall(r"\w+", clean_text(lines[one.id].words)) if one.id in lines else []
        if words:
            said[str(one.text_id)][" ".join(words)] += 1
    return {
        number: max(counts, key=lambda words: (counts[words], words))
        for number, counts in said.items()
    }
