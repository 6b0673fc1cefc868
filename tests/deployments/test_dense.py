from __future__ import annotations

from collections.abc import Awaitable, Callable

import httpx
import numpy as np
import pytest

from deployments.dense import wants_dense
from deployments.errors import Problem

from .local_service import LocalService, N
from .test_http_io import check_problem
from .test_scorer import MESSAGES

Start = Callable[..., Awaitable[LocalService]]
OCTETS = "application/octet-stream"


async def score(service: LocalService, accept: str = OCTETS, **options: object) -> httpx.Response:
    body = {"messages": MESSAGES, **options}
    return await service.http.post("/v1/score", json=body, headers={"Accept": accept})


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", False),
        ("*/*", False),
        ("application/json", False),
        ("application/*", False),
        ("text/html", False),
        (OCTETS, True),
        ("Application/Octet-Stream", True),
        (f"{OCTETS}, */*", True),
        (f"{OCTETS}, */*;q=0.1", True),
        (f"{OCTETS};q=0.9, application/json;q=0.8", True),
        (f" {OCTETS} ; q=0.9 ,application/json; q=0.8", True),
        (f"application/json, {OCTETS}", False),
        (f"{OCTETS};q=0.8, application/json;q=0.9", False),
        (f"{OCTETS};q=0.5, */*", False),
        (f"{OCTETS};q=0", False),
        (f"{OCTETS};q=nonsense, */*", False),
        (f"{OCTETS};q=nan", False),
        (f"{OCTETS};q=2", False),
        (f",{OCTETS},", True),
        (f"*/*;q=0, {OCTETS};q=0.1", True),
        (f"{OCTETS}x, application/json", False),
    ],
)
def test_bytes_go_only_to_who_prefers_them_by_name(accept: str, expected: bool) -> None:
    assert wants_dense(accept, None) is expected


def test_top_k_comes_as_json_or_not_at_all() -> None:
    assert not wants_dense(f"{OCTETS}, */*;q=0.1", 3)
    assert not wants_dense(f"{OCTETS}, application/json;q=0.5", 3)
    assert not wants_dense("application/json", 3)
    with pytest.raises(Problem, match="leave out top_k"):
        wants_dense(OCTETS, 3)
    with pytest.raises(Problem, match="leave out top_k"):
        wants_dense(f"{OCTETS}, application/json;q=0", 3)


async def test_dense_scores_are_those_of_the_json_answer_to_the_bit(service: LocalService) -> None:
    answer = (await service.post("/v1/score", {"messages": MESSAGES})).json()
    response = await score(service)
    assert (response.status_code, response.headers["content-type"]) == (200, OCTETS)
    scores = np.frombuffer(response.content, "<f4").reshape(len(MESSAGES), N)
    np.testing.assert_array_equal(scores, np.array([item["scores"] for item in answer["scores"]], np.float32))
    told = {name: value for name, value in response.headers.items() if name.startswith("x-tidegate-")}
    assert told == {
        "x-tidegate-epoch": "1",
        "x-tidegate-version": "0",
        "x-tidegate-age-s": "0.0",
        "x-tidegate-netuid": "7",
        "x-tidegate-block": "100",
        "x-tidegate-n": str(N),
        "x-tidegate-degraded": "false",
        "x-tidegate-shape": f"{len(MESSAGES)},{N}",
    }


async def test_a_preference_may_be_told_in_several_lines(service: LocalService) -> None:
    lines = [("Accept", "application/json;q=0.5"), ("Accept", OCTETS)]
    response = await service.http.post("/v1/score", json={"messages": MESSAGES}, headers=lines)
    assert response.headers["content-type"] == OCTETS


async def test_dense_scores_of_named_uids_are_in_the_order_of_the_request(service: LocalService) -> None:
    response = await score(service, uids=[7, 0])
    scores = np.frombuffer(response.content, "<f4").reshape(-1, 2)
    np.testing.assert_allclose(scores, service.snapshot_scores(MESSAGES)[:, [7, 0]], rtol=1e-4, atol=1e-5)
    assert response.headers["x-tidegate-shape"] == f"{len(MESSAGES)},2"


async def test_old_weights_are_told_to_be_so(service: LocalService) -> None:
    service.now_s += 11
    headers = (await score(service)).headers
    assert (headers["x-tidegate-degraded"], headers["x-tidegate-age-s"]) == ("true", "11.0")


async def test_top_k_in_bytes_is_a_406_before_anything_is_encoded(service: LocalService) -> None:
    document = check_problem(await score(service, top_k=3), 406, "not_acceptable")
    assert "leave out top_k, or accept application/json" in document["detail"]
    assert service.engine.batches == []
    assert (await score(service, f"{OCTETS}, */*;q=0.1", top_k=3)).json()["scores"]


async def test_errors_are_problem_documents_whatever_is_accepted(start: Start) -> None:
    service = await start(subscribed=False)
    check_problem(await score(service), 503, "no_weights")
    check_problem(await score(service, uids=[0, 0]), 503, "no_weights")
    check_problem(await score(service, top_k=0), 422, "invalid_request")
