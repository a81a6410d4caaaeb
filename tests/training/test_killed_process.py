"""A process of a training is killed: the others end, and the same or another number resumes."""

import re
import signal
from pathlib import Path

import numpy as np
import pytest

from config.loading import load_config
from storage.run_folder import read_run
from system.errors import InputError
from system.files import read_json
from tests.support.processes import train_on
from training.checkpoints import Checkpoints
from training.command import check_processes, parse_arguments
from training.resume_with import check_resumable

FOLD = "tiny/folds/fold-1_seed-0"
RESULTS = ("model.safetensors", "model.json", "predictions.csv", "metrics.json", "history.csv")
WORDS = ["train.epochs=2", "protocol.split=speaker-k-fold", "train.checkpoint_minutes=1e-9"]
WORDS += ["train.sync_batch_norm=true", "model.dropout=0"]
OF_TWO, OF_ONE = "train.batch_size=4", "train.batch_size=8"
KILLED = """import os, signal, training.engine as e, training.saver as s
step, save, left = e.train_step, s.CheckpointSaver.maybe_save, [STEPS]
def counted(*args, **wishes):
    left[0] -= 1
    return step(*args, **wishes)
def mortal(saver):
    save(saver)
    if not left[0]:
        saver._writing.wait()
        os.kill(os.getpid(), signal.SIGKILL)
e.train_step, s.CheckpointSaver.maybe_save = counted, mortal"""


def killed_after(steps: int) -> str:
    """Return code that kills its process when some steps are taken and saved; an epoch has 3."""
    return KILLED.replace("STEPS", str(steps))


def results(root: Path) -> dict[str, bytes]:
    return {name: (root / FOLD / name).read_bytes() for name in RESULTS}


def train(recipe: Path, root: Path, n: int, *words: str, patches: tuple[str, ...] = ()) -> list:
    return train_on(recipe, root, [str(root)] * n, *WORDS, *words, patches=patches)


@pytest.fixture(scope="module")
def undisturbed(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where two processes trained to the end at once."""
    root = tmp_path_factory.mktemp("undisturbed")
    for output, status in train(recipe, root, 2, OF_TWO):
        assert status == 0, output
    return root


def kill(recipe: Path, root: Path, victim: int) -> Path:
    """Kill one of two processes in the second epoch; the other ends by itself, in words."""
    patches = ("", killed_after(4)) if victim else (killed_after(4), "")
    ended = train(recipe, root, 2, OF_TWO, patches=patches)
    assert ended.pop(victim)[1] == -signal.SIGKILL
    ((output, status),) = ended
    assert status == 1 and "Traceback" not in output, output
    assert output.count("failed: another process of this training ended") == 1
    return root


@pytest.mark.promise("resume")
@pytest.mark.parametrize("victim", [0, 1])
def test_the_other_ends_and_the_same_command_resumes_to_the_same_bytes(
    recipe: Path, tmp_path: Path, undisturbed: Path, count, victim: int
) -> None:
    root = kill(recipe, tmp_path, victim)
    states = Checkpoints(root / FOLD / "state")
    saved = states.load()
    assert saved is not None
    assert (saved["progress"]["epoch"], saved["progress"]["batch"]) == (1, 1)
    for output, status in train(recipe, root, 2, OF_TWO):
        assert status == 0 and "resuming after epoch 1, batch 1" in output, output
    assert results(root) == results(undisturbed)
    count("kills survived")


@pytest.mark.promise("resume")
def test_another_number_resumes_where_asked_and_its_batches_fit(
    recipe: Path, tmp_path: Path, undisturbed: Path
) -> None:
    """Refused, nothing changes; then one process goes on, is killed, and resumes by itself."""
    root = kill(recipe, tmp_path, 1)
    ((output, status),) = train(recipe, root, 1, OF_TWO)
    assert status == 1 and re.search("on 2 processes, this one is on 1 .*--resume-with 1 ", output)
    for words, n, message in (
        ([OF_ONE], None, r"train.batch_size: 4 there, 8 now(\n.*)+\nOr give --resume-with 1, "),
        ([OF_ONE, "optim.lr=0.5"], None, r"0.5 now(\n  .*)*\nChange `name`.* anew$"),
        ([OF_TWO], 1, "global batch of 8, .* on 1 process is one of 4: give train.batch_size=8$"),
        ([OF_TWO], 3, "3 processes cannot share it evenly"),
        ([OF_ONE, "optim.lr=0.5"], 1, "optim.lr: 0.001 there, 0.5 now"),
    ):
        with pytest.raises(InputError, match=message):
            config = load_config(recipe, [f"run.root={root}", *WORDS, *words])
            check_resumable(config, overwrite=False, resume_with=n)
    for folder in (root / "tiny", root / FOLD):  # which do not name those that were refused
        assert len(read_json(folder / "environment.json")["processes"]) == 2
    wish = ("--resume-with", "1", OF_ONE)
    ((output, status),) = train(recipe, root, 1, *wish, patches=(killed_after(1),))
    assert status == -signal.SIGKILL
    assert "goes on with 1 process instead of 2, train.batch_size=8 instead of 4" in output
    assert "fold-1_seed-0: on 1 process now, the state is of 2" in output
    ((output, status),) = train(recipe, root, 1, OF_ONE)  # the new number is that of the run
    assert status == 0 and "resuming after epoch 1, batch 2" in output, output
    fold, whole = read_run(root / "tiny").folds[0], read_run(undisturbed / "tiny").folds[0]
    assert [one["processes"] for one in fold.metrics.made_with] == [2, 1]
    assert {one["global_batch"] for one in fold.metrics.made_with} == {8}
    for row, same in zip(fold.history(), whole.history(), strict=True):
        assert row == pytest.approx(same, rel=2e-2, abs=1e-3)
    np.testing.assert_allclose(fold.test.probs, whole.test.probs, atol=1e-3)
    assert fold.metrics.test.ua == whole.metrics.test.ua


def test_an_option_that_changes_nothing_says_so(recipe: Path, tmp_path: Path) -> None:
    words = ("train.epochs=1", OF_ONE)
    for message in ("nothing to resume in .*/tiny, it begins with 1 process", "1 process already"):
        ((output, status),) = train(recipe, tmp_path, 1, "--resume-with", "1", *words)
        assert status == 0 and len(re.findall(f"--resume-with 1: .*{message}", output)) == 1, output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["2"], "--resume-with 2, and 1 process was started: give --resume-with 1, or start 2 by"),
        (["1", "--overwrite"], "--overwrite starts it anew: give one"),
    ],
)
def test_an_option_that_contradicts_is_refused(words: list[str], message: str) -> None:
    arguments = parse_arguments(["--config", "x.yaml", "--resume-with", *words], "")
    with pytest.raises(InputError, match=message):
        check_processes(arguments)
