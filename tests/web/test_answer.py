"""What the page says of a recording is what the model says, by whatever way it is cut."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from app import main
from audio.opening import BadAudio
from config.tasks import RatingScale
from inference import load
from inference.prediction import Prediction
from storage.run_folder import Run
from system.errors import InputError
from tests.conftest import SAMPLE_RATE, write_run
from web import answer as answers
from web.answer import Answer, answer
from web.choices import Example, find_examples, find_models
from web.desk import Desk
from web.models import Models, usable_models
from web.render import answer_html, problem_html
from web.uploads import Uploads


@pytest.fixture(scope="module")
def model(run: Run):
    return load(run.folder)


@pytest.fixture(scope="module")
def of_long(model, recording) -> Answer:
    """The answer to 7 s, longer than all of training."""
    return answer(model, recording("of_long.wav", (300.0, 4.0), (1500.0, 3.0)), 60, nothing)


def nothing(done: int, n: int) -> None:
    pass


def test_a_short_recording_gets_the_prediction_of_its_file(model, recording) -> None:
    file = recording("of_short.wav", (300.0, 0.25))
    found = answer(model, file, 60, nothing)
    expected = model.predict(file)
    assert found.prediction.probs == pytest.approx(expected.probs, abs=1e-6)
    assert found.prediction.gate == pytest.approx(expected.gate, abs=1e-6)
    assert (found.parts, found.is_mean, found.seconds) == ([], False, 0.25)


def test_a_long_one_gets_the_mean_of_windows_that_are_predicted_apart(
    model, recording, of_long: Answer
) -> None:
    samples, _ = soundfile.read(recording("again.wav", (300.0, 4.0), (1500.0, 3.0)))
    starts = [0, 1, 2, 3, 4]
    assert [(part.start, part.end) for part in of_long.parts] == [(s, s + 3) for s in starts]
    pieces = [samples[s * SAMPLE_RATE : (s + 3) * SAMPLE_RATE].astype("float32") for s in starts]
    expected = model.predict(pieces, SAMPLE_RATE)
    for part, one in zip(of_long.parts, expected, strict=True):
        assert part.probs == pytest.approx(one.probs, abs=1e-5)
    assert of_long.is_mean
    for name, value in of_long.prediction.probs.items():
        assert value == pytest.approx(np.mean([one.probs[name] for one in expected]), abs=1e-5)
    gates = [one.gate for one in expected]
    assert of_long.prediction.gate == pytest.approx(np.mean(gates), abs=1e-5)
    surest = max(of_long.parts, key=lambda part: part.confidence)
    assert (of_long.images.start, of_long.images.end) == (surest.start, surest.end)
    assert not any("cut into parts" in line for line in of_long.unlike)  # it is done


def test_windows_cover_all_and_silence_is_left_out_of_the_mean(model, recording) -> None:
    said = []
    file = recording("paused.wav", (300.0, 3.0), (0, 3.0), (1500.0, 3.5))
    found = answer(model, file, 60, lambda done, n: said.append((done, n)))
    times = [(part.start, part.end) for part in found.parts]
    assert times == [(0, 3), (1, 4), (2, 5), (3, 6), (4, 7), (5, 8), (6, 9), (6.5, 9.5)]
    assert [part.problem for part in found.parts].index("silence") == 3
    assert said == [(i + 1, 8) for i in range(8)]
    usable = [part.probs for part in found.parts if not part.problem]
    for name, value in found.prediction.probs.items():
        assert value == pytest.approx(np.mean([probs[name] for probs in usable]), abs=1e-9)


def test_the_hop_grows_so_that_windows_stay_few(monkeypatch, model, recording) -> None:
    monkeypatch.setattr(answers, "MAX_PARTS", 5)
    found = answer(model, recording("longer.wav", (300.0, 13.0)), 60, nothing)
    assert [part.start for part in found.parts] == pytest.approx([0, 2.6, 5.2, 7.8, 10])


def test_a_recording_beyond_the_limit_is_refused_before_it_is_read(
    monkeypatch, model, recording
) -> None:
    monkeypatch.setattr(answers, "read_sound", None)
    with pytest.raises(BadAudio, match="is longer than 5 s"):
        answer(model, recording("beyond.wav", (300.0, 5.1)), 5, nothing)


def test_the_html_escapes_names_and_says_what_is_missing(model, of_long: Answer) -> None:
    html = answer_html(of_long, model, "<b>run</b>", "<script>x</script>.wav")
    assert "<b>run" not in html and "<script>" not in html
    assert "&lt;script&gt;x&lt;/script&gt;.wav" in html
    assert "Longer than the recordings of training" in html
    assert "Calibrated on" in html
    assert "&lt;i&gt;" in problem_html("<i>", "is bad")


def test_a_fusion_without_a_gate_has_no_balance(model, of_long: Answer) -> None:
    without = replace(of_long.prediction, gate=None)
    parts = [replace(part, gate=None) for part in of_long.parts]
    changed = replace(
        of_long, prediction=without, parts=parts, fusion="cqt_only", branches=("cqt",)
    )
    html = answer_html(changed, model, "run", "a.wav")
    assert "reads the CQT image alone" in html and "Mel scale; this model does not read it" in html
    assert 'class="balance"' not in html and 'class="gate-line"' not in html
    assert 'class="balance"' in answer_html(of_long, model, "run", "a.wav")


def test_ratings_are_shown_on_their_scale(model, of_long: Answer) -> None:
    scale = RatingScale(1, 5)
    rated = Prediction("", {"valence": 2.0, "arousal": 4.0}, 0.5, scale=scale)
    parts = [replace(rated, start=part.start, end=part.end) for part in of_long.parts]
    html = answer_html(replace(of_long, prediction=rated, parts=parts), model, "run", "a.wav")
    assert "Ratings <span>from 1 to 5</span>" in html and "width: 25.0%" in html
    assert "A full bar is 5, an empty one 1." in html
    assert "Calibrated" not in html and 'class="runs"' not in html


def test_models_are_found_in_runs_and_by_name(run: Run, tmp_path: Path) -> None:
    folds = [fold.folder for fold in run.folds]
    names = [f"{run.folder.name}/folds/{fold.name}" for fold in folds]
    assert find_models(folds, None) == dict(zip(names, folds, strict=True))
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "a_run").symlink_to(run.folder)
    write_run(runs / "unfinished")
    final = write_run(runs / "whole") / "final" / "seed-0"
    final.mkdir(parents=True)
    (final / "model.json").touch()
    known = {run.folder.name: runs / "a_run", "whole/final/seed-0": final}
    assert find_models([], runs) == known
    twice = {str(run.folder), str(runs / "a_run"), "whole/final/seed-0"}
    assert set(find_models([run.folder], runs)) == twice
    with pytest.raises(InputError, match="there is no trained model in "):
        find_models([], tmp_path / "nowhere")
    with pytest.raises(InputError, match="is not a model"):
        find_models([tmp_path], runs)


def test_models_that_cannot_label_others_are_left_out(run: Run, tmp_path: Path, caplog) -> None:
    (tmp_path / "model.json").write_text('{"baseline": "svm"}')
    found = usable_models({"good": run.folder, "svm": tmp_path})
    assert found == {"good": run.folder}
    assert "left out of the page: svm" in caplog.text
    with pytest.raises(InputError, match="none of these models"):
        usable_models({"svm": tmp_path})


def test_the_latest_models_stay_in_memory(run: Run, monkeypatch) -> None:
    folders = {name: run.folds[0].folder for name in "abc"}
    models = Models(folders, "cpu")
    first = models.named("a")
    assert models.named("a") is first
    models.named("b")
    assert models.named("a") is first
    models.named("c")
    assert models.named("a") is first and set(models._loaded) == {"a", "c"}


def test_what_is_labelled_at_the_end_of_the_server_is_given_up(run: Run, recording) -> None:
    examples = [Example("ends", recording("ends.wav", (300.0, 9.0)))]
    desk = Desk(Models({"run": run.folder}, "cpu"), examples, Uploads(Path()), 60)
    assert "Over time" in desk.label_example(0, "run", nothing)
    desk.is_ending.set()
    assert "cannot be labelled: the page is being closed." in desk.label_example(0, "run", nothing)


def test_examples_are_spread_over_a_corpus(corpus_root: Path, tmp_path: Path) -> None:
    found = [example.path.parent.name for example in find_examples(corpus_root)]
    assert len(found) == 6 and len(set(found)) == 6
    assert find_examples(tmp_path / "nowhere") == [] == find_examples(tmp_path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--max-minutes", "0"], "--max-minutes must be above 0 and at most 60, got 0"),
        (["--max-minutes", "nan"], "--max-minutes must be above 0"),
        (["--max-mb", "-1"], "--max-mb must be above 0"),
        (["--port", "70000"], "--port must be 0 to 65535, got 70000"),
        (["--host", "192.0.2.1"], "the page cannot be served at 192.0.2.1, port 7860: "),
        (["--host", "no such host"], "the page cannot be served at no such host"),
    ],
)
def test_a_mistake_gets_one_message(run: Run, words: list[str], said: str, capsys) -> None:
    assert main([str(run.folder), *words]) == 2
    assert said in capsys.readouterr().err


def test_a_port_in_use_is_told(run: Run, capsys) -> None:
    from web.server import listen

    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert main([str(run.folder), "--port", str(port)]) == 2
    assert f"port {port}: " in capsys.readouterr().err


def test_without_gradio_one_message_says_what_to_install(run: Run, monkeypatch, capsys) -> None:
    monkeypatch.setattr("system.extras.is_installed", lambda package: False)
    assert main([str(run.folder)]) == 2
    said = "the page needs gradio; it comes with the extra `app`: pip install -r requirements-app"
    assert said in capsys.readouterr().err
