"""Serve the page until a signal ends it."""

import logging
import os
import socket
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from types import FrameType
from typing import Any

from system.cli import say
from system.errors import InputError
from system.temporary import hidden_folder
from web.choices import Example

LOCAL = ("127.0.0.1", "localhost", "::1")
MB = 2**20  # bytes, as Gradio counts and shows them
GRACE = 2  # s for open requests at the end


@dataclass(frozen=True)
class Settings:
    """How the page is served.

    Attributes:
        host: Address at which it listens.
        port: Port; 0 takes a free one.
        max_minutes: Longest recording.
        max_mb: Largest file, MB.
        device: As `run.device`.
        speech_model: Folder of the speech model of models that read one; None is where they were
            trained with it.
    """

    host: str
    port: int
    max_minutes: float
    max_mb: float
    device: str
    speech_model: str | None = None


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address.

    Raises:
        InputError: The port is in use or not allowed, or the address is not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((host, port))
        opened.listen()
    except OSError as error:
        opened.close()
        raise InputError(
            f"the page cannot be served at {host}, port {port}: {error.strerror or error}. "
            "Choose another --port (0 takes a free one) or --host"
        ) from error
    return opened


def serve(models: Mapping[str, Path], examples: Sequence[Example], settings: Settings) -> None:
    """Serve the page until the process is told to end; then nothing that was sent is left.

    Args:
        models: Folder of each model by the name that the page shows; the first is loaded at once.
        examples: Recordings that are offered.
        settings: Address, limits and device.

    Raises:
        InputError: The address cannot be used, or no model can label recordings.
        RunError: The first model is corrupt.
    """
    with listen(settings.host, settings.port) as opened:
        with hidden_folder(Path(tempfile.gettempdir(), "maxmvit-page")) as folder:
            _serve(opened, folder, models, examples, settings)


def _serve(
    opened: socket.socket,
    folder: Path,
    models: Mapping[str, Path],
    examples: Sequence[Example],
    settings: Settings,
) -> None:
    _keep_to_ourselves(folder)  # before Gradio is imported
    from web.models import Models, usable_models

    loaded = Models(usable_models(models), settings.device, settings.speech_model)
    loaded.named(loaded.names[0])
    from fastapi import FastAPI
    from gradio import mount_gradio_app

    from web.desk import Desk
    from web.page import build, looks
    from web.uploads import Uploads, Watch

    uploads = Uploads(folder)
    desk = Desk(loaded, examples, uploads, 60 * settings.max_minutes)
    app = mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        build(desk, settings.max_mb),
        "/",
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=round(settings.max_mb * MB),
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        **looks(),
    )
    server = _server(Watch(app, uploads), desk.is_ending)
    _say_where(opened, settings.host)
    server.run(sockets=[opened])


def _server(app: Any, is_ending: Event) -> Any:
    """Return a server that sets an event when it is told to end, and reports no request it cuts."""
    import uvicorn

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            is_ending.set()
            super().handle_exit(sig, frame)

    server = Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=GRACE))
    logging.getLogger("uvicorn.error").addFilter(lambda record: not is_ending.is_set())
    return server


def _keep_to_ourselves(folder: Path) -> None:
    """Tell Gradio where its files go, and to ask no other host for anything."""
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"


def _say_where(opened: socket.socket, host: str) -> None:
    port = opened.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    say(f"The page is at http://{shown}:{port} (Ctrl-C ends it)")
    if host not in LOCAL:
        say(
            "Everybody who reaches this address can use it. Browsers allow a microphone only over "
            "https, or at localhost"
        )
