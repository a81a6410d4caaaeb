"""Check everything a run needs and estimate its time; trains nothing and writes no run folder."""

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import Accelerator

from audio.reading import read_audio
from audio.segment import Segment
from config.schema import Config
from corpora.bad_audio import bad_audio_list, describe_bad_audio
from corpora.plan import Plan, make_plan, plan_warnings
from corpora.readers import Utterance
from data import Batch
from evaluation.conclusion import LEVEL
from evaluation.paired_tests import smallest_p_of
from evaluation.significance import MIN_UNITS
from evaluation.wording import count_of, p_value
from features import SpectrogramImages
from storage.fold_folder import fold_name
from storage.folders import is_finished
from storage.run_folder import FOLDS, check_certificate
from system.text import format_duration
from training.build import build_model, build_state
from training.device_errors import explain_device_errors
from training.engine import train_step, train_unseen
from training.experiment import check_run
from training.session import Fold, Session, feature_settings, make_accelerator, open_store
from training.state import TrainingState

TIMED_STEPS = 2  # after one that warms up


def dry_run(config: Config, overwrite: bool = False) -> str:
    """Read the corpus, certify the splits, compute one batch, take a step; return a report.

    Raises:
        InputError: As the run itself would.
        RunError: As the run itself would, for instance for weights that cannot be reached.
    """
    check_run(config, overwrite)
    plan = make_plan(config)
    if not overwrite:
        check_certificate(Path(config.run.root, config.name), plan)
    images = SpectrogramImages(**feature_settings(config))
    session = Session(config, plan, open_store(config), make_accelerator(config))
    accelerator = session.accelerator
    fold = next(session.folds())
    some = fold.split.train[: config.train.batch_size]
    batch, image_seconds, n_crops = _first_batch(fold, some, images)
    model = build_model(config, len(fold.classes), images.n_channels)
    with explain_device_errors(config, accelerator.device):
        state = build_state(fold, model, batch.targets)
        step_seconds, eval_seconds = _time_steps(state, batch.to(accelerator.device))
    total = _estimate(plan, len(some), image_seconds, step_seconds, eval_seconds * n_crops)
    sizes = {name: sum(p.numel() for p in part) / 1e6 for name, part in model.parts().items()}
    return "\n".join(
        [
            f"corpus       {len(plan.utterances)} utterances{_segments(plan)}, {_per_class(plan)}",
            f"protocol     {plan.certificate['protocol']}, certificate {plan.certificate['id']}",
            *(
                f"fold {s.fold:<7} train {len(s.train)}, dev {len(s.dev)}, test {len(s.test)}"
                for s in plan.wanted()
            ),
            f"images       2 x {tuple(batch.cqt.shape[1:])}, {image_seconds * 1e3:.0f} ms each",
            "parameters   " + ", ".join(f"{name} {size:.1f} M" for name, size in sizes.items()),
            f"one step     {step_seconds:.2f} s for {len(some)} of them on {accelerator.device}, "
            "forward, backward and optimizers",
            f"all of it    about {format_duration(total)} for {len(plan.wanted())} folds x "
            f"{len(config.run.seeds)} seeds x at most {config.train.epochs} epochs",
            *_finished(config, plan, overwrite),
            *_testable(plan),
            *plan_warnings(plan),
            *_left_out(plan),
            "Nothing was trained.",
        ]
    )


def _finished(config: Config, plan: Plan, overwrite: bool) -> list[str]:
    """Say which folds are finished, so that training would skip them."""
    folds = Path(config.run.root, config.name, FOLDS)
    jobs = [fold_name(split.fold, seed) for split in plan.wanted() for seed in config.run.seeds]
    done = [job for job in jobs if is_finished(folds / job)]
    if not done:
        return []
    if overwrite:
        return [f"finished     {len(done)} of {len(jobs)} folds x seeds; --overwrite removes them"]
    which = "all" if len(done) == len(jobs) else ", ".join(done)
    more = "; nothing would be trained" if len(done) == len(jobs) else ""
    return [f"finished     {which}: skipped, --overwrite starts anew{more}"]


def _testable(plan: Plan) -> list[str]:
    """Say if no paired test could tell this run from others, however much they differ."""
    speakers = {u.speaker for split in plan.wanted() for u in split.test}
    seeds = plan.config.run.seeds
    least = smallest_p_of(len(speakers), len(plan.wanted()), len(seeds))
    if 3 * least < LEVEL:  # Holm's factor for three fusions
        return []
    return [
        f"comparison   with {count_of(len(speakers), 'speaker')} in "
        f"{count_of(len(plan.wanted()), 'fold')} and {count_of(len(seeds), 'seed')}, paired tests "
        f"of two runs allow no p below {p_value(least)}, of three {p_value(min(1.0, 3 * least))}: "
        f"more folds{' or run.seeds' * (len(plan.wanted()) >= MIN_UNITS)} can show more"
    ]


def _first_batch(
    fold: Fold, some: Sequence[Utterance], images: SpectrogramImages
) -> tuple[Batch, float, float]:
    """Return a batch of real utterances, seconds of images and number of crops for each."""
    pairs = []
    n_crops = 0
    start = time.perf_counter()
    for utterance in some:
        pair = images(images.cut(torch.from_numpy(read_audio(utterance.audio, images.input_rate))))
        pairs.append([images[:1] for images in pair])
        n_crops += len(pair.cqt)
    seconds = (time.perf_counter() - start) / len(some)
    cqt, mel = (torch.cat(views) for views in zip(*pairs, strict=True))
    targets = torch.tensor(fold.targets(some))
    return Batch(torch.arange(len(some)), cqt, mel, targets), seconds, n_crops / len(some)


def _time_steps(state: TrainingState, batch: Batch) -> tuple[float, float]:
    """Return the seconds of one training step and of one evaluation."""
    accelerator = state.accelerator
    train_step(state, [batch])
    train_unseen(state, iter([[batch]]))  # which needs most memory
    _wait(accelerator)
    start = time.perf_counter()
    for _, step in train_unseen(state, iter([[batch]] * TIMED_STEPS)):
        if step is None:
            for _ in range(TIMED_STEPS):
                train_step(state, [batch])
    _wait(accelerator)
    seconds = (time.perf_counter() - start) / TIMED_STEPS
    state.wrapped.eval()
    start = time.perf_counter()
    with torch.inference_mode():
        state.wrapped(batch.cqt, batch.mel)
    _wait(accelerator)
    return seconds, time.perf_counter() - start


def _wait(accelerator: Accelerator) -> None:
    if accelerator.device.type != "cpu":
        torch.accelerator.synchronize()  # kernels run on after Python returns


def _estimate(plan: Plan, n_batch: int, image: float, step: float, evaluation: float) -> float:
    """Return the seconds of the whole run on this one process."""
    config = plan.config
    workers = max(config.run.workers, 1)
    total = image * len(plan.utterances) / workers
    for split in plan.wanted():
        epoch = len(split.train) / n_batch * step + len(split.dev) / n_batch * evaluation
        if config.train.images == "computed":
            epoch += len(split.train) * image
        total += len(config.run.seeds) * config.train.epochs * epoch
    return total


def _left_out(plan: Plan) -> list[str]:
    if not plan.bad:
        return []
    described = describe_bad_audio(plan.bad, bad_audio_list(plan.config))
    return [f"left out     {len(plan.bad)} bad audio files:", *described]


def _segments(plan: Plan) -> str:
    """Count the utterances that are a part of their file, if there are any."""
    paths = [u.path for u in plan.utterances if isinstance(u.audio, Segment)]
    return f", {len(paths)} of them segments of {len(set(paths))} files" if paths else ""


def _per_class(plan: Plan) -> str:
    counts = Counter(u.label for u in plan.utterances)
    return ", ".join(f"{name} {counts[name]}" for name in plan.labels.classes)
