"""What operators do with a running learner: each an event in the log, and answered once it holds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from typing import Any, Literal

from .checkpoint import CheckpointStore, Manifest
from .core import Learner
from .draft import Stage
from .errors import NeedsDurableLogError, OverloadedError, UnknownVersionError
from .events import Action
from .housekeeping import Housekeeper
from .published import Published


class Operations:
    """Operators' calls. All of them run on one event loop.

    Args:
        learner: what they act on.
        commit: logs what was staged; its answer, once it is in the log, is what the stage returns.
        published: tells when it is learned and when replicas have it.
        housekeeper: saves.
        checkpoints: where to; None for a log in memory.
    """

    def __init__(
        self,
        learner: Learner,
        commit: Callable[[Stage[Any]], Awaitable[Any]],
        published: Published,
        housekeeper: Housekeeper,
        checkpoints: CheckpointStore | None,
    ) -> None:
        self._learner = learner
        self._commit = commit
        self._published = published
        self._housekeeper = housekeeper
        self._checkpoints = checkpoints
        # What saves the state takes turns with what learns events once more.
        self._saving = asyncio.Lock()

    async def checkpoint(self, author: str) -> dict[str, Any]:
        """Save what has been learned so far.

        Raises:
            NeedsDurableLogError, CheckpointError: it cannot be saved.
        """
        if self._checkpoints is None:
            raise NeedsDurableLogError("a log in memory has no checkpoints; set learner.log.url")
        seq = await self._commit(self._learner.stage_action(Action.CHECKPOINT, author))
        await self._published.wait_until_applied(seq)
        async with self._saving:
            manifest = await asyncio.to_thread(self._housekeeper.save)
        assert manifest is not None, "there is a place for checkpoints"
        return _summary_of(manifest)

    async def checkpoints(self) -> list[dict[str, Any]]:
        """The checkpoints that are kept, newest first."""
        store = self._checkpoints
        return [] if store is None else [_summary_of(manifest) for manifest in await asyncio.to_thread(store.list)]

    async def freeze(self, frozen: bool, author: str) -> int:
        """Stop learning, or go on with it; the answer is the version from which on that holds."""
        if frozen:
            seq: int = await self._commit(self._learner.stage_action(Action.FREEZE, author))
        else:
            async with self._saving:
                seq = await self._commit(self._learner.stage_action(Action.THAW, author))
        await self._published.wait_until_published(seq)
        return seq

    async def rollback(self, version: int | None, checkpoint: str | None, author: str) -> dict[str, Any]:
        """Go back to a version, or to a checkpoint's; see `Learner.stage_rollback`.

        Raises:
            UnknownVersionError: there is no such version, or it cannot be rebuilt any more.
        """
        if version is None:
            version = await asyncio.to_thread(self._version_of, checkpoint)
        async with self._saving:
            with ExitStack() as until_saved:
                # Another checkpoint would make the one superfluous that this may need.
                await asyncio.to_thread(until_saved.enter_context, self._housekeeper.paused())
                stage = await asyncio.to_thread(self._learner.stage_rollback, version, author)
                summary = await self._commit(stage)
                await self._published.wait_until_published(summary.seq)
                if self._learner.version >= summary.seq and self._checkpoints is not None:
                    # So that a restart need not go back that far.
                    await asyncio.to_thread(self._housekeeper.save)
        held, _ = await asyncio.to_thread(self._learner.held_events, after=0, limit=0)
        return {"restored": summary.restored, "version": summary.seq, "quarantined": held}

    async def promote(self, label: str, author: str) -> dict[str, Any]:
        """Let a shadow serve; see `Learner.stage_promotion`.

        Raises:
            UnknownRuleError: there is no such shadow.
        """
        async with self._saving:
            stage = await asyncio.to_thread(self._learner.stage_promotion, label, author)
            seq = await self._commit(stage)
            if await self._published.wait_until_published(seq) and self._checkpoints is not None:
                # So that a start whose configuration has the new rule only finds a checkpoint of it.
                await asyncio.to_thread(self._housekeeper.save)
        described = await asyncio.to_thread(self._learner.describe)
        return {"rule": label, "version": seq, "rules": described["rules"]}

    async def settle(
        self, action: Literal[Action.READMIT, Action.DROP], seqs: Sequence[int] | None, author: str
    ) -> dict[str, int]:
        """Learn held events after all, or give them up; see `Learner.stage_settlement`.

        Raises:
            UnknownEventError: an event is not held, or waits for the thaw.
        """
        # What is being learned may keep these waiting, and must not keep all other calls waiting.
        async with self._saving:
            stage = await asyncio.to_thread(self._learner.stage_settlement, action, seqs, author)
            seq = await self._commit(stage)
        await self._published.wait_until_published(seq)
        held, _ = await asyncio.to_thread(self._learner.held_events, after=0, limit=0)
        return {"version": seq, "quarantined": held}

    async def erase_embedding(self, decision_id: str, author: str) -> bool:
        """Forget a decision's embedding for good; rewards that come later are rejected. Whether it was known.

        What was learned from it is saved first, so that no restart needs the embedding.

        Raises:
            CheckpointError, OverloadedError: it could not be saved; the embedding is still there.
        """
        if await asyncio.to_thread(self._learner.explain, decision_id) is None:
            return False
        async with self._saving:
            # Nothing that learns once more what was learned from it comes between: no restart could do so again.
            seq = await self._commit(self._learner.stage_erasure(decision_id, author))
            # From here on no reward is accepted for it, so these are all that there will be.
            explained = await asyncio.to_thread(self._learner.explain, decision_id)
            if explained is not None and explained.rewards:
                if not await self._published.wait_until_applied(seq):
                    raise OverloadedError(
                        "what was learned from the embedding is not saved yet; send the request again"
                    )
                await asyncio.to_thread(self._housekeeper.save)
            return await asyncio.to_thread(self._learner.finish_erasure, decision_id)

    def _version_of(self, checkpoint: str | None) -> int:
        if self._checkpoints is None or checkpoint is None:
            raise UnknownVersionError(f"there is no checkpoint {checkpoint!r}")
        return self._checkpoints.find(checkpoint).version


def _summary_of(manifest: Manifest) -> dict[str, Any]:
    names = ("name", "version", "epoch", "created_at", "digest", "frozen")
    return {name: getattr(manifest, name) for name in names}
