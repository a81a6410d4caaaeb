"""The page in a real browser, served by the entry; the server may reach no other host."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from inference import load
from storage.run_folder import Run
from tests.support.pages import BROWSER, NO_BROWSER
from tests.support.paths import ROOT

pytest.importorskip("gradio", reason="the extra `app` is not installed")
pytestmark = pytest.mark.skipif(BROWSER is None, reason=NO_BROWSER)

# Any way out of this machine is refused, and written down
SERVE = """
import socket, sys
log, *argv = sys.argv[1:]
HERE = ("127.0.0.1", "::1", "localhost")
def watched(what, name):
    def call(*arguments, **options):
        address = arguments[0] if what is socket else arguments[1]
        host = address[0] if isinstance(address, tuple) else address
        is_unix = what is not socket and arguments[0].family == socket.AF_UNIX
        if not is_unix and host not in (*HERE, None):
            open(log, "a").write(f"{name} {host}\\n")
            raise OSError(f"a test refuses {host}")
        return before(*arguments, **options)
    before = getattr(what, name)
    setattr(what, name, call)
watched(socket, "getaddrinfo")
watched(socket, "gethostbyname")
watched(socket.socket, "connect")
watched(socket.socket, "connect_ex")
watched(socket.socket, "sendto")
if argv[0] == "try":
    import urllib.request
    urllib.request.urlopen("http://" + argv[1], timeout=5)
import app
from system.cli import run_entry
run_entry(app.main, argv)
"""
ASKED = "**/queue/join*"  # where Gradio's page asks for an answer
MINUTES = 0.25
MB = 2


@dataclass
class Served:
    """A page that is served."""

    url: str
    process: subprocess.Popen
    temporary: Path
    log: Path  # what reached for other hosts

    def kept(self) -> list[Path]:
        """Return the files that the server has now."""
        return [path for path in self.temporary.rglob("*") if path.is_file()]


@pytest.fixture(scope="module")
def served(run: Run, recording, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("page")
    temporary, log = folder / "temporary", folder / "reached"
    temporary.mkdir()
    examples = folder / "examples"
    examples.mkdir()
    shutil.copy(recording("example.wav", (700.0, 0.3)), examples)
    words = [str(run.folder), str(run.folds[0].folder), "--port", "0", "--examples", str(examples)]
    words += ["--max-minutes", str(MINUTES), "--max-mb", str(MB)]
    with (folder / "errors").open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-u", "-c", SERVE, str(log), *words],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(temporary)},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert found, line + (folder / "errors").read_text()
        try:
            yield Served(found[0], process, temporary, log)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
    assert "Traceback" not in (folder / "errors").read_text()


@dataclass
class Watched:
    """A page in the browser, and what it did that it must not."""

    page: Any
    own: str
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("request", self._request)
        self.page.goto(self.own)
        self.page.wait_for_selector("#sound input[type=file]", state="attached", timeout=60_000)

    def _request(self, request: Any) -> None:
        if not request.url.startswith((self.own, "data:", "blob:" + self.own)):
            self.problems.append(request.url)

    def send(self, file: Path) -> Any:
        """Drop a file; return its answer."""
        self.page.set_input_files("#sound input[type=file]", file)
        return self.answer(file.name)

    def answer(self, name: str) -> Any:
        """Wait for the answer to a file, and for the page to be ready for the next one."""
        found = self.page.locator("#answer .answer", has_text=name)
        found.wait_for(timeout=60_000)
        return found

    def hold(self, act: Callable[[], None]) -> Callable[[], None]:
        """Do what asks for an answer, keep that from the server; return what lets it through."""
        held: list[Any] = []
        self.page.route(ASKED, lambda route: route.continue_() if held else held.append(route))
        with self.page.expect_request(ASKED):
            act()
        return lambda: held[0].continue_()

    def overflow(self) -> float:
        """Return by how many pixels the page is wider than the window."""
        return self.page.evaluate("document.documentElement.scrollWidth - innerWidth")


@pytest.fixture(scope="module")
def first(browser: Any, served: Served) -> Iterator[Watched]:
    """The page, opened once: most tests go on with it."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    yield Watched(context.new_page(), served.url)
    context.close()


@pytest.fixture
def watched(first: Watched) -> Iterator[Watched]:
    """The page; fails on errors and if it reached for another host."""
    yield first
    assert first.problems == []


@pytest.fixture
def open_page(browser: Any, served: Served) -> Iterator[Callable[..., Watched]]:
    """Open the page in a context of its own; fails as `watched`."""
    opened: list[Watched] = []

    def start(width: int = 1280, height: int = 900, **options: Any) -> Watched:
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        opened.append(Watched(context.new_page(), served.url))
        return opened[-1]

    yield start
    for watched in opened:
        watched.page.context.close()
        assert watched.problems == []


def test_the_page_offers_models_examples_and_says_what_is_trained(watched, run: Run) -> None:
    page = watched.page
    assert page.locator("#about").inner_text().startswith("It tells apart: ")
    assert "mean of 2 models" in page.locator("#about").inner_text()
    page.locator("#picker input").click()
    names = page.locator("[role=option]").all_inner_texts()
    assert [name.strip("✓ \n") for name in names] == [
        run.folder.name,
        f"{run.folder.name}/folds/fold-1_seed-0",
    ]
    page.locator("[role=option]").nth(1).click()
    page.locator("#about", has_text="It tells apart").wait_for()
    page.wait_for_function("!document.querySelector('#about').innerText.includes('mean of')")
    page.locator("#examples").get_by_text("example", exact=True).click()
    shown = page.locator("#answer .answer", has_text="example.wav")
    shown.wait_for(timeout=60_000)
    assert "/folds/fold-1_seed-0" in shown.inner_text()
    page.locator("#picker input").click()
    page.locator("[role=option]").nth(0).click()
    page.locator("#about", has_text="mean of 2 models").wait_for()


def test_a_file_gets_the_answer_of_predict_and_is_not_kept(
    watched, served: Served, run: Run, recording
) -> None:
    file = recording("short.wav", (1500.0, 0.25))
    shown = watched.send(file)
    assert served.kept() == []
    expected = load(run.folder).predict(file)
    rows = shown.locator(".bars tr").all_inner_texts()
    found = {name.strip(): value.strip() for name, value in (row.rsplit("\t", 1) for row in rows)}
    assert found == {k: f"{100 * v:.1f} %" for k, v in expected.probs.items()}
    assert shown.locator("h2").inner_text().split()[0] == expected.emotion
    assert f"Gate {expected.gate:.2f}: " in shown.inner_text()
    assert shown.locator(".timeline").count() == 0
    assert shown.locator(".pair svg").count() == 2
    for image in shown.locator(".pair svg").all():
        texts = image.locator("text").all_text_contents()
        assert {"Hz", "seconds", "0", "0.1", "0.2", "1k"} <= set(texts), texts


def test_a_long_file_has_a_timeline_that_follows_its_sound(watched, recording) -> None:
    file = recording("long.wav", (700.0, 4.0), (0, 4.0), (3000.0, 4.0))
    shown, page = watched.send(file), watched.page
    assert "mean of 10 windows" in shown.inner_text()
    page.wait_for_function("document.querySelector('.answer audio').readyState >= 1")
    assert page.evaluate("document.querySelector('.answer audio').duration") == pytest.approx(12)
    place = "parseFloat(document.querySelector('.timeline .cursor').style.left)"
    now = "document.querySelector('.answer .now').innerText"
    page.evaluate("document.querySelector('.answer audio').currentTime = 3")
    page.wait_for_function(f"Math.abs({place} - 25) < 0.1")
    assert page.evaluate(now).startswith("2 to 5: ")
    line = shown.locator(".timeline")
    box = line.bounding_box()
    line.click(position={"x": box["width"] / 2, "y": 20})
    page.wait_for_function("document.querySelector('.answer audio').currentTime > 5.9")
    page.evaluate("document.querySelector('.answer audio').pause()")
    page.evaluate("document.querySelector('.answer audio').currentTime = 6")
    page.wait_for_function(f"Math.abs({place} - 50) < 0.1")
    line.press("ArrowRight")
    page.wait_for_function(f"Math.abs({place} - 58.33) < 0.1")
    assert line.get_attribute("aria-valuenow") == "7.00"
    line.press("Home")
    page.wait_for_function(f"{place} === 0")
    line.press(" ")
    page.wait_for_function(f"{place} > 1")  # it plays, and the cursor goes with it


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("words.wav", "cannot be read: Format not recognised."),
        ("silent.wav", "holds no sound: every sample is 0."),
        ("endless.wav", "is longer than 15 s, the most that this page takes: cut it into parts."),
    ],
)
def test_a_file_that_cannot_be_labelled_gets_one_sentence(
    watched, served: Served, recording, name: str, said: str
) -> None:
    if name == "words.wav":
        file = recording(name, (300.0, 0.2))
        file.write_text("these are no samples")
    else:
        file = recording(name, (0, 0.5) if name == "silent.wav" else (300.0, 16.0))
    assert watched.send(file).inner_text() == f"{name} {said}"
    assert served.kept() == []


def test_a_file_that_is_too_large_is_refused_before_it_is_sent(
    watched, served: Served, tmp_path: Path
) -> None:
    large = tmp_path / "large.wav"
    large.write_bytes(bytes(MB * 2**20 + 1))
    watched.page.set_input_files("#sound input[type=file]", large)
    watched.page.get_by_text("maximum allowed size of 2").wait_for()
    assert served.kept() == []


def test_a_large_file_is_refused_by_the_server_too(served: Served) -> None:
    import httpx

    files = {"files": ("large.wav", bytes(MB * 2**20 + 1))}
    sent = httpx.post(f"{served.url}/gradio_api/upload", files=files, trust_env=False)
    assert sent.status_code == 413
    assert served.kept() == []


def test_a_file_that_is_dropped_before_the_answer_to_another_is_labelled_too(
    open_page, served: Served, recording
) -> None:
    watched = open_page()
    page, file = watched.page, recording("held.wav", (300.0, 0.3))
    go_on = watched.hold(lambda: page.set_input_files("#sound input[type=file]", file))
    asked: list[Any] = []
    page.on("request", lambda request: asked.append(request) if "/join" in request.url else None)
    page.click("#sound [aria-label=Clear]")
    page.wait_for_selector("#sound input[type=file]", state="attached")
    assert "Probabilities" in watched.send(recording("next.wav", (500.0, 0.3))).inner_text()
    assert len(asked) == 1  # to clear asks nothing
    go_on()
    assert "Probabilities" in watched.answer("held.wav").inner_text()
    assert served.kept() == []


def test_the_last_of_two_models_chosen_at_once_is_the_one_that_is_described(open_page) -> None:
    watched = open_page()
    page = watched.page

    def choose(number: int) -> None:
        page.locator("#picker input").click()
        page.locator("[role=option]").nth(number).click()

    go_on = watched.hold(lambda: choose(1))
    choose(0)
    with page.expect_request(ASKED):
        go_on()
    page.locator("#about", has_text="mean of 2 models").wait_for()


def test_an_example_that_is_clicked_before_the_answer_to_another_is_labelled_too(open_page) -> None:
    watched = open_page()
    example = watched.page.locator("#examples").get_by_text("example", exact=True)
    go_on = watched.hold(example.click)
    example.click()
    with watched.page.expect_request(ASKED):
        go_on()
    assert "Probabilities" in watched.answer("example.wav").inner_text()


def test_a_denied_microphone_is_told_and_files_still_work(open_page, recording) -> None:
    watched = open_page()
    watched.page.click("#sound [aria-label='Record audio']")
    watched.page.click("#sound .record-button")
    watched.page.locator("#microphone", has_text="denied the microphone").wait_for()
    watched.problems.remove("Error accessing the microphone: Permission denied")  # Gradio's own
    watched.page.click("#sound [aria-label='Upload file']")
    watched.page.wait_for_selector("#sound input[type=file]", state="attached")
    assert "Probabilities" in watched.send(recording("spoken.wav", (300.0, 0.3))).inner_text()


def test_a_recording_from_the_microphone_is_labelled(open_page, served: Served) -> None:
    watched = open_page(permissions=["microphone"])
    watched.page.click("#sound [aria-label='Record audio']")
    watched.page.click("#sound .record-button")
    watched.page.locator("#sound .stop-button").wait_for()
    watched.page.wait_for_timeout(1200)  # the beeps come twice a second
    watched.page.click("#sound .stop-button")
    assert "Probabilities" in watched.answer("audio.wav").inner_text()
    assert not watched.page.locator("#microphone").is_visible()
    assert served.kept() == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_without_sideways_scrolling(open_page, recording, scheme: str) -> None:
    watched = open_page(390, 844, color_scheme=scheme)
    assert watched.overflow() <= 0
    shown = watched.send(recording("phone.wav", (700.0, 7.0)))
    assert watched.overflow() <= 0
    cut = """[...document.querySelectorAll('.answer *')].filter(
        e => !e.closest('.runs') && e.getBoundingClientRect().right > innerWidth + 1).length"""
    assert watched.page.evaluate(cut) == 0
    named = shown.locator("svg[role=img]:not([aria-label=''])").count()
    assert named == shown.locator("svg").count() == 5


def test_two_people_may_send_the_same_recording_at_once(
    open_page, served: Served, recording
) -> None:
    file = recording("same.wav", (300.0, 9.0))
    both = [open_page(), open_page()]
    for watched in both:
        watched.page.set_input_files("#sound input[type=file]", file)
    for watched in both:
        assert "Over time" in watched.answer("same.wav").inner_text()
    assert served.kept() == []


def test_a_name_is_shown_and_not_run(watched, recording) -> None:
    name = "${window.seen=1}<img src=x onerror='window.seen=1'>{{7*7}}.wav"
    file = recording("named.wav", (300.0, 0.3))
    content = {"name": name, "mimeType": "audio/wav", "buffer": file.read_bytes()}
    watched.page.set_input_files("#sound input[type=file]", content)
    watched.answer("window.seen=1").wait_for()
    assert watched.page.evaluate("window.seen") is None
    assert "49" not in watched.page.locator(".answer .facts").inner_text()


def test_the_browser_refuses_other_hosts(watched) -> None:
    refused = watched.page.evaluate(
        """() => new Promise(done => {
            document.addEventListener('securitypolicyviolation', e => done(e.blockedURI));
            fetch('http://localhost:9/x').catch(() => setTimeout(done, 2000, 'none'));
        })"""
    )
    assert refused == "http://localhost:9/x"


def test_the_refusal_of_other_hosts_would_be_seen(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SERVE, str(tmp_path / "log"), "try", "192.0.2.1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert "a test refuses 192.0.2.1" in done.stderr
    assert "192.0.2.1" in (tmp_path / "log").read_text()


def test_at_the_end_nothing_is_left_and_no_other_host_was_asked(
    open_page, served: Served, recording
) -> None:
    """The last test of the module: it ends the server while something is labelled."""
    import httpx

    file = recording("unfinished.wav", (300.0, 14.5))
    open_page().page.set_input_files("#sound input[type=file]", file)
    files = {"files": ("left.wav", b"never asked about")}
    httpx.post(f"{served.url}/gradio_api/upload", files=files, trust_env=False)
    assert "left.wav" in [path.name for path in served.kept()]
    served.process.send_signal(signal.SIGINT)
    assert served.process.wait(timeout=30) == -signal.SIGINT
    assert list(served.temporary.iterdir()) == []
    assert not served.log.exists(), served.log.read_text()
