"""Which principal a request is from, by the key it carries."""

import base64
import binascii
from collections.abc import Awaitable, Callable

from starlette.datastructures import Headers

from ci_tools import LOCAL
from ci_tools_assistants.errors import ApiError

FindPrincipal = Callable[[str], Awaitable[str | None]]

_NO_KEY = (
    "You didn't provide an API key. You need to provide your API key in an Authorization header "
    "using Bearer auth (i.e. Authorization: Bearer YOUR_KEY), as the password of Basic auth with "
    "an empty user name, or in an api-key header. Make one with `ci-tools token create`."
)


class Authenticator:
    """Takes a key as bearer token, as the password of Basic auth, or in the header `api-key`."""

    def __init__(self, find_principal: FindPrincipal | None) -> None:
        self._find_principal = find_principal

    async def identify(self, headers: Headers) -> str:
        """Return the principal of a request; without `find_principal` everybody is `local`.

        Raises:
            ApiError: 401: there is no key, or it is nobody's.
        """
        if self._find_principal is None:
            return LOCAL
        key = find_key(headers)
        if not key:
            raise ApiError(401, _NO_KEY)
        principal = await self._find_principal(key)
        if principal is None:
            raise ApiError(
                401,
                f"Incorrect API key provided: {mask(key)}. Make one with `ci-tools token create`.",
                code="invalid_api_key",
            )
        return principal


def find_key(headers: Headers) -> str | None:
    """Return the key in a request's headers."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    value = value.strip()
    if scheme.lower() == "bearer" and value:
        return value
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value, validate=True).decode().partition(":")[2]
        except (binascii.Error, UnicodeDecodeError):
            return None
    return headers.get("api-key")


def mask(key: str) -> str:
    """Return a key so that its owner can tell which it is, and nobody else can use it."""
    return key if len(key) <= 4 else f"{key[:4]}{'*' * min(8, len(key) - 4)}"
