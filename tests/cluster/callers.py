"""Clients as the documentation has them: they retry by themselves, and what they raise all the same is a failure."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Literal, TypeVar

from deployments.client import GateClient, Reward, RewardReport
from tests.chaos.books import Books

T = TypeVar("T")

_PAUSE_S = 0.05
"""The load is steady and leaves the cores to those who start."""


class Caller:
    """Scores, selects and perhaps reports, from `start` to `stop`.

    Args:
        client: what it calls, with its own patience.
        books: where it notes what it reports.
        name: tells it apart in the books, and seeds its chances.
        reports: whether it reports rewards for what it selects.

    Attributes:
        answers: how many calls were answered.
        failures: what was raised.
        took_s: how long each call took, retries included, by what was called.
    """

    def __init__(self, client: GateClient, books: Books, *, name: str, reports: bool) -> None:
        self.answers = 0
        self.failures: list[Exception] = []
        self.took_s: dict[str, list[float]] = {}
        self._client = client
        self._books = books
        self._name = name
        self._reports = reports
        self._chance = random.Random(name)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns when the last call is answered."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join()

    def turn(self, *, durable: bool, wait: Literal["logged", "published"] = "logged") -> RewardReport:
        """One selection and its rewards, noted in the books."""
        text = f"tide {self._chance.randrange(50)}"
        [selection] = self._select(text, durable=durable)
        rewards = [round(self._chance.random(), 6) for _ in selection["uids"]]
        item = {"decision_id": selection["decision_id"], "uids": selection["uids"], "rewards": rewards}
        self._books.sending(item)
        report = self._timed("report", lambda: self._client.report([Reward(**item)], wait=wait))
        self._books.answered([item], asdict(report))
        return report

    def _select(self, text: str, *, durable: bool) -> list[dict[str, object]]:
        what = "select, durable" if durable else "select"
        answer = asdict(self._timed(what, lambda: self._client.select([text], k=2, durable=durable)))
        return self._books.selected(answer, client=self._name, durable=durable)

    def _timed(self, what: str, call: Callable[[], T]) -> T:
        started_s = time.monotonic()
        try:
            answer = call()
            self.answers += 1
            return answer
        finally:
            self.took_s.setdefault(what, []).append(time.monotonic() - started_s)

    def _run(self) -> None:
        while not self._stop.is_set():
            for call in (self._ask, self._report):
                try:
                    call()
                except Exception as error:  # noqa: BLE001 (any failure at all fails the test)
                    self.failures.append(error)
            self._stop.wait(_PAUSE_S)

    def _ask(self) -> None:
        text = f"salt {self._chance.randrange(50)}"
        self._timed("score", lambda: self._client.score([text], top_k=2))

    def _report(self) -> None:
        durable = self._chance.random() < 0.5
        if self._reports:
            self.turn(durable=durable)
        else:
            self._select("sand", durable=False)
