from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments import demo_data
from deployments.demo_data import DataError, RewardTable, load_paretobandit, load_table

ROWS: list[dict[str, Any]] = [
    {"question": "one", "scores": {"small": 0.0, "large": 1.0}},
    {"question": "two", "scores": {"large": 0.25, "small": 0.75}},
]

unit = st.floats(0, 1, allow_subnormal=False)
tables = st.integers(1, 5).flatmap(
    lambda n: st.lists(st.tuples(*[unit] * n), min_size=1, max_size=20).map(
        lambda rows: RewardTable([f"p{i}" for i in range(len(rows))], tuple(f"m{i}" for i in range(n)), rows)
    )
)


def written(folder: Path, document: object) -> Path:
    path = folder / "data.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def test_columns_are_aligned_by_model_name_not_by_order(tmp_path: Path) -> None:
    table = load_table(written(tmp_path, ROWS))
    assert table == RewardTable(["one", "two"], ("small", "large"), [(0.0, 1.0), (0.75, 0.25)])


def test_the_baselines_of_a_small_table() -> None:
    table = RewardTable(["one", "two"], ("small", "large"), [(0.0, 1.0), (0.75, 0.25)])
    assert table.model_means == (0.375, 0.625)
    assert table.random_mean == 0.5
    assert (table.best_fixed_model, table.best_fixed_mean) == ("large", 0.625)
    assert table.oracle_mean == 0.875


@given(tables)
def test_no_model_beats_the_oracle_and_the_best_is_no_worse_than_random(table: RewardTable) -> None:
    tolerance = 1e-12
    assert table.random_mean <= table.best_fixed_mean + tolerance
    assert table.best_fixed_mean <= table.oracle_mean + tolerance


@given(tables, st.randoms(use_true_random=False))
def test_the_baselines_do_not_depend_on_the_order_of_the_prompts(table: RewardTable, rng: random.Random) -> None:
    order = rng.sample(range(len(table.prompts)), len(table.prompts))
    shuffled = table.take(order)
    assert shuffled.model_means == table.model_means
    assert shuffled.oracle_mean == table.oracle_mean
    assert list(shuffled.prompts) == [table.prompts[row] for row in order]


@given(rows=st.lists(st.tuples(unit, unit, unit), min_size=1, max_size=8), rng=st.randoms(use_true_random=False))
def test_a_table_survives_writing_with_its_keys_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[float, ...]], rng: random.Random
) -> None:
    names = ("a", "b", "c")
    document = []
    for number, row in enumerate(rows):
        pairs = list(zip(names, row, strict=True))
        document.append({"question": f"q{number}", "scores": dict(rng.sample(pairs, 3) if number else pairs)})
    table = load_table(written(tmp_path_factory.mktemp("data"), document))
    assert table.models == names
    assert list(table.rewards) == rows


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"question": "two", "scores": {"small": 0.5}}, r"row 2: scores has other models than row 1.* large"),
        ({"question": "two", "scores": {"small": 0.5, "large": 0.5, "x": 0.5}}, r"row 2: scores has other.* x"),
        ({"question": "two", "scores": {"small": 0.5, "large": "good"}}, r"row 2: scores\['large'\] is 'good'"),
        ({"question": "two", "scores": {"small": 0.5, "large": True}}, r"row 2: scores\['large'\] is True"),
        ({"question": "two", "scores": {"small": 0.5, "large": None}}, r"row 2: scores\['large'\] is None"),
        ({"question": "two", "scores": {"small": -0.1, "large": 0.5}}, r"row 2: scores\['small'\] is -0.1.*\[0, 1\]"),
        ({"question": "two", "scores": {"small": 0.5, "large": 1.01}}, r"row 2: scores\['large'\] is 1.01"),
        ({"question": "two", "scores": {"small": 0.5, "large": float("nan")}}, r"row 2: scores\['large'\] is nan"),
        ({"question": "two", "scores": {"small": 0.5, "large": float("inf")}}, r"row 2: scores\['large'\] is inf"),
        ({"question": "  ", "scores": {"small": 0.5, "large": 0.5}}, r"row 2: question is '  '"),
        ({"question": "\ud83d", "scores": {"small": 0.5, "large": 0.5}}, r"row 2: question holds half a character"),
        ({"question": 7, "scores": {"small": 0.5, "large": 0.5}}, r"row 2: question is 7"),
        ({"scores": {"small": 0.5, "large": 0.5}}, r"row 2: question is None"),
        ({"question": "two", "scores": {}}, r"row 2: scores is \{\}"),
        ({"question": "two", "scores": [0.5, 0.5]}, r"row 2: scores is \[0.5, 0.5\]"),
        ({"question": "two"}, r"row 2: scores is None"),
        ("two", r"row 2 is 'two'"),
    ],
)
def test_a_malformed_row_is_named_with_its_field(tmp_path: Path, second: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_table(written(tmp_path, [ROWS[0], second]))


@pytest.mark.parametrize("document", [[], {}, {"question": "one"}, None, 3])
def test_a_file_without_rows_is_refused(tmp_path: Path, document: object) -> None:
    with pytest.raises(DataError, match="holds no rows; expected a JSON list"):
        load_table(written(tmp_path, document))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing\.json cannot be read"):
        load_table(tmp_path / "missing.json")
    (tmp_path / "broken.json").write_text("[{", encoding="utf-8")
    with pytest.raises(DataError, match=r"broken\.json is not JSON"):
        load_table(tmp_path / "broken.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"binary\.json cannot be read"):
        load_table(tmp_path / "binary.json")


def test_the_packaged_data_is_whole() -> None:
    table = load_paretobandit()
    assert len(table.prompts) == len(table.rewards) == 1785 + 1824
    assert table.models == (
        "meta-llama/llama-3.1-8b-instruct",
        "mistralai/mistral-large-2512",
        "google/gemini-2.5-pro",
    )
    assert 0 < table.random_mean < table.best_fixed_mean < table.oracle_mean < 1
    assert table.prompts[0] == "Write a python function to copy a list from a singleton tuple."
    assert table.rewards[0] == (0.4, 1.0, 0.96)


def test_the_packaged_data_is_read_without_importing_its_package() -> None:
    program = (
        "import sys; from deployments.demo_data import load_paretobandit; load_paretobandit(); "
        "print([name for name in ('pareto_bandit', 'numpy', 'sklearn', 'torch') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_a_missing_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_data, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"pip install 'tidegate\[demo\]'.*--data"):
        load_paretobandit()
