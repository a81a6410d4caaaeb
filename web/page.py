"""The page as Gradio builds it: what is asked, and what is shown for it."""

import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio

from audio.opening import BadAudio
from system.errors import InputError, RunError, first_line, is_out_of_memory
from system.files import read_text
from web.answer import answer
from web.choices import Example
from web.models import Models
from web.render import FOLDER, about_html, answer_html, problem_html
from web.uploads import Uploads

log = logging.getLogger(__name__)
TITLE = "Speech emotion recognition"
MOST_WAITING = 20  # requests in the queue
FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")
SMALL_FILE = 200_000  # bytes of the style and the script
CHECKED_EVERY, KEPT_FOR = 60, 1800  # s; files whose sender left before the answer
INTRODUCTION = """
<h1>Which emotion does a voice carry?</h1>
<p>Record or drop a recording of one person speaking. The model makes two images of the sound and
says what it finds. Nothing that you send is kept: the file is removed with the answer.</p>
"""


class Page:
    """Answers what the page asks.

    Args:
        models: The models of the picker.
        examples: Recordings that are offered.
        uploads: Removes the files.
        most_seconds: Longest recording.
    """

    def __init__(
        self, models: Models, examples: Sequence[Example], uploads: Uploads, most_seconds: float
    ) -> None:
        self.models, self.examples, self.uploads = models, list(examples), uploads
        self.most_seconds = most_seconds

    def label_upload(
        self,
        path: str | None,
        model_name: str,
        progress: Any = gradio.Progress(),  # noqa: B008
    ) -> Iterator[tuple[Any, Any]]:
        """Yield the answer to an uploaded or recorded file; the file is gone afterwards."""
        if path is None:
            yield gradio.skip(), gradio.skip()
            return
        with self.uploads.use(Path(path)) as file:
            html = self._label(file, file.name, model_name, progress)
        yield html, None

    def label_example(
        self,
        number: int,
        model_name: str,
        progress: Any = gradio.Progress(),  # noqa: B008
    ) -> str:
        """Return the answer to an example."""
        example = self.examples[number]
        return self._label(example.path, example.path.name, model_name, progress)

    def about(self, model_name: str) -> str:
        """Return the facts of a model."""
        try:
            return about_html(self.models.load(model_name))
        except (InputError, RunError) as error:
            return problem_html(model_name, f"cannot be loaded: {first_line(error)}")

    def _label(self, file: Path, name: str, model_name: str, progress: Any) -> str:
        def report(done: int, n: int) -> None:
            progress((done, n), desc="Label windows", unit="windows")

        try:
            model = self.models.load(model_name)
            found = answer(model, file, name, self.most_seconds, report)
            return answer_html(found, model, model_name, name)
        except BadAudio as error:
            return problem_html(name, str(error))
        except (InputError, RunError, OSError) as error:
            log.warning("%s with %s: %s", name, model_name, error)
            return problem_html(name, f"cannot be labelled: {first_line(error)}")
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return problem_html(name, "needs more memory than there is: cut it into parts")


def build(page: Page, max_mb: float) -> gradio.Blocks:
    """Return the page.

    Args:
        page: Answers.
        max_mb: Largest file, MB.
    """
    names = page.models.names
    with gradio.Blocks(
        analytics_enabled=False, title=TITLE, delete_cache=(CHECKED_EVERY, KEPT_FOR)
    ) as blocks:
        gradio.HTML(INTRODUCTION, elem_id="introduction")
        with gradio.Row(elem_id="ask"):
            sound = gradio.Audio(
                sources=["upload", "microphone"],
                type="filepath",
                label="Recording",
                editable=False,
                elem_id="sound",
            )
            with gradio.Column():
                picker = gradio.Dropdown(
                    names, value=names[0], label="Model", visible=len(names) > 1, elem_id="picker"
                )
                about = gradio.HTML(page.about(names[0]), elem_id="about")
        limits = f"At most {page.most_seconds / 60:g} minutes and {max_mb:g} MB."
        gradio.HTML(
            f'<p class="caption">{limits}</p><p id="microphone" role="alert" hidden></p>',
            elem_id="limits",
        )
        chosen = None
        if page.examples:
            chosen = gradio.Dataset(
                components=[gradio.Textbox(visible=False)],
                samples=[[example.label] for example in page.examples],
                type="index",
                label="Or try a recording of the demo corpus (synthetic speech)",
                elem_id="examples",
            )
        shown = gradio.HTML(elem_id="answer")
        _connect(page, sound, picker, about, chosen, shown)
    blocks.queue(max_size=MOST_WAITING, default_concurrency_limit=1)
    return blocks


def _connect(page: Page, sound: Any, picker: Any, about: Any, chosen: Any, shown: Any) -> None:
    """Say what follows on which event; one recording is labelled at a time."""
    one = {"concurrency_limit": 1, "concurrency_id": "model", "api_visibility": "private"}
    sound.input(page.label_upload, [sound, picker], [shown, sound], **one)
    picker.input(page.about, picker, about, **one)
    if chosen is not None:
        chosen.click(page.label_example, [chosen, picker], shown, **one)


def looks() -> dict[str, Any]:
    """Return style, script and theme of the page: no font, script or style of another host."""
    script = read_text(FOLDER / "page.js", SMALL_FILE)
    return {
        "theme": gradio.themes.Base(font=FONTS, font_mono=MONO),
        "css": read_text(FOLDER / "page.css", SMALL_FILE),
        "head": f"<script>{script}</script>",
    }


def keep_to_yourself(folder: Path) -> None:
    """Tell Gradio where its files go, and to ask nobody for anything."""
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
