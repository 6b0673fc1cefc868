from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.serve._private.common import DeploymentID, ReplicaID, TimeStampedValue
from ray.serve.config import AutoscalingContext

from deployments.app import build_app
from deployments.autoscaling_policy import QueueDelayPolicy, serve_autoscaling
from deployments.config import AutoscalingArgs, ServeArgs
from deployments.engine import autoscaling_stats

ROSTER = {"roster": str(Path(__file__).resolve().parents[2] / "roster.yaml")}
GATE = DeploymentID(name="Gate", app_name="gate")
NOW_S = 1000.0
FIGURES = {"queued_tokens": 0.0, "tokens_per_s": 1000.0, "offered_tokens": 0.0, "refused_tokens": 0.0, "busy_s": 0.0}


def context(
    replicas: list[dict[str, float]], *, state: Any = None, running: int | None = None, target: int = 0, **others: Any
) -> AutoscalingContext:
    """What Serve gives a policy, where each replica has told these figures over the last ten seconds."""
    args = AutoscalingArgs(max_replicas=8)
    running = len(replicas) if running is None else running
    raw: dict[str, dict[ReplicaID, list[TimeStampedValue]]] = {}
    for number, told in enumerate(replicas):
        for name, value in told.items():
            start = value if name in ("queued_tokens", "tokens_per_s") else 0.0
            points = [TimeStampedValue(NOW_S - 10, start), TimeStampedValue(NOW_S, value)]
            raw.setdefault(name, {})[ReplicaID(f"r{number}", GATE)] = points
    settings = {
        "current_num_replicas": running,
        "target_num_replicas": target or running,
        "total_num_requests": 0.0,
        "capacity_adjusted_min_replicas": args.min_replicas,
        "capacity_adjusted_max_replicas": args.max_replicas,
        "current_time": NOW_S,
    }
    return AutoscalingContext(
        deployment_id=GATE,
        deployment_name="Gate",
        app_name="gate",
        running_replicas=[],
        total_queued_requests=None,
        aggregated_metrics=None,
        raw_metrics=raw,
        policy_state=state or {},
        last_scale_up_time=None,
        last_scale_down_time=None,
        config=serve_autoscaling(args),
        **{**settings, **others},
    )


def policy(**settings: Any) -> QueueDelayPolicy:
    """The policy as Serve makes it: unpickled, with the keyword arguments of its settings."""
    given = serve_autoscaling(AutoscalingArgs(**{"upscale_delay_s": 0, "downscale_delay_s": 0, **settings})).policy
    made: QueueDelayPolicy = given.get_policy()(**given.policy_kwargs)
    return made


def told(*, queued_s: float = 0.0, used: float = 0.0) -> dict[str, float]:
    """A replica's figures: how long its queue is, and how much of its speed and time was used."""
    return {**FIGURES, "queued_tokens": queued_s * 1000, "offered_tokens": used * 10_000, "busy_s": used * 10}


def test_what_replicas_tell_decides() -> None:
    assert policy()(context([told(queued_s=0.6, used=1.0)] * 2))[0] == 3
    assert policy()(context([told(queued_s=0.4, used=0.6)] * 2))[0] == 2
    assert policy()(context([told()] * 2))[0] == 1


def test_the_settings_reach_the_decision() -> None:
    busy = [told(queued_s=0.6, used=1.0)] * 2
    assert policy(target_delay_ms=700)(context(busy))[0] == 2
    assert policy(target_utilization=0.5)(context(busy))[0] == 4
    # Eighteen seconds of work on top of what comes.
    assert policy(catch_up_s=3, max_replicas=20)(context([told(queued_s=3, used=0.1)] * 5))[0] == 8
    half_used = [told(used=0.3)] * 4
    assert policy(hysteresis=0.05)(context(half_used))[0] == 2
    assert policy(hysteresis=0.5)(context(half_used))[0] == 4


def test_the_state_is_handed_on_through_serve() -> None:
    waits = policy(upscale_delay_s=10)
    number, state = waits(context([told(queued_s=0.6, used=1.0)] * 2))
    assert number == 2
    later = context([told(queued_s=0.6, used=1.0)] * 2, state=state, current_time=NOW_S + 10)
    assert waits(later)[0] == 3


def test_serves_bounds_count_as_they_are_adjusted_to_the_target_capacity() -> None:
    assert policy()(context([told()] * 4, capacity_adjusted_min_replicas=3))[0] == 3
    assert policy()(context([told(used=0.6)] * 4, capacity_adjusted_max_replicas=3))[0] == 3


def test_without_word_from_the_replicas_requests_are_counted_as_serve_does() -> None:
    silent = {name: value for name, value in told(queued_s=9.0).items() if name != "tokens_per_s"}
    assert policy()(context([silent] * 2, total_num_requests=40.0))[0] == 3
    assert policy()(context([], running=2, total_num_requests=0.0))[0] == 1
    long_ago = context([told(queued_s=9.0)] * 2, current_time=NOW_S + 21, total_num_requests=30.0)
    assert policy()(long_ago)[0] == 2


def test_while_none_runs_yet_the_target_stays() -> None:
    assert policy()(context([], running=0, target=3))[0] == 3


def test_serves_own_policy_has_the_delays_and_the_target() -> None:
    given = serve_autoscaling(AutoscalingArgs(policy="ongoing_requests", target_ongoing_requests=5, max_replicas=2))
    assert given.policy.is_default_policy_function()
    assert (given.upscale_delay_s, given.downscale_delay_s, given.target_ongoing_requests) == (10, 300, 5)
    assert (given.min_replicas, given.max_replicas) == (1, 2)


def test_serve_does_not_wait_on_top_of_the_policy() -> None:
    given = serve_autoscaling(AutoscalingArgs())
    assert (given.upscale_delay_s, given.downscale_delay_s) == (0, 0)


def test_the_policy_that_is_sent_to_the_controller_brings_its_own_code(tmp_path: Path) -> None:
    sent = tmp_path / "policy"
    sent.write_bytes(serve_autoscaling(AutoscalingArgs()).policy.get_serialized_policy_def() or b"")
    code = (
        "import sys; sys.modules['deployments'] = None\n"
        "from pathlib import Path\n"
        "from ray import cloudpickle\n"
        f"policy = cloudpickle.loads(Path({str(sent)!r}).read_bytes())\n"
        "print(policy.__name__, policy.__call__.__globals__['desired_replicas'].__name__)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout.split() == ["QueueDelayPolicy", "desired_replicas"], done.stderr


@pytest.mark.parametrize("autoscaling", [None, {"min_replicas": 2, "max_replicas": 5}])
def test_the_application_has_as_many_replicas_as_it_says(autoscaling: dict[str, Any] | None) -> None:
    args = {"chain": ROSTER, "learner": {"log": {"url": "memory"}}, "replica": {"autoscaling": autoscaling}}
    app = build_app(ServeArgs.model_validate(args))
    config = app._bound_deployment._deployment_config
    if autoscaling is None:
        assert config.num_replicas == 1
        assert config.autoscaling_config is None
    else:
        assert (config.autoscaling_config.min_replicas, config.autoscaling_config.max_replicas) == (2, 5)


def test_a_replica_tells_nothing_before_its_speed_is_known() -> None:
    # Serve stops asking a replica whose first answer has a value that is no number.
    batcher: Any = SimpleNamespace(tokens_per_s=None, queued_tokens=3, offered_tokens=9, refused_tokens=2, busy_s=0.5)
    assert autoscaling_stats(batcher) == {}
    batcher.tokens_per_s = 100.0
    assert autoscaling_stats(batcher) == {
        "queued_tokens": 3,
        "tokens_per_s": 100.0,
        "offered_tokens": 9,
        "refused_tokens": 2,
        "busy_s": 0.5,
    }
