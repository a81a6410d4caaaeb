"""What of a recording lies outside of the data that a model was trained on.

A model's scores hold for recordings like those of its corpus. Nothing is refused here: each kind
is told with the range of the training data, and what to do.
"""

from collections.abc import Iterator, Mapping

from audio.description import RecordingFacts
from storage.training_range import TrainingRange
from system.text import printable

LONGER = 1.25  # times the longest training recording, or the shortest one divided by it
NARROWER = 0.75  # of the 1st percentile of bandwidth in training
LEVEL_DB = 3.0  # beyond the levels of training
SHOWN = 3  # recordings named of each kind
UNKNOWN = (
    "model.json has no range of the training data (the fold was trained by an earlier version): "
    "recordings that are unlike them are not told. A training of now records it"
)


def unlike(
    facts: RecordingFacts, trained: TrainingRange | None, input_rate: int, reference: str
) -> dict[str, str]:
    """Return what lies outside of the training data: {kind: the recording's value, with unit}.

    Kinds: `longer` and `shorter` by more than a factor of LONGER than all of training; `rate`,
    where half the rate of the file is below the median bandwidth in training; else `narrow`, below
    NARROWER times the 1st percentile of bandwidth; `louder` and `softer`, by more than LEVEL_DB.

    Args:
        facts: The recording.
        trained: Range of the training data; None, if it is unknown, has nothing outside.
        input_rate: Rate in Hz at which the model reads audio: what lies above half of it is not in
            the images, and not compared.
        reference: `features.reference`; `clip` removes the level, which is then not compared.
    """
    if trained is None:
        return {}
    read = input_rate / 2  # Hz
    found = {}
    if facts.seconds > LONGER * trained.seconds.max:
        found["longer"] = f"{_seconds(facts.seconds)} s"
    elif facts.seconds < trained.seconds.min / LONGER:
        found["shorter"] = f"{_seconds(facts.seconds)} s"
    if facts.rate / 2 < min(trained.bandwidth.median, read):
        found["rate"] = f"{facts.rate} Hz"
    elif facts.bandwidth < NARROWER * min(trained.bandwidth.p1, read):
        found["narrow"] = f"{facts.bandwidth:.0f} Hz"
    if reference == "full_scale":
        if facts.level > trained.level.max + LEVEL_DB:
            found["louder"] = f"{facts.level:z.1f} dBFS"
        elif facts.level < trained.level.min - LEVEL_DB:
            found["softer"] = f"{facts.level:z.1f} dBFS"
    return found


def unlike_lines(
    recordings: Mapping[str, Mapping[str, str]], trained: TrainingRange | None, n: int
) -> Iterator[str]:
    """Yield a line for each kind that occurs, with count and first names.

    Args:
        recordings: Result of `unlike` by name, of recordings for which there is one.
        trained: Range of the training data; None gives one line that says so.
        n: Number of all recordings.
    """
    if trained is None:
        yield UNKNOWN
        return
    for kind, (said, advice) in _sentences(trained).items():
        values = {name: found[kind] for name, found in recordings.items() if kind in found}
        if values:
            yield f"trained on {said}; {_named(values, n)}: {advice}"


def _sentences(trained: TrainingRange) -> dict[str, tuple[str, str]]:
    """Return what the training data are, and what to do, for each kind."""
    s, level, bandwidth = trained.seconds, trained.level, trained.bandwidth
    seconds = f"{_seconds(s.min)} to {_seconds(s.max)} s"
    rates = ", ".join(f"{one.rate} Hz" for one in trained.rates[:SHOWN])
    levels = f"{level.min:z.1f} to {level.max:z.1f} dBFS"
    more = ", ..." * (len(trained.rates) > SHOWN)
    return {
        "longer": (seconds, "cut into parts of that length"),
        "shorter": (seconds, "nothing so short was trained, so take more of the sound"),
        "rate": (
            f"recordings at {rates}{more} with sound up to {bandwidth.median:.0f} Hz",
            "record at such a rate, since resampling adds nothing",
        ),
        "narrow": (
            f"sound up to {bandwidth.p1:.0f} Hz or more",
            "a telephone, a codec or a lower rate on its way may have cut it off",
        ),
        "louder": (levels, "level counts for this model: scale into that range"),
        "softer": (levels, "level counts for this model: scale into that range"),
    }


def _named(values: Mapping[str, str], n: int) -> str:
    """Return the first recordings with their values, and how many of all there are."""
    first = [f"{printable(name, keep='')} has {value}" for name, value in values.items()]
    if len(first) == 1:
        return first[0]
    more = ", ..." * (len(first) > SHOWN)
    return f"outside: {len(first)} of {n} files ({', '.join(first[:SHOWN])}{more})"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f}" if seconds >= 1 else f"{seconds:.2f}"
