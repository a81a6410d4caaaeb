"""Jobs, threads and busy neighbours: how many utterances a second all jobs train together.

    python -m benchmarks.jobs --config configs/ravdess_small_gmu.yaml --json results/jobs.json

Probes of `scripts/ablation.sh --jobs auto` run with one thread a core or one job a core, alone and
beside four processes that only compute. OpenMP threads wait for one another by spinning, unless
OMP_WAIT_POLICY=passive lets them sleep; GOMP_SPINCOUNT bounds the spinning of GNU's.
"""

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.front_end import machine
from experiments.slots import _probe
from system.cli import run_entry
from system.errors import RunError
from system.files import write_json

BUSY = 4  # processes beside the jobs
SPINNING = ({}, {"OMP_WAIT_POLICY": "passive"}, {"GOMP_SPINCOUNT": "1000"})
ROUNDS = 2


@contextmanager
def neighbours(n: int) -> Iterator[None]:
    """Let some processes compute meanwhile."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def measure(config: Path, cores: int) -> list[dict[str, Any]]:
    """Return the most utterances a second of each case, over alternating rounds."""
    command = ["--config", str(config), "corpus.root=none", "run.device=cpu"]
    cases = [(1, cores, extra) for extra in SPINNING] + [(1, 1, {}), (cores, 1, {})]
    found: dict[tuple[int, int], float] = {}
    for _ in range(ROUNDS):
        for busy in (0, BUSY):
            for i, (jobs, threads, extra) in enumerate(cases):
                os.environ |= extra
                with neighbours(busy):
                    choice = _probe(command, jobs, threads)
                for name in extra:
                    del os.environ[name]
                if choice is None:
                    raise RunError(f"the probe failed: python -m experiments.step_probe {command}")
                found[busy, i] = max(found.get((busy, i), 0.0), choice.utterances)
    return [
        {
            "busy processes": busy,
            "jobs": cases[i][0],
            "threads": cases[i][1],
            "with": " ".join(f"{name}={value}" for name, value in cases[i][2].items()),
            "utterances a second": round(speed, 1),
        }
        for (busy, i), speed in found.items()
    ]


def main() -> None:
    """Print the figures and write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    on = machine()
    rows = measure(arguments.config, os.cpu_count() or 1)
    for row in rows:
        print(row)
    if arguments.json is not None:
        command = shlex.join(["python", "-m", "benchmarks.jobs", *sys.argv[1:]])
        write_json(arguments.json, {"command": command, "machine": on, "rows": rows})


if __name__ == "__main__":
    run_entry(main)
