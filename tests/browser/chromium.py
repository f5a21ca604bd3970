"""Finds and starts Chromium."""

import os
import shutil
from pathlib import Path

from playwright.sync_api import Browser, Playwright

NAMES = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "msedge",
)

QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
"""A server's or container's browser, which talks to nobody but the page."""


def find_chromium() -> Path | None:
    """Returns the browser to test in: CHROMIUM_PATH, or the first of the usual names on PATH."""
    wanted = os.environ.get("CHROMIUM_PATH")
    found = wanted or next(filter(None, map(shutil.which, NAMES)), None)
    return Path(found) if found else None


def start_chromium(playwright: Playwright, executable: Path) -> Browser:
    """Starts a headless browser."""
    return playwright.chromium.launch(executable_path=executable, args=list(QUIET))
