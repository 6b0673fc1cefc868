from learner.fleet import Fleet
from learner.protocol import ReplicaStatus


def status(name, issued=0, buffered=0, asked=0):
    return ReplicaStatus(name, 1, f"life_of_{name}", issued, 0, 0, None, 0, 0, buffered, asked=asked)


class Clock:
    now_s = 100.0

    def __call__(self):
        return self.now_s


def test_a_replica_is_there_for_three_heartbeats_after_it_was_heard_of():
    clock = Clock()
    fleet = Fleet(2.0, clock=clock)
    fleet.note(status("a"))
    clock.now_s = 104.0
    fleet.note(status("b"))
    assert [(at_s, told.id) for at_s, told in fleet.live()] == [(100.0, "a"), (104.0, "b")]
    clock.now_s = 106.5
    assert [told.id for told in fleet.told_lately()] == ["b"]
    assert len(fleet) == 2
    assert [told.id for _, told in fleet.live()] == ["b"]
    assert fleet.last_poll_s == 104.0
    fleet.note(status("b"))
    assert len(fleet) == 1


def may_send(fleet, *counters, asked=1, takes_over=False):
    names = {f"life_of_a-{n}": n for n in counters}
    return sorted(names[name] for name in fleet.expected(names, asked, takes_over=takes_over))


def test_a_replica_may_send_what_it_has_made_and_keeps_still():
    clock = Clock()
    fleet = Fleet(2.0, clock=clock)
    assert may_send(fleet, 0, 1, 9) == []
    # It had made seven when it told so, of which three were not taken yet.
    fleet.note(status("a", issued=7, buffered=3, asked=4))
    assert may_send(fleet, 0, 4, 5, 7, 8, asked=4) == [5, 7]
    # Asked once more, it may have made any number more, whenever what it told came.
    assert may_send(fleet, 0, 4, 5, 7, 8, 999, asked=5) == [5, 7, 8, 999]
    clock.now_s = 101.0
    fleet.note(status("a", issued=7, buffered=0, asked=5))
    assert may_send(fleet, 5, 7, 8, 999, asked=5) == []
    clock.now_s = 107.5
    assert may_send(fleet, 8, asked=6) == []


def test_ids_that_no_replica_gives_are_not_waited_for():
    fleet = Fleet(2.0, clock=Clock())
    fleet.note(status("a", issued=7, buffered=7))
    assert not fleet.expected(["", "life_of_a", "life_of_b-3", "x"], 1, takes_over=False)


def test_who_takes_over_waits_for_anyone_s_decisions_until_all_can_have_polled():
    clock = Clock()
    fleet = Fleet(2.0, clock=clock)
    assert may_send(fleet, 1, takes_over=True) == [1]
    assert may_send(fleet, 1, takes_over=False) == []
    fleet.note(status("b", issued=2))
    assert may_send(fleet, 1, takes_over=True) == [1]
    fleet.note(status("a", issued=2, asked=1))
    assert may_send(fleet, 1, takes_over=True) == []
    clock.now_s = 106.0
    assert not fleet.expected(["life_of_c-1"], 1, takes_over=True)
