"""The pages that are made from code hold what the code has."""

from __future__ import annotations

from docs.generate.cli_page import cli_page
from docs.generate.configuration_page import configuration_page
from docs.generate.http_page import http_page


def row(page: str, section: str, key: str) -> str:
    part = page.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return next(line for line in part.splitlines() if line.startswith(f"| `{key}` |"))


def test_a_setting_has_its_values_its_default_and_its_meaning() -> None:
    page = configuration_page()
    assert "number, ≥ 0, ≤ 1 | `0.05` | `tail_exploration`: how often" in row(page, "args.selection", "epsilon")
    assert '`auto` `fp32` `bf16` `fp16` | `"auto"`' in row(page, "args.encoder", "dtype")


def test_settings_of_which_one_kind_is_chosen_have_a_section_each() -> None:
    page = configuration_page()
    for section in ("args.auth (mode: hotkey)", "args.chain (source: bittensor)", "args.learner.rule (name: adagrad)"):
        assert f"\n## {section}\n" in page
    assert "| required |" in row(page, "args.auth (mode: hotkey)", "receiver_hotkey")


def test_every_section_of_the_arguments_is_there() -> None:
    page = configuration_page()
    for name in ("encoder", "chain", "learner", "selection", "serving", "auth", "replica"):
        assert row(page, "args", name)


def test_a_call_has_its_body_and_its_errors() -> None:
    page = http_page()
    assert "## POST /v1/select" in page
    assert "| `k` | integer (≥ 1); optional, 4 | how many uids to choose for each message |" in page
    assert "| 429 |" in page.split("## POST /v1/select")[1].split("\n## ")[0]
    assert "Each of `rewards`:" in page.split("## POST /v1/rewards")[1].split("\n## ")[0]


def test_a_command_has_its_options() -> None:
    part = cli_page().split("## tidegate evaluate")[1].split("\n## ")[0]
    assert "--policy" in part
