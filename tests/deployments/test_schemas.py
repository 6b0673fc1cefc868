from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from deployments.schemas import RewardIn, RewardsRequest, ScoreRequest, SelectRequest

OF_DECISION = {"decision_id": "r-1", "uids": [1], "rewards": [0.5]}
OF_MESSAGE = {"reward_id": "mine", "message": "why?", "uids": [1], "rewards": [0.5]}


def parse(model: type[BaseModel], body: object) -> Any:
    return model.model_validate_json(json.dumps(body))


def test_defaults_are_those_of_the_contract() -> None:
    select = parse(SelectRequest, {"messages": ["why?"]})
    assert (select.k, select.uids, select.explore, select.durable, select.min_version) == (4, None, True, False, None)
    score = parse(ScoreRequest, {"messages": ["why?"]})
    assert (score.top_k, score.uids, score.min_version) == (None, None, None)
    assert parse(RewardsRequest, {"rewards": [OF_DECISION]}).wait == "logged"


@pytest.mark.parametrize("model", [ScoreRequest, SelectRequest])
@given(count=st.integers(0, 300))
def test_one_to_256_messages_are_taken(model: type[BaseModel], count: int) -> None:
    if 1 <= count <= 256:
        assert len(parse(model, {"messages": ["why?"] * count}).messages) == count
    else:
        with pytest.raises(ValidationError, match="messages"):
            parse(model, {"messages": ["why?"] * count})


@pytest.mark.parametrize("blank", ["", " ", "\n\t", "\u00a0\u2003"])
def test_a_blank_message_is_none(blank: str) -> None:
    for model, body in (
        (ScoreRequest, {"messages": ["fine", blank]}),
        (SelectRequest, {"messages": [blank]}),
        (RewardIn, {**OF_MESSAGE, "message": blank}),
    ):
        with pytest.raises(ValidationError, match="must not be empty"):
            parse(model, body)


@given(st.text(min_size=1).filter(str.strip))
def test_a_message_arrives_as_it_was_sent(message: str) -> None:
    assert parse(ScoreRequest, {"messages": [message]}).messages == [message]


def test_whole_numbers_are_rewards_too() -> None:
    assert parse(RewardIn, {**OF_DECISION, "rewards": [1]}).rewards == [1.0]


@pytest.mark.parametrize("body", [OF_DECISION, OF_MESSAGE])
def test_a_reward_is_for_a_decision_or_for_a_message_under_an_own_id(body: dict[str, Any]) -> None:
    assert parse(RewardIn, body).uids == [1]


@pytest.mark.parametrize(
    "given_ids",
    [
        (),
        ("reward_id",),
        ("message",),
        ("decision_id", "message"),
        ("decision_id", "reward_id"),
        ("decision_id", "reward_id", "message"),
    ],
)
def test_any_other_mixture_of_ids_is_refused(given_ids: tuple[str, ...]) -> None:
    every = {**OF_DECISION, **OF_MESSAGE}
    body = {name: every[name] for name in ("uids", "rewards", *given_ids)}
    with pytest.raises(ValidationError, match="give either decision_id, or reward_id and message"):
        parse(RewardIn, body)


def test_at_most_256_messages_come_with_one_report_of_many_rewards() -> None:
    mixed = [{**OF_MESSAGE, "reward_id": str(i)} for i in range(256)] + [OF_DECISION] * 100
    assert len(parse(RewardsRequest, {"rewards": mixed}).rewards) == 356
    with pytest.raises(ValidationError, match="257 messages were sent"):
        parse(RewardsRequest, {"rewards": [*mixed, OF_MESSAGE]})
    with pytest.raises(ValidationError, match="rewards"):
        parse(RewardsRequest, {"rewards": [OF_DECISION] * 4097})
