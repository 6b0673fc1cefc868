"""The console's files and the headers that they come with."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import httpx
import pytest

from deployments.console.files import INDEX, console_files
from tests.deployments.local_service import LocalService

STATIC = Path(__file__).parents[2] / "deployments" / "console" / "static"


@pytest.fixture
async def service():
    service = LocalService()
    await service.subscriber.poll_once()
    yield service
    await service.close()


async def fetch(service: LocalService, path: str, **headers: str) -> httpx.Response:
    return await service.http.get(path, headers=headers)


async def test_the_page_is_at_the_root(service: LocalService) -> None:
    page = await fetch(service, "/")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert page.content == (STATIC / INDEX).read_bytes()


@pytest.mark.parametrize("name", sorted(path.name for path in STATIC.iterdir()))
async def test_every_file_is_served_with_its_type_and_the_policy(service: LocalService, name: str) -> None:
    types = {"js": "text/javascript; charset=utf-8", "css": "text/css; charset=utf-8", "svg": "image/svg+xml"}
    file = await fetch(service, f"/console/{name}")
    assert file.status_code == 200
    assert file.content == (STATIC / name).read_bytes()
    assert file.headers["content-type"] == types.get(name.rpartition(".")[2], "text/html; charset=utf-8")
    policy = dict(part.split(" ", 1) for part in file.headers["content-security-policy"].split("; "))
    assert policy.pop("default-src") == policy.pop("frame-ancestors") == "'none'"
    assert policy.pop("base-uri") == policy.pop("form-action") == "'none'"
    assert set(policy.values()) == {"'self'"}
    assert file.headers["x-content-type-options"] == "nosniff"
    assert file.headers["cache-control"] == "no-cache"


async def test_a_file_that_is_known_already_is_not_sent_again(service: LocalService) -> None:
    first = await fetch(service, "/console/style.css")
    etag = first.headers["etag"]
    for tag in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        again = await fetch(service, "/console/style.css", **{"If-None-Match": tag})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
        assert "content-security-policy" in again.headers
    other = await fetch(service, "/console/style.css", **{"If-None-Match": '"other"'})
    assert (other.status_code, other.content) == (200, first.content)


async def test_files_differ_in_their_tags() -> None:
    tags = [file.etag for file in console_files().values()]
    assert len(set(tags)) == len(tags)


@pytest.mark.parametrize(
    "path",
    [
        "/console/",
        "/console/no-such.js",
        "/console/../routes.py",
        "/console/..%2froutes.py",
        "/console/%2e%2e/routes.py",
        "/console/..%5croutes.py",
        "/console//etc/passwd",
        "/console/%2fetc%2fpasswd",
        "/console/static/style.css",
        "/console/style.css/",
        "/console/style.css%00",
    ],
)
async def test_no_path_leads_out_of_the_folder(service: LocalService, path: str) -> None:
    response = await fetch(service, path)
    assert response.status_code == 404
    assert response.json()["code"] == "not_found"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_the_page_is_only_read(service: LocalService, method: str) -> None:
    assert (await service.http.request(method, "/")).status_code == 405


async def test_the_head_of_a_file_can_be_asked_for(service: LocalService) -> None:
    head = await service.http.head("/console/style.css")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["etag"] == console_files()["style.css"].etag


async def test_under_a_route_prefix_links_lead_to_the_application(service: LocalService) -> None:
    # As Serve does it: the path keeps the application's prefix, and root_path says how much of it that is.
    transport = httpx.ASGITransport(service.api, root_path="/sn1")
    async with httpx.AsyncClient(transport=transport, base_url="http://gate") as http:
        beside = await http.get("/sn1")
        assert (beside.status_code, beside.headers["location"]) == (307, "sn1/")
        page = await http.get("/sn1", follow_redirects=True)
        assert str(page.url) == "http://gate/sn1/"
        assert page.content == (STATIC / INDEX).read_bytes()
        for link in re.findall(r'(?:src|href)="(console/[^"]+)"', page.text):
            assert (await http.get(page.url.join(link))).status_code == 200


def test_the_page_names_nothing_from_elsewhere() -> None:
    for path in STATIC.iterdir():
        text = path.read_text(encoding="utf-8")
        links = re.findall(r"""(?:src|href|from|import)\s*[=(]?\s*["']([^"']+)["']""", text)
        assert not [link for link in links if re.match(r"[a-z]+:|/", link)], path.name
        others = set(re.findall(r"https?://[^\s\"'<]+", text)) - {"http://www.w3.org/2000/svg"}
        assert not others, path.name


def test_every_file_is_in_the_package() -> None:
    settings = tomllib.loads((STATIC.parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    assert "deployments.console" in settings["packages"]
    assert settings["package-data"]["deployments.console"] == ["static/*"]
    assert set(console_files()) == {path.name for path in STATIC.iterdir()}
