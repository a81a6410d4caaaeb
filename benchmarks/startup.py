"""Measure how soon each entry answers: CPU seconds and memory of `--help` and of a mistake.

python -m benchmarks.startup                             # this checkout
python -m benchmarks.startup --beside ../older_checkout  # and another one, in turns with it

CPU seconds are user and system time of the child process, the least of some rounds.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from system.cli import run_entry

HERE = Path(__file__).resolve().parent.parent
TORCH = ("-c", "import torch")
RECIPES = "configs/recipes/ravdess_small.yaml"
CONFIG = "configs/demo_gmu.yaml"
NOWHERE = "corpus.root=/nowhere"
WRONG = {  # module of an entry: arguments that it must refuse with status 2
    "train": [
        ["--config", "configs/demo_concat.yaml", "optim.learning_rate=1"],
        ["--config", "configs/demo_concat.yaml", NOWHERE],
        ["--config", "nowhere.yaml"],
    ],
    "train_gmu": [
        ["--config", CONFIG, "loss.tempreature=1"],
        ["--config", CONFIG, NOWHERE],
        ["--config", CONFIG, "--dry-run", NOWHERE],
    ],
    "baseline": [
        ["--config", CONFIG, "--kind", "svm"],
        ["--config", CONFIG, "--kind", "majority", "optim.lr=1e-3"],
        ["--config", CONFIG, "--kind", "majority", NOWHERE],
    ],
    "compare": [["/nowhere"]],
    "analyze_gates": [["/nowhere"]],
    "audit": [["/nowhere"], ["ravdess_papers5", "--corpus", "ravdes"]],
    "explore": [
        ["--config", CONFIG, "corpus.rot=/data"],
        ["--config", CONFIG, NOWHERE],
        ["--config", "nowhere.yaml"],
    ],
    "tune": [
        ["--config", CONFIG, "--space", "configs/spaces/gmu.yaml", "optim.learning_rate=1"],
        ["--config", CONFIG, "--space", "nowhere.yaml"],
        ["--config", CONFIG, "--space", "configs/spaces/gmu.yaml", NOWHERE],
    ],
    "predict": [
        ["/nowhere", "/nowhere.wav"],
        ["/nowhere", "/nowhere.wav", "--hop", "1"],
        ["/nowhere", "--pcm", "16000"],
        ["--verify", "/nowhere", "/nowhere.wav"],
    ],
    "export": [["/nowhere", "--to", "/nowhere/bundle"], ["/nowhere"]],
    "app": [["/nowhere"], ["--runs", "/nowhere"], ["--max-minutes", "61"], ["--port", "65536"]],
    "scripts.ablation": [
        ["demo", "optim.learning_rate=1"],
        ["nothing"],
        ["demo", NOWHERE],
        ["demo", "--variants", "fusion", NOWHERE],
    ],
    "scripts.lr_range": [[CONFIG, "optim.learning_rate=1"], ["nowhere.yaml"], [CONFIG, NOWHERE]],
    "scripts.fit_all": [["/nowhere"], ["/nowhere", "--seed", "x"]],
    "scripts.power": [["--folds", "0", "--speakers", "4"]],
    "scripts.recipes": [
        ["--config", CONFIG, "--recipes", "nowhere.yaml"],
        ["--config", CONFIG, "--recipes", RECIPES, "run.folds=[3]", NOWHERE],
        ["--config", CONFIG, "--recipes", RECIPES, "--only", "nothing"],
        ["--config", CONFIG, "--recipes", RECIPES, "optim.learning_rate=1"],
    ],
    "scripts.habits": [
        ["--config", CONFIG, "optim.learning_rate=1"],
        ["--config", CONFIG, "--config", CONFIG],
        ["--config", "nowhere.yaml"],
        ["--config", CONFIG, NOWHERE],
    ],
    "scripts.make_demo_corpus": [["--per-class", "1"]],
    "scripts.make_manifest": [
        ["/nowhere"],
        [".", "--layout", "{speaker}/*.wav"],
        [".", "--columns", "{labl: emotion}"],
    ],
    "scripts.show_features": [["/nowhere.wav"]],
    "scripts.write_tables": [["--chek"]],
    "scripts.make_schema": [["--chek"]],
    "scripts.draw_architecture": [["--chek"]],
    "scripts.coverage_by_room": [["--chek"]],
    "scripts.write_shards": [
        ["--config", CONFIG, "--to", "/nowhere", "--shard", "4/3"],
        ["--config", CONFIG, "--to", "/nowhere", NOWHERE],
    ],
}


class Cost(NamedTuple):
    """What one process took."""

    seconds: float  # CPU, user and system
    megabytes: float  # peak resident set


def commands() -> list[tuple[str, list[str], int]]:
    """Return (module, arguments, exit status to expect) of everything that is measured."""
    rows = []
    for module, mistakes in WRONG.items():
        rows += [(module, ["--help"], 0), *((module, words, 2) for words in mistakes)]
    return rows


def python_words(module: str, checkout: Path) -> list[str]:
    """Return how Python starts an entry in a checkout; older ones have the scripts at the root."""
    name = module.removeprefix("scripts.")
    if (checkout / f"{name}.py").is_file():
        return [f"{name}.py"]
    return ["-m", module]


def cost(words: list[str], checkout: Path, status: int) -> Cost | None:
    """Return what a Python process in a checkout took; None if it ended with another status.

    The system counts the memory of the parent before the child starts Python: import little here.
    """
    child = subprocess.Popen(
        [sys.executable, *words],
        cwd=checkout,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, ended, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(ended)
    if child.returncode != status:
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # bytes of ru_maxrss
    return Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit / 1e6)


def least(rounds: list[Cost | None]) -> Cost | None:
    """Return the least CPU time and the least memory of some rounds; None if one of them failed."""
    costs = [cost for cost in rounds if cost is not None]
    if len(costs) < len(rounds):
        return None
    return Cost(min(c.seconds for c in costs), min(c.megabytes for c in costs))


def measure(checkouts: list[Path], rounds: int) -> list[tuple[str, list[Cost | None]]]:
    """Return (command, its cost in each checkout), the bare import of torch first.

    A cost is None where a checkout does not know the command, as older ones may not.

    Raises:
        SystemExit: A command ended with another status than it should here.
    """
    rows = []
    for module, arguments, status in [("", [], 0), *commands()]:
        costs: list[list[Cost | None]] = [[] for _ in checkouts]
        for _ in range(rounds):
            for checkout, seen in zip(checkouts, costs, strict=True):
                words = [*python_words(module, checkout), *arguments] if module else list(TORCH)
                seen.append(cost(words, checkout, status))
        title = " ".join([*python_words(module, HERE), *arguments] if module else TORCH)
        rows.append((title, [least(seen) for seen in costs]))
        if rows[-1][1][0] is None:
            sys.exit(f"python {title} did not end with status {status}")
    return rows


def markdown(rows: list[tuple[str, list[Cost | None]]]) -> str:
    """Return the table; with another checkout also how many times less CPU time is taken here."""
    titles = ["`python ...`", "CPU s", "peak MB"]
    if len(rows[0][1]) > 1:
        titles += ["CPU s beside", "peak MB beside", "times less CPU"]
    lines = [f"| {' | '.join(titles)} |", "|---|" + "---:|" * (len(titles) - 1)]
    for title, (own, *others) in rows:
        assert own is not None
        cells = [f"`{title}`", f"{own.seconds:.2f}", f"{own.megabytes:.0f}"]
        for other in others:
            if other is None:
                cells += ["–"] * 3
            else:
                times = other.seconds / own.seconds
                cells += [f"{other.seconds:.2f}", f"{other.megabytes:.0f}", f"{times:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="of which the least counts")
    parser.add_argument("--beside", type=Path, metavar="FOLDER", help="another checkout")
    arguments = parser.parse_args()
    checkouts = [HERE, *([arguments.beside] if arguments.beside else [])]
    print(markdown(measure(checkouts, arguments.rounds)))


if __name__ == "__main__":
    run_entry(main)
