"""The page where there is nothing to show, or nothing that may be shown."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from deployments.config import ApiKeyAuthArgs, HotkeyAuthArgs, ServingArgs
from gating.metagraph import MetagraphView
from tests.integration.service import wait_for

from .browser import accessibility_faults, open_page
from .local_server import LocalServer, local_server

pytestmark = pytest.mark.integration

KEYS = {"reader": ("tg_reader", ["score"]), "boss": ("tg_boss", ["score", "reward", "admin"])}
AUTH = ApiKeyAuthArgs.model_validate(
    {
        "mode": "api_key",
        "keys": [
            {"id": caller, "sha256": hashlib.sha256(key.encode()).hexdigest(), "scopes": scopes}
            for caller, (key, scopes) in KEYS.items()
        ],
    }
)
HOTKEY = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"


@pytest.fixture(scope="module")
def guarded() -> Iterator[LocalServer]:
    with local_server(auth=AUTH) as server:
        yield server


@pytest.fixture(scope="module")
def large() -> Iterator[LocalServer]:
    view = MetagraphView.from_hotkeys([f"hotkey-{uid:04d}" for uid in range(4096)], block=7)
    with local_server(view=view) as server:
        yield server


def use_key(page: Page, key: str) -> None:
    page.get_by_label("API key", exact=True).fill(key)
    page.get_by_role("button", name="Use this key").click()


def test_without_a_key_nothing_is_shown_but_that_one_is_needed(browser: Browser, guarded: LocalServer) -> None:
    page = open_page(browser, guarded.url, [])
    expect(page.locator("#conditions")).to_contain_text("No valid API key")
    expect(page.locator("#conditions")).to_contain_text("Weights version 0")
    expect(page.locator("#overview")).to_be_hidden()
    assert accessibility_faults(page) == []
    use_key(page, "tg_wrong")
    expect(page.locator("#access")).to_be_visible()
    use_key(page, "tg_reader")
    expect(page.locator("#pill-text")).to_have_text("Live")
    expect(page.locator("#overview")).to_be_visible()
    # The key stays in the tab, and is nowhere else.
    stored = page.evaluate(
        "[JSON.stringify(sessionStorage), JSON.stringify(localStorage), document.cookie, location.href]"
    )
    assert ["tg_reader" in text for text in stored] == [True, False, False, False]
    page.reload()
    expect(page.locator("#pill-text")).to_have_text("Live")
    page.get_by_role("button", name="API key").click()
    page.get_by_role("button", name="Forget it").click()
    expect(page.locator("#overview")).to_be_hidden()
    page.context.close()


def test_a_key_without_the_scope_is_told_so_where_it_acts(browser: Browser, guarded: LocalServer) -> None:
    page = open_page(browser, guarded.url, [])
    use_key(page, "tg_reader")
    expect(page.locator("#pill-text")).to_have_text("Live")
    page.get_by_role("button", name="Show operator actions").click()
    expect(page.locator("#operate-panel")).to_contain_text("lacks the scope (403)")
    page.get_by_role("button", name="Freeze learning").click()
    page.get_by_role("dialog").get_by_role("button", name="Freeze").click()
    expect(page.locator("#operate-status")).to_contain_text("lacks the scope (403)")
    assert not guarded.service.learner.core.frozen
    page.context.close()


def test_where_requests_are_signed_the_page_says_that_it_cannot(browser: Browser) -> None:
    pytest.importorskip("bittensor.http_auth")
    auth = HotkeyAuthArgs(mode="hotkey", receiver_hotkey=HOTKEY, allowed_hotkeys=(HOTKEY,))
    with local_server(auth=auth) as server:
        page = open_page(browser, server.url, [])
        expect(page.locator("#conditions")).to_contain_text("This page cannot sign")
        # What anyone is told is still shown.
        expect(page.locator("#conditions")).to_contain_text("10 uids at block 100")
        expect(page.locator("#access")).to_be_hidden()
        page.context.close()


def test_a_service_that_goes_away_and_one_that_comes_back(browser: Browser) -> None:
    with local_server() as server:
        page = open_page(browser, server.url, [])
        expect(page.locator("#pill-text")).to_have_text("Live")
        page.context.set_offline(True)
        expect(page.locator("#pill-text")).to_have_text("Unreachable")
        expect(page.locator("#conditions")).to_contain_text("Service unreachable")
        assert accessibility_faults(page) == []
        page.context.set_offline(False)
        expect(page.locator("#pill-text")).to_have_text("Live")
        server.stop()
        expect(page.locator("#pill-text")).to_have_text("Unreachable")
        page.context.close()


def test_an_overloaded_service_is_named_in_the_playground(browser: Browser) -> None:
    with local_server(serving=ServingArgs(max_queue_tokens=1, embedding_cache_mb=0)) as server:
        server.service.engine.hold()
        page = open_page(browser, server.url, [])
        page.get_by_label("Prompt").fill("a prompt that waits in the engine")
        ask = """(text) => { fetch("v1/score", {method: "POST", headers: {"Content-Type": "application/json"},
            body: JSON.stringify({messages: [text]})}) }"""
        # One has to be in the engine before the next can wait for it, and that one must wait before there is no room.
        page.evaluate(ask, "one")
        wait_for(lambda: len(server.service.engine.batches) == 1)
        page.evaluate(ask, "two")
        wait_for(lambda: server.service.batcher.queued_texts == 1)
        page.get_by_role("button", name="Whom to ask?").click()
        expect(page.locator("#play-status")).to_contain_text("overloaded (429)")
        server.service.engine.let_through()
        page.context.close()


def test_a_network_of_4096_uids_is_sorted_and_searched_at_once(browser: Browser, large: LocalServer) -> None:
    faults: list[str] = []
    page = open_page(browser, large.url, faults)
    expect(page.locator("#uid-count")).to_have_text("1 to 20 of 4,096")
    assert page.locator("#uid-table tbody tr").count() == 20
    took_ms = page.evaluate(
        """() => { const started = performance.now();
        [...document.querySelectorAll("#uid-table th button")].at(1).click();
        return performance.now() - started }"""
    )
    expect(page.locator("#uid-table tbody tr").first).to_contain_text("hotkey-0000")
    # A frame is 16 ms; a table of all rows would take a second.
    assert took_ms < 500
    page.get_by_label("Search").fill("4095")
    expect(page.locator("#uid-table tbody tr")).to_have_count(1)
    page.get_by_label("Search").fill("hotkey-40")
    expect(page.locator("#uid-count")).to_have_text("1 to 20 of 96 that match, of 4,096")
    page.get_by_label("Search").fill("nobody")
    expect(page.locator("#uid-count")).to_have_text("No uid matches.")
    assert faults == []
    page.context.close()


def test_nothing_is_asked_while_the_tab_is_hidden(browser: Browser, large: LocalServer) -> None:
    page = open_page(browser, large.url, [])
    expect(page.locator("#pill-text")).to_have_text("Live")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    hide = "Object.defineProperty(document, 'hidden', {configurable: true, get: () => %s})"
    with page.expect_request("**/v1/state"):
        pass
    page.evaluate(hide % "true")
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for_load_state("networkidle")
    asked.clear()
    # Twice as long as it waits between two questions, by the page's own clock.
    page.evaluate("new Promise((resolve) => setTimeout(resolve, 3200))")
    assert asked == []
    page.evaluate(hide % "false")
    with page.expect_request("**/v1/state"):
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.context.close()


def test_the_theme_is_chosen_and_kept(browser: Browser, large: LocalServer) -> None:
    page = open_page(browser, large.url, [], color_scheme="dark")
    ground = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(ground)
    button = page.get_by_role("button", name="Theme")
    button.click()
    expect(button).to_have_text("Theme: light")
    assert page.evaluate(ground) != dark
    page.reload()
    expect(button).to_have_text("Theme: light")
    button.click()
    expect(button).to_have_text("Theme: dark")
    assert page.evaluate(ground) == dark
    page.context.close()
