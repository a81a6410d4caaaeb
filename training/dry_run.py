"""Check all that a run needs, estimate time and memory; trains nothing, leaves no file behind.

With train.compile it makes all graphs of a training, which stay in their cache for the run.
"""

import resource
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
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
from evaluation.wording import p_value
from features import SpectrogramImages
from model_gmu import MaxMViTGMU
from storage.feature_store import NoImages
from storage.fold_folder import fold_name
from storage.folders import is_finished
from storage.run_folder import FOLDS, check_certificate
from system.text import count_of, format_bytes, format_duration
from training.batches import EvalBatches
from training.build import (
    build_model,
    build_state,
    eval_batch_size,
    make_dataset,
    train_batches,
)
from training.compiling import batch_sizes, measure_compiling
from training.device_errors import explain_device_errors
from training.distributed import gather
from training.engine import train_step, train_unseen
from training.estimate import Costs, epoch_parts, shares
from training.experiment import check_run
from training.frozen_branches import what_trains
from training.origin_leaks import with_origin_facts
from training.resume_with import describe_resume
from training.saver import Spacing
from training.session import Fold, Session, feature_settings, make_accelerator, open_store
from training.state import TrainingState
from training.timed_input import time_input, wait_for
from training.timed_save import time_save
from training.timed_states import StateCosts, timed_states
from training.warm_start import check_finished, check_origins

TIMED_STEPS = 2  # after one that warms up


def dry_run(config: Config, overwrite: bool = False, resume_with: int | None = None) -> str:
    """Read the corpus, certify the splits, compute one batch, take a step; return a report.

    Of several processes the first returns it, the others an empty text.

    Raises:
        InputError: As the run itself would.
        RunError: As the run itself would, for instance for weights that cannot be reached.
    """
    check_run(config, overwrite, resume_with)
    plan = _checked_plan(config, overwrite)
    session = Session(config, plan, open_store(config), make_accelerator(config)).with_shards()
    fold = next(session.folds())
    step_sizes = batch_sizes(train_batches(fold, len(fold.split.train)))
    n_first = max(step_sizes) if config.train.compile else config.train.batch_size
    with timed_states(fold, fold.split.train[:n_first]) as (fold, some, states):
        measured = _measured(fold, some, states, step_sizes)
    if not session.is_main:
        return ""
    return "\n".join(
        [
            *_corpus(plan),
            *measured,
            *_finished(config, plan, overwrite),
            *_testable(plan),
            *plan_warnings(plan),
            *_left_out(plan),
            *([] if resume_with is None else [describe_resume(config, resume_with)]),
            "Nothing was trained.",
        ]
    )


def _measured(
    fold: Fold, some: Sequence[Utterance], states: StateCosts, step_sizes: set[int]
) -> list[str]:
    """Measure each part of the run on some utterances; say what it takes."""
    session, config = fold.session, fold.config
    plan, accelerator = session.plan, session.accelerator
    reads = not isinstance(session.store, NoImages)
    images = SpectrogramImages(**feature_settings(config)) if reads else None
    batch, image_seconds, n_crops = _first_batch(fold, some, images)
    network = build_model(config, len(fold.classes), session.store.record[0])
    with explain_device_errors(config, accelerator.device):
        model, inputs, feature_seconds = what_trains(fold, network, batch)
        state = build_state(fold, model, batch.targets)
        compiling = _compiling(fold, state, inputs.to(accelerator.device), step_sizes)
        costs = _measure(fold, state, some, inputs, images)
    total = states.total + _seconds_before(session, image_seconds, feature_seconds * n_crops)
    total += sum(
        len(config.run.seeds) * _training_seconds(session.fold(split, 0), costs, n_crops)
        for split in plan.wanted()
    )
    parts = _epoch_parts(fold, costs, n_crops)
    peaks = [max(values) for values in zip(*gather(_peak_memory(accelerator)), strict=True)]
    n = accelerator.num_processes
    return [
        *_images(batch, image_seconds),
        *states.describe(),
        _parameters(network),
        *_features(feature_seconds),
        f"one step     {costs.step:.2f} s for {len(some)} of them on {accelerator.device}, "
        "forward, backward and optimizers",
        *compiling,
        f"peak memory  {_in_words(accelerator, peaks)}",
        f"one epoch    {format_duration(sum(parts.values()))}: {shares(parts)}",
        f"one state    copied in {costs.copy:.2f} s, then written in {costs.write:.2f} s",
        f"processes    {n}" + "; memory is the largest, times are the first's" * (n > 1),
        f"all of it    about {format_duration(total)} for {len(plan.wanted())} folds x "
        f"{len(config.run.seeds)} seeds x at most {config.train.epochs} epochs",
    ]


def _checked_plan(config: Config, overwrite: bool) -> Plan:
    """Make the plan of a run; refuse other data than a run of this name, or its origins, have."""
    plan = make_plan(config)
    check_origins(config, plan)
    if not overwrite:
        check_finished(config)
        check_certificate(Path(config.run.root, config.name), plan)
    return with_origin_facts(plan)


def _corpus(plan: Plan) -> list[str]:
    """Say what the corpus and its splits are."""
    return [
        f"corpus       {len(plan.utterances)} utterances{_segments(plan)}, {_per_class(plan)}",
        f"protocol     {plan.certificate['protocol']}, certificate {plan.certificate['id']}",
        *(
            f"fold {s.fold:<7} train {len(s.train)}, dev {len(s.dev)}, test {len(s.test)}"
            for s in plan.wanted()
        ),
    ]


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
    fold: Fold, some: Sequence[Utterance], images: SpectrogramImages | None
) -> tuple[Batch, float, float]:
    """Return a batch of real utterances, seconds of images and number of crops for each."""
    if images is None:
        return make_dataset(fold, some).__getitems__([(0, i) for i in range(len(some))]), 0.0, 1
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
    index = np.arange(len(some))
    beside = {branch: vectors(index) for branch, vectors in fold.beside(some).items()}
    batch = Batch(torch.from_numpy(index), cqt, mel, targets, **beside)
    return batch, seconds, n_crops / len(some)


def _compiling(fold: Fold, state: TrainingState, batch: Batch, sizes: set[int]) -> list[str]:
    """Make all graphs; say what they cost and when they pay."""
    config = fold.config
    if not config.train.compile:
        return []
    costs = measure_compiling(state, batch, sizes)
    n_batches = len(train_batches(fold, len(fold.split.train)))
    said = costs.describe(config.run.compile_folder, -(-n_batches // config.train.accumulate))
    return [f"compiling    {said}"]


def _time_steps(state: TrainingState, batch: Batch, n_eval: int) -> tuple[float, float]:
    """Return the seconds of one training step and of one evaluation of n_eval crops."""
    accelerator = state.accelerator
    train_step(state, [batch])
    train_unseen(state, iter([[batch]]))  # which needs most memory
    wait_for(accelerator)
    start = time.perf_counter()
    for _, step in train_unseen(state, iter([[batch]] * TIMED_STEPS)):
        if step is None:
            for _ in range(TIMED_STEPS):
                train_step(state, [batch])
    wait_for(accelerator)
    seconds = (time.perf_counter() - start) / TIMED_STEPS
    state.wrapped.eval()
    crops = torch.arange(n_eval) % len(batch.targets)
    start = time.perf_counter()
    with torch.inference_mode(), state.evaluated():
        state.wrapped(*batch.take(crops).inputs)
    wait_for(accelerator)
    return seconds, time.perf_counter() - start


def _measure(
    fold: Fold,
    state: TrainingState,
    some: Sequence[Utterance],
    batch: Batch,
    images: SpectrogramImages | None,
) -> Costs:
    """Return the seconds of each part of a training, measured on one batch."""
    device = fold.session.accelerator.device
    step, evaluation = _time_steps(state, batch.to(device), eval_batch_size(fold.config))
    reading = time_input(fold, some, batch, images)
    copy, write = time_save(state, fold.config)
    on_gpu, stored = device.type == "cuda", fold.config.train.images == "stored"
    loaders = fold.config.run.workers if on_gpu and stored else 0
    return Costs(reading, step, evaluation, copy, write, loaders, is_shared=not on_gpu)


def _peak_memory(accelerator: Accelerator) -> tuple[int, int]:
    """Return the largest memory until now in bytes: of the device, and of this process."""
    device = accelerator.device
    on_device = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
    unit = 1 if sys.platform == "darwin" else 1024  # bytes of a unit of ru_maxrss
    return on_device, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _in_words(accelerator: Accelerator, peaks: Sequence[int]) -> str:
    host = f"{format_bytes(peaks[1])} of the process, with one copy of the state"
    return f"{format_bytes(peaks[0])} on {accelerator.device}, {host}" if peaks[0] else host


def _epoch_parts(fold: Fold, costs: Costs, n_crops: float) -> dict[str, float]:
    """Return the seconds of each part of an epoch of a fold on these processes."""
    train = fold.config.train
    n_train = len(train_batches(fold, len(fold.split.train)))
    spacing = Spacing(train.checkpoint_epochs, train.checkpoint_minutes)
    return epoch_parts(costs, n_train, _eval_batches(fold, len(fold.split.dev), n_crops), spacing)


def _eval_batches(fold: Fold, n: int, n_crops: float) -> int:
    accelerator, size = fold.session.accelerator, eval_batch_size(fold.config)
    return len(EvalBatches(round(n * n_crops), size, 0, accelerator.num_processes))


def _training_seconds(fold: Fold, costs: Costs, n_crops: float) -> float:
    """Return the seconds of all epochs, of dev and test evaluated at the end, and of two states."""
    n_last = sum(
        _eval_batches(fold, len(part), n_crops) for part in (fold.split.dev, fold.split.test)
    )
    epochs = fold.config.train.epochs * sum(_epoch_parts(fold, costs, n_crops).values())
    return epochs + n_last * costs.evaluation + 2 * (costs.copy + costs.write)


def _seconds_before(session: Session, image: float, features: float) -> float:
    """Return the seconds of all images that are missing, and of all features of frozen branches.

    Args:
        session: The session.
        image: Seconds of the images of a recording.
        features: Seconds of its features; 0 where branches are trained.
    """
    config, plan = session.config, session.plan
    missing = [u for u in session.stored() if plan.hashes[u.audio] not in session.store.rows]
    n_origins = len(config.run.seeds) if config.model.from_seed is None else 1
    n_features = len(plan.utterances) * len(plan.wanted()) * n_origins
    return image * len(missing) / max(config.run.workers, 1) + features * n_features


def _images(batch: Batch, seconds: float) -> list[str]:
    if not batch.cqt.numel():
        return []
    return [f"images       2 x {tuple(batch.cqt.shape[1:])}, {seconds * 1e3:.0f} ms each"]


def _parameters(network: MaxMViTGMU) -> str:
    """Say how many parameters each part trains."""
    sizes = {name: sum(p.numel() for p in part) / 1e6 for name, part in network.parts().items()}
    return "parameters   " + ", ".join(f"{name} {size:.1f} M" for name, size in sizes.items())


def _features(seconds: float) -> list[str]:
    if not seconds:
        return []
    return [f"features     {seconds:.3f} s for a crop, once a fold: run.store keeps them"]


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
