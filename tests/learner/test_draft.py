from hypothesis import given
from hypothesis import strategies as st

from learner.draft import Draft
from learner.events import Action, OperatorEvent, Outcome, Publish, RewardEvent

from .builders import decision, embedding

REWARD = RewardEvent((0,), (0.5,), Outcome.LEARNED, embedding(0), reward_id="r")
ACTION = OperatorEvent(Action.FREEZE, "ops")


def test_a_draft_without_anything_is_empty():
    assert Draft(1.0, 7).is_empty
    filled = [
        Draft(1.0, 7, decisions=[decision("i-1")]),
        Draft(1.0, 7, events=[REWARD]),
        Draft(1.0, 7, publishes=[Publish(7, 1.0)]),
        Draft(1.0, 7, defaults_until=0),
    ]
    assert not any(draft.is_empty for draft in filled)


def test_decisions_come_with_their_embeddings():
    draft, made = Draft(1.0, 7), decision("i-1")
    draft.add_decisions([made])
    assert draft.decisions == [made]
    assert draft.embeddings == {"i-1": made.embedding}


def test_events_get_the_places_after_the_logs_last_and_the_batches_that_the_limit_allows():
    draft = Draft(1.0, 7, events=[REWARD, REWARD, REWARD, ACTION, REWARD, ACTION, ACTION, REWARD])
    assert draft.last_seq == 15
    commit = draft.finish(batch_limit=2)
    assert [event.seq for event in commit.events] == [8, 9, 10, 11, 12, 13, 14, 15]
    assert [event.batch for event in commit.events] == [9, 9, 10, 11, 12, 13, 14, 15]


def test_a_commit_has_all_that_was_drafted():
    made, publish = decision("i-1"), Publish(7, 1.0)
    commit = Draft(2.5, 7, decisions=[made], events=[ACTION], publishes=[publish], defaults_until=4).finish(8)
    assert (commit.at_s, commit.decisions, commit.publishes, commit.defaults_until) == (2.5, [made], [publish], 4)
    assert [(event.action, event.seq, event.batch) for event in commit.events] == [(Action.FREEZE, 8, 8)]


@given(st.integers(0, 1_000), st.lists(st.sampled_from([REWARD, ACTION]), max_size=30), st.integers(1, 5))
def test_batches_are_whole_and_only_rewards_share_one(after, events, limit):
    finished = Draft(0.0, after, events=events).finish(limit).events
    assert [event.seq for event in finished] == list(range(after + 1, after + 1 + len(events)))
    assert [type(event) for event in finished] == [type(event) for event in events]
    batches = {}
    for event in finished:
        batches.setdefault(event.batch, []).append(event)
    for last, batch in batches.items():
        assert batch[-1].seq == last
        assert len(batch) <= limit
        assert len(batch) == 1 or all(isinstance(event, RewardEvent) for event in batch)
    assert list(batches) == sorted(batches)
