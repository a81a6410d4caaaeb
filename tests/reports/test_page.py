"""The page says what predictions.csv says, holds everything, and takes odd names as text."""

import base64
import csv
import io
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from scipy.special import expit, logit
from scipy.stats import t as student
from sklearn.metrics import accuracy_score, f1_score, recall_score

from config.loading import load_config
from evaluation.figures import spectrogram_png
from features import SpectrogramImages
from reports.examples import worst_errors
from reports.publish import gather, publish
from reports.report import write_report
from storage.run_folder import Run, read_run
from system.errors import InputError
from system.files import read_json, write_csv, write_text
from tests.conftest import write_card, write_fold, write_run
from tests.support.runs import run_experiment

CLASSES = ["neutral", "happy", "angry", "sad"]


@pytest.fixture(scope="module")
def folders(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Path]]:
    """Two fusions on two folds with two seeds."""
    root = tmp_path_factory.mktemp("report")
    wishes = [f"run.root={root}", "run.folds=[1,2]", "run.seeds=[0,1]", "train.epochs=1"]
    yield [
        run_experiment(
            load_config(recipe, [*wishes, f"name={fusion}", f"model.fusion={fusion}"]),
            ["train_gmu.py", "--config", "a file.yaml"],
        )
        for fusion in ("concat", "gmu")
    ]
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def published(folders: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "comparison"
    publish(out, *gather(folders, breakdowns=True))
    return out


@pytest.fixture(scope="module")
def page(published: Path) -> str:
    return (published / "report.html").read_text(encoding="utf-8")


def rows_of(folder: Path) -> dict[tuple[int, int], list[dict[str, str]]]:
    """Read the test rows of each fold and seed without code of this project."""
    found = {}
    for path in sorted(folder.glob("folds/*/predictions.csv")):
        fold, seed = map(int, re.findall(r"\d+", path.parent.name))
        with path.open(newline="") as file:
            found[fold, seed] = [row for row in csv.DictReader(file) if row["split"] == "test"]
    return found


def score(rows: list[dict[str, str]], metric: str) -> float:
    target, pred = [row["target"] for row in rows], [row["pred"] for row in rows]
    if metric == "wa":
        return accuracy_score(target, pred)
    if metric == "ua":
        return recall_score(target, pred, average="macro", labels=CLASSES, zero_division=0)
    average = metric.removesuffix("_f1")
    return f1_score(target, pred, average=average, labels=CLASSES, zero_division=0)


def pooled(rows: dict[tuple[int, int], list], metric: str) -> float:
    """Return the mean over seeds of the score over all folds."""
    seeds = {seed for _, seed in rows}
    each = [[row for key, some in rows.items() if key[1] == s for row in some] for s in seeds]
    return float(np.mean([score(some, metric) for some in each]))


def interval_by_hand(rows: dict, metric: str, n_draws: int = 1500) -> list[float]:
    """Resample speakers one by one; Student's t on the logit scale."""
    speakers = sorted({row["speaker"] for some in rows.values() for row in some})
    draw = np.random.default_rng(5)
    scores = []
    for _ in range(n_draws):
        chosen = draw.choice(speakers, len(speakers))
        drawn = {
            key: [row for name in chosen for row in some if row["speaker"] == name]
            for key, some in rows.items()
        }
        seeds = {seed for _, seed in drawn}
        each = [[r for key, some in drawn.items() if key[1] == s for r in some] for s in seeds]
        scores.append(np.mean([score(some, metric) for some in each]))
    point, n = pooled(rows, metric), len(speakers)
    error = np.std(scores, ddof=1) * np.sqrt(n / (n - 1)) / (point * (1 - point))
    reach = student.ppf(0.975, n - 1) * error
    return [float(expit(logit(point) + side * reach)) for side in (-1, 1)]


def shown(page: str, run: str, metric: str) -> list[float]:
    row = re.search(rf'<tr data-run="{run}">(.*?)</tr>', page, re.DOTALL)
    cell = re.search(rf'<td data-metric="{metric}">(.*?)</td>', row[1], re.DOTALL)
    values = re.findall(r'<data value="([\d.e-]+)">([\d.]+)</data>', cell[1])
    for exact, printed in values:
        assert f"{100 * float(exact):.1f}" == printed
    return [float(exact) for exact, _ in values]


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("metric", ["wa", "ua", "macro_f1", "weighted_f1"])
def test_scores_on_the_page_are_those_of_the_predictions(page, folders, place, metric) -> None:
    rows = rows_of(folders[place])
    found = shown(page, folders[place].name, metric)
    assert len(rows) == 4 and found[0] == pytest.approx(pooled(rows, metric), abs=1e-9)


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("metric", ["wa", "ua"])
def test_intervals_on_the_page_are_those_of_the_predictions(page, folders, place, metric) -> None:
    rows = rows_of(folders[place])
    assert shown(page, folders[place].name, metric)[1:] == pytest.approx(
        interval_by_hand(rows, metric), abs=0.03
    )


def test_chance_is_drawn_once_among_the_scores(page) -> None:
    uris = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)" alt="([^"]*)"', page)
    svgs = {alt: base64.b64decode(data).decode() for data, alt in uris}
    drawn = {alt: svg.count("stroke-dasharray: 3.2,2.4") for alt, svg in svgs.items()}
    (scores,) = [alt for alt in drawn if alt.startswith("Scores of each run")]
    assert drawn[scores] == 1  # for UA alone
    assert not any(n for alt, n in drawn.items() if "recall" in alt.lower())


def test_confusion_and_recall_on_the_page_are_those_of_the_predictions(page, folders) -> None:
    tables = re.findall(r'<table class="confusion">(.*?)</table>', page, re.DOTALL)
    for folder, table in zip(folders, tables, strict=True):
        rows = [row for some in rows_of(folder).values() for row in some]
        for target, line in zip(
            CLASSES, re.findall(r"<tr><th scope=.row.>.*?</tr>", table, re.DOTALL), strict=True
        ):
            counts = [int(n) for n in re.findall(r">(\d+)<small>", line)]
            mine = [row for row in rows if row["target"] == target]
            assert counts == [sum(row["pred"] == pred for row in mine) for pred in CLASSES]
            recall = float(re.search(r'class="recall">([\d.]+)<', line)[1])
            right = sum(row["pred"] == target for row in mine)
            assert recall == pytest.approx(100 * right / len(mine), abs=0.051)


class Links(HTMLParser):
    """Collects what a page refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []

    def handle_starttag(self, tag, attributes) -> None:
        self.found += [(tag, v or "") for k, v in attributes if k in ("src", "href", "srcset")]
        assert tag not in ("script", "link", "iframe", "object")


def test_the_page_needs_no_other_file_and_no_script(page: str) -> None:
    links = Links()
    links.feed(page)
    assert {tag for tag, _ in links.found} == {"a", "img", "audio"}
    assert all(value.startswith(("data:", "#")) for _, value in links.found)
    assert "@import" not in page and "url(" not in page
    targets = {value[1:] for tag, value in links.found if tag == "a"}
    assert targets <= set(re.findall(r'id="([\w-]+)"', page))


def test_the_worst_errors_are_the_most_probable_wrong_predictions(page, folders) -> None:
    wrong: dict[str, float] = {}
    for folder in folders:
        of_run: dict[str, float] = {}
        for row in (row for some in rows_of(folder).values() for row in some):
            if row["pred"] != row["target"]:
                sure = float(row[f"prob_{row['pred']}"])
                of_run[row["utterance"]] = max(sure, of_run.get(row["utterance"], 0))
        for name in sorted(of_run, key=of_run.get, reverse=True)[:6]:
            wrong[name] = max(of_run[name], wrong.get(name, 0))
    cards = re.findall(r'<article class="card" data-utterance="(.*?)">', page)
    assert cards == sorted(wrong, key=wrong.get, reverse=True)


def test_a_card_has_the_clip_and_its_images(page, folders, corpus_root) -> None:
    card = re.search(
        r'<article class="card" data-utterance="(.*?)">(.*?)</article>', page, re.DOTALL
    )
    name, inside = card.groups()
    sound = re.search(r'<audio [^>]*src="data:audio/(?:flac|wav);base64,([^"]+)"', inside)[1]
    samples, rate = soundfile.read(io.BytesIO(base64.b64decode(sound)))
    original, _ = soundfile.read(next(corpus_root.rglob(f"{name}.wav")))
    assert rate == 16_000 and np.abs(samples - original).max() < 1e-4
    images = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="(CQT|Mel) image', inside)
    assert [view for _, view in images] == ["CQT", "Mel"]
    settings = read_json(folders[0] / "folds/fold-1_seed-0/model.json")["features"]
    import torch

    pair = SpectrogramImages(**settings)(torch.from_numpy(original).float()[None])
    for (encoded, _), expected in zip(images, pair, strict=True):
        png = base64.b64decode(encoded)
        assert png == spectrogram_png(expected[0, 0].numpy(), -80.0)
        assert Image.open(io.BytesIO(png)).size == (32, 32)


def test_commands_versions_and_certificate_are_there(page, folders) -> None:
    assert "python train_gmu.py --config &#39;a file.yaml&#39;" in page
    certificate = read_json(folders[0] / "split_certificate.json")["id"]
    commit = read_json(folders[0] / "environment.json")["git_commit"]
    assert certificate in page and str(commit) in page and "torch " in page
    assert page.count("test after selection of epoch 1 on dev") == 8
    assert "SPEAKER-DEPENDENT" not in page


def test_tables_and_json_say_the_same(published: Path, page: str) -> None:
    found = read_json(published / "comparison.json")
    markdown = (published / "comparison.md").read_text()
    for run in found["runs"]:
        assert shown(page, run["name"], "ua")[0] == run["test"]["ua"]["pooled"]
        assert f"{100 * run['test']['ua']['pooled']:.1f} [" in markdown
    assert r"\toprule" in (published / "comparison.tex").read_text()
    assert "by group" in markdown and "breakdown" in found


def odd_runs(root: Path, **certificate: object) -> list[Run]:
    """Return runs of hostile names, without corpus, model or text."""
    runs = []
    for place, name in enumerate(('<script>alert("x")</script>', "b & c")):
        made = write_run(root / f"run{place}", **certificate)
        run = made.rename(root / name.replace("/", "⁄"))  # a folder may have any name
        clips = [
            ("<b>u</b>", 's"1', "a", "b"),
            ('"><img src=x>', "s2", "b", "b"),
            ("v", "s2", "a", "a"),
        ]
        fold = write_fold(run, 1, 0, clips)
        settings = {
            "sample_rate": 8000,
            "image_size": 32,
            "cqt": {"n_bins": 40},
            "mel": {"n_fft": 512, "n_mels": 16},
        }
        write_card(fold, ["a", "b"], settings)
        row = "1,1.0,0.5"
        write_text(fold / "history.csv", f"epoch,loss,dev_ua\n{row}\n")
        write_text(
            run / "utterances.csv",
            'utterance,speaker,path,text,audio\n<b>u</b>,s1,gone.wav,"<i>say ""x""</i>",00\n',
        )
        runs.append(read_run(run))
    return runs


def test_odd_names_are_text_and_missing_audio_is_said(tmp_path: Path) -> None:
    runs = odd_runs(tmp_path, speaker_dependent=True)
    _, comparison = gather([run.folder for run in runs])
    write_report(tmp_path / "report.html", runs, comparison)
    page = (tmp_path / "report.html").read_text()
    Links().feed(page)
    for raw in ("<script", "<b>u", "<i>say", "<img src=x"):
        assert raw not in page
    assert "&lt;b&gt;u&lt;/b&gt;" in page and "&lt;i&gt;say" in page
    assert "Not available: gone.wav cannot be read" in page
    assert page.count("<audio") == 0
    assert '<p class="stamp" role="alert">SPEAKER-DEPENDENT' in page


@pytest.mark.parametrize("how", ["path", "root", "no hash"])
def test_a_run_cannot_carry_off_another_recording_of_its_reader(folders, tmp_path, how) -> None:
    """A foreign config may set corpus.root and corpus.absolute_paths: only the hash is sure."""
    folder = tmp_path / "run"
    shutil.copytree(folders[0], folder)
    with (folder / "utterances.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    private = tmp_path / "private.wav"
    soundfile.write(private, np.random.default_rng(0).uniform(-0.5, 0.5, 8000), 16000)
    config = (folder / "config.yaml").read_text()
    root = re.search(r"root: (.*IEMOCAP)", config)[1]
    if how == "root":
        (folder / "config.yaml").write_text(config.replace(root, "/"))
    for row in rows:
        row["path"] = str(private) if how == "path" else str(private)[1:]
        if how == "no hash":
            del row["audio"]
    write_csv(folder / "utterances.csv", list(rows[0]), [list(row.values()) for row in rows])
    run = read_run(folder)
    if how == "path":  # as the config of a manifest may say
        run = replace(run, config={**run.config, "corpus.absolute_paths": True})
    examples = [*worst_errors([run], audio=True), *worst_errors([run], audio=False)]
    assert examples
    for example in examples:
        assert example.sound is None and not example.images
        words = "no hash" if how == "no hash" else "private.wav has changed since it was indexed"
        assert words in example.problem


def test_without_audio_the_images_stay(folders, tmp_path: Path) -> None:
    publish(tmp_path / "quiet", *gather(folders), audio=False)
    page = (tmp_path / "quiet/report.html").read_text()
    assert "data:audio" not in page and "mind its licence" not in page
    assert "data:image/png" in page


def test_out_must_be_a_folder(folders, tmp_path: Path) -> None:
    (tmp_path / "file.md").write_text("old")
    with pytest.raises(InputError, match="--out names a folder"):
        publish(tmp_path / "file.md", *gather(folders))
    assert (tmp_path / "file.md").read_text() == "old"
