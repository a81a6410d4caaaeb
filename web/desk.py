"""What the page asks, answered as HTML; every problem is one sentence."""

import logging
from collections.abc import Sequence
from pathlib import Path
from threading import Event

from audio.opening import BadAudio
from system.errors import InputError, RunError, first_line, is_out_of_memory
from web.answer import Report, answer
from web.choices import Example
from web.models import Models
from web.render import about_html, answer_html, problem_html
from web.uploads import Uploads

log = logging.getLogger(__name__)


class Desk:
    """Answers what the page asks.

    Args:
        models: The models of the picker.
        examples: Recordings that are offered.
        uploads: Removes the files that were sent.
        most_seconds: Longest recording, s.

    Attributes:
        is_ending: Set at the end of the server: what is being labelled is given up.
    """

    def __init__(
        self, models: Models, examples: Sequence[Example], uploads: Uploads, most_seconds: float
    ) -> None:
        self.is_ending = Event()
        self.models, self.examples, self.uploads = models, list(examples), uploads
        self.most_seconds = most_seconds

    def label_upload(self, path: Path, model_name: str, report: Report) -> str:
        """Return the answer to a file that was sent; the file is gone then."""
        with self.uploads.use(path):
            return self._label(path, model_name, report)

    def label_example(self, number: int, model_name: str, report: Report) -> str:
        """Return the answer to an example, by its place."""
        return self._label(self.examples[number].path, model_name, report)

    def about(self, model_name: str) -> str:
        """Return the facts of a model."""
        try:
            return about_html(self.models.named(model_name))
        except (InputError, RunError) as error:
            return problem_html(model_name, f"cannot be loaded: {first_line(error)}")

    def _label(self, file: Path, model_name: str, report: Report) -> str:
        def go_on(done: int, n: int) -> None:
            if self.is_ending.is_set():
                raise RunError("the page is being closed")
            report(done, n)

        try:
            model = self.models.named(model_name)
            found = answer(model, file, self.most_seconds, go_on)
            return answer_html(found, model, model_name, file.name)
        except BadAudio as error:
            return problem_html(file.name, str(error))
        except (InputError, RunError, OSError) as error:
            log.warning("%s with %s: %s", file.name, model_name, error)
            return problem_html(file.name, f"cannot be labelled: {first_line(error)}")
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return problem_html(file.name, "needs more memory than there is: cut it into parts")
