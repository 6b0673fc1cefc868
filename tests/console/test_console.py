"""The page in front of a real service, under `tidegate demo`."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.integration.service import ROOT, TIDEGATE, Service, kill, wait_for, write_roster

from .browser import LAPTOP, PHONE, accessibility_faults, open_page

pytestmark = pytest.mark.integration

NAMES = [f"expert-{uid}" for uid in range(12)]
PROMPTS = 240
DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"


@pytest.fixture(scope="module")
def service(start_service: Callable[..., Service]) -> Service:
    return start_service(
        NAMES,
        learner={"compare_interval_s": 0.5, "heartbeat_s": 0.5, "shadow": [{"name": "adagrad"}]},
        selection={"epsilon": 0.3},
    )


@pytest.fixture(scope="module")
def faults() -> list[str]:
    """What has gone wrong inside the page."""
    return []


@pytest.fixture(scope="module")
def page(browser: Browser, service: Service, faults: list[str]) -> Iterator[Page]:
    page = open_page(browser, f"{service.url}/", faults)
    yield page
    page.context.close()


def plain(value: float | None, places: int = 4) -> str:
    """A figure as the page writes it."""
    if value is None:
        return DASH
    size = abs(value)
    if size != 0 and size < 10**-places:
        return f"{value:.1e}"
    return f"{value:.{0 if size >= 1000 else 1 if size >= 100 else 2 if size >= 10 else places}f}".replace("-", MINUS)


def count(value: int) -> str:
    return f"{value:,}"


def milliseconds(value: float) -> str:
    if value >= 10_000:
        return f"{value / 1000:.1f} s"
    return f"{value:.0f} ms" if value >= 100 else f"{value:.1f} ms"


def figures_of(state: dict[str, Any]) -> dict[str, str]:
    """What the page has to show of a state whose learner runs, by element; ages, which go on, left aside."""
    learner, replicas = state["learner"], state["replicas"]
    cache = [replica["embedding_cache"] for replica in replicas]
    texts = sum(one["hits"] + one["misses"] + one["shared"] for one in cache)
    latency = max(replicas[0]["latency_ms"].values(), key=lambda told: told["texts"])
    return {
        "reward-value": plain(learner["moving_reward"]),
        "legend-random": plain(learner["baselines"]["random"]["value"]),
        "legend-fixed": plain(learner["baselines"]["best_fixed"]["value"]),
        "loss-value": plain(learner["moving_loss"]),
        "join-value": f"{learner['join_rate'] * 100:.1f}%",
        "cache-value": f"{sum(one['hits'] for one in cache) / texts * 100:.1f}%",
        "latency-value": f"{milliseconds(latency['p50'])} / {milliseconds(latency['p99'])}",
        "lag-value": f"{learner['events_logged'] - learner['events_applied']} events",
        "decisions-fine": f"{count(learner['decisions'])} since the learner started",
        "texts-fine": f"{count(sum(replica['texts'] for replica in replicas))} encoded so far",
        "weights-fine": f"version {count(state['weights']['version'])}",
        "drift-value": "raised" if learner["drift"]["active"] else "none",
    }


def shown(page: Page) -> dict[str, str]:
    names = [
        "reward-value",
        "legend-random",
        "legend-fixed",
        "loss-value",
        "join-value",
        "cache-value",
        "latency-value",
    ]
    names += ["lag-value", "decisions-fine", "texts-fine", "weights-fine", "drift-value"]
    return {name: page.locator(f"#{name}").inner_text() for name in names}


# Before any test that teaches.
def test_before_anything_was_learned_the_page_says_so_and_shows_no_zeros(page: Page, service: Service) -> None:
    expect(page.locator("#conditions")).to_contain_text("Nothing learned yet")
    for name in ("reward-value", "loss-value", "legend-random", "legend-fixed", "join-value", "latency-value"):
        assert DASH in page.locator(f"#{name}").inner_text()
    expect(page.locator("#reward-chart")).to_contain_text("nothing learned yet")
    expect(page.locator("#uid-count")).to_have_text("1 to 12 of 12")


def test_the_numbers_on_the_page_are_those_of_the_state(page: Page, service: Service, tmp_path: Path) -> None:
    # Two kinds of prompts, a model that is good at each, two that are good at none.
    kinds = ["Solve the equation x + {} = 12 for x.", "Translate the word number {} into French."]
    table = [
        {"question": kinds[row % 2].format(row), "scores": {"a": row % 2, "b": 1 - row % 2, "c": 0.1, "d": 0.2}}
        for row in range(PROMPTS)
    ]
    data = tmp_path / "table.json"
    data.write_text(json.dumps(table), encoding="utf-8")
    command = [*TIDEGATE, "demo", "--url", service.url, "--data", str(data), "--k", "2", "--json"]
    done = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    # Rates are seen while it runs.
    expect(page.locator("#decisions-value")).to_have_text(re.compile(r"[1-9]"), timeout=60_000)
    expect(page.locator("#texts-value")).to_have_text(re.compile(r"[1-9]"))
    output, _ = done.communicate(timeout=120)
    assert json.loads(output)["accepted"] == 2 * PROMPTS

    def agree() -> dict[str, str] | None:
        state = service.state()
        told = state["learner"]["baselines"]
        expected = figures_of(state)
        is_settled = told["events"] == PROMPTS and told["best_fixed"]["status"] == "ok"
        return expected if is_settled and shown(page) == expected else None

    expected = wait_for(agree)
    assert DASH not in "".join(expected.values())
    [replica] = service.state()["replicas"]
    row = page.locator("#replicas tbody tr")
    expect(row).to_contain_text(count(replica["version"]))
    # Nothing that is no text has become one.
    for wrong in ("[object", "undefined", "NaN"):
        expect(page.locator("main")).not_to_contain_text(wrong)
    assert re.fullmatch(r"\d\.\d s", page.locator("#weights-value").inner_text())
    expect(page.locator("#block-fine")).to_have_text("roster, read on request")
    expect(page.locator("#pill-text")).to_have_text("Live")


def test_shadows_are_compared(page: Page, service: Service) -> None:
    rules = service.state()["learner"]["rules"]
    rows = page.locator("#rules tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.filter(has_text="serves")).to_contain_text("pooled_ridge")
    expect(rows.filter(has_text="adagrad")).to_contain_text(plain(rules["adagrad"]["moving_loss"]))


def test_the_strip_and_the_table_show_every_uid(page: Page, service: Service) -> None:
    table = service.http.get("/v1/uids").json()["uids"]
    most = max(table, key=lambda uid: uid["selections"])
    first = page.locator("#uid-table tbody tr").first
    expect(first.locator("td").first).to_have_text(str(most["uid"]))
    expect(first).to_contain_text(plain(most["mean_reward"]))
    expect(page.locator("#strip-readout")).to_contain_text(f"most of all uid {most['uid']}")
    # The strip is painted: the best uid's cell is not as an untouched one's.
    colours = page.evaluate(
        """(uids) => { const canvas = document.querySelector(".heat"), pen = canvas.getContext("2d");
        return uids.map((uid) => [...pen.getImageData((uid + 0.5) * canvas.width / 12, 20, 1, 1).data]) }""",
        [most["uid"], 11],
    )
    assert colours[0] != colours[1]
    width = page.evaluate("document.querySelector('.heat').clientWidth")
    page.locator(".heat").hover(position={"x": width * (most["uid"] + 0.5) / 12, "y": 20})
    expect(page.locator("#strip-readout")).to_contain_text(f"uid {most['uid']} {most['hotkey']}")


def test_the_table_is_sorted_and_searched_by_keyboard(page: Page) -> None:
    header = page.get_by_role("columnheader", name="mean reward")
    header.get_by_role("button").focus()
    page.keyboard.press("Enter")
    expect(header).to_have_attribute("aria-sort", "descending")
    page.keyboard.press("Enter")
    expect(header).to_have_attribute("aria-sort", "ascending")
    cells = page.locator("#uid-table tbody tr td:nth-child(7)").all_inner_texts()
    known = [float(cell) for cell in cells if cell != DASH]
    assert known == sorted(known)
    # What is not known comes last either way.
    assert cells[len(known) :] == [DASH] * (len(cells) - len(known))
    page.get_by_label("Search").press_sequentially("expert-1")
    expect(page.locator("#uid-table tbody tr")).to_have_count(3)
    page.get_by_label("Search").fill("")


def test_a_prompt_is_answered_rewarded_and_explained(page: Page, service: Service) -> None:
    before = service.state()["learner"]["counters"]["rewards_accepted"]
    page.get_by_label("Prompt").fill("Solve the equation x + 3 = 12 for x.")
    page.get_by_label("Ask", exact=True).fill("2")
    page.get_by_role("button", name="Whom to ask?").click()
    rows = page.locator("#play-result tbody tr")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text("certain")
    uids = [int(row.locator("td").first.inner_text()) for row in rows.all()]
    decision_id = page.locator("#play-decision").inner_text()
    decision = service.http.get(f"/v1/decisions/{decision_id}").json()
    assert decision["uids"] == uids
    rows.nth(0).get_by_role("spinbutton").fill("1")
    rows.nth(1).get_by_role("spinbutton").fill("0.25")
    page.get_by_role("button", name="Send rewards").click()
    expect(page.locator("#play-said")).to_contain_text("2 accepted; learned as version")
    assert service.state()["learner"]["counters"]["rewards_accepted"] == before + 2
    page.locator("#play-decision").click()
    expect(page.locator("#decision-status")).to_have_text(f"Decision {decision_id}.")
    told = page.locator("#decision-result tbody tr")
    expect(told.nth(0)).to_contain_text("1.0000")
    expect(told.nth(1)).to_contain_text("0.2500")
    expect(told.nth(1)).to_contain_text("anonymous")
    page.get_by_role("button", name="Send rewards").click()
    expect(page.locator("#play-said")).to_contain_text("2 known already")


def test_an_unknown_decision_is_said_to_be_unknown(page: Page) -> None:
    page.get_by_label("Decision id").fill("no/such decision")
    page.get_by_role("button", name="Explain").click()
    expect(page.locator("#decision-status")).to_contain_text("404")
    expect(page.locator("#decision-result")).to_be_empty()


def test_an_operator_freezes_thaws_saves_and_goes_back(page: Page, service: Service) -> None:
    page.get_by_role("button", name="Show operator actions").click()
    page.get_by_role("button", name="Freeze learning").click()
    # Asked first; nothing is done by saying no.
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    assert not service.state()["learner"]["frozen"]
    page.get_by_role("button", name="Freeze learning").click()
    page.get_by_role("dialog").get_by_role("button", name="Freeze").click()
    expect(page.locator("#operate-status")).to_contain_text("Learning is frozen")
    assert service.state()["learner"]["frozen"]
    expect(page.locator("#pill-text")).to_have_text("Frozen")
    page.get_by_role("button", name="Thaw").click()
    page.get_by_role("dialog").get_by_role("button", name="Thaw").click()
    expect(page.locator("#pill-text")).to_have_text("Live")
    page.get_by_role("button", name="Save a checkpoint now").click()
    expect(page.locator("#operate-status")).to_contain_text("Saved")
    [newest, *_] = service.http.get("/v1/admin/checkpoints").json()["checkpoints"]
    page.get_by_role("button", name=f"Roll back to checkpoint {newest['name']}").click()
    page.get_by_role("dialog").get_by_role("button", name="Roll back").click()
    expect(page.locator("#operate-status")).to_contain_text(f"Version {count(newest['version'])} is back")
    assert service.state()["learner"]["version"] > newest["version"]


def confirm(page: Page, yes: str) -> None:
    page.get_by_role("dialog").get_by_role("button", name=yes, exact=True).click()


def report(service: Service, decisions: int) -> None:
    """Rewards for decisions made now, in the weights when this returns."""
    body = {"messages": [f"What is {number}?" for number in range(decisions)], "k": 2, "durable": True}
    rewards = [
        {"decision_id": one["decision_id"], "uids": one["uids"], "rewards": [0.5, 0.25]}
        for one in service.post("/v1/select", body)["selections"]
    ]
    service.post("/v1/rewards", {"rewards": rewards, "wait": "applied"})


def held(service: Service) -> list[int]:
    return [event["seq"] for event in service.http.get("/v1/admin/quarantine").json()["events"]]


def held_by_reason(service: Service) -> dict[str, int]:
    return {reason: events for reason, events in service.state()["learner"]["quarantine"].items() if events}


def test_an_operator_lets_a_shadow_serve_and_puts_the_rule_back(page: Page, service: Service) -> None:
    def serving() -> str:
        return next(label for label, rule in service.state()["learner"]["rules"].items() if rule["serves"])

    status = page.locator("#operate-status")
    assert serving() == "pooled_ridge"
    page.get_by_role("button", name="Promote adagrad").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    assert serving() == "pooled_ridge"
    page.get_by_role("button", name="Promote adagrad").click()
    confirm(page, "Promote adagrad")
    expect(status).to_contain_text("adagrad serves from version")
    assert serving() == "adagrad"
    expect(page.locator("#rules tbody tr").filter(has_text="serves")).to_contain_text("adagrad")
    # The button is gone, since that rule serves; whoever pressed it by keyboard goes on at what was said.
    expect(page.get_by_role("button", name="Promote adagrad")).to_have_count(0)
    expect(status).to_be_focused()
    page.get_by_role("button", name="Promote pooled_ridge").click()
    confirm(page, "Promote pooled_ridge")
    expect(status).to_contain_text("pooled_ridge serves from version")
    assert serving() == "pooled_ridge"


def test_an_operator_settles_the_quarantine_by_mouse_and_by_keyboard(page: Page, service: Service) -> None:
    status, quarantine = page.locator("#operate-status"), page.get_by_role("region", name="Events that are held")
    saved = service.post("/v1/admin/checkpoint", {})
    report(service, 5)
    before = service.state()["learner"]["counters"]
    page.get_by_role("button", name="Hide operator actions").click()
    page.get_by_role("button", name="Show operator actions").click()
    page.get_by_role("button", name=f"Roll back to checkpoint {saved['name']}").click()
    confirm(page, "Roll back")
    expect(status).to_contain_text("5 events are held")
    expect(quarantine.locator("tbody tr")).to_have_count(5)
    first, second, third, *rest = seqs = held(service)
    # By keyboard: Escape says no and gives the focus back, Tab and Enter say yes.
    readmit = page.get_by_role("button", name=f"Readmit event {count(first)}", exact=True)
    readmit.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_contain_text(f"Learn event {count(first)} after all")
    page.keyboard.press("Escape")
    expect(readmit).to_be_focused()
    assert held(service) == seqs
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(status).to_contain_text("4 events are still held")
    expect(status).to_be_focused()
    assert held(service) == [second, third, *rest]
    page.get_by_role("button", name=f"Drop event {count(second)}", exact=True).click()
    confirm(page, "Drop")
    expect(status).to_contain_text("3 events are still held")
    assert held(service) == [third, *rest]
    # Settled by somebody else meanwhile: said, and the list is as it is now.
    service.post("/v1/admin/quarantine", {"action": "drop", "seqs": [third]})
    page.get_by_role("button", name=f"Readmit event {count(third)}", exact=True).click()
    confirm(page, "Readmit")
    expect(status).to_contain_text("unknown_event")
    expect(quarantine.locator("tbody tr")).to_have_count(2)
    page.get_by_role("button", name="Readmit all").click()
    confirm(page, "Readmit all")
    expect(status).to_contain_text("0 events are still held")
    expect(page.locator("#operate-panel")).to_contain_text("Nothing is held.")
    assert held_by_reason(service) == {}
    assert service.state()["learner"]["counters"]["rewards_accepted"] == before["rewards_accepted"]


def test_an_operator_distrusts_an_author_and_lets_it_be_believed_again(page: Page, service: Service) -> None:
    def standing() -> str:
        [author] = service.http.get("/v1/admin/authors").json()["authors"]
        return str(author["standing"])

    def set_to(value: str) -> None:
        page.get_by_label("Standing of anonymous", exact=True).select_option(value)
        page.get_by_role("button", name="Set the standing of anonymous").click()

    status = page.locator("#operate-status")
    set_to("distrusted")
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    assert standing() == "auto"
    set_to("distrusted")
    confirm(page, "Set")
    expect(status).to_contain_text("anonymous is distrusted from event")
    assert standing() == "distrusted"
    report(service, 1)
    assert held_by_reason(service) == {"author": 1}
    expect(page.locator("#conditions")).to_contain_text("Quarantine is not empty")
    set_to("auto")
    confirm(page, "Set")
    expect(status).to_contain_text("anonymous is left to reward trust from event")
    assert standing() == "auto"
    report(service, 1)
    [event] = held(service)
    page.get_by_role("button", name=f"Readmit event {count(event)}", exact=True).click()
    confirm(page, "Readmit")
    expect(status).to_contain_text("0 events are still held")
    assert held_by_reason(service) == {}


def test_a_resync_marks_the_uid_that_changed_hands(page: Page, service: Service) -> None:
    roster = Path(service.arguments()["chain"]["roster"])
    write_roster(roster, [*NAMES[:5], "newcomer", *NAMES[6:]])
    page.get_by_role("button", name="Resync now").click()
    page.get_by_role("dialog").get_by_role("button", name="Resync").click()
    expect(page.locator("#operate-status")).to_contain_text("12 uids, 1 reset")
    page.get_by_label("Search").fill("newcomer")
    expect(page.locator("#uid-table tbody tr td").last).to_have_text("1")
    page.get_by_label("Search").fill("")
    expect(page.locator("#strip-readout")).to_contain_text("1 reset")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [LAPTOP, PHONE], ids=["laptop", "phone"])
def test_axe_finds_nothing_serious(page: Page, scheme: Any, viewport: Any) -> None:
    # Everything that can be shown is open by now: the answer, the decision, the operator's lists.
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size(viewport)
    assert accessibility_faults(page) == []
    too_wide = page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
    assert not too_wide
    page.emulate_media(color_scheme="light")
    page.set_viewport_size(LAPTOP)


def test_a_learner_that_dies_is_seen_on_the_page_and_so_is_the_next(page: Page, service: Service) -> None:
    kill(service.learner_pid())
    expect(page.locator("#conditions")).to_contain_text("The learner is away")
    expect(page.locator("#pill-text")).to_have_text("Degraded")
    # Scoring goes on.
    page.get_by_label("Prompt").fill("Who answers while the learner is away?")
    page.get_by_role("button", name="Whom to ask?").click()
    expect(page.locator("#pill-text")).to_have_text("Live", timeout=60_000)
    assert service.state()["learner"]["status"] == "running"


def test_nothing_has_gone_wrong_in_the_page(faults: list[str]) -> None:
    # What the service refused on purpose, the browser notes too.
    unexpected = [text for text in faults if "404" not in text and "503" not in text]
    assert unexpected == []


# The last one: it ends the service.
def test_a_service_that_has_ended_is_called_unreachable(page: Page, service: Service) -> None:
    service.stop()
    expect(page.locator("#pill-text")).to_have_text("Unreachable")
    expect(page.locator("#conditions")).to_contain_text("Trying again")
