"""A run folder is opened for a plan, refused to another config, and read back."""

import csv
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from config.loading import load_config
from corpora.audio_files import Unread
from corpora.plan import make_plan
from storage.audio_lists import read_unread_audio
from storage.folders import check_is_fold
from storage.run_folder import (
    UTTERANCE_COLUMNS,
    check_run_folder,
    open_run_folder,
    read_run,
    remove_run,
)
from system.errors import InputError, RunError
from system.files import read_json, write_json
from tests.conftest import write_fold

ENVIRONMENT = {"command": ["train.py"], "git_commit": "abc", "folder": "/there"}
BESIDE_FOLDS = {"config.yaml", "environment.json", "split_certificate.json", "utterances.csv"}


@pytest.fixture
def plan(tiny):
    return make_plan(tiny())


@pytest.fixture
def folder(tmp_path: Path, plan) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    open_run_folder(folder, plan, ENVIRONMENT)
    return folder


def test_an_opened_folder_has_the_config_the_certificate_and_the_utterances(folder, plan) -> None:
    assert {path.name for path in folder.iterdir()} == {*BESIDE_FOLDS, "folds"}
    assert load_config(folder / "config.yaml") == plan.config
    assert read_json(folder / "split_certificate.json") == json.loads(json.dumps(plan.certificate))
    assert read_json(folder / "environment.json") == ENVIRONMENT
    with (folder / "utterances.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == UTTERANCE_COLUMNS
    assert [row["utterance"] for row in rows] == sorted(u.id for u in plan.utterances)
    first = min(plan.utterances, key=lambda u: u.id)
    assert rows[0] == {
        "utterance": first.id,
        "speaker": first.speaker,
        "gender": first.gender,
        "session": first.session,
        "portion": first.portion,
        "text": first.text_id or "",
        "seconds": f"{plan.recordings[first.path].seconds:.3f}",
        "path": str(first.path.relative_to(plan.config.corpus.root)),
        "audio": plan.hashes[first.path],
    }


def test_audio_outside_the_corpus_has_its_whole_path(tmp_path: Path, plan) -> None:
    corpus = plan.config.corpus.model_copy(update={"root": str(tmp_path / "elsewhere")})
    moved = replace(plan, config=plan.config.model_copy(update={"corpus": corpus}))
    open_run_folder(tmp_path, moved, ENVIRONMENT)
    first = min(plan.utterances, key=lambda u: u.id)
    assert f",{first.path},{plan.hashes[first.path]}\n" in (tmp_path / "utterances.csv").read_text()


def test_bad_audio_is_listed(tmp_path: Path, plan) -> None:
    bad = {Path("b.wav"): "is silent", Path("a.wav"): "is empty"}
    open_run_folder(tmp_path, replace(plan, bad=bad), ENVIRONMENT)
    listed = read_json(tmp_path / "bad_audio.json")
    assert list(listed.items()) == [("a.wav", "is empty"), ("b.wav", "is silent")]


def test_audio_that_was_not_read_is_listed_until_there_is_none(folder, plan) -> None:
    list_file = folder / "unread_audio.json"
    unread = Unread(("a/1.mp3", "b.wav"))
    open_run_folder(folder, replace(plan, unread=unread), ENVIRONMENT)
    assert read_json(list_file) == {"words": unread.words(), "files": ["a/1.mp3", "b.wav"]}
    assert read_unread_audio(folder) == unread.words()
    open_run_folder(folder, replace(plan, unread=unread._replace(named=False)), ENVIRONMENT)
    assert read_json(list_file)["files"] == []
    open_run_folder(folder, plan, ENVIRONMENT)
    assert not list_file.exists() and read_unread_audio(folder) == []


@pytest.mark.parametrize("text", ["{}", '{"words": "a"}', '{"words": [1]}', "[", "\x00"])
def test_a_corrupt_list_of_audio_that_was_not_read_is_named(tmp_path: Path, text) -> None:
    (tmp_path / "unread_audio.json").write_text(text)
    with pytest.raises(RunError, match=r"unread_audio\.json is missing, corrupt .* remove"):
        read_unread_audio(tmp_path)


def test_a_folder_of_other_splits_is_refused_and_not_touched(folder, plan) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    other = replace(plan, certificate={**plan.certificate, "id": "other"})
    with pytest.raises(InputError, match=f"certificate {plan.certificate['id']} there, other now"):
        open_run_folder(folder, other, {"command": []})
    assert before == {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    open_run_folder(folder, plan, ENVIRONMENT)  # resumed


def test_an_opened_folder_is_read_with_its_finished_folds(folder, plan) -> None:
    with pytest.raises(InputError, match="no finished fold yet"):
        read_run(folder)
    utterance = plan.utterances[0]
    write_fold(folder, 1, 0, [(utterance.id, utterance.speaker, "a", "b")])
    run = read_run(folder)
    assert run.certificate["id"] == plan.certificate["id"]
    assert run.config["model.fusion"] == plan.config.model.fusion
    assert run.audio_file(utterance.id) == utterance.path


@pytest.mark.parametrize("path", ["/etc/passwd", "../out.wav", "a/../../out.wav"])
def test_a_path_that_leads_out_of_the_corpus_is_refused(folder, plan, path) -> None:
    utterance = plan.utterances[0]
    write_fold(folder, 1, 0, [(utterance.id, utterance.speaker, "a", "b")])
    run = read_run(folder)
    vars(run)["about"] = {utterance.id: {"path": path}}
    with pytest.raises(RunError, match=rf"utterances.csv .*'{path}' leads out of corpus.root"):
        run.audio_file(utterance.id)
    allowed = replace(run, config={**run.config, "corpus.absolute_paths": True})
    vars(allowed)["about"] = run.about
    assert allowed.audio_file(utterance.id) == Path(plan.config.corpus.root) / path


def test_a_relative_corpus_starts_where_the_run_was_started(folder, monkeypatch, plan) -> None:
    utterance = plan.utterances[0]
    fold = write_fold(folder, 1, 0, [(utterance.id, utterance.speaker, "a", "b")])
    there = Path(plan.config.corpus.root).parent
    (fold / "environment.json").write_text(json.dumps({**ENVIRONMENT, "folder": str(there)}))
    run = read_run(folder)
    config = {**run.config, "corpus.root": Path(plan.config.corpus.root).name}
    assert replace(run, config=config).audio_file(utterance.id) == utterance.path
    monkeypatch.chdir(there)
    found = replace(run, config=config).audio_file(utterance.id)
    assert not found.is_absolute() and found.resolve() == utterance.path.resolve()


@pytest.mark.parametrize("override", ["run.workers=3", "corpus.root=elsewhere"])
def test_where_and_how_much_to_run_may_differ(folder, tiny, override: str) -> None:
    check_run_folder(folder, tiny(override), overwrite=False)


def test_runs_that_give_branches_may_move_with_run_root(tmp_path, tiny, plan) -> None:
    def config(root: Path | str, origin: Path | str):
        both = (f"model.cqt_from={origin}/cqt", f"model.mel_from={origin}/mel")
        return tiny(*both, f"run.root={root}")

    folder = tmp_path / "run"
    folder.mkdir()
    open_run_folder(folder, replace(plan, config=config(tmp_path, tmp_path)), ENVIRONMENT)
    relative = os.path.relpath(tmp_path)
    for root in (tmp_path, relative, f"{tmp_path}/x/..", "/mnt/elsewhere"):
        check_run_folder(folder, config(root, root), overwrite=False)
    for root, origin in ((tmp_path, "/mnt/elsewhere"), (tmp_path, tmp_path / "others")):
        with pytest.raises(
            InputError, match=f"  model.cqt_from: .*/cqt' there, '{origin}/cqt' now"
        ):
            check_run_folder(folder, config(root, origin), overwrite=False)
    with pytest.raises(InputError, match="  model.cqt_from: .* there, None now"):
        check_run_folder(folder, tiny(), overwrite=False)
    seeded = config(tmp_path, tmp_path)
    seeded = seeded.model_copy(update={"model": seeded.model.model_copy(update={"from_seed": 1})})
    with pytest.raises(InputError, match="  model.from_seed: None there, 1 now"):
        check_run_folder(folder, seeded, overwrite=False)


def test_another_config_may_only_overwrite(folder, tiny) -> None:
    with pytest.raises(InputError, match="(?s)another config:\n  optim.lr: 0.001 there, 0.5 now"):
        check_run_folder(folder, tiny("optim.lr=0.5"), overwrite=False)
    check_run_folder(folder, tiny("optim.lr=0.5"), overwrite=True)
    (folder / "config.yaml").write_text("name: [")
    with pytest.raises(InputError, match="of another version: give --overwrite to start anew"):
        check_run_folder(folder, tiny(), overwrite=False)


def test_a_config_that_an_earlier_version_stored_is_read(folder, tiny) -> None:
    file = folder / "config.yaml"
    text = file.read_text()
    assert text.count("  images: ") == 1
    file.write_text(text.replace("  images: ", "  pictures: "))
    check_run_folder(folder, tiny(), overwrite=False)
    write_fold(folder, 1, 0, [("u", "s", "a", "b")])
    assert read_run(folder).config["train.images"] == "stored"
    with pytest.raises(InputError, match="  train.images: 'stored' there, 'computed' now"):
        check_run_folder(folder, tiny("train.images=computed"), overwrite=False)
    with pytest.raises(InputError, match="train.pictures .*no such key"):
        load_config(file)


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("letter.txt", "it has no config.yaml"),
        ("study.json", "it holds study.json"),
        ("lr_range.json", "it holds lr_range.json"),
    ],
)
def test_a_folder_that_is_not_a_run_is_refused(tmp_path, tiny, name, reason, overwrite) -> None:
    for file in {name, "config.yaml"} - ({"config.yaml"} if name == "letter.txt" else set()):
        (tmp_path / file).write_text("x")
    with pytest.raises(InputError, match=f"is not a run folder .{reason}.: change name or run.ro"):
        check_run_folder(tmp_path, tiny(), overwrite)


@pytest.mark.parametrize("names", [[], ["ledger.jsonl"], [".lock", ".folds.removed"]])
def test_what_a_removed_run_leaves_does_not_matter(tmp_path, tiny, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).write_text("x")
    check_run_folder(tmp_path, tiny(), overwrite=False)


def test_removing_keeps_the_ledger_and_the_locks(folder) -> None:
    write_fold(folder, 1, 0, [("u", "s", "a", "b")])
    (folder / ".lock").touch()
    ledger = (folder / "ledger.jsonl").read_bytes()
    remove_run(folder)
    assert {path.name for path in folder.iterdir()} == {"ledger.jsonl", ".lock"}
    assert (folder / "ledger.jsonl").read_bytes() == ledger


@pytest.mark.parametrize(
    "facts",
    [{"text_in_train_and_test": value} for value in ([], "", True, 10**30, {"texts": "2"})],
)
def test_a_certificate_whose_counts_have_another_type_is_refused(folder, facts) -> None:
    write_fold(folder, 1, 0, [("c1", "s", "a", "a")])
    certificate = read_json(folder / "split_certificate.json")
    certificate["folds"][0] |= facts
    write_json(folder / "split_certificate.json", certificate)
    with pytest.raises(RunError, match="split_certificate.json is .*corrupt"):
        read_run(folder)


@pytest.mark.parametrize("corpus", [[], {"name": 1, "synthetic": False}, {"name": "x"}])
def test_a_certificate_whose_corpus_has_another_type_is_refused(folder, corpus) -> None:
    write_fold(folder, 1, 0, [("c1", "s", "a", "a")])
    certificate = read_json(folder / "split_certificate.json") | {"corpus": corpus}
    write_json(folder / "split_certificate.json", certificate)
    with pytest.raises(RunError, match="split_certificate.json is .*corrupt"):
        read_run(folder)


def test_a_folder_is_not_named_in_its_own_place(tmp_path: Path) -> None:
    """config.yaml may be a pipe: the folder has one, but is not a run."""
    (tmp_path / "run").mkdir()
    os.mkfifo(tmp_path / "run/config.yaml")
    with pytest.raises(InputError) as raised:
        read_run(tmp_path / "run")
    assert "did you mean" not in str(raised.value)


@pytest.mark.parametrize("given", ["rnus/tiny", "runs/tini", "tiny"])
def test_a_run_that_may_be_meant_is_named(tmp_path: Path, monkeypatch, given: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/tiny").mkdir(parents=True)
    (tmp_path / "runs/tiny/config.yaml").touch()
    with pytest.raises(InputError, match=f"{given} is not a run folder .*did you mean runs/tiny"):
        read_run(Path(given))


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("runs/tini/folds/fold-1_seed-0", "did you mean runs/tiny/folds/fold-1_seed-0"),
        ("runs/tiny/folds/fold-1_seed-9", "did you mean runs/tiny/folds/fold-1_seed-0"),
        ("rnus/tiny/folds/x", ""),
        ("runs/tini", "mean runs/tiny. Folds in it: runs/tiny/folds/fold-1_seed-0"),
        ("tiny", "mean runs/tiny. Folds in it: runs/tiny/folds/fold-1_seed-0"),
        ("runs/tiny", "folds in it: runs/tiny/folds/fold-1_seed-0"),
        ("runs/tiny2", "it is a run without a finished fold yet$"),
    ],
)
def test_a_fold_that_may_be_meant_is_named(
    tmp_path: Path, monkeypatch, given: str, meant: str
) -> None:
    monkeypatch.chdir(tmp_path)
    fold = tmp_path / "runs/tiny/folds/fold-1_seed-0"
    fold.mkdir(parents=True)
    (fold / "model.json").touch()
    (tmp_path / "runs/tiny/config.yaml").touch()
    (tmp_path / "runs/tiny2").mkdir()
    (tmp_path / "runs/tiny2/config.yaml").touch()
    with pytest.raises(InputError, match=f"{given} is not a finished fold .*{meant}"):
        check_is_fold(Path(given))


def test_a_folder_below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="file/run is not a run folder"):
        read_run(tmp_path / "file/run")
