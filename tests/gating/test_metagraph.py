from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gating import NO_HOTKEY, MetagraphView, ResyncPlan, plan_resync
from gating.metagraph import check_owners, unknown_uids

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


def test_a_row_goes_with_its_owner_when_the_subnet_is_compacted() -> None:
    before = registered(("a", 1), ("b", 2), ("c", 3), ("d", 4))
    plan = plan_resync(before, registered(("a", 1), ("c", 3), ("d", 4)))
    assert plan.source == (0, 2, 3)
    assert plan.moved == ((2, 1), (3, 2))
    assert (plan.reset, plan.added, plan.removed) == ((), (), (3,))


def test_an_owner_s_own_swap_keeps_the_row_unless_it_is_said_to_reset() -> None:
    before, now = registered(("a", 1), ("b", 2)), registered(("a", 1), ("new", 2))
    kept = plan_resync(before, now)
    assert (kept.source, kept.swapped, kept.reset, kept.changes_rows) == ((0, 1), (1,), (), False)
    reset = plan_resync(before, now, on_hotkey_swap="reset")
    assert (reset.source, reset.swapped, reset.reset) == ((0, -1), (), (1,))


def test_the_same_hotkey_that_registered_anew_starts_afresh() -> None:
    assert plan_resync(registered(("a", 1)), registered(("a", 9))).reset == (0,)


def test_owners_of_one_block_are_not_mixed_up() -> None:
    # b and x registered in the same block; b left, and x has swapped its hotkey and moved to b's uid.
    before = registered(("a", 1), ("b", 2), ("x", 2))
    assert plan_resync(before, registered(("a", 1), ("new", 2))).reset == (1,)
    # With b still there it can be nobody but x.
    moved = plan_resync(before, registered(("b", 2), ("new", 2)))
    assert (moved.source, moved.moved) == ((1, 2), ((1, 0), (2, 1)))


def test_a_uid_is_available_if_it_serves_and_is_no_large_validator_and_is_not_excluded() -> None:
    view = MetagraphView(
        hotkeys=("a", "b", "c", "d", "e"),
        available=(True,) * 5,
        registered_at=(None,) * 5,
        serving=(True, False, True, True, True),
        validator_permit=(False, False, True, True, False),
        stake=(9e9, 0.0, 4096.0, 4096.5, 0.0),
    )
    assert view.restricted(vpermit_tao_limit=4096.0, exclude={4}).available == (True, False, True, False, False)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"hotkeys": ("a", "")}, "uid 1 has no owner"),
        ({"hotkeys": ("a", "a")}, "hotkey a holds uids 0 and 1"),
        ({"stake": (1.0, float("nan"))}, "the stake of uid 1 is nan"),
    ],
)
def test_a_view_that_no_chain_can_have_is_refused(changed: dict[str, tuple[object, ...]], message: str) -> None:
    view = replace(MetagraphView.from_hotkeys("ab"), **changed)
    with pytest.raises(ValueError, match=message):
        check_owners(view)


def test_columns_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="stake has 1 values for 2 uids"):
        replace(MetagraphView.from_hotkeys("ab"), stake=(1.0,))


@pytest.mark.parametrize("synced", [{}, {"neurons": [SimpleNamespace(axon_info=None)] * 2}], ids=["bare", "synced"])
@pytest.mark.parametrize("as_array", [np.asarray, torch.as_tensor], ids=["ndarray", "tensor"])
def test_a_metagraph_of_the_older_sdks_is_read_with_all_that_it_says(
    as_array: Callable[..., Any], synced: dict[str, Any]
) -> None:
    metagraph = SimpleNamespace(
        **synced,
        uids=as_array([1, 0]),
        hotkeys=["b", "a"],
        axons=[SimpleNamespace(is_serving=True), SimpleNamespace(is_serving=False)],
        validator_permit=as_array([True, False]),
        S=as_array([]),
        total_stake=as_array([5.0, 7.5]),
        block_at_registration=as_array([20, 10]),
        netuid=3,
        n=as_array([2]),
        block=as_array([777]),
    )
    view = MetagraphView.from_metagraph(metagraph)
    assert view == MetagraphView(
        hotkeys=("a", "b"),
        available=(False, True),
        registered_at=(10, 20),
        netuid=3,
        block=777,
        serving=(False, True),
        validator_permit=(False, True),
        stake=(7.5, 5.0),
    )
