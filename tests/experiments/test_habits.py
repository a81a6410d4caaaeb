"""Bad habits are measured beside trainings that they do not touch; nobody takes them for runs."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import analyze_gates
import compare
import predict
import train_gmu
import tune
from corpora.plan import without_bad_audio
from corpora.stamps import TRANSDUCTIVE
from evaluation.metrics import unweighted_accuracy
from experiments import habits
from scripts.habits import main
from storage.ledger import count_runs_before, read_ledger
from storage.run_folder import read_run
from system.errors import InputError
from system.files import read_json, write_json
from system.locks import lock
from tests.support.paths import ROOT
from training.divergence import Diverged
from training.evaluate import evaluate
from training.session import Session

EMA = ("train.ema=0.9", "train.epochs=3", "train.checkpoint_epochs=1")
RANDOM_SPLIT = (
    *("protocol.split=random-utterance", "protocol.n_folds=5"),
    "protocol.allow_speaker_overlap=true",
)
KIND_OF = {"own": (), "random": RANDOM_SPLIT}
FOLD = Path("folds/fold-1_seed-0")


def words(recipe: Path, root: Path, *overrides: str) -> list[str]:
    return ["--config", str(recipe), f"run.root={root}", *overrides]


def habits_of(recipe: Path, root: Path, *overrides: str) -> Path:
    """Train what the habits need; return the folder."""
    assert main(words(recipe, root, *overrides)) == 0
    return root / "tiny_habits"


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory) -> Path:
    """Two folds with two seeds under both protocols, three epochs with averaged weights."""
    root = tmp_path_factory.mktemp("finished")
    return habits_of(recipe, root, *EMA, "run.folds=[1,2]", "run.seeds=[0,1]")


def trainings(folder: Path, kind: str, name: str = "tiny") -> list[dict[str, Any]]:
    return [read_json(file) for file in sorted(folder.glob(f"{name}/{kind}/folds/*/epochs.json"))]


@pytest.mark.parametrize("kind", KIND_OF)
def test_the_training_is_that_of_an_ordinary_run(finished, recipe, tmp_path, kind) -> None:
    keys = (*EMA, "run.folds=[1]", "run.seeds=[0]", *KIND_OF[kind])
    assert train_gmu.main(words(recipe, tmp_path, *keys)) == 0
    run, watched = tmp_path / "tiny" / FOLD, finished / "tiny" / kind / FOLD
    assert (watched / "history.csv").read_bytes() == (run / "history.csv").read_bytes()
    metrics, found = read_json(run / "metrics.json"), read_json(watched / "epochs.json")
    assert found["best_on_dev"]["epoch"] == metrics["best_epoch"]
    assert found["test_ua"][metrics["best_epoch"] - 1] == metrics["test"]["ua"]
    assert found["dev_ua"][metrics["best_epoch"] - 1] == metrics["dev"]["ua"]
    counts = np.array(list(found["best_on_dev"]["confusions"].values()))
    assert counts.sum(0).tolist() == metrics["test"]["confusion"]
    assert found["certificate"] == metrics["certificate"]
    assert found["protocol"] == metrics["protocol"]
    # An ordinary run is told that its test has been evaluated before
    certificate = read_json(tmp_path / "tiny" / "split_certificate.json")
    (tmp_path / "tiny_habits").symlink_to(finished)
    assert count_runs_before(tmp_path / "tiny", certificate) == 1


def test_test_is_evaluated_with_the_weights_that_dev_was(recipe, tmp_path, monkeypatch) -> None:
    """The averages, which two epochs of a tiny network may not show in its predictions."""
    seen: dict[str, list[torch.Tensor]] = {"training.engine": [], "experiments.habits": []}
    for module, weights in seen.items():

        def noted(model: Any, *rest: Any, weights: list[torch.Tensor] = weights) -> Any:
            weights.append(torch.cat([w.flatten().clone() for w in model.parameters()]))
            return evaluate(model, *rest)

        monkeypatch.setattr(f"{module}.evaluate", noted)
    habits_of(recipe, tmp_path, *EMA)
    of_dev, of_test = seen.values()
    assert len(of_dev) == len(of_test) == 6
    assert all(map(torch.equal, of_dev, of_test))


def test_what_a_training_leaves_belongs_together(finished) -> None:
    for kind in KIND_OF:
        for found in trainings(finished, kind):
            assert len(found["dev_ua"]) == len(found["test_ua"]) == 3
            best = {"best_on_dev": found["dev_ua"], "best_on_test": found["test_ua"]}
            for name, scores in best.items():
                epoch = found[name]["epoch"]
                assert scores[epoch - 1] == max(scores) > max([0.0, *scores[: epoch - 1]])
                counts = np.array(list(found[name]["confusions"].values()))  # (S, K, K)
                assert unweighted_accuracy(counts.sum(0)) == found["test_ua"][epoch - 1]
            speakers = list(found["best_on_dev"]["confusions"])
            if kind == "own":  # both speakers of the session that is tested
                assert speakers == [f"Ses0{found['fold']}_F", f"Ses0{found['fold']}_M"]
    names = sorted(path.name for path in (finished / "tiny/own" / FOLD).iterdir())
    assert names == ["environment.json", "epochs.json", "history.csv", "state"]
    assert [path.name for path in (finished / "tiny/own" / FOLD / "state").iterdir()] == ["lock"]


def test_the_table_has_the_trainings_of_each_protocol_in_its_place(finished) -> None:
    found = read_json(finished / "habits.json")
    rows = {row["habit"]: row for row in found["rows"]}
    own, random = trainings(finished, "own"), trainings(finished, "random")
    assert len(own) == len(random) == 4 and found["trained"] == 8

    def mean_on_dev(part: Sequence[dict[str, Any]]) -> float:
        return float(np.mean([f["test_ua"][f["best_on_dev"]["epoch"] - 1] for f in part]))

    expected = {
        "honest": mean_on_dev(own),
        "best epoch on test": np.mean([max(f["test_ua"]) for f in own]),
        "random split": mean_on_dev(random),
        "random split and best epoch on test": np.mean([max(f["test_ua"]) for f in random]),
        "one seed, the highest": max(
            mean_on_dev([f for f in own if f["seed"] == s]) for s in (0, 1)
        ),
    }
    for habit, ua in expected.items():
        assert rows[habit]["ua"] == pytest.approx(ua), habit
    assert rows["interval over speakers"]["interval"] is not None  # four speakers
    assert "leave-one-session-out" in found["protocols"]["own"]["id"]
    assert "random-utterance" in found["protocols"]["random"]["id"]
    assert (found["folds"], found["n_folds"], found["seeds"]) == ([1, 2], 5, [0, 1])
    assert found["protocols"]["own"]["n_train"] == 24  # three sessions of two speakers
    assert "corpus.root" not in found["command"] and "run.root=path/to/" in found["command"]
    assert found["made_with"]["threads"] == ["1"] and len(found["made_with"]["commit"]) == 1
    text = (finished / "habits.md").read_text()
    assert "must not be reported" in text and "| tiny | random split | " in text


def test_the_ledger_has_a_line_for_each_training(finished) -> None:
    lines = read_ledger(finished)
    assert len(lines) == 8 and {line["kind"] for line in lines} == {"every epoch"}
    assert {line["weights"] for line in lines} == {None}
    assert all("test after every epoch" in line["why"] for line in lines)
    assert len({(line["clips"], line["seed"]) for line in lines}) == 8


def test_the_same_command_repeats_nothing(finished, recipe, monkeypatch) -> None:
    monkeypatch.setattr(habits, "_train", lambda fold: pytest.fail(f"{fold.name} again"))
    before = (finished / "habits.json").read_bytes()
    keys = (*EMA, "run.folds=[1,2]", "run.seeds=[0,1]")
    assert habits_of(recipe, finished.parent, *keys) == finished
    assert (finished / "habits.json").read_bytes() == before and len(read_ledger(finished)) == 8


def test_a_config_that_changed_is_refused_with_its_key(finished, recipe, capsys) -> None:
    assert main(words(recipe, finished.parent, *EMA, "optim.lr=0.5")) == 2
    said = capsys.readouterr().err
    assert "made with another config" in said and "optim.lr: 0.001 there, 0.5 now" in said


def test_settings_of_an_earlier_version_are_those_of_today(finished, recipe, tmp_path, capsys):
    """It had no key for the loss's gamma, and another name for what an image is made of."""
    root = Path(shutil.copytree(finished.parent, tmp_path / "runs"))
    (file,) = root.rglob("own/settings.json")
    stored = read_json(file)
    stored["train.pictures"] = stored.pop("train.images")
    del stored["loss.focal_gamma"]
    write_json(file, stored)
    keys = (*EMA, "run.folds=[1,2]", "run.seeds=[0,1]")
    assert habits_of(recipe, root, *keys).parent == root
    write_json(file, {key: value for key, value in stored.items() if key != "train.ema"})
    assert main(words(recipe, root, *keys)) == 2
    assert "train.ema: None there, " in capsys.readouterr().err
    for odd in ({"train.newer": 1}, {"train.precision": "float8"}):
        write_json(file, stored | odd)
        assert main(words(recipe, root, *keys)) == 2
        said = capsys.readouterr().err
        assert "is of another version: " in said and f"to start anew, remove {file.parent}" in said


@pytest.mark.parametrize("place", ["_test", "write_history", "stop"])
def test_a_training_that_was_stopped_ends_as_one_that_was_not(
    finished, recipe, tmp_path, monkeypatch, place
) -> None:
    """In the second epoch: before its test, behind its row but before its state, or when asked."""
    keys, calls = (*EMA, "run.folds=[1]", "run.seeds=[0]"), 0
    name = "_test" if place == "stop" else place
    real = getattr(habits, name)

    def end_at_the_second(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2 and place != "stop":
            raise KeyboardInterrupt(2)
        if calls == 2:
            os.kill(os.getpid(), 15)  # recorded; it takes effect when a state is saved
        return real(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(habits, name, end_at_the_second)
        assert main(words(recipe, tmp_path, *keys)) == (143 if place == "stop" else 130)
    fold = tmp_path / "tiny_habits/tiny/own" / FOLD
    n_rows = {"_test": 1, "write_history": 2, "stop": 2}[place]
    assert len(read_json(fold / "state/epochs.json")["rows"]) == n_rows
    assert not (fold / "epochs.json").exists()
    folder = habits_of(recipe, tmp_path, *keys)
    for kind in KIND_OF:
        for file in ("epochs.json", "history.csv"):
            there, here = (root / "tiny" / kind / FOLD / file for root in (finished, folder))
            assert there.read_bytes() == here.read_bytes()
    assert len(read_ledger(folder)) == 2


def test_the_ledger_is_told_before_anything_of_test_is_written(
    recipe, tmp_path, monkeypatch
) -> None:
    real = habits.write_json

    def die(path: Path, value: Any) -> None:
        if path.name == "epochs.json":
            raise KeyboardInterrupt(2)
        real(path, value)

    monkeypatch.setattr(habits, "write_json", die)
    assert main(words(recipe, tmp_path)) == 130
    assert len(read_ledger(tmp_path / "tiny_habits")) == 1
    assert not list(tmp_path.rglob("epochs.json"))


def test_rows_that_are_gone_are_not_made_up(recipe, tmp_path, monkeypatch, capsys) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(habits, "_result", lambda *parts: pytest.fail("not reached"))
        real = habits.write_history

        def end(folder: Path, history: Any) -> None:
            (folder / "state/epochs.json").unlink()
            real(folder, history)

        patched.setattr(habits, "write_history", end)
        with pytest.raises(pytest.fail.Exception):
            main(words(recipe, tmp_path))
    fold = tmp_path / "tiny_habits/tiny/own" / FOLD
    assert main(words(recipe, tmp_path)) == 1
    assert f"remove {fold}" in capsys.readouterr().err


def test_a_fold_that_another_process_holds_comes_last(recipe, tmp_path, monkeypatch) -> None:
    place = tmp_path / "tiny_habits/tiny/own" / FOLD / "state"
    place.mkdir(parents=True)
    trained: list[tuple[str, int]] = []
    real = habits._train
    with ExitStack() as held:
        held.enter_context(lock(place / "lock", "it"))

        def noted(fold: Any) -> None:
            trained.append((fold.config.name, fold.split.fold))
            if len(trained) == 3:
                held.close()
            real(fold)

        monkeypatch.setattr(habits, "_train", noted)
        habits_of(recipe, tmp_path, "train.epochs=1", "run.folds=[1,2]")
    assert trained == [("own", 2), ("random", 1), ("random", 2), ("own", 1)]


def test_two_processes_share_the_folds(recipe, tmp_path) -> None:
    command = [sys.executable, "-m", "scripts.habits"]
    command += words(recipe, tmp_path, "train.epochs=1", "run.folds=[1,2]")
    both = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    tables = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert tables[0] == tables[1] and "| tiny | honest | " in tables[0]
    assert len(read_ledger(tmp_path / "tiny_habits")) == 4  # none was tested by both


def test_both_protocols_may_be_those_of_speakers(recipe, tmp_path) -> None:
    folder = habits_of(recipe, tmp_path, "train.epochs=1", "train.normalize=speaker")
    protocols = read_json(folder / "habits.json")["protocols"]
    assert all(one["id"].endswith("/speaker-normalized") for one in protocols.values())
    assert (folder / "habits.md").read_text().startswith(f"**{TRANSDUCTIVE}**")


def test_two_configs_stand_in_one_table(recipe, tmp_path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(recipe.read_text().replace("name: tiny", "name: other"))
    argv = ["--config", str(other), *words(recipe, tmp_path, "train.epochs=1")]
    assert main(argv) == 0
    folder = tmp_path / "other_habits"
    rows = read_json(folder / "habits.json")["rows"]
    assert [row["config"] for row in rows if row["habit"] == "honest"] == ["other", "tiny"]
    assert rows[-1]["habit"] == "tuned on test" and rows[-1]["note"].startswith("of 2: ")
    assert all(len(trainings(folder, k, n)) == 1 for k in KIND_OF for n in ("other", "tiny"))


def test_configs_that_leave_out_other_audio_are_refused(
    recipe, tmp_path, monkeypatch, capsys
) -> None:
    def with_images(session: Session) -> Session:
        bad = {session.plan.utterances[0].audio: "is bad"}
        plan = session.plan
        if session.folder.parent.name == "tiny":
            plan = without_bad_audio(session.plan, bad)
        return replace(session, plan=plan)

    monkeypatch.setattr(Session, "with_images", with_images)
    other = tmp_path / "other.yaml"
    other.write_text(recipe.read_text().replace("name: tiny", "name: other"))
    argv = ["--config", str(other), *words(recipe, tmp_path, "corpus.on_bad_audio=skip")]
    assert main(argv) == 2
    assert "they have no test in common" in capsys.readouterr().err
    assert not (tmp_path / "other_habits").exists()


def test_predictions_that_are_nan_end_in_words(recipe, tmp_path, monkeypatch, capsys) -> None:
    def diverge(*arguments: Any) -> None:
        raise Diverged("prediction")

    monkeypatch.setattr(habits, "evaluate", diverge)
    assert main(words(recipe, tmp_path)) == 1
    assert "the prediction is NaN or infinite in float32" in capsys.readouterr().err


def test_no_command_takes_the_folder_for_a_run(finished, recipe, capsys, monkeypatch) -> None:
    of_config, fold = finished / "tiny/own", finished / "tiny/own" / FOLD
    no_run, no_model = "is not a run folder", "is not a model"
    space = str(ROOT / "configs/spaces/gmu.yaml")
    keys = ["--config", str(recipe), f"run.root={finished.parent}", f"name={finished.name}"]
    config = ["--config", str(finished / "config.yaml")]
    refused = [
        *((compare.main, [str(path)], no_run) for path in (finished, of_config, fold)),
        *((analyze_gates.main, [str(path)], no_run) for path in (finished, of_config)),
        *((predict.main, [str(path), "a.wav"], no_model) for path in (finished, fold)),
        (train, keys, no_run),
        (train, [*keys, "--overwrite"], no_run),
        (tune.main, [*config, "--space", space], str(finished / "config.yaml")),
    ]
    before = sorted(finished.rglob("*"))
    for entry, argv, said in refused:
        monkeypatch.setattr(sys, "argv", ["entry", *argv])
        assert entry() == 2, argv
        assert said in capsys.readouterr().err, argv
    assert sorted(finished.rglob("*")) == before
    with pytest.raises(InputError, match=no_run):
        read_run(of_config)


def train() -> int:
    return train_gmu.main(sys.argv[1:])


def test_the_folder_of_a_run_is_left_alone(recipe, tmp_path, capsys) -> None:
    folder = tmp_path / "tiny_habits"
    folder.mkdir()
    (folder / "config.yaml").write_text("mine")
    assert main(words(recipe, tmp_path)) == 2
    assert f"{folder} is a run, study or range test" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--config", "{recipe}"], "each --config needs a name of its own, got tiny, tiny"),
        (["--config", "{other}"], "run.device is cpu in tiny and auto in other"),
        (list(RANDOM_SPLIT), "protocol.allow_speaker_overlap=true is one of the habits"),
        (["--config", "{by_speaker}"], "train.normalize=speaker is a protocol of its own"),
        (["run.shards=nowhere"], "run.shards are of one protocol"),
        (["model.cqt_from=nowhere"], "model.cqt_from=nowhere is of one protocol"),
        (["optim.lrr=1"], "optim.lrr"),
    ],
)
def test_what_makes_no_table_is_refused(recipe, tmp_path, capsys, more, named) -> None:
    other = tmp_path / "other.yaml"
    text = recipe.read_text().replace("name: tiny", "name: other")
    other.write_text(text.replace("device: cpu", "device: auto"))
    by_speaker = tmp_path / "by_speaker.yaml"
    by_speaker.write_text(text.replace("train:", "train:\n  normalize: speaker"))
    argv = [word.format(recipe=recipe, other=other, by_speaker=by_speaker) for word in more]
    assert main([*words(recipe, tmp_path / "runs"), *argv]) == 2
    assert named in capsys.readouterr().err and not (tmp_path / "runs").exists()


def test_several_processes_of_one_training_are_refused(
    recipe, tmp_path, capsys, monkeypatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(words(recipe, tmp_path)) == 2
    assert "a training here is one process" in capsys.readouterr().err


def test_a_protocol_of_one_fold_is_refused(recipe, corpus_root, tmp_path, capsys) -> None:
    parts = {"Session1": "test", "Session2": "dev"}
    rows = ["path,label,speaker,split"]
    for i, path in enumerate(sorted(corpus_root.rglob("*.wav"))):
        session = path.relative_to(corpus_root).parts[0]
        rows.append(
            f"{path.relative_to(corpus_root)},{'ab'[i % 2]},{path.stem[:6]},"
            f"{parts.get(session, 'train')}"
        )
    (tmp_path / "list.csv").write_text("\n".join(rows) + "\n")
    keys = ["corpus.name=manifest", f"corpus.manifest={tmp_path / 'list.csv'}", "corpus.labels=all"]
    keys += ["corpus.expect_published_counts=null", "protocol.split=given"]
    assert main(words(recipe, tmp_path, *keys)) == 2
    assert "protocol.split=given has 1 folds here" in capsys.readouterr().err
