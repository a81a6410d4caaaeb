"""How long a training takes, by arithmetic from the times of its parts; measures nothing."""

from dataclasses import dataclass

from training.saver import MINUTES, SHARE, Spacing


@dataclass(frozen=True)
class Costs:
    """Measured seconds on one process."""

    input: float  # to load a training batch
    step: float  # forward, backward and optimizers of a batch
    evaluation: float  # forward of a batch of crops
    copy: float  # of a state to host memory
    write: float  # of the copy to the disk, by a thread
    loaders: int = 0  # processes that load while the device trains; 0 loads in the training process
    is_shared: bool = True  # the thread writes on cores that train

    def waiting(self) -> float:
        """Return the seconds for which a step waits for its batch."""
        return max(0.0, self.input / self.loaders - self.step) if self.loaders else self.input

    def save(self) -> float:
        """Return the seconds that a save takes from training."""
        return self.copy + (self.write if self.is_shared else 0.0)


def epoch_parts(costs: Costs, n_train: int, n_dev: int, spacing: Spacing) -> dict[str, float]:
    """Return the seconds of an epoch by what takes them: input, step, evaluation, checkpoint.

    Args:
        costs: Seconds of each part.
        n_train: Batches of the training split on one process.
        n_dev: Batches of the dev split on one process.
        spacing: How often states are saved.
    """
    parts = {
        "input": n_train * costs.waiting(),
        "step": n_train * costs.step,
        "evaluation": n_dev * costs.evaluation,
    }
    epoch, whole = sum(parts.values()), costs.copy + costs.write
    ends = 1 / spacing.epochs if spacing.epochs else min(1.0, SHARE * epoch / whole)
    apart = 60 * spacing.minutes if spacing.minutes else max(60 * MINUTES, whole / SHARE)
    within = epoch // apart
    n_saves = ends + within if spacing.epochs else max(ends, within)
    parts["checkpoint"] = n_saves * costs.save()
    return parts


def shares(parts: dict[str, float]) -> str:
    """Return the share of each part in words.

    >>> shares({"input": 1.0, "step": 6.0, "evaluation": 2.98, "checkpoint": 0.02})
    'input 10.0 %, step 60.0 %, evaluation 29.8 %, checkpoint 0.2 %'
    """
    whole = sum(parts.values())
    return ", ".join(f"{name} {100 * part / whole:.1f} %" for name, part in parts.items())
