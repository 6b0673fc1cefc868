"""Small states, and where to put them."""

from __future__ import annotations

import hashlib
from dataclasses import fields, replace

import fsspec
import numpy as np
import orjson
import torch

from gating import MetagraphView
from learner.checkpoint import CheckpointStore, Expected, Manifest
from learner.config import AdagradConfig, RuleConfig, SoftmaxMseConfig, settings_of
from learner.rules import LearnBatch, build_rule
from learner.standings import AuthorStanding
from learner.state import Held, LearnerState, RuleIdentity, UidStatistics
from learner.tenures import Tenures

DIM = 4
LOG = "2f0c8a52-6d5e-4d0b-9d7a-0f6a3b8f5c11"
OTHER_LOG = "bd0b6ad5-83a9-4f3a-8f0e-6f2a1d4c9e77"
RULES: tuple[RuleConfig, ...] = (AdagradConfig(), SoftmaxMseConfig())
VIEW = MetagraphView(
    hotkeys=("a", "", "c"),
    available=(True, False, False),
    registered_at=(1, None, 3),
    netuid=7,
    block=40,
    serving=(True, False, True),
    validator_permit=(False, False, True),
    stake=(0.1, 0.0, 5e20),
)


def learned(config: RuleConfig = AdagradConfig(), *, version: int = 12, seed: int = 0) -> LearnerState:  # noqa: B008
    """A state of three uids that has learned a little."""
    rule, generator = build_rule(config), torch.Generator().manual_seed(seed)
    state = rule.initial_state(VIEW.n, DIM, generator)
    rule.update(
        state,
        LearnBatch(
            embedding=torch.randn(2, DIM, generator=generator),
            event=torch.tensor([0, 0, 1, 1]),
            uids=torch.tensor([0, 2, 2, 0]),
            rewards=torch.tensor([0.25, 1.0, 0.0, 0.75]),
        ),
    )
    state.rows["weight"][1, 2] = -0.0
    statistics = UidStatistics(
        selections=np.array([2**62, 0, 3]),
        rewards=np.array([2, 0, 2]),
        reward_sum=np.array([1.0, -0.0, 0.1 + 0.2]),
        resets=np.array([0, 4, 1]),
    )
    return LearnerState(
        view=VIEW,
        rule=state,
        statistics=statistics,
        tenures=Tenures({2: 9, 0: 4}, {0: {"z", "y"}}),
        version=version,
        frozen=True,
        standings={"liar": AuthorStanding(quarantined_since=12), "ok": AuthorStanding(pinned="trusted")},
        held={3: Held.FROZEN, 4: Held.FROZEN, 5: Held.NON_FINITE, 7: Held.ROLLED_BACK},
        identity=RuleIdentity(config.name, settings_of(config)),
    )


def save(store: CheckpointStore, state: LearnerState | None = None, **changes: object) -> Manifest:
    """Save as the usual writer does, but for `changes`."""
    writer: dict[str, object] = {
        "application": "gate",
        "log_id": LOG,
        "epoch": 5,
        "decisions": 31,
        "fingerprint": "tiny",
        "dim": DIM,
    }
    return store.save(state or learned(), **(writer | changes))


def expected(**changes: object) -> Expected:
    """What the usual reader expects, but for `changes`."""
    usual = Expected(application="gate", log_id=LOG, rule=settings_of(RULES[0]), fingerprint="tiny", dim=DIM)
    return replace(usual, **changes)


def content(state: LearnerState) -> list[object]:
    """All of a state, its numbers as bits."""
    rule = [
        {name: (str(tensor.dtype), tuple(tensor.shape), tensor.numpy().tobytes()) for name, tensor in part.items()}
        for part in (state.rule.rows, state.rule.shared)
    ]
    counts = [getattr(state.statistics, field.name) for field in fields(UidStatistics)]
    return [
        rule,
        [(str(array.dtype), array.shape, array.tobytes()) for array in counts],
        state.view,
        state.tenures,
        state.version,
        state.frozen,
        list(state.held.items()),
        state.standings,
    ]


class Files:
    """The files of a store, as anyone may change them."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._fs, self._root = fsspec.core.url_to_fs(url)

    def names(self) -> set[str]:
        """What lies directly in the store's folder."""
        return {path.rpartition("/")[2] for path in self._fs.ls(self._root, detail=False)}

    def read(self, name: str, file: str = "manifest.json") -> bytes:
        """A checkpoint's file."""
        return self._fs.cat_file(f"{self._root}/{name}/{file}")

    def put(self, name: str, file: str, data: bytes) -> None:
        """Write a checkpoint's file, new or not."""
        self._fs.makedirs(f"{self._root}/{name}", exist_ok=True)
        self._fs.pipe_file(f"{self._root}/{name}/{file}", data)

    def remove(self, name: str, file: str) -> None:
        """Delete a checkpoint's file."""
        self._fs.rm_file(f"{self._root}/{name}/{file}")

    def forge(self, manifest: Manifest, tensors: bytes, **changes: object) -> None:
        """Write a checkpoint that is consistent in itself: other tensors, size and checksums put right."""
        self.put(manifest.name, manifest.tensors, tensors)
        sums = {"tensors_size": len(tensors), "tensors_sha256": hashlib.sha256(tensors).hexdigest()}
        self.put(manifest.name, "manifest.json", forged(manifest, **(sums | changes)))


def forged(manifest: Manifest, **changes: object) -> bytes:
    """The manifest's text with changes and the checksum that goes with them."""
    said = orjson.loads(manifest.to_json()) | changes
    del said["checksum"]
    said["checksum"] = hashlib.sha256(orjson.dumps(said, option=orjson.OPT_SORT_KEYS)).hexdigest()
    return orjson.dumps(said, option=orjson.OPT_SORT_KEYS)
