"""Shared by all tests: only integration tests may start Ray, and CI lets none be skipped.

Without Ray, as on a machine that is there for its GPU, the tests of `gating` run all the same.
"""

from __future__ import annotations

import os
import warnings
from importlib.util import find_spec
from pathlib import Path

import hypothesis
import pytest

from .keyring import Keyring

HAS_RAY = find_spec("ray") is not None

if HAS_RAY:
    with warnings.catch_warnings():
        # Ray Serve warns of its own use of pydantic when it is first imported.
        warnings.simplefilter("ignore")
        import ray.serve.schema

# How long an example takes is the machine's business.
hypothesis.settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow], print_blob=True
)
hypothesis.settings.load_profile("untimed")

pytest_plugins = ["tests.chain_node.fixtures", "tests.postgres"] if HAS_RAY else []
collect_ignore = [] if HAS_RAY else [path.name for path in Path(__file__).parent.iterdir() if path.name != "gating"]


@pytest.fixture(autouse=True)
def _no_ray_in_unit_tests(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if HAS_RAY and request.node.get_closest_marker("integration") is None:

        def refuse(*_args: object, **_kwargs: object) -> None:
            raise AssertionError("a unit test started Ray; mark it `integration` or leave Ray out")

        monkeypatch.setattr(ray, "init", refuse)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> object:
    """With TIDEGATE_NO_SKIPS set, a skipped test fails, unless it needs what only some machines have."""
    report = yield
    may_skip = any(item.get_closest_marker(name) for name in ("gpu", "peers"))
    if report.skipped and os.environ.get("TIDEGATE_NO_SKIPS") and not may_skip:
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not allow: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def keyring(bittensor_home: None) -> Keyring:
    """Hotkeys; bittensor is imported here, away from this machine's wallets and caches."""
    import bittensor.http_auth  # noqa: F401

    return Keyring()
