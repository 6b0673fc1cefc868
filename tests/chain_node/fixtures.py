"""Fixtures for whoever tests against a node."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from .sdist import NoSdistError, read_golden

if TYPE_CHECKING:
    from .answers import RuntimeAnswers
    from .node import ChainNode
    from .subnet import Subnet


@pytest.fixture(scope="session")
def bittensor_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """bittensor keeps what it learns of a chain in the home folder; here it has one of its own."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.setenv("BITTENSOR_RUNTIME_CACHE_DIR", str(home / "runtime-cache"))
        patch.setenv("BTCLI_TOKEN_SYMBOLS_CACHE", str(home / "token-symbols.json"))
        yield


@pytest.fixture(scope="session")
def runtime_answers(bittensor_home: None) -> RuntimeAnswers:
    """The runtime of a real chain. Without it (no network at the first run) the tests that need it are skipped."""
    try:
        golden = read_golden()
    except NoSdistError as error:
        pytest.skip(f"no runtime metadata: {error}")
    from .answers import RuntimeAnswers

    return RuntimeAnswers(golden)


@pytest.fixture(scope="session")
def new_subnet(bittensor_home: None) -> Callable[..., Subnet]:
    """Makes subnets; see `Subnet`."""
    from .subnet import Subnet

    return Subnet


@pytest.fixture(scope="module")
def start_node(
    runtime_answers: RuntimeAnswers, new_subnet: Callable[..., Subnet]
) -> Iterator[Callable[..., ChainNode]]:
    """Starts nodes, and stops them when the module is done."""
    from .node import ChainNode

    started: list[ChainNode] = []

    def start(**subnet: int) -> ChainNode:
        node = ChainNode(runtime_answers, new_subnet(**subnet))
        started.append(node)
        node.start()
        return node

    yield start
    for node in started:
        node.stop()
