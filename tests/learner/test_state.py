import pickle

import numpy as np
import torch

from gating import MetagraphView
from learner.state import Head, LearnerState, RuleState, UidStatistics, build_snapshot, format_for

VIEW = MetagraphView(
    hotkeys=("a", "", "c"), available=(True, False, False), registered_at=(1, None, 3), netuid=7, block=40
)


def snapshot(head=None, version=12):
    head = head or Head(weight=torch.arange(6.0).reshape(3, 2), bias=torch.ones(3), bonus=torch.zeros(3))
    state = LearnerState(view=VIEW, rule=RuleState(rows={}), statistics=UidStatistics.empty(3), version=version)
    return build_snapshot(head, version=state.version, view=state.view, epoch=5, fingerprint="tiny")


def test_a_snapshot_holds_the_head_as_float32_arrays():
    head = Head(
        weight=torch.rand(2, 3, dtype=torch.float64).T,
        bias=torch.rand(3, 2)[:, 0],
        bonus=torch.rand(3).requires_grad_(),
    )
    frozen = snapshot(head)
    for array, tensor in ((frozen.weight, head.weight), (frozen.bias, head.bias), (frozen.bonus, head.bonus)):
        assert array.dtype == np.float32
        assert array.flags.c_contiguous
        np.testing.assert_array_equal(array, tensor.detach().float().numpy())
    assert frozen.dim == 2


def test_a_snapshot_names_its_version_its_network_and_its_encoder():
    frozen = snapshot()
    assert frozen.order == (5, 12)
    assert frozen.view is VIEW
    assert frozen.fingerprint == "tiny"
    assert frozen.available.tolist() == [True, False, False]
    assert frozen.available.dtype == np.bool_


def test_a_later_epoch_is_newer_whatever_its_version():
    assert (snapshot().epoch + 1, 0) > snapshot().order > (snapshot().epoch, 11)


def test_a_snapshot_survives_the_way_between_processes():
    frozen, arrived = snapshot(), pickle.loads(pickle.dumps(snapshot()))
    assert arrived.order == frozen.order
    assert arrived.view == frozen.view
    np.testing.assert_array_equal(arrived.weight, frozen.weight)


def test_statistics_start_at_nothing():
    statistics = UidStatistics.empty(4)
    for counts in (statistics.selections, statistics.rewards, statistics.reward_sum, statistics.resets):
        assert counts.tolist() == [0, 0, 0, 0]


def test_replicas_get_the_newest_layout_that_they_and_the_learner_know(monkeypatch):
    monkeypatch.setattr("learner.state.SNAPSHOT_FORMATS", (1, 2))
    assert [format_for(reads) for reads in ((1,), (1, 2), (2, 3), (3,), ())] == [1, 2, 2, None, None]
    assert snapshot().in_format(1).format == 1
