"""No text that is tested is trained or selected on, and still every clip is tested once."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpora.certificate import certify, protocol_id, protocol_parts
from corpora.readers import Utterance
from corpora.splits import make_splits
from corpora.text_groups import cross_with_texts
from system.errors import InputError

K_FOLD = "x/speaker-3-fold/dev-fold/all"


def corpus_of(n_speakers: int = 6, texts: str = "abcd", unscripted: int = 0) -> list[Utterance]:
    """Make speakers who each say every text in both classes, and some words of their own."""
    said = [*texts, *[None] * unscripted]
    return [
        Utterance(
            f"s{who}-{n}-{label}", Path(f"{who}{n}{label}.wav"), label, f"s{who}", text_id=say
        )
        for who in range(n_speakers)
        for n, say in enumerate(said)
        for label in ("joy", "rage")
    ]


def hashes_of(utterances) -> dict[Path, str]:
    return {one.path: f"hash of {one.id}" for one in utterances}


def base(utterances, n_folds=3):
    return make_splits(utterances, "speaker-k-fold", None, n_folds, hashes_of(utterances), False)


def texts_of(part) -> set[str]:
    return {one.text_id for one in part if one.text_id is not None}


@st.composite
def corpora(draw) -> list[Utterance]:
    """Draw six speakers who say four texts in both classes, and less often others, or none."""
    scripted = corpus_of()  # each text 12 times: the first to be dealt, each to a group of its own
    said = st.tuples(st.sampled_from(scripted), st.sampled_from([*"abcdefg", None, None]))
    extra = [
        replace(one, id=f"{one.id}+{n}", path=Path(f"more/{n}"), text_id=text)
        for n, (one, text) in enumerate(draw(st.lists(said, max_size=11)))
    ]
    return scripted + extra


@given(utterances=corpora(), n_groups=st.integers(2, 3))
def test_texts_and_speakers_are_apart_and_every_clip_is_tested_once(utterances, n_groups):
    whole = base(utterances)
    folds = cross_with_texts(whole, n_groups)
    assert [one.fold for one in folds] == list(range(1, 3 * n_groups + 1))
    assert Counter(u.id for f in folds for u in f.test) == Counter(u.id for u in utterances)
    for index, fold in enumerate(folds):
        assert not texts_of(fold.test) & (texts_of(fold.train) | texts_of(fold.dev))
        parent = whole[index // n_groups]
        for name, part in fold.parts():
            outer = dict(parent.parts())[name]
            assert part and [one for one in outer if one in set(part)] == list(part)
    trained = Counter(u.id for fold in folds for u in fold.train)
    assert trained == Counter({u.id: n_groups - 1 for fold in whole for u in fold.train})
    certificate = certify(folds, hashes_of(utterances), f"{K_FOLD}/{n_groups}-text-groups", False)
    assert certificate["checks"]["text"] == "passed: no text of test is in train or dev"
    assert all(f["text_in_train_and_test"]["texts"] == 0 for f in certificate["folds"])
    assert cross_with_texts(base(utterances[::-1]), n_groups) == folds


@given(utterances=corpora(), n_groups=st.integers(2, 4))
def test_groups_differ_by_one_text_at_most(utterances, n_groups):
    """The greedy deal: no group is larger than another by more than its last text."""
    spoken = Counter(one.text_id or one.id for one in utterances)
    folds = cross_with_texts(base(utterances), n_groups)
    sizes = [sum(len(f.test) for f in folds[g::n_groups]) for g in range(n_groups)]
    assert sum(sizes) == len(utterances)
    assert max(sizes) - min(sizes) <= max(spoken.values())


def test_equal_texts_are_dealt_evenly_and_the_same_everywhere():
    folds = cross_with_texts(base(corpus_of()), 2)
    assert [sorted(texts_of(fold.test)) for fold in folds] == [["a", "c"], ["b", "d"]] * 3
    assert [sorted(texts_of(fold.train)) for fold in folds] == [["b", "d"], ["a", "c"]] * 3
    assert [sorted({u.speaker for u in fold.test}) for fold in folds[::2]] == [
        sorted({u.speaker for u in fold.test}) for fold in base(corpus_of())
    ]
    assert {len(fold.test) for fold in folds} == {8}


def test_equal_texts_are_dealt_by_name_not_by_place():
    turned = [replace(fold, test=fold.test[::-1]) for fold in base(corpus_of())]
    folds = cross_with_texts(turned, 2)
    assert [sorted(texts_of(fold.test)) for fold in folds] == [["a", "c"], ["b", "d"]] * 3


def test_the_most_frequent_text_is_dealt_first():
    lone = [one for one in corpus_of(texts="abz") if one.text_id != "z" or "-joy" in one.id]
    doubled = [*lone, *(replace(o, id=f"{o.id}+") for o in lone if o.text_id == "b")]
    folds = cross_with_texts(base(doubled), 2)  # b 24, a 12, z 6
    assert [sorted(texts_of(fold.test)) for fold in folds[:2]] == [["b"], ["a", "z"]]


def test_clips_without_a_text_are_texts_of_their_own():
    utterances = corpus_of(texts="ab", unscripted=3)
    folds = cross_with_texts(base(utterances), 2)
    for first, second in zip(folds[::2], folds[1::2], strict=True):
        own = [[one for one in fold.test if one.text_id is None] for fold in (first, second)]
        assert len(own[0]) == len(own[1]) == 6
        assert abs(len(first.train) - len(second.train)) <= 2


def test_an_utterance_may_be_called_like_a_text():
    """Ids and texts are different things: the clip `a` is not the text `a`."""
    utterances = corpus_of(texts="abcd", unscripted=1)
    named = [replace(o, id="text a") if o.text_id is None and o.id == "s0-4-joy" else o
             for o in utterances]  # fmt: skip
    folds = cross_with_texts(base(named), 2)
    assert Counter(u.id for f in folds for u in f.test) == Counter(u.id for u in named)


def test_too_few_texts_are_refused():
    reason = "protocol.text_groups=3 needs at least 3 texts, .* names 2: use a smaller number, or"
    with pytest.raises(InputError, match=reason):
        cross_with_texts(base(corpus_of(texts="ab", unscripted=9)), 3)
    with pytest.raises(InputError, match="names 0: .* leave it out"):
        cross_with_texts(base(corpus_of(texts="", unscripted=4)), 2)


@pytest.mark.parametrize(("left_out", "part"), [(0, "test"), (1, "train"), (2, "dev")])
def test_an_empty_part_is_refused(left_out, part):
    """The speakers of fold 1 say nothing but text b."""
    said = [one for one in corpus_of() if one.speaker not in ("s0", "s1") or one.text_id == "b"]
    reason = f"protocol.text_groups=2 leaves no utterance for {part} in fold 2: use fewer groups"
    with pytest.raises(InputError, match=reason):
        cross_with_texts(base(said)[left_out:], 2)


def test_a_class_that_only_the_tested_text_says_is_refused():
    utterances = [
        replace(one, label="awe") if one.text_id == "a" and one.label == "joy" else one
        for one in corpus_of()
    ]
    with pytest.raises(InputError, match="fold 1 would train without awe"):
        cross_with_texts(base(utterances), 2)


@pytest.mark.parametrize("into", ["train", "dev"])
def test_a_planted_text_is_refused(into):
    utterances = corpus_of()
    folds = cross_with_texts(base(utterances), 2)
    said = dict(folds[0].parts())[into][0]
    wrong = replace(said, text_id="a")
    parts = {
        name: tuple(wrong if one.id == said.id else one for one in part)
        for name, part in folds[0].parts()
    }
    leaky = [replace(folds[0], **parts), *folds[1:]]
    name = f"{K_FOLD}/2-text-groups"
    with pytest.raises(InputError, match=rf"fold 1: text a is in {into} \({said.id}\) and in test"):
        certify(leaky, hashes_of(utterances), name, False)
    hashes = hashes_of(utterances)
    without = base(utterances)
    passed = certify(without, hashes, K_FOLD, False)
    assert passed["checks"]["text"].startswith("counted, not refused")
    assert passed["folds"][0]["text_in_train_and_test"] == {"texts": 4, "test_utterances": 16}


def test_random_utterances_can_be_crossed_too():
    utterances = corpus_of()
    hashes = hashes_of(utterances)
    hashes[utterances[0].path] = hashes[utterances[2].path] = "one recording under two texts"
    whole = make_splits(utterances, "random-utterance", None, 3, hashes, True)
    folds = cross_with_texts(whole, 2)
    name = protocol_id("x", "random-utterance", None, "all", 3, 2)
    certificate = certify(folds, hashes, name, True)
    assert certificate["checks"]["text"].startswith("passed")
    assert certificate["checks"]["recording"] == "passed"


def test_the_protocol_says_so():
    name = protocol_id("x", "speaker-k-fold", None, "all", 3, 2)
    assert name == f"{K_FOLD}/2-text-groups"
    assert protocol_id("x", "speaker-k-fold", None, "all", 3) == K_FOLD
    parts = protocol_parts(name)
    assert parts["protocol.text_groups"] == "2-text-groups"
    assert protocol_parts(K_FOLD) == {**parts, "protocol.text_groups": "any text"}
    assert protocol_parts(f"manifest(a/b+c)/{name[2:]}") == {
        **parts, "corpus.labels": "manifest(a/b+c)"
    }  # fmt: skip
