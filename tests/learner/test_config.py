import math

import pytest
from pydantic import TypeAdapter, ValidationError

from learner.config import (
    AdagradConfig,
    BittensorChain,
    ChainConfig,
    LearnerConfig,
    PooledRidgeConfig,
    RosterChain,
    SoftmaxMseConfig,
)
from learner.rules import Adagrad, SoftmaxMse, build_rule


def test_the_seeds_rule_has_the_seeds_numbers_by_default():
    config = SoftmaxMseConfig()
    assert (config.learning_rate, config.momentum) == (0.01, 0.9)


def test_a_rule_is_chosen_by_its_name():
    config = LearnerConfig.model_validate({"rule": {"name": "softmax_mse", "momentum": 0.5}})
    assert config.rule == SoftmaxMseConfig(momentum=0.5)
    assert LearnerConfig().rule == PooledRidgeConfig()


def test_a_rule_is_built_with_its_settings():
    softmax_mse = build_rule(SoftmaxMseConfig(learning_rate=0.3, momentum=0.4))
    assert isinstance(softmax_mse, SoftmaxMse)
    assert (softmax_mse.learning_rate, softmax_mse.momentum) == (0.3, 0.4)
    adagrad = build_rule(AdagradConfig(learning_rate=0.3, initial_score=0.2, bonus=0.1))
    assert isinstance(adagrad, Adagrad)
    assert (adagrad.learning_rate, adagrad.initial_score, adagrad.bonus) == (0.3, 0.2, 0.1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rule", {"name": "unheard_of"}),
        ("rule", {"name": "softmax_mse", "momentum": 1.0}),
        ("rule", {"name": "softmax_mse", "bonus": 1.0}),
        ("rule", {"name": "adagrad", "learning_rate": 0.0}),
        ("rule", {"name": "adagrad", "bonus": -1.0}),
        ("rule", {"name": "adagrad", "initial_score": math.nan}),
        ("publish_interval_ms", 0),
        ("publish_interval_ms", math.inf),
        ("batch_rewards", 0),
        ("reward_range", (1.0, 0.0)),
        ("reward_range", (0.5, 0.5)),
        ("reward_range", (0.0, math.inf)),
        ("reward_range", (-1e200, 1e200)),
        ("reward_window_s", 0),
        ("decision_wait_s", -1),
        ("heartbeat_s", 0),
        ("idle_exit_s", 0),
        ("seed", -1),
        ("seed", 2**32),
    ],
)
def test_what_is_out_of_range_is_refused_by_the_name_of_its_field(field, value):
    with pytest.raises(ValidationError, match=field):
        LearnerConfig.model_validate({field: value})


CONFIGS = [LearnerConfig, RosterChain, BittensorChain, AdagradConfig, SoftmaxMseConfig]


@pytest.mark.parametrize("config", CONFIGS)
def test_unknown_keys_are_refused(config):
    with pytest.raises(ValidationError, match="learning_rat"):
        config.model_validate({"learning_rat": 1})


def test_a_configuration_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        LearnerConfig().seed = 1


@pytest.mark.parametrize("config", CONFIGS)
def test_every_field_says_what_it_means(config):
    assert [name for name, field in config.model_fields.items() if name != "name" and not field.description] == []


def test_equal_settings_are_equal_however_they_were_given():
    given = LearnerConfig.model_validate({"rule": {"name": "pooled_ridge"}, "reward_range": [0, 1]})
    assert given == LearnerConfig()


CHAIN = TypeAdapter(ChainConfig)
SUBNET = {"source": "bittensor", "netuid": 1}


def test_a_chain_is_chosen_by_its_source_and_is_a_roster_by_default():
    assert CHAIN.validate_python({"source": "roster", "roster": "r.yaml"}) == RosterChain(roster="r.yaml")
    assert CHAIN.validate_python({"roster": "r.yaml"}) == RosterChain(roster="r.yaml")
    assert CHAIN.validate_python(SUBNET) == BittensorChain(source="bittensor", netuid=1)
    chain = BittensorChain(source="bittensor", netuid=2, network="test")
    assert CHAIN.validate_python(chain) is chain


def test_a_subnet_is_read_at_finalized_blocks_of_finney_every_25_blocks_by_default():
    chain = CHAIN.validate_python(SUBNET)
    assert (chain.network, chain.finalized, chain.resync_interval_blocks) == ("finney", True, 25)
    assert (chain.on_hotkey_swap, chain.vpermit_tao_limit, chain.exclude) == ("keep", 4096.0, ())
    assert (chain.fallback_endpoints, chain.resync_interval_s) == (None, None)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("source", "ethereum"),
        ("source", None),
        ("roster", "roster.yaml"),
        ("netuid", -1),
        ("netuid", 65_536),
        ("network", ""),
        ("resync_interval_blocks", 0),
        ("resync_interval_s", 0),
        ("call_timeout_s", 0),
        ("call_timeout_s", math.inf),
        ("vpermit_tao_limit", -1),
        ("vpermit_tao_limit", math.nan),
        ("exclude", [-1]),
        ("on_hotkey_swap", "move"),
        ("finalized", "perhaps"),
    ],
)
def test_what_a_chain_cannot_have_is_refused_by_the_name_of_its_field(field, value):
    with pytest.raises(ValidationError, match=field):
        CHAIN.validate_python({**SUBNET, field: value})


@pytest.mark.parametrize("chain", [5, None, "finney", []])
def test_what_is_no_chain_at_all_is_refused(chain):
    with pytest.raises(ValidationError, match="discriminator"):
        CHAIN.validate_python(chain)


def test_a_subnet_needs_its_number():
    with pytest.raises(ValidationError, match="netuid"):
        CHAIN.validate_python({"source": "bittensor"})


def test_only_one_interval_is_taken():
    assert CHAIN.validate_python({**SUBNET, "resync_interval_s": 60}).resync_interval_s == 60
    with pytest.raises(ValidationError, match="either resync_interval_blocks or resync_interval_s"):
        CHAIN.validate_python({**SUBNET, "resync_interval_s": 60, "resync_interval_blocks": 25})
