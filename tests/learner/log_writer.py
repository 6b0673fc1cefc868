"""A process that writes a log as it is told, a line at a time; `LogWriter` starts one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from learner.errors import LearnerError

from .logs import commit, open_log, reward

ROOT = Path(__file__).resolve().parents[2]


class LogWriter:
    """A process of its own that opens the log under that URL."""

    def __init__(self, url: str, **settings: object) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.learner.log_writer", url, json.dumps(settings)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def answer(self) -> str:
        """Wait for the next thing that it says."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def tell(self, order: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(order + "\n")
        self._process.stdin.flush()

    def ask(self, order: str) -> str:
        self.tell(order)
        return self.answer()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def end(self) -> None:
        """Kill it, whatever it does, even if it was stopped."""
        with self._process:
            self._process.kill()


def main() -> None:
    """Say `open`, then the epoch; then obey: `open` (go on), `commit`, `close`."""
    url, settings = sys.argv[1], json.loads(sys.argv[2])
    say("ready")
    log = None
    for line in sys.stdin:
        try:
            match line.strip():
                case "open":
                    log = open_log(url, **settings)
                    say(f"epoch {log.epoch}")
                case "commit":
                    commit(log, reward(log.last_seq + 1))
                    say(f"last {log.last_seq}")
                case "close":
                    log.close()
                    say("closed")
        except LearnerError as error:
            say(type(error).__name__)


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
