"""A segment of an audio file: what to read where an utterance is not its whole file."""

from dataclasses import dataclass
from pathlib import Path

MIN_SECONDS = 0.01  # of a recording; less is not even one period of a low voice


@dataclass(frozen=True)
class Segment:
    """A part of an audio file.

    Args:
        path: Path of the file.
        start: Seconds from the beginning of the file.
        end: Seconds from the beginning of the file; None is the end of the file.

    >>> print(Segment(Path("dialog.wav"), 1.5))
    dialog.wav (1.5 s to end)
    """

    path: Path
    start: float = 0.0
    end: float | None = None

    def __str__(self) -> str:
        return f"{self.path} {self._times}"

    @property
    def name(self) -> str:
        """Name of the file with the times, for messages."""
        return f"{self.path.name} {self._times}"

    @property
    def _times(self) -> str:
        end = "end" if self.end is None else f"{format_seconds(self.end)} s"
        return f"({format_seconds(self.start)} s to {end})"


AudioSource = Path | Segment  # a whole file is its path


def audio_source(path: Path, start: float, end: float | None) -> AudioSource:
    """Return what to read: the whole file, or a segment of it."""
    return path if start == 0 and end is None else Segment(path, start, end)


def as_segment(source: AudioSource) -> Segment:
    """Return a whole file as the segment from its beginning to its end."""
    return source if isinstance(source, Segment) else Segment(source)


def file_order(source: AudioSource) -> tuple[Path, float]:
    """Return a sort key: by file, then by start."""
    segment = as_segment(source)
    return segment.path, segment.start


def format_seconds(seconds: float) -> str:
    """Return seconds to the nanosecond, without trailing zeros.

    >>> format_seconds(1.50)
    '1.5'
    """
    return f"{seconds:.9f}".rstrip("0").rstrip(".")
