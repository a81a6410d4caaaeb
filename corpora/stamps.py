"""What scores must say of their protocol: the stamps that stand above every table."""

from corpora.splits import SPEAKERS_UNKNOWN, STAMP
from corpora.unannotated_speakers import STAMP as NOT_NAMED
from corpora.unannotated_speakers import UNANNOTATED

SPEAKER_NORMALIZED = "/speaker-normalized"  # end of the id of a protocol
TRANSDUCTIVE = "TRANSDUCTIVE: uses the tested speaker's unlabelled utterances"
UNKNOWN_ORIGIN = (
    "UNKNOWN-ORIGIN: training started from a model of which nobody knows what trained it, so that "
    "tested utterances or speakers may be among that"
)
STAMP_UNKNOWN = "SPEAKER-DEPENDENT: nobody knows the speakers, train and test may share them"


def is_transductive(protocol: str) -> bool:
    """Return whether a protocol reads the tested speakers' unlabelled utterances.

    >>> is_transductive("ravdess8/speaker-6-fold/dev-fold/all/speaker-normalized")
    True
    """
    return protocol.endswith(SPEAKER_NORMALIZED)


def stamps(protocol: str, speaker_dependent: bool) -> list[str]:
    """Return the stamps of scores.

    Args:
        protocol: Id of their protocol.
        speaker_dependent: Whether the same speakers are in train and test.
    """
    transductive = [TRANSDUCTIVE] * is_transductive(protocol)
    stamp = speaker_stamp(protocol)
    return [stamp] * speaker_dependent + [NOT_NAMED] * (UNANNOTATED in protocol) + transductive


def speaker_stamp(protocol: str) -> str:
    """Return the stamp of a protocol by which speakers are, or may be, in train and test."""
    return STAMP_UNKNOWN if SPEAKERS_UNKNOWN in protocol else STAMP
