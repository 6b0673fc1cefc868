"""Commands of operators, which take the scope `admin`. Each is an event in the log."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer
from rich.table import Table
from rich.text import Text

from .frame import DEFAULT_URL, Json, KeyEnv, Url, command, console, emit, gate_client, say, to_plain

_HANDOVER_TIMEOUT_S = 180.0
CHECKPOINT_COLUMNS = ("name", "version", "epoch", "created_at", "frozen")
HELD_COLUMNS = ("seq", "reason", "author", "uids", "rewards")
AUTHOR_COLUMNS = ("author", "standing", "weight", "agreement", "recent_rewards", "quarantined_since")


@command("resync", "resync --json")
def resync(url: Url = DEFAULT_URL, api_key_env: KeyEnv = None, json_output: Json = False) -> None:
    """Read the network (roster or subnet) again now."""
    with gate_client(url, api_key_env) as client:
        changed = client.resync()
    if json_output:
        emit(changed)
        return
    for name, value in changed.items():
        say(f"{name:8} {', '.join(map(str, value)) or 'none' if isinstance(value, list) else value}")


@command("checkpoint", "checkpoint --list", "checkpoint --list --json")
def checkpoint(
    list_them: Annotated[bool, typer.Option("--list", help="Save none, but list those that are kept.")] = False,
    url: Url = DEFAULT_URL,
    api_key_env: KeyEnv = None,
    json_output: Json = False,
) -> None:
    """Save what has been learned so far."""
    with gate_client(url, api_key_env) as client:
        kept = client.checkpoints() if list_them else [client.checkpoint()]
    if json_output:
        emit({"checkpoints": to_plain(kept)} if list_them else kept[0])
    elif list_them:
        _show_rows(to_plain(kept), CHECKPOINT_COLUMNS)
    else:
        say(f"saved {kept[0].name}: version {kept[0].version}, digest {kept[0].digest}")


@command("freeze", "freeze --off", "freeze --json")
def freeze(
    off: Annotated[bool, typer.Option("--off", help="Go on with learning; the same as thaw.")] = False,
    url: Url = DEFAULT_URL,
    api_key_env: KeyEnv = None,
    json_output: Json = False,
) -> None:
    """Stop learning. Rewards are logged and held until it goes on."""
    _freeze(not off, url, api_key_env, json_output)


@command("thaw", "thaw --json")
def thaw(url: Url = DEFAULT_URL, api_key_env: KeyEnv = None, json_output: Json = False) -> None:
    """Go on with learning after freeze."""
    _freeze(False, url, api_key_env, json_output)


@command("rollback --version 0", "rollback --checkpoint 00000001-v7 --json")
def rollback(
    version: Annotated[int | None, typer.Option(min=0, help="The version to go back to.")] = None,
    checkpoint: Annotated[
        str | None, typer.Option(metavar="NAME", help="Or the checkpoint, as `tidegate checkpoint --list` names it.")
    ] = None,
    url: Url = DEFAULT_URL,
    api_key_env: KeyEnv = None,
    json_output: Json = False,
) -> None:
    """Publish earlier weights again, as a new version. What was learned since is held, not lost."""
    with gate_client(url, api_key_env) as client:
        done = client.rollback(version=version, checkpoint=checkpoint)
    if json_output:
        emit(done)
    else:
        say(f"version {done.restored} serves again as version {done.version}; {done.quarantined} events are held")


@command("promote softmax_mse", "promote pooled_ridge --json")
def promote(
    rule: Annotated[str, typer.Argument(metavar="RULE", help="The shadow's label; by default a rule's name.")],
    url: Url = DEFAULT_URL,
    api_key_env: KeyEnv = None,
    json_output: Json = False,
) -> None:
    """Let a shadow rule serve from now on; the rule that served learns on as a shadow."""
    with gate_client(url, api_key_env) as client:
        version = client.promote(rule)
    if json_output:
        emit({"rule": rule, "version": version})
    else:
        say(f"{rule} serves from version {version} on")


@command("handover", "handover --json")
def handover(url: Url = DEFAULT_URL, api_key_env: KeyEnv = None, json_output: Json = False) -> None:
    """Replace the learner by one of the replicas' settings and code, after a deploy. See docs/upgrades.md."""
    with gate_client(url, api_key_env, timeout_s=_HANDOVER_TIMEOUT_S) as client:
        done = client.hand_over()
    if json_output:
        emit(done)
    else:
        gap = f"{done.away_s:.1f} s without a learner"
        say(f"epoch {done.left_epoch} -> {done.epoch}, from version {done.version} on; {gap}")


@command("quarantine", "quarantine --limit 10 --json", "quarantine --drop --seq 12 --seq 13", "quarantine --readmit")
def quarantine(
    readmit: Annotated[bool, typer.Option("--readmit", help="Learn them after all.")] = False,
    drop: Annotated[bool, typer.Option("--drop", help="Give them up.")] = False,
    seq: Annotated[
        list[int] | None, typer.Option(help="Which; may be repeated; default: all that do not wait for a thaw.")
    ] = None,
    after: Annotated[int, typer.Option(min=0, metavar="SEQ", help="List those that come later in the log.")] = 0,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="List so many.")] = 100,
    url: Url = DEFAULT_URL,
    api_key_env: KeyEnv = None,
    json_output: Json = False,
) -> None:
    """List the rewards that are in the log but not in the weights, or settle them."""
    with gate_client(url, api_key_env) as client:
        if (readmit and drop) or (seq and not (readmit or drop)):
            raise ValueError("give either --readmit or --drop, and --seq with one of them only")
        if readmit or drop:
            action = client.settle("readmit" if readmit else "drop", seq)
        else:
            held = client.quarantine(after=after, limit=limit)
    if readmit or drop:
        emit({"version": action}) if json_output else say(f"done, as of version {action}")
    elif json_output:
        emit(held)
    else:
        _show_rows(to_plain(list(held.events)), HELD_COLUMNS)
        say(f"{held.quarantined} events are held")


@command("authors", "authors --json", "authors judge distrusted", "authors judge auto")
def authors(
    author: Annotated[str | None, typer.Argument(metavar="AUTHOR", help="A key's id or a hotkey.")] = None,
    standing: Annotated[
        Literal["trusted", "distrusted", "auto"] | None,
        typer.Argument(metavar="STANDING", help="trusted, distrusted, or auto: as it agrees with others."),
    ] = None,
    url: Url = DEFAULT_URL,
    api_key_env: KeyEnv = None,
    json_output: Json = False,
) -> None:
    """List how far each author of rewards is believed, or say it of one."""
    with gate_client(url, api_key_env) as client:
        if author is None:
            known = to_plain(client.authors())
        elif standing is None:
            raise ValueError(f"what is said of {author} is missing; give trusted, distrusted or auto")
        else:
            seq = client.set_standing(author, standing)
    if author is not None:
        said = {"author": author, "standing": standing, "seq": seq}
        emit(said) if json_output else say(f"{author} is {standing} from event {seq} on")
    elif json_output:
        emit({"authors": known})
    else:
        _show_rows(known, AUTHOR_COLUMNS)


def _freeze(frozen: bool, url: str, api_key_env: str | None, json_output: bool) -> None:
    with gate_client(url, api_key_env) as client:
        version = client.freeze(frozen)
    if json_output:
        emit({"frozen": frozen, "version": version})
    else:
        say(f"learning {'is stopped' if frozen else 'goes on'} from version {version} on")


def _show_rows(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> None:
    table = Table()
    for name in columns:
        table.add_column(name.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(Text("-" if row[name] is None else str(row[name])) for name in columns))
    console.print(table)
