"""Who a bearer token stands for."""

import hmac
from collections.abc import Awaitable, Callable

from mcp.server.auth.provider import AccessToken, TokenVerifier

from ci_tools import LOCAL


class PrincipalVerifier(TokenVerifier):
    """Verify the service's own tokens, and the secret of this run for the principal `local`."""

    def __init__(
        self,
        find_principal: Callable[[str], Awaitable[str | None]],
        *,
        run_secret: str | None = None,
    ) -> None:
        self._find_principal = find_principal
        self._run_secret = run_secret

    async def verify_token(self, token: str) -> AccessToken | None:
        """Return the token's principal as its client and subject; None if nobody's."""
        principal = await self.find_principal(token)
        if principal is None:
            return None
        # All tokens of a principal open the same sessions: the token itself is not kept.
        return AccessToken(token="", client_id=principal, scopes=[], subject=principal)

    async def find_principal(self, token: str) -> str | None:
        """Return the token's principal; None if nobody's."""
        if self._run_secret is not None and hmac.compare_digest(
            token.encode(), self._run_secret.encode()
        ):
            return LOCAL
        return await self._find_principal(token)
