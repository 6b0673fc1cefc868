from __future__ import annotations

import asyncio
import logging
import random
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from deployments import weights as module
from deployments.errors import LearnerAway
from deployments.weights import Subscriber, load_weights
from learner.config import SoftmaxMseConfig
from learner.errors import LearnerError
from learner.protocol import PollReply, ReplicaStatus
from learner.state import HeadSnapshot

from .local_learner import LocalLearner
from .local_service import DIM, FINGERPRINT, VIEW, until

CPU = torch.device("cpu")


class Replica:
    """A subscriber with a clock of its own."""

    def __init__(self, learner: LocalLearner, *, heartbeat_s: float = 0.002) -> None:
        self.learner = learner
        self.now_s = 100.0
        self.subscriber = Subscriber(
            learner,
            status=self.status,
            fingerprint=FINGERPRINT,
            device=CPU,
            heartbeat_s=heartbeat_s,
            max_age_s=10.0,
            clock=lambda: self.now_s,
        )

    @property
    def order(self) -> tuple[int, int] | None:
        current = self.subscriber.current
        return current.snapshot.order if current else None

    def status(self) -> ReplicaStatus:
        epoch, version = self.order or (0, 0)
        return ReplicaStatus(
            id="r", pid=1, incarnation="r", issued=0, epoch=epoch, version=version, age_s=self.subscriber.age_s,
            queued_texts=0, texts=0, buffered_decisions=0,
        )  # fmt: skip

    def snapshot(self, epoch: int, version: int, **changed: object) -> HeadSnapshot:
        snapshot = self.learner.core.snapshot()
        return replace(snapshot, epoch=epoch, version=version, **changed)  # type: ignore[arg-type]


def is_degraded(replica: Replica) -> bool:
    return replica.subscriber.is_degraded(replica.subscriber.age_s)


@pytest.fixture
def replica() -> Replica:
    return Replica(LocalLearner(VIEW, dim=DIM, fingerprint=FINGERPRINT, rule=SoftmaxMseConfig()))


async def test_a_replica_that_starts_late_gets_the_newest_version_at_once(replica: Replica) -> None:
    replica.learner.publish(replica.snapshot(3, 17))
    assert replica.order is None
    assert await replica.subscriber.poll_once()
    assert replica.order == (3, 17)


async def test_nothing_is_current_before_anything_is_published(replica: Replica) -> None:
    replica.learner.published = None
    assert await replica.subscriber.poll_once()
    assert (replica.order, replica.subscriber.age_s, is_degraded(replica)) == (None, None, True)


async def test_weights_never_step_back(replica: Replica) -> None:
    dice = random.Random(0)
    newest = (0, 0)
    for _ in range(200):
        order = (dice.randint(1, 4), dice.randint(0, 20))
        replica.learner.publish(replica.snapshot(*order))
        current = replica.subscriber.current
        of_use = await replica.subscriber.poll_once()
        assert of_use == (order >= newest)
        newest = max(newest, order)
        assert replica.order == newest
        if order < newest:
            assert replica.subscriber.current is current


async def test_a_newer_epoch_is_newer_though_its_version_is_lower(replica: Replica) -> None:
    replica.learner.publish(replica.snapshot(3, 17))
    await replica.subscriber.poll_once()
    replica.learner.publish(replica.snapshot(4, 0))
    await replica.subscriber.poll_once()
    assert replica.order == (4, 0)


async def test_weights_for_another_encoder_are_refused_for_good(replica: Replica) -> None:
    replica.learner.publish(replica.snapshot(3, 17, fingerprint="another encoder"))
    with pytest.raises(LearnerError, match="another enc"):
        await asyncio.wait_for(replica.subscriber.run(), timeout=10)
    assert replica.order is None


async def test_a_version_that_comes_in_no_format_of_this_replica_s_is_no_version_to_it(
    replica: Replica, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    replica.learner.publish(replica.snapshot(3, 17))
    await replica.subscriber.poll_once()
    replica.now_s += 60

    async def newer_in_another(*_: object) -> tuple[PollReply, None]:
        return PollReply(3, 18, []), None

    monkeypatch.setattr(replica.learner, "poll", newer_in_another)
    assert not await replica.subscriber.poll_once()
    assert (replica.order, replica.subscriber.age_s) == ((3, 17), 60)
    assert "no_snapshot_to_read version=18" in caplog.text


async def test_an_unknown_format_is_refused_without_dying(replica: Replica, caplog: pytest.LogCaptureFixture) -> None:
    await replica.subscriber.poll_once()
    replica.learner.publish(replica.snapshot(3, 17, format=2))
    replica.now_s += 5
    assert not await replica.subscriber.poll_once()
    assert replica.order == (1, 0)
    # What is not taken in is no confirmation either.
    assert replica.subscriber.age_s == 5.0
    assert "refused_snapshot format=2" in caplog.text
    replica.learner.publish(replica.snapshot(3, 18))
    assert await replica.subscriber.poll_once()
    assert (replica.order, replica.subscriber.age_s) == ((3, 18), 0.0)


@pytest.mark.parametrize(("epoch", "layout"), [(3, 2), (0, 1)])
async def test_weights_of_no_use_are_not_asked_for_again_at_once(
    replica: Replica, epoch: int, layout: int, caplog: pytest.LogCaptureFixture
) -> None:
    patient = Replica(replica.learner, heartbeat_s=3600.0)
    await patient.subscriber.poll_once()
    replica.learner.publish(replica.snapshot(epoch, 17, format=layout))
    following = asyncio.create_task(patient.subscriber.run())
    await until(lambda: replica.learner.polls == 2)
    for _ in range(100):
        await asyncio.sleep(0)
    assert replica.learner.polls == 2
    assert not following.done()
    following.cancel()


async def test_age_is_since_the_last_confirmation_and_quiet_is_not_stale(replica: Replica) -> None:
    await replica.subscriber.poll_once()
    assert (replica.subscriber.age_s, is_degraded(replica)) == (0.0, False)
    replica.now_s += 9.0
    assert (replica.subscriber.age_s, is_degraded(replica)) == (9.0, False)
    # Nothing new, but the learner says so.
    await replica.subscriber.poll_once()
    assert replica.subscriber.age_s == 0.0
    replica.now_s += 10.0
    assert not is_degraded(replica)
    replica.now_s += 0.001
    assert is_degraded(replica)


async def test_an_older_learner_confirms_nothing(replica: Replica) -> None:
    replica.learner.publish(replica.snapshot(3, 17))
    await replica.subscriber.poll_once()
    replica.learner.publish(replica.snapshot(3, 16))
    replica.now_s += 11.0
    await replica.subscriber.poll_once()
    assert (replica.order, is_degraded(replica)) == ((3, 17), True)


@pytest.mark.parametrize("switch", ["away", "loses_answers"])
async def test_the_weights_stay_while_the_learner_is_away(replica: Replica, switch: str) -> None:
    await replica.subscriber.poll_once()
    current = replica.subscriber.current
    setattr(replica.learner, switch, True)
    replica.now_s += 11.0
    with pytest.raises(LearnerAway):
        await replica.subscriber.poll_once()
    assert replica.subscriber.current is current
    assert (replica.subscriber.age_s, is_degraded(replica)) == (11.0, True)
    assert replica.subscriber.away_because
    setattr(replica.learner, switch, False)
    await replica.subscriber.poll_once()
    assert replica.subscriber.away_because is None


async def test_following_goes_on_when_the_learner_is_back_and_says_once_that_it_was_away(
    replica: Replica, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_RETRY_S", 0.0)
    following = asyncio.create_task(replica.subscriber.run())
    await until(lambda: replica.order == (1, 0))
    replica.learner.away = True
    with caplog.at_level(logging.WARNING):
        await until(lambda: "learner_away" in caplog.text)
        for _ in range(50):
            await asyncio.sleep(0)
    replica.learner.publish(replica.snapshot(2, 0))
    replica.learner.away = False
    await until(lambda: replica.order == (2, 0))
    assert caplog.text.count("learner_away") == 1
    following.cancel()


async def test_a_new_version_reaches_a_follower_without_waiting_for_its_heartbeat(replica: Replica) -> None:
    patient = Replica(replica.learner, heartbeat_s=3600.0)
    following = asyncio.create_task(patient.subscriber.run())
    await until(lambda: patient.order == (1, 0))
    replica.learner.publish(replica.snapshot(1, 1))
    await until(lambda: patient.order == (1, 1))
    following.cancel()


async def test_waiting_for_a_version_ends_when_it_arrives(replica: Replica) -> None:
    await replica.subscriber.poll_once()
    assert await replica.subscriber.wait_for_version(0, timeout_s=0.0)
    assert not await replica.subscriber.wait_for_version(2, timeout_s=0.0)
    waiting = asyncio.create_task(replica.subscriber.wait_for_version(2, timeout_s=60.0))
    for version in (1, 3):
        await asyncio.sleep(0)
        assert not waiting.done()
        replica.learner.publish(replica.snapshot(1, version))
        await replica.subscriber.poll_once()
    assert await waiting


def test_on_the_cpu_the_tensors_are_the_snapshots_own_memory(replica: Replica) -> None:
    snapshot = replica.learner.core.snapshot()
    loaded = load_weights(snapshot, CPU)
    assert loaded.snapshot is snapshot
    for tensor, array in (
        (loaded.weight, snapshot.weight),
        (loaded.bias, snapshot.bias),
        (loaded.bonus, snapshot.bonus),
    ):
        assert tensor.data_ptr() == array.ctypes.data
        np.testing.assert_array_equal(tensor.numpy(), array)


def test_read_only_arrays_are_taken_as_they_are_without_a_warning(replica: Replica) -> None:
    snapshot = replica.learner.core.snapshot()
    for array in (snapshot.weight, snapshot.bias, snapshot.bonus):
        array.flags.writeable = False
    filters = list(warnings.filters)
    # Torch would warn once a process and pass over the other times.
    torch.set_warn_always(True)
    try:
        loaded = load_weights(snapshot, CPU)
    finally:
        torch.set_warn_always(False)
    assert loaded.weight.data_ptr() == snapshot.weight.ctypes.data
    assert list(warnings.filters) == filters


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_weights_on_a_gpu_are_a_copy_of_the_snapshot_s_numbers(replica: Replica) -> None:
    arrays = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
    newest = replica.snapshot(1, 1, weight=arrays)
    cuda = torch.device("cuda")
    loaded = load_weights(newest, cuda, torch.cuda.Stream(cuda))
    assert loaded.weight.device.type == "cuda"
    embedding = torch.eye(8)
    expected = embedding.numpy() @ arrays.T + newest.bias
    np.testing.assert_allclose(loaded.score(embedding, None), expected, rtol=1e-6)
    np.testing.assert_allclose(loaded.score(embedding, np.array([5, 2])), expected[:, [5, 2]], rtol=1e-6)


async def test_saved_weights_are_served_as_degraded_until_the_learner_replaces_them(replica: Replica) -> None:
    assert replica.subscriber.start_from(replica.snapshot(0, 7)) is True
    assert (replica.order, replica.subscriber.age_s, is_degraded(replica)) == ((0, 7), None, True)
    replica.learner.away = True
    with pytest.raises(LearnerAway):
        await replica.subscriber.poll_once()
    assert (replica.order, is_degraded(replica)) == ((0, 7), True)
    replica.learner.away = False
    await replica.subscriber.poll_once()
    assert (replica.order, replica.subscriber.age_s, is_degraded(replica)) == ((1, 0), 0.0, False)


async def test_a_replica_starts_with_saved_weights_only_while_the_learner_is_away(replica: Replica) -> None:
    asked: list[bool] = []

    def load() -> HeadSnapshot | None:
        asked.append(True)
        return replica.snapshot(0, 7) if len(asked) > 1 else None

    replica.learner.away = True
    await replica.subscriber.start(load)
    assert replica.order is None
    await replica.subscriber.start(load)
    assert (replica.order, is_degraded(replica)) == ((0, 7), True)
    replica.learner.away = False
    await replica.subscriber.start(load)
    assert (replica.order, is_degraded(replica), len(asked)) == ((1, 0), False, 2)


async def test_a_replica_starts_with_saved_weights_while_the_learner_is_silent(replica: Replica) -> None:
    saved = replica.snapshot(0, 7)
    replica.learner.published = None
    replica.subscriber._heartbeat_s = 60.0
    await replica.subscriber.start(lambda: saved, patience_s=0.01)
    assert (replica.order, is_degraded(replica)) == ((0, 7), True)


async def test_saved_weights_that_are_the_newest_are_confirmed(replica: Replica) -> None:
    replica.subscriber.start_from(replica.snapshot(1, 0))
    await replica.subscriber.poll_once()
    assert (replica.order, replica.subscriber.age_s, is_degraded(replica)) == ((1, 0), 0.0, False)


async def test_saved_weights_that_are_older_or_of_no_use_change_nothing(replica: Replica) -> None:
    await replica.subscriber.poll_once()
    current = replica.subscriber.current
    assert replica.subscriber.start_from(replica.snapshot(0, 99)) is False
    assert replica.subscriber.start_from(replica.snapshot(1, 0)) is False
    assert replica.subscriber.start_from(replica.snapshot(2, 0, format=99)) is False
    assert replica.subscriber.current is current
    assert replica.subscriber.age_s == 0.0
    with pytest.raises(LearnerError, match="weights for encoder another"):
        replica.subscriber.start_from(replica.snapshot(2, 0, fingerprint="another"))
