"""Counts HTTP requests by route and status, and how long they took. Serve's own metrics know one route, the app's."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from typing import NamedTuple

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_UNREPORTED = 4096
_NO_ROUTE = "none"
_CLIENT_GONE = 499
_FAILED = 500


class Answered(NamedTuple):
    """What requests are told apart by. `route` is the template, `none` where there is no such route."""

    route: str
    method: str
    status: int


class HttpTally:
    """What was asked and answered. Noted on the event loop, read by any thread.

    Attributes:
        answered: how many requests there were of each kind. A client that went away counts as status 499.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.answered: Counter[Answered] = Counter()
        self._unreported: deque[tuple[str, float]] = deque(maxlen=_UNREPORTED)

    def note(self, answered: Answered, seconds: float) -> None:
        """A request was answered."""
        self.answered[answered] += 1
        self._unreported.append((answered.route, seconds))

    def take_unreported(self) -> list[tuple[str, float]]:
        """Route and seconds of the requests since the last call, of the last 4,096 at most."""
        return [self._unreported.popleft() for _ in range(len(self._unreported))]


class Tallied:
    """ASGI middleware around the routes.

    Args:
        app: the routes.
        tally: where it is noted.
    """

    def __init__(self, app: ASGIApp, tally: HttpTally) -> None:
        self._app = app
        self._tally = tally

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, started_s = _CLIENT_GONE, self._tally.clock()

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except Exception:
            # What is around this answers so.
            status = _FAILED
            raise
        finally:
            route = getattr(scope.get("route"), "path", _NO_ROUTE)
            self._tally.note(Answered(route, scope["method"], status), self._tally.clock() - started_s)
