from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import psutil
import pytest
import yaml
from ray.serve.schema import ServeApplicationSchema, ServeDeploySchema

from deployments import runner
from deployments.config import ReplicaArgs, ServeArgs
from deployments.local import ProcessId, RunFile, ServiceError
from deployments.runner import _checked_args, _cpus, set_checkpoints_aside
from deployments.serve_config import IMPORT_PATH, parse_args
from learner.checkpoint import CheckpointStore
from learner.config import SoftmaxMseConfig
from learner.errors import LogError, LogUnavailableError, WrongLogError

from .local_learner import LocalLearner
from .local_service import DIM, FINGERPRINT, VIEW

ROOT = Path(__file__).resolve().parents[2]


async def save_checkpoint(folder: Path) -> tuple[CheckpointStore, str]:
    store = CheckpointStore(str(folder), keep=2)
    learner = LocalLearner(VIEW, dim=DIM, fingerprint=FINGERPRINT, rule=SoftmaxMseConfig(), checkpoints=store)
    return store, (await learner.checkpoint("boss"))["name"]


async def test_a_reset_sets_the_checkpoints_of_each_application_aside_and_says_so(tmp_path: Path) -> None:
    kept, name = await save_checkpoint(tmp_path / "a" / "checkpoints")
    learner = {
        "log": {"url": f"sqlite:///{tmp_path}/{{app}}/events.db"},
        "checkpoints": {"url": f"{tmp_path}/{{app}}/checkpoints"},
    }
    durable = ServeArgs.model_validate({"learner": learner})
    forgetful = ServeArgs.model_validate({"learner": {**learner, "log": {"url": "memory"}}})
    said: list[str] = []
    set_checkpoints_aside({"a": durable, "b": durable, "c": forgetful}, said.append)
    assert said == [f"checkpoints of a: set aside 1: {name}", "checkpoints of b: there were none to set aside"]
    assert kept.list() == []
    assert list((tmp_path / "a" / "checkpoints").rglob("*.safetensors")) != []


def write_config(folder: Path) -> Path:
    application = {
        "name": "gate",
        "import_path": IMPORT_PATH,
        "args": {"chain": {"roster": str(ROOT / "roster.yaml")}},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({"http_options": {"host": "127.0.0.1"}, "applications": [application]}))
    return path


@pytest.fixture
def deployed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[ServeDeploySchema]:
    """What was deployed, where there is neither Ray nor anything to end: deploying then fails."""
    configs: list[ServeDeploySchema] = []

    def deploy(config: ServeDeploySchema) -> None:
        configs.append(config)
        raise ServiceError("deploying failed")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(runner, "_start_ray", lambda *_: "")
    monkeypatch.setattr(runner, "_join_ray", lambda *_: None)
    monkeypatch.setattr(runner, "running_serve", lambda: None)
    monkeypatch.setattr(runner, "start_or_join_serve", lambda config: config)
    monkeypatch.setattr(runner, "turn", lambda **_: contextlib.nullcontext())
    monkeypatch.setattr(runner, "_deploy", deploy)
    for name in ("interrupt_on_signals", "ignore_signals", "claim_port", "end_processes"):
        monkeypatch.setattr(runner, name, lambda *_: None)
    return configs


async def test_what_the_learner_would_refuse_is_an_error_before_anything_starts(
    tmp_path: Path, deployed: list[ServeDeploySchema], monkeypatch: pytest.MonkeyPatch
) -> None:
    await save_checkpoint(tmp_path / "tidegate-data" / "gate" / "checkpoints")
    monkeypatch.setattr(runner, "_start_ray", lambda *_: pytest.fail("Ray was started"))
    service = runner.running_service(write_config(tmp_path), address=None, say=lambda _: None)
    with pytest.raises(WrongLogError, match="--reset"), service:
        pass
    assert deployed == []


@pytest.mark.parametrize("reset", [False, True])
async def test_serving_deploys_absolute_paths_and_sets_checkpoints_aside_only_if_told_to(
    tmp_path: Path, deployed: list[ServeDeploySchema], reset: bool
) -> None:
    store, name = await save_checkpoint(tmp_path / "tidegate-data" / "gate" / "checkpoints")
    path = write_config(tmp_path)
    said: list[str] = []
    with (
        pytest.raises(ServiceError, match="deploying failed"),
        # Of a cluster elsewhere nothing is known here.
        runner.running_service(path, address="10.0.0.1:6379", say=said.append, reset=reset),
    ):
        pass
    [config] = deployed
    deployed_args = config.applications[0].args
    assert isinstance(deployed_args, dict)
    learner = parse_args(deployed_args).learner
    assert learner.log.url == f"sqlite:///{tmp_path}/tidegate-data/{{app}}/events.db"
    assert learner.checkpoints.url == f"{tmp_path}/tidegate-data/{{app}}/checkpoints"
    assert [manifest.name for manifest in store.list()] == ([] if reset else [name])
    assert (f"checkpoints of gate: set aside 1: {name}" in said) is reset


def test_what_is_refused_before_it_is_deployed_takes_nothing_down(
    tmp_path: Path, deployed: list[ServeDeploySchema], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_config: ServeDeploySchema) -> ServeDeploySchema:
        raise ServiceError("an application 'gate' runs on that cluster already")

    taken_down: list[str] = []
    monkeypatch.setattr(runner, "start_or_join_serve", refuse)
    monkeypatch.setattr(runner.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(runner.ray, "shutdown", lambda: None)
    monkeypatch.setattr(runner, "remove_apps", lambda apps, **_: taken_down.extend(apps))
    monkeypatch.setattr(runner, "stop_learner", taken_down.append)
    with (
        pytest.raises(ServiceError, match="runs on that cluster already"),
        runner.running_service(write_config(tmp_path), address="10.0.0.1:6379", say=lambda _: None),
    ):
        pass
    assert (deployed, taken_down) == ([], [])


def test_a_port_that_is_claimed_is_an_error_before_anything_is_started_or_ended(
    tmp_path: Path, deployed: list[ServeDeploySchema], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ServiceError("port 8000 is claimed")

    monkeypatch.setattr(runner, "claim_port", refuse)
    monkeypatch.setattr(runner, "_start_ray", lambda *_: pytest.fail("Ray was started"))
    for name in ("interrupt_on_signals", "ignore_signals", "end_processes"):
        monkeypatch.setattr(runner, name, lambda *_: pytest.fail("this process and its own were touched"))
    service = runner.running_service(write_config(tmp_path), address=None, say=lambda _: None)
    with pytest.raises(ServiceError, match="claimed"), service:
        pass
    assert deployed == []


def test_of_two_services_on_one_serve_instance_the_first_has_the_run_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    parent = RunFile(8123, "", ProcessId.of(psutil.Process(os.getppid())), [])
    parent.write()
    runner._write_run_file(8123, "")
    runner._remove_run_file(8123)
    assert RunFile.read(8123) == parent
    RunFile(8123, "", ProcessId(2**22 + 1, 0.0), []).write()
    runner._write_run_file(8123, "")
    found = RunFile.read(8123)
    assert found is not None
    assert found.serve == ProcessId.of(psutil.Process())
    runner._remove_run_file(8123)
    assert RunFile.read(8123) is None


@pytest.mark.parametrize("error", [ConnectionError("nobody there"), RuntimeError("another Ray version")])
def test_a_cluster_that_cannot_be_joined_is_named_with_the_reason(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_options: object) -> None:
        raise error

    monkeypatch.setattr(runner.ray, "init", fail)
    with pytest.raises(ServiceError, match=rf"cluster at 10.0.0.1:6379 cannot be joined \({error}\); .* --address"):
        runner.take_down_cluster_apps("10.0.0.1:6379")


def application(url: str) -> ServeApplicationSchema:
    args = {"learner": {"log": {"url": url}}}
    return ServeApplicationSchema(name="gate", import_path=IMPORT_PATH, args=args)


@pytest.mark.parametrize("url", ["memory", "sqlite:///{folder}/{{app}}/deep/events.db"])
def test_a_log_that_can_be_had_passes(tmp_path: Path, url: str) -> None:
    checked = _checked_args(application(url.format(folder=tmp_path)), "127.0.0.1")
    assert checked.auth.mode == "none"
    assert not list(tmp_path.rglob("events.db"))


def test_a_log_whose_folder_cannot_be_made_is_an_error_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        LogUnavailableError, match=r"the log's folder .*/file/gate cannot be made \(.*learner\.log\.url"
    ):
        _checked_args(application(f"sqlite:///{tmp_path}/file/{{app}}/events.db"), "127.0.0.1")


def test_a_log_whose_folder_cannot_be_written_is_an_error_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(LogUnavailableError, match="cannot be written"):
        _checked_args(application(f"sqlite:///{tmp_path}/events.db"), "127.0.0.1")


def test_a_database_that_cannot_be_reached_is_an_error_without_its_password(unused_tcp_port: int) -> None:
    with pytest.raises(LogUnavailableError, match="cannot be reached") as caught:
        _checked_args(application(f"postgresql://me:secret-word@127.0.0.1:{unused_tcp_port}/gate"), "127.0.0.1")
    assert "secret-word" not in str(caught.value)
    assert str(unused_tcp_port) in str(caught.value)


def test_a_url_that_is_none_is_an_error_that_does_not_repeat_it() -> None:
    with pytest.raises(LogError) as caught:
        _checked_args(application("mysql://me:secret-word@db/gate"), "127.0.0.1")
    assert "secret-word" not in str(caught.value)


@pytest.mark.parametrize(
    ("replicas", "cpus"), [({"num_replicas": 3}, 6.5), ({"autoscaling": {"min_replicas": 1, "max_replicas": 4}}, 8.5)]
)
def test_ray_is_given_the_cpus_of_as_many_replicas_as_there_may_be(replicas: dict[str, object], cpus: float) -> None:
    assert _cpus(ReplicaArgs.model_validate({**replicas, "num_cpus": 2, "learner_num_cpus": 0.5})) == cpus
