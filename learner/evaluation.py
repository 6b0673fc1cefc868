"""Off-policy evaluation: what another policy would have earned, estimated from what was logged.

For each decision x, with target inclusion probabilities p_i over its candidates (they sum to its k), the value is
the mean reward per asked uid, V = E[1/k sum_i p_i r_i]. The log has the set S that was asked, each uid with the
probability q_i > 0 by which it was included, and the rewards of S. With w_i = p_i / q_i, and W = 1/k sum_S w_i:

- IPS: the mean of 1/k sum_S w_i r_i. Horvitz and Thompson 1952; for sets of answers whose rewards add up,
  Swaminathan et al. 2017 ("Off-policy evaluation for slate recommendation"). Unbiased.
- SNIPS: the same divided by the mean of W, whose expectation is 1. Swaminathan and Joachims 2015 ("The
  self-normalized estimator for counterfactual learning"). A little bias, less variance.
- DR: the mean of 1/k (sum_i p_i m_i + sum_S w_i (r_i - m_i)), with a model m of the rewards. Dudik, Langford and Li
  2011 ("Doubly robust policy evaluation and learning"). Unbiased whatever the model, if it has not seen the
  decision's own rewards; the better the model, the less variance.

Intervals are normal ones from the spread over decisions (for SNIPS by the delta method), which is right for many
decisions whose weights are not dominated by a few: `effective_sample_size` = (sum W)^2 / sum W^2 (Kong 1992) tells.
Each decision's choice is taken as independent given what came before it: then the errors of IPS and DR are sums of
martingale differences also where the log was learned from, if the model has seen earlier decisions only.

There is `no_support` instead of a number where the target wants what the log could not choose: where all that was
asked was certain (q_i = 1), no other candidate had a chance, and its share of the target, 1 - 1/k sum_S p_i, is
out of reach. Where chance was at work the log does not say who else had one, but then W must average 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from jaxtyping import Bool, Float, Int

Z_95 = 1.959964
MAX_UNREACHABLE = 1e-3
"""The share of the target's choices that may be out of the log's reach: it biases the value by no more than that."""
_LOW_WEIGHT = 0.98
_SURE = 4.0


class Status(StrEnum):
    """Whether there is a number."""

    OK = "ok"
    NO_SUPPORT = "no_support"
    NO_DATA = "no_data"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of n decisions. Rows are padded up to the most uids that one of them asked.

    Attributes:
        asked: bool [n, k]; False where padded.
        propensities: by which the asked uids were included.
        rewards: what they earned.
        target: the target's inclusion probabilities of them.
        predicted: what a model that has not seen these rewards takes them to earn.
        slots: how many the target asks, its k.
        baseline: 1/k sum_i p_i m_i over all candidates.
        candidates: how many there were.
    """

    asked: Bool[np.ndarray, "batch k"]
    propensities: Float[np.ndarray, "batch k"]
    rewards: Float[np.ndarray, "batch k"]
    target: Float[np.ndarray, "batch k"]
    predicted: Float[np.ndarray, "batch k"]
    slots: Int[np.ndarray, " batch"]
    baseline: Float[np.ndarray, " batch"]
    candidates: Int[np.ndarray, " batch"]

    @property
    def size(self) -> int:
        """How many decisions."""
        return len(self.asked)

    def take(self, rows: Int[np.ndarray, " k"]) -> Evidence:
        """Those decisions."""
        return Evidence(*(getattr(self, name)[rows] for name in self.__slots__))

    @classmethod
    def join(cls, parts: Sequence[Evidence]) -> Evidence:
        """All of them, one after the other; at least one."""
        width = max(part.asked.shape[1] for part in parts)

        def joined(name: str) -> np.ndarray:
            arrays = [getattr(part, name) for part in parts]
            if arrays[0].ndim == 2:
                # Padded as within one: nobody asked, and a propensity that can be divided by.
                fill = 1.0 if name == "propensities" else 0
                arrays = [
                    np.pad(array, ((0, 0), (0, width - array.shape[1])), constant_values=fill) for array in arrays
                ]
            return np.concatenate(arrays)

        return cls(*(joined(name) for name in cls.__slots__))


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95% interval; None where there is none, and then `status` says why."""

    status: Status
    value: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What the log says of a policy.

    Attributes:
        decisions: how many it was estimated from.
        unreachable: the share of the target's choices that the log could not have made.
        mean_weight: of W; far from 1 there is no support, or too little data to see it.
        effective_sample_size: so many decisions of the target itself would tell as much.
        logged: what was earned by those who were asked: the value of the logging policy.
    """

    decisions: int
    unreachable: float | None
    mean_weight: float | None
    effective_sample_size: float
    logged: Estimate
    ips: Estimate
    snips: Estimate
    dr: Estimate


def evaluate(evidence: Evidence) -> Evaluation:
    """Estimate the target's value in each of the three ways; see the module's docstring."""
    asked = evidence.asked
    if evidence.size < 2:
        nothing = Estimate(Status.NO_DATA)
        return Evaluation(evidence.size, None, None, 0.0, nothing, nothing, nothing, nothing)
    ratios = _ratios(evidence)
    weights = ratios.sum(axis=1)
    unreachable = float(unreachable_share(evidence).mean())
    logged = _mean(np.where(asked, evidence.rewards, 0.0).sum(axis=1) / asked.sum(axis=1))
    weight = _mean(weights)
    estimates = [Estimate(Status.NO_SUPPORT)] * 3
    if unreachable <= MAX_UNREACHABLE and not _is_too_light(weights):
        estimates = [estimator(evidence, ratios) for estimator in (_ips, _snips, _dr)]
    return Evaluation(
        decisions=evidence.size,
        unreachable=unreachable,
        mean_weight=weight.value,
        effective_sample_size=float(weights.sum() ** 2 / (weights**2).sum()) if weights.any() else 0.0,
        logged=logged,
        ips=estimates[0],
        snips=estimates[1],
        dr=estimates[2],
    )


def difference(one: Evidence, other: Evidence) -> Estimate:
    """How much more `one` is worth than `other`, both of the same decisions: the mean difference of their DR terms.

    Both see the same prompts, so its interval is narrower than that of either value.
    """
    if one.size < 2:
        return Estimate(Status.NO_DATA)
    if Status.NO_SUPPORT in (evaluate(one).dr.status, evaluate(other).dr.status):
        return Estimate(Status.NO_SUPPORT)
    return _mean(_dr_terms(one, _ratios(one)) - _dr_terms(other, _ratios(other)))


def unreachable_share(evidence: Evidence) -> Float[np.ndarray, " batch"]:
    """For each decision the share of the target's choices that it could not have made, as far as it tells."""
    others = evidence.asked.sum(axis=1) < evidence.candidates
    certain = others & np.where(evidence.asked, evidence.propensities == 1.0, True).all(axis=1)
    wanted = np.where(evidence.asked, evidence.target, 0.0).sum(axis=1) / evidence.slots
    return np.where(certain, np.maximum(1.0 - wanted, 0.0), 0.0)


def _ips(evidence: Evidence, ratios: Float[np.ndarray, "batch k"]) -> Estimate:
    return _mean((ratios * evidence.rewards).sum(axis=1))


def _snips(evidence: Evidence, ratios: Float[np.ndarray, "batch k"]) -> Estimate:
    value = float((ratios * evidence.rewards).sum() / ratios.sum())
    residuals = (ratios * (evidence.rewards - value)).sum(axis=1) / ratios.sum(axis=1).mean()
    return _around(value, residuals)


def _dr(evidence: Evidence, ratios: Float[np.ndarray, "batch k"]) -> Estimate:
    return _mean(_dr_terms(evidence, ratios))


def _dr_terms(evidence: Evidence, ratios: Float[np.ndarray, "batch k"]) -> Float[np.ndarray, " batch"]:
    terms: Float[np.ndarray, " batch"] = evidence.baseline + (ratios * (evidence.rewards - evidence.predicted)).sum(1)
    return terms


def _ratios(evidence: Evidence) -> Float[np.ndarray, "batch k"]:
    asked = evidence.asked
    weights = np.where(asked, evidence.target / np.where(asked, evidence.propensities, 1.0), 0.0)
    shares: Float[np.ndarray, "batch k"] = weights / evidence.slots[:, None]
    return shares


def _mean(values: Float[np.ndarray, " batch"]) -> Estimate:
    return _around(float(values.mean()), values)


def _around(value: float, values: Float[np.ndarray, " batch"]) -> Estimate:
    margin = Z_95 * float(values.std(ddof=1)) / len(values) ** 0.5
    return Estimate(Status.OK, value, value - margin, value + margin)


def _is_too_light(weights: Float[np.ndarray, " batch"]) -> bool:
    """Whether the weights average less than 1 beyond chance: the target wants what the log never had."""
    upper = weights.mean() + _SURE * weights.std(ddof=1) / len(weights) ** 0.5
    return bool(upper < _LOW_WEIGHT)
