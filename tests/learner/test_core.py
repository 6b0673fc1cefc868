import threading
from dataclasses import replace

import numpy as np
import pytest

from gating import MetagraphView
from learner.config import AdagradConfig, SoftmaxMseConfig
from learner.errors import DecisionPendingError, EncoderMismatchError, RepeatedUidError, StaleViewError, UnknownUidError
from learner.events import Action, Outcome
from learner.protocol import DecisionBatch, RewardItem
from learner.rules import Adagrad, SoftmaxMse
from learner.state import Held

from .builders import (
    DIM,
    EPOCH,
    FINGERPRINT,
    START,
    Clock,
    build_learner,
    decide,
    decision,
    digest,
    embedding,
    events_of,
    head_bits,
    learn_all,
    message_reward,
    replay,
    reward,
    settle,
    state_digest,
    state_of,
)


def view(hotkeys, block=2):
    return MetagraphView.from_hotkeys(hotkeys, block=block)


def rewards_of(learner):
    """What `uid_table` says of each uid's rewards: (how many, their sum)."""
    statistics = state_of(learner).statistics
    return list(zip(statistics.rewards.tolist(), statistics.reward_sum.tolist(), strict=True))


def test_a_reward_is_in_the_log_before_it_is_learned_and_in_the_weights_after():
    learner = build_learner()
    decide(learner, decision("i-1"))
    before = head_bits(learner)
    report = learner.add_rewards([reward("i-1", {0: 1.0, 1: 0.0})])
    assert (report.accepted, report.duplicates, report.rejected, report.seq) == (2, 0, (), 1)
    assert [event.seq for event in events_of(learner)] == [1]
    assert learner.has_work
    assert learner.version == 0
    assert head_bits(learner) == before
    assert learner.learn() == 1
    assert not learner.has_work
    assert learner.version == learner.snapshot().version == 1
    assert head_bits(learner) != before
    assert learner.learn() == 0


def test_the_log_holds_the_embedding_as_the_decision_had_it():
    learner = build_learner()
    made = decision("i-1")
    decide(learner, made)
    learner.add_rewards([reward("i-1", {0: 1.0})])
    [event] = events_of(learner)
    assert event.embedding.dtype == np.float16
    assert event.embedding.tobytes() == made.embedding.tobytes()


def test_a_snapshot_carries_the_logs_epoch_and_the_encoders_fingerprint():
    snapshot = build_learner().snapshot()
    assert snapshot.order == (EPOCH, 0)
    assert snapshot.fingerprint == FINGERPRINT
    assert snapshot.view == START
    assert snapshot.weight.shape == (START.n, DIM)


def test_decisions_of_another_encoder_are_refused():
    learner = build_learner()
    before = digest(learner)
    with pytest.raises(EncoderMismatchError, match="decisions of encoder another were sent to a learner of encoder"):
        learner.add_decisions(DecisionBatch.of("another", [decision("i-1")]))
    assert digest(learner) == before


def test_an_embedding_of_another_width_is_refused_before_it_reaches_the_learning_thread():
    learner = build_learner()
    before = digest(learner)
    wide = embedding(0, DIM + 1)
    with pytest.raises(EncoderMismatchError, match="shape"):
        decide(learner, decision("i-1", prompt=wide))
    with pytest.raises(EncoderMismatchError, match="shape"):
        learner.add_rewards([RewardItem((0,), (1.0,), reward_id="r", embedding=wide)])
    assert digest(learner) == before


def test_a_batch_of_decisions_may_be_sent_again():
    learner = build_learner()
    decide(learner, decision("i-1"), decision("i-2"))
    learner.add_rewards([reward("i-1", {0: 0.5})])
    before = digest(learner)
    decide(learner, decision("i-1"), decision("i-2"))
    assert digest(learner) == before
    assert [row["selections"] for row in learner.uid_table()] == [2, 2, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("bad", "expected", "error"),
    [
        (reward("i-1", {6: 0.5}), (), UnknownUidError),
        (message_reward("r-9", {-1: 0.5}), (), UnknownUidError),
        (RewardItem((0, 0), (0.1, 0.2), decision_id="i-1"), (), RepeatedUidError),
        (reward("i-3", {0: 0.5}), ("i-3", "j-1"), DecisionPendingError),
        (reward("j-1", {0: 0.5}), ("j-1",), DecisionPendingError),
        (reward("j-1", {6: 0.5}), ("j-1",), DecisionPendingError),
    ],
)
def test_an_error_of_a_whole_request_changes_nothing(bad, expected, error):
    learner = build_learner()
    decide(learner, decision("i-1"), decision("i-2"))
    learner.add_rewards([reward("i-1", {0: 0.5}), message_reward("r-1", {2: 0.5})])
    learn_all(learner)
    before = digest(learner)
    good = [reward("i-2", {0: 0.5, 1: 0.2}), message_reward("r-2", {2: 0.5})]
    for request in ([bad, *good], [*good, bad]):
        with pytest.raises(error):
            learner.add_rewards(request, expected)
        assert digest(learner) == before
    assert learner.add_rewards(good, expected).accepted == 3


@pytest.mark.parametrize("name", ["i-1", "i-2", "i-", "i-x", "i", "i-3-4", ""])
def test_a_decision_is_not_waited_for_once_its_replica_has_sent_later_ones(name):
    """Nor is what no replica calls a decision, whoever expects it."""
    learner = build_learner()
    decide(learner, decision("i-2"))
    report = learner.add_rewards([reward(name, {0: 0.5})], expected=(name,))
    assert report.accepted == (name == "i-2")
    assert [rejection.code for rejection in report.rejected] == ["unknown_decision"] * (name != "i-2")


def test_a_pending_decision_is_taken_once_it_has_arrived():
    learner = build_learner()
    item = reward("i-1", {0: 0.5})
    with pytest.raises(DecisionPendingError):
        learner.add_rewards([item], expected=("i-1",))
    decide(learner, decision("i-1"))
    assert learner.add_rewards([item], expected=("i-1",)).accepted == 1
    assert learner.add_rewards([item], expected=("i-1",)).duplicates == 1


def test_every_outcome_is_counted_by_single_rewards():
    clock = Clock()
    learner = build_learner(clock=clock, reward_window_s=10.0)
    decide(learner, *(decision(name, (0, 1, 2)) for name in ("i-1", "i-2", "i-3")))
    learner.log.erase_embedding("i-3")
    learner.resync(view("axcdef"))
    learner.add_rewards(
        [
            reward("i-1", {0: 0.5, 1: 0.5}),
            reward("i-1", {0: 0.5}),
            reward("i-9", {0: 0.5, 1: 0.5}),
            reward("i-2", {0: 0.5, 4: 0.5}),
            reward("i-2", {0: 7.0, 1: 0.5, 2: 0.5}),
            reward("i-3", {0: 0.5}),
        ]
    )
    clock.now_s = 11.0
    report = learner.add_rewards([reward("i-1", {2: 0.5}), reward("i-2", {0: 0.5, 2: 0.5})])
    assert {(rejection.code, rejection.uid) for rejection in report.rejected} == {("late", 0), ("late", 2)}
    assert dict(learner.counters) == {
        "decisions": 3,
        "decisions_joined": 1,
        "resyncs": 1,
        "rows_reset": 1,
        "rewards_accepted": 1,
        "rewards_duplicate": 1,
        "rewards_stale_hotkey": 1,
        "rewards_unknown_decision": 2,
        "rewards_uid_not_in_decision": 2,
        "rewards_out_of_range": 3,
        "rewards_embedding_erased": 1,
        "rewards_late": 3,
    }
    outcomes = [event.outcome for event in events_of(learner, after=1)]
    assert outcomes == [Outcome.LEARNED, Outcome.STALE, Outcome.LATE, Outcome.LATE]


def test_a_late_reward_is_in_the_version_but_not_in_the_weights():
    clock = Clock()
    learner = build_learner(clock=clock, reward_window_s=10.0)
    decide(learner, decision("i-1"))
    clock.now_s = 10.1
    report = learner.add_rewards([reward("i-1", {0: 1.0, 1: 0.0})])
    before = head_bits(learner)
    learn_all(learner)
    assert (learner.version, report.seq) == (1, 1)
    assert head_bits(learner) == before
    assert rewards_of(learner) == [(0, 0.0)] * START.n


def test_a_stale_reward_is_logged_but_reaches_nobody_and_a_second_report_of_it_is_a_duplicate():
    learner = build_learner()
    decide(learner, decision("i-1", (0, 1)))
    learner.resync(view("axcdef"))
    report = learner.add_rewards([reward("i-1", {1: 0.5})])
    assert [(rejection.code, rejection.uid) for rejection in report.rejected] == [("stale_hotkey", 1)]
    assert [(event.uids, event.outcome) for event in events_of(learner, after=1)] == [((1,), Outcome.STALE)]
    before = head_bits(learner)
    learner.learn()
    learn_all(learner)
    assert rewards_of(learner) == [(0, 0.0)] * START.n
    assert head_bits(learner) != before
    again = learner.add_rewards([reward("i-1", {1: 0.5})])
    assert (again.accepted, again.duplicates, again.rejected) == (0, 1, ())


def test_what_the_index_forgets_the_log_knows():
    learner = build_learner()
    learner._join._capacity = 0
    decide(learner, decision("i-1"), decision("i-2"))
    learner.add_rewards([reward("i-1", {0: 0.5}), message_reward("r-1", {0: 0.5})])
    report = learner.add_rewards([reward("i-1", {0: 0.5, 1: 0.5}), message_reward("r-1", {0: 0.5})])
    assert (report.accepted, report.duplicates) == (1, 2)
    decide(learner, decision("i-2"), decision("i-1"))
    assert learner.counters["decisions"] == learner.log.decisions_count() == 2
    learner.commit([])
    assert learner._join._decisions == learner._join._reward_ids == {}


def test_a_view_older_than_the_one_in_use_is_refused():
    learner = build_learner(view=MetagraphView.from_hotkeys("abc", block=7))
    before = digest(learner)
    with pytest.raises(StaleViewError, match="the view of block 6 is older than that of block 7 in use"):
        learner.resync(view("abx", block=6))
    assert digest(learner) == before
    assert learner.resync(view("abx", block=7)).reset == (2,)


def test_a_view_that_is_in_use_already_is_not_logged_again():
    learner = build_learner()
    summary = learner.resync(START)
    assert (summary.seq, summary.reset, summary.added, summary.removed) == (0, (), (), ())
    assert not learner.has_work


def test_a_resync_shows_in_one_version_and_only_when_it_is_learned():
    learner = build_learner()
    decide(learner, decision("i-1", (0, 1, 2)))
    learner.add_rewards([reward("i-1", {0: 1.0, 1: 0.0, 2: 0.3})])
    learn_all(learner)
    before = learner.snapshot()
    summary = learner.resync(view(["a", "x", "c", "d", "e", "f", "g"]))
    assert (summary.reset, summary.added, summary.removed, summary.n) == ((1,), (6,), (), 7)
    assert learner.view.n == 7
    assert learner.snapshot().order == before.order
    assert learner.snapshot().view == START

    assert learner.learn() == 1
    after = learner.snapshot()
    assert after.version == summary.seq == before.version + 1
    assert after.view == learner.view
    kept = [0, 2, 3, 4, 5]
    assert after.weight[kept].tobytes() == before.weight[kept].tobytes()
    assert after.bias[kept].tobytes() == before.bias[kept].tobytes()
    assert (after.weight[1] != before.weight[1]).all()
    assert after.bias[[1, 6]].tolist() == [0.0, 0.0]
    table = learner.uid_table()
    assert [row["rewards"] for row in table] == [1, 0, 1, 0, 0, 0, 0]
    assert [row["selections"] for row in table] == [1, 0, 1, 0, 0, 0, 0]
    assert [row["resets"] for row in table] == [0, 1, 0, 0, 0, 0, 0]


def test_a_resync_alone_makes_a_version_even_if_no_row_changes():
    learner = build_learner()
    summary = learner.resync(MetagraphView.from_hotkeys("abcdef", block=9))
    learn_all(learner)
    assert learner.version == summary.seq == 1
    assert learner.snapshot().view.block == 9


@pytest.mark.parametrize("config", [AdagradConfig(), SoftmaxMseConfig()])
def test_what_was_logged_before_a_resync_is_learned_before_it(config):
    """All of it waits in one queue: the old owner's rewards, the reset, the new owner's rewards."""
    learner = build_learner(rule_config=config)
    prompt = embedding(3)
    decide(learner, decision("i-1", (0, 1), prompt=prompt), decision("i-2", (0, 1)))
    learner.add_rewards([reward("i-1", {0: 0.9, 1: 0.1})])
    newcomer = view("axcdef")
    seq = learner.resync(newcomer).seq

    def report(reporting):
        made = decision("i-3", (0, 1), view=newcomer, version=seq, prompt=prompt)
        stale, *_ = reporting.commit(
            [
                reporting.stage_rewards([reward("i-2", {0: 0.9, 1: 0.8})]),
                reporting.stage_decisions(DecisionBatch.of(FINGERPRINT, [made])),
                reporting.stage_rewards([reward("i-3", {0: 0.9, 1: 0.3})]),
            ]
        )
        assert [(rejection.code, rejection.uid) for rejection in stale.rejected] == [("stale_hotkey", 1)]

    report(learner)
    assert learn_all(learner) == [1, 1, 3]
    assert rewards_of(learner)[:2] == [(3, pytest.approx(2.7)), (1, pytest.approx(0.3))]

    stepwise = build_learner(rule_config=config)
    decide(stepwise, decision("i-1", (0, 1), prompt=prompt), decision("i-2", (0, 1)))
    stepwise.add_rewards([reward("i-1", {0: 0.9, 1: 0.1})])
    learn_all(stepwise)
    stepwise.resync(newcomer)
    learn_all(stepwise)
    fresh = stepwise.snapshot()
    assert rewards_of(stepwise)[1] == (0, 0.0)
    report(stepwise)
    assert learn_all(stepwise) == [3]
    assert head_bits(stepwise) == head_bits(learner)
    if isinstance(config, AdagradConfig):
        assert fresh.bias[1] == 0.5


def test_rewards_of_an_earlier_time_do_not_reach_an_owner_that_came_back():
    learner = build_learner()
    decide(learner, decision("i-1", (0, 1)))
    learner.resync(view("axcdef", block=2))
    back = learner.resync(view("abcdef", block=3))
    decide(learner, decision("i-2", (0, 1), version=back.seq))
    report = learner.add_rewards([reward("i-1", {0: 0.5, 1: 0.5}), reward("i-2", {0: 0.5, 1: 0.5})])
    assert report.accepted == 3
    assert [(rejection.index, rejection.code, rejection.uid) for rejection in report.rejected] == [
        (0, "stale_hotkey", 1)
    ]


def test_every_fresh_row_is_another():
    learner = build_learner()
    rows = [learner.snapshot().weight[1].tobytes()]
    for block, hotkeys in enumerate(["axcdef", "aycdef", "abcdef"], start=2):
        learner.resync(view(hotkeys, block=block))
        learn_all(learner)
        rows.append(learner.snapshot().weight[1].tobytes())
    assert len(set(rows)) == 4


def test_a_selection_for_an_owner_that_is_gone_does_not_count_for_the_next():
    learner = build_learner()
    learner.resync(view("axcdef"))
    learn_all(learner)
    decide(learner, decision("i-1", (0, 1)))
    assert [row["selections"] for row in learner.uid_table()] == [1, 0, 0, 0, 0, 0]


def test_a_batch_takes_no_more_events_than_it_may_and_a_resync_stands_alone():
    learner = build_learner(batch_rewards=2)
    rewards = [learner.stage_rewards([message_reward(f"r-{index}", {0: 0.5, 1: 0.1})]) for index in range(7)]
    resyncs = [learner.stage_resync(view("abcdex", block=2)), learner.stage_resync(view("abcdey", block=3))]
    learner.commit([*rewards[:5], *resyncs, rewards[5]])
    learner.commit([rewards[6]])
    assert [event.batch for event in events_of(learner)] == [2, 2, 4, 4, 5, 6, 7, 8, 9]
    assert learn_all(learner) == [2, 2, 1, 1, 1, 1, 1]


def test_an_erased_embedding_is_gone_and_later_rewards_are_rejected():
    learner = build_learner()
    decide(learner, decision("i-1"))
    learner.add_rewards([reward("i-1", {0: 0.5})])
    assert learner.log.erase_embedding("i-1")
    assert not learner.log.erase_embedding("i-9")
    report = learner.add_rewards([reward("i-1", {1: 0.5})])
    assert [rejection.code for rejection in report.rejected] == ["embedding_erased"]
    explained = learner.explain("i-1")
    assert explained.decision.embedding is None
    assert explained.rewards == {0: 0.5}


def test_a_decision_is_explained_by_what_it_was_and_what_it_earned():
    learner = build_learner()
    made = decision("i-1", (2, 3))
    decide(learner, made)
    assert learner.explain("i-1").rewards == {}
    learner.add_rewards([reward("i-1", {3: 0.25})])
    explained = learner.explain("i-1")
    assert replace(explained.decision, embedding=None) == replace(made, embedding=None)
    assert explained.decision.embedding.tobytes() == made.embedding.tobytes()
    assert explained.authors == {3: "anonymous"}
    assert explained.rewards == {3: 0.25}
    assert learner.explain("i-2") is None


def test_the_figures_say_what_was_logged_learned_and_joined():
    learner = build_learner()
    assert learner.describe()["moving_reward"] is None
    assert learner.describe()["join_rate"] is None
    decide(learner, decision("i-1"), decision("i-2"))
    learner.add_rewards([reward("i-1", {0: 0.25, 1: 0.75})])
    waiting = learner.describe()
    assert (waiting["events_logged"], waiting["events_applied"], waiting["version"]) == (1, 0, 0)
    learn_all(learner)
    figures = learner.describe()
    assert (figures["events_logged"], figures["events_applied"], figures["version"]) == (1, 1, 1)
    assert figures["epoch"] == EPOCH
    assert figures["log_id"] == learner.log.id
    assert (figures["rule"], figures["durable"], figures["fingerprint"]) == ("softmax_mse", False, FINGERPRINT)
    assert figures["moving_reward"] == 0.5
    assert figures["moving_loss"] >= 0
    assert (figures["decisions"], figures["join_rate"]) == (2, 0.5)


def test_the_table_of_uids_shows_owners_and_what_they_earned():
    network = MetagraphView(hotkeys=("a", "b"), available=(True, False), registered_at=(None, None), block=1)
    learner = build_learner(view=network)
    learner.add_rewards([message_reward("r-1", {0: 0.25}), message_reward("r-2", {0: 0.75})])
    learn_all(learner)
    assert learner.uid_table() == [
        {"uid": 0, "hotkey": "a", "available": True, "selections": 0, "rewards": 2, "mean_reward": 0.5, "resets": 0},
        {"uid": 1, "hotkey": "b", "available": False, "selections": 0, "rewards": 0, "mean_reward": None, "resets": 0},
    ]


def with_embedding(name, rewards, vector):
    return RewardItem(tuple(rewards), tuple(rewards.values()), reward_id=name, embedding=vector)


HUGE = np.full(DIM, np.inf, np.float16)
QUARANTINES = [
    pytest.param(Adagrad(learning_rate=0.2, initial_score=0.5, bonus=1.0), {2: 1.0, 1: 0.0}, HUGE, id="embedding"),
    pytest.param(SoftmaxMse(learning_rate=0.01, momentum=0.9), {2: 1.0, 1: 0.0}, HUGE, id="embedding-softmax"),
    pytest.param(Adagrad(learning_rate=1e38, initial_score=0.5, bonus=1.0), {0: 1.0}, embedding(2), id="second-step"),
    pytest.param(SoftmaxMse(learning_rate=1e38, momentum=0.999), {2: 1.0, 1: 0.0}, embedding(2), id="drift"),
]


@pytest.mark.parametrize(("tested", "values", "vector"), QUARANTINES)
def test_an_event_that_leads_to_no_finite_numbers_is_quarantined_alone(tested, values, vector, caplog):
    learner, spared = build_learner(rule=tested), build_learner(rule=tested)
    good = [message_reward("r-1", {0: 0.7}), message_reward("r-3", {1: 0.2})]
    learner.add_rewards([good[0], with_embedding("r-2", values, vector), good[1]])
    assert learn_all(learner) == [3]
    for item in good:
        spared.add_rewards([item])
        learn_all(spared)

    assert state_of(learner).held == {2: Held.NON_FINITE}
    assert learner.describe()["quarantine"] == {"frozen": 0, "rolled_back": 0, "non_finite": 1, "author": 0}
    assert "quarantined seq=2" in caplog.text
    assert head_bits(learner) == head_bits(spared)
    assert learner.version == 3
    state_of(spared).version = 3
    state_of(spared).held = {2: Held.NON_FINITE}
    assert state_digest(state_of(learner)) == state_digest(state_of(spared))
    snapshot = learner.snapshot()
    assert all(np.isfinite(array).all() for array in (snapshot.weight, snapshot.bias, snapshot.bonus))
    assert rewards_of(learner)[:3] == [(1, 0.7), (1, 0.2), (0, 0.0)]
    assert learner.describe()["moving_reward"] == pytest.approx(0.45)


def test_an_event_quarantined_alone_leaves_the_state_as_it_was_to_the_bit():
    learner = build_learner()
    decide(learner, decision("i-1"))
    learner.add_rewards([reward("i-1", {0: 1.0, 1: 0.0})])
    learn_all(learner)
    before = state_of(learner).copy()
    learner.add_rewards([with_embedding("r-1", {0: 0.5, 3: 0.9}, HUGE)])
    learn_all(learner)
    before.version, before.held = 2, {2: Held.NON_FINITE}
    assert state_digest(state_of(learner)) == state_digest(before)


def test_quarantines_are_replayed_too():
    learner = build_learner()
    learner.add_rewards([message_reward("r-1", {0: 0.7, 1: 0.1}), with_embedding("r-2", {0: 1.0, 2: 0.0}, HUGE)])
    learner.add_rewards([message_reward("r-3", {2: 0.7, 1: 0.1})])
    learn_all(learner)
    again = replay(learner)
    assert state_digest(again) == state_digest(state_of(learner))
    assert again.held == {2: Held.NON_FINITE}


def test_a_quarantined_event_that_is_readmitted_is_as_bad_as_before():
    learner = build_learner()
    learner.add_rewards([with_embedding("r-1", {0: 1.0, 2: 0.0}, HUGE), message_reward("r-2", {0: 0.7, 1: 0.1})])
    learn_all(learner)
    before = head_bits(learner), rewards_of(learner)
    settle(learner, Action.READMIT)
    assert state_of(learner).held == {1: Held.NON_FINITE}
    assert (head_bits(learner), rewards_of(learner)) == before
    assert state_digest(replay(learner)) == state_digest(state_of(learner))


@pytest.mark.parametrize(("policy", "resets"), [("keep", 0), ("reset", 1)])
def test_the_row_of_a_swapped_hotkey_is_kept_or_reset_as_configured_and_replayed_as_logged(policy, resets):
    before = MetagraphView(("a", "b"), (True, True), (5, 6), block=10)
    learner = build_learner(view=before, on_hotkey_swap=policy)
    decide(learner, decision("i-1", view=before))
    learner.add_rewards([reward("i-1", {0: 1.0, 1: 0.0})])
    learn_all(learner)
    learned = head_bits(learner)
    summary = learner.resync(MetagraphView(("a", "rotated"), (True, True), (5, 6), block=11))
    learn_all(learner)
    assert len(summary.reset) == resets
    assert (head_bits(learner) == learned) is (policy == "keep")
    assert learner.uid_table()[1]["resets"] == resets
    # What counts for a replay is what the log says, however it is configured then.
    again = build_learner(view=before, log=learner.log)
    assert head_bits(again) == head_bits(learner)
    assert state_digest(replay(learner)) == state_digest(state_of(learner))


def test_learning_does_not_wait_for_a_commit_that_goes_on():
    learner = build_learner()
    decide(learner, decision("i-1"))
    learner.add_rewards([reward("i-1", {0: 1.0, 1: 0.0})])
    learned = []

    def learn_meanwhile(_draft):
        learning = threading.Thread(target=lambda: learned.append(learner.learn()), daemon=True)
        learning.start()
        learning.join(20.0)

    learner.commit([learn_meanwhile])
    assert learned == [1]
