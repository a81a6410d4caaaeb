"""A finished run to label with."""

from pathlib import Path

import pytest

from config.loading import load_config
from storage.run_folder import Run, read_run
from tests.support.runs import run_experiment


@pytest.fixture(scope="package")
def run(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two folds of the demo corpus with a small gated model."""
    root = tmp_path_factory.mktemp("runs")
    config = load_config(recipe, [f"run.root={root}", f"run.store={root}/store", "run.folds=[1,2]"])
    return read_run(run_experiment(config, []))
