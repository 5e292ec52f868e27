"""The Host and Origin check of the whole app, against DNS rebinding and foreign web pages."""

import ipaddress
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


def is_loopback(host: str) -> bool:
    """Whether an address to listen on can be reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class OriginCheck:
    """Refuse requests that are addressed to another name or sent by another site's page.

    Names are the loopback ones and `names`. With `any_address`, literal IP addresses pass too: a
    service beyond loopback is asked by address, and rebinding needs a name. `may_ask` lets pages of
    an origin through to a path all the same.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        names: Iterable[str],
        any_address: bool = False,
        may_ask: Callable[[str, str], bool] = lambda path, origin: False,
    ) -> None:
        self._app = app
        self._names = _LOOPBACK_NAMES | {name.lower() for name in names}
        self._any_address = any_address
        self._may_ask = may_ask

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 421 for a foreign Host and 403 for a foreign Origin; else pass on."""
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            if not self._is_ours(f"//{headers.get('host', '')}"):
                await PlainTextResponse("Unknown Host\n", 421)(scope, receive, send)
                return
            origin = headers.get("origin")
            if (
                origin is not None
                and not self._is_ours(origin)
                and not self._may_ask(scope["path"], origin)
            ):
                await PlainTextResponse("Foreign Origin\n", 403)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _is_ours(self, address: str) -> bool:
        try:
            name = urlsplit(address).hostname
            if name is None:
                return False
            if name in self._names:
                return True
            return self._any_address and bool(ipaddress.ip_address(name))
        except ValueError:
            return False
