from __future__ import annotations

import pytest

from deployments.auth import check_exposure
from deployments.config import NoAuthArgs
from deployments.errors import ExposureError


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.53", "::1", "localhost"])
def test_without_authentication_loopback_is_fine(host: str) -> None:
    check_exposure(NoAuthArgs(), host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.7", "192.168.1.4", "gate.example", "localhost.example", "1"])
def test_without_authentication_everything_else_is_refused_by_name(host: str) -> None:
    with pytest.raises(ExposureError, match=r"set http_options\.host to 127\.0\.0\.1") as caught:
        check_exposure(NoAuthArgs(), host)
    assert f"http_options.host is {host};" in str(caught.value)


@pytest.mark.parametrize("host", [None, ""])
def test_no_host_means_every_interface_and_is_refused(host: str | None) -> None:
    with pytest.raises(ExposureError, match="not set, which means every interface"):
        check_exposure(NoAuthArgs(), host)
