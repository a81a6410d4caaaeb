"""The report in a real browser: no error, no request, no sideways scrolling, sound that plays."""

from pathlib import Path

import pytest

from config.loading import load_config
from reports.publish import gather, publish
from tests.support.pages import BROWSER, NO_BROWSER, open_page
from tests.support.runs import run_experiment

pytestmark = pytest.mark.skipif(BROWSER is None, reason=NO_BROWSER)


@pytest.fixture(scope="module")
def report(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("browser")
    wishes = [f"run.root={root}", "train.epochs=1"]
    folders = [
        run_experiment(
            load_config(recipe, [*wishes, f"name=a_run_of_{fusion}", f"model.fusion={fusion}"]), []
        )
        for fusion in ("concat", "gmu", "gmu_contrastive")
    ]
    publish(root / "out", *gather(folders, breakdowns=True))
    return root / "out" / "report.html"


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (390, 844), (360, 640)])
def test_the_report_renders_without_errors(browser, report: Path, width: int, height: int) -> None:
    page = open_page(browser, report, width, height)
    lengths = page.evaluate("[...document.querySelectorAll('audio')].map(a => a.duration)")
    assert lengths and all(0.15 < seconds < 0.35 for seconds in lengths)
    headings = page.locator("h2").all_inner_texts()
    assert headings[:3] == ["Scores", "Paired tests", "Training"] and "Gates" in headings
    cut = """[...document.querySelectorAll('h1, h3, p, figcaption, .verdict')].filter(
        e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.innerText)"""
    assert page.evaluate(cut) == []
    page.close()


def test_the_sound_decodes(browser, report: Path) -> None:
    page = browser.new_page()
    page.goto(report.as_uri())
    seconds = page.evaluate(
        """async () => {
            const packed = atob(document.querySelector('audio').src.split(',')[1]);
            const bytes = Uint8Array.from(packed, character => character.charCodeAt(0));
            const sound = await new OfflineAudioContext(1, 1, 16000).decodeAudioData(bytes.buffer);
            const loudest = Math.max(...sound.getChannelData(0).map(Math.abs));
            return [sound.duration, loudest];
        }"""
    )
    assert 0.15 < seconds[0] < 0.35 and 0.1 < seconds[1] <= 1
    page.close()


def test_the_sound_plays(browser, report: Path) -> None:
    page = browser.new_page()
    page.goto(report.as_uri())
    played = page.evaluate(
        """async () => {
            const sound = document.querySelector('audio');
            sound.muted = true;
            const late = new Promise(done => setTimeout(() => done('too late'), 20000));
            const ended = new Promise(done => {
                sound.onended = () => done(sound.currentTime);
                sound.onerror = () => done(sound.error.message);
            });
            sound.play();
            return Promise.race([ended, late]);
        }"""
    )
    assert isinstance(played, float) and played > 0.15, played
    page.close()
