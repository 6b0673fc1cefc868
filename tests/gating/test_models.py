import copy
import logging
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import gating
from gating import (
    BaseGatingModel,
    ConfigError,
    GatingModel,
    MetagraphView,
    ModelNotFoundError,
    SentenceEmbedGatingModel,
    mean_pooling,
)

MESSAGES = ["which expert?", "a blue river and its tide gate " * 5, "may", ""]
UIDS = 6


def network(*hotkeys):
    return SimpleNamespace(uids=torch.arange(len(hotkeys)), hotkeys=list(hotkeys))


@pytest.fixture(params=[GatingModel, SentenceEmbedGatingModel])
def model_class(request):
    return request.param


@pytest.fixture
def folder(model_class, gpt_neo_folder, bert_folder):
    return str(gpt_neo_folder if model_class is GatingModel else bert_folder)


@pytest.fixture
def model(model_class, folder):
    torch.manual_seed(0)
    config = model_class.config()
    config.gating.device = "cpu"
    config.gating.learning_rate = 0.5
    return model_class(network(*"abcdef"), config=config, model_name=folder, num_uids=UIDS)


def train(model, steps=3):
    for step in range(steps):
        model.backward(model(f"tide {step}"), torch.linspace(0, 3, model.num_uids))


def rows(model):
    """Weight, bias and momentum of each row, as copies."""
    state = model.optimizer.state
    momentum = [state[parameter]["momentum_buffer"].clone() for parameter in model.linear.parameters()]
    return [model.linear.weight.detach().clone(), model.linear.bias.detach().clone(), *momentum]


def np_softmax(values):
    exponentials = np.exp(values - values.max())
    return exponentials / exponentials.sum()


def np_loss_and_gradient(scores, rewards):
    """mse(softmax(scores), softmax(rewards)) and its gradient in the scores, written out."""
    p, q = np_softmax(scores), np_softmax(rewards)
    upstream = 2 * (p - q) / len(p)
    return ((p - q) ** 2).mean(), p * (upstream - (upstream * p).sum())


def test_both_models_are_the_seeds_interface(model):
    assert isinstance(model, BaseGatingModel)
    assert isinstance(model, torch.nn.Module)
    assert isinstance(model.linear, torch.nn.Linear)
    assert isinstance(model.optimizer, torch.optim.SGD)
    assert (model.num_uids, model.device) == (UIDS, torch.device("cpu"))
    assert model.optimizer.defaults["lr"] == 0.5
    assert model.optimizer.defaults["momentum"] == 0.9


def test_the_base_class_cannot_be_built():
    with pytest.raises(TypeError, match="abstract"):
        BaseGatingModel()


def test_explicit_arguments_win_over_the_config_and_leave_it_alone(model_class, folder):
    config = model_class.config()
    config.gating.num_uids = 3
    before = copy.deepcopy(config)
    model = model_class(None, config, folder, UIDS)
    assert (model.num_uids, model.config.gating.model_name) == (UIDS, folder)
    assert config == before


def test_without_arguments_the_config_decides(model_class, folder):
    config = model_class.config()
    config.gating.model_name, config.gating.num_uids = folder, 3
    assert model_class(None, config).linear.out_features == 3
    assert model_class(None, model_name=folder).num_uids == 4096


def test_bad_arguments_are_refused(model_class, folder):
    with pytest.raises(ConfigError, match=r"--gating\.num_uids is 0"):
        model_class(None, model_name=folder, num_uids=0)
    with pytest.raises(ModelNotFoundError, match="no/such/model"):
        model_class(None, model_name="./no/such/model", num_uids=1)
    with pytest.raises(ValueError, match="distinct"):
        model_class(SimpleNamespace(uids=[0, 0], hotkeys=["a", "b"]), model_name=folder, num_uids=1)


def test_a_head_smaller_than_the_network_is_mentioned(model_class, folder, caplog):
    with caplog.at_level(logging.WARNING, logger="gating.models"):
        model = model_class(network("a", "b", "c"), model_name=folder, num_uids=2)
    assert model.num_uids == 2
    assert "head_too_small uids=3 num_uids=2" in caplog.text


def test_scores_are_the_head_on_the_embedding(model):
    scores = model("which expert?")
    weight, bias = (parameter.detach().numpy() for parameter in model.linear.parameters())
    expected = model.encoder.encode(["which expert?"]).numpy()[0] @ weight.T + bias
    assert scores.shape == (UIDS,)
    np.testing.assert_allclose(scores.detach().numpy(), expected, rtol=1e-5, atol=1e-6)


def test_a_batch_scores_as_one_at_a_time(model):
    alone = torch.stack([model(message) for message in MESSAGES])
    torch.testing.assert_close(model.forward_batch(MESSAGES), alone, atol=1e-5, rtol=0)


def test_only_the_head_has_gradients_and_is_saved(model):
    model("may").sum().backward()
    assert all(parameter.grad is not None for parameter in model.linear.parameters())
    assert (
        [name for name, _ in model.named_parameters()] == list(model.state_dict()) == ["linear.weight", "linear.bias"]
    )
    assert all(parameter.grad is None for parameter in model.encoder.network.parameters())


def test_a_saved_head_gives_the_same_scores(model, model_class, folder):
    train(model)
    other = model_class(None, model_name=folder, num_uids=UIDS)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other("may"), model("may"))


@pytest.mark.parametrize("uids", [list(range(UIDS)), [4, 1, 3]])
def test_learning_follows_the_seeds_formula_step_by_step(model, uids):
    weight, bias = (parameter.detach().double().numpy().copy() for parameter in model.linear.parameters())
    weight_momentum, bias_momentum = np.zeros_like(weight), np.zeros_like(bias)
    rewards = np.linspace(-1.0, 2.0, len(uids))
    for message in MESSAGES:
        embedding = model.encoder.encode([message]).double().numpy()[0]
        expected_loss, gradient = np_loss_and_gradient((weight @ embedding + bias)[uids], rewards)
        bias_gradient = np.zeros(UIDS)
        bias_gradient[uids] = gradient
        weight_momentum = 0.9 * weight_momentum + np.outer(bias_gradient, embedding)
        bias_momentum = 0.9 * bias_momentum + bias_gradient
        weight, bias = weight - 0.5 * weight_momentum, bias - 0.5 * bias_momentum

        loss = model.backward(model(message)[uids], torch.tensor(rewards))

        assert loss.item() == pytest.approx(expected_loss, rel=1e-4)
        np.testing.assert_allclose(model.linear.weight.detach().numpy(), weight, atol=1e-6)
        np.testing.assert_allclose(model.linear.bias.detach().numpy(), bias, atol=1e-6)
    assert np.abs(weight_momentum).max() > 1e-4


def test_the_loss_falls_on_a_message_that_is_learned(model):
    rewards = torch.tensor([0.0, 0, 0, 5, 0, 0])
    losses = [model.backward(model("may"), rewards).item() for _ in range(200)]
    assert losses[-1] < losses[0] / 10
    assert model("may").argmax() == 3


def test_a_gradient_left_behind_does_not_leak_into_a_step(model):
    twin = copy.deepcopy(model)
    model("may").sum().mul(100).backward()
    rewards = torch.arange(float(UIDS))
    model.backward(model("may"), rewards)
    twin.backward(twin("may"), rewards)
    assert torch.equal(model.linear.weight, twin.linear.weight)
    assert all(parameter.grad is None for parameter in model.linear.parameters())


def test_rewards_get_no_gradient_and_the_loss_holds_none(model):
    rewards = torch.ones(UIDS, requires_grad=True)
    assert not model.backward(model("may"), rewards).requires_grad
    assert rewards.grad is None


def test_rewards_may_be_of_any_number_type(model):
    twin = copy.deepcopy(model)
    model.backward(model("may"), torch.tensor([0, 1, 0, 1, 0, 0]))
    twin.backward(twin("may"), torch.tensor([0.0, 1, 0, 1, 0, 0], dtype=torch.float64))
    assert torch.equal(model.linear.weight, twin.linear.weight)


@pytest.mark.parametrize(
    ("spoil_scores", "rewards", "says"),
    [
        (lambda scores: scores, torch.ones(UIDS - 1), r"scores has shape \[6\] and rewards \[5\]"),
        (lambda scores: scores, torch.ones(UIDS, 1), r"rewards \[6, 1\]"),
        (lambda scores: scores[None], torch.ones(1, UIDS), r"scores has shape \[1, 6\]"),
        (lambda scores: scores[[]], torch.ones(0), "at least one uid"),
        (lambda scores: scores, torch.tensor([0.0, 0, float("nan"), 0, 0, 0]), "finite"),
        (lambda scores: scores, torch.tensor([0.0, 0, float("inf"), 0, 0, 0]), "finite"),
        (lambda scores: scores * float("inf"), torch.ones(UIDS), "finite"),
        (lambda scores: scores.detach(), torch.ones(UIDS), "no gradient to the head"),
        (lambda scores: torch.ones(UIDS, requires_grad=True) * 2, torch.ones(UIDS), "no gradient to the head"),
    ],
)
def test_bad_input_to_learning_is_refused_and_changes_nothing(model, spoil_scores, rewards, says):
    train(model)
    before = rows(model)
    with pytest.raises(ValueError, match=says):
        model.backward(spoil_scores(model("may")), rewards)
    assert all(map(torch.equal, before, rows(model)))


def test_resync_resets_only_rows_whose_owner_changed(model):
    train(model)
    before = rows(model)
    model.resync(network(*"abcdef"), network(*"aXcdYf"))
    weight, bias, weight_momentum, bias_momentum = rows(model)
    kept, changed = [0, 2, 3, 5], [1, 4]
    for old, new in zip(before, rows(model), strict=True):
        assert torch.equal(old[kept], new[kept])
    assert (weight[changed] != before[0][changed]).all()
    assert weight[changed].abs().max() <= np.sqrt(6 / (model.encoder.dim + 1))
    for cleared in (bias, weight_momentum, bias_momentum):
        assert not cleared[changed].any()
    assert before[2][changed].any()


def test_resync_takes_rows_along_with_owners_that_have_moved(model):
    train(model)
    before = rows(model)
    was = MetagraphView(tuple("abcdef"), (True,) * UIDS, tuple(range(UIDS)))
    now = MetagraphView(tuple("bacdef"), (True,) * UIDS, (1, 0, 2, 3, 4, 5))
    model.resync(was, now)
    for old, new in zip(before, rows(model), strict=True):
        assert torch.equal(old[[1, 0, 2, 3, 4, 5]], new)


def test_scores_of_one_forward_may_be_learned_from_in_parts(model):
    scores = model("may")
    model.backward(scores[:2], torch.tensor([1.0, 0.0]))
    model.backward(scores[2:4], torch.tensor([0.0, 1.0]))


def test_a_row_that_was_reset_is_as_large_as_xavier_says(model):
    model.resync(network(*"abcdef"), network(*"uvwxyz"))
    bound = np.sqrt(6 / (model.encoder.dim + 1))
    assert 0.8 * bound < model.linear.weight.abs().max() <= bound


def test_resync_without_a_change_changes_nothing_and_keeps_pending_scores_good(model):
    train(model)
    before, scores = rows(model), model("may")
    model.resync(network(*"abcdef"), network(*"abcdef"))
    assert all(map(torch.equal, before, rows(model)))
    model.backward(scores, torch.arange(float(UIDS)))


def test_a_former_owners_scores_cannot_be_learned_from(model):
    scores = model("may")
    model.resync(network(*"abcdef"), network(*"Xbcdef"))
    with pytest.raises(ValueError, match="before a resync"):
        model.backward(scores, torch.arange(float(UIDS)))


def test_a_network_that_outgrows_the_head_adds_rows(model):
    train(model)
    before = rows(model)
    model.resync(network(*"abcdef"), network(*"abcdefgh"))
    assert model.num_uids == model.linear.out_features == 8
    assert model("may").shape == (8,)
    for old, new in zip(before, rows(model), strict=True):
        assert len(new) == 8
        assert torch.equal(old, new[:UIDS])
    assert not any(part[UIDS:].any() for part in rows(model)[1:])


def test_learning_goes_on_after_growth_with_the_old_momentum(model):
    train(model)
    grown = copy.deepcopy(model)
    grown.resync(network(*"abcdef"), network(*"abcdefgh"))
    uids = list(range(UIDS))
    for each in (model, grown):
        each.backward(each("may")[uids], torch.arange(float(UIDS)))
    for small, large in zip(rows(model), rows(grown), strict=True):
        torch.testing.assert_close(small, large[:UIDS], rtol=1e-6, atol=1e-7)
    assert grown.optimizer.param_groups[0]["params"] == list(grown.linear.parameters())
    assert len(grown.optimizer.state) == 2


def test_growth_before_the_first_step_starts_without_momentum(model):
    model.resync(network(*"abcdef"), network(*"abcdefgh"))
    model.backward(model("may"), torch.arange(8.0))
    assert model.linear.weight.grad is None
    assert len(rows(model)[2]) == 8


def test_rows_of_uids_that_are_gone_are_reset_but_stay(model):
    train(model)
    before = rows(model)
    model.resync(network(*"abcdef"), network(*"abcd"))
    assert model.num_uids == UIDS
    for old, new in zip(before, rows(model), strict=True):
        assert torch.equal(old[:4], new[:4])
        assert (old[4:] != new[4:]).all()
    assert not any(part[4:].any() for part in rows(model)[1:])


def test_rows_beyond_the_network_are_left_alone(model):
    train(model)
    before = rows(model)
    model.resync(network("a", "b"), network("a", "X"))
    for old, new in zip(before, rows(model), strict=True):
        assert torch.equal(old[[0, 2, 3, 4, 5]], new[[0, 2, 3, 4, 5]])


def test_a_head_smaller_than_its_network_catches_up(model):
    train(model)
    before = rows(model)
    model.resync(network(*"abcdefgh"), network(*"abcdefgh"))
    assert model.num_uids == 8
    assert torch.equal(before[0], rows(model)[0][:UIDS])


def test_resync_takes_views_with_registration_blocks(model):
    train(model)
    before = rows(model)

    def view(hotkeys, blocks):
        return MetagraphView(tuple(hotkeys), (True,) * UIDS, tuple(blocks))

    model.resync(view("abcdef", range(6)), view("Xbcdef", [0, 1, 2, 3, 4, 99]))
    after = rows(model)
    assert torch.equal(before[0][:5], after[0][:5])
    assert not after[1][5]


def test_resync_reads_a_metagraph_of_bittensor_11(model, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("BITTENSOR_RUNTIME_CACHE_DIR", str(tmp_path))
    bittensor = pytest.importorskip("bittensor.metagraph")

    def neuron(uid, hotkey):
        numbers = dict.fromkeys(("rank", "trust", "consensus", "incentive", "dividends", "pruning_score"), 0.0)
        stakes = dict.fromkeys(("emission", "alpha_stake", "tao_stake", "total_stake"))
        return bittensor.MetagraphNeuron(
            uid=uid, hotkey=hotkey, coldkey="c", active=True, validator_permit=False, last_update=0,
            block_at_registration=uid, axon=None, identity=None, commitment=None, **numbers, **stakes,
        )  # fmt: skip

    def metagraph(hotkeys):
        return bittensor.Metagraph(
            netuid=1, mechid=0, name="", symbol="", block=1, tempo=1, last_step=0, blocks_since_last_step=0,
            owner_hotkey="", owner_coldkey="", network_registered_at=0, num_uids=len(hotkeys), max_uids=256,
            price=None, moving_price=None, identity=None, neurons=[neuron(*pair) for pair in enumerate(hotkeys)],
            commitments={}, unregistered_commitments={}, raw={},
        )  # fmt: skip

    train(model)
    before = rows(model)
    model.resync(metagraph("abcdef"), metagraph("abXdefg"))
    weight, bias, *_ = rows(model)
    kept = [0, 1, 3, 4, 5]
    assert torch.equal(weight[kept], before[0][kept])
    assert not bias[[2, 6]].any()
    assert model.num_uids == 7


def test_mean_pooling_is_a_method_too(model):
    assert model.mean_pooling is mean_pooling
    assert gating.mean_pooling is mean_pooling


def test_flags_and_checks_are_class_methods(model_class):
    model_class.check_config(model_class.config(["--gating.num_uids", "2"]))
    with pytest.raises(ValueError, match=r"--gating\.momentum is 1\.5; give a number, at least 0 and below 1"):
        model_class.check_config(model_class.config(["--gating.momentum", "1.5"]))


def test_importing_the_package_brings_neither_ray_nor_bittensor_nor_transformers():
    program = (
        "import sys, gating; print([m for m in ('ray', 'bittensor', 'transformers', 'huggingface_hub') "
        "if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_everything_the_package_promises_is_there():
    assert gating.__all__ == sorted(gating.__all__, key=lambda name: (not name.isupper(), name.islower(), name))
    assert all(hasattr(gating, name) for name in gating.__all__)
