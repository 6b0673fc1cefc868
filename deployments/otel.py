"""The tracer over OpenTelemetry. Imported only where tracing is on.

An error's message may quote a prompt, so of an error a span has the type alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.trace import Link, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from learner.tracing import Carried, Parent, Span, Value

_PROPAGATOR = TraceContextTextMapPropagator()
_CARRIED = (b"traceparent", b"tracestate")


class OtelTracer:
    """A `Tracer` that hands spans to an OpenTelemetry provider.

    Whether a trace is recorded is decided where it begins, by its caller or by Serve: here none begins.

    Args:
        provider: takes the spans; by default the process's own, which Serve sets up.
    """

    def __init__(self, provider: trace.TracerProvider | None = None) -> None:
        self._provider = provider or trace.get_tracer_provider()
        self._tracer = self._provider.get_tracer("tidegate")

    def current(self) -> Parent | None:
        """See `Tracer`."""
        span = trace.get_current_span()
        return span if span.is_recording() else None

    @contextmanager
    def request(self, name: str, headers: Iterable[tuple[bytes, bytes]]) -> Iterator[Span | None]:
        """See `Tracer`.

        Serve's own span is the parent where it is in the caller's trace. Behind Serve's Python proxy it may be in one
        of its own, since that proxy passes the caller's on only if it traces as well: then the caller's span is.
        """
        carried: dict[str, list[str]] = {}
        for key, value in headers:
            if key in _CARRIED:
                carried.setdefault(key.decode(), []).append(value.decode("latin-1"))
        caller = _extracted(carried)
        serve = trace.get_current_span()
        is_callers = caller is None or _trace_id(caller) == _trace_id(serve)
        parent = serve if is_callers or caller is None else caller
        if not _is_sampled(parent):
            yield None
            return
        with self._started(name, parent, SpanKind.INTERNAL if is_callers else SpanKind.SERVER) as span:
            yield span

    @contextmanager
    def span(
        self, name: str, *, parent: Parent | None = None, links: Sequence[Parent] = (), **attributes: Value
    ) -> Iterator[Span]:
        """See `Tracer`."""
        within = parent if isinstance(parent, trace.Span) else trace.get_current_span()
        with self._started(name, within, SpanKind.INTERNAL, links, attributes) as span:
            yield span

    def record(self, name: str, *, parent: Parent, started_ns: int, **attributes: Value) -> Parent:
        """See `Tracer`."""
        assert isinstance(parent, trace.Span), "a parent is what this tracer gave out"
        context = trace.set_span_in_context(parent)
        span = self._tracer.start_span(name, context, attributes=_named(attributes), start_time=started_ns)
        span.end(time.time_ns())
        return span

    def carried(self) -> Carried | None:
        """See `Tracer`."""
        if self.current() is None:
            return None
        carried: dict[str, str] = {}
        _PROPAGATOR.inject(carried)
        return carried

    def resume(self, carried: Carried) -> Parent | None:
        """See `Tracer`."""
        return _extracted({key: [value] for key, value in carried.items()})

    def flush(self) -> None:
        """See `Tracer`."""
        flush = getattr(self._provider, "force_flush", None)
        if flush is not None:
            flush()

    @contextmanager
    def _started(
        self,
        name: str,
        parent: trace.Span,
        kind: SpanKind,
        links: Sequence[Parent] = (),
        attributes: Mapping[str, Value] | None = None,
    ) -> Iterator[_OtelSpan]:
        """A span that is the current one while the body runs; one that nobody sees where the parent is not sampled."""
        if not _is_sampled(parent):
            yield _OtelSpan(trace.INVALID_SPAN)
            return
        linked = [link for link in links if isinstance(link, trace.Span)]
        with self._tracer.start_as_current_span(
            name,
            trace.set_span_in_context(parent),
            kind,
            _named(attributes or {}),
            [Link(link.get_span_context()) for link in linked],
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            for link in linked:
                if link.is_recording():
                    link.add_link(span.get_span_context())
            try:
                yield _OtelSpan(span)
            except BaseException as error:
                span.set_status(Status(StatusCode.ERROR, type(error).__name__))
                raise


class _OtelSpan:
    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def tell(self, **attributes: Value) -> None:
        self._span.set_attributes(_named(attributes))

    def rename(self, name: str) -> None:
        self._span.update_name(name)


def _named(attributes: Mapping[str, Value]) -> dict[str, str | bool | int | float | Sequence[str] | Sequence[int]]:
    """Our own attributes with `tidegate.` before them; a name with a dot is one of OpenTelemetry's."""
    return {
        name if "." in name else f"tidegate.{name}": value for name, value in attributes.items() if value is not None
    }


def _extracted(carried: Mapping[str, list[str]]) -> trace.Span | None:
    span = trace.get_current_span(_PROPAGATOR.extract(carried))
    return span if span.get_span_context().is_valid else None


def _trace_id(span: trace.Span) -> int:
    return span.get_span_context().trace_id


def _is_sampled(span: trace.Span) -> bool:
    return span.get_span_context().is_valid and span.get_span_context().trace_flags.sampled
