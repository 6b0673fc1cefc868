"""What a client knows of its own reports, and whether the service's log agrees."""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from learner.event_log import EventLog
from learner.events import Outcome, RewardEvent

Key = tuple[str, int]
"""A decision id or a reward id, and a uid."""


@dataclass
class Books:
    """Kept by the client alone. Rewards are noted before they are sent, and again when they are acknowledged."""

    sent: dict[Key, float] = field(default_factory=dict)
    acknowledged: set[Key] = field(default_factory=set)
    durable: set[str] = field(default_factory=set)
    orders: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def selected(self, answer: dict[str, Any], *, client: str, durable: bool) -> list[dict[str, Any]]:
        """Note an answer to select: whose weights it came from, and that they did not go back.

        A client asks one thing after the other, so what it sees of one replica is in order.
        """
        order = (answer["weights"]["epoch"], answer["weights"]["version"])
        selections: list[dict[str, Any]] = answer["selections"]
        with self._lock:
            self.counts["selections"] += len(selections)
            self.counts["degraded"] += answer["degraded"]
            for selection in selections:
                replica = (client, selection["decision_id"].partition("-")[0])
                if order < self.orders.get(replica, (0, 0)):
                    self.wrong.append(f"{replica} went back from {self.orders[replica]} to {order}")
                self.orders[replica] = order
                if durable:
                    self.durable.add(selection["decision_id"])
        return selections

    def sending(self, item: dict[str, Any]) -> None:
        """Note a report before it is sent for the first time."""
        with self._lock:
            for uid, reward in zip(item["uids"], item["rewards"], strict=True):
                self.sent[(item.get("decision_id") or item["reward_id"], uid)] = reward

    def answered(self, items: list[dict[str, Any]], answer: dict[str, Any]) -> None:
        """Note what was acknowledged."""
        refused = {(r["index"], r.get("uid")): r["code"] for r in answer["rejected"]}
        acknowledged = 0
        with self._lock:
            for index, item in enumerate(items):
                name = item.get("decision_id") or item["reward_id"]
                code = refused.get((index, None))
                if code == "unknown_decision" and name in self.durable:
                    self.wrong.append(f"the durable decision {name} is unknown")
                for uid in item["uids"]:
                    if code is None and (index, uid) not in refused:
                        acknowledged += 1
                        self.acknowledged.add((name, uid))
            for code in refused.values():
                self.counts[code] += 1
            if acknowledged != answer["accepted"] + answer["duplicates"]:
                self.wrong.append(f"{acknowledged} of {items} were acknowledged, but the answer is {answer}")
            self.counts["duplicates"] += answer["duplicates"]

    def disagreements(self, log: EventLog) -> list[str]:
        """What is wrong, empty if nothing is: lost, doubled, altered or invented rewards, versions that went back."""
        logged: Counter[Key] = Counter()
        wrong = list(self.wrong)
        for batch in log.batches(0):
            for event in batch:
                if isinstance(event, RewardEvent):
                    for uid, reward in zip(event.uids, event.rewards, strict=True):
                        key = (str(event.decision_id or event.reward_id), uid)
                        logged[key] += 1
                        if self.sent.get(key) != reward:
                            wrong.append(f"{key} is logged as {reward}, but {self.sent.get(key)} was sent")
                        if event.outcome is not Outcome.LEARNED and key in self.acknowledged:
                            wrong.append(f"{key} was acknowledged and is logged as {event.outcome}")
        wrong += [f"{key} is in the log {count} times" for key, count in logged.items() if count > 1]
        wrong += [f"{key} was acknowledged and is lost" for key in self.acknowledged if key not in logged]
        return wrong
