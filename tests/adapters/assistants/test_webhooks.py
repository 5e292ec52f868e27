import base64
import hashlib
import hmac
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import ValidationError

from ci_tools import Settings
from ci_tools_assistants.runs import webhooks
from ci_tools_assistants.runs.webhooks import sign, to_key
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
