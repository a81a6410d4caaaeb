"""How long the hidden states of a speech model take to compute; keeps none of them."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from corpora.utterance import Utterance
from storage.speech_store import SpeechStore
from system.text import count_of, format_duration
from training.session import Fold
from training.timed_save import temporary_folder


class StateCosts(NamedTuple):
    """What the hidden states take that a run computes before it trains; zeros without any."""

    per_second: float = 0.0  # seconds for one of audio, reading included
    audio: float = 0.0  # seconds of the recordings that run.store lacks
    n_missing: int = 0  # of these recordings
    in_steps: bool = False  # whether each step computes states anew

    @property
    def total(self) -> float:
        """Seconds of all that are missing."""
        return self.per_second * self.audio

    def describe(self) -> list[str]:
        """Return a line of the report, or none."""
        if not self.per_second:
            return []
        about = f"about {format_duration(self.total)} for {count_of(self.n_missing, 'recording')}"
        missing = f"{about} that run.store lacks" if self.n_missing else "run.store has all"
        anew = "; a step computes its own anew" * self.in_steps
        return [f"states       {self.per_second:.3f} s for a second of audio, {missing}{anew}"]


@contextmanager
def timed_states(
    fold: Fold, some: Sequence[Utterance]
) -> Iterator[tuple[Fold, Sequence[Utterance], StateCosts]]:
    """Compute the hidden states of some utterances, in a folder that is removed again.

    Yields:
        The fold, which reads them there; those of the utterances that are usable; and the costs.
    """
    session, speech = fold.session, fold.session.sources.get("speech")
    if not isinstance(speech, SpeechStore):
        yield fold, some, StateCosts()
        return
    device = session.accelerator.device
    plan, is_trained = session.plan, fold.config.model.speech.is_trained
    with temporary_folder(fold.config) as folder:
        own = speech.emptied(Path(folder))
        session = replace(session, opened={**session.sources, "speech": own})
        start = time.perf_counter()
        session = session.with_built(partial(own.build, device=device), some)
        seconds = time.perf_counter() - start
        usable = [u for u in some if plan.hashes[u.audio] in own.rows]
        audio = sum(plan.recordings[u.audio].seconds for u in usable)
        read = [s.train for s in plan.wanted()] if is_trained else [plan.utterances]
        recordings = {(one := plan.recordings[u.audio]).hash: one for part in read for u in part}
        missing = [one.seconds for key, one in recordings.items() if key not in speech.rows]
        costs = StateCosts(seconds / audio, sum(missing), len(missing), is_trained)
        yield replace(fold, session=session), usable, costs
