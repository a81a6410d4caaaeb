"""A run that was killed anywhere goes on to the very bytes of one that was never killed."""

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import kills
import pytest

from files import read_json
from model_gmu import FUSIONS
from run_folder import read_run

FOLD = "folds/fold-1_seed-0"
RESULTS = ("model.safetensors", "model.json", "predictions.csv", "metrics.json", "history.csv")
HARD = [  # chance, accumulation, states between steps
    "train.epochs=2",
    "train.batch_size=4",
    "train.accumulate=2",
    "train.checkpoint_minutes=1e-9",
    "model.dropout=0.5",
    "augment.time_mask=0.3",
    "augment.time_shift=0.2",
    "augment.mixup=0.4",
]
WAVEFORMS = ["train.pictures=computed", "augment.speed=0.1", "augment.snr_db=[10,30]"]
SCHEDULES = {
    "concat": ["optim.schedule=plateau", "optim.plateau_patience=0"],
    "gmu": ["optim.schedule=cosine", "optim.warmup_epochs=0.5", *WAVEFORMS],
    "gmu_contrastive": ["train.clip_grad_norm=1.0"],
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

    def until(self, place: str = "", n: int = 1) -> int | None:
        """Run until a place, or to the end; return the exit status."""
        process = kills.start(self.argv, self.log, place, n)
        process.join(120)
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
        ("hearing a clip", 5),
        ("writing pictures", 1),
        ("after writing pictures", 1),
        ("a training step", 2),
        ("writing a checkpoint", 3),
        ("after writing best weights", 1),
        ("writing TensorBoard", 1),
        ("a backward pass", 2),
        ("the test pass", 1),
        ("writing metrics", 1),
    ],
    "gmu": [
        ("picturing a clip", 20),
        ("writing the store's index", 2),
        ("after a training step", 1),
        ("renaming a file", 9),
        ("after writing a checkpoint", 2),
        ("evaluating", 1),
        ("writing the history", 2),
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
        ("evaluating", 3),
        ("writing the ledger", 1),
        ("after writing metrics", 1),
        ("writing the summary", 1),
    ],
}


@pytest.mark.promise("resume")
@pytest.mark.parametrize("fusion", FUSIONS)
def test_peer_24_a_run_killed_at_every_turn_ends_in_the_same_bytes(
    recipe: Path, tmp_path: Path, undisturbed, count, fusion: str
) -> None:
    run = Run(recipe, tmp_path, fusion)
    for place, n in CHAINS[fusion]:
        assert run.until(place, n) == -signal.SIGKILL, f"{place}: {run.log.read_text()}"
        count("kills survived")
    check(run, undisturbed(fusion))
