import os

import pytest
import torch

from deployments.config import ServeArgs
from deployments.engine import engine_threads

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("cores", "replicas", "device", "threads"), [(8, 1, CPU, 8), (8, 3, CPU, 2), (2, 4, CPU, 1), (8, 1, GPU, 1)]
)
def test_the_cores_are_shared_among_the_replicas(
    monkeypatch: pytest.MonkeyPatch, cores: int, replicas: int, device: torch.device, threads: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
    args = ServeArgs.model_validate({"replica": {"num_replicas": replicas}})
    assert engine_threads(args, device) == threads


def test_autoscaling_shares_the_cores_among_as_many_as_there_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    args = ServeArgs.model_validate({"replica": {"autoscaling": {"min_replicas": 1, "max_replicas": 3}}})
    assert engine_threads(args, CPU) == 2


def test_replicas_that_are_on_other_nodes_share_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    args = ServeArgs.model_validate({"replica": {"num_replicas": 8, "max_replicas_per_node": 2}})
    assert engine_threads(args, CPU) == 4


def test_a_number_that_is_given_is_taken() -> None:
    args = ServeArgs.model_validate({"encoder": {"threads": 3}})
    assert engine_threads(args, CPU) == engine_threads(args, GPU) == 3
