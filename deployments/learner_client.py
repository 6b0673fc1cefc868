"""How a replica talks to the learner, as a protocol. `ray_learner` is its implementation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from learner.core import ExplainedDecision, ResyncSummary
from learner.events import DecisionBatch, PollReply, ReplicaStatus, RewardItem, RewardReply, Wait
from learner.nonces import NonceVerdict
from learner.state import HeadSnapshot


class LearnerClient(Protocol):
    """The learner as the replicas use it. Every call raises LearnerAway when it does not answer in time."""

    async def poll(self, status: ReplicaStatus, wait_s: float) -> tuple[PollReply, HeadSnapshot | None]:
        """Wait for a newer version than `status` has; the snapshot is None if there was none."""
        ...

    async def add_decisions(self, batch: DecisionBatch) -> None:
        """Hand over decisions; sending a batch again changes nothing."""
        ...

    async def add_rewards(self, items: Sequence[RewardItem], wait: Wait, timeout_s: float) -> RewardReply:
        """Report rewards; LearnerError says what is wrong with them."""
        ...

    async def check_nonce(self, hotkey: str, nonce_ns: int, skew_s: float) -> NonceVerdict:
        """Whether a signed request is new, over all replicas; it is not the next time."""
        ...

    async def resync(self) -> ResyncSummary:
        """Read the network again."""
        ...

    async def describe(self) -> dict[str, Any]:
        """Figures of learner, network and replicas."""
        ...

    async def uid_table(self) -> list[dict[str, object]]:
        """One row per uid."""
        ...

    async def explain(self, decision_id: str) -> ExplainedDecision | None:
        """One decision and its rewards."""
        ...

    async def erase_embedding(self, decision_id: str) -> bool:
        """Forget a decision's embedding."""
        ...
