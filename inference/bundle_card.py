"""README.md of a bundle: a model card in Hugging Face's layout, written from bundle.json alone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from config.fusions import FUSIONS
from config.tasks import CLASS
from corpora.stamps import speaker_stamp
from evaluation.wording import percent, with_interval
from inference.bundle_file import CARD_TEXT, GRAPH, BundleFile, Sources, Tested, Verified
from inference.members import SPEECH
from system.files import write_text

LICENCES = {  # of the corpora by corpus.name: Hugging Face's id, and words. README.md has the same
    "iemocap": ("other", "release form of USC SAIL"),
    "esd": ("other", "research agreement of the authors"),
    "ravdess": ("cc-by-nc-sa-4.0", "CC BY-NC-SA 4.0"),
    "cremad": ("odbl", "Open Database License"),
    "savee": ("other", "research alone"),
    "tess": ("cc-by-nc-nd-4.0", "CC BY-NC-ND 4.0"),
    "nemo": ("cc-by-nc-sa-4.0", "CC BY-NC-SA 4.0"),
    "urdu": ("other", "research"),
    "meld": ("gpl-3.0", "GPL-3.0 (tables)"),
    "msppodcast": ("other", "academic or commercial agreement of UT Dallas"),
}
UNKNOWN = ("other", "not known to this code: see the corpus")
NO_GRAPH = (
    "There is no ONNX graph: it cannot hold what these models read. PyTorch labels; "
    "`python predict.py --verify BUNDLE recordings/` checks weights and speech model."
)
NAMES = {"ua": "UA", "wa": "WA", "macro_f1": "macro-F1", "weighted_f1": "weighted-F1"}


def write_card(folder: Path, bundle: BundleFile) -> None:
    """Write README.md."""
    write_text(folder / CARD_TEXT, card_text(bundle))


def card_text(bundle: BundleFile) -> str:
    """Return the model card: YAML for Hugging Face's index, then sections."""
    head = yaml.safe_dump(_metadata(bundle), sort_keys=False, allow_unicode=True)
    parts = [
        f"---\n{head}---\n\n# {bundle.name}\n",
        _about(bundle),
        "## Intended use\n",
        *_use(bundle),
        "## Limits\n",
        *(f"- {line}" for line in _limits(bundle)),
        "\n## Training data and licence\n",
        _data(bundle),
        "## What it was tested on\n",
        *_tests(bundle),
        "## Parity\n",
        parity(bundle.verified) if bundle.sources is None else NO_GRAPH,
        "## Settings\n",
        "\n".join(_settings(bundle)),
    ]
    return "\n".join(part.rstrip("\n") + "\n" * (not part.startswith("-")) for part in parts) + "\n"


def parity(verified: Verified | None) -> str:
    """Return what is known of ONNX Runtime beside PyTorch."""
    if verified is None:
        return "Not verified on recordings yet: `python predict.py --verify BUNDLE recordings/`."
    gate = "" if verified.gate is None else f", of the gate {verified.gate:.1e}"
    same = "" if verified.same_label is None else f"; {verified.same_label} get the same label"
    versions = ", ".join(f"{name} {text}" for name, text in verified.versions.items())
    words = "within" if verified.holds else "NOT within"
    return (
        f"Over {verified.recordings} real recordings, ONNX Runtime and PyTorch differ by at most "
        f"{verified.probs:.1e} in a probability{gate}{same}. That is {words} the "
        f"{verified.tolerance:g} that is asked for ({versions})."
    )


def _metadata(bundle: BundleFile) -> dict[str, Any]:
    licence, name = LICENCES.get(bundle.corpus or "", UNKNOWN)
    found: dict[str, Any] = {"license": licence}
    if licence == "other":
        found["license_name"] = name
    library = "onnx" if bundle.sources is None else "pytorch"
    found |= {"library_name": library, "pipeline_tag": "audio-classification"}
    found["tags"] = ["speech-emotion-recognition", "audio", library, bundle.fusion]
    speech = None if bundle.sources is None else bundle.sources.speech
    if speech is not None and not Path(speech.name).is_absolute():  # it may be one of the hub
        found["base_model"] = speech.name
    if bundle.tested is not None and bundle.task == CLASS:
        metrics = [
            {"type": key, "name": NAMES.get(key, key), "value": round(score.pooled, 4)}
            for key, score in bundle.tested.scores.items()
        ]
        result = {
            "task": {"type": "audio-classification", "name": "Speech emotion recognition"},
            "dataset": {"type": bundle.corpus, "name": bundle.corpus, "config": bundle.protocol},
            "metrics": metrics,
        }
        found["model-index"] = [{"name": bundle.name, "results": [result]}]
    return found


def _about(bundle: BundleFile) -> str:
    n = len(bundle.members)
    outputs = "a probability for each of" if bundle.scale is None else "a rating of"
    gate = "; and the gate, 1 = CQT, 0 = Mel-STFT" if bundle.has_gate else ""
    mean = f", the mean of {n} models" if n > 1 else ""
    return (
        f"Speech emotion recognition{mean}: in, a recording; out, {outputs} "
        f"{', '.join(bundle.classes)}{gate}. Each model reads {_read(bundle)} "
        f"(fusion `{bundle.fusion}`)."
    )


def _read(bundle: BundleFile) -> str:
    """Return what is read of a recording."""
    sources = bundle.sources
    branches = FUSIONS[bundle.fusion].branches if sources is None else sources.branches
    images = {"cqt": "constant-Q", "mel": "Mel-STFT"}
    named = [images[branch] for branch in branches if branch in images]
    parts = [f"{' and '.join(named)} images of the recording"] if named else []
    if sources is not None and sources.speech is not None:
        trained = f", of which {sources.trained} were trained" if sources.trained else ""
        parts.append(f"hidden states of the speech model `{sources.speech.name}`{trained}")
    if sources is not None and sources.vector_width is not None:
        parts.append(f"a vector of {sources.vector_width} numbers for each recording")
    return " and ".join(parts)


def _use_without_graph(bundle: BundleFile, sources: Sources) -> Iterator[str]:
    yield "Research on speech emotion recognition, on recordings like those of its corpus:"
    vectors = "" if sources.vector_width is None else " --vectors FILE"
    yield f"```\npython predict.py BUNDLE recording.wav{vectors}\n```"
    if sources.speech is not None:
        speech = sources.speech
        revision = "" if speech.revision is None else f", revision {speech.revision}"
        yield (
            f"It needs the pretrained speech model `{speech.name}`{revision}, identity "
            f"`{speech.model}` (SHA-256 over its files), in `{SPEECH}/` of this bundle, where the "
            "training had it, or where `--speech-model FOLDER` says; another model is refused."
        )
    if sources.vector_width is not None:
        yield (
            "It needs a vector for each recording, made as those of its training: an .npz or "
            ".safetensors, by audio hash or file name."
        )
    yield "In Python: `from inference import load; load(BUNDLE).predict(path)`."


def _use(bundle: BundleFile) -> Iterator[str]:
    if bundle.sources is not None:
        yield from _use_without_graph(bundle, bundle.sources)
        return
    yield (
        "Research on speech emotion recognition, on recordings like those of its corpus. With ONNX "
        "Runtime alone (numpy, soundfile, onnxruntime):"
    )
    yield "```\npython example.py recording.wav\n```"
    many = "waveforms of one length together" if bundle.free_batch else "one waveform at a time"
    n = "batch" if bundle.free_batch else "1"
    yield (
        f"`{GRAPH}` takes `waveform` ({n}, samples), float32 in [-1, 1], mono, at "
        f"{bundle.sample_rate} Hz: {many}, however long. "
        + (
            f"Cut off silent ends before, frames {bundle.trim_db:g} dB below the loudest, as "
            "`example.py` does. "
            if bundle.trim_db is not None
            else ""
        )
        + "With PyTorch: `from inference import load; load(BUNDLE).predict(path)`."
    )


def _limits(bundle: BundleFile) -> Iterator[str]:
    yield (
        "The labels are what people hear in voices, or what actors were asked to play: not what "
        "somebody feels. Do not judge people by them; in the EU, inferring emotions at work and in "
        "education is prohibited (Regulation 2024/1689, Article 5)."
    )
    yield "Languages, microphones, rooms and speakers unlike those of the corpus fare worse."
    tested = bundle.tested
    if tested is not None and tested.speaker_dependent:
        yield f"{speaker_stamp(bundle.protocol)}; other speakers fare worse."
    if tested is not None and tested.synthetic:
        yield "The corpus is synthetic speech: its scores say nothing about people."
    if bundle.is_final:
        yield (
            "This is the final model of the run, and was not tested itself: the scores are those "
            "of the folds, whose settings it has."
        )
    elif len(bundle.members) > 1:
        yield (
            "The scores are those of single models, each on speakers that it was not trained on. "
            "The mean of all was not tested: no speaker of the corpus is new to all of them."
        )
    if (n := sum(one.temperature is None for one in bundle.members)) and bundle.scale is None:
        yield f"The probabilities of {n} of {len(bundle.members)} models are not calibrated."
    if bundle.crop_seconds is not None and bundle.sources is not None:
        yield f"Of images, crops of {bundle.crop_seconds:g} s that cover a recording are averaged."
    elif bundle.crop_seconds is not None:
        yield f"The graph averages over crops of {bundle.crop_seconds:g} s that cover a recording."
    elif bundle.longest_seconds is not None:
        yield (
            f"A recording is read as one image. The longest in training has "
            f"{bundle.longest_seconds:.1f} s: cut longer ones into parts of that length."
        )


def _data(bundle: BundleFile) -> str:
    _, licence = LICENCES.get(bundle.corpus or "", UNKNOWN)
    certificate = "" if bundle.certificate is None else f", certificate `{bundle.certificate}`"
    return (
        f"Corpus `{bundle.corpus}`, licence: {licence}. Whether weights may be passed on is for "
        f"that licence to say. Protocol `{bundle.protocol}`{certificate}; "
        "`split_certificate.json` says who was trained, selected and tested."
    )


def _tests(bundle: BundleFile) -> Iterator[str]:
    tested = bundle.tested
    if tested is None:
        yield "Not known: the model was exported without its run folder."
        return
    folds = f"fold{'s' * (len(tested.folds) > 1)} {', '.join(map(str, tested.folds))}"
    seeds = f"seed{'s' * (len(tested.seeds) > 1)} {', '.join(map(str, tested.seeds))}"
    yield (
        f"Test {folds} of {tested.n_folds}, {seeds}: {tested.n} utterances of "
        f"{tested.n_speakers} speakers. "
        + ("Percent, pooled" if bundle.task == CLASS else "Pooled")
        + " over folds, with the 95 % interval over speakers, trained weights held fixed."
    )
    yield _table(bundle, tested)


def _table(bundle: BundleFile, tested: Tested) -> str:
    words = percent if bundle.task == CLASS else _plain
    rows = [
        f"| {NAMES.get(key, key)} | {with_interval(score.pooled, score.interval, words=words)} |"
        for key, score in tested.scores.items()
    ]
    if bundle.task == CLASS:
        pairs = zip(bundle.classes, tested.per_class_recall, strict=True)
        rows += [f"| recall of {name} | {percent(recall)} |" for name, recall in pairs]
    return "\n".join(["| score | test |", "|---|---:|", *rows])


def _settings(bundle: BundleFile) -> Iterator[str]:
    temperatures = [one.temperature for one in bundle.members if one.temperature is not None]
    if temperatures:
        yield f"- temperature: {', '.join(f'{one:.3f}' for one in temperatures)}"
    for name, value in bundle.features.items():
        yield f"- `features.{name}`: {value}"
    opset = "" if bundle.opset is None else f"ONNX opset {bundle.opset}; "
    yield f"- {opset}" + ", ".join(f"{name} {text}" for name, text in bundle.versions.items())


def _plain(value: float | None, sign: str = "") -> str:
    return "–" if value is None else f"{value:{sign}.3f}"
