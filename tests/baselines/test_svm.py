"""The SVM's choice on noisy, unequal classes, beside a loop over plain scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from baselines.svm import COSTS, GAMMAS, choose, probabilities


def noisy(n, n_classes, seed):
    """Return features of overlapping classes, the first of which has most utterances."""
    rng = np.random.default_rng(seed)
    y = rng.choice(n_classes, size=n, p=np.arange(n_classes, 0, -1) / sum(range(n_classes + 1)))
    centres = np.random.default_rng(0).normal(size=(n_classes, 6))
    return centres[y] + 1.3 * rng.normal(size=(n, 6)) * [1, 2, 5, 1, 1, 9], y


@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("seed", range(4))
def test_the_grid_is_searched_as_a_loop_over_scikit_learn_does(n_classes, seed):
    (x, y), (x_dev, y_dev), (x_test, _) = (
        noisy(n, n_classes, 10 * seed + k) for k, n in enumerate((90, 60, 40))
    )
    tried = []
    for factor in GAMMAS:
        for cost in COSTS:
            svc = SVC(C=cost, gamma=factor / 6, class_weight="balanced", break_ties=n_classes > 2)
            model = make_pipeline(StandardScaler(), svc).fit(x, y)
            tried.append((balanced_accuracy_score(y_dev, model.predict(x_dev)), model))
    best = max(tried, key=lambda pair: pair[0])  # of equals the first
    found = choose(x, y.tolist(), x_dev, y_dev.tolist(), n_classes)
    assert found.dev_ua == pytest.approx(best[0])
    assert (found.cost, found.gamma) == (best[1][-1].C, best[1][-1].gamma)
    probs = probabilities(found, x_test)
    assert probs.sum(1) == pytest.approx(np.ones(40))
    assert (probs.argmax(1) == best[1].predict(x_test)).all()


def test_not_every_set_chooses_the_first_of_the_grid():
    """Otherwise the test above would hold for no search at all."""
    chosen = set()
    for seed in range(4):
        (x, y), (x_dev, y_dev) = (noisy(n, 4, 10 * seed + k) for k, n in enumerate((90, 60)))
        found = choose(x, y.tolist(), x_dev, y_dev.tolist(), 4)
        chosen.add((found.cost, found.gamma))
    assert len(chosen) > 1 and chosen != {(COSTS[0], GAMMAS[0] / 6)}
