"""Where an application's log and checkpoints are: settings to open things."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psycopg
from sqlalchemy import URL

from .checkpoint import CheckpointStore, Expected
from .config import MEMORY_URL, LearnerConfig, settings_of
from .errors import LogUnavailableError, NoLogError, OldSchemaError, WrongLogError
from .event_log import EventLog
from .memory_log import MemoryEventLog
from .restore import Restorer
from .rules import build_rule
from .sql import SqlEventLog, open_sql_log, read_sql_log
from .sql.database import parse_url

_PATIENCE_LEASES = 2.0
_CHECK_TIMEOUT_S = 3


@dataclass(frozen=True, slots=True)
class Storage:
    """An open log, and where checkpoints go: nowhere for a log that forgets."""

    log: EventLog
    checkpoints: CheckpointStore | None


def log_url(config: LearnerConfig, application: str) -> str:
    """The URL of the application's log."""
    return config.log.url.replace("{app}", application)


def open_checkpoints(config: LearnerConfig, application: str) -> CheckpointStore | None:
    """The application's checkpoints; None with a log in memory."""
    if config.log.url == MEMORY_URL:
        return None
    return CheckpointStore(config.checkpoints.url.replace("{app}", application), keep=config.checkpoints.keep)


def check_log(config: LearnerConfig, application: str | None) -> bool:
    """Find out before anything starts whether the log can be had. Nothing is opened or written.

    Args:
        config: says where.
        application: the application's name, None where it is not known: a URL that has it cannot be checked then.

    Returns:
        Whether it can be read from here: False with a server that asks for a password, which only the learner may have.

    Raises:
        LogUnavailableError: the server does not answer, or there can be no file. The message has no password.
        LogError: the URL is none.
    """
    if config.log.url == MEMORY_URL:
        return False
    url = parse_url(config.log.url if application is None else log_url(config, application))
    if application is None and "{app}" in config.log.url:
        return False
    if url.drivername != "sqlite":
        return _check_server(url)
    _check_folder(Path(url.database or "").parent)
    return True


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


def _check_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LogUnavailableError(
            f"the log's folder {folder} cannot be made ({error.strerror}); set learner.log.url"
        ) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise LogUnavailableError(f"the log's folder {folder} cannot be written; set learner.log.url, or allow it")


def _check_server(url: URL) -> bool:
    """Whether it lets us in: False if it asks for a password."""
    options = {**url.translate_connect_args(username="user", database="dbname"), **url.query}
    try:
        psycopg.connect(**{**options, "connect_timeout": _CHECK_TIMEOUT_S}).close()
    except psycopg.OperationalError as error:
        if error.pgconn is not None and error.pgconn.needs_password:
            # The server is there; the password may be with the learner alone.
            return False
        because = " ".join(str(error).split())
        if url.password is not None:
            because = because.replace(str(url.password), "***")
        raise LogUnavailableError(
            f"the log's database cannot be reached: {because}; see learner.log.url, and whether the server runs"
        ) from error
    return True


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
