"""Gate analysis of a finished run: frozen weights on the test utterances, tables, figures."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from config.fusions import GATED, branches_of
from evaluation.consistency import check_scores
from evaluation.figures import png_bytes, svg_text
from evaluation.summary import corpus_of, summarize
from evaluation.tasks import Measure, task_of
from gates.agreement import UA, judge, judge_sources
from gates.branch_ablation import (
    N_DRAWS,
    FoldCounts,
    check_joins,
    describe_ablation,
    intervene,
)
from gates.description import describe_gates, share_differences
from gates.drawing import draw, has_epochs
from gates.frozen import FrozenRun, open_run
from gates.results import (
    FILE,
    FOLDER,
    BranchAblation,
    Estimate,
    GateDescription,
    GateResults,
    ShareDifference,
    UnimodalRun,
    Verdict,
    group_names,
)
from gates.retrained import compare_unimodal
from gates.tables import gates_markdown
from gates.values import (
    FoldGates,
    Gates,
    fold_gates,
    unit_columns,
    unit_rows,
    utterance_columns,
    utterance_rows,
)
from gates.wording import measure_of, short_name
from inference.predictor import model_name, weights_digests
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
from system.output import progress_bar
from system.owned import remove
from training.tensorboard import write_analysis

MAX_DRAWS = 100
ABLATION = "branch ablation"  # kind of test evaluation in the ledger
TAG, SHARE_TAG = "gate, 1 = CQT, 0 = Mel", "gate, share of"  # of TensorBoard


def analyze(
    folder: Path,
    unimodal: Sequence[Path] = (),
    ablate: bool = True,
    n_draws: int = N_DRAWS,
    overrides: Sequence[str] = (),
    progress: bool = True,
) -> GateResults:
    """Analyze the gates of all folds and seeds, ablate branches, and replace `<run>/gates/`.

    Args:
        folder: Run folder of a run that joins two branches or more.
        unimodal: Run folders of runs of fewer branches, to compare with.
        ablate: Also run the branch ablation.
        n_draws: Random draws of the utterances whose features replace others.
        overrides: Where corpus and store are now, see `frozen.PLACES`.
        progress: Show a progress bar.

    Raises:
        InputError: The run cannot be analyzed this way, or its corpus is missing; nothing was
            evaluated.
        RunError: A file of the run is corrupt, the weights no longer give the run's predictions, or
            another process is analyzing the run.
    """
    run, others = read_run(folder), [read_run(other) for other in unimodal]
    check_joins(run)
    check_scores(run)
    if not 1 <= n_draws <= MAX_DRAWS:
        raise InputError(f"--draws must be 1 to {MAX_DRAWS}, got {n_draws}")
    gated = run.config["model.fusion"] in GATED
    _check_arguments(run, others, ablate, gated)
    alone_rows = compare_unimodal(run, others)
    target = run.folder / FOLDER
    if target.exists() and not (target / FILE).is_file():
        raise InputError(
            f"{target} was not written by analyze_gates.py (no {FILE} in it): move it elsewhere"
        )
    frozen = open_run(run, overrides)
    with lock(run.folder / ".lock.gates", f"the gates of {run.folder}"):
        gates, counts = _evaluate(frozen, gated, n_draws if ablate else 0, progress)
        results = _results(run, gates, counts, alone_rows)
        _replace(run, results, gates)
    summarize(folder)  # it counts the test evaluations
    return results


def _check_arguments(run: Run, others: Sequence[Run], ablate: bool, gated: bool) -> None:
    if not ablate and not gated:
        raise InputError(
            f"{run.folder} has model.fusion={run.config['model.fusion']}, which has no gate: drop "
            "--no-branch-ablation, since nothing else can be analyzed"
        )
    if not ablate and others:
        raise InputError(
            "runs of fewer branches are compared with the branch ablation: drop "
            "--no-branch-ablation"
        )


def _evaluate(
    frozen: FrozenRun, gated: bool, n_draws: int, progress: bool
) -> tuple[Gates, list[FoldCounts]]:
    """Evaluate all folds and seeds on test utterances; `n_draws=0` skips the branch ablation."""
    gates: dict[str, list[FoldGates]] = {}
    counts = []
    n_models = len(frozen.run.folds)
    for i, fold in enumerate(frozen.folds(), start=1):
        parts = ("test", "train") if n_draws else ("test",)
        n = sum(fold.n_batches(part) for part in parts)
        title = f"{model_name(fold.result)} ({i} of {n_models})"
        with progress_bar(n, title, "batch", hidden=not progress) as bar:
            inputs = fold.head_inputs("test", bar.update)
            intact = fold.fuse(inputs)
            fold.record_evaluation(frozen.run.folder, "gates" if gated else ABLATION)
            fold.check_intact(intact)
            if gated:
                for source, own in fold_gates(fold, intact).items():
                    gates.setdefault(source, []).append(own)
            if n_draws:
                counts.append(intervene(fold, inputs, intact, n_draws, bar.update))
                if gated:
                    fold.record_evaluation(frozen.run.folder, ABLATION)
    return gates, counts


def _results(
    run: Run,
    gates: Gates,
    counts: Sequence[FoldCounts],
    unimodal: Sequence[UnimodalRun],
) -> GateResults:
    described, leads = describe_gates(run, gates), share_differences(run, gates)
    sources = list(branches_of(run.config))
    first = described.get(sources[0])
    ablation = describe_ablation(run, counts, unimodal) if counts else None
    table, task = run.of_seed(run.seeds[0]), task_of(run.folds[0])
    measure = task.measures[task.main]
    return GateResults(
        version=2,
        run=run.name,
        corpus=corpus_of(run)["name"],
        fusion=run.config["model.fusion"],
        protocol=run.certificate["protocol"],
        certificate=run.certificate["id"],
        speaker_dependent=run.certificate["speaker_dependent"],
        classes=list(group_names(run)),
        weights=weights_digests(run),
        n=len(table.targets),
        n_speakers=len(set(table.speakers.tolist())),
        speaker_per_fold=_speaker_per_fold(run),
        without_epochs=bool(gates) and not has_epochs(run, list(gates)),
        gates=first,
        branch_ablation=ablation,
        verdicts=_verdicts(first, ablation, leads, measure) if first and ablation else [],
        task=task.kind,
        sources=sources,
        others={source: gates for source, gates in described.items() if source != sources[0]},
        leads=leads,
    )


def _speaker_per_fold(run: Run) -> bool:
    tested = [set(result.test.speakers.tolist()) for result in run.folds]
    return all(len(names) == 1 for names in tested) and len(set.union(*tested)) > 1


def _verdicts(
    gates: GateDescription,
    ablation: BranchAblation,
    leads: Sequence[ShareDifference] = (),
    measure: Measure = UA,
) -> list[Verdict]:
    """Compare gate and branch ablation on all utterances and on those of each class.

    Args:
        gates: Gates of the first source.
        ablation: Interventions on the same models.
        leads: Differences between shares, of three sources or more.
        measure: Score that falls.
    """
    if leads:
        names = dict.fromkeys(branches.class_name for branches in ablation.branches)
        of_name = [([lead for lead in leads if lead.class_name == name], name) for name in names]
        return [
            judge_sources(own, [b for b in ablation.branches if b.class_name == name], measure)
            for own, name in of_name
        ]
    means: dict[str | None, Estimate] = {None: gates.mean}
    means |= {group.group: group for group in gates.groups["class"]}
    return [judge(means[branches.class_name], branches, measure) for branches in ablation.branches]


def _replace(run: Run, results: GateResults, gates: Gates) -> None:
    """Write everything into a new folder, then replace the old folder by it."""
    target = run.folder / FOLDER
    new, old = (run.folder / f".{FOLDER}.{which}" for which in ("new", "old"))
    try:
        remove(new)  # of a killed process
        make_folder(new, inside=run.folder)
        if old.exists() and not target.exists():  # killed between two renames
            old.rename(target)
        remove(old)
        _write(new, run, results, gates)
        if target.exists():
            target.rename(old)
        new.rename(target)
        sync_folder(run.folder)
        remove(old)
    except OSError as error:
        raise disk_error(f"cannot replace {target}", run.folder, error) from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _write(folder: Path, run: Run, results: GateResults, gates: Gates) -> None:
    if gates:
        head = utterance_columns(gates)
        write_csv(folder / "utterances.csv", head, utterance_rows(run, gates))
        write_csv(folder / "units.csv", unit_columns(run, gates), unit_rows(run, gates))
    pngs = {}
    for name, figure in draw(run, results, gates).items():
        write_text(folder / f"{name}.svg", svg_text(figure))
        figure.set_layout_engine("none")  # keep the layout that the SVG has
        pngs[name] = png_bytes(figure)
        with atomic_write(folder / f"{name}.png", len(pngs[name])) as temporary:
            temporary.write_bytes(pngs[name])
    write_text(folder / "gates.md", gates_markdown(results))
    histograms = {
        f"{_tag(results, source)}/fold {fold.fold} seed {fold.seed}": fold.gate
        for source, folds in gates.items()
        for fold in folds
    }
    write_analysis(folder, _scalars(results), histograms, pngs)
    write_json(folder / FILE, asdict(results))


def _scalars(results: GateResults) -> dict[str, float]:
    """Return the scalars for TensorBoard by tag."""
    scalars: dict[str, float] = {}
    for source, gates in results.described.items():
        tag = _tag(results, source)
        vector = "share of CQT" if results.of_images else "share of the fused vector"
        scalars |= {f"{tag}/mean": gates.mean.value, f"{tag}/{vector}": gates.share.value}
        scalars |= {f"{tag}/{group.group}": group.value for group in gates.groups["class"]}
    if (ablation := results.branch_ablation) is not None:
        score = measure_of(results).name
        scalars[f"{score}/intact"] = ablation.intact.value
        for row in ablation.interventions:
            scalars[f"{score}/{short_name(row.changed, row.how)}"] = row.ua.value
        scalars |= {f"{score}/{row.run} alone": row.ua.value for row in ablation.unimodal}
    return scalars


def _tag(results: GateResults, source: str) -> str:
    """Return the tag of a source's gate in TensorBoard."""
    return TAG if results.of_images else f"{SHARE_TAG} {source}"
