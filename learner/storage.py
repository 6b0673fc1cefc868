"""Where an application's log and checkpoints are: settings to open things."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from .checkpoint import CheckpointStore, Expected
from .config import MEMORY_URL, LearnerConfig, settings_of
from .errors import NoLogError, OldSchemaError, WrongLogError
from .event_log import EventLog
from .log_check import check_log, checkpoints_url, log_url
from .memory_log import MemoryEventLog
from .restore import Restorer
from .rules import build_rule
from .sql import SqlEventLog, open_sql_log, read_sql_log

_PATIENCE_LEASES = 2.0


@dataclass(frozen=True, slots=True)
class Storage:
    """An open log, and where checkpoints go: nowhere for a log that forgets."""

    log: EventLog
    checkpoints: CheckpointStore | None


def open_checkpoints(config: LearnerConfig, application: str) -> CheckpointStore | None:
    """The application's checkpoints; None with a log in memory."""
    if config.log.url == MEMORY_URL:
        return None
    return CheckpointStore(checkpoints_url(config, application), keep=config.checkpoints.keep)


def check_storage(config: LearnerConfig, application: str) -> None:
    """Find out before anything starts whether the learner can go on from its checkpoints and log. Nothing is written.

    Args:
        config: says where.
        application: the application's name.

    Raises:
        LogError, CheckpointError, UnknownVersionError: it cannot; what the learner would say.
    """
    store = open_checkpoints(config, application)
    if not check_log(config, application) or store is None:
        return
    try:
        log = read_sql_log(log_url(config, application))
    except NoLogError as error:
        if kept := store.list():
            raise WrongLogError(
                f"the checkpoints go with log {kept[0].log_id}, and {str(error).partition(';')[0]}; bring it back, or "
                "set them aside with --reset"
            ) from error
        return
    except OldSchemaError:
        # It can be told once the learner has brought it up to date.
        return
    try:
        _check_checkpoints(config, application, log, store)
    finally:
        log.close()


def _check_checkpoints(config: LearnerConfig, application: str, log: SqlEventLog, store: CheckpointStore) -> None:
    rule = config.rule
    # Whether it is the encoder's log can be told only once the encoder is loaded.
    shadows = tuple(map(settings_of, config.shadow))
    expected = Expected(application, log.id, settings_of(rule), log.fingerprint, log.dim, shadows)
    if log.genesis is None:
        store.newest(expected)
    else:
        Restorer(log, build_rule(rule), expected, store).newest_saved()


def open_storage(
    config: LearnerConfig,
    *,
    application: str,
    fingerprint: str,
    dim: int,
    holder: str,
    patience_s: float | None = None,
) -> Storage:
    """Open the log for writing, which may mean to wait for another writer's claim to run out.

    Args:
        config: says where.
        application: the application's name.
        fingerprint: of the encoder.
        dim: width of its embeddings.
        holder: who will write: the same name reclaims the log at once.
        patience_s: how long to wait for another writer; by default until its claim must have run out.

    Raises:
        LogError: it cannot be had; see there.
    """
    if config.log.url == MEMORY_URL:
        return Storage(MemoryEventLog(started_at_ms=time.time_ns() // 1_000_000), None)
    log = open_sql_log(
        log_url(config, application),
        application=application,
        fingerprint=fingerprint,
        dim=dim,
        holder=holder,
        lease_s=config.log.lease_s,
        patience_s=_PATIENCE_LEASES * config.log.lease_s if patience_s is None else patience_s,
    )
    return Storage(log, open_checkpoints(config, application))


def log_clock(log: EventLog) -> Callable[[], float]:
    """The log's clock, in seconds since 1970: never before a time that is in the log, and never going back."""
    started_s, at_start_s = time.monotonic(), max(time.time(), log.last_time_s)
    return lambda: at_start_s + time.monotonic() - started_s
