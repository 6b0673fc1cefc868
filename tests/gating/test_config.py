import argparse
import copy
import sys
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from gating import ConfigError, GatingConfig, GatingModel, check_config, read_config

SEED = {"model_name": "EleutherAI/gpt-neo-125m", "num_uids": 4096, "learning_rate": 0.01, "momentum": 0.9}


class MunchLike(dict):
    """What bt.Config was: attributes are items, and one that is missing is None."""

    def __getattr__(self, name):
        return self.get(name)


def with_setting(name, value):
    config = GatingModel.config()
    setattr(config.gating, name, value)
    return config


def test_the_defaults_are_those_of_the_seed():
    gating = GatingModel.config().gating
    assert {name: getattr(gating, name) for name in SEED} == SEED
    assert (gating.device, gating.dtype) == ("auto", "fp32")
    assert read_config(GatingModel.config()) == GatingConfig()


def test_flags_set_what_the_config_says():
    gating = GatingModel.config(["--gating.num_uids", "7", "--gating.momentum", "0.5", "--gating.device", "cpu"]).gating
    assert (gating.num_uids, gating.momentum, gating.device) == (7, 0.5, "cpu")


def test_the_command_line_of_the_program_is_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["program", "--gating.num_uids", "7", "--unknown"])
    assert GatingModel.config().gating.num_uids == 4096


def test_a_config_can_be_changed_and_does_not_share_its_settings():
    GatingModel.config().gating.num_uids = 7
    assert GatingModel.config().gating.num_uids == 4096


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("num_uids", 0, "at least 1"),
        ("num_uids", -4, "at least 1"),
        ("num_uids", True, "integer"),
        ("num_uids", 2.5, "integer"),
        ("num_uids", "5", "integer"),
        ("learning_rate", 0.0, "above 0"),
        ("learning_rate", -1e-3, "above 0"),
        ("learning_rate", float("nan"), "finite"),
        ("learning_rate", float("inf"), "finite"),
        ("learning_rate", True, "finite number"),
        ("learning_rate", "0.1", "finite number"),
        ("momentum", -0.1, "at least 0"),
        ("momentum", 1.0, "below 1"),
        ("momentum", float("nan"), "below 1"),
        ("momentum", False, "a number"),
        ("momentum", "0.9", "a number"),
        ("model_name", "", "not empty"),
        ("model_name", 5, "a name"),
        ("device", 0, "torch device"),
        ("dtype", "fp8", "bf16"),
    ],
)
def test_a_bad_setting_is_refused_with_flag_value_and_range(name, value, allowed):
    with pytest.raises(ConfigError) as refused:
        check_config(with_setting(name, value))
    message = str(refused.value)
    assert isinstance(refused.value, ValueError)
    assert message.startswith(f"--gating.{name} is {value!r}; ")
    assert allowed in message


@pytest.mark.parametrize(("name", "value"), [("momentum", 0), ("momentum", 0.0), ("num_uids", 1), ("learning_rate", 1)])
def test_the_ends_of_the_ranges_are_allowed(name, value):
    check_config(with_setting(name, value))


def test_the_namespace_of_another_parser_is_understood():
    parser = argparse.ArgumentParser()
    parser.add_argument("--neuron.name", default="x")
    GatingModel.add_args(parser)
    config = parser.parse_args(["--gating.num_uids", "9"])
    assert read_config(config).num_uids == 9


def test_an_old_config_needs_neither_device_nor_dtype():
    config = MunchLike(gating=MunchLike(SEED | {"num_uids": 12, "other_flag": 1}), wallet=MunchLike(name="w"))
    assert read_config(config) == GatingConfig(num_uids=12)


def test_the_neurons_device_counts_where_the_gate_has_none():
    config = SimpleNamespace(gating=SimpleNamespace(**SEED), neuron=SimpleNamespace(device="cuda:3"))
    assert read_config(config).device == "cuda:3"
    config.gating.device = "cpu"
    assert read_config(config).device == "cpu"


def test_a_setting_that_is_missing_is_named():
    config = SimpleNamespace(gating=SimpleNamespace(model_name="x", num_uids=3, learning_rate=0.1))
    with pytest.raises(ConfigError, match=r"--gating\.momentum is missing"):
        check_config(config)
    with pytest.raises(ConfigError, match=r"--gating\.model_name is missing"):
        check_config(object())


def test_reading_leaves_the_callers_config_as_it_is():
    config = SimpleNamespace(gating=SimpleNamespace(**SEED), neuron=SimpleNamespace(device="cpu"))
    before = copy.deepcopy(config)
    read_config(config)
    assert config == before


def test_the_settings_are_frozen_and_closed():
    with pytest.raises(ValidationError, match="frozen"):
        GatingConfig().num_uids = 3
    with pytest.raises(ValidationError, match="Extra inputs"):
        GatingConfig(uids=3)


def test_every_setting_explains_itself():
    assert all(field.description for field in GatingConfig.model_fields.values())
