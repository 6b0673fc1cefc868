"""Apply a resync plan to the learner's state in one step: rows, optimizer state and statistics move together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from gating.head import remap_rows
from gating.metagraph import MetagraphView, ResyncPlan, plan_resync

from .rules import Rule
from .state import LearnerState, RuleState, UidStatistics


def apply_resync(
    state: LearnerState,
    view: MetagraphView,
    rule: Rule,
    *,
    seed: int,
    on_hotkey_swap: Literal["keep", "reset"] = "keep",
    shadow_rules: Mapping[str, Rule] | None = None,
) -> ResyncPlan:
    """Let the state follow the network. Mutates `state` and nothing else.

    Args:
        state: what has been learned so far.
        view: the network as it is now.
        rule: the one that serves; makes its fresh rows.
        seed: of the fresh rows' random numbers; the same seed gives the same rows.
        on_hotkey_swap: whether an owner that exchanged its own hotkey keeps its row.
        shadow_rules: those of the state's shadows, by label.

    Returns:
        What was done.
    """
    plan = plan_resync(state.view, view, on_hotkey_swap=on_hotkey_swap)
    if plan.changes_rows:
        _remap_rule(rule, state.rule, plan, seed)
        for label, shadow in state.shadows.items():
            _remap_rule((shadow_rules or {})[label], shadow.rule, plan, seed)
        state.statistics = _remap_statistics(state.statistics, plan)
    state.view = view
    return plan


def _remap_rule(rule: Rule, state: RuleState, plan: ResyncPlan, seed: int) -> None:
    fresh = rule.fresh_rows(state, plan.source.count(-1), torch.Generator().manual_seed(seed))
    state.rows = {name: remap_rows(rows, plan.source, fresh[name]) for name, rows in state.rows.items()}


def _remap_statistics(statistics: UidStatistics, plan: ResyncPlan) -> UidStatistics:
    source = np.asarray(plan.source, dtype=np.int64)
    kept = source >= 0

    def remap(counts: NDArray[Any]) -> NDArray[Any]:
        moved = np.zeros(len(source), counts.dtype)
        moved[kept] = counts[source[kept]]
        return moved

    resets = np.zeros(len(source), np.int64)
    shared = min(len(source), len(statistics.resets))
    resets[:shared] = statistics.resets[:shared]
    resets[list(plan.reset)] += 1
    return UidStatistics(
        selections=remap(statistics.selections),
        rewards=remap(statistics.rewards),
        reward_sum=remap(statistics.reward_sum),
        resets=resets,
    )
