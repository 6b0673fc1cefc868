"""Several Ray nodes on this machine: each with its own raylet and object store, to be added, drained and killed.

All of them have one address, which Ray finds out (127.0.0.1 will not do for joining a cluster). So what would be a port
of each node's own is shared: the proxy runs on the head only (`proxy_location: HeadOnly`), and replicas take the ports
that are free.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import psutil
from ray._private.internal_api import node_stats
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2, gcs_pb2

from deployments.local import end_processes, set_ray_environment, wait_until_ended
from tests.ports import free_port

STORE_BYTES = 100 * 2**20
ENVIRONMENT = {
    # A dead node is found out after about two seconds instead of fifteen. The patience with one that answers late is
    # as long as ever: here all nodes share two cores.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_failure_threshold": "3",
}


@dataclass(frozen=True, slots=True)
class Stored:
    """What a node's object store has taken in since it started, whatever it has dropped again."""

    objects: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Located:
    """An actor that is alive."""

    id: str
    title: str
    node_id: str
    pid: int
    restarts: int


class LocalCluster:
    """A head without CPUs, as KubeRay recommends, and the nodes that are added to it.

    Args:
        environment: of every Ray process, over `ENVIRONMENT` and what `tidegate serve` sets.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        # The proxy starts long after its ports were chosen: they are none that other services try first.
        ports = {f"RAY_SERVE_HAPROXY_{what}_PORT": str(free_port()) for what in ("STATS", "METRICS")}
        self.environment = {**ENVIRONMENT, **ports, **environment}
        self._nodes: dict[str, Any] = {}
        handler = signal.getsignal(signal.SIGTERM)
        with self._in_environment():
            set_ray_environment()
            # Whoever deploys must say the same ports; and nodes that come later have the same.
            is_rays = ("RAY_", "MALLOC_")
            self.environment |= {name: value for name, value in os.environ.items() if name.startswith(is_rays)}
            self._cluster = Cluster()
            self.head_id = self._add(num_cpus=0)
        # Ray takes it for itself.
        signal.signal(signal.SIGTERM, handler)
        self._gcs = GcsClient(address=self.address)

    @property
    def address(self) -> str:
        """For `ray.init` and `tidegate serve --address`."""
        return str(self._cluster.address)

    def add_node(self, num_cpus: int, **labels: str) -> str:
        """Start a node, and wait until Ray has it; its id."""
        with self._in_environment():
            return self._add(num_cpus=num_cpus, labels={f"tidegate/{name}": value for name, value in labels.items()})

    def kill_node(self, node_id: str) -> None:
        """Let a node fail: SIGKILL for its raylet and everything that this has started, at once."""
        for process in self._processes(node_id):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._cluster.remove_node(self._nodes.pop(node_id), allow_graceful=False)

    def drain_node(self, node_id: str) -> None:
        """Ask for a node to be emptied, as `ray drain-node` and the autoscaler do."""
        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        accepted, why = self._gcs.drain_node(node_id, reason, "a test", 0)
        assert accepted, why

    def forget_node(self, node_id: str) -> None:
        """Tidy up after a node whose raylet has ended by itself."""
        self._cluster.remove_node(self._nodes.pop(node_id), allow_graceful=False)

    def alive(self) -> set[str]:
        """The nodes that Ray believes to be there."""
        nodes = self._gcs.get_all_node_info(timeout=10).values()
        return {node.node_id.hex() for node in nodes if node.state == gcs_pb2.GcsNodeInfo.ALIVE}

    def stored(self, node_id: str) -> Stored:
        """See `Stored`; asks the node's raylet."""
        node = self._nodes[node_id]
        stats = node_stats(node.node_ip_address, node.node_manager_port, include_memory_info=False).store_stats
        return Stored(stats.cumulative_created_objects, stats.cumulative_created_bytes)

    def actors(self, title: str) -> list[Located]:
        """The actors that are alive and whose class or name has this."""
        found = []
        for actor in self._cluster.global_state.actor_table(None, actor_state_name="ALIVE").values():
            if title in f"{actor['ActorClassName']} {actor['Name']}":
                where = actor["Address"]["NodeID"]
                found.append(Located(actor["ActorID"], actor["Name"], where, actor["Pid"], int(actor["NumRestarts"])))
        return found

    def shutdown(self) -> None:
        """End every process of the cluster. Nothing of it is worth a graceful end once the service is gone."""
        processes = [process for node_id in self._nodes for process in self._processes(node_id)]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for node in self._nodes.values():
            self._cluster.remove_node(node, allow_graceful=False)
        self._nodes.clear()
        self._cluster.global_state.disconnect()
        end_processes(wait_until_ended(processes, 10.0))

    def _add(self, **options: Any) -> str:
        node = self._cluster.add_node(
            object_store_memory=STORE_BYTES,
            include_dashboard=False,
            include_log_monitor=False,
            **options,
        )
        self._nodes[node.node_id] = node
        return str(node.node_id)

    def _processes(self, node_id: str) -> list[psutil.Process]:
        """A node's raylet with all workers, and the head's other processes."""
        found = []
        for kind in self._nodes[node_id].all_processes.values():
            for info in kind:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process = psutil.Process(info.process.pid)
                    found += [process, *process.children(recursive=True)]
        return found

    @contextlib.contextmanager
    def _in_environment(self) -> Iterator[None]:
        """What Ray starts has the environment of whoever starts it."""
        before = dict(os.environ)
        os.environ.update(self.environment)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)
