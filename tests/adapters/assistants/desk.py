"""A thread, assistants and files for tests of the interpreter, without models or HTTP."""

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

from ci_tools import SessionService
from ci_tools.models import new_id
from ci_tools_assistants.files.records import FileRecords
from ci_tools_assistants.objects import Kind, Object, now
from ci_tools_assistants.runs.interpreter import (
    CodeDone,
    ImageMade,
    Interpreter,
    LogsDelta,
    Workbench,
)
from ci_tools_assistants.storage.records import Records, open_records

PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9Q"
    "DwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
"""A PNG image in base64."""

SHOW_PIXEL = f"""
from IPython.display import display
display({{"image/png": "{PIXEL}", "text/plain": "<Figure>"}}, raw=True)
"""


@dataclass
class Desk:
    """Where one principal's threads and files are."""

    service: SessionService
    records: Records
    interpreter: Interpreter
    deltas: list[Object] = field(default_factory=list)

    @property
    def principal(self) -> str:
        return self.service.principal

    async def add_file(self, filename: str, content: bytes) -> Object:
        async def chunks() -> AsyncIterator[bytes]:
            yield content

        files = FileRecords(self.service, self.records)
        return await files.store(filename, chunks(), purpose="assistants")

    async def read_file(self, file_id: str) -> bytes:
        async with self.service.uploads.open(file_id) as chunks:
            return b"".join([chunk async for chunk in chunks])

    async def add_assistant(self, *files: Object) -> Object:
        assistant = {
            "id": new_id("asst_"),
            "object": "assistant",
            "created_at": now(),
            "metadata": {},
            "tool_resources": _resources(files),
        }
        return await self.records.add(Kind.ASSISTANT, assistant, principal=self.principal)

    async def add_thread(self, *files: Object) -> Object:
        thread = {
            "id": new_id("thread_"),
            "object": "thread",
            "created_at": now(),
            "metadata": {},
            "tool_resources": _resources(files),
        }
        return await self.records.add(Kind.THREAD, thread, principal=self.principal)

    async def add_message(self, thread: Object, attachments: Sequence[Object] = ()) -> Object:
        message = {
            "id": new_id("msg_"),
            "object": "thread.message",
            "created_at": now(),
            "thread_id": thread["id"],
            "run_id": None,
            "attachments": list(attachments),
            "metadata": {},
        }
        return await self.records.add_message(message, principal=self.principal)

    async def give(self, kind: Kind, owner: Object, *files: Object) -> None:
        """Replace the files that a thread or an assistant gives to code."""

        def change(item: Object) -> Object:
            return {**item, "tool_resources": _resources(files)}

        await self.records.change(kind, owner["id"], change, principal=self.principal)

    @asynccontextmanager
    async def open(
        self, thread: Object, assistant: Object | None = None
    ) -> AsyncIterator[Workbench]:
        """Open the workbench of a run."""
        run = {"id": new_id("run_"), "assistant_id": assistant and assistant["id"]}
        async with self.interpreter.workbench(
            thread, run, [], principal=self.principal
        ) as workbench:
            yield workbench

    async def run(self, code: str, thread: Object, assistant: Object | None = None) -> CodeDone:
        """Run one cell in a run of its own."""
        async with self.open(thread, assistant) as workbench:
            workbench.describe()
            return await run_cell(workbench, code)

    async def ls(self, thread: Object, assistant: Object | None = None) -> list[str]:
        """Return the names that code sees in its folder."""
        code = "import os\nprint(*sorted(os.listdir('.')), sep='|')"
        done = await self.run(code, thread, assistant)
        text = str(done.outputs[0]["logs"]) if done.outputs else ""
        return text.split("|") if text else []

    async def session_of(self, thread: Object) -> str | None:
        private = await self.records.get_private(
            Kind.THREAD, thread["id"], principal=self.principal
        )
        session_id: str | None = private.get("session_id")
        return session_id


async def run_cell(workbench: Workbench, code: str) -> CodeDone:
    """Run code, and check that what was sent adds up to what is stored."""
    sent: list[Object] = []
    async with aclosing(workbench.run(code)) as events:
        async for event in events:
            match event:
                case LogsDelta(text=text) if sent and sent[-1]["type"] == "logs":
                    sent[-1]["logs"] += text
                case LogsDelta(text=text):
                    sent.append({"type": "logs", "logs": text})
                case ImageMade(file_id=file_id):
                    sent.append({"type": "image", "image": {"file_id": file_id}})
                case CodeDone():
                    assert event.outputs == sent
                    return event
    raise AssertionError("a cell without an end")


def logs_of(done: CodeDone) -> str:
    """Return the logs of a cell that made no images."""
    assert [output["type"] for output in done.outputs] == ["logs"]
    return str(done.outputs[0]["logs"])


@asynccontextmanager
async def open_desk(service: SessionService, principal: str = "ada") -> AsyncIterator[Desk]:
    """Set up the desk of a principal."""
    records = await open_records(service.database)
    yield Desk(service.act_as(principal), records, Interpreter(service, records))


def attach(file: Object, *tools: str) -> Object:
    """Return an attachment of a message."""
    return {"file_id": file["id"], "tools": [{"type": tool} for tool in tools]}


def _resources(files: Sequence[Object]) -> Object:
    return {"code_interpreter": {"file_ids": [file["id"] for file in files]}}
