"""Requests signed by hotkeys: bittensor's btauth/1. Imported only where hotkeys are configured."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from gating.metagraph import MetagraphView
from learner.nonces import NonceStore

from .auth import Author, RefusedCall
from .config import HotkeyAuthArgs, Scope
from .errors import CredentialsError, Problem
from .learner_client import LearnerClient

try:
    from bittensor import http_auth
    from bittensor.wallets import is_bittensor_address
except ImportError as error:
    raise CredentialsError(
        "auth.mode hotkey needs bittensor, which is not installed: pip install 'tidegate[chain]'"
    ) from error


class HotkeyAuthenticator:
    """Knows callers by the hotkeys that sign their requests.

    A signature covers method, path, query, body, receiver and time of signing, and counts once: for calls that
    change something over all replicas, which the learner keeps account of, for the others on each replica.

    Args:
        auth: who is let in, and how fresh a signature must be.
        learner: asked whether a request was seen before.
        current_view: the newest view of the network, None before any.
        now_ns: the time in ns since 1970.
    """

    challenge = 'Btauth realm="tidegate", version="1"'
    reads_body = True

    def __init__(
        self,
        auth: HotkeyAuthArgs,
        *,
        learner: LearnerClient,
        current_view: Callable[[], MetagraphView | None],
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._auth = auth
        self._learner = learner
        self._current_view = current_view
        self._now_ns = now_ns
        self._admins = frozenset(auth.admin_hotkeys)
        self._allowed = self._admins | frozenset(auth.allowed_hotkeys)
        # Scoring changes nothing, so what another replica or an earlier one has seen may come again.
        self._nonces = NonceStore(clock_ns=now_ns, started_ns=0)

    async def authenticate(
        self, *, method: str, target: str, headers: Mapping[str, str], body: bytes, scope: Scope
    ) -> Author:
        """See `Authenticator`.

        Raises:
            Problem: 503, whether the caller is let in cannot be said yet.
        """
        caller = self._verify(method, target, headers, body)
        # Before its nonce is kept: only callers that are let in take memory.
        self._check_allowed(caller.hotkey_ss58, scope)
        if scope == "score":
            verdict = self._nonces.take(caller.hotkey_ss58, caller.nonce_ns)
        else:
            verdict = await self._learner.check_nonce(caller.hotkey_ss58, caller.nonce_ns, self._auth.allowed_skew_s)
        if verdict == "unsettled":
            raise Problem(
                503,
                "learner_starting",
                "the learner has just started and cannot tell yet whether it has seen this; sign and send it again",
                retry_after_s=1,
            )
        if verdict != "fresh":
            raise RefusedCall(f"nonce_{verdict}")
        return Author(caller.hotkey_ss58)

    def _verify(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> http_auth.Caller:
        try:
            return http_auth.verify(
                headers,
                body,
                method=method,
                path=target,
                self_hotkey_ss58=self._auth.receiver_hotkey,
                max_age=self._auth.max_age_s,
                allowed_skew=self._auth.allowed_skew_s,
                nonce_store=_Later(),
                now_ns=self._now_ns(),
            )
        except http_auth.AuthError as error:
            raise RefusedCall(type(error).__name__) from None

    def _check_allowed(self, hotkey: str, scope: Scope) -> None:
        if hotkey in self._admins:
            return
        if scope == "admin":
            raise RefusedCall("scope_missing", hotkey)
        if hotkey in self._allowed:
            return
        if self._auth.min_stake is None:
            raise RefusedCall("not_allowed", hotkey)
        view = self._current_view()
        if view is None:
            raise Problem(503, "no_weights", "the network is not known yet; send the request again", retry_after_s=1)
        if not has_permit(view, hotkey, self._auth.min_stake):
            raise RefusedCall("no_permit", hotkey)


class _Later:
    """Nonces are checked once the caller is known to be allowed in, and perhaps elsewhere."""

    def check_and_store(self, hotkey_ss58: str, nonce_ns: int) -> bool:
        return True


def has_permit(view: MetagraphView, hotkey: str, min_stake: float) -> bool:
    """Whether a hotkey holds a validator permit and at least `min_stake` TAO. What is not known, nobody has."""
    if hotkey not in view.hotkeys or not view.validator_permit or not view.stake:
        return False
    uid = view.hotkeys.index(hotkey)
    return view.validator_permit[uid] and view.stake[uid] >= min_stake


def check_hotkeys(auth: HotkeyAuthArgs) -> None:
    """Refuse addresses that no key can have; a typing error would lock callers out, or worse.

    Raises:
        CredentialsError: one is not an SS58 address.
    """
    for hotkey in (auth.receiver_hotkey, *auth.allowed_hotkeys, *auth.admin_hotkeys):
        if not is_bittensor_address(hotkey):
            raise CredentialsError(f"auth names {hotkey!r}, which is not a valid SS58 address; check its spelling")
