"""Standard output and error that never end the work.

Characters that a terminal or log cannot show are escaped. Once a pipe has no reader or a terminal
was closed, nobody can be told anything: what is written there is dropped and the work continues.
"""

import errno
import io
import os
import select
import sys
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from tqdm import tqdm

NO_READER = (errno.EPIPE, errno.ECONNRESET)
LOG_INTERVAL = 60.0  # seconds between two lines of a progress bar in a log file


class _Output(io.FileIO):
    """A standard stream as bytes.

    Attributes:
        error: Why bytes were lost although someone may read them: a full disk, for example.
    """

    def __init__(self, handle: int) -> None:
        super().__init__(handle, "w", closefd=False)
        self.error: OSError | None = None
        self._gone = (*NO_READER, errno.EIO) if self.isatty() else NO_READER

    def write(self, data: Any) -> int:
        """Write all of some bytes, or drop them."""
        rest = memoryview(data)
        try:
            while rest:
                written = super().write(rest)
                if written is None:  # a pipe that another process made non-blocking is full
                    select.select([], [self], [])
                rest = rest[written or 0 :]
        except OSError as error:
            if error.errno in self._gone:
                with open(os.devnull, "wb") as nothing:
                    os.dup2(nothing.fileno(), self.fileno())
            else:
                self.error = error
        return len(data)


def protect_output() -> None:
    """Replace the standard streams of this process by streams that never fail."""
    sys.stdout = _protected(sys.stdout, sys.__stdout__)
    sys.stderr = _protected(sys.stderr, sys.__stderr__)


def lost_output() -> OSError | None:
    """Flush standard output; return why a part of it was lost, None if it was not."""
    sys.stdout.flush()
    buffer = getattr(sys.stdout, "buffer", None)
    raw = getattr(buffer, "raw", buffer)  # `python -u` has no buffer
    return raw.error if isinstance(raw, _Output) else None


def progress_bar(total: int | None, title: str, unit: str, hidden: bool = False) -> "tqdm[Any]":
    """Return a progress bar on standard error: one line a minute where that is not a terminal.

    Args:
        total: Number of units; None is unknown.
        title: What is done, in front of the bar.
        unit: What is counted, in the singular.
        hidden: Show nothing.
    """
    from tqdm import tqdm  # a tenth of a second

    kind: dict[str, Any] = {"total": total, "desc": title, "unit": unit, "disable": hidden}
    if not sys.stderr.isatty():
        kind |= {"mininterval": LOG_INTERVAL, "maxinterval": LOG_INTERVAL}
        kind["file"] = _Lines(sys.stderr)
    return tqdm(**kind)


class _Lines:
    """Writes each state of a bar as a line."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> None:
        if line := text.strip():
            self.stream.write(f"{line}\n")

    def flush(self) -> None:
        self.stream.flush()


def _protected(stream: TextIO | None, original: TextIO | None) -> TextIO:
    if stream is None:  # closed by whoever started the process
        return open(os.devnull, "w", encoding="utf-8")
    if stream is not original or not isinstance(stream, io.TextIOWrapper):
        return stream  # a test or a notebook captures it
    stream.flush()
    raw = _Output(stream.fileno())
    return io.TextIOWrapper(
        raw if stream.write_through else io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )
