"""The page of all calls, from the application's own OpenAPI document."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from deployments.api import build_api
from learner.config import LoggingConfig
from learner.tracing import NO_TRACER

INTRODUCTION = """# HTTP

Made from the service's OpenAPI document, which a running service shows at `/docs` (for a browser) and `/openapi.json`.
JSON in, JSON out. Errors are problem documents ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)) with the keys
`type, title, status, detail, code`. What a call needs where `auth.mode` is not `none` is in
[Who may call](../run-on-your-subnet.md#who-may-report-rewards).
"""
FRAMEWORKS_OWN = "HTTPValidationError"
"""What FastAPI says of bodies that it would refuse; here problems are answered."""


def http_page() -> str:
    """Markdown: each call with its body, its answers and its errors."""
    # The document is about routes and their models; nothing is called.
    gate: Any = SimpleNamespace(logging=LoggingConfig(), tracer=NO_TRACER)
    document = build_api(gate).openapi()
    schemas = document.get("components", {}).get("schemas", {})
    lines = [INTRODUCTION]
    for path, calls in document["paths"].items():
        for method, call in calls.items():
            lines += _call(method, path, call)
    lines += ["## Bodies and answers", ""]
    for name, schema in schemas.items():
        if name not in (FRAMEWORKS_OWN, "ValidationError"):
            lines += _schema(name, schema)
    return "\n".join(lines)


def _call(method: str, path: str, call: dict[str, Any]) -> list[str]:
    lines = [f"## {method.upper()} {path}", "", call.get("description", ""), ""]
    body = call.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
    if body:
        lines += ["Body:", "", *_table(body)]
    parameters = {value["name"]: value["schema"] for value in call.get("parameters", ()) if value["in"] == "query"}
    if parameters:
        lines += ["Query:", "", *_table({"properties": parameters})]
    lines += ["| status | |", "|---|---|"]
    for status, answer in call["responses"].items():
        kinds = [_kind(content.get("schema", {})) for content in answer.get("content", {}).values()]
        lines.append(f"| {status} | {answer.get('description', '')} {', '.join(kind for kind in kinds if kind)} |")
    return [*lines, ""]


def _schema(name: str, schema: dict[str, Any]) -> list[str]:
    lines = [f"### {name}", "", " ".join(schema.get("description", "").split()), ""]
    return [*lines, *_table(schema)] if schema.get("properties") else lines


def _table(schema: dict[str, Any]) -> list[str]:
    """The keys of an object, and below them those of the objects in its lists."""
    lines, within = ["| key | | |", "|---|---|---|"], []
    for key, value in schema["properties"].items():
        needed = "" if key in schema.get("required", ()) else f"optional{_default(value)}"
        meaning = " ".join(value.get("description", "").split()).replace("|", "\\|")
        lines.append(f"| `{key}` | {_kind(value)}{_bounds(value)}{'; ' + needed if needed else ''} | {meaning} |")
        if value.get("items", {}).get("properties"):
            within += [f"Each of `{key}`:", "", *_table(value["items"])]
    return [*lines, "", *within]


def _default(value: dict[str, Any]) -> str:
    return f", {value['default']}" if value.get("default") is not None else ""


def _bounds(value: dict[str, Any]) -> str:
    names = {"minItems": "at least", "minLength": "at least", "minimum": "≥", "maxItems": "at most", "maximum": "≤"}
    told = [f"{sign} {value[name]:g}" for name, sign in names.items() if name in value]
    return f" ({', '.join(told)})" if told else ""


def _kind(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        if name == FRAMEWORKS_OWN:
            return "problem"
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema or "oneOf" in schema:
        return " or ".join(_kind(part) for part in schema.get("anyOf", schema.get("oneOf", ())))
    if schema.get("type") == "array":
        return f"list of {_kind(schema.get('items', {}))}".removesuffix(" of ")
    if "const" in schema or "enum" in schema:
        return " ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "object":
        return "object"
    kinds = {"string": "text", "integer": "integer", "number": "number", "boolean": "true or false", "null": "null"}
    return kinds.get(schema.get("type", ""), schema.get("type", ""))
