"""A network described by a file: a roster of experts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import Field, ValidationError, model_validator

from gating.metagraph import NO_HOTKEY, MetagraphView

from .config import StrictModel
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


class RosterSource:
    """Reads a roster file at every fetch.

    Args:
        path: of the file.
        netuid: the number that the view carries.
        after_block: the block of the view in use.
        now_ms: the time in ms since 1970, which stands for the block; a step backwards is evened out.
    """

    def __init__(
        self, path: Path, *, netuid: int = 0, after_block: int = 0, now_ms: Callable[[], int] | None = None
    ) -> None:
        self.path = path
        self.netuid = netuid
        self._now_ms = now_ms or (lambda: time.time_ns() // 1_000_000)
        self._block = after_block

    def fetch_view(self) -> MetagraphView:
        """The network as the file has it now. See `MetagraphSource`.

        Raises:
            RosterError: the file is missing or malformed.
        """
        experts = _read_roster(self.path)
        self._block = max(self._block + 1, self._now_ms())
        uids = range(max(experts) + 1)
        return MetagraphView(
            hotkeys=tuple(experts[uid].identity if uid in experts else NO_HOTKEY for uid in uids),
            available=tuple(uid in experts and experts[uid].available for uid in uids),
            registered_at=(None,) * len(uids),
            netuid=self.netuid,
            block=self._block,
        )

    def fetch_block(self) -> int:
        """See `MetagraphSource`."""
        return self._block

    def describe(self) -> dict[str, str]:
        """See `MetagraphSource`."""
        return {"source": "roster"}

    def disconnect(self) -> None:
        """See `MetagraphSource`."""

    def close(self) -> None:
        """See `MetagraphSource`."""


def find_roster(path: str) -> Path:
    """Where a roster lies: as given, or beside the packages for a relative path.

    Ray's workers run in folders of their own, so the second place is where a checkout's own roster is found.
    """
    given = Path(path).expanduser()
    beside_packages = Path(__file__).resolve().parent.parent / given
    return given if given.is_absolute() or given.exists() or not beside_packages.exists() else beside_packages


@dataclass(frozen=True, slots=True)
class _RosterText:
    """A roster's text, for errors that say where in it something is wrong."""

    path: Path
    text: str

    def error(self, place: Sequence[str | int], message: str) -> RosterError:
        """`place`: the keys and indices that lead to what is wrong."""
        node = yaml.compose(self.text, Loader=yaml.SafeLoader)
        line = 1 if node is None else _innermost(node, place).start_mark.line + 1
        where = ".".join(str(part) for part in place) or "the file"
        return RosterError(f"roster {self.path}, line {line}: {where}: {message}")


def _read_roster(path: Path) -> dict[int, Expert]:
    try:
        source = _RosterText(path, path.read_text(encoding="utf-8"))
        content = yaml.safe_load(source.text)
    except OSError as error:
        raise RosterError(f"roster {path} cannot be read: {error.strerror}; give its path as chain.roster") from error
    except (yaml.YAMLError, ValueError) as error:
        raise RosterError(f"roster {path} is not YAML: {error}") from error
    try:
        roster = Roster.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ")
        raise source.error(first["loc"], f"{message} (got {first['input']!r})") from error
    return _by_uid(roster, source)


def _by_uid(roster: Roster, source: _RosterText) -> dict[int, Expert]:
    experts: dict[int, Expert] = {}
    holders: dict[str, int] = {}
    for index, expert in enumerate(roster.experts):
        uid = index if expert.uid is None else expert.uid
        if uid in experts:
            raise source.error(("experts", index, "uid"), f"uid {uid} is given twice; give each expert its own")
        if expert.identity in holders:
            field = "name" if expert.hotkey is None else "hotkey"
            message = f"{expert.identity!r} already holds uid {holders[expert.identity]}; give it one uid"
            raise source.error(("experts", index, field), message)
        experts[uid] = expert
        holders[expert.identity] = uid
    return experts


def _innermost(node: yaml.Node, place: Sequence[str | int]) -> yaml.Node:
    """The node at a place, or the last on the way to it that the text has."""
    for part in place:
        children = dict(enumerate(node.value)) if isinstance(node, yaml.SequenceNode) else {}
        if isinstance(node, yaml.MappingNode):
            children = {key.value: child for key, child in node.value}
        if part not in children:
            break
        node = children[part]
    return node
