"""The entries: one message for a mistake, the exit status, nothing half-written."""

import errno
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch

from config.loading import load_config
from config.several import each_corpus
from corpora.recordings import FILE as RECORDINGS
from system import cli
from system.errors import InputError, RunError
from system.files import read_json
from tests.support.paths import ROOT
from training import command as entry
from training import fold as fold_module
from training.timed_input import wait_for

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


class Said(NamedTuple):
    status: int
    out: str
    err: str


@pytest.fixture
def run(recipe: Path, tmp_path: Path, monkeypatch, capsys) -> Iterator[Callable[..., Said]]:
    """Run an entry in this process, in an empty folder, as `python ENTRY ARGUMENTS` would."""
    monkeypatch.chdir(tmp_path)

    def call(entry: str, *arguments: str, config: Path = recipe) -> Said:
        argv = [entry, "--config", str(config), f"run.root={tmp_path / 'runs'}"]
        argv += [f"run.store={tmp_path / 'store'}", *arguments]
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / entry), run_name="__main__")
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return Said(ended.value.code, out, err)

    yield call
    shutil.rmtree(tmp_path / "runs", ignore_errors=True)  # weights and optimizers: some 100 MB


def leaves_nothing(folder: Path) -> bool:
    """No run, no image; the index of the audio may be kept."""
    kept = {path.name for path in (folder / "store").glob("*")}
    return not (folder / "runs").exists() and kept <= {RECORDINGS}


@pytest.mark.parametrize(
    ("entry", "fusion", "other"),
    [("train.py", "gmu", "train_gmu.py"), ("train_gmu.py", "concat", "train.py")],
)
def test_an_entry_refuses_the_fusions_of_the_other_and_names_it(
    run, tmp_path: Path, recipe: Path, entry: str, fusion: str, other: str
) -> None:
    said = run(entry, f"model.fusion={fusion}")
    assert said.status == 2 and f"python {other} --config {recipe}" in said.err
    assert leaves_nothing(tmp_path)


MISTAKES = {
    "typo": (["optim.learning_rat=1"], ["optim.learning_rat", "no such key"]),
    "typo_near": (["loss.tempreature=1"], ["did you mean 'temperature'?"]),
    "wrong_type": (["train.epochs=many"], ["train.epochs", "'many'"]),
    "no_equals_sign": (["train.epochs"], ["section.key=value"]),
    "missing_root": (["corpus.root=/nowhere/at/all"], ["corpus.root", "/nowhere/at/all"]),
    "label_set": (["corpus.labels=iemocap5"], ["iemocap5", "Allowed: iemocap4, iemocap4-exc"]),
    "counts": (["corpus.expect_published_counts=true"], ["published", "1708", "found"]),
    "fold": (["run.folds=[6]"], ["fold must be in 1..5, got 6"]),
    "image_size": (["model.image_size=100"], ["model.image_size=100", "nearest", "96"]),
    "backbone": (["model.cqt_backbone=maxvit_huge"], ["maxvit_huge", "not a timm model"]),
    "n_bins": (["features.cqt.n_bins=80"], ["features.cqt.n_bins=80", "at most"]),
    "n_mels": (["features.mel.n_mels=256"], ["n_mels=256", "raise n_fft"]),
    "weights": (["model.cqt_weights=none.safetensors"], ["model.cqt_weights", "no file"]),
    "overlap": (["protocol.split=random-utterance"], ["allow_speaker_overlap"]),
}


@pytest.mark.parametrize("dry", [False, True], ids=["run", "dry"])
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_reported_in_one_message_with_status_2(
    run, tmp_path: Path, mistake: str, dry: bool
) -> None:
    overrides, words = MISTAKES[mistake]
    said = run("train_gmu.py", *overrides, *(["--dry-run"] if dry else []))
    assert said.status == 2 and said.out == ""
    assert said.err.count("wrong input: ") == 1
    for word in words:
        assert word in said.err
    assert leaves_nothing(tmp_path)


@pytest.mark.parametrize("entry", ["train.py", "train_gmu.py", "tune.py"])
def test_a_config_without_its_option_is_told_where_it_goes(entry: str) -> None:
    command = [sys.executable, entry, "configs/demo_gmu.yaml", "train.epochs=1"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert said.returncode == 2
    assert "the config goes behind --config: --config configs/demo_gmu.yaml" in said.stderr


@pytest.mark.parametrize(
    "words",
    [
        *("train_gmu.py --dry-run", "train.py --overwrite", "train_gmu.py --confg"),
        "tune.py --space configs/spaces/gmu.yaml --trials=3",
        "tune.py --space=configs/spaces/gmu.yaml",
    ],
)
def test_so_is_a_config_behind_another_option(words: str) -> None:
    command = [sys.executable, *words.split(), "configs/demo_gmu.yaml"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert said.returncode == 2
    assert "the config goes behind --config: --config configs/demo_gmu.yaml" in said.stderr


def test_an_empty_corpus_folder_is_said_to_be_empty(run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    said = run("train_gmu.py", f"corpus.root={tmp_path / 'empty'}")
    assert said.status == 2 and "it is empty" in said.err and str(tmp_path / "empty") in said.err
    assert leaves_nothing(tmp_path)


def test_a_label_outside_the_label_set_is_named(run, tmp_path: Path, corpus_root: Path) -> None:
    own = tmp_path / "IEMOCAP"
    shutil.copytree(corpus_root, own)
    labels = own / "Session2/dialog/EmoEvaluation/Ses02F_impro01.txt"
    labels.write_text(labels.read_text().replace("\thap\t", "\tbored\t"))
    said = run("train_gmu.py", f"corpus.root={own}")
    assert said.status == 2 and "Ses02F_impro01_F001 is labelled 'bored'" in said.err
    assert leaves_nothing(tmp_path)


def test_a_missing_config_file_is_named(run, tmp_path: Path) -> None:
    said = run("train.py", config=tmp_path / "nothing.yaml")
    assert said.status == 2 and "nothing.yaml" in said.err


@pytest.mark.parametrize("full_at", [*range(8), 12])
def test_a_full_disk_is_reported_with_status_1_and_the_same_command_resumes(
    run, tmp_path: Path, monkeypatch, full_at: int
) -> None:
    """Whichever write it is that no longer fits."""
    writes = 0
    fsync = os.fsync

    def fills_up(descriptor: int) -> None:
        nonlocal writes
        writes += 1
        if writes > full_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    command = ["train_gmu.py", "train.epochs=1"]
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fills_up)
        said = run(*command)
    assert said.status == 1 and "No space left on device" in said.err
    assert said.err.count("failed: ") == 1 and not list(tmp_path.rglob("*.tmp"))
    if full_at in (0, 6):  # twice is enough: each takes a whole run
        assert run(*command).status == 0


@pytest.mark.parametrize("place", ["file/runs", "file"])
def test_a_run_root_that_cannot_be_written_is_reported_with_status_1(
    run, tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").write_text("in the way")
    said = run("train_gmu.py", f"run.root={tmp_path / place}")
    assert (
        said.status == 1 and said.err.count("failed: ") == 1 and str(tmp_path / "file") in said.err
    )
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_run_root_that_may_not_be_read_is_reported_with_status_1(
    run, tmp_path: Path, monkeypatch
) -> None:
    def denied(self: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr("training.experiment.Path.exists", denied)
    said = run("train_gmu.py")
    assert said.status == 1 and "Permission denied" in said.err and "tiny" in said.err


def test_dry_run_checks_everything_writes_nothing_and_trains_nothing(
    run, tmp_path: Path, monkeypatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a dry run trained or tested")

    monkeypatch.setattr(fold_module, "fit", refuse)
    monkeypatch.setattr(fold_module, "run_fold", refuse)
    said = run("train_gmu.py", "--dry-run", "run.folds=null")
    assert said.status == 0, said.err
    assert "40 utterances, neutral 10, happy 10, angry 10, sad 10" in said.out
    for fold in range(1, 6):
        assert re.search(rf"fold {fold} +train 24, dev 8, test 8", said.out)
    assert "2 x (1, 32, 32)" in said.out and "forward, backward" in said.out
    shares = "input .* %, step .* %, evaluation .* %, checkpoint .* %"
    assert re.search(rf"one epoch    [\d.]+ (s|min|h): {shares}\n", said.out)
    assert re.search(r"peak memory  [\d.]+ [MG]B of the process", said.out)
    assert re.search(r"about [\d.]+ (s|min|h) for 5 folds x 1 seeds", said.out)
    assert not list(tmp_path.iterdir())


def test_a_finished_run_prints_its_table_and_where_it_is(run, tmp_path: Path) -> None:
    said = run("train.py", "model.fusion=concat", "train.epochs=1")
    assert said.status == 0
    folder = tmp_path / "runs" / "tiny"
    assert (folder / "summary.md").read_text() in said.out and str(folder) in said.out
    command = read_json(folder / "environment.json")["command"]
    assert command[0].endswith("train.py") and "train.epochs=1" in command


def test_a_dry_run_says_that_too_few_folds_or_seeds_show_no_difference(run) -> None:
    two = "paired tests of two runs allow no p below"
    for overrides, words in {
        "run.folds=[1,2]": f"4 speakers in 2 folds and 1 seed, {two} 0.500, of three 1.000: more "
        "folds can show more",
        "run.folds=null": f"10 speakers in 5 folds and 1 seed, {two} 0.062, of three 0.188: more "
        "folds or run.seeds can show more",
    }.items():
        assert f"comparison   with {words}\n" in run("train_gmu.py", "--dry-run", overrides).out
    many = run("train_gmu.py", "--dry-run", "run.folds=null", "run.seeds=[0,1]").out
    assert "comparison" not in many


def test_a_dry_run_says_which_folds_are_finished(run, tmp_path: Path) -> None:
    command = ["train.py", "model.fusion=concat", "train.epochs=1"]
    assert "finished" not in run(*command, "--dry-run").out
    assert run(*command).status == 0
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()}
    kept = "skipped, --overwrite starts anew"
    assert f"finished     all: {kept}; nothing would be trained" in run(*command, "--dry-run").out
    two = run(*command, "--dry-run", "run.folds=[1,2]").out
    assert f"finished     fold-1_seed-0: {kept}\n" in two
    said = run(*command, "--dry-run", "--overwrite").out
    assert "finished     1 of 1 folds x seeds; --overwrite removes them" in said
    after = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert before == {file: file.stat().st_mtime_ns for file in after}
    other = run(*command, "--dry-run", "corpus.labels=iemocap4")
    assert other.status == 2 and "corpus.labels" in other.err


def test_a_dry_run_refuses_a_run_that_was_begun_on_other_data(run, tmp_path, corpus_root) -> None:
    own = shutil.copytree(corpus_root, tmp_path / "own")
    command = ["train.py", "model.fusion=concat", "train.epochs=1", f"corpus.root={own}"]
    assert run(*command).status == 0
    table = next(own.rglob("Ses02F_impro01.txt"))
    table.write_text(table.read_text().replace("\thap\t", "\tsad\t"))
    for dry in ([], ["--dry-run"]):
        said = run(*command, *dry)
        assert said.status == 2 and "the corpus or its splits changed since" in said.err
    assert run(*command, "--dry-run", "--overwrite").status == 0


def test_statuses_and_messages_of_every_way_to_end(capsys) -> None:
    def ends_with(error: BaseException) -> Said:
        def work() -> None:
            raise error

        return Said(cli.run_cli(work), *capsys.readouterr())

    assert ends_with(InputError("x"))[::2] == (2, "wrong input: x\n")
    assert ends_with(RunError("x"))[::2] == (1, "failed: x\n")
    assert ends_with(OSError("x"))[::2] == (1, "failed: x\n")
    way_on = "Free some, or take a machine with more\n"
    for full in (MemoryError(), torch.OutOfMemoryError("CUDA out of memory. Tried 2 GiB\nmore")):
        status, _, said = ends_with(full)
        assert status == 1 and said.startswith("failed: out of memory: ") and said.endswith(way_on)
        assert said.count("\n") == 1
    assert ends_with(KeyboardInterrupt()).status == 130
    assert ends_with(KeyboardInterrupt(signal.SIGTERM)).status == 143
    for bug in (ZeroDivisionError(), RuntimeError("x")):  # of the program: it keeps its traceback
        with pytest.raises(type(bug)):
            ends_with(bug)
    assert cli.run_cli(lambda: None) == 0


def command_in(config: Path) -> str:
    """Return the entry that a recipe's header comment names for it."""
    header = "".join(line for line in config.read_text().splitlines(True) if line.startswith("#"))
    (entry,) = set(re.findall(rf"python (\w+\.py) --config configs/{config.name}\b", header))
    return entry


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_recipe_gets_through_its_entry_up_to_the_corpus(run, tmp_path, config: Path) -> None:
    first = next(iter(each_corpus(load_config(config))))  # "" of a corpus alone
    place = f"corpus.{first}.root" if first else "corpus.root"
    said = run(command_in(config), f"{place}=/nowhere/at/all", config=config)
    assert said.status == 2 and "corpus.root: there is no folder /nowhere/at/all" in said.err
    assert leaves_nothing(tmp_path)


def test_recipes_have_names_of_their_own_and_name_the_schema() -> None:
    names = [load_config(config).name for config in CONFIGS]
    assert len(set(names)) == len(names) >= 15
    for config in CONFIGS:
        assert config.read_text().startswith("# yaml-language-server: $schema=schema.json\n")


def test_compare_prints_the_tables_and_writes_them_where_asked(
    run, tmp_path, monkeypatch, capsys
) -> None:
    run("train_gmu.py", "train.epochs=1")
    folder, out = tmp_path / "runs" / "tiny", tmp_path / "out"

    def compare(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["compare.py", *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / "compare.py"), run_name="__main__")
        return ended.value.code

    capsys.readouterr()
    assert compare(str(folder)) == 0
    table = (folder / "summary.md").read_text()
    assert table in capsys.readouterr().out and not out.exists()
    assert compare(str(folder), "--no-audio") == 2
    assert "--no-audio concerns the report: give --out, too" in capsys.readouterr().err
    assert compare(str(folder), "--breakdown", "--robustness", "--no-audio", "--out", str(out)) == 0
    names = {"comparison.md", "comparison.tex", "comparison.json", "report.html"}
    assert {path.name for path in out.iterdir()} == names
    printed, written = capsys.readouterr().out, (out / "comparison.md").read_text()
    assert written in printed and "telephone" in written and "coverage" in written
    assert "evaluated more than once: fold 1 seed 0: 12 x robustness, 1 x test." in written
    assert "data:audio" not in (out / "report.html").read_text()
    assert compare(str(tmp_path)) == 2 and "runs in it" not in capsys.readouterr().out
    assert compare(str(folder), "--out", str(folder / "summary.md")) == 2
    assert "--out names a folder" in capsys.readouterr().err
    after = (folder / "summary.md").read_text()
    assert after.startswith(table) and "12 x robustness" in after


def test_a_dry_run_reads_all_audio_and_leaves_out_what_it_may(
    run, tmp_path: Path, corpus_root: Path
) -> None:
    own = tmp_path / "IEMOCAP"
    shutil.copytree(corpus_root, own)
    clips = sorted(own.rglob("*.wav"))
    for n, clip in enumerate((clips[0], clips[-1])):
        clip.write_text(f"no audio {n}")
    (own / "Session1/extra.mp3").touch()
    said = run("train_gmu.py", f"corpus.root={own}", "--dry-run")
    assert said.status == 2 and "2 audio files cannot be used" in said.err
    said = run("train_gmu.py", f"corpus.root={own}", "corpus.on_bad_audio=skip", "--dry-run")
    assert said.status == 0 and "left out     2 bad audio files:" in said.out
    assert all(str(clip) in said.out for clip in (clips[0], clips[-1]))
    assert "1 audio files below corpus.root were not read: Session1/ (1)" in said.out


def test_peer_27_time_is_read_when_the_gpu_is_done(monkeypatch) -> None:
    waits = []
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda: waits.append(1))
    for kind, count in (("cpu", 0), ("cuda", 1)):
        wait_for(SimpleNamespace(device=torch.device(kind)))
        assert len(waits) == count


def test_on_two_processes_the_first_tells_the_command_that_starts_two(monkeypatch, capsys) -> None:
    for name, value in {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)

    def stopped() -> None:
        raise KeyboardInterrupt

    for rank, expected in (("0", "torchrun --nproc_per_node=2 train_gmu.py --config x"), ("1", "")):
        monkeypatch.setenv("RANK", rank)
        command = [*entry.launcher(), "train_gmu.py", "--config", "x"]
        assert cli.run_cli(stopped, command) == 130
        said = capsys.readouterr().err
        assert expected in said and bool(expected) == bool(said)


def test_options_are_written_out(capsys) -> None:
    """The command that goes on must not hold an --overwrite in short."""
    with pytest.raises(SystemExit) as ended:
        entry.parse_arguments(["--config", "x", "--over"], "")
    assert ended.value.code == 2 and "unrecognized arguments: --over" in capsys.readouterr().err
