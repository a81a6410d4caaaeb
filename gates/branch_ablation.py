"""What frozen weights lose without a branch: its features replaced, or the gate forced.

A gate says how two branches are mixed, not which of them carries the information: this asks the
weights. Replaced is what the fusion head gets: features, or tokens where it reads tokens.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from config.fusions import ONE_BRANCH
from evaluation.comparison import compare
from evaluation.metrics import SCORES, recalls
from evaluation.significance import (
    PairedTest,
    holm,
    paired_test,
    speaker_confusions,
    speaker_interval,
)
from evaluation.tables import setting
from gates.frozen import BRANCHES, FrozenFold, Fused, Seen, Tick
from gates.results import digests
from storage.run_folder import Run
from system.errors import InputError

NAMES = {"cqt": "CQT", "mel": "Mel"}
MEAN, SAME, OTHER = "train mean", "same class", "other class"
FORCED = (0.0, 0.5, 1.0)
N_DRAWS = 5  # of donors


class Counted(NamedTuple):
    """Test clips of one fold and seed under one intervention."""

    counts: NDArray  # (draws, S, K, K) by speaker, target and prediction
    follows: tuple[int, int] | None = None  # of clips with a donor of another class: its class, all


class Measured(NamedTuple):
    """One fold and seed: its speakers, and what the interventions make of them."""

    seed: int
    speakers: list[str]  # (S,)
    found: dict[tuple[str, str], Counted]  # by what is changed and how


def stand_beside(run: Run, unimodal: Sequence[Run]) -> list[dict[str, Any]]:
    """Compare runs of one branch with the run, before anything is evaluated.

    Returns:
        The UA of each, how far it is below that of the run, and where their configs differ.

    Raises:
        InputError: A run reads both branches, or was not tested on the same clips, folds or seeds.
    """
    for one in unimodal:
        if (fusion := one.config["model.fusion"]) not in ONE_BRANCH:
            raise InputError(
                f"{one.folder} is of model.fusion={fusion}: only runs of one branch "
                f"({' or '.join(ONE_BRANCH)}) stand beside the interventions"
            )
    return list(_beside(compare([run, *unimodal]), unimodal)) if unimodal else []


def check_two_branches(run: Run) -> None:
    """Refuse a run in which no branch can be replaced.

    Raises:
        InputError: It reads one branch.
    """
    if (fusion := run.config["model.fusion"]) in ONE_BRANCH:
        raise InputError(
            f"{run.folder} is of model.fusion={fusion}, which reads one branch: there is no gate "
            "and nothing to rely on instead. Name a run of two branches first, and this one "
            "behind it to stand beside it"
        )


def intervene(
    frozen: FrozenFold, seen: Seen, intact: Fused, n_draws: int, tick: Tick = lambda: None
) -> Measured:
    """Replace each branch by its train mean and by other test clips, and force the gate.

    Donors are drawn by fold and draw, the same for both branches, all seeds and all runs.

    Args:
        frozen: The fold.
        seen: What its head gets of the test clips.
        intact: What it makes of them.
        n_draws: Draws of donors.
        tick: Called after each batch of training clips.
    """
    table, n_classes = frozen.one.test, len(frozen.one.classes)

    def count(fused: Sequence[Fused]) -> tuple[list[str], NDArray]:
        each = [
            speaker_confusions(
                table.targets.tolist(), one.preds.tolist(), table.speakers.tolist(), n_classes
            )
            for one in fused
        ]
        return each[0][0].tolist(), np.stack([counts for _, counts in each])

    speakers, counts = count([intact])
    found = {("intact", ""): Counted(counts)}
    means = dict(zip(BRANCHES, frozen.means("train", tick), strict=True))
    for branch, mean in means.items():
        if mean is None:
            raise ValueError("this fusion reads one branch")
        found[branch, MEAN] = Counted(count([frozen.fuse(seen.swapped(branch, mean))])[1])
    for how in (SAME, OTHER):
        given = [
            draw_donors(table.targets, table.speakers, how == SAME, (frozen.one.fold, draw))
            for draw in range(n_draws)
        ]
        for branch in BRANCHES:
            fused = [frozen.fuse(_donated(seen, branch, donors)) for donors in given]
            follows = _follows(fused, table.targets, given) if how == OTHER else None
            found[branch, how] = Counted(count(fused)[1], follows)
    for value in FORCED if intact.gate is not None else ():
        found["gate", f"{value:g}"] = Counted(count([frozen.fuse(seen, value)])[1])
    return Measured(frozen.one.seed, speakers, found)


def draw_donors(targets: NDArray, speakers: NDArray, same: bool, seed: Sequence[int]) -> NDArray:
    """Draw for each clip another one, of its class or of another: (N,), (N,) -> (N,) places.

    Of another speaker where there is one; a clip without any donor stays as it is.

    Args:
        targets: Class of each clip.
        speakers: Speaker of each clip.
        same: Of the clip's own class.
        seed: Of the draw.
    """
    draw = np.random.default_rng((*seed, int(same)))
    chosen = np.arange(len(targets))
    for i in range(len(targets)):
        pool = (targets == targets[i]) == same
        pool[i] = False
        others = pool & (speakers != speakers[i])
        if len(places := np.flatnonzero(others if others.any() else pool)):
            chosen[i] = draw.choice(places)
    return chosen


def describe_reliance(
    run: Run, measured: Sequence[Measured], unimodal: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return what each intervention costs, ready for JSON.

    UA is pooled over folds, the mean over seeds and draws, with its interval over speakers. A fall
    is the intact UA minus that of the intervention, with interval and p of `paired_test`; p is
    Holm-corrected over all interventions.

    Args:
        run: The run.
        measured: Of all its folds and seeds.
        unimodal: From `stand_beside`.
    """
    counts = {key: _pooled(run, measured, key) for key in measured[0].found}  # (R, S, K, K) each
    intact = counts["intact", ""]
    rows = []
    for key in list(counts)[1:]:
        test = _paired(intact, counts[key], SCORES["ua"])
        told = [f for one in measured if (f := one.found[key].follows) is not None]
        hits, n = map(sum, zip(*told, strict=True)) if told else (0, 0)
        rows.append(
            {
                "changed": key[0],
                "how": key[1],
                "draws": len(measured[0].found[key].counts),
                **_ua(counts[key]),
                **_fall(test),
                "recall_falls": _recall_falls(intact, counts[key]),
                "follows_donor": hits / n if n else None,
            }
        )
    adjusted = holm([row["p"] for row in rows])
    return {
        "intact": _ua(intact),
        "interventions": [{**row, "p_holm": p} for row, p in zip(rows, adjusted, strict=True)],
        "branches": _branches(run.classes, intact, counts["cqt", MEAN], counts["mel", MEAN]),
        "unimodal": list(unimodal),
    }


def _donated(seen: Seen, branch: str, donors: NDArray) -> Seen:
    feature = dict(zip(BRANCHES, seen.of_donors(donors), strict=True))[branch]
    if feature is None:
        raise ValueError(f"there is no {branch} branch")
    return seen.swapped(branch, feature)


def _follows(fused: Sequence[Fused], targets: NDArray, given: Sequence[NDArray]) -> tuple[int, int]:
    """Count the clips that get the class of their donor, and those that have one of another."""
    hits = n = 0
    for one, donors in zip(fused, given, strict=True):
        foreign = targets[donors] != targets  # a clip without any donor stays as it is
        hits += int((foreign & (one.preds == targets[donors])).sum())
        n += int(foreign.sum())
    return hits, n


def _pooled(run: Run, measured: Sequence[Measured], key: tuple[str, str]) -> NDArray:
    """Add up counts over the folds and draws of a seed: (R, S, K, K).

    Each draw holds the same clips, so the score of the sum is the mean of the draws' scores: UA and
    recalls are linear in the counts of clips whose targets are given.
    """
    names = sorted({speaker for one in measured for speaker in one.speakers})
    n_classes = len(run.classes)
    each = np.zeros((len(run.seeds), len(names), n_classes, n_classes), dtype=np.int64)
    for one in measured:
        places = [names.index(speaker) for speaker in one.speakers]
        each[run.seeds.index(one.seed), places] += one.found[key].counts.sum(0)
    return each


def _ua(each: NDArray) -> dict[str, Any]:
    score = SCORES["ua"]
    return {"ua": float(np.mean(score(each.sum(1)))), "interval": speaker_interval(each, score)}


def _fall(test: PairedTest) -> dict[str, Any]:
    return {
        "fall": test.difference,
        "fall_interval": test.interval,
        "p": test.p,
        "smallest_p": test.smallest_p,
    }


def _paired(a: NDArray, b: NDArray, score: Callable[[NDArray], NDArray]) -> PairedTest:
    """Test a against b, each as often as gives both the same number of clips."""
    n_a, n_b = int(a.sum()), int(b.sum())
    return paired_test(a * (n_b // n_a), b, score) if n_b > n_a else paired_test(a, b, score)


def _recall_falls(intact: NDArray, changed: NDArray) -> list[float | None]:
    falls = recalls(intact.sum(1)) - recalls(changed.sum(1))  # (R, K)
    return [None if np.isnan(fall) else float(fall) for fall in falls.mean(0)]


def _branches(
    classes: Sequence[str], intact: NDArray, without_cqt: NDArray, without_mel: NDArray
) -> list[dict[str, Any]]:
    """Return how much more the loss of CQT costs than that of Mel, overall and by class.

    A class is scored by its balanced accuracy against the rest, which no shift of bias raises.
    """
    ways: list[tuple[str | None, Callable[[NDArray], NDArray], NDArray]] = [
        (None, SCORES["ua"], np.ones(without_cqt.shape[1], bool))
    ]
    for k, name in enumerate(classes):
        clips = without_cqt[0].sum(-1)  # (S, K)
        told = (clips[:, k] > 0) & (clips.sum(1) > clips[:, k])  # who speaks it, and another
        if told.any():
            ways.append((name, _balanced_accuracy(k), told))
    found = []
    for class_name, score, some in ways:
        test = paired_test(without_mel[:, some], without_cqt[:, some], score)
        larger = without_cqt if test.difference > 0 else without_mel
        found.append(
            {
                "class": class_name,
                "difference": test.difference,
                "interval": test.interval,
                "cost_interval": paired_test(intact[:, some], larger[:, some], score).interval,
                "p": test.p,
            }
        )
    return found


def _balanced_accuracy(k: int) -> Callable[[NDArray], NDArray]:
    """Return the score of a class against the rest: (recall + specificity) / 2."""

    def score(confusion: NDArray) -> NDArray:
        own, others = confusion[..., k, :], np.delete(confusion, k, -2)  # (..., K), (..., K-1, K)
        recall = own[..., k] / own.sum(-1)
        return (recall + 1 - others[..., k].sum(-1) / others.sum((-1, -2))) / 2

    return score


def _beside(comparison: Mapping[str, Any], unimodal: Sequence[Run]) -> Iterator[dict[str, Any]]:
    first, *others = comparison["runs"]
    tests = {
        test["b"]: test
        for test in comparison["tests"]
        if test["a"] == first["name"] and test["metric"] == "ua"
    }
    recall = first["per_class_recall"]
    for summary, one in zip(others, unimodal, strict=True):
        test = tests[summary["name"]]
        pairs = zip(recall, summary["per_class_recall"], strict=True)
        yield {
            "run": summary["name"],
            "branch": ONE_BRANCH[summary["fusion"]],
            "weights": digests(one),
            "differs": _differs(comparison, first["name"], summary["name"]),
            "ua": summary["test"]["ua"]["pooled"],
            "interval": summary["test"]["ua"]["interval"],
            "fall": test["difference"],
            "fall_interval": test["interval"],
            "p": test["p"],
            "smallest_p": test["smallest_p"],
            "recall_falls": [None if a is None or b is None else a - b for a, b in pairs],
        }


def _differs(comparison: Mapping[str, Any], run: str, alone: str) -> list[str]:
    """Return what is different beside the fusion; what only one of them has is the fusion's."""
    return [
        f"{key}: {setting(values, run)} / {setting(values, alone)}"
        for key, values in comparison["config_differences"].items()
        if key != "model.fusion"
        and values.get(run) is not None
        and values.get(alone) is not None
        and values[run] != values[alone]
    ]
