"""A ridge regression a uid, shrunk toward one that is fitted to the rewards of all uids, with forgetting.

A prompt is x = [its embedding along the main directions of the stream's prompts, at a mean squared length of 1;
1] (see `projection`). Each uid keeps A = sum w x x^T, b = sum w r x and n = sum w over its rewards r, and the pool
the same over all rewards. The pool's regression is t0 = (A_pool + pool_ridge I)^-1 b_pool, a uid's is
w = (A + ridge I)^-1 (b + ridge t0), and its score w.x. The mean of a Gaussian whose prior is centred on t0, in
other words, of which t0 itself is estimated (empirical Bayes; the hierarchy of Hong et al. 2022, "Hierarchical
Bayesian bandits"): a uid without rewards is taken to be like the others, not to be worth nothing. How alike the
uids are, and so the ridge, is learned too, together with the rewards' noise: see `shrinkage`. That is done anew
whenever the rewards have doubled, at the latest after memory_rounds a uid; `ridge` is where it starts. Then all
rows are to be solved again, which is why it is rare.

In the head, a uid that was tried is drawn to more than the pool: by optimism n / (n + 2) times the standard deviation
of what sets a uid apart, sqrt(2 s / ridge) at a prompt of the usual squared length of 2 (s is the noise). Such
optimistic initial values (Sutton and Barto 2018, 2.6) give way along the directions in which a uid has earned rewards
and stay along the others. So one that was found bad at one kind of prompt is still tried at another, which a bonus by
count cannot bring about: that is the same for every prompt. Who was never tried has the bonus only, so that nobody
gains by registering again. With more than 32 uids it falls as 1 / N: then several are good at each kind of prompt, and
to try everybody at everything costs more than it brings (benchmarks/results/settings_tried.md has the figures).

The weights w fade: those of a uid by 1 - 1/memory_rewards with each later reward of its own, and all, the pool's
too, by 1 - k / (memory_rounds N) with each learned event of k uids, so that a uid that is no longer asked is
forgotten and tried again. A row keeps the time up to which it has faded and is brought up to date when it is
next needed; no step touches all rows. In the head, a row that is not touched fades in notches of 1/64, so that
few rows have to be solved again: see `gains`.

All of it is one linear head on the embedding. The state takes 4 (p^2 + p) + 33 bytes a uid with p = dims + 1
inputs, 16,673 by default: 4.3 MB for 256 uids, 68 MB for 4,096; and as much again for the gains, which are no
part of it. What is shared takes 8 (D dims + 4 p^2), and 8 D^2 more until the last refit: 0.3 and 1.2 MB at D = 384.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from gating.head import xavier_rows

from ..config import NewRow
from ..state import Head, RuleState
from .base import LearnBatch
from .gains import Gains, next_stamp, stamped
from .projection import initial_projection, inputs, onto_directions, see, turned_gram, turned_target
from .ridge import Sums, factored, solved, sums_by_uid
from .shrinkage import Shrinkage, evenly_spaced, fitted

_BONUS_PRIOR = 20.0
_FEW_UIDS = 32.0  # with more, the optimism falls in proportion
_TRIED = 2.0  # with so many rewards half of the optimism counts
_USUAL_LENGTH = 2.0  # squared: 1 along the directions and the constant's
_NOTCH = 1.0 / 64.0
_FIRST_FIT = 256
_UNKNOWN_NOISE = 0.25  # of rewards in [0, 1] the greatest there is


class _Fading(NamedTuple):
    """How much of everything is left at the end of a batch.

    Attributes:
        clock: the time at its end.
        events: what is left of each event, float32.
        before: what is left of what was known at its beginning.
    """

    clock: Tensor
    events: Float[Tensor, " batch"]
    before: Tensor


class PooledRidge:
    """See the module's docstring.

    Args:
        dims: directions of the prompts to use; no more than the embedding's width.
        ridge: the strength of the pull toward the pool, in rewards, until it is known better.
        pool_ridge: that of the pool toward zero.
        bonus: exploration bonus of a uid with n rewards that have not faded, in standard deviations of the noise:
            bonus / sqrt(n + 20).
        optimism: how much more than the pool a uid that was tried is taken to be worth along directions in which it has
            earned nothing, in standard deviations of what sets uids apart.
        memory_rewards: a uid's reward counts 1/e after so many later ones of its own.
        memory_rounds: any reward counts 1/e after every uid could have been asked so often.
        new_row: what a new owner's regression is shrunk toward: the pool, random weights, or zero.
    """

    name = "pooled_ridge"

    def __init__(
        self,
        *,
        dims: int = 63,
        ridge: float = 20.0,
        pool_ridge: float = 0.1,
        bonus: float = 1.5,
        optimism: float = 0.7,
        memory_rewards: float = 2000.0,
        memory_rounds: float = 500.0,
        new_row: NewRow = "pool",
    ) -> None:
        self.dims = dims
        self.ridge = ridge
        self.pool_ridge = pool_ridge
        self.bonus = bonus
        self.optimism = optimism
        self.own_share = 1.0 - 1.0 / memory_rewards
        self.memory_rounds = memory_rounds
        self.new_row = new_row
        self._gains = Gains()

    def initial_state(self, num_uids: int, dim: int, generator: torch.Generator) -> RuleState:
        """No rewards: every uid is as the pool, and the pool scores 0."""
        dims = min(self.dims, dim)
        shared = initial_projection(dims, dim) | {
            "pool_gram": torch.zeros(dims + 1, dims + 1, dtype=torch.float64),
            "pool_target": torch.zeros(dims + 1, dtype=torch.float64),
            "clock": torch.zeros((), dtype=torch.float64),
            "stamp": torch.zeros((), dtype=torch.long),
            "fitted": torch.zeros((), dtype=torch.long),
            "ridge": torch.tensor(self.ridge, dtype=torch.float64),
            "noise": torch.tensor(_UNKNOWN_NOISE, dtype=torch.float64),
            "learned": torch.zeros((), dtype=torch.long),
            "next_fit": torch.tensor(_FIRST_FIT),
        }
        rows = self._unlearned(shared, num_uids)
        rows["pooled"] = torch.ones(num_uids, dtype=torch.bool)
        return RuleState(rows=rows, shared=shared)

    def fresh_rows(self, state: RuleState, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        """Rows without rewards, which score as what they are shrunk toward."""
        rows = self._unlearned(state.shared, count)
        if self.new_row == "xavier":
            rows["start"] = xavier_rows(count, state.shared["projection"].shape[1], generator)
        return rows

    def _unlearned(self, shared: dict[str, Tensor], count: int) -> dict[str, Tensor]:
        dims, dim = shared["projection"].shape
        rows = {
            "gram": torch.zeros(count, dims + 1, dims + 1),
            "target": torch.zeros(count, dims + 1),
            "squares": torch.zeros(count),
            "rewards": torch.zeros(count),
            "clock": shared["clock"].repeat(count),
            "basis": shared["basis"].repeat(count),
            "stamp": torch.zeros(count, dtype=torch.long),
            "pooled": torch.full((count,), self.new_row == "pool"),
        }
        if self.new_row == "xavier":
            rows["start"] = torch.zeros(count, dim)
        return rows

    def update(self, state: RuleState, batch: LearnBatch) -> Float[Tensor, " batch"]:
        """All rewards at once, each with the weight that is left of it at the end of the batch.

        The losses are of the regressions before the batch. Where a stream is cut into batches makes no difference
        but for rounding, for which directions a prompt is learned along while they are still being found, and for
        where between two batches the shrinkage is fitted.
        """
        if not len(batch.uids):
            return torch.zeros(batch.size)
        shared = state.shared
        num_uids = len(state.rows["clock"])
        shared["stamp"] = next_stamp(shared["stamp"], num_uids, batch)
        self._find_directions(shared, batch.embedding)
        x = inputs(shared["projection"], batch.embedding)
        per_event = torch.bincount(batch.event, minlength=batch.size)
        weights = torch.bincount(batch.event, batch.weights.double(), minlength=batch.size)
        fading = self._fading(shared["clock"], weights, num_uids)
        losses = self._learn_rows(state, batch, x, fading)
        _learn_pool(shared, batch, x, fading)
        shared["clock"] = fading.clock
        shared["learned"] = shared["learned"] + len(batch.uids)
        if bool(shared["learned"] >= shared["next_fit"]):
            self._fit_shrinkage(state)
        return losses / per_event.clamp(min=1)

    def head(self, state: RuleState) -> Head:
        """The regressions folded into weights on the embedding; the bonus falls with the rewards, and comes back."""
        return self.draft(state)()

    def draft(self, state: RuleState) -> Callable[[], Head]:
        """See `Rule.draft`: copies what has changed since the last head; factoring and folding are left for later."""
        rows, shared = state.rows, state.shared
        noise, ridge = float(shared["noise"]), float(shared["ridge"])
        bonus = self.bonus * math.sqrt(noise)
        age = shared["clock"] - rows["clock"]
        notches = torch.floor(age / _NOTCH).long()
        left = torch.exp(-notches * _NOTCH)
        target = turned_target(shared, rows["basis"], rows["target"]) * left[:, None]
        counts = rows["rewards"] * torch.exp(-age).float()
        priors = self._priors(state, slice(None))
        few = min(1.0, _FEW_UIDS / max(len(counts), 1))
        hope = self.optimism * few * math.sqrt(_USUAL_LENGTH * noise / ridge)
        priors[:, -1] += hope * counts / (counts + _TRIED)
        right = target + ridge * priors
        bonuses = bonus / torch.sqrt(counts + _BONUS_PRIOR)
        projection = shared["projection"].float()
        keys = torch.stack([rows["stamp"], notches, shared["fitted"].expand(len(notches))], dim=1)
        keys[rows["stamp"] == 0] = torch.stack([torch.tensor(0), torch.tensor(0), shared["ridge"].view(torch.long)])
        stale = self._gains.stale(keys)
        learned = stale[rows["stamp"][stale] != 0]
        gram = turned_gram(shared, rows["basis"][learned], rows["gram"].index_select(0, learned)).mul_(
            left[learned, None, None]
        )

        def finish() -> Head:
            gains = self._gains.of(keys, stale, learned, gram, ridge)
            # From the left, which is the same since they are symmetric: torch then takes a third of the time.
            weight = (right[:, None, :] @ gains)[:, 0, :]
            return Head(weight=weight[:, :-1] @ projection, bias=weight[:, -1].clone(), bonus=bonuses)

        return finish

    def _priors(self, state: RuleState, uids: Tensor | slice) -> Float[Tensor, "uid inputs"]:
        """What the regressions of these rows are shrunk toward."""
        rows, shared = state.rows, state.shared
        factor = factored(shared["pool_gram"][None].clone(), self.pool_ridge)
        pool = torch.cholesky_solve(shared["pool_target"][None, :, None], factor)[0, :, 0].float()
        priors = rows["pooled"][uids][:, None] * pool
        if "start" in rows:
            priors[:, :-1] += onto_directions(shared["projection"], rows["start"][uids])
        return priors

    def _find_directions(self, shared: dict[str, Tensor], embedding: Float[Tensor, "batch hidden"]) -> None:
        turn = see(shared, embedding)
        if turn is not None:
            shared["pool_gram"] = turn @ shared["pool_gram"] @ turn.T
            shared["pool_target"] = turn @ shared["pool_target"]
            shared["fitted"] = shared["stamp"].clone()

    def _fit_shrinkage(self, state: RuleState) -> None:
        """Mutates `state.shared`."""
        rows, shared = state.rows, state.shared
        uids = evenly_spaced(rows["rewards"])
        left = torch.exp(rows["clock"][uids] - shared["clock"]).float()
        sums = Sums(
            turned_gram(shared, rows["basis"][uids], rows["gram"][uids]),
            turned_target(shared, rows["basis"][uids], rows["target"][uids]),
        ).faded(left)
        now = Shrinkage(float(shared["noise"]), float(shared["ridge"]))
        counts, squares = rows["rewards"][uids] * left, rows["squares"][uids] * left
        noise, ridge = fitted(sums, squares, counts, self._priors(state, uids), now, self.ridge)
        shared["noise"] = torch.tensor(noise, dtype=torch.float64)
        shared["ridge"] = torch.tensor(ridge, dtype=torch.float64)
        # The ridge rests on rows that a resync has changed too, which the stamp of the batches does not tell.
        shared["fitted"] = stamped(shared["stamp"][None], shared["ridge"][None].view(torch.long), shared["stamp"])[0]
        horizon = max(int(self.memory_rounds * len(rows["rewards"])), _FIRST_FIT)
        shared["next_fit"] = shared["learned"] + shared["learned"].clamp(max=horizon)

    def _fading(self, clock: Tensor, weights: Float[Tensor, " batch"], num_uids: int) -> _Fading:
        elapsed = torch.cumsum(-torch.log1p(-weights / (self.memory_rounds * num_uids)), 0)
        return _Fading(
            clock=clock + elapsed[-1],
            events=torch.exp(elapsed - elapsed[-1]).float(),
            before=torch.exp(-elapsed[-1]),
        )

    def _learn_rows(
        self, state: RuleState, batch: LearnBatch, x: Float[Tensor, "batch inputs"], fading: _Fading
    ) -> Float[Tensor, " batch"]:
        """Learn the rewards of each uid; returns the sum of the squared errors of each event."""
        rows, shared = state.rows, state.shared
        uids, position, per_uid = torch.unique(batch.uids, return_inverse=True, return_counts=True)
        known = Sums(
            turned_gram(shared, rows["basis"][uids], rows["gram"].index_select(0, uids)),
            turned_target(shared, rows["basis"][uids], rows["target"][uids]),
        )
        since = torch.exp(rows["clock"][uids] - shared["clock"]).float()
        weight = solved(known.faded(since), self._priors(state, uids), float(shared["ridge"]))
        errors = (weight[position] * x[batch.event]).sum(dim=1) - batch.rewards

        order = torch.argsort(position, stable=True)
        # A reward of no weight makes nobody forget either.
        until = torch.cumsum(batch.weights[order].double(), 0)
        later = until[torch.cumsum(per_uid, 0) - 1][position[order]] - until
        left = (self.own_share**later).float() * fading.events[batch.event[order]] * batch.weights[order]
        earned = sums_by_uid(position[order], len(uids), x[batch.event[order]], batch.rewards[order], left)
        counted = torch.zeros(len(uids)).index_add_(0, position[order], left)
        squares = torch.zeros(len(uids)).index_add_(0, position[order], left * batch.rewards[order] ** 2)
        weights = torch.zeros(len(uids), dtype=torch.float64).index_add_(0, position, batch.weights.double())
        kept = (self.own_share**weights * fading.before).float() * since

        rows["gram"].index_copy_(0, uids, known.gram.mul_(kept[:, None, None]).add_(earned.gram))
        rows["target"][uids] = known.target * kept[:, None] + earned.target
        rows["squares"][uids] = rows["squares"][uids] * kept + squares
        rows["rewards"][uids] = rows["rewards"][uids] * kept + counted
        rows["clock"][uids] = fading.clock
        rows["basis"][uids] = shared["basis"]
        rows["stamp"][uids] = stamped(rows["stamp"][uids], uids, shared["stamp"])
        return torch.zeros(batch.size).index_add_(0, batch.event, errors**2)


def _learn_pool(
    shared: dict[str, Tensor], batch: LearnBatch, x: Float[Tensor, "batch inputs"], fading: _Fading
) -> None:
    weights = batch.weights.double()
    earned = torch.zeros(batch.size, dtype=torch.float64).index_add_(0, batch.event, batch.rewards.double() * weights)
    counted = torch.zeros(batch.size, dtype=torch.float64).index_add_(0, batch.event, weights)
    wide, left = x.double(), fading.events.double()
    shared["pool_gram"] = shared["pool_gram"] * fading.before + (wide * (left * counted)[:, None]).T @ wide
    shared["pool_target"] = shared["pool_target"] * fading.before + wide.T @ (left * earned)
