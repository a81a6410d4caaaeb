"""bundle.json: what a bundle is, read and written here; imports nothing slow.

bundle.json              this file
model.onnx               waveforms (batch, samples) -> probs (batch, K); and gate (batch,)
model.onnx.data          its weights, of models too large for one file
members/NAME/            model.json, model.safetensors, calibration.json of each model
split_certificate.json   who was trained, selected and tested
example.py               labels recordings with ONNX Runtime alone
README.md                the model card
audonnx/                 model.yaml and a model.onnx of batch 1, if asked for
speech/                  the pretrained speech model that the models read, if asked for

A model that reads a speech model or vectors has neither graph nor example.py nor audonnx/.
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator

from config.fusions import FUSIONS, SOURCES
from config.section import Section
from config.tasks import CLASS, TaskName
from inference.members import BUNDLE
from storage.source_facts import SpeechFacts
from storage.training_range import TrainingRange
from system.errors import InputError, RunError
from system.files import read_json, write_json

FORMAT = 1  # of bundle.json
GRAPH, CERTIFICATE, EXAMPLE, CARD_TEXT = (
    "model.onnx",
    "split_certificate.json",
    "example.py",
    "README.md",
)
TOLERANCE = 1e-4  # largest difference of a probability or gate that verifying accepts


class Member(Section):
    """One model of the ensemble."""

    name: str
    """Its folder in members/."""
    fold: int | None
    seed: int | None
    weights: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """SHA-256 of its model.safetensors."""
    temperature: float | None
    """Divides the logarithms of its probabilities; None of ratings, and without dev predictions."""
    training_data: TrainingRange | None


class Sources(Section):
    """What models read beside images, or in their place; a bundle of such has no graph."""

    branches: Annotated[list[str], Field(min_length=1)]
    """All branches that are read, of `config.fusions.SOURCES`."""
    speech: SpeechFacts | None
    """The pretrained speech model that labelling needs; None without."""
    trained: str | None = None
    """What of it was trained, in words; None of one that stayed as it was."""
    vector_width: int | None
    """D of the vector that each recording needs; None without."""


class Score(Section):
    """A score on test, pooled over folds, with the 95 % interval over speakers."""

    mean: float
    """Over folds."""
    std: float | None
    pooled: float
    interval: Annotated[list[float], Field(min_length=2, max_length=2)] | None


class Tested(Section):
    """What the members were tested on, each on the test split of its fold."""

    run: str
    folds: list[int]
    seeds: list[int]
    n_folds: int
    """Folds of the protocol."""
    n: int
    """Test utterances."""
    n_speakers: int
    speaker_dependent: bool
    synthetic: bool
    scores: dict[str, Score]
    per_class_recall: list[float | None]
    commits: list[str]


class Verified(Section):
    """How far ONNX Runtime and PyTorch differ over real recordings."""

    recordings: int
    probs: float
    """Largest difference of a probability, or of a rating over half of its scale."""
    gate: float | None
    same_label: int | None
    """Recordings that get the same label; None of ratings."""
    tolerance: float
    holds: bool
    versions: dict[str, str]


class BundleFile(Section):
    """The whole file."""

    format: int
    name: str
    task: TaskName
    classes: list[str]
    """Outputs in their order: classes, or rated dimensions."""
    scale: Annotated[list[float], Field(min_length=2, max_length=2)] | None
    """[lowest, highest] rating; of ratings alone."""
    sample_rate: int
    """Hz of the waveforms."""
    features: dict[str, Any]
    """Arguments of `SpectrogramImages`."""
    trim_db: float | None
    """Silence at the ends is cut off before the graph: frames so many dB below the loudest."""
    crop_seconds: float | None
    """The graph cuts recordings into crops of this length and averages; None reads them whole."""
    longest_seconds: float | None
    """Longest training recording: cut longer ones into parts of that length."""
    fusion: str
    has_gate: bool
    """Whether the graph has a second output, gate: 1 = CQT, 0 = Mel-STFT."""
    free_batch: bool
    """Whether the graph takes waveforms of one length together; else one at a time."""
    opset: int | None
    """None without a graph."""
    sources: Sources | None = None
    """None, and not written, where images alone are read."""
    corpus: str | None
    protocol: str
    certificate: str | None
    members: Annotated[list[Member], Field(min_length=1)]
    is_final: bool
    """Whether it is a run's final model, which has no test speakers: `tested` is of the folds."""
    tested: Tested | None
    versions: dict[str, str]
    verified: Verified | None = None

    @model_validator(mode="after")
    def _check(self) -> "BundleFile":
        """Refuse what the model card could not be written from."""
        if self.fusion not in FUSIONS:
            raise ValueError(f"fusion {self.fusion} is unknown")
        if (self.opset is None) != (self.sources is not None):
            raise ValueError("opset and sources do not agree on whether there is a graph")
        if self.sources is not None and not set(self.sources.branches) <= set(SOURCES):
            raise ValueError(f"branches {', '.join(self.sources.branches)} are unknown")
        if self.tested is not None and self.task == CLASS:
            if len(self.tested.per_class_recall) != len(self.classes):
                raise ValueError("classes and tested.per_class_recall differ in length")
        return self


def read_bundle(folder: Path) -> BundleFile:
    """Read and check bundle.json.

    Raises:
        InputError: The folder is not a bundle, or one of another version.
        RunError: The file is corrupt.
    """
    file = folder / BUNDLE
    if not file.is_file():
        raise InputError(
            f"{folder} is not a bundle (no {BUNDLE} in it): python export.py RUN --to {folder} "
            "makes one"
        )
    try:
        content = read_json(file, "format")
        if content["format"] != FORMAT:
            raise InputError(
                f"{folder} has format {content['format']!r}, and this version reads {FORMAT}: "
                "export its run again"
            )
        return BundleFile.model_validate(content)
    except (RunError, ValidationError) as error:
        raise RunError(
            f"{file} is corrupt or of another version ({_reason(error)}): restore it from a copy, "
            f"or remove {folder} and export the run again"
        ) from error


def _reason(error: RunError | ValidationError) -> str:
    if isinstance(error, RunError):
        return "no JSON with a format in it"
    finding = error.errors()[0]
    place = ".".join(map(str, finding["loc"]))
    return f"{place}: {finding['msg']}" if place else finding["msg"]


def write_bundle(folder: Path, bundle: BundleFile) -> None:
    """Write bundle.json."""
    written = bundle.model_dump()
    if bundle.sources is None:
        del written["sources"]
    write_json(folder / BUNDLE, written)
