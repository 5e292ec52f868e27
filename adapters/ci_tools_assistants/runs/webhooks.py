"""Telling another server that a run has ended: signed, repeated, and never waited for.

How this works: an event is stored together with the state that it tells of (`storage/outbox.py`),
and told by any process that has the setting, also after a restart.
https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import binascii
import hashlib
import hmac
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial

import anyio
import httpx2

from ci_tools import CIToolsError
from ci_tools_assistants.objects import ACTIVE, Object
from ci_tools_assistants.storage import outbox
from ci_tools_assistants.storage.outbox import Waiting
from ci_tools_assistants.storage.records import Records
from ci_tools_assistants.versions import to_wire

logger = logging.getLogger(__name__)

WAITS = (0.5, 5.0, 30.0, 120.0, 600.0, 3600.0, 4 * 3600.0)
"""Seconds before each repetition of an event that was not taken."""

TIMEOUT = 15.0
"""Seconds that the other server has for its answer."""

AT_ONCE = 8
"""Events that this process sends at the same time."""

_CLAIM = 2 * TIMEOUT
"""Seconds after which another process tells an event whose process has ended."""

_LOOK_AGAIN = 0.5
"""Seconds between two looks for events whose time has come."""

_SECRET_PREFIX = "whsec_"  # noqa: S105 - what secrets begin with


class Webhook:
    """The server that is told; opened by `open_webhook`."""

    def __init__(self, url: str, secret: str, client: httpx2.AsyncClient, records: Records) -> None:
        self._url = url
        self._key = to_key(secret)
        self._client = client
        self._records = records
        self._woken = anyio.Event()
        self._sending = 0

    def wake(self) -> None:
        """Say that there may be an event; returns at once."""
        self._woken.set()

    async def deliver(self) -> None:
        """Send events as they come, for ever."""
        async with anyio.create_task_group() as tasks:
            while True:
                self._woken = anyio.Event()
                for event in await self._claim():
                    self._sending += 1
                    tasks.start_soon(self._deliver, event)
                with anyio.move_on_after(_LOOK_AGAIN):
                    await self._woken.wait()

    async def _claim(self) -> list[Waiting]:
        free = AT_ONCE - self._sending
        if not free:
            return []
        claim = partial(outbox.claim_events, limit=free, seconds=_CLAIM)
        try:
            return await self._records.write(claim)
        except (CIToolsError, OSError) as error:
            logger.warning("webhooks wait, as they cannot be read: %s", error)
        except Exception:  # the outermost handler of a task that nobody waits for
            logger.exception("webhooks wait, as they cannot be read")
        return []

    async def _deliver(self, event: Waiting) -> None:
        try:
            if await self._is_taken(event):
                await self._records.write(partial(outbox.remove_event, id=event.id))
            elif event.tries < len(WAITS):
                wait = WAITS[event.tries]
                await self._records.write(partial(outbox.postpone_event, id=event.id, seconds=wait))
            else:
                logger.warning("run %s: the webhook was not taken; given up", event.run_id)
                await self._records.write(partial(outbox.remove_event, id=event.id))
        except (CIToolsError, OSError) as error:
            logger.warning("run %s: its webhook will be sent once more: %s", event.run_id, error)
        except Exception:  # the outermost handler of a task that nobody waits for
            logger.exception("run %s: its webhook will be sent once more", event.run_id)
        finally:
            self._sending -= 1
            self._woken.set()

    async def _is_taken(self, event: Waiting) -> bool:
        # Signed anew each time: receivers refuse old timestamps. The id stays.
        timestamp, body = int(time.time()), event.body.encode()
        headers = {
            "content-type": "application/json",
            "webhook-id": event.id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": sign(self._key, event.id, timestamp, body),
        }
        run_id = event.run_id
        try:
            answer = await self._client.post(self._url, content=body, headers=headers)
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            logger.info("run %s: the webhook cannot be reached: %s", run_id, type(error).__name__)
            return False
        if not answer.is_success:
            logger.info("run %s: the webhook answered %d", run_id, answer.status_code)
        return answer.is_success


@asynccontextmanager
async def open_webhook(url: str, secret: str, records: Records) -> AsyncIterator[Webhook]:
    """Open the connections to the other server; who opens them also runs `deliver`.

    From here on the records keep an event of each run that ends or waits for tool outputs.
    """
    async with httpx2.AsyncClient(timeout=TIMEOUT, follow_redirects=False) as client:
        records.to_event = to_event
        yield Webhook(url, secret, client, records)


def to_event(run: Object) -> Object | None:
    """Return what is told of the state that a run has come to; None if it is nobody's concern."""
    if run["status"] in ACTIVE and run["status"] != "requires_action":
        return None
    return {
        "type": f"thread.run.{run['status']}",
        "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        "data": to_wire(run, "v2"),
    }


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
