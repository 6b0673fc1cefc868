"""Libraries that people use for this, as agents. They come with the extra `peers`; what is not installed is left out.

Each ranks the candidates by its own scores, is told of new owners as far as it can be, and has the settings that did
best of a few on llmrouter with the seeds 0 to 2, as Tidegate's rules have; see docs/learning.md.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import logging
from abc import ABC, abstractmethod
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from .agents import BuildAgent

COMPONENTS = 32
_FIT_ON = 256


class Contexts:
    """Embeddings as contexts for what keeps a matrix a uid: a few principal components and a constant 1.

    The components are those of the first 256 prompts, centred; before there are so many, they are random directions.
    Whoever has learned something by then has to learn it again along the new ones: `see` says when.

    Args:
        dim: width of the embeddings.
        components: how many to keep.
        whiten: scale each component to a variance of 1, rather than all together to a mean squared length of 1.
    """

    def __init__(self, dim: int, components: int = COMPONENTS, *, whiten: bool = False) -> None:
        self.width = min(components, dim) + 1
        self._whiten = whiten
        self._mean = np.zeros(dim)
        directions = np.random.default_rng(0).normal(size=(dim, self.width - 1))
        self._basis: Float[np.ndarray, "hidden component"] = directions / np.sqrt(1 if whiten else self.width - 1)
        self._seen = np.empty((0, dim))

    def see(self, embedding: Float[np.ndarray, "batch hidden"]) -> bool:
        """Count prompts in; whether the components have just been found."""
        if len(self._seen) >= _FIT_ON:
            return False
        self._seen = np.concatenate([self._seen, embedding])
        if len(self._seen) < _FIT_ON:
            return False
        self._mean = self._seen.mean(axis=0)
        centred = self._seen - self._mean
        basis = np.linalg.svd(centred, full_matrices=False)[2][: self.width - 1].T
        squares = np.maximum(((centred @ basis) ** 2).mean(axis=0), 1e-12)
        self._basis = basis / np.sqrt(squares if self._whiten else squares.sum())
        return True

    def __call__(self, embedding: Float[np.ndarray, "batch hidden"]) -> Float[np.ndarray, "batch component"]:
        """The contexts of prompts."""
        along = (embedding - self._mean) @ self._basis
        return np.concatenate([along, np.ones((len(along), 1))], axis=1)


class _PerUid(ABC):
    """What has a regression a uid: chance until something is known, then its own scores."""

    def __init__(self, uids: int, contexts: Contexts, seed: int) -> None:
        self._uids = uids
        self._contexts = contexts
        self._rng = np.random.default_rng(seed)
        self._early: list[tuple[Any, Any, Any]] | None = []
        self._fitted = False

    def choose(
        self, embedding: Float[np.ndarray, "batch hidden"], candidates: Int[np.ndarray, " uid"], k: int
    ) -> Int[np.ndarray, "batch k"]:
        """See `Agent`."""
        if self._contexts.see(embedding):
            self._learn_again()
        if not self._fitted:
            return np.stack([self._rng.permutation(candidates)[:k] for _ in embedding])
        # In a random order, so that ties are broken by chance.
        shuffled = self._rng.permutation(candidates)
        scores = self._scores(self._contexts(embedding))[:, shuffled]
        return shuffled[np.argsort(-scores, axis=1, kind="stable")[:, :k]]

    def learn(
        self,
        embedding: Float[np.ndarray, "batch hidden"],
        uids: Int[np.ndarray, "batch k"],
        rewards: Float[np.ndarray, "batch k"],
        authors: list[str] | None = None,
    ) -> None:
        """See `Agent`."""
        known = ~np.isnan(rewards)
        if known.any():
            told = np.repeat(embedding, known.sum(axis=1), axis=0), uids[known], rewards[known]
            if self._early is not None:
                self._early.append(told)
            self._fit(self._contexts(told[0]), *told[1:])
            self._fitted = True

    def replace(self, uids: tuple[int, ...]) -> None:
        """See `Agent`."""
        for uid in uids:
            self._renew(uid)

    def _learn_again(self) -> None:
        early, self._early = self._early or [], None
        if early:
            self._forget()
            embedding, uids, rewards = (np.concatenate(parts) for parts in zip(*early, strict=True))
            self._fit(self._contexts(embedding), uids, rewards)

    @abstractmethod
    def _forget(self) -> None:
        """Begin anew."""

    @abstractmethod
    def _renew(self, uid: int) -> None:
        """Begin anew with one uid."""

    @abstractmethod
    def _scores(self, contexts: Float[np.ndarray, "batch component"]) -> Float[np.ndarray, "batch uid"]:
        """Of every uid."""

    @abstractmethod
    def _fit(
        self,
        contexts: Float[np.ndarray, "batch component"],
        uids: Int[np.ndarray, " batch"],
        rewards: Float[np.ndarray, " batch"],
    ) -> None:
        """Learn single rewards."""


class MabWiser(_PerUid):
    """mabwiser's `LinUCB` and `LinTS`.

    Args:
        uids: how many there are.
        dim: width of the embeddings.
        seed: of its chance.
        policy: name of the learning policy.
        alpha: how much it explores.
        l2_lambda: the strength of its ridge.
    """

    def __init__(
        self, uids: int, dim: int, seed: int, *, policy: str = "LinUCB", alpha: float = 0.25, l2_lambda: float = 5.0
    ) -> None:
        super().__init__(uids, Contexts(dim), seed)
        self._policy = policy, alpha, l2_lambda
        self._seed = seed
        self._forget()

    def _forget(self) -> None:
        from mabwiser.mab import MAB, LearningPolicy

        policy, alpha, l2_lambda = self._policy
        learning = getattr(LearningPolicy, policy)(alpha=alpha, l2_lambda=l2_lambda)
        self._mab = MAB(list(range(self._uids)), learning, seed=self._seed)
        self._fitted = False

    def _renew(self, uid: int) -> None:
        self._mab.remove_arm(uid)
        self._mab.add_arm(uid)

    def _scores(self, contexts: Float[np.ndarray, "batch component"]) -> Float[np.ndarray, "batch uid"]:
        expected = self._mab.predict_expectations(contexts)
        expected = expected if isinstance(expected, list) else [expected]
        return np.array([[one[uid] for uid in range(self._uids)] for one in expected])

    def _fit(
        self,
        contexts: Float[np.ndarray, "batch component"],
        uids: Int[np.ndarray, " batch"],
        rewards: Float[np.ndarray, " batch"],
    ) -> None:
        fit = self._mab.partial_fit if self._fitted else self._mab.fit
        fit(uids.tolist(), rewards.tolist(), contexts)
        self._fitted = True


class ContextualBandits(_PerUid):
    """contextualbandits' `LinUCB`, updated in batches.

    Uids without rewards have upper bounds as well. The draws from a prior that its documentation advises instead end
    only for rewards of exactly 0 and 1.

    Args:
        uids: how many there are.
        dim: width of the embeddings.
        seed: of its chance.
        alpha: how much it explores.
        lambda_: the strength of its ridge.
    """

    def __init__(
        self,
        uids: int,
        dim: int,
        seed: int,
        *,
        alpha: float = 0.25,
        lambda_: float = 0.5,
    ) -> None:
        super().__init__(uids, Contexts(dim), seed)
        self._settings = {"alpha": alpha, "lambda_": lambda_}
        self._seed = seed
        self._forget()

    def _forget(self) -> None:
        from contextualbandits.online import LinUCB

        # Names that are numbers are taken for places; the contexts have the constant already.
        names = [str(uid) for uid in range(self._uids)]
        self._model = LinUCB(names, fit_intercept=False, random_state=self._seed + 1, **self._settings)

    def _renew(self, uid: int) -> None:
        self._model.drop_arm(str(uid))
        self._model.add_arm(str(uid))

    def _scores(self, contexts: Float[np.ndarray, "batch component"]) -> Float[np.ndarray, "batch uid"]:
        scores: Float[np.ndarray, "batch uid"] = self._model.decision_function(contexts)
        # Its columns are in the order in which the arms were added.
        return scores[:, np.argsort([int(name) for name in self._model.choice_names])]

    def _fit(
        self,
        contexts: Float[np.ndarray, "batch component"],
        uids: Int[np.ndarray, " batch"],
        rewards: Float[np.ndarray, " batch"],
    ) -> None:
        self._model.partial_fit(contexts, uids.astype(str), rewards)


class ParetoBandit(_PerUid):
    """paretobandit's router without prices: LinUCB with forgetting on 25 whitened components, as it has them itself.

    The package's own alpha of 0.01 and forgetting of 0.997 are meant for priors that were learned before.
    It routes to one model; here its scores rank them all, whatever k is; at k = 1 the choice is that of `route`.

    Args:
        uids: how many there are.
        dim: width of the embeddings.
        seed: of its chance.
        alpha: how much it explores.
        forgetting_factor: what is left of what is known after a prompt.
        init_lambda: the strength of its ridge.
    """

    def __init__(
        self,
        uids: int,
        dim: int,
        seed: int,
        *,
        alpha: float = 0.1,
        forgetting_factor: float = 0.9995,
        init_lambda: float = 20.0,
    ) -> None:
        super().__init__(uids, Contexts(dim, 25, whiten=True), seed)
        self._settings: dict[str, Any] = {
            "alpha": alpha,
            "forgetting_factor": forgetting_factor,
            "init_lambda": init_lambda,
        }
        self._seed = seed
        self._forget()

    def choose(
        self, embedding: Float[np.ndarray, "batch hidden"], candidates: Int[np.ndarray, " uid"], k: int
    ) -> Int[np.ndarray, "batch k"]:
        """See `Agent`."""
        chosen = super().choose(embedding, candidates, k)
        for uids in chosen:
            # Its clock counts prompts.
            self._bandit.mark_selected(str(uids[0]))
            for uid in uids[1:]:
                self._bandit.last_played[str(uid)] = self._bandit.t
        return chosen

    def _forget(self) -> None:
        from pareto_bandit.feature_service import FeatureService
        from pareto_bandit.router import BanditRouter

        logging.getLogger("pareto_bandit").setLevel(logging.ERROR)
        free = {"input_cost_per_m": 0.1, "output_cost_per_m": 0.1, "time_to_first_token_seconds": 0.1}
        self.router = BanditRouter.create(
            model_registry={str(uid): free for uid in range(self._uids)},
            priors="none",
            feature_service=FeatureService.for_precomputed(self._contexts.width),
            cost_penalty=0.0,
            bandit_seed=self._seed,
            **self._settings,
        )
        self._bandit = self.router.bandit

    def _renew(self, uid: int) -> None:
        self._bandit.delete_arm(str(uid))
        self._bandit.add_arm(str(uid))

    def _scores(self, contexts: Float[np.ndarray, "batch component"]) -> Float[np.ndarray, "batch uid"]:
        return np.array([[self._upper(str(uid), context) for uid in range(self._uids)] for context in contexts])

    def _upper(self, model: str, context: Float[np.ndarray, " component"]) -> float:
        deviation = np.sqrt(max(self._bandit.get_ucb_variance(model, context), 1e-12))
        return float(self._bandit.get_expected_reward(model, context) + self._bandit.alpha * deviation)

    def _fit(
        self,
        contexts: Float[np.ndarray, "batch component"],
        uids: Int[np.ndarray, " batch"],
        rewards: Float[np.ndarray, " batch"],
    ) -> None:
        for context, uid, reward in zip(contexts, uids, rewards, strict=True):
            self.router.update(str(uid), context, float(reward), advance_time=False)


class VowpalWabbit:
    """vowpalwabbit's `--cb_explore_adf --squarecb`: one regression over prompt x uid, online and by hashing.

    The first choice is drawn as it says, the others are the next most likely. What was chosen is learned with a
    probability of 1, as SquareCB's regression wants it, rather than weighted by the inverse of its probability.

    Args:
        uids: how many there are.
        dim: width of the embeddings.
        seed: of its chance.
        options: further ones of its command line.
    """

    def __init__(self, uids: int, dim: int, seed: int, *, options: str = "--gamma_scale 1000 -l 0.1") -> None:
        import vowpalwabbit

        base = "--cb_explore_adf --squarecb --quiet --interactions pu -b 22"
        self._vw = vowpalwabbit.Workspace(f"{base} --random_seed {seed + 1} {options}")
        self._rng = np.random.default_rng(seed)
        self._owners = [f"{uid}" for uid in range(uids)]

    def choose(
        self, embedding: Float[np.ndarray, "batch hidden"], candidates: Int[np.ndarray, " uid"], k: int
    ) -> Int[np.ndarray, "batch k"]:
        """See `Agent`."""
        chosen = []
        for vector in embedding:
            shuffled = self._rng.permutation(candidates)
            pmf = np.array(self._vw.predict([_shared(vector), *(f"|u {self._owners[uid]}" for uid in shuffled)]))
            first = int(self._rng.choice(len(pmf), p=pmf / pmf.sum()))
            pmf[first] = np.inf
            chosen.append(shuffled[np.argsort(-pmf, kind="stable")[:k]])
        return np.stack(chosen)

    def learn(
        self,
        embedding: Float[np.ndarray, "batch hidden"],
        uids: Int[np.ndarray, "batch k"],
        rewards: Float[np.ndarray, "batch k"],
        authors: list[str] | None = None,
    ) -> None:
        """See `Agent`."""
        for vector, chosen, earned in zip(embedding, uids, rewards, strict=True):
            shared = _shared(vector)
            for uid, reward in zip(chosen, earned, strict=True):
                if not np.isnan(reward):
                    self._vw.learn([shared, f"0:{1.0 - reward:.4f}:1.0 |u {self._owners[uid]}"])

    def replace(self, uids: tuple[int, ...]) -> None:
        """Its features are names of owners: a new owner has a new one."""
        for uid in uids:
            self._owners[uid] += "*"


def _shared(vector: Float[np.ndarray, " hidden"]) -> str:
    return "shared |p " + " ".join(f"{place}:{value:.4f}" for place, value in enumerate(vector.tolist()))


PEERS: dict[str, tuple[str, BuildAgent]] = {
    "vowpalwabbit squarecb": ("vowpalwabbit", VowpalWabbit),
    "mabwiser LinUCB": ("mabwiser", MabWiser),
    "mabwiser LinTS": ("mabwiser", partial(MabWiser, policy="LinTS", l2_lambda=3.0)),
    "contextualbandits LinUCB": ("contextualbandits", ContextualBandits),
    "paretobandit": ("pareto_bandit", ParetoBandit),
}
"""Name -> (the package that it needs, its agent)."""


DISTRIBUTIONS = ("contextualbandits", "mabwiser", "paretobandit", "vowpalwabbit")


def versions() -> dict[str, str | None]:
    """The version of each peer's distribution; None where it is not installed."""
    found: dict[str, str | None] = dict.fromkeys(DISTRIBUTIONS)
    for name in DISTRIBUTIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def installed() -> dict[str, BuildAgent]:
    """The peers that can run here."""
    return {name: build for name, (package, build) in PEERS.items() if importlib.util.find_spec(package) is not None}
