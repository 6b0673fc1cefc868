from __future__ import annotations

import logging

import pytest

from deployments.errors import Problem
from deployments.refusals import Refusals


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, logger="deployments.refusals")
    return caplog


def test_refusals_are_logged_at_once_and_then_counted_for_a_second(lines: pytest.LogCaptureFixture) -> None:
    now_s = 100.0
    refusals = Refusals(lambda: now_s)
    for _ in range(5):
        refusals.note(Problem(429, "overloaded", "too much waits"))
    now_s = 101.0
    refusals.note(Problem(429, "overloaded", "too much waits"))
    said = [record.getMessage() for record in lines.records]
    assert said == [
        "refused_requests code=overloaded status=429 count=1 detail=too much waits",
        "refused_requests code=overloaded status=429 count=5 detail=too much waits",
    ]


def test_each_reason_has_its_own_line(lines: pytest.LogCaptureFixture) -> None:
    refusals = Refusals(lambda: 100.0)
    refusals.note(Problem(429, "overloaded", "a"))
    refusals.note(Problem(503, "no_weights", "b"))
    refusals.note(Problem(500, "embedding_not_finite", "c"))
    assert len(lines.records) == 3


def test_what_is_wrong_with_a_request_is_not_the_services_refusal(lines: pytest.LogCaptureFixture) -> None:
    Refusals().note(Problem(422, "unknown_uid", "a"))
    assert lines.records == []
