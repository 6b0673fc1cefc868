from __future__ import annotations

import importlib.metadata

import pytest
import torch

from benchmarks.hardware import describe_machine


def test_a_machine_without_ray_is_described_too(monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.metadata.version

    def without_ray(package: str) -> str:
        if package == "ray":
            raise importlib.metadata.PackageNotFoundError(package)
        return version(package)

    monkeypatch.setattr(importlib.metadata, "version", without_ray)
    machine = describe_machine()
    assert (machine["torch"], machine["ray"]) == (torch.__version__, None)
