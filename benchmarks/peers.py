"""Libraries that people use for this, as agents. They come with the extra `peers`; what is not installed is left out.

Each gets what its documentation advises for contexts of this kind, embeddings projected to 32 dimensions (principal
components of the first 256 prompts) where it inverts a matrix per uid, and ranks the candidates by its own scores.
"""

from __future__ import annotations

import importlib.util

import numpy as np
from jaxtyping import Float, Int

from .agents import BuildAgent

_COMPONENTS = 32
_FIT_ON = 256


class _Projection:
    """The first principal components of the first prompts, scaled to a mean squared norm of 1."""

    def __init__(self, dim: int) -> None:
        self._basis: Float[np.ndarray, "hidden component"] | None = None
        self._seen = np.empty((0, dim))

    def __call__(self, embedding: Float[np.ndarray, "batch hidden"]) -> Float[np.ndarray, "batch component"]:
        if self._basis is None or len(self._seen) < _FIT_ON:
            self._seen = np.concatenate([self._seen, embedding])[:_FIT_ON]
            if self._basis is None:
                # Random until enough has been seen; afterwards it stays.
                rng = np.random.default_rng(0)
                self._random = rng.normal(size=(embedding.shape[1], _COMPONENTS)) / np.sqrt(_COMPONENTS)
            if len(self._seen) < _FIT_ON:
                return embedding @ self._random
            basis = np.linalg.svd(self._seen, full_matrices=False)[2][:_COMPONENTS].T
            self._basis = basis / np.sqrt(((self._seen @ basis) ** 2).sum(axis=1).mean())
        return embedding @ self._basis


def _ranked(
    scores: Float[np.ndarray, "batch uid"], candidates: Int[np.ndarray, " uid"], k: int
) -> Int[np.ndarray, "batch k"]:
    among = scores[:, candidates]
    return candidates[np.argsort(-among, axis=1, kind="stable")[:, :k]]


class VowpalWabbit:
    """`--cb_explore_adf --squarecb`: one regression over (prompt x uid), the first choice drawn as it says."""

    def __init__(self, uids: int, dim: int, seed: int) -> None:
        import vowpalwabbit

        self._uids = uids
        self._vw = vowpalwabbit.Workspace(f"--cb_explore_adf --squarecb --quiet -q ::  -b 22 --random_seed {seed + 1}")
        self._rng = np.random.default_rng(seed)
        self._pmfs: dict[bytes, Float[np.ndarray, " uid"]] = {}

    def choose(
        self, embedding: Float[np.ndarray, "batch hidden"], candidates: Int[np.ndarray, " uid"], k: int
    ) -> Int[np.ndarray, "batch k"]:
        """See `Agent`."""
        chosen = []
        for vector in embedding:
            pmf = np.asarray(self._vw.predict(self._example(vector, candidates)))
            pmf = pmf / pmf.sum()
            first = int(self._rng.choice(len(candidates), p=pmf))
            rest = [place for place in np.argsort(-pmf, kind="stable") if place != first]
            order = [first, *rest][:k]
            self._pmfs[vector.tobytes()] = np.bincount(candidates[order], pmf[order], self._uids)
            chosen.append(candidates[order])
        return np.stack(chosen)

    def learn(
        self,
        embedding: Float[np.ndarray, "batch hidden"],
        uids: Int[np.ndarray, "batch k"],
        rewards: Float[np.ndarray, "batch k"],
    ) -> None:
        """See `Agent`."""
        for vector, chosen, earned in zip(embedding, uids, rewards, strict=True):
            probabilities = self._pmfs.pop(vector.tobytes(), None)
            for uid, reward in zip(chosen, earned, strict=True):
                if not np.isnan(reward):
                    probability = 0.5 if probabilities is None else max(probabilities[uid], 0.01)
                    self._vw.learn(self._example(vector, np.array([uid]), (1.0 - reward, probability)))

    def replace(self, uids: tuple[int, ...]) -> None:
        """It is not told: its features are the uids' numbers."""

    def _example(
        self,
        vector: Float[np.ndarray, " hidden"],
        candidates: Int[np.ndarray, " uid"],
        label: tuple[float, float] | None = None,
    ) -> list[str]:
        prompt = " ".join(f"{place}:{value:.4f}" for place, value in enumerate(vector))
        lines = [f"shared |p {prompt}"]
        for uid in candidates:
            prefix = "" if label is None else f"0:{label[0]:.4f}:{label[1]:.4f} "
            lines.append(f"{prefix}|u {uid}")
        return lines


class _PerUid:
    """What has a regression a uid: projected contexts, chance until something is known, then its own scores."""

    def __init__(self, uids: int, dim: int, seed: int) -> None:
        self._uids = uids
        self._project = _Projection(dim)
        self._fitted = False
        self._rng = np.random.default_rng(seed)

    def choose(
        self, embedding: Float[np.ndarray, "batch hidden"], candidates: Int[np.ndarray, " uid"], k: int
    ) -> Int[np.ndarray, "batch k"]:
        """See `Agent`."""
        if not self._fitted:
            return np.stack([self._rng.permutation(candidates)[:k] for _ in embedding])
        return _ranked(self._scores(self._project(embedding)), candidates, k)

    def learn(
        self,
        embedding: Float[np.ndarray, "batch hidden"],
        uids: Int[np.ndarray, "batch k"],
        rewards: Float[np.ndarray, "batch k"],
    ) -> None:
        """See `Agent`."""
        known = ~np.isnan(rewards)
        if known.any():
            contexts = np.repeat(self._project(embedding), known.sum(axis=1), axis=0)
            self._fit(contexts, uids[known], rewards[known])
            self._fitted = True

    def replace(self, uids: tuple[int, ...]) -> None:
        """Where the library has no way to say so, it is not told."""

    def _scores(self, contexts: Float[np.ndarray, "batch component"]) -> Float[np.ndarray, "batch uid"]:
        raise NotImplementedError

    def _fit(
        self,
        contexts: Float[np.ndarray, "batch component"],
        uids: Int[np.ndarray, " batch"],
        rewards: Float[np.ndarray, " batch"],
    ) -> None:
        raise NotImplementedError


class MabWiser(_PerUid):
    """`LinUCB`, alpha 0.25."""

    def __init__(self, uids: int, dim: int, seed: int) -> None:
        from mabwiser.mab import MAB, LearningPolicy

        super().__init__(uids, dim, seed)
        self._mab = MAB(list(range(uids)), LearningPolicy.LinUCB(alpha=0.25), seed=seed)

    def replace(self, uids: tuple[int, ...]) -> None:
        """A new owner's arm is removed and added anew."""
        for uid in uids:
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


class ContextualBandits(_PerUid):
    """`LinUCB`, alpha 0.25, updated in batches."""

    def __init__(self, uids: int, dim: int, seed: int) -> None:
        from contextualbandits.online import LinUCB

        super().__init__(uids, dim, seed)
        self._model = LinUCB(uids, alpha=0.25, lambda_=1.0, ucb_from_empty=False, random_state=seed)

    def _scores(self, contexts: Float[np.ndarray, "batch component"]) -> Float[np.ndarray, "batch uid"]:
        scores: Float[np.ndarray, "batch uid"] = self._model.decision_function(contexts)
        return scores

    def _fit(
        self,
        contexts: Float[np.ndarray, "batch component"],
        uids: Int[np.ndarray, " batch"],
        rewards: Float[np.ndarray, " batch"],
    ) -> None:
        self._model.partial_fit(contexts, uids, rewards)


PEERS: dict[str, tuple[str, BuildAgent]] = {
    "vowpalwabbit squarecb": ("vowpalwabbit", VowpalWabbit),
    "mabwiser LinUCB": ("mabwiser", MabWiser),
    "contextualbandits LinUCB": ("contextualbandits", ContextualBandits),
}
"""Name -> (the package that it needs, its agent)."""


def installed() -> dict[str, BuildAgent]:
    """The peers that can run here."""
    return {name: build for name, (package, build) in PEERS.items() if importlib.util.find_spec(package) is not None}
