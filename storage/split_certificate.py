"""split_certificate.json of a run, checked where it is read."""

from pathlib import Path
from typing import Any

from system.files import corrupt_file, read_json

KEYS = {"id": str, "protocol": str, "speaker_dependent": bool, "folds": list}


def read_certificate(file: Path) -> dict[str, Any]:
    """Read a split certificate.

    Raises:
        RunError: It is missing or corrupt, or what others read of it has another type.
    """
    certificate: dict[str, Any] = read_json(file, *KEYS)
    try:
        folds = [(fold["fold"], fold["test"]["recordings"]) for fold in certificate["folds"]]
    except (LookupError, TypeError) as error:
        raise corrupt_file(file, f"folds: {error}") from error
    typed = all(isinstance(certificate[key], kind) for key, kind in KEYS.items())
    typed &= all(isinstance(k, int) and isinstance(word, str) for k, word in folds)
    texts = [fold.get("text_in_train_and_test", {}) for fold in certificate["folds"]]
    typed &= all(isinstance(t, dict) and isinstance(t.get("texts", 0), int) for t in texts)
    typed &= isinstance(certificate.get("started_from", {}), dict)
    corpus = certificate.get("corpus", {"name": "", "synthetic": False})
    if not typed or not _is_corpus(corpus):
        raise corrupt_file(file, "its values have other types than a run writes")
    return certificate


def _is_corpus(value: object) -> bool:
    if not isinstance(value, dict) or value.keys() != {"name", "synthetic"}:
        return False
    return isinstance(value["name"], str) and isinstance(value["synthetic"], bool)
