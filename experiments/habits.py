"""Bad habits on purpose: trainings whose test split is evaluated after every epoch.

No config can ask for it, and no training reads it: dev selects and stops as ever, and the weights
are those of an ordinary run. Each config is trained under its own protocol and under a random split
of utterances; `evaluation/habits.py` adds up what the habits are worth. The folder has no
config.yaml, so nothing takes it for a run:

NAME_habits/                     in run.root, with the name of the first config
  habits.json habits.md          what each habit adds
  ledger.jsonl                   a line for each training; other runs count it as tested before
  CONFIG/own/ CONFIG/random/     one config under one protocol
    settings.json                config and certificate, which must stay
    folds/fold-1_seed-0/
      epochs.json                dev and test UA by epoch; written last
      history.csv environment.json
      state/                     checkpoints and test by epoch, while the fold is trained
"""

import logging
import shlex
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch.utils.data import DataLoader

from config.schema import Config, ProtocolConfig
from corpora.plan import Plan, check_listing, make_plan, plan_warnings
from corpora.splits import MIN_GROUPS
from evaluation.habits import Watched, first_best, price_habits
from evaluation.habits_table import habits_markdown
from evaluation.metrics import unweighted_accuracy
from evaluation.significance import speaker_confusions
from experiments.settings_file import keep_settings
from storage.environment import distinct_facts, read_environment, record_environment
from storage.fold_folder import STATE, write_history
from storage.folders import CONFIG
from storage.ledger import record_test_evaluation
from storage.model_card import recordings_digest
from system.errors import InputError, RunError
from system.files import corrupt_file, make_folder, read_json, write_json, write_text
from system.locks import TAKEN, lock
from system.signals import Stop
from system.temporary import remove_leftovers
from system.text import without_place
from training.build import build_model, build_training, eval_loader
from training.checkpoints import Checkpoints, Progress
from training.device_errors import explain_device_errors
from training.divergence import Diverged
from training.engine import fit
from training.evaluate import Predictions, evaluate
from training.experiment import check_model, check_places, session_environment
from training.saver import Spacing
from training.session import Fold, Session, make_accelerator, open_store
from training.state import TrainingState

log = logging.getLogger(__name__)

OWN, RANDOM = "own", "random"  # folders of the two protocols of a config
EPOCHS = "epochs.json"
KIND, WHY = "every epoch", "test after every epoch, to measure bad habits: no result may use it"


def run_habits(configs: Sequence[Config], command: Sequence[str], stop: Stop) -> str:
    """Train all configs under both protocols, or resume; write the table and return it.

    Another process that was given the same command trains some of the folds; this one waits for
    them in the end.

    Args:
        configs: Configs with equal sections `corpus`, `protocol` and `run`.
        command: Command line.
        stop: Flag, set by signals, that asks the process to end.

    Raises:
        InputError: A config, the corpus or the folder cannot be used.
        RunError: Training diverged, or a file could not be written; the last state is kept.
        KeyboardInterrupt: The process was asked to end; the state is saved.
    """
    folder = Path(configs[0].run.root) / f"{configs[0].name}_habits"
    sessions = _open_sessions(folder, configs, command, stop)
    folds = [fold for session in sessions for fold in session.folds()]
    for fold in [fold for fold in folds if not _is_trained(fold, wait=False)]:
        _is_trained(fold, wait=True)
    found = _summarize(sessions, command)
    text = habits_markdown(found)
    write_json(folder / "habits.json", found)
    write_text(folder / "habits.md", text)
    return f"{text}\nThis table is in {folder}"


def _open_sessions(
    folder: Path, configs: Sequence[Config], command: Sequence[str], stop: Stop
) -> list[Session]:
    """Check everything, index the corpus, and open each config under both protocols."""
    if (folder / CONFIG).exists():
        raise InputError(f"{folder} is a run, study or range test: change name or run.root")
    accelerator = make_accelerator(configs[0])
    for config in configs:
        check_places(config)
        check_model(config)
    check_listing(configs[0])
    sessions = _of_protocol(OWN, folder, configs, accelerator, command, stop)
    own, n_folds = configs[0].protocol, len(sessions[0].plan.splits)
    if n_folds < MIN_GROUPS:
        raise InputError(
            f"protocol.split={own.split} has {n_folds} folds here, and random-utterance, which is "
            f"to have as many, needs {MIN_GROUPS}: choose a protocol with more folds"
        )
    protocol = ProtocolConfig(
        split="random-utterance",
        n_folds=n_folds,
        allow_speaker_overlap=True,
        near_identical=own.near_identical,
    )
    heard = [config.model_copy(update={"protocol": protocol}) for config in configs]
    return [*sessions, *_of_protocol(RANDOM, folder, heard, accelerator, command, stop)]


def _of_protocol(
    kind: str,
    folder: Path,
    configs: Sequence[Config],
    accelerator: Accelerator,
    command: Sequence[str],
    stop: Stop,
) -> list[Session]:
    """Open a session for each config, whose folder is CONFIG/PROTOCOL, and claim that folder."""
    sessions = []
    plan: Plan | None = None
    for config in configs:
        run = config.run.model_copy(update={"root": str(folder / config.name)})
        config = config.model_copy(update={"name": kind, "run": run})
        plan = make_plan(config, keep=True) if plan is None else replace(plan, config=config)
        session = Session(config, plan, open_store(config), accelerator, stop).with_images()
        build_model(config, len(plan.labels.classes), session.store.record[0])  # fails now
        sessions.append(replace(session, environment=session_environment(session, command)))
    if len({session.plan.certificate["id"] for session in sessions}) > 1:
        raise InputError(
            "corpus.on_bad_audio=skip leaves out other audio for some configs than for others, so "
            "they have no test in common: give them equal `features`, or remove that audio"
        )
    for session in sessions:
        _open_folder(session)
    for line in plan_warnings(sessions[0].plan):
        log.info("%s", line)
    return sessions


def _open_folder(session: Session) -> None:
    """Begin the folder of a config under a protocol, or check that it is of the same ones."""
    folder, certificate = session.folder, session.plan.certificate["id"]
    remedy = "Change `name` to keep both, or, to start anew, remove"
    make_folder(folder)
    with lock(folder / ".lock.opening", str(folder), blocking=True):
        remove_leftovers(folder)
        keep_settings(folder, session.config, certificate, remedy)


def _is_trained(fold: Fold, wait: bool) -> bool:
    """Train a fold unless it is finished; return False where another process is at work on it.

    Args:
        fold: The training.
        wait: Wait for the other process; where that did not finish it, resume it.
    """
    session, folder = fold.session, fold.folder
    make_folder(folder / STATE, inside=session.folder)
    place, work = folder / STATE / "lock", f"{fold.name} in {session.folder}"
    try:
        with lock(place, work, blocking=wait):
            for inside in (folder, folder / STATE):
                remove_leftovers(inside)
            if not (folder / EPOCHS).exists():
                sizes = (len(part) for _, part in fold.split.parts())
                log.info("%s: train %d, dev %d, test %d utterances", work, *sizes)
                record_environment(folder, session.environment)
                with explain_device_errors(fold.config, session.accelerator.device, session.stop):
                    _train(fold)
                session.accelerator.free_memory()
            Checkpoints(folder / STATE).remove()  # a kill may have left them
            (folder / STATE / EPOCHS).unlink(missing_ok=True)
    except RunError as error:
        if wait or not str(error).startswith(TAKEN):
            raise
        log.info("%s; the others first", error)
        return False
    return True


def _train(fold: Fold) -> None:
    """Train a fold, or resume, as `training.fold` does; evaluate test after each epoch, too."""
    file, settings = fold.folder / STATE / EPOCHS, fold.config.train
    rows = read_json(file, "rows", remove=fold.folder)["rows"] if file.exists() else []
    state, train_loader, _ = build_training(fold, origins={})
    dev_loader, test_loader = (eval_loader(fold, u) for u in (fold.split.dev, fold.split.test))

    def after_epoch(record: dict[str, float], dev: Predictions | None) -> None:
        """Write the row of an epoch before its state; a resumed training may repeat epochs."""
        rows[int(record["epoch"]) - 1 :] = [_test(fold, state, test_loader)]
        if not file.exists():
            _record_tests(fold)
        write_json(file, {"rows": rows})
        write_history(fold.folder, state.progress.history)

    progress = fit(
        state,
        train_loader,
        dev_loader,
        epochs=settings.epochs,
        patience=settings.patience,
        checkpoints=Checkpoints(fold.folder / STATE),
        spacing=Spacing(settings.checkpoint_epochs, settings.checkpoint_minutes),
        after_epoch=after_epoch,
    )
    if len(rows) != progress.epoch:
        reason = f"test of {len(rows)} of {progress.epoch} epochs is in it"
        raise corrupt_file(file, reason, remove=fold.folder)
    write_json(fold.folder / EPOCHS, _result(fold, progress, rows))


def _test(fold: Fold, state: TrainingState, loader: DataLoader) -> dict[str, Any]:
    """Return test UA and confusions by speaker, of the weights that dev has just evaluated."""
    test, accelerator = fold.split.test, fold.session.accelerator
    try:
        with state.evaluated():
            found = evaluate(state.wrapped, loader, accelerator, fold.ids(test))
    except Diverged as error:
        raise error.because(state.schedule.rates(), fold.config.train.precision) from error
    speakers, counts = speaker_confusions(
        found.targets.tolist(),
        found.preds.tolist(),
        [utterance.speaker for utterance in test],
        len(fold.classes),
    )
    by_speaker = dict(zip(speakers.tolist(), counts.tolist(), strict=True))
    return {"ua": float(unweighted_accuracy(counts.sum(0))), "confusions": by_speaker}


def _record_tests(fold: Fold) -> None:
    """Write the ledger's line before anything that test says is on the disk."""
    certificate = fold.session.plan.certificate
    card = {
        "protocol": certificate["protocol"],
        "certificate": certificate["id"],
        "fold": fold.split.fold,
        "seed": fold.seed,
        "test_clips": recordings_digest(certificate, fold.split.fold),
    }
    folder = fold.session.folder.parent.parent
    record_test_evaluation(folder, card, len(fold.split.test), None, KIND, WHY)


def _result(fold: Fold, progress: Progress, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the content of epochs.json."""
    test_ua = [row["ua"] for row in rows]
    best = {"best_on_dev": progress.best_epoch, "best_on_test": first_best(test_ua)}
    return {
        "config": fold.session.folder.parent.name,
        "protocol": fold.session.plan.certificate["protocol"],
        "certificate": fold.session.plan.certificate["id"],
        "fold": fold.split.fold,
        "seed": fold.seed,
        "classes": fold.classes,
        "dev_ua": [row["dev_ua"] for row in progress.history],
        "test_ua": test_ua,
        **{
            name: {"epoch": epoch, "confusions": rows[epoch - 1]["confusions"]}
            for name, epoch in best.items()
        },
    }


def _read(fold: Fold) -> Watched:
    keys = ("config", "fold", "seed", "dev_ua", "test_ua")
    found = read_json(fold.folder / EPOCHS, *keys, "best_on_dev", remove=fold.folder)
    selected = found["best_on_dev"]
    values = {key: found[key] for key in keys}
    return Watched(**values, selected=selected["epoch"], confusions=selected["confusions"])


def _summarize(sessions: Sequence[Session], command: Sequence[str]) -> dict[str, Any]:
    """Return the content of habits.json."""
    by_kind = {kind: [s for s in sessions if s.config.name == kind] for kind in (OWN, RANDOM)}
    folds = {kind: [f for s in part for f in s.folds()] for kind, part in by_kind.items()}
    trained = [fold for part in folds.values() for fold in part]
    own = by_kind[OWN][0]
    environments = [read_environment(fold.folder, fold.folder) for fold in trained]
    commits = sorted({str(environment["git_commit"]) for environment in environments})
    rows = price_habits(*([_read(fold) for fold in folds[kind]] for kind in (OWN, RANDOM)))
    return {
        "command": shlex.join(map(without_place, command)),
        "made_with": {"commit": commits, **distinct_facts(environments)},
        "trained": len(trained),
        "protocols": {
            kind: {
                "id": part[0].plan.certificate["protocol"],
                "certificate": part[0].plan.certificate["id"],
                "n_train": sum(len(f.split.train) for f in folds[kind]) / len(folds[kind]),
            }
            for kind, part in by_kind.items()
        },
        "synthetic": own.plan.certificate["corpus"]["synthetic"],
        "folds": [split.fold for split in own.plan.wanted()],
        "n_folds": len(own.plan.splits),
        "seeds": own.config.run.seeds,
        "rows": [asdict(row) for row in rows],
    }
