"""The learner's actor on a Ray of its own, without Serve: who may use it, how weights travel, when it leaves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from ray.exceptions import ActorDiedError, RayTaskError

from deployments.errors import LearnerAway
from deployments.ray_learner import RayLearner
from learner.actor import LearnerArgs, get_or_create_learner
from learner.config import AdagradConfig, BittensorChain, CheckpointConfig, LearnerConfig, LogConfig, RosterChain
from learner.errors import ConfigMismatchError, EncoderMismatchError, RollInProgressError
from learner.on_ray import NAMESPACE, learner_name
from learner.protocol import ReplicaStatus, RewardItem
from tests.chain_node.node import ChainNode

from .service import wait_for, write_roster

N, DIM = 4096, 768
FINGERPRINT = "f" * 64


@pytest.fixture(scope="module", autouse=True)
def ray_instance() -> Iterator[None]:
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=256 * 2**20,
        namespace="test",
    )
    yield
    ray.shutdown()


def args_in(folder: Path) -> LearnerArgs:
    roster = folder / "roster.yaml"
    write_roster(roster, [f"expert-{uid}" for uid in range(N)])
    config = LearnerConfig(
        rule=AdagradConfig(),
        heartbeat_s=0.2,
        log=LogConfig(url=f"sqlite:///{folder}/events.db"),
        checkpoints=CheckpointConfig(url=f"{folder}/checkpoints"),
    )
    return LearnerArgs(folder.name, RosterChain(roster=str(roster)), config, DIM, FINGERPRINT)


@pytest.fixture
def args(tmp_path: Path) -> LearnerArgs:
    return args_in(tmp_path)


@pytest.fixture(scope="module")
def shared_args(tmp_path_factory: pytest.TempPathFactory) -> LearnerArgs:
    return args_in(tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="module")
def learner(ray_instance: None, shared_args: LearnerArgs) -> Any:
    """One that tests share which leave it as it was, but for its version."""
    return get_or_create_learner(shared_args, num_cpus=0.0)


@pytest.fixture
def create(args: LearnerArgs) -> Iterator[Callable[[LearnerArgs], Any]]:
    created = []

    def create(wanted: LearnerArgs) -> Any:
        created.append(get_or_create_learner(wanted, num_cpus=0.0))
        return created[-1]

    yield create
    for handle in created:
        ray.kill(handle, no_restart=True)


def with_settings(args: LearnerArgs, **settings: Any) -> LearnerArgs:
    return replace(args, config=args.config.model_copy(update=settings))


def status(epoch: int = 0, version: int = 0) -> ReplicaStatus:
    return ReplicaStatus(
        id="replica",
        pid=1,
        incarnation="abc",
        issued=0,
        epoch=epoch,
        version=version,
        age_s=None,
        queued_texts=0,
        texts=0,
        buffered_decisions=0,
    )


def poll(learner: Any, have: ReplicaStatus, wait_s: float = 5.0) -> Any:
    return ray.get(learner.poll.options(concurrency_group="polls").remote(have, wait_s))


def report(learner: Any, reward_id: str) -> Any:
    embedding = np.ones(DIM, np.float16)
    item = RewardItem(uids=(1, 2), rewards=(1.0, 0.0), reward_id=reward_id, embedding=embedding)
    add = learner.add_rewards.options(concurrency_group="reports")
    return ray.get(add.remote([item], "published", 5.0))


def test_every_replica_gets_the_same_learner_and_one_with_another_log_or_encoder_is_refused(
    shared_args: LearnerArgs, learner: Any
) -> None:
    args, first = shared_args, learner
    second = get_or_create_learner(with_settings(args, publish_interval_ms=51.0), num_cpus=0.0)
    assert first._actor_id == second._actor_id
    ray.get(second.check_terms.remote(args.terms))
    with pytest.raises(ConfigMismatchError, match="tidegate down"):
        ray.get(first.check_terms.remote(with_settings(args, log=LogConfig(url="memory")).terms))
    with pytest.raises(EncoderMismatchError, match="another application"):
        ray.get(first.check_terms.remote(replace(args, fingerprint="0" * 64).terms))


def test_a_learner_is_not_handed_over_while_replicas_want_different_ones(
    args: LearnerArgs, create: Callable[[LearnerArgs], Any]
) -> None:
    learner = create(args)
    for wanted in ("old", "new"):
        poll(learner, replace(status(), id=wanted, learner=wanted))
    with pytest.raises(RollInProgressError, match="replicas for learner new and for old are there"):
        ray.get(learner.hand_over.options(concurrency_group="operator").remote("new"))
    assert poll(learner, replace(status(), id="new", learner="new")).version == 0

    def is_handed_over() -> bool:
        try:
            ray.get(learner.hand_over.options(concurrency_group="operator").remote("new"))
        except ActorDiedError:
            return True
        except RollInProgressError:
            return False
        raise AssertionError("it has answered, so it is still there")

    # The one for the old learner polls no more, as one that was stopped.
    wait_for(is_handed_over)
    after = create(with_settings(args, publish_interval_ms=51.0))
    assert poll(after, replace(status(), learner="new")).epoch == 2


# The first that reports something to the learner that tests share.
def test_a_poll_waits_for_a_newer_version_and_confirms_the_one_it_was_asked_with(learner: Any) -> None:
    first = poll(learner, status())
    assert first.version == 0
    have = status(first.epoch, first.version)
    confirmed = poll(learner, have, 0.05)
    assert (confirmed.epoch, confirmed.version, confirmed.refs) == (first.epoch, 0, [])
    waiting = learner.poll.options(concurrency_group="polls").remote(have, 30.0)
    reply = report(learner, "awaited")
    assert (reply.report.accepted, reply.reached, reply.published_version) == (2, True, 1)
    newer = ray.get(waiting, timeout=10)
    assert newer.version == 1
    assert ray.get(newer.refs[0]).bias[1] > ray.get(first.refs[0]).bias[1]


def test_replicas_are_asked_to_poll_again_when_a_decision_is_missing(
    args: LearnerArgs, create: Callable[[LearnerArgs], Any]
) -> None:
    """What its replica says then settles whether the decision is on its way or was never made."""
    learner = create(with_settings(args, heartbeat_s=30.0, decision_wait_s=30.0))
    current = poll(learner, status())
    have = replace(status(current.epoch, current.version), texts=7)
    waiting = learner.poll.options(concurrency_group="polls").remote(have, 60.0)
    describe = learner.describe.options(concurrency_group="operator")
    wait_for(lambda: any(told["texts"] == have.texts for told in ray.get(describe.remote())["replicas"]))
    item = RewardItem(uids=(1,), rewards=(1.0,), decision_id=f"{have.incarnation}-99999")
    asked = learner.add_rewards.options(concurrency_group="reports").remote([item], "logged", 5.0)
    answer = ray.get(waiting, timeout=10)
    assert answer.version == current.version
    # What was on its way does not count; only what is told after that.
    poll(learner, replace(have, texts=8), 0.0)
    assert ray.wait([asked], timeout=0.5)[0] == []
    poll(learner, replace(have, asked=answer.asked), 0.0)
    reply = ray.get(asked, timeout=10)
    assert [rejection.code for rejection in reply.report.rejected] == ["unknown_decision"]


def test_a_version_is_told_without_weights_to_a_replica_that_reads_none_of_the_layouts(learner: Any) -> None:
    poll(learner, status())
    version = report(learner, "unread").published_version
    assert version > 0
    reply = poll(learner, replace(status(), reads=(99,)))
    assert (reply.version, reply.refs) == (version, [])


def test_a_version_is_one_object_that_readers_share_without_copying(learner: Any) -> None:
    reply = poll(learner, status())
    ours, theirs = ray.get(reply.refs[0]), ray.get(reply.refs[0])
    assert ours.weight.shape == (N, DIM)
    assert ours.weight.ctypes.data == theirs.weight.ctypes.data
    assert not ours.weight.flags.writeable


def test_a_learner_without_subscribers_leaves_for_good(args: LearnerArgs, create: Callable[[LearnerArgs], Any]) -> None:
    idle = replace(args, config=args.config.model_copy(update={"idle_exit_s": 0.5}))
    learner = create(idle)
    poll(learner, status())

    def is_gone() -> bool:
        try:
            ray.get(learner.describe.remote())
        except ActorDiedError:
            return True
        return False

    wait_for(is_gone)
    with pytest.raises(ValueError, match="Failed to look up actor"):
        ray.get_actor(learner_name(args.app), namespace=NAMESPACE)


def test_a_learner_that_is_stopped_has_learned_what_it_acknowledged(
    args: LearnerArgs, create: Callable[[LearnerArgs], Any]
) -> None:
    learner = create(args)
    poll(learner, status())
    for number in range(20):
        report(learner, f"r{number}")
    ray.get(learner.stop.remote())
    described = ray.get(learner.describe.remote())["learner"]
    assert described["events_logged"] == described["events_applied"] == described["published_version"] == 20


def test_a_roster_that_cannot_be_read_is_named(shared_args: LearnerArgs, learner: Any) -> None:
    poll(learner, status())
    Path(shared_args.chain.roster).write_text("experts: 3", encoding="utf-8")
    with pytest.raises(RayTaskError, match="experts"):
        ray.get(learner.resync.remote("operator"))


def test_a_learner_that_cannot_start_says_why_to_its_replicas(
    args: LearnerArgs, start_node: Callable[..., ChainNode]
) -> None:
    node = start_node(netuid=23, n=4)
    absent = BittensorChain(source="bittensor", network=node.url, netuid=24)
    learner = RayLearner(replace(args, chain=absent), num_cpus=0.0)
    with pytest.raises(LearnerAway, match=rf"cannot start: .*network {node.url} has no subnet 24"):
        asyncio.run(learner.poll(status(), 0.1))
    there = RayLearner(replace(args, chain=absent.model_copy(update={"netuid": 23})), num_cpus=0.0)
    reply, snapshot = asyncio.run(there.poll(status(), 5.0))
    assert snapshot is not None
    assert (reply.version, snapshot.view.hotkeys) == (0, tuple(node.subnet.hotkeys))
    ray.kill(ray.get_actor(learner_name(args.app), namespace=NAMESPACE), no_restart=True)
