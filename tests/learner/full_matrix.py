"""A world in which every uid's reward for every prompt is known, logs of it, and how often intervals hold the truth.

`python -m tests.learner.full_matrix` prints the table of docs/evaluation.md.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gating.policies import Greedy, Policy, Softmax, SquareCB, TailExploration
from gating.selection import systematic_sample
from learner.evaluation import Evidence, evaluate
from learner.reward_model import cut, fit_reward_model

ESTIMATORS = ("ips", "snips", "dr")


@dataclass(frozen=True)
class World:
    """Prompts with embeddings; rewards are coin tosses, so that no model can know them."""

    embedding: NDArray[np.float32]
    rewards: NDArray[np.float64]
    logging_scores: NDArray[np.float64]
    target_scores: NDArray[np.float64]


def build_world(num_uids: int, prompts: int = 3_000, dim: int = 16, seed: int = 0) -> World:
    """Two rules: the one that logged knows the uids' skills roughly, the target better."""
    rng = np.random.default_rng(seed)
    embedding = rng.normal(size=(prompts, dim))
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    skill = rng.normal(size=(dim, num_uids)) * 0.5
    expected = 1 / (1 + np.exp(-2.5 * embedding @ skill - rng.normal(size=num_uids) * 0.5))
    return World(
        embedding=embedding.astype(np.float32),
        rewards=(rng.random(expected.shape) < expected).astype(np.float64),
        logging_scores=expected + rng.normal(size=expected.shape) * 0.15,
        target_scores=expected + rng.normal(size=expected.shape) * 0.05,
    )


@dataclass(frozen=True)
class Case:
    """A logging policy and a target."""

    num_uids: int
    k: int
    logging: Policy
    target: Policy
    decisions: int


CASES = (
    Case(9, 1, TailExploration(epsilon_single=0.4), Greedy(), 1_000),
    Case(9, 4, TailExploration(0.5, explore_slots=4), TailExploration(), 500),
    Case(9, 4, SquareCB(10.0, explore_slots=4), Softmax(0.1), 500),
    Case(64, 4, Softmax(0.2), TailExploration(0.2, explore_slots=2), 2_000),
)


def true_value(world: World, case: Case) -> float:
    """What the target earns per asked uid, over all prompts."""
    target = case.target.probabilities(world.target_scores, case.k)
    return float((target * world.rewards).sum(axis=1).mean() / case.k)


def draw_evidence(world: World, case: Case, rng: np.random.Generator, *, modelled: bool = True) -> Evidence:
    """One log: prompts drawn anew, answered by the logging policy."""
    rows = rng.integers(0, len(world.embedding), case.decisions)
    logging = case.logging.probabilities(world.logging_scores[rows], case.k)
    target = case.target.probabilities(world.target_scores[rows], case.k)
    chosen = systematic_sample(logging, case.k, rng)
    uids = np.nonzero(chosen)[1].reshape(case.decisions, case.k)
    rewards = np.take_along_axis(world.rewards[rows], uids, axis=1)
    asked = np.ones(uids.shape, dtype=bool)
    predicted = np.zeros(logging.shape)
    if modelled:
        model = fit_reward_model(world.embedding[rows], uids, rewards, asked, case.num_uids)
        predicted = model.predict(world.embedding[rows], cut(case.decisions))
    return Evidence(
        asked=asked,
        propensities=np.take_along_axis(logging, uids, axis=1),
        rewards=rewards,
        target=np.take_along_axis(target, uids, axis=1),
        predicted=np.take_along_axis(predicted, uids, axis=1),
        slots=np.full(case.decisions, case.k),
        baseline=(target * predicted).sum(axis=1) / case.k,
        candidates=np.full(case.decisions, case.num_uids),
    )


def coverage(case: Case, *, logs: int = 200, seed: int = 1) -> dict[str, tuple[float, float, float]]:
    """For each estimator: how many of the logs' intervals hold the true value, mean error, mean width."""
    world, rng = build_world(case.num_uids), np.random.default_rng(seed)
    truth = true_value(world, case)
    evaluations = [evaluate(draw_evidence(world, case, rng)) for _ in range(logs)]
    found = {}
    for name in ESTIMATORS:
        estimates = [getattr(evaluation, name) for evaluation in evaluations]
        holds = np.mean([estimate.low <= truth <= estimate.high for estimate in estimates])
        error = np.mean([estimate.value - truth for estimate in estimates])
        width = np.mean([estimate.high - estimate.low for estimate in estimates])
        found[name] = (float(holds), float(error), float(width))
    return found


def main() -> None:
    """Print a row for each case."""
    for case in CASES:
        found = coverage(case)
        world = build_world(case.num_uids)
        ess = evaluate(draw_evidence(world, case, np.random.default_rng(2), modelled=False)).effective_sample_size
        cells = [f"{100 * holds:.1f}% ({width:.3f}, {error:+.4f})" for holds, error, width in found.values()]
        sys.stdout.write(
            f"| {case.num_uids}, {case.k} | {case.logging} | {case.target} | {case.decisions} | {ess:.0f} | "
            f"{true_value(world, case):.3f} | " + " | ".join(cells) + " |\n"
        )


if __name__ == "__main__":
    main()
