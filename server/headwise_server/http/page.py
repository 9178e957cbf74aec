"""The page under /ui/, whose files `npm run build` in clients/web writes into this package.

They are read once, at the start. The page asks nothing but its own server, keeps no cookie, and may not be framed. Its
addresses are relative, and so are these redirects: it works behind any path.
"""

import hashlib
from collections.abc import Mapping
from importlib.resources import files

from starlette.responses import RedirectResponse, Response

from headwise_server.errors import ServiceError
from headwise_server.http.reception import Handler, Received
from headwise_server.http.replies import NoSuchPath
from headwise_server.inference import State

FOLDER, FIRST = "ui", "index.html"
MEDIA_TYPES = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
# blob: is the user's own picture.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # asked for again, and answered by 304
}


def page_files() -> dict[str, bytes]:
    """The files by name."""
    return {file.name: file.read_bytes() for file in (files("headwise_server") / FOLDER).iterdir()}


def _media_type(name: str) -> str:
    return MEDIA_TYPES[name.rpartition(".")[2]]


def page_file(contents: Mapping[str, bytes]) -> Handler:
    """GET /ui/ and /ui/FILE."""
    tags = {name: f'"{hashlib.sha256(content).hexdigest()[:32]}"' for name, content in contents.items()}

    async def answer(state: State, received: Received) -> Response:
        name = received.path.get("file", FIRST)
        if name not in contents:
            raise _no_file(contents)
        headers = {**HEADERS, "ETag": tags[name]}
        if received.headers.get("if-none-match") == tags[name]:
            return Response(status_code=304, headers=headers)
        return Response(contents[name], media_type=_media_type(name), headers=headers)

    return answer


def _no_file(contents: Mapping[str, bytes]) -> ServiceError:
    return NoSuchPath(f"expected one of the page's files, {', '.join(sorted(contents))}; found another.")


async def to_page(state: State, received: Received) -> Response:
    """GET / and /ui: where the page is."""
    return RedirectResponse("ui/")
