"""Where spans go: functions for `exporter_import_path` of Serve's `tracing_config`.

OpenTelemetry's own variables set the rest (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_HEADERS, OTEL_SERVICE_NAME).
"""

from __future__ import annotations

import os
from pathlib import Path

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SimpleSpanProcessor

FOLDER_VARIABLE = "TIDEGATE_TRACE_FOLDER"


def to_otlp() -> list[SpanProcessor]:
    """To an OpenTelemetry collector, by OTLP over HTTP, in batches from a thread of its own.

    Raises:
        ImportError: the extra `tracing` is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise ImportError(
            "exporting spans by OTLP needs opentelemetry-exporter-otlp-proto-http; pip install 'tidegate[tracing]'"
        ) from error
    _name_the_service()
    return [BatchSpanProcessor(OTLPSpanExporter())]


def to_files() -> list[SpanProcessor]:
    """To the folder that TIDEGATE_TRACE_FOLDER names: a file per process, a line of JSON per span, at once.

    Raises:
        ValueError: the variable is not set.
    """
    folder = os.environ.get(FOLDER_VARIABLE)
    if not folder:
        raise ValueError(f"exporting spans to files needs a folder; set {FOLDER_VARIABLE}")
    _name_the_service()
    Path(folder).mkdir(parents=True, exist_ok=True)
    # Open for as long as the process lives.
    lines = (Path(folder) / f"spans-{os.getpid()}.jsonl").open("a", encoding="utf-8", buffering=1)
    return [SimpleSpanProcessor(ConsoleSpanExporter(out=lines, formatter=_line))]


def _line(span: ReadableSpan) -> str:
    return str(span.to_json(indent=None)) + "\n"


def _name_the_service() -> None:
    # Read when Serve makes the provider, which is next.
    os.environ.setdefault("OTEL_SERVICE_NAME", "tidegate")
