import pickle
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.events import Decision, candidates_digest
from learner.protocol import DecisionBatch, RewardItem

from .builders import embedding


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"reward_id": "r"},
        {"embedding": embedding(0)},
        {"decision_id": "d", "reward_id": "r"},
        {"decision_id": "d", "embedding": embedding(0)},
        {"decision_id": "d", "reward_id": "r", "embedding": embedding(0)},
    ],
)
def test_a_reward_is_for_a_decision_or_for_a_message(parts):
    with pytest.raises(ValueError, match="either decision_id, or reward_id together with embedding"):
        RewardItem((1,), (0.5,), **parts)


def test_there_is_one_reward_for_each_uid():
    with pytest.raises(ValueError, match="rewards has 3 values for 1 uids; send one reward per uid"):
        RewardItem((1,), (0.5, 0.5, 0.5), decision_id="d")


FINITE = st.floats(allow_nan=False, allow_infinity=False)
ONE_UID = st.tuples(st.integers(0, 2**31), FINITE, FINITE, st.text(max_size=8))
ONE_DECISION = st.tuples(
    st.text(max_size=12),
    FINITE,
    st.integers(0, 2**53),
    st.integers(0, 2**53),
    st.lists(st.integers(0, 2**16 - 1), min_size=3, max_size=3),
    st.lists(ONE_UID, max_size=4),
    st.integers(0, 2**31),
    st.text(max_size=16),
)


@given(st.lists(ONE_DECISION, min_size=1, max_size=6))
def test_decisions_come_out_of_their_batch_as_they_went_in(drawn):
    made = []
    for name, time_s, epoch, version, half_floats, per_uid, candidates, digest in drawn:
        uids, scores, propensities, hotkeys = zip(*per_uid, strict=True) if per_uid else ((), (), (), ())
        vector = np.array(half_floats, np.uint16).view(np.float16)
        made.append(
            Decision(name, time_s, epoch, version, vector, uids, scores, propensities, hotkeys, candidates, digest)
        )
    batch = pickle.loads(pickle.dumps(DecisionBatch.of("tiny", made)))
    assert batch.fingerprint == "tiny"
    unpacked = batch.decisions
    assert [replace(decision, embedding=None) for decision in unpacked] == [
        replace(decision, embedding=None) for decision in made
    ]
    assert [decision.embedding.tobytes() for decision in unpacked] == [
        decision.embedding.tobytes() for decision in made
    ]
    assert all(type(value) is int for decision in unpacked for value in (decision.epoch, *decision.uids))


@pytest.mark.parametrize("embeddings", [[], [None], [embedding(0), None], [embedding(0), embedding(0, 7)]])
def test_decisions_without_an_embedding_of_one_width_make_no_batch(embeddings):
    with pytest.raises(ValueError, match=r"have an embedding|same shape"):
        DecisionBatch.of("tiny", [decision(f"i-{index}", prompt=each) for index, each in enumerate(embeddings)])


def decision(decision_id, prompt):
    return Decision(decision_id, 0.0, 1, 1, prompt, (0,), (0.5,), (1.0,), ("a",), 6)


@given(st.lists(st.integers(0, 300), unique=True), st.randoms())
def test_a_digest_of_candidates_tells_sets_apart_and_not_orders(uids, random):
    digest = candidates_digest(np.array(uids, np.int64))
    shuffled = random.sample(uids, len(uids))
    assert candidates_digest(np.array(shuffled, np.int64)) == digest
    assert re.fullmatch("[0-9a-f]{16}", digest)
    assert candidates_digest(np.array([*uids, 301], np.int64)) != digest
    if uids:
        assert candidates_digest(np.array(uids[1:], np.int64)) != digest


def test_the_digest_of_candidates_is_the_one_that_logs_already_hold():
    assert candidates_digest(np.array([2, 0, 1], np.int64)) == "cf5ddb2411b6887b"
