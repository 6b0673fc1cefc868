from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gating import MetagraphView
from learner.author_memory import MOST_AUTHORS
from learner.config import TrustConfig
from learner.events import Action, OperatorEvent, Outcome, ResyncEvent, RewardEvent, Standing
from learner.trust import TRUST

from .trust_world import DIM, UIDS, VIEW, World, chance, harsh, honest, lenient, liar, noisy, noisy_liar


def say(author: str, standing: Standing) -> OperatorEvent:
    return OperatorEvent(Action.STANDING, "ops", {"author": author, "standing": standing.value})


def counts(event: RewardEvent) -> tuple[float, ...]:
    return event.weights or (1.0,) * len(event.uids)


@pytest.mark.parametrize("reporters", [{"a": liar}, {"a": honest, "b": liar}])
def test_below_three_authors_every_reward_counts_in_full_and_nobody_is_quarantined(reporters):
    world = World()
    world.play(400, **reporters)
    assert world.said() == []
    assert all(event.outcome is Outcome.LEARNED and event.weights == event.expected == () for event in world.log)


def test_one_author_is_not_throttled_however_much_it_reports():
    world = World()
    judged = world.commit(*(world.event("a", honest, [0]) for _ in range(5000)))
    assert all(event.weights == () for event in judged)


def test_authors_who_only_looked_in_do_not_switch_it_on():
    world = World()
    world.play(2, b=honest, c=honest)
    judged = world.commit(*(world.event("a", honest, [0]) for _ in range(1000)))
    judged += world.commit(*(world.event("a", honest, [0]) for _ in range(1000)))
    assert not world.trust.is_on
    assert all(event.weights == () for event in judged)


def test_a_liar_among_three_is_found_within_a_hundred_reports_and_held():
    world = World()
    world.play(100, a=honest, b=honest, c=liar)
    assert world.said() == [("c", "quarantined")]
    assert world.log[-1].author == "c"
    assert world.log[-1].outcome is Outcome.QUARANTINED
    assert all(event.outcome is Outcome.LEARNED for event in world.rewards("a") + world.rewards("b"))
    [verdict] = [event for event in world.log if isinstance(event, OperatorEvent)]
    assert verdict.author == TRUST
    assert world.trust.standings["c"].quarantined_since == verdict.seq


@pytest.mark.parametrize("seed", range(5))
def test_five_liars_of_twenty_are_found_and_nobody_else(seed):
    world = World(seed=seed)
    authors = {f"author-{number}": liar if number < 5 else honest for number in range(20)}
    world.play(80, **authors)
    assert sorted(world.quarantined()) == [f"author-{number}" for number in range(5)]


def test_a_liar_counts_less_before_it_is_held():
    world = World()
    world.play(100, a=honest, b=honest, c=liar)
    before = [event for event in world.rewards("c") if event.outcome is Outcome.LEARNED]
    assert min(min(counts(event)) for event in before[-5:]) < 0.7


@pytest.mark.parametrize("seed", range(5))
def test_a_liar_whose_reports_are_noisy_counts_for_little_long_before_it_can_be_quarantined(seed):
    world = World(seed=seed)
    world.play(40, liar=noisy_liar, **{f"author-{number}": noisy for number in range(19)})
    lies = [event for event in world.rewards("liar") if event.outcome is Outcome.LEARNED]
    assert sum(np.mean(counts(event)) for event in lies) < 11
    assert np.mean([weight for event in lies[15:] for weight in counts(event)]) < 0.05


@pytest.mark.parametrize("seed", range(3))
def test_honest_authors_lose_next_to_nothing_beside_a_liar_however_noisy_they_are(seed):
    world = World(seed=seed)
    world.play(40, liar=liar, **{f"author-{number}": noisy for number in range(11)})
    assert {author for author, _ in world.said()} <= {"liar"}
    honest_ones = [event for event in world.log if isinstance(event, RewardEvent) and event.author != "liar"]
    assert np.mean([weight for event in honest_ones for weight in counts(event)]) > 0.985


@pytest.mark.parametrize("seed", range(5))
def test_where_all_rewards_are_chance_nobody_is_doubted(seed):
    world = World(seed=seed)
    world.play(100, **{f"author-{number}": chance for number in range(10)})
    weights = [weight for event in world.log if isinstance(event, RewardEvent) for weight in counts(event)]
    assert np.mean(weights) > 0.95


def test_the_two_who_are_left_when_the_third_is_held_do_not_throttle_each_other():
    world = World(TrustConfig(free_rewards=5))
    world.play(100, a=honest, b=honest, c=liar)
    assert world.quarantined() == ["c"]
    for _ in range(20):
        judged = world.commit(*(world.event("a", honest, [2]) for _ in range(5)), world.event("b", honest, [2]))
        assert all(event.weights == () for event in judged)


def test_a_liar_that_turns_honest_is_released_by_itself():
    world = World(TrustConfig(memory_events=50))
    world.play(100, a=honest, b=honest, c=liar)
    assert world.quarantined() == ["c"]
    world.play(150, a=honest, b=honest, c=honest)
    assert world.said() == [("c", "quarantined"), ("c", "released")]
    assert world.log[-1].outcome is Outcome.LEARNED
    assert counts(world.log[-1]) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("seed", range(5))
def test_honest_judges_of_another_scale_or_with_noise_are_never_quarantined(seed):
    world = World(seed=seed)
    world.play(300, a=honest, b=harsh, c=lenient, d=noisy)
    assert world.said() == []
    weights = [weight for event in world.log[600:] for weight in counts(event)]
    assert np.mean(weights) > 0.95


def test_authors_whose_rewards_are_chance_count_less_at_times_but_the_honest_never_do():
    world = World()
    world.play(300, a=honest, b=honest, c=lambda true, rng: rng.random(true.shape))
    assert all(counts(event) == (1.0,) * 3 for event in world.rewards("a")[100:])


def test_it_is_never_half_of_the_authors_that_are_held():
    world = World()
    world.play(300, a=honest, b=honest, c=honest, d=liar, e=liar, f=liar)
    assert len(world.quarantined()) <= 2


@pytest.mark.parametrize("share", [0.4, 0.5])
def test_an_author_with_99_of_100_reports_of_a_row_has_no_more_than_its_share_of_it(share):
    config = TrustConfig(max_row_share=share, free_rewards=5, max_stream_share=0.99)
    world = World(config)
    world.play(30, a=honest, b=honest, c=honest)
    for _ in range(20):
        flood = [world.event("a", honest, [2]) for _ in range(198)]
        world.commit(world.event("b", honest, [2]), *flood, world.event("c", honest, [2]), passes_s=0.1)
    counted = world.trust._memory.counted
    mine = counted[world.trust._memory.numbers["a"], 2]
    assert mine / counted[:, 2].sum() <= share + 0.01
    assert all(counts(event) == (1.0,) for event in world.rewards("b")[-20:])


def test_an_author_that_alone_reports_on_a_row_can_teach_it_a_little_at_once_and_more_with_time():
    world = World(TrustConfig(free_rewards=10, window_s=100))
    world.play(30, a=honest, b=honest, c=honest)
    judged = world.commit(*(world.event("d", honest, [5]) for _ in range(200)))
    granted = sum(sum(event.weights) for event in judged)
    assert 10 <= granted <= 150
    assert sum(sum(event.weights) for event in world.commit(world.event("d", honest, [5]))) < 0.2
    world.now_s += 50
    world.play(20, a=honest, b=honest, c=honest)
    assert sum(counts(world.commit(world.event("d", honest, [5]))[0])) > 0.9


def test_no_author_has_more_than_its_share_of_the_stream():
    world = World(TrustConfig(free_rewards=1, max_stream_share=0.5, max_row_share=0.99))
    world.play(30, a=honest, b=honest, c=honest)
    for _ in range(20):
        world.commit(*(world.event("a", honest) for _ in range(100)), passes_s=0.1)
    counted = world.trust._memory.counted
    assert counted[world.trust._memory.numbers["a"]].sum() / counted.sum() < 0.51


def test_others_who_fall_silent_stop_throttling_the_one_who_is_left():
    world = World(TrustConfig(window_s=60))
    world.play(30, a=honest, b=honest, c=honest)
    world.now_s += 600
    judged = world.commit(*(world.event("a", honest, [0]) for _ in range(1000)))
    assert all(event.weights == () for event in judged)


def test_one_reward_far_from_what_was_expected_counts_less():
    world = World(TrustConfig(clip=2))
    world.play(100, a=honest, b=honest, c=honest)
    event = world.event("a", honest, [0, 5])
    odd = replace(event, rewards=(event.rewards[0], 0.0))
    [judged] = world.commit(odd)
    assert counts(judged)[0] == 1.0
    assert counts(judged)[1] < 0.8
    assert judged.rewards == odd.rewards


def test_an_operators_word_stands_above_what_trust_finds():
    world = World()
    world.play(50, a=honest, b=honest, c=honest)
    world.commit(say("a", Standing.DISTRUSTED), say("c", Standing.TRUSTED))
    world.play(150, a=honest, b=honest, d=honest, c=liar)
    assert {event.outcome for event in world.rewards("a")[51:]} == {Outcome.QUARANTINED}
    assert all(event.outcome is Outcome.LEARNED and event.weights == () for event in world.rewards("c")[51:])
    assert [said for said in world.said() if said[1] in ("quarantined", "released")] == []
    world.commit(say("a", Standing.AUTO))
    world.play(1, a=honest, b=honest, c=liar)
    assert world.rewards("a")[-1].outcome is Outcome.LEARNED


def test_a_distrusted_author_is_held_also_where_it_is_the_only_one():
    world = World()
    world.commit(say("a", Standing.DISTRUSTED))
    assert world.commit(world.event("a", honest))[0].outcome is Outcome.QUARANTINED


def test_auto_gives_a_quarantined_author_a_new_start():
    world = World()
    world.play(100, a=honest, b=honest, c=liar)
    world.commit(say("c", Standing.AUTO))
    assert world.quarantined() == []
    world.play(5, a=honest, b=honest, c=honest)
    assert world.rewards("c")[-1].outcome is Outcome.LEARNED


def test_switched_off_it_weighs_and_quarantines_nothing():
    world = World(TrustConfig(enabled=False))
    world.play(150, a=honest, b=honest, c=liar)
    assert world.said() == []
    assert all(event.weights == event.expected == () for event in world.log)


def test_judging_leaves_no_trace():
    """So a commit that fails has changed nothing."""
    world = World()
    world.play(40, a=honest, b=honest, c=liar)
    events = [world.event("c", liar) for _ in range(50)]
    first = world.trust.judge(events, world.now_s)
    assert [event.weights for event in world.trust.judge(events, world.now_s)] == [event.weights for event in first]
    assert [event.expected for event in world.trust.judge(events, world.now_s)] == [event.expected for event in first]


def test_what_was_logged_gives_the_same_memory_again():
    world = World()
    world.play(100, a=honest, b=honest, c=liar)
    again = World().trust
    for event in world.log:
        again.observe([event], world.now_s)
    mine, its = world.trust.authors(world.now_s), again.authors(world.now_s)
    assert [(view.author, view.quarantined_since) for view in its] == [
        (view.author, view.quarantined_since) for view in mine
    ]
    np.testing.assert_allclose([view.score for view in its], [view.score for view in mine], rtol=0.2)
    assert again.verdicts(world.now_s) == []


@settings(deadline=None, max_examples=20)
@given(names=st.permutations(["a", "b", "c", "d"]), seed=st.integers(0, 99))
def test_it_does_not_matter_what_authors_are_called(names, seed):
    one, other = World(seed=seed), World(seed=seed)
    reporters = [honest, noisy, liar, honest]
    one.play(30, **dict(zip("abcd", reporters, strict=True)))
    other.play(30, **dict(zip(names, reporters, strict=True)))
    told = [event.weights for event in one.log if isinstance(event, RewardEvent)]
    assert told == [event.weights for event in other.log if isinstance(event, RewardEvent)]


_ODD = st.floats(allow_nan=False, allow_infinity=False, width=32)


@settings(deadline=None, max_examples=30)
@given(
    commits=st.lists(
        st.lists(
            st.tuples(st.sampled_from("abcde"), st.dictionaries(st.integers(0, 9), _ODD, min_size=1, max_size=4)),
            max_size=20,
        ),
        max_size=12,
    ),
    seed=st.integers(0, 9),
)
def test_weights_lie_between_0_and_1_whatever_is_reported(commits, seed):
    world = World(TrustConfig(active_rewards=1, free_rewards=1, clip=1, min_events=10, quarantine_at=2))
    rng = np.random.default_rng(seed)
    for entries in commits:
        events = [
            RewardEvent(
                uids=tuple(given),
                rewards=tuple(given.values()),
                outcome=Outcome.LEARNED,
                embedding=np.where(rng.random(DIM) < 0.02, np.inf, rng.normal(size=DIM)).astype(np.float16),
                author=author,
            )
            for author, given in entries
        ]
        for event in world.commit(*events):
            if isinstance(event, RewardEvent):
                assert all(0.0 <= weight <= 1.0 for weight in event.weights)


def test_memory_is_bounded_and_keeps_those_who_report():
    world = World()
    world.play(30, a=honest, b=honest, c=honest)
    for start in range(0, 3 * MOST_AUTHORS, 500):
        world.commit(*(world.event(f"passer-by-{number}", honest) for number in range(start, start + 500)))
        world.play(1, a=honest, b=honest, c=honest)
    memory = world.trust._memory
    assert len(memory.numbers) == len(memory.reported) == len(memory.counted) == MOST_AUTHORS
    assert len(set(memory.numbers.values())) == MOST_AUTHORS
    assert {"a", "b", "c"} <= memory.numbers.keys()


def test_a_uids_new_owner_is_not_held_against_what_the_old_one_earned():
    world = World()
    world.play(100, a=honest, b=honest, c=honest)
    before = world.trust._consensus._count[0]
    hotkeys = ("new", *VIEW.hotkeys[1:])
    world.commit(ResyncEvent(MetagraphView.from_hotkeys(list(hotkeys), block=2), seed=1))
    assert before > 10
    assert world.trust._consensus._count[0] == 0
    assert world.trust._memory.counted[:, 0].sum() == 0
    assert world.trust._memory.counted[:, 1].sum() > 10


@pytest.mark.parametrize(("hotkey", "block", "is_new"), [("owner-0", 9, True), ("other", 1, False), ("other", 9, True)])
def test_an_owner_is_its_hotkey_with_its_registration(hotkey, block, is_new):
    """One that registers anew is another, and one that has exchanged its own hotkey is the same."""
    world = World()
    known = replace(VIEW, registered_at=tuple(range(1, UIDS + 1)))
    world.commit(ResyncEvent(known, seed=1))
    world.play(100, a=honest, b=honest, c=honest)
    hotkeys, registered_at = (hotkey, *VIEW.hotkeys[1:]), (block, *known.registered_at[1:])
    world.commit(ResyncEvent(replace(known, hotkeys=hotkeys, registered_at=registered_at, block=9), seed=1))
    assert bool(world.trust._consensus._count[0] == 0) is is_new
    assert bool(world.trust._memory.counted[:, 0].sum() == 0) is is_new
    assert world.trust._consensus._count[1] > 10


def test_what_was_logged_just_before_a_resync_is_the_old_owners():
    world = World()
    world.play(100, a=honest, b=honest, c=honest)
    hotkeys = ["new", *VIEW.hotkeys[1:]]
    resync = ResyncEvent(MetagraphView.from_hotkeys(hotkeys, block=2), seed=1)
    world.commit(world.event("a", honest, [0, 1]), resync, world.event("b", honest, [1, 2]))
    assert world.trust._consensus._count[0] == 0
    assert world.trust._memory.counted[:, 0].sum() == 0


def test_a_network_that_shrinks_leaves_nothing_of_those_who_are_gone():
    world = World()
    world.play(100, a=honest, b=honest, c=honest)
    world.commit(ResyncEvent(MetagraphView.from_hotkeys(list(VIEW.hotkeys[:4]), block=2), seed=1))
    assert world.trust._consensus._count[4:].tolist() == [0, 0]
    assert world.trust._memory.counted[:, 4:].sum() == 0


def test_what_has_come_late_or_was_assumed_is_left_as_it_is():
    world = World()
    world.play(30, a=honest, b=honest, c=honest)
    odd = [replace(world.event("a", liar), outcome=outcome) for outcome in (Outcome.LATE, Outcome.STALE)]
    odd.append(replace(world.event("default", liar), outcome=Outcome.DEFAULT))
    judged = world.commit(*odd)
    assert [(event.outcome, event.weights, event.expected) for event in judged] == [
        (event.outcome, (), ()) for event in odd
    ]
    assert "default" not in world.trust._memory.numbers


def test_operators_see_every_author():
    world = World()
    world.play(100, a=honest, b=honest, c=liar)
    world.commit(say("nobody yet", Standing.TRUSTED))
    a, _, c, nobody = world.trust.authors(world.now_s)
    assert (a.author, a.standing, a.active, a.weight, a.quarantined_since) == ("a", "auto", True, 1.0, None)
    assert a.score > 3
    assert a.agreement > 0.3
    assert (c.author, c.active, c.weight) == ("c", True, 0.0)
    assert c.score < -3
    assert c.quarantined_since == world.trust.standings["c"].quarantined_since
    assert (nobody.author, nobody.standing, nobody.active, nobody.recent_rewards) == ("nobody yet", "trusted", False, 0)
    told = world.trust.describe(world.now_s)
    assert told == {
        "enabled": True,
        "on": True,
        "active_authors": 3,
        "quarantined": ["c"],
        "distrusted": [],
        "trusted": ["nobody yet"],
    }
