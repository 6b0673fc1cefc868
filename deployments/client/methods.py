"""Methods that are made of functions, and look to readers and tools like methods that were written out."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import update_wrapper
from typing import Any, TypeVar

M = TypeVar("M", bound=Callable[..., Any])


def like(function: Callable[..., Any], method: M) -> M:
    """`method`, with the name, the docstring and the arguments of `function` after its `self`."""
    update_wrapper(method, function)
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    asked = inspect.signature(function)
    signature = asked.replace(
        parameters=[own, *asked.parameters.values()], return_annotation=_result(asked.return_annotation)
    )
    method.__signature__ = signature  # type: ignore[attr-defined]
    return method


def _result(annotation: Any) -> Any:
    """What a call's annotation, `Call[...]`, says that it results in."""
    text = str(annotation)
    return text[len("Call[") : -1] if text.startswith("Call[") else annotation
