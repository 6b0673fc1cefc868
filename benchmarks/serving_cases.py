"""The requests that the serving benchmark sends: a base case, one thing varied at a time, and a few corners."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

OCTETS = "application/octet-stream"


@dataclass(frozen=True)
class Case:
    """One kind of load.

    Attributes:
        connections: each has one request on the way at a time.
        texts: a request.
        lengths: see `texts.make_texts`.
        fresh: no text comes twice; else a pool of 64 comes again and again.
        top_k: None answers the score of every uid.
        uids: N, the size of the roster.
        accept: the media type asked for.
        longer: times the usual duration.
    """

    connections: int = 64
    texts: int = 1
    lengths: str = "uniform"
    fresh: bool = True
    top_k: int | None = 4
    uids: int = 256
    accept: str = "application/json"
    longer: float = 1.0

    def body(self, texts: list[str]) -> dict[str, Any]:
        """What is sent."""
        return {"messages": texts} | ({} if self.top_k is None else {"top_k": self.top_k})


BASE = Case()
_REPEATED = replace(BASE, lengths="short", fresh=False)
_DENSE = replace(_REPEATED, top_k=None)
CASES: dict[str, Case] = {
    "base": BASE,
    "connections-1": replace(BASE, connections=1),
    "connections-16": replace(BASE, connections=16),
    "connections-256": replace(BASE, connections=256),
    # Eight connections, as with more of them most texts would wait in the queue.
    "texts-8": replace(BASE, connections=8, texts=8),
    "texts-32": replace(BASE, connections=8, texts=32, longer=4.0),
    "texts-32-connections-64": replace(BASE, texts=32, longer=4.0),
    "short": replace(BASE, lengths="short"),
    "long": replace(BASE, lengths="long"),
    "heavy": replace(BASE, lengths="heavy"),
    "words-16": replace(BASE, lengths="16"),
    "words-64": replace(BASE, lengths="64"),
    "repeated-1": replace(_REPEATED, connections=1),
    "repeated-16": replace(_REPEATED, connections=16),
    "repeated-64": _REPEATED,
    "repeated-256": replace(_REPEATED, connections=256),
    "repeated-uniform-64": replace(_REPEATED, lengths="uniform"),
    "dense-256": _DENSE,
    "base-4096": replace(BASE, uids=4096),
    "repeated-4096": replace(_REPEATED, uids=4096),
    "dense-4096": replace(_DENSE, uids=4096),
    "dense-4096-octets": replace(_DENSE, uids=4096, accept=OCTETS),
}
PEER_CASES = {
    "64 connections, 1 text": BASE,
    "8 connections, 32 texts": replace(BASE, connections=8, texts=32, longer=2.0),
}
