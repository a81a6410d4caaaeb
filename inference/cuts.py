"""How a long recording is cut into parts that are labelled: windows or voiced segments.

With the options of `predict.py` that say so. Imports nothing slow: a mistake is answered at once.
"""

from argparse import ArgumentParser, Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from system.errors import InputError
from system.extras import check_extra
from system.files import check_writable

MIN_WINDOW, MAX_WINDOW = 0.1, 3600.0  # s
MIN_HOP = 0.01  # s
HOPS_IN_WINDOW = 3  # by default
Rule = Literal["energy", "silero"]
RULES: tuple[Rule, ...] = ("energy", "silero")


@dataclass(frozen=True)
class Cuts:
    """Windows of equal length, or voiced segments; one of both.

    Args:
        window: Length of a window, s.
        hop: From the start of a window to the next, s; None is a third of the window.
        segments: Rule that finds voiced segments: `energy`, or `silero` (an extra).

    Raises:
        InputError: Both or neither is given, a value is out of range, or silero is not installed.
    """

    window: float | None = None
    hop: float | None = None
    segments: Rule | None = None

    def __post_init__(self) -> None:
        if self.segments is not None:
            self._check_segments()
        elif self.window is None:
            given = "--hop needs --window" if self.hop is not None else "nothing says how to cut"
            raise InputError(f"{given}: give --window 3 --hop 1 (seconds), or --segments energy")
        elif not MIN_WINDOW <= self.window <= MAX_WINDOW:
            allowed = f"{MIN_WINDOW:g} to {MAX_WINDOW:g} seconds"
            raise InputError(f"the window must be {allowed}, got {self.window:g}")
        elif not MIN_HOP <= self.times[1] <= self.window:
            raise InputError(
                f"the hop must be {MIN_HOP:g} seconds to the window's {self.window:g}, so that "
                f"nothing is left out, got {self.times[1]:g}"
            )

    @property
    def times(self) -> tuple[float, float]:
        """Length of a window and hop, s; there must be windows."""
        if self.window is None:
            raise ValueError("segments have no window")
        return self.window, self.window / HOPS_IN_WINDOW if self.hop is None else self.hop

    def settings(self) -> dict[str, Any]:
        """Return what decides the cuts, for a file that records it."""
        if self.segments is not None:
            return {"segments": self.segments}
        return dict(zip(("window", "hop"), self.times, strict=True))

    def _check_segments(self) -> None:
        if self.window is not None or self.hop is not None:
            raise InputError("--segments finds its own limits: leave --window and --hop out")
        if self.segments not in RULES:
            raise InputError(f"segments must be one of {', '.join(RULES)}, got {self.segments!r}")
        if self.segments == "silero":
            check_extra("--segments silero", "silero_vad", "vad")


def add_long_options(parser: ArgumentParser) -> None:
    """Add the options for long recordings and live sound."""
    parser.add_argument(
        "--window", type=float, metavar="S", help="label windows of S seconds over time"
    )
    parser.add_argument(
        "--hop", type=float, metavar="S", help="from one window to the next; default: a third"
    )
    parser.add_argument("--segments", choices=RULES, help="label voiced segments instead")
    parser.add_argument(
        "--timeline",
        type=Path,
        metavar="FOLDER",
        help="write CSV, JSON, PNG, TextGrid and WebVTT of each file there; resumes",
    )
    parser.add_argument(
        "--pcm", type=int, metavar="HZ", help="label raw mono sound from standard input as it comes"
    )
    parser.add_argument(
        "--pcm-format", choices=("s16le", "f32le"), help="of its samples; default: s16le"
    )


def cuts_of(options: Namespace) -> Cuts | None:
    """Return how the options cut recordings; None for whole recordings."""
    if options.window is options.hop is options.segments is None:
        return None
    return Cuts(options.window, options.hop, options.segments)


def check_long_options(options: Namespace) -> None:
    """Refuse options that do not go together.

    Raises:
        InputError: Names the option, and what to do.
    """
    cuts = cuts_of(options)
    if options.timeline is not None:
        if cuts is None:
            raise InputError("--timeline needs --window 3 --hop 1 (seconds), or --segments energy")
        if options.out is not None or options.format is not None:
            raise InputError(
                "--timeline writes files of its own formats: leave --out and --format out"
            )
        if options.timeline.exists() and not options.timeline.is_dir():
            raise InputError(f"--timeline needs a folder, and {options.timeline} is a file")
        check_writable(options.timeline, f"--timeline {options.timeline}")
    if options.pcm is None:
        if options.pcm_format is not None:
            raise InputError("--pcm-format needs --pcm with the rate in Hz, such as --pcm 16000")
        return
    given = {"INPUT": options.inputs, "--list": options.list, "--out": options.out}
    given |= {"--timeline": options.timeline, "--segments": options.segments}
    if unfit := [name for name, value in given.items() if value]:
        raise InputError(
            f"--pcm labels windows of standard input and prints them: leave {unfit[0]} out"
        )
    if cuts is None:
        raise InputError("--pcm needs --window, such as --window 3 --hop 1 (seconds)")
    from audio.reading import MAX_RATE, MIN_RATE  # a tenth of a second

    if not MIN_RATE <= options.pcm <= MAX_RATE:
        raise InputError(f"--pcm must be {MIN_RATE} to {MAX_RATE} Hz, got {options.pcm}")
