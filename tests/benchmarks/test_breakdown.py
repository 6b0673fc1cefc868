import pytest

from benchmarks.breakdown import part_of, profile_encoder, split
from benchmarks.texts import make_texts


@pytest.mark.parametrize(
    ("operation", "part"),
    [
        ("mkldnn::_linear_pointwise", "matrix products"),
        ("aten::addmm", "matrix products"),
        ("aten::bmm", "attention"),
        ("aten::baddbmm", "attention"),
        ("aten::_softmax", "attention"),
        ("aten::native_layer_norm", "other operations"),
        ("aten::gelu", "other operations"),
    ],
)
def test_operations_are_told_apart(operation: str, part: str) -> None:
    assert part_of(operation) == part


def test_the_parts_are_what_the_cores_had() -> None:
    core_ms = {
        "engine": 9.0,
        "replica": 1.0,
        "haproxy": 0.1,
        "learner": 0.1,
        "controller": 0.1,
        "other": 0.2,
        "wrk": 0.5,
    }
    parts = split({"core_ms": core_ms, "requests_per_s": 100.0}, {"tokenizer": 1.0, "attention": 2.0}, cores=2)
    assert parts["tokenizer"] == pytest.approx(3.0)
    assert parts["attention"] == pytest.approx(6.0)
    assert parts["idle"] == pytest.approx(9.0)
    assert sum(parts.values()) == pytest.approx(20.0)


def test_a_forward_pass_has_every_part() -> None:
    parts = profile_encoder(make_texts("short", 16))
    assert set(parts) == {"tokenizer", "matrix products", "attention", "other operations"}
    assert all(spent > 0 for spent in parts.values())
