"""Measure the front end beside librosa, nnAudio and torchaudio in one process.

    python -m benchmarks.front_end                # Markdown tables, the promises first; minutes
    python -m benchmarks.front_end --json FILE    # the same as JSON, too
    python -m benchmarks.front_end --lengths --json results/front_end.json   # by length only
    python -m benchmarks.front_end --profile      # where the time goes, by torch.profiler

`candidates.py` says what is compared and how it is timed. Where CUDA is available, the CQT is also
timed there, beside nnAudio's.
"""

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from audio.cqt import CQT
from audio.mel_stft import MelSTFT
from benchmarks import candidates
from benchmarks.candidates import PAPER, QUICKEST, RFFT, Recording, measure, noise
from storage.provenance import git_commit, processor
from system.cli import run_entry
from system.files import make_folder, write_json

ROOT = Path(__file__).resolve().parent.parent

LENGTHS: tuple[float, ...] = (4.5, 20, 60)  # seconds
LENGTH_ROUNDS = 3  # for each length
FIRST_CALLS = 5  # of one length, its kernels dropped before each
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


def side_by_side(threads: Sequence[int]) -> Times:
    """Return the milliseconds of all candidates, at all settings and numbers of threads."""
    times: Times = {}
    for n_threads in threads:
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


def by_length(threads: Sequence[int]) -> list[Row]:
    """Return times by length of the waveform and number of threads, at the paper's settings."""
    rows = []
    for n_threads in threads:
        with threadpool_limits(n_threads):  # of NumPy and SciPy
            torch.set_num_threads(n_threads)
            for seconds in LENGTHS:
                row: Row = {"seconds": seconds, "threads": n_threads}
                recording = Recording(seconds, PAPER)
                for transform in ("cqt", "mel"):
                    found = measure(recording.pairs[transform], LENGTH_ROUNDS)
                    row[f"{transform}, ms"] = found["ours"]
                    row[f"{transform}, librosa's times ours"] = found["librosa"] / found["ours"]
                rows.append(row | {"CQT's first call, ms": first_call(seconds)})
    return rows


@torch.inference_mode()
def first_call(seconds: float) -> float:
    """Return the least milliseconds of a CQT's first call for a length, after one of another."""
    cqt, times = CQT(PAPER.sample_rate, **PAPER.cqt), []
    cqt(noise(seconds / 3, PAPER.sample_rate))
    waveform = noise(seconds, PAPER.sample_rate)
    for _ in range(FIRST_CALLS):
        cqt._kernels.clear()
        start = time.perf_counter()
        cqt(waveform)
        times.append(1e3 * (time.perf_counter() - start))
    return min(times)


def on_gpu() -> list[Row]:
    """Return milliseconds of the CQT beside nnAudio's on a GPU, by length; [] without a GPU."""
    if not torch.cuda.is_available():
        return []

    def synchronized(transform: Callable[[Tensor], Tensor], waveform: Tensor) -> Callable[[], None]:
        def work() -> None:
            transform(waveform)
            torch.cuda.synchronize()

        return work

    cqts = {"ours": CQT(PAPER.sample_rate, **PAPER.cqt)} | candidates.nn_audio_cqts(PAPER)
    rows = []
    for seconds in LENGTHS:
        waveform = noise(seconds, PAPER.sample_rate).cuda()
        found = measure({name: synchronized(cqt.cuda(), waveform) for name, cqt in cqts.items()})
        rows.append({"seconds": seconds, "gpu": torch.cuda.get_device_name()} | found)
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
    parser.add_argument("--lengths", action="store_true", help="only the tables by length")
    parser.add_argument("--threads", type=int, nargs="+", default=THREADS, help="numbers of them")
    parser.add_argument("--profile", action="store_true", help="print torch.profiler's tables only")
    arguments = parser.parse_args()
    if arguments.json:
        make_folder(arguments.json.parent)  # fails now, not minutes later
    if arguments.profile:
        return print_profile()
    host = machine()
    figures: dict[str, Any] = {
        "command": " ".join(["python -m benchmarks.front_end", *sys.argv[1:]]),
        "commit": git_commit(),
        "machine": host,
        "seconds": candidates.SECONDS,
    }
    print(f"{host}; least over alternating rounds")
    figures |= {"by_length": by_length(arguments.threads), "gpu": on_gpu()}
    print(f"\n## Time against length\n\n{table(figures['by_length'])}")
    if figures["gpu"]:
        print(f"\n## CQT on the GPU, ms\n\n{table(figures['gpu'])}")
    if not arguments.lengths:
        times, memory = side_by_side(arguments.threads), peak_memory()
        figures |= {"summary": summarize(times, memory), "ms": times, "peak_mb": memory}
        print(f"\n## Promises\n\n{table(figures['summary'])}")
        print(f"\n## Side by side, {candidates.SECONDS:g} s\n\n{side_by_side_tables(times)}")
    if arguments.json:
        write_json(arguments.json, figures)


if __name__ == "__main__":
    run_entry(main)
