"""utterances.csv of a run folder: what the corpus says of each utterance, and its audio hash."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from corpora.segments import TIME_COLUMNS, segment_cells
from corpora.several import path_in_corpus
from system.files import write_csv

if TYPE_CHECKING:
    from corpora.plan import Plan

UTTERANCES = "utterances.csv"
UTTERANCE_COLUMNS = "utterance speaker gender session portion text seconds path audio".split()


def write_utterances(folder: Path, plan: "Plan") -> None:
    """Write the table; columns `start` and `end` only where some utterances are segments."""
    segments = segment_cells(plan.utterances)
    columns = [*UTTERANCE_COLUMNS, *(TIME_COLUMNS if segments else ())]
    write_csv(folder / UTTERANCES, columns, _utterance_rows(plan, segments))


def _utterance_rows(plan: "Plan", segments: Mapping[str, Sequence[str]]) -> Iterator[Sequence[Any]]:
    """Yield the rows of utterances.csv; paths are relative to the root of their corpus if in it."""
    for u in sorted(plan.utterances, key=lambda u: u.id):
        recording = plan.recordings[u.audio]
        path = path_in_corpus(plan.config, u)
        facts = (u.speaker, u.gender, u.session, u.portion, u.text_id)
        about = [*(fact or "" for fact in facts), f"{recording.seconds:.3f}", path.as_posix()]
        yield [u.id, *about, recording.hash, *segments.get(u.id, ())]
