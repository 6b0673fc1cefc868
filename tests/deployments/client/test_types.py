from __future__ import annotations

import pickle
from typing import Any

import pytest

from deployments import client
from deployments.client import types
from deployments.client.types import GateError, ProblemError, Reward


def test_everything_public_can_be_imported_from_the_client_too() -> None:
    public = {
        name
        for name, value in vars(types).items()
        if getattr(value, "__module__", None) == types.__name__ and not name.startswith(("_", "build_"))
    }
    assert public | {"AsyncGateClient", "GateClient", "OperatorStanding", "Settlement", "Wait"} == set(client.__all__)
    assert all(getattr(client, name) is getattr(types, name) for name in public)


def test_every_error_is_a_gate_error() -> None:
    errors = [value for value in vars(types).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert len(errors) == 4
    assert all(issubclass(error, GateError) for error in errors)


def test_a_problem_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(ProblemError(429, "overloaded", "Too many", "the queue is full")))
    assert (error.status, error.code, str(error)) == (429, "overloaded", "429 overloaded: the queue is full")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"uids": [1, 2], "rewards": [0.5], "decision_id": "r-1"}, "1 values for 2 uids"),
        ({"uids": [1], "rewards": [float("nan")], "decision_id": "r-1"}, "not finite"),
        ({"uids": [1], "rewards": [0.5]}, "either decision_id"),
        ({"uids": [1], "rewards": [0.5], "reward_id": "mine"}, "either decision_id"),
        ({"uids": [1], "rewards": [0.5], "message": "why?"}, "either decision_id"),
        ({"uids": [1], "rewards": [0.5], "decision_id": "r", "message": "why?"}, "either decision_id"),
        ({"uids": [1], "rewards": [0.5], "decision_id": "r", "reward_id": "m", "message": "?"}, "either decision_id"),
    ],
)
def test_a_malformed_reward_is_refused_before_it_is_sent(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Reward(**arguments)
