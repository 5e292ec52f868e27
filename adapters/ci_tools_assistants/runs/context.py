"""What a run knows of its thread: read once, added to by the run, turned into each request.

How this works: the thread's newest messages and the steps of the runs that wrote them are read in
one transaction. From then on the run's own messages and steps are added as they are stored, so that
a run which is taken up again by another process asks its model the same as this one would have.
What a step does not show its readers (all that a model was told by a cell, the files that it made,
the tokens of a step that waits) is in the private part of the step.
"""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from langchain_core.messages import AIMessage
from sqlalchemy import Connection, select

from ci_tools import CIToolsError, SessionService
from ci_tools_assistants.files.supported_files import find_media_type
from ci_tools_assistants.models import (
    ChatModel,
    Conversation,
    ToolResult,
    TurnRequest,
    build_prompt,
    create_code_tool,
    from_stored,
)
from ci_tools_assistants.objects import Kind, Object
from ci_tools_assistants.runs.drafts import CallsDraft, MessageDraft
from ci_tools_assistants.runs.recovery import CELLS
from ci_tools_assistants.runs.settling import ANSWER, USAGE
from ci_tools_assistants.runs.states import NO_USAGE, add_usage
from ci_tools_assistants.runs.turns import Made
from ci_tools_assistants.storage import rows
from ci_tools_assistants.storage.records import Records
from ci_tools_assistants.storage.schema import files, messages, runs, steps
from ci_tools_assistants.versions import RUN_FILE_IDS

MESSAGES = 200
"""The newest messages of a thread that a model may be shown."""

EARLIER_RUNS = 20
"""The newest runs of a thread of which a model is told even if they came to no message."""

IMAGE_BYTES = 20_000_000
"""Bytes of an image that a model is shown; larger ones are only named."""

IMAGES = 4
"""Images of one call that a model is shown again after its run was taken up."""

TEXTS = "texts"
"""Where the private part of a step keeps what the model was told of each call, by its id."""

ATTACHMENTS = "attachments"
"""Where the private part of a step keeps the files that its code made."""

Limit: TypeAlias = Literal["max_prompt_tokens", "max_completion_tokens"]

_NO_SEARCH = (
    "The tool file_search is not available: you cannot search the files of vector stores. Say so "
    "if you are asked to."
)


@dataclass(kw_only=True)
class Context:
    """Everything that a run's requests are made of."""

    run: Object
    thread: Object
    messages: list[Object]
    steps: dict[str, list[Object]]
    """By the id of their run."""

    file_names: Mapping[str, str]
    service: SessionService
    """Acts as the principal."""

    records: Records
    results: dict[str, ToolResult] = field(default_factory=dict)
    answers: list[AIMessage] = field(default_factory=list)
    made: Made = field(default_factory=Made)
    """What code has made that no message shows yet."""

    used: Object = field(default_factory=lambda: NO_USAGE)
    """Tokens of the turns before this execution."""

    begun: tuple[Object, Object] | None = None
    """The step whose code was running when the run's process ended, and its private part."""

    describe: Callable[[], str] | None = None
    """Say what the code interpreter is and which files there are."""

    def __post_init__(self) -> None:
        tools = self.run["tools"]
        self.tools = [tool for tool in tools if tool["type"] == "function"]
        self.functions = frozenset(tool["function"]["name"] for tool in self.tools)
        self.code_tool: str | None = None
        if any(tool["type"] == "code_interpreter" for tool in tools):
            tool = create_code_tool(self.functions)
            self.tools.append(tool)
            self.code_tool = str(tool["function"]["name"])

    @property
    def rounds(self) -> int:
        """How often the run has called tools."""
        own = self.steps.get(self.run["id"], ())
        return sum(step["type"] == "tool_calls" for step in own)

    @property
    def assistant_file_ids(self) -> Sequence[str]:
        """The files that the assistant gave to code when the run began."""
        return self.run.get(RUN_FILE_IDS) or ()

    async def to_request(self, chat: ChatModel, used: Object) -> TurnRequest | Limit:
        """Return the next request, or the bound on tokens that leaves no room for one."""
        run = self.run
        prompt_left = _left(run["max_prompt_tokens"], used["prompt_tokens"])
        completion_left = _left(run["max_completion_tokens"], used["completion_tokens"])
        if prompt_left is not None and prompt_left <= 0:
            return "max_prompt_tokens"
        if completion_left is not None and completion_left <= 0:
            return "max_completion_tokens"
        prompt = await build_prompt(
            Conversation(
                system=self._to_system(),
                messages=self.messages,
                steps=self.steps,
                run_id=run["id"],
                results=self.results,
                answers=self.answers,
                tools=self.tools,
                truncation=run["truncation_strategy"],
                max_prompt_tokens=prompt_left,
                file_names=self.file_names,
                load_image=self._load_image,
            ),
            chat.capabilities,
        )
        if prompt_left is not None and prompt.tokens > prompt_left:
            return "max_prompt_tokens"
        return TurnRequest(
            messages=prompt.messages,
            shorten=prompt.shorten,
            tools=self.tools,
            tool_choice=self._choose(),
            parallel=run["parallel_tool_calls"],
            response_format=run["response_format"],
            temperature=run["temperature"],
            top_p=run["top_p"],
            reasoning_effort=run.get("reasoning_effort"),
            max_tokens=completion_left,
        )

    def add_message(self, draft: MessageDraft) -> None:
        """Add a message that the run has written."""
        self.messages.append(draft.message)
        self._own_steps().append(draft.step)

    def add_step(self, draft: CallsDraft) -> None:
        """Add a step whose calls have been made."""
        self._own_steps().append(draft.step)

    def to_private(self, draft: CallsDraft, usage: Object | None = None) -> Object:
        """Return what a step keeps for an execution of the run by another process.

        `usage` goes with a step that waits for outputs.
        """
        ids = [call.id for call in draft.calls if call.id in self.results]
        before = draft.private or {}
        return {
            **({ANSWER: before[ANSWER]} if ANSWER in before else {}),
            USAGE: usage,
            TEXTS: {id: self.results[id].text for id in ids},
            ATTACHMENTS: self.made.attachments,
        }

    def _own_steps(self) -> list[Object]:
        return self.steps.setdefault(self.run["id"], [])

    def _to_system(self) -> str:
        parts = [self.run["instructions"]]
        if self.describe is not None:
            parts.append(self.describe())
        if any(tool["type"] == "file_search" for tool in self.run["tools"]):
            parts.append(_NO_SEARCH)
        return "\n\n".join(part for part in parts if part)

    def _choose(self) -> str | Object | None:
        choice: str | Object = self.run["tool_choice"]
        # What must be called is called once: forced again, a model would never answer.
        return choice if choice == "none" or not self.rounds else "auto"

    async def load_images(self, file_ids: Sequence[str]) -> list[tuple[str, str]]:
        """Return images as media types and base64, but for those that are gone."""
        found = [await self._load_image(id) for id in file_ids]
        return [
            (media_type, base64.b64encode(data).decode("ascii"))
            for media_type, data in (image for image in found if image is not None)
        ]

    async def _load_image(self, file_id: str) -> tuple[str, bytes] | None:
        try:
            file = await self.records.get(Kind.FILE, file_id, principal=self.service.principal)
            if file["bytes"] > IMAGE_BYTES:
                return None
            async with self.service.uploads.open(file_id) as chunks:
                data = b"".join([chunk async for chunk in chunks])
        except (LookupError, CIToolsError):
            return None
        return find_media_type(file["filename"]), data


async def load_context(service: SessionService, records: Records, run: Object) -> Context:
    """Read what a run needs to know; `service` acts as its principal."""
    loaded = await records.read(lambda conn: _read(conn, run, service.principal))
    context = Context(run=run, service=service, records=records, **loaded["objects"])
    for step, private in loaded["own"]:
        context.used = add_usage(context.used, step["usage"] or private.get(USAGE) or NO_USAGE)
        if ANSWER in private and (answer := from_stored(private[ANSWER])) is not None:
            context.answers.append(answer)
        for id, text in private.get(TEXTS, {}).items():
            images = await context.load_images(_images_of(step, id)[:IMAGES])
            context.results[id] = ToolResult(text=text, images=images)
        if step["type"] == "message_creation":
            context.made.take()
        elif step["status"] == "in_progress" and CELLS in private:
            context.begun = step, private
        else:
            context.made.images += _images_of(step)
            context.made.attach(item["file_id"] for item in private.get(ATTACHMENTS, ()))
    return context


def _read(conn: Connection, run: Object, principal: str) -> dict[str, Any]:
    thread = rows.find_row(conn, Kind.THREAD, run["thread_id"], principal=principal).data
    newest = conn.scalars(
        select(messages.c.data)
        .where(messages.c.parent == thread["id"])
        .order_by(messages.c.seq.desc())
        .limit(MESSAGES)
    )
    found = [message for message in reversed(list(newest)) if message["status"] != "in_progress"]
    speaking = {message["run_id"] for message in found} - {None} | {run["id"]}
    # Others came to no message, but their code ran too.
    newest_runs = conn.scalars(
        select(runs.c.id)
        .where(runs.c.parent == thread["id"])
        .order_by(runs.c.seq.desc())
        .limit(EARLIER_RUNS)
    )
    run_ids = speaking | set(newest_runs)
    since = found[0]["created_at"] if found else 0
    by_run: dict[str, list[Object]] = {}
    own: list[tuple[Object, Object]] = []
    for row in conn.execute(
        select(steps.c.parent, steps.c.data, steps.c.private)
        .where(steps.c.parent.in_(run_ids), steps.c.principal == principal)
        .order_by(steps.c.seq)
    ):
        is_shown = row.parent in speaking or row.data["created_at"] >= since
        if is_shown and row.data["status"] != "in_progress":
            by_run.setdefault(row.parent, []).append(row.data)
        if row.parent == run["id"]:
            own.append((row.data, row.private or {}))
    file_ids = {
        attachment["file_id"]
        for message in found
        for attachment in message["attachments"] or ()
        if attachment.get("file_id")
    }
    names: dict[str, str] = {}
    if file_ids:
        names = {
            row.id: row.data["filename"]
            for row in conn.execute(
                select(files.c.id, files.c.data).where(
                    files.c.id.in_(file_ids), files.c.principal == principal
                )
            )
        }
    objects = {"thread": thread, "messages": found, "steps": by_run, "file_names": names}
    return {"objects": objects, "own": own}


def _images_of(step: Object, call_id: str | None = None) -> list[str]:
    return [
        output["image"]["file_id"]
        for call in step["step_details"]["tool_calls"]
        if call["type"] == "code_interpreter" and call_id in (None, call["id"])
        for output in call["code_interpreter"]["outputs"]
        if output["type"] == "image"
    ]


def _left(limit: int | None, used: int) -> int | None:
    return None if limit is None else limit - used
