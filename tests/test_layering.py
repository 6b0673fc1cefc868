"""Imports run one way, deployments -> learner -> gating, and what is heavy stays at the edge."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("gating", "learner", "deployments")
# Only these may import ray; everything else in deployments is plain.
RAY_SHELL = {
    "learner/actor.py",
    "learner/on_ray.py",
    "deployments/app.py",
    "deployments/autoscaling_policy.py",
    "deployments/ray_learner.py",
    "deployments/replica.py",
    "deployments/metrics.py",
    "deployments/nodes.py",
    "deployments/runner.py",
    "deployments/serve_client.py",
    "deployments/serve_config.py",
    "deployments/serve_tracing.py",
    "deployments/shared_serve.py",
    "deployments/turns.py",
}
OPENTELEMETRY_SHELL = {"deployments/otel.py", "deployments/trace_export.py"}
BITTENSOR_SHELL = {"learner/chain.py", "deployments/hotkey_auth.py", "deployments/client/auth.py"}

MODULES = sorted(path.relative_to(ROOT).as_posix() for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imported(tree: ast.AST, package: list[str]) -> Iterator[str]:
    """The full name of every module that is imported anywhere, in functions and behind conditions too.

    Args:
        tree: a module.
        package: the package that the module is in, which relative imports start from.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = [*above, *(node.module.split(".") if node.module else [])]
            yield ".".join(base)
            yield from (".".join([*base, alias.name]) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "__import__"):
            yield from (arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant))


def roots(module: str) -> set[str]:
    tree = ast.parse((ROOT / module).read_text(encoding="utf-8"))
    return {name.split(".")[0] for name in imported(tree, module.split("/")[:-1])}


def test_every_package_is_looked_at() -> None:
    assert {module.split("/")[0] for module in MODULES} == set(PACKAGES)
    assert "learner/rules/base.py" in MODULES


def test_imports_are_found_in_every_form() -> None:
    source = """
import a.b, c
from d import e
from . import f
from ..g import h
def late():
    import i.j
    from k.l import m
    importlib.import_module("n.o")
if TYPE_CHECKING:
    import p
"""
    found = set(imported(ast.parse(source), ["x", "y"]))
    assert {"a.b", "c", "d.e", "x.y.f", "x.g.h", "i.j", "k.l.m", "n.o", "p"} <= found


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_one_way(module: str) -> None:
    above = PACKAGES[PACKAGES.index(module.split("/")[0]) + 1 :]
    assert not roots(module) & set(above)


@pytest.mark.parametrize("module", MODULES)
def test_ray_is_imported_by_its_shell_alone(module: str) -> None:
    if module not in RAY_SHELL:
        assert "ray" not in roots(module)


@pytest.mark.parametrize("module", MODULES)
def test_bittensor_is_imported_by_its_shell_alone(module: str) -> None:
    if module not in BITTENSOR_SHELL:
        assert not roots(module) & {"bittensor", "bittensor_wallet", "async_substrate_interface"}


@pytest.mark.parametrize("module", MODULES)
def test_opentelemetry_is_imported_by_its_shell_alone(module: str) -> None:
    if module not in OPENTELEMETRY_SHELL:
        assert "opentelemetry" not in roots(module)


@pytest.mark.parametrize(
    "module", [module for module in MODULES if module.startswith("deployments/client/") and "dense" not in module]
)
def test_the_client_needs_neither_learner_nor_anything_numeric(module: str) -> None:
    assert not roots(module) & {"ray", "torch", "numpy", "gating", "learner"}


@pytest.mark.parametrize("module", ["deployments.runner", "deployments.app"])
def test_what_every_start_waits_for_loads_no_torch(module: str) -> None:
    program = f"import sys, {module}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_tests_are_imported_by_no_package() -> None:
    assert not [module for module in MODULES if "tests" in roots(module)]
