from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.nonces import NonceStore, NonceVerdict

SECOND = 1_000_000_000


class Time:
    """A clock in ns that goes when it is told to."""

    def __init__(self, now_s: float = 1000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> int:
        return self.at(0)

    def at(self, offset_s: float) -> int:
        return int((self.now_s + offset_s) * SECOND)


def test_a_nonce_is_taken_once_for_each_hotkey() -> None:
    store = NonceStore(clock_ns=(time := Time()), started_ns=0)
    nonce = time.at(0)
    assert [store.take(hotkey, nonce) for hotkey in ("a", "b", "a", "b")] == ["fresh", "fresh", "seen", "seen"]
    assert store.take("a", nonce + 1) == "fresh"


def test_an_older_nonce_than_the_last_is_fresh_too() -> None:
    store = NonceStore(clock_ns=(time := Time()), started_ns=0)
    assert store.take("a", time.at(0)) == "fresh"
    assert store.take("a", time.at(-1)) == "fresh"


@pytest.mark.parametrize(
    ("offset_s", "verdict"), [(-1.0, "stale"), (0.0, "stale"), (1.0, "unsettled"), (2.0, "unsettled"), (2.5, "fresh")]
)
def test_what_an_earlier_learner_may_have_taken_is_not_taken(offset_s: float, verdict: NonceVerdict) -> None:
    time = Time()
    started_ns = time.at(0)
    time.now_s += 1.0
    # Clocks are at most 2 s ahead, so up to there the nonce may have been used before the start.
    assert (
        NonceStore(clock_ns=time, started_ns=started_ns).take("a", started_ns + int(offset_s * SECOND), 2.0) == verdict
    )


def test_what_was_not_taken_may_be_taken_later_by_a_new_nonce_only() -> None:
    time = Time()
    store = NonceStore(clock_ns=time, started_ns=time.at(0))
    early = time.at(1)
    assert store.take("a", early, 2.0) == "unsettled"
    time.now_s += 5
    assert store.take("a", early, 2.0) == "unsettled"
    assert store.take("a", time.at(0), 2.0) == "fresh"


def test_what_is_past_its_retention_is_forgotten_and_refused() -> None:
    store = NonceStore(clock_ns=(time := Time()), started_ns=0, retention_s=100.0)
    nonce = time.at(0)
    assert store.take("a", nonce) == "fresh"
    time.now_s += 101
    assert store.take("b", time.at(0)) == "fresh"
    assert len(store) == 1
    assert store.take("a", nonce) == "stale"
    # The floor stays where it is, also when the clock is set back.
    time.now_s -= 101
    assert store.take("a", nonce) == "stale"


def test_a_hotkey_that_sends_too_much_is_itself_refused_its_oldest_and_nobody_else() -> None:
    store = NonceStore(clock_ns=(time := Time()), started_ns=0, capacity=3)
    for offset in range(5):
        assert store.take("a", time.at(offset)) == "fresh"
    assert len(store) == 3
    assert [store.take("a", time.at(offset)) for offset in range(5)] == ["stale", "stale", "seen", "seen", "seen"]
    assert store.take("b", time.at(0)) == "fresh"


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(-20, 20), st.integers(-3, 30)),
        max_size=60,
    )
)
def test_nothing_is_ever_taken_twice(calls: list[tuple[str, int, int]]) -> None:
    time = Time()
    store = NonceStore(clock_ns=time, started_ns=time.at(-15), retention_s=40.0, capacity=4)
    taken: set[tuple[str, int]] = set()
    origin_ns = time.at(0)
    for hotkey, nonce_s, passed_s in calls:
        time.now_s += passed_s
        nonce = origin_ns + nonce_s * SECOND
        if store.take(hotkey, nonce) == "fresh":
            assert (hotkey, nonce) not in taken
            assert nonce > origin_ns - 15 * SECOND
            taken.add((hotkey, nonce))
        assert len(store) <= 2 * 4
