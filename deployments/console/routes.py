"""The console's routes. They are open, like /docs: what the page shows comes from calls that are not."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from fastapi.responses import RedirectResponse

from ..errors import Problem
from .files import INDEX, StaticFile, console_files

# Nothing from elsewhere, nothing inline, and nobody may frame the page, whose buttons operate the service.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    # Asked again each time, answered with 304: after an upgrade no page is put together from two versions.
    "Cache-Control": "no-cache",
}
_METHODS = ["GET", "HEAD"]


def add_console(api: FastAPI) -> None:
    """Add the page at `/` and its files below `/console/`.

    All links in it are relative, so that it works under any route prefix, and behind a proxy that adds another.
    """

    # The application's own prefix without its slash: links would be looked for beside the application.
    @api.api_route("", methods=_METHODS, include_in_schema=False)
    async def beside(request: Request) -> Response:
        last = request.scope.get("root_path", "").rpartition("/")[2]
        return RedirectResponse(f"{last}/")

    @api.api_route("/", methods=_METHODS, include_in_schema=False)
    async def home(request: Request) -> Response:
        return _answer(request, console_files()[INDEX])

    @api.api_route("/console/{name:path}", methods=_METHODS, include_in_schema=False)
    async def file(request: Request, name: str) -> Response:
        found = console_files().get(name)
        if found is None:
            raise Problem(404, "not_found", "the console has no such file")
        return _answer(request, found)


def _answer(request: Request, file: StaticFile) -> Response:
    headers = {**_HEADERS, "ETag": file.etag}
    if _is_known(request.headers.get("if-none-match", ""), file.etag):
        return Response(status_code=304, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)


def _is_known(if_none_match: str, etag: str) -> bool:
    # A proxy that compresses makes the tag a weak one.
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in tags or "*" in tags
