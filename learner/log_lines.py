"""Log records as lines: JSON for machines, or text. Pure: no files, no clock but the record's own.

A message `"resync block=%d reset=%d"` is an event with keys: in JSON each key is a field, with the value as it was
given. An exception's message may quote what a caller sent, so it is left out where callers' texts come by.
"""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

Context = Callable[[], Mapping[str, Any]]
"""Fields of whatever is being done where the record is made, such as the request's id."""

_PLACEHOLDER = re.compile(r"%[-+ #0]*\d*(?:\.\d+)?[a-zA-Z%]")
_KEY = re.compile(r"(?:^|\s)([A-Za-z_]\w*)=$")
_EVENT = re.compile(r"^[a-z][a-z0-9_]*(?=\s+\w+=|$)")
_RESERVED = frozenset({"time", "level", "logger", "event", "message", "error", "traceback"})


def fields_of(template: str, args: object) -> dict[str, Any]:
    """The keys of a record's message and their values as they were given.

    Args:
        template: the message as it is written in the code, `"resync block=%d"`.
        args: what fills it.
    """
    values = args if isinstance(args, tuple) else (args,)
    places = [place for place in _PLACEHOLDER.finditer(template) if place.group() != "%%"]
    if not args or isinstance(args, Mapping) or len(places) != len(values):
        return {}
    fields: dict[str, Any] = {}
    for place, value in zip(places, values, strict=True):
        key = _KEY.search(template, 0, place.start())
        if key is not None:
            fields[key.group(1) + "_" if key.group(1) in _RESERVED else key.group(1)] = value
    return fields


class JsonLines(logging.Formatter):
    """A record as one line of JSON: `time, level, logger, event` (or `message`), the event's keys, and its context.

    Args:
        about: fields of every line: which application, which process.
        context: fields of what is being done.
        tells_errors: whether what an exception says is told, besides its type and where it was raised.
    """

    def __init__(self, about: Mapping[str, Any], context: Context, *, tells_errors: bool) -> None:
        super().__init__()
        self._about = about
        self._context = context
        self._tells_errors = tells_errors

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        template = record.msg if isinstance(record.msg, str) else str(record.msg)
        event = _EVENT.search(template)
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            **({"event": event.group()} if event else {}),
            "message": record.getMessage(),
            **self._about,
            **self._context(),
            **fields_of(template, record.args),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line |= describe_error(record.exc_info[1], tells=self._tells_errors)
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY).decode()


class TextLines(logging.Formatter):
    """A record as text, its context behind it. The arguments are those of `JsonLines`."""

    def __init__(self, about: Mapping[str, Any], context: Context, *, tells_errors: bool) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")
        self._context = context
        self._tells_errors = tells_errors

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (the name that logging calls)
        """See `logging.Formatter`."""
        context = "".join(f" {key}={value}" for key, value in self._context().items())
        return super().formatMessage(record) + context

    def formatException(self, ei: Any) -> str:  # noqa: N802 (likewise)
        """See `logging.Formatter`."""
        described = describe_error(ei[1], tells=self._tells_errors)
        return "\n".join([*described["traceback"], described["error"]])

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        # Another handler's formatter may have left its own text there, which this one would take over.
        record.exc_text = None
        try:
            return super().format(record).replace("\n", "\n  ")
        finally:
            record.exc_text = None


def describe_error(error: BaseException | None, *, tells: bool) -> dict[str, Any]:
    """An exception and those that led to it: `error`, the type and, if it is to be told, the message; `traceback`.

    The traceback's lines are places in the code, the innermost last; they quote code, never values.
    """
    chain = list(_chain(error))
    places = [place for cause in reversed(chain) for place in _places(cause, is_last=cause is error)]
    said = f": {error}" if tells and str(error) else ""
    return {"error": f"{type(error).__name__}{said}", "traceback": places}


def _chain(error: BaseException | None) -> list[BaseException]:
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return chain


def _places(error: BaseException, *, is_last: bool) -> list[str]:
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{frame.filename}:{frame.lineno} {frame.name}: {frame.line}" for frame in frames]
    return places if is_last else [*places, f"then, after {type(error).__name__}:"]
