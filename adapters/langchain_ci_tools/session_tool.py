"""What all tools are: sync and async alike, in their thread's session, and never raising.

Every tool answers `content_and_artifact`. Code that fails, arguments that do not fit and errors of
the service become tool messages with `status="error"`, because anything that a tool raises ends
the whole run of an agent.
"""

from abc import abstractmethod
from collections.abc import Callable
from contextvars import ContextVar
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from langchain_core.callbacks import AsyncCallbackManagerForToolRun, CallbackManagerForToolRun
from langchain_core.messages import ToolMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import BaseTool, InjectedToolArg, ToolException
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.v1 import ValidationError as OldValidationError

from langchain_ci_tools.access import Access, Action
from langchain_ci_tools.content import Outcome
from langchain_ci_tools.failures import explain_arguments, to_tool_error
from langchain_ci_tools.live import Listeners
from langchain_ci_tools.sessions import Where

_call_id: ContextVar[str | None] = ContextVar("ci_tools_call_id", default=None)
"""The id of the tool call that is being answered."""


Runtime: TypeAlias = Annotated[Any, InjectedToolArg]
"""LangGraph's `ToolRuntime`, which it hands to tools that have a field of that name."""

NO_RUNTIME = Field(default=None, exclude=True)
"""Excluded, because LangChain dumps the arguments, and a runtime holds the whole conversation."""


class Arguments(BaseModel):
    """Arguments of a tool. The first is that of a tool called with a mere string."""

    model_config = ConfigDict(extra="forbid")


class SessionTool(BaseTool):
    """A tool that works in the session of its caller's thread."""

    access: Access = Field(exclude=True, repr=False)
    """The way to the sessions."""

    session_id: str | None = None
    """The session to work in; None takes that of the thread."""

    images: bool = True
    """Whether results have images."""

    files: bool = False
    """Whether results have files in formats that some models read, such as PDF."""

    response_format: Literal["content", "content_and_artifact"] = "content_and_artifact"
    handle_tool_error: (
        bool | str | Callable[[ToolException], str | list[str | dict[str, Any]]] | None
    ) = True
    handle_validation_error: (
        bool | str | Callable[[ValidationError | OldValidationError], str] | None
    ) = Field(default=explain_arguments)

    live: ClassVar[bool] = False
    """Whether there is output before the end."""

    @abstractmethod
    def act(self, **arguments: Any) -> Action[Outcome]:
        """Return what to do in the session."""

    def run(self, tool_input: Any, *args: Any, **kwargs: Any) -> Any:
        """Run the tool, remembering the call that is answered."""
        token = _call_id.set(kwargs.get("tool_call_id"))
        try:
            return super().run(tool_input, *args, **kwargs)
        finally:
            _call_id.reset(token)

    async def arun(self, tool_input: Any, *args: Any, **kwargs: Any) -> Any:
        """Run the tool, remembering the call that is answered."""
        token = _call_id.set(kwargs.get("tool_call_id"))
        try:
            return await super().arun(tool_input, *args, **kwargs)
        finally:
            _call_id.reset(token)

    def _run(
        self,
        *values: Any,
        config: RunnableConfig,
        run_manager: CallbackManagerForToolRun | None = None,
        runtime: Runtime = None,
        **arguments: Any,
    ) -> Any:
        listeners = self._listeners(runtime, run_manager)
        try:
            action = self.act(**self._named(values, arguments))
            where = self._where(config, runtime)
            put = listeners.emit if self.live and listeners else None
            return self._to_result(self.access.call(where, action, put=put))
        except Exception as error:
            raise to_tool_error(error) from error

    async def _arun(
        self,
        *values: Any,
        config: RunnableConfig,
        run_manager: AsyncCallbackManagerForToolRun | None = None,
        runtime: Runtime = None,
        **arguments: Any,
    ) -> Any:
        listeners = self._listeners(runtime, run_manager)
        try:
            action = self.act(**self._named(values, arguments))
            where = self._where(config, runtime)
            put = listeners.aemit if self.live and listeners else None
            return self._to_result(await self.access.acall(where, action, put=put))
        except Exception as error:
            raise to_tool_error(error) from error

    def _listeners(self, runtime: Any, run_manager: Any) -> Listeners:
        return Listeners(runtime, run_manager, tool_call_id=_call_id.get(), tool=self.name)

    def _named(self, values: tuple[Any, ...], arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments by name; a tool called with a mere string has it unnamed."""
        if not values:
            return arguments
        first = next(name for name in self.args if name != "runtime")
        return {first: values[0], **arguments}

    def _where(self, config: RunnableConfig, runtime: Any) -> Where:
        if self.session_id is not None:
            return Where(session_id=self.session_id)
        where = self.access.find_where(config, getattr(runtime, "state", None))
        return where or self.access.fallback

    def _to_result(self, outcome: Outcome) -> tuple[Any, object]:
        call_id = _call_id.get()
        if outcome.failed and call_id is not None:
            # Only a whole message can have both the status and the artifact.
            message = ToolMessage(
                content=outcome.content,
                artifact=outcome.artifact,
                status="error",
                tool_call_id=call_id,
                name=self.name,
            )
            return message, outcome.artifact
        return outcome.content, outcome.artifact
