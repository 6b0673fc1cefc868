"""A service on SQLite under load, whose parts are killed, stopped and starved."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.service import Service, wait_for

from .conftest import ROUNDS, N, chaos, settings

NAMES = [f"expert-{uid}" for uid in range(N)]


def data_of(service: Service) -> tuple[str, Path]:
    """The log's URL and the folder of the checkpoints, which by default lie beside the Serve config."""
    folder = service.config_path.parent / "tidegate-data" / "gate"
    return f"sqlite:///{folder / 'events.db'}", folder / "checkpoints"


@pytest.mark.long
def test_nothing_is_lost_when_processes_are_killed_or_hang(start_service: Callable[..., Service]) -> None:
    service = start_service(NAMES, **settings())
    wait_for(lambda: len(service.replica_urls()) == 2 or None)
    with chaos(service, *data_of(service)) as faults:
        for _ in range(ROUNDS):
            faults.kill_learner()
            faults.kill_replica()
            faults.pause_learner(3.0 if ROUNDS == 1 else 10.0)
            faults.kill_learner()
            faults.kill_controller()
            faults.kill_proxy()
            faults.limit_files()
            faults.kill_learner()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path | None]:
    """A file system of a few MB; None without the right to mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    size = f"size={4 + 3 * ROUNDS}m"
    mounted = libc.mount(b"tidegate", str(folder).encode(), b"tmpfs", 0, size.encode()) == 0
    yield folder if mounted else None
    if mounted:
        libc.umount2(str(folder).encode(), 2)


@pytest.mark.long
def test_nothing_is_lost_when_the_disk_is_full_for_a_while(
    start_service: Callable[..., Service], small_disk: Path | None, tmp_path: Path
) -> None:
    folder = small_disk or tmp_path
    url, checkpoints = f"sqlite:///{folder}/events.db", folder / "checkpoints"
    service = start_service(NAMES, **settings(log={"url": url}, checkpoints={"url": str(checkpoints), "interval_s": 2}))
    with chaos(service, url, checkpoints) as faults:
        for _ in range(ROUNDS):
            if small_disk is None:
                faults.limit_files()
                continue
            ballast = small_disk / "ballast"
            with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(4096))
            wait_for(lambda: service.state()["learner"].get("log_error"))
            assert_only_rewards_are_refused(service)
            ballast.unlink()
            faults.wait_for_progress()
            faults.done.append("disk full")


def assert_only_rewards_are_refused(service: Service) -> None:
    """Scoring goes on, and nothing is acknowledged."""
    assert service.http.post("/v1/score", json={"messages": ["still here"]}).status_code == 200
    item = {"reward_id": "full", "message": "m", "uids": [1], "rewards": [1.0]}
    refused = service.http.post("/v1/rewards", json={"rewards": [item]})
    assert (refused.status_code, refused.json()["code"]) == (503, "learner_away")
    assert int(refused.headers["retry-after"]) >= 1
