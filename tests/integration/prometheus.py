"""A Prometheus of the tests' own, from the system's package, with rules that go faster than those that are deployed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import yaml

from tests.ports import free_port

from .service import wait_for

PACKAGE = "prometheus"


def find_prometheus() -> str | None:
    """The server, if it is installed."""
    return shutil.which("prometheus")


class Prometheus:
    """A server on a port of 127.0.0.1, with its data in `folder`. It scrapes and evaluates once a second.

    Args:
        binary: the server.
        folder: an empty one.
        target: the URL of the metrics that it scrapes.
        rules: the rules' file, as a document.
    """

    def __init__(self, binary: str, folder: Path, *, target: str, rules: dict[str, Any]) -> None:
        self._binary = binary
        self._folder = folder
        (folder / "rules.yaml").write_text(yaml.safe_dump(rules), encoding="utf-8")
        where = urlsplit(target)
        scrape = {
            "job_name": "ray",
            "metrics_path": where.path,
            "static_configs": [{"targets": [where.netloc]}],
        }
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules.yaml"],
            "scrape_configs": [scrape],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
        self._process: subprocess.Popen[bytes] | None = None
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{free_port()}", timeout=10.0)

    def start(self) -> None:
        """Start the server and wait until it answers."""
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    self._binary,
                    f"--config.file={self._folder / 'prometheus.yml'}",
                    f"--storage.tsdb.path={self._folder / 'data'}",
                    f"--web.listen-address={self._http.base_url.netloc.decode()}",
                    "--log.level=warn",
                ],
                stdout=log,
                stderr=log,
                env={**os.environ, "GOMAXPROCS": "1"},
            )
        wait_for(lambda: self._http.get("/-/ready").status_code == httpx.codes.OK)

    def stop(self) -> None:
        """End the server."""
        self._http.close()
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)

    def query(self, expression: str) -> dict[str, float]:
        """What an expression is now: labels, as JSON would have them but for the name, -> value."""
        result = self._get("query", query=expression)["result"]
        return {str(series["metric"]): float(series["value"][1]) for series in result}

    def firing(self) -> set[str]:
        """The names of the alerts that fire."""
        return {alert["labels"]["alertname"] for alert in self._get("alerts")["alerts"] if alert["state"] == "firing"}

    def wait_until_firing(self, *alerts: str) -> None:
        """Until all of these fire."""
        wait_for(lambda: set(alerts) <= self.firing(), every_s=0.2)

    def wait_until_quiet(self, *alerts: str) -> None:
        """Until none of these fires any more."""
        wait_for(lambda: not set(alerts) & self.firing(), every_s=0.2)

    def names(self) -> set[str]:
        """The names of all metrics that were ever scraped."""
        return set(self._get("label/__name__/values"))

    def rule_errors(self) -> dict[str, str]:
        """What is wrong with each rule that could not be evaluated."""
        rules = [rule for group in self._get("rules")["groups"] for rule in group["rules"]]
        return {rule["name"]: rule["lastError"] for rule in rules if rule.get("lastError")}

    def _get(self, what: str, **parameters: str) -> Any:
        assert self._process is not None, "it was not started"
        assert self._process.poll() is None, f"it has ended:\n{(self._folder / 'log').read_text()}"
        response = self._http.get(f"/api/v1/{what}", params=parameters)
        assert response.status_code == httpx.codes.OK, response.text
        return response.json()["data"]
