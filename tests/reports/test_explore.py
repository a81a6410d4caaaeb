"""The page of a corpus: its figures against independent ones, escaped names, a real browser."""

import base64
import csv
import io
import json
import re
import shutil
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile
import torch

from corpora.odd import find_odd
from corpora.odd_shortcuts import shortcuts
from corpora.survey import survey_corpus
from explore import main
from features import SpectrogramImages
from reports.explore import PAGE, TABLE, write_exploration
from reports.explore_examples import class_examples, frequency_marks
from reports.explore_tables import TABLE_HEAD
from tests.support.corpora import CLASSES, PER_CELL, SPEAKERS, MadeCorpus, clean_corpus
from tests.support.pages import BROWSER, NO_BROWSER, open_page
from tests.system.test_escaping import NASTY, Page


def plant(made: MadeCorpus) -> MadeCorpus:
    """Clip one, double one, spoil one, and soften all of a class."""
    clipped = np.clip(made.spoken["cid-angry-0"].samples, -0.03, 0.03)
    made.spoken["cid-angry-0"].samples = clipped - clipped.mean()
    made.spoken["ann-sad-1"].samples = made.spoken["ann-sad-0"].samples
    made.spoken["bob-sad-0"].samples = np.zeros(16_000)
    for one in made.of("happy"):
        one.samples = one.samples / one.samples.std() * 0.01
    return made


@pytest.fixture(scope="module")
def explored(tmp_path_factory: pytest.TempPathFactory):
    """Command and its outcome: folder, JSON, printed text."""
    made = plant(clean_corpus(tmp_path_factory.mktemp("explored")))
    config = made.config()
    command = ["--config", str(made.root / "made.yaml"), "--json", str(made.root / "all.json")]
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", printed)
        assert main(command) == 0
    folder = Path(config.run.root) / "explore" / "made"
    yield made, folder, json.loads((made.root / "all.json").read_text()), printed.getvalue()
    shutil.rmtree(made.root)


def test_the_printed_table_and_list_say_what_the_page_says(explored) -> None:
    _, folder, found, printed = explored
    page = (folder / PAGE).read_text()
    assert "the corpus of list.csv: 71 utterances" in printed
    assert "| happy | 18 | 25.4 | 6 |" in printed
    names = [one["id"] for one in found["odd"]]
    assert names == ["bad-audio", "near-identical", "clipped", "telling-level"]
    for one in found["odd"]:
        assert f"- {one['weight']} {one['title']}" in printed
        assert f'data-finding="{one["id"]}"' in page
    assert "4 things odd: 3 to check, 1 to know." in printed and str(folder / PAGE) in printed


def test_the_table_has_a_row_for_each_usable_recording(explored) -> None:
    made, folder, _, _ = explored
    with (folder / TABLE).open(newline="", encoding="utf-8") as file:
        rows = {row["id"]: row for row in csv.DictReader(file)}
    assert list(next(iter(rows.values()))) == list(TABLE_HEAD)
    assert rows.keys() == made.spoken.keys() - {"bob-sad-0"}
    for name in ("ann-sad-0", "dot-happy-1", "cid-angry-0"):
        samples, rate = soundfile.read(made.root / f"{name}.wav")
        row = rows[name]
        assert float(row["seconds"]) == pytest.approx(len(samples) / rate, abs=1e-3)
        assert float(row["level"]) == pytest.approx(20 * np.log10(samples.std()), abs=1e-2)
        assert float(row["peak"]) == pytest.approx(np.abs(samples).max(), abs=1e-5)
        assert int(float(row["rate"])) == rate and row["class"] == made.spoken[name].label
    assert rows["cid-angry-0"]["odd"] == "clipped"
    assert rows["ann-sad-0"]["odd"] == rows["ann-sad-1"]["odd"] == "near-identical"
    assert sum(bool(row["odd"]) for row in rows.values()) == 3


def test_the_counts_of_the_json_are_those_of_the_manifest(explored) -> None:
    _, _, found, _ = explored
    assert found["utterances"] == 71 and list(found["speakers"]) == sorted(SPEAKERS)
    assert {row["name"]: row["utterances"] for row in found["classes"]} == {
        **dict.fromkeys(CLASSES, len(SPEAKERS) * PER_CELL),
        **{"sad": len(SPEAKERS) * PER_CELL - 1, "all": 71},
    }
    assert sorted(fold["test"] for fold in found["folds"]) == [23, 24, 24]
    assert found["protocol"].startswith("manifest4/speaker-3-fold")


def test_the_page_loads_nothing_and_holds_sound_and_images(explored) -> None:
    _, folder, _, _ = explored
    text = (folder / PAGE).read_text()
    page = Page()
    page.feed(text)
    assert page.tags.isdisjoint({"script", "iframe", "object", "embed", "link", "base", "form"})
    sources = [value for _, name, value in page.attributes if name in ("src", "href")]
    assert all(value.startswith(("data:image/", "data:audio/", "#")) for value in sources)
    sounds = [value for value in sources if value.startswith("data:audio/")]
    assert len(sounds) == 2 * len(CLASSES) + 3  # two of each class; two copies, one clipped
    sound, rate = soundfile.read(io.BytesIO(base64.b64decode(sounds[0].partition(",")[2])))
    assert rate == 16_000 and 1 < len(sound) / rate < 1.7
    links = {value[1:] for value in sources if value.startswith("#")}
    assert links <= {value for _, name, value in page.attributes if name == "id"}


def test_page_and_json_name_no_folder_of_this_machine(explored) -> None:
    """A bad file is named by its path in the corpus."""
    made, folder, found, _ = explored
    (bad,) = (one for one in found["odd"] if one["id"] == "bad-audio")
    assert bad["details"][0].endswith("(bob-sad-0.wav)")
    assert str(made.root) not in json.dumps(found)
    assert str(made.root) not in (folder / PAGE).read_text()


def test_ids_are_written_as_they_are(tmp_path: Path) -> None:
    """An id is no negative number; a level is one."""
    made = clean_corpus(tmp_path)
    one = made.spoken["cid-angry-0"]
    one.name, one.samples = "take (-3)", one.samples * 1e-4
    survey = survey_corpus(made.config())
    findings = find_odd(survey, [])
    write_exploration(tmp_path / "out", survey, [], findings, [], audio=False)
    text = (tmp_path / "out" / PAGE).read_text()
    assert "take (-3) (angry): -" in text and "take (−3)" not in text and " −" in text


def test_no_audio_leaves_sound_out(explored) -> None:
    made, folder, _, _ = explored
    out = folder.parent / "quiet"
    assert main(["--config", str(made.root / "made.yaml"), "--no-audio", f"--out={out}"]) == 0
    text = (out / PAGE).read_text()
    assert "data:audio" not in text and "check its licence" not in text
    assert text.count('<article class="card"') == 11 and "data:image/png" in text


def test_of_many_classes_and_speakers_the_largest_are_shown(tmp_path: Path) -> None:
    """72 utterances in 24 classes, the last 4 of them smaller."""
    made = clean_corpus(tmp_path)
    for i, one in enumerate(list(made.of())):
        one.label = f"class-{i % 24:02d}"
        if i % 24 >= 20 and i >= 48:
            del made.spoken[one.name]
    survey = survey_corpus(made.config())
    found = shortcuts(survey)
    write_exploration(tmp_path / "out", survey, found, find_odd(survey, found), [], audio=False)
    text = (tmp_path / "out" / PAGE).read_text()
    assert "columns for the 20 largest classes" in text and "of the 20 largest classes" in text
    table = text[text.index('id="speaker-table"') :].partition("</table>")[0]
    heads = re.findall(r'<th scope="col">(.*?)</th>', table)
    assert heads == [f"class-{k:02d}" for k in range(20)] + ["all"]
    assert 'id="class-table"' in text and "class-23" in text


def test_examples_are_of_the_class_and_of_two_speakers(tmp_path: Path) -> None:
    survey = survey_corpus(clean_corpus(tmp_path).config())
    for label, places in class_examples(survey).items():
        one, other = (survey.utterances[place] for place in places)
        assert one.label == other.label == label and one.speaker != other.speaker


def test_a_tone_stands_at_its_mark() -> None:
    """The brightest row of a tone is where the axis names its frequency."""
    front_end = SpectrogramImages(44_100, 224)
    marks = frequency_marks(front_end)
    assert [words for _, words in marks["CQT"]] == ["50", "100", "200", "500", "1k", "2k"]
    for view, image_of in (("CQT", 0), ("Mel", 1)):
        for share, words in marks[view]:
            hertz = 1000 * float(words[:-1]) if words.endswith("k") else float(words)
            time = np.arange(44_100) / 44_100
            tone = np.sin(2 * np.pi * hertz * time).astype(np.float32)
            image = front_end(torch.from_numpy(tone)[None])[image_of][0, 0]
            row = float(image.mean(1).argmax()) + 0.5
            assert row / 224 == pytest.approx(share, abs=0.012), (view, words)


def test_names_of_a_corpus_are_text(tmp_path: Path) -> None:
    made = clean_corpus(tmp_path)
    for i, one in enumerate(made.of()):
        one.text = f"{NASTY[i % len(NASTY)]} {i}"
        one.label = f"{one.label} {NASTY[0]}"
        one.speaker = f"{one.speaker} {NASTY[1]}"
    survey = survey_corpus(made.config())
    found = shortcuts(survey)
    write_exploration(tmp_path / "out", survey, found, find_odd(survey, found), list(NASTY))
    page = Page()
    page.feed((tmp_path / "out" / PAGE).read_text())
    assert page.tags.isdisjoint({"script", "iframe", "object", "embed", "link", "base", "form"})
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert "<script>alert(1)</script>" in page.text and "\u202e" not in page.text


def test_silence_of_a_class_is_librosas(explored) -> None:
    """Of its trim at 40 dB, with frames of as many seconds."""
    made, _, found, _ = explored
    silent = total = 0.0
    frame, hop = round(2048 / 44_100 * 16_000), round(512 / 44_100 * 16_000)
    for one in made.of("neutral"):
        samples, rate = soundfile.read(made.root / f"{one.name}.wav")
        _, (start, end) = librosa.effects.trim(
            samples, top_db=40, frame_length=frame, hop_length=hop
        )
        silent += start + len(samples) - end
        total += len(samples)
    row = next(row for row in found["classes"] if row["name"] == "neutral")
    assert row["silence"] == pytest.approx(silent / total, abs=1e-3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--json", "/nowhere/x.json"], "there is no folder /nowhere"),
        (["corpus.rot=/x"], "did you mean 'root'"),
        (["--out", "{config}"], "is a file; name a folder"),
        (["protocol.n_folds=2"], "greater than or equal to 3"),
    ],
)
def test_wrong_input_is_told_before_anything_is_read(explored, capsys, words, message) -> None:
    made = explored[0]
    config = str(made.root / "made.yaml")
    words = [word.format(config=config) for word in words]
    assert main(["--config", config, *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--out", ""], ["--json="], ["made.yaml"]])
def test_empty_and_misplaced_words_are_refused(words, capsys) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([*([] if words == ["made.yaml"] else ["--config", "x.yaml"]), *words])
    assert "error: " in capsys.readouterr().err


@pytest.mark.skipif(BROWSER is None, reason=NO_BROWSER)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("width", "height"), [(1440, 900), (390, 844), (360, 640)])
def test_the_page_renders_without_errors(browser, explored, width, height, scheme) -> None:
    page = open_page(browser, explored[1] / PAGE, width, height, scheme)
    lengths = page.evaluate("[...document.querySelectorAll('audio')].map(a => a.duration)")
    assert len(lengths) == 11 and all(1 < seconds < 1.7 for seconds in lengths)
    assert page.locator("h2").all_inner_texts() == [
        *("What is odd", "Classes", "Speakers", "Durations", "Levels", "Silence at the ends"),
        *("Bandwidth", "Shortcuts", "Texts", "Folds", "Examples", "How measured"),
    ]
    cut = """[...document.querySelectorAll('h1, h3, p, li, figcaption, .hz span')].filter(
        e => !e.closest('nav') && e.getBoundingClientRect().right > innerWidth + 1
    ).map(e => e.innerText)"""
    assert page.evaluate(cut) == []
    page.close()


CONTRAST = """() => {
    const light = c => {
        const [r, g, b] = c.match(/[\\d.]+/g).slice(0, 3).map(v => {
            v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
        });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const paper = e => {
        for (; e; e = e.parentElement) {
            const c = getComputedStyle(e).backgroundColor;
            const parts = c.match(/[\\d.]+/g).map(Number);
            if (parts.length < 4 || parts[3] === 1) return c;
        }
        return 'rgb(255, 255, 255)';
    };
    return [...document.querySelectorAll('p, h1, h2, h3, th, td, li, a, code, .badge, .hz span')]
        .map(e => {
            const [a, b] = [getComputedStyle(e).color, paper(e)].map(light);
            return [(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), e.innerText];
        }).filter(([ratio]) => ratio < 4.5);
}"""


@pytest.mark.skipif(BROWSER is None, reason=NO_BROWSER)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_words_have_the_contrast_of_wcag_aa(browser, explored, scheme) -> None:
    page = browser.new_page(color_scheme=scheme)
    page.goto((explored[1] / PAGE).as_uri())
    assert page.evaluate(CONTRAST) == []
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    channel = int(re.findall(r"\d+", ground)[0])
    assert channel > 200 if scheme == "light" else channel < 60
    page.close()
