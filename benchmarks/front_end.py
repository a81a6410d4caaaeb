"""Measure the front end beside librosa, nnAudio and torchaudio in one process.

    python -m benchmarks.front_end                # Markdown tables, the promises first; minutes
    python -m benchmarks.front_end --json FILE    # the same as JSON, too
    python -m benchmarks.front_end --profile      # where the time goes, by torch.profiler

`candidates.py` says what is compared and how it is timed.
"""

import argparse
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits
from torch.profiler import ProfilerActivity, profile

from audio.cqt import CQT
from audio.mel_stft import MelSTFT
from benchmarks import candidates
from benchmarks.candidates import PAPER, QUICKEST, RFFT, Recording, measure, noise
from storage.provenance import processor
from system.cli import run_entry
from system.files import make_folder, write_json

ROOT = Path(__file__).resolve().parent.parent

LENGTHS: tuple[float, ...] = (1, 2, 5, 10, 20, 60)  # seconds
THREADS = (1, 2)
PROMISES = (  # what, transform, beside whom, least or most
    ("CQT: times as fast as librosa", "cqt", "librosa", ">=", 12),
    ("CQT: times as fast as nnAudio's fastest", "cqt", "nnAudio", ">=", 12),
    ("Mel-STFT: times as fast as librosa", "mel", "librosa", ">=", 2.5),
    ("both images: times as fast as librosa", "both", "librosa", ">=", 5),
    *(
        (f"{title}: times the {floor}", transform, floor, "<=", 2.5)
        for title, transform in (("CQT", "cqt"), ("Mel-STFT", "mel"), ("both images", "both"))
        for floor in (RFFT, QUICKEST)
    ),
)
MEMORY_TARGET = 500  # MB above import, for 16 recordings of 5 s
MEMORY_PROGRAM = """
import pathlib, torch, features
def kilobytes(key):
    return int(pathlib.Path("/proc/self/status").read_text().split(key + ":")[1].split()[0])
imported = kilobytes("VmRSS")
with torch.inference_mode():
    features.SpectrogramImages()(torch.randn(16, 5 * 44100), torch.full((16,), 5 * 44100))
print((kilobytes("VmHWM") - imported) / 1024)  # ru_maxrss would be the parent's, if that is larger
"""

Row = dict[str, Any]
Times = dict[str, dict[str, dict[str, dict[int, float]]]]  # setting, transform, name, threads


def side_by_side() -> Times:
    """Return the milliseconds of all candidates, at all settings and numbers of threads."""
    times: Times = {}
    for n_threads in THREADS:
        with threadpool_limits(n_threads):  # of NumPy and SciPy
            torch.set_num_threads(n_threads)
            found = {
                name: Recording(candidates.SECONDS, setting).measure_all()
                for name, setting in candidates.SETTINGS.items()
            }
            found[candidates.RESAMPLED] = {
                name: measure(works) for name, works in candidates.resampled().items()
            }
        for setting, transforms in found.items():
            for transform, by_name in transforms.items():
                place = times.setdefault(setting, {}).setdefault(transform, {})
                for name, milliseconds in by_name.items():
                    place.setdefault(name, {})[n_threads] = milliseconds
    return times


def by_length() -> list[Row]:
    """Return times by length of the waveform, at the paper's settings."""
    rows = []
    for seconds in LENGTHS:
        row: Row = {"seconds": seconds}
        for transform, pair in Recording(seconds, PAPER).pairs.items():
            found = measure(pair)
            row[f"{transform}, ms"] = found["ours"]
            row[f"{transform}, librosa's times ours"] = found["librosa"] / found["ours"]
        rows.append(row | {"both, ms a second": row["both, ms"] / seconds})
    return rows


def peak_memory() -> float:
    """Return the MB beyond the imports that 16 waveforms of 5 s need, in a fresh process."""
    command = [sys.executable, "-c", MEMORY_PROGRAM]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return float(process.stdout)


def summarize(times: Times, memory: float) -> list[Row]:
    """Return every promise and what was reached, at each number of threads."""
    summary: list[Row] = []
    for setting in candidates.SETTINGS:
        for promise, transform, other, sign, target in PROMISES:
            row: Row = {"setting": setting, "promise": promise}
            found = times[setting][transform]
            for n, ours in found["ours"].items():
                theirs = min(ms[n] for name, ms in found.items() if name.startswith(other))
                row[f"reached, threads: {n}"] = theirs / ours if sign == ">=" else ours / theirs
            summary.append(row | {"target": f"{sign} {target:g}"})
    row = {"setting": "paper, 44.1 kHz", "promise": "MB above import for 16 recordings of 5 s"}
    row[f"reached, threads: {THREADS[-1]}"] = memory
    return [*summary, row | {"target": f"< {MEMORY_TARGET}"}]


def side_by_side_tables(times: Times) -> str:
    """Return one Markdown table for each setting and transform."""
    tables = []
    for setting, transforms in times.items():
        for transform, found in transforms.items():
            rows: list[Row] = [{"what": name} for name in found]
            for row, by_threads in zip(rows, found.values(), strict=True):
                for n, milliseconds in by_threads.items():
                    row[f"ms, threads: {n}"] = milliseconds
                    row[f"times ours, threads: {n}"] = milliseconds / found["ours"][n]
            tables.append(f"### {transform}, {setting}\n\n{table(rows)}")
    return "\n\n".join(tables)


def table(rows: list[Row]) -> str:
    """Return rows as Markdown; numbers to three digits."""

    def show(value: Any) -> str:
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "---|" * len(rows[0])]
    lines += ["| " + " | ".join(show(row.get(key, "")) for key in rows[0]) + " |" for row in rows]
    return "\n".join(lines)


def machine() -> str:
    """Describe the machine: processor, cores, load, and versions of the libraries."""
    versions = [f"{name} {version(name)}" for name in ("torch", "librosa", "nnAudio", "torchaudio")]
    load = f"load {os.getloadavg()[0]:.1f} before"
    return ", ".join([processor(), f"{os.cpu_count()} cores", load, *versions])


def print_profile() -> None:
    """Print where the time goes, at the paper's settings."""
    waveform = noise(candidates.SECONDS, PAPER.sample_rate)
    torch.set_num_threads(THREADS[0])
    for transform in (CQT(PAPER.sample_rate, **PAPER.cqt), MelSTFT(PAPER.sample_rate, **PAPER.mel)):
        with torch.inference_mode():
            for _ in range(5):
                transform(waveform)
            with profile(activities=[ProfilerActivity.CPU]) as profiler:
                for _ in range(50):
                    transform(waveform)
        print(f"{type(transform).__name__}, 50 calls\n")
        print(profiler.key_averages().table("self_cpu_time_total", row_limit=12))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--profile", action="store_true", help="print torch.profiler's tables only")
    arguments = parser.parse_args()
    if arguments.json:
        make_folder(arguments.json.parent)  # fails now, not minutes later
    if arguments.profile:
        return print_profile()
    host = machine()
    times, lengths, memory = side_by_side(), by_length(), peak_memory()
    summary = summarize(times, memory)
    print(host)
    print(
        f"recordings of {candidates.SECONDS:g} s; medians of {candidates.ROUNDS} alternating rounds"
    )
    print(f"\n## Promises\n\n{table(summary)}\n\n## Side by side\n\n{side_by_side_tables(times)}")
    print(f"\n## Time against length, threads: {THREADS[-1]}\n\n{table(lengths)}")
    if arguments.json:
        figures = {"summary": summary, "ms": times, "by_length": lengths, "peak_mb": memory}
        write_json(arguments.json, {"machine": host, "seconds": candidates.SECONDS, **figures})


if __name__ == "__main__":
    run_entry(main)
