"""A partial plan equals the plan where a run would start, and goes on where it would stop."""

from pathlib import Path

import numpy as np
import pytest

from config.loading import load_config
from corpora.partial_plan import make_partial_plan
from corpora.plan import make_plan
from system.errors import InputError
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


def test_a_missing_corpus_is_refused(made: MadeCorpus) -> None:
    config = made.config()
    (made.root / "list.csv").write_text("path,label,speaker\nnowhere.wav,a,b\n")
    with pytest.raises(InputError):
        make_partial_plan(config)
