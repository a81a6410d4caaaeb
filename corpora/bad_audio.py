"""Describe unusable audio files: grouped by reason, the first named, all listed in a file."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from audio.fingerprint import Copy, near_copies
from audio.reading import Recording
from audio.segment import AudioSource, file_order
from config.effects import CLASSES_KEY
from config.schema import Config
from corpora.audio_files import NAMES_SHOWN
from corpora.label_sets import LabelSet
from corpora.utterance import Utterance
from system.errors import InputError, RunError
from system.files import make_folder, write_csv

NUMBER = re.compile(r"-?\d[\d.]*(e[+-]?\d+)?")


def refuse_bad_audio(config: Config, bad: Mapping[AudioSource, str]) -> None:
    """Raise an InputError that describes bad audio, unless the config leaves it out."""
    if bad and config.corpus.on_bad_audio == "error":
        listed = "\n".join(describe_bad_audio(bad, bad_audio_list(config)))
        raise InputError(
            f"{len(bad)} audio files cannot be used:\n{listed}\n"
            "Put intact files in their place, or set corpus.on_bad_audio=skip to leave them out"
        )


def usable(
    config: Config,
    labels: LabelSet,
    utterances: Sequence[Utterance],
    recordings: Mapping[AudioSource, Recording],
    bad: Mapping[AudioSource, str],
    near: Sequence[Copy] | None = None,
) -> tuple[list[Utterance], dict[AudioSource, Recording], Sequence[Copy]]:
    """Return utterances and recordings without bad audio, and the near copies among them.

    Args:
        config: Config of the run.
        labels: Label set.
        utterances: Utterances with a label that is used.
        recordings: Recording of each audio file or segment.
        bad: Reason for each one that cannot be used.
        near: Near copies among `recordings`, all of them good; None looks for them.

    Raises:
        InputError: The config does not leave out bad audio, or a class has nothing else.
    """
    refuse_bad_audio(config, bad)
    kept = [utterance for utterance in utterances if utterance.audio not in bad]
    if missing := labels.missing(kept):
        raise InputError(
            f"no usable utterance of {', '.join(missing)} is left: {len(bad)} audio files are bad. "
            f"Put intact files in their place, or choose other {CLASSES_KEY}"
        )
    good = {source: audio for source, audio in recordings.items() if source not in bad}
    if near is None:
        near = near_copies({audio.hash: audio.words for audio in good.values()})
    return kept, good, near


def bad_audio_list(config: Config) -> Path:
    """Return the file for a long list of bad audio: beside the feature store, of this run."""
    return Path(config.run.store) / f"bad_audio-{config.name}.csv"


def group_by_reason(bad: Mapping[AudioSource, str]) -> dict[str, list[AudioSource]]:
    """Return {reason: files}, the most frequent first; reasons that differ in a number are one."""
    groups: dict[str, list[AudioSource]] = {}
    for path in sorted(bad, key=file_order):
        groups.setdefault(NUMBER.sub("#", bad[path]), []).append(path)
    most_first = sorted(groups.values(), key=len, reverse=True)
    return {bad[paths[0]]: paths for paths in most_first}


def describe_bad_audio(bad: Mapping[AudioSource, str], list_file: Path) -> list[str]:
    """Return lines with all reasons, and the number and first names of their files.

    Args:
        bad: Reason for each file.
        list_file: Written if not all files are named in the lines.
    """
    lines, groups = [], group_by_reason(bad)
    for reason, paths in groups.items():
        if len(paths) == 1:
            lines.append(f"  {paths[0]} {reason}")
            continue
        like = "" if {bad[path] for path in paths} == {reason} else ", or alike"
        lines.append(f"  {len(paths)} files, each of which {reason.rstrip('.')}{like}:")
        lines += [f"    {path}" for path in paths[:NAMES_SHOWN]]
        if len(paths) > NAMES_SHOWN:
            lines.append(f"    and {len(paths) - NAMES_SHOWN} more")
    if max(map(len, groups.values()), default=0) > NAMES_SHOWN:
        lines.append(_listed(bad, list_file))
    return lines


def _listed(bad: Mapping[AudioSource, str], list_file: Path) -> str:
    """Write all files with their reasons, and return where."""
    rows = [(str(path).encode(errors="backslashreplace").decode(), bad[path]) for path in bad]
    try:
        make_folder(list_file.parent)
        write_csv(list_file, ("path", "reason"), sorted(rows))
    except RunError as error:
        return f"A list of all {len(bad)} could not be written: {error}"
    return f"All {len(bad)} are listed in {list_file}"
