"""Rows and counts follow their owners: checked against a plain account of who held which uid since when."""

import copy
from dataclasses import dataclass
from itertools import count, pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gating import MetagraphView
from learner.resync import apply_resync
from learner.rules import Adagrad, SoftmaxMse
from learner.state import LearnerState, UidStatistics

from .builders import bits, state_digest

RULE = Adagrad(learning_rate=0.2, initial_score=0.5, bonus=1.0, new_row="zeros")
hotkeys = st.sampled_from(["a", "b", "c", "d", ""])
networks = st.lists(hotkeys, min_size=1, max_size=6)


def start(view):
    rule_state = RULE.initial_state(view.n, 2, torch.Generator())
    return LearnerState(view=view, rule=rule_state, statistics=UidStatistics.empty(view.n), version=8)


def mark(state, labels):
    """Let every row and count say whose it is."""
    numbers = torch.tensor(labels, dtype=torch.float32)
    state.rule.rows["weight"] = numbers[:, None].repeat(1, 2)
    state.rule.rows["bias"] = numbers.clone()
    state.rule.rows["squared_gradients"] = numbers.clone()
    state.rule.rows["rewards"] = numbers.long()
    state.statistics.selections[:] = labels
    state.statistics.rewards[:] = labels
    state.statistics.reward_sum[:] = labels


def assert_rows_follow_their_owners(views, owner_of):
    """`owner_of`: who a uid of a view belongs to. Every tenure of a uid has a number of its own."""
    state, numbers = start(views[0]), iter(range(100, 10_000))
    tenure = [next(numbers) for _ in range(views[0].n)]
    resets = [0] * views[0].n
    for previous, current in pairwise(views):
        mark(state, tenure)
        apply_resync(state, current, RULE, seed=1)
        stays = [uid < previous.n and owner_of(previous, uid) == owner_of(current, uid) for uid in range(current.n)]
        tenure = [tenure[uid] if stays[uid] else next(numbers) for uid in range(current.n)]
        resets = [resets[uid] + (not stays[uid]) if uid < previous.n else 0 for uid in range(current.n)]
        rows, statistics = state.rule.rows, state.statistics
        mine = [number if stay else 0 for number, stay in zip(tenure, stays, strict=True)]
        assert state.view == current
        assert rows["weight"].tolist() == [[number, number] for number in mine]
        assert rows["bias"].tolist() == [number if stay else 0.5 for number, stay in zip(tenure, stays, strict=True)]
        assert [rows["rewards"].tolist(), rows["squared_gradients"].round().tolist()] == [mine, mine]
        assert statistics.selections.tolist() == mine
        assert statistics.rewards.tolist() == mine
        assert statistics.reward_sum.tolist() == mine
        assert statistics.resets.tolist() == resets


@settings(deadline=None)
@given(st.lists(networks, min_size=2, max_size=6))
def test_through_any_history_a_row_belongs_to_the_hotkey_that_it_was_learned_for(history):
    views = [MetagraphView.from_hotkeys(network, block=block) for block, network in enumerate(history)]
    assert_rows_follow_their_owners(views, lambda view, uid: view.hotkeys[uid])


@dataclass
class Neuron:
    """One registration on a chain: its owner may swap its hotkey and be moved, and is the same owner still."""

    hotkey: str
    block: int


class Chain:
    """A subnet as a chain keeps it: registrations, swaps of hotkeys, compaction, growth."""

    def __init__(self, n):
        self.block, self.names = 1, (f"hotkey-{number}" for number in count())
        self.neurons = [Neuron(next(self.names), self.block) for _ in range(n)]

    def step(self, kind, at):
        self.block += 1
        uid = at % len(self.neurons)
        if kind == "register":
            self.neurons[uid] = Neuron(next(self.names), self.block)
        elif kind == "register_again":
            self.neurons[uid] = Neuron(self.neurons[uid].hotkey, self.block)
        elif kind == "swap":
            self.neurons[uid].hotkey = next(self.names)
        elif kind == "grow":
            self.neurons.append(Neuron(next(self.names), self.block))
        elif kind == "compact" and len(self.neurons) > 1:
            del self.neurons[uid]

    def view(self):
        return MetagraphView(
            hotkeys=tuple(neuron.hotkey for neuron in self.neurons),
            available=(True,) * len(self.neurons),
            registered_at=tuple(neuron.block for neuron in self.neurons),
            block=self.block,
        )


KINDS = st.sampled_from(["register", "register_again", "swap", "grow", "compact"])
STEPS = st.lists(st.tuples(KINDS, st.integers(0, 9)), min_size=1, max_size=12)


def follow(chain, state, marks):
    """Resync to the chain as it is; every neuron's mark, once given, is what its row must hold."""
    plan = apply_resync(state, chain.view(), RULE, seed=1)
    rows = [int(number) for number in state.rule.rows["rewards"]]
    assert state.statistics.rewards.tolist() == rows
    assert [int(row[0]) for row in state.rule.rows["weight"]] == rows
    held = [marks.get(id(neuron), 0) for neuron in chain.neurons]
    for neuron in chain.neurons:
        marks.setdefault(id(neuron), 100 + len(marks))
    mark(state, [marks[id(neuron)] for neuron in chain.neurons])
    return plan, rows, held


@settings(deadline=None)
@given(st.integers(1, 6), STEPS)
def test_step_by_step_a_row_goes_with_its_registration_through_swaps_and_compaction(n, steps):
    chain = Chain(n)
    state, marks, alive = start(chain.view()), {}, []
    follow(chain, state, marks)
    for kind, at in steps:
        alive.extend(chain.neurons)
        chain.step(kind, at)
        _, rows, held = follow(chain, state, marks)
        assert rows == held


@settings(deadline=None)
@given(st.integers(1, 6), st.lists(STEPS, min_size=1, max_size=4))
def test_however_much_happened_between_two_views_no_row_goes_to_another_owner(n, rounds):
    chain = Chain(n)
    state, marks, alive = start(chain.view()), {}, []
    follow(chain, state, marks)
    for steps in rounds:
        alive.extend(chain.neurons)
        for kind, at in steps:
            chain.step(kind, at)
        _, rows, held = follow(chain, state, marks)
        # An owner that moved and swapped its hotkey at once cannot be told: it starts afresh.
        assert all(row in (0, mine) for row, mine in zip(rows, held, strict=True))


@pytest.mark.parametrize(
    ("before", "now", "reset", "added", "removed"),
    [
        ("abc", "abcde", (), (3, 4), ()),
        ("abcde", "abc", (), (), (3, 4)),
        ("abc", "axc", (1,), (), ()),
        ("abc", "cba", (0, 2), (), ()),
        ("ab", "xyz", (0, 1), (2,), ()),
    ],
)
def test_the_plan_says_what_was_done(before, now, reset, added, removed):
    state = start(MetagraphView.from_hotkeys(before))
    plan = apply_resync(state, MetagraphView.from_hotkeys(now), RULE, seed=1)
    assert (plan.reset, plan.added, plan.removed) == (reset, added, removed)


def test_a_view_that_changes_no_owner_changes_no_row():
    state = start(MetagraphView.from_hotkeys("abc", block=1))
    mark(state, [1, 2, 3])
    before = copy.deepcopy(state)
    now = MetagraphView(hotkeys=("a", "b", "c"), available=(True, False, True), registered_at=(None,) * 3, block=2)
    apply_resync(state, now, RULE, seed=1)
    assert state.view.available == (True, False, True)
    before.view = now
    assert state_digest(state) == state_digest(before)


def test_the_version_is_for_the_learner_to_move():
    state = start(MetagraphView.from_hotkeys("abc"))
    apply_resync(state, MetagraphView.from_hotkeys("abx"), RULE, seed=1)
    assert state.version == 8


def test_the_seed_draws_the_fresh_rows():
    rule = SoftmaxMse(learning_rate=0.1, momentum=0.9)

    def fresh_row(seed):
        view = MetagraphView.from_hotkeys("abc")
        rule_state = rule.initial_state(3, 2, torch.Generator().manual_seed(0))
        state = LearnerState(view=view, rule=rule_state, statistics=UidStatistics.empty(3))
        apply_resync(state, MetagraphView.from_hotkeys("abx"), rule, seed=seed)
        return bits(state.rule.rows["weight"][2])

    assert fresh_row(1) == fresh_row(1)
    assert fresh_row(1) != fresh_row(2)


def test_a_snapshot_of_the_old_rows_is_left_alone():
    state = start(MetagraphView.from_hotkeys("abc"))
    mark(state, [1, 2, 3])
    weight, selections = state.rule.rows["weight"], state.statistics.selections
    expected = bits(weight)
    apply_resync(state, MetagraphView.from_hotkeys("xbc"), RULE, seed=1)
    assert bits(weight) == expected
    np.testing.assert_array_equal(selections, [1, 2, 3])
