"""What a checkpoint says of itself: the JSON file beside its tensors, which a checkpoint has last and needs first."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import ConfigDict, Field, ValidationError

from gating.metagraph import MetagraphView

from .config import StrictModel
from .errors import CheckpointCorruptError, CheckpointMismatchError
from .ranges import to_ranges
from .standings import AuthorStanding
from .state import Held
from .tenures import Tenures

MANIFEST_FORMAT = 1

_MOST_HELD = 100_000_000

_ANOTHER_ENCODER = "another encoder is another application with its own state"
_REMEDIES = {
    "application": "give every application a `checkpoints.url` of its own",
    "log_id": "start with `--reset` to set these checkpoints aside",
    "fingerprint": _ANOTHER_ENCODER,
    "dim": _ANOTHER_ENCODER,
}


class SavedTenures(StrictModel):
    """`Tenures` in an order of its own, so that the same ones are always the same text."""

    since: dict[int, int]
    """uid -> place in the log of the resync at which its row last changed hands."""
    former_hotkeys: dict[int, tuple[str, ...]]
    """uid -> the hotkeys that its owner has exchanged for others since, sorted."""

    @classmethod
    def of(cls, tenures: Tenures) -> SavedTenures:
        """What is saved of them."""
        former = {uid: tuple(sorted(hotkeys)) for uid, hotkeys in tenures.former_hotkeys.items()}
        return cls(since=dict(tenures.since), former_hotkeys=former)

    def restored(self) -> Tenures:
        """What was saved."""
        return Tenures(dict(self.since), {uid: set(hotkeys) for uid, hotkeys in self.former_hotkeys.items()})


class SavedShadow(StrictModel):
    """A rule that learns without serving."""

    rule: dict[str, Any]
    """Its name and all its settings."""
    since: int = Field(ge=0)
    """The version after which it began to learn."""


_ADDED_LATER: dict[str, Any] = {"rule_label": "", "rule_since": 0, "served_since": 0, "shadows": {}, "standings": {}}
"""Fields that older manifests lack: they are not written while they have these values."""


class Manifest(StrictModel):
    """One checkpoint: what it is of, and how to tell whether it is whole."""

    # A number in place of a string is damage here, not a value to be converted.
    model_config = ConfigDict(strict=True)

    format: int = MANIFEST_FORMAT
    """Version of this layout."""
    name: str
    """The checkpoint's folder."""
    number: int = Field(ge=1)
    """Counts the checkpoints of a folder: what is newer than what."""
    application: str
    """Whose state it is."""
    log_id: str
    """The event log whose numbers `version` and `held` are."""
    epoch: int = Field(ge=0)
    """Epoch of the learner that wrote it."""
    version: int = Field(ge=0)
    """The last log sequence number that is in it."""
    decisions: int = Field(ge=0)
    """How many of the log's decisions are counted in the statistics."""
    view: MetagraphView
    """The network as of `version`."""
    rule: dict[str, Any]
    """Name and all settings of the rule that serves."""
    rule_label: str = ""
    """What it is called."""
    rule_since: int = Field(default=0, ge=0)
    """The version after which it began to learn."""
    served_since: int = Field(default=0, ge=0)
    """The version that has let it serve."""
    shadows: dict[str, SavedShadow] = Field(default_factory=dict)
    """The rules that learn without serving, by label."""
    fingerprint: str
    """Of the encoder whose embeddings the weights are for."""
    dim: int = Field(ge=1)
    """Width of those embeddings."""
    frozen: bool
    """An operator has stopped learning."""
    held: dict[str, tuple[tuple[int, int], ...]]
    """reason -> the first and the last of consecutive sequence numbers of held events."""
    tenures: SavedTenures
    """Since when the owners have had their uids."""
    standings: dict[str, AuthorStanding] = Field(default_factory=dict)
    """What has been said of authors. Left out where nothing has, as it is in checkpoints from before there was any."""
    digest: str
    """`LearnerState.digest()` of what was saved."""
    tensors: str = Field(pattern=r"^[A-Za-z0-9_-]+\.safetensors$")
    """Name of the file with the tensors, in the same folder."""
    tensors_size: int = Field(ge=8)
    """Its size in bytes."""
    tensors_sha256: str
    """SHA-256 of its content, in hex."""
    created_at: str
    """When it was written: ISO 8601, UTC."""
    checksum: str = ""
    """SHA-256 in hex of all of the above as canonical JSON: UTF-8, keys sorted, no spaces."""

    def expected_checksum(self) -> str:
        """What `checksum` has to be."""
        content = self._content()
        del content["checksum"]
        return hashlib.sha256(_canonical(content)).hexdigest()

    def sealed(self) -> Manifest:
        """The same manifest with its checksum."""
        return self.model_copy(update={"checksum": self.expected_checksum()})

    def to_json(self) -> bytes:
        """The text that is written: canonical JSON."""
        return _canonical(self._content())

    def _content(self) -> dict[str, Any]:
        content = self.model_dump(mode="json")
        return {key: value for key, value in content.items() if _ADDED_LATER.get(key, self) != value}

    @classmethod
    def from_json(cls, text: bytes) -> Manifest:
        """The manifest that `to_json` has written.

        Raises:
            CheckpointCorruptError: a byte of it is not as it was written, or its format is not known here.
        """
        manifest = cls._parsed(text)
        manifest.verify()
        # The checksum is over what the text says; this is about how it says it.
        if manifest.to_json() != text:
            raise CheckpointCorruptError("the manifest was altered: it is not in the form that it is written in")
        return manifest

    @classmethod
    def _parsed(cls, text: bytes) -> Manifest:
        try:
            known: Any = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise CheckpointCorruptError(f"the manifest is no JSON: {error}") from None
        written_as = known.get("format") if isinstance(known, dict) else None
        if written_as != MANIFEST_FORMAT:
            raise CheckpointCorruptError(
                f"the manifest's format is {written_as!r}, this Tidegate reads {MANIFEST_FORMAT}; "
                "use the version that wrote it"
            )
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise CheckpointCorruptError(f"the manifest is malformed at {where}: {first['msg']}") from None

    def verify(self) -> None:
        """Compare the checksum with the content.

        Raises:
            CheckpointCorruptError: they do not go together.
        """
        if self.checksum != self.expected_checksum():
            raise CheckpointCorruptError("the manifest was altered: its checksum does not go with what it says")

    def check(self, expected: Expected) -> None:
        """Compare with what the reader is.

        Raises:
            CheckpointMismatchError: an attribute differs; the message says which, and what to do.
        """
        for attribute in ("application", "fingerprint", "dim", "log_id", "rule"):
            wanted, got = getattr(expected, attribute), getattr(self, attribute)
            if wanted is None or (attribute == "rule" and self._may_serve(expected)):
                continue
            if _canonical(wanted) != _canonical(got):
                differs = f"{attribute} {_canonical(got).decode()}, expected {_canonical(wanted).decode()}"
                remedy = _REMEDIES.get(attribute) or self._rebuild_as(expected)
                raise CheckpointMismatchError(f"checkpoint {self.name} has the {differs}; {remedy}")

    def _may_serve(self, expected: Expected) -> bool:
        """Whether a promotion, before or after this checkpoint, explains that another rule serves."""
        return self.rule in expected.shadows or any(expected.rule == shadow.rule for shadow in self.shadows.values())

    def _rebuild_as(self, expected: Expected) -> str:
        wanted = (expected.rule or {}).get("name")
        return (
            f"stop the learner and rebuild the weights from the log with `tidegate replay --rule {wanted} "
            f"--write-checkpoint`, or set the rule back to {self.rule.get('name')}"
        )


@dataclass(frozen=True, slots=True)
class Expected:
    """What a checkpoint has to be of, to be of use to its reader.

    Attributes:
        application: the application's name.
        log_id: the event log's UUID; None where any will do.
        rule: the rule's name and all its settings, as `config.settings_of` gives them; None where any will do.
        fingerprint: of the encoder.
        dim: width of its embeddings.
        shadows: the settings of further rules, any of which may have served.
    """

    application: str
    log_id: str | None
    rule: dict[str, Any] | None
    fingerprint: str
    dim: int
    shadows: tuple[dict[str, Any], ...] = ()


def held_to_ranges(held: Mapping[int, Held]) -> dict[str, tuple[tuple[int, int], ...]]:
    """Held events as reason -> (first, last) of consecutive sequence numbers, ascending."""
    reasons = sorted({reason.value for reason in held.values()})
    return {
        name: tuple((first, last) for first, last in to_ranges(seq for seq, reason in held.items() if reason == name))
        for name in reasons
    }


def held_from_ranges(ranges: Mapping[str, Iterable[tuple[int, int]]]) -> dict[int, Held]:
    """The held events that `held_to_ranges` was given, in ascending order.

    Raises:
        CheckpointCorruptError: a reason is not known, a range is empty, two overlap, or there are absurdly many.
    """
    spans = sorted((first, last, reason) for reason, mine in ranges.items() for first, last in mine)
    if sum(last - first + 1 for first, last, _ in spans) > _MOST_HELD:
        raise CheckpointCorruptError(f"the manifest holds more than {_MOST_HELD} events back")
    held: dict[int, Held] = {}
    previous = -1
    for first, last, reason in spans:
        if not previous < first <= last or reason not in set(Held):
            raise CheckpointCorruptError(f"the manifest's held events are no ranges: {reason} [{first}, {last}]")
        held.update(dict.fromkeys(range(first, last + 1), Held(reason)))
        previous = last
    return held


def _canonical(content: Any) -> bytes:
    return orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
