from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.client import GateClient
from deployments.demo import DemoError, demo, run_demo
from deployments.demo_data import RewardTable
from deployments.demo_tally import DemoResult
from deployments.exit_codes import FAILED, INTERRUPTED, UNREACHABLE, USAGE

from .fake_gate import FakeGate, build_table, printed, quiet


def write_table(folder: Path, table: RewardTable) -> Path:
    rows = [
        {"question": prompt, "scores": dict(zip(table.models, rewards, strict=True))}
        for prompt, rewards in zip(table.prompts, table.rewards, strict=True)
    ]
    path = folder / "table.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def test_every_prompt_is_rewarded_once_with_what_the_chosen_models_earn_on_it() -> None:
    gate, table = FakeGate(), build_table()
    run_demo(gate.client(), table, k=2, batch=7, console=quiet())
    assert sorted(message for message, _ in gate.decisions.values()) == sorted(table.prompts)
    assert gate.batches == [7, 7, 7, 7, 7, 5]
    expected = {
        (decision_id, uid): table.rewards[table.prompts.index(message)][uid]
        for decision_id, (message, uids) in gate.decisions.items()
        for uid in uids
    }
    assert gate.rewards == expected


def test_the_result_is_what_the_gate_has_observed() -> None:
    gate, table = FakeGate(), build_table()
    result = run_demo(gate.client(), table, k=2, batch=4, console=quiet())
    firsts = gate.first_choice_rewards()
    assert result.first_choice_mean == pytest.approx(sum(firsts) / 40)
    assert result.last_third_mean == pytest.approx(sum(firsts[-13:]) / 13)
    assert result.all_choices_mean == pytest.approx(sum(gate.rewards.values()) / 80)
    bounds = (result.random_mean, result.best_fixed_mean, result.oracle_mean)
    assert bounds == pytest.approx((table.random_mean, table.best_fixed_mean, table.oracle_mean))
    assert result.best_fixed_model == "large"
    assert (result.prompts, result.accepted, result.duplicates, result.rejected) == (40, 80, 0, 0)
    assert result.version == 80
    assert (result.stopped, result.exit_code) == (None, 0)


def test_the_order_follows_the_seed() -> None:
    def order(seed: int) -> list[str]:
        gate = FakeGate()
        run_demo(gate.client(), build_table(), seed=seed, console=quiet())
        return [message for message, _ in gate.decisions.values()]

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert order(1) != list(build_table().prompts)


def test_the_baselines_are_over_the_prompts_that_were_streamed() -> None:
    gate, table = FakeGate(), build_table()
    result = run_demo(gate.client(), table, limit=10, console=quiet())
    rows = [table.rewards[table.prompts.index(message)] for message, _ in gate.decisions.values()]
    assert len(rows) == 10
    assert result.oracle_mean == pytest.approx(sum(max(row) for row in rows) / 10)
    assert result.random_mean == pytest.approx(sum(sum(row) / 3 for row in rows) / 10)


def interrupt(path: str, number: int) -> httpx.Response | None:
    if number == 8:
        raise KeyboardInterrupt
    return None


def test_ctrl_c_closes_with_the_account_of_what_was_done() -> None:
    gate, console = FakeGate(fault=interrupt), quiet()
    result = run_demo(gate.client(), build_table(), batch=4, console=console)
    # Request 1 asks for the state, 2 to 7 are three selects with their rewards, 8 is a select without.
    assert (result.prompts, result.accepted) == (12, 36)
    assert (result.stopped, result.exit_code) == ("interrupted", INTERRUPTED)
    done = [build_table().prompts.index(message) for message, _ in list(gate.decisions.values())[:12]]
    assert result.oracle_mean == pytest.approx(build_table().take(done).oracle_mean)
    assert "12 prompts, 3 models" in printed(console)
    assert "stopped early: interrupted" in printed(console)


def test_ctrl_c_before_the_first_answer_still_closes() -> None:
    def at_once(path: str, number: int) -> httpx.Response | None:
        if path == "/v1/select":
            raise KeyboardInterrupt
        return None

    result = run_demo(FakeGate(fault=at_once).client(), build_table(), console=(console := quiet()))
    assert (result.prompts, result.first_choice_mean, result.oracle_mean, result.version) == (0, None, None, None)
    assert "0 prompts" in printed(console)


def test_a_failure_on_the_way_closes_with_the_account_and_its_reason() -> None:
    def dies(path: str, number: int) -> httpx.Response | None:
        if number >= 6:
            raise httpx.ConnectError("connection refused")
        return None

    console = quiet()
    result = run_demo(FakeGate(fault=dies).client(), build_table(), batch=4, console=console)
    assert (result.prompts, result.exit_code) == (8, FAILED)
    assert "stopped early: no answer from http://gate: connection refused" in printed(console)


def test_a_report_whose_answer_was_lost_is_sent_again_and_counts_as_duplicate() -> None:
    def lost(path: str, number: int) -> httpx.Response | None:
        return httpx.Response(500, text="proxy") if number == 3 else None

    gate = FakeGate(fault=lost)
    result = run_demo(gate.client(), build_table(), batch=4, console=quiet())
    assert (result.accepted, result.duplicates) == (120 - 12, 12)
    assert result.first_choice_mean == pytest.approx(sum(gate.first_choice_rewards()) / 40)


@given(
    lost=st.sets(st.integers(0, 19)), batch=st.integers(1, 8), k=st.integers(1, 4), faults=st.sets(st.integers(2, 12))
)
def test_every_reward_sent_is_accepted_a_duplicate_or_rejected(
    lost: set[int], batch: int, k: int, faults: set[int]
) -> None:
    gate = FakeGate(fault=lambda path, number: httpx.Response(502) if number in faults and path[-1] == "s" else None)
    gate.lost = {f"d-{number}" for number in lost}
    console = quiet()
    result = run_demo(gate.client(), build_table(20), k=k, batch=batch, console=console)
    if result.stopped is None:
        assert result.accepted + result.duplicates + result.rejected == 20 * min(k, 3)
        assert result.rejected_codes == ({"unknown_decision": len(lost) * min(k, 3)} if lost else {})
        assert f"{result.rejected} rejected" in printed(console)


def test_fewer_uids_than_models_is_a_clear_error() -> None:
    with pytest.raises(DemoError, match="3 models, the service only 2 uids"):
        run_demo(FakeGate(n_uids=2).client(), build_table(), console=quiet())


def test_models_whose_uids_are_unavailable_are_named() -> None:
    gate = FakeGate()
    gate.unavailable = {0, 1, 2}
    result = run_demo(gate.client(), build_table(), console=quiet())
    assert "none of the uids 0 to 2" in str(result.stopped)
    gate.unavailable = {0, 1}
    assert run_demo(gate.client(), build_table(), console=quiet()).exit_code == 0


@pytest.mark.parametrize("wrong", [{"k": 0}, {"batch": 0}, {"batch": 257}, {"limit": 0}])
def test_a_number_out_of_range_is_refused_before_anything_is_sent(wrong: dict[str, Any]) -> None:
    gate = FakeGate()
    with pytest.raises(ValueError, match="must be 1 or more"):
        run_demo(gate.client(), build_table(), console=quiet(), **wrong)
    assert gate.now_s == 0


def test_the_latencies_are_those_of_select() -> None:
    gate = FakeGate()
    result = run_demo(gate.client(), build_table(), batch=4, console=quiet(), clock=gate.clock)
    assert (result.select_p50_ms, result.select_p99_ms) == (1000.0, 1000.0)
    assert result.prompts_per_s == pytest.approx(40 / 20)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_table(tmp_path, build_table())


def call_demo(data: Path | None, connect: Callable[[str], GateClient], **changed: Any) -> tuple[int, str]:
    arguments: dict[str, Any] = {"k": 2, "limit": None, "seed": 0, "batch": 8, "json_output": False} | changed
    console = quiet()
    code = demo("http://gate", data, **arguments, console=console, connect=connect)
    return code, printed(console)


def test_demo_prints_the_closing_table(data: Path) -> None:
    code, output = call_demo(data, FakeGate().client)
    assert code == 0
    for part in ("40 prompts, 3 models, k = 2", "first choice, last third", "best fixed (large)", "80 accepted"):
        assert part in output


def test_demo_without_a_service_says_how_to_start_one(data: Path) -> None:
    def refuse(path: str, number: int) -> httpx.Response | None:
        raise httpx.ConnectError("connection refused")

    code, output = call_demo(data, FakeGate(fault=refuse).client)
    assert code == UNREACHABLE
    assert "no answer from http://gate: connection refused" in output
    assert "make run" in output


def test_demo_with_bad_input_says_what_is_wrong(tmp_path: Path, data: Path) -> None:
    code, output = call_demo(tmp_path / "missing.json", FakeGate().client)
    assert code == USAGE
    assert "missing.json cannot be read" in output
    code, output = call_demo(data, FakeGate().client, k=0)
    assert (code, "k is 0" in output) == (USAGE, True)
    code, output = call_demo(data, FakeGate(n_uids=1).client)
    assert (code, "only 1 uids" in output) == (FAILED, True)


def test_demo_as_json_keeps_standard_output_for_the_result(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = demo("http://gate", data, 2, 12, 0, 8, True, connect=FakeGate().client)
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert code == 0
    assert set(result) == set(DemoResult.__dataclass_fields__)
    assert (result["prompts"], result["accepted"], result["models"]) == (12, 24, ["small", "large", "odd"])
    assert "12 prompts, 3 models" in captured.err
