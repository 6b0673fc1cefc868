"""What a request can be refused with.

    Problem                    an RFC 9457 problem: status, code, title, detail
    └── LearnerAwayProblem     503 `learner_away`: nothing was acknowledged

`LearnerAway` is not a problem but a fact, raised by a `LearnerClient`; what it means for a request is decided
where the request is answered.
"""

from __future__ import annotations


class LearnerAway(Exception):
    """The learner did not answer: it is starting, restarting or gone. The call may or may not have been done."""


class Problem(Exception):
    """A request that cannot be answered as asked.

    Args:
        status: the HTTP status.
        code: a stable name for programs.
        detail: expected, got, remedy, for people.
        retry_after_s: when trying again makes sense, None if it does not.
    """

    def __init__(self, status: int, code: str, detail: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.retry_after_s = retry_after_s


class LearnerAwayProblem(Problem):
    """The learner is needed and away."""

    def __init__(self) -> None:
        super().__init__(
            503,
            "learner_away",
            "the learner is away and nothing was acknowledged; send the request again",
            retry_after_s=1,
        )
