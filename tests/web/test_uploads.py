"""A file that was sent goes with the last answer to it, and no other file does."""

import asyncio
import json
from pathlib import Path

import pytest

from web.uploads import HEADERS, Uploads, Watch


def in_loop(work) -> None:
    """Run a coroutine on a loop, whose functions run in threads as Gradio's do."""
    asyncio.run(work())


def test_the_last_of_two_answers_removes_the_file(tmp_path: Path) -> None:
    file, other = tmp_path / "abc" / "a.wav", tmp_path / "abc" / "b.wav"
    file.parent.mkdir()
    file.touch()
    other.touch()
    uploads = Uploads(tmp_path)

    def answer(path: Path) -> None:
        with uploads.use(path):
            assert path.exists()

    async def work() -> None:
        uploads.arrived([str(file)])
        uploads.arrived([str(file), str(other)])
        await asyncio.to_thread(answer, file)
        assert file.exists()
        await asyncio.to_thread(answer, file)
        assert not file.exists() and other.exists()
        await asyncio.to_thread(answer, other)
        assert list(tmp_path.iterdir()) == []

    in_loop(work)


def test_an_answer_that_fails_removes_the_file(tmp_path: Path) -> None:
    file = tmp_path / "abc" / "a.wav"
    file.parent.mkdir()
    file.touch()
    uploads = Uploads(tmp_path)

    def fail() -> None:
        with uploads.use(file):
            raise RuntimeError("as the model might")

    async def work() -> None:
        uploads.arrived([str(file)])
        with pytest.raises(RuntimeError):
            await asyncio.to_thread(fail)

    in_loop(work)
    assert not file.exists()


def test_a_file_elsewhere_is_never_removed(tmp_path: Path) -> None:
    folder, mine = tmp_path / "uploads", tmp_path / "mine.wav"
    folder.mkdir()
    mine.touch()
    uploads = Uploads(folder)

    def answer() -> None:
        with uploads.use(folder / ".." / "mine.wav"):
            pass

    async def work() -> None:
        uploads.arrived([str(mine)])
        await asyncio.to_thread(answer)

    in_loop(work)
    assert mine.exists()


def test_an_answer_after_the_end_of_the_server_waits_for_nobody(tmp_path: Path) -> None:
    file = tmp_path / "abc" / "a.wav"
    uploads = Uploads(tmp_path)

    async def work() -> None:
        uploads.arrived([str(file)])

    in_loop(work)
    with uploads.use(file):
        pass


@pytest.mark.parametrize(
    ("path", "method", "status", "counted"),
    [
        ("/gradio_api/upload", "POST", 200, 2),
        ("/gradio_api/upload", "POST", 413, 0),
        ("/gradio_api/upload_progress", "GET", 200, 0),
    ],
)
def test_uploads_are_counted_from_what_the_server_answers(
    tmp_path: Path, path: str, method: str, status: int, counted: int
) -> None:
    sent = json.dumps([str(tmp_path / "a.wav"), str(tmp_path / "b.wav")]).encode()

    async def gradio(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": [(b"x", b"y")]})
        await send({"type": "http.response.body", "body": sent[:9], "more_body": True})
        await send({"type": "http.response.body", "body": sent[9:]})

    uploads, messages = Uploads(tmp_path), []

    async def send(message) -> None:
        messages.append(message)

    async def work() -> None:
        scope = {"type": "http", "method": method, "path": path}
        await Watch(gradio, uploads)(scope, None, send)

    in_loop(work)
    assert uploads._waiting.total() == counted
    assert b"".join(message.get("body", b"") for message in messages) == sent
    assert messages[0]["headers"] == [(b"x", b"y"), *HEADERS]
