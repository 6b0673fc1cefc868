"""Fills at once what would fill over hours, so that whatever still grows after that grows for good.

The learner knows its last 50,000 decisions (`learner.rewards`) and the last 5,000 events of which it has learned
(`baselines`): some 30 MiB, for which a soak's own load would take longer than the soak.
"""

from __future__ import annotations

from dataclasses import asdict

from deployments.client import GateClient, Reward
from learner.rewards import CAPACITY
from tests.chaos.books import Books

_TEXTS = 256
_REWARDED = 30
"""Of each request's decisions; together more than what any window holds."""


def fill(client: GateClient, books: Books) -> None:
    """Have more decided, and more rewarded, than is remembered. What is rewarded is noted in the books."""
    texts = [f"fill {number % 50}" for number in range(_TEXTS)]
    for _ in range(CAPACITY // _TEXTS + 1):
        decided = books.selected(asdict(client.select(texts, k=2)), client="fill", durable=False)
        items = [
            {"decision_id": one["decision_id"], "uids": one["uids"], "rewards": [0.5] * len(one["uids"])}
            for one in decided[:_REWARDED]
        ]
        for item in items:
            books.sending(item)
        books.answered(items, asdict(client.report([Reward(**item) for item in items])))
