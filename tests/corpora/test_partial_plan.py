"""A partial plan equals the plan where a run would start, and goes on where it would stop."""

from pathlib import Path

import numpy as np
import pytest

from config.loading import load_config
from corpora.odd import find_odd
from corpora.odd_shortcuts import shortcuts
from corpora.partial_plan import make_partial_plan
from corpora.plan import make_plan
from corpora.survey import survey_corpus
from reports.explore import PAGE, write_exploration
from system.errors import InputError
from tests.corpora.test_published_folds import config_of, write_corpus
from tests.support.corpora import MadeCorpus, clean_corpus


@pytest.fixture
def made(tmp_path: Path) -> MadeCorpus:
    return clean_corpus(tmp_path)


def test_a_corpus_without_faults_has_the_plan_of_a_run(made: MadeCorpus) -> None:
    config = made.config()
    plan, refusals = make_partial_plan(config)
    expected = make_plan(config)
    assert refusals == [] and plan.certificate == expected.certificate
    assert plan.splits == expected.splits and plan.config == config
    assert plan.unread == expected.unread and not plan.copies


def test_bad_audio_is_left_out_whatever_the_config_says(made: MadeCorpus) -> None:
    made.spoken["ann-sad-0"].samples = np.zeros(16_000)
    config = made.config()
    with pytest.raises(InputError, match="1 audio files cannot be used"):
        make_plan(config)
    plan, refusals = make_partial_plan(config)
    skipping = config.model_copy(
        update={"corpus": config.corpus.model_copy(update={"on_bad_audio": "skip"})}
    )
    assert refusals == [] and plan.splits == make_plan(skipping).splits
    assert [path.name for path in plan.bad] == ["ann-sad-0.wav"]


def test_refused_splits_are_there_without_a_certificate(made: MadeCorpus) -> None:
    made.spoken["dot-sad-1"].samples = made.spoken["ann-sad-0"].samples
    config = made.config()
    with pytest.raises(InputError) as refusal:
        make_plan(config)
    plan, refusals = make_partial_plan(config)
    assert refusals == [str(refusal.value)] and plan.certificate == {}
    assert [len(split.test) for split in plan.splits] == [24, 24, 24]
    assert len(plan.utterances) == 72


def test_splits_that_cannot_be_made_are_not_there(made: MadeCorpus) -> None:
    made.overrides = ["protocol.n_folds=7"]
    plan, refusals = make_partial_plan(made.config())
    assert plan.splits == () and "needs at least 7 speakers" in refusals[0]
    assert len(plan.recordings) == 72


def test_an_incomplete_corpus_is_planned_with_what_is_there(recipe: Path, tmp_path: Path) -> None:
    """The tiny IEMOCAP has 40 of the 5531 published utterances."""
    wishes = [f"run.root={tmp_path}", "corpus.expect_published_counts=true"]
    config = load_config(recipe, wishes)
    plan, refusals = make_partial_plan(config)
    assert len(refusals) == 1 and "the counts differ from the published ones" in refusals[0]
    assert len(plan.utterances) == 40 and len(plan.splits) == 5


def test_refusals_of_a_listing_are_all_told_and_the_rest_is_shown(tmp_path: Path) -> None:
    """EMOVO without sad recordings, with folds that do not exist for its speakers."""
    root = write_corpus("emovo", tmp_path)
    for path in root.rglob("tri-*"):
        path.unlink()
    config = config_of("emovo", root, {"split": "given"}, expect_published_counts=True)
    plan, refusals = make_partial_plan(config)
    counts, empty, folds = refusals
    assert "the counts differ from the published ones" in counts
    assert "emovo7, subset all: no utterance of sad" in empty
    assert "other corpus.classes (of a manifest or folder: corpus.labels)" in empty
    assert "protocol.split=given reads the folds from" in folds
    assert plan.splits == () and plan.certificate == {} and len(plan.utterances) > 6
    assert "sad" not in {one.label for one in plan.utterances}
    survey = survey_corpus(config)
    telling = shortcuts(survey)
    findings = find_odd(survey, telling)
    assert findings[0].id == "refused" and folds in findings[0].details
    write_exploration(tmp_path / "page", survey, telling, findings, [], audio=False)
    assert "This config gives no folds" in (tmp_path / "page" / PAGE).read_text()


def test_what_stops_the_splits_is_told_beside_what_stops_before(made: MadeCorpus) -> None:
    """All of one class is bad, and there are fewer speakers than folds."""
    for one in made.of("sad"):
        one.samples = np.zeros(16_000)
    made.overrides = ["protocol.n_folds=7"]
    plan, refusals = make_partial_plan(made.config())
    missing, folds = refusals
    assert "no usable utterance of sad is left" in missing and "needs at least 7 speakers" in folds
    assert len(plan.utterances) == 54


def test_a_missing_corpus_is_refused(made: MadeCorpus) -> None:
    config = made.config()
    (made.root / "list.csv").write_text("path,label,speaker\nnowhere.wav,a,b\n")
    with pytest.raises(InputError):
        make_partial_plan(config)
