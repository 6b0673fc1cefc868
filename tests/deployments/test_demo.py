from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from deployments.client import GateClient
from deployments.demo import BAD_INPUT, FAILED, INTERRUPTED, PLAIN_EVERY_S, DemoError, DemoResult, demo, run_demo
from deployments.demo_data import RewardTable


class FakeGate:
    """A gate in memory: asks whoever has earned most so far, and keeps its own books.

    Args:
        n_uids: how many uids it knows.
        fault: looks at each request's path and number; may answer it, or raise, after the gate has done its work.
    """

    def __init__(self, n_uids: int = 256, fault: Callable[[str, int], httpx.Response | None] | None = None) -> None:
        self.n_uids = n_uids
        self.unavailable: set[int] = set()
        self.lost: set[str] = set()
        self.decisions: dict[str, tuple[str, list[int]]] = {}
        self.rewards: dict[tuple[str, int], float] = {}
        self.batches: list[int] = []
        self.now_s = 0.0
        self._fault = fault
        self._requests = 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self._requests += 1
        self.now_s += 1.0
        routes = {"/v1/state": self._state, "/v1/select": self._select, "/v1/rewards": self._reward}
        path = request.url.path
        body = routes[path](json.loads(request.content) if request.content else {})
        fault = self._fault(path, self._requests) if self._fault else None
        return fault or httpx.Response(200, json=body)

    def client(self, url: str = "http://gate") -> GateClient:
        return GateClient(url, transport=httpx.MockTransport(self), sleep=lambda seconds: None)

    def clock(self) -> float:
        return self.now_s

    def first_choice_rewards(self) -> list[float]:
        return [self.rewards[decision_id, uids[0]] for decision_id, (_, uids) in self.decisions.items()]

    def _state(self, body: Any) -> Any:
        return {"learner": {"status": "running"}, "metagraph": {"n": self.n_uids}, "something_new": 1}

    def _provenance(self) -> dict[str, Any]:
        weights = {"epoch": 1, "version": len(self.rewards), "age_s": 0.1}
        return {"weights": weights, "metagraph": {"netuid": 0, "block": 0, "n": self.n_uids}, "degraded": False}

    def _select(self, body: Any) -> Any:
        earned = [0.0] * self.n_uids
        for (_, uid), reward in self.rewards.items():
            earned[uid] += reward
        candidates = [uid for uid in body["uids"] if uid not in self.unavailable]
        uids = sorted(candidates, key=lambda uid: -earned[uid])[: body["k"]]
        selections = []
        for message in body["messages"]:
            decision_id = f"d-{len(self.decisions)}"
            self.decisions[decision_id] = (message, uids)
            ones = [1.0] * len(uids)
            selections.append({"decision_id": decision_id, "uids": uids, "scores": ones, "propensities": ones})
        self.batches.append(len(selections))
        return {"selections": selections, **self._provenance()}

    def _reward(self, body: Any) -> Any:
        accepted, duplicates, rejected = 0, 0, []
        assert body["wait"] == "logged"
        for index, item in enumerate(body["rewards"]):
            if item["decision_id"] in self.lost:
                rejected.append({"index": index, "code": "unknown_decision", "detail": "there is no such decision"})
                continue
            for uid, reward in zip(item["uids"], item["rewards"], strict=True):
                if (item["decision_id"], uid) in self.rewards:
                    duplicates += 1
                else:
                    accepted += 1
                    self.rewards[item["decision_id"], uid] = reward
        weights = self._provenance()["weights"]
        account = {"accepted": accepted, "duplicates": duplicates, "rejected": rejected}
        return {**account, "weights": weights, "version": weights["version"], "reached": True}


def build_table(n_prompts: int = 40) -> RewardTable:
    """Model 1 is best on most prompts, model 2 on every fourth; every prompt has its own rewards."""
    rows = []
    for row in range(n_prompts):
        own = row / n_prompts / 10
        rows.append((0.1 + own, 0.7 + own, 0.9 if row % 4 == 0 else 0.2 + own))
    return RewardTable([f"prompt {row}" for row in range(n_prompts)], ("small", "large", "odd"), rows)


def quiet() -> Console:
    return Console(file=io.StringIO(), width=120)


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


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
    assert code == FAILED
    assert "no answer from http://gate: connection refused" in output
    assert "make run" in output


def test_demo_with_bad_input_says_what_is_wrong(tmp_path: Path, data: Path) -> None:
    code, output = call_demo(tmp_path / "missing.json", FakeGate().client)
    assert code == BAD_INPUT
    assert "missing.json cannot be read" in output
    code, output = call_demo(data, FakeGate().client, k=0)
    assert (code, "k is 0" in output) == (BAD_INPUT, True)
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
