"""How run steps end: their status, their error and what is said of the kernel; pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ci_tools.folding import clean_text
from ci_tools.kernel import ExecutionDone, FileStat
from ci_tools.models import ErrorOutput, StepError, StepErrorCode, StepStatus
from ci_tools.running import RunningStep

GONE = "Variables are lost, files are kept; the next step starts a new kernel."
"""What a step says whose kernel is gone."""


@dataclass(frozen=True, kw_only=True)
class End:
    """How a step ended, before its record is written."""

    status: StepStatus
    error: StepError | None = None
    execution_count: int | None = None
    listing: Sequence[FileStat] | None = None
    """The session's files now, if the kernel has told them."""


def to_end(running: RunningStep, done: ExecutionDone) -> End:
    """Say how a step ended whose code the kernel finished by itself."""
    match done.status:
        case "ok":
            end = End(status=StepStatus.COMPLETED)
        case "error":
            errors = [output for output in running.log.outputs() if isinstance(output, ErrorOutput)]
            message = f"{errors[-1].name}: {errors[-1].message}"[:500] if errors else "It failed."
            end = to_failure("code_error", clean_text(message))
        case "aborted":
            end = to_failure("result_unknown", "The kernel refused to run the code; try again.")
        case "unknown":
            end = to_failure(
                "result_unknown",
                "The connection was lost and the kernel's answer with it; the code may have run.",
            )
    if running.stop == "output_limit":
        end = to_stopped(running, "")
    return replace(end, execution_count=done.execution_count, listing=done.files)


def to_failure(code: StepErrorCode, message: str) -> End:
    """Return the end of a step that failed."""
    return End(status=StepStatus.FAILED, error=StepError(code=code, message=message))


def to_cancelled() -> End:
    """Return the end of a step that was cancelled while it waited."""
    return End(
        status=StepStatus.CANCELLED,
        error=StepError(code="cancelled", message="The step was cancelled before it ran."),
    )


def to_closed() -> End:
    """Return the end of a step whose service was stopped."""
    return End(
        status=StepStatus.CANCELLED,
        error=StepError(code="cancelled", message="The service was stopped; run the code again."),
    )


def to_broken() -> End:
    """Return the end of a step whose kernel can be reached no more."""
    return to_failure("server_lost", "The connection to the kernel broke; run the code again.")


def to_stopped(running: RunningStep, rest: str) -> End:
    """Say how a step ended that was stopped; `rest` says what became of the kernel."""
    code: StepErrorCode
    match running.stop:
        case "cancelled":
            status, code, message = StepStatus.CANCELLED, "cancelled", "The step was cancelled."
        case "closed":
            return to_closed()
        case "output_limit":
            status, code = StepStatus.FAILED, "output_limit"
            message = (
                f"The code printed more than {running.log.limit} bytes and was stopped; "
                "write large output to a file."
            )
        case None:
            status, code = StepStatus.EXPIRED, "timeout"
            message = (
                f"The code ran longer than its limit of {running.step.timeout:g} s and was stopped."
            )
    error = StepError(code=code, message=f"{message} {rest}".strip())
    return End(status=status, error=error)
