"""Rules by their settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from .base import Rule


class RuleBook:
    """One object for each rule, since a rule may keep what is costly to work out again.

    Args:
        known: rules that there are already, with their settings.
        build: makes another one from its settings.
    """

    def __init__(self, known: list[tuple[Mapping[str, Any], Rule]], build: Callable[[Mapping[str, Any]], Rule]) -> None:
        self._build = build
        self._rules = {_key(settings): rule for settings, rule in known}

    def of(self, settings: Mapping[str, Any]) -> Rule:
        """The rule with these settings."""
        key = _key(settings)
        if key not in self._rules:
            self._rules[key] = self._build(settings)
        return self._rules[key]


def _key(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)
