"""The page of all settings, from the pydantic models that read them."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from deployments.config import ServeArgs

INTRODUCTION = """# Configuration

What `args:` of an application in a Serve config may hold. It is made from the models that read it, so it is complete:
a key that is not here is refused. Settings are immutable while a service runs.
"""
SIGNS = {Ge: "≥", Gt: ">", Le: "≤", Lt: "<"}


def configuration_page() -> str:
    """Markdown, one section a model."""
    sections = [INTRODUCTION]
    for path, model in _models("args", ServeArgs):
        sections.append(_section(path, model))
    return "\n".join(sections)


def _models(path: str, model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """The model and those of its fields, each with the path at which it stands, depth first."""
    yield path, model
    for name, field in model.model_fields.items():
        inner = list(_inner_models(field.annotation))
        for kind in inner:
            tag = _tag(kind) if len(inner) > 1 else ""
            yield from _models(f"{path}.{name}{tag}", kind)


def _inner_models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _inner_models(part)


def _tag(model: type[BaseModel]) -> str:
    """What tells this model from the others that may stand in its place, such as ` (mode: api_key)`."""
    for name, field in model.model_fields.items():
        if get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1:
            return f" ({name}: {get_args(field.annotation)[0]})"
    return f" ({model.__name__})"


def _section(path: str, model: type[BaseModel]) -> str:
    lines = [f"## {path}", "", " ".join((model.__doc__ or "").split()), ""]
    lines += ["| key | values | default | |", "|---|---|---|---|"]
    for name, field in model.model_fields.items():
        meaning = " ".join((field.description or "").split())
        cells = (f"`{name}`", _values(field), _default(field), meaning)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*lines, ""])


def _values(field: FieldInfo) -> str:
    bounds = [f"{SIGNS[type(bound)]} {_bound(bound)}" for bound in field.metadata if type(bound) in SIGNS]
    bounds += [f"at least {bound.min_length} long" for bound in field.metadata if isinstance(bound, MinLen)]
    bounds += [f"at most {bound.max_length} long" for bound in field.metadata if isinstance(bound, MaxLen)]
    return ", ".join([_kind(field.annotation), *bounds])


def _bound(bound: Any) -> str:
    value = next(getattr(bound, name) for name in ("ge", "gt", "le", "lt") if hasattr(bound, name))
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


def _kind(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " ".join(f"`{value}`" for value in parts)
    if origin is Annotated:
        return _kind(parts[0])
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_kind(part) for part in parts))
    if origin in (tuple, list, frozenset):
        return f"list of {_kind(parts[0])}"
    if annotation is type(None):
        return "null"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return {str: "text", int: "integer", float: "number", bool: "true or false"}.get(annotation, "value")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True) if field.default_factory is None else PydanticUndefined
    if isinstance(value, BaseModel):
        return _tag(type(value)).strip(" ()").removesuffix(type(value).__name__)
    if value is PydanticUndefined:
        return ""
    return f"`{json.dumps(value, default=list)}`"
