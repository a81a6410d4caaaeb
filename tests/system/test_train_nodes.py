"""scripts/train_nodes.sh under a stand-in for srun that makes two nodes of this machine."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from system.files import read_json
from tests.support.paths import ROOT

SCRIPT = ROOT / "scripts/train_nodes.sh"
SRUN = """
import os, signal, subprocess, sys
words = sys.argv[1:]
while words[0].startswith("--"):
    words.pop(0)
nodes = [subprocess.Popen(words, env=os.environ | {"SLURM_NODEID": str(k)}) for k in range(2)]
def hand_on(number, frame):
    for node in nodes:
        node.send_signal(number)
for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
    signal.signal(number, hand_on)
sys.exit(max(abs(node.wait()) for node in nodes))
"""
SCONTROL = """
import os, sys
if sys.argv[1:3] == ["show", "hostnames"]:
    assert sys.argv[3] == "localhost[1-2]"
    print("localhost", "localhost2", sep="\\n")
else:
    open(os.path.dirname(__file__) + "/requeued", "a").write(" ".join(sys.argv[1:]))
"""


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    folder = tmp_path / "tools"
    folder.mkdir()
    for name, code in (("srun", SRUN), ("scontrol", SCONTROL)):
        (folder / name).write_text(f"#!{sys.executable}\n{code}")
        (folder / name).chmod(0o755)
    return folder


def environment(tools: Path) -> dict[str, str]:
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    slurm = {"SLURM_JOB_ID": "42", "SLURM_JOB_NODELIST": "localhost[1-2]"}
    slurm |= {"SLURM_JOB_NUM_NODES": "2", "SLURM_SUBMIT_DIR": str(ROOT)}
    mine = {"PYTHON": sys.executable, "MASTER_PORT": str(port), "PROCESSES": "1"}
    return os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"} | slurm | mine


def command_of(recipe: Path, root: Path, epochs: int) -> list[str]:
    command = [str(SCRIPT), "train_gmu.py", "--config", str(recipe), f"run.root={root}"]
    command += [f"train.epochs={epochs}", "train.batch_size=5", "protocol.split=speaker-k-fold"]
    return command


def train(command: list[str], tools: Path, fold: Path) -> None:
    """Train to the end, on two processes."""
    slurm = environment(tools)
    done = subprocess.run(command, env=slurm, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    made_with = read_json(fold / "metrics.json")["made_with"]
    assert made_with and {one["processes"] for one in made_with} == {2}
    assert done.stdout.count("Everything is in") == 1  # one process speaks for all


def test_two_nodes_train_one_run(tools, recipe, tmp_path) -> None:
    fold = tmp_path / "tiny/folds/fold-1_seed-0"
    train(command_of(recipe, tmp_path, epochs=1), tools, fold)
    assert not (tools / "requeued").exists()


@pytest.mark.slow
def test_usr1_saves_on_two_nodes_and_requeues(tools, recipe, tmp_path) -> None:
    fold, log = tmp_path / "tiny/folds/fold-1_seed-0", tmp_path / "log"
    command = command_of(recipe, tmp_path, epochs=3)
    with log.open("w") as file:
        job = subprocess.Popen(command, stdout=file, stderr=file, env=environment(tools))
        end = time.monotonic() + 400
        while not (fold / "history.csv").exists():
            assert job.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        job.send_signal(signal.SIGUSR1)  # as Slurm does: to the batch shell alone
        assert job.wait(200) == 0, log.read_text()
    assert (tools / "requeued").read_text() == "requeue 42"
    assert "SIGTERM: saving, then stopping" in log.read_text()
    assert list((fold / "state").glob("*.safetensors")) and not (fold / "metrics.json").exists()
    train(command, tools, fold)
    assert len((fold / "history.csv").read_text().splitlines()) == 4
    assert (tools / "requeued").read_text() == "requeue 42"


def test_a_failure_is_the_job_s_own_and_not_requeued(tools, tmp_path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$@"\nexit 3\n')
    python.chmod(0o755)
    command = [str(SCRIPT), "train.py", "--config", "a file"]
    slurm = environment(tools) | {"PYTHON": str(python), "MASTER_PORT": "", "PROCESSES": ""}
    slurm |= {"SLURM_GPUS_ON_NODE": "4"}
    done = subprocess.run(command, env=slurm, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3 and not (tools / "requeued").exists()
    words = "-m torch.distributed.run --nnodes=2 --node-rank={} --nproc-per-node=4 "
    words += "--master-addr=localhost --master-port=20042 train.py --config a file"
    assert sorted(done.stdout.splitlines()) == [words.format(0), words.format(1)]


@pytest.mark.parametrize(
    ("words", "changes", "message"),
    [
        (["--config", "x"], {}, "name the entry first"),
        (["train.py"], {"SLURM_JOB_ID": ""}, "this script runs as a job: sbatch"),
        (["train.py"], {"SLURM_SUBMIT_DIR": "/"}, "there is no train.py in /"),
    ],
)
def test_a_wrong_start_is_one_message(tools, words, changes, message) -> None:
    done = subprocess.run(
        [str(SCRIPT), *words],
        env=environment(tools) | changes,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2 and done.stderr.startswith("wrong input: ")
    assert message in done.stderr and len(done.stderr.splitlines()) == 1
