"""A model that says what a test wrote, and the API around it, without providers or sockets."""

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import anyio
import httpx2

from ci_tools import Settings, open_service
from ci_tools.testing import FakeBackend
from ci_tools_assistants.app import Api, AssistantsApp
from ci_tools_assistants.models import (
    ArgumentsDelta,
    Call,
    CallStarted,
    Finish,
    ModelError,
    RefusalDelta,
    TextDelta,
    TurnDone,
    TurnEvent,
    TurnRequest,
    Usage,
)
from ci_tools_assistants.models.capabilities import Capabilities
from ci_tools_assistants.objects import Object
from ci_tools_assistants.runs.events import Event
from ci_tools_assistants.runs.feeds import Reader
from ci_tools_assistants.runs.running import ActiveRun

WEATHER: Object = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}

CODE: Object = {"type": "code_interpreter"}


class Gate:
    """A place where the model waits for the test."""

    def __init__(self) -> None:
        self.reached = anyio.Event()
        self.opened = anyio.Event()


@dataclass(frozen=True)
class Refuse:
    """A refusal."""

    text: str


@dataclass(frozen=True)
class Ask:
    """A call of a tool; arguments as text are sent as they stand."""

    name: str
    arguments: Mapping[str, Any] | str = field(default_factory=dict)
    id: str = ""

    @property
    def text(self) -> str:
        return self.arguments if isinstance(self.arguments, str) else json.dumps(self.arguments)


@dataclass(frozen=True)
class End:
    """Why the turn ends, if not by itself; `prompt` and `completion` are its tokens."""

    finish: Finish | None = None
    prompt: int = 10
    completion: int = 5


def run_code(code: str) -> Ask:
    return Ask("code_interpreter", {"code": code})


Part: TypeAlias = str | Refuse | Ask | Gate | End | Exception

Turn: TypeAlias = Sequence[Part]


class Puppet:
    """Every model: it plays its turns one after the other, then says `Done.`."""

    name = "puppet"
    capabilities = Capabilities()

    def __init__(self) -> None:
        self.turns: list[Turn] = []
        self.script: Callable[[TurnRequest], Turn] | None = None
        """Answers instead of the turns."""
        self.requests: list[TurnRequest] = []
        self.calls = 0
        self.is_cancelled = False

    async def get_model(self, name: str) -> "Puppet":
        return self

    def plays(self, *turns: Turn) -> None:
        self.turns += turns

    @asynccontextmanager
    async def turn(self, request: TurnRequest) -> AsyncIterator[AsyncIterator[TurnEvent]]:
        self.requests.append(request)
        if self.script is not None:
            parts = self.script(request)
        else:
            parts = self.turns.pop(0) if self.turns else ["Done."]
        events = self._play(parts)
        try:
            yield events
        except BaseException:
            self.is_cancelled = True
            raise
        finally:
            await events.aclose()  # type: ignore[attr-defined]

    async def _play(self, parts: Turn) -> AsyncIterator[TurnEvent]:
        calls: list[Call] = []
        end, text, refusal = End(), "", ""
        for part in parts:
            match part:
                case str():
                    text += part
                    yield TextDelta(part)
                case Refuse():
                    refusal += part.text
                    yield RefusalDelta(part.text)
                case Gate():
                    part.reached.set()
                    await part.opened.wait()
                case Ask():
                    self.calls += 1
                    id = part.id or f"call_puppet{self.calls}"
                    yield CallStarted(len(calls), id, part.name)
                    for start in range(0, len(part.text), 7):
                        yield ArgumentsDelta(len(calls), part.text[start : start + 7])
                    calls.append(Call(id=id, name=part.name, arguments=part.text))
                case End():
                    end = part
                case Exception():
                    raise part
        finish = end.finish or ("tool_calls" if calls else "refusal" if refusal else "stop")
        whole = [call for call in calls if _is_object(call.arguments) and finish != "length"]
        yield TurnDone(
            text=text,
            refusal=refusal,
            calls=whole,
            broken=[call for call in calls if call not in whole],
            finish=finish,
            usage=Usage(prompt_tokens=end.prompt, completion_tokens=end.completion),
        )


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


RATE_LIMITED = ModelError("rate_limit_exceeded", "Too many requests.")


@dataclass
class Stage:
    """The API with a puppet for a model."""

    api: Api
    model: Puppet
    http: httpx2.AsyncClient
    principal: str = "local"

    async def post(self, path: str, body: Object | None = None) -> Object:
        response = await self.http.post(path, json=body or {})
        assert response.status_code == 200, response.text
        value: Object = response.json()
        return value

    async def get(self, path: str, **query: Any) -> Object:
        response = await self.http.get(path, params=query)
        assert response.status_code == 200, response.text
        value: Object = response.json()
        return value

    async def refuse(self, path: str, body: Object | None = None, *, status: int = 400) -> str:
        """Post what is refused; return the message."""
        response = await self.http.post(path, json=body or {})
        assert response.status_code == status, response.text
        return str(response.json()["error"]["message"])

    async def new_assistant(self, *tools: Object, **more: Any) -> Object:
        body = {"model": "gpt-4o", "tools": list(tools), **more}
        return await self.post("/assistants", body)

    async def new_thread(self, *texts: str) -> Object:
        messages = [{"role": "user", "content": text} for text in texts or ["Hello"]]
        return await self.post("/threads", {"messages": messages})

    async def new_run(self, *tools: Object, **more: Any) -> Object:
        """Start a run of a new assistant in a new thread."""
        assistant = await self.new_assistant(*tools)
        thread = await self.new_thread()
        body = {"assistant_id": assistant["id"], **more}
        return await self.post(f"/threads/{thread['id']}/runs", body)

    def active(self, run: Object) -> ActiveRun:
        """Return the run in the hands of the engine."""
        active = self.api.runs.find_active(run["id"])
        assert active is not None
        return active

    async def rest(self, run: Object) -> Object:
        """Return a run when nobody works on it any more."""
        with anyio.fail_after(60):
            while (active := self.api.runs.find_active(run["id"])) is not None:
                await active.done.wait()
            return await self.get(path_of(run))

    async def ends(self, run: Object) -> Object:
        """Return a run when it has ended."""
        with anyio.fail_after(60):
            while True:
                run = await self.rest(run)
                if run["status"] not in ("queued", "in_progress", "requires_action", "cancelling"):
                    return run
                await anyio.sleep(0.01)

    async def steps(self, run: Object) -> list[Object]:
        """Return the steps of a run, oldest first."""
        found: list[Object] = (await self.get(path_of(run) + "/steps", order="asc"))["data"]
        return found

    async def messages(self, run: Object) -> list[Object]:
        """Return the messages of a thread, oldest first."""
        path = f"/threads/{run['thread_id']}/messages"
        found: list[Object] = (await self.get(path, order="asc"))["data"]
        return found


def path_of(run: Object) -> str:
    return f"/threads/{run['thread_id']}/runs/{run['id']}"


def outputs_of(run: Object, output: str = "sunny") -> list[Object]:
    calls = run["required_action"]["submit_tool_outputs"]["tool_calls"]
    return [{"tool_call_id": call["id"], "output": output} for call in calls]


async def read_all(reader: Reader) -> list[Event]:
    """Return all events of a feed."""
    events: list[Event] = []
    with reader, anyio.fail_after(60):
        while (found := await reader.read(patience=20)) is not None:
            events += found
    return events


@asynccontextmanager
async def open_stage(folder: Path, **more: Any) -> AsyncIterator[Stage]:
    """Open the API on the fake backend; `more` are settings."""
    settings = Settings.model_validate(
        {
            "state_dir": folder / "state",
            "interrupt_grace": 1,
            "requests_per_minute": 10_000_000,
            "steps_per_principal": 1000,
            **more,
        }
    )
    backend = FakeBackend(folder / "sessions")
    app = AssistantsApp(None)
    async with (
        open_service(settings, backend=backend) as service,
        app.open(service, settings) as api,
    ):
        puppet = Puppet()
        api.models.get_model = puppet.get_model  # type: ignore[assignment, method-assign]
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(
            transport=transport, base_url="http://api/v1", timeout=60
        ) as http:
            yield Stage(api, puppet, http)
