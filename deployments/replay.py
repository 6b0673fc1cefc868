"""`tidegate replay`: the weights that a rule makes of the log, without a service."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from rich.console import Console

from learner.checkpoint import CheckpointStore, Expected, Manifest
from learner.config import MEMORY_URL, LearnerConfig, RuleConfig, settings_of
from learner.errors import FencedError, LogError, UnknownVersionError, WrongLogError
from learner.event_log import Commit, EventLog
from learner.events import Action, OperatorEvent
from learner.log_check import log_url
from learner.restore import OnBatch, Restored, Restorer
from learner.rules import build_rule
from learner.sql import SqlEventLog, read_sql_log
from learner.state import LearnerState
from learner.storage import log_clock, open_checkpoints, open_storage

from .config import ServeArgs
from .progress import OnStart, replay_progress
from .serve_config import IMPORT_PATH, ServeConfigError, parse_args, read_serve_config, with_absolute_paths

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Replay:
    """What to replay.

    Attributes:
        application: whose log.
        config: of its learner, with absolute paths.
        rule: with which rule and settings.
        as_logged: with the rules that have served, in their turn; `rule` is then only the configured one.
        start: the checkpoint to begin with; None: the beginning of the log.
        upto: the last version; None: the end of the log.
    """

    application: str
    config: LearnerConfig
    rule: RuleConfig
    as_logged: bool = False
    start: str | None = None
    upto: int | None = None


def plan_replay(config: Path, app: str | None, rule: str | None, start: str | None, upto: int | None) -> Replay:
    """Find the application in a Serve config, and the rule by its name.

    Raises:
        ServeConfigError: the config cannot be used, or has no such application or rule.
    """
    name, args = find_application(config, app)
    learner = args.learner
    return Replay(name, learner, find_rule(rule, learner.rule), rule is None, start, upto)


def find_application(config: Path, app: str | None) -> tuple[str, ServeArgs]:
    """The application of that name, or the only one, with a log that can be read once it has ended.

    Raises:
        ServeConfigError: the config cannot be used, or has no such application.
    """
    schema = with_absolute_paths(read_serve_config(config), config.resolve().parent)
    ours = {one.name: one for one in schema.applications if one.import_path == IMPORT_PATH}
    name = next(iter(ours), "") if app is None and len(ours) == 1 else app or ""
    if name not in ours:
        raise ServeConfigError(f"{config} has the applications {sorted(ours)}; name one with --app")
    args = ours[name].args
    parsed = parse_args(args if isinstance(args, dict) else args.model_dump())
    if parsed.learner.log.url == MEMORY_URL:
        raise ServeConfigError(f"{name} keeps its log in memory; there is nothing to replay once it has ended")
    return name, parsed


def run_replay(replay: Replay, *, write_checkpoint: bool, on_start: OnStart, on_batch: OnBatch) -> dict[str, Any]:
    """Replay, and save the result if asked to.

    Args:
        replay: what.
        write_checkpoint: the learner will start from the result. It must not run meanwhile.
        on_start: see `OnStart`.
        on_batch: told each version that is reached.

    Raises:
        LearnerError: the log or a checkpoint cannot be used.
    """
    # As in the learner: the bits depend on it.
    torch.set_num_threads(1)
    log = read_sql_log(log_url(replay.config, replay.application))
    try:
        if write_checkpoint:
            return _replay_and_save(replay, log, on_start, on_batch)
        return _replay(replay, log, on_start, on_batch)[1]
    finally:
        log.close()


def replay_with_progress(replay: Replay, console: Console, *, write_checkpoint: bool) -> dict[str, Any]:
    """`run_replay` behind a progress bar."""
    with replay_progress(console) as (on_start, on_batch):
        return run_replay(replay, write_checkpoint=write_checkpoint, on_start=on_start, on_batch=on_batch)


def _replay(replay: Replay, log: SqlEventLog, on_start: OnStart, on_batch: OnBatch) -> tuple[Restored, dict[str, Any]]:
    store = open_checkpoints(replay.config, replay.application)
    expected = expected_of(replay.application, replay.rule, log)
    # A rollback goes back to a state from before it. Where the log no longer begins at its beginning, that needs a
    # checkpoint, as the learner's did; another rule's are of no use to this one.
    history = store if replay.as_logged and replay.start is not None else None
    restorer = Restorer(log, build_rule(replay.rule), expected, history, only_this_rule=not replay.as_logged)
    base = restorer.beginning() if replay.start is None else _from_checkpoint(replay, restorer, store)
    first, last = base.state.version, log.last_seq if replay.upto is None else min(replay.upto, log.last_seq)
    on_start(first, last)
    started_s = time.monotonic()
    restored = restorer.replay(base, last, on_batch)
    took_s = time.monotonic() - started_s
    state = restored.state
    return restored, {
        "application": replay.application,
        "log_id": log.id,
        "rule": state.identity.settings,
        "from": replay.start or "the beginning of the log",
        "first": first,
        "version": state.version,
        "held": len(state.held),
        "digest": state.digest(),
        **restored.progress.describe(),
        "erased": restored.progress.erased,
        "took_s": round(took_s, 3),
    }


def _replay_and_save(replay: Replay, log: SqlEventLog, on_start: OnStart, on_batch: OnBatch) -> dict[str, Any]:
    # Whoever writes the log is the only one who may write checkpoints.
    holder = f"tidegate-replay-{socket.gethostname()}-{os.getpid()}"
    storage = open_storage(
        replay.config,
        application=replay.application,
        fingerprint=log.fingerprint,
        dim=log.dim,
        holder=holder,
        patience_s=0.0,
    )
    try:
        _refuse_to_pass_over_rollbacks(replay, log, storage.log.last_seq)
        # Not batch by batch, since a rollback may be a replay in itself.
        with _kept(storage.log, every_s=min(1.0, replay.config.log.lease_s / 4)):
            restored, result = _replay(replay, log, on_start, on_batch)
        # Nothing may come of it if another has the log by now.
        storage.log.renew()
        if not replay.as_logged:
            _log_rebuild(replay, storage.log, restored.state)
            result["version"] = restored.state.version
        if storage.checkpoints is None:
            raise LogError("a log in memory has no checkpoints")
        manifest = storage.checkpoints.save(
            restored.state,
            application=replay.application,
            log_id=log.id,
            epoch=storage.log.epoch,
            decisions=restored.decisions,
            fingerprint=log.fingerprint,
            dim=log.dim,
        )
        return {**result, "checkpoint": manifest.name}
    finally:
        storage.log.close()


@contextmanager
def _kept(log: EventLog, every_s: float) -> Iterator[None]:
    """The claim on the log is renewed while the body runs, unless another has taken the log over."""
    is_over = threading.Event()

    def renew() -> None:
        while not is_over.wait(every_s):
            try:
                log.renew()
            except FencedError:
                return
            except LogError as error:
                logger.warning("claim_not_renewed error=%s", error)

    renewing = threading.Thread(target=renew, name="renew-claim", daemon=True)
    renewing.start()
    try:
        yield
    finally:
        is_over.set()
        renewing.join()


def _refuse_to_pass_over_rollbacks(replay: Replay, log: SqlEventLog, last_seq: int) -> None:
    """A rule that was put in another's place can follow no rollback to before that: it would learn what was taken out.

    Raises:
        UnknownVersionError: the log has such a rollback.
    """
    if replay.as_logged:
        return
    if replay.start is not None:
        store = open_checkpoints(replay.config, replay.application)
        assert store is not None, "plan_replay refuses logs in memory"
        manifest = store.find(replay.start)
        if not _knows(replay, manifest):
            _refuse_rollbacks(log, manifest.version, f"from checkpoint {manifest.name}", "begin earlier or later")
    if replay.upto is not None and replay.upto < last_seq:
        _refuse_rollbacks(log, replay.upto, f"up to version {replay.upto}", "leave out --to")


def _refuse_rollbacks(log: SqlEventLog, version: int, what: str, remedy: str) -> None:
    for rollback in log.rollbacks(version):
        if (target := int(rollback.arguments["version"])) < version:
            raise UnknownVersionError(
                f"event {rollback.seq} rolls back to version {target}, and weights rebuilt {what} cannot follow it: "
                f"what it took out would be learned again; {remedy}. Nothing was written"
            )


def _log_rebuild(replay: Replay, log: EventLog, state: LearnerState) -> None:
    """Say in the log which rule serves from here on, so that whoever replays it finds the same."""
    seq = log.last_seq + 1
    if state.version != seq - 1:
        # The learner will learn the rest from here; no rollback may go behind it, where another rule may have served.
        state.served_since = state.version
        return
    arguments = {"rule": settings_of(replay.rule), "from": replay.start}
    event = OperatorEvent(Action.REBUILD, "tidegate replay", arguments, seq=seq, batch=seq)
    log.commit(Commit(at_s=log_clock(log)(), events=[event]))
    state.version = state.served_since = seq


def _from_checkpoint(replay: Replay, restorer: Restorer, store: CheckpointStore | None) -> Restored:
    assert store is not None, "plan_replay refuses logs in memory"
    manifest: Manifest = store.find(replay.start or "")
    if manifest.log_id != restorer.log.id:
        raise WrongLogError(f"checkpoint {manifest.name} belongs to log {manifest.log_id}, this is {restorer.log.id}")
    return restorer.saved(store, manifest) if _knows(replay, manifest) else restorer.afresh_in(store, manifest)


def _knows(replay: Replay, manifest: Manifest) -> bool:
    """Whether the checkpoint has weights of what is replayed."""
    settings = settings_of(replay.rule)
    return (
        replay.as_logged
        or settings == manifest.rule
        or any(settings == shadow.rule for shadow in manifest.shadows.values())
    )


def expected_of(application: str, rule: RuleConfig, log: SqlEventLog) -> Expected:
    """What a checkpoint of that log and rule must be of."""
    return Expected(
        application=application, log_id=log.id, rule=settings_of(rule), fingerprint=log.fingerprint, dim=log.dim
    )


def find_rule(name: str | None, configured: RuleConfig) -> RuleConfig:
    """The configured rule, or another one with its default settings.

    Raises:
        ServeConfigError: there is no such rule.
    """
    if name is None or name == configured.name:
        return configured
    try:
        rule: RuleConfig = TypeAdapter(RuleConfig).validate_python({"name": name})
    except ValidationError as error:
        raise ServeConfigError(f"there is no rule {name!r}: {error.errors()[0]['msg']}") from error
    return rule
