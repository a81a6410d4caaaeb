"""What is odd in the recordings of a corpus: levels, clipping, silence, bandwidth, channels."""

import numpy as np
from numpy.typing import NDArray

from audio.quality import FLAT, SILENCE_DB
from corpora.audio_files import first
from corpora.findings import CHECK, KNOW, Finding, Rule, hertz, ids, percent, who
from corpora.survey import Survey
from system.text import count_of

FAR = 3.0  # interquartile ranges beyond the quartiles: an outlier
LEAST_RATIO = 1.5  # by which a duration must lie outside, at least
LEAST_DB = 20.0  # by which a level must lie outside, at least
LONG_RANGE = 4.0  # ratio of the 99th to the 1st percentile of durations
QUIET = -60.0  # dBFS: 16 bits leave an RMS of 33 steps
FLAT_TOPS = 3  # from which a recording counts as clipped
OFFSET = 0.1  # of the RMS
SILENT_SHARE = 0.2  # of the audio at its silent ends
MOSTLY_SILENT = 0.75  # of one recording
NARROW = 0.7  # of half the rate: the cutoff of a recording that is named
NARROW_ALL = 0.85  # of half the rate: the median cutoff of a corpus that is named
EMPTY = 1.15  # times where recordings end: images that reach further have empty rows
DIFFERENT_DB = -20.0  # of what channels do not share


def odd_duration(survey: Survey) -> Finding | None:
    """Name recordings much longer or shorter than the others."""
    logs = np.log(survey.columns["seconds"])
    odd = _far(logs, np.log(LEAST_RATIO))
    if not odd.any():
        return None
    middle = np.exp(np.median(logs))
    order = np.argsort(-np.abs(logs - np.median(logs)))
    n = int(odd.sum())
    return Finding(
        "odd-duration",
        CHECK,
        f"{count_of(n, 'recording')} much longer or shorter than the others",
        f"The median is {middle:.2f} s. Such recordings may be cut in the wrong place, or hold "
        "several utterances; stretched to one image width they look unlike all others.",
        "Listen to them; correct the segments, or leave them out of the manifest.",
        *_named(survey, order[odd[order]], "seconds", "{:.2f} s"),
    )


def long_range(survey: Survey) -> Finding | None:
    """Say that durations differ so much that stretched images differ in time scale."""
    if survey.config.features.seconds is not None:
        return None
    low, median, high = np.percentile(survey.columns["seconds"], [1, 50, 99])
    if high < LONG_RANGE * low:
        return None
    return Finding(
        "long-range",
        KNOW,
        f"Durations from {low:.2g} to {high:.2g} s (1st to 99th percentile), a factor of "
        f"{high / low:.1f}",
        "Each recording is stretched to one image width, so that the time scale of images differs "
        "by that factor.",
        f"features.seconds={max(round(median), 1)} cuts crops of one length instead.",
    )


def odd_level(survey: Survey) -> Finding | None:
    """Name recordings much louder or softer than the others."""
    level = survey.columns["level"]
    odd = _far(level, LEAST_DB)
    if not odd.any():
        return None
    order = np.argsort(-np.abs(level - np.median(level)))
    return Finding(
        "odd-level",
        CHECK,
        f"{count_of(int(odd.sum()), 'recording')} much louder or softer than the others",
        f"The median level is {np.median(level):.1f} dBFS. Another gain, or nobody speaks.",
        "Listen to them; leave out those without speech. Level itself is removed by "
        "features.reference=clip.",
        *_named(survey, order[odd[order]], "level", "{:.1f} dBFS"),
    )


def quiet(survey: Survey) -> Finding | None:
    """Name recordings with hardly any signal."""
    level = survey.columns["level"]
    places = np.argsort(level)[: int((level < QUIET).sum())]
    if not len(places):
        return None
    return Finding(
        "quiet",
        CHECK,
        f"{count_of(len(places), 'recording')} below {QUIET:.0f} dBFS",
        "Next to silence: with 16 bits noise of rounding lies close below the speech, and "
        "features.reference=clip lifts it into the image.",
        "Listen to them; leave out those without speech, or set features.top_db=60 to cut off "
        "more of the noise.",
        *_named(survey, places, "level", "{:.1f} dBFS"),
    )


def clipped(survey: Survey) -> Finding | None:
    """Name clipped recordings, and the class that has most of them."""
    tops, peak = survey.columns["flat_tops"], survey.columns["peak"]
    odd = (tops >= FLAT_TOPS) | (peak > 1)
    if not odd.any():
        return None
    order = np.argsort(-(tops + (peak > 1)))
    shares = [
        odd[survey.targets == k].mean() if (survey.targets == k).any() else 0.0
        for k in range(len(survey.classes))
    ]
    worst = int(np.argmax(shares))
    return Finding(
        "clipped",
        CHECK,
        f"{count_of(int(odd.sum()), 'recording')} clipped",
        f"Their signal stays at its extreme for {FLAT} samples or more in {FLAT_TOPS} places or "
        "more, or goes beyond full scale: distortion adds frequencies that the voice has not. "
        f"Most in class {survey.classes[worst]}: {percent(shares[worst])} of its recordings.",
        "Use the recordings before clipping if there are any; a class that is clipped more often "
        "can be known by it.",
        *_named(survey, order[odd[order]], "flat_tops", "{:.0f} flat tops"),
    )


def offset(survey: Survey) -> Finding | None:
    """Name recordings with a constant offset."""
    value = np.abs(survey.columns["offset"])
    places = np.argsort(-value)[: int((value >= OFFSET).sum())]
    if not len(places):
        return None
    return Finding(
        "offset",
        CHECK,
        f"{count_of(len(places), 'recording')} with a DC offset",
        f"The mean of the samples is {percent(OFFSET)} of the RMS or more: the lowest Mel band "
        "holds it; the CQT does not reach down to it.",
        "features.mel.fmin=20 leaves it out; the hardware that recorded it may have added more.",
        *_named(survey, places, "offset", "{:+.2f} of the RMS"),
    )


def silent_ends(survey: Survey) -> Finding | None:
    """Say how much of the audio is silence at its ends."""
    columns = survey.columns
    silent = columns["silence_start"] + columns["silence_end"]
    share = float(silent.sum() / columns["seconds"].sum())
    if survey.config.features.trim_db is not None or share < SILENT_SHARE:
        return None
    return Finding(
        "silent-ends",
        KNOW,
        f"{percent(share)} of the audio is silence at the ends of recordings",
        f"{SILENCE_DB:.0f} dB and more below the loudest frame, on average "
        f"{columns['silence_start'].mean():.2f} s before and {columns['silence_end'].mean():.2f} s "
        "after. That share of the image width shows no speech, and its noise may tell where "
        "something was recorded.",
        f"features.trim_db={SILENCE_DB:.0f} cuts it off.",
    )


def mostly_silent(survey: Survey) -> Finding | None:
    """Name recordings that are silent nearly throughout."""
    share = survey.columns["silence"]
    places = np.argsort(-share)[: int((share > MOSTLY_SILENT).sum())]
    if not len(places):
        return None
    return Finding(
        "mostly-silent",
        CHECK,
        f"{count_of(len(places), 'recording')} more than {percent(MOSTLY_SILENT)} silent",
        "A click or a breath may be the loudest of them, and the speech be missing.",
        f"Listen to them; features.trim_db={SILENCE_DB:.0f} cuts silent ends off.",
        *_named(survey, places, "silence", "{:.0%} silent"),
    )


def narrow(survey: Survey) -> Finding | None:
    """Name recordings whose sound ends far below half their rate: upsampled or coded."""
    columns = survey.columns
    reach = columns["cutoff"] / (columns["rate"] / 2)
    odd = reach <= NARROW
    whole = np.median(reach) <= NARROW_ALL
    if whole:
        odd = reach <= NARROW_ALL
    if not odd.any():
        return None
    ends, rates = np.median(columns["cutoff"][odd]), np.median(columns["rate"][odd])
    order = np.argsort(reach, kind="stable")
    n = int(odd.sum())
    all_of_them = f"All {n} recordings" if n == len(odd) else count_of(n, "recording")
    share = "" if n == len(odd) else f" of {len(odd)}"
    return Finding(
        "narrow",
        KNOW if n == len(odd) else CHECK,
        f"{all_of_them}{share} at {hertz(rates)} with sound only up to {hertz(ends)}",
        "A filter ended it: upsampled from a lower rate, telephone, or a codec of few bits. Rows "
        "of the images above are empty"
        + (
            "."
            if n == len(odd)
            else ", and a model can tell these recordings from the others by them."
        ),
        f"features.mel.fmax={_round_down(ends)} ends the Mel image there for all.",
        *_named(survey, order[odd[order]], "cutoff", "{:.0f} Hz"),
    )


def mixed_rates(survey: Survey) -> Finding | None:
    """Say that recordings have several sampling rates."""
    rates, counts = np.unique(survey.columns["rate"], return_counts=True)
    if len(rates) < 2:
        return None
    usual = rates[counts.argmax()]
    others = np.flatnonzero(survey.columns["rate"] != usual)
    shown = ", ".join(
        f"{n} at {hertz(rate)}" for rate, n in zip(rates.tolist(), counts.tolist(), strict=True)
    )
    lowest = int(rates.min())
    return Finding(
        "mixed-rates",
        CHECK,
        f"{len(rates)} sampling rates: {shown}",
        f"Above {hertz(lowest / 2)} some recordings have nothing, so that a model can tell them "
        "from the others.",
        f"features.input_rate={lowest} reads all at the lowest rate; features.mel.fmax="
        f"{lowest // 2} ends the Mel image there.",
        *_named(survey, others, "rate", "{:.0f} Hz"),
    )


def empty_rows(survey: Survey) -> Finding | None:
    """Say that the images of this config reach beyond all recordings."""
    columns, features = survey.columns, survey.config.features
    read = features.input_rate or features.sample_rate
    ends = min(float(np.median(np.minimum(columns["cutoff"], columns["rate"] / 2))), read / 2)
    top = features.mel.fmax or features.sample_rate / 2
    if top <= EMPTY * ends:
        return None
    return Finding(
        "empty-rows",
        KNOW,
        f"The Mel image reaches to {hertz(top)}, half of the recordings end by {hertz(ends)}",
        "Its upper rows are empty there: pixels without information.",
        f"features.mel.fmax={_round_down(ends)}",
    )


def channels(survey: Survey) -> Finding | None:
    """Say that channels differ, or that recordings have different numbers of them."""
    columns = survey.columns
    differ = columns["difference"] > DIFFERENT_DB
    numbers, counts = np.unique(columns["channels"], return_counts=True)
    if differ.any():
        order = np.argsort(-columns["difference"])
        return Finding(
            "channels",
            CHECK,
            f"{count_of(int(differ.sum()), 'recording')} whose channels differ",
            f"What they do not share is {-DIFFERENT_DB:.0f} dB or less below them: two "
            "microphones, two speakers, or a silent channel. The mean of all channels is read.",
            "Listen to them; save the channel of the speaker as a file of its own "
            "(sox IN OUT remix 1).",
            *_named(survey, order[differ[order]], "difference", "{:.0f} dB"),
        )
    if len(numbers) < 2:
        return None
    shown = " and ".join(
        f"{n} with {k:.0f}" for k, n in zip(numbers.tolist(), counts.tolist(), strict=True)
    )
    others = np.flatnonzero(columns["channels"] != numbers[counts.argmax()])
    return Finding(
        "channels",
        KNOW,
        f"Different numbers of channels: {shown}",
        f"The channels of each recording are alike to {-DIFFERENT_DB:.0f} dB; their mean is read.",
        "Nothing needs to be done.",
        *_named(survey, others, "channels", "{:.0f} channels"),
    )


def near_identical(survey: Survey) -> Finding | None:
    """Name recordings that are the same, or nearly."""
    if not survey.same and not survey.near:
        return None
    lines = [f"same samples: {first(map(who, group), 4)}" for group in survey.same]
    lines += [
        f"{percent(error)} of the fingerprint differs: {who(a)} and {who(b)}"
        for a, b, error in survey.near
    ]
    classes = sum(len({u.label for u in group}) > 1 for group in survey.same)
    classes += sum(a.label != b.label for a, b, _ in survey.near)
    mixed = f" {classes} of them {'is' if classes == 1 else 'are'} under different classes."
    members = [one for group in survey.same for one in group]
    members += [one for a, b, _ in survey.near for one in (a, b)]
    title = [count_of(len(survey.same), "recording") + " occurring more than once"] * bool(
        survey.same
    )
    title += [count_of(len(survey.near), "pair") + " of near-identical recordings"] * bool(
        survey.near
    )
    return Finding(
        "near-identical",
        CHECK,
        "; ".join(title),
        "Copies in two parts of a fold are known from training; within a part they count twice."
        + mixed * bool(classes),
        "Keep one of each. The splits keep them apart or are refused; "
        "protocol.near_identical=count allows near-identical ones.",
        ids(members),
        lines,
    )


AUDIO_RULES: tuple[Rule, ...] = (
    *(near_identical, narrow, mixed_rates, clipped, channels, quiet, odd_level, odd_duration),
    *(mostly_silent, offset, silent_ends, long_range, empty_rows),
)


def _far(values: NDArray[np.float64], least: float) -> NDArray[np.bool_]:
    """Return which values lie FAR beyond the quartiles, and `least` at least."""
    low, high = np.percentile(values, [25, 75])
    reach = max(FAR * (high - low), least)
    far: NDArray[np.bool_] = (values < low - reach) | (values > high + reach)
    return far


def _named(
    survey: Survey, places: NDArray[np.int64], column: str, form: str
) -> tuple[list[str], list[str]]:
    """Return the ids of utterances, and a line with the value of each."""
    values = survey.columns[column][places].tolist()
    names = [survey.utterances[place] for place in places.tolist()]
    lines = [
        f"{one.id} ({one.label}): {form.format(value)}"
        for one, value in zip(names, values, strict=True)
    ]
    return ids(names), lines


def _round_down(frequency: float) -> int:
    """Return a frequency without its last digits, as one would write it in a config."""
    return int(frequency // 100 * 100)
