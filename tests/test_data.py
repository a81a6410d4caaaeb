"""Batches: nothing lost, nothing by chance alone, nothing that depends on who loads."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

import data as data_module
from audio.augment import augment_images
from audio.reading import inspect_audio, read_audio
from data import (
    Batch,
    ImageAugment,
    ImageDataset,
    ImageLoader,
    WaveformDataset,
    build_loader,
)
from features import SpectrogramImages
from storage.feature_store import FeatureStore
from system.errors import RunError
from system.signals import SIGNALS, ignore_signals
from tests.conftest import tone
from training import build
from training.batches import EvalBatches, TrainBatches

N = 11
CPU = torch.device("cpu")
RATE = 16_000  # Hz
SETTINGS = {
    "sample_rate": RATE,
    "image_size": 32,
    "cqt": {"fmin": 200.0, "n_bins": 40},
    "mel": {"n_fft": 512, "n_mels": 32},
}
AUGMENT = ImageAugment(freq_mask=0.5, time_mask=0.5, time_shift=0.5)
batch_sizes = st.integers(2, 20)


def clips_of(batches: EvalBatches) -> list[list[int]]:
    return [[index for _, index in batch] for batch in batches]


@example(n=9, batch_size=4, world=2)  # 5 clips make two batches, 4 would make one
@given(n=st.integers(3, 200), batch_size=batch_sizes, world=st.integers(1, 3))
def test_evaluation_covers_each_clip_once_in_as_many_batches_on_each_process(
    n: int, batch_size: int, world: int
) -> None:
    ranks = [EvalBatches(n, batch_size, rank, world) for rank in range(world)]
    found = [clips_of(rank) for rank in ranks]
    assert sorted(i for rank in found for batch in rank for i in batch) == list(range(n))
    assert all(1 <= len(batch) <= batch_size for rank in found for batch in rank)
    # DDP synchronises buffers in every forward: one more batch on one process would wait for ever
    assert {len(rank) for rank in ranks} == {len(rank) for rank in found} == {len(found[0])}


@pytest.fixture(scope="module")
def store(corpus_root: Path, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    store = FeatureStore(tmp_path_factory.mktemp("store"), SpectrogramImages(**SETTINGS))
    store.build(hashed(corpus_root), workers=0)
    return store


def hashed(corpus_root: Path) -> dict[str, Path]:
    """Return {audio hash: file} of some clips."""
    return {inspect_audio(path).hash: path for path in sorted(corpus_root.rglob("*.wav"))[:N]}


def dataset(store: FeatureStore, augment: ImageAugment | None = None, **kwargs) -> ImageDataset:
    keys = kwargs.pop("keys", list(store.rows))
    return ImageDataset(store, keys, list(range(len(keys))), augment, **kwargs)


def test_a_batch_of_one_clip_keeps_its_batch_axis(store: FeatureStore) -> None:
    batch = dataset(store).__getitems__([(0, 4)])
    assert batch.cqt.shape == batch.mel.shape == (1, 1, 32, 32) and batch.targets.shape == (1,)


def test_without_augmentation_images_are_those_of_the_store(store: FeatureStore) -> None:
    for off in (None, ImageAugment()):
        batch = dataset(store, off)[(3, 4)]
        np.testing.assert_array_equal(batch.cqt[0].numpy(), store.images("cqt")[4].astype("f4"))
        np.testing.assert_array_equal(batch.mel[0].numpy(), store.images("mel")[4].astype("f4"))
        assert batch.utterance.tolist() == batch.targets.tolist() == [4]


def test_augmentation_is_the_same_for_a_clip_whatever_the_fold_and_the_batch(
    store: FeatureStore,
) -> None:
    keys = list(store.rows)
    everyone = dataset(store, AUGMENT, seed=3)
    few = dataset(store, AUGMENT, seed=3, keys=keys[::-2])
    alone = everyone[(5, 8)]
    among = everyone.__getitems__([(5, 1), (5, 8)])
    elsewhere = few[(5, keys[::-2].index(keys[8]))]
    for other in (among.cqt[1], elsewhere.cqt[0]):
        torch.testing.assert_close(other, alone.cqt[0], rtol=0, atol=0)
    raw = dataset(store)[(5, 8)].widened()
    expected = augment_images((raw.cqt[0], raw.mel[0]), (3, 5, int(keys[8][:8], 16)), *AUGMENT[:3])
    torch.testing.assert_close(alone.mel[0], expected[1], rtol=0, atol=0)


def test_augmentation_changes_with_epoch_and_seed_and_leaves_the_store_alone(
    store: FeatureStore,
) -> None:
    before = np.array(store.images("cqt"))
    three, four = dataset(store, AUGMENT, seed=3), dataset(store, AUGMENT, seed=4)
    images = [three[(0, 2)].cqt, three[(1, 2)].cqt, four[(0, 2)].cqt]
    for i, image in enumerate(images):
        assert not any(torch.equal(image, other) for other in images[i + 1 :])
    np.testing.assert_array_equal(store.images("cqt"), before)


def epoch_of(loader: DataLoader, epoch: int) -> list[Batch]:
    loader.batch_sampler.set_epoch(epoch)
    return list(loader)


def test_worker_processes_give_the_same_batches(store: FeatureStore, monkeypatch) -> None:
    clips = dataset(store, AUGMENT, seed=7)
    alone = build_loader(clips, TrainBatches(N, 4, 7), torch.device("cpu"), workers=2)
    assert alone.num_workers == 0  # on a CPU the training process reads for itself

    def on_any_device(*args: object, **kwargs: object) -> DataLoader:
        return DataLoader(*args, **{**kwargs, "pin_memory": False})

    monkeypatch.setattr(data_module, "BatchLoader", on_any_device)
    shared = build_loader(clips, TrainBatches(N, 4, 7), torch.device("cuda"), workers=2)
    assert shared.num_workers == 2
    for epoch in (0, 1):  # the workers persist and receive the new epoch
        pairs = zip(epoch_of(alone, epoch), epoch_of(shared, epoch), strict=True)
        for ours, theirs in pairs:
            for one, other in zip(ours, theirs, strict=True):
                torch.testing.assert_close(one, other, rtol=0, atol=0)


# Crops


@pytest.fixture(scope="module")
def cropped(corpus_root: Path, tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """A store of crops of 0.1 s; the corpus's clips have 0.2 to 0.26 s."""
    front_end = SpectrogramImages(**SETTINGS, seconds=0.1)
    store = FeatureStore(tmp_path_factory.mktemp("crops"), front_end)
    store.build(hashed(corpus_root), workers=0)
    return store


def test_a_store_of_crops_holds_as_many_as_cover_each_clip(cropped, corpus_root: Path) -> None:
    images = SpectrogramImages(**SETTINGS)
    for key, path in hashed(corpus_root).items():
        waveform = torch.from_numpy(read_audio(path, RATE))
        rows = cropped.rows[key]
        starts = np.linspace(0, len(waveform) - 1600, len(rows)).round().astype(int)
        assert len(rows) == -(-len(waveform) // 1600) in (2, 3)
        for row, start in zip(rows, starts, strict=True):
            cqt, mel = images(waveform[None, start : start + 1600])
            np.testing.assert_allclose(cropped.images("cqt")[row], cqt[0], atol=0.05)
            np.testing.assert_allclose(cropped.images("mel")[row], mel[0], atol=0.05)


def test_evaluation_sees_every_crop_and_training_one_of_each_clip(cropped) -> None:
    evaluated, trained = dataset(cropped), dataset(cropped, ImageAugment(), seed=2)
    clips = [int(evaluated[(0, i)].utterance) for i in range(len(evaluated))]
    assert clips == [i for i, rows in enumerate(cropped.rows.values()) for _ in rows]
    assert len(trained) == N
    seen = set()
    for epoch in range(30):
        image = trained[(epoch, 3)].cqt[0].numpy()
        rows = list(cropped.rows.values())[3]
        (row,) = [r for r in rows if np.array_equal(cropped.images("cqt")[r].astype("f4"), image)]
        seen.add(row)
    assert seen == set(rows)


# Waveforms


def waveforms(corpus_root: Path, crop_size: int | None = None, **augment) -> WaveformDataset:
    paths = hashed(corpus_root)
    targets = list(range(N))
    return WaveformDataset(
        list(paths.values()), list(paths), targets, RATE, crop_size, augment, seed=3
    )


def loader_of(clips: WaveformDataset, augment: ImageAugment) -> ImageLoader:
    batches = TrainBatches(N, 4, 7)
    plain = build_loader(clips, batches, CPU, workers=0)
    return ImageLoader(plain, SpectrogramImages(**SETTINGS), augment, CPU)


def stored_loader(store: FeatureStore, corpus_root: Path, augment: ImageAugment) -> DataLoader:
    """Return the batches of the same clips in the same order from the store."""
    clips = dataset(store, augment, seed=3, keys=list(hashed(corpus_root)))
    return build_loader(clips, TrainBatches(N, 4, 7), CPU, workers=0)


def test_computed_images_are_the_stored_ones(store: FeatureStore, corpus_root: Path) -> None:
    computed = loader_of(waveforms(corpus_root), ImageAugment())
    stored = stored_loader(store, corpus_root, ImageAugment())
    assert len(computed) == len(stored)
    for ours, theirs in zip(computed, stored, strict=True):
        assert torch.equal(ours.utterance, theirs.utterance) and torch.equal(
            ours.targets, theirs.targets
        )
        torch.testing.assert_close(ours.cqt, theirs.widened().cqt, rtol=0, atol=0.05)  # float16
        torch.testing.assert_close(ours.mel, theirs.widened().mel, rtol=0, atol=0.05)


def test_computed_images_are_masked_and_mixed_like_stored_ones(
    store: FeatureStore, corpus_root: Path
) -> None:
    augment = AUGMENT._replace(freq_shift=0.3, level_db=6.0, mixup=0.4)
    computed = loader_of(waveforms(corpus_root), augment)
    stored = stored_loader(store, corpus_root, augment)
    for ours, theirs in zip(computed, stored, strict=True):
        torch.testing.assert_close(ours.mix.share, theirs.mix.share)
        torch.testing.assert_close(ours.mel, theirs.mel, rtol=0, atol=0.1)


def test_waveforms_change_with_the_epoch_and_not_with_the_batch(corpus_root: Path) -> None:
    clips = waveforms(corpus_root, snr_db=[10.0, 20.0], speed=0.1)
    alone, among = clips[(1, 5)], clips.__getitems__([(1, 2), (1, 5)])
    n = int(alone.lengths)
    torch.testing.assert_close(among.waveform[1, :n], alone.waveform[0], rtol=0, atol=0)
    assert int(among.lengths[1]) == n and not among.waveform[1, n:].any()
    assert int(clips[(2, 5)].lengths) != n
    assert among.keys.tolist() == [[3, 1, clips.ids[i]] for i in (2, 5)]


def test_waveform_crops_have_one_length_and_another_place_each_epoch(corpus_root: Path) -> None:
    clips = waveforms(corpus_root, crop_size=1600)
    batch = clips.__getitems__([(0, i) for i in range(N)])
    assert batch.waveform.shape == (N, 1600) and batch.lengths.tolist() == [1600] * N
    assert not torch.equal(clips[(0, 1)].waveform, clips[(1, 1)].waveform)


def test_a_recording_that_vanishes_is_named(tmp_path: Path) -> None:
    gone = WaveformDataset([tmp_path / "gone.wav"], ["0" * 64], [0], RATE, None, {})
    with pytest.raises(RunError, match=r"gone.wav cannot be read.*run the same command again"):
        gone[(0, 0)]


def own_clip(tmp_path: Path) -> tuple[Path, WaveformDataset]:
    path = tmp_path / "mine.wav"
    soundfile.write(path, tone(440, 0.3, 0), RATE)
    return path, WaveformDataset([path], [inspect_audio(path).hash], [0], RATE, None, {})


@pytest.mark.promise("bad_audio")
@pytest.mark.parametrize("kept", ["nothing", "size", "size and time"])
def test_a_recording_that_changed_is_named(tmp_path: Path, kept, count) -> None:
    path, clips = own_clip(tmp_path)
    before = path.stat()
    assert len(clips[(0, 0)].waveform[0]) == 4800
    soundfile.write(path, tone(500, 0.4 if kept == "nothing" else 0.3, 0), RATE)
    if kept == "size and time":
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert path.stat().st_size == before.st_size
    with pytest.raises(RunError, match="mine.wav has changed since it was indexed.*same command"):
        clips[(1, 0)]
    count("files that changed in between")


@pytest.mark.promise("bad_audio")
@pytest.mark.parametrize("packed", ["touched", "FLAC"])
def test_an_equal_recording_is_accepted(tmp_path: Path, packed, count) -> None:
    path, clips = own_clip(tmp_path)
    before = clips[(0, 0)].waveform
    samples, rate = soundfile.read(path)
    soundfile.write(path, samples, rate, format="WAV" if packed == "touched" else "FLAC")
    os.utime(path, (1, 1))
    torch.testing.assert_close(clips[(0, 0)].waveform, before, rtol=0, atol=0)
    count("files touched and equal")


def test_a_change_of_level_ends_at_the_floor_of_the_images(store: FeatureStore) -> None:
    items = [(2, i) for i in range(N)]
    before = dataset(store).__getitems__([(0, i) for i in range(N)]).widened()
    after = dataset(store, ImageAugment(level_db=20.0, top_db=45.0), seed=3).__getitems__(items)
    assert float(after.cqt.min()) == float(after.mel.min()) == -45.0
    changes = [(new - old)[new > -45.0] for old, new in zip(before.mel, after.mel, strict=True)]
    assert all(float(change.max() - change.min()) < 1e-4 for change in changes)
    assert len({round(float(change[0]), 3) for change in changes}) == N


def test_images_are_changed_as_the_config_says_down_to_its_floor(tiny) -> None:
    wishes = ("features.reference=full_scale", "features.top_db=50", "augment.level_db=3")
    off = ImageAugment(top_db=50.0)
    assert build._image_augment(tiny(*wishes, "augment.freq_shift=0.1")) == off._replace(
        freq_shift=0.1, level_db=3.0
    )
    assert build._image_augment(tiny("features.top_db=50")) == off  # null is none


# mixup


def test_mixup_mixes_stored_images_with_the_batch_and_says_so(store: FeatureStore) -> None:
    plain = dataset(store, ImageAugment(), seed=3)
    mixed = dataset(store, ImageAugment(mixup=0.5), seed=3)
    items = [(4, i) for i in (2, 7, 1)]
    before, after = plain.__getitems__(items), mixed.__getitems__(items)
    assert before.mix is None and after.targets.tolist() == [2, 7, 1]
    share = after.mix.share[:, None, None, None]
    for old, new in ((before.cqt, after.cqt), (before.mel, after.mel)):
        torch.testing.assert_close(new, share * old + (1 - share) * old[after.mix.partner])
    assert after.mix.partner.tolist() == [2, 0, 1]
    moved = after.to(CPU)
    assert torch.equal(moved.mix.share, after.mix.share) and before.to(CPU).mix is None


class Slow(Dataset):
    """Numbers, in no hurry."""

    def __len__(self) -> int:
        return 12

    def __getitem__(self, i: int) -> int:
        time.sleep(0.02)
        return i


@pytest.mark.promise("stop")
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_to_all_processes_ends_no_worker(number: int) -> None:
    """The training process decides; as when a cluster signals every process of a job."""
    loader = DataLoader(Slow(), num_workers=2, worker_init_fn=ignore_signals, batch_size=None)
    batches = iter(loader)
    found = [next(batches), next(batches)]  # one of each worker: both are at work
    for worker in batches._workers:
        os.kill(worker.pid, number)
    assert [*found, *batches] == list(range(12))
