"""A service whose parts die, that is stopped and started again, and whose operators change what it knows.

It is the one that test_deaths has before.
"""

from __future__ import annotations

import os
import re
import signal
from typing import Any

import httpx
import pytest
import yaml

from deployments.local import wait_until_ended

from .books import (
    PROMPTS,
    checkpoints,
    database,
    execute,
    item,
    learn_something,
    newest,
    refusal,
    replay,
    reward,
    rows,
    said_by,
    scores,
    select,
    tidegate,
)
from .service import Service, kill, wait_for

N = 16


@pytest.fixture(scope="module")
def service(durable_service: Service) -> Service:
    return durable_service


def versions(service: Service) -> list[int]:
    """What each replica answers with."""
    body = {"messages": ["moon"]}
    answers = [httpx.post(f"{url}/v1/score", json=body, timeout=30).json() for url in service.replica_urls()]
    return [answer["weights"]["version"] for answer in answers]


def held(service: Service) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = service.http.get("/v1/admin/quarantine").json()["events"]
    return events


def message_rewards(name: str) -> dict[str, Any]:
    """Two events in one batch."""
    return {
        "rewards": [
            {"reward_id": f"{name}-{number}", "message": text, "uids": [number, number + 1], "rewards": [1.0, 0.1]}
            for number, text in enumerate(PROMPTS[:2])
        ],
        "wait": "published",
    }


def test_a_killed_learner_has_the_same_weights_again_and_what_it_acknowledged_last(service: Service) -> None:
    version = learn_something(service)
    before, epoch = scores(service), service.state()["learner"]["epoch"]
    victim = service.learner_pid()
    kill(victim)
    seen: list[int] = []

    def is_back() -> bool:
        seen.extend(versions(service))
        return bool(service.state()["learner"].get("epoch", 0) > epoch)

    wait_for(is_back)
    assert min(seen) >= version
    assert scores(service) == before
    assert service.state()["learner"]["epoch"] == epoch + 1

    selection = select(service)
    assert reward(service, selection, [1.0, 0.0], wait="logged")["accepted"] == 2
    kill(service.learner_pid())
    wait_for(lambda: service.state()["learner"].get("epoch", 0) > epoch + 1)
    after = scores(service)
    changed = [uid for uid in range(N) if after[0][uid] != before[0][uid]]
    assert sorted(changed) == sorted(selection["uids"])
    assert reward(service, selection, [1.0, 0.0])["duplicates"] == 2


def test_a_durable_selection_outlives_its_replica(service: Service) -> None:
    selection = select(service, durable=True)
    [(logged,)] = rows(service, f"SELECT count(*) FROM decisions WHERE id = '{selection['decision_id']}'")
    assert logged == 1
    replicas = {replica["incarnation"]: replica["pid"] for replica in service.state()["replicas"]}
    victim = replicas[selection["decision_id"].partition("-")[0]]
    kill(victim)
    wait_for(lambda: victim not in service.replica_pids())
    rewards = {"rewards": [item(selection, [1.0, 1.0])]}
    # The proxy may still send a request to the one that has died.
    report = wait_for(
        lambda: (answer := service.http.post("/v1/rewards", json=rewards)).is_success and answer.json()  # type: ignore[return-value]
    )
    assert (report["accepted"], report["rejected"]) == (2, [])
    wait_for(lambda: len(service.replica_urls()) == 2)


def test_a_replica_that_starts_while_the_learner_hangs_serves_the_newest_checkpoint(service: Service) -> None:
    learn_something(service)
    saved = service.post("/v1/admin/checkpoint", {})
    before = scores(service)
    learner, [victim, other] = service.learner_pid(), sorted(service.replica_pids())
    os.kill(learner, signal.SIGSTOP)
    try:
        kill(victim)
        wait_for(lambda: len(set(service.replica_pids()) - {victim, other}) == 1 and len(service.replica_urls()) == 2)
        body = {"messages": PROMPTS}
        for url in service.replica_urls():
            answer = httpx.post(f"{url}/v1/score", json=body, timeout=30).json()
            assert answer["degraded"]
            assert (answer["weights"]["epoch"], answer["weights"]["version"]) == (saved["epoch"], saved["version"])
            assert [row["scores"] for row in answer["scores"]] == before
    finally:
        os.kill(learner, signal.SIGCONT)
    version = learn_something(service)
    wait_for(lambda: versions(service) == [version] * 2)
    wait_for(lambda: not any(httpx.get(f"{url}/readyz").json()["degraded"] for url in service.replica_urls()))


def test_what_is_reported_during_a_freeze_is_learned_afterwards_as_if_there_had_been_none(service: Service) -> None:
    start, before = newest(service), scores(service)
    assert service.post("/v1/rewards", message_rewards("direct"))["accepted"] == 4
    direct = scores(service)
    assert direct != before
    assert service.post("/v1/admin/rollback", {"version": start})["restored"] == start
    assert scores(service) == before
    assert service.post("/v1/admin/quarantine", {"action": "drop"})["quarantined"] == 0

    frozen = service.post("/v1/admin/freeze", {})
    report = service.post("/v1/rewards", {**message_rewards("frozen"), "wait": "applied"}, timeout=10.0)
    assert (report["accepted"], report["reached"]) == (4, False)
    learner = service.state()["learner"]
    assert (learner["frozen"], learner["quarantine"]["frozen"]) == (True, 2)
    assert scores(service) == before
    thawed = service.post("/v1/admin/freeze", {"frozen": False})
    assert (thawed["frozen"], thawed["version"] > frozen["version"]) == (False, True)
    assert scores(service) == direct


def test_a_rollback_brings_the_weights_of_a_version_or_a_checkpoint_back_to_the_bit(service: Service) -> None:
    saved = service.post("/v1/admin/checkpoint", {})
    at_checkpoint = scores(service)
    version = learn_something(service)
    at_version = scores(service)
    later = learn_something(service)
    latest = scores(service)

    back = service.post("/v1/admin/rollback", {"version": version})
    assert back["restored"] == version
    assert back["version"] > later
    assert back["quarantined"] == len(held(service)) == len(PROMPTS)
    assert {event["reason"] for event in held(service)} == {"rolled_back"}
    assert scores(service) == at_version
    assert service.post("/v1/admin/quarantine", {"action": "readmit"})["quarantined"] == 0
    assert scores(service) != at_version

    further = service.post("/v1/admin/rollback", {"checkpoint": saved["name"]})
    assert further["restored"] == saved["version"]
    assert further["version"] > back["version"]
    assert scores(service) == at_checkpoint
    seqs = [event["seq"] for event in held(service)]
    assert service.post("/v1/admin/quarantine", {"action": "drop", "seqs": seqs[:1]})["quarantined"] == len(seqs) - 1
    assert [event["seq"] for event in held(service)] == seqs[1:]
    assert latest != at_checkpoint
    unknown = service.http.post("/v1/admin/rollback", json={"version": newest(service) + 1})
    assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown_version")
    assert service.post("/v1/admin/quarantine", {"action": "drop"})["quarantined"] == 0


def test_what_operators_did_is_in_the_log_with_their_names(service: Service) -> None:
    actions = rows(service, "SELECT action, author FROM operator_actions JOIN events USING (seq) ORDER BY seq")
    done = "shadow checkpoint rollback drop freeze thaw checkpoint rollback readmit rollback drop drop"
    assert [action for action, _ in actions] == done.split()
    assert [author for _, author in actions] == ["configuration", *["anonymous"] * (len(actions) - 1)]


def test_a_shadow_is_compared_promoted_and_still_serves_after_a_kill(service: Service) -> None:
    def rules() -> dict[str, Any]:
        found: dict[str, Any] = service.state()["learner"]["rules"]
        return found

    def is_compared() -> bool:
        reward(service, select(service), [1.0, 0.0])
        return bool(rules()["other"]["would_earn"]["decisions"] >= 2)

    wait_for(is_compared)
    assert rules()["other"]["would_earn"]["better_by"]["status"] in ("ok", "no_support")
    before = scores(service)
    said = tidegate("promote", "other", "--url", service.url).stdout
    version = rules()["other"]["served_since"]
    assert said == f"other serves from version {version} on\n"
    assert rules()["adagrad"]["serves"] is False
    wait_for(lambda: min(versions(service)) >= version)
    promoted = scores(service)
    assert promoted != before
    kill(service.learner_pid())
    wait_for(lambda: service.state()["learner"].get("status") == "running")
    assert service.state()["learner"]["rule"] == "pooled_ridge"
    assert scores(service) == promoted
    tidegate("promote", "adagrad", "--url", service.url)
    wait_for(lambda: service.state()["learner"]["rule"] == "adagrad")
    assert scores(service) == before


def test_a_restart_goes_on_where_it_ended_even_from_the_checkpoint_before_a_damaged_one(service: Service) -> None:
    selection, late = select(service, durable=True), select(service, durable=True)
    reward(service, selection, [0.7, 0.1])
    service.post("/v1/admin/checkpoint", {})
    learn_something(service)
    before, version, epoch = scores(service), newest(service), service.state()["learner"]["epoch"]
    processes = service.processes()
    assert any(process.name() == "haproxy" for process in processes)
    assert service.stop(signal.SIGTERM) == 0
    assert wait_until_ended(processes, 10) == []
    manifest = checkpoints(service).list()[0]
    assert manifest.version == version
    tensors = database(service).parent / "checkpoints" / manifest.name / manifest.tensors
    tensors.write_bytes(tensors.read_bytes()[:-1])

    service.start_again()
    learner = wait_for(lambda: (state := service.state()["learner"])["status"] == "running" and state)
    assert learner["epoch"] == epoch + 1
    assert learner["version"] >= version
    assert scores(service) == before
    [line] = [line for line in said_by(service.learner_pid()).splitlines() if "checkpoint_skipped" in line]
    assert manifest.name in line
    assert reward(service, selection, [0.7, 0.1])["duplicates"] == 2
    assert reward(service, late, [0.4, 0.6])["accepted"] == 2
    explained = service.http.get(f"/v1/decisions/{late['decision_id']}").json()
    assert explained["rewards"] == dict(zip(map(str, late["uids"]), [0.4, 0.6], strict=True))
    assert explained["propensities"] == late["propensities"]


def test_nothing_is_lost_when_everything_is_killed(service: Service) -> None:
    wait_for(lambda: len(service.replica_urls()) == 2)
    selection = select(service)
    assert reward(service, selection, [0.2, 0.8], wait="logged")["accepted"] == 2
    kill(service.learner_pid())
    kill(service.process.pid)
    service.wait()
    assert "stopped" in tidegate("down", "--port", str(service.port)).stdout
    expected = replay(service)
    service.start_again()
    wait_for(lambda: service.state()["learner"]["status"] == "running")
    saved = service.post("/v1/admin/checkpoint", {})
    assert replay(service, "--to", str(expected["version"]))["digest"] == expected["digest"]
    assert replay(service)["digest"] == saved["digest"]
    assert reward(service, selection, [0.2, 0.8])["duplicates"] == 2


def test_an_erased_embedding_is_gone_and_what_was_learned_from_it_stays(service: Service) -> None:
    selection = select(service)
    assert reward(service, selection, [1.0, 0.3])["accepted"] == 2
    before = scores(service)
    query = f"SELECT embedding IS NULL FROM decisions WHERE id = '{selection['decision_id']}'"
    assert rows(service, query) == [(0,)]
    assert service.http.delete(f"/v1/decisions/{selection['decision_id']}").is_success
    assert rows(service, query) == [(1,)]
    epoch = service.state()["learner"]["epoch"]
    kill(service.learner_pid())
    wait_for(lambda: service.state()["learner"].get("epoch", 0) > epoch)
    assert scores(service) == before
    assert replay(service)["erased"] == 1
    processes = service.processes()
    assert tidegate("down", "--port", str(service.port)).stdout == f"stopped the service on port {service.port}\n"
    assert wait_until_ended(processes, 10) == []
    assert service.wait() == 0


def set_rule(service: Service, name: str) -> None:
    config = yaml.safe_load(service.config_path.read_text(encoding="utf-8"))
    config["applications"][0]["args"]["learner"]["rule"] = {"name": name}
    service.config_path.write_text(yaml.safe_dump(config), encoding="utf-8")


def test_another_rule_is_refused_until_the_log_was_replayed_with_it(service: Service) -> None:
    saved = checkpoints(service).list()[0]
    set_rule(service, "softmax_mse")
    said = refusal(service)
    assert f"checkpoint {saved.name} has the rule" in said
    assert "starting Ray" not in said
    [command] = re.findall(r"`tidegate replay ([^`]*)`", " ".join(said.split()))
    rebuilt = replay(service, *command.split())
    assert rebuilt["digest"] != saved.digest
    service.start_again()
    learner = wait_for(lambda: (state := service.state()["learner"])["status"] == "running" and state)
    assert learner["rule"] == "softmax_mse"
    # Reading the roster again when it starts is an event, and so is the shadow, which was not replayed.
    assert rebuilt["version"] <= learner["version"] <= rebuilt["version"] + 2
    learn_something(service)
    assert service.stop() == 0
    assert replay(service)["digest"] == checkpoints(service).list()[0].digest


def test_checkpoints_whose_log_is_gone_are_only_set_aside_on_request(service: Service) -> None:
    names = [manifest.name for manifest in checkpoints(service).list()]
    for path in database(service).parent.glob("events.db*"):
        path.unlink()
    assert "--reset" in refusal(service)
    assert not database(service).exists()
    service.start_again("--reset")
    assert f"set aside {len(names)}: {names[0]}" in service.log
    learner = wait_for(lambda: (state := service.state()["learner"])["status"] == "running" and state)
    # Its first event says which shadows there are.
    assert learner["epoch"] == 1
    assert learner["version"] <= 1
    folder = database(service).parent / "checkpoints"
    assert {path.parent.name for path in folder.glob("set-aside-*/*/manifest.json")} == set(names)
    learn_something(service)
    assert service.stop() == 0


def test_a_database_that_a_newer_tidegate_has_written_is_refused(service: Service) -> None:
    [(revision,)] = rows(service, "SELECT version_num FROM tidegate_schema")
    execute(service, "UPDATE tidegate_schema SET version_num = '9999'")
    assert "upgrade Tidegate" in refusal(service)
    execute(service, f"UPDATE tidegate_schema SET version_num = '{revision}'")


def test_a_file_that_is_no_database_is_refused(service: Service) -> None:
    for path in database(service).parent.glob("events.db-*"):
        path.unlink()
    database(service).write_bytes(b"this is not a database, but it is long enough" * 200)
    said = refusal(service)
    assert f"sqlite:///{database(service)} is damaged, or is no database" in said
    assert "restore it" in said


def set_log(service: Service, url: str) -> None:
    config = yaml.safe_load(service.config_path.read_text(encoding="utf-8"))
    config["applications"][0]["args"]["learner"]["log"]["url"] = url
    service.config_path.write_text(yaml.safe_dump(config), encoding="utf-8")


def test_a_log_that_cannot_be_had_is_refused_at_once_and_without_its_password(
    service: Service, unused_tcp_port: int
) -> None:
    set_log(service, f"sqlite:///{service.config_path}/events.db")
    assert f"the log's folder {service.config_path} cannot be made" in refusal(service)
    set_log(service, f"postgresql://me:secret-word@127.0.0.1:{unused_tcp_port}/gate")
    said = refusal(service, timeout_s=20.0)
    assert "the log's database cannot be reached" in said
    assert str(unused_tcp_port) in said
    assert "secret-word" not in said
