from __future__ import annotations

import gzip
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from typing import Any

import httpx
import numpy as np
import orjson
import pytest

from deployments.config import ServingArgs
from deployments.errors import Problem
from deployments.http_io import json_response, problem_response

from .local_service import LocalService

Start = Callable[..., Awaitable[LocalService]]

JSON = {"Content-Type": "application/json"}
PATHS = ("/v1/score", "/v1/select", "/v1/rewards")


def check_problem(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    document: dict[str, Any] = response.json()
    assert (response.status_code, document["code"]) == (status, code), response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert set(document) == {"type", "title", "status", "detail", "code"}
    assert document["status"] == status
    assert document["type"].endswith(code)
    assert document["title"]
    assert document["detail"]
    return document


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"messages": ["a"]',
        b"{'messages': ['a']}",
        b'{"messages": ["a"]} {}',
        b'{"messages": ["a\xff"]}',
        b'{"messages": ["\\ud800"]}',
        b"[" * 5000,
    ],
)
async def test_malformed_json_is_a_400(service: LocalService, path: str, body: bytes) -> None:
    before = service.everything()
    check_problem(await service.http.post(path, content=body, headers=JSON), 400, "malformed_json")
    assert service.everything() == before


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonx"])
async def test_another_content_type_is_a_415_that_names_it(
    service: LocalService, path: str, content_type: str | None
) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    response = await service.http.post(path, content=b'{"messages": ["a"]}', headers=headers)
    document = check_problem(response, 415, "unsupported_media_type")
    assert document["detail"].endswith(f"got {content_type or 'none'}")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("encoding", ["gzip", "br, gzip"])
async def test_a_compressed_body_is_a_415_that_says_so(service: LocalService, path: str, encoding: str) -> None:
    body = gzip.compress(b'{"messages": ["a"]}')
    response = await service.http.post(path, content=body, headers={**JSON, "Content-Encoding": encoding})
    assert check_problem(response, 415, "unsupported_media_type")["detail"].endswith(f"got {encoding}")


async def test_a_body_that_is_said_to_be_as_it_is_is_read(service: LocalService) -> None:
    headers = {**JSON, "Content-Encoding": "Identity"}
    response = await service.http.post("/v1/score", content=b'{"messages": ["a"]}', headers=headers)
    assert response.status_code == 200


async def test_parameters_and_case_of_the_content_type_do_not_matter(service: LocalService) -> None:
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    response = await service.http.post("/v1/score", content=b'{"messages": ["a"]}', headers=headers)
    assert response.status_code == 200


@pytest.mark.parametrize("path", PATHS)
async def test_a_body_announced_over_the_limit_is_refused_unread(start: Start, path: str) -> None:
    service = await start(serving=ServingArgs(max_body_bytes=1024))
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(100):
            read += 1
            yield b" " * 100

    headers = {**JSON, "Content-Length": "10000"}
    check_problem(await service.http.post(path, content=body(), headers=headers), 413, "body_too_large")
    assert read == 0


@pytest.mark.parametrize("announced", [None, "10"])
async def test_a_stream_over_the_limit_is_refused_once_it_passes_it(start: Start, announced: str | None) -> None:
    service = await start(serving=ServingArgs(max_body_bytes=1024))
    read = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(100):
            read += 1
            yield b" " * 100

    headers = JSON if announced is None else {**JSON, "Content-Length": announced}
    response = await service.http.post("/v1/score", content=body(), headers=headers)
    document = check_problem(response, 413, "body_too_large")
    assert "1024 bytes" in document["detail"]
    assert read == 11


@pytest.mark.parametrize("announced", ["-1", "nonsense"])
async def test_a_strange_content_length_is_refused(service: LocalService, announced: str) -> None:
    response = await service.http.post("/v1/score", content=b"{}", headers={**JSON, "Content-Length": announced})
    check_problem(response, 413, "body_too_large")


async def test_a_body_of_exactly_the_limit_is_read(start: Start) -> None:
    service = await start(serving=ServingArgs(max_body_bytes=1024))

    async def chunks(size: int) -> AsyncIterator[bytes]:
        yield b'{"messages": ["a"]'.ljust(size - 1)
        yield b"}"

    whole = b'{"messages": ["a"]'.ljust(1023) + b"}"
    assert (await service.http.post("/v1/score", content=whole, headers=JSON)).status_code == 200
    assert (await service.http.post("/v1/score", content=chunks(1024), headers=JSON)).status_code == 200
    check_problem(await service.http.post("/v1/score", content=chunks(1025), headers=JSON), 413, "body_too_large")


def test_a_problem_document_carries_its_retry_after_only_if_there_is_one() -> None:
    lasting = problem_response(Problem(422, "unknown_uid", "uid 9"))
    passing = problem_response(Problem(503, "no_weights", "none yet", retry_after_s=2))
    assert "retry-after" not in lasting.headers
    assert passing.headers["retry-after"] == "2"
    assert orjson.loads(lasting.body) == {
        "type": "urn:tidegate:problem:unknown_uid",
        "title": HTTPStatus.UNPROCESSABLE_ENTITY.phrase,
        "status": 422,
        "detail": "uid 9",
        "code": "unknown_uid",
    }


def test_numpy_arrays_may_stand_anywhere_in_an_answer() -> None:
    response = json_response({"scores": [{"uids": np.array([1, 2]), "scores": np.array([0.5], np.float32)}], 3: 0.25})
    assert orjson.loads(response.body) == {"scores": [{"uids": [1, 2], "scores": [0.5]}], "3": 0.25}
    assert response.headers["content-type"] == "application/json"
