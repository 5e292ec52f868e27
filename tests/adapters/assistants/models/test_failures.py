"""Every way in which a model fails is one of the API's codes, and repeated only where it helps."""

import logging
from typing import Any

import anyio
import pytest
from langchain_core.messages import BaseMessage, HumanMessage

from ci_tools.settings import ModelEntry
from ci_tools_assistants.models import ModelError, TextDelta
from ci_tools_assistants.models import turn as turns
from tests.adapters.assistants.models.rig import (
    SHAPES,
    ask,
    entry_for,
    finish,
    open_model,
    request,
)
from tests.adapters.assistants.scripted.script import (
    NO_QUOTA,
    OVERFLOW,
    RATE_LIMIT,
    SERVER_ERROR,
    Break,
    Cut,
    Fail,
    Gate,
    Wait,
    turn,
)
from tests.adapters.assistants.scripted.server import ScriptedServer

VLLM_OVERFLOW = Fail(
    status=400,
    message="This model's maximum context length is 4096 tokens. However, you requested 5000.",
    type="BadRequestError",
)
LLAMA_OVERFLOW = Fail(
    status=400,
    message="the request exceeds the available context size, try increasing it",
    type="exceed_context_size_error",
)
ANTHROPIC_OVERFLOW = Fail(status=400, message="prompt is too long: 210000 tokens > 200000 maximum")


pytestmark = pytest.mark.usefixtures("no_waits")


@pytest.fixture
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "FIRST_WAIT", 0.0)


async def fail(entry: ModelEntry) -> ModelError:
    """Return what a turn of the model fails with."""
    async with open_model(entry) as model:
        with pytest.raises(ModelError) as caught:
            await ask(model)
    return caught.value


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("failure", "code", "requests"),
    [
        (RATE_LIMIT, "rate_limit_exceeded", 3),
        (SERVER_ERROR, "server_error", 3),
        (Fail(status=503, message="Overloaded"), "server_error", 3),
        (
            Fail(status=401, message="Incorrect API key provided: sk-…", code="invalid_api_key"),
            "server_error",
            1,
        ),
        (Fail(status=403, message="No access."), "server_error", 1),
        (
            Fail(status=404, message="The model does not exist.", code="model_not_found"),
            "server_error",
            1,
        ),
        (Fail(status=400, message="Invalid schema for function 'f'."), "invalid_prompt", 1),
        (OVERFLOW, "invalid_prompt", 1),
    ],
)
async def test_failure_has_its_code_and_is_repeated_only_if_that_helps(
    shape: str, failure: Fail, code: str, requests: int, server: ScriptedServer
) -> None:
    server.follow([failure] * 5)

    error = await fail(entry_for(shape, server))

    assert error.code == code
    assert len(server.requests) == requests
    assert error.to_object() == {"code": code, "message": error.message}


async def test_quota_that_is_used_up_is_not_tried_again(server: ScriptedServer) -> None:
    server.follow([NO_QUOTA] * 3)

    error = await fail(entry_for("chat", server))

    assert error.code == "rate_limit_exceeded"
    assert not error.retryable
    assert len(server.requests) == 1


@pytest.mark.parametrize("shape", SHAPES)
async def test_failure_that_goes_away_is_not_seen(shape: str, server: ScriptedServer) -> None:
    server.follow([RATE_LIMIT, SERVER_ERROR, turn("Hi")])

    async with open_model(entry_for(shape, server)) as model:
        done = await finish(model)

    assert done.text == "Hi"


async def test_wait_that_the_provider_asks_for_is_kept_within_bounds(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    async def note(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("anyio.sleep", note)
    limits = [Fail(status=429, headers={"retry-after": wait}) for wait in ("3", "9999")]
    server.follow([*limits, turn("Hi")])

    async with open_model(entry_for("chat", server)) as model:
        await finish(model)

    assert waits == [3.0, turns.LONGEST_WAIT]


@pytest.mark.parametrize("shape", SHAPES)
async def test_cut_before_the_first_word_is_tried_again(shape: str, server: ScriptedServer) -> None:
    server.follow([turn(Cut()), turn("Hi")])

    async with open_model(entry_for(shape, server)) as model:
        done = await finish(model)

    assert done.text == "Hi"


@pytest.mark.parametrize("shape", SHAPES)
async def test_cut_after_the_first_word_is_final(shape: str, server: ScriptedServer) -> None:
    server.follow([turn("Hel", Cut()), turn("Hi")])

    seen = []
    async with open_model(entry_for(shape, server)) as model:
        with pytest.raises(ModelError) as caught:
            async with model.turn(request()) as events:
                async for event in events:
                    seen.append(event)

    assert seen == [TextDelta("Hel")]
    assert caught.value.code == "server_error"
    assert len(server.requests) == 1


@pytest.mark.parametrize("shape", SHAPES)
async def test_error_inside_of_the_stream_is_the_servers(
    shape: str, server: ScriptedServer
) -> None:
    server.follow([turn("Hel", Break())])

    error = await fail(entry_for(shape, server))

    assert error.code == "server_error"


@pytest.mark.parametrize("shape", SHAPES)
async def test_stall_is_ended_by_the_time_out(shape: str, server: ScriptedServer) -> None:
    gate = Gate()
    server.follow([turn("a", Wait(gate))])

    with anyio.fail_after(20):
        error = await fail(entry_for(shape, server, timeout=0.5))

    assert error.code == "server_error"
    assert gate.is_reached


async def test_silence_before_the_first_word_is_tried_again(server: ScriptedServer) -> None:
    server.follow([turn(Wait()), turn("Hi")])

    with anyio.fail_after(20):
        async with open_model(entry_for("chat", server, timeout=0.5)) as model:
            done = await finish(model)

    assert done.text == "Hi"


async def test_server_that_is_not_there_is_a_server_error() -> None:
    entry = ModelEntry(use="openai:m", base_url="http://127.0.0.1:9/v1", max_retries=0)

    error = await fail(entry)

    assert error.code == "server_error"
    assert error.retryable


async def test_answer_without_anything_is_an_empty_answer(server: ScriptedServer) -> None:
    server.follow([turn(finish="stop")])

    async with open_model(entry_for("chat", server)) as model:
        done = await finish(model)

    assert (done.text, done.finish) == ("", "stop")


@pytest.mark.parametrize(
    ("shape", "failure", "window"),
    [
        ("chat", OVERFLOW, 8192),
        ("chat", VLLM_OVERFLOW, 4096),
        ("chat", LLAMA_OVERFLOW, None),
        ("responses", OVERFLOW, 8192),
        ("anthropic", ANTHROPIC_OVERFLOW, 200000),
    ],
)
async def test_prompt_that_is_too_long_is_shortened_once(
    shape: str, failure: Fail, window: int | None, server: ScriptedServer
) -> None:
    server.follow([failure, turn("Hi")])
    windows: list[int | None] = []

    def shorten(known: int | None) -> list[BaseMessage]:
        windows.append(known)
        return [HumanMessage("short")]

    async with open_model(entry_for(shape, server)) as model:
        done = await finish(model, request(shorten=shorten))
        expected = window if window is not None else model.capabilities.window

    assert done.text == "Hi"
    assert windows == [expected]
    assert server.requests[-1].last_text == "short"


async def test_prompt_that_stays_too_long_is_invalid(server: ScriptedServer) -> None:
    server.follow([OVERFLOW] * 3)

    async with open_model(entry_for("chat", server)) as model:
        with pytest.raises(ModelError) as caught:
            await finish(model, request(shorten=lambda window: [HumanMessage("short")]))

    assert caught.value.code == "invalid_prompt"
    assert caught.value.is_overflow
    assert len(server.requests) == 2


async def test_provider_speaks_to_the_log_and_not_to_the_client(
    server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    secret = Fail(status=401, message="Incorrect key for organisation acme-internal.")
    server.follow([secret])

    with caplog.at_level(logging.WARNING, "ci_tools_assistants"):
        error = await fail(entry_for("chat", server))

    assert "acme-internal" not in error.message
    assert "acme-internal" in caplog.text


@pytest.mark.filterwarnings("ignore:Dropping tool 'f'")
async def test_tools_that_a_provider_cannot_be_told_of_are_an_invalid_prompt(
    server: ScriptedServer,
) -> None:
    tool: dict[str, Any] = {
        "type": "function",
        "function": {"name": "f", "parameters": {"anyOf": [{"type": "object"}]}},
    }

    async with open_model(entry_for("anthropic", server)) as model:
        with pytest.raises(ModelError) as caught:
            await ask(model, request(tools=[tool]))

    assert caught.value.code == "invalid_prompt"
    assert server.requests == []
