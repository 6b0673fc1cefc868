from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace

import httpx
import numpy as np
import pytest

from deployments.config import SelectionArgs, ServingArgs
from deployments.errors import LearnerAway
from gating.metagraph import MetagraphView
from gating.policies import Softmax
from learner.config import AdagradConfig
from learner.events import candidates_digest
from learner.protocol import DecisionBatch

from .local_service import UNAVAILABLE, LocalService, N, embed_text, until
from .test_http_io import check_problem

Start = Callable[..., Awaitable[LocalService]]

MESSAGES = ["why?", "how does a tide gate work?", "write a haiku about the river", "2 + 2"]


async def test_scores_are_those_of_the_published_weights_for_every_uid_in_order(service: LocalService) -> None:
    answer = (await service.post("/v1/score", {"messages": MESSAGES})).json()
    assert [item["uids"] for item in answer["scores"]] == [list(range(N))] * len(MESSAGES)
    scores = np.array([item["scores"] for item in answer["scores"]])
    np.testing.assert_allclose(scores, service.snapshot_scores(MESSAGES), rtol=1e-5, atol=1e-5)
    assert answer["weights"] == {"epoch": 1, "version": 0, "age_s": 0.0}
    assert answer["metagraph"] == {"netuid": 7, "block": 100, "n": N}
    assert answer["degraded"] is False


async def test_named_uids_are_scored_in_the_order_of_the_request(service: LocalService) -> None:
    snapshot = service.learner.core.snapshot()
    service.learner.publish(replace(snapshot, version=1, bias=np.arange(N, dtype=np.float32)))
    await service.subscriber.poll_once()
    answer = (await service.post("/v1/score", {"messages": MESSAGES, "uids": [7, 0, UNAVAILABLE]})).json()
    expected = service.snapshot_scores(MESSAGES)[:, [7, 0, UNAVAILABLE]]
    for item, row in zip(answer["scores"], expected, strict=True):
        assert item["uids"] == [7, 0, UNAVAILABLE]
        assert item["scores"] == pytest.approx(row, rel=1e-4)


@pytest.mark.parametrize(("top_k", "uids"), [(3, None), (1, None), (99, None), (10**30, None), (2, [5, 9, 1])])
async def test_top_k_gives_the_best_first(service: LocalService, top_k: int, uids: list[int] | None) -> None:
    body = {"messages": MESSAGES, "top_k": top_k} | ({"uids": uids} if uids else {})
    answer = (await service.post("/v1/score", body)).json()
    for item, row in zip(answer["scores"], service.snapshot_scores(MESSAGES), strict=True):
        best = sorted(uids or range(N), key=lambda uid: -row[uid])[:top_k]
        assert item["uids"] == best
        assert item["scores"] == pytest.approx(row[best], rel=1e-4)


async def test_scoring_has_no_side_effect(service: LocalService) -> None:
    before = service.everything()
    await service.post("/v1/score", {"messages": MESSAGES})
    assert service.everything() == before


async def test_greedy_selection_takes_the_best_available_with_certainty(service: LocalService) -> None:
    rows = service.snapshot_scores(MESSAGES)
    # The best of all is not available, so that skipping it is seen.
    favourite = int(np.argmax(rows[0]))
    view = service.learner.core.view
    available = tuple(uid != favourite for uid in range(N))
    service.learner.network = replace(view, available=available, block=101)
    await service.learner.resync()
    await service.subscriber.poll_once()
    selections = await service.select(MESSAGES, k=3, explore=False)
    for selection, row in zip(selections, rows, strict=True):
        best = sorted((uid for uid in range(N) if uid != favourite), key=lambda uid: -row[uid])[:3]
        assert selection["uids"] == best
        assert selection["scores"] == pytest.approx(row[best], rel=1e-4)
        assert selection["propensities"] == [1.0, 1.0, 1.0]


async def test_every_selection_has_a_decision_of_its_own(service: LocalService) -> None:
    selections = await service.select(MESSAGES * 2)
    ids = [selection["decision_id"] for selection in selections]
    assert len(set(ids)) == len(ids)
    assert all(decision_id.startswith(service.decisions.incarnation) for decision_id in ids)
    await service.decisions.flush()
    decisions = [decision for batch in service.learner.batches for decision in batch.decisions]
    assert [decision.id for decision in decisions] == ids
    for decision, selection, message in zip(decisions, selections, MESSAGES * 2, strict=True):
        assert list(decision.uids) == selection["uids"]
        assert decision.embedding is not None
        np.testing.assert_array_equal(decision.embedding, embed_text(message).astype(np.float16))
        assert decision.time_s == 1_700_000_000.0


@pytest.mark.parametrize(
    ("uids", "k", "expected"), [([4, 8], 5, {4, 8}), ([UNAVAILABLE, 6], 4, {6}), ([UNAVAILABLE], 2, set())]
)
async def test_fewer_available_than_k_gives_those(
    service: LocalService, uids: list[int], k: int, expected: set[int]
) -> None:
    for explore in (True, False):
        [selection] = await service.select(["why?"], uids=uids, k=k, explore=explore)
        assert set(selection["uids"]) == expected
        assert selection["propensities"] == [1.0] * len(expected)


async def test_k_is_4_by_default_and_may_be_larger_than_any_network(service: LocalService) -> None:
    assert len((await service.select(["why?"]))[0]["uids"]) == 4
    assert len((await service.select(["why?"], k=10**30))[0]["uids"]) == N - 1


async def test_the_last_slot_explores_as_often_as_its_propensities_say(start: Start) -> None:
    service = await start(selection=SelectionArgs(epsilon=0.5), batch_tokens=1024)
    selections = [s for _ in range(8) for s in await service.select(["why?"] * 250, k=2)]
    row = service.snapshot_scores(["why?"])[0]
    ranked = sorted((uid for uid in range(N) if uid != UNAVAILABLE), key=lambda uid: -row[uid])
    assert {selection["uids"][0] for selection in selections} == {ranked[0]}
    lasts = Counter(selection["uids"][1] for selection in selections)
    assert set(lasts) == set(ranked[1:])
    propensities = {s["uids"][1]: s["propensities"][1] for s in selections}
    assert sum(propensities.values()) == pytest.approx(1.0)
    for uid, propensity in propensities.items():
        deviation = (propensity * (1 - propensity) / len(selections)) ** 0.5
        assert lasts[uid] / len(selections) == pytest.approx(propensity, abs=5 * deviation)


async def test_one_slot_is_greedy_unless_exploring_with_it_is_asked_for(start: Start) -> None:
    careful = await start(selection=SelectionArgs(epsilon=1.0))
    assert {s["propensities"][0] for s in await careful.select(["why?"] * 50, k=1)} == {1.0}
    curious = await start(selection=SelectionArgs(epsilon=0.0, epsilon_single=1.0))
    assert len({s["uids"][0] for s in await curious.select(["why?"] * 50, k=1)}) > 1
    assert {s["propensities"][1] for s in await curious.select(["why?"] * 50, k=2)} == {1.0}


async def test_the_bonus_counts_only_when_exploring(start: Start) -> None:
    service = await start(rule=AdagradConfig(bonus=1.0), selection=SelectionArgs(epsilon=0.0))
    # Uid 0 is known to be a little better than the guess about the others, which nobody knows.
    items = [{"reward_id": f"r{i}", "message": "why?", "uids": [0], "rewards": [0.55]} for i in range(200)]
    await service.reward(*items)
    await service.subscriber.poll_once()
    bonus = service.learner.published.bonus if service.learner.published else np.zeros(N)
    assert bonus[0] < bonus[1]
    mean = service.snapshot_scores(["why?"])[0]
    assert int(np.argmax(mean)) == 0
    [greedy] = await service.select(["why?"], k=1, explore=False)
    assert (greedy["uids"], greedy["scores"]) == ([0], pytest.approx([mean[0]], rel=1e-4))
    [exploring] = await service.select(["why?"], k=N)
    assert exploring["uids"][-1] == 0
    assert exploring["scores"] == pytest.approx([(mean + bonus)[uid] for uid in exploring["uids"]], rel=1e-4)
    [scored] = (await service.post("/v1/score", {"messages": ["why?"]})).json()["scores"]
    assert scored["scores"] == pytest.approx(mean, rel=1e-4)


async def test_min_version_waits_until_the_weights_are_there(service: LocalService) -> None:
    service.learner.learns_at_once = False
    account = await service.reward({"reward_id": "r", "message": "why?", "uids": [0, 1], "rewards": [1.0, 0.0]})
    wanted = account["version"]
    assert wanted > 0
    calls = [
        asyncio.create_task(service.post(path, {"messages": ["why?"], "min_version": wanted}))
        for path in ("/v1/score", "/v1/select")
    ]
    await until(lambda: service.embeddings.hits == 2)
    stale = await service.post("/v1/score", {"messages": ["why?"]})
    assert stale.json()["weights"]["version"] == 0
    assert not any(call.done() for call in calls)
    service.learner.learn()
    await service.subscriber.poll_once()
    for call in calls:
        assert (await call).json()["weights"]["version"] == wanted


@pytest.mark.parametrize("path", ["/v1/score", "/v1/select"])
async def test_a_version_that_is_waited_for_may_bring_the_uids_that_are_asked_for(
    service: LocalService, path: str
) -> None:
    hotkeys = [f"owner-{uid}" for uid in range(N + 1)]
    service.learner.network = MetagraphView.from_hotkeys(hotkeys, block=2)
    seq = (await service.learner.resync()).seq
    body = {"messages": ["why?"], "uids": [N]}
    check_problem(await service.post(path, body), 422, "unknown_uid")
    check_problem(await service.post(path, {**body, "uids": [N, N], "min_version": seq}), 422, "repeated_uid")
    call = asyncio.create_task(service.post(path, {**body, "min_version": seq}))
    await until(lambda: service.embeddings.misses > 0)
    await service.subscriber.poll_once()
    assert (await call).status_code == 200
    check_problem(await service.post(path, {**body, "uids": [N + 1], "min_version": seq}), 422, "unknown_uid")


@pytest.mark.parametrize("path", ["/v1/score", "/v1/select"])
async def test_a_version_that_does_not_come_in_time_is_a_503_to_be_tried_again(start: Start, path: str) -> None:
    service = await start(serving=ServingArgs(wait_timeout_s=0.01))
    before = service.everything()
    response = await service.post(path, {"messages": ["why?"], "min_version": 10**30})
    document = check_problem(response, 503, "version_pending")
    assert "this replica has 0" in document["detail"]
    assert int(response.headers["retry-after"]) >= 1
    assert service.everything() == before


@pytest.mark.parametrize("path", ["/v1/score", "/v1/select"])
async def test_without_weights_nothing_is_encoded(start: Start, path: str) -> None:
    service = await start(subscribed=False)
    response = await service.post(path, {"messages": ["why?"]})
    check_problem(response, 503, "no_weights")
    assert int(response.headers["retry-after"]) >= 1
    assert service.engine.batches == []


async def test_without_weights_it_is_told_why_there_are_none(start: Start) -> None:
    service = await start(subscribed=False)
    service.learner.away = True
    with pytest.raises(LearnerAway):
        await service.subscriber.poll_once()
    document = check_problem(await service.http.get("/readyz"), 503, "no_weights")
    assert "(switched away)" in document["detail"]
    assert (await service.http.get("/v1/state")).json()["learner"]["reason"] == "switched away"


async def test_an_answer_comes_from_one_version_though_weights_swap_while_it_is_encoded(start: Start) -> None:
    service = await start(batch_tokens=8)
    first = service.learner.published
    assert first is not None
    service.engine.hold()
    score = asyncio.create_task(service.post("/v1/score", {"messages": MESSAGES}))
    others = [f"{message} again" for message in MESSAGES]
    select = asyncio.create_task(service.post("/v1/select", {"messages": others, "k": N, "explore": False}))
    versions = [first]
    for step in range(1, 6):
        # A version for every batch that the engine works on; in each all scores move by a hundred.
        await until(lambda step=step: len(service.engine.batches) >= step)  # type: ignore[misc]
        versions.append(replace(first, version=step, bias=first.bias + 100 * step))
        service.learner.publish(versions[-1])
        await service.subscriber.poll_once()
        service.engine.let_through(1)
    service.engine.let_through()
    for messages, call, items in (MESSAGES, score, "scores"), (others, select, "selections"):
        answer = (await call).json()
        embedding = np.stack([embed_text(message) for message in messages])
        snapshot = versions[answer["weights"]["version"]]
        expected = embedding @ snapshot.weight.T + snapshot.bias
        for item, row in zip(answer[items], expected, strict=True):
            assert item["scores"] == pytest.approx(row[item["uids"]], rel=1e-4)
    assert (await select).json()["weights"]["version"] > 0


async def test_uids_that_the_network_lost_while_the_engine_worked_are_unknown(service: LocalService) -> None:
    service.engine.hold()
    call = asyncio.create_task(service.post("/v1/select", {"messages": ["why?"], "uids": [N - 1]}))
    await until(lambda: len(service.engine.batches) == 1)
    service.learner.network = MetagraphView.from_hotkeys([f"hotkey-{uid}" for uid in range(4)], block=101)
    await service.learner.resync()
    await service.subscriber.poll_once()
    service.engine.let_through()
    check_problem(await call, 422, "unknown_uid")
    assert service.decisions.issued == 0


async def test_overload_is_the_same_429_for_one_message_and_for_many(start: Start) -> None:
    service = await start(serving=ServingArgs(max_queue_tokens=100), batch_tokens=1000)
    service.engine.hold()
    held = asyncio.create_task(service.post("/v1/score", {"messages": ["x" * 40]}))
    await until(lambda: len(service.engine.batches) == 1)
    # Larger than the whole queue, but nothing waits: admitted.
    huge = asyncio.create_task(service.post("/v1/score", {"messages": ["a" * 400, "b" * 400, "c" * 400]}))
    await until(lambda: service.batcher.queued_texts == 3)
    before = service.everything()
    reward = {"reward_id": "mine", "message": "one", "uids": [1], "rewards": [0.5]}
    refused: list[httpx.Response] = [
        await service.post("/v1/score", {"messages": ["one"]}),
        await service.post("/v1/score", {"messages": [f"many {i}" for i in range(256)]}),
        await service.post("/v1/select", {"messages": ["one"]}),
        await service.post("/v1/rewards", {"rewards": [reward]}),
    ]
    for response in refused:
        check_problem(response, 429, "overloaded")
        assert response.headers["retry-after"] == refused[0].headers["retry-after"] == "1"
    assert service.everything() == before
    service.engine.let_through()
    assert (await held).status_code == (await huge).status_code == 200
    assert (await service.post("/v1/score", {"messages": ["one"]})).status_code == 200


async def test_overload_tells_when_a_request_would_be_let_in(start: Start) -> None:
    service = await start(serving=ServingArgs(max_queue_delay_ms=1000.0), batch_tokens=1000)
    service.engine.hold()
    held = asyncio.create_task(service.post("/v1/score", {"messages": ["x"]}))
    await until(lambda: len(service.engine.batches) == 1)
    service.batcher.speed.tokens_per_s = 10.0
    waiting = asyncio.create_task(service.post("/v1/score", {"messages": ["y" * 40 * 4]}))
    await until(lambda: service.batcher.queued_texts == 1)
    # 42 tokens wait, and 2 are in work: 4.4 s, of which 1 s is allowed.
    for messages in (["one"], [f"many {number}" for number in range(256)]):
        response = await service.post("/v1/score", {"messages": messages})
        detail = check_problem(response, 429, "overloaded")["detail"]
        assert re.search(r"4\.[2-4] s of work with what it does now; 1 s are allowed", detail)
        assert response.headers["retry-after"] == "4"
    service.engine.let_through()
    assert (await held).status_code == (await waiting).status_code == 200


async def test_a_message_seen_before_is_answered_though_the_engine_is_overloaded(start: Start) -> None:
    service = await start(serving=ServingArgs(max_queue_tokens=1))
    first = (await service.post("/v1/score", {"messages": MESSAGES})).json()["scores"]
    service.engine.hold()
    held = asyncio.create_task(service.post("/v1/score", {"messages": ["held"]}))
    await until(lambda: service.engine.batches[-1] == ["held"])
    waiting = asyncio.create_task(service.post("/v1/score", {"messages": ["waits"]}))
    await until(lambda: service.batcher.queued_texts == 1)
    check_problem(await service.post("/v1/score", {"messages": ["new"]}), 429, "overloaded")
    assert (await service.post("/v1/score", {"messages": MESSAGES})).json()["scores"] == first
    assert len(await service.select(MESSAGES)) == len(MESSAGES)
    service.engine.let_through()
    await asyncio.gather(held, waiting)


async def test_the_work_of_a_cancelled_request_is_dropped(start: Start) -> None:
    service = await start(batch_tokens=64)
    service.engine.hold()
    held = asyncio.create_task(service.post("/v1/score", {"messages": ["held"]}))
    await until(lambda: service.engine.batches == [["held"]])
    gone = asyncio.create_task(service.post("/v1/select", {"messages": [f"gone {i}" for i in range(256)]}))
    await until(lambda: service.batcher.queued_texts == 256)
    # As Serve does when the client closes its connection.
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert (service.batcher.queued_texts, service.batcher.queued_tokens) == (0, 0)
    service.engine.let_through()
    await held
    assert service.engine.texts == ["held"]
    assert service.decisions.issued == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_dead_engine_is_a_503_that_another_replica_can_answer(service: LocalService) -> None:
    service.engine.failing["poison"] = SystemExit()
    for message in ("poison", "why?"):
        response = await service.post("/v1/score", {"messages": [message]})
        check_problem(response, 503, "engine_dead")
        assert response.headers["retry-after"]


@pytest.mark.parametrize("path", ["/v1/score", "/v1/select"])
async def test_numbers_that_overflow_are_a_500_that_says_so(service: LocalService, path: str) -> None:
    service.engine.overflowing.add("hot")
    before = service.everything()
    for messages in (["hot"], ["why?", "hot"]):
        document = check_problem(await service.post(path, {"messages": messages}), 500, "embedding_not_finite")
        assert "set encoder.dtype to bf16 or fp32" in document["detail"]
    assert service.everything() == before
    assert (await service.post(path, {"messages": ["why?"]})).status_code == 200


async def test_decisions_that_cannot_be_kept_are_not_made(start: Start) -> None:
    service = await start(serving=ServingArgs(max_buffered_decisions=256))
    service.learner.away = True
    await service.select(["why?"] * 256)
    before = service.everything()
    response = await service.post("/v1/select", {"messages": ["why?"]})
    check_problem(response, 503, "decisions_full")
    assert int(response.headers["retry-after"]) >= 1
    assert service.everything() == before
    assert (await service.post("/v1/score", {"messages": ["why?"]})).status_code == 200
    service.learner.away = False
    await service.decisions.flush()
    assert len(await service.select(["why?"] * 256)) == 256


async def test_requests_in_flight_together_do_not_overfill_the_decisions(start: Start) -> None:
    service = await start(serving=ServingArgs(max_buffered_decisions=256), batch_tokens=1024)
    service.engine.hold()
    held = asyncio.create_task(service.post("/v1/score", {"messages": ["why?"]}))
    await until(lambda: len(service.engine.batches) == 1)
    bodies = [{"messages": [f"{call}-{i}" for i in range(200)]} for call in range(3)]
    calls = [asyncio.create_task(service.post("/v1/select", body)) for body in bodies]
    await until(lambda: service.batcher.queued_texts == 600)
    service.engine.let_through()
    await held
    assert sorted([(await call).status_code for call in calls]) == [200, 503, 503]
    assert len(service.decisions) == 200


async def test_scoring_goes_on_while_the_learner_is_away_and_says_when_it_is_degraded(service: LocalService) -> None:
    service.learner.away = True
    service.now_s += 10.0
    fresh = (await service.post("/v1/score", {"messages": MESSAGES})).json()
    assert (fresh["degraded"], fresh["weights"]["age_s"]) == (False, 10.0)
    service.now_s += 0.5
    old = (await service.post("/v1/score", {"messages": MESSAGES})).json()
    assert (old["degraded"], old["weights"]["age_s"]) == (True, 10.5)
    assert old["scores"] == fresh["scores"]
    assert len(await service.select(MESSAGES)) == len(MESSAGES)


async def test_a_decision_names_the_set_that_it_was_chosen_from(service: LocalService) -> None:
    chosen = await service.select(["why?"], k=1)
    chosen += await service.select(["why?"], k=1, uids=[4, 1, UNAVAILABLE])
    await service.decisions.flush()
    logged = [service.learner.core.log.decision(one["decision_id"]) for one in chosen]
    available = [uid for uid in range(N) if uid != UNAVAILABLE]
    assert [decision.candidates_digest if decision else None for decision in logged] == [
        candidates_digest(np.array(available)),
        candidates_digest(np.array([1, 4])),
    ]


async def test_a_durable_selection_is_answered_once_its_decisions_are_in_the_log(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = await start(durable_log=True)
    answered = asyncio.Event()
    add_decisions = service.learner.add_decisions
    waiting: list[bool] = []

    async def log(batch: DecisionBatch) -> None:
        for _ in range(20):
            await asyncio.sleep(0)
        waiting.append(not answered.is_set())
        await add_decisions(batch)

    monkeypatch.setattr(service.learner, "add_decisions", log)
    chosen = await service.select(MESSAGES, durable=True)
    answered.set()
    assert waiting == [True]
    assert all(service.learner.core.log.decision(one["decision_id"]) for one in chosen)
    assert len(service.decisions) == 0


async def test_a_selection_that_is_not_durable_waits_for_nobody(start: Start) -> None:
    service = await start(durable_log=True)
    await service.select(MESSAGES)
    assert (len(service.learner.batches), len(service.decisions)) == (0, len(MESSAGES))


async def test_a_durable_selection_is_a_503_while_the_learner_cannot_log_it_and_its_decisions_are_kept(
    start: Start,
) -> None:
    service = await start(durable_log=True)
    service.learner.away = True
    response = await service.post("/v1/select", {"messages": MESSAGES, "durable": True})
    document = check_problem(response, 503, "learner_away")
    assert document["detail"].startswith("the learner is away (switched away): the selections were made and will be")
    assert int(response.headers["retry-after"]) >= 1
    assert len(service.decisions) == len(MESSAGES)
    service.learner.away = False
    await service.select(MESSAGES[:1], durable=True)
    [batch] = service.learner.batches
    assert len(batch.ids) == len(MESSAGES) + 1


async def test_the_configured_policy_chooses(start: Start) -> None:
    service = await start(selection=SelectionArgs(policy="softmax", temperature=0.1))
    row = service.snapshot_scores(["why?"])[0]
    candidates = np.array([uid for uid in range(N) if uid != UNAVAILABLE])
    bonus = service.learner.core.snapshot().bonus
    expected = Softmax(0.1).probabilities((row + bonus)[None, candidates], 3)[0]
    [selection] = await service.select(["why?"], k=3)
    columns = np.searchsorted(candidates, selection["uids"])
    assert selection["propensities"] == pytest.approx(expected[columns], rel=1e-4)
    assert min(selection["propensities"]) < 1.0
    [careful] = await service.select(["why?"], k=3, explore=False)
    assert careful["propensities"] == [1.0] * 3


async def test_a_newcomer_does_not_take_the_first_slot_of_every_prompt(start: Start) -> None:
    service = await start()
    bonus = np.full(N, 0.01, np.float32)
    bonus[5] = 9.0
    service.learner.publish(replace(service.learner.core.snapshot(), version=1, bonus=bonus))
    await service.subscriber.poll_once()
    selections = await service.select(["why?"] * 200, k=1)
    asked = Counter(selection["uids"][0] for selection in selections)
    assert asked[5] < 50
    assert asked[5] > 0
    for selection in selections:
        share = 1 / (N - 1)
        assert selection["propensities"] == pytest.approx([share if selection["uids"] == [5] else 1 - share])
