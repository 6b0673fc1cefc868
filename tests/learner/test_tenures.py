from gating import MetagraphView, plan_resync
from learner.tenures import Tenures


def view(hotkeys, registered_at=None):
    blocks = tuple(registered_at) if registered_at else (None,) * len(hotkeys)
    return MetagraphView(tuple(hotkeys), (True,) * len(hotkeys), blocks)


def follow(tenures, before, after, seq, **policy):
    tenures.follow(plan_resync(before, after, **policy), before, seq)


def test_a_uid_that_never_changed_hands_has_been_held_from_the_beginning():
    tenures = Tenures()
    follow(tenures, view("abc"), view("abcd"), 5)
    assert tenures.since == {3: 5}
    assert tenures.held_through(0, 0)
    assert [tenures.held_through(3, seq) for seq in (4, 5, 6)] == [False, True, True]


def test_an_owner_that_came_back_holds_its_uid_since_then():
    tenures = Tenures()
    follow(tenures, view("ab"), view("ax"), 5)
    follow(tenures, view("ax"), view("ab"), 8)
    assert [tenures.held_through(1, seq) for seq in (0, 5, 7, 8)] == [False, False, False, True]


def test_a_uid_that_was_lost_and_came_back_is_held_since_then():
    tenures = Tenures()
    follow(tenures, view("ab"), view("a"), 5)
    follow(tenures, view("a"), view("ab"), 8)
    assert tenures.since == {1: 8}


def test_an_owner_that_moved_holds_its_new_uid_since_then():
    tenures = Tenures()
    follow(tenures, view("abc", (1, 2, 3)), view("ac", (1, 3)), 5)
    assert tenures.since == {1: 5}


def test_an_owner_is_known_by_the_hotkeys_that_it_had():
    tenures = Tenures()
    first, second, third = view("ab", (1, 2)), view("aB", (1, 2)), view("a3", (1, 2))
    follow(tenures, first, second, 5)
    follow(tenures, second, third, 6)
    assert tenures.held_through(1, 0)
    assert [tenures.owns(1, hotkey, third) for hotkey in ("b", "B", "3", "a")] == [True, True, True, False]
    assert not tenures.owns(0, "b", third)
    taken = view("ab", (1, 9))
    follow(tenures, third, taken, 7)
    assert [tenures.owns(1, hotkey, taken) for hotkey in ("b", "B", "3")] == [True, False, False]
    assert tenures.former_hotkeys == {}


def test_where_a_swap_resets_the_row_it_ends_the_tenure():
    tenures = Tenures()
    follow(tenures, view("ab", (1, 2)), view("aB", (1, 2)), 5, on_hotkey_swap="reset")
    assert (tenures.since, tenures.former_hotkeys) == ({1: 5}, {})


def test_a_copy_is_a_copy():
    tenures = Tenures({1: 5}, {1: {"b"}})
    other = tenures.copy()
    assert other == tenures
    other.since[2] = 6
    other.former_hotkeys[1].add("c")
    assert tenures == Tenures({1: 5}, {1: {"b"}})
