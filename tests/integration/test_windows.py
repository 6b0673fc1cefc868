"""What the passing of time does to a service's log: default rewards, and rows that are old."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .books import checkpoints, newest, rows, scores, select
from .service import Service, kill, wait_for

pytestmark = pytest.mark.long

NAMES = [f"expert-{uid}" for uid in range(4)]
WINDOW_S = 1.0


@pytest.fixture(scope="module")
def service(start_service: Callable[..., Service]) -> Service:
    return start_service(
        NAMES,
        learner={
            "heartbeat_s": 0.2,
            "reward_window_s": WINDOW_S,
            "default_reward": 0.0,
            # As short as the window then is.
            "log": {"retention_days": 1e-6, "lease_s": 2.0},
            "checkpoints": {"interval_s": 0.5, "keep": 2},
        },
        replica={"num_replicas": 1, "num_cpus": 0.5},
    )


def earned(service: Service) -> dict[int, tuple[int, float]]:
    """uid -> how many rewards it has, and their mean, of those that have any."""
    table = service.http.get("/v1/uids").json()
    return {row["uid"]: (row["rewards"], row["mean_reward"]) for row in table.get("uids", []) if row["rewards"]}


def restart_learner(service: Service) -> None:
    epoch = service.state()["learner"]["epoch"]
    kill(service.learner_pid())
    wait_for(lambda: service.state()["learner"].get("epoch", 0) > epoch)


def test_the_default_reward_is_learned_once_also_over_restarts(service: Service) -> None:
    selection = select(service, uids=[0, 1], durable=True)
    restart_learner(service)
    wait_for(lambda: earned(service) == {0: (1, 0.0), 1: (1, 0.0)})
    restart_learner(service)
    # When the next decision's turn has come, that of the first would have come again as well.
    select(service, uids=[2, 3], durable=True)
    wait_for(lambda: set(earned(service)) == {0, 1, 2, 3})
    assert set(earned(service).values()) == {(1, 0.0)}
    item = {"decision_id": selection["decision_id"], "uids": [0], "rewards": [1.0]}
    report = service.post("/v1/rewards", {"rewards": [item]})
    assert report["accepted"] == 0
    assert [rejection["code"] for rejection in report["rejected"]] in (["late"], ["unknown_decision"])


def test_old_rows_go_while_learning_goes_on_and_a_restart_needs_none_of_them(service: Service) -> None:
    sent = 0

    def learn(count: int = 1) -> None:
        nonlocal sent
        items = [
            {"reward_id": f"r-{sent + number}", "message": "salt", "uids": [1, 3], "rewards": [0.5, 1.0]}
            for number in range(count)
        ]
        assert service.post("/v1/rewards", {"rewards": items, "wait": "published"})["accepted"] == 2 * count
        sent += count

    def first_event() -> int:
        [(first,)] = rows(service, "SELECT min(seq) FROM events")
        return int(first)

    learn(50)
    upto = newest(service)
    assert rows(service, "SELECT count(*) FROM rewards WHERE reward_id IS NOT NULL") == [(100,)]

    def is_gone() -> bool:
        learn()
        return first_event() > upto

    wait_for(is_gone, every_s=0.2)
    [(left,)] = rows(service, "SELECT count(*) FROM rewards WHERE reward_id IS NOT NULL")
    assert left <= 2 * (sent - 50)
    assert service.state()["learner"]["checkpoint"]["pruned_rows"] >= 100
    assert rows(service, "SELECT count(*) FROM message_embeddings") == [(left // 2,)]
    before, version = scores(service), newest(service)
    assert service.stop() == 0
    assert min(manifest.version for manifest in checkpoints(service).list()) >= first_event() - 1
    service.start_again()
    assert wait_for(lambda: service.state()["learner"].get("version", 0)) >= version
    assert scores(service) == before
    learn()
