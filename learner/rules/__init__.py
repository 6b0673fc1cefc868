"""Learning rules: one file each, behind the protocol `Rule`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter

from ..config import AdagradConfig, PooledRidgeConfig, RuleConfig, SoftmaxMseConfig
from .adagrad import Adagrad
from .base import LearnBatch, Rule
from .book import RuleBook
from .pooled_ridge import PooledRidge
from .softmax_mse import SoftmaxMse

__all__ = ["Adagrad", "LearnBatch", "PooledRidge", "Rule", "RuleBook", "SoftmaxMse", "build_rule", "rule_of"]


def rule_of(settings: Mapping[str, Any]) -> Rule:
    """The rule with these settings, as `config.settings_of` gives them."""
    config: RuleConfig = TypeAdapter(RuleConfig).validate_python(settings)
    return build_rule(config)


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
        case PooledRidgeConfig():
            return PooledRidge(
                dims=config.dims,
                ridge=config.ridge,
                pool_ridge=config.pool_ridge,
                bonus=config.bonus,
                optimism=config.optimism,
                memory_rewards=config.memory_rewards,
                memory_rounds=config.memory_rounds,
                new_row=config.new_row,
            )
