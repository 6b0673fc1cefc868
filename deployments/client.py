"""GateClient: the service's HTTP contract as typed Python calls, on httpx alone.

    with GateClient() as gate:
        selection = gate.select(["Why is the sky blue?"], k=2).selections[0]
        gate.report([Reward(selection.uids, [0.9, 0.4], decision_id=selection.decision_id)])

Its errors and the values that it gives and takes are in `client_types`, and can be imported from here too. A
wrong argument is a plain `ValueError`.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import httpx

from .client_auth import build_auth
from .client_types import (
    Author,
    Checkpoint,
    GateError,
    GateUnavailableError,
    Handover,
    HeldReward,
    Metagraph,
    OperatorStanding,
    ProblemError,
    Quarantine,
    Rejected,
    Reward,
    RewardReport,
    Rollback,
    ScoreResult,
    Scores,
    Selection,
    SelectResult,
    Settlement,
    UnexpectedAnswerError,
    Wait,
    Weights,
    build_authors,
    build_checkpoint,
    build_handover,
    build_quarantine,
    build_reward_report,
    build_rollback,
    build_score_result,
    build_select_result,
)

if TYPE_CHECKING:
    from .client_dense import DenseScores

__all__ = [
    "Author",
    "Checkpoint",
    "GateClient",
    "GateError",
    "GateUnavailableError",
    "Handover",
    "HeldReward",
    "Metagraph",
    "OperatorStanding",
    "ProblemError",
    "Quarantine",
    "Rejected",
    "Reward",
    "RewardReport",
    "Rollback",
    "ScoreResult",
    "Scores",
    "SelectResult",
    "Selection",
    "Settlement",
    "UnexpectedAnswerError",
    "Wait",
    "Weights",
]

FIRST_BACKOFF_S = 0.1
MAX_BACKOFF_S = 2.0
MAX_RETRY_AFTER_S = 10.0
CONNECT_TIMEOUT_S = 5.0
PROBLEM = "application/problem+json"
OCTETS = "application/octet-stream"

T = TypeVar("T")
Body = dict[str, Any]


class GateClient:
    """Calls a running Tidegate. Safe to share between threads; close it, or use it as a context manager.

    Every call may raise a `GateError`. Whatever may pass is tried again, with the same ids: no connection, 429
    and 503 (after their Retry-After), and a 500, 502 or 504 that is no problem document and so comes from the
    proxy. A reward is never learned twice for it; a select that was lost on its way, or a durable one that could not
    be logged in time, leaves a decision that nobody reports on.

    Args:
        url: where the service listens.
        api_key: sent with every call, where the service asks for keys.
        wallet: signs every call with its hotkey, where the service asks for that: a bittensor `Wallet`, its name
            (`"cold/hot"`), or a keypair.
        receiver_hotkey: with a wallet: the service's own hotkey, for which calls are signed.
        timeout_s: the most that one call takes, retries included.
        retries: how many times a call is tried again.
        transport: answers instead of the network, in tests.
        sleep: waits between attempts.
        clock: seconds that only go forward.

    Raises:
        ValueError: `url` is not an http or https address, or the credentials do not go together.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        wallet: Any = None,
        receiver_hotkey: str | None = None,
        timeout_s: float = 30.0,
        retries: int = 5,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        try:
            is_address = httpx.URL(url).scheme in ("http", "https") and bool(httpx.URL(url).host)
        except httpx.InvalidURL:
            is_address = False
        if not is_address:
            raise ValueError(f"url is {url!r}; expected something like http://127.0.0.1:8000")
        self.url = url.rstrip("/")
        self.timeout_s = timeout_s
        self.retries = retries
        auth = build_auth(api_key, wallet, receiver_hotkey)
        self._http = httpx.Client(base_url=self.url, transport=transport, auth=auth)
        self._sleep = sleep
        self._clock = clock

    def __enter__(self) -> GateClient:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def score(
        self,
        messages: Sequence[str],
        *,
        top_k: int | None = None,
        uids: Sequence[int] | None = None,
        min_version: int | None = None,
    ) -> ScoreResult:
        """Mean scores, without side effect: every uid in order, or those in `uids`, or the `top_k` best first.

        `min_version` waits until the answering replica has at least that version.
        """
        body = _message_body(messages, top_k=top_k, uids=_ints(uids), min_version=min_version)
        return self._parse(build_score_result, self._call("POST", "/v1/score", body))

    def score_dense(
        self, messages: Sequence[str], *, uids: Sequence[int] | None = None, min_version: int | None = None
    ) -> DenseScores:
        """`score` for many uids: every score of all messages as one array, sent as bytes instead of JSON."""
        # Only who wants an array needs the library for it.
        from .client_dense import build_dense_scores

        body = _message_body(messages, uids=_ints(uids), min_version=min_version)
        response = self._ask("POST", "/v1/score", body, accept=OCTETS)
        return self._parse(lambda answer: build_dense_scores(answer.headers, answer.content), response)

    def select(
        self,
        messages: Sequence[str],
        *,
        k: int = 4,
        uids: Sequence[int] | None = None,
        explore: bool = True,
        durable: bool = False,
        min_version: int | None = None,
    ) -> SelectResult:
        """Choose up to `k` of the available uids (of those in `uids`, if given) for each message.

        `durable` waits until the decisions are in the event log.
        """
        options = {"k": k, "uids": _ints(uids), "explore": explore, "durable": durable or None}
        body = _message_body(messages, **options, min_version=min_version)
        return self._parse(build_select_result, self._call("POST", "/v1/select", body))

    def report(self, rewards: Sequence[Reward], *, wait: Wait = "logged") -> RewardReport:
        """Report what was earned; answers once that is logged, learned (`applied`) or `published` to replicas."""
        body = {"rewards": [_reward_item(reward) for reward in rewards], "wait": wait}
        return self._parse(build_reward_report, self._call("POST", "/v1/rewards", body))

    def state(self) -> Body:
        """The learner, the metagraph and the replicas, as `GET /v1/state` answers."""
        return self._parse(dict, self._call("GET", "/v1/state"))

    def uids(self) -> list[Body]:
        """The table of uids: owner, availability, and what each has earned."""
        return self._parse(lambda answer: [dict(row) for row in answer["uids"]], self._call("GET", "/v1/uids"))

    def decision(self, decision_id: str) -> Body:
        """One decision explained: scores, propensities, version, rewards so far."""
        return self._parse(dict, self._call("GET", _decision_path(decision_id)))

    def erase_decision(self, decision_id: str) -> None:
        """Erase a decision's embedding, the personal data it holds; rewards that come later are rejected."""
        self._call("DELETE", _decision_path(decision_id))

    def resync(self) -> Body:
        """Read the metagraph's source now; answers what changed."""
        return self._parse(dict, self._call("POST", "/v1/admin/resync"))

    def checkpoint(self) -> Checkpoint:
        """Save what has been learned so far."""
        return self._parse(build_checkpoint, self._call("POST", "/v1/admin/checkpoint"))

    def checkpoints(self) -> list[Checkpoint]:
        """The checkpoints that are kept, newest first."""
        answer = self._call("GET", "/v1/admin/checkpoints")
        return self._parse(lambda body: [build_checkpoint(item) for item in body["checkpoints"]], answer)

    def freeze(self, frozen: bool = True) -> int:
        """Stop learning, or go on with it; answers the version from which on that holds."""
        answer = self._call("POST", "/v1/admin/freeze", {"frozen": frozen})
        return self._parse(lambda body: int(body["version"]), answer)

    def rollback(self, *, version: int | None = None, checkpoint: str | None = None) -> Rollback:
        """Publish the weights of a version or of a checkpoint again, as a new version; what came after is held."""
        if (version is None) == (checkpoint is None):
            raise ValueError("give either version or checkpoint")
        body = {"version": version} if checkpoint is None else {"checkpoint": checkpoint}
        return self._parse(build_rollback, self._call("POST", "/v1/admin/rollback", body))

    def promote(self, rule: str) -> int:
        """Let the shadow rule of this label serve; answers the version from which on it does."""
        answer = self._call("POST", "/v1/admin/promote", {"rule": rule})
        return self._parse(lambda promoted: int(promoted["version"]), answer)

    def hand_over(self) -> Handover:
        """Replace the learner by one of the replicas' settings and code, which goes on from its log."""
        return self._parse(build_handover, self._call("POST", "/v1/admin/handover"))

    def quarantine(self, *, after: int = 0, limit: int = 100) -> Quarantine:
        """The events that are in the log and not in the weights: those after that place, at most `limit`."""
        answer = self._call("GET", f"/v1/admin/quarantine?after={after}&limit={limit}")
        return self._parse(build_quarantine, answer)

    def settle(self, action: Settlement, seqs: Sequence[int] | None = None) -> int:
        """Learn held events after all (`readmit`), or give them up (`drop`); None: all that do not wait for a thaw.

        Answers the version that shows it.
        """
        body = {"action": action, "seqs": _ints(seqs)}
        answer = self._call("POST", "/v1/admin/quarantine", body)
        return self._parse(lambda settled: int(settled["version"]), answer)

    def authors(self) -> list[Author]:
        """How far each author of rewards is believed, by name."""
        return self._parse(build_authors, self._call("GET", "/v1/admin/authors"))

    def set_standing(self, author: str, standing: OperatorStanding) -> int:
        """Believe an author whatever it reports (`trusted`), hold all of its rewards, or leave it to reward trust.

        Answers the place in the log from which on that holds.
        """
        answer = self._call("POST", "/v1/admin/authors", {"author": author, "standing": standing})
        return self._parse(lambda said: int(said["seq"]), answer)

    def ready(self) -> bool:
        """Whether the service answers and has weights to score with. Asks once, without retries."""
        outcome = self._attempt("GET", "/readyz", None, self.timeout_s)
        return isinstance(outcome, httpx.Response) and outcome.status_code == httpx.codes.OK

    def _call(self, method: str, path: str, body: Body | None = None) -> Any:
        """The JSON of an answer, {} of an empty one."""
        response = self._ask(method, path, body)
        if not response.content:
            return {}
        try:
            return response.json()
        except ValueError as error:
            said = f"{self.url} answered {_status_line(response)}"
            raise UnexpectedAnswerError(f"{said}, but not JSON; check the address") from error

    def _ask(self, method: str, path: str, body: Body | None = None, accept: str | None = None) -> httpx.Response:
        """Send until there is a lasting answer, the retries are used up, or the next one would come too late."""
        deadline_s = self._clock() + self.timeout_s
        attempt = 0
        while True:
            outcome = self._attempt(method, path, body, deadline_s - self._clock(), accept)
            wait_s = _wait_s(outcome, attempt)
            if wait_s is None or attempt >= self.retries or self._clock() + wait_s >= deadline_s:
                return self._answer(outcome)
            self._sleep(wait_s)
            attempt += 1

    def _attempt(
        self, method: str, path: str, body: Body | None, left_s: float, accept: str | None = None
    ) -> httpx.Response | httpx.TransportError:
        left_s = max(left_s, 0.001)
        timeout = httpx.Timeout(left_s, connect=min(left_s, CONNECT_TIMEOUT_S))
        headers = None if accept is None else {"Accept": accept}
        try:
            return self._http.request(method, path, json=body, timeout=timeout, headers=headers)
        except httpx.TransportError as error:
            return error

    def _answer(self, outcome: httpx.Response | httpx.TransportError) -> httpx.Response:
        if isinstance(outcome, httpx.TransportError):
            reason = str(outcome) or type(outcome).__name__
            raise GateUnavailableError(f"no answer from {self.url}: {reason}") from outcome
        if problem := _problem(outcome):
            raise problem
        said = f"{self.url} answered {_status_line(outcome)}"
        if outcome.status_code == 429 or outcome.status_code >= 500 or _is_proxy_without_apps(outcome):
            raise GateUnavailableError(f"{said}, which is its proxy's; the service behind it is starting or down")
        if not outcome.is_success:
            raise UnexpectedAnswerError(f"{said}, not a Tidegate answer; check the address")
        return outcome

    def _parse(self, build: Callable[[Any], T], answer: Any) -> T:
        try:
            return build(answer)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UnexpectedAnswerError(
                f"{self.url} answered something else than the contract says ({error!r}); check address and versions"
            ) from error


def _wait_s(outcome: httpx.Response | httpx.TransportError, attempt: int) -> float | None:
    """How long to wait before trying again; None where the answer will not change.

    Exponential with jitter, and never less than the Retry-After, which is believed up to MAX_RETRY_AFTER_S.
    """
    backoff_s = min(FIRST_BACKOFF_S * 2.0**attempt, MAX_BACKOFF_S) * random.uniform(0.5, 1.0)
    if isinstance(outcome, httpx.TransportError):
        return backoff_s
    if outcome.status_code in (429, 503):
        return max(backoff_s, min(_retry_after_s(outcome), MAX_RETRY_AFTER_S))
    if outcome.status_code in (500, 502, 504) and _problem(outcome) is None:
        return backoff_s
    if _is_proxy_without_apps(outcome):
        return backoff_s
    return None


def _status_line(response: httpx.Response) -> str:
    return f"{response.status_code} {response.headers.get('content-type', '')}".rstrip()


def _is_proxy_without_apps(response: httpx.Response) -> bool:
    """Whether it is what Serve's proxy says of every path until it has heard of its applications."""
    is_text = response.headers.get("content-type", "").startswith("text/plain")
    return response.status_code == httpx.codes.NOT_FOUND and is_text and response.text.startswith("Path ")


def _retry_after_s(response: httpx.Response) -> float:
    """The Retry-After in seconds; 0 where there is none, or where it is a date, which Tidegate never sends."""
    try:
        seconds = float(response.headers.get("retry-after", "0"))
    except ValueError:
        return 0.0
    return seconds if math.isfinite(seconds) else 0.0


def _problem(response: httpx.Response) -> ProblemError | None:
    if not response.headers.get("content-type", "").startswith(PROBLEM):
        return None
    try:
        document = response.json()
    except ValueError:
        return None
    if not isinstance(document, dict):
        return None
    fields = [str(document.get(name) or "") for name in ("code", "title", "detail")]
    return ProblemError(response.status_code, *fields)


def _message_body(messages: Sequence[str], **options: Any) -> Body:
    if isinstance(messages, str):
        raise ValueError("messages is one string; send a list of strings")
    return {"messages": list(messages)} | {name: value for name, value in options.items() if value is not None}


def _ints(uids: Sequence[int] | None) -> list[int] | None:
    return None if uids is None else [int(uid) for uid in uids]


def _reward_item(reward: Reward) -> Body:
    ids = {"decision_id": reward.decision_id, "reward_id": reward.reward_id, "message": reward.message}
    item: Body = {"uids": _ints(reward.uids), "rewards": [float(value) for value in reward.rewards]}
    return item | {name: value for name, value in ids.items() if value is not None}


def _decision_path(decision_id: str) -> str:
    return f"/v1/decisions/{quote(decision_id, safe='')}"
