"""Commands of callers: who would be asked, who is asked, what they earned."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

import typer
from rich.table import Table
from rich.text import Text

from ..exit_codes import FAILED
from .frame import DEFAULT_URL, Json, KeyEnv, Url, command, console, emit, errors, gate_client, say

Messages = Annotated[
    list[str], typer.Argument(metavar="MESSAGE", help="The prompts; - reads one a line from standard input.")
]
Uids = Annotated[list[int] | None, typer.Option("--uid", help="Only these; may be repeated.")]
MinVersion = Annotated[
    int | None, typer.Option(min=0, metavar="VERSION", help="Wait until the weights know this version.")
]
Earned = Annotated[list[str], typer.Argument(metavar="UID=REWARD", help="What each uid has earned.")]


@command(
    "score 'Write a haiku about the tide.'",
    "score 'Write a haiku about the tide.' --top-k 3",
    "score 'Why is the sky blue?' 'What is 2 + 2?' --uid 0 --uid 1 --json",
)
def score(
    messages: Messages,
    top_k: Annotated[int | None, typer.Option(min=1, help="Only the best so many.")] = None,
    uid: Uids = None,
    min_version: MinVersion = None,
    url: Url = DEFAULT_URL,
    api_key_env: KeyEnv = None,
    json_output: Json = False,
) -> None:
    """Show how well each uid is expected to do. Has no effect."""
    texts = _texts(messages)
    with gate_client(url, api_key_env) as client:
        result = client.score(texts, top_k=top_k, uids=uid, min_version=min_version)
    if json_output:
        emit(result)
        return
    for text, scores in zip(texts, result.scores, strict=True):
        _show_columns(text, {"uid": scores.uids, "score": scores.scores})
    say(f"weights version {result.weights.version}")


@command(
    "select 'Write a haiku about the tide.' --k 2",
    "select 'Write a haiku about the tide.' --k 2 --uid 0 --uid 1 --no-explore",
    "select 'Why is the sky blue?' --k 1 --durable --json",
)
def select(
    messages: Messages,
    k: Annotated[int, typer.Option(min=1, help="How many to ask.")] = 4,
    uid: Uids = None,
    explore: Annotated[bool, typer.Option(help="Leave the last slot to chance now and then.")] = True,
    durable: Annotated[bool, typer.Option("--durable", help="Wait until the decision is in the event log.")] = False,
    min_version: MinVersion = None,
    url: Url = DEFAULT_URL,
    api_key_env: KeyEnv = None,
    json_output: Json = False,
) -> None:
    """Choose whom to ask, as a decision that rewards can be reported on."""
    texts = _texts(messages)
    with gate_client(url, api_key_env) as client:
        result = client.select(texts, k=k, uids=uid, explore=explore, durable=durable, min_version=min_version)
    if json_output:
        emit(result)
        return
    for text, chosen in zip(texts, result.selections, strict=True):
        columns = {"uid": chosen.uids, "score": chosen.scores, "propensity": chosen.propensities}
        _show_columns(text, columns)
        earned = " ".join(f"{uid}=REWARD" for uid in chosen.uids)
        say(f"decision {chosen.decision_id}; then: tidegate reward --decision {chosen.decision_id} {earned}")


@command(
    "reward --decision 2624675ba58c-1 0=1 1=0.5",
    "reward --decision 2624675ba58c-1 0=1 1=0.5 --wait published --json",
    "reward --message 'Why is the sky blue?' --reward-id ticket-4711 2=0.9",
)
def reward(
    earned: Earned,
    decision: Annotated[str | None, typer.Option(metavar="ID", help="The decision that chose them.")] = None,
    message: Annotated[str | None, typer.Option(help="Without a decision: the prompt that they answered.")] = None,
    reward_id: Annotated[
        str | None,
        typer.Option(metavar="ID", help="With a message: your own id, under which each uid counts once; default: new."),
    ] = None,
    wait: Annotated[Literal["logged", "applied", "published"], typer.Option(help="Until when to wait.")] = "logged",
    url: Url = DEFAULT_URL,
    api_key_env: KeyEnv = None,
    json_output: Json = False,
) -> None:
    """Report what uids have earned. Reporting twice changes nothing. Exits with 1 if any reward is rejected."""
    from ..client import Reward

    with gate_client(url, api_key_env) as client:
        if message is not None and reward_id is None:
            reward_id = uuid.uuid4().hex
            # Known before it is sent: whoever reports again after an error has to name it.
            errors.print(f"--reward-id {reward_id}", style="dim", soft_wrap=True)
        uids, rewards = _parse_earned(earned)
        said = Reward(uids, rewards, decision_id=decision, reward_id=reward_id, message=message)
        report = client.report([said], wait=wait)
    if json_output:
        emit(report)
    else:
        under = f" under {reward_id}" if reward_id is not None else ""
        say(f"{report.accepted} accepted{under}, {report.duplicates} duplicates, version {report.version}")
        for rejected in report.rejected:
            which = "" if rejected.uid is None else f" uid {rejected.uid}"
            say(f"rejected{which}: {rejected.code}: {rejected.detail}")
        if not report.reached:
            say(f"not yet {wait} when the time was up")
    if report.rejected:
        raise typer.Exit(FAILED)


@command("uids", "uids --by mean_reward --limit 10", "uids --json")
def uids(
    by: Annotated[
        str, typer.Option(metavar="COLUMN", help="Order by uid, or by selections, rewards, mean_reward or resets.")
    ] = "uid",
    limit: Annotated[int | None, typer.Option(min=1, help="Show so many.")] = None,
    url: Url = DEFAULT_URL,
    api_key_env: KeyEnv = None,
    json_output: Json = False,
) -> None:
    """List the uids: who holds them, how often they were chosen, what they earned."""
    with gate_client(url, api_key_env) as client:
        rows = _ordered(client.uids(), by)[:limit]
    if json_output:
        emit({"uids": rows})
        return
    table = Table()
    for name in rows[0] if rows else ("uid",):
        table.add_column(name.replace("_", " "), justify="left" if name == "hotkey" else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row.values()))
    console.print(table)


@command("decision 2624675ba58c-1", "decision 2624675ba58c-1 --json", "decision 2624675ba58c-1 --erase")
def decision(
    decision_id: Annotated[str, typer.Argument(metavar="ID", help="As select gave it.")],
    erase: Annotated[
        bool, typer.Option("--erase", help="Erase its embedding, which is personal data (scope admin).")
    ] = False,
    url: Url = DEFAULT_URL,
    api_key_env: KeyEnv = None,
    json_output: Json = False,
) -> None:
    """Explain a decision: who was chosen by what scores and chances, and what they earned since."""
    with gate_client(url, api_key_env) as client:
        if erase:
            client.erase_decision(decision_id)
        found = {"id": decision_id, "embedding": "erased"} if erase else client.decision(decision_id)
    if json_output:
        emit(found)
        return
    for name, value in found.items():
        say(f"{name:14} {_cell(value)}")


def _texts(messages: Sequence[str]) -> list[str]:
    """The prompts that were given, `-` standing for the lines of standard input."""
    texts: list[str] = []
    for message in messages:
        texts += [line.strip() for line in sys.stdin if line.strip()] if message == "-" else [message]
    return texts


def _parse_earned(pairs: Sequence[str]) -> tuple[list[int], list[float]]:
    uids, rewards = [], []
    for pair in pairs:
        uid, _, value = pair.partition("=")
        try:
            uids.append(int(uid))
            rewards.append(float(value))
        except ValueError:
            raise ValueError(f"{pair!r} is no reward; give UID=REWARD, 3=0.5 for example") from None
    return uids, rewards


def _ordered(rows: list[dict[str, Any]], by: str) -> list[dict[str, Any]]:
    """In order of uid, or with the largest first; what is not known comes last."""
    if by == "uid" or not rows:
        return rows
    if not isinstance(rows[0].get(by, ""), int | float | None):
        columns = ", ".join(name for name in rows[0] if name != "hotkey")
        raise ValueError(f"--by is {by!r}; give one of {columns}")
    return sorted(rows, key=lambda row: (row[by] is None, -(row[by] or 0.0)))


def _show_columns(title: str, columns: Mapping[str, Sequence[Any]]) -> None:
    table = Table(title=Text(title, overflow="ellipsis", no_wrap=True), title_justify="left")
    for name in columns:
        table.add_column(name, justify="right")
    for row in zip(*columns.values(), strict=True):
        table.add_row(*(Text(_cell(value)) for value in row))
    console.print(table)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
