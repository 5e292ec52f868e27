"""What the operations are tried on: a caller with a version, and objects made when first needed."""

import time
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import httpx2

from tests.adapters.assistants.clients.serving import KEY, Served
from tests.adapters.assistants.contract import streams

Object = dict[str, Any]

RUN_LIMIT = 30.0
"""Seconds that a run of a test may take."""


class World:
    """One client of one version, and what it has made."""

    def __init__(self, served: Served, version: str, *, key: str = KEY) -> None:
        self.served = served
        self.version = version
        headers = {"Authorization": f"Bearer {key}"}
        if version != "containers":
            headers["OpenAI-Beta"] = f"assistants={version}"
        self.http = httpx2.Client(base_url=served.url, headers=headers, timeout=RUN_LIMIT)

    def close(self) -> None:
        self.http.close()

    def get(self, path: str, **query: Any) -> Object:
        return self._object(self.http.get(path, params=query))

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Object:
        return self._object(self.http.post(path, json=body or {}))

    def delete(self, path: str) -> Object:
        return self._object(self.http.delete(path))

    def _object(self, response: httpx2.Response) -> Object:
        assert response.status_code == 200, f"{response.request.url}: {response.text}"
        value: Object = response.json() if response.content else {}
        return value

    def stream(self, path: str, body: Mapping[str, Any]) -> list[streams.Event]:
        response = self.http.post(path, json={**body, "stream": True})
        assert response.status_code == 200, response.text
        return streams.parse(response.text)

    def upload(self, name: str = "mydata.csv", content: bytes = b"a,b\n1,2\n3,4\n") -> Object:
        response = self.http.post(
            "/files", data={"purpose": "assistants"}, files={"file": (name, content)}
        )
        return self._object(response)

    def upload_to(self, container_id: str) -> Object:
        files = {"file": ("a.txt", b"hello")}
        return self._object(self.http.post(f"/containers/{container_id}/files", files=files))

    def wait(self, run: Object) -> Object:
        """Return the run when it has ended or wants something."""
        deadline = time.monotonic() + RUN_LIMIT
        path = f"/threads/{run['thread_id']}/runs/{run['id']}"
        while run["status"] in ("queued", "in_progress", "cancelling"):
            assert time.monotonic() < deadline, run
            time.sleep(0.01)
            run = self.get(path)
        return run

    def new_assistant(self, **more: Any) -> Object:
        tools = [{"type": "code_interpreter"}, FUNCTION]
        return self.post("/assistants", {"model": "gpt-4o", "tools": tools, **more})

    def new_thread(self, text: str = "Hello", **more: Any) -> Object:
        return self.post("/threads", {"messages": [{"role": "user", "content": text, **more}]})

    def new_run(self, text: str = "Hello", **more: Any) -> Object:
        """Create a run on a thread of its own."""
        thread = self.new_thread(text)
        body = {"assistant_id": self.assistant["id"], **more}
        return self.post(f"/threads/{thread['id']}/runs", body)

    def of_file(self, file: Object) -> Object:
        """The part of a message that attaches a file."""
        if self.version == "v1":
            return {"file_ids": [file["id"]]}
        tools = [{"type": "code_interpreter"}]
        return {"attachments": [{"file_id": file["id"], "tools": tools}]}

    @cached_property
    def file(self) -> Object:
        return self.upload()

    @cached_property
    def assistant(self) -> Object:
        return self.new_assistant(name="Tutor", instructions="Help.")

    @cached_property
    def run(self) -> Object:
        """A completed run that ran code."""
        run = self.wait(self.new_run("Solve the equation"))
        assert run["status"] == "completed", run
        return run

    @cached_property
    def step(self) -> Object:
        """The newest step of the run, which wrote its message."""
        found: Object = self.get(f"{self.run_path}/steps")["data"][0]
        return found

    @cached_property
    def message(self) -> Object:
        """A message with a file."""
        path = f"/threads/{self.thread['id']}/messages"
        body = {"role": "user", "content": "Look.", "metadata": {"a": "b"}}
        return self.post(path, {**body, **self.of_file(self.file)})

    @cached_property
    def thread(self) -> Object:
        return self.new_thread()

    @property
    def run_path(self) -> str:
        return f"/threads/{self.run['thread_id']}/runs/{self.run['id']}"

    @property
    def message_path(self) -> str:
        return f"/threads/{self.thread['id']}/messages/{self.message['id']}"


FUNCTION: Object = {
    "type": "function",
    "function": {
        "name": "getNickname",
        "description": "Get the nickname of a city",
        "parameters": {"type": "object", "properties": {"location": {"type": "string"}}},
    },
}
