from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.saved_weights import load_saved_weights
from learner.checkpoint import CheckpointStore
from learner.config import AdagradConfig, CheckpointConfig, LearnerConfig, LogConfig, RosterChain, SoftmaxMseConfig
from learner.protocol import RewardItem
from learner.startup import LearnerArgs

from .local_learner import LocalLearner
from .local_service import DIM, FINGERPRINT, VIEW, embed_text


@pytest.fixture
def url(tmp_path: Path) -> str:
    return str(tmp_path / "{app}" / "checkpoints")


@pytest.fixture
async def learner(url: str) -> LocalLearner:
    """One that has learned something and saved it."""
    store = CheckpointStore(url.replace("{app}", "app"), keep=2)
    learner = LocalLearner(VIEW, dim=DIM, fingerprint=FINGERPRINT, rule=SoftmaxMseConfig(), checkpoints=store)
    embedding = embed_text("why?").astype(np.float16)
    learner.core.add_rewards([RewardItem((1, 2), (1.0, 0.0), reward_id="a", embedding=embedding)])
    learner.learn()
    await learner.checkpoint("boss")
    return learner


def args(url: str, **changed: Any) -> LearnerArgs:
    given: dict[str, Any] = {"rule": SoftmaxMseConfig(), "fingerprint": FINGERPRINT, "log": "sqlite:////nowhere/x.db"}
    given |= changed
    log, checkpoints = LogConfig(url=given["log"]), CheckpointConfig(url=url)
    config = LearnerConfig(rule=given["rule"], log=log, checkpoints=checkpoints)
    return LearnerArgs("app", RosterChain(), config, DIM, given["fingerprint"])


async def test_the_newest_checkpoint_is_what_the_learner_would_publish(learner: LocalLearner, url: str) -> None:
    saved = load_saved_weights(args(url))
    assert saved is not None
    assert learner.published is not None
    assert saved.order == learner.published.order == (1, 2)
    np.testing.assert_array_equal(saved.weight, learner.published.weight)
    np.testing.assert_array_equal(saved.bias, learner.published.bias)


async def test_without_a_checkpoint_or_with_a_log_in_memory_there_are_none(learner: LocalLearner, url: str) -> None:
    assert load_saved_weights(args(url + "/elsewhere")) is None
    assert load_saved_weights(args(url, log="memory")) is None


@pytest.mark.parametrize("changed", [{"rule": AdagradConfig()}, {"fingerprint": "another"}])
async def test_another_rules_or_encoders_checkpoint_is_not_used_and_the_reason_is_logged(
    learner: LocalLearner, url: str, caplog: pytest.LogCaptureFixture, changed: dict[str, Any]
) -> None:
    with caplog.at_level(logging.ERROR):
        assert load_saved_weights(args(url, **changed)) is None
    assert "saved_weights_not_loaded reason=" in caplog.text
