"""Where a process's log lines go: a file of its own, and warnings to standard error as well."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from .config import LoggingConfig
from .log_lines import Context, JsonLines, TextLines

PACKAGES = ("deployments", "gating", "learner")
_MAX_BYTES = 100 * 2**20
_KEPT = 5


def start_logging(
    config: LoggingConfig,
    *,
    component: str,
    about: Mapping[str, Any],
    folder: Path,
    context: Context = dict,
    tells_errors: bool,
) -> Path:
    """Have the packages' records written as `config` wants it. Called again, it replaces what it set up before.

    Args:
        config: the settings.
        component: the file's name, without its ending; unlike that of any other process that runs.
        about: fields of every line.
        folder: where the file is made, if the settings name none.
        context: fields of what is being done.
        tells_errors: whether what exceptions say is told; see `log_lines`.

    Returns:
        The file.
    """
    where = Path(config.folder).expanduser() if config.folder else folder
    where.mkdir(parents=True, exist_ok=True)
    path = where / f"{re.sub(r'[^A-Za-z0-9_.-]+', '_', component)}.log"
    lines = JsonLines if config.format == "json" else TextLines
    warnings = logging.StreamHandler()
    warnings.setLevel(logging.WARNING)
    file = RotatingFileHandler(path, maxBytes=_MAX_BYTES, backupCount=_KEPT, encoding="utf-8")
    for handler in (file, warnings):
        handler.setFormatter(lines(about, context, tells_errors=tells_errors))
    for name in PACKAGES:
        logger = logging.getLogger(name)
        for old in logger.handlers[:]:
            logger.removeHandler(old)
            old.close()
        logger.setLevel(config.level)
        logger.propagate = False
        logger.addHandler(file)
        logger.addHandler(warnings)
    return path
