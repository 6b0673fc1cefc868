"""What a request can be refused with, and what keeps the service from starting.

    Problem                    an RFC 9457 problem: status, code, title, detail
    └── LearnerAwayProblem     503 `learner_away`: nothing was acknowledged
    AuthSetupError             who may call is not settled, so the service does not start
    ├── ExposureError          it would listen where anyone could call it
    └── CredentialsError       its keys or hotkeys are missing or malformed
    PlotError                  a plot cannot be written where it was asked for

`LearnerAway` is not a problem but a fact, raised by a `LearnerClient`; what it means for a request is decided
where the request is answered.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_PASSWORD = re.compile(r"(://[^:/\s@]*):\S*@")


class LearnerAway(Exception):
    """The learner did not answer, or cannot log: it is starting, restarting or gone.

    Nothing was acknowledged; the call may have been done all the same.

    Args:
        text: why. A password in a URL in it is left out, since callers are told.
    """

    def __init__(self, text: str) -> None:
        super().__init__(_PASSWORD.sub(r"\1:***@", text))

    @property
    def because(self) -> str:
        """The reason in one line."""
        return (str(self).splitlines() or [""])[0]


class Problem(Exception):
    """A request that cannot be answered as asked.

    Args:
        status: the HTTP status.
        code: a stable name for programs.
        detail: expected, got, remedy, for people.
        retry_after_s: when trying again makes sense, None if it does not.
        headers: further headers of the answer.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        retry_after_s: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.headers = dict(headers or {})


class LearnerAwayProblem(Problem):
    """The learner is needed and away.

    Args:
        away: why.
        consequence: what that means for the request, and the remedy.
    """

    def __init__(
        self, away: LearnerAway, consequence: str = "nothing was acknowledged; send the request again"
    ) -> None:
        super().__init__(503, "learner_away", f"the learner is away ({away.because}): {consequence}", retry_after_s=1)


class AuthSetupError(Exception):
    """Base of what is wrong with the settings of `auth`."""


class ExposureError(AuthSetupError):
    """The service would listen where anyone could call it."""


class CredentialsError(AuthSetupError):
    """The callers' keys or hotkeys are missing or malformed; the message shows nothing of a key."""


class PlotError(Exception):
    """A plot cannot be written; the message names the file."""
