"""Who is trained on, who selects, who is tested."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from corpora.readers import Utterance
from system.errors import InputError, nearest

# split -> the dev splits that go with it, the usual one first
DEV_OF_SPLIT = {
    "leave-one-session-out": ("session",),
    "leave-one-speaker-out": ("speaker",),
    "speaker-k-fold": ("fold", "speakers"),
    "random-utterance": ("random",),
}
TAKES_N_FOLDS = ("speaker-k-fold", "random-utterance")
MIN_GROUPS = 3  # one each for train, dev and test
RANDOM_SEED = 20  # of random-utterance; fixed, so that the folds never move
SPEAKER_DEPENDENT = "SPEAKER-DEPENDENT"
STAMP = "SPEAKER-DEPENDENT: the same speakers are in train and test"


@dataclass(frozen=True)
class Split:
    """One fold: `fold` counts from 1; the three parts share no utterance."""

    fold: int
    train: tuple[Utterance, ...]
    dev: tuple[Utterance, ...]
    test: tuple[Utterance, ...]

    def parts(self) -> Iterator[tuple[str, tuple[Utterance, ...]]]:
        """Iterate over ("train", utterances), ("dev", ...), ("test", ...)."""
        yield from (("train", self.train), ("dev", self.dev), ("test", self.test))


def make_splits(
    utterances: Iterable[Utterance],
    split: str,
    dev: str | None,
    n_folds: int | None,
    hashes: Mapping[Path, str],
    allow_speaker_overlap: bool,
) -> list[Split]:
    """Split into folds; over all folds every utterance is tested exactly once.

    Args:
        utterances: Labelled with class names.
        split: `leave-one-session-out`: test session k, dev session k mod n + 1.
            `leave-one-speaker-out`: each speaker in turn; dev is the rest of the speaker's session,
            or the next speaker where the corpus has no sessions.
            `speaker-k-fold`: fixed groups of speakers, balanced by gender; dev is the next group
            (`fold`) or one speaker of each gender from it (`speakers`).
            `random-utterance`: speaker-dependent; dev is the next part.
        dev: None is the usual one of the split.
        n_folds: Number of folds of `speaker-k-fold` and `random-utterance`; None for the others.
        hashes: Recording of each path; `random-utterance` keeps equal ones together.
        allow_speaker_overlap: Must be True for `random-utterance`, False for the others.

    Raises:
        InputError: The settings do not go together, the corpus lacks what the split needs, or a
            class is missing from a training part.
    """
    utterances = sorted(utterances, key=lambda utterance: utterance.id)
    dev = check_settings(split, dev, n_folds)
    _check_overlap(split, allow_speaker_overlap)
    if split == "leave-one-session-out":
        splits = _leave_one_session_out(utterances)
    elif split == "leave-one-speaker-out":
        splits = _leave_one_speaker_out(utterances)
    elif split == "speaker-k-fold":
        splits = _speaker_k_fold(utterances, n_folds or 0, whole_group=dev == "fold")
    else:
        splits = _random_utterance(utterances, n_folds or 0, hashes)
    check_train_classes(splits)
    return splits


def get_fold(splits: Sequence[Split], fold: int) -> Split:
    """Look up a fold by its number, which counts from 1."""
    for split in splits:
        if split.fold == fold:
            return split
    raise InputError(f"fold must be in 1..{len(splits)}, got {fold}")


def check_settings(split: str, dev: str | None, n_folds: int | None) -> str:
    """Refuse settings that do not go together; give the dev split."""
    if split not in DEV_OF_SPLIT:
        raise InputError(f"protocol.split {split!r} is not known; {nearest(split, DEV_OF_SPLIT)}")
    if dev is not None and dev not in DEV_OF_SPLIT[split]:
        raise InputError(
            f"protocol.dev {dev!r} does not go with {split}; {nearest(dev, DEV_OF_SPLIT[split])}"
        )
    if split in TAKES_N_FOLDS and (n_folds is None or n_folds < MIN_GROUPS):
        raise InputError(
            f"{split} needs protocol.n_folds, at least {MIN_GROUPS} (train, dev, test), "
            f"got {n_folds}"
        )
    if split not in TAKES_N_FOLDS and n_folds is not None:
        raise InputError(
            f"protocol.n_folds={n_folds} has no meaning for {split}, which has a fold for each "
            f"session or speaker; leave it out, or use {' or '.join(TAKES_N_FOLDS)}"
        )
    return dev or DEV_OF_SPLIT[split][0]


def _check_overlap(split: str, allow_speaker_overlap: bool) -> None:
    if split == "random-utterance" and not allow_speaker_overlap:
        raise InputError(
            "random-utterance puts the same speakers into train and test: its scores say nothing "
            "about unheard speakers. Use speaker-k-fold, or set "
            f"protocol.allow_speaker_overlap=true and have every table say {SPEAKER_DEPENDENT}"
        )
    if split != "random-utterance" and allow_speaker_overlap:
        raise InputError(
            f"protocol.allow_speaker_overlap has no effect on {split}, which keeps speakers apart; "
            "leave it out"
        )


def _leave_one_session_out(utterances: list[Utterance]) -> list[Split]:
    if not _has_sessions(utterances):
        raise InputError(
            "leave-one-session-out needs sessions and this corpus has none; use speaker-k-fold"
        )
    sessions = sorted({utterance.session or "" for utterance in utterances})
    _check_number(MIN_GROUPS, "sessions", sessions)
    return _rotate(utterances, len(sessions), lambda one: sessions.index(one.session or ""))


def _leave_one_speaker_out(utterances: list[Utterance]) -> list[Split]:
    speakers = sorted({utterance.speaker for utterance in utterances})
    _check_number(MIN_GROUPS, "speakers", speakers)
    if not _has_sessions(utterances):
        return _rotate(utterances, len(speakers), lambda one: speakers.index(one.speaker))
    home_of = _home_sessions(utterances)
    splits = []
    for fold, speaker in enumerate(speakers, start=1):
        home = [one for one in utterances if one.session == home_of[speaker]]
        splits.append(
            Split(
                fold,
                train=tuple(one for one in utterances if one.session != home_of[speaker]),
                dev=tuple(one for one in home if one.speaker != speaker),
                test=tuple(one for one in home if one.speaker == speaker),
            )
        )
    return splits


def _home_sessions(utterances: list[Utterance]) -> dict[str, str]:
    """Map each speaker to the only session of theirs, which they must share with another."""
    pairs = sorted({(one.speaker, one.session or "") for one in utterances})
    speaker_counts = Counter(session for _, session in pairs)
    session_counts = Counter(speaker for speaker, _ in pairs)
    _check_number(2, "sessions", sorted(speaker_counts))
    for speaker, session in pairs:
        if session_counts[speaker] > 1 or speaker_counts[session] < 2:
            raise InputError(
                "leave-one-speaker-out tests one speaker of a session and selects on the others, "
                f"so each speaker must be in one session and not alone there; {speaker} is "
                f"{'alone in' if speaker_counts[session] < 2 else 'in more than'} {session}. "
                "Use leave-one-session-out or speaker-k-fold"
            )
    return dict(pairs)


def _speaker_k_fold(utterances: list[Utterance], n_folds: int, whole_group: bool) -> list[Split]:
    gender_of = _genders(utterances)
    groups = _group_speakers(gender_of, n_folds)
    group_of = {speaker: index for index, group in enumerate(groups) for speaker in group}
    if whole_group:
        return _rotate(utterances, n_folds, lambda one: group_of[one.speaker])
    splits = []
    for fold, tested in enumerate(groups, start=1):
        following = groups[fold % n_folds]
        first_of = {gender_of[speaker]: speaker for speaker in reversed(following)}
        selecting = set(first_of.values())
        splits.append(
            Split(
                fold,
                train=tuple(u for u in utterances if u.speaker not in selecting.union(tested)),
                dev=tuple(u for u in utterances if u.speaker in selecting),
                test=tuple(u for u in utterances if u.speaker in tested),
            )
        )
    return splits


def _genders(utterances: list[Utterance]) -> dict[str, str]:
    """Map each speaker to F, M, or "" where it is unknown."""
    gender_of: dict[str, str] = {}
    for utterance in utterances:
        gender = utterance.gender or ""
        if gender_of.setdefault(utterance.speaker, gender) != gender:
            raise InputError(
                f"speaker {utterance.speaker} has two genders, the second at {utterance.id}; "
                "correct the corpus, or leave genders out"
            )
    return gender_of


def _group_speakers(gender_of: Mapping[str, str], n_folds: int) -> list[list[str]]:
    """Deal each gender's sorted speakers in contiguous chunks; what is left over fills up.

    RAVDESS in six: actors 1-4, 5-8, ... since odd numbers are men and even ones women.
    """
    _check_number(n_folds, "speakers", sorted(gender_of))
    groups: list[list[str]] = [[] for _ in range(n_folds)]
    for gender in sorted(set(gender_of.values())):
        speakers = sorted(speaker for speaker in gender_of if gender_of[speaker] == gender)
        share, left_over = divmod(len(speakers), n_folds)
        smallest = sorted(range(n_folds), key=lambda index: len(groups[index]))[:left_over]
        queue = iter(speakers)
        for index, group in enumerate(groups):
            group.extend(next(queue) for _ in range(share + (index in smallest)))
    return [sorted(group) for group in groups]


def _random_utterance(
    utterances: list[Utterance], n_folds: int, hashes: Mapping[Path, str]
) -> list[Split]:
    """Deal recordings to the parts, class by class, in an order drawn from the fixed seed."""
    classes: dict[str, set[str]] = defaultdict(set)
    for utterance in utterances:
        classes[utterance.label].add(recording_of(utterance, hashes))
    part_of: dict[str, int] = {}
    for name in sorted(classes):
        fresh = [recording for recording in classes[name] if recording not in part_of]
        for recording in sorted(fresh, key=_drawn):
            part_of[recording] = len(part_of) % n_folds
    _check_number(n_folds, "different recordings", sorted(part_of))
    return _rotate(utterances, n_folds, lambda one: part_of[recording_of(one, hashes)])


def _drawn(recording: str) -> str:
    return hashlib.sha256(f"{RANDOM_SEED}:{recording}".encode()).hexdigest()


def _rotate(
    utterances: list[Utterance], n_groups: int, group_of: Callable[[Utterance], int]
) -> list[Split]:
    """Test group k, select on group k mod n + 1, train on the others."""
    groups: list[list[Utterance]] = [[] for _ in range(n_groups)]
    for utterance in utterances:
        groups[group_of(utterance)].append(utterance)
    splits = []
    for test in range(n_groups):
        dev = (test + 1) % n_groups
        train = [one for i, group in enumerate(groups) if i not in (test, dev) for one in group]
        splits.append(Split(test + 1, tuple(train), tuple(groups[dev]), tuple(groups[test])))
    return splits


def _has_sessions(utterances: Sequence[Utterance]) -> bool:
    without = [utterance.id for utterance in utterances if utterance.session is None]
    if without and len(without) < len(utterances):
        raise InputError(
            f"{len(without)} of {len(utterances)} utterances have no session, the first is "
            f"{without[0]}; name the session of all or of none"
        )
    return not without


def _check_number(needed: int, what: str, found: Sequence[str]) -> None:
    if len(found) < needed:
        raise InputError(
            f"this protocol needs at least {needed} {what}, one for each fold, and there are "
            f"{len(found)}: {', '.join(found) or 'none'}"
        )


def recording_of(utterance: Utterance, hashes: Mapping[Path, str]) -> str:
    """Look up what tells whether two files are the same recording."""
    if utterance.path not in hashes:
        raise ValueError(f"no audio hash for {utterance.path}: hash every utterance before a split")
    return hashes[utterance.path]


def check_train_classes(splits: Sequence[Split]) -> None:
    """Refuse folds that would train without one of their classes."""
    for split in splits:
        classes = {one.label for _, part in split.parts() for one in part}
        if missing := sorted(classes - {one.label for one in split.train}):
            raise InputError(
                f"fold {split.fold} would train without {', '.join(missing)}; use fewer folds, "
                "another protocol.split, or fewer corpus.labels"
            )
