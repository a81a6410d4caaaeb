"""Training from shards: the same bytes as from files and the feature store, also when resumed."""

from collections.abc import Callable
from pathlib import Path

import pytest

from scripts.write_shards import main as write_shards
from tests.support.runs import run_experiment
from training.session import open_store

FOLD = "folds/fold-1_seed-0"
RESULTS = ("model.safetensors", "predictions.csv", "metrics.json", "history.csv")
AUGMENTED = ["train.images=computed", "augment.speed=0.1", "augment.snr_db=[10,30]"]
CROPS = ["features.seconds=0.1", "augment.time_mask=0.3"]


@pytest.fixture(scope="module")
def shards(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write shards of the tiny corpus, each kind once."""
    written: dict[tuple[str, ...], Path] = {}

    def write(form: str, *overrides: str, total: int = 3) -> Path:
        if (form, *overrides) not in written:
            folder = tmp_path_factory.mktemp(form)
            for i in range(1, total + 1):
                argv = ["--config", str(recipe), "--to", str(folder), "--shard", f"{i}/{total}"]
                assert write_shards([*argv, "--format", form, *overrides]) == 0
            written[form, *overrides] = folder
        return written[form, *overrides]

    return write


def results(run: Path) -> dict[str, bytes]:
    return {name: (run / FOLD / name).read_bytes() for name in RESULTS}


@pytest.mark.parametrize(
    ("form", "overrides"),
    [
        ("flac", ["train.images=computed"]),
        ("wav", [*AUGMENTED, *CROPS]),
        ("images", []),
        ("images", CROPS),
    ],
)
def test_scores_and_weights_are_those_of_the_memory_map(tiny, shards, tmp_path, form, overrides):
    """With shards the store holds no training images: one of its own shows that none is read."""
    expected = results(run_experiment(tiny(*overrides), []))
    written = shards(form, *[word for word in overrides if word.startswith("features")])
    own = [f"run.shards={written}", "name=streamed", f"run.store={tmp_path / 's'}"]
    config = tiny(*overrides, *own)
    assert results(run_experiment(config, [])) == expected
    assert len(open_store(config).rows) == 16  # dev and test
