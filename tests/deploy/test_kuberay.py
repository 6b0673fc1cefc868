from __future__ import annotations

import copy
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.config import ReplicaArgs, ServeArgs
from deployments.local import set_ray_environment
from deployments.serve_config import parse_args
from learner.config import RosterChain
from learner.roster import RosterSource
from tests.deploy.manifests import (
    CLUSTERS,
    DEPLOY,
    ROOT,
    Document,
    named,
    ray_cluster,
    ray_groups,
    render,
    schema_errors,
    serve_config,
)

RENDERED = {name: render(name) for name in CLUSTERS}
EVERY_CLUSTER = pytest.mark.parametrize("documents", RENDERED.values(), ids=RENDERED)
_SERVE_DRAINS_S = 35
_LABELS_OF_KUBERAY = ("app.kubernetes.io/name", "app.kubernetes.io/created-by")


def names_set_for_ray(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The variables that `tidegate serve` sets before Ray starts."""
    environment: dict[str, str] = {}
    monkeypatch.setattr("os.environ", environment)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    set_ray_environment()
    return set(environment)


def container_of(group: Document) -> Document:
    """A group's only container."""
    [container] = group["template"]["spec"]["containers"]
    return container


def args_of(documents: list[Document]) -> ServeArgs:
    """The arguments of the only application."""
    return parse_args(serve_config(documents)["applications"][0]["args"])


def fewest_replicas(replica: ReplicaArgs) -> int:
    return replica.num_replicas if replica.autoscaling is None else replica.autoscaling.min_replicas


@EVERY_CLUSTER
def test_every_document_fits_its_schema(documents: list[Document]) -> None:
    assert {one["kind"]: schema_errors(one) for one in documents} == {one["kind"]: [] for one in documents}
    assert {one["kind"] for one in documents} >= {"RayService", "NetworkPolicy", "PodDisruptionBudget", "StatefulSet"}


@pytest.mark.parametrize(
    ("kind", "name", "place", "value"),
    [
        ("RayService", "tidegate", ("spec", "upgradestrategy"), {}),
        ("RayService", "tidegate", ("spec", "upgradeStrategy", "type"), "Sometimes"),
        ("RayService", "tidegate", ("spec", "rayClusterConfig", "gcsFaultToleranceOption"), {}),
        ("RayService", "tidegate", ("spec", "rayClusterConfig", "headGroupSpec", "rayStartParams", "num-cpus"), 0),
        ("RayService", "tidegate", ("spec", "rayClusterConfig", "headGroupSpec", "template", "spec", "container"), []),
        ("PodDisruptionBudget", "tidegate-workers", ("spec", "minAvailble"), 1),
        ("NetworkPolicy", "tidegate", ("spec", "ingress"), {"from": []}),
        ("StatefulSet", "tidegate-redis", ("spec", "replicas"), "1"),
    ],
)
def test_a_document_with_a_mistake_does_not_fit(kind: str, name: str, place: tuple[str, ...], value: Any) -> None:
    document = copy.deepcopy(named(RENDERED["kuberay"], kind, name))
    node = document
    for part in place[:-1]:
        node = node[part]
    node[place[-1]] = value
    assert schema_errors(document)


def test_every_file_of_the_folders_is_used() -> None:
    for name in CLUSTERS:
        [kustomization] = yaml.safe_load_all((DEPLOY / name / "kustomization.yaml").read_text("utf-8"))
        used = {*kustomization["resources"], *(patch["path"] for patch in kustomization.get("patches", []))}
        there = {path.name for path in (DEPLOY / name).iterdir()} - {"kustomization.yaml"}
        assert there == used - {"../kuberay"}


@EVERY_CLUSTER
def test_no_second_cluster_starts_on_the_log_by_itself(documents: list[Document]) -> None:
    assert named(documents, "RayService", "tidegate")["spec"]["upgradeStrategy"] == {"type": "None"}


@EVERY_CLUSTER
def test_nothing_is_placed_on_the_head_and_it_serves_nobody(documents: list[Document]) -> None:
    assert ray_groups(documents)["head"]["rayStartParams"]["num-cpus"] == "0"
    assert named(documents, "RayService", "tidegate")["spec"]["excludeHeadPodFromServeSvc"] is True


@EVERY_CLUSTER
def test_the_head_can_be_lost(documents: list[Document]) -> None:
    options = ray_cluster(documents)["gcsFaultToleranceOptions"]
    redis = named(documents, "Service", "tidegate-redis")
    assert options["redisAddress"] == f"{redis['metadata']['name']}:{redis['spec']['ports'][0]['port']}"
    stateful = named(documents, "StatefulSet", "tidegate-redis")
    [container] = stateful["spec"]["template"]["spec"]["containers"]
    assert container["env"][0]["valueFrom"] == options["redisPassword"]["valueFrom"]
    assert redis["spec"]["selector"].items() <= stateful["spec"]["template"]["metadata"]["labels"].items()
    assert stateful["spec"]["volumeClaimTemplates"]


@EVERY_CLUSTER
def test_a_pod_has_no_other_value_of_a_label_by_which_kuberay_finds_it(documents: list[Document]) -> None:
    # A RayService's own head service selects by the values that KubeRay gives, whatever the template says.
    for group in ray_groups(documents).values():
        labels = group["template"]["metadata"]["labels"]
        assert not [name for name in labels if name in _LABELS_OF_KUBERAY or name.startswith("ray.io/")]


@EVERY_CLUSTER
def test_every_pod_has_the_variables_that_tidegate_serve_sets(
    documents: list[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = named(documents, "ConfigMap", "tidegate-environment")["data"]
    assert set(environment) == names_set_for_ray(monkeypatch)
    assert environment["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    for group in ray_groups(documents).values():
        assert {"configMapRef": {"name": "tidegate-environment"}} in container_of(group)["envFrom"]


@EVERY_CLUSTER
def test_a_pod_that_is_gone_without_a_word_is_found_dead_soon(documents: list[Document]) -> None:
    head = {one["name"]: one["value"] for one in container_of(ray_groups(documents)["head"])["env"]}
    failures, a_check_ms = 5, int(head["RAY_health_check_period_ms"]) + int(head["RAY_health_check_timeout_ms"])
    assert failures * a_check_ms <= 20_000


@EVERY_CLUSTER
def test_the_learner_prefers_a_worker_group_that_there_is(documents: list[Document]) -> None:
    labels = args_of(documents).replica.learner_node_labels
    assert labels == {"ray.io/node-group": "cpu"}
    assert "cpu" in ray_groups(documents)


@EVERY_CLUSTER
def test_ports_of_serve_do_not_collide(documents: list[Document]) -> None:
    environment = named(documents, "ConfigMap", "tidegate-environment")["data"]
    first, last = (int(environment[f"RAY_SERVE_DIRECT_INGRESS_{end}_HTTP_PORT"]) for end in ("MIN", "MAX"))
    others = [int(environment[name]) for name in environment if name.endswith("_PORT") and "INGRESS" not in name]
    others += [port["containerPort"] for port in container_of(ray_groups(documents)["head"])["ports"]]
    assert first < last
    assert not [port for port in others if first <= port <= last]
    assert serve_config(documents)["http_options"]["port"] in others


@EVERY_CLUSTER
def test_every_node_asks_for_rays_token_from_a_secret(documents: list[Document]) -> None:
    assert ray_cluster(documents)["authOptions"] == {"mode": "token", "secretName": "tidegate-ray-token"}
    for group in ray_groups(documents).values():
        assert not [one for one in container_of(group).get("env", []) if one["name"].startswith("RAY_AUTH")]


@EVERY_CLUSTER
def test_every_pod_ends_later_than_serve_has_drained(documents: list[Document]) -> None:
    draining_s = int(
        named(documents, "ConfigMap", "tidegate-environment")["data"]["RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"]
    )
    for group in ray_groups(documents).values():
        [_sleep, seconds] = container_of(group)["lifecycle"]["preStop"]["exec"]["command"]
        patience_s = group["template"]["spec"]["terminationGracePeriodSeconds"] - int(seconds)
        assert patience_s > max(_SERVE_DRAINS_S, draining_s)


@EVERY_CLUSTER
def test_a_worker_that_ends_has_the_time_to_hand_its_replicas_on(documents: list[Document]) -> None:
    a_replica_starts_s = 20
    groups = ray_groups(documents)
    for group in (groups["cpu"], groups["gpu"]):
        env = {one["name"]: one["value"] for one in container_of(group)["env"]}
        [_sleep, seconds] = container_of(group)["lifecycle"]["preStop"]["exec"]["command"]
        patience_s = group["template"]["spec"]["terminationGracePeriodSeconds"] - int(seconds)
        assert a_replica_starts_s + _SERVE_DRAINS_S < int(env["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"]) < patience_s


@EVERY_CLUSTER
def test_every_container_has_probes_limits_and_no_privileges(documents: list[Document]) -> None:
    redis = named(documents, "StatefulSet", "tidegate-redis")["spec"]
    for group in (*ray_groups(documents).values(), redis):
        pod, container = group["template"]["spec"], container_of(group)
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["readinessProbe"] != container["livenessProbe"] or group is redis
        assert container["resources"]["limits"]["memory"]
    security = ray_cluster(documents)["autoscalerOptions"]["securityContext"]
    assert security["allowPrivilegeEscalation"] is False


@EVERY_CLUSTER
def test_a_probes_port_is_one_that_the_container_has(documents: list[Document]) -> None:
    agent = 52365
    for group in ray_groups(documents).values():
        container = container_of(group)
        names = {port["name"]: port["containerPort"] for port in container["ports"]}
        for probe in ("readinessProbe", "livenessProbe"):
            port = container[probe]["httpGet"]["port"]
            assert port in names or port == agent
        assert names["serve"] == serve_config(documents)["http_options"]["port"]


@EVERY_CLUSTER
def test_images_and_ray_are_of_the_versions_here(documents: list[Document]) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    images = {name: container_of(group)["image"] for name, group in ray_groups(documents).items()}
    own = f"registry.example/tidegate:{version}"
    assert images == {"head": f"{own}-cpu", "cpu": f"{own}-cpu", "gpu": f"{own}-cuda"}
    assert f"\nray=={ray_cluster(documents)['rayVersion']}\n" in (ROOT / "requirements.lock").read_text("utf-8")


@EVERY_CLUSTER
def test_no_image_floats(documents: list[Document]) -> None:
    images = re.findall(r"^ *image: (\S+)$", yaml.safe_dump_all(documents), re.MULTILINE)
    assert len(images) == 4
    assert all(re.search(r":\d+\.\d+\.\d+-[a-z]+$", image) for image in images)


@EVERY_CLUSTER
def test_secrets_are_only_referred_to(documents: list[Document]) -> None:
    assert not [one for one in documents if one["kind"] == "Secret"]
    text = yaml.safe_dump_all(documents)
    assert not re.search(r"(?i)password: *['\"]?\w|tg_|auth_token", text)
    for group in ray_groups(documents).values():
        assert {"secretRef": {"name": "tidegate-postgres"}} in container_of(group)["envFrom"]


def test_the_certificates_that_the_documentation_has_postgresql_checked_against_are_a_file() -> None:
    # psycopg brings an OpenSSL of its own, which looks for those of the system where there are none.
    told = re.findall(r"PGSSLROOTCERT=(\S+)", (ROOT / "docs" / "deploy.md").read_text("utf-8"))
    assert told == ["/etc/ssl/certs/ca-certificates.crt"]


@EVERY_CLUSTER
def test_what_the_serve_config_names_is_mounted_in_every_pod(documents: list[Document]) -> None:
    args = args_of(documents)
    named_paths = [args.auth.keys_file, args.learner.checkpoints.url]  # type: ignore[union-attr]
    if isinstance(args.chain, RosterChain):
        named_paths.append(args.chain.roster)
    for group in ray_groups(documents).values():
        mounts = {mount["mountPath"]: mount["name"] for mount in container_of(group)["volumeMounts"]}
        volumes = {volume["name"] for volume in group["template"]["spec"]["volumes"]}
        assert set(mounts.values()) == volumes
        for path in named_paths:
            assert [mount for mount in mounts if path.startswith(mount + "/")], path


@EVERY_CLUSTER
def test_the_workers_have_room_for_all_replicas_and_the_learner(documents: list[Document]) -> None:
    replica = args_of(documents).replica
    group = ray_groups(documents)["gpu" if replica.num_gpus else "cpu"]
    limits = container_of(group)["resources"]["limits"]
    assert group["minReplicas"] >= fewest_replicas(replica)
    assert group["maxReplicas"] >= replica.most_replicas
    assert float(limits["cpu"]) >= replica.num_cpus + replica.learner_num_cpus
    assert float(limits.get("nvidia.com/gpu", 0)) >= replica.num_gpus
    assert 2 * replica.num_cpus > float(limits["cpu"]), "two replicas on one pod"
    for one in ray_cluster(documents)["workerGroupSpecs"]:
        assert one["minReplicas"] <= one["replicas"] <= one["maxReplicas"]


@EVERY_CLUSTER
def test_checkpoints_are_on_a_volume_that_every_node_can_have(documents: list[Document]) -> None:
    claim = named(documents, "PersistentVolumeClaim", "tidegate-checkpoints")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]


@EVERY_CLUSTER
def test_a_drain_leaves_a_worker_and_can_go_on(documents: list[Document]) -> None:
    budget = named(documents, "PodDisruptionBudget", "tidegate-workers")["spec"]
    labels = {name: group["template"]["metadata"]["labels"] for name, group in ray_groups(documents).items()}
    covered = {name for name, own in labels.items() if budget["selector"]["matchLabels"].items() <= own.items()}
    assert covered == {"cpu", "gpu"}
    # Kubernetes takes nothing but a number of pods that must be there, for owners like KubeRay's.
    assert "maxUnavailable" not in budget
    assert 1 <= budget["minAvailable"] < fewest_replicas(args_of(documents).replica)


def test_the_routers_roster_is_one(tmp_path: Path) -> None:
    text = named(RENDERED["llm-router"], "ConfigMap", "tidegate-roster")["data"]["roster.yaml"]
    path = tmp_path / "roster.yaml"
    path.write_text(text, encoding="utf-8")
    assert RosterSource(path).fetch_view().available == (True, True, True)
