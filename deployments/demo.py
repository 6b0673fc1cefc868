"""The demo: streams real prompts through a running gate, and shows its choices getting better.

Every prompt is selected for and then rewarded with what the chosen models are known to earn on it, so the
figures shown are observed, and random choice, the best fixed model and an oracle can be compared exactly.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.text import Text

from .client import GateClient, GateError, GateUnavailableError, Reward, Selection
from .demo_data import RewardTable, load_paretobandit, load_table
from .demo_tally import CTRL_C, DemoResult, Tally, close_books
from .demo_view import closing_table, live_view
from .exit_codes import FAILED, UNREACHABLE, USAGE

MAX_BATCH = 256


class DemoError(Exception):
    """The data does not fit the service; the message says how to make it."""


def demo(
    url: str,
    data: Path | None,
    k: int,
    limit: int | None,
    seed: int,
    batch: int,
    json_output: bool,
    *,
    console: Console | None = None,
    connect: Callable[[str], GateClient] = GateClient,
) -> int:
    """Run the demo against the service at `url`; answers the exit code.

    With `json_output` standard output holds the result as JSON, and everything else goes to standard error.

    Returns:
        0 done, 1 the service failed or does not fit the data, 2 bad input, 3 no service answers, 130 interrupted.
    """
    console = console or Console(stderr=json_output)
    try:
        table = load_paretobandit() if data is None else load_table(data)
        with connect(url) as client:
            result = run_demo(client, table, k=k, limit=limit, seed=seed, batch=batch, console=console)
    except GateUnavailableError as error:
        _complain(console, f"{error}\nIs the service running? Start it with `make run` or `tidegate serve`.")
        return UNREACHABLE
    except (GateError, DemoError) as error:
        _complain(console, str(error))
        return FAILED
    except ValueError as error:
        _complain(console, str(error))
        return USAGE
    if json_output:
        Console().print_json(data=asdict(result))
    return result.exit_code


def run_demo(
    client: GateClient,
    table: RewardTable,
    *,
    k: int = 4,
    limit: int | None = None,
    seed: int = 0,
    batch: int = 8,
    console: Console,
    clock: Callable[[], float] = time.perf_counter,
) -> DemoResult:
    """Stream up to `limit` prompts, in an order drawn with `seed`, and print the closing table.

    Model number i of the table plays uid i; each request asks for `k` uids for each of `batch` prompts. A failure
    or Ctrl-C on the way ends the run, not the account of it.

    Raises:
        DemoError: the service knows fewer uids than the table has models.
        GateError: the service does not answer, or not as it should.
        ValueError: `k`, `limit` or `batch` is out of range.
    """
    if k < 1 or not 1 <= batch <= MAX_BATCH or (limit is not None and limit < 1):
        raise ValueError(f"k is {k}, limit {limit}, batch {batch}; all must be 1 or more, batch at most {MAX_BATCH}")
    _check_uids(client.state(), len(table.models))
    table = table.take(random.Random(seed).sample(range(len(table.prompts)), len(table.prompts))[:limit])
    tally, stopped, started_s = Tally(), None, clock()
    try:
        with live_view(console, table, clock) as show:
            for _ in _stream(client, table, k=k, batch=batch, tally=tally, clock=clock):
                tally.elapsed_s = clock() - started_s
                show(tally)
    except KeyboardInterrupt:
        stopped = CTRL_C
    except (GateError, DemoError) as error:
        stopped = str(error)
    result = close_books(tally, table.take(range(tally.prompts)), k=k, seed=seed, stopped=stopped)
    console.print(closing_table(result))
    if stopped:
        _complain(console, f"stopped early: {stopped}")
    return result


def _stream(
    client: GateClient, table: RewardTable, *, k: int, batch: int, tally: Tally, clock: Callable[[], float]
) -> Iterator[None]:
    """Select and reward, one request after the other; yields after each is booked in `tally`."""
    candidates = range(len(table.models))
    for start in range(0, len(table.prompts), batch):
        rows = range(start, min(start + batch, len(table.prompts)))
        sent_s = clock()
        answer = client.select([table.prompts[row] for row in rows], k=k, uids=candidates)
        latency_s = clock() - sent_s
        rewards = [
            _earned(selection, table.rewards[row]) for row, selection in zip(rows, answer.selections, strict=True)
        ]
        report = client.report(rewards, wait="logged")
        tally.record(rewards, report, answer.weights, latency_s)
        yield


def _earned(selection: Selection, rewards: Sequence[float]) -> Reward:
    if not selection.uids:
        raise DemoError(f"none of the uids 0 to {len(rewards) - 1}, which play the models, is available")
    return Reward(selection.uids, [rewards[uid] for uid in selection.uids], decision_id=selection.decision_id)


def _check_uids(state: dict[str, object], n_models: int) -> None:
    metagraph = state.get("metagraph")
    n = metagraph.get("n") if isinstance(metagraph, dict) else None
    if n is not None and n < n_models:
        raise DemoError(
            f"the data has {n_models} models, the service only {n} uids; "
            "give it a roster with more uids, or the demo data with fewer models"
        )


def _complain(console: Console, message: str) -> None:
    console.print(Text(message, style="red"), soft_wrap=True)
