"""Views of the network as JSON, for the event log and for checkpoints."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

import orjson

from gating.metagraph import MetagraphView


def view_to_json(view: MetagraphView) -> bytes:
    """The view as a JSON object with a key per attribute."""
    return orjson.dumps(asdict(view))


def view_from_json(text: bytes | str) -> MetagraphView:
    """The view that `view_to_json` has written.

    Raises:
        ValueError: the text is no such object.
    """
    known = {field.name for field in fields(MetagraphView)}
    saved: Any = orjson.loads(text)
    if not isinstance(saved, dict) or not known >= saved.keys():
        raise ValueError(f"a view is an object with the keys {sorted(known)}, got {text[:100]!r}")
    attributes: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in saved.items()
    }
    try:
        return MetagraphView(**attributes)
    except TypeError as error:
        raise ValueError(f"not a view: {error}") from error
