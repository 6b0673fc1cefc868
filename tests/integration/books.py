"""What tests of durability ask a service, its database and its checkpoints."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import torch
from typer.testing import CliRunner

from deployments.cli import app
from learner.checkpoint import CheckpointStore

from .service import ROOT, TIDEGATE, Service, wait_for

PROMPTS = ["Which harbour has the highest tide?", "moon", "salt " * 40]


def select(service: Service, text: str = PROMPTS[0], k: int = 2, **options: Any) -> dict[str, Any]:
    """One selection."""
    selection: dict[str, Any] = service.post("/v1/select", {"messages": [text], "k": k, **options})["selections"][0]
    return selection


def reward(service: Service, selection: dict[str, Any], values: list[float], wait: str = "published") -> dict[str, Any]:
    """Report a selection's rewards."""
    return service.post("/v1/rewards", {"rewards": [item(selection, values)], "wait": wait})


def item(selection: dict[str, Any], values: list[float]) -> dict[str, Any]:
    """A selection's rewards as they are reported."""
    return {"decision_id": selection["decision_id"], "uids": selection["uids"], "rewards": values}


def learn_something(service: Service) -> int:
    """Selections and their rewards, published; the version that has them."""
    reports = [reward(service, select(service, text), [0.9, 0.2]) for text in PROMPTS]
    assert all(report["reached"] and report["accepted"] == 2 for report in reports)
    return int(reports[-1]["version"])


def newest(service: Service) -> int:
    """The version that the learner has."""
    state = wait_for(lambda: (learner := service.state()["learner"])["status"] == "running" and learner)
    return int(state["version"])


def scores(service: Service) -> list[list[float]]:
    """Every uid's, the same on all replicas, with everything that has been learned."""
    wait_for(lambda: service.state()["learner"].get("events_logged", 0) == newest(service) or None)
    body = {"messages": PROMPTS, "min_version": newest(service)}
    answers = [httpx.post(f"{url}/v1/score", json=body, timeout=30).json() for url in service.replica_urls()]
    assert answers
    assert all(answer["scores"] == answers[0]["scores"] for answer in answers)
    return [row["scores"] for row in answers[0]["scores"]]


def database(service: Service) -> Path:
    """The SQLite file of a service with the default log."""
    return service.config_path.parent / "tidegate-data" / "gate" / "events.db"


def rows(service: Service, query: str) -> list[tuple[Any, ...]]:
    """What is in the database, whoever writes it."""
    with closing(sqlite3.connect(f"file:{database(service)}?mode=ro", uri=True)) as connection:
        return connection.execute(query).fetchall()


def execute(service: Service, statement: str) -> None:
    """Change the database of a service that is stopped."""
    with closing(sqlite3.connect(database(service), isolation_level=None)) as connection:
        connection.execute(statement)


def checkpoints(service: Service) -> CheckpointStore:
    """The checkpoints of a service with the default place for them."""
    return CheckpointStore(str(database(service).parent / "checkpoints"), keep=99)


def tidegate(*arguments: str, timeout_s: float = 60.0, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command line to its end."""
    return subprocess.run(
        [*TIDEGATE, *arguments],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def replay(service: Service, *options: str) -> dict[str, Any]:
    """What `tidegate replay` makes of the log. In this process: another would first import all that is here already."""
    threads = torch.get_num_threads()
    try:
        done = CliRunner().invoke(app, ["replay", "--config", str(service.config_path), "--json", *options])
    finally:
        # Replaying sets them for its process.
        torch.set_num_threads(threads)
    assert done.exit_code == 0, done.output
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def said_by(pid: int) -> str:
    """What a process has written on its standard error, which Ray gives a file."""
    return Path(f"/proc/{pid}/fd/2").resolve().read_text(encoding="utf-8", errors="replace")


def refusal(service: Service, *options: str, timeout_s: float = 40.0) -> str:
    """What `tidegate serve` says when it does not start."""
    done = tidegate("serve", "--config", str(service.config_path), *options, timeout_s=timeout_s)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stderr
