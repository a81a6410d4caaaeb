"""Time a whole ablation beside the same command of an earlier commit, in turns.

    python -m benchmarks.ablation ravdess_small --beside 5a97e54 --corpus DIR --json FILE

Both commands run with their own defaults, on fold 1, from a warm feature store; each counted run
begins with an empty run folder. One epoch on one thread is the difference of trainings with four
epochs and with two, halved: start and test cancel. Dev UA of each run is kept beside its time: a
quicker training must not be a worse one.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.front_end import machine
from storage.provenance import git_commit
from system.cli import run_entry
from system.errors import RunError
from system.files import write_json

HERE = Path(__file__).resolve().parent.parent
EPOCHS_ON_ONE_THREAD = (2, 4)  # one is too few for the warm-up of some configs


def extract(commit: str, folder: Path) -> Path:
    """Write the files of a commit to a folder and return it."""
    archive = subprocess.run(["git", "archive", commit], cwd=HERE, capture_output=True, check=True)
    folder.mkdir()
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    return folder


def timed(words: Sequence[str], checkout: Path, environment: Mapping[str, str]) -> float:
    """Return the seconds of a command in a checkout.

    Raises:
        RunError: The command failed; the end of what it printed says why.
    """
    start = time.perf_counter()
    done = subprocess.run(
        words, cwd=checkout, env=os.environ | environment, capture_output=True, text=True
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RunError(f"{shlex.join(words)} failed in {checkout}:\n{done.stderr[-2000:]}")
    return seconds


def dev_ua(runs: Path) -> dict[str, float]:
    """Return the dev UA of each fold below a folder of runs, in percent."""
    found = {}
    for file in sorted(runs.glob("*/folds/*/metrics.json")):
        metrics = json.loads(file.read_text(encoding="utf-8"))
        split = metrics.get("dev") or metrics["val"]  # its name in earlier versions
        found[file.parents[2].name] = round(100 * split["ua"], 1)
    return found


def ablation(checkout: Path, root: Path, overrides: Sequence[str], name: str) -> dict[str, Any]:
    """Run the ablation once into an empty folder of runs; return its time and dev UA."""
    words = ["scripts/ablation.sh", name, f"run.root={root}", *overrides]
    seconds = timed(words, checkout, {"PYTHON": sys.executable})
    return {"seconds": round(seconds, 1), "dev UA": dev_ua(root)}


def train_on_one_thread(
    checkout: Path, root: Path, overrides: Sequence[str], name: str, epochs: int
) -> float:
    """Return the seconds of a training of the gated fusion with some epochs on one thread."""
    config = f"configs/{name}_gmu.yaml"
    words = [sys.executable, "train_gmu.py", "--config", config, f"run.root={root}"]
    words += [*overrides, f"train.epochs={epochs}"]
    return timed(words, checkout, {"OMP_NUM_THREADS": "1"})


def epoch_on_one_thread(checkout: Path, root: Path, overrides: Sequence[str], name: str) -> float:
    """Return the seconds of one epoch of the gated fusion on one thread, evaluation included."""
    few, many = EPOCHS_ON_ONE_THREAD
    times = [train_on_one_thread(checkout, root / str(n), overrides, name, n) for n in (few, many)]
    return (times[1] - times[0]) / (many - few)


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return the figures of both checkouts, in turns."""
    checkouts = {"ours": HERE, arguments.beside: extract(arguments.beside, folder / "beside")}
    wishes = [f"corpus.root={arguments.corpus.resolve()}", "run.folds=[1]"]
    rows: dict[str, dict[str, Any]] = {
        who: {"an epoch on one thread, s": [], "ablation": []} for who in checkouts
    }
    overrides = {who: [*wishes, f"run.store={folder / who / 'features'}"] for who in checkouts}
    for who, checkout in checkouts.items():  # fills the feature store; not counted
        train_on_one_thread(checkout, folder / who / "warm", overrides[who], arguments.name, 2)
    for i in range(arguments.rounds):
        for who, checkout in checkouts.items():
            root = folder / who / f"one_thread_{i}"
            seconds = epoch_on_one_thread(checkout, root, overrides[who], arguments.name)
            rows[who]["an epoch on one thread, s"].append(round(seconds, 1))
            print(who, rows[who], flush=True)
    epochs = [f"train.epochs={arguments.epochs}"] if arguments.epochs else []
    for i in range(arguments.rounds):
        for who, checkout in checkouts.items():
            root = folder / who / f"runs_{i}"
            found = ablation(checkout, root, [*overrides[who], *epochs], arguments.name)
            rows[who]["ablation"].append(found)
            print(who, found, flush=True)
    return rows


def main() -> None:
    """Print the figures and write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="configs/NAME_*.yaml, e.g. ravdess_small")
    parser.add_argument("--beside", required=True, metavar="COMMIT")
    parser.add_argument("--corpus", type=Path, required=True, metavar="DIR", help="corpus.root")
    parser.add_argument("--epochs", type=int, help="default: the config's")
    parser.add_argument("--rounds", type=int, default=1, help="of both commands, in turns")
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds must be 1 or more")
    on = machine()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(arguments, Path(folder))
    ours, theirs = rows.values()
    ratios = {
        "ablation": min(run["seconds"] for run in theirs["ablation"])
        / min(run["seconds"] for run in ours["ablation"]),
        "an epoch on one thread": min(theirs["an epoch on one thread, s"])
        / min(ours["an epoch on one thread, s"]),
    }
    print(on)
    for who, row in rows.items():
        print(who, row)
    print("times as fast:", {name: round(ratio, 2) for name, ratio in ratios.items()})
    if arguments.json:
        command = [*("python", "-m", "benchmarks.ablation", arguments.name)]
        command += ["--beside", arguments.beside, "--corpus", "DIR"]
        command += ["--epochs", str(arguments.epochs)] if arguments.epochs else []
        command += ["--rounds", str(arguments.rounds)] if arguments.rounds > 1 else []
        figures = {"command": shlex.join(command), "commit": git_commit(), "machine": on}
        write_json(arguments.json, figures | {"times as fast": ratios, "measured": rows})


if __name__ == "__main__":
    run_entry(main)
