from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ci_tools import StepEvent, StoreError
from ci_tools_mcp.progress import wait_for_step


async def test_error_while_a_step_is_watched_comes_out_as_it_is() -> None:
    @asynccontextmanager
    async def watch(step_id: str) -> AsyncIterator[AsyncIterator[StepEvent]]:
        async def events() -> AsyncIterator[StepEvent]:
            raise StoreError("The record store failed.")
            yield

        yield events()

    async def report(*_: Any) -> None:
        pass

    context = SimpleNamespace(
        request_context=SimpleNamespace(meta={"progress_token": 1}), report_progress=report
    )
    service = SimpleNamespace(watch_run_step=watch)

    with pytest.raises(StoreError):
        await wait_for_step(
            cast("Any", context), cast("Any", service), "step_1", seconds=5, is_owner=True
        )
