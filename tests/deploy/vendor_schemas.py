"""Takes the schemas of the kinds that `deploy/` uses out of kubernetes-validate: vendor_schemas.py SITE_PACKAGES."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

SCHEMAS = Path(__file__).parent / "schemas"
KINDS = (
    "io.k8s.api.apps.v1.StatefulSet",
    "io.k8s.api.core.v1.ConfigMap",
    "io.k8s.api.core.v1.EnvFromSource",
    "io.k8s.api.core.v1.EnvVar",
    "io.k8s.api.core.v1.EnvVarSource",
    "io.k8s.api.core.v1.PersistentVolumeClaim",
    "io.k8s.api.core.v1.PodTemplateSpec",
    "io.k8s.api.core.v1.ResourceRequirements",
    "io.k8s.api.core.v1.SecurityContext",
    "io.k8s.api.core.v1.Service",
    "io.k8s.api.core.v1.VolumeMount",
    "io.k8s.api.networking.v1.NetworkPolicy",
    "io.k8s.api.policy.v1.PodDisruptionBudget",
)


def vendor(site_packages: Path) -> None:
    """Write `schemas/kubernetes.json`: the kinds, and what they refer to."""
    folder = site_packages / "kubernetes_validate" / "kubernetes-json-schema" / "v1.37.0-local-strict"
    every = json.loads((folder / "_definitions.json").read_text(encoding="utf-8"))["$defs"]
    taken: dict[str, Any] = {}
    waiting = list(KINDS)
    while waiting:
        name = waiting.pop()
        if name not in taken:
            taken[name] = without_descriptions(every[name])
            waiting += re.findall(r'"#/\$defs/([^"]+)"', json.dumps(taken[name]))
    whole = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": "kubernetes.json", "$defs": taken}
    text = json.dumps(whole, indent=0, sort_keys=True, separators=(",", ":"))
    (SCHEMAS / "kubernetes.json").write_text(text + "\n", encoding="utf-8")


def without_descriptions(schema: Any) -> Any:
    """A schema without its prose. A property may be called `description` as well, and stays."""
    if isinstance(schema, list):
        return [without_descriptions(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: {name: without_descriptions(one) for name, one in value.items()}
        if key == "properties"
        else without_descriptions(value)
        for key, value in schema.items()
        if not (key == "description" and isinstance(value, str))
    }


if __name__ == "__main__":
    vendor(Path(sys.argv[1]))
