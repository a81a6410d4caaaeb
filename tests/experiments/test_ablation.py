"""The ablation runs fusions or variants x folds x seeds as jobs, goes on, and compares."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import pytest
import yaml

from experiments import jobs
from experiments.jobs import is_busy
from scripts import ablation
from storage.folders import is_finished
from storage.ledger import record_test_evaluation
from system.errors import InputError
from system.files import read_json, write_json
from system.locks import lock
from tests.conftest import RECIPE, write_card
from tests.support.paths import ROOT

FOLD = "folds/fold-1_seed-0"
STAND_IN = """
import json, os, sys
here = os.path.dirname(os.path.abspath(__file__))
entry, config = os.path.basename(sys.argv[1]), os.path.basename(sys.argv[3])
with open(here + "/calls", "a") as file:
    file.write(" ".join([entry, config, *sys.argv[4:]]) + "\\n")
name = next((w[5:] for w in sys.argv if w.startswith("name=")), config.removesuffix(".yaml"))
if name in os.environ.get("BROKEN", "").split(","):
    sys.exit("failed: %s is broken" % name if "--dry-run" not in sys.argv else 2)
if "--dry-run" not in sys.argv:
    if entry == "baseline.py":
        name = "tiny_" + config
    folds, seeds = (json.loads(word.partition("=")[2]) for word in sys.argv[-2:])
    run = here + "/runs/" + name
    for fold, seed in [(fold, seed) for fold in folds for seed in seeds]:
        folder = "%s/folds/fold-%d_seed-%d" % (run, fold, seed)
        os.makedirs(folder, exist_ok=True)
        open(folder + "/metrics.json", "w").write("{}")
    open(run + "/ledger.jsonl", "a").write("{}\\n")
    config = open(run + "/config.yaml").read()
    config = config.replace("  folds:\\n  - 1\\n  - 2", "  folds: [2]")  # as jobs do
    open(run + "/config.yaml", "w").write(config)
"""


class Said(NamedTuple):
    status: int
    err: str
    calls: list[str]


@pytest.fixture
def configs(recipe: Path, tmp_path: Path) -> Path:
    """The tiny recipe as three recipes of one name."""
    folder = tmp_path / "configs"
    folder.mkdir()
    for fusion in ("concat", "gmu", "gmu_contrastive"):
        values = {"base": str(recipe), "name": f"tiny_{fusion}", "model": {"fusion": fusion}}
        values["run"] = {"root": str(tmp_path / "runs")}
        (folder / f"tiny_{fusion}.yaml").write_text(yaml.safe_dump(values))
    shutil.copytree(ROOT / "configs/ablation", folder / "ablation")
    return folder


@pytest.fixture
def run(configs: Path, tmp_path: Path, monkeypatch, capsys) -> Callable[..., Said]:
    """Run the ablation with a stand-in for Python that writes down what it is to do."""
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    fake = tmp_path / "python"
    fake.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{tmp_path}/stand_in.py" "$@"\n')
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    monkeypatch.setattr(jobs, "TICK", 0.01)
    monkeypatch.setattr("evaluation.summary.summarize", lambda run: None)
    monkeypatch.setattr(ablation, "conclude", lambda runs, out, reference: "")

    def call(*arguments: str, baselines: bool = False) -> Said:
        if arguments and not (baselines or "--variants" in arguments):
            arguments = (*arguments, "--no-baselines")
        log = tmp_path / "calls"
        log.unlink(missing_ok=True)
        try:
            status = ablation.main(arguments, configs)
        except SystemExit as ended:
            status = ended.code
        calls = log.read_text().splitlines() if log.exists() else []
        return Said(status, capsys.readouterr().err, calls)

    return call


def grid_of(calls: list[str]) -> list[tuple[str, ...]]:
    return [(call.split()[1].removesuffix(".yaml"), *call.split()[-2:]) for call in calls]


def test_fusions_of_a_fold_run_together_and_seeds_come_last(run):
    said = run("tiny", "run.folds=[2,1]", "run.seeds=[0,3]")
    assert said.status == 0, said.err
    assert grid_of(said.calls) == [
        (f"tiny_{fusion}", f"run.folds=[{fold}]", f"run.seeds=[{seed}]")
        for seed in (0, 3)
        for fold in (2, 1)
        for fusion in ("concat", "gmu", "gmu_contrastive")
    ]
    entries = [call.split()[0] for call in said.calls[:3]]
    assert entries == ["train.py", "train_gmu.py", "train_gmu.py"]


def test_each_recipe_gets_the_keys_it_knows(run):
    gated = ["model.fusion_hidden_dim=8", "model.gate_input=features"]
    contrastive = ["loss.alpha=0.1", "loss.temperature=0.2", "loss.nt_xent=cross_modal"]
    contrastive.append("model.projection_dim=4")
    mixed = [gated[0], "optim.lr=0.1", *contrastive, "optim.lr=1e-2", gated[1]]
    said = run("tiny", *mixed)
    assert said.status == 0, said.err
    got = [call.split()[2:-2] for call in said.calls]
    assert got[0] == ["optim.lr=0.1", "optim.lr=1e-2"]
    assert got[1] == [gated[0], "optim.lr=0.1", "optim.lr=1e-2", gated[1]]
    assert got[2] == mixed


def test_fusions_can_be_left_out_and_overrides_keep_their_order(run):
    said = run("tiny", "--fusions", "gmu", "concat", "optim.lr=1", "--jobs", "1", "optim.lr=2")
    assert said.status == 0, said.err
    assert [call.split()[1] for call in said.calls] == ["tiny_gmu.yaml", "tiny_concat.yaml"]
    assert all("optim.lr=1 optim.lr=2 run" in call for call in said.calls)


def test_the_baseline_may_have_the_plain_name(run, configs: Path, monkeypatch):
    (configs / "tiny_concat.yaml").rename(configs / "tiny.yaml")
    monkeypatch.setenv("BROKEN", "tiny")
    said = run("tiny", "--dry-run")
    assert said.calls == ["train.py tiny.yaml --dry-run"]


def test_a_dry_run_runs_no_job(run, tmp_path: Path):
    said = run("tiny", "--dry-run", "--overwrite", "optim.lr=1")
    assert said.status == 0 and not (tmp_path / "runs").exists()
    assert [call.split()[1:] for call in said.calls] == [
        [f"tiny_{fusion}.yaml", "optim.lr=1", "--dry-run", "--overwrite"]
        for fusion in ("concat", "gmu", "gmu_contrastive")
    ]


def test_a_dry_run_that_stops_says_so_with_its_status(run, monkeypatch):
    monkeypatch.setenv("BROKEN", "tiny_gmu")
    said = run("tiny", "--dry-run")
    assert said.status == 2
    assert len(said.calls) == 2 and "the dry run of tiny_gmu stopped" in said.err


def test_variants_are_trained_as_runs_of_their_own(run, tmp_path: Path, monkeypatch):
    concluded = []
    monkeypatch.setattr(ablation, "conclude", lambda *words: concluded.append(words))
    wishes = ["tiny", "--variants", "fusion", "--only", "mean", "cqt_only", "optim.lr=0.1"]
    said = run(*wishes, "model.fusion_hidden_dim=8", "run.folds=[1,2]")
    assert said.status == 0, said.err
    calls = [call.split() for call in said.calls]
    entries = [("train_gmu.py", "tiny_gmu.yaml"), *[("train.py", "tiny_gmu.yaml")] * 2]
    assert [tuple(call[:2]) for call in calls] == 2 * entries
    assert [call[-2] for call in calls] == [f"run.folds=[{k}]" for k in (1, 1, 1, 2, 2, 2)]
    assert all("optim.lr=0.1" in call for call in calls)
    assert ["model.fusion_hidden_dim=8" in call for call in calls[:3]] == [True, True, False]
    runs = [tmp_path / "runs" / f"tiny_{name}" for name in ("gmu", "mean", "cqt_only")]
    assert concluded == [(runs, tmp_path / "runs" / "tiny_fusion", 0)]
    config = yaml.safe_load((runs[2] / "config.yaml").read_text())
    assert (config["name"], config["model"]["fusion"]) == ("tiny_cqt_only", "cqt_only")


@pytest.mark.parametrize("words", [["--variants", "speech", "--only", "images"], []])
def test_a_speech_model_has_its_linear_layer_beside(run, configs: Path, words: list[str]):
    for fusion in ("concat", "gmu", "gmu_contrastive"):
        file = configs / f"tiny_{fusion}.yaml"
        values = yaml.safe_load(file.read_text())
        values["model"] |= {"branches": ["cqt", "mel", "speech"], "speech": {"model": "here"}}
        file.write_text(yaml.safe_dump(values))
    tuned = ["model.speech.lora_rank=2", "model.speech.layers=[2]"]
    said = run("tiny", *words, *tuned, "run.folds=[1]", baselines=True)
    assert said.status == 0, said.err
    calls = [call.split() for call in said.calls if call.startswith("baseline.py")]
    kinds = ["majority", "svm_images", "ssl_linear"]
    assert [call[1] for call in calls] == kinds
    layers = ["model.speech.layers=[2]"]
    assert [[w for w in call if w.startswith("model.")] for call in calls] == [[], [], layers]
    said = run("tiny", *words, *tuned, "run.folds=[2]", "--no-baselines", baselines=True)
    assert said.calls and not any(call.startswith("baseline.py") for call in said.calls)


def test_what_one_ablation_finished_no_other_repeats(run):
    assert len(run("tiny", "--fusions", "gmu", "concat").calls) == 2
    said = run("tiny", "--variants", "fusion", "--only", "concat", "concat_matched")
    assert said.status == 0, said.err
    assert [call.split()[2] for call in said.calls] == ["name=tiny_concat_matched"]
    said = run("tiny", "--variants", "contrastive", "--only", "gmu", "alpha_0")
    assert [grid for grid in said.calls if "name=tiny_gmu" in grid] == []
    assert len(said.calls) == 2


def test_variants_of_another_config_are_refused_and_can_be_overwritten(run, tmp_path: Path):
    wishes = ("tiny", "--variants", "contrastive", "--only", "alpha_0")
    run(*wishes)
    said = run(*wishes, "optim.lr=0.5")
    assert (said.status, said.calls) == (2, []) and "was made with another config" in said.err
    dry = run(*wishes, "--dry-run", "--overwrite")
    assert [call.split()[-2:] for call in dry.calls] == [["--dry-run", "--overwrite"]] * 2
    said = run(*wishes, "optim.lr=0.5", "--overwrite", "--jobs", "2")
    assert said.status == 0 and len(said.calls) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "usage: scripts/ablation.sh"),
        (["no_such"], "wrong input: there are no configs 'no_such'"),
        (["tiny", "name=x"], "wrong input: name=x is set by each of the configs"),
        (["tiny", "model.fusion=gmu"], "wrong input: model.fusion=gmu is set by each"),
        (["tiny", "--jobs", "0"], "--jobs: must be 1 or more, or auto, got 0"),
        (["tiny", "--jobs", "1" * 5000], f"must be 1 or more, or auto, got {'1' * 120}..."),
        (["tiny", "--fusions", "gum"], "did you mean 'gmu'?"),
        (["tiny", "--fusions", "gmu", "gmu"], "each once"),
        (["tiny", "--fusions", "gmu", "x=1", "--fusions", "concat"], "must be given once"),
        (["tiny", "--fusions", "optim.lr=1"], "--fusions: expected at least one"),
        (["tiny", "--variants", "gates"], "invalid choice: 'gates'"),
        (["tiny", "--variants", "fusion", "--variants", "fusion"], "--variants must be given once"),
        (["tiny", "--variants", "fusion", "--fusions", "gmu"], "give one"),
        (["tiny", "--variants", "fusion", "--no-baselines"], "fusion has no baselines: drop"),
        (["tiny", "--only", "concat"], "--only names some of --variants"),
        (["tiny", "--variants", "fusion", "--only", "mean", "mean"], "each once"),
        (["tiny", "--variants", "fusion", "--only", "x=1"], "--only: expected at least one"),
        (["tiny", "--variants", "fusion", "--only", "means"], "did you mean 'mean'?"),
        (["tiny", "--variants", "fusion", "model.gate=scalar"], "is varied by the fusion variants"),
        (["tiny", "--variants", "fusion", "model={gate: scalar}"], "is varied by the fusion vari"),
        (["tiny", "--fusions", "gmu", "loss.alpha=1"], "loss.alpha=1 has no effect with"),
        (["tiny", "optim.lrr=1"], "wrong input: the configuration is wrong:\n  optim.lrr"),
        (["tiny", "model={fusion: gmu}"], "is set by each"),
        (["tiny", "corpus.root=/nowhere/at/all"], "there is no folder /nowhere/at/all"),
        (["tiny", "run.folds=[1,9]"], "9"),
    ],
)
def test_misuse_is_reported_with_status_2_before_anything_runs(run, tmp_path, arguments, words):
    said = run(*arguments)
    assert (said.status, said.calls) == (2, []) and words in said.err
    assert not (tmp_path / "runs").exists()


def test_recipes_on_different_folds_or_of_one_name_are_refused(run, configs: Path):
    file = configs / "tiny_gmu.yaml"
    values = yaml.safe_load(file.read_text())
    wrong = [("run", {**values["run"], "folds": [2]}, "differ in run.folds")]
    wrong += [("protocol", {"split": "leave-one-speaker-out"}, "differ in protocol.split")]
    wrong += [("train", {"normalize": "speaker"}, "differ in train.normalize")]
    wrong += [("name", "tiny_concat", "the same name")]
    for key, value, words in wrong:
        file.write_text(yaml.safe_dump({**values, key: value}))
        said = run("tiny")
        assert (said.status, said.calls) == (2, []) and words in said.err


def test_finished_jobs_are_not_repeated(run, caplog):
    caplog.set_level(logging.INFO, "experiments.jobs")
    assert len(run("tiny", "run.folds=[1]").calls) == 3
    said = run("tiny", "run.folds=[1,2]")
    assert [fold for _, fold, _ in grid_of(said.calls)] == ["run.folds=[2]"] * 3
    assert "6 jobs, 3 finished before, 1 at a time" in caplog.messages


def test_a_folder_of_another_config_is_refused_before_anything_runs(run, tmp_path: Path):
    run("tiny", "--fusions", "gmu_contrastive")
    said = run("tiny", "optim.lr=0.5")
    assert (said.status, said.calls) == (2, [])
    assert "tiny_gmu_contrastive was made with another config:\n  optim.lr" in said.err


def test_overwrite_starts_anew_once_and_keeps_the_ledger(run, tmp_path: Path):
    run("tiny", "run.folds=[1,2]")
    said = run("tiny", "--overwrite", "optim.lr=0.5")
    assert said.status == 0 and len(said.calls) == 3
    assert not [call for call in said.calls if "--overwrite" in call]
    gmu = tmp_path / "runs" / "tiny_gmu"
    assert [path.name for path in (gmu / "folds").iterdir()] == ["fold-1_seed-0"]
    assert len((gmu / "ledger.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("file", [f"{FOLD}/state/lock", ".lock"])
def test_overwrite_is_refused_while_a_run_is_at_work(run, tmp_path: Path, file: str):
    """Between two folds, too, when it holds the lock of no fold."""
    run("tiny")
    folder = tmp_path / "runs" / "tiny_gmu" / FOLD
    (folder / "state").mkdir(exist_ok=True)
    with lock(tmp_path / "runs" / "tiny_gmu" / file, "a test"):
        said = run("tiny", "--overwrite")
    assert (said.status, said.calls) == (1, []) and "another process is at work" in said.err
    assert (folder / "metrics.json").exists()


def test_a_failed_job_stops_no_other_and_is_listed(run, tmp_path: Path, monkeypatch):
    summed_up, concluded = [], []
    monkeypatch.setattr("evaluation.summary.summarize", lambda run: summed_up.append(run.name))

    def refuse(runs: list[Path], out: Path, reference: int | None) -> None:
        concluded.append(([run.name for run in runs], out, reference))
        raise InputError("these runs cannot stand in one table")

    monkeypatch.setattr(ablation, "conclude", refuse)
    monkeypatch.setenv("BROKEN", "tiny_gmu")
    said = run("tiny", "run.seeds=[0,1]")
    assert said.status == 1 and len(said.calls) == 6
    log = tmp_path / "runs" / "tiny_gmu" / "logs" / "fold-1_seed-1.log"
    lines = said.err[said.err.index("failed: these jobs failed") :].splitlines()
    assert lines[2] == f"  tiny_gmu fold 1 seed 1: failed: tiny_gmu is broken (in {log})"
    assert lines[3] == "there is no table: these runs cannot stand in one table"
    assert "tiny_gmu is broken" in log.read_text()
    assert summed_up == ["tiny_concat", "tiny_gmu_contrastive"]
    names = ["tiny_concat", "tiny_gmu", "tiny_gmu_contrastive"]
    assert concluded == [(names, tmp_path / "runs" / "tiny_ablation", None)]
    monkeypatch.delenv("BROKEN")
    again = run("tiny", "run.seeds=[0,1]")
    assert {call[0] for call in grid_of(again.calls)} == {"tiny_gmu"} and len(again.calls) == 2


def test_a_failed_job_ends_in_status_1_even_with_a_table(run, monkeypatch):
    monkeypatch.setenv("BROKEN", "tiny_gmu")
    said = run("tiny")
    assert (
        said.status == 1 and "failed: these jobs failed" in said.err and "no table" not in said.err
    )


def test_two_cheap_baselines_stand_beside_the_fusions_by_default(run, tmp_path, monkeypatch):
    """Each is one job after all others; it gets the overrides that have an effect on it."""
    concluded = []
    monkeypatch.setattr(ablation, "conclude", lambda runs, *words: concluded.append(runs))
    wishes = ("tiny", "--fusions", "concat", "gmu", "run.folds=[1,2]", "run.seeds=[0,3]")
    own = ("optim.lr=0.1", "features.top_db=60.0", "model.image_size=48")
    said = run(*wishes, *own, baselines=True)
    assert said.status == 0, said.err
    calls = [call.replace(", ", ",").split() for call in said.calls]
    assert [call[0] for call in calls[:8]] == ["train.py", "train_gmu.py"] * 4
    shared = ["--config", str(tmp_path / "configs/tiny_concat.yaml")]
    grid = ["run.folds=[1,2]", "run.seeds=[0,3]"]
    majority, images = calls[8:]
    assert majority == ["baseline.py", "majority", *shared, *grid, *grid]
    assert images == ["baseline.py", "svm_images", *shared, *grid, *own[1:], *grid]
    names = ["tiny_concat", "tiny_gmu", "tiny_majority", "tiny_svm_images"]
    assert [folder.name for folder in concluded[0]] == names
    stored = yaml.safe_load((tmp_path / "runs/tiny_svm_images/config.yaml").read_text())
    assert stored["model"] == {"image_size": 48} and stored["run"]["folds"] == [1, 2]
    again = run(*wishes, *own, baselines=True)
    assert (again.status, again.calls) == (0, [])
    (tmp_path / "runs/tiny_svm_images/folds/fold-2_seed-3/metrics.json").unlink()
    again = run(*wishes, *own, baselines=True)
    assert [call.split()[:2] for call in again.calls] == [["baseline.py", "svm_images"]]


def test_baselines_take_no_override_that_only_training_reads(run, configs, tmp_path):
    """A config's key may even need an override that goes to the fusions alone."""
    for path in configs.glob("*.yaml"):
        values = yaml.safe_load(path.read_text())
        values["run"]["compile_cache"] = str(tmp_path / "cache")
        path.write_text(yaml.safe_dump(values))
    own = ["train.compile=true", f"run.shards={tmp_path / 'shards'}", "run.workers=1"]
    own.append(f"run.compile_cache={tmp_path / 'graphs'}")
    said = run("tiny", "--fusions", "gmu", *own, baselines=True)
    assert said.status == 0, said.err
    fusion, majority, images = [call.split() for call in said.calls]
    assert set(own) <= set(fusion)
    for call in (majority, images):
        assert [word for word in call if word in own] == ["run.workers=1"]
        stored = yaml.safe_load((tmp_path / f"runs/tiny_{call[1]}/config.yaml").read_text())
        assert stored["run"]["shards"] is None and stored["run"]["compile_cache"] is None


def test_baselines_stand_under_the_protocol_of_the_fusions(run, tmp_path):
    """`train.normalize=speaker` reaches them, and their stored configs keep it."""
    said = run("tiny", "--fusions", "gmu", "train.normalize=speaker", baselines=True)
    assert said.status == 0, said.err
    assert all("train.normalize=speaker" in call.split() for call in said.calls)
    for kind in ("majority", "svm_images"):
        stored = yaml.safe_load((tmp_path / f"runs/tiny_{kind}/config.yaml").read_text())
        assert stored["train"] == {"normalize": "speaker"}


def test_the_run_folder_has_the_config_of_all_folds(run, tmp_path: Path):
    run("tiny", "run.folds=[1,2]")
    config = yaml.safe_load((tmp_path / "runs" / "tiny_gmu" / "config.yaml").read_text())
    assert config["run"]["folds"] == [1, 2] and config["name"] == "tiny_gmu"


def test_the_script_hands_everything_to_the_planner(tmp_path: Path):
    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\npwd\nprintf "%s\\n" "$@"\nexit 7\n')
    fake.chmod(0o755)
    command = ["bash", str(ROOT / "scripts/ablation.sh"), "demo", "a b", "--jobs", "2"]
    environment = {**os.environ, "PYTHON": str(fake)}
    said = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert said.returncode == 7
    assert said.stdout.splitlines() == [
        str(ROOT),
        "-m",
        "scripts.ablation",
        "demo",
        "a b",
        "--jobs",
        "2",
    ]


def wait_until(ready: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_killed_and_started_again_every_fold_is_trained_and_tested_once(
    configs: Path, tmp_path: Path, monkeypatch, capsys, caplog
):
    """SIGTERM ends the job too; SIGKILL leaves it behind, and its lock keeps others away."""
    monkeypatch.setattr(jobs, "BUSY_TICK", 0.2)
    caplog.set_level(logging.INFO, "experiments.jobs")
    wishes, runs = ["tiny", "--fusions", "gmu", "concat"], tmp_path / "runs"
    gmu = runs / "tiny_gmu" / FOLD

    def stop_us() -> None:
        wait_until(lambda: is_busy(gmu))
        os.kill(os.getpid(), signal.SIGTERM)

    (stopper := Thread(target=stop_us)).start()
    assert ablation.main(wishes, configs) == 143
    stopper.join()
    message = capsys.readouterr().err
    assert (
        "stopped: what was done is saved" in message and "ablation.sh tiny --fusions gmu" in message
    )
    assert not is_busy(gmu) and not (gmu / "metrics.json").exists()

    planner = get_context("fork").Process(target=ablation.main, args=(wishes, configs))
    planner.start()
    wait_until(lambda: is_busy(gmu) or not planner.is_alive())
    planner.kill()
    planner.join()
    assert planner.exitcode == -signal.SIGKILL
    assert ablation.main([*wishes, "--jobs", "2"], configs) == 0
    said = capsys.readouterr()
    assert "[4/4]" in caplog.messages[-1]
    for name in ("tiny_gmu", "tiny_concat", "tiny_majority", "tiny_svm_images"):
        assert len((runs / name / "ledger.jsonl").read_text().splitlines()) == 1
        assert read_json(runs / name / "summary.json")["folds"] == [1]
        assert f"| {name} |" in said.out
    tables = (runs / "tiny_ablation" / "comparison.md").read_text()
    assert tables.splitlines()[2] in said.out and "tiny_ablation/report.html" in said.out
    assert "tiny_gmu" in (runs / "tiny_ablation" / "report.html").read_text()

    assert ablation.main(wishes, configs) == 0
    assert caplog.messages[-1] == "4 jobs, 4 finished before, 1 at a time"


def test_variants_end_in_a_table_of_each_beside_the_recipe(
    configs: Path, tmp_path: Path, capsys, caplog
):
    caplog.set_level(logging.INFO, "experiments.jobs")
    wishes = ["tiny", "--variants", "fusion", "--only", "concat_matched", "mel_only", "--jobs", "3"]
    assert ablation.main([*wishes, "train.epochs=1"], configs) == 0
    said = capsys.readouterr().out
    names = ("tiny_gmu", "tiny_concat_matched", "tiny_mel_only")
    folder = tmp_path / "runs" / "tiny_fusion"
    tables = (folder / "comparison.md").read_text()
    assert all(f"| {name} |" in tables and f"| {name} |" in said for name in names)
    assert "Paired tests on the same utterances, each run with `tiny_gmu`: " in tables
    assert "Holm-corrected for 2 comparisons" in tables
    rows = [line.split("|")[1:3] for line in tables.splitlines() if " − " in line]
    matched = "model.fusion: concat / gmu, model.match_parameters: true / –"
    ones = [[" tiny_concat_matched − tiny_gmu ", f" {matched} "]]
    alone = "model.fusion: mel_only / gmu, model.cqt_backbone: – / test_maxvit"
    ones += [[" tiny_mel_only − tiny_gmu ", f" {alone} "]]
    assert rows[1:] == 2 * ones  # UA and WA; the first is the head
    assert "tiny_mel_only" in (folder / "report.html").read_text()
    assert read_json(folder / "comparison.json")["reference"] == "tiny_gmu"
    assert ablation.main([*wishes, "train.epochs=1"], configs) == 0
    assert caplog.messages[-1] == "3 jobs, 3 finished before, 3 at a time"


FUSED = ("concat", "gmu", "gmu_contrastive")
ARMS = (*FUSED, "cqt_only", "mel_only")
LOSO = ("protocol.split=leave-one-speaker-out", "run.folds=null")


def test_branches_are_trained_once_a_fold_and_heads_with_all_seeds(run, tmp_path, monkeypatch):
    """What a config or the command line says of images and backbones goes to the branches alone."""
    concluded = []
    monkeypatch.setattr(ablation, "conclude", lambda *words: concluded.append(words))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    wishes = ["tiny", "--frozen", "run.folds=[1,2]", "run.seeds=[3,0,5]", "augment.mixup=0.2"]
    wishes += ["optim.optimizer.cqt=sgd", "optim.lr=0.1", "loss.alpha=0.1"]
    said = run(*wishes, "--heads", "train.epochs=9", "model.dropout=0.4")
    assert said.status == 0, said.err
    calls = [call.split() for call in said.calls]
    branches, heads = calls[:4], calls[4:]
    assert grid_of(said.calls[:4]) == [
        ("tiny_gmu", f"run.folds=[{fold}]", "run.seeds=[3]") for fold in (1, 1, 2, 2)
    ]
    assert [call[2] for call in branches] == ["name=tiny_cqt_only", "name=tiny_mel_only"] * 2
    assert all({"augment.mixup=0.2", "optim.lr=0.1"} <= set(call) for call in branches)
    assert ["optim.optimizer.cqt=sgd" in call for call in branches] == [True, False] * 2
    assert not any("train.epochs=9" in call for call in branches)
    entries = ["train.py", "train_gmu.py", "train_gmu.py", "train.py", "train.py"]
    assert [call[0] for call in heads] == entries
    files = ["tiny_concat", "tiny_gmu", "tiny_gmu_contrastive", "tiny_gmu", "tiny_gmu"]
    assert [call[1].removesuffix(".yaml") for call in heads] == files
    for call, arm in zip(heads, ARMS, strict=True):
        words = {f"name=tiny_{arm}_frozen", "train.features=frozen", "model.from_seed=3"}
        assert words | {"train.epochs=9", "model.dropout=0.4", "optim.lr=0.1"} <= set(call)
        assert call[-2:] == ["run.folds=[1,2]", "run.seeds=[3,0,5]"]
        froms = {word.split("=")[0] for word in call if "_from=" in word}
        branch = arm.removesuffix("_only")
        assert froms == {f"model.{b}_from" for b in ("cqt", "mel") if branch in (b, *FUSED)}
        assert not any("mixup" in word or "optimizer.cqt=sgd" in word for word in call)
        assert ("loss.alpha=0.1" in call) == (arm == "gmu_contrastive")
    runs = [tmp_path / "runs" / f"tiny_{arm}_frozen" for arm in ARMS]
    assert concluded == [(runs, tmp_path / "runs/tiny_frozen", None)]
    stored = yaml.safe_load((runs[1] / "config.yaml").read_text())
    assert stored["train"]["features"] == "frozen" and stored["run"]["seeds"] == [3, 0, 5]
    assert (run(*wishes, "--heads", "train.epochs=9", "model.dropout=0.4")).calls == []


def test_heads_set_back_what_a_config_says_of_images_and_backbones(run, configs: Path):
    for path in configs.glob("*.yaml"):
        values = yaml.safe_load(path.read_text())
        values |= {
            "augment": {"time_mask": 0.2, "snr_db": [0, 20]},
            "model": {**values["model"], "drop_path_rate": 0.1, "mel_weights": "w.safetensors"},
        }
        values |= {"optim": {"optimizer": {"cqt": "sgd", "mel": "sgd"}, "backbone_lr_scale": 0.1}}
        values |= {"train": {"gradient_checkpointing": True, "images": "computed"}}
        path.write_text(yaml.safe_dump(values))
    said = run("tiny", "--frozen", "--fusions", "gmu", "mel_only", "--branch-seeds", "same")
    assert said.status == 0, said.err
    idle = {"augment.time_mask=0.0", "model.drop_path_rate=0.0", "optim.backbone_lr_scale=1.0"}
    idle |= {"train.gradient_checkpointing=false", "train.images=stored"}
    idle |= {"optim.optimizer.cqt=null", "optim.optimizer.mel=null", "model.from_seed=null"}
    idle |= {"augment.snr_db=null", "model.mel_weights=null"}
    *branches, gmu, mel = [set(call.split()) for call in said.calls]
    assert len(branches) == 2
    assert not any({"train.images=stored", "augment.time_mask=0.0"} & call for call in branches)
    assert idle <= gmu and idle <= mel


def test_leave_one_speaker_out_is_shared_by_as_many_jobs_as_asked_for(run, tmp_path):
    said = run("tiny", "--frozen", "--jobs", "3", *LOSO, "run.seeds=[0,1]")
    assert said.status == 0, said.err
    heads = said.calls[2 * 10 :]
    assert sorted(call.split()[-2] for call in heads) == sorted(
        5 * ["run.folds=[1,2,3]", "run.folds=[4,5,6]", "run.folds=[7,8,9,10]"]
    )
    assert {call.split()[-1] for call in heads} == {"run.seeds=[0,1]"}
    assert (tmp_path / "runs/tiny_gmu_frozen/logs/folds-4-6.log").exists()


def test_folds_without_a_branch_are_left_out_and_named(run, monkeypatch):
    monkeypatch.setenv("BROKEN", "tiny_mel_only")
    said = run("tiny", "--frozen", "run.folds=[1,2]")
    assert said.status == 1 and "tiny_mel_only fold 2 seed 0: failed" in said.err
    assert len(said.calls) == 4  # no head
    monkeypatch.delenv("BROKEN")
    again = run("tiny", "--frozen", "run.folds=[1,2]")
    assert again.status == 0
    names = [next(w for w in call.split() if w.startswith("name=")) for call in again.calls]
    assert names[:2] == ["name=tiny_mel_only"] * 2
    assert names[2:] == [f"name=tiny_{arm}_frozen" for arm in ARMS]


def test_heads_on_branches_that_were_trained_again_since_are_refused(run, tmp_path):
    wishes = ("tiny", "--frozen", "--fusions", "mel_only", "run.folds=[1,2]")
    assert run(*wishes).status == 0
    head = tmp_path / "runs/tiny_mel_only_frozen" / FOLD
    features = {**RECIPE["features"], "image_size": 32}
    write_card(head, ["a", "b"], features)
    start = {"run": "tiny_mel_only", "fold": 1, "seed": 0, "weights": "a" * 64}
    write_json(
        head / "model.json", read_json(head / "model.json") | {"started_from": {"mel": start}}
    )
    ledger = tmp_path / "runs/tiny_mel_only/ledger.jsonl"
    for weights, status in (("a", 0), ("b", 2)):
        card = {"protocol": "p", "certificate": "x", "fold": 1, "seed": 0, "test_clips": "clips"}
        record_test_evaluation(ledger.parent, card, 1, None, "test", "because")
        line = ledger.read_text().replace('"weights": null', f'"weights": "{weights * 64}"')
        ledger.write_text(line)
        said = run(*wishes)
        assert (said.status, said.calls) == (status, []), said.err
    assert "fold-1_seed-0 of" in said.err and "Give --overwrite to start this run anew" in said.err
    assert len(run(*wishes, "--overwrite").calls) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--variants", "fusion"], "--frozen and --variants are two different ablations"),
        (["--fusions", "cross_attention"], "--fusions cross_attention: "),
        (["--branch-seeds", "all"], "--branch-seeds: must be a seed, or same, got all"),
        (["--branch-seeds", "1" * 5000], f"must be a seed, or same, got {'1' * 120}..."),
        (["--heads", "corpus.root=x"], "--heads corpus.root=x: only sections model, loss, optim"),
        (["--heads", "optim.lr"], "wrong input: an override must be section.key=value"),
        (["model.from_seed=1"], "model.from_seed=1 is set by --frozen: leave it out"),
        (["train.features=trained"], "is set by --frozen"),
        (["--fusions", "mel_only", "model.gate=scalar"], "model.gate=scalar has no effect with"),
        (["--heads", "augment.mixup=0.1"], "only sections"),
        (["--heads", "train.normalize=false"], "without model.image_size, model.cqt_backbone"),
        (["--heads", "model={image_size: 64}"], "give it before --heads, for both"),
        (["--heads", "model.mel_backbone=test_vit"], "give it before --heads, for both"),
        (["--heads", "model.pretrained=true"], "give it before --heads, for both"),
        (["--heads", "optim.backbone_lr_scale=2"], "has no effect with --frozen"),
    ],
)
def test_misuse_of_frozen_is_reported_before_anything_runs(run, tmp_path, arguments, words):
    said = run("tiny", "--frozen", *arguments)
    assert (said.status, said.calls) == (2, []) and words in said.err
    assert not (tmp_path / "runs").exists()
    other = run("tiny", "--heads", "optim.lr=1")
    assert other.status == 2 and "have an effect with --frozen alone" in other.err


def test_a_dry_run_tries_heads_once_their_branches_are_trained(run, tmp_path, capsys):
    wishes = ("tiny", "--frozen", "--fusions", "concat", "mel_only", "run.folds=[1,2]")
    said = run(*wishes, "--dry-run")
    assert said.status == 0, said.err
    assert [call.split()[2] for call in said.calls] == ["name=tiny_cqt_only", "name=tiny_mel_only"]
    run(*wishes)
    for branch in ("cqt_only", "mel_only"):
        content = {"id": "x", "protocol": "p", "speaker_dependent": False}
        folds = [{"fold": k, "test": {"recordings": "r"}} for k in (1, 2, 3)]
        write_json(
            tmp_path / f"runs/tiny_{branch}/split_certificate.json", content | {"folds": folds}
        )
    again = run(*wishes, "--dry-run")
    names = [call.split()[2].removeprefix("name=tiny_") for call in again.calls]
    assert names == ["cqt_only", "mel_only", "concat_frozen", "mel_only_frozen"]
    assert all(call.endswith("--dry-run") for call in again.calls)


def test_heads_on_kept_features_end_in_one_table_however_often_they_are_stopped(
    configs: Path, tmp_path: Path, monkeypatch, capsys, caplog
):
    """Stopped while branches are trained, and while heads are; each fold is tested once a seed."""
    monkeypatch.setattr(jobs, "BUSY_TICK", 0.2)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    caplog.set_level(logging.INFO, "experiments.jobs")
    runs, arms = tmp_path / "runs", ("gmu", "cqt_only")
    wishes = ["tiny", "--frozen", "--fusions", *arms, "run.folds=[1,2]", "run.seeds=[0,1]"]
    wishes += ["--heads", "train.epochs=30"]
    branch, head = runs / "tiny_cqt_only/folds/fold-2_seed-0", runs / "tiny_gmu_frozen" / FOLD
    for ready in (lambda: is_busy(branch), lambda: is_finished(head)):
        stopper = Thread(target=stop_when, args=(ready,))
        stopper.start()
        assert ablation.main(wishes, configs) == 143
        stopper.join()
    capsys.readouterr()
    assert ablation.main(wishes, configs) == 0
    said = capsys.readouterr()
    tables = (runs / "tiny_frozen/comparison.md").read_text()
    for arm in arms:
        folder = runs / f"tiny_{arm}_frozen"
        assert f"| tiny_{arm}_frozen | {arm} |" in tables and f"tiny_{arm}_frozen |" in said.out
        assert len((folder / "ledger.jsonl").read_text().splitlines()) == 4
        assert read_json(folder / "summary.json")["seeds"] == [0, 1]
        epochs = (folder / "folds/fold-2_seed-1/history.csv").read_text().splitlines()
        assert len(epochs) == 1 + 30
    for branch in ("cqt_only", "mel_only"):
        assert len((runs / f"tiny_{branch}/ledger.jsonl").read_text().splitlines()) == 2
    assert "tiny_majority" in tables and "tiny_svm_images" in tables
    assert (
        "one training a fold (seed 0): its chance is not counted, that of training head" in tables
    )
    assert "chance of training (not that of branches of one seed)" in tables
    assert "tiny_cqt_only_frozen" in (runs / "tiny_frozen/report.html").read_text()
    assert len(list(runs.glob("*/folds/*/metrics.json"))) == 2 * 2 + 2 * 4 + 2 * 4
    assert ablation.main(wishes, configs) == 0
    assert caplog.messages[-1] == "4 jobs, 4 finished before, 1 at a time"


def stop_when(ready: Callable[[], bool]) -> None:
    wait_until(ready)
    os.kill(os.getpid(), signal.SIGTERM)
