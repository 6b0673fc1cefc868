"""AsyncGateClient: GateClient for asyncio.

async with AsyncGateClient() as gate:
    selection = (await gate.select(["Why is the sky blue?"], k=2)).selections[0]
    await gate.report([Reward(selection.uids, [0.9, 0.4], decision_id=selection.decision_id)])

Its methods are those of `GateClient`, awaited; see there, and `calls`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar

import httpx

from . import calls
from .auth import build_auth
from .calls import Call
from .exchange import Attempts, Outcome, check_address, heeds_environment, is_ok, read_result, request_arguments
from .methods import like

P = ParamSpec("P")
T = TypeVar("T")


def _asks(build: Callable[P, Call[T]]) -> Callable[Concatenate[AsyncGateClient, P], Coroutine[Any, Any, T]]:
    """A method that makes the call which `build` describes."""

    async def method(self: AsyncGateClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._ask(build(*args, **kwargs))

    return like(build, method)


class AsyncGateClient:
    """`GateClient` whose methods are awaited: the same calls, retries and errors. It belongs to one event loop.

    Args:
        url: see `GateClient`, for what follows too.
        api_key: sent with every call.
        wallet: signs every call with its hotkey.
        receiver_hotkey: with a wallet: the service's own hotkey.
        timeout_s: the most that one call takes, retries included.
        retries: how many times a call is tried again.
        transport: answers instead of the network, in tests.
        sleep: waits between attempts.
        clock: seconds that only go forward.

    Raises:
        ValueError: `url` is not an http or https address, or the credentials do not go together.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        wallet: Any = None,
        receiver_hotkey: str | None = None,
        timeout_s: float = 30.0,
        retries: int = 5,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = check_address(url)
        self.timeout_s = timeout_s
        self.retries = retries
        auth = build_auth(api_key, wallet, receiver_hotkey)
        self._http = httpx.AsyncClient(
            base_url=self.url, transport=transport, auth=auth, trust_env=heeds_environment(self.url)
        )
        self._sleep = sleep
        self._clock = clock

    async def __aenter__(self) -> AsyncGateClient:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    score = _asks(calls.score)
    score_dense = _asks(calls.score_dense)
    select = _asks(calls.select)
    report = _asks(calls.report)
    state = _asks(calls.state)
    uids = _asks(calls.uids)
    decision = _asks(calls.decision)
    erase_decision = _asks(calls.erase_decision)
    resync = _asks(calls.resync)
    checkpoint = _asks(calls.checkpoint)
    checkpoints = _asks(calls.checkpoints)
    freeze = _asks(calls.freeze)
    rollback = _asks(calls.rollback)
    promote = _asks(calls.promote)
    hand_over = _asks(calls.hand_over)
    quarantine = _asks(calls.quarantine)
    settle = _asks(calls.settle)
    authors = _asks(calls.authors)
    set_standing = _asks(calls.set_standing)

    async def ready(self) -> bool:
        """Whether the service answers and has weights to score with. Asks once, without retries."""
        return is_ok(await self._send(calls.ready(), self._attempts().timeout()))

    async def _ask(self, call: Call[T]) -> T:
        attempts = self._attempts(repeatable=call.repeatable)
        while True:
            outcome = await self._send(call, attempts.timeout())
            wait_s = attempts.wait_s(outcome)
            if wait_s is None:
                return read_result(self.url, call, outcome)
            await self._sleep(wait_s)

    async def _send(self, call: Call[Any], timeout: httpx.Timeout) -> Outcome:
        try:
            return await self._http.request(**request_arguments(call, timeout))
        except httpx.RequestError as error:
            return error

    def _attempts(self, *, repeatable: bool = True) -> Attempts:
        return Attempts(self.timeout_s, self.retries, self._clock, repeatable=repeatable)
