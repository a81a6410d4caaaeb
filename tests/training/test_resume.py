"""A run that was killed anywhere goes on to the very bytes of one that was never killed."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from storage.run_folder import read_run
from system.files import read_json
from system.signals import Stop
from tests.support import kills

FOLD = "folds/fold-1_seed-0"
RESULTS = ("model.safetensors", "model.json", "predictions.csv", "metrics.json", "history.csv")
HARD = [  # chance, accumulation, states between steps; small, since many states are written
    "model.mel_backbone=test_vit",
    "train.epochs=2",
    "train.batch_size=4",
    "train.accumulate=2",
    "train.checkpoint_epochs=1",
    "train.checkpoint_minutes=1e-9",
    "model.dropout=0.5",
    "augment.time_mask=0.3",
    "augment.time_shift=0.2",
    "augment.freq_shift=0.2",
    "augment.mixup=0.4",
]
WAVEFORMS = ["train.images=computed", "augment.speed=0.1", "augment.snr_db=[10,30]"]
SCHEDULES = {
    "concat": ["optim.schedule=plateau", "optim.plateau_patience=0", "train.sampling=balanced"],
    "gmu": ["optim.schedule=cosine", "optim.warmup_epochs=0.5", "train.ema=0.9", *WAVEFORMS],
    "gmu_contrastive": ["train.clip_grad_norm=1.0", "loss.temperature_range=[0.01,1.0]"],
}


class Run:
    """One run of the tiny corpus with a store of its own, started as often as it takes."""

    def __init__(self, recipe: Path, folder: Path, fusion: str, *overrides: str) -> None:
        entry = "train.py" if fusion == "concat" else "train_gmu.py"
        wishes = [f"run.root={folder}", f"run.store={folder / 'features'}", "name=run"]
        wishes += [f"model.fusion={fusion}", *HARD, *SCHEDULES[fusion], *overrides]
        self.argv = [entry, "--config", str(recipe), *wishes]
        self.folder, self.log = folder / "run", folder / "log"
        folder.mkdir(parents=True, exist_ok=True)

    def until(
        self, place: str = "", n: int = 1, number: int = signal.SIGKILL, seconds: float = 120
    ) -> int | None:
        """Run until a place, or to the end; return the exit status."""
        process = kills.start(self.argv, self.log, place, n, number)
        process.join(seconds)
        assert process.exitcode is not None, "it hangs"
        return process.exitcode

    def results(self) -> dict[str, bytes]:
        return {name: (self.folder / FOLD / name).read_bytes() for name in RESULTS}


@pytest.fixture(scope="module")
def undisturbed(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict]:
    """Return the results of a fusion that ran to its end at once."""
    done: dict[str, dict[str, bytes]] = {}

    def results(fusion: str) -> dict[str, bytes]:
        if fusion not in done:
            run = Run(recipe, tmp_path_factory.mktemp(fusion), fusion)
            assert run.until() == 0, run.log.read_text()
            done[fusion] = run.results()
            shutil.rmtree(run.folder)
        return done[fusion]

    return results


def check(run: Run, expected: dict[str, bytes]) -> None:
    """Finish a run that was killed, and compare."""
    assert run.until() == 0, run.log.read_text()
    found = run.results()
    for name in RESULTS:
        assert found[name] == expected[name], name
    assert read_json(run.folder / "summary.json")["folds"] == [1]
    left = [path.name for path in run.folder.rglob("*") if path.suffix in (".tmp", ".removed")]
    assert not left
    assert [path.name for path in (run.folder / FOLD / "state").iterdir()] == ["lock"]
    assert read_run(run.folder).folds[0].test.probs.shape == (8, 4)
    shutil.rmtree(run.folder)


# each place is reached in turn: a run that is killed there is started again for the next
CHAINS = {
    "concat": [
        ("indexing a recording", 5),
        ("writing images", 1),
        ("after writing images", 1),
        ("a training step", 2),
        ("writing a checkpoint", 3),
        ("after writing best weights", 1),
        ("writing TensorBoard", 1),
        ("a backward pass", 2),
        ("the test pass", 1),
        ("writing metrics", 1),
    ],
    "gmu": [
        ("computing images", 20),
        ("writing the store's index", 2),
        ("after a training step", 1),
        ("renaming a file", 9),
        ("after writing a checkpoint", 2),
        ("evaluating", 1),
        ("writing the history", 1),
        ("after writing predictions", 1),
        ("removing checkpoints", 1),
        ("summing up", 1),
    ],
    "gmu_contrastive": [
        ("after writing the store's index", 1),
        ("a backward pass", 3),
        ("after writing a checkpoint", 1),
        ("writing best weights", 1),
        ("after writing TensorBoard", 1),
        ("after a training step", 2),
        ("summing up an evaluation", 1),
        ("writing the ledger", 1),
        ("after writing metrics", 1),
        ("writing the summary", 1),
    ],
}


@pytest.mark.promise("resume")
@pytest.mark.parametrize(
    "fusion",
    ["gmu", *(pytest.param(one, marks=pytest.mark.slow) for one in CHAINS if one != "gmu")],
)
def test_peer_24_a_run_killed_at_every_turn_ends_in_the_same_bytes(
    recipe: Path, tmp_path: Path, undisturbed, count, fusion: str
) -> None:
    run = Run(recipe, tmp_path, fusion)
    for place, n in CHAINS[fusion]:
        assert run.until(place, n) == -signal.SIGKILL, f"{place}: {run.log.read_text()}"
        count("kills survived")
    check(run, undisturbed(fusion))


def torchrun(run: Run, log: Path) -> subprocess.Popen:
    """Start the run on two processes of one machine, in a session of their own."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [str(kills.ROOT / run.argv[0]), *run.argv[1:]]
    with log.open("a") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)


def trainers_of(launcher: subprocess.Popen) -> list[int]:
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children")
    return [int(pid) for pid in children.read_text().split()]


def kill_all(launcher: subprocess.Popen) -> None:
    """End launcher and trainers at once, as when a machine fails."""
    for pid in [launcher.pid, *trainers_of(launcher)]:
        os.kill(pid, signal.SIGKILL)
    launcher.wait()


@pytest.mark.slow
@pytest.mark.promise("resume")
@pytest.mark.parametrize("fusion", CHAINS)
def test_killed_at_random_moments(
    recipe: Path, tmp_path: Path, undisturbed, count, fusion: str
) -> None:
    """Moments are drawn, from the start of the process on; the run ends when one outlives it."""
    draw = random.Random(f"moments of {fusion}")
    run = Run(recipe, tmp_path, fusion)
    for _ in range(60):
        process = kills.start(run.argv, run.log)
        process.join(draw.uniform(0.2, 2.5))
        process.kill()
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL, run.log.read_text()
        count("kills survived")
    check(run, undisturbed(fusion))


@pytest.mark.slow
@pytest.mark.promise("resume")
@pytest.mark.parametrize("place", sorted(kills.PLACES))
def test_killed_twice_at_each_place(
    recipe: Path, tmp_path: Path, undisturbed, count, place: str
) -> None:
    run = Run(recipe, tmp_path, "gmu_contrastive")
    for where, n in ((place, 1), (f"after {place}", 2)):
        if run.until(where, n) == -signal.SIGKILL:
            count("kills survived")
        else:
            assert n == 2, run.log.read_text()  # some places are passed but once
    check(run, undisturbed("gmu_contrastive"))


@pytest.mark.slow
@pytest.mark.promise("resume")
def test_killed_on_two_processes(recipe: Path, tmp_path: Path, count) -> None:
    """One trainer dies, or all of them with their launcher; the same command goes on."""
    wish = ("protocol.split=speaker-k-fold", "train.epochs=3")
    whole = Run(recipe, tmp_path / "whole", "gmu_contrastive", *wish)
    assert torchrun(whole, whole.log).wait(300) == 0, whole.log.read_text()
    draw = random.Random("two processes")
    run = Run(recipe, tmp_path / "killed", "gmu_contrastive", *wish)
    state = run.folder / FOLD / "state"
    for kill in (0, 1, "all", 1, 0, "all"):
        seen = {path.name for path in state.glob("epoch-*")}
        launcher = torchrun(run, run.log)
        while {path.name for path in state.glob("epoch-*")} <= seen:
            assert launcher.poll() is None, run.log.read_text()
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.3))
        if kill == "all":
            kill_all(launcher)
        else:
            os.kill(trainers_of(launcher)[int(kill)], signal.SIGKILL)
        assert launcher.wait(120) != 0
        count("kills survived")
    assert torchrun(run, run.log).wait(300) == 0, run.log.read_text()
    assert run.results() == whole.results()


STOPS = [  # where the signal comes, and the newest state afterwards
    ("indexing a recording", 5, None),
    ("computing images", 20, None),
    ("a training step", 2, "epoch-0000_batch-00004_best-0000"),
    ("after a training step", 3, "epoch-0000_batch-00006_best-0000"),
    ("evaluating", 1, "epoch-0000_batch-00006_best-0000"),
    ("writing best weights", 1, "epoch-0001_batch-00002_best-0001"),
    ("writing TensorBoard", 1, "epoch-0001_batch-00002_best-0001"),
]


@pytest.mark.promise("stop")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_the_state_and_prints_how_to_resume(
    recipe: Path, tmp_path: Path, undisturbed, count, number: int
) -> None:
    fusion = "gmu" if number == signal.SIGTERM else "concat"
    run = Run(recipe, tmp_path, fusion, "train.checkpoint_minutes=1000")
    run.argv.append("--overwrite")
    for place, n, newest in STOPS:
        assert run.until(place, n, number) == 128 + number, f"{place}: {run.log.read_text()}"
        count("signals handled")
        output = run.log.read_text()
        command = output[output.index("To resume:") :].splitlines()[1]
        assert command.strip().startswith("python train")
        assert ("--overwrite" in command) == (newest is None)  # only until it has been done
        states = sorted((run.folder / FOLD / "state").glob("epoch-*"))
        assert ([path.stem for path in states] or [None])[-1] == newest, place
        assert "Traceback" not in output
        run.log.unlink()
    run.argv.remove("--overwrite")
    # The test pass is not interrupted: one test evaluation.
    assert run.until("the test pass", 1, number) == 128 + number
    assert len((run.folder / "ledger.jsonl").read_text().splitlines()) == 1
    check(run, undisturbed(fusion))


@pytest.mark.promise("stop")
def test_a_second_signal_changes_nothing_and_a_third_ends_at_once() -> None:
    stop = Stop()
    with stop.install_handlers(), pytest.raises(KeyboardInterrupt), stop.deferred():
        for n in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.requested, n
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
