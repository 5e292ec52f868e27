"""What differs between protocol versions; everything else is the SDK's business."""

from collections.abc import Iterable
from typing import Any

from mcp.server.mcpserver import Context

_FIRST_WITH_RESOURCE_LINKS = "2025-06-18"
"""Earlier versions know no `resource_link`; the SDK would send it to them all the same."""

_FIRST_WITH_LISTEN = "2026-07-28"
"""The version whose clients subscribe by `subscriptions/listen`."""


def takes_resource_links(context: Context[Any, Any]) -> bool:
    """Whether this client knows `resource_link` content."""
    version = context.protocol_version
    return version is not None and version >= _FIRST_WITH_RESOURCE_LINKS


async def notify_changed(context: Context[Any, Any], uris: Iterable[str]) -> None:
    """Tell the clients that listen to these resources that they have changed.

    Only `subscriptions/listen` is served; to earlier versions no subscription is offered, so
    nobody there waits for anything.
    """
    version = context.protocol_version
    if version is None or version < _FIRST_WITH_LISTEN:
        return
    for uri in uris:
        await context.notify_resource_updated(uri)
