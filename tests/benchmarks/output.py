"""How long much output takes, and whether all of it is in the saved text."""

from collections.abc import Awaitable, Callable
from time import perf_counter

from ci_tools import RunStep, SessionService, StepStatus, StreamOutput
from tests.benchmarks.measure import Row, interleave, to_row
from tests.benchmarks.ours import embedded_service, scratch_folder
from tests.benchmarks.raw import open_raw_kernel

MEGABYTES = 10

BIG_CODE = f"import sys\nfor _ in range(1000): sys.stdout.write('x' * {MEGABYTES * 1000})"
BIG_TEXT = "x" * (MEGABYTES * 1_000_000)

PRINTS_CODE = "for number in range(5000): print(number, flush=True)"
PRINTS_TEXT = "".join(f"{number}\n" for number in range(5000))

RAW_ATTEMPTS = 10
"""A busy raw client loses messages (ZMQ drops what exceeds 1,000 in a queue): it may try again."""


async def read_saved_text(service: SessionService, step: RunStep) -> str:
    """Return the whole text of a step as it is stored."""
    if step.full_text is None:
        return "".join(one.text for one in step.outputs if isinstance(one, StreamOutput))
    async with service.open_full_text(step.id) as chunks:
        return b"".join([chunk async for chunk in chunks]).decode()


async def measure_output(name: str, code: str, text: str, *, rounds: int) -> list[Row]:
    """Measure one piece of code, checking on both sides that its text came whole."""
    with scratch_folder() as folder, open_raw_kernel() as kernel:
        async with embedded_service(folder) as service:
            session = await service.create_session()

            async def run() -> float:
                started = perf_counter()
                step = await service.run_code(session.id, code)
                seconds = perf_counter() - started
                assert step.status is StepStatus.COMPLETED, step.error
                saved = await read_saved_text(service, step)
                assert saved == text, f"{len(saved)} of {len(text)} characters were saved"
                return seconds

            async def run_raw() -> float:
                for _ in range(RAW_ATTEMPTS):
                    started = perf_counter()
                    kernel.execute(code)
                    seconds = perf_counter() - started
                    if kernel.text == text:
                        return seconds
                raise RuntimeError("the raw client lost output each time")

            ours, raw = await interleave([run, run_raw], rounds=rounds)
    return [to_row(name, ours * 1e3, "ms", raw * 1e3)]


async def measure_big(name: str, *, rounds: int) -> list[Row]:
    """Measure 10 MB of stdout."""
    return await measure_output(name, BIG_CODE, BIG_TEXT, rounds=rounds)


async def measure_prints(name: str, *, rounds: int) -> list[Row]:
    """Measure 5,000 flushed prints."""
    return await measure_output(name, PRINTS_CODE, PRINTS_TEXT, rounds=rounds)


ROWS: dict[str, Callable[..., Awaitable[list[Row]]]] = {
    "stdout_10mb": measure_big,
    "stdout_5000_prints": measure_prints,
}
