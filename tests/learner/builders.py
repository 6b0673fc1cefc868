"""Small real objects for the learner's tests: a tiny network, decisions of it, and learners over both."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from gating import MetagraphView
from gating.policies import Policy
from learner.checkpoint import CheckpointStore, Expected, Manifest
from learner.config import LearnerConfig, RuleConfig, SoftmaxMseConfig, settings_of
from learner.core import Learner
from learner.event_log import EventLog, Genesis
from learner.events import ANONYMOUS, Action, Decision, Event
from learner.memory_log import MemoryEventLog
from learner.protocol import DecisionBatch, RewardItem
from learner.restore import Restorer
from learner.rules import LearnBatch, Rule, build_rule
from learner.state import LearnerState, UidStatistics

DIM = 4
EPOCH = 1_000
FINGERPRINT = "tiny-encoder"
START = MetagraphView.from_hotkeys(["a", "b", "c", "d", "e", "f"], block=1)


@dataclass
class Clock:
    """A clock that goes when it is told to."""

    now_s: float = 0.0

    def __call__(self) -> float:
        return self.now_s


def embedding(seed: int, dim: int = DIM) -> NDArray[np.float16]:
    """A random unit vector."""
    vector = np.random.default_rng(seed).normal(size=dim)
    return (vector / np.linalg.norm(vector)).astype(np.float16)


def decision(
    decision_id: str,
    uids: Sequence[int] = (0, 1),
    *,
    view: MetagraphView = START,
    version: int = 0,
    epoch: int = EPOCH,
    prompt: NDArray[np.float16] | None = None,
) -> Decision:
    """What a replica that serves `version`, whose network is `view`, hands over."""
    return Decision(
        id=decision_id,
        time_s=0.0,
        epoch=epoch,
        version=version,
        embedding=embedding(len(decision_id)) if prompt is None else prompt,
        uids=tuple(uids),
        scores=(0.5,) * len(uids),
        propensities=(1.0,) * len(uids),
        hotkeys=tuple(view.hotkeys[uid] for uid in uids),
        candidates=view.n,
    )


def reward(decision_id: str, rewards: Mapping[int, float], author: str = ANONYMOUS) -> RewardItem:
    """Rewards for a decision, by uid."""
    return RewardItem(tuple(rewards), tuple(rewards.values()), decision_id=decision_id, author=author)


def message_reward(reward_id: str, rewards: Mapping[int, float], author: str = ANONYMOUS) -> RewardItem:
    """Rewards for a message, by uid."""
    return RewardItem(
        tuple(rewards),
        tuple(rewards.values()),
        reward_id=reward_id,
        embedding=embedding(len(reward_id)),
        author=author,
    )


def build_learner(
    *,
    view: MetagraphView = START,
    rule: Rule | None = None,
    rule_config: RuleConfig | None = None,
    clock: Clock | None = None,
    on_hotkey_swap: Literal["keep", "reset"] = "keep",
    log: EventLog | None = None,
    store: CheckpointStore | None = None,
    policy: Policy | None = None,
    **settings: object,
) -> Learner:
    """A learner, by default with an empty log and with the rule that draws its rows at random.

    Built over the log of another one, with the same settings, it is that one after a restart.
    """
    config = LearnerConfig(rule=rule_config or SoftmaxMseConfig(), **settings)
    rule, log = rule or build_rule(config.rule), log or MemoryEventLog(started_at_ms=EPOCH)
    if log.genesis is None:
        log.begin(Genesis(view, config.seed, settings_of(config.rule)))
    restorer = Restorer(log, rule, expected(log, config), store)
    return Learner(
        config=config,
        restored=restorer.newest(),
        restorer=restorer,
        dim=DIM,
        fingerprint=FINGERPRINT,
        log=log,
        clock=clock or Clock(),
        on_hotkey_swap=on_hotkey_swap,
        policy=policy,
    )


def decide(learner: Learner, *decisions: Decision) -> None:
    """Hand decisions over as a replica does."""
    learner.add_decisions(DecisionBatch.of(FINGERPRINT, decisions))


def learn_all(learner: Learner) -> list[int]:
    """Learn everything that waits; returns the sizes of the batches."""
    sizes = []
    while size := learner.learn():
        sizes.append(size)
    return sizes


def expected(log: EventLog, config: LearnerConfig) -> Expected:
    """What the checkpoints of a learner over this log are of."""
    return Expected("app", log.id, settings_of(config.rule), FINGERPRINT, DIM, tuple(map(settings_of, config.shadow)))


def save(learner: Learner, store: CheckpointStore) -> Manifest:
    """Write a checkpoint of a learner."""
    captured = learner.capture()
    return store.save(
        captured.state,
        application="app",
        log_id=learner.log.id,
        epoch=learner.log.epoch,
        decisions=captured.decisions,
        fingerprint=FINGERPRINT,
        dim=DIM,
    )


def act(learner: Learner, action: Action) -> int:
    """An operator's action, learned at once together with what was logged before."""
    seq = learner.commit_one(learner.stage_action(action, "ops"))
    learn_all(learner)
    return seq


def roll_back(learner: Learner, version: int) -> int:
    """An operator's rollback, learned at once."""
    summary = learner.commit_one(learner.stage_rollback(version, "ops"))
    learn_all(learner)
    return summary.seq


def settle(learner: Learner, action: Action, seqs: Sequence[int] | None = None) -> int:
    """An operator's READMIT or DROP, learned at once."""
    seq = learner.commit_one(learner.stage_settlement(action, seqs, "ops"))
    learn_all(learner)
    return seq


def replay(learner: Learner) -> LearnerState:
    """The state that the learner's log gives to a start from its beginning."""
    return Restorer(learner.log, learner._restorer.rule, expected(learner.log, learner.config)).newest().state


def state_of(learner: Learner) -> LearnerState:
    """What has been learned."""
    return learner._learning.state


def events_of(learner: Learner, after: int = 0) -> list[Event]:
    """What is in the log after that place."""
    return [event for batch in learner.log.batches(after) for event in batch]


def digest(learner: Learner) -> bytes:
    """Everything that a learner knows, to the bit."""
    join, log = learner._join, learner.log
    return pickle.dumps(
        [
            state_digest(learner._learning.state),
            learner.view,
            list(learner.backlog._batches),
            dict(learner._latest),
            dict(learner.counters),
            learner._learning.progress,
            log.last_seq,
            list(log._events),
            log._decisions,
            [[(key, entry.at_s, dict(entry.rewards)) for key, entry in known.items()] for known in known_rewards(join)],
        ]
    )


def known_rewards(join):
    """The index of decisions and that of reward ids."""
    return join._decisions, join._reward_ids


def state_digest(state: LearnerState) -> list[object]:
    """What learning changes, to the bit, to be compared by equality."""
    rules = [state.rule, *(shadow.rule for shadow in state.shadows.values())]
    rule = [{name: bits(tensor) for name, tensor in part.items()} for one in rules for part in (one.rows, one.shared)]
    identities = [state.identity, state.served_since, *(shadow.identity for shadow in state.shadows.values())]
    # Selections come with decisions, which have no place among the events.
    names = [field.name for field in fields(UidStatistics) if field.name != "selections"]
    counts = [getattr(state.statistics, name).tobytes() for name in names]
    tenures = (sorted(state.tenures.since.items()), sorted(state.tenures.former_hotkeys.items()))
    held = list(state.held.items())
    return [rule, identities, counts, tenures, state.view, state.version, state.frozen, held, state.standings]


def bits(tensor: torch.Tensor) -> bytes:
    """A tensor's numbers, to the bit (equality would take -0 for 0 and no NaN for itself)."""
    return tensor.contiguous().numpy().tobytes()


def head_bits(learner: Learner) -> list[bytes]:
    """The published numbers, to the bit."""
    snapshot = learner.snapshot()
    return [snapshot.weight.tobytes(), snapshot.bias.tobytes(), snapshot.bonus.tobytes()]


def learn_batch(*events: tuple[NDArray[np.generic], Mapping[int, float]]) -> LearnBatch:
    """A batch of (embedding, rewards by uid)."""
    return LearnBatch(
        embedding=torch.from_numpy(np.stack([vector for vector, _ in events]).astype(np.float32)),
        event=torch.tensor([index for index, (_, rewards) in enumerate(events) for _ in rewards], dtype=torch.long),
        uids=torch.tensor([uid for _, rewards in events for uid in rewards], dtype=torch.long),
        rewards=torch.tensor([value for _, rewards in events for value in rewards.values()], dtype=torch.float32),
    )


def random_events(rng, count, *, num_uids, dim, most=4):
    """`count` events of up to `most` uids each."""
    events = []
    for _ in range(count):
        uids = rng.choice(num_uids, rng.integers(1, most + 1), replace=False)
        events.append((rng.normal(size=dim).astype(np.float16), {int(uid): float(rng.random()) for uid in uids}))
    return events
