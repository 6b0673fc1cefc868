"""How GateClient says who it is: with an API key, or by signing each request with a wallet's hotkey.

Both are httpx.Auth, which httpx asks anew for every attempt. bittensor is imported only for a wallet.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from typing import Any

import httpx


class ApiKeyAuth(httpx.Auth):
    """Sends `Authorization: Bearer KEY`.

    Raises:
        ValueError: the key is empty or holds what a header cannot carry.
    """

    def __init__(self, key: str) -> None:
        # httpx would say so too, and quote the key.
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise ValueError("the API key is empty, or has blanks or characters that a header cannot carry")
        self._header = f"Bearer {key}"

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """See httpx.Auth."""
        request.headers["Authorization"] = self._header
        yield request


class HotkeyAuth(httpx.Auth):
    """Signs method, path, query and the body's very bytes for one receiver (btauth/1), each time with a new nonce.

    Args:
        wallet: what bittensor takes for one: a `Wallet`, a wallet's name, or a keypair. It is unlocked once.
        receiver_hotkey: the service's hotkey, as its `auth.receiver_hotkey` says.
        now_ns: the time in ns since 1970.

    Raises:
        ImportError: bittensor is not installed.
    """

    requires_request_body = True

    def __init__(self, wallet: Any, receiver_hotkey: str, *, now_ns: Callable[[], int] = time.time_ns) -> None:
        from bittensor import http_auth
        from bittensor.signing import resolve_signer

        self._sign = http_auth.sign
        self._signer = resolve_signer(wallet, role="hotkey")
        self._receiver_hotkey = receiver_hotkey
        self._now_ns = now_ns
        self._last_ns = 0
        self._lock = threading.Lock()

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """See httpx.Auth."""
        headers = self._sign(
            self._signer,
            method=request.method,
            path=request.url.raw_path.decode("ascii"),
            body=request.content,
            receiver_ss58=self._receiver_hotkey,
            nonce_ns=self._next_nonce(),
        )
        request.headers.update(headers)
        yield request

    def _next_nonce(self) -> int:
        """The time, but never the same for two requests."""
        with self._lock:
            self._last_ns = max(self._last_ns + 1, self._now_ns())
            return self._last_ns


def build_auth(api_key: str | None, wallet: Any, receiver_hotkey: str | None) -> httpx.Auth | None:
    """The credentials that GateClient's arguments ask for, None for none.

    Raises:
        ValueError: they do not go together, or the key is none.
    """
    if api_key is not None and wallet is not None:
        raise ValueError("both api_key and wallet are given; the service asks for one of them")
    if (wallet is None) != (receiver_hotkey is None):
        raise ValueError("wallet and receiver_hotkey, the service's own hotkey, go together; give both or none")
    if api_key is not None:
        return ApiKeyAuth(api_key)
    return None if receiver_hotkey is None else HotkeyAuth(wallet, receiver_hotkey)
