"""The published corpora: how each is called, and the folders and files it comes in."""

from typing import NamedTuple


class Published(NamedTuple):
    """One published corpus.

    Args:
        title: How people call it.
        folders: Pattern of the folders that it is published in; what is above them is the user's.
        example: A file of it, for messages.
        other: Pattern of the names of files that it has too and that are not read.
        split: Who made the train, dev and test split that it is published with; "" if it has none.
    """

    title: str
    folders: str
    example: str
    other: str = r"(?!)"  # matches nothing
    split: str = ""


PUBLISHED = {
    "iemocap": Published("IEMOCAP", r"Session[1-5]", "Session*/dialog/EmoEvaluation/*.txt"),
    "esd": Published(
        "ESD",
        r"\d{4}|Neutral|Happy|Angry|Sad|Surprise|train|test|evaluation",
        "0011/Angry/0011_000351.wav",
    ),
    "ravdess": Published(
        "RAVDESS",
        r"Actor_\d\d",
        "03-01-06-01-02-01-12.wav",
        other=r"(0[12]-0[12]|03-02)-.*",  # video, or song
    ),
    "emodb": Published("Emo-DB", "wav", "03a01Fa.wav"),
    "cremad": Published("CREMA-D", "AudioWAV", "1001_DFA_ANG_XX.wav"),
    "savee": Published("SAVEE", "AudioData|ALL|DC|JE|JK|KL", "AudioData/DC/a01.wav or DC_a01.wav"),
    "tess": Published(
        "TESS",
        r"[OY]AF_(angry|disgust|fear|happy|neutral|sad|ps|pleasant_surprised?)",
        "OAF_angry/OAF_back_angry.wav",
    ),
    "emovo": Published("EMOVO", "EMOVO|[fm][1-3]", "f1/gio-f1-b2.wav"),
    "nemo": Published("nEMO", "samples", "samples/WR0_surprised_64.wav"),
    "aesdd": Published(
        "AESDD",
        "anger|disgust|fear|happiness|sadness",
        "anger/a03 (3).wav",
        # Its one file that cannot be decoded: EmoBox's list lacks it, nkululeko leaves it out.
        other=r"s05 \(3\)\..*",
    ),
    "urdu": Published("URDU", "Angry|Happy|Neutral|Sad", "Angry/SM1_F10_A010.wav"),
    "meld": Published(
        "MELD",
        "train_splits|dev_splits_complete|output_repeated_splits_test|train|dev|test",
        "train_sent_emo.csv",
        split="its authors (Poria et al. 2019)",
    ),
    "msppodcast": Published(
        "MSP-Podcast",
        "Audios?|Labels|Transcripts",
        "Labels/labels_consensus.csv",
        split="its authors (Split_Set of labels_consensus.csv)",
    ),
}
