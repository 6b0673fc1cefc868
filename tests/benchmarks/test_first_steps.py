from __future__ import annotations

import json

from benchmarks.first_steps import readme_calls, table, with_own_decision
from benchmarks.hardware import RESULTS
from tests.docs.blocks import ROOT

SELECTION = {"decision_id": "mine-1", "uids": [7, 3, 5]}


def test_the_readme_s_reward_is_reported_on_the_decision_that_was_made() -> None:
    _, rewards, _ = readme_calls((ROOT / "README.md").read_text(encoding="utf-8"))
    own = with_own_decision(rewards, SELECTION)
    body = json.loads(own[own.index("-d '") + 4 : own.rindex("'")])
    assert body == {"rewards": [{**SELECTION, "rewards": [1, 0, 0.5]}], "wait": "published"}
    assert own.startswith("curl -s http://127.0.0.1:8000/v1/rewards")


def test_the_page_shows_what_was_measured() -> None:
    result = json.loads((RESULTS / "first_steps.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert table(result) in page
    assert f"{result['memory_mib']:,} MiB" in page
    assert f"load {result['load_average']:g}" in page
