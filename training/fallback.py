"""What follows a step that is not finite: it is skipped, or training falls back to float32."""

import logging
from typing import Any

from models.losses import LossTerms
from training.distributed import from_first
from training.divergence import PARTS, Diverged
from training.saver import CheckpointSaver
from training.state import TrainingState, use_float32

log = logging.getLogger(__name__)


def skip_step(state: TrainingState, incident: dict[str, Any], terms: LossTerms) -> None:
    """Record a step that was not taken; raise after too many in a row."""
    progress = state.progress
    place = {"epoch": progress.epoch + 1, "batch": progress.batch + 1}
    progress.record_skipped_step(place | incident, terms)
    error = Diverged(**incident)
    log.warning(
        "epoch %(epoch)d, batch %(batch)d is skipped: %(error)s; its utterances: %(utterances)s",
        {**place, "error": error, "utterances": ", ".join(error.utterances)},
    )
    if progress.bad_in_row > state.max_bad_steps:
        raise error


def fall_back_to_float32(state: TrainingState, error: Diverged, saver: CheckpointSaver) -> None:
    """Return to the end of the last epoch; from there the parts that failed compute in float32.

    Always an epoch's end, so that what follows does not depend on when a state was saved.

    Raises:
        RunError: The parts were in float32 already, or the data are the cause: it would fail again.
    """
    before = state.progress
    reduced = state.accelerator.mixed_precision != "no"
    suspects = [part for part in error.parts or PARTS if part not in before.float32]
    saved = from_first(saver.load_epoch_end)
    if error.is_data or not reduced or not suspects or saved is None:
        precision = "bfloat16 and in float32 alike" if before.float32 else "float32"
        raise error.because(state.schedule.rates(), precision) from error
    state.load_state_dict(saved)
    state.accelerator.wait_for_everyone()
    progress = state.progress
    fallback = {"epoch": before.epoch + 1, "what": error.what, "float32": suspects}
    fallback["back_to_epoch"] = progress.epoch
    progress.float32_fallbacks = [*before.float32_fallbacks, fallback]
    progress.bad_steps, progress.incidents = before.bad_steps, before.incidents
    progress.float32 = [*before.float32, *suspects]
    use_float32(state.model, progress.float32)
    saver.rewrite()
    log.warning(
        "%s: back to the end of epoch %d, from there with %s in float32",
        error,
        progress.epoch,
        " and ".join(suspects),
    )
