"""The section `corpus` of a config: one corpus, or a list of several."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from config.corpus_keys import Columns, LabelMap, Layout
from config.effects import OWN, PUBLISHED, SEVERAL
from config.section import Section

if TYPE_CHECKING:
    CorpusName = str
    CorpusNames = str
else:
    CorpusName = Literal[(*PUBLISHED, *OWN)]
    CorpusNames = Literal[(*PUBLISHED, *OWN, SEVERAL)]


class OneCorpus(Section):
    """Which recordings to use, and what their labels mean."""

    name: CorpusName
    root: str
    """Folder of the corpus; for a manifest, the folder that its relative paths start from."""
    manifest: str | None = None
    """CSV, TSV, JSONL, JSON or Parquet file with path, label and speaker; only with `name:
    manifest`."""
    layout: Layout | None = None
    """How `name: folder` reads `root`: classes (a folder for each class), audiofolder (Hugging
    Face), kaldi, audformat, or a pattern such as `{speaker}/{label}/*.wav`; null is what lies
    there."""
    columns: Columns | None = None
    """The column of each field that has another name, e.g. `{path: file, label: emotion}`; null in
    the place of a column leaves the field out, so `{speaker: null}` says that speakers are
    unknown."""
    label_map: LabelMap | None = None
    """The class of each label that has another name, e.g. `{hap: happy, exc: happy, xxx: null}`;
    null leaves its utterances out, and other labels stay as they are."""
    absolute_paths: bool | None = None
    """Allow the manifest to name files outside `root` (absolute, ~ or ..); null is false."""
    labels: str | list[str]
    """Name of a label set, e.g. iemocap4-exc; for a manifest or folder, `all` or a list of class
    names. With `task: dimensions`, `all` (valence, arousal, dominance) or a list of some."""
    classes: list[str] | None = None
    """Classes of the label set to keep, e.g. `[neutral, happy, angry, sad]`; `happy+surprised`
    merges two, and `positive=happy+surprised` names them. A protocol of its own; null takes all."""
    subset: str = "all"
    """`all` or a named part: improvised, scripted (IEMOCAP); english, mandarin (ESD); test1, test2
    with train and development (MSP-Podcast)."""
    unannotated_speakers: Literal["exclude", "train"] | None = None
    """Utterances whose speaker nobody has named, who may be one that is tested: leave them out, or
    train on those of the training part, stamped; null is exclude."""
    expect_published_counts: bool | None = None
    """Stop if the class counts differ from those published for the label set; null is true."""
    scale: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    """[lowest, highest] rating of a manifest's or folder's valence, arousal and dominance, e.g.
    [1, 7]; only with `task: dimensions`. IEMOCAP, [1, 5], and MSP-Podcast, [1, 7], have theirs."""
    on_bad_audio: Literal["error", "skip"] = "error"
    """Stop at unreadable audio files, or skip them and list them in the run folder."""


class MemberCorpus(OneCorpus):
    """One of several corpora."""

    role: Literal["train", "test"] = "train"
    """Whether to train and select (dev) on it, or to test on all its utterances."""


class CorpusConfig(OneCorpus):
    """One corpus, or a list of several: train on some, test on others."""

    name: CorpusNames
    """A corpus that has a reader, manifest or folder; a list of corpora is called several."""
    corpora: dict[str, MemberCorpus] | None = None
    """The corpora of a list by key, which is their name, or NAME-2 for a second one of it; on the
    command line `corpus.KEY.root=DIR`."""
