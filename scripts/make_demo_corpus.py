"""Synthesise a small emotional corpus with eSpeak NG as an IEMOCAP tree: no licence, no download.

Ten synthetic speakers in five sessions act neutral, happy, excited, angry and sad turns, and some
on which the raters disagree (`xxx`). The words do not depend on the emotion; rate, loudness, pitch
and spectral tilt do, drawn for each utterance with overlap between emotions.

    python -m scripts.make_demo_corpus --root data/demo --seed 0 --per-class 12

**Source**: tree, ids and label lines follow the IEMOCAP release (Busso et al. 2008, "IEMOCAP:
interactive emotional dyadic motion capture database", doi:10.1007/s10579-008-9076-6); which way
emotion moves prosody follows Juslin & Laukka 2003, doi:10.1037/0033-2909.129.5.770.
"""

import argparse
import ctypes
import hashlib
import io
import json
import random
import re
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple, NoReturn

import espeakng_loader
import numpy as np
import soundfile as sf
import soxr

from system.cli import run_entry
from system.files import MAX_CONFIG, disk_error, read_text
from system.output import progress_bar

if sys.platform == "win32":
    from _ctypes import FreeLibrary as unload
else:
    from _ctypes import dlclose as unload

SAMPLE_RATE = 16_000  # Hz, as IEMOCAP
SYNCHRONOUS, DO_NOT_EXIT, UTF8 = 2, 0x8000, 1  # constants of eSpeak NG's speak_lib.h
CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)
MADE_BY = "scripts/make_demo_corpus.py"  # in demo.json; only a folder with it may be replaced


class Prosody(NamedTuple):
    """How one utterance is spoken."""

    rate: float  # words per minute
    volume: float  # eSpeak 0..200, 100 is its own
    pitch: float  # eSpeak 0..100, 50 is the voice's own, 0 and 100 an octave away
    range: float  # eSpeak 0..100, 50 is the voice's own melody, 0 is monotone
    tilt: float  # first-order filter, -1..1; positive is brighter, as with more vocal effort


class Emotion(NamedTuple):
    """What raters write about one emotion, and how it sounds on average."""

    word: str
    attributes: tuple[float, float, float]  # mean valence, activation, dominance on a scale of 1..5
    prosody: Prosody


class Turn(NamedTuple):
    """One utterance of the plan, before it is spoken."""

    utterance: str
    speaker: tuple[int, str]  # session, and the letter of who speaks, not of who wears the markers
    label: str
    text: str


EMOTIONS = {
    "neu": Emotion("Neutral", (3, 2.5, 3), Prosody(172, 45, 44, 38, 0.00)),
    "hap": Emotion("Happiness", (4, 3, 3), Prosody(178, 49, 60, 76, 0.15)),
    "exc": Emotion("Excited", (4, 4, 3.5), Prosody(206, 54, 68, 84, 0.25)),
    "ang": Emotion("Anger", (2, 4, 4), Prosody(198, 62, 46, 60, 0.60)),
    "sad": Emotion("Sadness", (2, 2, 2), Prosody(140, 36, 34, 18, -0.45)),
    "xxx": Emotion("Frustration", (3, 3, 3), Prosody(174, 48, 50, 52, 0.10)),
}
SPREAD = Prosody(16, 7, 6, 13, 0.18)  # standard deviation in one emotion: emotions overlap
LOWEST, HIGHEST = Prosody(90, 20, 0, 0, -0.8), Prosody(320, 80, 100, 100, 0.8)
# Each actor's accent and voice variant, and the habits that shift every utterance.
SPEAKERS = {
    (1, "F"): ("gmw/en-US+f1", Prosody(0, 0, -3, 0, 0.05)),
    (1, "M"): ("gmw/en-US+m1", Prosody(-10, 0, 4, 0, 0.00)),
    (2, "F"): ("gmw/en+f2", Prosody(13, 0, 2, 0, -0.05)),
    (2, "M"): ("gmw/en-GB-x-rp+m2", Prosody(5, 0, -2, 0, 0.05)),
    (3, "F"): ("gmw/en-GB-scotland+f3", Prosody(-8, 0, -4, 0, 0.00)),
    (3, "M"): ("gmw/en-GB-scotland+m3", Prosody(10, 0, 1, 0, -0.05)),
    (4, "F"): ("gmw/en-US-nyc+f4", Prosody(5, 0, 4, 0, 0.05)),
    (4, "M"): ("gmw/en-GB-x-gbcwmd+m7", Prosody(-3, 0, 3, 0, 0.00)),
    (5, "F"): ("gmw/en-GB-x-rp+f5", Prosody(-13, 0, 0, 0, -0.05)),
    (5, "M"): ("gmw/en-US+m8", Prosody(16, 0, -3, 0, 0.05)),
}
# The dialogs of every session. The first letter is the actor who wears the markers; both speak.
# script01_1 is how the name of script01_1b begins too, as in IEMOCAP's fifth session.
DIALOGS = "F_impro01 M_script01_1 F_script01_1 M_impro01".split()
DIALOGS += "F_impro04 M_script01_1b F_script02_2 M_impro05a".split()
SCRIPT_STARTS = {"script01_1": 0, "script01_1b": 6, "script02_2": 12}  # a place in SCRIPT_LINES
LINES = """
The bus to the harbour leaves at ten past nine. I put the blue folder back on the shelf. They
painted the kitchen door over the weekend. You said the meeting was on the second floor. My sister
called while we were at the station. The parcel is waiting at the front desk. We can walk there in
about twenty minutes. He left his coat on the chair by the window. There are four more boxes in the
car. She told me the answer before the lesson. Somebody moved the table into the hall. I have
already spoken to the neighbours. The shop on the corner closes at six. You can find the number on
the last page. We changed the plan after the phone call. The key is under the pot next to the
stairs. He wants to know when you will be home. The train stopped for a while near the bridge. That
is what they told us on the phone. I did not know you were going to be here. So the whole thing
starts again on Monday. Let me look at the paper one more time. You were going to bring the camera.
We talked about this at my brother's house. The man at the counter gave me this form. I think they
want us to wait outside. It happened just after we turned the corner. You know how long the road is
from here. I have been standing in this line since noon. Now everybody in the office has heard of
it. Tell me again what the teacher said. The lights went on and then the music began. I only opened
the box to see what was inside. You could have asked me before dinner. They gave the job to the
woman from Leeds. Is that the picture you took in the garden? Do you remember the name of the
street? Who told you that the date had changed? What are we going to do with all this bread? Give me
the other one and keep that for later. We drove all night to get to the lake. Then the phone rang
and it was your mother.
"""
SENTENCES = re.split(r"(?<=[.?]) ", " ".join(LINES.split()))
SCRIPT_LINES, IMPROVISED_LINES = SENTENCES[:18], SENTENCES[18:]


def main() -> None:
    """Make the corpus in a hidden folder and rename it, or change nothing."""
    args = parse_arguments()
    tables = (EMOTIONS, SPREAD, LOWEST, HIGHEST, SPEAKERS, DIALOGS, SCRIPT_STARTS, SENTENCES)
    recipe = hashlib.sha256(repr(tables).encode()).hexdigest()[:12]
    settings = {"seed": args.seed, "per_class": args.per_class, "recipe": recipe}
    if not must_make(args.root, settings, args.overwrite):
        print(f"{args.root} holds this corpus already: nothing to do")
        return
    try:
        make_in_place(args.root, settings)
    except OSError as error:
        raise disk_error(f"cannot make {args.root}", args.root.parent, error) from error


def make_in_place(root: Path, settings: dict) -> None:
    """Make the corpus in a hidden folder beside `root`, rename it to `root`, print its size."""
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".demo-", dir=root.parent) as scratch:
        made = Path(scratch, "made")
        count, seconds = make_corpus(made, settings["seed"], settings["per_class"])
        versions = {name: version(name) for name in ("espeakng-loader", "soxr", "numpy")}
        about = {"made_by": MADE_BY, **settings, "utterances": count, "versions": versions}
        (made / "demo.json").write_bytes(json.dumps(about, indent=2).encode() + b"\n")
        replaced = Path(scratch, "replaced")
        if root.exists():
            root.rename(replaced)
        try:
            made.rename(root)
        except OSError:
            if replaced.exists():
                replaced.rename(root)
            raise
    print(f"{count} utterances, {seconds / 60:.1f} minutes, in {root}")


def parse_arguments() -> argparse.Namespace:
    """Read the command line; exit with status 2 where a value is not allowed."""
    parser = argparse.ArgumentParser(description="Synthesise a demo corpus as an IEMOCAP tree.")
    parser.add_argument("--root", type=Path, default=Path("data/demo"), help="folder to make")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another corpus")
    parser.add_argument("--per-class", type=int, default=12, help="per class and speaker")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier demo corpus")
    args = parser.parse_args()
    if args.per_class < 2:
        refuse(f"--per-class must be 2 or more (happy, excited share one), got {args.per_class}")
    return args


def must_make(root: Path, settings: dict, overwrite: bool) -> bool:
    """Return whether the corpus must be made; exit with status 2 if `root` is another folder."""
    if not root.exists():
        return True
    try:
        found = json.loads(read_text(root / "demo.json", MAX_CONFIG))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or found.get("made_by") != MADE_BY:
        refuse(f"{root} exists and has no demo.json by {MADE_BY}; use another --root")
    differs = [f"{k} {found.get(k)}, not {v}" for k, v in settings.items() if found.get(k) != v]
    if differs and not overwrite:
        refuse(f"{root} was made with {'; '.join(differs)}; use --overwrite or another --root")
    return overwrite


def refuse(message: str) -> NoReturn:
    """Print what is wrong with the input and exit with status 2."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def make_corpus(root: Path, seed: int, per_class: int) -> tuple[int, float]:
    """Plan, synthesise and write all sessions; return the number of utterances and seconds."""
    plans = [plan_session(session, seed, per_class) for session in range(1, 6)]
    dialogs = {dialog: turns for plan in plans for dialog, turns in plan.items()}
    count, seconds = sum(map(len, dialogs.values())), 0.0
    with progress_bar(count, "synthesising", "utterance") as progress:
        for dialog, turns in dialogs.items():
            seconds += write_dialog(root / f"Session{dialog[4]}", dialog, turns, seed)
            progress.update(len(turns))
    return count, seconds


def plan_session(session: int, seed: int, per_class: int) -> dict[str, list[Turn]]:
    """Deal each speaker's shuffled labels over the dialogs, so that none tells the emotion."""
    rng = random.Random(f"{seed} plan {session}")
    half = per_class // 2  # happy and excited are one class when merged
    counts = dict.fromkeys(("neu", "ang", "sad"), per_class)
    counts |= {"hap": per_class - half, "exc": half, "xxx": max(1, per_class // 4)}
    labels = [label for label, count in counts.items() for _ in range(count)]
    hands = {letter: rng.sample(labels, len(labels)) for letter in "FM"}
    dialogs: dict[str, list[Turn]] = {f"Ses{session:02d}{name}": [] for name in DIALOGS}
    for i in range(len(labels)):
        dialog, number = list(dialogs)[i % len(dialogs)], i // len(dialogs)
        for letter in "FM":
            text = rng.choice(IMPROVISED_LINES)
            if "script" in dialog:  # the same words in every session, spoken otherwise
                line = SCRIPT_STARTS[dialog.split("_", 1)[1]] + 2 * number + (letter == "M")
                text = SCRIPT_LINES[line % len(SCRIPT_LINES)]
            utterance = f"{dialog}_{letter}{number:03d}"
            dialogs[dialog].append(Turn(utterance, (session, letter), hands[letter][i], text))
    return dialogs


def write_dialog(session_dir: Path, dialog: str, turns: list[Turn], seed: int) -> float:
    """Write a dialog's wavs, labels, transcript and one rater's file; return seconds of speech."""
    rng = random.Random(f"{seed} dialog {dialog}")
    wav_dir = session_dir / "sentences" / "wav" / dialog
    wav_dir.mkdir(parents=True)
    labels, transcript, rater = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n", "", ""
    clock, spoken = rng.uniform(4, 8), 0.0  # s
    for turn in turns:
        waveform = speak_turn(turn, seed)
        wav = io.BytesIO()  # libsndfile would keep to itself that a disk is full
        sf.write(wav, waveform, SAMPLE_RATE, format="WAV", subtype="PCM_16")
        (wav_dir / f"{turn.utterance}.wav").write_bytes(wav.getvalue())
        end = clock + len(waveform) / SAMPLE_RATE
        labels += label_block(turn, clock, end, rng)
        transcript += f"{turn.utterance} [{clock:08.4f}-{end:08.4f}]: {turn.text}\n"
        rater += f"{turn.utterance} :{rng.choice(list(EMOTIONS.values())).word}; ()\n"
        spoken += end - clock
        clock = end + rng.uniform(-0.4, 1.2)  # s; as in IEMOCAP, turns may overlap
    files = {f"EmoEvaluation/{dialog}.txt": labels, f"transcriptions/{dialog}.txt": transcript}
    files[f"EmoEvaluation/Categorical/{dialog}_e2_cat.txt"] = rater
    for name, text in files.items():
        path = session_dir / "dialog" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode())  # bytes, so that line ends are the same everywhere
    return spoken


def label_block(turn: Turn, start: float, end: float, rng: random.Random) -> str:
    """Write an utterance's label line, then what the raters and the actor said, as IEMOCAP does."""
    words = [emotion.word for label, emotion in EMOTIONS.items() if label != turn.label]
    votes = rng.sample(words, 4)  # xxx: no two agree
    if turn.label != "xxx":
        votes[:2] = [EMOTIONS[turn.label].word] * 2
    mean = EMOTIONS[turn.label].attributes
    ratings = [[min(5, max(1, round(rng.gauss(m, 0.7)))) for m in mean] for _ in range(3)]
    vad = ", ".join(f"{(a + b) / 2:.4f}" for a, b in zip(*ratings[:2], strict=True))
    block = f"[{start:.4f} - {end:.4f}]\t{turn.utterance}\t{turn.label}\t[{vad}]\n"
    actor = f"{turn.speaker[1]}1"  # rates their own performance
    for who, vote in zip(("E2", "E3", "E4", actor), votes, strict=True):
        block += f"C-{who}:\t{vote};\t()\n"
    for who, (val, act, dom) in zip(("E3", "E4", actor), ratings, strict=True):
        block += f"A-{who}:\tval {val}; act {act}; dom  {dom};\t()\n"
    return block + "\n"


def speak_turn(turn: Turn, seed: int) -> np.ndarray:
    """Draw the prosody of a turn and synthesise it; depends on the turn and the seed alone."""
    rng = random.Random(f"{seed} sound {turn.utterance}")
    voice, habit = SPEAKERS[turn.speaker]
    scale = zip(EMOTIONS[turn.label].prosody, habit, SPREAD, strict=True)
    drawn = [rng.gauss(mean + shift, spread) for mean, shift, spread in scale]
    prosody = Prosody(*map(min, map(max, drawn, LOWEST), HIGHEST))
    speech = soxr.resample(*espeak(turn.text, voice, prosody, rng.randrange(2**31)), SAMPLE_RATE)
    tilted = speech - prosody.tilt * np.roll(speech, 1)
    tilted *= np.sqrt(np.mean(speech**2) / np.mean(tilted**2))  # tilt changes colour, not loudness
    return np.clip(tilted, -1, 1)


def espeak(text: str, voice: str, prosody: Prosody, noise_seed: int) -> tuple[np.ndarray, int]:
    """Synthesise `text` by eSpeak NG's C interface; return the waveform (T,) and its rate in Hz.

    The library is loaded afresh each time: its flutter and noise run on from one utterance to the
    next, which would make a sound depend on what was spoken before.
    """
    chunks: list[bytes] = []

    @CALLBACK
    def collect(samples: int | None, count: int, events: int | None) -> int:
        if samples and count > 0:
            chunks.append(ctypes.string_at(samples, 2 * count))
        return 0

    library = ctypes.CDLL(espeakng_loader.get_library_path())
    voices = espeakng_loader.get_data_path()
    sample_rate = library.espeak_Initialize(SYNCHRONOUS, 0, voices.encode(), DO_NOT_EXIT)
    if sample_rate <= 0 or library.espeak_SetVoiceByName(voice.encode()) != 0:
        sys.exit(f"error: eSpeak NG cannot read {voice} in {voices} (at most 150 characters)")
    library.espeak_SetSynthCallback(collect)
    library.espeak_ng_SetRandSeed(ctypes.c_long(noise_seed))
    for parameter, value in enumerate(prosody[:4], start=1):  # espeakRATE, VOLUME, PITCH, RANGE
        library.espeak_SetParameter(parameter, round(value), 0)
    data = text.encode()
    library.espeak_Synth(data, ctypes.c_size_t(len(data) + 1), 0, 0, 0, UTF8, None, None)
    library.espeak_Terminate()
    unload(library._handle)
    return np.frombuffer(b"".join(chunks), "<i2").astype(np.float32) / 2**15, sample_rate


if __name__ == "__main__":
    run_entry(main)
