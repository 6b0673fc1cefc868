"""Where the learner's view of the network comes from: a subnet's metagraph, or a roster file.

The one place of the learner that knows bittensor, which is imported only when a subnet is read.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import threading
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable
from urllib.parse import urlsplit

from gating.metagraph import MetagraphView, check_owners

from .config import BittensorChain, ChainConfig, RosterChain
from .errors import BadMetagraphError, ChainError, ChainUnavailableError, SubnetNotFoundError, UnknownNetworkError
from .roster import RosterSource, find_roster

if TYPE_CHECKING:
    import bittensor

logger = logging.getLogger(__name__)

NETWORKS = ("finney", "test", "local")
_MAX_CAUSE_CHARS = 300

T = TypeVar("T")


@runtime_checkable
class MetagraphSource(Protocol):
    """Something that knows who holds which uid. Calls block; one at a time."""

    def fetch_view(self) -> MetagraphView:
        """The network as it is now.

        Raises:
            LearnerError: it cannot be read; the message says what was found and what to do.
        """
        ...

    def fetch_block(self) -> int:
        """The block that `fetch_view` would read at.

        Raises:
            LearnerError: see `fetch_view`.
        """
        ...

    def describe(self) -> dict[str, str]:
        """What it reads from: `source`, and for a chain its `network` and `endpoint`."""
        ...

    def disconnect(self) -> None:
        """Read from another connection, and so perhaps another node, the next time."""
        ...

    def close(self) -> None:
        """Let go of everything; nothing is fetched after this."""
        ...


def build_source(config: ChainConfig, *, after_block: int = 0) -> MetagraphSource:
    """The source that a configuration asks for. Nothing is read yet.

    Args:
        config: what is read.
        after_block: of the view in use. A roster's blocks are times, and the clock may have stepped back since.

    Raises:
        UnknownNetworkError: see `check_network`.
    """
    match config:
        case RosterChain():
            return RosterSource(find_roster(config.roster), netuid=config.netuid, after_block=after_block)
        case BittensorChain():
            return BittensorSource(config)


def check_source(config: ChainConfig) -> None:
    """Find out early what would fail later and far away: reads a roster, and connects to no chain.

    Raises:
        RosterError: the roster is missing or malformed.
        ChainError: the network is unknown, or bittensor is not installed.
    """
    match config:
        case RosterChain():
            RosterSource(find_roster(config.roster)).fetch_view()
        case BittensorChain():
            check_network(config)
            if importlib.util.find_spec("bittensor") is None:
                raise ChainError("chain.source is bittensor, which is not installed; pip install 'tidegate[chain]'")


def check_network(config: BittensorChain) -> None:
    """Refuse what is neither a network's name nor an endpoint.

    Raises:
        UnknownNetworkError: it names what was given and what is known.
    """
    if config.network not in NETWORKS and not _is_endpoint(config.network):
        raise UnknownNetworkError(
            f"chain.network is {config.network!r}; give one of {', '.join(NETWORKS)}, or a ws:// or wss:// endpoint"
        )
    for endpoint in config.fallback_endpoints or ():
        if not _is_endpoint(endpoint):
            raise UnknownNetworkError(f"chain.fallback_endpoints has {endpoint!r}; give ws:// or wss:// endpoints")


class BittensorSource:
    """Reads a subnet's metagraph through bittensor's own client.

    The client lives on an event loop in a thread of its own, so that its connection stays alive between reads and
    nothing that it does holds up the caller's loop. After an error the connection is closed and made anew.

    Args:
        config: which subnet, and how.

    Raises:
        UnknownNetworkError: see `check_network`.
    """

    def __init__(self, config: BittensorChain) -> None:
        check_network(config)
        self._config = config
        self._loop: _LoopThread | None = None
        self._connection: _Connection | None = None
        self._endpoint = "" if config.network in NETWORKS else _without_secrets(config.network)

    def fetch_view(self) -> MetagraphView:
        """See `MetagraphSource`.

        Raises:
            ChainUnavailableError: no node answers as it should.
            SubnetNotFoundError: there is no such subnet.
            BadMetagraphError: a hotkey holds two uids, a uid has no owner, or a stake is not a number.
        """
        return self._run(self._fetch_view())

    def fetch_block(self) -> int:
        """See `MetagraphSource`.

        Raises:
            ChainUnavailableError: no node answers as it should.
        """
        return self._run(self._fetch_block())

    def describe(self) -> dict[str, str]:
        """See `MetagraphSource`. Of an endpoint without what may be a key: user, path and query."""
        return {"source": "bittensor", "network": self._network, "endpoint": self._endpoint}

    def disconnect(self) -> None:
        """See `MetagraphSource`."""
        if self._loop is not None:
            self._loop.run(self._disconnect())

    def close(self) -> None:
        """See `MetagraphSource`."""
        if self._loop is not None:
            self.disconnect()
            self._loop.close()
            self._loop = None

    @property
    def _network(self) -> str:
        network = self._config.network
        return network if network in NETWORKS else _without_secrets(network)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            self._loop = _LoopThread()
        return self._loop.run(self._disconnecting_on_error(work))

    async def _disconnecting_on_error(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return await work
        except SubnetNotFoundError:
            raise
        except BaseException:
            await self._disconnect()
            raise

    async def _fetch_view(self) -> MetagraphView:
        block = await self._fetch_block()
        config = self._config
        metagraph = await self._answer(
            self._connected.client.subnets.metagraph(config.netuid, block=block, commitments=False),
            f"the metagraph of subnet {config.netuid}",
        )
        if metagraph is None:
            raise SubnetNotFoundError(
                f"network {self._network} has no subnet {config.netuid} at block {block}; "
                f"check chain.netuid and chain.network"
            )
        try:
            view = MetagraphView.from_metagraph(metagraph)
            check_owners(view)
        except Exception as error:
            reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
            raise BadMetagraphError(f"subnet {config.netuid} of network {self._network}: {reason}") from error
        if view.n == 0:
            raise BadMetagraphError(f"subnet {config.netuid} of network {self._network} has no uids yet")
        return view.restricted(vpermit_tao_limit=config.vpermit_tao_limit, exclude=config.exclude)

    async def _fetch_block(self) -> int:
        if self._connection is None:
            self._connection = _Connection(self._config)
            self._endpoint = _without_secrets(self._connection.client.endpoint)
            await self._answer(self._connection.client.connect(), "connecting")
        client = self._connected.client
        ask = client.finalized_block() if self._config.finalized else client.block()
        return int(await self._answer(ask, "the finalized block" if self._config.finalized else "the newest block"))

    @property
    def _connected(self) -> _Connection:
        assert self._connection is not None, "the connection is made by _fetch_block"
        return self._connection

    async def _answer(self, question: Coroutine[Any, Any, T], what: str) -> T:
        """The node's answer, under the timeout. The one place where the SDK's errors become ours."""
        try:
            async with asyncio.timeout(self._config.call_timeout_s):
                return await question
        except TimeoutError as error:
            cause = f"no answer within {self._config.call_timeout_s:g} s"
            raise self._unavailable(what, str(error) or cause) from error
        except Exception as error:
            # A node that is none, or is broken, makes the SDK fail in ways that it does not list.
            raise self._unavailable(what, f"{type(error).__name__}: {error}") from error

    def _unavailable(self, what: str, cause: str) -> ChainUnavailableError:
        short = " ".join(cause.split())[:_MAX_CAUSE_CHARS]
        place = self._network if self._network == self._endpoint else f"network {self._network}, {self._endpoint}"
        return ChainUnavailableError(
            f"{place}: {what} failed: {short}; check chain.network, or name other nodes in chain.fallback_endpoints"
        )

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


class _Connection:
    """A client of bittensor's, and whatever it has opened."""

    def __init__(self, config: BittensorChain) -> None:
        import bittensor

        fallbacks = None if config.fallback_endpoints is None else list(config.fallback_endpoints)
        self._opened: list[Any] = []
        self.client: bittensor.Client = bittensor.Client(config.network, fallback_endpoints=fallbacks)
        self._remember_what_is_opened(self.client._substrate)

    def _remember_what_is_opened(self, substrate: Any) -> None:
        """When a connect is cancelled, the SDK (11.3) forgets the socket and the task that it had begun with."""
        open_one = substrate._interface

        def remember(*args: Any) -> Any:
            self._opened.append(open_one(*args))
            return self._opened[-1]

        substrate._interface = remember

    async def close(self) -> None:
        for interface in self._opened:
            try:
                await interface.close()
            except Exception as error:  # noqa: BLE001 (the connection is given up, whatever became of it)
                logger.debug("closing a chain connection failed: %r", error)
        self._opened.clear()


class _LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="chain", daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine, which runs on the loop while the caller waits."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def close(self) -> None:
        """Stop; what still runs on the loop is cancelled."""
        self.run(_cancel_others())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _is_endpoint(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("ws", "wss") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def _without_secrets(endpoint: str) -> str:
    """An endpoint without user, path and query, any of which may be a key."""
    parts = urlsplit(endpoint)
    host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port else "")
