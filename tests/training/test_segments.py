"""A corpus of segments is trained, tested and reported as the same corpus cut into files."""

import base64
import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audio.segment import Segment
from config.loading import load_config
from config.schema import Config
from gates.analysis import analyze
from inference.robustness import measure_robustness
from reports.examples import worst_errors
from reports.publish import gather, publish
from storage.run_folder import read_run
from system.errors import RunError
from system.files import read_json
from tests.conftest import RECIPE, tone
from tests.support.runs import run_experiment
from training.dry_run import dry_run

RATE = 16_000
SECONDS = 0.3  # of a segment
SPEAKERS, EACH = "pqr", 4
FOLD = "folds/fold-1_seed-0"


def make_corpus(folder: Path, cut: bool) -> None:
    """Write one file a speaker with segments, or one file an utterance, of the same samples."""
    folder.mkdir()
    rows = ["id,path,label,speaker" + ("" if cut else ",start,end")]
    for i, speaker in enumerate(SPEAKERS):
        samples = [
            np.int16(32_767 * tone(300 + 900 * (n % 2) + 50 * i, SECONDS, 10 * i + n))
            for n in range(EACH)
        ]
        for n in range(EACH):
            row = f"{speaker}{n},{speaker}{n if cut else ''}.wav,{'ab'[n % 2]},{speaker}"
            end = "" if n == EACH - 1 else f"{SECONDS * (n + 1):.1f}"
            rows.append(row if cut else f"{row},{SECONDS * n:.1f},{end}")
            if cut:
                soundfile.write(folder / f"{speaker}{n}.wav", samples[n], RATE)
        if not cut:
            soundfile.write(folder / f"{speaker}.wav", np.concatenate(samples), RATE)
    (folder / "list.csv").write_text("\n".join(rows) + "\n")


def make_config(folder: Path, *overrides: str) -> Config:
    corpus = {"name": "manifest", "root": str(folder), "manifest": str(folder / "list.csv")}
    values = RECIPE | {"corpus": {**corpus, "labels": "all", "expect_published_counts": None}}
    values["protocol"] = {"split": "speaker-k-fold", "n_folds": 3}
    values["run"] = {**RECIPE["run"], "root": str(folder / "runs"), "store": str(folder / "store")}
    values["train"] = {"epochs": 1, "batch_size": 4, "images": "computed"}
    (folder / "config.yaml").write_text(json.dumps(values))
    return load_config(folder / "config.yaml", list(overrides))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The run folders of the two corpora, with images computed from waveforms in training."""
    folder = tmp_path_factory.mktemp("segments")
    make_corpus(folder / "segments", cut=False)
    make_corpus(folder / "files", cut=True)
    return {
        name: run_experiment(make_config(folder / name), ["train"])
        for name in ("segments", "files")
    }


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as table:
        return list(csv.DictReader(table))


def test_weights_scores_and_certificate_equal_those_of_cut_files(runs):
    for name in ("model.safetensors", "metrics.json", "history.csv"):
        one, other = ((runs[which] / FOLD / name).read_bytes() for which in ("segments", "files"))
        assert one == other
    certificates = [read_json(runs[which] / "split_certificate.json") for which in runs]
    assert certificates[0]["id"] == certificates[1]["id"]
    assert certificates[0]["folds"] == certificates[1]["folds"]


def test_predictions_and_utterances_name_the_segments_and_only_them(runs):
    times = {
        f"{who}{n}": (f"{0.3 * n:.1f}", f"{0.3 * (n + 1):.1f}") for who in "pqr" for n in range(4)
    }
    times = {u: (a.removesuffix(".0"), "" if u[1] == "3" else b) for u, (a, b) in times.items()}
    for name in (f"{FOLD}/predictions.csv", "utterances.csv"):
        segments, files = (rows_of(runs[which] / name) for which in ("segments", "files"))
        assert all(
            (row.pop("start"), row.pop("end")) == times[row["utterance"]] for row in segments
        )
        for row in (*segments, *files):
            row.pop("path", "")
        assert segments == files


def test_what_reads_a_run_reads_the_segments(runs):
    segments, files = (read_run(runs[which]) for which in ("segments", "files"))
    utterance = segments.folds[0].test.utterances.tolist()[1]
    who, n = utterance[0], int(utterance[1])
    expected = Segment(
        runs["segments"].parents[1] / f"{who}.wav", round(0.3 * n, 1), round(0.3 * (n + 1), 1)
    )
    assert segments.audio_file(utterance) == expected
    assert measure_robustness(segments, progress=False) == measure_robustness(files, progress=False)
    pages = [worst_errors([run], audio=True) for run in (segments, files)]
    assert len(pages[0]) > 0
    for one, other in zip(*pages, strict=True):
        assert one.problem is None and (one.images, one.sound) == (other.images, other.sound)
        samples, rate = soundfile.read(io.BytesIO(base64.b64decode(one.sound.split(",")[1])))
        assert len(samples) == SECONDS * rate


def test_a_report_says_which_part_an_error_is(runs, tmp_path):
    publish(tmp_path, *gather([runs["segments"]]))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    run = read_run(runs["segments"])
    for error in worst_errors([run], audio=False):
        row = run.about[error.utterance]
        end = f"{row['end']} s" if row["end"] else "the end"
        assert f"{row['start']} s to {end} of {row['path']}</p>" in page


def test_gates_of_segments_are_those_of_cut_files(runs):
    for folder in runs.values():
        analyze(folder, n_draws=1, progress=False)
    for name in ("gates/utterances.csv", "gates/units.csv"):
        one, other = ((folder / name).read_bytes() for folder in runs.values())
        assert one == other


def test_stored_images_train_as_those_of_cut_files(runs):
    weights = []
    for which in ("segments", "files"):
        config = make_config(runs[which].parents[1], "name=stored", "train.images=stored")
        weights.append(
            (run_experiment(config, ["train"]) / FOLD / "model.safetensors").read_bytes()
        )
    assert weights[0] == weights[1]


def test_a_dry_run_counts_segments(runs):
    folder = runs["segments"].parents[1]
    said = dry_run(make_config(folder, "name=dry"))
    assert "12 utterances, 12 of them segments of 3 files, a 6, b 6" in said
    assert "segments" not in dry_run(make_config(runs["files"].parents[1], "name=dry"))


def test_times_that_are_not_as_written_are_a_corrupt_file(runs, tmp_path):
    run = read_run(runs["segments"])
    run.about["p1"]["start"] = "soon"
    with pytest.raises(
        RunError, match="utterances.csv is missing, corrupt .*'start' must be seconds"
    ):
        run.audio_file("p1")
