"""Embeddings of texts that were asked for before, and texts that several requests ask for at once.

Everything here happens on the event loop, so nothing is locked.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import secrets
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from .batcher import Batcher
from .waiting import Job

_ENTRY_OVERHEAD = 768
"""Bytes of an entry besides its numbers: digest, tensor, storage, its place in the table (measured, rounded up)."""

Row = Float[Tensor, "1 hidden"]


class NotFiniteError(Exception):
    """The encoder gave no numbers for a text: in a precision that is too narrow for it, it overflows."""

    def __init__(self) -> None:
        super().__init__("the encoder's numbers for a text are not finite; set encoder.dtype to bf16 or fp32")


@dataclass(slots=True, eq=False)
class _Request:
    rows: list[Row | None]
    missing: int
    future: asyncio.Future[None]


@dataclass(slots=True, eq=False)
class _InFlight:
    """A text that the engine has been asked for, and who waits for it, at which of their places."""

    job: Job
    waiters: list[tuple[_Request, int]] = field(default_factory=list)


class EmbeddingCache:
    """Embeds texts, each only once as long as its embedding is kept: least recently used go first.

    It knows texts by a keyed digest whose key is this process's own, so it holds no text, nor what would tell one.

    Args:
        batcher: computes what is not here.
        max_bytes: what all entries may take; 0 keeps nothing.

    Attributes:
        hits: texts whose embedding was here. A request that is not let in counts as none of these.
        shared: texts that were being computed already, for this request or another.
        misses: texts that the engine was asked for.
        bytes: what the entries take.
    """

    def __init__(self, batcher: Batcher, *, max_bytes: int) -> None:
        self._batcher = batcher
        self._max_bytes = max_bytes
        self._key = secrets.token_bytes(32)
        self._rows: OrderedDict[bytes, Row] = OrderedDict()
        self._in_flight: dict[bytes, _InFlight] = {}
        self._digests: dict[Job, bytes] = {}
        self.hits = self.shared = self.misses = self.bytes = 0

    async def embed(self, texts: Sequence[str]) -> Float[Tensor, "batch hidden"]:
        """Embeddings of the texts, in their order; not to be changed. Cancelling drops what nobody else waits for.

        Args:
            texts: at least one.

        Raises:
            QueueFullError: too much waits already; nothing was queued.
            EngineDeadError: the engine has ended, before or while the texts waited.
            NotFiniteError: a text's embedding is no numbers.
        """
        if not texts:
            raise ValueError("texts is empty; send at least one")
        digests = [hashlib.blake2b(_bytes_of(text), key=self._key, digest_size=16).digest() for text in texts]
        rows = [self._find(digest) for digest in digests]
        if any(row is None for row in rows):
            await self._compute(texts, digests, rows)
        else:
            self.hits += len(rows)
        found = [row for row in rows if row is not None]
        return found[0] if len(found) == 1 else torch.cat(found)

    def describe(self) -> dict[str, int]:
        """The counts, for `/v1/state`."""
        return {
            "hits": self.hits,
            "misses": self.misses,
            "shared": self.shared,
            "entries": len(self._rows),
            "bytes": self.bytes,
        }

    def _find(self, digest: bytes) -> Row | None:
        row = self._rows.get(digest)
        if row is not None:
            self._rows.move_to_end(digest)
        return row

    async def _compute(self, texts: Sequence[str], digests: list[bytes], rows: list[Row | None]) -> None:
        """Fill the gaps in `rows`."""
        gaps = [index for index, row in enumerate(rows) if row is None]
        self._ask({digests[index]: texts[index] for index in gaps if digests[index] not in self._in_flight}, len(gaps))
        self.hits += len(rows) - len(gaps)
        request = _Request(rows, len(gaps), asyncio.get_running_loop().create_future())
        for index in gaps:
            shared = self._in_flight[digests[index]]
            shared.waiters.append((request, index))
            self._batcher.share(shared.job)
        try:
            await request.future
        except BaseException:
            # Cancelled, or one text has failed: what is left of the request is not worth computing.
            for digest in {digests[index] for index in gaps}:
                self._leave(request, digest)
            raise

    def _ask(self, wanted: dict[bytes, str], gaps: int) -> None:
        """Have the engine compute what nobody has asked it for yet."""
        if wanted:
            for digest, job in zip(wanted, self._batcher.submit(list(wanted.values()), self._take), strict=True):
                self._in_flight[digest] = _InFlight(job)
                self._digests[job] = digest
        self.misses += len(wanted)
        self.shared += gaps - len(wanted)

    def _leave(self, request: _Request, digest: bytes) -> None:
        """Wait no longer for a text. Without others who do it is dropped, unless the engine has it already."""
        shared = self._in_flight.get(digest)
        if shared is None:
            return
        shared.waiters = [waiter for waiter in shared.waiters if waiter[0] is not request]
        if not shared.waiters and self._batcher.drop(shared.job):
            del self._in_flight[digest], self._digests[shared.job]

    def _take(self, job: Job, outcome: Tensor | Exception) -> None:
        """What the engine says of a text goes to all who wait for it."""
        digest = self._digests.pop(job, None)
        if digest is None:
            return
        shared = self._in_flight.pop(digest)
        if not isinstance(outcome, Exception) and not math.isfinite(outcome.sum()):
            outcome = NotFiniteError()
        if isinstance(outcome, Exception):
            for request, _ in shared.waiters:
                if not request.future.done():
                    request.future.set_exception(outcome)
            return
        row = self._keep(digest, outcome)
        for request, index in shared.waiters:
            request.rows[index] = row
            request.missing -= 1
            if not request.missing and not request.future.done():
                request.future.set_result(None)

    def _keep(self, digest: bytes, row: Row) -> Row:
        size = row.nbytes + _ENTRY_OVERHEAD
        if size > self._max_bytes:
            return row
        # A row of a batch would keep all of the batch in memory.
        row = row.clone()
        self._rows[digest] = row
        self.bytes += size
        while self.bytes > self._max_bytes:
            _, oldest = self._rows.popitem(last=False)
            self.bytes -= oldest.nbytes + _ENTRY_OVERHEAD
        return row


def _bytes_of(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
