"""What bad habits add is added up as by hand, and both bootstraps as by drawing one by one."""

from dataclasses import asdict

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from evaluation.habits import (
    Habit,
    Watched,
    price_habits,
    speaker_percentiles,
    tuned_on_test,
    utterance_percentiles,
)
from evaluation.habits_table import KEYS, habits_markdown

PERFECT, GUESS = [[2, 0], [0, 2]], [[1, 1], [1, 1]]  # UA 1 and 0.5


def watched(fold=1, seed=0, dev=(0.5,), test=(0.5,), selected=1, config="a", confusions=None):
    confusions = {f"s{fold}": PERFECT} if confusions is None else confusions
    return Watched(config, fold, seed, dev, test, selected, confusions)


UNHEARD = [  # folds 1, 2 x seeds 0, 1; the epoch that dev selects is the second, once the first
    watched(1, 0, (0.4, 0.6, 0.5), (0.50, 0.40, 0.70), 2),
    watched(2, 0, (0.4, 0.6), (0.30, 0.60), 2),
    watched(1, 1, (0.4, 0.8), (0.20, 0.30), 2),
    watched(2, 1, (0.9, 0.6), (0.70, 0.76), 1),
]
HEARD = [watched(k, r, (0.5, 0.9), (0.9, 0.8), 2) for r in (0, 1) for k in (1, 2)]


def rows_by_habit(rows: list[Habit]) -> dict[str, Habit]:
    return {row.habit: row for row in rows}


def test_each_habit_is_added_up_as_by_hand() -> None:
    rows = rows_by_habit(price_habits(UNHEARD, HEARD))
    expected = {  # (UA, difference to honest): honest = (0.4 + 0.6 + 0.3 + 0.7) / 4
        "honest": (0.5, None),
        "best epoch on test": ((0.7 + 0.6 + 0.3 + 0.76) / 4, 0.09),
        "random split": (0.8, 0.3),
        "random split and best epoch on test": (0.9, 0.4),
        "one seed, the highest": (0.5, 0.0),  # both seeds: (0.4 + 0.6) / 2 = (0.3 + 0.7) / 2
        "one seed, the lowest": (0.5, 0.0),
    }
    for habit, (ua, price) in expected.items():
        assert rows[habit].ua == pytest.approx(ua), habit
        assert rows[habit].price == (None if price is None else pytest.approx(price)), habit
    assert rows["best epoch on test"].higher == [2, 4]  # 0.7 > 0.4 and 0.76 > 0.7
    assert all(row.higher is None for name, row in rows.items() if name != "best epoch on test")


def test_one_seed_is_the_highest_and_the_lowest_mean_over_folds() -> None:
    scores = {3: (0.2, 0.4), 5: (0.6, 0.8), 8: (0.5, 0.5)}  # means 0.3, 0.7, 0.5; honest 0.5
    own = [watched(k, s, test=(ua,)) for s, pair in scores.items() for k, ua in enumerate(pair, 1)]
    rows = rows_by_habit(price_habits(own, own))
    highest, lowest = (rows[f"one seed, the {name}"] for name in ("highest", "lowest"))
    assert (highest.ua, highest.price, highest.note) == (*map(pytest.approx, (0.7, 0.2)), "seed 5")
    assert (lowest.ua, lowest.price, lowest.note) == (*map(pytest.approx, (0.3, -0.2)), "seed 3")


def test_the_choice_on_test_stands_beside_the_choice_on_dev() -> None:
    dev_and_test = {  # means over two folds
        ("a", 0): ((0.7, 0.9), (0.5, 0.5)),  # dev 0.8, the highest; test 0.5
        ("a", 1): ((0.6, 0.6), (0.4, 0.4)),
        ("b", 0): ((0.9, 0.5), (0.5, 0.7)),  # dev 0.7; test 0.6, the highest
        ("b", 1): ((0.5, 0.5), (0.3, 0.8)),
    }
    own = [
        watched(k, seed, (dev,), (test,), config=config)
        for (config, seed), pairs in dev_and_test.items()
        for k, (dev, test) in enumerate(zip(*pairs, strict=True), 1)
    ]
    row = tuned_on_test(own)
    assert (row.ua, row.price) == (pytest.approx(0.6), pytest.approx(0.1))
    assert row.note == "of 4: b with seed 0; dev chooses a with seed 0"
    row = tuned_on_test([t for t in own if t.config == "a"])
    assert row.price == 0 and row.note == "of 2: a with seed 0; dev chooses the same"


def test_the_choice_on_test_reads_the_epoch_that_dev_selects() -> None:
    """Else the price of one habit would hold that of another."""
    own = [watched(seed=0, dev=(0.9, 0.1), test=(0.5, 1.0)), watched(seed=1, test=(0.6,))]
    assert tuned_on_test(own).ua == 0.6


def test_rows_that_the_design_cannot_fill_say_what_is_missing() -> None:
    rows = rows_by_habit(price_habits([watched()], [watched()]))
    missing = {
        "one seed": "needs two seeds or more",
        "tuned on test": "needs a second config or seed",
        "interval over speakers": "needs 3 speakers or more",
    }
    for habit, note in missing.items():
        assert (rows[habit].ua, rows[habit].price, rows[habit].note) == (None, None, note)
    assert rows["interval over utterances"].price is None


def test_configs_are_priced_apart() -> None:
    own = [*UNHEARD, watched(test=(0.25,), config="b")]
    rows = price_habits(own, [*HEARD, watched(test=(0.75,), config="b")])
    assert [row.ua for row in rows if row.habit == "honest"] == [pytest.approx(0.5), 0.25]
    assert [row.price for row in rows if row.habit == "random split"] == [pytest.approx(0.3), 0.5]
    assert rows[-1].config == "" and rows[-1].habit == "tuned on test"


def drawn_one_by_one(counts: np.ndarray, over: str, n_draws: int) -> list[float]:
    """Return the interval from draws of single utterances, or of speakers with all of theirs."""
    rows = [
        (speaker, target, pred)
        for speaker, target, pred in np.ndindex(counts.shape)
        for _ in range(counts[speaker, target, pred])
    ]
    speaker, target, pred = np.array(rows).T
    rng, found = np.random.default_rng(7), []
    for _ in range(n_draws):
        if over == "utterances":
            taken = rng.choice(len(rows), len(rows))
        else:
            who = rng.choice(len(counts), len(counts))
            taken = np.concatenate([np.flatnonzero(speaker == s) for s in who])
        found.append(balanced_accuracy_score(target[taken], pred[taken]))
    return np.quantile(found, [0.025, 0.975]).tolist()


@pytest.fixture(scope="module")
def counts() -> np.ndarray:
    """Five speakers, two of them hard, with 20 utterances of each of three classes: (S, K, K)."""
    rng = np.random.default_rng(1)
    right = np.array([0.9, 0.9, 0.8, 0.4, 0.3])
    cells = [[np.roll([p, (1 - p) / 2, (1 - p) / 2], k) for k in range(3)] for p in right]
    return np.array([[rng.multinomial(20, p) for p in speaker] for speaker in cells])


@pytest.mark.parametrize(
    ("over", "made"), [("utterances", utterance_percentiles), ("speakers", speaker_percentiles)]
)
def test_the_bootstrap_agrees_with_draws_one_by_one(counts, over, made) -> None:
    ends = drawn_one_by_one(counts, over, 4000)
    assert made(counts[None]) == pytest.approx(ends, abs=0.01)


def test_speakers_that_differ_make_the_wider_interval_and_alike_ones_none(counts) -> None:
    wide, narrow = speaker_percentiles(counts[None]), utterance_percentiles(counts[None])
    assert wide is not None and np.ptp(wide) > 3 * np.ptp(narrow)
    alike = np.array([[GUESS] * 4])
    assert speaker_percentiles(alike) == [0.5, 0.5] and np.ptp(utterance_percentiles(alike)) > 0.3


def test_intervals_are_means_over_seeds_of_one_training_each() -> None:
    sure, guess = np.array([PERFECT] * 3), np.array([GUESS] * 3)
    of_guess = utterance_percentiles(guess[None])
    both = utterance_percentiles(np.stack([sure, sure]))
    assert both == [1.0, 1.0]
    assert utterance_percentiles(np.stack([sure, guess])) == pytest.approx(
        [(1 + of_guess[0]) / 2, (1 + of_guess[1]) / 2], abs=0.02
    )


def test_the_price_of_an_interval_is_that_of_the_widths(counts) -> None:
    names = [f"s{i}" for i in range(len(counts))]
    own = [
        watched(
            1, confusions={name: c.tolist() for name, c in zip(names[:2], counts, strict=False)}
        ),
        watched(2, confusions={n: c.tolist() for n, c in zip(names[2:], counts[2:], strict=True)}),
    ]
    rows = rows_by_habit(price_habits(own, own))
    speakers, utterances = (rows[f"interval over {w}"] for w in ("speakers", "utterances"))
    assert speakers.interval == speaker_percentiles(counts[None])
    assert utterances.interval == utterance_percentiles(counts[None])
    assert utterances.price == pytest.approx(
        np.ptp(utterances.interval) - np.ptp(speakers.interval)
    )
    assert utterances.price < 0 and speakers.price is None
    hits = counts.sum(0).diagonal() / counts.sum(0).sum(1)
    assert speakers.ua == utterances.ua == pytest.approx(hits.mean())


def test_the_table_says_what_was_trained_and_what_each_habit_adds() -> None:
    found = {
        "command": "python -m scripts.habits --config a.yaml",
        "made_with": {
            "commit": [f"{'c0ffee':0<40}-dirty"],
            "device": ["a CPU"],
            "threads": ["1", "2"],
            "numpy": ["2"],
        },
        "trained": 8,
        "protocols": {
            "own": {"id": "four/leave-one-session-out", "n_train": 24.0},
            "random": {"id": "four/random-utterance", "n_train": 23.6},
        },
        "folds": [1, 2],
        "n_folds": 5,
        "seeds": [0, 1],
        "rows": [asdict(row) for row in price_habits(UNHEARD, HEARD)],
    }
    assert found.keys() == set(KEYS)
    text = habits_markdown(found)
    for words in (
        "exploratory and must not be reported as results",
        "Trained: `a`, on test folds 1, 2 of 5 with seeds 0, 1",
        "24 utterances train a\nfold",
        "they are heard; 24): 8 trainings",
        "Made with commit c0ffee0000-dirty, device a CPU, threads 1 and 2, torch unknown:\n\n    p",
        "| a | honest | 50.0 | – | – |",
        "| a | best epoch on test | 59.0 | +9.0 | 2 of 4 |",
        "| a | random split | 80.0 | +30.0 | – |",
        "| a | interval over speakers (needs 3 speakers or more) | – | – | – |",
        "| a | interval over utterances | 100.0 [100.0, 100.0] | – | – |",
        "| all configs | tuned on test (of 2: a with seed 0; dev chooses a with seed 1) |",
    ):
        assert words in text, words
