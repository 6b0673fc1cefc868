"""The weights of the newest checkpoint, for a replica that starts while the learner is away."""

from __future__ import annotations

import logging

from learner.checkpoint import Expected
from learner.config import settings_of
from learner.errors import CheckpointError
from learner.rules import build_rule
from learner.snapshot_source import load_snapshot
from learner.startup import LearnerArgs
from learner.state import HeadSnapshot
from learner.storage import open_checkpoints

logger = logging.getLogger(__name__)


def load_saved_weights(args: LearnerArgs) -> HeadSnapshot | None:
    """What the application's newest checkpoint has; None if there is none that this replica can use."""
    expected = Expected(
        application=args.app,
        log_id=None,
        rule=settings_of(args.config.rule),
        fingerprint=args.fingerprint,
        dim=args.dim,
        shadows=tuple(map(settings_of, args.config.shadow)),
    )
    try:
        store = open_checkpoints(args.config, args.app)
        return None if store is None else load_snapshot(store, expected, build_rule)
    except CheckpointError as error:
        logger.error("saved_weights_not_loaded reason=%s", error)
        return None
