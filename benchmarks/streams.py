"""What the learning benchmark plays: prompts in an order, rewards that may change, and what happens to the reports.

A stream is made once per seed, before anything is chosen, so every agent meets the same one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float, Int

BATCH = 8
"""Prompts a request: what they earned is learned before the next request, as with `tidegate demo`."""
NEWCOMER_EVERY = 500
NEWCOMER_SHARE = 0.01
AUTHORS, LIAR = 20, 0
MISSING = 0.3
NOISE = 0.2
LONGEST_DELAY = 1_000


@dataclass(frozen=True)
class Stream:
    """T prompts for N uids.

    Attributes:
        name: of the scenario.
        embedding: of each prompt, float32.
        rewards: what each uid's answer to each prompt is worth, in [0, 1].
        available: which uids can be chosen when; None for all.
        reported: what a report says, where that is not the reward; NaN where none ever comes.
        delay: after how many further prompts a report arrives.
        authors: who reports on each prompt, by number.
        rows: which of the set's prompts each one is.
        newcomers: step -> uids that have a new owner from that step on.
        half: the step at which something changes, None if nothing does.
    """

    name: str
    embedding: Float[np.ndarray, "step hidden"]
    rewards: Float[np.ndarray, "step uid"]
    available: Bool[np.ndarray, "step uid"] | None = None
    reported: Float[np.ndarray, "step uid"] | None = None
    delay: Int[np.ndarray, " step"] | None = None
    authors: Int[np.ndarray, " step"] | None = None
    rows: Int[np.ndarray, " step"] | None = None
    newcomers: dict[int, tuple[int, ...]] = field(default_factory=dict)
    half: int | None = None

    @property
    def steps(self) -> int:
        """How many prompts there are."""
        return len(self.embedding)

    @property
    def uids(self) -> int:
        """How many uids there are."""
        return int(self.rewards.shape[1])

    @property
    def worth(self) -> Float[np.ndarray, "step uid"]:
        """The rewards, -inf where a uid cannot be chosen."""
        return self.rewards if self.available is None else np.where(self.available, self.rewards, -np.inf)

    def names(self, steps: Int[np.ndarray, " batch"]) -> list[str] | None:
        """The authors of the reports on these prompts, `author-0` to `author-19`."""
        return None if self.authors is None else [f"author-{author}" for author in self.authors[steps]]

    def requests(self) -> list[Int[np.ndarray, " batch"]]:
        """The prompts in order, at most 8 a request, and a new request where something changes."""
        cuts = {*range(0, self.steps, BATCH), *self.newcomers, self.half or 0}
        return np.split(np.arange(self.steps), sorted(cut for cut in cuts if 0 < cut < self.steps))


def stationary(
    embedding: Float[np.ndarray, "prompt hidden"],
    rewards: Float[np.ndarray, "prompt uid"],
    rng: np.random.Generator,
    steps: int | None = None,
) -> Stream:
    """The prompts in a random order, the first `steps` of them, each reported on by one of 20 authors."""
    rows = rng.permutation(len(embedding))[:steps]
    authors = rng.integers(AUTHORS, size=len(rows))
    return Stream("stationary", embedding[rows], rewards[rows], authors=authors, rows=rows)


def drift(stream: Stream, _rng: np.random.Generator) -> Stream:
    """At half time the best and the worst uid change places."""
    half, rewards = stream.steps // 2, stream.rewards.copy()
    means = rewards.mean(axis=0)
    pair = [int(means.argmax()), int(means.argmin())]
    rewards[half:, pair] = rewards[half:, pair[::-1]]
    return replace(stream, name="drift", rewards=rewards, half=half)


def cold_arm(stream: Stream, _rng: np.random.Generator) -> Stream:
    """The best uid can be chosen from half time on only."""
    half, available = stream.steps // 2, np.ones(stream.rewards.shape, bool)
    available[:half, stream.rewards.mean(axis=0).argmax()] = False
    return replace(stream, name="cold arm", available=available, half=half)


def churn(stream: Stream, rng: np.random.Generator) -> Stream:
    """Every 500 steps 1% of the uids, at least one, have a new owner with the skills of some uid at the start."""
    rewards, newcomers = stream.rewards.copy(), {}
    count = max(1, round(NEWCOMER_SHARE * stream.uids))
    for step in range(NEWCOMER_EVERY, stream.steps, NEWCOMER_EVERY):
        gone = rng.choice(stream.uids, count, replace=False)
        rewards[step:, gone] = stream.rewards[step:, rng.permutation(stream.uids)[:count]]
        newcomers[step] = tuple(gone.tolist())
    return replace(stream, name="churn", rewards=rewards, newcomers=newcomers)


def delayed(stream: Stream, rng: np.random.Generator) -> Stream:
    """Reports come late: lognormal with a median of 50 prompts, at most 1,000; most come after later ones."""
    delay = np.minimum(rng.lognormal(np.log(50.0), 1.2, stream.steps), LONGEST_DELAY).astype(np.int64)
    return replace(stream, name="delayed", delay=delay)


def missing_and_noisy(stream: Stream, rng: np.random.Generator) -> Stream:
    """30% of the reports never come, and the others are off by normal noise of 0.2, clipped to [0, 1]."""
    noisy = np.clip(stream.rewards + rng.normal(0.0, NOISE, stream.rewards.shape), 0.0, 1.0)
    noisy[rng.random(stream.rewards.shape) < MISSING] = np.nan
    return replace(stream, name="missing and noisy", reported=noisy)


def poisoned(stream: Stream, _rng: np.random.Generator) -> Stream:
    """One author of twenty, the first, reports 1 - reward."""
    if stream.authors is None:
        raise ValueError("the stream has no authors; make it with `stationary`")
    lies = stream.authors == LIAR
    return replace(stream, name="poisoned", reported=np.where(lies[:, None], 1.0 - stream.rewards, stream.rewards))


Scenario = Callable[[Stream, np.random.Generator], Stream]

SCENARIOS: dict[str, Scenario] = {
    "stationary": lambda stream, _rng: stream,
    "drift": drift,
    "cold-arm": cold_arm,
    "churn": churn,
    "delayed": delayed,
    "missing": missing_and_noisy,
    "poisoned": poisoned,
}
