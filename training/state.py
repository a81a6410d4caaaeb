"""The state of a training: one dataclass of named fields, saved and loaded whole."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Optimizer

from evaluation.tasks import Task
from models.losses import FusionLoss
from storage.fold_folder import RENAMED
from system.errors import first_line
from system.signals import Stop
from training.average import WeightAverage
from training.checkpoints import Place, Progress
from training.collapse import CollapseMonitor
from training.divergence import is_finite
from training.optim import Schedule, load_optimizer
from training.undo import Undo

LOOK_EVERY = 20  # steps on a GPU before the host reads losses and norms, or a request to end


@dataclass
class TrainingState:
    """A model with everything that trains it.

    Args:
        model: The plain model; returns a `FusionOutput`.
        criterion: Loss of logits, targets and views.
        optimizers: All are stepped together.
        schedule: Moves the learning rates.
        accelerator: Device, precision and processes.
        seed: Base seed; combined with epoch, batch and rank it seeds every step.
        accumulate: Batches of one optimizer step.
        backbone_batch: Utterances that the backbones compute at once, see `gradient_cache`; None is
            the whole batch.
        clip_grad_norm: Largest gradient norm; None does not clip.
        max_bad_steps: Largest number of consecutive steps that may be skipped as not finite.
        names: Utterance ids of the `train` and `dev` splits, for messages.
        stop: Whether the process was asked to end.
        title: Name of the progress bar; empty shows none.
        ema: Decay of the average of the weights that is evaluated; None evaluates the weights.
        task: What is predicted; without one, classes that the outputs number.
    """

    model: nn.Module
    criterion: FusionLoss
    optimizers: Sequence[Optimizer]
    schedule: Schedule
    accelerator: Accelerator
    seed: int = 0
    accumulate: int = 1
    backbone_batch: int | None = None
    clip_grad_norm: float | None = None
    max_bad_steps: int = 3
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    stop: Stop = field(default_factory=Stop)
    title: str = ""
    ema: float | None = None
    task: Task | None = None

    def __post_init__(self) -> None:
        self.wrapped = self.accelerator.prepare(self.model)  # DDP where there are processes
        self.criterion = self.criterion.to(self.accelerator.device)
        self.divisor = self.accelerator.num_processes  # of batches, see `TrainBatches`
        self.progress = Progress()
        self.monitor = CollapseMonitor(self.model)
        self.trained = [*self.model.parameters(), *self.criterion.parameters()]
        self.average = None if self.ema is None else WeightAverage(self.model, self.ema)
        averages = [] if self.average is None else self.average.values
        modules = (self.model, self.criterion)
        self.undo = Undo(modules, self.optimizers, self.schedule, averages)
        on_host = self.accelerator.device.type == "cpu"  # where nothing waits
        self.look_every = 1 if on_host else LOOK_EVERY

    def evaluated(self) -> AbstractContextManager[None]:
        """Let the model have the weights that dev selects: the average, where there is one."""
        return nullcontext() if self.average is None else self.average.in_model()

    def selected_weights(self) -> dict[str, Tensor]:
        """Return the weights that dev selects."""
        return self.model.state_dict() if self.average is None else self.average.averages()

    def state_dict(self) -> dict[str, Any]:
        """Return all that a later process needs to resume.

        There is no random state in it: the draws of a step follow from seed, epoch, batch and rank.
        """
        average = self.average
        averages = {} if average is None else {"average": average.averages()}
        return {
            "progress": vars(self.progress),
            "model": self.model.state_dict() if average is None else average.weights(),
            **averages,
            "criterion": self.criterion.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "schedule": self.schedule.state_dict(),
            "processes": self.accelerator.num_processes,
            "divisor": self.divisor,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state; states of older versions have no criterion.

        Raises:
            ValueError: The state is of another model or version.
        """
        try:
            self.progress = Progress(**{RENAMED.get(k, k): v for k, v in state["progress"].items()})
            self.model.load_state_dict(state["model"])
            self.criterion.load_state_dict(state.get("criterion", self.criterion.state_dict()))
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                load_optimizer(optimizer, saved)
            self.schedule.load_state_dict(state["schedule"])
            if self.average is not None:
                self.average.load(state["average"])
        except (RuntimeError, KeyError, TypeError) as error:
            raise ValueError(first_line(error)) from error
        use_float32(self.model, self.progress.float32)

    def snapshot(self) -> tuple[dict[str, Any], Place] | None:
        """Return state and place, or None where weights are not finite: the last one stays."""
        finite = is_finite(self.model) and is_finite(self.criterion)
        return (self.state_dict(), self.progress.place) if finite else None


def use_float32(model: nn.Module, parts: Sequence[str]) -> None:
    """Let parts of a model compute in float32, whatever precision the others have."""
    model.float32 = frozenset(parts)  # type: ignore[assignment]
