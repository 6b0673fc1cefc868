"""One contract for every encoder, and each kind's formula against a plain use of its model."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModel, AutoTokenizer

from gating import TokenizedText, build_encoder, resolve_device, resolve_dtype
from gating.model_source import load_pretrained
from gating.packed_pass import compile_pass

LONG = "which expert should answer the question about a blue river and its tide gate in may? " * 4
TEXTS = [
    "",
    "may",
    LONG,
    "a blue river",
    "which gate, in may?",
    LONG + "answer!",
    "Zebra \u00e9t\u00e9 \U0001f30a",
    "its tide",
]


@pytest.fixture(scope="module")
def plain(source):
    """Kind, tokenizer and network of each tiny model, as anyone would load them."""
    kind, folder = source
    return kind, AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()


def seed_chunks(tokenizer, text, window=16):
    return tokenizer(text, truncation=True, max_length=window, return_overflowing_tokens=True, stride=0)["input_ids"]


def seed_embedding(kind, network, chunks):
    """One forward pass a chunk, without padding; pooled in float64 numpy."""
    with torch.no_grad():
        states = [network(torch.tensor([chunk]))[0][0].double().numpy() for chunk in chunks]
    if kind == "causal":
        return states[0][-1]
    means = [chunk.mean(axis=0) for chunk in states]
    return np.mean([mean / np.linalg.norm(mean) for mean in means], axis=0)


def test_chunks_are_those_of_the_tokenizers_own_truncation(encoder, plain):
    kind, tokenizer, _ = plain
    for text in TEXTS[1:]:
        chunks = [tuple(chunk) for chunk in seed_chunks(tokenizer, text)]
        assert len(chunks) > 1 or text != LONG
        expected = tuple(chunks if kind == "sentence" else chunks[:1])
        assert encoder.tokenize([text])[0].chunks == expected


def test_embeddings_follow_the_seeds_formula(encoder, plain):
    kind, tokenizer, network = plain
    texts = TEXTS[1:]
    expected = np.stack([seed_embedding(kind, network, seed_chunks(tokenizer, text)) for text in texts])
    np.testing.assert_allclose(encoder.encode(texts).numpy(), expected, atol=1e-5)


def test_long_texts_are_read_in_full_by_sentence_encoders_only(encoder, source):
    whole, start = encoder.encode([LONG + "answer!", LONG])
    changed = (whole - start).abs().max() > 1e-4
    assert changed == (source[0] == "sentence")


def test_a_text_has_the_same_embedding_alone_and_in_a_batch(encoder):
    alone = torch.cat([encoder.encode([text]) for text in TEXTS])
    torch.testing.assert_close(encoder.encode(TEXTS), alone, atol=1e-5, rtol=0)
    # Texts must differ by far more than that for the comparison to say anything.
    assert (alone[1:] - alone[:-1]).abs().amax(dim=1).min() > 1e-2


@given(texts=st.lists(st.text(max_size=80), min_size=1, max_size=8))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_has_a_finite_embedding_that_its_neighbours_do_not_change(encoder, texts):
    together = encoder.encode(texts)
    assert torch.isfinite(together).all()
    alone = torch.cat([encoder.encode([text]) for text in texts])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_padding_shares_a_pass_without_leaking(source):
    kind, folder = source
    model = load_pretrained(str(folder), dtype=torch.float32)
    encoder = type(build_encoder(kind, str(folder), device="cpu"))(model=model, batch_tokens=10_000)
    encoder._max_padding = None
    encoder._packed = None
    passes = []
    model.network.register_forward_pre_hook(
        lambda _, args, kwargs: passes.append(kwargs["attention_mask"].float().mean()), with_kwargs=True
    )
    together = encoder.encode(TEXTS)
    assert len(passes) == 1
    assert passes[0] < 0.9
    alone = torch.cat([encoder.encode([text]) for text in TEXTS])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


def test_no_pass_exceeds_the_token_budget(encoder, monkeypatch):
    sizes = []
    run = compile_pass()
    monkeypatch.setattr("gating.packed_bert.compile_pass", lambda: lambda *args: sizes.append(args[2]) or run(*args))
    words = encoder.network.get_input_embeddings()
    with words.register_forward_pre_hook(lambda _, args: sizes.append(args[0].numel())):
        encoder.encode(TEXTS * 3)
    assert len(sizes) > 1
    assert max(sizes) <= encoder.batch_tokens == 40


def test_embeddings_are_fp32_without_gradient_and_fit_a_head(encoder):
    embeddings = encoder.encode(TEXTS)
    assert embeddings.shape == (len(TEXTS), encoder.dim)
    assert embeddings.dtype == torch.float32
    assert embeddings.device == encoder.device
    assert not embeddings.requires_grad
    weight = torch.zeros(3, encoder.dim, requires_grad=True)
    (embeddings @ weight.T).sum().backward()
    torch.testing.assert_close(weight.grad[0], embeddings.sum(dim=0))


def test_no_texts_give_no_embeddings(encoder):
    assert encoder.tokenize([]) == []
    assert encoder.encode([]).shape == (0, encoder.dim)


def test_every_text_has_a_token(encoder):
    (empty,) = encoder.tokenize([""])
    assert empty.num_tokens >= 1
    assert torch.isfinite(encoder.encode([""])).all()


def test_tokens_are_counted_over_all_chunks(encoder, source):
    text = encoder.tokenize([LONG])[0]
    assert text.num_tokens == sum(map(len, text.chunks))
    assert (text.num_tokens > encoder.window) == (source[0] == "sentence")


def test_the_window_is_the_lower_of_tokenizer_and_model(encoder):
    assert encoder.window == 16


def test_lone_surrogates_are_read_as_question_marks(encoder):
    assert encoder.tokenize(["gate \ud800 may"]) == encoder.tokenize(["gate ? may"])


def test_what_is_no_text_is_refused(encoder):
    with pytest.raises(TypeError):
        encoder.tokenize("may")
    with pytest.raises(TypeError):
        encoder.tokenize(["may", None])


def test_a_tokenized_text_needs_tokens():
    for chunks in ((), ((),), ((1,), ())):
        with pytest.raises(ValueError, match="at least one chunk"):
            TokenizedText(chunks)


def test_the_weights_are_frozen_and_dropout_is_off(encoder):
    assert not encoder.network.training
    assert not any(parameter.requires_grad for parameter in encoder.network.parameters())
    assert torch.equal(encoder.encode(["tide gate"]), encoder.encode(["tide gate"]))


def test_bf16_weights_give_nearly_the_same_fp32_embeddings(source, encoder):
    kind, folder = source
    rough = build_encoder(kind, str(folder), device="cpu", dtype="bf16")
    assert {parameter.dtype for parameter in rough.network.parameters()} == {torch.bfloat16}
    embeddings = rough.encode(TEXTS)
    assert embeddings.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(embeddings, encoder.encode(TEXTS)).min() > 0.99
    if kind == "sentence":
        torch.testing.assert_close(embeddings[1].norm(), torch.tensor(1.0), atol=1e-5, rtol=0)


def test_the_fingerprint_does_not_depend_on_precision_or_batch_size(source, encoder):
    kind, folder = source
    other = build_encoder(kind, str(folder), device="cpu", dtype="bf16", batch_tokens=7)
    assert other.fingerprint == encoder.fingerprint
    assert len(bytes.fromhex(encoder.fingerprint)) == 32


def test_the_fingerprint_depends_on_the_kind(bert_folder):
    prints = {build_encoder(kind, str(bert_folder), device="cpu").fingerprint for kind in ("sentence", "causal")}
    assert len(prints) == 2


def test_an_unknown_kind_is_refused(bert_folder):
    with pytest.raises((ValueError, TypeError), match="kind"):
        build_encoder("picture", str(bert_folder))


def test_a_budget_without_tokens_is_refused(bert_folder):
    with pytest.raises(ValueError, match="batch_tokens is 0"):
        build_encoder("sentence", str(bert_folder), batch_tokens=0)


def test_auto_device_is_the_accelerator_if_there_is_one():
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    assert resolve_device("auto") == (accelerator or torch.device("cpu"))
    assert resolve_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "", "meta", "cpu:7"])
def test_a_device_that_is_not_here_is_refused(name):
    with pytest.raises(ValueError, match=f"device is '{name}'; give \"auto\" or one .* has: cpu"):
        resolve_device(name)


def test_precisions_have_names():
    cpu = torch.device("cpu")
    assert [resolve_dtype(name, cpu) for name in ("fp32", "bf16", "fp16")] == [
        torch.float32,
        torch.bfloat16,
        torch.float16,
    ]
    with pytest.raises(ValueError, match="dtype is 'int8'; give \"auto\" or one of fp32, bf16, fp16"):
        resolve_dtype("int8", cpu)


@pytest.mark.skipif(not hasattr(torch.cpu, "get_capabilities"), reason="torch 2.9 does not list capabilities")
@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({"bf16": True}, torch.bfloat16),
        ({"avx2": True, "avx512_bf16": False}, torch.float32),
    ],
)
def test_auto_precision_is_bf16_where_the_processor_has_it(monkeypatch, capabilities, dtype):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert resolve_dtype("auto", torch.device("cpu")) == dtype


@pytest.mark.parametrize(("supported", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_auto_precision_on_a_gpu_is_bf16_or_fp16(monkeypatch, supported, dtype):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: supported)
    assert resolve_dtype("auto", torch.device("cuda")) == dtype


def test_minilm_puts_a_paraphrase_closer_than_another_topic(minilm):
    question, paraphrase, other = minilm.encode(
        ["How do I bake sourdough bread?", "What is the way to make a sourdough loaf?", "The moon orbits the Earth."]
    )
    assert question @ paraphrase > 0.7 > 0.3 > question @ other


def test_minilm_has_the_seeds_window_and_size(minilm):
    assert (minilm.window, minilm.dim) == (512, 384)
    assert minilm.network.config._attn_implementation == "sdpa"


def test_minilm_gives_the_same_embeddings_in_batches_as_alone(minilm):
    texts = ["one two three " * count for count in (1, 3, 10, 40, 200)]
    alone = torch.cat([minilm.encode([text]) for text in texts])
    torch.testing.assert_close(minilm.encode(texts), alone, atol=1e-5, rtol=0)
    assert len(minilm.tokenize(texts)[-1].chunks) == 2
