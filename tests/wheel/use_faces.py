"""Use an installed `ci-tools serve` by the Assistants API and by LangChain's tools at once."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx2
from openai import OpenAI

from langchain_ci_tools import CodeInterpreterToolkit

HERE = Path(__file__).resolve().parent

LIMIT = 120
"""Seconds for the service to be ready."""


def wait_until_ready(url: str, service: subprocess.Popen[bytes]) -> None:
    """Wait until the service answers."""
    give_up = time.monotonic() + LIMIT
    while time.monotonic() < give_up:
        assert service.poll() is None, "ci-tools serve has ended"
        try:
            if httpx2.get(f"{url}/readyz").status_code == 200:
                return
        except httpx2.TransportError:
            time.sleep(0.1)
    raise TimeoutError(f"{url} is not ready after {LIMIT} s")


def use(url: str, token: str) -> None:
    """Run an assistant, then go on in its session with LangChain's tools."""
    client = OpenAI(base_url=f"{url}/v1", api_key=token)
    assistant = client.beta.assistants.create(model="any", tools=[{"type": "code_interpreter"}])
    thread = client.beta.threads.create(messages=[{"role": "user", "content": "What is 6 * 7?"}])
    run = client.beta.threads.runs.create_and_poll(thread_id=thread.id, assistant_id=assistant.id)
    assert run.status == "completed", run.last_error
    (content,) = client.beta.threads.messages.list(thread.id).data[0].content
    assert content.type == "text" and "42" in content.text.value, content
    steps = client.beta.threads.runs.steps.list(run.id, thread_id=thread.id).data
    assert [step.type for step in steps] == ["message_creation", "tool_calls"]
    with CodeInterpreterToolkit.connect(url, token) as toolkit:
        (tool,) = (tool for tool in toolkit.get_tools() if tool.name == "run_code")
        said = tool.invoke({"code": "print(6 * 9)"})
    assert "54" in str(said), said
    print("from the wheel: an assistant ran a cell, and LangChain's tools another")


def main() -> None:
    """Serve, use, stop."""
    command = shutil.which("ci-tools")
    assert command is not None
    made = subprocess.run(
        [command, "token", "create", "--principal", "wheel"],
        check=True,
        capture_output=True,
        text=True,
    )
    (token,) = (word for word in made.stdout.split() if word.startswith("cit_"))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    env = {
        **os.environ,
        "CI_TOOLS_PORT": str(port),
        "CI_TOOLS_MODELS": '{"default": "one_cell:make"}',
        "PYTHONPATH": str(HERE),
    }
    with subprocess.Popen([command, "serve"], env=env, stderr=subprocess.DEVNULL) as service:
        try:
            wait_until_ready(f"http://127.0.0.1:{port}", service)
            use(f"http://127.0.0.1:{port}", token)
        finally:
            service.terminate()
    assert service.returncode in (0, -15), service.returncode
    sys.stdout.flush()


main()
