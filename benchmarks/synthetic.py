"""A world of experts whose skills are made up, over prompts that are real: for what no table of scores has, many uids.

Prompts fall into topics (k-means of their embeddings; near a border they belong to two). Each honest expert has a
general level and is good at a few topics; spammers answer anything with rubbish, and some answers are worth
whatever chance says. Everybody's rewards are noisy, and some prompts are harder than others for all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NARROW_GOOD, NARROW_BAD = 0.95, 0.1


@dataclass(frozen=True, slots=True)
class World:
    """What the experts would earn.

    Attributes:
        rewards: float32 [prompts, uids] in [0, 1], noise included.
        topics: float32 [prompts, topics], how far each prompt belongs to each topic; rows sum to 1.
        skills: float32 [uids, topics], the mean reward of each expert at each topic before noise and difficulty.
        spammers: bool [uids].
        random: bool [uids], the uids whose rewards are chance.
    """

    rewards: NDArray[np.float32]
    topics: NDArray[np.float32]
    skills: NDArray[np.float32]
    spammers: NDArray[np.bool_]
    random: NDArray[np.bool_]


def synthetic_world(
    embedding: NDArray[np.floating],
    num_uids: int,
    *,
    seed: int = 0,
    num_topics: int = 24,
    topics_per_uid: int = 4,
    spam_share: float = 0.3,
    random_share: float = 0.05,
    noise: float = 0.1,
) -> World:
    """The world that a seed stands for.

    Args:
        embedding: one row per prompt, of about unit length.
        num_uids: how many experts.
        seed: of everything that is drawn.
        num_topics: how many topics there are.
        topics_per_uid: how many each honest expert is good at.
        spam_share: share of the uids that are spammers.
        random_share: share of the uids whose rewards are uniform in [0, 1].
        noise: standard deviation of a reward's noise.

    Raises:
        ValueError: there are fewer prompts than topics, or the shares leave no honest expert.
    """
    if len(embedding) < num_topics:
        raise ValueError(f"{len(embedding)} prompts do not make {num_topics} topics; give more prompts")
    spammers, chancers = round(spam_share * num_uids), round(random_share * num_uids)
    if spammers + chancers >= num_uids:
        raise ValueError(f"{spammers} spammers and {chancers} random uids leave none of {num_uids} honest")
    rng = np.random.default_rng(seed)
    topics = _topics(np.asarray(embedding, np.float64), num_topics, rng)
    skills = _skills(num_uids, num_topics, topics_per_uid, rng)
    kinds = rng.permutation(num_uids)
    is_spammer, is_random = np.zeros(num_uids, bool), np.zeros(num_uids, bool)
    is_spammer[kinds[:spammers]] = True
    is_random[kinds[spammers : spammers + chancers]] = True
    skills[is_spammer] = rng.uniform(0.0, 0.15, (spammers, 1))
    skills[is_random] = 0.5
    difficulty = rng.normal(0.0, 0.05, (len(embedding), 1))
    rewards = topics @ skills.T + difficulty + rng.normal(0.0, noise, (len(embedding), num_uids))
    rewards[:, is_random] = rng.random((len(embedding), chancers))
    return World(
        rewards=np.clip(rewards, 0.0, 1.0).astype(np.float32),
        topics=topics.astype(np.float32),
        skills=skills.astype(np.float32),
        spammers=is_spammer,
        random=is_random,
    )


def narrow_world(
    embedding: NDArray[np.floating], num_uids: int, *, seed: int = 0, num_kinds: int = 8
) -> NDArray[np.float32]:
    """Rewards of experts who are each good at one kind of prompt and bad at all others, without any noise.

    Args:
        embedding: one row per prompt, of about unit length.
        num_uids: how many experts; each kind has as many as the others, or one more.
        seed: of the kinds.
        num_kinds: how many kinds; a prompt's is its nearest topic.

    Returns:
        float32 [prompts, uids]: .95 where the prompt is of the expert's kind, otherwise .1.

    Raises:
        ValueError: there are fewer prompts than kinds.
    """
    if len(embedding) < num_kinds:
        raise ValueError(f"{len(embedding)} prompts do not make {num_kinds} kinds; give more prompts")
    topics = _topics(np.asarray(embedding, np.float64), num_kinds, np.random.default_rng(seed))
    is_good = topics.argmax(axis=1)[:, None] == np.arange(num_uids) % num_kinds
    return np.where(is_good, NARROW_GOOD, NARROW_BAD).astype(np.float32)


def _skills(num_uids: int, num_topics: int, topics_per_uid: int, rng: np.random.Generator) -> NDArray[np.float64]:
    level = rng.normal(0.5, 0.05, (num_uids, 1))
    skills = level + rng.normal(0.0, 0.05, (num_uids, num_topics))
    order = rng.permuted(np.tile(np.arange(num_topics), (num_uids, 1)), axis=1)[:, :topics_per_uid]
    lift = rng.uniform(0.25, 0.45, (num_uids, topics_per_uid))
    np.put_along_axis(skills, order, np.take_along_axis(skills, order, axis=1) + lift, axis=1)
    return np.clip(skills, 0.0, 0.97)


def _topics(
    embedding: NDArray[np.float64], count: int, rng: np.random.Generator, *, rounds: int = 25, sharpness: float = 20.0
) -> NDArray[np.float64]:
    """Soft memberships in `count` clusters (Lloyd's k-means), by distance to the centres."""
    centres = embedding[rng.choice(len(embedding), count, replace=False)]
    for _ in range(rounds):
        nearest = _squared_distances(embedding, centres).argmin(axis=1)
        members = np.eye(count)[nearest]
        filled = members.sum(axis=0) > 0
        centres[filled] = (members.T @ embedding)[filled] / members.sum(axis=0)[filled, None]
    closeness = -sharpness * _squared_distances(embedding, centres)
    weights = np.exp(closeness - closeness.max(axis=1, keepdims=True))
    memberships: NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
    return memberships


def _squared_distances(embedding: NDArray[np.float64], centres: NDArray[np.float64]) -> NDArray[np.float64]:
    distances: NDArray[np.float64] = (
        (embedding**2).sum(axis=1)[:, None] - 2.0 * embedding @ centres.T + (centres**2).sum(axis=1)
    )
    return distances
