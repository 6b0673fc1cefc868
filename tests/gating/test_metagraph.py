from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gating import NO_HOTKEY, MetagraphView, ResyncPlan, plan_resync
from gating.metagraph import unknown_uids

networks = st.lists(st.sampled_from(["a", "b", "c", NO_HOTKEY]), max_size=8)


def registered(*owners):
    """A view from (hotkey, registration block) of each uid."""
    hotkeys, blocks = zip(*owners, strict=True)
    return MetagraphView(hotkeys=hotkeys, available=(True,) * len(hotkeys), registered_at=blocks)


@pytest.mark.parametrize("as_uids", [list, np.array, torch.tensor])
def test_owners_are_sorted_by_uid_whatever_holds_the_uids(as_uids):
    view = MetagraphView.from_metagraph(SimpleNamespace(uids=as_uids([2, 0, 1]), hotkeys=["c", "a", "b"]))
    assert view.hotkeys == ("a", "b", "c")
    assert view.available == (True, True, True)


def test_without_uids_the_hotkeys_are_in_order():
    assert MetagraphView.from_metagraph(SimpleNamespace(hotkeys=["a", "b"])).hotkeys == ("a", "b")


def test_a_hole_in_the_numbering_is_owned_by_nobody_and_not_available():
    view = MetagraphView.from_metagraph(SimpleNamespace(uids=[0, 2], hotkeys=["a", "c"]))
    assert view.hotkeys == ("a", NO_HOTKEY, "c")
    assert view.available == (True, False, True)


def test_an_empty_network_has_no_uids():
    assert MetagraphView.from_metagraph(SimpleNamespace(uids=[], hotkeys=[])).n == 0


@pytest.mark.parametrize(
    ("uids", "hotkeys", "says"),
    [([0, 1], ["a"], "2 uids for 1 hotkeys"), ([0, 0], ["a", "b"], "distinct"), ([-1, 0], ["a", "b"], "not negative")],
)
def test_unclear_owners_are_refused(uids, hotkeys, says):
    with pytest.raises(ValueError, match=says):
        MetagraphView.from_metagraph(SimpleNamespace(uids=uids, hotkeys=hotkeys))


def test_a_view_needs_every_value_for_every_uid():
    with pytest.raises(ValueError, match="got 1 hotkeys, 2 availabilities and 1 registration blocks"):
        MetagraphView(hotkeys=("a",), available=(True, True), registered_at=(None,))


@given(networks)
def test_nothing_changes_between_equal_views(hotkeys):
    view = MetagraphView.from_hotkeys(hotkeys)
    plan = plan_resync(view, view)
    assert plan == ResyncPlan(source=tuple(range(view.n)))
    assert not plan.changes_rows


@given(networks, networks)
def test_a_row_is_kept_exactly_if_its_owner_stays(hotkeys_before, hotkeys_now):
    previous, current = MetagraphView.from_hotkeys(hotkeys_before), MetagraphView.from_hotkeys(hotkeys_now)
    plan = plan_resync(previous, current)
    assert len(plan.source) == current.n
    for uid, row in enumerate(plan.source):
        stays = uid < previous.n and previous.hotkeys[uid] == current.hotkeys[uid]
        assert row == (uid if stays else -1)
    assert plan.added == tuple(range(previous.n, current.n))
    assert plan.removed == tuple(range(current.n, previous.n))
    assert set(plan.reset) == {uid for uid, row in enumerate(plan.source) if row == -1} - set(plan.added)


def test_an_owners_own_hotkey_swap_keeps_its_row():
    assert not plan_resync(registered(("a", 7)), registered(("b", 7))).changes_rows


def test_a_hotkey_that_registered_anew_starts_afresh():
    assert plan_resync(registered(("a", 7)), registered(("a", 9))).reset == (0,)


def test_the_hotkey_decides_where_a_registration_block_is_unknown():
    assert plan_resync(registered(("a", 7)), registered(("a", None))).reset == ()
    assert plan_resync(registered(("a", None)), registered(("b", 7))).reset == (0,)


def test_uids_out_of_range_are_unknown():
    assert unknown_uids(MetagraphView.from_hotkeys(["a", "b"]), [1, 2, -1, 0]) == [2, -1]
