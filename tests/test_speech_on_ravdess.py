"""The commands of a run that reads a speech model, on real speech: trained, resumed and used."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from audio.reading import read_audio
from config.loading import load_config
from corpora.plan import make_plan
from storage.run_folder import read_run
from system.files import read_json
from system.signals import Stop
from tests.support.paths import ROOT
from tests.support.runs import run_experiment
from training.beside import open_sources
from training.experiment import open_run
from training.fold import train_fold

RAVDESS = Path(os.environ.get("MAXMVIT_RAVDESS") or ROOT.parent / "shared" / "data" / "ravdess")
pytestmark = pytest.mark.skipif(not RAVDESS.is_dir(), reason="needs RAVDESS (MAXMVIT_RAVDESS=)")
RATE = 16_000  # Hz, of the speech models
RECIPE = ROOT / "configs/ravdess_wavlm_gmu.yaml"
SMALL = (
    *("corpus.expect_published_counts=false", "protocol.n_folds=3", "run.folds=[1]"),
    *("model.cqt_backbone=test_maxvit", "model.mel_backbone=mvitv2_micro"),
    *("model.pretrained=false", "model.image_size=32", "model.mlp_hidden_dim=16"),
    *("train.epochs=2", "train.batch_size=8", "run.device=cpu", "run.workers=0"),
)
KINDS = ("wav2vec2-group", "wavlm-layer", "whisper")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three speakers, and of each one recording of each emotion."""
    root = tmp_path_factory.mktemp("ravdess")
    for actor in ("Actor_01", "Actor_02", "Actor_03"):
        (root / actor).mkdir()
        for emotion in range(1, 9):
            [file] = (RAVDESS / actor).glob(f"03-01-{emotion:02d}-01-01-01-*")
            (root / actor / file.name).symlink_to(file.resolve())
    return root


def words(corpus: Path, model: Path, tmp_path: Path) -> list[str]:
    """Return the overrides of the shipped recipe that let it run here."""
    places = [f"corpus.root={corpus}", f"model.speech.model={model}"]
    return [*SMALL, *places, f"run.root={tmp_path / 'runs'}", f"run.store={tmp_path / 'store'}"]


def plain_means(folder: Path, waveform: np.ndarray) -> torch.Tensor:
    """Return the means that transformers gives for a recording alone: (L, D)."""
    import transformers

    model = transformers.AutoModel.from_pretrained(folder).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    inputs = extractor(waveform, sampling_rate=RATE, return_tensors="pt")
    network, n_frames = model, None
    if hasattr(model, "decoder"):
        network, n_frames = model.get_encoder(), -(-len(waveform) // 320)  # 20 ms each
    with torch.no_grad():
        states = network(next(iter(inputs.values())), output_hidden_states=True)
    every = [*states.hidden_states[:-1], states.last_hidden_state]
    return torch.stack([state[0, :n_frames].mean(0) for state in every])


@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_run_reads_what_transformers_gives_and_ends_as_one_that_was_not(
    kind: str, corpus: Path, tmp_path: Path
) -> None:
    pytest.importorskip("transformers")
    import transformers

    from tests.support.speech_models import save_model

    seconds, is_whisper = 6, kind == "whisper"  # a recording is one piece
    model = save_model(
        tmp_path / kind, kind, **({"max_source_positions": 50 * seconds} if is_whisper else {})
    )
    if is_whisper:
        transformers.WhisperFeatureExtractor(chunk_length=seconds).save_pretrained(model)
    own = [*words(corpus, model, tmp_path), "model.speech.precision=float32"]
    whole = read_run(run_experiment(load_config(RECIPE, [*own, "name=whole"]), []))
    config, stop = load_config(RECIPE, [*own, "name=stopped"]), Stop()
    with pytest.raises(KeyboardInterrupt), open_run(config, [], stop=stop) as session:
        fold = next(session.folds())
        (fold.folder / "state").mkdir(parents=True)
        train_fold(fold, fold.folder, lambda progress: setattr(stop, "requested", True))
    again = read_run(run_experiment(config, []))
    first, second = (load_file(run.folds[0].folder / "model.safetensors") for run in (whole, again))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    store, plan = open_sources(config)["speech"], make_plan(config)
    for utterance in plan.utterances[::5]:
        means = plain_means(model, read_audio(utterance.audio, RATE))
        kept = store.means([store.rows[plan.hashes[utterance.audio]].start])[0]  # type: ignore[union-attr]
        torch.testing.assert_close(torch.from_numpy(kept), means, rtol=1e-5, atol=1e-5)


def command(*arguments: object) -> str:
    """Run a script as a user does; return what it printed."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_command_takes_the_run(corpus: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    from tests.support.speech_models import save_model

    model = save_model(tmp_path / "wavlm", "wavlm-group")
    own = words(corpus, model, tmp_path)
    said = command("-m", "scripts.ablation", "ravdess_wavlm", "--fusions", "gmu", *own)
    run, out = tmp_path / "runs" / "ravdess_wavlm_gmu", tmp_path / "runs" / "ravdess_wavlm_ablation"
    assert "ravdess_wavlm_ssl_linear" in said and "gate" in said
    report = (out / "report.html").read_text()
    assert "speech" in report and "ravdess_wavlm_ssl_linear" in report

    command("analyze_gates.py", run)
    gates = read_json(run / "gates" / "gates.json")
    assert set(gates["sources"]) == {"cqt", "mel", "speech"}

    command("export.py", run, "--to", tmp_path / "bundle", "--with-speech-model")
    moved = model.rename(tmp_path / "elsewhere")
    files = [*sorted(corpus.glob("Actor_03/*"))[:3], "--format", "csv"]
    said = command("predict.py", run, *files, "--speech-model", moved)
    ours = list(csv.DictReader(said.splitlines()))
    bundled = list(csv.DictReader(command("predict.py", tmp_path / "bundle", *files).splitlines()))
    assert len(ours) == 3 and [row["emotion"] for row in ours] == [
        row["emotion"] for row in bundled
    ]
    for row in ours:
        shares = [float(row[f"gate_{source}"]) for source in ("cqt", "mel", "speech")]
        assert sum(shares) == pytest.approx(1, abs=1e-3)
