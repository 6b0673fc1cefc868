"""Debian's Chromium, driven by Playwright: no browser is downloaded."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

CHROMIUM = shutil.which("chromium")
LAPTOP = {"width": 1280, "height": 800}
PATIENCE_MS = 20_000
PHONE = {"width": 390, "height": 844}
expect.set_options(timeout=PATIENCE_MS)
# Nothing that calls home.
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS, headless=True)
        yield browser
        browser.close()


def open_page(browser: Browser, url: str, faults: list[str], **options: Any) -> Page:
    """A page of its own at the URL; what goes wrong in it is added to `faults`."""
    context = browser.new_context(**{"viewport": LAPTOP, **options})
    # A figure that does not come is a failure, not something to wait for.
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: message.type == "error" and faults.append(message.text))
    page.goto(url)
    return page


def accessibility_faults(page: Page) -> list[str]:
    """What axe-core calls serious or worse, with where it is."""
    violations = Axe().run(page).response["violations"]
    return [
        f"{found['id']}: {found['help']}: {[node['html'][:120] for node in found['nodes']]}"
        for found in violations
        if found["impact"] in ("serious", "critical")
    ]
