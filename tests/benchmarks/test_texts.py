import json

import numpy as np
import pytest

from benchmarks.serving_cases import CASES
from benchmarks.texts import MARK, fill, make_bodies, make_texts


def words(texts):
    return np.array([len(text.split()) - 1 for text in texts])


@pytest.mark.parametrize(("lengths", "least", "most"), [("uniform", 8, 180), ("short", 4, 12), ("long", 140, 180)])
def test_lengths_fill_their_range_evenly(lengths, least, most):
    counted = words(make_texts(lengths, 2000))
    assert (counted.min(), counted.max()) == (least, most)
    assert counted.mean() == pytest.approx((least + most) / 2, rel=0.05)


def test_heavy_tailed_lengths_have_a_small_median_and_a_large_maximum():
    counted = words(make_texts("heavy", 2000))
    assert 12 <= np.median(counted) <= 20
    assert counted.max() > 500
    assert counted.min() >= 1


def test_a_number_is_so_many_words_each():
    assert set(words(make_texts("16", 50))) == {16}


def test_an_unknown_distribution_is_refused():
    with pytest.raises(ValueError, match="lengths is 'tiny'"):
        make_texts("tiny", 1)


def test_texts_are_the_same_for_the_same_seed_and_are_different_from_each_other():
    texts = make_texts("uniform", 200)
    assert texts == make_texts("uniform", 200)
    assert texts != make_texts("uniform", 200, seed=1)
    assert len(set(texts)) == 200


def test_each_text_takes_the_tag_once():
    assert all(text.count(MARK) == 1 for text in make_texts("heavy", 300))
    assert fill([f"{MARK} tide"], "r1") == ["r1 tide"]


def test_a_body_is_one_line_of_so_many_texts_and_a_remainder_is_left_out():
    bodies = make_bodies(make_texts("short", 70), 32, CASES["texts-32"].body)
    assert [len(json.loads(body)["messages"]) for body in bodies] == [32, 32]
    assert all("\n" not in body and json.loads(body)["top_k"] == 4 for body in bodies)
    assert "top_k" not in CASES["dense-4096"].body(["tide"])
