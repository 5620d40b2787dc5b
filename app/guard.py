"""What stands before Gradio's server: which addresses exist, who may ask, how much a request may bring, and
what every answer says to the browser.

Gradio serves more than the page needs: recordings, snapshots, a fetching proxy, icons of any size. Here an
address that the page and its clients do not use is not there.
"""

import json
import re
import shutil
import tempfile
import threading
from collections import OrderedDict
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import owners, policy, settings
from app.policy import Action, Mode, Role
from indexing.errors import InputError

# Of the page, of its components, of clients of the documented endpoints and of signing in.
_PATHS = re.compile(
    r"/(?:config/?|favicon\.ico|robots\.txt|manifest\.json|theme\.css|user/?|app_id/?|login_check/?|"
    r"login/?|logout/?|login/huggingface|login/callback|(?:assets|svelte|static)/.*)?|"
    r"/gradio_api/(?:info/?|login_check/?|app_id/?|user/?|startup-events|theme\.css|upload|upload_progress|"
    r"run/predict/?|queue/(?:join|data|status)|component_server/?|cancel|reset/?|heartbeat/[A-Za-z0-9_-]{1,64}|"
    r"call/(?:v2/)?[a-z0-9_]+(?:/[A-Za-z0-9_-]{1,64})?/?|custom_component/.*|"
    r"file=(?!https?:|//).*|mcp(?:/.*)?)"
)
_SESSION = re.compile(r"/gradio_api/heartbeat/([A-Za-z0-9_-]{1,64})")
_CHANGES = {"POST", "PUT", "PATCH", "DELETE"}
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_MONTH = 30 * 24 * 3600

# gr.HTML makes functions of its templates, so scripts have to be allowed that. Nothing comes from elsewhere.
_CONTENT = {
    "default-src": "'self'",
    "script-src": "'self' 'unsafe-inline' 'unsafe-eval' blob:",
    "style-src": "'self' 'unsafe-inline'",
    "img-src": "'self' data: blob:",
    "font-src": "'self' data:",
    "connect-src": "'self' data: blob:",
    "worker-src": "'self' blob:",
    "object-src": "'none'",
    "base-uri": "'self'",
    "form-action": "'self'",
}
_HUB = "https://huggingface.co"
_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
}


class Guard:
    """ASGI middleware, see `launch_options`."""

    def __init__(self, app: ASGIApp):
        self.app = app
        self._binding = threading.Lock()
        self._sessions: OrderedDict[str, str] = OrderedDict()  # session hash -> whose it is

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        refused = self._refusal(request)
        cookie = None if refused else _cookie(request)
        headers = _headers()

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                known = {name for name, _ in message["headers"]}
                message["headers"] += [pair for pair in headers if pair[0] not in known]
                if cookie:
                    message["headers"].append((b"set-cookie", cookie.encode()))
            await send(message)

        if refused:
            await _say(answer, *refused)
        else:
            await self.app(scope, receive, answer)

    def _refusal(self, request: Request) -> tuple[int, str] | None:
        """(status, sentence) of what is not answered."""
        path, mode = request.url.path, policy.mode()
        if not _host_is_ours(request.headers, mode):
            return 400, "This server is asked under another name than its own."
        if not _PATHS.fullmatch(path):
            return 404, "There is nothing at this address."
        changes = request.method in _CHANGES
        if changes and not _origin_is_ours(request.headers):
            return 403, "Another page may not ask for this."
        who = policy.visitor(request)
        if mode is Mode.PUBLIC and not self._is_own_session(request, who):
            return 403, "This session is another visitor's."
        if changes:
            return _too_much(request, path, who)
        return None

    def _is_own_session(self, request: Request, who: policy.Visitor) -> bool:
        """Whether what is listened to is one's own. Gradio gives what a session is told to whoever names it;
        the first visitor who does so keeps it."""
        path = request.url.path
        named = _SESSION.fullmatch(path)
        session = named[1] if named else request.query_params.get("session_hash")
        if not session or not (named or path == "/gradio_api/queue/data"):
            return True
        with self._binding:
            whose = self._sessions.get(session)
            if whose is None and who.keeps:
                self._sessions[session] = who.owner
            while len(self._sessions) > settings.SESSIONS_BOUND:
                self._sessions.popitem(last=False)
        return whose is None or who.owns(whose)


def _host_is_ours(headers: Headers, mode: Mode) -> bool:
    """On one's own computer only its own names are ours: another page, whose name leads here, could read
    everything else. Elsewhere the names are the owner's to say."""
    allowed = settings.allowed_hosts()
    if mode is Mode.LOCAL:
        allowed = (*_LOOPBACK, *allowed)
    name = re.sub(r":\d+$", "", headers.get("host", "")).lower()
    return not allowed or name in allowed


def _origin_is_ours(headers: Headers) -> bool:
    """Whether a request that changes something comes from a page of this server, or from no page at all."""
    origin = headers.get("origin")
    if origin is None:
        return headers.get("sec-fetch-site") in (None, "same-origin", "none")
    names = [headers.get("host"), settings.space_host()]
    if settings.behind_proxy():
        names.append(headers.get("x-forwarded-host"))
    return urlsplit(origin).netloc.lower() in [name.lower() for name in names if name]


def _too_much(request: Request, path: str, who: policy.Visitor) -> tuple[int, str] | None:
    size = request.headers.get("content-length", "")
    if not size.isdecimal():
        return 411, "Expected a request that says how long it is."
    if path.rstrip("/") == "/login":
        return _refused(Action.SIGN_IN, request)
    uploads = path.removeprefix("/gradio_api") == "/upload"
    most = settings.MAX_UPLOAD_BYTES if uploads else settings.MAX_REQUEST_BYTES
    if who.mode is Mode.PUBLIC:
        given = policy.rule(Action.PREVIEW, who.mode, who.role).characters or settings.MAX_CORPUS_CHARACTERS
        # Uploads come in a form; in JSON a letter may be written as six.
        most = min(most, (given if uploads else 2 * given) + settings.ROOM_IN_REQUEST)
        if refused := _refused(Action.UPLOAD if uploads else Action.CALL, request):
            return refused
    if int(size) > most:
        return 413, f"Up to {most / 1e6:,.1f} MB are taken at a time here, got {int(size) / 1e6:,.1f} MB."
    if uploads and shutil.disk_usage(tempfile.gettempdir()).free < settings.DISK_RESERVE + int(size):
        return 507, "The server's disk is nearly full; nothing more can be uploaded. Paste a text instead."
    return None


def _refused(action: Action, request: Request) -> tuple[int, str] | None:
    try:
        policy.permit(action, request)
    except InputError as error:
        return 429, str(error)
    return None


def _cookie(request: Request) -> str | None:
    """For whoever opens the page and is not known yet, in public."""
    if policy.mode() is not Mode.PUBLIC or request.url.path not in ("/", "/config", "/config/"):
        return None
    who = policy.visitor(request)
    if who.keeps and who.role is Role.ANONYMOUS or who.accounts:
        return None
    secure = request.url.scheme == "https"
    if settings.behind_proxy():
        secure = secure or request.headers.get("x-forwarded-proto", "").split(",")[0].strip() == "https"
    common = f"Path=/; Max-Age={_MONTH}; HttpOnly"
    if (
        secure
    ):  # within the Hub's page the Space is a stranger's frame: hence None, and apart for each such page
        return f"{owners.SECURE_COOKIE}={owners.new_token()}; {common}; Secure; SameSite=None; Partitioned"
    return f"{owners.COOKIE}={owners.new_token()}; {common}; SameSite=Lax"


def _headers() -> list[tuple[bytes, bytes]]:
    allowed = {**_CONTENT, "frame-ancestors": "'self'"}
    if settings.space():  # Gradio's line about the Space comes from the Hub
        allowed["frame-ancestors"] += f" {_HUB} https://*.hf.space"
        allowed["connect-src"] += f" {_HUB}"
        allowed["img-src"] += f" {_HUB} https://*.huggingface.co"
    content = "; ".join(f"{name} {value}" for name, value in allowed.items())
    told = {**_HEADERS, "content-security-policy": content}
    return [(name.encode(), value.encode()) for name, value in told.items()]


async def _say(send: Any, status: int, sentence: str) -> None:
    body = json.dumps({"detail": sentence}, ensure_ascii=False).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 429:
        headers.append((b"retry-after", b"60"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
