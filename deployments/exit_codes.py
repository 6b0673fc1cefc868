"""What the command line's exit codes mean."""

from __future__ import annotations

OK = 0
FAILED = 1
"""It was tried and failed, or the service refused it."""
USAGE = 2
"""The arguments make no sense, so nothing was tried."""
UNREACHABLE = 3
"""No service answers at that address."""
INTERRUPTED = 130
"""Ctrl-C."""
