"""The whole service on its embedded Jupyter Server: code that behaves badly, and comforts."""

import base64
import sys
from pathlib import Path

import anyio
import pytest

from ci_tools import (
    DisplayOutput,
    ErrorOutput,
    InvalidArgumentError,
    SessionService,
    Settings,
    StepOutput,
    StepStatus,
    StreamOutput,
    open_service,
    render_step,
)


async def test_plot_arrives_once_as_an_image(embedded: SessionService) -> None:
    session = await embedded.create_session()

    step = await embedded.run_code(
        session.id,
        "import matplotlib.pyplot as plt\nplt.plot([1, 2, 3])\nplt.title('/mnt/data')\nplt.show()",
        timeout=120,
    )

    images = [
        output
        for output in step.outputs
        if isinstance(output, DisplayOutput) and "image/png" in output.data
    ]
    assert len(images) == 1
    data = images[0].data["image/png"]
    assert isinstance(data, str)
    assert base64.b64decode(data).startswith(b"\x89PNG")


async def test_ten_megabytes_and_thousands_of_flushed_prints_arrive_whole(
    embedded: SessionService,
) -> None:
    session = await embedded.create_session()

    big = await embedded.run_code(session.id, "print('x' * 10_000_000)")
    many = await embedded.run_code(session.id, "for i in range(5000): print(i, flush=True)")
    async with embedded.open_full_text(big.id) as chunks:
        size = sum([len(chunk) async for chunk in chunks])

    assert size == 10_000_001
    assert big.truncated
    assert many.outputs == (
        StreamOutput(name="stdout", text="".join(f"{number}\n" for number in range(5000))),
    )


async def test_halves_of_characters_hide_no_other_output(embedded: SessionService) -> None:
    session = await embedded.create_session()

    step = await embedded.run_code(session.id, "print('on', '\\ud800', 'off')")

    assert step.outputs == (StreamOutput(name="stdout", text="on ? off\n"),)


async def test_input_fails_at_once_and_says_why(embedded: SessionService) -> None:
    session = await embedded.create_session()

    with anyio.fail_after(30):
        step = await embedded.run_code(session.id, "input('name? ')")

    assert step.status is StepStatus.FAILED
    assert isinstance(step.outputs[-1], ErrorOutput)
    assert step.outputs[-1].name == "StdinNotImplementedError"


async def test_child_that_holds_stdout_open_does_not_hold_the_step(
    embedded: SessionService,
) -> None:
    session = await embedded.create_session()

    with anyio.fail_after(30):
        step = await embedded.run_code(
            session.id,
            "import subprocess\nchild = subprocess.Popen(['sleep', '100'])\nprint('on')",
        )
        after = await embedded.run_code(session.id, "child.kill(); child.wait()")

    assert step.outputs == (StreamOutput(name="stdout", text="on\n"),)
    assert after.status is StepStatus.COMPLETED


@pytest.mark.skipif(sys.platform == "win32", reason="address space limits are POSIX's")
async def test_code_that_fills_its_memory_fails_and_the_session_goes_on(
    embedded: SessionService,
) -> None:
    session = await embedded.create_session()
    limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))"
    await embedded.run_code(session.id, limit)

    with anyio.fail_after(60):
        step = await embedded.run_code(session.id, "x = bytearray(64 << 30)")
        after = await embedded.run_code(session.id, "1")

    assert step.error is not None
    assert step.error.message.startswith("MemoryError")
    assert after.status is StepStatus.COMPLETED


@pytest.mark.parametrize(
    "code",
    [
        "while True: print('x' * 1_000_000)",
        "print('x' * 200_000_000)",
        "while True: display('x' * 1_000_000)",
    ],
    ids=["long lines", "one line", "displays"],
)
async def test_code_that_prints_faster_than_anybody_reads_is_stopped_at_the_limit(
    embedded: SessionService, code: str
) -> None:
    session = await embedded.create_session()
    await embedded.run_code(session.id, "kept = 1")

    with anyio.fail_after(120):
        step = await embedded.run_code(session.id, code)
        after = await embedded.run_code(session.id, "kept")

    assert step.error is not None
    assert step.error.code == "output_limit"
    assert (after.status, after.epoch) == (StepStatus.COMPLETED, 1)


@pytest.mark.skipif(sys.platform == "win32", reason="address space limits are POSIX's")
async def test_code_without_a_sandbox_cannot_fill_memory_by_printing(tmp_path: Path) -> None:
    async with open_service(Settings(state_dir=tmp_path, isolation="none")) as service:
        session = await service.create_session()
        limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))"
        await service.run_code(session.id, limit)

        with anyio.fail_after(120):
            step = await service.run_code(session.id, "while True: print('x' * 1_000_000)")
            after = await service.run_code(session.id, "1")

    assert step.error is not None
    assert step.error.code == "output_limit"
    assert (after.status, after.epoch) == (StepStatus.COMPLETED, 1)


async def test_output_beyond_what_may_be_sent_freely_is_slowed_down(tmp_path: Path) -> None:
    async with open_service(Settings(state_dir=tmp_path, isolation="none")) as service:
        session = await service.create_session()
        await service.run_code(
            session.id,
            "import types, _ci_tools_output as output\n"
            "naps = []\n"
            "output.time = types.SimpleNamespace(sleep=naps.append)\n"
            "output.FREE = 7 * output.PIECE // 2",
        )

        await service.run_code(session.id, "for _ in range(8): print('x' * output.PIECE)")
        text = await service.run_code(session.id, "naps == [output.PAUSE] * len(naps), len(naps)")
        shown = await service.run_code(
            session.id,
            "naps.clear()\ndisplay({'text/plain': 'x' * 4 * output.PIECE}, raw=True)\n"
            "display(1)\nlen(naps)",
        )

    assert isinstance(text.outputs[0], DisplayOutput)
    assert text.outputs[0].data == {"text/plain": "(True, 5)"}
    assert isinstance(shown.outputs[-1], DisplayOutput)
    assert shown.outputs[-1].data == {"text/plain": "1"}


async def test_kernel_that_kills_itself_is_replaced_and_its_neighbour_is_not(
    embedded: SessionService,
) -> None:
    session, neighbour = await embedded.create_session(), await embedded.create_session()
    await embedded.run_code(neighbour.id, "x = 1")

    with anyio.fail_after(60):
        died = await embedded.run_code(
            session.id, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
        )
        after = await embedded.run_code(session.id, "2")
    beside = await embedded.run_code(neighbour.id, "x")

    assert died.error is not None
    assert died.error.code == "kernel_died"
    assert died.error.message.lower().count("variables are lost") == 1
    assert (after.status, after.epoch) == (StepStatus.COMPLETED, 2)
    assert "variables lost, files kept" in after.notices[0]
    assert (beside.status, beside.epoch) == (StepStatus.COMPLETED, 1)


async def test_progress_bar_is_one_line_for_a_model(embedded: SessionService) -> None:
    session = await embedded.create_session()

    step = await embedded.run_code(
        session.id, "for i in range(101): print(f'\\r{i}%', end='', flush=True)\nprint()"
    )

    text = render_step(step).text
    assert "100%" in text
    assert "50%" not in text


async def test_interrupt_keeps_variables_and_the_next_step_is_not_eaten(
    embedded: SessionService,
) -> None:
    session = await embedded.create_session()
    await embedded.run_code(session.id, "n = 0")

    for _ in range(5):
        with anyio.fail_after(30):
            async with embedded.stream_code(
                session.id, "n += 1\nprint('on', flush=True)\nwhile True: n += 1"
            ) as events:
                async for event in events:
                    if isinstance(event, StepOutput):
                        break
            step = await embedded.run_code(session.id, "n > 0")
        assert step.outputs[0] == DisplayOutput(
            kind="result", data={"text/plain": "True"}, execution_count=step.execution_count
        )


async def test_closing_the_service_leaves_no_kernel(tmp_path: Path) -> None:
    import psutil

    before = set(psutil.Process().children())
    async with open_service(Settings(state_dir=tmp_path)) as service:
        session = await service.create_session()
        await service.run_code(session.id, "1")
        (server,) = set(psutil.Process().children()) - before
        started = [server, *server.children(recursive=True)]

    assert len(started) > 1
    assert not [process for process in started if process.is_running()]


async def test_two_processes_share_one_live_session(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path)
    async with open_service(settings) as one, open_service(settings) as other:
        session = await one.create_session()
        await one.run_code(session.id, "x = 1")

        step = await other.run_code(session.id, "x += 1; x")
        back = await one.run_code(session.id, "x")

    assert (step.epoch, back.epoch) == (1, 1)
    assert isinstance(back.outputs[0], DisplayOutput)
    assert back.outputs[0].data == {"text/plain": "2"}


@pytest.mark.skipif(sys.platform != "linux", reason="sandboxes need Linux")
async def test_sandboxed_session_says_so_and_keeps_the_operators_secrets(tmp_path: Path) -> None:
    settings = Settings.model_validate(
        {
            "state_dir": tmp_path,
            "isolation": "auto",
            "kernel_environment": {"API_KEY": "tell nobody"},
            "kernel_preload": (),
        }
    )
    async with open_service(settings) as service:
        with pytest.raises(InvalidArgumentError, match="CI_TOOLS_ISOLATION=none"):
            await service.create_session(kernelspec="bash")
        session = await service.create_session()
        step = await service.run_code(
            session.id, "import os\nkey = os.environ['API_KEY']\nprint(len(key), key)\nkey"
        )
        started = await service.get_session(session.id)
        stored = await service.get_run_step(step.id)

    assert (session.isolation, started.isolation) in (
        ("auto", "namespaces"),
        ("auto", "bubblewrap"),
    )
    assert stored.outputs == (
        StreamOutput(name="stdout", text="11 ***\n"),
        DisplayOutput(kind="result", data={"text/plain": "'***'"}, execution_count=1),
    )


async def test_session_without_a_sandbox_says_so(tmp_path: Path) -> None:
    async with open_service(Settings(state_dir=tmp_path, isolation="none")) as service:
        session = await service.create_session()
        step = await service.run_code(session.id, "import os\nopen('/mnt/data/f', 'w').close()")
        started = await service.get_session(session.id)

    assert (session.isolation, started.isolation) == ("none", "none")
    assert [file.path for file in step.files] == ["f"]
