"""The Assistants API in the HTTP app, if the extra `assistants` is installed."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from starlette.middleware.cors import CORSMiddleware
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Receive, Scope, Send

from ci_tools.extras import install_command

if TYPE_CHECKING:
    from ci_tools_assistants.app import AssistantsApp

logger = logging.getLogger(__name__)

EXPOSED = ("x-request-id", "openai-processing-ms", "openai-poll-after-ms", "retry-after")
"""Headers of answers that a page's script may read."""

_ALL_ORIGINS = "*"


def load_assistants(
    find_principal: Callable[[str], Awaitable[str | None]] | None, *, has_models: bool
) -> "AssistantsApp | None":
    """Return the API, or None if the packages it needs are not installed.

    Without `find_principal` it asks nobody for a key.
    """
    # Imported here: it takes a second, and an installation without it is complete too.
    try:
        from ci_tools_assistants.app import AssistantsApp
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("ci_tools"):
            raise
        logger.info(
            "the Assistants API is not served, as the package %s is missing: %s",
            error.name,
            install_command("assistants"),
        )
        return None
    if not has_models:
        logger.info(
            "the Assistants API has no model, so runs fail: --model or CI_TOOLS_MODELS sets one up"
        )
    return AssistantsApp(find_principal)


def mount_assistants(app: "AssistantsApp", *, cors_origins: Sequence[str]) -> BaseRoute:
    """Return the route of everything that no other route takes; pages of `cors_origins` may ask."""
    endpoint: ASGIApp = app
    if cors_origins:
        endpoint = CORSMiddleware(
            app,
            allow_origins=list(cors_origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=EXPOSED,
        )
    return _Rest(endpoint)


class _Rest(BaseRoute):
    """Takes every request; starlette's own route of all paths leaves out those with a newline."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        return (Match.FULL if scope["type"] == "http" else Match.NONE), {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


def may_ask(origin: str, cors_origins: Sequence[str]) -> bool:
    """Tell whether pages of that origin may call the API."""
    return origin in cors_origins or _ALL_ORIGINS in cors_origins
