"""A finished run's gates and reliance: frozen weights on the test clips, tables, figures."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from tqdm import tqdm

from evaluation.figures import png_bytes, svg_text
from evaluation.summary import summarize
from gates import figures
from gates.agreement import judge
from gates.branch_ablation import (
    N_DRAWS,
    Measured,
    check_two_branches,
    describe_reliance,
    intervene,
    stand_beside,
)
from gates.frozen import FrozenRun, open_run
from gates.results import FILE, FOLDER, GateResults, digests, model_name
from gates.tables import gates_markdown, intervention_name
from gates.values import (
    CLIP_COLUMNS,
    UNIT_COLUMNS,
    Gates,
    clip_rows,
    describe_gates,
    gates_of,
    joined,
    unit_means,
    unit_rows,
)
from models.heads import GATED
from storage.run_folder import Run, read_run
from system.errors import InputError
from system.files import (
    atomic_write,
    disk_error,
    make_folder,
    sync_folder,
    write_csv,
    write_json,
    write_text,
)
from system.locks import lock
from training.tensorboard import write_analysis

MAX_DRAWS = 100  # of donors
OF_CLASS = "balanced accuracy"  # of a class against the rest
GATE_COLUMNS = ("gate_mean", "gate_spread")  # of history.csv


def analyze(
    folder: Path,
    unimodal: Sequence[Path] = (),
    reliance: bool = True,
    n_draws: int = N_DRAWS,
    overrides: Sequence[str] = (),
    progress: bool = True,
) -> GateResults:
    """Look at the gates of all folds and seeds, intervene, and replace `<run>/gates/` whole.

    Args:
        folder: Of a run of two branches.
        unimodal: Runs of one branch, to stand beside.
        reliance: Also intervene.
        n_draws: Draws of donors.
        overrides: Where corpus and store are now, see `frozen.PLACES`.
        progress: Show a bar.

    Raises:
        InputError: Something cannot be asked of this run, or its corpus is not at hand; nothing
            was evaluated.
        RunError: A file of the run is corrupt, the weights no longer say what they said, or
            another process does the same.
    """
    run, others = read_run(folder), [read_run(other) for other in unimodal]
    check_two_branches(run)
    if not 1 <= n_draws <= MAX_DRAWS:
        raise InputError(f"--draws must be 1 to {MAX_DRAWS}, got {n_draws}")
    gated = run.config["model.fusion"] in GATED
    _check_wishes(run, others, reliance, gated)
    beside = stand_beside(run, others)
    target = run.folder / FOLDER
    if target.exists() and not (target / FILE).is_file():
        raise InputError(f"{target} is none of ours (no {FILE} in it): move it elsewhere")
    frozen = open_run(run, overrides)
    with lock(run.folder / ".lock.gates", f"the gates of {run.folder}"):
        found, measured = _measure(frozen, gated, n_draws if reliance else 0, progress)
        results = _results(run, found, measured, beside)
        _replace(run, results, found)
    summarize(folder)  # it shows how often test data were read
    return results


def _check_wishes(run: Run, others: Sequence[Run], reliance: bool, gated: bool) -> None:
    if not reliance and not gated:
        raise InputError(
            f"{run.folder} is of model.fusion={run.config['model.fusion']}, which has no gate: "
            "without --no-reliance its branches' worth is measured"
        )
    if not reliance and others:
        raise InputError("runs of one branch stand beside the interventions: drop --no-reliance")


def _measure(
    frozen: FrozenRun, gated: bool, n_draws: int, progress: bool
) -> tuple[list[Gates], list[Measured]]:
    """Look at the test clips of all folds and seeds; no draws is no intervention."""
    found, measured = [], []
    for fold in frozen.folds():
        parts = ("test", "train") if n_draws else ("test",)
        n = sum(fold.n_batches(part) for part in parts)
        title = model_name(fold.one)
        with tqdm(total=n, desc=title, unit="batch", disable=not progress) as bar:
            fold.record_evaluation(frozen.run.folder, "gates" if gated else "reliance")
            seen = fold.look("test", bar.update)
            intact = fold.fuse(seen)
            fold.check_intact(intact)
            if gated:
                found.append(gates_of(fold, intact))
            if n_draws:
                if gated:
                    fold.record_evaluation(frozen.run.folder, "reliance")
                measured.append(intervene(fold, seen, intact, n_draws, bar.update))
    return found, measured


def _results(
    run: Run,
    found: Sequence[Gates],
    measured: Sequence[Measured],
    beside: Sequence[Mapping[str, Any]],
) -> GateResults:
    gates = describe_gates(run, found) if found else None
    reliance = describe_reliance(run, measured, beside) if measured else None
    table = run.of_seed(run.seeds[0])
    values = {
        "run": run.name,
        "fusion": run.config["model.fusion"],
        "protocol": run.certificate["protocol"],
        "certificate": run.certificate["id"],
        "speaker_dependent": run.certificate["speaker_dependent"],
        "classes": list(run.classes),
        "weights": digests(run),
        "n": len(table.targets),
        "n_speakers": len(set(table.speakers.tolist())),
        "speaker_per_fold": _speaker_per_fold(run),
        "without_epochs": bool(found) and not _epochs(run),
        "gates": gates,
        "reliance": reliance,
        "verdicts": _verdicts(gates, reliance) if gates and reliance else [],
    }
    return GateResults.model_validate(values)


def _speaker_per_fold(run: Run) -> bool:
    tested = [set(one.test.speakers.tolist()) for one in run.folds]
    return all(len(names) == 1 for names in tested) and len(set.union(*tested)) > 1


def _verdicts(gates: Mapping[str, Any], reliance: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Judge all clips and those of each class."""
    means = {None: gates["mean"], **{one["group"]: one for one in gates["groups"]["class"]}}
    rows = []
    for branches in reliance["branches"]:
        name = branches["class"]
        values = {
            "gate": means[name]["mean"],
            "gate_interval": means[name]["interval"],
            "difference": branches["difference"],
            "interval": branches["interval"],
            "cost_interval": branches["cost_interval"],
        }
        verdict = judge(**values, what="UA" if name is None else OF_CLASS)
        rows.append({"of": name, **values, **verdict._asdict()})
    return rows


def _replace(run: Run, results: GateResults, found: Sequence[Gates]) -> None:
    """Write everything into a new folder, which then takes the place of the old one."""
    target = run.folder / FOLDER
    new, old = (run.folder / f".{FOLDER}.{which}" for which in ("new", "old"))
    shutil.rmtree(new, ignore_errors=True)  # of a killed process
    make_folder(new, inside=run.folder)
    try:
        if old.exists() and not target.exists():  # killed between two renames
            old.rename(target)
        shutil.rmtree(old, ignore_errors=True)
        _write(new, run, results, found)
        if target.exists():
            target.rename(old)
        new.rename(target)
        sync_folder(run.folder)
    except OSError as error:
        raise disk_error(f"cannot replace {target}", run.folder, error) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def _write(folder: Path, run: Run, results: GateResults, found: Sequence[Gates]) -> None:
    if found:
        write_csv(folder / "clips.csv", CLIP_COLUMNS, clip_rows(run, found))
        head = [*UNIT_COLUMNS, *(f"mean_{name}" for name in run.classes)]
        write_csv(folder / "units.csv", head, unit_rows(run, found))
    pngs = {}
    for name, figure in _draw(run, results, found).items():
        write_text(folder / f"{name}.svg", svg_text(figure))
        figure.set_layout_engine("none")  # it is found
        pngs[name] = png_bytes(figure)
        with atomic_write(folder / f"{name}.png", len(pngs[name])) as temporary:
            temporary.write_bytes(pngs[name])
    write_text(folder / "gates.md", gates_markdown(results))
    write_analysis(folder, *_for_tensorboard(results, found), pngs)
    write_json(folder / FILE, results.model_dump(by_alias=True))


def _draw(run: Run, results: GateResults, found: Sequence[Gates]) -> dict[str, Figure]:
    drawn: dict[str, Figure] = {}
    if found and results.gates is not None:
        clips = joined(found)
        by_class = [clips.gate[clips.targets == k] for k in range(len(run.classes))]
        drawn["class_histograms"] = figures.class_histograms(by_class, run.classes)
        columns = zip(
            *((d.name, d.mean, d.interval) for d in results.gates.deviations), strict=True
        )
        if results.gates.deviations:
            drawn["class_deviations"] = figures.class_deviations(*columns)
        if found[0].gate.shape[1] > 1:  # one gate for all units is in the histograms
            units = [_units(one, len(run.classes)) for one in found[: figures.MAX_PANELS]]
            drawn["unit_heat_maps"] = figures.unit_heat_maps(units, run.classes, len(found))
        confidence = np.concatenate([one.confidence for one in found])
        drawn["gate_and_confidence"] = figures.gate_and_confidence(
            clips.gate, confidence, clips.right
        )
        if lines := _epochs(run):
            drawn["gate_over_epochs"] = figures.gate_over_epochs(lines)
    if results.reliance is not None:
        drawn["falls"] = figures.falls(_falls(results))
    return drawn


def _units(one: Gates, n_classes: int) -> figures.Units:
    title = f"fold {one.fold} seed {one.seed}"
    return figures.Units(title, one.gate.mean(0), unit_means(one, n_classes))


def _epochs(run: Run) -> list[figures.Epochs]:
    """Return the gate along training, of the folds whose history has it."""
    lines = []
    for one in run.folds:
        rows = one.history()
        if all(column in rows[0] for column in GATE_COLUMNS):
            epoch, mean, spread = ([row[name] for row in rows] for name in ("epoch", *GATE_COLUMNS))
            lines.append(figures.Epochs(epoch, mean, spread, one.metrics["best_epoch"]))
    return lines


def _falls(results: GateResults) -> list[figures.Fall]:
    if results.reliance is None:
        return []
    rows = [
        figures.Fall(_short_name(one.changed, one.how), one.changed, one.fall, one.fall_interval)
        for one in results.reliance.interventions
    ]
    return rows + [
        figures.Fall(
            f"{'CQT' if one.branch == 'cqt' else 'Mel'} trained alone",
            "alone",
            one.fall,
            one.fall_interval,
        )
        for one in results.reliance.unimodal
    ]


def _short_name(changed: str, how: str) -> str:
    if changed == "gate":
        return intervention_name(changed, how).removesuffix(" alone)").replace(" (", ": ")
    return f"{'CQT' if changed == 'cqt' else 'Mel'}: {how}"


def _for_tensorboard(
    results: GateResults, found: Sequence[Gates]
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return scalars and histograms by tag."""
    scalars: dict[str, float] = {}
    histograms: dict[str, Any] = {}
    if results.gates is not None:
        scalars["gate, 1 = CQT, 0 = Mel/mean"] = results.gates.mean.mean
        scalars["gate, 1 = CQT, 0 = Mel/share of CQT"] = results.gates.share.mean
        for group in results.gates.groups["class"]:
            scalars[f"gate, 1 = CQT, 0 = Mel/{group.group}"] = group.mean
        for one in found:
            histograms[f"gate, 1 = CQT, 0 = Mel/fold {one.fold} seed {one.seed}"] = one.gate
    if results.reliance is not None:
        scalars["UA/intact"] = results.reliance.intact.ua
        for row in results.reliance.interventions:
            scalars[f"UA/{_short_name(row.changed, row.how)}"] = row.ua
        for alone_ in results.reliance.unimodal:
            scalars[f"UA/{alone_.run} alone"] = alone_.ua
    return scalars, histograms
