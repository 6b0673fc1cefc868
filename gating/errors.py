"""Exceptions of the package; each says what was expected, what was found and what to do.

    Exception
      GatingError
        ConfigError          also a ValueError: a setting is missing or out of range
        ModelNotFoundError   also an OSError: no model could be loaded under a name

Each holds its message and nothing else, so that it survives pickling between actors. A wrong argument to a
function is a plain `ValueError` (or a `TypeError` for a wrong type).
"""

from __future__ import annotations


class GatingError(Exception):
    """Base of everything this package raises on purpose, wrong arguments apart."""


class ConfigError(GatingError, ValueError):
    """A setting is missing or out of its range; the message names its flag."""


class ModelNotFoundError(GatingError, OSError):
    """No model could be loaded under a name; the message lists what was tried."""
