"""What operators, and reward trust itself, have said of authors. It follows from the log's events alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from .events import OperatorEvent, Standing


@dataclass(frozen=True, slots=True)
class AuthorStanding:
    """What holds of one author.

    Attributes:
        pinned: an operator's word, which nothing but another one changes; None: it is left to reward trust.
        quarantined_since: place in the log at which reward trust began to hold the author's rewards; None: it does not.
    """

    pinned: Literal["trusted", "distrusted"] | None = None
    quarantined_since: int | None = None

    @property
    def shown(self) -> Standing:
        """The operator's word for it."""
        return Standing.AUTO if self.pinned is None else Standing(self.pinned)

    @property
    def is_quarantined(self) -> bool:
        """Whether reward trust, where it is on, holds the author's rewards."""
        return self.pinned is None and self.quarantined_since is not None


Standings = dict[str, AuthorStanding]
"""By author; one of whom nothing is said is missing."""

NOTHING_SAID = AuthorStanding()


def follow_standing(standings: Standings, event: OperatorEvent) -> None:
    """What a STANDING event does. Mutates `standings`.

    An operator's `auto` is a new start: the pin goes, and so does a quarantine.
    """
    author = str(event.arguments["author"])
    known = standings.get(author, NOTHING_SAID)
    match Standing(event.arguments["standing"]):
        case Standing.TRUSTED:
            known = replace(known, pinned="trusted")
        case Standing.DISTRUSTED:
            known = replace(known, pinned="distrusted")
        case Standing.AUTO:
            known = NOTHING_SAID
        case Standing.QUARANTINED:
            known = replace(known, quarantined_since=event.seq)
        case Standing.RELEASED:
            known = replace(known, quarantined_since=None)
    standings.pop(author, None)
    if known != NOTHING_SAID:
        standings[author] = known
