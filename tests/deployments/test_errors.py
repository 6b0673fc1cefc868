from __future__ import annotations

import pickle

import pytest

from deployments.errors import LearnerAway, LearnerAwayProblem


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://me:secret@db/gate is away", "postgresql://me:***@db/gate is away"),
        ("postgresql://me:se/c@r:et@db/gate is away", "postgresql://me:***@db/gate is away"),
        ("postgresql://me@db:5432/gate is away", "postgresql://me@db:5432/gate is away"),
        ("no answer from 127.0.0.1:5432; ask me@home", "no answer from 127.0.0.1:5432; ask me@home"),
    ],
)
def test_why_the_learner_is_away_is_told_without_a_password(text: str, shown: str) -> None:
    assert str(LearnerAway(text)) == shown
    assert f"({shown})" in LearnerAwayProblem(LearnerAway(text)).detail


def test_a_problem_tells_the_first_line_of_why_the_learner_is_away() -> None:
    problem = LearnerAwayProblem(LearnerAway("the actor died\nTraceback: inside\n"))
    assert problem.detail == "the learner is away (the actor died): nothing was acknowledged; send the request again"
    assert (problem.status, problem.code, problem.retry_after_s) == (503, "learner_away", 1)
    assert LearnerAway("").because == ""


def test_the_learners_absence_survives_pickling() -> None:
    assert str(pickle.loads(pickle.dumps(LearnerAway("gone")))) == "gone"
