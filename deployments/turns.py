"""One after the other on a cluster: whoever reads what is deployed there and deploys something else has to be alone.

Serve takes a config whole and compares it with nothing. So of two that read at the same instant and deploy, each with
what it has read, the second one deletes what the first has added.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import ray
from ray.exceptions import ActorAlreadyExistsError

from .local import ServiceError

_NAME, _NAMESPACE = "turn", "tidegate-turns"
_TIMEOUT_S = 120.0
"""More than a turn takes in which Serve is started, or shut down."""
_POLL_S = 0.1


@contextlib.contextmanager
def turn(*, shared: bool) -> Iterator[None]:
    """Be the only one in here of all that are connected to this Ray cluster.

    An actor's name is the lock: Ray gives it to one only, and takes it back when the process that asked for it ends,
    however it ends. So there is no lease to renew and none to wait for.

    Args:
        shared: whether others may know of the cluster; of one's own nobody does, and nothing is done.

    Raises:
        ServiceError: another is in here for minutes.
    """
    if not shared:
        yield
        return
    actor = _take()
    try:
        yield
    finally:
        ray.kill(actor)


def _take() -> Any:
    nothing: Any = ray.remote(_nothing())
    deadline_s = time.monotonic() + _TIMEOUT_S
    while time.monotonic() < deadline_s:
        with contextlib.suppress(ActorAlreadyExistsError):
            return nothing.options(name=_NAME, namespace=_NAMESPACE, num_cpus=0).remote()
        time.sleep(_POLL_S)
    raise ServiceError(
        f"another tidegate is deploying on that cluster, or taking down, for more than {_TIMEOUT_S:g} s; see what it "
        "waits for, end it, and try again"
    )


def _nothing() -> type:
    """A class of its own: one of a module would have to be imported, where there may be only Ray."""

    class Nothing:
        pass

    return Nothing
