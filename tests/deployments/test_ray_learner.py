from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError, RayTaskError

from deployments import ray_learner as module
from deployments.errors import LearnerAway
from deployments.ray_learner import RayLearner
from learner.config import BittensorChain, LearnerConfig, RosterChain
from learner.errors import (
    CheckpointError,
    CheckpointMismatchError,
    ConfigMismatchError,
    FencedError,
    LeaseHeldError,
    LogCorruptError,
    LogUnavailableError,
    OverloadedError,
    RollInProgressError,
)
from learner.events import Action, Standing
from learner.protocol import PollReply, ReplicaStatus
from learner.published import OPERATOR_PATIENCE_S
from learner.startup import LearnerArgs

from .local_service import until

STATUS = ReplicaStatus("r", 1, "i", 0, 0, 0, None, 0, 0, 0)
ARGS = LearnerArgs("gate", RosterChain(), LearnerConfig(), 8, "hash-8")


def failure(cause: Exception) -> RayTaskError:
    """What Ray makes of a method that has raised."""
    trace = f"Traceback ...\n{type(cause).__module__}.{type(cause).__name__}: {cause}"
    return RayTaskError("method", trace, cause)


def task_error(cause: Exception) -> RayTaskError:
    """The same as a caller gets it."""
    return failure(cause).as_instanceof_cause()


class Method:
    """One method of an actor: keeps its calls and answers with what it is told to."""

    def __init__(self, name: str, actor: Actor) -> None:
        self._name, self._actor, self._group = name, actor, ""

    def options(self, *, concurrency_group: str) -> Method:
        self._group = concurrency_group
        return self

    def remote(self, *args: Any) -> Any:
        self._actor.calls.append((self._group, self._name, args))
        return self._answer()

    async def _answer(self) -> Any:
        outcome = self._actor.outcomes.get(self._name)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


class Actor:
    """A handle that answers as an actor's would."""

    def __init__(self, **outcomes: Any) -> None:
        self.outcomes = {"poll": PollReply(1, 0, []), **outcomes}
        self.calls: list[tuple[str, str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Method:
        return Method(name, self)


@pytest.fixture
def actors(monkeypatch: pytest.MonkeyPatch) -> list[Actor]:
    """What creating a learner gives, one after the other; the last one for ever."""
    waiting: list[Actor] = []

    def create(args: LearnerArgs, *, num_cpus: float, node_labels: Mapping[str, str]) -> Actor:
        return waiting.pop(0) if len(waiting) > 1 else waiting[0]

    monkeypatch.setattr(module, "get_or_create_learner", create)
    return waiting


async def connected(actors: list[Actor], actor: Actor, args: LearnerArgs = ARGS) -> RayLearner:
    actors.append(actor)
    learner = RayLearner(args, num_cpus=0)
    await learner.poll(STATUS, 0.0)
    actor.calls.clear()
    return learner


@pytest.mark.parametrize(
    "error",
    [
        LogUnavailableError("the database does not answer"),
        FencedError("another learner has the log"),
        LeaseHeldError("another learner holds the log"),
        LogCorruptError("the database is damaged"),
    ],
)
async def test_a_learner_that_cannot_log_is_away(actors: list[Actor], error: Exception) -> None:
    learner = await connected(actors, Actor(add_rewards=task_error(error)))
    with pytest.raises(LearnerAway, match=str(error)):
        await learner.add_rewards([], "logged", 0.0)


@pytest.mark.parametrize(
    "error", [OverloadedError("later"), CheckpointError("disk full"), ConfigMismatchError("other")]
)
async def test_what_a_learner_refuses_is_raised_as_it_is(actors: list[Actor], error: Exception) -> None:
    learner = await connected(actors, Actor(add_rewards=task_error(error)))
    with pytest.raises(type(error), match=str(error)):
        await learner.add_rewards([], "logged", 0.0)


async def test_what_is_a_bug_of_the_learners_is_raised_as_it_is(actors: list[Actor]) -> None:
    learner = await connected(actors, Actor(describe=task_error(ZeroDivisionError("a bug"))))
    with pytest.raises(RayTaskError, match="a bug"):
        await learner.describe()


@pytest.mark.parametrize(
    "error",
    [
        ActorUnavailableError("it is restarting", b"0" * 16),
        ActorDiedError(),
        TimeoutError("no answer"),
    ],
)
async def test_a_learner_that_does_not_answer_is_away(actors: list[Actor], error: Exception) -> None:
    learner = await connected(actors, Actor(uid_table=error))
    with pytest.raises(LearnerAway):
        await learner.uid_table()


async def test_a_learner_that_ended_for_good_is_replaced_by_the_next_poll(actors: list[Actor]) -> None:
    """As one does that was fenced: it ends itself, and who polls next creates one that waits for the lease."""
    fenced, other = Actor(), Actor()
    learner = await connected(actors, fenced)
    fenced.outcomes["poll"] = ActorDiedError()
    actors[:] = [other]
    with pytest.raises(LearnerAway):
        await learner.poll(STATUS, 0.0)
    await learner.poll(STATUS, 0.0)
    assert [name for _, name, _ in other.calls] == ["check_terms", "poll"]


async def test_a_learner_that_is_only_restarting_is_kept(actors: list[Actor]) -> None:
    actor = Actor()
    learner = await connected(actors, actor)
    actor.outcomes["poll"] = ActorUnavailableError("it is restarting", b"0" * 16)
    with pytest.raises(LearnerAway):
        await learner.poll(STATUS, 0.0)
    actor.outcomes["poll"] = PollReply(1, 0, [])
    await learner.poll(STATUS, 0.0)
    assert [name for _, name, _ in actor.calls] == ["poll", "poll"]


async def test_a_learner_that_cannot_start_says_why_and_is_tried_anew(actors: list[Actor]) -> None:
    error = ActorDiedError(failure(LeaseHeldError("held by another")))
    broken, sound = Actor(check_terms=error), Actor()
    actors += [broken, sound]
    learner = RayLearner(ARGS, num_cpus=0)
    with pytest.raises(
        LearnerAway, match=r"^the learner cannot start: learner\.errors\.LeaseHeldError: held by another$"
    ):
        await learner.poll(STATUS, 0.0)
    await learner.poll(STATUS, 0.0)
    assert [name for _, name, _ in sound.calls] == ["check_terms", "poll"]


OPERATIONS: list[tuple[str, tuple[Any, ...], Any]] = [
    ("resync", ("boss",), None),
    ("checkpoint", ("boss",), {"name": "c"}),
    ("checkpoints", (), [{"name": "c"}]),
    ("freeze", (True, "boss"), 7),
    ("rollback", (None, "c", "boss"), {"version": 7}),
    ("quarantine", (3, 5), (0, [])),
    ("settle", (Action.DROP, [4], "boss"), {"version": 7}),
    ("authors", (), []),
    ("set_standing", ("x", Standing.TRUSTED, "boss"), 7),
    ("erase_embedding", ("r-1", "boss"), True),
]


@pytest.mark.parametrize(("name", "args", "result"), OPERATIONS)
async def test_operators_calls_reach_their_group_as_they_are_and_have_the_learners_patience(
    actors: list[Actor], monkeypatch: pytest.MonkeyPatch, name: str, args: tuple[Any, ...], result: Any
) -> None:
    patience_s: list[float] = []
    timeout = asyncio.timeout
    actor = Actor(**{name: result})
    learner = await connected(actors, actor)
    monkeypatch.setattr(asyncio, "timeout", lambda s: patience_s.append(s) or timeout(s))
    assert await getattr(learner, name)(*args) == result
    assert actor.calls == [("operator", name, args)]
    assert patience_s == [OPERATOR_PATIENCE_S + 5.0]


async def test_a_resync_has_the_time_that_the_chain_takes_besides(
    actors: list[Actor], monkeypatch: pytest.MonkeyPatch
) -> None:
    patience_s: list[float] = []
    timeout = asyncio.timeout
    chain = BittensorChain(source="bittensor", netuid=1, call_timeout_s=10.0)
    learner = await connected(actors, Actor(), LearnerArgs("gate", chain, LearnerConfig(), 8, "hash-8"))
    monkeypatch.setattr(asyncio, "timeout", lambda s: patience_s.append(s) or timeout(s))
    await learner.resync("boss")
    assert patience_s == [OPERATOR_PATIENCE_S + 35.0]


def described(epoch: int, version: int) -> dict[str, Any]:
    return {"learner": {"epoch": epoch, "version": version, "identity": f"identity-{epoch}"}}


@pytest.fixture
def verdicts(monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    """What the next learner would say to the log; nothing: that it can go on from it."""
    found: list[Exception] = []

    async def judge() -> None:
        if found:
            raise found[0]

    monkeypatch.setattr(module, "check_successor", lambda args: judge())
    return found


async def test_a_hand_over_saves_checks_who_comes_next_lets_the_old_one_go_and_waits_for_the_new_one(
    actors: list[Actor], verdicts: list[Exception]
) -> None:
    old = Actor(describe=described(1, 7), checkpoint={"name": "c"}, hand_over=ActorDiedError())
    learner = await connected(actors, old)
    actors[:] = [Actor(describe=described(2, 9))]
    handing_over = asyncio.ensure_future(learner.hand_over("boss"))
    await until(lambda: "hand_over" in [name for _, name, _ in old.calls])
    old.outcomes["poll"] = ActorDiedError()
    with pytest.raises(LearnerAway):
        await learner.poll(STATUS, 0.0)
    assert not handing_over.done()
    await learner.poll(STATUS, 0.0)
    told = await handing_over
    assert told.pop("away_s") >= 0
    assert told == {"left_epoch": 1, "epoch": 2, "version": 9, "identity": "identity-2"}
    operations = [(name, args) for _, name, args in old.calls if name != "poll"]
    assert operations == [("checkpoint", ("boss",)), ("describe", ()), ("hand_over", (ARGS.digest(),))]


@pytest.mark.parametrize(
    "error", [CheckpointMismatchError("of another rule"), LogUnavailableError("no such file"), LeaseHeldError("held")]
)
async def test_the_old_learner_stays_if_the_next_one_could_not_go_on(
    actors: list[Actor], verdicts: list[Exception], error: Exception
) -> None:
    verdicts.append(task_error(error))
    old = Actor(describe=described(1, 7), checkpoint={"name": "c"})
    learner = await connected(actors, old)
    with pytest.raises(type(error), match=str(error)):
        await learner.hand_over("boss")
    assert "hand_over" not in [name for _, name, _ in old.calls]


async def test_a_learner_that_does_not_leave_is_not_waited_for(actors: list[Actor], verdicts: list[Exception]) -> None:
    old = Actor(describe=described(1, 7), checkpoint={}, hand_over=task_error(RollInProgressError("two kinds")))
    learner = await connected(actors, old)
    with pytest.raises(RollInProgressError, match="two kinds"):
        await learner.hand_over("boss")


async def test_a_next_learner_that_does_not_come_is_away(
    actors: list[Actor], verdicts: list[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = await connected(actors, Actor(describe=described(1, 7), checkpoint={}, hand_over=ActorDiedError()))
    monkeypatch.setattr(module, "_OPERATOR_TIMEOUT_S", 0.01)
    with pytest.raises(LearnerAway, match="has not started yet"):
        await learner.hand_over("boss")
