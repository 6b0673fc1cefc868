"""Rules that learn without serving."""

import logging
import math

import numpy as np
import pytest
import torch

from gating.metagraph import MetagraphView
from learner.checkpoint import CheckpointStore
from learner.config import AdagradConfig, LearnerConfig, PooledRidgeConfig, SoftmaxMseConfig, settings_of
from learner.errors import CheckpointMismatchError, RuleMismatchError, UnknownRuleError, UnknownVersionError
from learner.event_log import Genesis
from learner.events import Action, OperatorEvent
from learner.restore import Restorer
from learner.rules import build_rule

from .builders import (
    DIM,
    START,
    act,
    bits,
    build_learner,
    events_of,
    expected,
    head_bits,
    learn_all,
    message_reward,
    replay,
    roll_back,
    save,
    state_digest,
    state_of,
)

SERVING = AdagradConfig()
SHADOWS = (SoftmaxMseConfig(learning_rate=0.5), PooledRidgeConfig(label="wide", ridge=5.0))


def build(**settings):
    learner = build_learner(**{"rule_config": SERVING, "shadow": SHADOWS, **settings})
    learner.take_configured_shadows()
    learn_all(learner)
    return learner


def earn(learner, *names):
    for name in names:
        learner.add_rewards([message_reward(name, {0: 1.0, 2: 0.25, len(name) % 3 + 3: 0.0})])
        learn_all(learner)


def promote(learner, label):
    seq = learner.commit_one(learner.stage_promotion(label, "ops"))
    learn_all(learner)
    return seq


def numbers(rule_state):
    return [{name: bits(tensor) for name, tensor in part.items()} for part in (rule_state.rows, rule_state.shared)]


@pytest.fixture
def store(tmp_path):
    return CheckpointStore(str(tmp_path), keep=5)


def test_a_shadow_learns_what_it_would_have_learned_by_serving():
    learner = build()
    earn(learner, "a", "bb", "ccc")
    learner.resync(MetagraphView.from_hotkeys(["a", "b", "new", "d", "e", "f"], block=2))
    earn(learner, "dddd")
    shadows = state_of(learner).shadows
    assert list(shadows) == ["softmax_mse", "wide"]
    for config, shadow in zip(SHADOWS, shadows.values(), strict=True):
        alone = build_learner(rule_config=config)
        earn(alone, "a", "bb", "ccc")
        alone.resync(MetagraphView.from_hotkeys(["a", "b", "new", "d", "e", "f"], block=2))
        earn(alone, "dddd")
        for name, rows in state_of(alone).rule.rows.items():
            # What is drawn at a resync depends on its place in the log, which is another.
            kept = [0, 1, 3, 4, 5] if name == "weight" else slice(None)
            assert torch.equal(rows[kept], shadow.rule.rows[name][kept]), name


def test_shadows_change_nothing_about_the_rule_that_serves():
    with_shadows, alone = build(), build_learner(rule_config=SERVING)
    for learner in (with_shadows, alone):
        earn(learner, "a", "bb", "ccc")
    assert head_bits(with_shadows) == head_bits(alone)
    assert state_of(with_shadows).digest() == state_of(alone).digest()


def test_a_promoted_shadow_serves_and_the_former_rule_learns_on():
    learner = build()
    earn(learner, "a", "bb")
    before = state_of(learner).copy()
    seq = promote(learner, "wide")
    state = state_of(learner)
    assert (state.identity.label, state.served_since, learner.rule.name) == ("wide", seq, "pooled_ridge")
    assert list(state.shadows) == ["adagrad", "softmax_mse"]
    assert numbers(state.rule) == numbers(before.shadows["wide"].rule)
    assert numbers(state.shadows["adagrad"].rule) == numbers(before.rule)
    expected_head = build_rule(SHADOWS[1]).head(before.shadows["wide"].rule)
    assert learner.snapshot().weight.tobytes() == expected_head.weight.numpy().tobytes()
    earn(learner, "ccc")
    assert numbers(state_of(learner).rule) != numbers(before.shadows["wide"].rule)
    assert numbers(state_of(learner).shadows["adagrad"].rule) != numbers(before.rule)


def test_a_promotion_is_one_event_with_who_asked_for_it():
    learner = build()
    seq = promote(learner, "softmax_mse")
    [event] = events_of(learner, seq - 1)
    assert isinstance(event, OperatorEvent)
    assert (event.action, event.author, event.arguments) == (Action.PROMOTE, "ops", {"label": "softmax_mse"})


def test_the_losses_go_with_the_rules():
    learner = build()
    earn(learner, "a", "bb")
    before = learner.describe()["rules"]
    promote(learner, "wide")
    after = learner.describe()["rules"]
    assert {label: rule["moving_loss"] for label, rule in before.items()} == {
        label: rule["moving_loss"] for label, rule in after.items()
    }
    assert [label for label, rule in after.items() if rule["serves"]] == ["wide"]
    assert learner.describe()["rule"] == "pooled_ridge"


def test_an_unknown_shadow_is_refused_and_nothing_is_logged():
    learner = build()
    logged = learner.log.last_seq
    for label in ("adagrad", "nothing"):
        with pytest.raises(UnknownRuleError, match=f"no shadow rule '{label}'; there are softmax_mse, wide"):
            learner.stage_promotion(label, "ops")
    assert learner.log.last_seq == logged


def test_the_second_of_two_promotions_at_once_counts_only_if_its_shadow_is_still_one():
    learner = build()
    stages = [learner.stage_promotion("wide", "one"), learner.stage_promotion("wide", "two")]
    learner.commit(stages)
    learn_all(learner)
    assert state_of(learner).identity.label == "wide"
    assert set(state_of(learner).shadows) == {"adagrad", "softmax_mse"}


@pytest.mark.parametrize("saves", [False, True])
def test_a_restart_goes_on_with_what_was_promoted(store, saves):
    learner = build(store=store)
    earn(learner, "a", "bb")
    promote(learner, "wide")
    if saves:
        save(learner, store)
    earn(learner, "ccc")
    again = build(store=store, log=learner.log)
    assert state_digest(state_of(again)) == state_digest(state_of(learner))
    assert state_digest(replay(learner)) == state_digest(state_of(learner))
    assert again.rule.name == "pooled_ridge"


def test_the_configuration_may_follow_the_promotion(store, caplog):
    learner = build(store=store)
    earn(learner, "a")
    save(learner, store)
    promote(learner, "wide")
    seq = learner.log.last_seq
    with caplog.at_level(logging.WARNING):
        build(store=store, log=learner.log)
        assert "rule_promoted serving=wide configured=adagrad" in caplog.text
        caplog.clear()
        again = build(store=store, log=learner.log, rule_config=SHADOWS[1], shadow=(SERVING, SHADOWS[0]))
        assert not caplog.records
    assert again.log.last_seq == seq
    only = build(store=store, log=learner.log, rule_config=SHADOWS[1], shadow=())
    assert (state_of(only).identity.label, state_of(only).shadows) == ("wide", {})
    assert numbers(state_of(only).rule) == numbers(state_of(again).rule)


def test_a_rule_that_serves_and_is_not_configured_is_refused_with_the_remedy(store):
    learner = build(store=store)
    earn(learner, "a")
    promote(learner, "wide")
    with pytest.raises(RuleMismatchError, match=r"wide serves .* `tidegate replay --rule adagrad --write-checkpoint`"):
        build(store=store, log=learner.log, shadow=())


def test_shadows_that_come_and_go_are_one_event_and_those_that_stay_keep_what_they_know():
    learner = build()
    earn(learner, "a", "bb")
    wide = numbers(state_of(learner).shadows["wide"].rule)
    other = SoftmaxMseConfig(learning_rate=0.125)
    renamed = SHADOWS[1].model_copy(update={"label": "broad"})
    again = build(log=learner.log, shadow=(other, renamed))
    assert again.log.last_seq == learner.log.last_seq
    assert events_of(again)[-1].action is Action.SHADOW
    shadows = state_of(again).shadows
    assert list(shadows) == ["broad", "softmax_mse"]
    assert numbers(shadows["broad"].rule) == wide
    assert shadows["broad"].identity.since == 1
    assert shadows["softmax_mse"].identity.settings == settings_of(other)
    assert shadows["softmax_mse"].identity.since == again.log.last_seq
    assert state_digest(replay(again)) == state_digest(state_of(again))


def test_a_label_alone_is_no_other_rule(store):
    learner = build(store=store)
    earn(learner, "a")
    save(learner, store)
    named = SERVING.model_copy(update={"label": "good-old"})
    again = build(store=store, log=learner.log, rule_config=named)
    assert state_of(again).identity.label == "good-old"
    assert state_of(again).digest() == state_of(learner).digest()


@pytest.mark.parametrize(
    "rules",
    [
        {"shadow": [{"name": "adagrad"}]},
        {"shadow": [{"name": "softmax_mse"}, {"name": "softmax_mse", "momentum": 0.5}]},
        {"shadow": [{"name": "softmax_mse"}, {"name": "softmax_mse", "label": "twin"}]},
        {"rule": {"name": "adagrad", "label": "x"}, "shadow": [{"name": "softmax_mse", "label": "x"}]},
    ],
)
def test_rules_that_cannot_be_told_apart_are_refused(rules):
    with pytest.raises(ValueError, match="two rules have the same"):
        LearnerConfig.model_validate({"rule": {"name": "adagrad"}, **rules})


@pytest.mark.parametrize("label", ["", "a/b", "a b", "x" * 65])
def test_a_label_is_a_plain_name(label):
    with pytest.raises(ValueError, match="label"):
        AdagradConfig(label=label)


def test_what_a_shadow_cannot_learn_it_goes_without():
    fragile = AdagradConfig(label="fragile", learning_rate=1e38)
    learner = build(rule_config=SoftmaxMseConfig(), shadow=(fragile,))
    given = {"a": {0: 1.0}, "bb": {0: 0.0}, "ccc": {1: 1.0}}
    learner.add_rewards([message_reward(name, rewards) for name, rewards in given.items()])
    learn_all(learner)
    state = state_of(learner)
    assert state.held == {}
    figures = learner.describe()["rules"]["fragile"]
    assert figures["refused"] > 0
    assert math.isfinite(figures["moving_loss"])
    for tensor in state.shadows["fragile"].rule.rows.values():
        assert torch.isfinite(tensor.double()).all()
    assert state_digest(replay(learner)) == state_digest(state)


def test_a_rollback_takes_the_shadows_back_too():
    learner = build()
    earn(learner, "a", "bb")
    version, before = learner.version, state_of(learner).copy()
    earn(learner, "ccc")
    roll_back(learner, version)
    for label, shadow in before.shadows.items():
        assert numbers(state_of(learner).shadows[label].rule) == numbers(shadow.rule)


def test_a_rollback_keeps_the_shadows_of_the_configuration():
    learner = build()
    earn(learner, "a")
    version = learner.version
    again = build(log=learner.log, shadow=SHADOWS[1:])
    earn(again, "bb")
    roll_back(again, version)
    assert list(state_of(again).shadows) == ["wide"]
    assert state_digest(replay(again)) == state_digest(state_of(again))


def test_a_rollback_stops_at_the_promotion():
    learner = build()
    earn(learner, "a")
    version = learner.version
    seq = promote(learner, "wide")
    with pytest.raises(UnknownVersionError, match=f"served by another rule; wide serves since version {seq}"):
        learner.stage_rollback(version, "ops")
    earn(learner, "bb")
    roll_back(learner, seq)
    assert state_of(learner).identity.label == "wide"


def test_a_rollback_that_a_promotion_has_overtaken_changes_nothing(caplog):
    learner = build()
    earn(learner, "a", "bb")
    learner.commit([learner.stage_promotion("wide", "ops"), learner.stage_rollback(2, "ops")])
    learn_all(learner)
    assert "rollback_ignored version=2" in caplog.text
    assert state_of(learner).identity.label == "wide"
    assert state_of(learner).statistics.rewards.sum() == 6
    assert state_digest(replay(learner)) == state_digest(state_of(learner))


def test_one_rule_alone_can_be_replayed_whatever_served():
    learner = build()
    earn(learner, "a")
    promote(learner, "wide")
    earn(learner, "bb")
    alone = build_learner(rule_config=SERVING)
    earn(alone, "a", "bb")
    restorer = Restorer(learner.log, build_rule(SERVING), expected(learner.log, learner.config), only_this_rule=True)
    state = restorer.newest().state
    assert numbers(state.rule) == numbers(state_of(alone).rule)
    assert (state.shadows, state.identity.label) == ({}, "adagrad")


def test_one_rule_alone_goes_on_from_a_checkpoint_in_which_it_was_a_shadow(store):
    learner = build(store=store)
    earn(learner, "a")
    save(learner, store)
    earn(learner, "bb")
    wanted = expected(learner.log, LearnerConfig(rule=SHADOWS[1]))
    restorer = Restorer(learner.log, build_rule(SHADOWS[1]), wanted, store, only_this_rule=True)
    restored = restorer.newest()
    assert restored.saved > 0
    assert numbers(restored.state.rule) == numbers(state_of(learner).shadows["wide"].rule)
    assert restored.state.shadows == {}


def test_a_log_that_does_not_say_which_rule_it_began_with_began_with_the_configured_one():
    learner = build_learner(rule_config=SERVING)
    learner.log.genesis = Genesis(START, 0)
    earn(learner, "a")
    again = build_learner(rule_config=SoftmaxMseConfig(), log=learner.log)
    assert state_of(again).identity.settings == settings_of(SoftmaxMseConfig())
    learner.log.genesis = Genesis(START, 0, settings_of(SERVING))
    with pytest.raises(RuleMismatchError, match="rule adagrad serves"):
        build_learner(rule_config=SoftmaxMseConfig(), log=learner.log)


def test_a_checkpoint_brings_the_shadows_back_to_the_bit(store):
    learner = build(store=store)
    earn(learner, "a", "bb")
    manifest = save(learner, store)
    assert {label: shadow.since for label, shadow in manifest.shadows.items()} == {"softmax_mse": 1, "wide": 1}
    loaded = store.load(manifest, expected(learner.log, learner.config))
    assert state_digest(loaded) == state_digest(state_of(learner))


def test_a_checkpoint_without_shadows_is_as_it_was_before_there_were_any(store):
    learner = build_learner(rule_config=SERVING, store=store)
    earn(learner, "a")
    text = save(learner, store).to_json()
    for name in (b"shadows", b"served_since", b"rule_since"):
        assert name not in text


def test_a_saved_shadow_that_was_altered_is_refused(store, tmp_path):
    learner = build(store=store)
    earn(learner, "a")
    manifest = save(learner, store)
    wrong = expected(learner.log, LearnerConfig(rule=SoftmaxMseConfig(momentum=0.125)))
    with pytest.raises(CheckpointMismatchError, match="rule"):
        store.load(manifest, wrong)
    shadow = expected(learner.log, LearnerConfig(rule=SHADOWS[0]))
    assert store.load(manifest, shadow).identity.label == "adagrad"


def test_what_is_frozen_is_held_from_the_shadows_too():
    learner = build()
    earn(learner, "a")
    act(learner, Action.FREEZE)
    before = {label: numbers(shadow.rule) for label, shadow in state_of(learner).shadows.items()}
    earn(learner, "bb")
    assert {label: numbers(shadow.rule) for label, shadow in state_of(learner).shadows.items()} == before
    act(learner, Action.THAW)
    for label, shadow in state_of(learner).shadows.items():
        assert numbers(shadow.rule) != before[label]


def test_the_rows_of_the_shadows_follow_the_network():
    learner = build()
    earn(learner, "a")
    learner.resync(MetagraphView.from_hotkeys(list("abcdefgh"), block=2))
    learn_all(learner)
    for shadow in state_of(learner).shadows.values():
        assert {len(rows) for rows in shadow.rule.rows.values()} == {8}
    assert np.isfinite(learner.snapshot().weight).all()
    assert learner.dim == DIM
