"""The page as Gradio builds it; Gradio, an extra, is imported where it is used."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from system.files import read_text
from web.answer import Report
from web.desk import Desk
from web.render import FOLDER

if TYPE_CHECKING:
    from gradio import Blocks

TITLE = "Speech emotion recognition"
MOST_WAITING = 20  # requests in the queue
FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")
SMALL_FILE = 200_000  # bytes of the style and the script
CHECKED_EVERY, KEPT_FOR = 60, 1800  # s; files whose sender left before the answer
EMPTY = "() => ''"  # the answer before goes while the next one is made
INTRODUCTION = """
<h1>Which emotion does a voice carry?</h1>
<p>Record or drop a recording of one person speaking. The model makes two images of the sound and
says what it finds. Nothing that you send is kept: the file is removed with the answer.</p>
"""


def build(desk: Desk, max_mb: float) -> "Blocks":
    """Return the page.

    Args:
        desk: Answers what the page asks.
        max_mb: Largest file, MB, for its words.
    """
    import gradio

    names = desk.models.names
    with gradio.Blocks(
        analytics_enabled=False, title=TITLE, delete_cache=(CHECKED_EVERY, KEPT_FOR)
    ) as blocks:
        gradio.HTML(INTRODUCTION, elem_id="introduction")
        with gradio.Row(elem_id="ask"):
            sound = gradio.Audio(
                sources=["upload", "microphone"],
                type="filepath",
                label=f"Recording, at most {desk.most_seconds / 60:g} minutes and {max_mb:g} MB",
                editable=False,
                buttons=[],  # one of Gradio's shares the file on another host
                elem_id="sound",
            )
            with gradio.Column():
                picker = gradio.Dropdown(
                    names, value=names[0], label="Model", visible=len(names) > 1, elem_id="picker"
                )
                about = gradio.HTML(desk.about(names[0]), elem_id="about")
        gradio.HTML('<p id="microphone" role="alert" hidden></p>')
        chosen = gradio.Dataset(
            components=[gradio.Textbox(visible=False)],
            samples=[[example.label] for example in desk.examples],
            type="index",
            label="Or try one of these recordings",
            visible=bool(desk.examples),
            elem_id="examples",
        )
        shown = gradio.HTML(elem_id="answer")
        _connect(desk, sound, picker, about, chosen, shown)
    blocks.queue(max_size=MOST_WAITING, default_concurrency_limit=1)
    return blocks


def _connect(desk: Desk, sound: Any, picker: Any, about: Any, chosen: Any, shown: Any) -> None:
    """Say what follows on which event; one recording is labelled at a time."""
    import gradio

    def reported(progress: Any) -> Report:
        return lambda done, n: progress((done, n), desc="Label windows", unit="windows")

    # Gradio hands a progress bar to functions that have one as default
    def label_upload(path: str | None, model: str, progress: Any = gradio.Progress()) -> Any:  # noqa: B008
        if path is None:  # the event came without a recording
            return gradio.skip(), gradio.skip()
        return desk.label_upload(Path(path), model, reported(progress)), None

    def label_example(number: int, model: str, progress: Any = gradio.Progress()) -> str:  # noqa: B008
        return desk.label_example(number, model, reported(progress))

    empty = {"fn": None, "outputs": shown, "js": EMPTY, "api_visibility": "private"}
    one = {"concurrency_limit": 1, "concurrency_id": "model", "api_visibility": "private"}
    label = {**one, "show_progress_on": [shown]}
    # While an event is pending Gradio drops the next one like it in silence, if not told otherwise:
    # a file would get no answer, and stay
    each, last = {"trigger_mode": "multiple"}, {"trigger_mode": "always_last"}
    sound.input(**empty)
    # Not on `input`, which comes when the recording is cleared, too: at the end of an event that
    # waits for nothing else Gradio closes the page's stream, and an event asked just then is lost
    came = [sound.upload, sound.stop_recording]
    gradio.on(came, label_upload, [sound, picker], [shown, sound], **label, **each)
    chosen.click(**empty)
    chosen.click(label_example, [chosen, picker], shown, **label, **last)
    # On `change`: one choice comes as `input` twice
    picker.change(desk.about, picker, about, **one, **last)


def looks() -> dict[str, Any]:
    """Return style, script and theme of the page: no font, script or style of another host."""
    import gradio

    script = read_text(FOLDER / "page.js", SMALL_FILE)
    return {
        "theme": gradio.themes.Base(font=FONTS, font_mono=MONO),
        "css": read_text(FOLDER / "page.css", SMALL_FILE),
        "head": f"<script>{script}</script>",
    }
