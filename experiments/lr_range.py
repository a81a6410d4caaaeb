"""Learning-rate range test (Smith 2017): train while the rate grows, and judge the config's rate.

`experiments/usable_range.py` derives which rates are usable.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from config.loading import dump_config
from config.schema import Config
from experiments.usable_range import N_FIRST, Reading, Sweep, judge, mean_sweep, read_sweep, sweep
from storage.folders import CONFIG, RANGE_TEST
from system.errors import InputError

if TYPE_CHECKING:
    from training.build import Training

STEPS_PER_DECADE = 10  # at least: the smoothing reaches over some ten steps to each side
MAX_STEPS, MAX_REPEATS, MAX_RATE = 100_000, 100, 1e6


def run_range_test(
    config: Config, lowest: float = 1e-7, highest: float = 1.0, steps: int = 200, repeats: int = 3
) -> str:
    """Run the test with some seeds, write its table and figure, and return the answer.

    Args:
        config: Config of the model; the first of `run.folds` and the first seed are used.
        lowest: Rate of the head at the first step; the backbones' are in proportion.
        highest: Rate of the head at the last step.
        steps: Number of steps.
        repeats: Number of seeds, counted from the first.

    Raises:
        InputError: Rates or steps make no test, or the corpus is wrong.
        RunError: A file cannot be written.
    """
    _check_arguments(lowest, highest, steps, repeats)
    folder = Path(config.run.root) / f"{config.name}_lr_range"
    if folder.exists() and any(folder.iterdir()) and not (folder / RANGE_TEST).is_file():
        reason = f"no {RANGE_TEST} in it"
        raise InputError(f"{folder} is not a range test ({reason}): change name or run.root")
    config = _without_schedule(config)
    seeds = [config.run.seeds[0] + i for i in range(repeats)]
    rates = np.geomspace(lowest, highest, steps).tolist()
    sweeps = [sweep(step, rates) for step in _steppers(config, seeds)]
    return _publish(folder, config, seeds, sweeps)


def _check_arguments(lowest: float, highest: float, steps: int, repeats: int) -> None:
    if not 0 < lowest < highest <= MAX_RATE or not 1 <= repeats <= MAX_REPEATS:
        raise InputError(
            f"--lowest must be above 0 and below --highest, which is at most {MAX_RATE:g}, and "
            f"--repeats 1 to {MAX_REPEATS}; got {lowest:g}, {highest:g}, {repeats}"
        )
    least = max(2 * N_FIRST + 1, math.ceil(STEPS_PER_DECADE * math.log10(highest / lowest)))
    if not least <= steps <= MAX_STEPS:
        raise InputError(
            f"--steps must be {least} to {MAX_STEPS} from {lowest:g} to {highest:g}, "
            f"{STEPS_PER_DECADE} at least for a tenfold rate; got {steps}"
        )


def _without_schedule(config: Config) -> Config:
    """Return the config with one fold, and rates that only the test changes."""
    constant = {"schedule": "constant", "warmup_epochs": None, "min_lr": None}
    constant |= {"plateau_factor": None, "plateau_patience": None}
    sections = {
        "optim": config.optim.model_copy(update=constant),
        "train": config.train.model_copy(update={"max_bad_steps": 0}),
        "run": config.run.model_copy(update={"folds": (config.run.folds or [1])[:1]}),
    }
    return config.model_copy(update=sections)


def _steppers(config: Config, seeds: Sequence[int]) -> Iterator[Callable[[float], float]]:
    """Yield the step function of one training per seed: learning rate -> loss."""
    from corpora.plan import make_tuning_plan
    from training.build import build_training
    from training.device_errors import explain_device_errors
    from training.experiment import check_model, check_places
    from training.session import open_session
    from training.stream import check_shards
    from training.warm_start import check_origins, find_origins

    check_places(config)
    check_shards(config)
    check_model(config)
    plan = make_tuning_plan(config, keep=True, with_dev=False)
    check_origins(config, plan)
    session = open_session(config, plan)
    for seed in seeds:
        fold = session.fold(session.plan.splits[0], seed)
        with explain_device_errors(config, session.accelerator.device):
            training = build_training(fold, find_origins(fold))
        yield _stepper(training, config)
        session.accelerator.free_memory()


def _stepper(training: "Training", config: Config) -> Callable[[float], float]:
    """Return the step function of a training: learning rate -> loss."""
    import torch
    from accelerate.utils import set_seed

    from training.device_errors import explain_device_errors
    from training.divergence import Diverged
    from training.engine import in_windows, train_step

    state, loader, _ = training
    groups = [group for optimizer in state.optimizers for group in optimizer.param_groups]
    scales = [group["lr"] / config.optim.lr for group in groups]
    set_seed(state.seed)

    def batches() -> Iterator[list]:
        for epoch in range(10**9):
            loader.batch_sampler.set_epoch(epoch, 0)  # type: ignore[union-attr]
            yield from in_windows(loader, config.train.accumulate)

    windows = batches()

    def loss_at(rate: float) -> float:
        for group, scale in zip(groups, scales, strict=True):
            is_tensor = torch.is_tensor(group["lr"])
            group["lr"] = torch.tensor(rate * scale) if is_tensor else rate * scale
        try:
            with explain_device_errors(config, state.accelerator.device):
                step = train_step(state, next(windows))
        except Diverged:
            return math.nan
        return float(np.mean([float(terms["total"]) for terms in step.losses]))

    return loss_at


def _publish(folder: Path, config: Config, seeds: Sequence[int], sweeps: Sequence[Sweep]) -> str:
    """Write the folder of the test; return the answer."""
    from system.files import make_folder, write_csv, write_json, write_text

    make_folder(folder)
    mean, lr = mean_sweep(sweeps), config.optim.lr
    reading = read_sweep(mean)
    verdict, reason = judge(lr, mean, reading)
    answer = _answer(config, seeds, reading, verdict, reason)
    about: dict[str, Any] = {
        "optim.lr": lr,
        "optimizer": config.optim.optimizer.model_dump(),
        "verdict": verdict,
        "reason": reason,
        "seeds": list(seeds),
        **reading._asdict(),
        "answer": answer.splitlines(),
    }
    write_json(folder / RANGE_TEST, about)  # first: now it is a range test
    rows = [
        [seed, n, *row]
        for seed, test in zip(seeds, sweeps, strict=True)
        for n, row in enumerate(zip(*test[:3], strict=True), start=1)
    ]
    write_csv(folder / "lr_range.csv", ["seed", "step", "rate", "loss", "smoothed"], rows)
    write_text(folder / CONFIG, dump_config(config))
    marks = {f"optim.lr = {lr:g}": lr, "steepest fall": reading.steepest_at}
    if reading.diverged_at is not None:
        marks["first divergence"] = reading.diverged_at
    draw_sweep(folder / "lr_range.png", sweeps, mean, marks, reading.band)
    return f"{answer}\nFigure and numbers: {folder}/lr_range.png, .csv and .json"


def _answer(
    config: Config, seeds: Sequence[int], reading: Reading, verdict: str, reason: str
) -> str:
    optimizers = sorted({name for name in config.optim.optimizer.model_dump().values() if name})
    n_seeds = "one seed only" if len(seeds) == 1 else f"mean of {len(seeds)} seeds"
    line = f"optim.lr={config.optim.lr:g} is {verdict} for {config.name} "
    line += f"({', '.join(optimizers)}), {n_seeds}: {reason}."
    if reading.band is None:
        why = "the loss does not fall by 5 % before it rises: --steps may be too few"
        return f"{line}\nNo rate is usable; {why}."
    usable = "{:.2g} to {:.2g}".format(*reading.band)
    return f"{line}\nUsable: {usable}; the loss falls fastest at {reading.steepest_at:.2g}."


def draw_sweep(
    file: Path,
    sweeps: Sequence[Sweep],
    mean: Sweep,
    marks: Mapping[str, float],
    band: Sequence[float] | None,
) -> None:
    """Draw the smoothed loss by the learning rate, that of each seed and their losses behind it.

    Args:
        file: PNG file to write.
        sweeps: One sweep per seed.
        mean: Mean of the sweeps.
        marks: Rates to mark with a line, by name.
        band: Lowest and highest usable rate, shaded; None for none.
    """
    import matplotlib
    from matplotlib.figure import Figure

    from evaluation.figures import COLOURS, GRID, INK, STYLE
    from system.files import atomic_write

    blue, orange, green, *_ = COLOURS
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 3.8), layout="constrained")
        axes = figure.subplots()
        for i, (rates, losses, smooth, _) in enumerate(sweeps):
            axes.plot(rates, losses, color=GRID, linewidth=0.8, zorder=1)
            label = "each seed" if i == 0 and len(sweeps) > 1 else None
            axes.plot(rates, smooth, color=blue, linewidth=0.8, alpha=0.5, label=label)
        axes.plot(mean.rates, mean.smooth, color=blue, linewidth=2, label="smoothed loss")
        shown = np.concatenate([test.smooth for test in sweeps])
        shown = shown[np.isfinite(shown)]
        margin = 0.15 * max(float(shown.max() - shown.min()), 1e-3)
        axes.set_ylim(float(shown.min()) - margin, float(shown.max()) + margin)
        for (name, rate), style in zip(marks.items(), ["-", "--", ":", "-."], strict=False):
            axes.axvline(rate, color=orange if style == "-" else INK, linestyle=style, label=name)
        if band is not None:
            axes.axvspan(*band, color=green, alpha=0.15, label="usable", linewidth=0)
        axes.set(xscale="log", xlabel="learning rate of the head", ylabel="training loss")
        axes.grid()
        axes.legend(fontsize=7, frameon=False)
        with atomic_write(file) as temporary:
            figure.savefig(temporary, format="png", dpi=150, metadata={"Software": None})
