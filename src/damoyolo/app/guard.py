"""Around every request: who may ask, what is counted, and what browsers are told to refuse."""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Collection
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from damoyolo.app.metrics import Metrics

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
PROTECTED = frozenset({"/predict", "/model", "/metrics"})
"""What a token is asked for; the page itself holds no secrets, and asks for the token."""
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' blob: data:; media-src 'self' blob:; manifest-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "cross-origin-resource-policy": "same-origin",
}
"""Of every answer: nothing is loaded from, sent to, or framed by another host."""

FAILED = JSONResponse({"error": "the server failed; its log says why, and trying again may help"}, 500)
_LOG = logging.getLogger("damoyolo.app")


@dataclass(frozen=True)
class Access:
    """Who may ask: who knows the `token`, if there is one, by one of the names `hosts`, if there are any."""

    token: str | None = None
    hosts: Collection[str] = ()

    def refusal(self, path: str, headers: Headers) -> JSONResponse | None:
        """The answer to a request that is not allowed."""
        host = _without_port(headers.get("host", ""))
        if self.hosts and host not in self.hosts:  # a page elsewhere whose name was pointed here
            text = f"host: '{host[:80]}' is not served here; use the address printed at the start"
            return JSONResponse({"error": text}, 403)
        if self.token and path in PROTECTED and not self._is_known(headers):
            return JSONResponse(
                {"error": "authorization: a token is needed; send the header 'Authorization: Bearer TOKEN'"},
                401,
                {"www-authenticate": "Bearer"},
            )
        return None

    def _is_known(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        known = (self.token or "").encode()
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), known)


class Guard:
    """ASGI middleware without tasks of its own, so that a client's going away reaches the route."""

    def __init__(self, app: ASGIApp, *, access: Access, metrics: Metrics, paths: Collection[str]) -> None:
        self._app, self._access, self._metrics = app, access, metrics
        self._paths = frozenset(paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 0

        async def send_guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        refusal = self._access.refusal(scope["path"], Headers(scope=scope))
        try:
            await (refusal or self._app)(scope, receive, send_guarded)
        except Exception:
            if status:
                raise
            _LOG.exception("%s %s failed", scope["method"], scope["path"])
            await FAILED(scope, receive, send_guarded)
        finally:
            path = scope["path"] if scope["path"] in self._paths else "other"
            if status:
                self._metrics.requests.labels(path, str(status)).inc()
            else:
                self._metrics.aborted.inc()
            self._metrics.request_s.labels(path).observe(time.perf_counter() - begun)


def _without_port(host: str) -> str:
    """`localhost` of localhost:8000, `::1` of [::1]:8000."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()
