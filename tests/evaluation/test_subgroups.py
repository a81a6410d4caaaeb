"""Scores by group by hand and against scikit-learn; temperatures by fold; the mean over seeds."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from scipy.special import softmax
from sklearn import metrics as sklearn

from evaluation.calibration import expected_calibration_error, fit_temperature
from evaluation.metrics import SCORES
from evaluation.significance import speaker_confusions, speaker_interval
from evaluation.subgroups import breakdown, breakdown_markdown, group_by_quartile, group_by_size
from storage.run_folder import FoldResult, Run
from system.errors import RunError
from system.files import write_csv
from tests.conftest import made_metrics

CLASSES = ("calm", "glad", "mad")
ABOUT = ("utterance", "speaker", "gender", "portion", "text", "seconds")


def one_hot(preds, confidence=0.8):
    """Return probabilities whose greatest is the prediction's: (N, K)."""
    rest = (1 - confidence) / (len(CLASSES) - 1)
    return np.where(np.arange(len(CLASSES)) == np.array(preds)[:, None], confidence, rest)


def write_run(folder, about, folds):
    """Write a run: rows of ABOUT, and {(fold, seed): {part: (ids, targets, probs)}}."""
    write_csv(folder / "utterances.csv", ABOUT, about)
    speaker = {row[0]: row[1] for row in about}
    results = []
    for (fold, seed), parts in folds.items():
        place = folder / f"fold-{fold}_seed-{seed}"
        place.mkdir(exist_ok=True)
        header = ["split", "utterance", "speaker", "target", "pred"]
        header += [*(f"prob_{name}" for name in CLASSES), "gate_mean"]
        rows = [
            [part, i, speaker[i], CLASSES[t], CLASSES[int(p.argmax())], *p.tolist(), ""]
            for part, columns in parts.items()
            for i, t, p in zip(*columns, strict=True)
        ]
        write_csv(place / "predictions.csv", header, rows)
        sizes = {part: sum(row[0] == part for row in rows) for part in ("test", "dev")}
        metrics = made_metrics(fold, seed, CLASSES, sizes["dev"], sizes["test"])
        results.append(FoldResult(place, metrics))
    return Run(folder, {}, {}, results)


@pytest.fixture
def by_hand(tmp_path):
    """Two women and a man, ten clips, two folds, two seeds; the second seed has one more right."""
    about = [
        # id, speaker, gender, portion, text, seconds
        ["a0", "ann", "F", "scripted", "one", "1.0"],
        ["a1", "ann", "F", "scripted", "two", "1.1"],
        ["a2", "ann", "F", "improvised", "", "1.2"],
        ["a3", "ann", "F", "improvised", "", "1.3"],
        ["b0", "bea", "F", "scripted", "one", "2.0"],
        ["b1", "bea", "F", "scripted", "two", "2.0"],
        ["c0", "cai", "M", "scripted", "two", "3.0"],
        ["c1", "cai", "M", "scripted", "one", "3.0"],
        ["c2", "cai", "M", "scripted", "two", "3.5"],
        ["c3", "cai", "M", "", "", "4.0"],
    ]
    ids = [row[0] for row in about]
    targets = [0, 0, 1, 1, 2, 2, 0, 1, 1, 0]
    preds = [0, 1, 1, 1, 2, 0, 1, 1, 0, 1], [0, 1, 1, 1, 2, 2, 1, 1, 0, 1]  # of seeds 0 and 1
    folds = {}
    for seed, guess in enumerate(preds):
        probs = one_hot(guess)
        both = {1: slice(0, 6), 2: slice(6, 10)}
        for fold, rows in both.items():
            dev = both[3 - fold]
            folds[fold, seed] = {
                "dev": (ids[dev], targets[dev], probs[dev]),
                "test": (ids[rows], targets[rows], probs[rows]),
            }
    return write_run(tmp_path, about, folds)


def rows_of(found, grouping):
    return {row.group: row for row in found.groups[grouping]}


def test_groups_by_hand(by_hand):
    found = breakdown(by_hand)
    gender = rows_of(found, "gender")
    # Women: recalls 1/2, 2/2 and 1/2 with seed 0, 1/2, 2/2 and 2/2 with seed 1.
    assert gender["F"].ua == pytest.approx((2 / 3 + 5 / 6) / 2)
    assert gender["F"].wa == pytest.approx((4 / 6 + 5 / 6) / 2)
    assert (gender["F"].n, gender["F"].speakers) == (6, 2) and gender["F"].classes is None
    # The man: recalls 0/2 and 1/2 of two classes, with both seeds.
    assert (gender["M"].ua, gender["M"].wa) == (0.25, 0.25)
    assert (gender["M"].n, gender["M"].classes, gender["M"].interval) == (4, 2, None)
    assert list(gender) == ["F", "M"]
    speaker = rows_of(found, "speaker")
    assert [speaker[name].n for name in ("ann", "bea", "cai")] == [4, 2, 4]
    assert (speaker["ann"].ua, speaker["bea"].ua) == (0.75, 0.75)  # bea: 0.5, then 1
    assert list(rows_of(found, "portion")) == ["improvised", "scripted", "unknown"]
    assert rows_of(found, "portion")["unknown"].n == 1
    text = rows_of(found, "text")
    assert [(name, row.n, row.speakers) for name, row in text.items()] == [
        ("two", 4, 3),
        ("one", 3, 3),
        ("unknown", 3, 2),
    ]
    assert text["one"].ua == text["one"].wa == 1 and text["one"].interval is None
    json.dumps(asdict(found), allow_nan=False)


def test_duration_bins_by_hand(by_hand):
    duration = rows_of(breakdown(by_hand), "duration")
    assert {name: row.n for name, row in duration.items()} == {
        "1.0 to 1.2 s": 3,
        "1.2 to 2.0 s": 3,
        "2.0 to 3.0 s": 2,
        "3.0 to 4.0 s": 2,
    }
    assert duration["1.0 to 1.2 s"].wa == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("seconds", "names", "place"),
    [
        (["2.0"] * 5, ["2.0 to 2.0 s"], [0] * 5),
        (["1", "1", "1", "1", "1", "9"], ["1.0 to 1.0 s", "1.0 to 9.0 s"], [0] * 5 + [1]),
        (["3", "", "1"], ["1.0 to 1.0 s", "1.0 to 3.0 s", "unknown"], [1, 2, 0]),
        (["1.001", "1.004"], ["1.001 to 1.001 s", "1.001 to 1.004 s"], [0, 1]),
        (["1.01", "1.02"], ["1.01 to 1.01 s", "1.01 to 1.02 s"], [0, 1]),
        (["", ""], ["unknown"], [0, 0]),
    ],
)
def test_quartiles_of_few_and_of_equal_durations(seconds, names, place):
    found = group_by_quartile(seconds)
    assert (found.names, found.place.tolist()) == (names, place)


def test_quartiles_hold_a_quarter_each_in_any_order():
    draw = np.random.default_rng(0)
    seconds = np.round(draw.uniform(1, 9, 400), 3)
    found = group_by_quartile([f"{s:.3f}" for s in seconds])
    assert np.abs(np.bincount(found.place) - 100).max() <= 1
    order = draw.permutation(400)
    again = group_by_quartile([f"{s:.3f}" for s in seconds[order]])
    assert again.names == found.names and (again.place == found.place[order]).all()
    assert all(
        seconds[found.place == i].max() <= seconds[found.place == i + 1].min() for i in (0, 1, 2)
    )


def test_sizes_tie_by_name_and_unknown_is_last():
    found = group_by_size(["b", "", "", "", "a", "c", "c"])
    assert found.names == ["c", "a", "b", "unknown"]
    assert found.place.tolist() == [2, 3, 3, 3, 1, 0, 0]


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Twelve speakers, 30 texts, two folds, three seeds, everything at random."""
    draw = np.random.default_rng(1)
    ids = [f"u{i:03d}" for i in range(240)]
    about = [
        [i, f"s{k % 12:02d}", "", "", f"text {draw.integers(30):02d}", f"{draw.uniform(1, 9):.3f}"]
        for k, i in enumerate(ids)
    ]
    targets = draw.integers(0, 3, 240)
    folds = {}
    for seed in range(3):
        logits = draw.normal(size=(240, 3)) + 1.5 * np.eye(3)[targets]
        for fold, scale in ((1, 4.0), (2, 0.3)):  # far too sure, and far too unsure
            rows = np.arange(240) % 2 == fold - 1
            some = [ids[i] for i in np.flatnonzero(rows)]
            probs = np.round(softmax(scale * logits, axis=1), 6)
            part = (some, targets[rows], probs[rows])
            dev = (some[:80], targets[rows][:80], probs[rows][:80])
            folds[fold, seed] = {"dev": dev, "test": part}
    return write_run(tmp_path_factory.mktemp("large"), about, folds)


def test_groups_are_scikit_learns_mean_over_seeds(large):
    found = breakdown(large)
    assert set(found.groups) == {"speaker", "duration", "text"}  # nothing else is known
    tables = [large.of_seed(seed) for seed in (0, 1, 2)]
    text = np.array([large.about[i]["text"] for i in tables[0].utterances.tolist()])
    for name, values in (("speaker", tables[0].speakers), ("text", text)):
        for row in found.groups[name]:
            inside = values == row.group
            pairs = [(table.targets[inside], table.preds[inside]) for table in tables]
            present = sorted(set(pairs[0][0].tolist()))
            ua = [
                sklearn.recall_score(*pair, labels=present, average="macro", zero_division=0)
                for pair in pairs
            ]
            assert row.ua == pytest.approx(np.mean(ua))
            wa = np.mean([sklearn.accuracy_score(*pair) for pair in pairs])
            assert row.wa == pytest.approx(wa)
            assert row.n == inside.sum()
            assert (row.classes or 3) == len(present)
    sizes = [row.n for row in found.groups["text"]]
    assert sizes == sorted(sizes, reverse=True) and sum(sizes) == 240


def test_the_interval_resamples_the_speakers_of_the_group(large):
    row = breakdown(large).groups["text"][0]
    each = []
    for seed in (0, 1, 2):
        table = large.of_seed(seed)
        table = table.take([large.about[i]["text"] == row.group for i in table.utterances])
        counts = speaker_confusions(table.targets, table.preds, table.speakers, 3)[1]
        each.append(counts)
    assert row.speakers == len(each[0]) > 2
    assert row.interval == speaker_interval(np.stack(each), SCORES["ua"])


def test_each_folds_temperature_is_of_its_dev_clips_and_for_its_test_clips(large):
    found = breakdown(large).calibration
    assert list(found.temperature) == [f"fold {k} seed {s}" for s in range(3) for k in (1, 2)]
    assert all(found.temperature[f"fold 1 seed {s}"] > 1.5 for s in range(3))
    assert all(found.temperature[f"fold 2 seed {s}"] < 0.7 for s in range(3))
    probs, scaled, targets = [], [], []
    for one in large.folds:
        name = f"fold {one.fold} seed {one.seed}"
        assert found.temperature[name] == fit_temperature(one.dev.probs, one.dev.targets)
        powers = np.maximum(one.test.probs, 5e-7) ** (1 / found.temperature[name])
        scaled.append(powers / powers.sum(1, keepdims=True))
        probs.append(one.test.probs)
        targets.append(one.test.targets)
    target = np.concatenate(targets)
    for ending, values in (("", np.concatenate(probs)), ("_scaled", np.concatenate(scaled))):
        nll = -np.log(np.maximum(values[np.arange(len(target)), target], 5e-7)).mean()
        assert getattr(found, f"nll{ending}") == pytest.approx(nll)
        ece = expected_calibration_error(values, target)
        assert getattr(found, f"ece{ending}") == pytest.approx(ece)
        bins = getattr(found, f"reliability{ending}")
        assert sum(one.n for one in bins) == len(target) == 720
        gaps = [b.n * abs(b.confidence - b.accuracy) for b in bins if b.n]
        assert sum(gaps) / 720 == pytest.approx(ece)
    assert found.nll_scaled < found.nll and found.brier_scaled < found.brier


def test_risk_is_the_mean_over_seeds_at_equal_coverage(large):
    curve = breakdown(large).risk_coverage
    assert len(curve.coverage) == 100
    np.testing.assert_allclose(curve.coverage, np.arange(1, 101) / 100, atol=1 / 240)
    whole = []
    for seed in (0, 1, 2):
        table = large.of_seed(seed)
        order = np.argsort(-table.probs.max(1), kind="stable")
        wrong = (table.preds != table.targets)[order]
        whole.append(np.cumsum(wrong) / np.arange(1, 241))
    mean = np.mean(whole, axis=0)
    for percent in (30, 50, 90, 100):
        place = curve.coverage.index(-(-240 * percent // 100) / 240)
        assert place == percent - 1
        # Clips of equal confidence count with their mean error, so a hair is allowed.
        assert curve.risk[place] == pytest.approx(mean[round(2.4 * percent) - 1], abs=0.01)
    assert curve.risk[-1] == pytest.approx(mean[-1])
    assert curve.area == pytest.approx(mean.mean(), abs=0.01)


def test_few_clips_have_a_point_each(by_hand):
    curve = breakdown(by_hand).risk_coverage
    assert curve.coverage == pytest.approx(np.arange(1, 11) / 10)
    assert curve.risk == pytest.approx([0.45] * 10)  # all equally confident: 5 and 4 of 10


def test_the_tables_say_what_they_leave_out(large):
    found = breakdown(large)
    texts = found.groups["text"]
    text = breakdown_markdown("mine", found)
    shown = [row.group for row in texts if f"| {row.group} |" in text]
    assert shown == [row.group for row in texts[:20]] and len(texts) == 30
    n = sum(row.n for row in texts[20:])
    assert f"10 more texts ({n} utterances) are not shown." in text
    assert text.startswith("**mine by group.**")
    first = found.groups["duration"][0]
    low, high = (f"{100 * end:.1f}" for end in first.interval)
    ua, wa = f"{100 * first.ua:.1f}", f"{100 * first.wa:.1f}"
    assert f"| {first.group} | 60 | 12 | {ua} [{low}, {high}] | {wa} |" in text
    assert text.count("| s0") == 10  # speakers are all shown
    risk = [f"{100 * found.risk_coverage.risk[p - 1]:.1f}" for p in (100, 90, 80, 70, 50)]
    assert f"| risk | {' | '.join(risk)} |" in text
    ece = [f"{100 * getattr(found.calibration, key):.1f}" for key in ("ece", "ece_scaled")]
    assert f"| ECE, percent | {ece[0]} | {ece[1]} |" in text


def test_tables_of_few_clips(by_hand):
    text = breakdown_markdown("mine", breakdown(by_hand))
    assert "| M | 4 | 1 | 25.0 (2 classes) | 25.0 |" in text
    assert "| unknown | 3 | 2 |" in text and "not shown" not in text
    assert "| risk | 45.0 | 45.0 | 45.0 | 45.0 | 45.0 |" in text


def test_unknown_texts_are_shown_beside_the_twenty_largest(large):
    found = breakdown(large)
    unknown = replace(found.groups["text"][0], group="unknown")
    found.groups["text"].append(unknown)
    text = breakdown_markdown("mine", found)
    assert "| unknown |" in text and "10 more texts" in text


def test_a_clip_that_is_not_described_is_reported(by_hand):
    path = by_hand.folder / "utterances.csv"
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(RunError, match=r"utterances\.csv is .*'c3'"):
        breakdown(by_hand)


def test_all_speakers_are_shown_however_many(large):
    found = breakdown(large)
    rows = [replace(found.groups["speaker"][0], group=f"who {i}") for i in range(40)]
    text = breakdown_markdown("mine", replace(found, groups={"speaker": rows}))
    assert text.count("| who ") == 40 and "not shown" not in text
