import json
import logging

import pytest

from learner.log_lines import JsonLines, TextLines, describe_error, fields_of

SECRET = "what nobody may read"
ABOUT = {"application": "gate", "component": "replica"}


def record(template, *args, error=None, level=logging.INFO):
    info = None if error is None else (type(error), error, error.__traceback__)
    return logging.LogRecord("deployments.x", level, __file__, 1, template, args, info)


def raised(error, cause=None):
    try:
        raise error from cause
    except type(error) as caught:
        return caught


def as_json(lines, made):
    text = lines.format(made)
    assert "\n" not in text
    return json.loads(text)


@pytest.fixture
def lines():
    return JsonLines(ABOUT, lambda: {"request_id": "r-1", "decision_ids": ["a-1", "a-2"]}, tells_errors=False)


def test_an_event_has_its_keys_with_their_values_as_they_were_given(lines):
    line = as_json(lines, record("resync block=%d reset=%s took_s=%.1f", 12, (3, 4), 0.25))
    assert line["event"] == "resync"
    assert line["message"] == "resync block=12 reset=(3, 4) took_s=0.2"
    assert (line["block"], line["reset"], line["took_s"]) == (12, [3, 4], 0.25)


def test_a_line_says_when_where_by_whom_and_for_which_request(lines):
    line = as_json(lines, record("replica_started", level=logging.WARNING))
    assert line["event"] == "replica_started"
    assert line["level"] == "warning"
    assert line["logger"] == "deployments.x"
    assert line["time"].endswith("+00:00")
    assert {key: line[key] for key in ABOUT} == ABOUT
    assert (line["request_id"], line["decision_ids"]) == ("r-1", ["a-1", "a-2"])


@pytest.mark.parametrize(
    ("template", "args", "fields"),
    [
        ("nothing to fill", (), {}),
        ("only words %s", ("x",), {}),
        ("a=%s and %s b=%r", (1, 2, 3), {"a": 1, "b": 3}),
        ("share=%d%% of=%s", (50, "x"), {"share": 50, "of": "x"}),
        ("too=%s few=%s", (1,), {}),
        ("level=%s time=%s", ("high", "noon"), {"level_": "high", "time_": "noon"}),
        ("url?a=%s", ("x",), {}),
    ],
)
def test_keys_are_what_stands_before_a_placeholder(template, args, fields):
    assert fields_of(template, args) == fields


def test_what_json_has_no_word_for_is_written_as_text(lines):
    line = as_json(lines, record("closed because=%s value=%s", ValueError("why"), float("nan")))
    assert line["because"] == "why"
    assert line["value"] is None


def test_an_exception_is_told_by_type_and_place_and_what_it_says_is_left_out(lines):
    error = raised(RuntimeError(f"cannot read {SECRET}"), raised(KeyError(SECRET)))
    line = as_json(lines, record("engine_failed texts=%d", 1, error=error))
    assert line["error"] == "RuntimeError"
    assert line["traceback"][-1].startswith(__file__)
    assert "raise error from cause" in line["traceback"][-1]
    assert "then, after KeyError:" in line["traceback"]
    assert SECRET not in json.dumps(line)


def test_what_an_exception_says_is_told_where_no_caller_is_quoted():
    lines = JsonLines(ABOUT, dict, tells_errors=True)
    line = as_json(lines, record("learning_crashed", error=raised(OSError("the disk is full"))))
    assert line["error"] == "OSError: the disk is full"


def test_an_exception_that_goes_in_circles_is_told_once():
    first, second = ValueError("1"), ValueError("2")
    first.__context__, second.__context__ = second, first
    assert describe_error(first, tells=True)["error"] == "ValueError: 1"


@pytest.mark.parametrize("tells_errors", [True, False])
def test_text_lines_keep_what_exceptions_say_as_json_lines_do(tells_errors):
    lines = TextLines(ABOUT, lambda: {"request_id": "r-1"}, tells_errors=tells_errors)
    text = lines.format(record("engine_failed texts=%d", 1, error=raised(RuntimeError(SECRET))))
    assert "INFO deployments.x engine_failed texts=1 request_id=r-1\n" in text
    assert (SECRET in text) is tells_errors


def test_text_lines_do_not_take_over_what_another_formatter_made_of_an_exception():
    made = record("engine_failed texts=%d", 1, error=raised(RuntimeError(SECRET)))
    logging.Formatter().format(made)
    assert SECRET in made.exc_text
    assert SECRET not in TextLines(ABOUT, dict, tells_errors=False).format(made)
