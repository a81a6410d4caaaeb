"""Draw the front end's spectrograms of recordings, beside librosa's, with their difference.

    python -m scripts.show_features speech.wav ...    # writes speech_features.png to this folder

Before resizing, at the paper's settings, dB relative to the recording's maximum. Needs librosa,
which `make setup` installs.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from audio.reading import BadAudio, read_audio
from system.cli import run_cli, run_entry, say
from system.errors import InputError
from system.files import atomic_write, make_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAMPLE_RATE = 44_100  # Hz
TOP_DB = 80.0


def in_db(power: NDArray) -> NDArray:
    """Return dB relative to the maximum, floored."""
    db = 10 * np.log10(np.maximum(power, 1e-30))
    return np.maximum(db - db.max(), -TOP_DB)


def draw(path: Path) -> "Figure":
    """Draw two rows (CQT, Mel) of three images (ours, librosa, difference)."""
    samples = read_audio(path, SAMPLE_RATE)
    import librosa  # slow imports: only once there is something to draw
    import torch
    from matplotlib.figure import Figure

    from audio.cqt import CQT
    from audio.mel_stft import MelSTFT

    waveform = torch.from_numpy(samples)[None]
    cqt, mel = CQT(SAMPLE_RATE), MelSTFT(SAMPLE_RATE)
    ours = cqt(waveform)[0].numpy() ** 2, mel(waveform)[0].numpy()
    theirs = (
        np.abs(librosa.cqt(samples, sr=SAMPLE_RATE)) ** 2,
        librosa.feature.melspectrogram(y=samples, sr=SAMPLE_RATE, n_fft=4096, hop_length=256),
    )
    figure = Figure(figsize=(15, 8), layout="constrained")  # inches
    figure.suptitle(f"{path.name}, {len(samples) / SAMPLE_RATE:.2f} s")
    grid = figure.subplots(2, 3, sharex=True)
    for axes, name, a, b, hertz in zip(
        grid, ("CQT", "Mel-STFT"), ours, theirs, (cqt.frequencies, mel.edges[1:-1]), strict=True
    ):
        a, b = in_db(a), in_db(b)
        seconds = len(samples) / SAMPLE_RATE
        worst = np.abs(a - b).max()
        panels = (
            (a, f"{name}, ours", "magma", -TOP_DB, 0),
            (b, f"{name}, librosa", "magma", -TOP_DB, 0),
            (a - b, f"ours - librosa, at most {worst:.2g} dB", "RdBu_r", -3, 3),
        )
        for axis, (image, title, colours, low, high) in zip(axes, panels, strict=True):
            edges = np.linspace(0, seconds, image.shape[1])
            image = axis.pcolormesh(edges, hertz, image, cmap=colours, vmin=low, vmax=high)
            axis.set_yscale("log" if name == "CQT" else "symlog", **_linear_below(name))
            axis.set(title=title, ylabel="Hz", xlabel="seconds")
            axis.set_ylim(hertz[0], hertz[-1])
            axis.set_yticks(*_ticks(50 if name == "CQT" else 200, hertz[-1]))
            axis.minorticks_off()
            figure.colorbar(image, ax=axis, label="dB")
    return figure


def _linear_below(name: str) -> dict[str, float]:
    return {} if name == "CQT" else {"linthresh": 1000.0}  # Slaney's scale is linear up to 1 kHz


def _ticks(lowest: float, highest: float) -> tuple[list[int], list[str]]:
    every = (50, 100, 200, 500, 1000, 2000, 4000, 8000, 16000)  # Hz
    ticks = [f for f in every if lowest <= f < highest]
    return ticks, [f"{f / 1000:g}k" if f >= 1000 else str(f) for f in ticks]


def main(argv: Sequence[str]) -> int:
    """Write one image for each recording; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recordings", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--out", type=Path, default=Path(), help="folder of the images")
    arguments = parser.parse_args(argv)
    return run_cli(lambda: _write_all(arguments.recordings, arguments.out))


def _write_all(recordings: Sequence[Path], out: Path) -> None:
    """Draw all recordings that can be read.

    Raises:
        InputError: Some cannot; names them, after the others were drawn.
        RunError: An image cannot be written.
    """
    make_folder(out)
    bad = []
    for path in recordings:
        target = out / f"{path.stem}_features.png"
        try:
            with atomic_write(target) as temporary:
                draw(path).savefig(temporary, dpi=100)
            say(str(target))
        except BadAudio as error:
            bad.append(f"{path} {error}")
    if bad:
        raise InputError("\n".join(bad))


if __name__ == "__main__":
    run_entry(main, sys.argv[1:])
