"""Uploaded files: none stays behind the answer to it.

Gradio names an uploaded file by its content, so two people who send the same recording share a
file. The requests that are still to be answered are counted for each file; the last answer removes
it. All of it runs on the server's event loop, on which Gradio also puts the files: none is removed
while another upload of it is being put there.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator, MutableMapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

UPLOAD = "/upload"  # end of the path to which Gradio's page sends files
FILE = "/file="  # before the path of a file, in the path at which the page gets it
PATIENCE = 5.0  # s that the event loop may take to remove a file
OWN_HOST = (  # the browser refuses anything from another host
    b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
    b"style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    b"media-src 'self' data: blob:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    b"object-src 'none'; base-uri 'self'; form-action 'self'"
)
HEADERS = (
    (b"content-security-policy", OWN_HOST),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


class Uploads:
    """Counts and removes uploaded files.

    Args:
        folder: Where Gradio puts them; nothing outside is removed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiting: Counter[Path] = Counter()

    def arrived(self, paths: list[str]) -> None:
        """Count files that were uploaded; called on the event loop."""
        self._loop = asyncio.get_running_loop()
        self._waiting.update(Path(path).resolve() for path in paths)

    @contextmanager
    def use(self, path: Path) -> Iterator[Path]:
        """Yield a file for an answer, and remove it afterwards; called on another thread."""
        try:
            yield path
        finally:
            self._tell_loop(path.resolve())

    def _tell_loop(self, path: Path) -> None:
        """Count an answer on the event loop, and wait until the file is gone if it was the last."""
        assert self._loop is not None, "a file was used that nobody uploaded"
        done: Future[None] = Future()

        def count() -> None:
            self._answered(path)
            done.set_result(None)

        with suppress(RuntimeError, TimeoutError):  # the server ends: its whole folder goes
            self._loop.call_soon_threadsafe(count)
            done.result(PATIENCE)

    def _answered(self, path: Path) -> None:
        self._waiting[path] -= 1
        if self._waiting[path] > 0 or self.folder not in path.parents:
            return
        del self._waiting[path]
        with suppress(FileNotFoundError):
            path.unlink()
        with suppress(OSError):  # it holds the file of another name
            path.parent.rmdir()


class Watch:
    """What stands before Gradio: it counts uploads, and says that pages come from here alone.

    The page asks for a file that was sent, to play it. That the answer removes it meanwhile is no
    failure of the server, as Starlette makes of it, and not logged: mostly it is "not found".

    Args:
        app: The application behind it.
        uploads: Is told of files that have arrived.
    """

    def __init__(self, app: "ASGIApp", uploads: Uploads) -> None:
        self.app, self.uploads = app, uploads

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        is_upload = scope["method"] == "POST" and scope["path"].endswith(UPLOAD)
        file = scope["path"].partition(FILE)[2]
        seen: MutableMapping[str, Any] = {"status": 0, "body": b""}
        held: list[Message] = []  # the start of a file, until there is something of it

        async def watched(message: "Message") -> None:
            if message["type"] == "http.response.start":
                seen["status"] = message["status"]
                message = {**message, "headers": [*message["headers"], *HEADERS]}
                if file:
                    held.append(message)
                    return
            elif is_upload:
                seen["body"] += message.get("body", b"")
                if not message.get("more_body") and seen["status"] == 200:
                    self.uploads.arrived(json.loads(seen["body"]))
            if held:
                await send(held.pop())
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except (FileNotFoundError, RuntimeError):
            if not file or Path(file).exists():
                raise
            if held:
                await send({**held.pop(), "status": 404, "headers": [*HEADERS]})
                await send({"type": "http.response.body", "body": b""})
