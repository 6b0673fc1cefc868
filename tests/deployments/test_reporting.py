from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest

from deployments.config import ServingArgs
from deployments.schemas import RewardsRequest
from gating.metagraph import MetagraphView
from learner.config import AdagradConfig
from learner.events import RewardEvent

from .local_service import LocalService, N, embed_text, until
from .test_http_io import check_problem

Start = Callable[..., Awaitable[LocalService]]


def of(selection: dict[str, Any], *rewards: float) -> dict[str, Any]:
    return {
        "decision_id": selection["decision_id"],
        "uids": selection["uids"][: len(rewards)],
        "rewards": list(rewards),
    }


async def test_a_reward_for_a_decision_just_made_is_learned(start: Start) -> None:
    service = await start(rule=AdagradConfig())
    [chosen] = await service.select(["why?"], k=2)
    before = service.snapshot_scores(["why?"])[0]
    account = await service.reward(of(chosen, 1.0, 0.0))
    assert (account["accepted"], account["duplicates"], account["rejected"]) == (2, 0, [])
    assert (account["version"], account["weights"], account["reached"]) == (1, {"epoch": 1, "version": 1}, True)
    after = service.snapshot_scores(["why?"])[0]
    better, worse = chosen["uids"]
    assert after[better] - before[better] > 0 > after[worse] - before[worse]
    untouched = [uid for uid in range(N) if uid not in chosen["uids"]]
    np.testing.assert_array_equal(after[untouched], before[untouched])


async def test_a_reward_for_a_message_is_learned_with_that_messages_embedding(service: LocalService) -> None:
    before = service.snapshot_scores(["why?"])[0]
    items = [
        {"reward_id": "a", "message": "why?", "uids": [0, 1], "rewards": [1.0, 0.0]},
        {"reward_id": "b", "message": "another message", "uids": [4, 5], "rewards": [1.0, 0.0]},
    ]
    assert (await service.reward(*items))["accepted"] == 4
    after = service.snapshot_scores(["why?"])[0]
    assert after[0] - after[1] > before[0] - before[1]
    [events] = service.learner.core.log.batches(0)
    assert [event.reward_id for event in events if isinstance(event, RewardEvent)] == ["a", "b"]


async def test_messages_and_decisions_mix_in_one_report_without_being_mixed_up(service: LocalService) -> None:
    [chosen] = await service.select(["why?"], k=1)
    items = [
        {"reward_id": "a", "message": "first", "uids": [0], "rewards": [0.1]},
        of(chosen, 0.2),
        {"reward_id": "b", "message": "second", "uids": [0], "rewards": [0.3]},
    ]
    assert (await service.reward(*items))["accepted"] == 3
    [events] = service.learner.core.log.batches(0)
    for event, message in zip(events, ("first", "why?", "second"), strict=True):
        np.testing.assert_array_equal(event.embedding, embed_text(message).astype(np.float16))  # type: ignore[union-attr]


async def test_the_first_report_of_a_reward_stands(service: LocalService) -> None:
    [chosen] = await service.select(["why?"], k=2)
    own = {"reward_id": "mine", "message": "why?", "uids": [3], "rewards": [0.5]}
    assert (await service.reward(of(chosen, 0.5), own))["accepted"] == 2
    again = await service.reward(of(chosen, 0.9, 0.8), own)
    assert (again["accepted"], again["duplicates"], again["rejected"]) == (1, 2, [])
    explained = (await service.http.get(f"/v1/decisions/{chosen['decision_id']}")).json()
    assert explained["rewards"] == {str(chosen["uids"][0]): 0.5, str(chosen["uids"][1]): 0.8}


async def test_what_cannot_be_learned_is_rejected_item_by_item_and_the_rest_is_taken(service: LocalService) -> None:
    first, second, third = await service.select(["one", "two", "three"], k=2, uids=[0, 1])
    account = await service.reward(
        of(first, 1.0, 0.5),
        {"decision_id": "nobody-1", "uids": [1], "rewards": [0.5]},
        {**of(second, 0.5, 0.5), "uids": [0, 7]},
        of(third, 0.5, 1.5),
        {"decision_id": "no such form", "uids": [1], "rewards": [0.5]},
    )
    assert account["accepted"] == 2
    assert [(r["index"], r["code"], r.get("uid")) for r in account["rejected"]] == [
        (1, "unknown_decision", None),
        (2, "uid_not_in_decision", None),
        (3, "out_of_range", None),
        (4, "unknown_decision", None),
    ]
    assert all(r["detail"] for r in account["rejected"])
    assert all("uid" not in r for r in account["rejected"])
    later = await service.reward(of(second, 0.5, 0.5), of(third, 0.5, 0.5))
    assert (later["accepted"], later["duplicates"]) == (4, 0)


async def test_a_reward_for_an_owner_who_has_left_is_rejected_for_that_uid_alone(service: LocalService) -> None:
    [chosen] = await service.select(["why?"], k=2, uids=[0, 1])
    hotkeys = [f"hotkey-{uid}" for uid in range(N)]
    service.learner.network = MetagraphView.from_hotkeys(["newcomer", *hotkeys[1:]], block=101)
    await service.decisions.flush()
    await service.http.post("/v1/admin/resync")
    account = await service.reward(of(chosen, 0.5, 0.5))
    assert account["accepted"] == 1
    assert [(r["index"], r["uid"], r["code"]) for r in account["rejected"]] == [(0, 0, "stale_hotkey")]


async def test_a_reward_after_the_window_is_logged_and_not_learned(service: LocalService) -> None:
    [chosen] = await service.select(["why?"], k=1)
    await service.decisions.flush()
    service.learner.now_s += service.learner.core.config.reward_window_s + 1
    before = service.snapshot_scores(["why?"])
    account = await service.reward(of(chosen, 1.0))
    assert (account["accepted"], [r["code"] for r in account["rejected"]]) == (0, ["late"])
    assert service.learner.core.log.last_seq == 1
    np.testing.assert_array_equal(service.snapshot_scores(["why?"]), before)


async def test_a_decision_on_its_way_from_a_live_replica_is_a_503_to_be_tried_again(service: LocalService) -> None:
    [chosen] = await service.select(["why?"], k=1)
    before = service.everything()
    coming = {"decision_id": f"{service.decisions.incarnation}-99", "uids": [1], "rewards": [0.5]}
    response = await service.post("/v1/rewards", {"rewards": [of(chosen, 0.5), coming]})
    check_problem(response, 503, "decision_pending")
    assert int(response.headers["retry-after"]) >= 1
    after = service.everything()
    assert after["learner"]["events_logged"] == before["learner"]["events_logged"] == 0
    assert (await service.reward(of(chosen, 0.5)))["accepted"] == 1


async def test_nothing_is_acknowledged_while_the_learner_is_away(service: LocalService) -> None:
    [chosen] = await service.select(["why?"], k=1)
    service.learner.away = True
    response = await service.post("/v1/rewards", {"rewards": [of(chosen, 0.5)]})
    check_problem(response, 503, "learner_away")
    assert int(response.headers["retry-after"]) >= 1
    assert len(service.decisions) == 1
    service.learner.away = False
    assert (await service.reward(of(chosen, 0.5)))["accepted"] == 1


async def test_a_report_whose_answer_was_lost_can_be_sent_again(service: LocalService) -> None:
    [chosen] = await service.select(["why?"], k=1)
    await service.decisions.flush()
    service.learner.loses_answers = True
    check_problem(await service.post("/v1/rewards", {"rewards": [of(chosen, 0.5)]}), 503, "learner_away")
    service.learner.loses_answers = False
    account = await service.reward(of(chosen, 0.5))
    assert (account["accepted"], account["duplicates"]) == (0, 1)
    assert service.learner.core.log.last_seq == 1


async def test_published_means_that_this_replica_has_it(service: LocalService) -> None:
    own = {"reward_id": "mine", "message": "why?", "uids": [3], "rewards": [0.5]}
    call = asyncio.create_task(service.reward(own, wait="published"))
    await until(lambda: service.learner.core.version == 1)
    assert not call.done()
    await service.subscriber.poll_once()
    assert (await call)["reached"] is True


@pytest.mark.parametrize("wait", ["applied", "published"])
async def test_a_wait_that_takes_too_long_ends_with_the_reward_logged(start: Start, wait: str) -> None:
    service = await start(serving=ServingArgs(wait_timeout_s=0.01))
    service.learner.learns_at_once = False
    own = {"reward_id": "mine", "message": "why?", "uids": [3], "rewards": [0.5]}
    account = await service.reward(own, wait=wait)
    assert (account["accepted"], account["version"], account["reached"]) == (1, 1, False)
    assert account["weights"] == {"epoch": 1, "version": 0}


async def test_both_waits_for_published_share_one_time_limit(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    service = await start(serving=ServingArgs(wait_timeout_s=5.0))
    loop = asyncio.get_running_loop()
    add_rewards = service.learner.add_rewards

    async def slow(*args: Any) -> Any:
        reply = await add_rewards(*args)
        later_s = loop.time() + 4.0
        monkeypatch.setattr(loop, "time", lambda: later_s)
        return reply

    given_s: list[float] = []

    async def wait_for_version(version: int, timeout_s: float) -> bool:
        given_s.append(timeout_s)
        return False

    monkeypatch.setattr(service.learner, "add_rewards", slow)
    monkeypatch.setattr(service.subscriber, "wait_for_version", wait_for_version)
    own = {"reward_id": "mine", "message": "why?", "uids": [3], "rewards": [0.5]}
    request = RewardsRequest.model_validate({"rewards": [own], "wait": "published"})
    account = await service.gate.reporter.report(request, author="me")
    assert account["reached"] is False
    assert given_s[0] <= 1.0


async def test_a_report_hands_over_every_decision_first(service: LocalService) -> None:
    chosen = await service.select([f"message {number}" for number in range(200)], k=1)
    chosen += await service.select([f"message {number}" for number in range(200, 400)], k=1)
    account = await service.reward(*(of(selection, 0.5) for selection in chosen))
    assert (account["accepted"], account["rejected"]) == (400, [])
    assert [len(batch.decisions) for batch in service.learner.batches] == [256, 144]


async def test_a_learner_that_has_too_much_to_learn_is_a_429_to_be_tried_again(
    service: LocalService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("learner.ingest._MOST_WAITING", -1)
    body = {"rewards": [{"reward_id": "a", "message": "why?", "uids": [0], "rewards": [0.5]}]}
    response = await service.post("/v1/rewards", body)
    check_problem(response, 429, "overloaded")
    assert int(response.headers["retry-after"]) >= 1
