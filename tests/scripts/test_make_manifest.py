"""Manifests written from folders and tables are read back to the same utterances."""

from pathlib import Path

import pytest
import yaml

from config.loading import load_config
from config.schema import CorpusConfig, ProtocolConfig
from config.tasks import DIMENSIONS
from corpora.certificate import certify
from corpora.plan import list_trainable
from corpora.protocol import split_corpus
from corpora.readers import read_corpus
from scripts.make_manifest import main
from tests.corpora import test_audformat_database, test_kaldi
from tests.corpora.test_audiofolder import metadata
from tests.corpora.test_readers import touch
from tests.corpora.test_tables import ROWS, write
from tests.support.paths import ROOT


def classes(root: Path) -> list[str]:
    touch(root, *(f"{label}/{n}.wav" for label in ("joy", "awe") for n in range(3)), "awe/2.m4a")
    return []


def pattern(root: Path) -> list[str]:
    touch(root, *(f"s{n}/p{n}.F/{label}_1.wav" for n in range(3) for label in ("joy", "awe")))
    return ["--layout", "{session}/{speaker}.{gender}/{label}_*"]


def audiofolder(root: Path) -> list[str]:
    for split in ("train", "test", "dev"):
        touch(root, f"{split}/1.wav", f"{split}/2.wav")
        who, said = [split] * 2, ["Oh, no"] * 2
        metadata(root / split, "1.wav", "2.wav", speaker_id=who, text=said, label=["joy", "awe"])
    return []


def kaldi(root: Path) -> list[str]:
    test_kaldi.directory(root)
    return []


def audformat(root: Path) -> list[str]:
    test_audformat_database.save(test_audformat_database.segmented(), root)
    return ["--columns", "{label: emotion.emotion}"]


FOLDERS = {
    classes: "{split: random-utterance, n_folds: 5, allow_speaker_overlap: true}",
    pattern: "{split: leave-one-session-out, n_folds: null}",
    audiofolder: "{split: given, n_folds: null}",
    kaldi: None,
    audformat: None,
}


def config_of(printed: str) -> dict:
    """Return the printed config, as a user would paste it."""
    return yaml.safe_load(printed[printed.index("corpus:\n") :])


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
    if FOLDERS[make] is None:
        assert "speaker-k-fold does not go: this protocol needs at least 3 speakers" in printed
        assert "no protocol can divide these utterances" in printed and "corpus:" not in printed
        assert read_corpus("manifest", root, out) == wanted
        return
    assert f"protocol: {FOLDERS[make]}" in printed
    block = config_of(printed)
    corpus = CorpusConfig(**block["corpus"])
    ProtocolConfig(**block["protocol"])
    found = read_corpus(corpus.name, root, Path(corpus.manifest), columns=corpus.columns)
    assert found == wanted


SPEAKERS = [f"p{n}" for n in range(6)]


def rows_of(speakers, **fields) -> list[dict]:
    """Two utterances, joy and awe, of each speaker; fields are functions of the speaker's place."""
    return [
        {"path": f"{n}{label}.wav", "label": label, "speaker": speaker}
        | {name: value(n) for name, value in fields.items()}
        for n, speaker in enumerate(speakers)
        for label in ("joy", "awe")
    ]


PROTOCOLS = [
    (
        rows_of(SPEAKERS, session=lambda n: f"s{n // 2}"),
        {"split": "leave-one-session-out", "n_folds": None},
    ),
    (rows_of(SPEAKERS, fold=lambda n: n % 3), {"split": "given", "n_folds": None}),
    (
        rows_of(SPEAKERS, split=lambda n: ("train", "valid", "test")[n % 3]),
        {"split": "given", "n_folds": None},
    ),
    (  # p0 is in two folds
        rows_of(["p0", *SPEAKERS], fold=lambda n: n % 3),
        {"split": "speaker-k-fold", "n_folds": 5},
    ),
    (  # the column is not complete
        rows_of(SPEAKERS, fold=lambda n: n % 3 or ""),
        {"split": "speaker-k-fold", "n_folds": 5},
    ),
    (rows_of(SPEAKERS[:4]), {"split": "speaker-k-fold", "n_folds": 4}),
    (
        rows_of([None] * 6, fold=lambda n: n % 3),
        {"split": "given", "n_folds": None, "allow_speaker_overlap": True},
    ),
    (
        rows_of([None] * 6, session=lambda n: f"s{n % 3}"),
        {"split": "random-utterance", "n_folds": 5, "allow_speaker_overlap": True},
    ),
]


@pytest.mark.parametrize(("rows", "wanted"), PROTOCOLS)
def test_the_planner_takes_the_protocol_that_is_printed(tmp_path, rows, wanted, capsys):
    known = rows[0]["speaker"] is not None
    root = touch(tmp_path, *(row["path"] for row in rows))
    table = write(root, "list.csv", rows)
    columns = [] if known else ["--columns", "{speaker: null}"]
    assert main([str(table), "--out", str(root / "out.csv"), *columns]) == 0
    block = config_of(capsys.readouterr().out)
    assert block["protocol"] == wanted
    block |= {"name": "mine", "base": str(ROOT / "configs/ravdess_small_gmu.yaml")}
    (root / "mine.yaml").write_text(yaml.safe_dump(block))
    config = load_config(root / "mine.yaml")
    listed = list_trainable(config)
    hashes = {one.audio: one.id for one in listed.utterances}
    splits = split_corpus(config, listed.protocol.given, listed.utterances, hashes, ())
    certify(splits, hashes, listed.protocol.id, not known)  # as the planner does


def test_folders_train_valid_test_are_taken_as_they_are(tmp_path, capsys):
    parts = ("train", "valid", "test")
    touch(tmp_path / "root", *(f"{p}/{label}/1.wav" for p in parts for label in ("joy", "awe")))
    assert main([str(tmp_path / "root"), "--out", str(tmp_path / "out.csv")]) == 0
    wanted = {"split": "given", "n_folds": None, "allow_speaker_overlap": True}
    assert config_of(capsys.readouterr().out)["protocol"] == wanted


def test_why_the_folds_of_the_table_do_not_go_is_said(tmp_path, capsys):
    rows = rows_of(["p0", *SPEAKERS], fold=lambda n: n % 3)
    table = write(touch(tmp_path, *(row["path"] for row in rows)), "list.csv", rows)
    assert main([str(table), "--out", str(tmp_path / "out.csv")]) == 0
    printed = capsys.readouterr().out
    assert "protocol.split=given does not go: " in printed
    assert "speaker p0 is in" in printed


def test_sessions_that_cross_speakers_have_no_config_but_a_way_on(tmp_path, capsys):
    rows = rows_of(["p0", *SPEAKERS], session=lambda n: f"s{n % 3}")  # p0 is in two sessions
    table = write(touch(tmp_path, *(row["path"] for row in rows)), "list.csv", rows)
    assert main([str(table), "--out", str(tmp_path / "out.csv")]) == 0
    printed = capsys.readouterr().out
    assert "protocol.split=leave-one-session-out does not go: " in printed
    assert "protocol.split=speaker-k-fold does not go: " in printed and "corpus:" not in printed
    assert "corpus.columns={session: null} leaves them out" in printed
    without = ["--out", str(tmp_path / "2.csv"), "--columns", "{session: null}"]
    assert main([str(table), *without]) == 0
    wanted = {"split": "speaker-k-fold", "n_folds": 5}
    assert config_of(capsys.readouterr().out)["protocol"] == wanted


@pytest.mark.parametrize("name", ["a: b", "a, {b} #c", "'q' \"r\"", "- [x]", "null", "é"])
def test_the_printed_config_is_yaml_whatever_the_folder_is_called(tmp_path, name, capsys):
    root, out = tmp_path / name, tmp_path / f"{name}.csv"
    classes(root)
    assert main([str(root), "--out", str(out)]) == 0
    corpus = CorpusConfig(**config_of(capsys.readouterr().out)["corpus"])
    assert (corpus.root, corpus.manifest) == (str(root), str(out))


def test_one_class_has_no_config(tmp_path, capsys):
    touch(tmp_path / "root", "joy/1.wav", "joy/2.wav")
    assert main([str(tmp_path / "root"), "--out", str(tmp_path / "out.csv")]) == 0
    printed = capsys.readouterr().out
    assert (
        "it needs 2 classes, or ratings or votes" in printed
        and "protocol" not in printed.partition("config")[2]
    )
    assert (tmp_path / "out.csv").is_file()


def test_files_that_do_not_exist_are_said(tmp_path, capsys):
    table = write(touch(tmp_path, "1.wav", "2.wav"), "list.csv", ROWS)
    (tmp_path / "2.wav").unlink()
    (tmp_path / "2.wav").symlink_to("nowhere.wav")
    assert main([str(table), "--out", str(tmp_path / "out.csv")]) == 0
    printed = capsys.readouterr().out
    there = f"{tmp_path / '2.wav'}, {tmp_path / '3.flac'}"
    assert f"2 of 3 files do not exist: {there}\n" in printed
    (tmp_path / "out.csv").unlink()
    touch(tmp_path, "nowhere.wav", "3.flac")
    assert main([str(table), "--out", str(tmp_path / "out.csv")]) == 0
    assert "do not exist" not in capsys.readouterr().out


def test_blanks_around_names_of_folders_are_kept(tmp_path, capsys):
    root, out = tmp_path / "root", tmp_path / "out.csv"
    touch(root, *(f"{label}/{n}.wav" for label in (" happy ", "sad") for n in range(3)))
    assert main([str(root), "--out", str(out)]) == 0
    assert "do not exist" not in capsys.readouterr().out
    found = read_corpus("manifest", root, out, columns={"speaker": None})
    assert [one.path.is_file() for one in found] == [True] * 6
    assert {one.label for one in found} == {"happy", "sad"}


@pytest.mark.parametrize("name", ["out.parquet", "out.json", "out", "out.csv.gz"])
def test_a_manifest_of_another_form_is_refused(tmp_path, name, capsys):
    classes(tmp_path / "root")
    assert main([str(tmp_path / "root"), "--out", str(tmp_path / name)]) == 2
    assert f"--out must end in .csv or .tsv, got {tmp_path / name}" in capsys.readouterr().err
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize(("name", "mark"), [("out.TSV", "\t"), ("out.csv", ",")])
def test_the_suffix_says_what_separates_the_fields(tmp_path, name, mark, capsys):
    root, out = tmp_path / "a, b", tmp_path / name
    classes(root)
    assert main([str(root), "--out", str(out)]) == 0
    assert out.read_text().splitlines()[0] == mark.join(["path", "label", "id"])
    found = read_corpus("manifest", root, out, columns={"speaker": None})
    assert found == read_corpus("folder", root)


@pytest.mark.parametrize(
    ("more", "task"),
    [
        ({"votes": lambda n: "joy; joy; awe" if n % 2 else "awe"}, "distribution"),
        ({name: lambda n: 1 + n / 4 for name in DIMENSIONS}, "dimensions"),
        ({"arousal": lambda n: n / 4 + 1, "valence": lambda n: "" if n else 2}, "dimensions"),
    ],
)
def test_votes_and_ratings_are_written_and_name_their_task(tmp_path, more, task, capsys):
    rows = [{**row, "label": ""} for row in rows_of(SPEAKERS, **more)]
    root = touch(tmp_path, *(row["path"] for row in rows))
    table = write(root, "list.csv", rows)
    assert main([str(table), "--out", str(root / "out.csv")]) == 0
    found = read_corpus("manifest", root, root / "out.csv")
    assert found == read_corpus("manifest", root, table)
    assert all(one.votes if task == "distribution" else one.ratings for one in found)
    printed = capsys.readouterr().out
    counts = {name: sum(row.get(name, "") != "" for row in rows) for name in DIMENSIONS}
    rated = ", ".join(f"{name} ({n})" for name, n in counts.items() if n) or "none"
    voted = 12 if task == "distribution" else "none"
    assert "labels: none" in printed and f"ratings: {rated}; votes: {voted}\n" in printed
    block = yaml.safe_load(printed[printed.index("task:") :])
    assert block.pop("task") == task
    block |= {"name": "mine", "base": str(ROOT / "configs/ravdess_small_gmu.yaml"), "task": task}
    if task == "dimensions":
        assert "corpus.scale: [lowest, highest]" in printed
        block["corpus"]["scale"] = [1, 5]
    (root / "mine.yaml").write_text(yaml.safe_dump(block))
    assert len(list_trainable(load_config(root / "mine.yaml")).utterances) == 12


def test_what_was_understood_is_shown(tmp_path, capsys):
    classes(tmp_path / "root")
    assert main([str(tmp_path / "root"), "--out", str(tmp_path / "out.csv")]) == 0
    printed = capsys.readouterr().out
    assert "2 labels: awe (3), joy (3)" in printed
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
    assert "label not found in" in capsys.readouterr().err
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
