"""Who may write a log: one learner, for as long as it renews its claim, under an epoch that only grows."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import Connection, select, update

from ..errors import FencedError, LeaseHeldError, LogUnavailableError
from .codec import from_text, to_text
from .database import Database
from .schema import writer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Lease:
    """A claim on the log.

    Attributes:
        database: the log's.
        epoch: greater than that of every claim before it.
        lease_s: how long it holds after it was last renewed.
    """

    database: Database
    epoch: int
    lease_s: float

    def fence(self, connection: Connection) -> None:
        """Renew the claim in this transaction, first of all, so that it takes place only if the claim still holds.

        Raises:
            FencedError: another has taken the log over.
        """
        renewed = connection.execute(
            update(writer)
            .where(writer.c.id == 1, writer.c.epoch == self.epoch)
            .values(renewals=writer.c.renewals + 1, expires_s=self.database.now_s + self.lease_s)
        )
        if renewed.rowcount != 1:
            row = connection.execute(select(writer)).one_or_none()
            holder = f"{from_text(row.holder)!r} has taken it over with epoch {row.epoch}" if row else "nobody has it"
            raise FencedError(f"{self.database.name} is no longer this learner's (epoch {self.epoch}): {holder}")

    def hand_over(self, connection: Connection) -> None:
        """Let the next one have it at once, unless another has it already."""
        connection.execute(update(writer).where(writer.c.id == 1, writer.c.epoch == self.epoch).values(expires_s=0.0))


def acquire(
    database: Database,
    *,
    holder: str,
    lease_s: float,
    patience_s: float,
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Lease:
    """Take the log: at once if it is free, handed over or this holder's own, else when the other's claim ends.

    It ends when the database's clock says so. That clock may be set back, so it ends as well when the claim was
    not renewed for `lease_s` before the eyes of whoever waits.

    Args:
        database: the log's, with its tables.
        holder: the same name claims its own log again at once.
        lease_s: how long the claim holds when it is not renewed.
        patience_s: how long to wait for another.
        monotonic: a clock, s.
        sleep: waits that many s.

    Raises:
        LeaseHeldError: the other went on renewing its claim.
        LogUnavailableError: the database does not answer.
    """
    started = since = monotonic()
    seen = None
    for attempt in itertools.count():
        row = _read(database)
        if (row.epoch, row.renewals) != seen:
            seen, since = (row.epoch, row.renewals), monotonic()
        is_free = row.expires_s <= row.now_s or row.holder == to_text(holder) or monotonic() - since >= lease_s
        if is_free and _take(database, row, holder, lease_s):
            break
        if monotonic() - started >= patience_s:
            raise LeaseHeldError(
                f"{database.name} is written by {from_text(row.holder)!r} (epoch {row.epoch}), which is alive; "
                "stop it, or give this learner a log of its own"
            )
        if attempt == 0:
            logger.info("lease_awaited epoch=%d holder=%r", row.epoch, row.holder)
        sleep(min(lease_s / 10, 0.1))
    logger.info("lease_taken epoch=%d", row.epoch + 1)
    return Lease(database, row.epoch + 1, lease_s)


class _Seen(NamedTuple):
    """The row of `writer` at one moment."""

    epoch: int
    holder: str
    renewals: int
    expires_s: float
    now_s: float


def _read(database: Database) -> _Seen:
    columns = (writer.c.epoch, writer.c.holder, writer.c.renewals, writer.c.expires_s, database.now_s)
    with database.read() as connection:
        return _Seen(*connection.execute(select(*columns)).one())


def _take(database: Database, seen: _Seen, holder: str, lease_s: float) -> bool:
    """Take the claim if it is still as it was seen."""
    try:
        with database.write() as connection:
            taken = connection.execute(
                update(writer)
                .where(writer.c.id == 1, writer.c.epoch == seen.epoch, writer.c.renewals == seen.renewals)
                .values(
                    epoch=seen.epoch + 1,
                    holder=to_text(holder),
                    renewals=0,
                    expires_s=database.now_s + lease_s,
                )
            )
            return taken.rowcount == 1
    except LogUnavailableError as error:
        # The other is in a transaction, perhaps for good: that is for the patience to decide.
        logger.info("lease_locked error=%s", error)
        return False
