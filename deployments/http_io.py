"""Bodies in, JSON and problem documents out: what the routes share, written for speed.

The routes read and write their bodies by hand: each is validated once, and arrays of scores are written as they are.
`documented` gives the OpenAPI page what FastAPI would have known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import quote

import orjson
from fastapi import Request, Response
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect

from .errors import Problem
from .schemas import ProblemDocument

Body = TypeVar("Body", bound=BaseModel)

_MOST_ERRORS = 100
"""With more, a body is not told what is wrong with it: each error that is told takes a kilobyte for a while."""


def parse_body(request: Request, body: bytes, schema: type[Body], *, optional: bool = False) -> Body:
    """The request's body, checked. An `optional` one may be left out, and then says nothing.

    Raises:
        Problem: 415, 400 or 422.
    """
    if optional and not body.strip():
        return _checked(lambda: schema.model_validate_json(b"{}"))
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise Problem(
            415, "unsupported_media_type", f"send Content-Type: application/json, got {content_type or 'none'}"
        )
    if (encoding := request.headers.get("content-encoding", "identity").strip().lower()) != "identity":
        detail = f"send the body as it is, without Content-Encoding; got {encoding or 'an empty one'}"
        raise Problem(415, "unsupported_media_type", detail)
    return _checked(lambda: schema.model_validate_json(body))


def parse_query(request: Request, schema: type[Body]) -> Body:
    """The request's query, checked.

    Raises:
        Problem: 422.
    """
    return _checked(lambda: schema.model_validate(dict(request.query_params)))


def _checked(parse: Callable[[], Body]) -> Body:
    try:
        return parse()
    except ValidationError as error:
        if error.error_count() > _MOST_ERRORS:
            detail = f"{error.error_count()} keys are unknown or wrong; send what the API's page (/docs) shows"
            raise Problem(422, "invalid_request", detail) from None
        first = error.errors(include_url=False)[0]
        if first["type"] == "json_invalid":
            raise Problem(400, "malformed_json", first["msg"]) from error
        place = ".".join(str(part) for part in first["loc"]) or "body"
        raise Problem(422, "invalid_request", f"{place}: {first['msg'].removeprefix('Value error, ')}") from error


def request_target(request: Request) -> str:
    """Path and query as the caller sent them, route prefix and percent signs included."""
    path: bytes = request.scope.get("raw_path") or quote(request.scope["path"]).encode()
    query: bytes = request.scope["query_string"]
    return (path + b"?" + query if query else path).decode("latin-1")


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The request's body as received.

    Raises:
        Problem: 413, or 400 if the caller went away.
    """
    announced = request.headers.get("content-length", "0")
    body = bytearray()
    if announced.isdecimal() and int(announced) <= max_bytes:
        try:
            async for chunk in request.stream():
                body += chunk
                if len(body) > max_bytes:
                    break
            else:
                return bytes(body)
        except ClientDisconnect as error:
            raise Problem(400, "client_disconnected", "the connection was closed before the body was whole") from error
    raise Problem(413, "body_too_large", f"the body is larger than {max_bytes} bytes; send it in parts")


def json_response(content: object) -> Response:
    """A 200; numpy arrays may stand anywhere in it."""
    options = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS
    return Response(orjson.dumps(content, option=options), media_type="application/json")


def problem_response(problem: Problem) -> Response:
    """The problem as an RFC 9457 document."""
    document = ProblemDocument(
        type=f"urn:tidegate:problem:{problem.code}",
        title=HTTPStatus(problem.status).phrase,
        status=problem.status,
        detail=problem.detail,
        code=problem.code,
    )
    headers = dict(problem.headers)
    if problem.retry_after_s is not None:
        headers["Retry-After"] = str(problem.retry_after_s)
    return Response(
        orjson.dumps(document.model_dump()),
        status_code=problem.status,
        headers=headers,
        media_type="application/problem+json",
    )


def documented(
    request: type[BaseModel] | None,
    response: type[BaseModel],
    *,
    optional: bool = False,
    query: type[BaseModel] | None = None,
    octets: str | None = None,
    open_to_all: bool = False,
    also: Mapping[int, str] | None = None,
) -> dict[str, Any]:
    """What the OpenAPI page says of a route whose body is read and written by hand, for speed.

    Args:
        request: the body, None for a route without.
        response: the answer.
        optional: whether the body may be left out.
        query: the query's parameters.
        octets: what an answer of bytes holds, where the caller may ask for one.
        open_to_all: whether it needs no credentials.
        also: problems beyond those that any route may answer with: status -> description.
    """
    problems = {} if open_to_all else dict(_OF_WHO_ASKS)
    if request is not None or query is not None:
        problems |= _OF_WHAT_IS_SENT
    problems |= also or {}
    extra: dict[str, Any] = {}
    if request is not None:
        content = {"application/json": {"schema": _inline_schema(request)}}
        extra["requestBody"] = {"required": not optional, "content": content}
    if query is not None:
        properties = _inline_schema(query)["properties"]
        extra["parameters"] = [{"name": name, "in": "query", "schema": schema} for name, schema in properties.items()]
    answer: dict[str, Any] = {"model": response}
    if octets is not None:
        schema = {"type": "string", "format": "binary", "description": octets}
        answer["content"] = {"application/octet-stream": {"schema": schema}}
    return {
        "responses": {
            200: answer,
            **{status: {"description": text, "content": _PROBLEM_CONTENT} for status, text in problems.items()},
        },
        "openapi_extra": extra,
    }


def _inline_schema(model: type[BaseModel]) -> dict[str, Any]:
    """The model's JSON schema with its definitions written out where they are used."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def inline(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                return inline(definitions[node["$ref"].rpartition("/")[2]])
            return {key: inline(value) for key, value in node.items()}
        return [inline(value) for value in node] if isinstance(node, list) else node

    inlined: dict[str, Any] = inline(schema)
    return inlined


_OF_WHO_ASKS = {401: "no valid credentials", 403: "credentials that do not allow this call", 503: "retry"}
_OF_WHAT_IS_SENT = {
    400: "malformed JSON",
    413: "body too large",
    415: "not application/json, or compressed",
    422: "invalid request",
    429: "overloaded",
}
_PROBLEM_CONTENT = {"application/problem+json": {"schema": _inline_schema(ProblemDocument)}}
