import pytest
import torch

from benchmarks.engine import _text_of_60_tokens, _tokenized, count_flops
from benchmarks.engines import build_engine


def test_flops_are_those_of_minilms_matrix_products():
    weights = 6 * (4 * 384 * 384 + 2 * 384 * 1536)
    assert count_flops([10, 20]) == 30 * 2 * weights + 4 * 6 * 384 * (10**2 + 20**2)


def test_the_latency_text_has_60_tokens():
    assert _tokenized([_text_of_60_tokens()])[0].num_tokens == 60


@pytest.mark.parametrize("name", ["packed with SDPA fp32", "transformers padded fp32"])
def test_engines_give_the_packed_engines_embeddings(monkeypatch, name):
    from benchmarks import engines

    monkeypatch.setitem(engines.ENGINES, "packed with SDPA fp32", engines._packed_sdpa)
    monkeypatch.setitem(engines.ENGINES, "transformers padded fp32", engines._transformers)
    texts = ["the tide gate", "why " * 30]
    expected = build_engine("packed fp32", threads=1)(texts)
    torch.testing.assert_close(build_engine(name, threads=1)(texts), expected, atol=1e-5, rtol=0)
