import pytest

from learner.events import RewardItem

from .builders import embedding


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"reward_id": "r"},
        {"embedding": embedding(0)},
        {"decision_id": "d", "reward_id": "r"},
        {"decision_id": "d", "embedding": embedding(0)},
        {"decision_id": "d", "reward_id": "r", "embedding": embedding(0)},
    ],
)
def test_a_reward_is_for_a_decision_or_for_a_message(given):
    with pytest.raises(ValueError, match="either decision_id, or reward_id together with embedding"):
        RewardItem((1,), (0.5,), **given)


def test_there_is_one_reward_for_each_uid():
    with pytest.raises(ValueError, match="rewards has 3 values for 1 uids; send one reward per uid"):
        RewardItem((1,), (0.5, 0.5, 0.5), decision_id="d")
