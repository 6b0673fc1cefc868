"""Who may call. Without authentication the service listens on loopback only."""

from __future__ import annotations

import ipaddress

from .config import AuthArgs


class ExposureError(Exception):
    """The service would listen where anyone could call it."""


def check_exposure(auth: AuthArgs, host: str | None) -> None:
    """Refuse to listen beyond this machine without authentication.

    Args:
        auth: the authentication that is configured.
        host: the host that the HTTP proxy listens on; None means every interface.

    Raises:
        ExposureError: `auth.mode` is `none` and the host is not loopback.
    """
    if auth.mode == "none" and not _is_loopback(host):
        raise ExposureError(
            f"without authentication (auth.mode: none) the service listens on loopback only, but http_options.host is "
            f"{host or 'not set, which means every interface'}; set http_options.host to 127.0.0.1"
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
