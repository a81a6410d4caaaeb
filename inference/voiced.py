"""Voiced segments of a recording: where somebody speaks, in segments as long as training's.

Energy rule. L[m] is the level of frame m of 32 ms, its mean square without the mean, in dB. The
running level follows the loudest frames and falls by d = 0.1 dB a second of anything softer:
    R[m] = max(L[m], R[m-1] - d t),    t the seconds of a frame.
With F the 10th percentile of the file's levels, frames are voiced that are 8 dB above it; but
never those 45 dB below the running level, and always those less than 20 dB below it:
    L[m] > min(max(F + 8, R[m] - 45), R[m] - 20).
A first pass finds F, and the 99th percentile with which R begins; digital silence does not count.
What is as loud as speech, such as music or a busy street, counts as voiced.

Silero VAD: a frame is voiced from a probability of 0.5 on, until it falls below 0.35, as in its own
`get_speech_timestamps`. Its weights are in the package; nothing is fetched.

Both: voiced runs with pauses below 0.3 s are joined, those below 0.1 s dropped. Each segment gets
0.1 s at its ends, more where it is shorter than training's, but not beyond the middle of a pause.
Longer ones are split into equal parts, which may cut a word.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from audio.streaming import SoundStream, open_stream
from inference.cuts import Rule
from storage.training_range import TrainingRange

FRAME_SECONDS = 0.032
ABOVE_DB = 8.0  # the file's softest frames
MOST_BELOW_DB, LEAST_BELOW_DB, FALL_DB = 45.0, 20.0, 0.1  # the running level; the last dB/s
SOFTEST_DB, LOUDEST_DB = -80.0, 60  # softer frames are never voiced; 0 dB is full scale
SOFT_SHARE, LOUD_SHARE = 0.1, 0.99  # of the frames are below the softest, the loudest level
SILERO_RATE, SILERO_FRAME = 16_000, 512  # Hz, samples
SILERO_ON, SILERO_OFF = 0.5, 0.35
PAUSE, BLIP, MARGIN = 0.3, 0.1, 0.1  # s
USUAL_SECONDS = (1.0, 10.0)  # shortest and longest segment where training's are unknown
Span = tuple[float, float]  # start and end, s


def voiced_segments(
    path: Path, rule: Rule, trained: TrainingRange | None
) -> tuple[list[Span], float]:
    """Return the voiced segments of a file in order, none overlapping, and its duration in s.

    Args:
        path: File that libsndfile reads.
        rule: `energy` or `silero`.
        trained: Range of the training data: segments last from the 1st to the 99th percentile of
            its durations where pauses allow it; None is 1 to 10 s.

    Raises:
        BadAudio: The file cannot be read.
    """
    with open_stream(path, SILERO_RATE if rule == "silero" else None) as stream:
        if rule == "silero":
            step = SILERO_FRAME / SILERO_RATE
            runs = joined(voiced_runs(_silero(stream), step))
        else:
            size = frame_size(stream.rate)
            with open_stream(path) as first:
                soft, loud = file_levels(frame_levels(first.blocks(), size))
            fall, levels = FALL_DB * size / stream.rate, frame_levels(stream.blocks(), size)
            flags = above_running_level(levels, soft, loud, fall)
            runs = joined(voiced_runs(flags, size / stream.rate))
        found = list(runs)
        seconds = stream.seconds
    shortest, longest = USUAL_SECONDS
    if trained is not None:
        shortest, longest = trained.seconds.p1, trained.seconds.p99
    return list(as_in_training(found, seconds, shortest, longest)), seconds


def frame_size(rate: int) -> int:
    """Return the samples of a frame at a rate in Hz."""
    return max(round(FRAME_SECONDS * rate), 1)


def frame_levels(blocks: Iterable[NDArray[np.float32]], size: int) -> Iterator[NDArray]:
    """Yield levels in dB of frames of `size` samples, side by side: (m,) of each block (t,)."""
    for frames in _frames(blocks, size):
        power = np.var(frames.astype(np.float64), axis=1)
        yield 10 * np.log10(np.maximum(power, 1e-20))


def file_levels(levels: Iterable[NDArray]) -> tuple[float, float]:
    """Return the levels below which 10 % and 99 % of the frames are, rounded up to whole dB.

    Args:
        levels: Of frames, dB; softer ones than -80 dB do not count.
    """
    n = int(LOUDEST_DB - SOFTEST_DB)
    counts = np.zeros(n + 1, int)
    for some in levels:
        steps = np.ceil(some[some > SOFTEST_DB] - SOFTEST_DB)
        counts += np.bincount(np.minimum(steps, n).astype(int), minlength=n + 1)
    shares = np.cumsum(counts) / max(counts.sum(), 1)
    soft, loud = np.searchsorted(shares, [SOFT_SHARE, LOUD_SHARE])
    return SOFTEST_DB + float(soft), SOFTEST_DB + float(loud)


def above_running_level(
    levels: Iterable[NDArray], soft: float, loud: float, fall: float
) -> Iterator[NDArray[np.bool_]]:
    """Yield whether each frame is voiced by the energy rule: (m,) each.

    Args:
        levels: Of frames, dB.
        soft: F, dB.
        loud: Running level at the start, dB.
        fall: How far the running level falls with each frame, dB.
    """
    running = loud
    for some in levels:
        steps = fall * np.arange(1, len(some) + 1)
        followed = np.maximum.accumulate(np.maximum(some + steps, running)) - steps
        running = float(followed[-1])
        lowest, highest = followed - MOST_BELOW_DB, followed - LEAST_BELOW_DB
        threshold = np.clip(soft + ABOVE_DB, lowest, highest)
        yield (some > threshold) & (some > SOFTEST_DB)


def voiced_runs(flags: Iterable[NDArray[np.bool_]], step: float) -> Iterator[Span]:
    """Yield runs of voiced frames.

    Args:
        flags: Whether frames are voiced, in order: (m,) each.
        step: Seconds of a frame.
    """
    n, start = 0, None
    for some in flags:
        padded = np.concatenate([[start is not None], some])
        for change in np.flatnonzero(padded[1:] != padded[:-1]).tolist():
            if start is None:
                start = n + change
            else:
                yield start * step, (n + change) * step
                start = None
        n += len(some)
    if start is not None:
        yield start * step, n * step


def joined(runs: Iterable[Span]) -> Iterator[Span]:
    """Yield runs without short pauses between them and without short runs."""
    last: Span | None = None
    for run in runs:
        if last is not None and run[0] - last[1] < PAUSE:
            last = last[0], run[1]
            continue
        if last is not None and last[1] - last[0] >= BLIP:
            yield last
        last = run
    if last is not None and last[1] - last[0] >= BLIP:
        yield last


def as_in_training(
    runs: list[Span], seconds: float, shortest: float, longest: float
) -> Iterator[Span]:
    """Yield segments with margins, widened or split to the lengths of training.

    Args:
        runs: Voiced runs, in order.
        seconds: Duration of the recording.
        shortest: Length to which shorter segments are widened where pauses allow it, s.
        longest: Length from which on segments are split, s.
    """
    for i, (start, end) in enumerate(runs):
        earliest = 0.0 if i == 0 else (runs[i - 1][1] + start) / 2
        latest = seconds if i == len(runs) - 1 else (end + runs[i + 1][0]) / 2
        margin = max(MARGIN, (shortest - (end - start)) / 2)
        start, end = max(start - margin, earliest), min(end + margin, latest)
        n = max(math.ceil((end - start) / longest - 1e-9), 1)
        edges = np.linspace(start, end, n + 1).tolist()
        yield from zip(edges[:-1], edges[1:], strict=True)


def _frames(blocks: Iterable[NDArray[np.float32]], size: int) -> Iterator[NDArray[np.float32]]:
    """Yield whole frames side by side, (m, size) each; the rest behind the last is left out."""
    rest = np.zeros(0, np.float32)
    for block in blocks:
        samples = np.concatenate([rest, block])
        whole = len(samples) - len(samples) % size
        rest = samples[whole:]
        if whole:
            yield samples[:whole].reshape(-1, size)


def _silero(stream: SoundStream) -> Iterator[NDArray[np.bool_]]:
    """Yield whether each frame is voiced by Silero VAD: (m,) each."""
    speech, is_voiced = _load_silero(), False
    for frames in _frames(stream.blocks(), SILERO_FRAME):
        flags = []
        for frame in frames:
            probability = speech(frame)
            is_voiced = probability >= (SILERO_OFF if is_voiced else SILERO_ON)
            flags.append(is_voiced)
        yield np.array(flags, bool)


def _load_silero() -> Callable[[NDArray[np.float32]], float]:
    """Return a function that gives the probability of speech in the next frame: (512,).

    Its TorchScript needs torch alone, where the ONNX file needs another package. Importing it
    sets torch to one thread: that is undone.
    """
    import torch

    threads = torch.get_num_threads()
    with warnings.catch_warnings(record=True):  # torch's, that TorchScript gets no new features
        from silero_vad import load_silero_vad  # an extra

        model = load_silero_vad()
    torch.set_num_threads(threads)

    @torch.inference_mode()
    def probability(frame: NDArray[np.float32]) -> float:
        return float(model(torch.from_numpy(frame), SILERO_RATE))

    return probability
