from __future__ import annotations

import io

from rich.console import Console

from deployments.demo import run_demo
from deployments.demo_tally import DemoResult
from deployments.demo_view import PLAIN_EVERY_S, closing_table

from .fake_gate import FakeGate, build_table, printed, quiet


def test_without_a_terminal_a_line_comes_only_every_few_seconds() -> None:
    gate, console = FakeGate(), quiet()
    run_demo(gate.client(), build_table(), batch=1, console=console, clock=gate.clock)
    lines = [line for line in printed(console).splitlines() if "/40 prompts" in line]
    # The fake's clock moves a second a request, so two a prompt.
    assert 80 / (PLAIN_EVERY_S + 2) - 1 <= len(lines) <= 80 / PLAIN_EVERY_S
    assert "\x1b" not in printed(console)


def test_the_moving_reward_shown_is_the_observed_one() -> None:
    gate, console = FakeGate(), quiet()
    run_demo(gate.client(), build_table(520), k=1, batch=1, console=console, clock=gate.clock)
    last = [line for line in printed(console).splitlines() if "/520 prompts" in line][-1]
    done = int(last.split("/")[0])
    window = gate.first_choice_rewards()[:done][-500:]
    assert f"reward (last 500) {sum(window) / 500:.4f}" in last
    assert window != gate.first_choice_rewards()[:done]


def test_on_a_terminal_the_moving_reward_is_drawn_against_its_bounds() -> None:
    gate = FakeGate()
    console = Console(file=io.StringIO(), width=120, force_terminal=True, force_interactive=True)
    run_demo(gate.client(), build_table(), batch=1, console=console, clock=gate.clock)
    for part in ("moving reward (last ", "random", "best fixed (large)", "oracle", "prompts/s", "20/40", "40/40"):
        assert part in printed(console)


def test_the_closing_table_shows_each_mean_and_its_distance_from_random() -> None:
    result = DemoResult(
        prompts=40,
        models=("small", "large"),
        k=2,
        seed=0,
        first_choice_mean=0.75,
        last_third_mean=0.8,
        all_choices_mean=None,
        random_mean=0.5,
        best_fixed_mean=0.625,
        best_fixed_model="[large]",
        oracle_mean=1.0,
        prompts_per_s=12.34,
        select_p50_ms=1.25,
        select_p99_ms=None,
        accepted=70,
        duplicates=3,
        rejected=7,
        rejected_codes={"late": 5, "stale_hotkey": 2},
        version=11,
        stopped=None,
    )
    console = quiet()
    console.print(closing_table(result))
    output = printed(console)

    def row(name: str) -> list[str]:
        [line] = [line for line in output.splitlines() if line.startswith(f"│ {name} ")]
        return line.replace("│", " ").split(name)[1].split()

    assert row("first choice") == ["0.7500", "+0.2500"]
    assert row("first choice, last third") == ["0.8000", "+0.3000"]
    assert row("all chosen") == ["-", "-"]
    assert row("random") == ["0.5000", "+0.0000"]
    assert row("best fixed ([large])") == ["0.6250", "+0.1250"]
    assert row("oracle") == ["1.0000", "+0.5000"]
    assert "12.3 prompts/s, select p50 1.2 ms, p99 - ms, version 11" in output
    assert "70 accepted, 3 duplicates, 7 rejected, 5 late, 2 stale_hotkey" in output
