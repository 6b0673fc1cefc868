from learner.fleet import Fleet
from learner.protocol import ReplicaStatus


def status(name):
    return ReplicaStatus(name, 1, f"life-of-{name}", 0, 0, 0, None, 0, 0, 0)


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
    assert fleet.incarnations(takes_over=False) == ["life-of-b"]
    assert len(fleet) == 1
    assert fleet.last_poll_s == 104.0


def test_who_takes_over_knows_whose_decisions_may_come_once_all_can_have_polled():
    clock = Clock()
    fleet = Fleet(2.0, clock=clock)
    fleet.note(status("a"))
    assert fleet.incarnations(takes_over=True) is None
    assert fleet.incarnations(takes_over=False) == ["life-of-a"]
    clock.now_s = 106.0
    fleet.note(status("b"))
    assert fleet.incarnations(takes_over=True) == ["life-of-a", "life-of-b"]
