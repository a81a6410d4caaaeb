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


def removed_before(event: str, file: Path):
    """Starlette's answer of a file, with the file gone before it is looked at or opened."""
    responses = pytest.importorskip("starlette.responses", reason="the extra `app` is missing")
    errors = pytest.importorskip("starlette.middleware.errors")

    async def app(scope, receive, send) -> None:
        async def sent(message) -> None:
            if message.get("status") == 200 and event == "opened":
                file.unlink()
            await send(message)

        if event == "looked at":
            file.unlink()
        await responses.FileResponse(file)(scope, receive, sent)

    return errors.ServerErrorMiddleware(app)


@pytest.mark.parametrize(
    ("event", "statuses"), [("looked at", [500]), ("opened", [404]), ("nothing", [200])]
)
def test_a_file_that_goes_while_the_page_asks_for_it_is_no_failure_of_the_server(
    tmp_path: Path, event: str, statuses: list[int]
) -> None:
    file = tmp_path / "a.wav"
    file.write_bytes(b"sound")
    messages = []

    async def send(message) -> None:
        messages.append(message)

    async def receive():
        await asyncio.sleep(60)

    async def work() -> None:
        scope = {"type": "http", "method": "GET", "path": f"/gradio_api/file={file}", "headers": []}
        await Watch(removed_before(event, file), Uploads(tmp_path))(scope, receive, send)

    in_loop(work)
    starts = [message for message in messages if message["type"] == "http.response.start"]
    assert [message["status"] for message in starts] == statuses
    assert set(HEADERS) <= set(starts[0]["headers"]) and messages[0] is starts[0]
    assert messages[-1]["type"] == "http.response.body"
    body = b"".join(message.get("body", b"") for message in messages)
    assert body == {200: b"sound", 404: b"", 500: b"Internal Server Error"}[statuses[0]]


def test_other_failures_of_the_server_are_not_hidden(tmp_path: Path) -> None:
    file = tmp_path / "a.wav"
    file.touch()

    async def app(scope, receive, send) -> None:
        raise RuntimeError("a fault")

    async def work(path: str) -> None:
        await Watch(app, Uploads(tmp_path))(
            {"type": "http", "method": "GET", "path": path}, None, None
        )

    for path in ("/", f"/gradio_api/file={file}"):
        with pytest.raises(RuntimeError, match="a fault"):
            asyncio.run(work(path))
