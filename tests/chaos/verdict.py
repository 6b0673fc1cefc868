"""After the chaos: the books against the log, the log against the weights."""

from __future__ import annotations

import torch

from gating.head import score
from learner.checkpoint import CheckpointStore, Expected
from learner.event_log import EventLog
from learner.events import Decision
from learner.restore import Restorer
from learner.rules import rule_of
from learner.state import Head

from .books import Books

_SAMPLES = 60
_CLOSE = 5e-3


def assert_nothing_lost(
    books: Books, log: EventLog, checkpoints: CheckpointStore, expected: Expected, *, owners_stay: bool = True
) -> None:
    """Every acknowledged reward is in the log once and in the weights once, and every answer was of one version.

    What was earned by owners who have left is in no statistics any more.
    """
    wrong = books.disagreements(log)
    assert not wrong, "\n".join(wrong[:20])
    torch.set_num_threads(1)
    [newest, *_] = checkpoints.list()
    assert newest.version == log.last_seq, "the learner has saved everything on its way out"
    # A replay from the very beginning, that knows nothing of the deaths.
    rule = rule_of(expected.rule)
    clean = Restorer(log, rule, expected).newest().state
    assert clean.digest() == newest.digest
    if owners_stay:
        assert clean.statistics.rewards.sum() == learned_rewards(log)
    assert_answers_are_of_their_version(books, log, Restorer(log, rule, expected))


def learned_rewards(log: EventLog) -> int:
    """How many single rewards the log says were learned."""
    return sum(
        len(event.uids)
        for batch in log.batches(0)
        for event in batch
        if hasattr(event, "outcome") and event.outcome.is_learned
    )


def assert_answers_are_of_their_version(books: Books, log: EventLog, restorer: Restorer) -> None:
    """Score some of the logged embeddings again with the very version that their answers named."""
    ids = sorted(books.durable)
    by_version: dict[int, list[Decision]] = {}
    for decision_id in ids[:: max(1, len(ids) // _SAMPLES)]:
        decision = log.decision(decision_id)
        assert decision is not None, f"the durable decision {decision_id} is not in the log"
        by_version.setdefault(decision.version, []).append(decision)
    for state in restorer.walk(restorer.beginning()):
        made = by_version.pop(state.version, [])
        head = restorer.rule_that_serves(state).head(state.rule) if made else None
        for decision in made:
            assert_is_of(head, decision)
    assert not by_version, f"no batch ends at the versions {sorted(by_version)}"


def assert_is_of(head: Head, decision: Decision) -> None:
    """The scores that the decision was made by are those of this head."""
    assert decision.embedding is not None
    embedding = torch.from_numpy(decision.embedding.astype("float32"))[None]
    uids = list(decision.uids)
    again = score(embedding, head.weight, head.bias)[0, uids] + head.bonus[uids]
    assert torch.allclose(again, torch.tensor(decision.scores), atol=_CLOSE), decision.id
