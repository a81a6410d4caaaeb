"""A finished run for the page, a browser with a made microphone, and recordings."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from storage.run_folder import Run
from tests.conftest import SAMPLE_RATE, tone
from tests.support.pages import BROWSER
from tests.support.runs import gated_run

# A beep from Chromium itself; whether a page may listen is asked of the context
FLAGS = ["--no-sandbox", "--use-fake-device-for-media-stream"]


@pytest.fixture(scope="package")
def run(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two folds of the tiny corpus with a small gated model."""
    return gated_run(recipe, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def browser():
    """A browser with a microphone that beeps; without playwright its tests are skipped."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write a WAV of tones and silences: pairs of pitch in Hz (0 is silence) and seconds."""
    folder = tmp_path_factory.mktemp("recordings")

    def write(name: str, *parts: tuple[float, float]) -> Path:
        samples = [
            tone(pitch, seconds, i) if pitch else np.zeros(round(seconds * SAMPLE_RATE), np.float32)
            for i, (pitch, seconds) in enumerate(parts)
        ]
        soundfile.write(folder / name, np.concatenate(samples), SAMPLE_RATE)
        return folder / name

    return write
