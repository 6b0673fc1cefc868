"""The tracer over a real OpenTelemetry SDK, whose spans are kept in memory."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

from deployments.otel import OtelTracer
from learner.draft import Draft
from learner.group_commit import GroupCommitter
from learner.loop import LearningLoop, Publisher
from learner.protocol import RewardReport
from learner.report_traces import ReportTraces
from learner.tracing import NO_TRACER
from tests.learner.builders import build_learner, message_reward

from .local_service import LocalService, until

Start = Callable[..., Awaitable[LocalService]]
DRAFT = Draft(at_s=0.0, after_seq=0)
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Recorded:
    """A tracer and what it has exported."""

    def __init__(self, ratio: float = 1.0) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=ParentBasedTraceIdRatio(ratio))
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = OtelTracer(self.provider)

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        return self._exporter.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]

    @contextmanager
    def root(self, name: str = "root") -> Iterator[trace.Span]:
        with self.provider.get_tracer("test").start_as_current_span(name) as span:
            yield span


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


def traceparent(flags: str = "01") -> list[tuple[bytes, bytes]]:
    return [(b"traceparent", f"00-{TRACE}-{SPAN}-{flags}".encode()), (b"tracestate", b"a=1"), (b"tracestate", b"b=2")]


def parent_of(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent else None


def id_of(span: ReadableSpan) -> int:
    context = span.get_span_context()
    assert context is not None
    return context.span_id


def test_a_request_is_within_serves_span(recorded: Recorded) -> None:
    with recorded.root() as serve, recorded.tracer.request("GET", []) as span:
        assert span is not None
    [request] = recorded.named("GET")
    assert parent_of(request) == serve.get_span_context().span_id
    assert request.kind is trace.SpanKind.INTERNAL


def test_a_request_is_within_its_callers_span_where_serves_is_not(recorded: Recorded) -> None:
    with recorded.root(), recorded.tracer.request("GET", traceparent()) as span:
        assert span is not None
    [request] = recorded.named("GET")
    assert request.context is not None
    assert (f"{request.context.trace_id:032x}", f"{parent_of(request):016x}") == (TRACE, SPAN)
    assert request.context.trace_state.to_header() == "a=1,b=2"
    assert request.kind is trace.SpanKind.SERVER


@pytest.mark.parametrize(
    "headers", [[], traceparent("00"), [(b"traceparent", b"nonsense")], [(b"traceparent", b"\xff\xfe")]]
)
def test_without_a_sampled_parent_nothing_is_begun(recorded: Recorded, headers: list[tuple[bytes, bytes]]) -> None:
    with recorded.tracer.request("GET", headers) as request, recorded.tracer.span("inner", texts=1) as inner:
        assert request is None
        inner.tell(texts=2)
        assert recorded.tracer.current() is None
        assert recorded.tracer.carried() is None
    assert recorded.spans == ()


def test_a_callers_trace_that_is_not_recorded_is_not_begun_in_serves(recorded: Recorded) -> None:
    with recorded.root(), recorded.tracer.request("GET", traceparent("00")) as request:
        assert request is None
    assert [span.name for span in recorded.spans] == ["root"]


def test_of_an_error_a_span_has_the_type_alone(recorded: Recorded) -> None:
    with recorded.root(), pytest.raises(ValueError, match="secret"), recorded.tracer.span("failing"):
        raise ValueError("a secret prompt")
    [failed] = recorded.named("failing")
    assert failed.status.description == "ValueError"
    assert failed.events == ()
    assert "secret" not in failed.to_json()


def test_a_span_goes_to_another_process_and_on_from_there(recorded: Recorded) -> None:
    with recorded.tracer.request("GET", traceparent()):
        carried = recorded.tracer.carried()
    assert carried is not None
    assert set(carried) == {"traceparent", "tracestate"}
    assert (carried["traceparent"].split("-")[1], carried["tracestate"]) == (TRACE, "a=1,b=2")
    there = recorded.tracer.resume(carried)
    with recorded.tracer.span("there", parent=there):
        pass
    [request], [far] = recorded.named("GET"), recorded.named("there")
    assert parent_of(far) == id_of(request)


async def test_a_batch_is_linked_to_all_requests_that_it_is_for(start: Start, recorded: Recorded) -> None:
    service = await start(tracer=recorded.tracer, batch_tokens=1000)
    service.engine.hold()

    async def ask(name: str, text: str) -> None:
        with recorded.root(name):
            await service.http.post("/v1/score", json={"messages": [text]})

    ahead = asyncio.create_task(ask("ahead", "in the way"))
    await until(lambda: len(service.engine.batches) == 1)
    # Two texts that are waited for by three requests go into the next batch, with one that nobody traces.
    waiting = [asyncio.create_task(ask(name, text)) for name, text in (("a", "x"), ("b", "y"), ("c", "y"))]
    waiting.append(asyncio.create_task(service.http.post("/v1/score", json={"messages": ["untraced"]})))  # type: ignore[arg-type]
    await until(lambda: service.batcher.queued_texts == 3 and service.embeddings.shared == 1)
    service.engine.let_through()
    await asyncio.gather(ahead, *waiting)

    by_id = {id_of(span): span for span in recorded.spans}
    batch = recorded.named("tidegate.batch")[-1]
    linked = [by_id[link.context.span_id] for link in batch.links]
    assert [span.name for span in linked] == ["tidegate.embed"] * 3
    traces = [span.context.trace_id for name in "abc" for span in recorded.named(name) if span.context]
    assert [span.context.trace_id for span in linked if span.context] == traces
    assert parent_of(batch) == id_of(linked[0])
    assert all(id_of(batch) in [link.context.span_id for link in span.links] for span in linked)
    assert batch.attributes is not None
    assert batch.attributes["tidegate.texts"] == 3


def staged(seq: int, accepted: int = 1) -> Callable[[Draft], RewardReport]:
    return lambda _draft: RewardReport(accepted, 0, (), seq)


def test_reports_are_followed_until_they_are_published(recorded: Recorded) -> None:
    traces = ReportTraces(recorded.tracer)
    carried = []
    for seq in (3, 5):
        with recorded.root(f"report-{seq}"):
            carried.append(recorded.tracer.carried())
        with traces.logging(carried[-1]) as follow:
            follow(staged(seq))(DRAFT)
    traces.learned(4, 1)
    traces.published(4, 2)
    assert len(recorded.named("tidegate.publish")) == 1
    traces.learned(5, 3)
    traces.learned(6, 4)
    traces.published(6, 5)
    logs, learns, publishes = (recorded.named(f"tidegate.{name}") for name in ("log", "learn", "publish"))
    assert [parent_of(span) for span in learns] == [id_of(span) for span in logs]
    assert [parent_of(span) for span in publishes] == [id_of(span) for span in learns]
    assert [span.attributes["tidegate.version"] for span in learns if span.attributes] == [4, 5]
    assert [span.start_time for span in (*learns, *publishes)] == [1, 3, 2, 5]


def test_a_report_is_followed_through_the_learners_threads(recorded: Recorded) -> None:
    learner, traces = build_learner(), ReportTraces(recorded.tracer)
    published: queue.Queue[int] = queue.Queue()
    publisher = Publisher(
        learner,
        publish=lambda snapshot: published.put(snapshot.version),
        interval_s=lambda: 0.0,
        on_crash=lambda: None,
        traces=traces,
    )
    loop = LearningLoop(learner, on_learned=publisher.wake, on_crash=lambda: None, traces=traces)
    committer = GroupCommitter(learner, tick_s=60.0, on_commit=loop.wake, on_fenced=lambda: None, on_crash=lambda: None)
    committer.start()
    loop.start()
    publisher.start()
    with recorded.root():
        carried = recorded.tracer.carried()
    with traces.logging(carried) as follow:
        stage = follow(learner.stage_rewards([message_reward("a", {0: 1.0})]))
        report = committer.submit(stage).result(timeout=20)
    while published.get(timeout=20) < report.seq:
        pass
    for thread in (committer, loop, publisher):
        thread.stop()
    chain = [*recorded.named("root")]
    for name in ("tidegate.log", "tidegate.learn", "tidegate.publish"):
        [span] = recorded.named(name)
        assert parent_of(span) == id_of(chain[-1])
        chain.append(span)
    assert [span.attributes["tidegate.version"] for span in chain[2:] if span.attributes] == [report.seq] * 2


def test_a_report_that_was_not_logged_is_followed_no_further(recorded: Recorded) -> None:
    traces = ReportTraces(recorded.tracer)
    with recorded.root():
        carried = recorded.tracer.carried()

    def fail_to_log() -> None:
        with traces.logging(carried) as follow:
            follow(staged(1))(DRAFT)
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="disk"):
        fail_to_log()
    with traces.logging(carried) as follow:
        follow(staged(1, accepted=0))(DRAFT)
    traces.learned(1, 1)
    assert recorded.named("tidegate.learn") == []


def test_what_is_not_traced_is_not_followed(recorded: Recorded) -> None:
    stage = staged(1)
    for traces in (ReportTraces(recorded.tracer), ReportTraces(NO_TRACER)):
        with traces.logging(None) as follow:
            assert follow(stage) is stage
    with ReportTraces(NO_TRACER).logging({"traceparent": f"00-{TRACE}-{SPAN}-01"}) as follow:
        assert follow(stage) is stage
