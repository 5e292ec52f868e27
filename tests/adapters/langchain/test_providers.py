"""Agents with the real packages of providers, whose servers follow a script; and the examples."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import RunnableConfig
from langchain_openai import ChatOpenAI

from langchain_ci_tools import CodeInterpreterMiddleware, CodeInterpreterToolkit
from tests.adapters.assistants.scripted.script import CallTool, turn
from tests.adapters.assistants.scripted.server import ScriptedServer, scripted_server
from tests.adapters.langchain.test_middleware import ask
from tests.adapters.langchain.test_tools import PIXEL

SHOW = (
    "from IPython.display import Image, display\n"
    f"import base64; display(Image(base64.b64decode('{PIXEL[::-1]}'[::-1])))"
)
"""Shows the pixel without holding it, so that only the output does."""

EXAMPLES = Path(__file__).parents[3] / "examples"


def completions(server: ScriptedServer) -> BaseChatModel:
    key: Any = "key"
    return ChatOpenAI(model="gpt-4o", base_url=server.url, api_key=key)


def responses(server: ScriptedServer) -> BaseChatModel:
    key: Any = "key"
    return ChatOpenAI(model="gpt-5", base_url=server.url, api_key=key, use_responses_api=True)


def anthropic(server: ScriptedServer) -> BaseChatModel:
    key: Any = "key"
    return ChatAnthropic(
        model_name="claude-fable-5", base_url=server.root, api_key=key, timeout=30, stop=None
    )


def find_image(body: Any) -> list[str]:
    """Return what leads to the image in a request: the roles and types around it."""
    items = body.get("messages") or body["input"]
    for item in items:
        if PIXEL in json.dumps(item):
            content = item.get("content") or item["output"]
            block = next(block for block in content if PIXEL in json.dumps(block))
            return [str(item.get("role") or item["type"]), str(block["type"])]
    return []


@pytest.mark.parametrize(
    ("make", "place"),
    [
        (completions, ["user", "image_url"]),
        (responses, ["function_call_output", "input_image"]),
        (anthropic, ["user", "tool_result"]),
    ],
)
async def test_every_provider_is_sent_images_where_it_takes_them(
    real: CodeInterpreterToolkit, config: RunnableConfig, make: Any, place: list[str]
) -> None:
    script = [turn(CallTool("run_code", {"code": SHOW})), turn("A pixel.")]
    with scripted_server(script) as server:
        agent = create_agent(make(server), middleware=[CodeInterpreterMiddleware(real)])
        done = await agent.ainvoke(ask({"type": "text", "text": "Show it"}), config)

    assert done["messages"][-1].text == "A pixel."
    assert find_image(server.bodies[1]) == place


def run_example(name: str, folder: Path, *arguments: str, **more: str) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "langchain" / name), *arguments],
        cwd=folder,
        env={**os.environ, "CI_TOOLS_STATE_DIR": str(folder / "state"), **more},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_example_of_tools_runs(tmp_path: Path) -> None:
    out = run_example("tools.py", tmp_path)

    assert "total: 6" in out
    assert "error StepError(code='code_error'" in out
    assert "['numbers.csv', 'plot.png']" in out


def test_the_example_of_an_agent_runs(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("n\n1\n2\n")
    code = "text = open('data.csv').read(); open('copy.csv', 'w').write(text)"
    script = [turn(CallTool("run_code", {"code": code})), turn("Copied.")]
    with scripted_server(script) as server:
        out = run_example(
            *("agent.py", tmp_path, "openai:gpt-4o", "data.csv", "Copy it"),
            OPENAI_API_KEY="key",
            OPENAI_BASE_URL=server.url,
        )

    assert out.splitlines() == ["Copied.", "saved copy.csv, 6 bytes"]
    assert (tmp_path / "copy.csv").read_text() == "n\n1\n2\n"
