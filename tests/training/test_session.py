"""A session computes what its splits read, whatever proves bad on the way."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from audio.segment import AudioSource
from config.schema import Config
from corpora.plan import make_plan
from storage.feature_store import FeatureStore
from training import session as module
from training.session import Session, make_accelerator, open_store

Tiny = Callable[..., Config]


@pytest.mark.parametrize("where", ["images", "states"])
def test_images_are_built_of_splits_that_bad_audio_has_changed(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    drawn = ["protocol.split=random-utterance", "protocol.allow_speaker_overlap=true"]
    config = tiny(*drawn, "corpus.on_bad_audio=skip", "run.folds=[1]", f"run.store={tmp_path}")
    config = config.model_copy(update={"run": config.run.model_copy(update={"shards": "some"})})
    plan, built = make_plan(config), set[str]()
    dev = {u.audio for u in plan.splits[0].dev}
    bad = {audio: "is bad" for audio in list(dev)[:3]}

    def build_images(
        self: FeatureStore, sources: Mapping[str, AudioSource], workers: int
    ) -> dict[AudioSource, str]:
        built.update(sources)
        return bad if where == "images" and not bad.keys().isdisjoint(sources.values()) else {}

    class States:
        def build(self, sources: Mapping[str, AudioSource], workers: int, device: Any) -> Any:
            return {} if bad.keys().isdisjoint(sources.values()) else bad

    monkeypatch.setattr(FeatureStore, "build", build_images)
    monkeypatch.setattr(module, "SpeechStore", States)
    monkeypatch.setattr(module, "built_at_once", lambda config, sources, plan: plan.utterances)
    sources: Any = {"speech": States()} if where == "states" else {}
    session = Session(config, plan, open_store(config), make_accelerator(config))
    session = replace(session, opened=sources).with_images()
    read = {u.audio for u in (*session.plan.splits[0].dev, *session.plan.splits[0].test)}
    assert not bad.keys() & {u.audio for u in session.plan.utterances}
    assert read - dev - {u.audio for u in plan.splits[0].test}  # of training before
    assert {session.plan.hashes[audio] for audio in read} <= built
