from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.service import ROOT, TIDEGATE, Service, wait_for

from .local_cluster import LocalCluster

PATIENCE_S = 240.0
"""Several replicas start at the same time, on the cores of one machine."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.integration)
            item.add_marker(pytest.mark.long)


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """A head without CPUs and without nodes."""
    cluster = LocalCluster({})
    yield cluster
    cluster.shutdown()


class ClusterService(Service):
    """A `tidegate serve --address` that has joined a cluster: what it deploys is not among its own processes."""

    def __init__(self, config: dict[str, Any], folder: Path, cluster: LocalCluster) -> None:
        config["proxy_location"] = "HeadOnly"
        super().__init__(config, folder)
        self.cluster = cluster

    def start(self, *prefixes: str) -> None:
        command = [*TIDEGATE, "serve", "--config", str(self.config_path), "--address", self.cluster.address]
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, **self.cluster.environment},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            wait_for(lambda: self._is_up(prefixes or ("",)), timeout_s=PATIENCE_S)
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
