"""Telling another server that a run has ended: signed, repeated, and never waited for.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import binascii
import hashlib
import hmac
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import anyio
import httpx2

from ci_tools.models import new_id
from ci_tools_assistants.objects import Object
from ci_tools_assistants.versions import to_wire

logger = logging.getLogger(__name__)

WAITS = (0.5, 5.0, 30.0, 120.0)
"""Seconds before each repetition of an event that was not taken."""

TIMEOUT = 15.0
"""Seconds that the other server has for its answer."""

WAITING_MAX = 10_000
"""Events that wait for a server which is away; beyond, new ones are dropped."""

AT_ONCE = 8
"""Events that are sent at the same time: so many tasks run `deliver`."""

_SECRET_PREFIX = "whsec_"  # noqa: S105 - what secrets begin with


class Webhook:
    """The server that is told; opened by `open_webhook`."""

    def __init__(
        self, url: str, secret: str, client: httpx2.AsyncClient, waits: tuple[float, ...]
    ) -> None:
        self._url = url
        self._key = to_key(secret)
        self._client = client
        self._waits = waits
        self._send, self._receive = anyio.create_memory_object_stream[Object](WAITING_MAX)

    def tell(self, run: Object) -> None:
        """Tell the state that a run is in now; returns at once."""
        payload = {
            "type": f"thread.run.{run['status']}",
            "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            "data": to_wire(run, "v2"),
        }
        try:
            self._send.send_nowait(payload)
        except anyio.WouldBlock:
            logger.warning("run %s: too many events wait for the webhook; dropped", run["id"])

    def close(self) -> None:
        """Take no more events."""
        self._send.close()
        self._receive.close()

    async def deliver(self) -> None:
        """Send events as they come, for ever."""
        async for payload in self._receive:
            await self._deliver(payload)

    async def _deliver(self, payload: Object) -> None:
        id, run_id = new_id("evt_"), payload["data"]["id"]
        body = json.dumps(payload, separators=(",", ":")).encode()
        for wait in (*self._waits, None):
            if await self._is_taken(id, body, run_id):
                return
            if wait is not None:
                await anyio.sleep(wait)
        logger.warning("run %s: the webhook did not take %s; given up", run_id, payload["type"])

    async def _is_taken(self, id: str, body: bytes, run_id: str) -> bool:
        # Signed anew each time: receivers refuse old timestamps. The id stays.
        timestamp = int(time.time())
        headers = {
            "content-type": "application/json",
            "webhook-id": id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": sign(self._key, id, timestamp, body),
        }
        try:
            answer = await self._client.post(self._url, content=body, headers=headers)
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            logger.info("run %s: the webhook cannot be reached: %s", run_id, type(error).__name__)
            return False
        if not answer.is_success:
            logger.info("run %s: the webhook answered %d", run_id, answer.status_code)
        return answer.is_success


@asynccontextmanager
async def open_webhook(
    url: str, secret: str, *, waits: tuple[float, ...] | None = None
) -> AsyncIterator[Webhook]:
    """Open the connections to the other server; who opens them also runs `deliver`."""
    async with httpx2.AsyncClient(timeout=TIMEOUT, follow_redirects=False) as client:
        webhook = Webhook(url, secret, client, WAITS if waits is None else waits)
        try:
            yield webhook
        finally:
            webhook.close()


def to_key(secret: str) -> bytes:
    """Return the key of a secret: base64 after `whsec_`, any other text as it is."""
    if secret.startswith(_SECRET_PREFIX):
        try:
            return base64.b64decode(secret.removeprefix(_SECRET_PREFIX), validate=True)
        except binascii.Error:
            pass
    return secret.encode()


def sign(key: bytes, id: str, timestamp: int, body: bytes) -> str:
    """Return the signature of an event."""
    signed = f"{id}.{timestamp}.".encode() + body
    digest = hmac.new(key, signed, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode("ascii")
