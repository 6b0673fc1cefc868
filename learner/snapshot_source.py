"""Weights for a replica that starts while the learner is away."""

from __future__ import annotations

from collections.abc import Callable

from pydantic import TypeAdapter

from .checkpoint import CheckpointStore, Expected
from .config import RuleConfig
from .rules import Rule
from .state import HeadSnapshot, build_snapshot


def load_snapshot(
    store: CheckpointStore, expected: Expected, build_rule: Callable[[RuleConfig], Rule]
) -> HeadSnapshot | None:
    """What the newest checkpoint would have been published as, None if there is no checkpoint.

    Args:
        store: the application's checkpoints.
        expected: what the checkpoint has to be of.
        build_rule: makes the rule from its configuration, as `learner.rules.build_rule` does.

    Raises:
        CheckpointMismatchError: the newest that is whole is not what is expected.
        CheckpointError: the storage fails.
    """
    found = store.newest(expected)
    if found is None:
        return None
    state, manifest = found
    config: RuleConfig = TypeAdapter(RuleConfig).validate_python(manifest.rule)
    head = build_rule(config).head(state.rule)
    return build_snapshot(
        head, version=state.version, view=state.view, epoch=manifest.epoch, fingerprint=manifest.fingerprint
    )
