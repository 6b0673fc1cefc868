from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

from deployments.trace_export import FOLDER_VARIABLE, to_files, to_otlp


@pytest.fixture(autouse=True)
def _service_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "a-gate")


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[ExportTraceServiceRequest]]:
    """What a collector that speaks OTLP over HTTP has received."""
    received: list[ExportTraceServiceRequest] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_args: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    yield received
    server.shutdown()
    thread.join()
    server.server_close()


def make_a_span(processors: list[SpanProcessor]) -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    for processor in processors:
        provider.add_span_processor(processor)
    with provider.get_tracer("test").start_as_current_span("tide", attributes={"n": 3}):
        pass
    provider.shutdown()


def test_spans_reach_a_collector_by_otlp(collector: list[ExportTraceServiceRequest]) -> None:
    make_a_span(to_otlp())
    [request] = collector
    [resource] = request.resource_spans
    assert [span.name for scope in resource.scope_spans for span in scope.spans] == ["tide"]
    names = {attribute.key: attribute.value.string_value for attribute in resource.resource.attributes}
    assert names["service.name"] == "a-gate"


def test_spans_are_lines_of_json_in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "spans"))
    [processor] = to_files()
    make_a_span([processor])
    processor.span_exporter.out.close()  # type: ignore[attr-defined]
    [file] = (tmp_path / "spans").iterdir()
    [line] = file.read_text().splitlines()
    assert json.loads(line)["name"] == "tide"


def test_files_need_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    with pytest.raises(ValueError, match=f"set {FOLDER_VARIABLE}"):
        to_files()


def test_a_service_without_a_name_is_called_tidegate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_SERVICE_NAME")
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    [processor] = to_files()
    make_a_span([processor])
    processor.span_exporter.out.close()  # type: ignore[attr-defined]
    [file] = tmp_path.iterdir()
    assert json.loads(file.read_text())["resource"]["attributes"]["service.name"] == "tidegate"
