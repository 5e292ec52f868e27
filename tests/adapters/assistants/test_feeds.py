import anyio

from ci_tools_assistants.runs.events import Event
from ci_tools_assistants.runs.feeds import Feed


def event(number: int) -> Event:
    return Event(f"thread.{number}", {})


async def test_every_reader_gets_everything_from_its_start_on() -> None:
    feed = Feed()
    first = feed.subscribe()
    feed.publish([event(1)])
    second = feed.subscribe()
    feed.publish([event(2), event(3)])
    feed.close()

    assert await first.read(patience=1) == [event(1), event(2), event(3)]
    assert await first.read(patience=1) is None
    assert await second.read(patience=1) == [event(2), event(3)]
    assert await second.read(patience=1) is None


async def test_a_slow_reader_holds_nobody_up() -> None:
    feed = Feed()
    slow = feed.subscribe()

    for number in range(10_000):
        feed.publish([event(number)])
    feed.close()

    assert await slow.read(patience=1) == [event(number) for number in range(10_000)]


async def test_a_reader_that_waits_gets_an_event_at_once() -> None:
    feed = Feed()
    reader = feed.subscribe()
    found: list[Event] = []

    async def read() -> None:
        found.extend(await reader.read(patience=60) or ())

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            feed.publish([event(1)])

    assert found == [event(1)]


async def test_patience_that_runs_out_loses_nothing() -> None:
    feed = Feed()
    reader = feed.subscribe()

    assert await reader.read(patience=0) == []
    feed.publish([event(1)])

    assert await reader.read(patience=0) == [event(1)]


async def test_who_comes_after_the_end_reads_nothing() -> None:
    feed = Feed()
    feed.close()

    assert await feed.subscribe().read(patience=1) is None


async def test_a_reader_that_is_closed_is_forgotten() -> None:
    feed = Feed()

    with feed.subscribe() as reader:
        pass
    feed.publish([event(1)])

    assert await reader.read(patience=0) == []
