"""Starting and stopping applications on a Ray cluster of this machine's own, or on one that runs already."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import ray
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ServeApplicationSchema, ServeDeploySchema

from gating.model_files import locate
from learner.chain import check_source
from learner.log_check import check_log, is_new
from learner.on_ray import NAMESPACE, learner_name, ray_log_folder

from .auth import check_credentials, check_exposure
from .config import ReplicaArgs, ServeArgs
from .local import (
    RunFile,
    ServiceError,
    claim_port,
    descendants,
    end_processes,
    haproxies,
    ignore_signals,
    interrupt_on_signals,
    run_file_path,
    wait_until_ready,
)
from .machine import Machine, shortages
from .ports import PortClaims
from .serve_client import running_serve, serve_client
from .serve_config import IMPORT_PATH, parse_args, read_serve_config, with_absolute_paths
from .shared_serve import remove_apps, start_or_join_serve, tidegate_apps
from .turns import turn

logger = logging.getLogger(__name__)

_OBJECT_STORE_BYTES = 512 * 2**20
_DEPLOY_TIMEOUT_S = 300.0
_READY_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Served:
    """An application that is being served."""

    url: str
    auth_mode: str


@contextlib.contextmanager
def running_service(
    config_path: Path, *, address: str | None, say: Callable[[str], None], reset: bool = False
) -> Iterator[list[Served]]:
    """Serve what the config says while the body runs. Yields what is served.

    Args:
        config_path: a Serve config.
        address: a Ray cluster to join, None to start one here.
        say: told what is being done.
        reset: set the applications' checkpoints aside, so that they may start with another event log.

    Raises:
        ServeConfigError, AuthSetupError, ModelNotFoundError, LearnerError, ServiceError: it cannot be served; nothing
            is left behind.
    """
    config = with_absolute_paths(read_serve_config(config_path), config_path.resolve().parent)
    host, port = config.http_options.host, config.http_options.port
    apps = [app.name for app in config.applications]
    args = {app.name: _checked_args(app, host) for app in config.applications if app.import_path == IMPORT_PATH}
    if not args:
        raise ServiceError(f"{config_path} names no application of Tidegate's; set import_path: {IMPORT_PATH}")
    with PortClaims() as claims:
        if address is None:
            claim_port(claims, host, port)
            if not reset:
                _check_storage(args)
            # Replicas with an environment of their own may have their model there.
            here = [app.name for app in config.applications if app.name in args and not app.runtime_env]
            look_around([args[name].encoder.model_name for name in here], say)
        node_id, deployed = "", False
        try:
            interrupt_on_signals()
            node_id = _connect(address, args.values(), say)
            interrupt_on_signals()
            # Where Serve runs, the port is its.
            if address is not None and running_serve() is None:
                claim_port(claims, host, port)
            _write_run_file(port, node_id)
            if reset:
                set_checkpoints_aside(args, say)
                if address is None:
                    _check_storage(args)
            say("loading the encoder and starting the learner ...")
            logging.getLogger("ray.serve").setLevel(logging.ERROR)
            with turn(shared=address is not None):
                everything = start_or_join_serve(config)
                deployed = True
                _deploy(everything)
            _wait_until_running(apps)
            served = [
                Served(_url(host, port, app.route_prefix), args[app.name].auth.mode)
                for app in config.applications
                if app.name in args
            ]
            for application in served:
                wait_until_ready(application.url, _READY_TIMEOUT_S, patience_s=_patience_s(args.values()))
            _write_run_file(port, node_id)
            yield served
        finally:
            ignore_signals()
            # What was refused was not deployed, and may have the name of another's.
            _stop(apps if deployed else [], node_id, say)
            _remove_run_file(port)


def _connect(address: str | None, args: Iterable[ServeArgs], say: Callable[[str], None]) -> str:
    """Start Ray here, or join a cluster. Returns the node's id if it is ours: only then its HAProxy is ours to end."""
    if address is None:
        say("starting Ray ...")
        node_id = _start_ray(sum(_cpus(of_app.replica) for of_app in args))
        folders = {of_app.logging.folder or str(ray_log_folder()) for of_app in args}
        say(f"logs go to {', '.join(sorted(folders))}")
        return node_id
    say("joining Ray ...")
    _join_ray(address)
    return ""


def _stop(apps: Collection[str], node_id: str, say: Callable[[str], None]) -> None:
    """Take the applications down, and end every process that was started."""
    started = descendants() + haproxies(node_id)
    if ray.is_initialized():
        say("stopping ...")
        # Ray complains, on standard output, that the controller has ended, as it was asked to.
        with contextlib.redirect_stdout(io.StringIO()):
            _take_down(apps, shared=not node_id)
            ray.shutdown()
    end_processes(started)


def _url(host: str, port: int, route_prefix: str | None) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}" + (route_prefix or "").rstrip("/")


def _write_run_file(port: int, node_id: str) -> None:
    """Tell `tidegate down` of this process, unless another serves by the same Serve instance, and so on that port."""
    other = RunFile.read(port)
    mine = RunFile.of_this_process(port, node_id)
    if other is None or other.serve == mine.serve or other.serve.find() is None:
        mine.write()


def _remove_run_file(port: int) -> None:
    found = RunFile.read(port)
    if found is not None and found.serve == RunFile.of_this_process(port, "").serve:
        run_file_path(port).unlink(missing_ok=True)


def metrics_url() -> str:
    """Where a Prometheus on this machine finds what this node's processes tell."""
    node_id = ray.get_runtime_context().get_node_id()
    [port] = [node["MetricsExportPort"] for node in ray.nodes() if node["NodeID"] == node_id]
    return f"http://127.0.0.1:{port}/metrics"


def _checked_args(app: ServeApplicationSchema, host: str) -> ServeArgs:
    """An application's arguments, checked for what would fail later and far away."""
    args = parse_args(app.args if isinstance(app.args, dict) else app.args.model_dump())
    check_exposure(args.auth, host)
    check_credentials(args.auth)
    check_source(args.chain)
    check_log(args.learner, app.name)
    return args


def _check_storage(args: Mapping[str, ServeArgs]) -> None:
    """Refuse what the learners, which are on this machine, would refuse."""
    going_on = {app: of_app.learner for app, of_app in args.items() if not is_new(of_app.learner, app)}
    if going_on:
        # Not above: it brings torch, for which a start without anything to go on from need not wait.
        from learner.storage import check_storage

        for app, learner in going_on.items():
            check_storage(learner, app)


def look_around(models: Iterable[str], say: Callable[[str], None]) -> None:
    """Find the encoders' models before replicas look for them in vain, and say what this machine is short of.

    What only the hub has is fetched.

    Raises:
        ModelNotFoundError: there is none of a name.
    """
    for model in models:
        locate(model)
    for shortage in shortages(Machine.here(), object_store_bytes=_OBJECT_STORE_BYTES):
        say(shortage)
    if address := os.environ.get("RAY_ADDRESS"):
        say(f"RAY_ADDRESS ({address}) is not followed, Ray is started here; `--address auto` joins that cluster")


def _patience_s(args: Iterable[ServeArgs]) -> float:
    """For how long a learner may say that it cannot start: it has itself waited for another's claim to run out."""
    return max(of_app.learner.log.lease_s for of_app in args)


def set_checkpoints_aside(args: Mapping[str, ServeArgs], say: Callable[[str], None]) -> None:
    """Move the checkpoints of applications, by name, to where no learner looks for them. Nothing is deleted.

    Raises:
        CheckpointError: the storage fails.
    """
    from learner.storage import open_checkpoints

    for app, of_app in args.items():
        store = open_checkpoints(of_app.learner, app)
        if store is None:
            continue
        names = store.set_aside(log_id=None)
        what = f"set aside {len(names)}: {', '.join(names)}" if names else "there were none to set aside"
        say(f"checkpoints of {app}: {what}")


def _cpus(replica: ReplicaArgs) -> float:
    """How many CPUs Ray must have for an application."""
    return replica.most_replicas * replica.num_cpus + replica.learner_num_cpus


def _start_ray(cpus: float) -> str:
    """Start Ray here. Returns the node's id."""
    ray.init(
        address="local",
        namespace="serve",
        logging_level=logging.ERROR,
        log_to_driver=False,
        # A laptop with fewer cores than replicas still serves: Ray's CPUs are its bookkeeping, not the machine's.
        num_cpus=max(os.cpu_count() or 1, int(cpus) + 1),
        object_store_memory=_OBJECT_STORE_BYTES,
        include_dashboard=False,
    )
    return str(ray.get_runtime_context().get_node_id())


def _join_ray(address: str) -> None:
    """Connect to a cluster that runs.

    Raises:
        ServiceError: there is none, or it does not take us.
    """
    try:
        ray.init(address=address, namespace="serve", logging_level=logging.ERROR, log_to_driver=False)
    except (OSError, RuntimeError, ValueError, RayError) as error:
        raise ServiceError(
            f"the Ray cluster at {address} cannot be joined ({error}); name one that runs with --address HOST:PORT, "
            "and export RAY_AUTH_MODE and its token as on its nodes"
        ) from error


def _deploy(config: ServeDeploySchema) -> None:
    """Tell Serve what is to run."""
    serve_client().deploy_apps(config)


def _wait_until_running(wanted: Collection[str]) -> None:
    """Wait until the wanted applications run.

    Raises:
        ServiceError: one does not; the message is Serve's.
    """
    deadline_s = time.monotonic() + _DEPLOY_TIMEOUT_S
    while time.monotonic() < deadline_s:
        status = {name: app for name, app in serve.status().applications.items() if name in wanted}
        failed = [f"{name}: {app.message}" for name, app in status.items() if app.status == "DEPLOY_FAILED"]
        if failed:
            raise ServiceError("deploying failed: " + "\n".join(failed))
        if all(name in status and status[name].status == "RUNNING" for name in wanted):
            return
        time.sleep(0.1)
    raise ServiceError(f"not deployed within {_DEPLOY_TIMEOUT_S:g} s: {status}")


def _take_down(apps: Collection[str], *, shared: bool) -> None:
    """Remove applications and their learners; other applications of the cluster, which may be shared, stay."""
    if not apps:
        return
    try:
        remove_apps(apps, shared=shared)
    except (RayServeException, RayError, ServiceError, TimeoutError) as error:
        logger.warning("take_down error=%s", error)
    for app in apps:
        stop_learner(app)


def stop_learner(app: str) -> bool:
    """Let an application's learner finish and end it for good; whether there was one."""
    try:
        handle = ray.get_actor(learner_name(app), namespace=NAMESPACE)
    except ValueError:
        return False
    with contextlib.suppress(RayError):
        ray.get(handle.stop.options(concurrency_group="operator").remote(), timeout=10)
    ray.kill(handle, no_restart=True)
    return True


def take_down_cluster_apps(address: str) -> list[str]:
    """Remove every Tidegate application from a running cluster. Returns their names.

    Raises:
        ServiceError: there is no such cluster.
    """
    _join_ray(address)
    try:
        learners = {
            actor["name"].removeprefix("tidegate:").removesuffix(":learner")
            for actor in ray.util.list_named_actors(all_namespaces=True)
            if actor["namespace"] == NAMESPACE and actor["name"].startswith("tidegate:")
        }
        names = sorted(learners | tidegate_apps())
        _take_down(names, shared=True)
        return names
    finally:
        ray.shutdown()
