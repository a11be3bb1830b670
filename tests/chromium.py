"""A headless Chromium: the one that the machine has, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """One browser; each test opens contexts of its own in it, which share nothing."""
    found = shutil.which("chromium")
    assert found is not None
    with sync_playwright() as playwright:
        # Root's Chromium starts without its sandbox only, and containers have no /dev/shm to speak of.
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = playwright.chromium.launch(executable_path=found, args=arguments)
        yield browser
        browser.close()
