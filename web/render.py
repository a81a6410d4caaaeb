"""An answer, a problem and the facts of a model as HTML of the page."""

from pathlib import Path

from corpora.splits import SPEAKER_DEPENDENT
from corpora.stamps import speaker_stamp
from inference.emotion_model import EmotionModel
from inference.prediction import Prediction
from reports.templates import templates
from system.text import count_of, format_duration
from web.answer import WINDOW, Answer
from web.drawing import PIVOT_Y, balance, bars, gate_sentence, timeline
from web.images import ShownImages, clock

FOLDER = Path(__file__).resolve().parent


def answer_html(answer: Answer, model: EmotionModel, model_name: str, name: str) -> str:
    """Return an answer as HTML.

    Args:
        answer: What the model says.
        model: The model.
        model_name: Its name on the page.
        name: Name of the recording.
    """
    prediction = answer.prediction
    is_drawn = any(part.probs for part in answer.parts)
    duration = (
        format_duration(answer.seconds) if answer.seconds >= 100 else f"{answer.seconds:.1f} s"
    )
    return (
        templates(FOLDER)
        .get_template("answer.html")
        .render(
            answer=answer,
            prediction=prediction,
            name=name,
            model=model_name,
            duration=duration,
            is_mean=answer.is_mean,
            stamp=stamp(model),
            notes=_notes(answer),
            window=WINDOW,
            bars=bars(prediction),
            calibration=calibration(model, prediction),
            gate_sentence=gate_sentence(
                prediction.gate, answer.fusion, answer.branches, prediction.gate_shares
            ),
            balance=None if prediction.gate is None else balance(prediction.gate),
            pivot_y=PIVOT_Y,
            timeline=timeline(answer.parts, answer.seconds) if is_drawn else None,
            captions=[_caption(branch, answer) for branch in ("cqt", "mel")],
            images_note=_images_note(answer.images, answer),
        )
    )


def problem_html(name: str, reason: str) -> str:
    """Return why a recording is not labelled, as HTML."""
    return (
        templates(FOLDER).get_template("problem.html").render(name=name, reason=reason.rstrip("."))
    )


def about_html(model: EmotionModel) -> str:
    """Return what people should know of a model before they use it, as HTML."""
    names, scale = ", ".join(model.classes), model.scale
    lines = [f"It tells apart: {names}."]
    if scale is not None:
        lines = [f"It rates {names} from {scale.low:g} to {scale.high:g}."]
    if (n := len(model.members)) > 1:
        lines.append(f"Its answer is the mean of {n} models, of the finished folds and seeds.")
    if model.training_data is not None:
        seconds = model.training_data.seconds
        lines.append(f"It was trained on recordings of {seconds.min:.1f} to {seconds.max:.1f} s.")
    page = templates(FOLDER).get_template("about.html")
    return page.render(lines=lines, protocol=model.protocol, stamp=stamp(model))


def stamp(model: EmotionModel) -> str | None:
    """Return the stamp of a model whose training and test share speakers."""
    if SPEAKER_DEPENDENT not in model.protocol:
        return None
    return f"{speaker_stamp(model.protocol)}; other speakers may fare worse"


def calibration(model: EmotionModel, prediction: Prediction) -> str:
    """Return how far the probabilities can be trusted."""
    if prediction.scale is not None:
        low, high = prediction.scale.low, prediction.scale.high
        return f"A full bar is {high:g}, an empty one {low:g}."
    if model.is_calibrated:
        n = sum(len(one.confidence) for one in model.calibrations)
        return f"Calibrated on {count_of(n, 'dev utterance')} of the training corpus."
    return "Not calibrated: a share of 70 % does not mean that 70 % of such answers are right."


def _notes(answer: Answer) -> list[str]:
    """Return what limits this answer."""
    notes = [f"{line[:1].upper()}{line[1:]}." for line in answer.unlike]
    if answer.is_mean:
        notes.insert(
            0,
            f"Longer than the recordings of training: it was cut into windows of {WINDOW:g} s, "
            "and the answer is their mean.",
        )
    return notes


def _caption(branch: str, answer: Answer) -> str:
    scale = "logarithmic frequency" if branch == "cqt" else "Mel scale"
    return scale if branch in answer.branches else f"{scale}; this model does not read it"


def _images_note(images: ShownImages, answer: Answer) -> str:
    if answer.is_mean:
        longest = answer.seconds
        said = f"{clock(images.start, longest)} to {clock(images.end, longest)}"
        return f"The window that the model is surest of, {said}. Bright is loud, in dB."
    notes = ["Bright is loud, in dB."]
    if images.is_trimmed:
        notes.append("Silence at the ends is left out.")
    if images.n_crops > 1:
        notes.append(f"This is the first of {images.n_crops} crops, whose mean is the answer.")
    return " ".join(notes)
