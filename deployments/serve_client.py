"""Serve's own client. Where Serve listens, and deploying a parsed config, have no public function in Ray 2.60."""

from __future__ import annotations

from ray.serve._private.client import ServeControllerClient
from ray.serve.context import _get_global_client


def serve_client() -> ServeControllerClient:
    """The client of the Serve instance that this process belongs to or has started.

    Raises:
        RuntimeError: there is none.
    """
    client = running_serve()
    if client is None:
        raise RuntimeError("Serve is not running; call serve.start first")
    return client


def running_serve() -> ServeControllerClient | None:
    """The client of the Serve instance of the Ray cluster that this process is connected to; None if there is none."""
    return _get_global_client(raise_if_no_controller_running=False)
