"""A trained model in a folder, a fold or a final model, and what it was trained and selected on."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from config.baselines import BaselineRun, load_stored_run
from config.effects import SEVERAL
from config.schema import Config
from storage.fold_folder import PREDICTIONS, fold_name, read_table
from storage.folders import CARD, CONFIG, is_finished
from storage.model_card import ModelCard, read_card
from storage.run_folder import FINALS, FOLDS
from storage.utterance_table import UTTERANCE_COLUMNS, UTTERANCES
from system.errors import InputError

MOST_ORIGINS = 20  # models that started from one another


@dataclass(frozen=True)
class TrainedModel:
    """A folder with a model card and weights.

    Attributes:
        folder: `runs/<name>/folds/fold-<k>_seed-<s>`, `runs/<name>/final/seed-<s>`, or a copy.
        card: Its model card.
        run: Folder of its run; None where the folder was copied alone.
    """

    folder: Path
    card: ModelCard
    run: Path | None

    @property
    def config(self) -> Config | None:
        """Config of its run, if that is known."""
        if self.run is None:
            return None
        config = load_stored_run(self.run / CONFIG)
        assert not isinstance(config, BaselineRun)  # it has a card of a network
        return config

    @property
    def name(self) -> str:
        """Name of its run, or of its folder."""
        return (self.run or self.folder.resolve()).name


@dataclass(frozen=True)
class Trained:
    """An utterance that trained or selected a model.

    Attributes:
        utterance: Its id.
        audio: Hash of its recording.
        corpus: Name of its corpus, as `corpus.name`, and the key that its run has for it.
        speaker: Its speaker, without the key of the corpus.
    """

    utterance: str
    audio: str
    corpus: tuple[str, str]
    speaker: str


def is_model_folder(folder: Path) -> bool:
    """Return whether a folder has a model card and is no run."""
    return (folder / CARD).is_file() and not (folder / CONFIG).is_file()


def read_trained_model(folder: Path) -> TrainedModel:
    """Read the card of a trained model, and find its run.

    Raises:
        InputError: It is of a baseline.
        RunError: The card is missing or corrupt.
    """
    place = folder.resolve()
    run = place.parent.parent if place.parent.name in (FOLDS, FINALS) else None
    if run is not None and not ((run / CONFIG).is_file() and (run / UTTERANCES).is_file()):
        run = None
    return TrainedModel(folder, read_card(folder), run)


def trained_on(model: TrainedModel, depth: int = 0) -> tuple[list[Trained], list[str]]:
    """Return what trained or selected a model and the models from which it started.

    Of a fold that is all its run knows without the fold's own test, of a final model all.

    Args:
        model: The model.
        depth: Models between this one and the one that is asked for.

    Returns:
        The utterances, and the folders of the models of which nobody knows them.

    Raises:
        RunError: A table of its run is corrupt.
    """
    if model.run is None or depth > MOST_ORIGINS:
        return [], [str(model.folder)]
    config = model.config
    assert config is not None
    tested = set()
    if model.card.fold is not None:
        rows = read_table(model.folder / PREDICTIONS, ("split", "utterance"), remove=model.folder)
        tested = {row["utterance"] for row in rows if row["split"] == "test"}
    found = [one for one in utterances_of(model.run, config) if one.utterance not in tested]
    unknown: list[str] = []
    for folder in (config.model.from_, *config.model.started.values()):
        if folder is None:
            continue
        try:
            origin = origin_of(config, Path(folder), model.card.fold, model.card.seed or 0)
        except InputError:  # it is no longer there; that of a branch had the same folds
            unknown += [folder] if folder == config.model.from_ else []
            continue
        more, others = trained_on(origin, depth + 1)
        found, unknown = [*found, *more], [*unknown, *others]
    return found, list(dict.fromkeys(unknown))


def origin_of(config: Config, folder: Path, fold: int | None, seed: int) -> TrainedModel:
    """Return the model from which a fold starts that names a folder.

    Args:
        config: Config of the fold.
        folder: A run, whose fold of this number is meant; or a fold or final model.
        fold: Number of the fold; None of a final model.
        seed: Its seed.

    Raises:
        InputError: There is none.
    """
    if (folder / CONFIG).is_file():
        from_seed = seed if config.model.from_seed is None else config.model.from_seed
        folder = folder / FOLDS / fold_name(fold or 0, from_seed)
    if not is_finished(folder):
        raise InputError(f"{folder} is not a finished fold or final model")
    return read_trained_model(folder)


def utterances_of(run: Path, config: Config) -> Iterator[Trained]:
    """Yield all utterances of a run, from its utterances.csv.

    Args:
        run: The run folder.
        config: Its config.

    Raises:
        RunError: The table is corrupt.
    """
    for row in read_table(run / UTTERANCES, UTTERANCE_COLUMNS):
        corpus, speaker = split_key(config, row["utterance"], row["speaker"])
        yield Trained(row["utterance"], row["audio"], corpus, speaker)


def split_key(config: Config, utterance: str, speaker: str) -> tuple[tuple[str, str], str]:
    """Return name and key of an utterance's corpus, and its speaker without that key."""
    corpus: Any = config.corpus
    if corpus.name != SEVERAL:
        return (corpus.name, ""), speaker
    key = utterance.partition("/")[0]
    members: Mapping[str, Any] = corpus.corpora or {}
    name = members[key].name if key in members else key
    return (name, key), speaker.removeprefix(f"{key}/")
