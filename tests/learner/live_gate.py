"""A gate in small: decisions by a learner's snapshots, their rewards, and a log of both."""

from __future__ import annotations

import numpy as np

from gating.policies import Policy, TailExploration
from gating.selection import ordinary_bonus, select
from learner.core import Learner
from learner.events import Decision, candidates_digest

from .builders import EPOCH, decide, embedding, learn_all, reward


class LiveGate:
    """Answers prompts by what its learner has published, and rewards the answers.

    Uid i earns 1 for a prompt whose coordinate i % D is positive, else 0.
    """

    def __init__(self, learner: Learner, policy: Policy | None = None, seed: int = 0) -> None:
        self.learner = learner
        self.policy = policy or TailExploration(0.5, 0.5)
        self.decisions: list[Decision] = []
        self._rng = np.random.default_rng(seed)
        self.snapshot = learner.snapshot()

    def publish(self) -> None:
        """Serve the newest weights from now on."""
        learn_all(self.learner)
        self.snapshot = self.learner.snapshot()

    def decide(self, k: int = 2, uids: list[int] | None = None, digest: str | None = None) -> Decision:
        """One prompt, of all the available uids or of those."""
        snapshot, prompt = self.snapshot, embedding(int(self._rng.integers(2**31)))
        candidates = np.flatnonzero(snapshot.available) if uids is None else np.array(uids, np.int64)
        [selection] = select(
            (prompt.astype(np.float32) @ snapshot.weight.T + snapshot.bias)[None, candidates],
            candidates,
            k,
            policy=self.policy,
            generator=self._rng,
            bonus=snapshot.bonus[candidates],
            ordinary=ordinary_bonus(snapshot.bonus[snapshot.available]),
        )
        decision = Decision(
            id=f"gate-{len(self.decisions)}",
            time_s=0.0,
            epoch=EPOCH,
            version=snapshot.version,
            embedding=prompt,
            uids=tuple(selection.uids.tolist()),
            scores=tuple(selection.scores.tolist()),
            propensities=tuple(selection.propensities.tolist()),
            hotkeys=tuple(snapshot.view.hotkeys[uid] for uid in selection.uids),
            candidates=len(candidates),
            candidates_digest=digest or candidates_digest(candidates),
        )
        self.decisions.append(decision)
        decide(self.learner, decision)
        return decision

    def reward(self, decision: Decision, uids: list[int] | None = None) -> None:
        """Report what they earned, all of them or those."""
        earned = {uid: float(decision.embedding[uid % len(decision.embedding)] > 0) for uid in decision.uids}
        self.learner.add_rewards([reward(decision.id, {uid: earned[uid] for uid in uids or decision.uids})])

    def run(self, decisions: int, *, k: int = 2, every: int = 1) -> None:
        """Decide, reward and learn; publish after each `every`."""
        for number in range(decisions):
            self.reward(self.decide(k))
            if number % every == every - 1:
                self.publish()
