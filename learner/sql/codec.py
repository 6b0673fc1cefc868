"""Values as rows of the log's tables, and back. Rows are tuples in the order of a table's columns."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from ..event_log import Chosen
from ..events import Action, Decision, Event, OperatorEvent, Outcome, ResyncEvent, RewardEvent
from ..view_json import view_from_json, view_to_json

_ODD = re.compile("[\\\\\x00\ud800-\udfff]")
_ESCAPED = re.compile(r"\\u([0-9a-f]{4})")


def to_text(text: str) -> str:
    r"""The text as every database can store it: NUL and lone surrogates, and so the backslash, become `\u` and hex."""
    return _ODD.sub(lambda found: f"\\u{ord(found[0]):04x}", text) if _ODD.search(text) else text


def from_text(text: str) -> str:
    """The text that `to_text` has written."""
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), text) if "\\" in text else text


def _to_optional(text: str | None) -> str | None:
    return None if text is None else to_text(text)


def _from_optional(text: str | None) -> str | None:
    return None if text is None else from_text(text)


def to_bytes(embedding: NDArray[np.float16], dim: int) -> bytes:
    """An embedding as float16, little endian.

    Raises:
        ValueError: it has another dimension than the log.
    """
    if embedding.shape != (dim,):
        raise ValueError(f"an embedding of this log has the shape ({dim},), got {embedding.shape}")
    return embedding.astype("<f2", copy=False).tobytes()


def from_bytes(stored: bytes | None) -> NDArray[np.float16] | None:
    """The embedding that `to_bytes` has written, read-only; None where it was erased."""
    return None if stored is None else np.frombuffer(stored, "<f2").astype(np.float16, copy=False)


def _dump(values: Sequence[Any]) -> str:
    return orjson.dumps(values).decode()


def _floats(stored: str) -> tuple[float, ...]:
    """JSON has no NaN: it is written as null."""
    return tuple(math.nan if value is None else float(value) for value in orjson.loads(stored))


def decision_row(decision: Decision, row: int, received_s: float, dim: int) -> tuple[Any, ...]:
    """A row of `decisions`."""
    embedding = decision.embedding
    return (
        row,
        to_text(decision.id),
        received_s,
        decision.time_s,
        decision.epoch,
        decision.version,
        None if embedding is None else to_bytes(embedding, dim),
        _dump(decision.uids),
        _dump(decision.scores),
        _dump(decision.propensities),
        _dump([to_text(hotkey) for hotkey in decision.hotkeys]),
        decision.candidates,
        to_text(decision.candidates_digest),
    )


def decision_of(row: Any) -> Decision:
    """The decision in a row of `decisions`."""
    return Decision(
        id=from_text(row.id),
        time_s=row.made_s,
        epoch=row.epoch,
        version=row.version,
        embedding=from_bytes(row.embedding),
        uids=uids_of(row.uids),
        scores=_floats(row.scores),
        propensities=_floats(row.propensities),
        hotkeys=hotkeys_of(row.hotkeys),
        candidates=row.candidates,
        candidates_digest=from_text(row.candidates_digest),
    )


def uids_of(stored: str) -> tuple[int, ...]:
    """The uids that a decision chose."""
    return tuple(orjson.loads(stored))


def hotkeys_of(stored: str) -> tuple[str, ...]:
    """Who held them."""
    return tuple(from_text(hotkey) for hotkey in orjson.loads(stored))


def chosen_of(row: Any) -> Chosen:
    """What the decision in a row with `row`, `id`, `uids`, `hotkeys`, `epoch` and `version` chose."""
    return Chosen(row.row, from_text(row.id), uids_of(row.uids), hotkeys_of(row.hotkeys), row.epoch, row.version)


def kind_of(event: Event) -> str:
    """The event's `kind`."""
    match event:
        case RewardEvent():
            return "reward"
        case ResyncEvent():
            return "resync"
        case OperatorEvent():
            return "operator"


def reward_rows(event: RewardEvent) -> list[tuple[Any, ...]]:
    """The rows of `rewards`, one for each uid.

    Raises:
        ValueError: a reward is no finite number, or there is none.
    """
    if not event.rewards or not all(map(math.isfinite, event.rewards)):
        raise ValueError(f"an event needs rewards, and finite ones, got {event.rewards}")
    weights = event.weights or (1.0,) * len(event.uids)
    if not all(0.0 <= weight <= 1.0 for weight in weights):
        raise ValueError(f"what a reward counts lies between 0 and 1, got {event.weights}")
    expected = event.expected or (None,) * len(event.uids)
    decision_id, reward_id = _to_optional(event.decision_id), _to_optional(event.reward_id)
    author, status, assumed = to_text(event.author), event.outcome.value, int(event.outcome is Outcome.DEFAULT)
    return [
        (event.seq, uid, position, decision_id, reward_id, reward, author, status, assumed, weight, guess)
        for position, (uid, reward, weight, guess) in enumerate(
            zip(event.uids, event.rewards, weights, expected, strict=True)
        )
    ]


REWARD_COLUMNS = ("seq", "uid", "reward", "decision_id", "reward_id", "author", "status", "weight", "expected")
"""What `reward_event_of` is made of."""


def reward_event_of(rows: Sequence[Any], batch: int, embedding: bytes | None) -> RewardEvent:
    """The event of those rows of `rewards`: tuples of `REWARD_COLUMNS`."""
    seq, _, _, decision_id, reward_id, author, status, _, _ = rows[0]
    weights, expected = tuple([row[7] for row in rows]), tuple([row[8] for row in rows])
    return RewardEvent(
        seq=seq,
        batch=batch,
        uids=tuple([row[1] for row in rows]),
        rewards=tuple([row[2] for row in rows]),
        outcome=Outcome(status),
        embedding=from_bytes(embedding),
        decision_id=_from_optional(decision_id),
        reward_id=_from_optional(reward_id),
        author=from_text(author),
        weights=() if all(weight == 1.0 for weight in weights) else weights,
        expected=() if all(guess is None for guess in expected) else expected,
    )


def resync_row(event: ResyncEvent) -> tuple[Any, ...]:
    """A row of `resyncs`."""
    return event.seq, view_to_json(event.view).decode(), event.seed, event.on_hotkey_swap


def resync_of(row: Any, batch: int) -> ResyncEvent:
    """The event in a row of `resyncs`."""
    return ResyncEvent(
        seq=row.seq, batch=batch, view=view_from_json(row.view), seed=row.seed, on_hotkey_swap=row.on_hotkey_swap
    )


def operator_row(event: OperatorEvent) -> tuple[Any, ...]:
    """A row of `operator_actions`."""
    # This encoder writes everything beyond ASCII, and NUL, as an escape.
    return event.seq, event.action.value, to_text(event.author), json.dumps(event.arguments)


def operator_of(row: Any, batch: int) -> OperatorEvent:
    """The event in a row of `operator_actions`."""
    return OperatorEvent(
        seq=row.seq,
        batch=batch,
        action=Action(row.action),
        author=from_text(row.author),
        arguments=json.loads(row.arguments),
    )
