"""Packed passes against the transformers network whose weights they use."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel, RobertaConfig, RobertaModel

from gating import build_encoder
from gating.packed_bert import PackedBert, choose_attention, is_packable
from gating.packed_pass import ACTIVATIONS, _attend_by_flash, compile_pass, run_pass

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "initializer_range": 0.3,
}


def build_network(dtype, kind="bert", **changes):
    torch.manual_seed(0)
    if kind == "bert":
        network = BertModel(BertConfig(**SIZES | {"max_position_embeddings": 64} | changes))
    else:
        network = RobertaModel(RobertaConfig(**SIZES | {"max_position_embeddings": 66, "pad_token_id": 1} | changes))
    for module in network.modules():
        if isinstance(module, torch.nn.LayerNorm):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_()
        elif isinstance(module, torch.nn.Linear):
            module.bias.data.normal_(std=0.3)
    return network.eval().requires_grad_(False).to(dtype)


@pytest.fixture(scope="module")
def networks():
    return {(kind, dtype): build_network(dtype, kind) for kind in ("bert", "roberta") for dtype in DTYPES}


DTYPES = (torch.float32, torch.bfloat16)
chunk_lists = st.lists(st.integers(1, 64), min_size=1, max_size=9)


def make_chunks(lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [tuple(map(int, rng.integers(0, 50, size=length))) for length in lengths]


def reference(network, chunks):
    """One chunk at a time through transformers, pooled in float64."""
    means = []
    for chunk in chunks:
        ids = torch.tensor([chunk])
        states = network(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
        mean = states.double().mean(0)
        means.append(mean / mean.norm())
    return torch.stack(means).float()


@given(lengths=chunk_lists, max_tokens=st.integers(1, 300), seed=st.integers(0, 9))
@settings(max_examples=25, deadline=None)
@pytest.mark.parametrize("run", [run_pass, compile_pass()], ids=["plain", "compiled"])
@pytest.mark.parametrize("attention", ["sdpa", "matmul"])
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_packed_passes_give_what_transformers_gives(networks, kind, attention, run, lengths, max_tokens, seed):
    network, chunks = networks[kind, torch.float32], make_chunks(lengths, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gating.packed_bert.compile_pass", lambda: run)
        embeddings = PackedBert(network, attention).embed(chunks, max_tokens=max_tokens)
    torch.testing.assert_close(embeddings, reference(network, chunks), atol=2e-6, rtol=0)


@given(lengths=chunk_lists)
@settings(max_examples=25, deadline=None)
@pytest.mark.parametrize("attention", ["sdpa", "matmul"])
def test_packed_passes_in_bf16_are_as_close_to_fp32_as_transformers_own(networks, attention, lengths):
    chunks = make_chunks(lengths)
    exact = reference(networks["bert", torch.float32], chunks)
    rough = PackedBert(networks["bert", torch.bfloat16], attention).embed(chunks, max_tokens=200)
    assert rough.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(rough, exact).min() > 0.998


@pytest.mark.parametrize("lengths", [[1], [1, 1, 1], [64], [1, 64, 2, 63, 64, 1], [7] * 40])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_chunk_has_the_same_embedding_alone_and_in_company(networks, dtype, lengths):
    packed, chunks = PackedBert(networks["bert", dtype]), make_chunks(lengths)
    together = packed.embed(chunks, max_tokens=1000)
    alone = torch.cat([packed.embed([chunk], max_tokens=1000) for chunk in chunks])
    torch.testing.assert_close(together, alone, atol=1e-6 if dtype == torch.float32 else 2e-2, rtol=0)
    assert torch.equal(packed.embed(chunks, max_tokens=1000), together)


def test_long_chunks_are_attended_in_slices(networks):
    chunks = make_chunks([64, 3, 64, 30])
    packed = PackedBert(networks["bert", torch.float32], "matmul")
    whole = packed.embed(chunks, max_tokens=1000)
    packed._bert = packed._bert._replace(max_scores=3 * 64**2)
    torch.testing.assert_close(packed.embed(chunks, max_tokens=1000), whole, atol=1e-6, rtol=0)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_networks_own_activation_is_used(activation):
    exact, rough = (build_network(dtype, hidden_act=activation) for dtype in DTYPES)
    chunks = make_chunks([3, 9, 60])
    expected = reference(exact, chunks)
    torch.testing.assert_close(PackedBert(exact).embed(chunks, max_tokens=100), expected, atol=2e-6, rtol=0)
    embeddings = PackedBert(rough).embed(chunks, max_tokens=100)
    assert torch.nn.functional.cosine_similarity(embeddings, expected).min() > 0.9999


def test_a_pass_can_be_compiled_here():
    assert isinstance(compile_pass(), torch.jit.ScriptFunction)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda packed: pickle.loads(pickle.dumps(packed))])
def test_a_copy_computes_the_same(networks, dtype, copied):
    packed, chunks = PackedBert(networks["bert", dtype]), make_chunks([9, 60])
    embeddings = packed.embed(chunks, max_tokens=100)
    torch.testing.assert_close(copied(packed).embed(chunks, max_tokens=100), embeddings, atol=1e-6, rtol=0)


def test_where_a_pass_cannot_be_compiled_it_runs_as_it_is(monkeypatch, caplog):
    def refuse(function):
        raise RuntimeError("\nno such operator:\n  mkldnn::_linear_pointwise")

    monkeypatch.setattr("torch.jit.script", refuse)
    assert compile_pass.__wrapped__() is run_pass
    assert caplog.messages == ["pass_not_compiled because='no such operator:'"]


def test_only_plain_bidirectional_bert_and_its_like_are_packed():
    assert is_packable(build_network(torch.float32))
    assert is_packable(build_network(torch.float32, "roberta"))
    assert not is_packable(build_network(torch.float32, is_decoder=True))
    assert not is_packable(build_network(torch.float32, hidden_act="silu"))
    assert not is_packable(DistilBertModel(DistilBertConfig(vocab_size=9, dim=8, n_layers=1, n_heads=1, hidden_dim=8)))

    class OwnBert(BertModel):
        pass

    assert not is_packable(OwnBert(BertConfig(**SIZES)))


def test_sentence_encoders_use_packed_passes(bert_folder):
    encoder = build_encoder("sentence", str(bert_folder), device="cpu")
    encoder.network.forward = None
    assert torch.isfinite(encoder.encode(["may the tide gate", "may"])).all()


def test_attention_is_chosen_by_device_and_precision():
    cpu = torch.device("cpu")
    assert choose_attention(cpu, torch.bfloat16, 32) == "matmul"
    assert choose_attention(cpu, torch.float32, 32) == "sdpa"


def test_without_onednns_operators_bf16_gives_the_same_to_rounding(networks, monkeypatch):
    network, chunks = networks["bert", torch.bfloat16], make_chunks([5, 64, 20])
    fast = PackedBert(network).embed(chunks, max_tokens=100)
    monkeypatch.setattr("gating.packed_bert._has_onednn_bf16", lambda: False)
    plain = PackedBert(network).embed(chunks, max_tokens=100)
    assert torch.nn.functional.cosine_similarity(fast, plain).min() > 0.9995


@pytest.mark.parametrize("head_size", [26, 4, 264])
def test_flash_attention_is_left_alone_with_heads_that_it_refuses(head_size):
    assert choose_attention(torch.device("cuda"), torch.float16, head_size) == "sdpa"


def test_flash_attention_takes_and_gives_what_a_pass_has():
    # By torch's own account of the kernel, which needs no GPU.
    with FakeTensorMode():
        qkv = torch.empty(10, 3 * 4 * 32, device="cuda", dtype=torch.float16).view(-1, 3, 4, 32)
        attended = _attend_by_flash(qkv, torch.empty(3, device="cuda", dtype=torch.int64), 5)
    assert (attended.shape, attended.dtype, attended.device.type) == ((10, 4 * 32), torch.float16, "cuda")
    assert attended.is_contiguous()
