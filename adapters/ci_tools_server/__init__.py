"""The `ci-tools` command and the HTTP app that mounts every face of the session service."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ci_tools_server.app import create_app

__all__ = ["create_app"]


def __getattr__(name: str) -> object:
    # `ci-tools mcp` must answer within a second: the web app is imported only when it is wanted.
    if name == "create_app":
        from ci_tools_server.app import create_app

        return create_app
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
