from __future__ import annotations

import pytest

from tests.deploy.manifests import Document, named, ray_groups, render

DOCUMENTS = render("kuberay")
RAY = "tidegate"
_NAMESPACE = "kubernetes.io/metadata.name"


def who_reaches(policy: Document, port: int) -> set[str]:
    """The pods and namespaces that a policy lets in on a port."""
    peers = set()
    for rule in policy["spec"]["ingress"]:
        if "ports" not in rule or any(_covers(one, port) for one in rule["ports"]):
            assert rule["from"], "an empty list means everybody"
            peers |= {_name(peer) for peer in rule["from"]}
    return peers


def _covers(entry: Document, port: int) -> bool:
    return bool(entry["port"] <= port <= entry.get("endPort", entry["port"]))


def _name(peer: Document) -> str:
    if "namespaceSelector" in peer:
        return str(peer["namespaceSelector"]["matchLabels"][_NAMESPACE])
    [name] = peer["podSelector"]["matchLabels"].values()
    return str(name)


@pytest.mark.parametrize(
    ("port", "expected"),
    [
        (8000, {RAY, "ingress-nginx", "kuberay-system"}),
        (8265, {RAY, "kuberay-system"}),
        (8080, {RAY, "monitoring"}),
        (9101, {RAY, "monitoring"}),
        *((port, {RAY}) for port in (6379, 8076, 8404, 8500, 10001, 30000, 30500, 31000, 52365)),
    ],
)
def test_rays_pods_are_reached_only_by_who_must(port: int, expected: set[str]) -> None:
    policy = named(DOCUMENTS, "NetworkPolicy", "tidegate")
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    assert who_reaches(policy, port) == expected


def test_the_policy_is_for_every_pod_of_ray() -> None:
    wanted = named(DOCUMENTS, "NetworkPolicy", "tidegate")["spec"]["podSelector"]["matchLabels"]
    for group in ray_groups(DOCUMENTS).values():
        assert wanted.items() <= group["template"]["metadata"]["labels"].items()


def test_redis_is_reached_by_rays_pods_alone_and_reaches_nobody() -> None:
    policy = named(DOCUMENTS, "NetworkPolicy", "tidegate-redis")
    stateful = named(DOCUMENTS, "StatefulSet", "tidegate-redis")
    wanted = policy["spec"]["podSelector"]["matchLabels"]
    assert wanted.items() <= stateful["spec"]["template"]["metadata"]["labels"].items()
    assert who_reaches(policy, 6379) == {RAY}
    assert who_reaches(policy, 22) == set()
    assert "Egress" in policy["spec"]["policyTypes"]
    assert "egress" not in policy["spec"]


def test_the_policy_for_rays_pods_is_not_for_redis() -> None:
    wanted = named(DOCUMENTS, "NetworkPolicy", "tidegate")["spec"]["podSelector"]["matchLabels"]
    redis = named(DOCUMENTS, "StatefulSet", "tidegate-redis")["spec"]["template"]["metadata"]["labels"]
    assert not wanted.items() <= redis.items()
