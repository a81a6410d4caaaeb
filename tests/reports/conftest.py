"""A browser for the pages."""

import pytest

from tests.support.pages import BROWSER


@pytest.fixture(scope="module")
def browser():
    """A browser; without playwright its tests are skipped."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()
