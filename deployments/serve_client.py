"""Serve's own client. Where Serve listens, and deploying a parsed config, have no public function in Ray 2.60."""

from __future__ import annotations

from ray.serve._private.client import ServeControllerClient
from ray.serve.context import _get_global_client


def serve_client() -> ServeControllerClient:
    """The client of the Serve instance that this process belongs to or has started.

    Raises:
        RuntimeError: there is none.
    """
    client = _get_global_client()
    if client is None:
        raise RuntimeError("Serve is not running; call serve.start first")
    return client
