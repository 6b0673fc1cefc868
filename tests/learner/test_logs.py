import json
import logging

import pytest
from pydantic import ValidationError

from learner.config import LoggingConfig
from learner.logs import PACKAGES, start_logging


@pytest.fixture
def start(tmp_path):
    """Starts logging, and leaves the loggers as they were."""
    before = {
        name: (list(log.handlers), log.level, log.propagate) for name in PACKAGES if (log := logging.getLogger(name))
    }

    def start(component="learner-gate-1", **settings):
        return start_logging(
            LoggingConfig(**settings),
            component=component,
            about={"pid": 1},
            folder=tmp_path / "logs",
            tells_errors=True,
        )

    yield start
    for name, (handlers, level, propagate) in before.items():
        logger = logging.getLogger(name)
        for handler in logger.handlers[:]:
            logger.removeHandler(handler)
            handler.close()
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate = propagate


def test_the_packages_write_to_a_file_of_the_process(start, tmp_path):
    path = start(component="replica-a/b-Gate#x")
    assert path == tmp_path / "logs" / "replica-a_b-Gate_x.log"
    for name in PACKAGES:
        logging.getLogger(f"{name}.part").info("started where=%s", name)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["where"] for line in lines] == list(PACKAGES)
    assert all(line["pid"] == 1 for line in lines)


def test_what_is_below_the_level_is_not_written(start):
    path = start(level="WARNING")
    logging.getLogger("learner.x").info("restored version=%d", 1)
    logging.getLogger("learner.x").warning("fenced epoch=%d", 2)
    [line] = path.read_text().splitlines()
    assert json.loads(line)["event"] == "fenced"


def test_warnings_go_to_standard_error_as_well(start, capsys):
    start()
    logging.getLogger("learner.x").info("restored version=%d", 1)
    logging.getLogger("learner.x").error("fenced epoch=%d", 2)
    [line] = capsys.readouterr().err.splitlines()
    assert json.loads(line)["event"] == "fenced"


def test_text_and_a_folder_can_be_asked_for(start, tmp_path):
    path = start(format="text", folder=str(tmp_path / "elsewhere"))
    logging.getLogger("learner.x").info("restored version=%d", 1)
    assert path.parent == tmp_path / "elsewhere"
    assert path.read_text().endswith("INFO learner.x restored version=1\n")


def test_starting_again_writes_nothing_twice(start):
    start()
    path = start()
    logging.getLogger("learner.x").info("restored version=%d", 1)
    assert len(path.read_text().splitlines()) == 1


def test_prompts_are_logged_only_in_the_lines_of_requests():
    with pytest.raises(ValidationError, match="set requests: true as well"):
        LoggingConfig(log_prompts=True)
