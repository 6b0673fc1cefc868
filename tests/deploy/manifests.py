"""Reading what is in `deploy/`: plain documents, and what kustomize makes of an overlay."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
SCHEMAS = Path(__file__).parent / "schemas"
OVERLAYS = ("subnet", "llm-router")
CLUSTERS = ("kuberay", *OVERLAYS)
_KUSTOMIZATION_KEYS = {"apiVersion", "kind", "namespace", "resources", "patches", "images"}

Document = dict[str, Any]


def read_documents(path: Path) -> list[Document]:
    """All documents of a YAML file."""
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def render(folder: str) -> list[Document]:
    """What `kubectl kustomize deploy/FOLDER` gives, as far as the folders here use it.

    Raises:
        AssertionError: the folder uses more than that, or a patch does not fit.
    """
    home = DEPLOY / folder
    [kustomization] = read_documents(home / "kustomization.yaml")
    assert set(kustomization) <= _KUSTOMIZATION_KEYS, f"{home}: {set(kustomization) - _KUSTOMIZATION_KEYS}"
    documents: list[Document] = []
    for resource in kustomization["resources"]:
        path = (home / resource).resolve()
        documents += render(path.name) if path.is_dir() else read_documents(path)
    for patch in kustomization.get("patches", []):
        [changes] = read_documents(home / patch["path"])
        if isinstance(changes, list):
            _apply_operations(named(documents, **patch["target"]), changes)
        else:
            _merge(named(documents, changes["kind"], changes["metadata"]["name"]), changes)
    for document in documents:
        document["metadata"]["namespace"] = kustomization["namespace"]
    return documents


def named(documents: list[Document], kind: str, name: str) -> Document:
    """The one document of a kind and name."""
    [found] = [one for one in documents if (one["kind"], one["metadata"]["name"]) == (kind, name)]
    return found


def ray_cluster(documents: list[Document]) -> Document:
    """The cluster of the RayService."""
    cluster: Document = named(documents, "RayService", "tidegate")["spec"]["rayClusterConfig"]
    return cluster


def ray_groups(documents: list[Document]) -> dict[str, Document]:
    """The head's group and those of the workers, by name."""
    cluster = ray_cluster(documents)
    return {"head": cluster["headGroupSpec"], **{group["groupName"]: group for group in cluster["workerGroupSpecs"]}}


def serve_config(documents: list[Document]) -> Document:
    """The Serve config in the RayService."""
    config: Document = yaml.safe_load(named(documents, "RayService", "tidegate")["spec"]["serveConfigV2"])
    return config


def schema_errors(document: Document) -> list[str]:
    """What the schema of its kind has against a document."""
    schemas = {name: json.loads((SCHEMAS / name).read_text("utf-8")) for name in ("kubernetes.json", "rayservice.json")}
    registry: Registry[Any] = Registry().with_resources(
        [(name, Resource.from_contents(schema)) for name, schema in schemas.items()]
    )
    validator = Draft202012Validator({"$ref": _schema_of(document, schemas)}, registry=registry)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]


def _schema_of(document: Document, schemas: dict[str, Any]) -> str:
    if document["kind"] == "RayService":
        return "rayservice.json"
    group, _, version = document["apiVersion"].rpartition("/")
    package = f"io.k8s.api.{group.partition('.')[0] or 'core'}.{version}.{document['kind']}"
    assert package in schemas["kubernetes.json"]["$defs"], f"{package}: add it to tests/deploy/vendor_schemas.py"
    return f"kubernetes.json#/$defs/{package}"


def _apply_operations(document: Document, operations: list[Document]) -> None:
    for operation in operations:
        *path, last = operation["path"].removeprefix("/").split("/")
        node: Any = document
        for part in path:
            node = node[int(part)] if isinstance(node, list) else node[part]
        if operation["op"] == "test":
            assert node[last] == operation["value"], operation
        else:
            assert operation["op"] == "replace", operation
            assert last in node, operation
            node[last] = operation["value"]


def _merge(document: Document, changes: Document) -> None:
    for key, value in changes.items():
        if isinstance(value, dict) and isinstance(document.get(key), dict):
            _merge(document[key], value)
        else:
            document[key] = copy.deepcopy(value)
