import base64
import hashlib
import hmac
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import ValidationError
from sqlalchemy import Connection

from ci_tools import Settings
from ci_tools_assistants.runs import webhooks
from ci_tools_assistants.runs.webhooks import sign, to_key
from ci_tools_assistants.storage import outbox
from ci_tools_assistants.storage.records import Records
from tests.adapters.assistants.puppet import WEATHER, Ask, open_stage

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef01234567").decode()


class Receiver:
    """A server that takes webhooks, after it has refused some."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.url = ""

    async def wait(self, count: int) -> list[tuple[dict[str, str], bytes]]:
        with anyio.fail_after(30):
            while len(self.requests) < count:
                await anyio.sleep(0.005)
        return self.requests


@contextmanager
def receiving(*, refusals: int = 0) -> Iterator[Receiver]:
    receiver = Receiver(refusals)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            receiver.requests.append(({k.lower(): v for k, v in self.headers.items()}, body))
            receiver.refusals -= 1
            self.send_response(500 if receiver.refusals >= 0 else 204)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver.url = f"http://127.0.0.1:{server.server_port}/hook"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()


async def test_the_end_of_a_run_is_told_with_a_signature(tmp_path: Path) -> None:
    with receiving() as receiver:
        async with open_stage(
            tmp_path, run_webhook_url=receiver.url, run_webhook_secret=SECRET
        ) as stage:
            run = await stage.ends(await stage.new_run())
            [(headers, body)] = await receiver.wait(1)

    payload = json.loads(body)
    assert payload["type"] == "thread.run.completed"
    assert payload["data"] == run
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    digest = hmac.new(b"0123456789abcdef01234567", signed, hashlib.sha256).digest()
    assert headers["webhook-signature"] == "v1," + base64.b64encode(digest).decode()
    assert headers["content-type"] == "application/json"


async def test_a_run_that_waits_for_outputs_is_told_too(tmp_path: Path) -> None:
    with receiving() as receiver:
        async with open_stage(
            tmp_path, run_webhook_url=receiver.url, run_webhook_secret=SECRET
        ) as stage:
            stage.model.plays([Ask("weather", {})])
            await stage.new_run(WEATHER)
            [(_, body)] = await receiver.wait(1)

    assert json.loads(body)["type"] == "thread.run.requires_action"


async def test_what_is_not_taken_is_sent_again_under_the_same_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "WAITS", (0.0, 0.0))
    with receiving(refusals=2) as receiver:
        async with open_stage(
            tmp_path, run_webhook_url=receiver.url, run_webhook_secret=SECRET
        ) as stage:
            await stage.ends(await stage.new_run())
            requests = await receiver.wait(3)

    assert len({headers["webhook-id"] for headers, _ in requests}) == 1
    assert len({body for _, body in requests}) == 1


async def test_what_waits_is_told_by_the_next_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "WAITS", (0.0,) * 100_000)
    monkeypatch.setattr(webhooks, "_CLAIM", 0.0)  # as if its time was over
    with receiving(refusals=100_000) as receiver:
        options = {"run_webhook_url": receiver.url, "run_webhook_secret": SECRET}
        async with open_stage(tmp_path, **options) as stage:
            await stage.ends(await stage.new_run())
            [(first, _), *_] = await receiver.wait(1)
        receiver.refusals = 0
        refused = len(receiver.requests)

        async with open_stage(tmp_path, **options) as stage:
            (last, body) = (await receiver.wait(refused + 1))[-1]

    assert last["webhook-id"] == first["webhook-id"]
    assert json.loads(body)["type"] == "thread.run.completed"


async def test_the_event_is_stored_with_the_end_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "AT_ONCE", 0)
    options = {"run_webhook_url": "http://127.0.0.1:9/", "run_webhook_secret": SECRET}

    async with open_stage(tmp_path, **options) as stage:
        run = await stage.ends(await stage.new_run())
        [event] = await stage.api.records.write(claim)

    assert event.run_id == run["id"]
    assert json.loads(event.body)["data"] == run


def claim(conn: Connection, seconds: float = 60.0) -> list[outbox.Waiting]:
    return outbox.claim_events(conn, limit=10, seconds=seconds)


async def test_an_event_is_given_to_one_process_at_a_time(records: Records) -> None:
    add = partial(outbox.add_event, principal="ada", run_id="run_1", body="{}")
    await records.write(add)

    [event] = await records.write(partial(claim, seconds=60.0))
    assert await records.write(claim) == []

    await records.write(partial(outbox.postpone_event, id=event.id, seconds=0.0))
    [again] = await records.write(partial(claim, seconds=0.0))
    assert (again.id, again.tries) == (event.id, 1)
    [once_more] = await records.write(claim)  # its process has ended
    assert once_more == again

    await records.write(partial(outbox.postpone_event, id=event.id, seconds=0.0))
    await records.write(partial(outbox.remove_event, id=event.id))
    assert await records.write(claim) == []


async def test_events_are_erased_with_their_principal(records: Records) -> None:
    add = partial(outbox.add_event, principal="ada", run_id="run_1", body="{}")
    await records.write(add)

    await records.erase("ada")

    assert await records.write(claim) == []


async def test_a_receiver_that_is_away_does_not_hold_a_run_up(tmp_path: Path) -> None:
    with receiving() as receiver:
        url = receiver.url
    async with open_stage(tmp_path, run_webhook_url=url, run_webhook_secret=SECRET) as stage:
        assert (await stage.ends(await stage.new_run()))["status"] == "completed"


def test_a_secret_is_base64_after_its_prefix_or_any_text() -> None:
    assert to_key(SECRET) == b"0123456789abcdef01234567"
    assert to_key("plain") == b"plain"
    assert to_key("whsec_not base64!") == b"whsec_not base64!"


def test_the_signature_of_the_specification() -> None:
    # https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
    key = to_key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")

    signature = sign(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')

    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_a_webhook_needs_a_secret(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="run_webhook_secret"):
        Settings.model_validate({"state_dir": tmp_path, "run_webhook_url": "http://127.0.0.1/x"})
