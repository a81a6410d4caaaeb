"""Manifests of other tools, and what is refused in them instead of being read as a name."""

import json
import logging
import unicodedata
from pathlib import Path

import pytest

from corpora.labels import label_set
from corpora.manifest import COLUMNS
from corpora.readers import read_corpus
from corpora.utterance import Utterance
from system.errors import InputError
from tests.corpora.test_readers import touch

ROWS = [("1.wav", "joy", "ann"), ("2.wav", "awe", "ann"), ("3.wav", "joy", "bob")]
FACTS = [("1", "joy", "ann"), ("2", "awe", "ann"), ("3", "joy", "bob")]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return touch(tmp_path, *(row[0] for row in ROWS), "sub/4.wav")


def table(root: Path, header: str, rows=ROWS, mark: str = ",", name: str = "list.csv") -> Path:
    lines = [header.replace(",", mark), *(mark.join(row) for row in rows)]
    (root / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root / name


def jsonl(root: Path, *rows: object) -> Path:
    (root / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root / "list.jsonl"


def facts(found: list[Utterance]) -> list[tuple[str, str, str]]:
    return [(one.id, one.label, one.speaker) for one in found]


@pytest.mark.parametrize(
    ("header", "mark", "name"),
    [
        ("path,label,speaker", ";", "list.csv"),
        ("path,label,speaker", "\t", "list.tsv"),
        ("path,label,speaker", "\t", "list.csv"),
        ("path,label,speaker", ",", "list.TSV"),
        ("Path,LABEL,Speaker", ",", "list.csv"),
        (" path , label,speaker ", ",", "list.csv"),
        ("\u200bpath,label,\u00a0speaker", ",", "list.csv"),
        ("file,emotion,Speaker ID", ",", "list.csv"),
        ("file_name,label,spk", ";", "list.csv"),
        ("audio,emo,speaker-id", "\t", "list.tsv"),
        ("wav,emo,spk_id", ",", "list.csv"),
    ],
)
def test_what_other_tools_write_is_read(root, header, mark, name):
    assert facts(read_corpus("manifest", root, table(root, header, mark=mark, name=name))) == FACTS


def test_a_separator_in_a_quoted_column_name_does_not_count(root):
    path = table(root, '"path";"label";"speaker";"a, b, c, path, label"', mark=";")
    assert facts(read_corpus("manifest", root, path)) == FACTS


def test_every_other_name_of_a_column_is_read(root):
    row = {"path": "1.wav", "label": "joy", "speaker": "ann", "id": "x", "gender": "f"}
    row |= {"session": "one", "text": "oh no", "split": "dev", "fold": "2"}
    row |= {"valence": "1", "arousal": "2.5", "dominance": "3", "votes": "joy;awe"}
    (under_ours,) = read_corpus("manifest", root, jsonl(root, row))
    assert (under_ours.session, under_ours.text_id, under_ours.split) == ("one", "oh no", "dev")
    for ours, others in COLUMNS.items():
        for other in others:
            renamed = {(other if name == ours else name): value for name, value in row.items()}
            assert other in renamed
            assert read_corpus("manifest", root, jsonl(root, renamed)) == [under_ours], other


def test_renamed_and_unused_columns_are_said_once(root, caplog):
    rows = [{"file": name, "emotion": label, "speaker": who, "age": 3} for name, label, who in ROWS]
    with caplog.at_level(logging.INFO):
        read_corpus("manifest", root, jsonl(root, *rows))
    assert [record.message.partition(": ")[2] for record in caplog.records] == [
        "column file is read as path, emotion is read as label",
        "columns that are not used: age",
    ]
    caplog.clear()
    with caplog.at_level(logging.INFO):
        read_corpus("manifest", root, table(root, "path,label,speaker"))
    assert not caplog.records


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("path,label,speaker,label", "'label' and 'label' mean the same, label"),
        ("path,label,speaker,Emotion", "'label' and 'Emotion' mean the same, label"),
        ("path,label,speaker,file", "'path' and 'file' mean the same, path"),
        ("path,label,speaker, SPEAKER", "'speaker' and ' SPEAKER' mean the same"),
    ],
)
def test_two_columns_of_one_meaning_are_refused(root, header, words):
    path = table(root, header, [(*row, "3") for row in ROWS])
    with pytest.raises(InputError, match=rf"list.csv: line 1: the columns {words}"):
        read_corpus("manifest", root, path)


def test_two_keys_of_one_meaning_are_refused(root):
    row = {"path": "1.wav", "label": "joy", "speaker": "ann", "emo": "awe"}
    with pytest.raises(InputError, match="line 1: the columns 'label' and 'emo' mean the same"):
        read_corpus("manifest", root, jsonl(root, row))
    (root / "list.jsonl").write_text('{"path": "1.wav", "label": "a", "label": "b"}\n')
    with pytest.raises(InputError, match="line 1: not JSON: the key 'label' occurs twice"):
        read_corpus("manifest", root, root / "list.jsonl")


def test_columns_without_a_name_are_no_two_columns_of_one_name(root):
    path = table(root, ",path,label,speaker,,", [("0", *row, "", "") for row in ROWS])
    assert facts(read_corpus("manifest", root, path)) == FACTS


@pytest.mark.parametrize("value", [["a"], {"b": 0.7}, True, float("inf")])
@pytest.mark.parametrize("field", ["label", "speaker", "path", "id", "session", "text"])
def test_a_structure_is_no_name(root, field, value):
    row = {"path": "1.wav", "label": "joy", "speaker": "ann"}
    with pytest.raises(InputError, match=f"line 2: '{field}' must be a word or a number, got"):
        read_corpus("manifest", root, jsonl(root, row, row | {"id": "2", field: value}))


@pytest.mark.parametrize("value", [None, float("nan")])
def test_null_and_nan_are_empty(root, value):
    row = {"path": "1.wav", "label": "joy", "speaker": "ann"}
    empty = dict.fromkeys(("session", "text", "id", "gender", "split", "fold"), value)
    (found,) = read_corpus("manifest", root, jsonl(root, row | empty))
    assert (found.id, found.session, found.text_id, found.gender) == ("1", None, None, None)
    assert found.split is None and found.fold is None
    for field, words in (("label", "'label' is empty or null"), ("speaker", "no speaker: fill in")):
        with pytest.raises(InputError, match=f"line 1: {words}"):
            read_corpus("manifest", root, jsonl(root, row | {field: value}))


@pytest.mark.parametrize("word", ["nan", "NaN", "null", "None", "N/A", "NA"])
@pytest.mark.parametrize("field", ["label", "speaker", "session", "id"])
def test_a_word_for_unknown_is_no_name(root, field, word):
    row = {"path": "1.wav", "label": "joy", "speaker": "ann", field: word}
    todo = "remove the row" if field in ("label", "speaker") else "leave it empty"
    with pytest.raises(
        InputError, match=f"line 1: '{field}' is '{word}', .* fill it in, or {todo}"
    ):
        read_corpus("manifest", root, jsonl(root, row))


@pytest.mark.parametrize("word", ["nan", "NaN", "null", "None", "N/A", "<NA>", " na "])
def test_a_word_for_unknown_is_no_text(root, word):
    path = table(root, "path,label,speaker,text", [(*row, word) for row in ROWS])
    assert {one.text_id for one in read_corpus("manifest", root, path)} == {None}
    path = table(root, "path,label,speaker,text", [(*row, f"{word} oh") for row in ROWS])
    assert {one.text_id for one in read_corpus("manifest", root, path)} == {
        f"{word.strip().lower()} oh"
    }


def test_a_name_that_nobody_sees_is_empty(root):
    path = table(root, "path,label,speaker", [("1.wav", "\u200b", "ann")])
    with pytest.raises(InputError, match="line 2: 'label' is empty"):
        read_corpus("manifest", root, path)


@pytest.mark.parametrize(
    ("field", "first", "second"),
    [
        ("label", "Joy", "joy"),
        ("speaker", "Anna", "ANNA"),
        ("speaker", "1", "1.0"),
        ("speaker", "1", "01"),
        ("session", "s1", "S1"),
    ],
)
def test_a_name_in_two_spellings_is_refused_with_both(root, field, first, second):
    row = {"label": "joy", "speaker": "ann", "session": "x"}
    rows = [row | {"path": f"{n}.wav", field: first if n < 3 else second} for n in (1, 2, 3)]
    words = f"{field} '{min(first, second)}' .line .* and '{max(first, second)}' .line"
    with pytest.raises(InputError, match=f"differ only in case(.|\n)*{words}") as refused:
        read_corpus("manifest", root, jsonl(root, *rows))
    assert "(line 1)" in str(refused.value) and "(line 3)" in str(refused.value)


def test_composed_and_decomposed_names_are_one(root):
    names = ["J\u00e4n", "Ja\u0308n", "J\u200b\u00e4n"]
    rows = [(path, label, who) for (path, label, _), who in zip(ROWS, names, strict=True)]
    found = read_corpus("manifest", root, table(root, "path,label,speaker", rows))
    assert {one.speaker for one in found} == {"J\u00e4n"}
    assert (
        label_set("manifest", ["Ja\u0308", "b"], found_labels("J\u00e4", "b")).classes[0]
        == "J\u00e4"
    )


def found_labels(*labels: str) -> list[Utterance]:
    return [Utterance(label, Path(label), label, "s") for label in labels]


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("listed", ["NFC", "NFD"])
def test_a_path_opens_the_file_in_either_composition_and_its_id_is_composed(
    tmp_path, on_disk, listed
):
    name = "tr\u00e4ge.wav"
    touch(tmp_path, unicodedata.normalize(on_disk, name))
    row = (unicodedata.normalize(listed, name), "joy", "ann")
    (found,) = read_corpus("manifest", tmp_path, table(tmp_path, "path,label,speaker", [row]))
    assert found.path.exists() and found.id == "tr\u00e4ge"


def test_backslashes_are_separators_unless_a_file_has_them(root):
    rows = [("sub\\4.wav", "joy", "ann"), (".\\1.wav", "joy", "ann")]
    path = table(root, "path,label,speaker", rows)
    found = read_corpus("manifest", root, path)
    assert [one.path for one in found] == [root / "1.wav", root / "sub/4.wav"]
    assert [one.id for one in found] == ["1", "sub/4"]
    touch(root, "sub\\4.wav")
    assert read_corpus("manifest", root, path)[1].path == root / "sub\\4.wav"
    path = table(root, "path,label,speaker", [("gone\\5.wav", "joy", "ann")])
    with pytest.raises(
        InputError, match=r"the first is 'gone\\\\5.wav', searched as .*/gone/5.wav"
    ):
        read_corpus("manifest", root, path)


def test_unknown_genders_are_none_and_said_once(root, caplog):
    genders = ["u", "Female", "u"]
    rows = [(*row, gender) for row, gender in zip(ROWS, genders, strict=True)]
    with caplog.at_level(logging.INFO):
        found = read_corpus("manifest", root, table(root, "path,label,speaker,sex", rows))
    assert [one.gender for one in found] == [None, "F", None]
    said = [record.message for record in caplog.records if ": gender" in record.message]
    assert len(said) == 1 and said[0].endswith(
        "gender is read as unknown unless it is F or M: 'u' in 2 rows"
    )


def test_bytes_that_are_not_utf_8_are_refused_with_line_and_byte(root):
    for suffix in ("csv", "tsv", "jsonl"):
        path = root / f"list.{suffix}"
        path.write_bytes("path,label,speaker\n1.wav,tr\u00e4ge,ann\n".encode("latin-1"))
        with pytest.raises(InputError, match="line 2: byte 0xE4 .* is not UTF-8: save it as UTF-8"):
            read_corpus("manifest", root, path)
        path.write_bytes("path,label,speaker\n1.wav,joy,ann\n".encode("utf-16"))
        with pytest.raises(InputError, match="it is UTF-16: save it as UTF-8"):
            read_corpus("manifest", root, path)


def test_a_quote_that_is_not_closed_swallows_no_row(root):
    rows = [("1.wav", "joy", "ann", '"oh'), ("2.wav", "joy", "bob", 'he said "no"')]
    with pytest.raises(InputError, match=r"list.csv: line 2: not CSV: a quote"):
        read_corpus("manifest", root, table(root, "path,label,speaker,text", rows))


def test_a_header_that_lacks_a_column_says_what_it_may_be_called(root):
    with pytest.raises(
        InputError, match="path not found in: who, label, speaker. .* wav, .* audio"
    ):
        read_corpus("manifest", root, table(root, "who,label,speaker"))


@pytest.mark.parametrize("above", ["sep=;", "# made by hand", "1.wav;joy;ann"])
def test_a_first_line_that_is_no_header_is_named_with_the_way_on(root, above):
    path = table(root, f"{above}\npath;label;speaker", mark=";")
    way_on = "line 1: .*names no column that is read: remove what stands above the header"
    with pytest.raises(InputError, match=way_on):
        read_corpus("manifest", root, path)
    with pytest.raises(InputError) as refused:
        read_corpus("manifest", root, table(root, "who,label,speaker"))
    assert "above the header" not in str(refused.value)
