"""The runs of the learning benchmark, and the file that keeps what they gave, so that it can go on where it was."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from .hardware import describe_machine
from .peers import versions


@dataclass(frozen=True)
class Run:
    """One pass of one agent over one stream.

    Attributes:
        set: name of the set.
        scenario: what happens on the way.
        k: how many are asked for each prompt.
        seed: of the stream and of the agent.
        agent: who plays; `references` are all of them at once.
        steps: how many prompts; None for all.
    """

    set: str
    scenario: str
    k: int
    seed: int
    agent: str
    steps: int | None = None


class BusyError(RuntimeError):
    """Another process writes this file."""


class RunFile:
    """A JSON file `{"machine": ..., "runs": [...]}`, one run a line, replaced as a whole after every run.

    Args:
        path: of the file; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._results: dict[Run, list[dict[str, Any]]] = {}
        self._lock: IO[str] | None = None
        if path.exists():
            for result in json.loads(path.read_text(encoding="utf-8"))["runs"]:
                self._results.setdefault(run_of(result), []).append(result)

    def __enter__(self) -> RunFile:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = self.path.with_suffix(".lock").open("w", encoding="utf-8")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise BusyError(f"another benchmark writes {self.path}; wait for it, or give another --out") from error
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.path.with_suffix(".lock").unlink(missing_ok=True)
        if self._lock is not None:
            self._lock.close()

    def __contains__(self, run: Run) -> bool:
        return run in self._results

    @property
    def results(self) -> list[dict[str, Any]]:
        """All that is kept."""
        return [result for results in self._results.values() for result in results]

    def forget(self, runs: Iterable[Run]) -> None:
        """These are to be made again."""
        for run in runs:
            self._results.pop(run, None)

    def add(self, run: Run, results: list[dict[str, Any]]) -> None:
        """Keep what a run gave."""
        self._results[run] = [{**asdict(run), **result} for result in results]
        lines = ",\n".join(json.dumps(result, allow_nan=False) for result in self.results)
        document = f'{{"machine": {json.dumps({**describe_machine(), **versions()})},\n"runs": [\n{lines}\n]}}\n'
        unfinished = self.path.with_suffix(".tmp")
        unfinished.write_text(document, encoding="utf-8")
        os.replace(unfinished, self.path)


def run_of(result: dict[str, Any]) -> Run:
    """The run that gave a result."""
    agent = "references" if result.get("is_reference") else result["agent"]
    return Run(result["set"], result["scenario"], result["k"], result["seed"], agent, result["steps"])


def read_machine(path: Path) -> dict[str, Any]:
    """What the runs in a file were made on."""
    machine: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["machine"]
    return machine
