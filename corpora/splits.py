"""Divide a corpus into folds: utterances to train on, to select the best epoch on, and to test."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from audio.segment import AudioSource
from config.effects import CLASSES_KEY
from config.several import CROSS_CORPUS
from corpora.given import GIVEN, given_column, given_folds, given_parts
from corpora.utterance import NO_SPEAKER, Utterance
from system.errors import InputError, nearest

# protocol.split -> allowed values of protocol.dev, the default first
DEV_OF_SPLIT = {
    "leave-one-session-out": ("session",),
    "leave-one-speaker-out": ("speaker",),
    "speaker-k-fold": ("fold", "speakers"),
    "random-utterance": ("random",),
    GIVEN: ("given",),  # with protocol.folds also `DEV_OF_FOLDS`
    CROSS_CORPUS: ("speakers",),  # made by `several.cross_corpus_splits`
}
DEV_OF_FOLDS = ("fold", "speakers", "dialogs", "random")
TAKES_N_FOLDS = ("speaker-k-fold", "random-utterance")
MIN_GROUPS = 3  # for train, dev and test
RANDOM_SEED = 20  # of random-utterance; fixed, so that the folds never change
SPEAKER_DEPENDENT = "SPEAKER-DEPENDENT"
SPEAKERS_UNKNOWN = "SPEAKERS-UNKNOWN"  # after it in the id, where nobody knows who speaks
LONE = 0.9  # share of utterances with a speaker of their own from which results say so
STAMP = "SPEAKER-DEPENDENT: the same speakers are in train and test"


@dataclass(frozen=True)
class Split:
    """One fold, numbered from 1; train, dev and test share no utterance."""

    fold: int
    train: tuple[Utterance, ...]
    dev: tuple[Utterance, ...]
    test: tuple[Utterance, ...]

    def parts(self) -> Iterator[tuple[str, tuple[Utterance, ...]]]:
        """Iterate over ("train", utterances), ("dev", ...), ("test", ...)."""
        yield from (("train", self.train), ("dev", self.dev), ("test", self.test))


def everyone(splits: Sequence[Split]) -> list[Utterance]:
    """Return every utterance of some folds once, sorted by id."""
    by_id = {u.id: u for split in splits for _, part in split.parts() for u in part}
    return [by_id[utterance_id] for utterance_id in sorted(by_id)]


def make_splits(
    utterances: Iterable[Utterance],
    split: str,
    dev: str | None,
    n_folds: int | None,
    hashes: Mapping[AudioSource, str],
    allow_speaker_overlap: bool,
) -> list[Split]:
    """Divide a corpus into folds; each utterance is tested once, except where the list says not.

    Args:
        utterances: All utterances, labelled with class names.
        split: `leave-one-session-out`: test session k, dev session k mod n + 1.
            `leave-one-speaker-out`: test each speaker in turn; dev is the rest of the speaker's
            session, or the next speaker if the corpus has no sessions.
            `speaker-k-fold`: fixed groups of speakers, balanced by gender; dev is the next group
            (`fold`) or one speaker of each gender from it (`speakers`).
            `random-utterance`: speaker-dependent random groups; dev is the next group.
            `given`: as the manifest says. A column `split` is one fold, of train, dev and test. A
            column `fold` has one fold a value: it is tested, and dev is the next one.
        dev: Value of `protocol.dev`; None is the default of the split.
        n_folds: Number of folds of `speaker-k-fold` and `random-utterance`; None for the others.
        hashes: Hash of each file or segment; `random-utterance` keeps equal recordings in one
            group. The other splits do not read it.
        allow_speaker_overlap: Must be True for `random-utterance`, and for `given` where nobody
            knows the speakers; False for the others.

    Raises:
        InputError: The settings contradict each other, the corpus lacks what the split needs, or a
            class is missing from a training split.
    """
    utterances = sorted(utterances, key=lambda utterance: utterance.id)
    dev = check_settings(split, dev, n_folds)
    unknown = bool(utterances) and all(u.speaker == NO_SPEAKER for u in utterances)
    _check_overlap(split, allow_speaker_overlap, unknown)
    if split == "leave-one-session-out":
        splits = _leave_one_session_out(utterances)
    elif split == "leave-one-speaker-out":
        splits = _leave_one_speaker_out(utterances)
    elif split == "speaker-k-fold":
        splits = _speaker_k_fold(utterances, n_folds or 0, whole_group=dev == "fold")
    elif split == GIVEN:
        splits = _given(utterances)
    elif split == "random-utterance":
        splits = _random_utterance(utterances, n_folds or 0, hashes)
    else:
        raise ValueError(f"{split} divides several corpora, see several.cross_corpus_splits")
    check_train_classes(splits)
    return splits


def get_fold(splits: Sequence[Split], fold: int) -> Split:
    """Look up a fold by its number, which counts from 1."""
    for split in splits:
        if split.fold == fold:
            return split
    raise InputError(f"fold must be in 1..{len(splits)}, got {fold}")


def check_settings(split: str, dev: str | None, n_folds: int | None) -> str:
    """Refuse settings that contradict each other; return the value of `protocol.dev`."""
    if split not in DEV_OF_SPLIT:
        raise InputError(f"protocol.split {split!r} is not known; {nearest(split, DEV_OF_SPLIT)}")
    if dev is not None and dev not in DEV_OF_SPLIT[split]:
        more = f" (with protocol.folds also {', '.join(DEV_OF_FOLDS)})" if split == GIVEN else ""
        raise InputError(
            f"protocol.dev {dev!r} does not go with {split}; {nearest(dev, DEV_OF_SPLIT[split])}"
            f"{more}"
        )
    if split in TAKES_N_FOLDS and (n_folds is None or n_folds < MIN_GROUPS):
        raise InputError(
            f"{split} needs protocol.n_folds of at least {MIN_GROUPS} (train, dev, test), "
            f"got {n_folds}"
        )
    if split not in TAKES_N_FOLDS and n_folds is not None:
        raise InputError(
            f"protocol.n_folds={n_folds} has no effect on {split}, whose folds the corpus decides; "
            f"leave it out, or use {' or '.join(TAKES_N_FOLDS)}"
        )
    return dev or DEV_OF_SPLIT[split][0]


def _check_overlap(split: str, allow_speaker_overlap: bool, unknown: bool) -> None:
    if split == "random-utterance" and not allow_speaker_overlap:
        raise InputError(
            "random-utterance puts the same speakers into train and test: its scores say nothing "
            "about new speakers. Use speaker-k-fold, or set protocol.allow_speaker_overlap=true "
            f"and every table is marked {SPEAKER_DEPENDENT}"
        )
    may_share = split == "random-utterance" or (split == GIVEN and unknown)
    if allow_speaker_overlap and not may_share:
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
    return _rotate(utterances, len(sessions), lambda u: sessions.index(u.session or ""))


def _leave_one_speaker_out(utterances: list[Utterance]) -> list[Split]:
    speakers = sorted({utterance.speaker for utterance in utterances})
    _check_number(MIN_GROUPS, "speakers", speakers)
    if not _has_sessions(utterances):
        return _rotate(utterances, len(speakers), lambda u: speakers.index(u.speaker))
    home_of = _home_sessions(utterances)
    splits = []
    for fold, speaker in enumerate(speakers, start=1):
        home = [u for u in utterances if u.session == home_of[speaker]]
        splits.append(
            Split(
                fold,
                train=tuple(u for u in utterances if u.session != home_of[speaker]),
                dev=tuple(u for u in home if u.speaker != speaker),
                test=tuple(u for u in home if u.speaker == speaker),
            )
        )
    return splits


def _home_sessions(utterances: list[Utterance]) -> dict[str, str]:
    """Map each speaker to their session; it must be their only one and have another speaker."""
    pairs = sorted({(u.speaker, u.session or "") for u in utterances})
    speaker_counts = Counter(session for _, session in pairs)
    session_counts = Counter(speaker for speaker, _ in pairs)
    _check_number(2, "sessions", sorted(speaker_counts))
    for speaker, session in pairs:
        if session_counts[speaker] > 1 or speaker_counts[session] < 2:
            raise InputError(
                "leave-one-speaker-out tests one speaker of a session and selects on its others, "
                f"so each speaker must be in one session with at least one other; {speaker} is "
                f"{'alone in' if speaker_counts[session] < 2 else 'in more than'} {session}. "
                "Use leave-one-session-out or speaker-k-fold"
            )
    return dict(pairs)


def _speaker_k_fold(utterances: list[Utterance], n_folds: int, whole_group: bool) -> list[Split]:
    gender_of = _genders(utterances)
    groups = _group_speakers(gender_of, n_folds)
    group_of = {speaker: index for index, group in enumerate(groups) for speaker in group}
    if whole_group:
        return _rotate(utterances, n_folds, lambda u: group_of[u.speaker])
    splits = []
    for fold, test_speakers in enumerate(groups, start=1):
        next_group = groups[fold % n_folds]
        first_of = {gender_of[speaker]: speaker for speaker in reversed(next_group)}
        dev_speakers = set(first_of.values())
        splits.append(
            Split(
                fold,
                train=tuple(
                    u for u in utterances if u.speaker not in dev_speakers.union(test_speakers)
                ),
                dev=tuple(u for u in utterances if u.speaker in dev_speakers),
                test=tuple(u for u in utterances if u.speaker in test_speakers),
            )
        )
    return splits


def _genders(utterances: list[Utterance]) -> dict[str, str]:
    """Map each speaker to F, M, or "" if the gender is unknown."""
    gender_of: dict[str, str] = {}
    for utterance in utterances:
        gender = utterance.gender or ""
        if gender_of.setdefault(utterance.speaker, gender) != gender:
            raise InputError(
                f"speaker {utterance.speaker} has two genders, the second at {utterance.id}; "
                "correct the corpus, or leave all genders out"
            )
    return gender_of


def _group_speakers(gender_of: Mapping[str, str], n_folds: int) -> list[list[str]]:
    """Divide the sorted speakers of each gender into contiguous chunks of nearly equal size.

    If a gender does not divide evenly, the smallest groups so far get one speaker more. RAVDESS in
    six groups gives actors 1-4, 5-8, ..., since odd numbers are men and even numbers women.
    """
    _check_number(n_folds, "speakers", sorted(gender_of))
    groups: list[list[str]] = [[] for _ in range(n_folds)]
    for gender in sorted(set(gender_of.values())):
        speakers = sorted(speaker for speaker in gender_of if gender_of[speaker] == gender)
        share, remainder = divmod(len(speakers), n_folds)
        smallest = sorted(range(n_folds), key=lambda index: len(groups[index]))[:remainder]
        queue = iter(speakers)
        for index, group in enumerate(groups):
            group.extend(next(queue) for _ in range(share + (index in smallest)))
    return [sorted(group) for group in groups]


def _random_utterance(
    utterances: list[Utterance], n_folds: int, hashes: Mapping[AudioSource, str]
) -> list[Split]:
    """Assign recordings to groups in turn, class by class, in an order fixed by RANDOM_SEED."""
    recordings: dict[str, set[str]] = defaultdict(set)  # class -> recordings
    for utterance in utterances:
        recordings[utterance.label].add(recording_of(utterance, hashes))
    group_of: dict[str, int] = {}
    for name in sorted(recordings):
        unassigned = [recording for recording in recordings[name] if recording not in group_of]
        for recording in sorted(unassigned, key=_random_key):
            group_of[recording] = len(group_of) % n_folds
    _check_number(n_folds, "different recordings", sorted(group_of))
    return _rotate(utterances, n_folds, lambda u: group_of[recording_of(u, hashes)])


def _given(utterances: list[Utterance]) -> list[Split]:
    if given_column(utterances) == "split":
        parts = given_parts(utterances)
        return [Split(1, *(tuple(parts[name]) for name in ("train", "dev", "test")))]
    folds = given_folds(utterances)
    return _rotate(utterances, len(folds), lambda u: folds.index(u.fold or ""))


def _random_key(recording: str) -> str:
    """Return a sort key that is random but the same on any machine."""
    return hashlib.sha256(f"{RANDOM_SEED}:{recording}".encode()).hexdigest()


def _rotate(
    utterances: list[Utterance], n_groups: int, group_of: Callable[[Utterance], int]
) -> list[Split]:
    """Make one fold per group: test group k, select on group k mod n + 1, train on the others."""
    groups: list[list[Utterance]] = [[] for _ in range(n_groups)]
    for utterance in utterances:
        groups[group_of(utterance)].append(utterance)
    splits = []
    for test in range(n_groups):
        dev = (test + 1) % n_groups
        train = [u for i, group in enumerate(groups) if i not in (test, dev) for u in group]
        splits.append(Split(test + 1, tuple(train), tuple(groups[dev]), tuple(groups[test])))
    return splits


def _has_sessions(utterances: Sequence[Utterance]) -> bool:
    without = [utterance.id for utterance in utterances if utterance.session is None]
    if without and len(without) < len(utterances):
        raise InputError(
            f"{len(without)} of {len(utterances)} utterances have no session, the first is "
            f"{without[0]}; give all utterances a session, or none"
        )
    return not without


def _check_number(needed: int, what: str, names: Sequence[str]) -> None:
    if len(names) < needed:
        raise InputError(
            f"this protocol needs at least {needed} {what}, one per fold, but there are "
            f"{len(names)}: {', '.join(names) or 'none'}. Use another protocol.split, or a smaller "
            "protocol.n_folds"
        )


def recording_of(utterance: Utterance, hashes: Mapping[AudioSource, str]) -> str:
    """Return the hash of an utterance's recording; equal hashes mean the same samples."""
    if utterance.audio not in hashes:
        raise ValueError(
            f"no audio hash for {utterance.audio}: hash every utterance before a split"
        )
    return hashes[utterance.audio]


def check_train_classes(splits: Sequence[Split]) -> None:
    """Refuse folds whose training split lacks a class that dev or test has."""
    for split in splits:
        classes = {u.label for _, part in split.parts() for u in part}
        if missing := sorted(classes - {u.label for u in split.train}):
            raise InputError(
                f"fold {split.fold} would train without {', '.join(missing)}; use fewer folds, "
                f"another protocol.split, or fewer {CLASSES_KEY}"
            )
