"""What can be found out about a log before it is opened. Who asks only that does not pay for torch."""

from __future__ import annotations

import os
from pathlib import Path

import psycopg
from sqlalchemy import URL

from .checkpoint_files import open_folders
from .config import MEMORY_URL, LearnerConfig
from .errors import LogUnavailableError
from .sql.database import parse_url

_CHECK_TIMEOUT_S = 3


def log_url(config: LearnerConfig, application: str) -> str:
    """The URL of the application's log."""
    return config.log.url.replace("{app}", application)


def checkpoints_url(config: LearnerConfig, application: str) -> str:
    """The URL of the application's checkpoints."""
    return config.checkpoints.url.replace("{app}", application)


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


def is_new(config: LearnerConfig, application: str) -> bool:
    """Whether this machine has neither a log nor checkpoints of the application: nothing that a learner goes on from.

    Raises:
        CheckpointError: the checkpoints' storage fails.
        LogError: the log's URL is none.
    """
    if config.log.url == MEMORY_URL:
        return True
    url = parse_url(log_url(config, application))
    if url.drivername != "sqlite" or Path(url.database or "").exists():
        return False
    return not open_folders(checkpoints_url(config, application)).names()


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
