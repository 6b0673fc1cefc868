"""GateClient: the service's HTTP contract as typed Python calls, on httpx alone.

    with GateClient() as gate:
        selection = gate.select(["Why is the sky blue?"], k=2).selections[0]
        gate.report([Reward(selection.uids, [0.9, 0.4], decision_id=selection.decision_id)])

What its methods take and mean is in `calls`, what they give and raise in `types`; all of the latter can be imported
from the package. A wrong argument is a plain `ValueError`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

import httpx

from . import calls
from .auth import build_auth
from .calls import Call
from .exchange import Attempts, Outcome, check_address, heeds_environment, is_ok, read_result, request_arguments
from .methods import like

P = ParamSpec("P")
T = TypeVar("T")


def _asks(build: Callable[P, Call[T]]) -> Callable[Concatenate[GateClient, P], T]:
    """A method that makes the call which `build` describes."""

    def method(self: GateClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._ask(build(*args, **kwargs))

    return like(build, method)


class GateClient:
    """Calls a running Tidegate. Safe to share between threads; close it, or use it as a context manager.

    Every call may raise a `GateError`. Whatever may pass is tried again, with the same ids: no connection, 429
    and 503 (after their Retry-After), and a 500, 502 or 504 that is no problem document and so comes from the
    proxy. A reward is never learned twice for it; a select that was lost on its way, or a durable one that could not
    be logged in time, leaves a decision that nobody reports on.

    Args:
        url: where the service listens.
        api_key: sent with every call, where the service asks for keys.
        wallet: signs every call with its hotkey, where the service asks for that: a bittensor `Wallet`, its name
            (`"cold/hot"`), or a keypair.
        receiver_hotkey: with a wallet: the service's own hotkey, for which calls are signed.
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
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = check_address(url)
        self.timeout_s = timeout_s
        self.retries = retries
        auth = build_auth(api_key, wallet, receiver_hotkey)
        self._http = httpx.Client(
            base_url=self.url, transport=transport, auth=auth, trust_env=heeds_environment(self.url)
        )
        self._sleep = sleep
        self._clock = clock

    def __enter__(self) -> GateClient:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

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

    def ready(self) -> bool:
        """Whether the service answers and has weights to score with. Asks once, without retries."""
        return is_ok(self._send(calls.ready(), self._attempts().timeout()))

    def _ask(self, call: Call[T]) -> T:
        attempts = self._attempts(repeatable=call.repeatable)
        while True:
            outcome = self._send(call, attempts.timeout())
            wait_s = attempts.wait_s(outcome)
            if wait_s is None:
                return read_result(self.url, call, outcome)
            self._sleep(wait_s)

    def _send(self, call: Call[Any], timeout: httpx.Timeout) -> Outcome:
        try:
            return self._http.request(**request_arguments(call, timeout))
        except httpx.RequestError as error:
            return error

    def _attempts(self, *, repeatable: bool = True) -> Attempts:
        return Attempts(self.timeout_s, self.retries, self._clock, repeatable=repeatable)
