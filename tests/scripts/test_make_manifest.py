"""Manifests written from folders and tables are read back to the same utterances."""

from pathlib import Path

import pytest
import yaml

from config.schema import CorpusConfig, ProtocolConfig
from corpora.readers import read_corpus
from scripts.make_manifest import main
from tests.corpora import test_audformat_database, test_kaldi
from tests.corpora.test_audiofolder import metadata
from tests.corpora.test_readers import touch
from tests.corpora.test_tables import ROWS, write


def classes(root: Path) -> list[str]:
    touch(root, "joy/1.wav", "joy/2.wav", "awe/1.wav", "awe/2.m4a")
    return []


def pattern(root: Path) -> list[str]:
    touch(root, *(f"s{n}/p{n}.F/{label}_1.wav" for n in range(3) for label in ("joy", "awe")))
    return ["--layout", "{session}/{speaker}.{gender}/{label}_*"]


def audiofolder(root: Path) -> list[str]:
    for split in ("train", "test", "dev"):
        touch(root, f"{split}/1.wav")
        metadata(root / split, "1.wav", speaker_id=[split], text=["Oh, no"])
    return []


def kaldi(root: Path) -> list[str]:
    test_kaldi.directory(root)
    return []


def audformat(root: Path) -> list[str]:
    test_audformat_database.save(test_audformat_database.segmented(), root)
    return ["--columns", "{label: emotion.emotion}"]


FOLDERS = {
    classes: "{split: random-utterance, n_folds: 5, allow_speaker_overlap: true}",
    pattern: "{split: leave-one-session-out}",
    audiofolder: "{split: given}",
    kaldi: "# needs at least 3 speakers (train, dev, test), there are 2",
    audformat: "# needs at least 3 speakers (train, dev, test), there are 2",
}


@pytest.mark.parametrize("make", FOLDERS)
def test_a_folder_becomes_a_manifest_of_the_same_utterances(tmp_path, make, capsys):
    root, out = tmp_path / "root", tmp_path / "out.csv"
    root.mkdir()
    options = make(root)
    assert main([str(root), "--out", str(out), *options]) == 0
    printed = capsys.readouterr().out
    layout = options[1] if "--layout" in options else None
    columns = {"label": "emotion.emotion"} if make is audformat else None
    wanted = read_corpus("folder", root, layout=layout, columns=columns)
    assert f"{len(wanted)} utterances" in printed
    assert f"protocol: {FOLDERS[make]}" in printed
    block = yaml.safe_load(printed[printed.index("corpus:\n") :])  # as a user would paste it
    corpus = CorpusConfig(**block["corpus"])
    if block["protocol"] is not None:
        ProtocolConfig(**block["protocol"])
    found = read_corpus(corpus.name, root, Path(corpus.manifest), columns=corpus.columns)
    assert found == wanted


def test_what_was_understood_is_shown(tmp_path, capsys):
    classes(tmp_path / "root")
    assert main([str(tmp_path / "root"), "--out", str(tmp_path / "out.csv")]) == 0
    printed = capsys.readouterr().out
    assert "2 labels: awe (1), joy (2)" in printed
    assert "speakers: nobody knows them. Say who speaks:" in printed
    assert "1 audio files below corpus.root were not read: awe/ (1); the first are" in printed
    assert (tmp_path / "out.csv").read_text().splitlines()[0] == "path,label,id"


@pytest.mark.parametrize("name", ["list.csv", "list.json", "list.parquet"])
def test_a_table_becomes_a_manifest(tmp_path, name, capsys):
    root = touch(tmp_path, "1.wav", "2.wav", "3.flac")
    rows = [{"feeling" if key == "label" else key: one for key, one in row.items()} for row in ROWS]
    table = write(root, name, rows)
    out = ["--out", str(tmp_path / "out.csv")]
    assert main([str(table), *out]) == 2
    assert "label not found in" in capsys.readouterr().err or name == "list.json"
    assert main([str(table), *out, "--columns", "{label: feeling}"]) == 0
    printed = capsys.readouterr().out
    assert "2 sessions: a (2), b (1)" in printed and "segments of longer files: 3" in printed
    wanted = read_corpus("manifest", root, table, columns={"label": "feeling"})
    assert read_corpus("manifest", root, tmp_path / "out.csv") == wanted


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{root}", "--layout", "{{speaker}}/*"], "--layout: it must say where the class is"),
        (["{root}", "--columns", "{{labl: x}}"], "--columns: 'labl' is not a field"),
        (["{root}", "--columns", "3"], "--columns: "),
        (["{root}", "--root", "x"], "--root has no effect on a folder"),
        (["{root}/list.csv", "--layout", "{{label}}/*"], "--layout has no effect on the table"),
        (["{root}", "--out", "{root}/list.csv"], "is there: remove it, or name another"),
        (["{root}", "--out", "{root}/no/list.csv"], "there is no folder"),
        (["{root}/gone"], "there is no folder"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, arguments, words, capsys):
    root = touch(tmp_path / "root", "joy/1.wav", "awe/1.wav")
    write(root, "list.csv", ROWS)
    assert main([word.format(root=root) for word in arguments]) == 2
    assert words in capsys.readouterr().err
