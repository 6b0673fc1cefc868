"""How long a newcomer takes, by the README: from a fresh clone to a score, a learned reward, and both in the console.

python -m benchmarks.first_steps [--source .] [--folder FOLDER] [--port 8000]

It clones `--source` into a folder of its own, runs `make setup` and `make run` there, and then the README's own `curl`
commands, word for word but for the decision's id; at last it opens the console in a headless Chromium and waits until
the reward is on the page. With `--folder` the clone and its environment stay, and are not made again by the next run;
what making them took is kept beside them. Another port is put into the clone's config and into the commands.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import expect
from rich.console import Console

from tests.console.browser import chromium, open_page
from tests.docs.blocks import ROOT

from .hardware import write_result

NAME = "first_steps"
CURL = re.compile(r"^\$ (curl .*?)\n(?=\{)", re.DOTALL | re.MULTILINE)
START_TIMEOUT_S = 300.0
PORT = 8000
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
STEPS = {
    "clone_s": "clone",
    "setup_s": "`make setup`: a new environment, once",
    "ready_s": "`make run`, until it serves",
    "first_selection_s": "the first selection, with its scores",
    "first_learned_reward_s": "the first reward, learned and published",
    "score_after_it_s": "a score that includes it",
    "seen_in_the_console_s": "a browser started, and the reward seen in the console",
    "stop_s": "Ctrl-C, until all has ended",
}
UNTIL_A_LEARNED_REWARD = ("clone_s", "setup_s", "ready_s", "first_selection_s", "first_learned_reward_s")


def readme_calls(readme: str) -> list[str]:
    """The worked example's commands: select, rewards, score."""
    calls = CURL.findall(readme)
    if [call for call, path in zip(calls, ("/v1/select", "/v1/rewards", "/v1/score"), strict=True) if path not in call]:
        raise ValueError("the README's worked example is not select, rewards, score any more; look at first_steps.py")
    return calls


def with_own_decision(call: str, selection: dict[str, Any]) -> str:
    """A call of the README about the decision that was really made."""
    [body] = re.findall(r"-d '(.*?)'", call, re.DOTALL)
    given = json.loads(body)
    for item in given["rewards"]:
        item["decision_id"], item["uids"] = selection["decision_id"], selection["uids"]
    return call.replace(body, json.dumps(given))


class Watch:
    """Notes how long each step took, in seconds, and says so.

    Attributes:
        steps: seconds by step.
    """

    def __init__(self, console: Console, kept: Path) -> None:
        self.steps: dict[str, float] = json.loads(kept.read_text("utf-8")) if kept.is_file() else {}
        self._console = console
        self._kept = kept

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """A step is the body."""
        started_s = time.perf_counter()
        yield
        self.steps[name] = round(time.perf_counter() - started_s, 2)
        self._console.print(f"{name} {self.steps[name]}")

    def once(self, name: str, work: Callable[[], object]) -> None:
        """A step that is not done again if the folder has it."""
        if name not in self.steps:
            with self.step(name):
                work()
            self._kept.write_text(json.dumps(self.steps), encoding="utf-8")


def run(command: list[str], folder: Path) -> str:
    """The standard output of a command that must succeed."""
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def ask(call: str, folder: Path) -> dict[str, Any]:
    """The answer to a `curl` that must succeed."""
    answer: dict[str, Any] = json.loads(run(["bash", "-c", call], folder))
    if "code" in answer:
        raise RuntimeError(f"{call} was answered {answer}")
    return answer


@contextlib.contextmanager
def serving(clone: Path, watch: Watch) -> Iterator[psutil.Process]:
    """The service of `make run`, as it is started and stopped in a terminal."""
    path = clone.parent / "serve.log"
    with path.open("wb") as log, watch.step("ready_s"):
        process = subprocess.Popen(
            ["make", "run"], cwd=clone, env=ENVIRONMENT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while "Ctrl-C stops it" not in path.read_text(encoding="utf-8"):
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"make run does not serve:\n{path.read_text(encoding='utf-8')}")
            time.sleep(0.05)
    try:
        yield psutil.Process(process.pid)
    finally:
        with watch.step("stop_s"):
            os.killpg(process.pid, signal.SIGINT)
            process.wait(timeout=120)


def memory_mib(process: psutil.Process) -> int:
    """What a process and all that it has started take together, what they share counted once."""
    sizes = []
    for one in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.Error):
            sizes.append(one.memory_full_info().pss)
    return sum(sizes) >> 20


def see(url: str) -> None:
    """Open the console and wait until it shows the reward that was learned."""
    with chromium() as browser:
        page = open_page(browser, url, [])
        expect(page.locator("#reward-value")).to_have_text(re.compile(r"\d"))
        expect(page.locator("#weights-fine")).to_contain_text("version 1")


def take_first_steps(source: Path, folder: Path, port: int, watch: Watch) -> int:
    """All steps, in the README's order. Returns the memory that the service takes, in MiB."""
    clone = folder / "tidegate"
    watch.once("clone_s", lambda: run(["git", "clone", "--quiet", str(source), str(clone)], folder))
    watch.once("setup_s", lambda: run(["make", "setup"], clone))
    readme = (clone / "README.md").read_text("utf-8")
    select, rewards, score = (call.replace(str(PORT), str(port)) for call in readme_calls(readme))
    config = clone / "serve_config.yaml"
    config.write_text(config.read_text("utf-8").replace(f"port: {PORT}", f"port: {port}"), encoding="utf-8")
    # A newcomer has learned nothing yet.
    shutil.rmtree(clone / "tidegate-data", ignore_errors=True)
    with serving(clone, watch) as service:
        with watch.step("first_selection_s"):
            [selection] = ask(select, clone)["selections"]
        with watch.step("first_learned_reward_s"):
            assert ask(with_own_decision(rewards, selection), clone)["reached"]
        with watch.step("score_after_it_s"):
            assert ask(score, clone)["weights"]["version"] == 1
        with watch.step("seen_in_the_console_s"):
            see(f"http://127.0.0.1:{port}/")
        return memory_mib(service)


def table(result: dict[str, Any]) -> str:
    """What was measured, as docs/index.md has it."""
    rows = [f"| {text} | {result['seconds'][step]:g} |" for step, text in STEPS.items()]
    return "\n".join(["| step | seconds |", "|---|---|", *rows])


def main() -> None:
    """Measure, show and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", type=Path, default=ROOT, help="the repository to clone")
    parser.add_argument("--folder", type=Path, default=None, help="where the clone stays; default: it does not")
    parser.add_argument("--port", type=int, default=PORT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tidegate-first-") as name:
        folder = (options.folder or Path(name)).resolve()
        folder.mkdir(exist_ok=True)
        watch = Watch(Console(), folder / "steps.json")
        memory = take_first_steps(options.source.resolve(), folder, options.port, watch)
    result = {
        "seconds": watch.steps,
        "until_a_learned_reward_s": round(sum(watch.steps[step] for step in UNTIL_A_LEARNED_REWARD), 2),
        "memory_mib": memory,
        "load_average": round(os.getloadavg()[1], 1),
    }
    write_result(NAME, result)
    print(table(result))


if __name__ == "__main__":
    main()
