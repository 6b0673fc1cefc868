"""Learning rules: one file each, behind the protocol `Rule`."""

from __future__ import annotations

from ..config import AdagradConfig, RuleConfig, SoftmaxMseConfig
from .adagrad import Adagrad
from .base import LearnBatch, Rule
from .softmax_mse import SoftmaxMse

__all__ = ["Adagrad", "LearnBatch", "Rule", "SoftmaxMse", "build_rule"]


def build_rule(config: RuleConfig) -> Rule:
    """The rule that a configuration asks for."""
    match config:
        case SoftmaxMseConfig():
            return SoftmaxMse(learning_rate=config.learning_rate, momentum=config.momentum, new_row=config.new_row)
        case AdagradConfig():
            return Adagrad(
                learning_rate=config.learning_rate,
                initial_score=config.initial_score,
                bonus=config.bonus,
                new_row=config.new_row,
            )
