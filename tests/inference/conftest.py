"""A finished run to label with."""

from pathlib import Path

import pytest

from storage.run_folder import Run
from tests.support.runs import gated_run


@pytest.fixture(scope="package")
def run(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two folds of the demo corpus with a small gated model."""
    return gated_run(recipe, tmp_path_factory.mktemp("runs"))
