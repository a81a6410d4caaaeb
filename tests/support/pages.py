"""Pages in a real browser, watched for errors and requests to other hosts."""

import shutil
from pathlib import Path
from typing import Any

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
NO_BROWSER = "no Chromium or Chrome is installed"


def open_page(browser: Any, file: Path, width: int, height: int, scheme: str = "light") -> Any:
    """Open a page whole; fail on errors, requests, sideways scrolling and missing images.

    Args:
        browser: Playwright's browser.
        file: The page.
        width: Of the window, pixels.
        height: Of the window, pixels.
        scheme: `light` or `dark`.
    """
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    problems: list[str] = []
    page.on("console", lambda m: problems.append(m.text) if m.type in ("error", "warning") else 0)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("requestfailed", lambda request: problems.append(f"failed: {request.url[:80]}"))
    page.on(
        "request",
        lambda r: None if r.url.startswith(("file:", "data:")) else problems.append(r.url),
    )
    page.goto(file.as_uri())
    page.evaluate("document.querySelectorAll('img').forEach(i => i.loading = 'eager')")
    page.wait_for_function("[...document.images].every(i => i.complete)")
    page.wait_for_function("[...document.querySelectorAll('audio')].every(a => a.readyState >= 1)")
    assert problems == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].filter(i => !i.naturalWidth).length") == 0
    assert page.evaluate("[...document.images].filter(i => !i.alt).length") == 0
    return page
