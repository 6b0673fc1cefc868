from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from deployments.config import ServeArgs
from deployments.serve_config import (
    IMPORT_PATH,
    ServeConfigError,
    absolute_checkpoints_url,
    absolute_log_url,
    check_serve_config,
    parse_args,
    read_serve_config,
    with_absolute_paths,
)
from learner.chain import check_source

ROOT = Path(__file__).resolve().parents[2]
CONFIG: dict[str, Any] = {
    "proxy_location": "EveryNode",
    "http_options": {"host": "127.0.0.1", "port": 8000},
    "logging_config": {"log_level": "ERROR"},
    "applications": [
        {
            "name": "gate",
            "route_prefix": "/",
            "import_path": IMPORT_PATH,
            "runtime_env": {"env_vars": {"ANY": "thing"}},
            "args": {"encoder": {"kind": "sentence"}, "learner": {"rule": {"name": "adagrad", "bonus": 0.5}}},
            "deployments": [
                {
                    "name": "Gate",
                    "ray_actor_options": {"num_cpus": 1, "resources": {"any": 1}},
                    "autoscaling_config": {"min_replicas": 1, "max_replicas": 2},
                    "user_config": {"any": "thing"},
                }
            ],
        }
    ],
}


def changed(place: str, value: object) -> dict[str, Any]:
    """CONFIG with the value at a dotted place."""
    raw = copy.deepcopy(CONFIG)
    *path, last = place.split(".")
    node: Any = raw
    for part in path:
        node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
    node[int(last) if isinstance(node, list) else last] = value
    return raw


def test_the_repositorys_own_config_passes_and_listens_on_loopback() -> None:
    config = read_serve_config(ROOT / "serve_config.yaml")
    [application] = config.applications
    assert (config.http_options.host, config.http_options.port) == ("127.0.0.1", 8000)
    assert (application.import_path, application.route_prefix) == (IMPORT_PATH, "/")
    assert isinstance(application.args, dict)
    assert parse_args(application.args) == ServeArgs()


def test_what_serve_allows_passes_untouched() -> None:
    config = check_serve_config(CONFIG)
    [application] = config.applications
    assert application.runtime_env == {"env_vars": {"ANY": "thing"}}
    assert application.args == CONFIG["applications"][0]["args"]


def test_arguments_of_other_applications_are_their_own_affair() -> None:
    raw = changed("applications.0.import_path", "elsewhere:app")
    raw["applications"][0]["args"] = {"anything": 1}
    assert check_serve_config(raw).applications[0].args == {"anything": 1}


@pytest.mark.parametrize(
    ("place", "meant"),
    [
        ("aplications", "applications"),
        ("http_options.prot", "port"),
        ("grpc_options.prt", "port"),
        ("logging_config.log_levl", "log_level"),
        ("applications.0.route_prefx", "route_prefix"),
        ("applications.0.arg", "args"),
        ("applications.0.deployments.0.num_replica", "num_replicas"),
        ("applications.0.deployments.0.ray_actor_options.num_gpu", "num_gpus"),
        ("applications.0.deployments.0.autoscaling_config.max_replica", "max_replicas"),
        ("applications.0.args.encodr", "encoder"),
        ("applications.0.args.encoder.model", "model_name"),
        ("applications.0.args.chain.rooster", "roster"),
        ("applications.0.args.learner.publish_interval", "publish_interval_ms"),
        ("applications.0.args.learner.rule.learning_rat", "learning_rate"),
        ("applications.0.args.serving.max_queue_token", "max_queue_tokens"),
        ("applications.0.args.selection.epsilom", "epsilon"),
        ("applications.0.args.auth.mod", "mode"),
        ("applications.0.args.replica.num_gpu", "num_gpus"),
        ("applications.0.args.replica.autoscaling.max_replica", "max_replicas"),
    ],
)
def test_an_unknown_key_is_refused_at_every_level_with_what_was_meant(place: str, meant: str) -> None:
    with pytest.raises(ServeConfigError) as caught:
        check_serve_config(changed(place, 1))
    assert str(caught.value) == f"{place} is not a setting; did you mean {meant}?"


def test_an_unknown_key_like_no_other_is_refused_with_all_that_are_known() -> None:
    with pytest.raises(ServeConfigError, match=r"args\.replica\.xyzzy is not a setting; known are autoscaling, "):
        check_serve_config(changed("applications.0.args.replica.xyzzy", 1))


@pytest.mark.parametrize(("name", "value"), [("num_replicas", 3), ("autoscaling_config", {"max_replicas": 3})])
def test_an_override_of_what_autoscaling_decides_is_refused(name: str, value: object) -> None:
    # Serve would take no notice of the one, and of the policy none where there is the other.
    raw = changed("applications.0.deployments", [{"name": "Gate", name: value}])
    assert check_serve_config(raw).applications[0].deployments[0].name == "Gate"
    raw["applications"][0]["args"]["replica"] = {"autoscaling": {"max_replicas": 2}}
    with pytest.raises(ServeConfigError, match=rf"deployments\.0\.{name} and applications\.0\.args.* leave one out"):
        check_serve_config(raw)


def test_a_setting_of_another_rule_is_refused() -> None:
    with pytest.raises(ServeConfigError, match=r"args\.learner\.rule\.adagrad\.momentum is not a setting"):
        check_serve_config(changed("applications.0.args.learner.rule.momentum", 0.9))


@pytest.mark.parametrize(
    ("place", "value", "named"),
    [
        ("applications", 5, "applications: "),
        ("applications", None, "applications: "),
        ("applications.0", "gate", "applications.0: "),
        ("applications.0.deployments", 5, "applications.0.deployments: "),
        ("applications.0.args", 5, "applications.0.args"),
        ("applications.0.import_path", "nowhere", "applications.0.import_path: "),
        ("http_options", "127.0.0.1", "http_options: "),
        ("http_options.port", "many", "http_options.port: "),
        ("http_options.port", 0, "http_options.port: "),
        ("http_options.port", -1, "http_options.port: "),
        ("http_options.port", 70_000, "http_options.port: "),
        ("applications.0.args.encoder", 5, "applications.0.args.encoder: "),
        ("applications.0.args.encoder.kind", "image", "applications.0.args.encoder.kind: "),
        ("applications.0.args.selection.epsilon", 1.5, "applications.0.args.selection.epsilon: "),
        ("applications.0.args.learner.rule.name", "magic", "applications.0.args.learner.rule: "),
        ("applications.0.args.learner.reward_range", [1, 0], "applications.0.args.learner: "),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_with_its_place(place: str, value: object, named: str) -> None:
    with pytest.raises(ServeConfigError) as caught:
        check_serve_config(changed(place, value))
    assert str(caught.value).startswith(named), caught.value
    assert "got" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"applications: [", "is not YAML"),
        (b"applications: 2024-99-99", "is not YAML"),
        (b"applications: \xff\xfe", "is not YAML"),
        (b"- a list", "must hold a mapping with `applications:`, got list"),
        (b"", "must hold a mapping with `applications:`, got NoneType"),
        (b"{}", "applications: Field required"),
    ],
)
def test_a_file_that_is_no_config_says_what_it_is(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes(content)
    with pytest.raises(ServeConfigError, match=message):
        read_serve_config(path)


def test_a_missing_file_is_named_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ServeConfigError, match=r"nowhere\.yaml cannot be read: No such file.*--config"):
        read_serve_config(tmp_path / "nowhere.yaml")


def test_a_config_without_applications_is_refused() -> None:
    with pytest.raises(ServeConfigError, match="applications is empty"):
        check_serve_config({"applications": []})


def test_the_example_of_two_subnets_is_two_applications_with_chains_of_their_own() -> None:
    config = read_serve_config(ROOT / "examples" / "serve_config.subnets.yaml")
    args = {app.route_prefix: parse_args(app.args) for app in config.applications if isinstance(app.args, dict)}
    assert {app.name for app in config.applications} == {"sn1", "sn23"}
    assert {prefix: (one.chain.source, one.chain.netuid) for prefix, one in args.items()} == {
        "/sn1": ("bittensor", 1),
        "/sn23": ("bittensor", 23),
    }
    for one in args.values():
        check_source(one.chain)


@pytest.mark.parametrize(
    ("chain", "message"),
    [
        ({"source": "bittensor", "netuid": 1, "netwrk": "test"}, "chain.netwrk is not a setting; did you mean network"),
        ({"source": "bittensor", "netuid": 1, "roster": "r.yaml"}, r"chain\.bittensor\.roster is not a setting"),
        ({"source": "bittensor"}, r"chain\.bittensor\.netuid: Field required"),
        ({"source": "ethereum"}, r"args\.chain: .*ethereum"),
    ],
)
def test_a_chain_that_cannot_be_is_refused_by_the_place_of_what_is_wrong(chain: dict[str, Any], message: str) -> None:
    with pytest.raises(ServeConfigError, match=message):
        check_serve_config(changed("applications.0.args.chain", chain))


FOLDER = Path("/srv/gate")


@pytest.mark.parametrize(
    ("url", "absolute"),
    [
        ("sqlite:///tidegate-data/{app}/events.db", "sqlite:////srv/gate/tidegate-data/{app}/events.db"),
        ("sqlite:///events.db", "sqlite:////srv/gate/events.db"),
        ("sqlite:////var/lib/events.db", "sqlite:////var/lib/events.db"),
        ("sqlite:///", "sqlite:///"),
        ("postgresql://me@db/gate", "postgresql://me@db/gate"),
        ("postgresql:///gate", "postgresql:///gate"),
        ("memory", "memory"),
    ],
)
def test_the_path_of_a_log_begins_beside_the_config(url: str, absolute: str) -> None:
    assert absolute_log_url(url, FOLDER) == absolute


@pytest.mark.parametrize(
    ("url", "absolute"),
    [
        ("tidegate-data/{app}/checkpoints", "/srv/gate/tidegate-data/{app}/checkpoints"),
        ("/var/lib/checkpoints", "/var/lib/checkpoints"),
        ("~/checkpoints", "~/checkpoints"),
        ("file:///var/lib/checkpoints", "file:///var/lib/checkpoints"),
        ("s3://bucket/{app}", "s3://bucket/{app}"),
    ],
)
def test_the_path_of_checkpoints_begins_beside_the_config(url: str, absolute: str) -> None:
    assert absolute_checkpoints_url(url, FOLDER) == absolute


@pytest.mark.parametrize(
    "learner",
    [
        None,
        {},
        {"rule": {"name": "adagrad"}},
        {"log": {"lease_s": 3.0}, "checkpoints": {"keep": 2}},
        {"log": {"url": "memory"}, "checkpoints": {"url": "s3://bucket"}},
    ],
)
def test_only_the_urls_of_log_and_checkpoints_change(learner: dict[str, Any] | None) -> None:
    args: dict[str, Any] = {"selection": {"epsilon": 0.1}} | ({} if learner is None else {"learner": learner})
    config = check_serve_config(changed("applications.0.args", args))
    before = parse_args(args)
    [application] = with_absolute_paths(config, FOLDER).applications
    assert isinstance(application.args, dict)
    after = parse_args(application.args)
    assert after.learner.log.url == absolute_log_url(before.learner.log.url, FOLDER)
    assert after.learner.checkpoints.url == absolute_checkpoints_url(before.learner.checkpoints.url, FOLDER)
    expected = before.model_dump()
    expected["learner"]["log"]["url"] = after.learner.log.url
    expected["learner"]["checkpoints"]["url"] = after.learner.checkpoints.url
    assert after.model_dump() == expected
    assert (application.name, application.runtime_env) == ("gate", {"env_vars": {"ANY": "thing"}})
    # What was read is as it was.
    assert config.applications[0].args == args


def test_the_arguments_of_other_applications_keep_their_paths() -> None:
    raw = changed("applications.0.import_path", "elsewhere:app")
    raw["applications"][0]["args"] = {"learner": {"log": {"url": "sqlite:///events.db"}}}
    config = check_serve_config(raw)
    assert with_absolute_paths(config, FOLDER).applications[0].args == raw["applications"][0]["args"]
