"""How a replica talks to the learner, as a protocol. `ray_learner` is its implementation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

from learner.core import ExplainedDecision, HeldEvent, ResyncSummary
from learner.events import Action, Standing
from learner.nonces import NonceVerdict
from learner.protocol import DecisionBatch, PollReply, ReplicaStatus, RewardItem, RewardReply, Wait
from learner.state import HeadSnapshot
from learner.trust import AuthorView


class LearnerClient(Protocol):
    """The learner as the replicas use it.

    Every call raises LearnerAway when the learner does not answer in time or cannot log, and LearnerError when it
    refuses. `author` is who asks.
    """

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

    async def resync(self, author: str) -> ResyncSummary:
        """Read the network again."""
        ...

    async def checkpoint(self, author: str) -> dict[str, Any]:
        """Save what has been learned so far."""
        ...

    async def checkpoints(self) -> list[dict[str, Any]]:
        """The checkpoints that are kept, newest first."""
        ...

    async def freeze(self, frozen: bool, author: str) -> int:
        """Stop learning, or go on with it; the version from which on that holds."""
        ...

    async def rollback(self, version: int | None, checkpoint: str | None, author: str) -> dict[str, Any]:
        """Publish an earlier version's weights, or a checkpoint's, as a new one; what was learned since is held."""
        ...

    async def promote(self, label: str, author: str) -> dict[str, Any]:
        """Let a shadow rule serve."""
        ...

    async def hand_over(self, author: str) -> dict[str, Any]:
        """Replace the learner by one of this replica's settings and code, which goes on from its log."""
        ...

    async def quarantine(self, after: int, limit: int) -> tuple[int, list[HeldEvent]]:
        """How many events are held, and those after that place in the log."""
        ...

    async def settle(
        self, action: Literal[Action.READMIT, Action.DROP], seqs: Sequence[int] | None, author: str
    ) -> dict[str, int]:
        """Learn held events after all, or give them up; None: all of them."""
        ...

    async def authors(self) -> list[AuthorView]:
        """Every author that reward trust remembers, or of whom an operator said something."""
        ...

    async def set_standing(self, subject: str, standing: Standing, author: str) -> int:
        """What an operator says of an author; its place in the log, from which on it holds."""
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

    async def erase_embedding(self, decision_id: str, author: str) -> bool:
        """Forget a decision's embedding."""
        ...
