"""Ratings of IEMOCAP and of manifests as targets; what is refused in them and beside them."""

from dataclasses import replace
from pathlib import Path

import pytest

from config.loading import load_config
from corpora.plan import check_listing, make_plan
from corpora.readers import read_corpus
from corpora.targets import select_targets, target_set
from system.errors import InputError
from tests.corpora.test_readers import touch
from tests.support.ratings import rate_corpus

RATED = ("task=dimensions", "corpus.labels=all")
HEADER = "path,label,speaker,valence,arousal,dominance"


@pytest.fixture
def manifest(tmp_path: Path):
    """Write a manifest of three rows with some columns; return the config that reads it."""

    def make(header: str, cells: list[str], *overrides: str):
        touch(tmp_path, *(f"{i}.wav" for i in range(len(cells))))
        rows = [f"{i}.wav,x,s{i % 3},{cell}" for i, cell in enumerate(cells)]
        table = tmp_path / "list.csv"
        table.write_text("\n".join([header, *rows]) + "\n")
        config = tmp_path / "m.yaml"
        config.write_text(
            f"name: m\ntask: dimensions\ncorpus: {{name: manifest, root: {tmp_path}, manifest: "
            f"{table}, labels: all, scale: [1, 7]}}\nprotocol: {{split: leave-one-speaker-out}}\n"
            "model: {fusion: gmu}\n"
        )
        return load_config(config, overrides)

    return make


def chosen(config):
    corpus = config.corpus
    table = None if corpus.manifest is None else Path(corpus.manifest)
    everyone = read_corpus(corpus.name, Path(corpus.root), table)
    labels = target_set(config, everyone)
    return labels, select_targets(everyone, labels, corpus.subset, False)


def test_iemocap_has_the_ratings_of_its_label_lines(tiny, corpus_root, tmp_path):
    root = rate_corpus(corpus_root, tmp_path)
    labels, found = chosen(tiny(*RATED, f"corpus.root={root}"))
    file = root / "Session3/dialog/EmoEvaluation/Ses03F_impro01.txt"
    line = next(line for line in file.read_text().split("\n") if "Ses03F_impro01_F002" in line)
    one = next(u for u in found if u.id == "Ses03F_impro01_F002")
    assert [f"{rating:.4f}" for rating in one.target] == line.split("[")[2].strip("]").split(", ")
    assert labels.classes == ("valence", "arousal", "dominance") and labels.scale == (1, 5)


def test_the_order_of_dimensions_is_ours_and_part_of_the_protocol(tiny):
    plan = make_plan(tiny("task=dimensions", "corpus.labels=[arousal,valence]"))
    assert plan.certificate["protocol"].startswith("iemocap-dimensions(valence+arousal)/leave")
    assert {len(u.target) for u in plan.utterances} == {2}


def test_other_ratings_have_another_certificate(tiny, corpus_root, tmp_path):
    root = rate_corpus(corpus_root, tmp_path)
    plans = [make_plan(tiny(*RATED, f"corpus.root={place}")) for place in (corpus_root, root)]
    assert len({plan.certificate["id"] for plan in plans}) == 2
    assert plans[0].certificate["protocol"] == plans[1].certificate["protocol"]


def test_utterances_without_a_majority_are_rated_too(tiny, corpus_root, tmp_path):
    root = rate_corpus(corpus_root, tmp_path)
    file = next(root.rglob("EmoEvaluation/Ses01F*.txt"))
    file.write_text(file.read_text().replace("\tneu\t", "\txxx\t"))
    assert len(make_plan(tiny(f"corpus.root={root}")).utterances) == 39
    assert len(make_plan(tiny(*RATED, f"corpus.root={root}")).utterances) == 40


def test_the_published_number_of_rated_utterances_is_checked(tiny):
    with pytest.raises(InputError, match="10039 rated utterances are published, 40 are here"):
        check_listing(tiny(*RATED, "corpus.expect_published_counts=true"))


@pytest.mark.parametrize("header", [HEADER, HEADER.replace("arousal", "EmoAct")])
def test_a_manifest_names_its_ratings_in_several_ways(manifest, header):
    labels, found = chosen(manifest(header, ["1,2,3", "7,1.5,4", "2,2,2"]))
    assert [u.target for u in found] == [(1, 2, 3), (7, 1.5, 4), (2, 2, 2)]
    assert labels.name == "manifest-dimensions(valence+arousal+dominance)-1-7"


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        (["1,2,3", "1,,3", "1,2,3"], "1 of 3 utterances lack a rating of .*: 1"),
        (["1,2,3", "1,high,3", "1,2,3"], "1: arousal must be a number, got 'high'"),
        (["1,2,3", "1,inf,3", "1,2,3"], "1: arousal must be a number, got 'inf'"),
        (["1,2,3", "1,8,3", "1,2,3"], r"1 utterances are outside 1 to 7: 1 1, 8, 3"),
    ],
)
def test_ratings_that_cannot_be_used_are_refused(manifest, cells, words):
    with pytest.raises(InputError, match=words):
        chosen(manifest(HEADER, cells))


def test_words_in_the_columns_of_ratings_stop_no_run_of_classes(manifest):
    config = manifest(HEADER, ["good,2,3", "1,8,3", "1,2,3"])
    corpus = config.corpus.model_copy(update={"scale": None})
    config = config.model_copy(update={"task": "class", "corpus": corpus})
    everyone = read_corpus("manifest", Path(corpus.root), Path(corpus.manifest))
    everyone = [replace(u, label=f"{i % 2}") for i, u in enumerate(everyone)]
    labels = target_set(config, everyone)
    assert [u.target for u in select_targets(everyone, labels, "all", False)] == [None] * 3


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("corpus.labels=[joy]",), "'joy' is not a dimension"),
        (("corpus.labels=[valence,valence]",), "none twice"),
        (("corpus.labels=iemocap4",), "names classes, but task=dimensions"),
    ],
)
def test_labels_that_are_no_dimensions_are_refused(tiny, overrides, words):
    with pytest.raises(InputError, match=words):
        check_listing(tiny("task=dimensions", *overrides))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("loss.focal_gamma=1", "loss.focal_gamma=1.0 needs one class for each utterance"),
        ("loss.label_smoothing=0.1", "loss.label_smoothing=0.1 needs one class"),
        ("loss.class_weights=balanced", "set it to none"),
        ("train.sampling=balanced", "set it to shuffled"),
        ("corpus.scale=[1,5]", "has no effect on iemocap, whose ratings go from 1 to 5"),
    ],
)
def test_keys_that_need_classes_are_refused(tiny, override, words):
    with pytest.raises(InputError, match=words):
        tiny(*RATED, override)


def test_same_class_of_the_contrastive_loss_is_refused(tiny):
    with pytest.raises(InputError, match="loss.same_class=positives needs one class"):
        tiny(*RATED, "model.fusion=gmu_contrastive", "loss.same_class=positives")


@pytest.mark.parametrize("scale", ["null", "[7,1]"])
def test_a_manifest_of_ratings_needs_their_scale(manifest, scale):
    with pytest.raises(InputError, match="corpus.scale"):
        manifest(HEADER, ["1,2,3"], f"corpus.scale={scale}")


def test_corpora_without_ratings_and_classes_with_a_scale_are_refused(manifest, tiny):
    words = "needs ratings, which ravdess does not have: use iemocap, msppodcast"
    with pytest.raises(InputError, match=words):
        tiny("task=dimensions", "corpus.name=ravdess")
    with pytest.raises(InputError, match="no effect with task=class"):
        manifest(HEADER, ["1,2,3"], "task=class")
