import pickle

import pytest

from learner import errors

ALL = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, errors.LearnerError)]


@pytest.mark.parametrize("error", ALL)
def test_an_error_survives_the_way_between_processes(error):
    arrived = pickle.loads(pickle.dumps(error("what is wrong and how to mend it")))
    assert type(arrived) is error
    assert str(arrived) == "what is wrong and how to mend it"


@pytest.mark.parametrize("error", ALL)
def test_the_modules_docstring_draws_every_error(error):
    assert error.__name__ in errors.__doc__
