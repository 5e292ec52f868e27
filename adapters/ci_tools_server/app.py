"""The HTTP app: /mcp, tickets, the Assistants API, health and metrics around one open service.

How this works: the app's lifespan opens the service and runs the MCP session manager. Every
request passes the Host and Origin check, then is counted and traced by route pattern; /mcp asks
for a bearer token (unless `auth` is `none`), a ticket is its own authority, health is open. What
none of these routes takes is the Assistants API's, which asks for a key itself.
"""

import logging
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias
from uuid import uuid4

from mcp.server.auth.middleware.auth_context import AuthContextMiddleware
from mcp.server.auth.middleware.bearer_auth import BearerAuthBackend, RequireAuthMiddleware
from mcp.server.streamable_http_manager import StreamableHTTPASGIApp
from mcp.server.transport_security import TransportSecuritySettings
from mcp.types import INVALID_REQUEST
from pydantic import AnyHttpUrl
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import ci_tools as core
from ci_tools import LOCAL, CIToolsError, RunStep, SessionService, Settings
from ci_tools_mcp import create_server
from ci_tools_server.assistants import load_assistants, may_ask, mount_assistants
from ci_tools_server.auth import PrincipalVerifier
from ci_tools_server.body_time import BodyTimeLimit
from ci_tools_server.listening import to_base_url
from ci_tools_server.metrics import Metrics
from ci_tools_server.origin import OriginCheck, is_loopback
from ci_tools_server.run_file import prove_run
from ci_tools_server.tickets import TicketRoutes, to_response
from ci_tools_server.traces import Traces

if TYPE_CHECKING:
    from ci_tools_assistants.app import Api

logger = logging.getLogger(__name__)

OpenService: TypeAlias = Callable[[], AbstractAsyncContextManager[SessionService]]

MCP_BODY_LIMIT = 16 * 1024 * 1024
"""Bytes of one request to /mcp; larger files go through tickets."""

_TOO_LARGE = {
    "jsonrpc": "2.0",
    "id": None,
    "error": {
        "code": INVALID_REQUEST,
        "message": f"The message is larger than the limit of {MCP_BODY_LIMIT:,} bytes. For a large "
        "file call upload_file with ticket=true and no content, and PUT the bytes to its URL.",
    },
}

_NO_TOKEN = "No bearer token was sent: send `Authorization: Bearer TOKEN`."  # noqa: S105 - a text
_WRONG_TOKEN = (
    "The bearer token is not one of this service, or was revoked: make one with "  # noqa: S105
    "`ci-tools token create`."
)

_METADATA_PATH = "/.well-known/oauth-protected-resource/mcp"
"""https://www.rfc-editor.org/rfc/rfc9728#section-3.1 for the resource `/mcp`."""

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_ROUTES = frozenset({"/mcp", "/healthz", "/readyz", "/metrics", _METADATA_PATH})


def create_app(
    settings: Settings | None = None,
    *,
    open_service: OpenService | None = None,
    base_url: str | None = None,
    run_secret: str | None = None,
    traces: Traces | None = None,
) -> Starlette:
    """Return the HTTP app; its lifespan opens the service that `open_service` yields.

    `base_url` is where clients reach it (without a slash at the end); by default `public_url` of
    the settings, or their host and port. `run_secret` opens it for the principal `local`.
    """
    settings = settings or Settings()
    base_url = base_url or to_base_url(settings)
    return _App(
        settings,
        open_service or (lambda: core.open_service(settings)),
        base_url,
        run_secret,
        traces or Traces(),
    ).build()


class _App:
    def __init__(
        self,
        settings: Settings,
        open_service: OpenService,
        base_url: str,
        run_secret: str | None,
        traces: Traces,
    ) -> None:
        self._settings = settings
        self._open_service = open_service
        self._base_url = base_url
        self._run_secret = run_secret
        self._traces = traces
        self._metrics = Metrics()
        self._service: SessionService | None = None
        self._api: Api | None = None
        self._verifier = PrincipalVerifier(self._find_principal, run_secret=run_secret)
        self._assistants = load_assistants(
            None if settings.auth == "none" else self._verifier.find_principal,
            has_models=bool(settings.models),
        )
        self._server = create_server(
            self._opened_service,
            default_session=False,
            public_url=base_url,
        )

    def build(self) -> Starlette:
        loopback = is_loopback(self._settings.host)
        names = [self._settings.host]
        if (public := self._settings.public_url) is not None and public.host:
            names.append(public.host)
        origins = self._settings.cors_origins
        others = (
            []
            if self._assistants is None
            else [mount_assistants(self._assistants, cors_origins=origins)]
        )
        return Starlette(
            routes=[
                Route("/healthz", self._tell_health),
                Route("/readyz", self._tell_readiness),
                Route("/metrics", self._tell_metrics),
                *TicketRoutes(self._find_service, self._metrics).routes,
                *self._mcp_routes(),
                *others,
            ],
            middleware=[
                Middleware(
                    _Observer,
                    metrics=self._metrics,
                    traces=self._traces,
                    route_of=self._route_of,
                ),
                Middleware(BodyTimeLimit, seconds=self._settings.body_timeout),
                Middleware(
                    OriginCheck,
                    names=names,
                    any_address=not loopback,
                    may_ask=lambda path, origin: not _is_own(path) and may_ask(origin, origins),
                ),
                Middleware(_Authentication, backend=BearerAuthBackend(self._verifier)),
            ],
            lifespan=self._run,
        )

    def _mcp_routes(self) -> list[Route]:
        # Only the session manager is wanted; auth is ours, because the package's own would have to
        # name an OAuth issuer, and there is none.
        self._server.streamable_http_app(
            max_request_body_size=MCP_BODY_LIMIT,
            transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
        )
        endpoint: ASGIApp = AuthContextMiddleware(
            _LimitAdvice(StreamableHTTPASGIApp(self._server.session_manager))
        )
        if self._settings.auth == "none":
            return [Route("/mcp", endpoint)]
        metadata_url = AnyHttpUrl(self._base_url + _METADATA_PATH)
        return [
            Route("/mcp", _TokenAdvice(RequireAuthMiddleware(endpoint, [], metadata_url))),
            Route(_METADATA_PATH, self._tell_resource),
        ]

    @asynccontextmanager
    async def _run(self, app: Starlette) -> AsyncIterator[None]:
        async with self._open_service() as service:
            self._service = service
            service.on_finished(self._observe_step)
            async with AsyncExitStack() as stack:
                if self._assistants is not None:
                    opened = self._assistants.open(service, self._settings)
                    self._api = await stack.enter_async_context(opened)
                await stack.enter_async_context(self._server.session_manager.run())
                yield

    @asynccontextmanager
    async def _opened_service(self) -> AsyncIterator[SessionService]:
        yield self._find_service()

    def _find_service(self) -> SessionService:
        if self._service is None:
            raise RuntimeError("The app's lifespan has not been started.")
        return self._service

    def _route_of(self, method: str, path: str) -> str:
        # Neither a ticket's secret nor a path that a visitor made up may be in a log or metric.
        if path.startswith("/tickets/"):
            return "/tickets/{secret}"
        if path in _ROUTES:
            return path
        pattern = None
        if self._assistants is not None:
            pattern = self._assistants.router.pattern_of(method, path)
        return "other" if pattern is None else f"/v1{pattern}"

    async def _find_principal(self, secret: str) -> str | None:
        return await self._find_service().find_principal(secret)

    def _observe_step(self, step: RunStep) -> None:
        self._metrics.count_step(step)
        self._traces.trace_step(step)

    async def _tell_health(self, request: Request) -> Response:
        challenge = request.query_params.get("challenge")
        if self._run_secret is None or challenge is None:
            return JSONResponse({"status": "ok"})
        return JSONResponse({"status": "ok", "proof": prove_run(self._run_secret, challenge)})

    async def _tell_readiness(self, request: Request) -> Response:
        try:
            await self._find_service().ready()
        except CIToolsError as error:
            logger.warning("not ready: %s", error)
            # The message may name internal addresses, and this route is open to everybody.
            return JSONResponse({"status": "not ready", "code": error.code}, 503)
        return JSONResponse({"status": "ready"})

    async def _tell_metrics(self, request: Request) -> Response:
        # With a public address a proxy stands before the service, and passes everybody on.
        is_open = is_loopback(self._settings.host) and self._settings.public_url is None
        if not is_open and request.user.display_name != LOCAL:
            return PlainTextResponse("A token of the principal 'local' is needed.\n", 401)
        service = self._find_service()
        try:
            load = await service.measure_load()
            counted = await self._api.interpreter.count_sessions() if self._api else 0
        except CIToolsError as error:
            return to_response(error)
        text = self._metrics.to_text(
            sessions=load.sessions,
            kernels=load.kernels,
            stored_bytes=load.stored_bytes,
            unfinished_steps=service.count_live()[1],
            interpreter_sessions=counted,
        )
        return Response(text, media_type=_METRICS_TYPE)

    async def _tell_resource(self, request: Request) -> Response:
        return JSONResponse(
            {
                "resource": f"{self._base_url}/mcp",
                "resource_name": "ci-tools",
                "bearer_methods_supported": ["header"],
            },
            headers={"Cache-Control": "public, max-age=3600"},
        )


class _LimitAdvice:
    """Say the limit and the way around it where the mcp package only says that it is passed."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = False

        async def send_advice(message: Message) -> None:
            nonlocal refused
            if message["type"] == "http.response.start" and message["status"] == 413:
                refused = True
                # Clients of the mcp package hand a JSON-RPC error to their caller.
                await JSONResponse(_TOO_LARGE, 413)(scope, receive, send)
            if not refused:
                await send(message)

        await self._app(scope, receive, send_advice)


class _TokenAdvice:
    """Tell a wrong token from a missing one, which the mcp package does not."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        challenge = ""
        scheme, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
        given = scheme.lower() == "bearer" and bool(token.strip())

        async def send_advice(message: Message) -> None:
            nonlocal challenge
            if message["type"] == "http.response.start" and message["status"] == 401:
                challenge = Headers(raw=message["headers"]).get("www-authenticate", "Bearer")
                text = _WRONG_TOKEN if given else _NO_TOKEN
                body = {
                    "error": "invalid_token" if given else "invalid_request",
                    "error_description": text,
                }
                headers = {"WWW-Authenticate": _describe(challenge, text)}
                await JSONResponse(body, 401, headers)(scope, receive, send)
            if not challenge:
                await send(message)

        await self._app(scope, receive, send_advice)


def _describe(challenge: str, text: str) -> str:
    return re.sub(r'error_description="[^"]*"', f'error_description="{text}"', challenge)


class _Authentication(AuthenticationMiddleware):
    """The check of bearer tokens; the Assistants API has its own, which takes other forms too."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not _is_own(scope["path"]):
            await self.app(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)


class _Observer:
    """Count, trace and log every request by its route pattern."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        metrics: Metrics,
        traces: Traces,
        route_of: Callable[[str, str], str],
    ) -> None:
        self._app = app
        self._route_of = route_of
        self._metrics = metrics
        self._traces = traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        route, status = self._route_of(scope["method"], scope["path"]), 0
        method = _method_of(scope["method"])
        started = time.monotonic()

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if not _is_own(scope["path"]):
                    # What is refused before the API sees it has an id too.
                    MutableHeaders(scope=message).setdefault("x-request-id", f"req_{uuid4().hex}")
            await send(message)

        with self._traces.trace_request(route=route, method=method) as outcome:
            try:
                await self._app(scope, receive, send_and_note)
            finally:
                outcome["status"] = status
                self._metrics.count_request(route=route, method=method, status=status)
                seconds = time.monotonic() - started
                logger.debug("%s %s %d %.3f s", method, route, status, seconds)


def _is_own(path: str) -> bool:
    """Whether a path is not the Assistants API's."""
    return path in _ROUTES or path.startswith("/tickets/")


def _method_of(method: str) -> str:
    return method if method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS") else "other"
