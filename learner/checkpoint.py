"""Saved states: a folder of numbered checkpoints, each whole or not there, of which the newest good one is used."""

from __future__ import annotations

import hashlib
import logging
import re
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime

from .checkpoint_files import ASIDE, open_folders
from .checkpoint_manifest import Expected, Manifest, SavedShadow, SavedTenures, held_to_ranges
from .checkpoint_tensors import pack, unpack
from .errors import CheckpointCorruptError, CheckpointError, CheckpointMismatchError, UnknownVersionError
from .state import LearnerState

__all__ = ["CheckpointStore", "Expected", "Manifest"]

logger = logging.getLogger(__name__)

_MANIFEST = "manifest.json"
_LARGEST_MANIFEST = 256 * 2**20
_NAME = re.compile(r"(\d{8,18})-v(\d{1,18})")

# Inside the class `list` is a method.
_Names = list[str]
_Manifests = list[Manifest]


class CheckpointStore:
    """The checkpoints at a path or URL. Writing is for one learner at a time; anyone may read meanwhile.

    Args:
        url: a path, or any URL that fsspec knows.
        keep: how many of the newest checkpoints stay when one is saved.

    Raises:
        CheckpointError: nothing is known of such URLs, or the package for them is not installed.
    """

    def __init__(self, url: str, *, keep: int) -> None:
        if keep < 1:
            raise ValueError(f"keep is {keep}; at least one checkpoint has to stay")
        self._folders = open_folders(url)
        self._keep = keep

    def save(
        self,
        state: LearnerState,
        *,
        application: str,
        log_id: str,
        epoch: int,
        decisions: int,
        fingerprint: str,
        dim: int,
    ) -> Manifest:
        """Write a checkpoint, then remove those that it makes superfluous.

        Args:
            state: what is saved; it must not change meanwhile.
            application: whose state it is.
            log_id: the event log's UUID.
            epoch: the writer's epoch in that log.
            decisions: how many of the log's decisions are counted in the statistics.
            fingerprint: of the encoder.
            dim: width of its embeddings.

        Raises:
            CheckpointError: the storage fails, another learner has written the same checkpoint, or a number in the
                state is not finite. What was saved before is as it was.
        """
        content = pack(state)
        number = max((_number(name) for name in self._names()), default=0) + 1
        manifest = Manifest(
            name=f"{number:08d}-v{state.version}",
            number=number,
            application=application,
            log_id=log_id,
            epoch=epoch,
            version=state.version,
            decisions=decisions,
            view=state.view,
            rule=state.identity.settings,
            rule_label=state.identity.label,
            rule_since=state.identity.since,
            served_since=state.served_since,
            shadows={
                label: SavedShadow(rule=shadow.identity.settings, since=shadow.identity.since)
                for label, shadow in state.shadows.items()
            },
            fingerprint=fingerprint,
            dim=dim,
            frozen=state.frozen,
            held=held_to_ranges(state.held),
            standings=dict(state.standings),
            tenures=SavedTenures.of(state.tenures),
            digest=state.digest(),
            # A name that no other writer uses: where storage cannot refuse to overwrite, each still has its own.
            tensors=f"tensors-{uuid.uuid4().hex}.safetensors",
            tensors_size=len(content),
            tensors_sha256=hashlib.sha256(content).hexdigest(),
            created_at=datetime.now(UTC).isoformat(),
        ).sealed()
        self._folders.write(manifest.name, {manifest.tensors: content, _MANIFEST: manifest.to_json()})
        self._prune(number)
        return manifest

    def list(self) -> _Manifests:
        """The manifests that can be read, newest first; an error is logged for each other one.

        Raises:
            CheckpointError: the storage fails.
        """
        return list(self._manifests())

    def find(self, name: str) -> Manifest:
        """The checkpoint of this name.

        Raises:
            CheckpointCorruptError: it is there, but its manifest is not as it was written.
            UnknownVersionError: there is none.
            CheckpointError: the storage fails.
        """
        try:
            manifest = self._manifest(name) if _NAME.fullmatch(name) else None
        except CheckpointCorruptError as error:
            raise CheckpointCorruptError(f"checkpoint {name}: {error}") from error
        if manifest is None:
            raise UnknownVersionError(
                f"there is no checkpoint {name!r}; there are {', '.join(self._names()) or 'none'}"
            )
        return manifest

    def oldest(self) -> Manifest | None:
        """The oldest one whose manifest can be read, None if there is none."""
        return next(iter(reversed(self.list())), None)

    def load(self, manifest: Manifest, expected: Expected) -> LearnerState:
        """The state that was saved, to the bit.

        Raises:
            CheckpointCorruptError: a file is missing, truncated or altered.
            CheckpointMismatchError: it is not what is expected; the message says what to do.
            CheckpointError: the storage fails.
        """
        try:
            state = self._state(manifest)
        except CheckpointCorruptError as error:
            raise CheckpointCorruptError(f"checkpoint {manifest.name}: {error}") from error
        manifest.check(expected)
        return state

    def newest(self, expected: Expected, *, at_most: int | None = None) -> tuple[LearnerState, Manifest] | None:
        """The newest checkpoint that is whole; an error is logged for each newer one that is not.

        Args:
            expected: what it has to be of.
            at_most: the greatest version that will do. Then those of other rules, encoders and logs are passed
                over, since history may hold them.

        Returns:
            The state and its manifest, None if there is none.

        Raises:
            CheckpointMismatchError: the newest that is whole is not what is expected.
            CheckpointError: the storage fails.
        """
        for manifest in self._manifests():
            if at_most is not None and not _serves(manifest, expected, at_most):
                continue
            try:
                return self.load(manifest, expected), manifest
            except CheckpointCorruptError as error:
                logger.error("checkpoint_skipped name=%s reason=%s", manifest.name, error)
        return None

    def set_aside(self, log_id: str | None) -> _Names:
        """Move the checkpoints of other logs into a folder of their own, where nobody looks; nothing is deleted.

        Args:
            log_id: the log whose checkpoints stay; None moves all, those too that cannot be read.

        Returns:
            The names of those that were moved, newest first.

        Raises:
            CheckpointError: the storage fails.
        """
        if log_id is None:
            names = self._names()
        else:
            names = [manifest.name for manifest in self._manifests() if manifest.log_id != log_id]
        into = f"set-aside-{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:8]}"
        for name in names:
            self._folders.move(name, into, _MANIFEST)
        return names

    def _names(self) -> _Names:
        names = [name for name in self._folders.names() if _NAME.fullmatch(name)]
        return sorted(names, key=_order, reverse=True)

    def _manifests(self) -> Iterator[Manifest]:
        for name in self._names():
            try:
                manifest = self._manifest(name)
            except CheckpointCorruptError as error:
                logger.error("checkpoint_skipped name=%s reason=%s", name, error)
                continue
            if manifest is not None:
                yield manifest

    def _manifest(self, name: str) -> Manifest | None:
        size = self._folders.size(name, _MANIFEST)
        text = None
        if size is not None and size <= _LARGEST_MANIFEST:
            text = self._folders.read(name, _MANIFEST)
        elif size is not None:
            raise CheckpointCorruptError(f"the manifest has {size} bytes; no manifest has")
        if text is None:
            return None
        manifest = Manifest.from_json(text)
        if (manifest.name, manifest.number, manifest.version) != (name, *_order(name)):
            raise CheckpointCorruptError(f"the folder {name} holds the manifest of {manifest.name}")
        return manifest

    def _state(self, manifest: Manifest) -> LearnerState:
        manifest.verify()
        size = self._folders.size(manifest.name, manifest.tensors)
        if size != manifest.tensors_size:
            raise CheckpointCorruptError(f"{manifest.tensors} has {size} bytes, expected {manifest.tensors_size}")
        content = self._folders.read(manifest.name, manifest.tensors)
        if content is None or hashlib.sha256(content).hexdigest() != manifest.tensors_sha256:
            raise CheckpointCorruptError(f"{manifest.tensors} was altered: its SHA-256 is not that of the manifest")
        return unpack(content, manifest)

    def _prune(self, saved: int) -> None:
        try:
            superfluous = self._superfluous(saved)
        except CheckpointError as error:
            logger.warning("checkpoint_not_pruned reason=%s", error)
            return
        for name in superfluous:
            try:
                self._folders.remove(name, _MANIFEST)
            except CheckpointError as error:
                logger.warning("checkpoint_not_removed name=%s reason=%s", name, error)

    def _superfluous(self, saved: int) -> _Names:
        """What is left of interrupted writes, and what is older than the newest `keep` that can be read."""
        superfluous = [name for name in self._folders.names() if name.startswith(ASIDE)]
        kept = 0
        for name in self._names():
            try:
                unfinished = self._manifest(name) is None
            except CheckpointCorruptError:
                if kept >= self._keep:
                    superfluous.append(name)
                continue
            if kept >= self._keep or (unfinished and _number(name) < saved):
                superfluous.append(name)
            elif not unfinished:
                kept += 1
        return superfluous


def _serves(manifest: Manifest, expected: Expected, at_most: int) -> bool:
    """Whether it is old enough and what is expected."""
    try:
        manifest.check(expected)
    except CheckpointMismatchError:
        return False
    return manifest.version <= at_most


def _order(name: str) -> tuple[int, int]:
    """(number, version)."""
    number, _, version = name.partition("-v")
    return int(number), int(version)


def _number(name: str) -> int:
    return _order(name)[0]
