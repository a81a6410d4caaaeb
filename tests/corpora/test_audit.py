"""`audit.py` on splits made here: each fault in each form is found, and nothing else is."""

import csv
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audit import main
from tests.audio.test_fingerprint import RATE, speech

PART_OF = {"a": "train", "b": "train", "c": "dev", "d": "test"}  # of the speakers
CHECKS = ["utterance", "speaker", "session", "recording", "near-identical", "text"]


@dataclass
class Made:
    """A corpus with a manifest, and who is listed in which part.

    Args:
        root: Its folder.
        rows: Name -> (speaker, session, text) of each recording.
        listed: (part, name) of each row of the lists.
    """

    root: Path
    rows: dict[str, tuple[str, str, str]]
    listed: list[tuple[str, str]] = field(default_factory=list)

    def write(self) -> None:
        with (self.root / "list.csv").open("w", newline="") as file:
            rows = [[f"{name}.wav", "joy", *row] for name, row in self.rows.items()]
            csv.writer(file).writerows([["path", "label", "speaker", "session", "text"], *rows])

    def of_part(self) -> Mapping[str, list[str]]:
        return {
            part: [name for one, name in self.listed if one == part]
            for part in ("train", "dev", "test")
        }


@pytest.fixture
def made(tmp_path: Path) -> Made:
    """Four speakers in four sessions with two recordings each; nothing is shared."""
    found = Made(tmp_path, {})
    for k, (who, part) in enumerate(PART_OF.items()):
        for n in range(2):
            name = f"{who}{n}"
            soundfile.write(tmp_path / f"{name}.wav", speech(7500 + 2 * k + n, 1.3), RATE)
            found.rows[name] = (who, f"s{who}", f"text {name}")
            found.listed.append((part, name))
    return found


def clean(made: Made) -> None:
    """Leave it as it is."""


def same_utterance(made: Made) -> None:
    made.listed.append(("train", "d0"))


def shared_speaker(made: Made) -> None:
    made.rows["b1"] = ("d", "sb", "text b1")


def shared_session(made: Made) -> None:
    made.rows["c0"] = ("c", "sd", "text c0")


def same_recording(made: Made) -> None:
    """The same samples under another name, in another subtype of the format."""
    samples, rate = soundfile.read(made.root / "d1.wav", dtype="int16")
    soundfile.write(made.root / "a1.wav", samples.astype(np.int32) << 16, rate, subtype="PCM_24")


def gain(made: Made) -> None:
    samples, rate = soundfile.read(made.root / "d0.wav")
    soundfile.write(made.root / "a0.wav", 0.4 * samples, rate)


def shared_text(made: Made) -> None:
    made.rows["a0"] = ("a", "sa", "Text  D0")


# fault: (how it is made, checks that must find it, parts that share)
FAULTS: dict[str, tuple[Callable[[Made], None], set[str], str]] = {
    "clean": (clean, set(), ""),
    "utterance": (same_utterance, set(CHECKS) - {"near-identical"}, "train and test"),
    "speaker": (shared_speaker, {"speaker"}, "train and test"),
    "session": (shared_session, {"session"}, "dev and test"),
    "recording": (same_recording, {"recording"}, "train and test"),
    "gain": (gain, {"near-identical"}, "train and test"),
    "text": (shared_text, {"text"}, "train and test"),
}


def emobox(made: Made) -> list[str]:
    folder = made.root / "emobox/fold_1"
    folder.mkdir(parents=True)
    for part, names in made.of_part().items():
        word = {"dev": "valid"}.get(part, part)
        rows = [
            {"key": f"mine-{name}", "dataset": "mine", "wav": f"downloads/mine/{name}.wav"}
            for name in names
        ]
        path = folder / f"mine_{word}_fold_1.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [str(folder.parent)]


def s3prl(made: Made) -> list[str]:
    folder = made.root / "s3prl/Session1"
    folder.mkdir(parents=True)
    for part, names in made.of_part().items():
        rows = [{"path": f"{name}.wav", "label": "joy"} for name in names]
        value = {"labels": {"joy": 0}, "meta_data": rows}
        (folder / f"{part}_meta_data.json").write_text(json.dumps(value))
    return [str(folder.parent)]


def speechbrain(made: Made) -> list[str]:
    paths = []
    for part, names in made.of_part().items():
        path = made.root / f"{ {'dev': 'valid'}.get(part, part) }.json"
        rows = {name: {"wav": f"{{data_root}}/{name}.wav", "emo": "joy"} for name in names}
        path.write_text(json.dumps(rows))
        paths.append(str(path))
    return paths


def table(made: Made) -> list[str]:
    path = made.root / "split.csv"
    rows = "".join(f"{name}.wav,{part}\n" for part, name in made.listed)
    path.write_text(f"# made_by: Ann\npath,split\n{rows}")
    return [str(path)]


FORMS = {"EmoBox": emobox, "s3prl": s3prl, "SpeechBrain": speechbrain, "CSV": table}


def run(capsys, *words: object) -> tuple[int, str, str]:
    status = main([str(word) for word in words])
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    return status, said.out, said.err


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found_in_each_form(form, fault, made, monkeypatch, capsys):
    monkeypatch.chdir(made.root)
    make, finds, parts = FAULTS[fault]
    make(made)
    made.write()
    corpus = ["--corpus", "manifest", "--root", made.root, "--manifest", made.root / "list.csv"]
    out = made.root / "audit.json"
    split = FORMS[form](made)
    status, text, _ = run(capsys, *split, *corpus, "--texts-apart", "--json", out)
    found = json.loads(out.read_text())
    refused = {name for name, check in found["checks"].items() if check["refused"]}
    assert refused == finds and found["clean"] == (not finds)
    assert status == (1 if finds else 0)
    assert list(found["checks"]) == CHECKS
    last = text.splitlines()[-1]
    if not finds:
        assert last == f"PASSED, certificate {found['certificate']}"
        return
    assert last == (f"REFUSED: {', '.join(n for n in CHECKS if n in finds)} in two parts of a fold")
    for name in finds:
        (leak,) = found["checks"][name]["shared"]
        assert leak["parts"] == parts
        assert f"{name} {leak['what']} is in {parts}" in text


def test_texts_are_counted_unless_they_must_be_apart(made, monkeypatch, capsys):
    monkeypatch.chdir(made.root)
    shared_text(made)
    made.write()
    corpus = ["--corpus", "manifest", "--root", made.root, "--manifest", made.root / "list.csv"]
    status, text, _ = run(capsys, *table(made), *corpus)
    assert status == 0 and "| text | 1 in train and test; counted |" in text


def test_audio_that_was_not_read_is_no_passed_check(made, monkeypatch, capsys):
    monkeypatch.chdir(made.root)
    same_recording(made)
    made.write()
    corpus = ["--corpus", "manifest", "--root", made.root, "--manifest", made.root / "list.csv"]
    status, text, _ = run(capsys, *table(made), *corpus, "--no-audio")
    assert status == 0 and "| recording | not made: audio was not read |" in text
    assert "PASSED (not checked: recording, near-identical), certificate" in text
    (made.root / "a1.wav").unlink()
    status, text, _ = run(capsys, *table(made), *corpus)
    assert status == 0
    assert "| recording | passed; audio of 1 of 8 utterances was not there |" in text


def test_what_the_corpus_and_the_lists_lack_is_said(made, monkeypatch, capsys):
    monkeypatch.chdir(made.root)
    made.write()
    made.listed.pop(0)
    path = Path(table(made)[0])
    path.write_text(path.read_text() + "gone.wav,train\n")
    corpus = ["--corpus", "manifest", "--root", made.root, "--manifest", made.root / "list.csv"]
    status, _, error = run(capsys, path, *corpus, "--no-audio")
    assert status == 2 and "nothing says who speaks in 1 of 8 rows: split.csv, line 10" in error
    path.write_text(path.read_text().replace("gone.wav,train\n", ""))
    status, text, _ = run(capsys, path, *corpus, "--no-audio")
    assert status == 0
    assert "- note: 1 of 8 utterances of the corpus are in no list, the first is a0" in text


def ravdess(folder: Path, test: set[int]) -> list[Path]:
    """Write EmoBox's lists of four actors; those of `test` are tested."""
    fold = folder / "ravdess/fold_1"
    fold.mkdir(parents=True)
    for part in ("train", "test"):
        rows = [
            {"key": f"ravdess-{name}", "dataset": "ravdess", "wav": f"Actor_{n:02d}/{name}.wav"}
            for n in range(1, 5)
            for statement in (1, 2)
            for name in [f"03-01-05-01-0{statement}-01-{n:02d}"]
            if (n in test and (n != 4 or statement == 2)) == (part == "test")
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (fold / f"ravdess_{part}_fold_1.jsonl").write_text(lines)
    return [fold.parent]


def test_peer_29_published_names_say_who_speaks_without_the_corpus(tmp_path, capsys):
    status, text, _ = run(capsys, *ravdess(tmp_path / "clean", {3}))
    assert status == 0 and "| speaker | passed |" in text and "Made by: EmoBox" in text
    status, text, _ = run(capsys, *ravdess(tmp_path / "shared", {3, 4}), "--corpus", "ravdess")
    assert status == 1
    assert "- fold fold_1: speaker 04 is in train and test (" in text


def test_peer_07_the_wrong_letter_of_iemocap_is_said_and_the_right_one_used(tmp_path, capsys):
    lists = {
        "train": [("Ses01F_impro01_M000", "Ses01F"), ("Ses02F_impro01_M000", "Ses02F")],
        "test": [("Ses01M_impro01_M000", "Ses01M")],
    }
    folder = tmp_path / "Session1"
    folder.mkdir()
    for part, rows in lists.items():
        meta = [{"path": f"x/{name}.wav", "label": "neu", "speaker": who} for name, who in rows]
        (folder / f"{part}_meta_data.json").write_text(json.dumps({"meta_data": meta}))
    status, text, _ = run(capsys, tmp_path, "--corpus", "iemocap")
    assert status == 1 and "speaker Ses01_M is in train and test" in text
    assert "session Session1 is in train and test" in text
    assert "in 2 rows the speaker differs from the corpus's, which is used" in text


def test_every_fold_of_a_table_of_speakers_is_audited(tmp_path, capsys):
    path = tmp_path / "t.csv"
    path.write_text("speaker,fold\n1,1\n2,2\n03,3\n3,1\n")
    status, text, _ = run(capsys, path)
    assert status == 1
    # In fold 1 and 3 speaker 3 is tested and trained on; in fold 2 it is only trained on.
    assert "- fold 1: speaker 3 is in train and test" in text
    assert "- fold 3: speaker 3 is in train and test" in text and "- fold 2" not in text
    assert "1 speakers are tested in several folds" in text


@pytest.mark.parametrize(
    ("rows", "refused"),
    [
        (("Actor_01,s1", "actor_1,s2"), "speaker Actor_01"),
        (("1,Session1", "2,session01"), "session Session1"),
        (("Ses01_F,Session1", "ses1f,Session2"), "speaker Ses01_F"),
        (("1,s1", "2,s2"), None),
    ],
)
def test_spellings_of_a_speaker_or_session_are_one_without_a_corpus(
    rows, refused, tmp_path, capsys
):
    path = tmp_path / "t.csv"
    lines = [
        f"x{n},{row},{part}\n"
        for n, (row, part) in enumerate(zip(rows, ("train", "test"), strict=True))
    ]
    path.write_text(f"utterance,speaker,session,split\n{''.join(lines)}")
    status, text, _ = run(capsys, path)
    assert status == (1 if refused else 0)
    assert refused is None or f"- fold 1: {refused} is in train and test (x0, x1)" in text


def test_a_row_that_the_corpus_lacks_has_a_speaker_of_the_corpus(made, monkeypatch, capsys):
    monkeypatch.chdir(made.root)
    made.rows["a0"] = made.rows["a1"] = ("Actor_01", "sa", "x")
    made.write()
    lines = [f"{name}.wav,,{part}\n" for part, name in made.listed]
    path = made.root / "split.csv"
    path.write_text(f"path,speaker,split\n{''.join(lines)}gone.wav,actor 1,test\n")
    corpus = ["--corpus", "manifest", "--root", made.root, "--manifest", made.root / "list.csv"]
    status, text, _ = run(capsys, path, *corpus, "--no-audio")
    assert status == 1 and "speaker Actor_01 is in train and test" in text


def test_a_config_names_the_corpus(corpus_root, recipe, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, text, _ = run(capsys, "iemocap_sessions5", "--config", recipe, "--no-audio")
    assert status == 0 and "5 folds, 40 utterances, 10 speakers" in text
    assert "| session | passed |" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["/nowhere"], "SPLIT: there is no file or folder /nowhere"),
        (["ravdess_papers5", "--corpus", "ravdes"], "did you mean 'ravdess'"),
        (["ravdess_papers5", "--root", "."], "--root needs --corpus"),
        (["ravdess_papers5", "--corpus", "manifest"], "needs --root and --manifest"),
        (["ravdess_papers5", "--corpus", "ravdess", "--root", "/nowhere"], "no folder /nowhere"),
        (["ravdess_papers5", "--json", "/nowhere/x.json"], "--json: there is no folder /nowhere"),
        (["ravdess_papers5", "--config", "x", "--corpus", "esd"], "leave --corpus"),
        ([""], "SPLIT is empty"),
        (["ravdess_papers5", "--corpus", "ravdess", "--root", ""], "--root is empty"),
        (["ravdess_papers5", "--config", ""], "--config is empty"),
        (["ravdess_papers5", "--json", ""], "--json is empty"),
        (["ravdess_papers5", "--json", "{root}"], "--json: .* is a folder or not a regular file"),
        (["ravdess_papers5", "--json", "{root}/pipe"], "--json: .* is a folder or not a regular"),
        (["ravdess_papers5", "--json", "/proc/x.json"], "--json: cannot write /proc/x.json"),
        (["x" * 5000], "there is no file or folder x{120}[.]{3},"),
        (["ravdess_papers5", "--corpus", "x" * 5000], "--corpus 'x{119}[.]{3} is not known"),
        (["{root}/what.json", "{root}/test.json"], "must say train, dev .valid. or test"),
    ],
)
def test_wrong_words_are_answered_with_status_2(words, message, tmp_path, capsys):
    for name in ("what", "test"):
        (tmp_path / f"{name}.json").write_text("{}")
    os.mkfifo(tmp_path / "pipe")
    status, said, error = run(capsys, *[word.format(root=tmp_path) for word in words])
    assert status == 2
    assert re.search(message, error), error
    assert "PASSED" not in said


def test_lines_are_not_forged_by_names(tmp_path, capsys):
    folder = tmp_path / "lists/1\nPASSED, certificate 0123456789"
    folder.mkdir(parents=True)
    for part in ("train", "test"):
        (folder / f"{part}.csv").write_text("path,speaker\nx.wav,a\n")
    status, text, _ = run(capsys, folder.parent)
    assert status == 1 and not any(line.startswith("PASSED") for line in text.splitlines())
