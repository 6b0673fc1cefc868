"""How a call goes, whoever sends it: what each attempt may take, whether and when there is another, what came of it.

Nothing here sends or sleeps; `GateClient` and `AsyncGateClient` do only that.
"""

from __future__ import annotations

import ipaddress
import json
import math
import random
from collections.abc import Callable
from typing import Any, TypeVar

import httpx

from .calls import Call
from .types import GateUnavailableError, ProblemError, UnexpectedAnswerError

FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 2.0
MAX_RETRY_AFTER_S = 10.0
CONNECT_TIMEOUT_S = 5.0
PROBLEM = "application/problem+json"

T = TypeVar("T")
Outcome = httpx.Response | httpx.RequestError
"""What an attempt came to: an answer, or what kept it from coming."""


class Attempts:
    """The attempts at one call, which begins now.

    Args:
        timeout_s: the most that the call takes, retries and waits included.
        retries: how many times it is tried again.
        clock: seconds that only go forward.
        repeatable: whether the call may be made again although an attempt may have been carried out.
    """

    def __init__(self, timeout_s: float, retries: int, clock: Callable[[], float], *, repeatable: bool = True) -> None:
        self._clock = clock
        self._repeatable = repeatable
        self._deadline_s = clock() + timeout_s
        self._retries = retries
        self._failed = 0

    def timeout(self) -> httpx.Timeout:
        """What the next attempt may take."""
        left_s = max(self._deadline_s - self._clock(), 0.001)
        return httpx.Timeout(left_s, connect=min(left_s, CONNECT_TIMEOUT_S))

    def wait_s(self, outcome: Outcome) -> float | None:
        """How long to wait before the next attempt; None if this outcome is the call's.

        It is where it will not change, the retries are used up, or the next attempt would come too late.
        """
        wait_s = _wait_s(outcome, self._failed)
        if not self._repeatable and _may_have_been_done(outcome):
            return None
        if wait_s is None or self._failed >= self._retries or self._clock() + wait_s >= self._deadline_s:
            return None
        self._failed += 1
        return wait_s


def check_address(url: str) -> str:
    """The service's address without a slash at its end.

    Raises:
        ValueError: it is not an http or https address.
    """
    try:
        is_address = httpx.URL(url).scheme in ("http", "https") and bool(httpx.URL(url).host)
    except httpx.InvalidURL:
        is_address = False
    if not is_address:
        raise ValueError(f"url is {url!r}; expected something like http://127.0.0.1:8000")
    return url.rstrip("/")


def heeds_environment(url: str) -> bool:
    """Whether HTTP_PROXY and the like hold for the service: not on this machine, where no proxy would find it."""
    host = httpx.URL(url).host
    try:
        return not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host != "localhost"


def request_arguments(call: Call[Any], timeout: httpx.Timeout) -> dict[str, Any]:
    """What `httpx.Client.request` and `httpx.AsyncClient.request` take."""
    headers = None if call.accept is None else {"Accept": call.accept}
    return {"method": call.method, "url": call.path, "json": call.body, "headers": headers, "timeout": timeout}


def read_result(url: str, call: Call[T], outcome: Outcome) -> T:
    """The result of a call to the service at `url`.

    Raises:
        GateError: there is none.
    """
    answer = _answer(url, outcome)
    try:
        return call.read(answer)
    except json.JSONDecodeError as error:
        raise UnexpectedAnswerError(
            f"{url} answered {_status_line(answer)}, but not JSON; check the address"
        ) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UnexpectedAnswerError(
            f"{url} answered something else than the contract says ({error!r}); check address and versions"
        ) from error


def is_ok(outcome: Outcome) -> bool:
    """Whether the service answered, and with 200."""
    return isinstance(outcome, httpx.Response) and outcome.status_code == httpx.codes.OK


def _answer(url: str, outcome: Outcome) -> httpx.Response:
    if isinstance(outcome, httpx.RequestError):
        reason = str(outcome) or type(outcome).__name__
        if not isinstance(outcome, httpx.TransportError):
            raise UnexpectedAnswerError(f"{url} answered what cannot be read: {reason}") from outcome
        raise GateUnavailableError(f"no answer from {url}: {reason}") from outcome
    if problem := _problem(outcome):
        raise problem
    said = f"{url} answered {_status_line(outcome)}"
    if outcome.status_code == 429 or outcome.status_code >= 500 or _is_proxy_without_apps(outcome):
        raise GateUnavailableError(f"{said}, which is its proxy's; the service behind it is starting or down")
    if not outcome.is_success:
        raise UnexpectedAnswerError(f"{said}, not a Tidegate answer; check the address")
    return outcome


def _wait_s(outcome: Outcome, failed: int) -> float | None:
    """How long to wait before trying again; None where the answer will not change.

    Exponential with jitter, and never less than the Retry-After, which is believed up to MAX_RETRY_AFTER_S.
    """
    backoff_s = min(FIRST_BACKOFF_S * 2.0**failed, MAX_BACKOFF_S) * random.uniform(0.5, 1.0)
    if isinstance(outcome, httpx.RequestError):
        return backoff_s if isinstance(outcome, httpx.TransportError) else None
    if outcome.status_code in (429, 503):
        return max(backoff_s, min(_retry_after_s(outcome), MAX_RETRY_AFTER_S))
    if outcome.status_code in (500, 502, 504) and _problem(outcome) is None:
        return backoff_s
    if _is_proxy_without_apps(outcome):
        return backoff_s
    return None


def _may_have_been_done(outcome: Outcome) -> bool:
    """Whether an attempt without an answer of the service itself may have been carried out."""
    if isinstance(outcome, httpx.RequestError):
        return not isinstance(outcome, httpx.ConnectError | httpx.ConnectTimeout)
    return outcome.status_code in (500, 502, 504)


def _status_line(response: httpx.Response) -> str:
    return f"{response.status_code} {response.headers.get('content-type', '')}".rstrip()


def _is_proxy_without_apps(response: httpx.Response) -> bool:
    """Whether it is what Serve's proxy says of every path until it has heard of its applications."""
    is_text = response.headers.get("content-type", "").startswith("text/plain")
    return response.status_code == httpx.codes.NOT_FOUND and is_text and response.text.startswith("Path ")


def _retry_after_s(response: httpx.Response) -> float:
    """The Retry-After in seconds; 0 where there is none, or where it is a date, which Tidegate never sends."""
    try:
        seconds = float(response.headers.get("retry-after", "0"))
    except ValueError:
        return 0.0
    return seconds if math.isfinite(seconds) else 0.0


def _problem(response: httpx.Response) -> ProblemError | None:
    if not response.headers.get("content-type", "").startswith(PROBLEM):
        return None
    try:
        document = response.json()
    except ValueError:
        return None
    if not isinstance(document, dict):
        return None
    fields = [str(document.get(name) or "") for name in ("code", "title", "detail")]
    return ProblemError(response.status_code, *fields)
