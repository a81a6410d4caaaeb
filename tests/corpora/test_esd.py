"""ESD's transcripts: five encodings, two separators, and what they make of the texts."""

from pathlib import Path

import pytest

from corpora.esd import decode_transcript
from corpora.readers import read_corpus
from system.errors import InputError
from tests.corpora.test_readers import touch

CURLY = "0016_000001\tIt’s a boy, isn’t it?\tNeutral\r\n"
MIXED = f"{CURLY}0016_000002\tThe café – closed.\tNeutral\r\n"
PLAIN = "0011_000001\tThe nine the eggs, I keep.\tNeutral\n"
MANDARIN = "0001_000001\t打远一看，它们的确很是美丽。\t中立\n0001_000351\t打远一看\t快乐\n"

CASES = {
    "ASCII": (PLAIN, "ascii", False),
    "UTF-8": (MIXED, "utf-8", False),
    "UTF-8 with a mark": (MIXED, "utf-8-sig", False),
    "UTF-16, little end first": (MIXED, "utf-16", False),
    "UTF-16, little end first, without a mark": (MIXED, "utf-16-le", False),
    "UTF-16, big end first, without a mark": (MIXED, "utf-16-be", False),
    "Windows-1252": (MIXED, "cp1252", False),
    "Windows-1252 that is GB 18030, too": (CURLY, "cp1252", False),
    "English in GB 18030": (MIXED, "gb18030", False),
    "Mandarin in UTF-8": (MANDARIN, "utf-8", True),
    "Mandarin in UTF-16": (MANDARIN, "utf-16", True),
    "Mandarin in GB 2312": (MANDARIN, "gb2312", True),
}


@pytest.mark.parametrize("case", CASES)
def test_a_transcript_is_read_in_every_encoding_that_is_published(case):
    text, encoding, mandarin = CASES[case]
    assert decode_transcript(text.encode(encoding), mandarin) == text


def test_big_end_first_with_a_mark():
    assert decode_transcript(b"\xfe\xff" + CURLY.encode("utf-16-be"), False) == CURLY


def test_latin_1_that_no_other_encoding_allows():
    content = "0017_000001\tna\xefve\x81\tSad\n".encode("latin-1")
    assert decode_transcript(content, False).startswith("0017_000001\tna\xefve")


def test_english_with_chinese_words_for_the_emotion_alone_stays_gb18030():
    text = "0012_000001\tIt’s here.\t中立\n"
    assert decode_transcript(text.encode("gb18030"), False) == text


def write(root: Path, speaker: str, text: str, encoding: str = "utf-8") -> None:
    path = root / speaker / f"{speaker}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding))


def texts(root: Path) -> dict[str, str | None]:
    return {one.id: one.text_id for one in read_corpus("esd", root)}


def test_words_name_the_texts_and_numbers_stay_where_nothing_says_them(tmp_path):
    touch(tmp_path, "0001/Neutral/0001_000001.wav", "0001/Happy/0001_000351.wav")
    touch(tmp_path, "0011/Neutral/0011_000001.wav", "0011/Angry/0011_000352.wav")
    same = MANDARIN.replace("\t打远一看\t", "\t打远一看，它们的确很是美丽。\t")
    write(tmp_path, "0001", same, "utf-16")
    write(tmp_path, "0011", PLAIN)
    assert texts(tmp_path) == {
        "0001_000001": "打远一看 它们的确很是美丽",
        "0001_000351": "打远一看 它们的确很是美丽",
        "0011_000001": "the nine the eggs i keep",
        "0011_000352": "english-002",
    }


def test_the_number_decides_where_one_transcript_has_an_error(tmp_path):
    for speaker in ("0011", "0012", "0013"):
        touch(tmp_path, f"{speaker}/Neutral/{speaker}_000005.wav")
        words = "Let the glass globe be." if speaker != "0013" else "Let the glas globe be"
        write(tmp_path, speaker, f"{speaker}_000005\t{words}\tNeutral\n")
    assert set(texts(tmp_path).values()) == {"let the glass globe be"}


def test_two_numbers_with_the_same_words_are_one_text(tmp_path):
    touch(tmp_path, "0011/Sad/0011_001051.wav", "0011/Sad/0011_001052.wav")
    write(tmp_path, "0011", "0011_001051\tAll this.\tSad\n0011_001052\tall THIS\tSad\n")
    assert set(texts(tmp_path).values()) == {"all this"}


def test_spaces_in_the_place_of_tabs_and_lines_without_an_emotion(tmp_path):
    touch(tmp_path, *(f"0015/Sad/0015_00{1050 + n}.wav" for n in (1, 2, 3)))
    lines = ["0015_001051 She is sad", "0015_001052 She left. Sad", "0015_001053\tShe is sad."]
    write(tmp_path, "0015", "\n".join(lines))
    assert [*texts(tmp_path).values()] == ["she is sad", "she left", "she is sad"]


def test_lines_of_nothing_and_other_emotions_are_told(tmp_path, caplog):
    touch(tmp_path, "0011/Angry/0011_000351.wav")
    write(tmp_path, "0011", "Speaker 11\n\n0011_000351\tNo.\tHappy\n")
    with caplog.at_level("INFO"):
        (one,) = read_corpus("esd", tmp_path)
    assert one.label == "Angry" and one.text_id == "no"
    assert "1 lines that say no utterance: Speaker 11" in caplog.text
    assert "1 files lie in the folder of another emotion" in caplog.text
    assert "0011_000351 (Angry, transcript Happy)" in caplog.text


def test_a_transcript_that_cannot_be_read_is_named(tmp_path):
    touch(tmp_path, "0011/Angry/0011_000351.wav")
    (tmp_path / "0011/0011.txt").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(InputError, match="cannot read .*0011.txt: it is a Git LFS pointer"):
        read_corpus("esd", tmp_path)
