"""The tools that run code and commands, and look at what came of it."""

from collections.abc import Callable
from typing import Annotated, ClassVar

from langchain_core.tools import ArgsSchema
from pydantic import Field, SkipValidation

from ci_tools.errors import BackendError, NotFoundError
from ci_tools.folding import fold_text
from ci_tools.models import CommandDone, CommandOutput, CommandResult, RunStep, StepFinished
from ci_tools.render import TEXT_LIMIT, output_text
from langchain_ci_tools.access import Action
from langchain_ci_tools.api import Put, SessionAPI
from langchain_ci_tools.artifacts import to_artifact
from langchain_ci_tools.content import Outcome, command_outcome, step_outcome, to_page
from langchain_ci_tools.live import to_block
from langchain_ci_tools.session_tool import NO_RUNTIME, Arguments, Runtime, SessionTool
from langchain_ci_tools.sessions import LOST, Found

_PREVIEW = 200
"""Characters of a step's code that a list shows."""


class _RunCode(Arguments):
    code: str = Field(description="IPython code; %pip and ! work too.")
    timeout_s: float | None = Field(
        default=None, gt=0, description="The code is interrupted after this; default 300."
    )
    runtime: Runtime = NO_RUNTIME


class RunCodeTool(SessionTool):
    """Run code in the session's kernel; the artifact is the `RunStep`."""

    name: str = "run_code"
    description: str = (
        "Run Python code in a live Jupyter kernel. Variables, imports and files in /mnt/data stay "
        "for the next calls, so build on earlier ones. The last expression, prints and plots are "
        "in the result. Write files for the user into /mnt/data."
    )
    args_schema: Annotated[ArgsSchema | None, SkipValidation()] = _RunCode

    live: ClassVar[bool] = True

    def act(self, code: str, timeout_s: float | None = None) -> Action[Outcome]:  # type: ignore[override]
        """Return what runs the code."""

        async def action(service: SessionAPI, found: Found, put: Put) -> Outcome:
            if put is None:
                step = await service.run_code(found.id, code, timeout=timeout_s)
            else:
                step = await _run_live(service, found.id, code, timeout_s, put)
            notes = [LOST] if found.is_new else []
            return step_outcome(step, to_artifact(step), images=self.images, notes=notes)

        return action


async def _run_live(
    service: SessionAPI,
    session_id: str,
    code: str,
    timeout: float | None,
    put: Callable[[object], None],
) -> RunStep:
    async with service.stream_code(session_id, code, timeout=timeout) as events:
        async for event in events:
            if isinstance(event, StepFinished):
                return event.step
            if (block := to_block(event)) is not None:
                put(block)
    raise BackendError("The end of the code was not told; list_run_steps has it.")


class _RunCommand(Arguments):
    command: str = Field(description="For /bin/sh; it starts in /mnt/data.")
    timeout_s: float = Field(default=60, gt=0, le=3600, description="It is ended after this.")
    runtime: Runtime = NO_RUNTIME


class RunCommandTool(SessionTool):
    """Run a shell command beside the kernel; the artifact is the `CommandResult`."""

    name: str = "run_command"
    description: str = (
        "Run a shell command in /mnt/data, also while code is running. It has the same files as "
        "run_code, but none of its variables, and nothing of it goes on in the background."
    )
    args_schema: Annotated[ArgsSchema | None, SkipValidation()] = _RunCommand

    live: ClassVar[bool] = True

    def act(self, command: str, timeout_s: float = 60) -> Action[Outcome]:  # type: ignore[override]
        """Return what runs the command."""

        async def action(service: SessionAPI, found: Found, put: Put) -> Outcome:
            texts: dict[str, list[str]] = {"stdout": [], "stderr": []}
            done: CommandDone | None = None
            async with service.stream_command(
                found.id, command, timeout=timeout_s, output_limit=TEXT_LIMIT
            ) as events:
                async for event in events:
                    match event:
                        case CommandOutput():
                            texts[event.name].append(event.text)
                            if put is not None:
                                put(to_block(event))
                        case CommandDone():
                            done = event
            assert done is not None
            result = CommandResult(
                stdout="".join(texts["stdout"]),
                stderr="".join(texts["stderr"]),
                exit_status=done.exit_status,
                timed_out=done.timed_out,
                truncated=done.truncated,
                via=done.via,
            )
            return command_outcome(result, notes=[LOST] if found.is_new else [])

        return action


class _ListRunSteps(Arguments):
    limit: int = Field(default=20, ge=1, le=100)
    before: str | None = Field(default=None, description="A step_id: list older ones.")
    runtime: Runtime = NO_RUNTIME


class ListRunStepsTool(SessionTool):
    """List what ran in the session, newest first; the artifact is the list of each `RunStep`."""

    name: str = "list_run_steps"
    description: str = "List the code that was run in this conversation, newest first."
    args_schema: Annotated[ArgsSchema | None, SkipValidation()] = _ListRunSteps

    def act(self, limit: int = 20, before: str | None = None) -> Action[Outcome]:  # type: ignore[override]
        """Return what lists the steps."""

        async def action(service: SessionAPI, found: Found, put: Put) -> Outcome:
            steps = await service.list_run_steps(found.id, limit=limit, before=before)
            lines = [
                f"{step.id} {step.status.value}: {' '.join(step.code.split())[:_PREVIEW]}"
                for step in steps
            ]
            text = "\n".join(lines) or "Nothing has been run."
            return Outcome(content=text, artifact=[to_artifact(step) for step in steps])

        return action


class _GetRunStep(Arguments):
    step_id: str
    offset: int | None = Field(
        default=None, ge=0, description="Read the whole text from here, page by page."
    )
    image: int = Field(default=1, ge=1, description="First image to show.")
    runtime: Runtime = NO_RUNTIME


class GetRunStepTool(SessionTool):
    """Return a step of the session again; the artifact is the `RunStep`."""

    name: str = "get_run_step"
    description: str = "Look at an earlier result again: read text that was cut, see more images."
    args_schema: Annotated[ArgsSchema | None, SkipValidation()] = _GetRunStep

    def act(  # type: ignore[override]
        self, step_id: str, offset: int | None = None, image: int = 1
    ) -> Action[Outcome]:
        """Return what gets the step."""

        async def action(service: SessionAPI, found: Found, put: Put) -> Outcome:
            step = await service.get_run_step(step_id)
            if step.session_id != found.id:  # another conversation's
                raise NotFoundError("run step", step_id)
            artifact = to_artifact(step)
            if offset is None:
                shown = step_outcome(step, artifact, images=self.images, first_image=image)
                # Looking at a failure is no failure.
                return Outcome(content=shown.content, artifact=artifact)
            if step.full_text is None:
                text = output_text(step)
                page, size = text[offset : offset + TEXT_LIMIT], len(text)
                end = offset + len(page)
            else:
                size = step.full_text.size
                async with service.open_full_text(
                    step.id, offset=offset, length=TEXT_LIMIT
                ) as chunks:
                    data = b"".join([chunk async for chunk in chunks])
                start, raw = to_page(data.replace(b"\0", b" "), offset) or (offset, "")
                end, page = start + len(raw.encode()), fold_text(raw)
            lines = [f"Text {offset:,} to {end:,} of {size:,}:", "", page]
            if end < size:
                lines.append(f'To read on: get_run_step(step_id="{step.id}", offset={end}).')
            return Outcome(content="\n".join(lines), artifact=artifact)

        return action
