"""The interpreter on the embedded server with real, sandboxed kernels."""

from collections.abc import AsyncIterator
from contextlib import aclosing

import anyio
import pytest

from ci_tools import Settings, open_service
from ci_tools_assistants.objects import Kind
from ci_tools_assistants.runs.interpreter import CodeDone, LogsDelta
from tests.adapters.assistants.desk import Desk, attach, logs_of, open_desk, run_cell

CSV = b"x,y\n" + b"".join(b"%d,%d\n" % (number, number * number) for number in range(100))


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def desk(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Desk]:
    settings = Settings(state_dir=tmp_path_factory.mktemp("state"), interrupt_grace=20)
    async with open_service(settings) as service, open_desk(service) as desk:
        yield desk


async def test_a_csv_goes_in_and_a_plot_and_a_file_come_out(desk: Desk) -> None:
    thread = await desk.add_thread(await desk.add_file("points.csv", CSV))
    code = """
import pandas as pd
import matplotlib.pyplot as plt
frame = pd.read_csv('/mnt/data/points.csv')
frame.plot(x='x', y='y')
plt.show()
frame.tail(2).to_csv('/mnt/data/last two.csv', index=False, lineterminator='\\r\\n')
frame.y.sum()
"""

    with anyio.fail_after(120):
        async with desk.open(thread) as workbench:
            done = await run_cell(workbench, code)
            text = "[Last](sandbox:/mnt/data/last%20two.csv)"
            [annotation] = workbench.annotate(text)

    kinds = [output["type"] for output in done.outputs]
    assert kinds == ["image", "logs"]
    assert "328350" in done.outputs[1]["logs"]
    image = done.outputs[0]["image"]["file_id"]
    assert (await desk.read_file(image)).startswith(b"\x89PNG")
    [made] = done.made_files
    assert made["filename"] == "last two.csv"
    assert annotation["file_path"]["file_id"] == made["id"]
    assert await desk.read_file(made["id"]) == b"x,y\r\n98,9604\r\n99,9801\r\n"


async def test_logs_come_while_the_cell_runs_and_leaving_interrupts_it(desk: Desk) -> None:
    thread = await desk.add_thread()
    code = "kept = 7\nprint('started')\nimport time\nwhile True: time.sleep(0.05)"

    with anyio.fail_after(120):
        async with desk.open(thread) as workbench:
            async with aclosing(workbench.run(code)) as events:
                assert await anext(events) == LogsDelta("started")
            done = await run_cell(workbench, "kept")

    assert logs_of(done) == "7"
    assert "restarted" not in done.tool_text


async def test_progress_bars_and_errors_are_what_a_terminal_shows(desk: Desk) -> None:
    thread = await desk.add_thread()
    code = """
import sys
for percent in range(0, 101, 10):
    print(f'\\r{percent}%', end='', file=sys.stderr, flush=True)
print(file=sys.stderr)
print('done')
{}['missing']
"""

    with anyio.fail_after(120):
        done = await desk.run(code, thread)

    logs = logs_of(done)
    assert logs.count("%") == 1
    assert "100%" in logs
    assert "done" in logs
    assert logs.rstrip().endswith("KeyError: 'missing'")
    assert "\x1b" not in logs


async def test_code_sees_exactly_the_files_that_are_for_it(desk: Desk) -> None:
    mine = await desk.add_assistant(await desk.add_file("mine.csv", b"1"))
    other = await desk.add_assistant(await desk.add_file("other.csv", b"2"))
    thread, foreign = await desk.add_thread(), await desk.add_thread()
    message, search = await desk.add_file("message.csv", b"3"), await desk.add_file("s.pdf", b"4")
    await desk.add_message(
        thread, [attach(message, "code_interpreter"), attach(search, "file_search")]
    )

    with anyio.fail_after(120):
        seen = [
            await desk.ls(thread, mine),
            await desk.ls(thread, other),
            await desk.ls(foreign, mine),
        ]
        await desk.run("_ = open('mine.csv', 'a').write('!')", thread, mine)
        seen.append(await desk.ls(thread, other))
        changed = await desk.run("open('mine.csv').read()", thread, mine)
        await desk.give(Kind.ASSISTANT, mine)
        await desk.give(Kind.THREAD, thread)
        hidden = await desk.ls(thread, mine)

    assert seen == [
        ["message.csv", "mine.csv"],
        ["message.csv", "other.csv"],
        ["mine.csv"],
        ["message.csv", "other.csv"],
    ]
    assert logs_of(changed) == "'1!'"
    assert hidden == ["message.csv"]  # a message's file stays attached


async def test_code_cannot_reach_another_threads_files_by_any_path(desk: Desk) -> None:
    secret = await desk.add_file("secret.csv", b"the secret of one thread")
    thread, other = await desk.add_thread(secret), await desk.add_thread()
    code = """
import os
found = []
for folder, _, names in os.walk('/'):
    if folder.startswith(('/proc', '/sys')):
        continue
    found += [os.path.join(folder, name) for name in names if name == 'secret.csv']
found
"""

    with anyio.fail_after(120):
        own = await desk.run("open('secret.csv').read()", thread)
        done = await desk.run(code, other)

    assert "secret of one" in logs_of(own)
    assert logs_of(done) == "[]"


async def test_a_kernel_killed_between_runs_loses_variables_only(desk: Desk) -> None:
    thread = await desk.add_thread(await desk.add_file("a.csv", b"1"))
    suicide = (
        "import os, signal, threading\nx = 1\n_ = open('made.txt', 'w').write('2')\n"
        "threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGKILL)).start()"
    )

    with anyio.fail_after(120):
        await desk.run(suicide, thread)
        session_id = await desk.session_of(thread)
        assert session_id is not None
        done = await desk.run("import time; time.sleep(1)\nprint('alive')", thread)
        again = await desk.run("open('a.csv').read(), open('made.txt').read()", thread)
        lost = await desk.run("x", thread)

    # It died before this cell or during it; neither is the end of the thread.
    assert "variables lost" in done.tool_text or "kernel_died" in done.tool_text
    assert logs_of(again) == "('1', '2')"
    assert "NameError" in logs_of(lost)
    assert await desk.session_of(thread) == session_id


async def test_a_kernel_killed_by_its_own_code_is_text_for_the_model(desk: Desk) -> None:
    thread = await desk.add_thread()

    with anyio.fail_after(120):
        done = await desk.run("print('going')\nimport os\nos.kill(os.getpid(), 9)", thread)
        again = await desk.run("1 + 1", thread)

    assert "kernel_died" in logs_of(done)
    assert logs_of(again) == "2"


async def test_an_expired_session_comes_back_with_its_files(desk: Desk) -> None:
    thread = await desk.add_thread(await desk.add_file("a.csv", b"1"))

    with anyio.fail_after(120):
        await desk.run("x = 1\n_ = open('made.csv', 'w').write('2')", thread)
        session_id = await desk.session_of(thread)
        assert session_id is not None
        await desk.service.close_session(session_id)
        done = await desk.run("open('a.csv').read(), open('made.csv').read()", thread)

    assert logs_of(done) == "('1', '2')"
    assert "The session of this thread had expired" in done.tool_text


async def test_two_runs_of_two_threads_go_on_together(desk: Desk) -> None:
    threads = [await desk.add_thread() for _ in range(2)]
    done: dict[int, CodeDone] = {}

    async def run(number: int) -> None:
        code = f"import matplotlib.pyplot as plt\nplt.plot([{number}])\nplt.show()\n{number}"
        done[number] = await desk.run(code, threads[number])

    with anyio.fail_after(120):
        async with anyio.create_task_group() as tasks:
            for number in range(2):
                tasks.start_soon(run, number)

    assert [done[number].outputs[-1]["logs"] for number in range(2)] == ["0", "1"]
    assert [output["type"] for output in done[0].outputs] == ["image", "logs"]
