import argparse
import json

import pytest

from benchmarks import learning
from benchmarks.learning import agents, default_agents, make, plan
from benchmarks.runs import BusyError, Run, RunFile, read_machine
from benchmarks.sets import BenchSet, load_set

from .worlds import small_stream

RUN = Run("llmrouter", "drift", 4, 10, "adagrad")
ROW = {"agent": "adagrad", "is_reference": False, "first": 0.5, "recovered_after": None}


def test_what_a_run_gave_is_there_when_the_file_is_read_again(tmp_path):
    with RunFile(tmp_path / "runs.json") as file:
        assert RUN not in file
        file.add(RUN, [ROW])
    again = RunFile(tmp_path / "runs.json")
    assert RUN in again
    assert again.results == [{"set": "llmrouter", "scenario": "drift", "k": 4, "seed": 10, "steps": None, **ROW}]
    assert {"processor", "mabwiser", "vowpalwabbit"} <= set(read_machine(tmp_path / "runs.json"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs.json"]


@pytest.mark.parametrize(
    "other",
    [{"set": "other"}, {"scenario": "churn"}, {"k": 1}, {"seed": 11}, {"agent": "softmax_mse"}, {"steps": 400}],
)
def test_a_run_with_anything_else_is_another_one(tmp_path, other):
    another = Run(**{**vars(RUN), **other})
    with RunFile(tmp_path / "runs.json") as file:
        file.add(RUN, [ROW])
        assert another not in file
        file.add(another, [{**ROW, "agent": another.agent}])
    again = RunFile(tmp_path / "runs.json")
    assert RUN in again
    assert another in again


def test_all_references_are_one_run(tmp_path):
    run = Run("llmrouter", "drift", 4, 10, "references")
    rows = [{**ROW, "agent": agent, "is_reference": True} for agent in ("random", "oracle")]
    with RunFile(tmp_path / "runs.json") as file:
        file.add(run, rows)
    again = RunFile(tmp_path / "runs.json")
    assert run in again
    assert [result["agent"] for result in again.results] == ["random", "oracle"]


def test_a_run_is_on_the_disk_as_soon_as_it_is_added(tmp_path):
    with RunFile(tmp_path / "runs.json") as file:
        file.add(RUN, [ROW])
        assert RUN in RunFile(tmp_path / "runs.json")
        file.add(Run(**{**vars(RUN), "seed": 11}), [ROW])
        assert len(json.loads((tmp_path / "runs.json").read_text())["runs"]) == 2


def test_runs_that_are_forgotten_are_made_again_and_only_they(tmp_path):
    other = Run(**{**vars(RUN), "seed": 11})
    with RunFile(tmp_path / "runs.json") as file:
        file.add(RUN, [ROW])
        file.add(other, [ROW])
        file.forget([RUN])
        assert (RUN in file, other in file) == (False, True)


def test_two_benchmarks_do_not_write_one_file(tmp_path):
    with RunFile(tmp_path / "runs.json"):
        with pytest.raises(BusyError, match="another benchmark writes"), RunFile(tmp_path / "runs.json"):
            pass
        # Whoever was refused has taken nothing away.
        with pytest.raises(BusyError), RunFile(tmp_path / "runs.json"):
            pass
    with RunFile(tmp_path / "runs.json"):
        pass


def options(**given):
    defaults = {"sets": ["a"], "scenarios": ["stationary"], "seeds": [10], "k": [1], "agents": ["x"], "steps": None}
    return argparse.Namespace(**{**defaults, **given})


def test_the_plan_has_every_combination_and_the_references_first():
    runs = plan(options(sets=["a", "b"], seeds=[10, 11], k=[1, 4, 4], agents=["x", "y"]), {"a": 9, "b": 3})
    assert len(runs) == len(set(runs)) == (2 * 2 + 2 * 1) * 3
    assert [run.agent for run in runs[:3]] == ["references", "x", "y"]
    assert {run.k for run in runs if run.set == "b"} == {1}


def test_no_more_are_asked_than_can_always_be():
    runs = plan(options(scenarios=["stationary", "cold-arm"], k=[3]), {"a": 3})
    assert {run.scenario for run in runs} == {"stationary"}


def test_all_agents_play_but_chance_which_the_references_have():
    names = default_agents()
    assert names[:4] == ["pooled_ridge", "adagrad", "softmax_mse", "adagrad, squarecb"]
    assert set(agents()) - set(names) == {"chance"}


@pytest.fixture
def small_set(monkeypatch):
    stream = small_stream(steps=620)
    monkeypatch.setattr(learning, "load_set", lambda *_: BenchSet(("",) * 620, stream.embedding, stream.rewards))
    for cached in (learning._set, learning._stream, learning._informed_share):
        cached.cache_clear()
    yield
    for cached in (learning._set, learning._stream, learning._informed_share):
        cached.cache_clear()


@pytest.mark.parametrize(
    ("scenario", "figure"), [("stationary", None), ("drift", "recovered_after"), ("cold-arm", "adopted_after")]
)
def test_a_run_gives_a_row_an_agent(small_set, scenario, figure):
    (row,) = make(Run("small", scenario, 2, 10, "adagrad"), None)
    rows = make(Run("small", scenario, 2, 10, "references"), None)
    assert row["agent"] == "adagrad"
    assert [one["is_reference"] for one in (row, *rows)] == [False] + [True] * 5
    oracle, chance = rows[-1], rows[0]
    assert chance["all"] < row["all"] <= oracle["all"]
    if figure:
        assert figure in row
    if scenario == "stationary":
        assert not {"recovered_after", "adopted_after"} & set(row)
        assert row["regret"][-1] == [620, pytest.approx((oracle["first"] - row["first"]) * 620, abs=0.01)]


def test_the_same_run_gives_the_same_figures(small_set):
    first, again, other = (make(Run("small", "poisoned", 2, seed, "adagrad"), None)[0] for seed in (10, 10, 11))
    assert first["first"] == again["first"] != other["first"]


def test_another_seed_is_another_order_of_the_prompts(small_set):
    oracles = [make(Run("small", "stationary", 1, seed, "references", 40), None)[-1]["first"] for seed in (10, 11)]
    assert oracles[0] != oracles[1]


def test_fewer_steps_are_played_if_so_asked(small_set):
    (row,) = make(Run("small", "stationary", 1, 10, "adagrad", 40), None)
    assert row["regret"][-1][0] == 40


@pytest.mark.parametrize(
    ("name", "message"),
    [("nothing", "expected llmrouter, paretobandit, synthetic-N"), ("llmrouter", "--llmrouter PATH")],
)
def test_a_set_that_cannot_be_had_is_refused_with_what_to_do(name, message):
    with pytest.raises(ValueError, match=message):
        load_set(name, None)
    with pytest.raises(ValueError, match="--llmrouter PATH"):
        load_set("synthetic-256", None)
