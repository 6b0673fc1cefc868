"""A JSON-RPC websocket node in a thread of the test: enough of Substrate for the real SDK to read a metagraph."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import Server, ServerConnection, serve

from .answers import RuntimeAnswers
from .subnet import Subnet

_QUIET = logging.getLogger("tests.chain_node.websockets")
_QUIET.setLevel(logging.CRITICAL)


class RpcError(Exception):
    """Answered as a JSON-RPC error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class ChainNode:
    """Serves a `Subnet` on 127.0.0.1.

    Attributes:
        subnet: what is served; it may be changed at any time.
        silent: connections are accepted and never answered.
        error: if set, every request is answered with a JSON-RPC error of this message.
        requests: the methods asked for so far; of `state_call` the runtime's method.
        connections: how many connections were ever accepted.
    """

    def __init__(self, answers: RuntimeAnswers, subnet: Subnet) -> None:
        self._answers = answers
        self.subnet = subnet
        self.silent = False
        self.error: str | None = None
        self.requests: list[str] = []
        self.connections = 0
        self.port = 0
        self._open: set[ServerConnection] = set()
        self._lock = threading.Condition()
        self._server: Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen: on any port the first time, on the same one after a `stop`."""
        self._server = serve(self._talk, "127.0.0.1", self.port, logger=_QUIET, compression=None)
        self.port = self._server.socket.getsockname()[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="chain-node", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Be gone: connections end, and new ones are refused."""
        if self._server is None or self._thread is None:
            return
        self._server.shutdown()
        self._thread.join()
        self._server = None
        self.drop()

    def drop(self) -> None:
        """End every connection without a word, and wait until the last one is gone."""
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.socket.shutdown(socket.SHUT_RDWR)
        self.wait_until_open(0)

    def wait_until_open(self, count: int) -> None:
        """Wait until this many connections are open."""
        with self._lock:
            assert self._lock.wait_for(lambda: len(self._open) == count, timeout=10), len(self._open)

    def _talk(self, connection: ServerConnection) -> None:
        with self._lock:
            self._open.add(connection)
            self.connections += 1
        try:
            for message in connection:
                answer = self._answer(json.loads(message))
                if answer is not None:
                    connection.send(json.dumps(answer))
        except ConnectionClosed:
            pass
        finally:
            with self._lock:
                self._open.discard(connection)
                self._lock.notify_all()

    def _answer(self, request: dict[str, Any]) -> dict[str, Any] | None:
        method, params = request["method"], request["params"]
        self.requests.append(params[0] if method == "state_call" else method)
        if self.silent:
            return None
        try:
            if self.error is not None:
                raise RpcError(-32603, self.error)
            return {"jsonrpc": "2.0", "id": request["id"], "result": self._result(method, params)}
        except RpcError as error:
            return {"jsonrpc": "2.0", "id": request["id"], "error": {"code": error.code, "message": str(error)}}

    def _result(self, method: str, params: list[Any]) -> Any:
        match method:
            case "chain_getHead":
                return _hash(self.subnet.head)
            case "chain_getFinalizedHead":
                return _hash(self.subnet.finalized)
            case "chain_getBlockHash":
                return _hash(params[0]) if params[0] <= self.subnet.head else None
            case "chain_getHeader":
                return self._header(self._number(params[0]))
            case "state_getRuntimeVersion":
                versions = {"specVersion": self._answers.spec_version, "transactionVersion": 1}
                return {"specName": "node-subtensor", **versions}
            case "state_getKeysPaged" | "state_queryStorageAt":
                return []
            case "state_call":
                return self._call(*params)
        raise RpcError(-32601, f"Method not found: {method}")

    def _call(self, method: str, data: str, block_hash: str | None) -> str:
        match method:
            case "Metadata_metadata_at_version":
                return self._answers.metadata_hex
            case "SubnetInfoRuntimeApi_get_metagraph":
                return self._answers.metagraph(self.subnet, data, self._number(block_hash))
        raise RpcError(-32603, f"Exported method {method} is not found")

    def _number(self, block_hash: str | None) -> int:
        number = self.subnet.head if block_hash is None else int(block_hash[-16:], 16)
        if number > self.subnet.head:
            raise RpcError(-32000, f"Unknown block {block_hash}")
        return number

    @staticmethod
    def _header(number: int) -> dict[str, Any]:
        parent = _hash(number - 1) if number else "0x" + "0" * 64
        nothing = "0x" + "0" * 64
        roots = {"stateRoot": nothing, "extrinsicsRoot": nothing}
        return {"parentHash": parent, "number": hex(number), **roots, "digest": {"logs": []}}


def _hash(number: int) -> str:
    return f"0x{'c4a1' * 12}{number:016x}"
