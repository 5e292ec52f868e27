"""The loop of a run: model turn, tool calls, model turn, until there is an answer.

How this works: nothing lives in this loop alone. Each turn is asked for from the thread's messages
and steps, and every step is stored before anything is done with it: so a run whose process ended
can be taken up by another at the last thing that was stored. Code is the one thing that must not
be run twice; a step is stored with its code before that code runs, and what became of code that was
cut off is asked of the core (see `recovery.py`).

In a turn that calls both code and functions, the code runs first; then the run waits for its
client's outputs, and all of them go back to the model together.
"""

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

from ci_tools import SessionService
from ci_tools_assistants.models import (
    ChatModel,
    ModelRegistry,
    ToolResult,
    TurnDone,
    load_object,
)
from ci_tools_assistants.objects import Object, now
from ci_tools_assistants.runs.context import Context, load_context
from ci_tools_assistants.runs.drafts import CallDraft, CallsDraft
from ci_tools_assistants.runs.interpreter import (
    CodeDone,
    CodeLost,
    ImageMade,
    Interpreter,
    LogsDelta,
    Workbench,
)
from ci_tools_assistants.runs.recovery import CELLS
from ci_tools_assistants.runs.running import ActiveRun
from ci_tools_assistants.runs.settling import USAGE
from ci_tools_assistants.runs.turns import Turn
from ci_tools_assistants.storage.records import Records

MALFORMED_TURNS = 2
"""Turns in a row with arguments that are no JSON, after which the run fails."""

_NOT_JSON = (
    "This call was not made: its arguments are not a complete JSON object. "
    "Call again with complete arguments; if they are long, do it in several calls."
)


class Execution:
    """One execution of a run: from its start, its tool outputs or its adoption to its next rest."""

    def __init__(
        self,
        active: ActiveRun,
        *,
        records: Records,
        models: ModelRegistry,
        interpreter: Interpreter,
        service: SessionService,
    ) -> None:
        self._active = active
        self._records = records
        self._models = models
        self._interpreter = interpreter
        self._service = service.act_as(active.principal)
        self._malformed = 0

    async def run(self) -> None:
        """Work until the run has ended or waits for tool outputs.

        Raises:
            ModelError: The model failed.
            WrongMoveError: Somebody else has moved the run meanwhile.
        """
        active = self._active
        if active.run["status"] == "queued":
            await active.move("in_progress")
        chat = await self._models.get_model(active.run["model"])
        context = await load_context(self._service, self._records, active.run)
        active.usage = context.used
        async with self._open_workbench(context) as workbench:
            context.describe = workbench.describe if workbench is not None else None
            if context.begun is not None and workbench is not None:
                await self._go_on(*context.begun, context, workbench)
            while not active.is_settled:
                await self._take_turn(chat, context, workbench)

    @asynccontextmanager
    async def _open_workbench(self, context: Context) -> AsyncIterator[Workbench | None]:
        if context.code_tool is None:
            yield None
            return
        async with self._interpreter.workbench(
            context.thread,
            self._active.run,
            context.assistant_file_ids,
            principal=self._active.principal,
        ) as workbench:
            yield workbench

    async def _take_turn(
        self, chat: ChatModel, context: Context, workbench: Workbench | None
    ) -> None:
        active = self._active
        request = await context.to_request(chat, active.usage)
        if isinstance(request, str):
            await active.end("incomplete", reason=request)
            return
        turn = Turn(
            active,
            made=context.made,
            code_tool=context.code_tool,
            annotate=workbench.annotate if workbench is not None else lambda _: [],
        )
        done = await turn.ask(chat, request)
        if done.finish == "length":
            # What was cut off may look complete: none of its calls is made.
            cut = turn.end_message(reason="max_tokens", with_usage=turn.calls is None)
            await active.end("incomplete", cut, reason="max_completion_tokens")
        elif done.finish == "content_filter":
            cut = turn.end_message(reason="content_filter", with_usage=turn.calls is None)
            error = _error("The model's answer was stopped by its provider's content filter.")
            await active.end("failed", cut, error=error)
        elif done.calls or done.broken:
            await turn.complete_calls(done)
            assert turn.calls is not None
            for message in turn.messages:
                context.add_message(message)
            await self._make_calls(turn.calls, done, context, workbench)
        else:
            answered = [*turn.begin_empty(), *turn.end_message(with_usage=True)]
            await active.end("completed", answered)

    async def _make_calls(
        self, step: CallsDraft, done: TurnDone, context: Context, workbench: Workbench | None
    ) -> None:
        active = self._active
        broken = {call.id for call in done.broken}
        self._malformed = self._malformed + 1 if broken else 0
        if error := self._find_excess(context):
            await active.end("failed", error=_error(error))
            return
        pending: list[Object] = []
        for call in step.calls:
            if call.id in broken:
                active.feed.publish([step.answer(call, _NOT_JSON)])
            elif call.is_code and workbench is not None:
                await self._run_code(step, call, context, workbench)
            elif call.name in context.functions:
                pending.append(_to_required(call.to_object()))
            else:
                active.feed.publish([step.answer(call, f"There is no tool {call.name!r}.")])
        if done.message is not None:
            context.answers.append(done.message)
        await self._end_calls(step, pending, context)

    async def _end_calls(self, step: CallsDraft, pending: list[Object], context: Context) -> None:
        """Store a step whose calls were made, but for those that are `pending` at the client."""
        active = self._active
        if pending:
            step.private = context.to_private(step, active.take_usage())
            await active.move("requires_action", calls=pending)
            return
        if step.private is not None:
            step.private = context.to_private(step)
        ended = step.complete(usage=active.take_usage(), now=now())
        context.add_step(step)
        await active.save(ended)

    async def _go_on(
        self, stored: Object, private: Object, context: Context, workbench: Workbench
    ) -> None:
        """Take up a step whose code was running when the run's process ended.

        Nothing of it is run again; the model is told what became of each call.
        """
        active = self._active
        step = CallsDraft.of(active.run, stored, private)
        active.resume(step, private.get(USAGE))
        pending: list[Object] = []
        for call in step.calls:
            if call.is_code and call.id in private[CELLS]:
                await self._recover_code(call, private[CELLS][call.id], context, workbench)
            elif call.is_code or load_object(call.written) is None:
                active.feed.publish([step.answer(call, _NOT_JSON)])
            elif call.name in context.functions:
                pending.append(_to_required(call.to_object()))
            else:
                active.feed.publish([step.answer(call, f"There is no tool {call.name!r}.")])
        await self._end_calls(step, pending, context)

    async def _recover_code(
        self, call: CallDraft, step_id: str, context: Context, workbench: Workbench
    ) -> None:
        try:
            done = await workbench.recover(step_id, call.outputs)
        except CodeLost as lost:
            call.outputs = lost.outputs
            raise
        call.outputs = done.outputs
        _take_result(call, done, context)
        context.made.images += (
            output["image"]["file_id"] for output in done.outputs if output["type"] == "image"
        )

    def _find_excess(self, context: Context) -> str | None:
        """Return why the run must not go on calling tools, if it must not."""
        limit = self._service.settings.run_rounds
        if context.rounds >= limit:
            return (
                f"The run called tools in {limit} rounds without an answer, which is the limit "
                "(CI_TOOLS_RUN_ROUNDS)."
            )
        if self._malformed >= MALFORMED_TURNS:
            return (
                f"In {MALFORMED_TURNS} turns in a row the model called tools with arguments that "
                "are no complete JSON object; none of these calls was made."
            )
        return None

    async def _run_code(
        self, step: CallsDraft, call: CallDraft, context: Context, workbench: Workbench
    ) -> None:
        active = self._active
        step_id = (step.private or {}).get(CELLS, {}).get(call.id)
        async with aclosing(workbench.run(call.written, step_id=step_id)) as shown:
            async for event in shown:
                match event:
                    case LogsDelta():
                        active.feed.publish([step.add_logs(call, event.text)])
                        await active.checkpoint()
                    case ImageMade():
                        active.feed.publish([step.add_image(call, event.file_id)])
                        context.made.images.append(event.file_id)
                    case CodeDone():
                        _take_result(call, event, context)


def _take_result(call: CallDraft, done: CodeDone, context: Context) -> None:
    context.results[call.id] = ToolResult(text=done.tool_text, images=done.tool_images)
    context.made.attach(file["id"] for file in done.made_files)


def _to_required(call: Object) -> Object:
    function = {key: call["function"][key] for key in ("name", "arguments")}
    return {"id": call["id"], "type": "function", "function": function}


def _error(message: str) -> Object:
    return {"code": "server_error", "message": message}
