import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gating import MetagraphView
from learner.view_json import view_from_json, view_to_json

owners = st.tuples(st.text(min_size=1, max_size=8), st.booleans(), st.one_of(st.none(), st.integers(0, 2**40)))


@given(
    st.lists(owners, min_size=1, max_size=5, unique_by=lambda owner: owner[0]),
    st.integers(0, 65_535),
    st.integers(0, 2**40),
)
def test_a_view_comes_back_as_it_was(owners, netuid, block):
    view = MetagraphView(*zip(*owners, strict=True), netuid=netuid, block=block)
    assert view_from_json(view_to_json(view)) == view
    assert view_from_json(view_to_json(view).decode()) == view


@pytest.mark.parametrize("text", ["[]", "{}", "7", '{"hotkeys": ["a"]}', "not json", '{"something": 1}'])
def test_what_is_no_view_is_refused(text):
    with pytest.raises(ValueError, match=r"."):
        view_from_json(text)


def test_an_attribute_that_is_not_known_is_refused_with_its_name():
    saved = orjson.loads(view_to_json(MetagraphView.from_hotkeys("ab")))
    with pytest.raises(ValueError, match="a view is an object with the keys"):
        view_from_json(orjson.dumps({**saved, "colour": "red"}))
