"""What scores must say of their protocol: the stamps that stand above every table."""

from corpora.splits import STAMP
from corpora.unannotated_speakers import STAMP as NOT_NAMED
from corpora.unannotated_speakers import UNANNOTATED

SPEAKER_NORMALIZED = "/speaker-normalized"  # end of the id of a protocol
TRANSDUCTIVE = "TRANSDUCTIVE: uses the tested speaker's unlabelled utterances"


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
    return [STAMP] * speaker_dependent + [NOT_NAMED] * (UNANNOTATED in protocol) + transductive
