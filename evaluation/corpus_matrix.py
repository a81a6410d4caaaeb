"""Runs on several corpora as a matrix: trained on these, tested on those.

A fold of `cross-corpus` is one cell. A corpus that is trained and tested on gets its cell from a
run within it, of any protocol. Other corpora are other data, so no cell is tested against another.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from config.several import CROSS_CORPUS
from config.tasks import CLASS
from corpora.certificate import protocol_parts
from corpora.stamps import stamps
from evaluation.consistency import check_scores
from evaluation.significance import speaker_interval
from evaluation.summary import by_speaker, corpus_of
from evaluation.tasks import make_task, task_of
from evaluation.wording import count_of, in_code, in_markdown, markdown_table, with_interval
from storage.run_folder import CERTIFICATE, Run
from system.errors import InputError
from system.files import corrupt_file


class CorpusFacts(NamedTuple):
    """What makes two corpora one: their name, label set and subset, and how much is used."""

    name: str
    labels: str
    subset: str
    utterances: int


@dataclass(frozen=True)
class Cell:
    """The main score of one run on one corpus.

    Attributes:
        tested_on: Name of the corpus.
        run: Name of the run.
        certificate: Id of its split certificate.
        folds: Folds whose test utterances are scored together.
        seeds: Its seeds; the score is their mean.
        score: Main score, a fraction.
        interval: 95 % interval over speakers; None where they do not vary.
        n: Number of test utterances.
        n_speakers: Number of their speakers.
    """

    tested_on: str
    run: str
    certificate: str
    folds: list[int]
    seeds: list[int]
    score: float
    interval: list[float] | None
    n: int
    n_speakers: int


@dataclass(frozen=True)
class MatrixRow:
    """Cells of one method with one set of training corpora, each on another corpus."""

    trained_on: str
    method: str
    cells: list[Cell]


@dataclass(frozen=True)
class CorpusMatrix:
    """The content of matrix.json.

    Attributes:
        task: Task of all runs.
        classes: Their classes, sorted; of ratings, the dimensions.
        columns: Names of the corpora that are tested.
        rows: In the order of the runs.
        stamps: What must stand above the scores, with the run it holds for.
        synthetic: Whether a corpus is the demo corpus.
    """

    task: str
    classes: list[str]
    columns: list[str]
    rows: list[MatrixRow]
    stamps: list[str]
    synthetic: bool


def is_cross_corpus(run: Run) -> bool:
    """Return whether a run trains on some corpora and tests on others."""
    split = protocol_parts(run.certificate["protocol"])["protocol.split"]
    return split.startswith(CROSS_CORPUS)


def corpus_matrix(runs: Sequence[Run]) -> CorpusMatrix:
    """Place runs in a matrix of train x test corpora.

    Args:
        runs: Runs of `cross-corpus`, and ordinary ones for what is trained and tested alike.

    Raises:
        InputError: Their tasks or classes differ.
        RunError: A file of a run is corrupt, or its scores are not those of its predictions.
    """
    _check_classes(runs)
    for run in runs:
        check_scores(run)
    placed = [(run, *place) for run in runs for place in _places(run)]
    names = _unique_names([c for _, trained, tested, *_ in placed for c in (*trained, tested)])
    rows: list[MatrixRow] = []
    for run, trained, tested, folds, counts in placed:
        cell = _cell(run, names[tested], folds, counts)
        trained_on = " and ".join(names[corpus] for corpus in trained)
        same = [row for row in rows if (row.trained_on, row.method) == (trained_on, run.method)]
        free = [row for row in same if cell.tested_on not in {c.tested_on for c in row.cells}]
        if not free:
            free = [MatrixRow(trained_on, run.method, [])]
            rows += free
        free[0].cells.append(cell)
    return CorpusMatrix(
        task=task_of(runs[0].folds[0]).kind,
        classes=sorted(runs[0].classes),
        columns=list(dict.fromkeys(names[tested] for _, _, tested, *_ in placed)),
        rows=rows,
        stamps=_stamps(runs),
        synthetic=any(corpus_of(run)["synthetic"] for run in runs),
    )


def _check_classes(runs: Sequence[Run]) -> None:
    told = {run.name: (task_of(run.folds[0]).kind, sorted(run.classes)) for run in runs}
    if len(set(map(str, told.values()))) > 1:
        listed = "\n".join(
            f"  {name}: {', '.join(classes)} (task={task})"
            for name, (task, classes) in told.items()
        )
        raise InputError(
            f"a matrix of corpora needs runs of one task with the same classes, here are\n{listed}"
        )


def _places(
    run: Run,
) -> Iterator[tuple[tuple[CorpusFacts, ...], CorpusFacts, list[int], NDArray]]:
    """Yield training corpora, tested corpus, folds and sums by speaker of the cells of a run."""
    if not is_cross_corpus(run):
        parts = protocol_parts(run.certificate["protocol"])
        about = (corpus_of(run)["name"], parts["corpus.labels"], parts["corpus.subset"])
        corpus = CorpusFacts(*about, int(run.certificate.get("utterances", 0)))
        yield (corpus,), corpus, run.fold_numbers, by_speaker(run)
        return
    corpora = _corpora_of(run)
    trained = tuple(facts for role, facts in corpora if role == "train")
    tested = [facts for role, facts in corpora if role == "test"]
    task = task_of(run.folds[0])
    for fold in run.fold_numbers:
        tables = [of.test for of in sorted(run.folds, key=lambda of: of.seed) if of.fold == fold]
        yield trained, tested[fold - 1], [fold], np.stack([task.by_speaker(t) for t in tables])


def _corpora_of(run: Run) -> list[tuple[str, CorpusFacts]]:
    """Return role and facts of each corpus, as the certificate has them."""
    try:
        corpora: Mapping[str, Mapping[str, Any]] = run.certificate["corpora"]
        found = [
            (
                str(one["role"]),
                CorpusFacts(
                    str(one["name"]), str(one["labels"]), str(one["subset"]), int(one["utterances"])
                ),
            )
            for one in corpora.values()
        ]
        n_tested = sum(role == "test" for role, _ in found)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise corrupt_file(run.folder / CERTIFICATE, f"corpora: {error}") from error
    if n_tested != len(run.certificate["folds"]):
        raise corrupt_file(run.folder / CERTIFICATE, "corpora: not one to test for each fold")
    return found


def _unique_names(corpora: Sequence[CorpusFacts]) -> dict[CorpusFacts, str]:
    """Return a name for each corpus; of two with one name also the labels and the number."""
    distinct = list(dict.fromkeys(corpora))
    names = [corpus.name for corpus in distinct]
    return {
        one: one.name
        if names.count(one.name) == 1
        else f"{one.name} ({one.labels}, {one.subset}, {count_of(one.utterances, 'utterance')})"
        for one in distinct
    }


def _cell(run: Run, tested_on: str, folds: list[int], counts: NDArray) -> Cell:
    task = task_of(run.folds[0])
    measure = task.measures[task.main]
    return Cell(
        tested_on=tested_on,
        run=run.name,
        certificate=run.certificate["id"],
        folds=folds,
        seeds=run.seeds,
        score=float(np.mean(measure.score(counts.sum(1)))),
        interval=speaker_interval(counts, measure.score, scale=measure.scale),
        n=sum(of.metrics.test.n for of in run.folds if of.fold in folds) // len(run.seeds),
        n_speakers=counts.shape[1],
    )


def _stamps(runs: Sequence[Run]) -> list[str]:
    return [
        f"{run.name}: {stamp}"
        for run in runs
        for stamp in stamps(run.certificate["protocol"], run.certificate["speaker_dependent"])
    ]


def matrix_json(matrix: CorpusMatrix) -> dict[str, Any]:
    """Return the content of matrix.json."""
    return asdict(matrix)


def matrix_markdown(matrix: CorpusMatrix) -> str:
    """Return the matrix as a table, with how to read it above."""
    task = make_task(matrix.task, matrix.classes)
    measure = task.measures[task.main]
    rows = []
    for row in matrix.rows:
        of = {cell.tested_on: cell for cell in row.cells}
        runs = ", ".join(dict.fromkeys(cell.run for cell in row.cells))
        cells = [
            f"{with_interval(of[c].score, of[c].interval, words=measure.words)}, n {of[c].n}"
            if c in of
            else ""
            for c in matrix.columns
        ]
        rows.append([row.trained_on, row.method, runs, *cells])
    head = ["trained on", "fusion", "run", *(f"tested on {name}" for name in matrix.columns)]
    unit = "in percent" if measure.in_percent else "as a number"
    guess = f"; guessing has {measure.words(1 / len(matrix.classes))}" * (matrix.task == CLASS)
    seeds = {len(cell.seeds) for row in matrix.rows for cell in row.cells}
    caption = (
        f"{measure.name} {unit}, pooled over the n test utterances of a corpus, mean over "
        f"{' or '.join(count_of(n, 'seed') for n in sorted(seeds))}, with 95 % interval over "
        f"speakers, trained weights held fixed{guess}. {task.parts.capitalize()}: "
        f"{', '.join(map(in_code, matrix.classes))}. A corpus that is trained and tested on has "
        "folds within it; elsewhere all its utterances are tested. An empty cell was not among the "
        "runs. Other corpora are other utterances: no cell is tested against another."
    )
    if matrix.synthetic:
        caption += " The speech of the demo corpus is synthetic and says nothing about people."
    blocks = [f"**{in_markdown(stamp)}**" for stamp in matrix.stamps]
    return "\n\n".join([*blocks, caption, markdown_table(head, rows, n_words=3)]) + "\n"
