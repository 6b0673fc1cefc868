"""Who may call: nobody but this machine, holders of API keys, or hotkeys that sign each request.

An authenticator says why it refuses a call (`RefusedCall`), for the log alone. What the caller is told is decided
in one place, `Doorkeeper`, and is the same for every reason.
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from gating.metagraph import MetagraphView
from learner.events import ANONYMOUS

from .api_keys import hash_key, read_keys
from .config import ApiKeyEntry, AuthArgs, HotkeyAuthArgs, NoAuthArgs, Scope
from .errors import ExposureError, Problem
from .refusals import Seldom

if TYPE_CHECKING:
    from .learner_client import LearnerClient

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Author:
    """Who calls: the id of a key, or a hotkey."""

    id: str


class RefusedCall(Exception):
    """A call that is not let in.

    Args:
        reason: a stable name, for the log.
        caller: who it is, where that is certain: known, but not allowed to do this.
    """

    def __init__(self, reason: str, caller: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.caller = caller


class Authenticator(Protocol):
    """One way of telling callers apart."""

    challenge: str
    """What `WWW-Authenticate` names."""
    reads_body: bool
    """Whether it has to see the body; otherwise a body is read only of who is let in."""

    async def authenticate(
        self, *, method: str, target: str, headers: Mapping[str, str], body: bytes, scope: Scope
    ) -> Author:
        """Who calls.

        Args:
            method: the HTTP method.
            target: path and query as the caller sent them, the route prefix included.
            headers: by name, in lower case.
            body: as received; empty where `reads_body` is false.
            scope: what the call needs.

        Raises:
            RefusedCall: it is not let in.
            LearnerAway: the learner, which has to be asked, is away.
        """
        ...


class OpenAuthenticator:
    """Lets everyone in."""

    challenge = ""
    reads_body = False

    async def authenticate(
        self, *, method: str, target: str, headers: Mapping[str, str], body: bytes, scope: Scope
    ) -> Author:
        """See `Authenticator`."""
        return _ANYONE


class ApiKeyAuthenticator:
    """Knows callers by their bearer keys.

    Args:
        keys: their hashes.
    """

    challenge = 'Bearer realm="tidegate"'
    reads_body = False

    def __init__(self, keys: tuple[ApiKeyEntry, ...]) -> None:
        self._keys = keys

    async def authenticate(
        self, *, method: str, target: str, headers: Mapping[str, str], body: bytes, scope: Scope
    ) -> Author:
        """See `Authenticator`."""
        authorization = headers.get("authorization")
        if authorization is None:
            raise RefusedCall("no_credentials")
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer":
            raise RefusedCall("other_scheme")
        entry = self._find(key.strip())
        if entry is None:
            raise RefusedCall("unknown_key")
        if scope not in entry.scopes:
            raise RefusedCall("scope_missing", entry.id)
        return Author(entry.id)

    def _find(self, key: str) -> ApiKeyEntry | None:
        """Compares with every key, whichever it is, so that the time taken tells nothing."""
        # HTTP's headers are Latin-1; this gives back the bytes that were sent.
        digest = hash_key(key.encode("latin-1", errors="replace"))
        found = None
        for entry in self._keys:
            if hmac.compare_digest(digest, entry.sha256):
                found = entry
        return found


class Doorkeeper:
    """Lets calls in, and tells those that it refuses nothing but that.

    Args:
        authenticator: tells callers apart.

    Attributes:
        failures: calls refused since the start, `unauthorized` (401) and `forbidden` (403).
        reasons: the same by reason.
    """

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator
        self.failures: Counter[str] = Counter(unauthorized=0, forbidden=0)
        self.reasons: Counter[str] = Counter()
        self._seldom = Seldom()

    @property
    def reads_body(self) -> bool:
        """See `Authenticator`."""
        return self._authenticator.reads_body

    async def admit(self, *, method: str, target: str, headers: Mapping[str, str], body: bytes, scope: Scope) -> Author:
        """Who calls; see `Authenticator`.

        Raises:
            Problem: 401 without valid credentials, 403 with those of a caller who may not do this.
            LearnerAway: the learner has to be asked and is away.
        """
        try:
            return await self._authenticator.authenticate(
                method=method, target=target, headers=headers, body=body, scope=scope
            )
        except RefusedCall as refused:
            code = "unauthorized" if refused.caller is None else "forbidden"
            self.failures[code] += 1
            self.reasons[refused.reason] += 1
            caller = refused.caller or "-"
            count = self._seldom.count(f"{refused.reason} {scope} {caller}")
            if count:
                logger.warning(
                    "refused code=%s reason=%s scope=%s caller=%s count=%d", code, refused.reason, scope, caller, count
                )
            raise self._problem(code) from None

    def _problem(self, code: str) -> Problem:
        if code == "forbidden":
            return Problem(403, code, "these credentials do not allow this call")
        headers = {"WWW-Authenticate": self._authenticator.challenge}
        return Problem(401, code, "the call has no valid credentials", headers=headers)


def build_authenticator(
    auth: AuthArgs, *, learner: LearnerClient, current_view: Callable[[], MetagraphView | None]
) -> Authenticator:
    """The authenticator that the settings ask for. bittensor is imported only for hotkeys.

    Args:
        auth: the settings.
        learner: asked whether a signed request was seen by any replica before.
        current_view: the newest view of the network, None before any.

    Raises:
        CredentialsError: keys or hotkeys are missing or malformed.
    """
    if isinstance(auth, NoAuthArgs):
        return OpenAuthenticator()
    if isinstance(auth, HotkeyAuthArgs):
        from .hotkey_auth import HotkeyAuthenticator, check_hotkeys

        check_hotkeys(auth)
        return HotkeyAuthenticator(auth, learner=learner, current_view=current_view)
    return ApiKeyAuthenticator(read_keys(auth))


def check_credentials(auth: AuthArgs) -> None:
    """Find out before anything starts whether `build_authenticator` would fail.

    Raises:
        CredentialsError: it would.
    """
    if isinstance(auth, HotkeyAuthArgs):
        from .hotkey_auth import check_hotkeys

        check_hotkeys(auth)
    elif not isinstance(auth, NoAuthArgs):
        read_keys(auth)


def check_exposure(auth: AuthArgs, host: str | None) -> None:
    """Refuse to listen beyond this machine without authentication.

    Args:
        auth: the authentication that is configured.
        host: the host that the HTTP proxy listens on; None means every interface.

    Raises:
        ExposureError: `auth.mode` is `none` and the host is not loopback.
    """
    if isinstance(auth, NoAuthArgs) and not _is_loopback(host):
        raise ExposureError(
            f"without authentication (auth.mode: none) the service listens on loopback only, but http_options.host is "
            f"{host or 'not set, which means every interface'}; set http_options.host to 127.0.0.1, or auth.mode to "
            "api_key or hotkey"
        )


def _is_loopback(host: str | None) -> bool:
    if host is None:
        return False
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


_ANYONE = Author(ANONYMOUS)
