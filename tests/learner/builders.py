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
from learner.config import LearnerConfig, RuleConfig, SoftmaxMseConfig
from learner.core import Learner
from learner.event_log import MemoryEventLog
from learner.events import Decision, DecisionBatch, RewardItem
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


def reward(decision_id: str, rewards: Mapping[int, float]) -> RewardItem:
    """Rewards for a decision, by uid."""
    return RewardItem(tuple(rewards), tuple(rewards.values()), decision_id=decision_id)


def message_reward(reward_id: str, rewards: Mapping[int, float]) -> RewardItem:
    """Rewards for a message, by uid."""
    return RewardItem(tuple(rewards), tuple(rewards.values()), reward_id=reward_id, embedding=embedding(len(reward_id)))


def build_learner(
    *,
    view: MetagraphView = START,
    rule: Rule | None = None,
    rule_config: RuleConfig | None = None,
    clock: Clock | None = None,
    on_hotkey_swap: Literal["keep", "reset"] = "keep",
    **settings: object,
) -> Learner:
    """A learner with an empty log; by default its rule is the one that draws its rows at random."""
    config = LearnerConfig(rule=rule_config or SoftmaxMseConfig(), **settings)
    return Learner(
        config=config,
        rule=rule or build_rule(config.rule),
        view=view,
        dim=DIM,
        fingerprint=FINGERPRINT,
        log=MemoryEventLog(started_at_ms=EPOCH),
        clock=clock or Clock(),
        on_hotkey_swap=on_hotkey_swap,
    )


def decide(learner: Learner, *decisions: Decision) -> None:
    """Hand decisions over as a replica does."""
    learner.add_decisions(DecisionBatch(FINGERPRINT, decisions))


def learn_all(learner: Learner) -> list[int]:
    """Learn everything that waits; returns the sizes of the batches."""
    sizes = []
    while size := learner.learn():
        sizes.append(size)
    return sizes


def replay(learner: Learner, sizes: Sequence[int], **settings: object) -> Learner:
    """A fresh learner that has learned the log of another in batches of the same sizes."""
    fresh = build_learner(rule=learner.rule, **settings)
    events = learner.log.events_after(0)
    for size in sizes:
        fresh._queue.extend(fresh.log.append(events[:size]))
        assert fresh.learn() == size
        del events[:size]
    assert not events
    return fresh


def digest(learner: Learner) -> bytes:
    """Everything that a learner knows, to the bit."""
    join, state = learner._join, learner._state
    return pickle.dumps(
        [
            state_digest(state),
            learner.view,
            list(learner._queue),
            dict(learner._latest),
            dict(learner.counters),
            list(learner._recent_rewards),
            list(learner._recent_losses),
            learner.log.last_seq,
            learner.log.events_after(0),
            learner.log._decisions,
            [[(key, entry.at_s, dict(entry.rewards)) for key, entry in known.items()] for known in known_rewards(join)],
            join.joined_decisions,
        ]
    )


def known_rewards(join):
    """The index of decisions and that of reward ids."""
    return join._decisions, join._reward_ids


def state_digest(state: LearnerState) -> bytes:
    """What learning changes, to the bit."""
    rule = [{name: bits(tensor) for name, tensor in part.items()} for part in (state.rule.rows, state.rule.shared)]
    counts = [getattr(state.statistics, field.name).tobytes() for field in fields(UidStatistics)]
    return pickle.dumps([rule, counts, state.view, state.version])


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
