"""Where the learner's view of the network comes from. Today: a roster file of experts."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import yaml
from pydantic import Field, ValidationError, model_validator

from gating.metagraph import NO_HOTKEY, MetagraphView

from .config import ChainConfig, StrictModel
from .errors import RosterError


class Expert(StrictModel):
    """One entry of a roster."""

    uid: int | None = Field(None, ge=0, le=65_535)
    """The expert's number; by default its place in the list."""
    hotkey: str | None = Field(None, min_length=1)
    """Who holds the uid: a hotkey."""
    name: str | None = Field(None, min_length=1)
    """Who holds the uid, where experts have names rather than hotkeys."""
    available: bool = True
    """Whether the expert may be selected."""

    @model_validator(mode="after")
    def _has_one_identity(self) -> Expert:
        if (self.hotkey is None) == (self.name is None):
            raise ValueError("give either hotkey or name")
        return self

    @property
    def identity(self) -> str:
        """The hotkey or name."""
        return self.hotkey or self.name or NO_HOTKEY


class Roster(StrictModel):
    """A roster file."""

    experts: list[Expert] = Field(min_length=1)
    """The experts, one per uid."""


class MetagraphSource(Protocol):
    """Something that knows who holds which uid."""

    def fetch_view(self) -> MetagraphView:
        """The network as it is now.

        Raises:
            LearnerError: it cannot be read; the message says what was found and what to do.
        """
        ...


class RosterSource:
    """Reads a roster file at every fetch.

    Args:
        path: of the file.
        netuid: the number that the view carries.
        now_ms: the time in ms since 1970, which stands for the block; a step backwards is evened out.
    """

    def __init__(self, path: Path, *, netuid: int = 0, now_ms: Callable[[], int] | None = None) -> None:
        self.path = path
        self.netuid = netuid
        self._now_ms = now_ms or (lambda: time.time_ns() // 1_000_000)
        self._block = 0

    def fetch_view(self) -> MetagraphView:
        """See `MetagraphSource`."""
        experts = _by_uid(_read_roster(self.path), self.path)
        self._block = max(self._block + 1, self._now_ms())
        uids = range(max(experts) + 1)
        return MetagraphView(
            hotkeys=tuple(experts[uid].identity if uid in experts else NO_HOTKEY for uid in uids),
            available=tuple(uid in experts and experts[uid].available for uid in uids),
            registered_at=(None,) * len(uids),
            netuid=self.netuid,
            block=self._block,
        )


def build_source(config: ChainConfig) -> MetagraphSource:
    """The source that a configuration asks for."""
    return RosterSource(find_roster(config.roster), netuid=config.netuid)


def find_roster(path: str) -> Path:
    """Where a roster lies: as given, or beside the packages for a relative path.

    Ray's workers run in folders of their own, so the second place is where a checkout's own roster is found.
    """
    given = Path(path).expanduser()
    beside_packages = Path(__file__).resolve().parent.parent / given
    return given if given.is_absolute() or given.exists() or not beside_packages.exists() else beside_packages


def _read_roster(path: Path) -> Roster:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RosterError(f"roster {path} cannot be read: {error.strerror}; give its path as chain.roster") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RosterError(f"roster {path} is not YAML: {error}") from error
    try:
        return Roster.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise RosterError(f"roster {path}: {place}: {first['msg']} (got {first['input']!r})") from error


def _by_uid(roster: Roster, path: Path) -> dict[int, Expert]:
    experts: dict[int, Expert] = {}
    holders: dict[str, int] = {}
    for place, expert in enumerate(roster.experts):
        uid = place if expert.uid is None else expert.uid
        if uid in experts:
            raise RosterError(f"roster {path}: experts.{place}: uid {uid} is given twice")
        if expert.identity in holders:
            raise RosterError(
                f"roster {path}: experts.{place}: {expert.identity!r} already holds uid {holders[expert.identity]}"
            )
        experts[uid] = expert
        holders[expert.identity] = uid
    return experts
