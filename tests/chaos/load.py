"""Steady load over HTTP by clients that keep books and send again, with the same ids, whatever was not answered."""

from __future__ import annotations

import random
import threading
from typing import Any

import httpx

from .books import Books

_TEXTS = [f"What does tide number {number} say about {topic}?" for number in range(8) for topic in ("sand", "salt")]
_RETRY_S = 0.2


class Load:
    """Clients in threads of their own, from `start` to `stop`.

    Args:
        url: of the service.
        clients: how many.
        seed: of what they ask and reward.
        books: to be kept together with another load's, of another seed.
    """

    def __init__(self, url: str, *, clients: int = 2, seed: int = 0, books: Books | None = None) -> None:
        self.books = books or Books()
        self.url = url
        self._stop = threading.Event()
        self._given_up = threading.Event()
        self._threads = [
            threading.Thread(
                target=self._run, args=(random.Random(f"{seed}-{number}"),), name=f"client-{seed}-{number}", daemon=True
            )
            for number in range(clients)
        ]
        self.errors: list[BaseException] = []

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self, patience_s: float = 60.0) -> None:
        """Ask nothing new; returns when every report that was sent is answered."""
        self._stop.set()
        for thread in self._threads:
            thread.join(patience_s)
        self._given_up.set()
        stuck = [thread.name for thread in self._threads if thread.is_alive()]
        for thread in self._threads:
            thread.join()
        assert not stuck, f"{stuck} still waited for an answer {patience_s} s after the last fault"
        assert not self.errors, self.errors

    @property
    def acknowledged(self) -> int:
        """How many rewards have been acknowledged so far."""
        return len(self.books.acknowledged)

    def _run(self, chance: random.Random) -> None:
        try:
            with httpx.Client(base_url=self.url, timeout=20.0) as http:
                while not self._stop.is_set():
                    self._turn(http, chance)
        except BaseException as error:
            self.errors.append(error)
            raise

    def _turn(self, http: httpx.Client, chance: random.Random) -> None:
        durable = chance.random() < 0.5
        messages = chance.choices(_TEXTS, k=4)
        body = {"messages": messages, "k": 4, "durable": durable}
        answer = self._ask(http, "/v1/select", body, give_up=self._stop)
        if answer is None:
            return
        items = []
        for selection in self.books.selected(answer, client=threading.current_thread().name, durable=durable):
            rewards = [round(chance.random(), 6) for _ in selection["uids"]]
            items.append({"decision_id": selection["decision_id"], "uids": selection["uids"], "rewards": rewards})
        own = f"own-{chance.getrandbits(64):x}"
        items.append({"reward_id": own, "message": messages[0], "uids": [chance.randrange(16)], "rewards": [0.5]})
        for item in items:
            self.books.sending(item)
        answer = self._report(http, items)
        if answer is not None and not answer["rejected"] and chance.random() < 0.1:
            # Once more with other values: the first report wins. One that was rejected, since its decision was with a
            # replica that hung, is none.
            self._report(http, [{**item, "rewards": [1.0 for _ in item["rewards"]]} for item in items])

    def _report(self, http: httpx.Client, items: list[dict[str, Any]]) -> dict[str, Any] | None:
        answer = self._ask(http, "/v1/rewards", {"rewards": items}, give_up=self._given_up)
        if answer is not None:
            self.books.answered(items, answer)
        return answer

    def _ask(
        self, http: httpx.Client, path: str, body: dict[str, Any], *, give_up: threading.Event
    ) -> dict[str, Any] | None:
        """The answer, however often it takes to ask."""
        while not give_up.is_set():
            try:
                response = http.post(path, json=body)
            except httpx.TransportError:
                self.books.counts["transport_errors"] += 1
            else:
                if response.status_code == httpx.codes.OK:
                    answer: dict[str, Any] = response.json()
                    return answer
                self.books.counts[f"status_{response.status_code}"] += 1
                # Serve's proxy, started anew, knows no path for a moment, and says so in plain text.
                is_the_gates = response.headers["content-type"] == "application/problem+json"
                if is_the_gates and response.status_code < 500 and response.status_code != 429:
                    self.books.wrong.append(f"{path} was answered {response.status_code}: {response.text}")
                    return None
            self._given_up.wait(_RETRY_S)
        return None
