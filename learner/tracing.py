"""What is told to a tracer, as a protocol: nothing here knows OpenTelemetry. `NO_TRACER` tells nobody.

A `Parent` is whatever a tracer gives out to stand for a span: others only hand it back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

Value = str | bool | int | float | Sequence[str] | Sequence[int] | None
"""What an attribute may hold; None says nothing. Never a prompt's text."""
Parent = object
Carried = Mapping[str, str]
"""A span on its way to another process: W3C `traceparent`, and `tracestate` where there is one."""


@runtime_checkable
class Span(Protocol):
    """A part of the work, while it is done."""

    def tell(self, **attributes: Value) -> None:
        """Add attributes, or change them."""
        ...

    def rename(self, name: str) -> None:
        """Call it something else."""
        ...


@runtime_checkable
class Tracer(Protocol):
    """Where spans go."""

    def current(self) -> Parent | None:
        """The span that this thread or task is in; None where that is not recorded."""
        ...

    def request(self, name: str, headers: Iterable[tuple[bytes, bytes]]) -> AbstractContextManager[Span | None]:
        """A request's span, in the trace of the caller that `headers` name; None if it is not recorded."""
        ...

    def span(
        self, name: str, *, parent: Parent | None = None, links: Sequence[Parent] = (), **attributes: Value
    ) -> AbstractContextManager[Span]:
        """A span within `parent`, by default within the current one. Without either nothing is recorded.

        Args:
            name: what is done.
            parent: the span that it is a part of.
            links: further spans that it is done for; they are linked back to it.
            attributes: what is known of it already.
        """
        ...

    def record(self, name: str, *, parent: Parent, started_ns: int, **attributes: Value) -> Parent:
        """A span that has just ended. `started_ns`: nanoseconds since 1970."""
        ...

    def carried(self) -> Carried | None:
        """The current span, for another process; None where it is not recorded."""
        ...

    def resume(self, carried: Carried) -> Parent | None:
        """The span of another process."""
        ...

    def flush(self) -> None:
        """Hand over what was not exported yet."""
        ...


class _NoSpan:
    """Takes everything and keeps nothing; one serves all."""

    def tell(self, **attributes: Value) -> None:
        pass

    def rename(self, name: str) -> None:
        pass

    def __enter__(self) -> _NoSpan:
        return self

    def __exit__(self, *_raised: object) -> None:
        pass


class _NoRequest:
    def __enter__(self) -> None:
        pass

    def __exit__(self, *_raised: object) -> None:
        pass


_NO_SPAN, _NO_REQUEST = _NoSpan(), _NoRequest()


class NoTracer:
    """Records nothing: tracing is off."""

    def current(self) -> Parent | None:
        """See `Tracer`."""
        return None

    def request(self, name: str, headers: Iterable[tuple[bytes, bytes]]) -> AbstractContextManager[Span | None]:
        """See `Tracer`."""
        return _NO_REQUEST

    def span(
        self, name: str, *, parent: Parent | None = None, links: Sequence[Parent] = (), **attributes: Value
    ) -> AbstractContextManager[Span]:
        """See `Tracer`."""
        return _NO_SPAN

    def record(self, name: str, *, parent: Parent, started_ns: int, **attributes: Value) -> Parent:
        """See `Tracer`."""
        return parent

    def carried(self) -> Carried | None:
        """See `Tracer`."""
        return None

    def resume(self, carried: Carried) -> Parent | None:
        """See `Tracer`."""
        return None

    def flush(self) -> None:
        """See `Tracer`."""


NO_TRACER: Tracer = NoTracer()
