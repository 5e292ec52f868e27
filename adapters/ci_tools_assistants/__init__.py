"""The Assistants API, v2 and v1, on sessions of the service."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ci_tools_assistants.app import Api, AssistantsApp

__all__ = ["Api", "AssistantsApp"]


def __getattr__(name: str) -> Any:
    # Loaded when it is used: the models it needs are not needed to read or erase what is stored.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ci_tools_assistants import app

    return getattr(app, name)
