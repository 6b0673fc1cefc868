"""Values that travel between processes of different versions, as old and new replicas do while a deployment rolls."""

from __future__ import annotations

from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any, TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True, field_specifiers=(field, Field))
def message(cls: type[T]) -> type[T]:
    """Make a frozen dataclass with slots whose pickles the version before and the version after can read.

    Fields are pickled by name. A reader leaves out those that it does not know, and gives those that it misses their
    default: a new field needs one, and what the field means may not hang on whether the reader knows it. Python's own
    way, by position, would leave a missing field unset.
    """
    made: Any = dataclass(frozen=True, slots=True)(cls)
    # Once, for thousands are pickled in a second.
    known = {each.name: each for each in fields(made)}

    def get_state(self: Any) -> dict[str, Any]:
        return {name: getattr(self, name) for name in known}

    def set_state(self: Any, state: dict[str, Any]) -> None:
        for name, each in known.items():
            value = state[name] if name in state else _default_of(self, each)
            # The dataclass is frozen for everyone else.
            object.__setattr__(self, name, value)

    made.__getstate__, made.__setstate__ = get_state, set_state
    result: type[T] = made
    return result


def _default_of(self: Any, missing: Field[Any]) -> Any:
    if missing.default_factory is not MISSING:
        return missing.default_factory()
    if missing.default is MISSING:
        raise TypeError(
            f"a {type(self).__name__} without {missing.name!r} came from another version of Tidegate; upgrade one "
            "version at a time"
        )
    return missing.default
