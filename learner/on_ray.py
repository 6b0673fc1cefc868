"""Where on Ray things of Tidegate's are: names, nodes, logs. Who only looks for them does not pay for torch."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray

from .config import LearnerConfig
from .protocol import Node

NAMESPACE = "tidegate"


def learner_name(app: str) -> str:
    """The name of an application's learner among Ray's actors of `NAMESPACE`."""
    return f"tidegate:{app}:learner"


def this_node() -> Node:
    """The node of Ray that this process belongs to."""
    return Node(ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address(), socket.gethostname())


def ray_log_folder() -> Path:
    """Where processes of Tidegate's on this node have their logs, beside Ray's own. Ray has no public name for that."""
    node = ray._private.worker._global_node
    assert node is not None, "Ray runs where this is asked"
    return Path(node.get_logs_dir_path()) / "tidegate"


def placement(config: LearnerConfig, node_labels: Mapping[str, str]) -> dict[str, Any]:
    """Ray's options for where a learner starts: on a node with these labels while one of them has room."""
    # A file is on one node, so whoever writes it must come back to that one: the head node, which there always is.
    on_head = {"node:__internal_head__": 0.001} if config.log.url.startswith("sqlite") else {}
    if not node_labels:
        return {"resources": on_head}
    # A learner that waits for its favourite node learns nothing: any other is better.
    return {
        "resources": on_head,
        "label_selector": dict(node_labels),
        "fallback_strategy": [{"label_selector": {}}],
    }
