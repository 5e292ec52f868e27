"""Sandboxed kernels start, restart, are interrupted and end as any others do."""

import signal
from pathlib import Path

import anyio
import pytest

from ci_tools_kernels.commands import CommandDone, CommandOutput, run_command
from ci_tools_kernels.inside import kernel
from ci_tools_kernels.inside.template import _Template
from tests.kernels_sandbox.rig import START_TIMEOUT, Session, open_session


async def test_two_kernels_do_not_share_random_numbers(kernelspecs: Path, tmp_path: Path) -> None:
    code = "import random, numpy\nprint(random.random(), numpy.random.random())"
    async with (
        open_session(kernelspecs, tmp_path / "a") as first,
        open_session(kernelspecs, tmp_path / "b") as second,
    ):
        texts = [(await session.run(code)).text.split() for session in (first, second)]

    assert texts[0][0] != texts[1][0]
    assert texts[0][1] != texts[1][1]


async def test_a_kernel_has_the_blas_threads_that_its_template_did_without(
    session: Session,
) -> None:
    code = (
        "import ctypes, numpy, os\n"
        "paths = {line.split()[-1] for line in open('/proc/self/maps') if 'openblas' in line}\n"
        "names = ['scipy_openblas_get_num_threads64_', 'openblas_get_num_threads']\n"
        "for library in map(ctypes.CDLL, paths):\n"
        "    for name in names:\n"
        "        if hasattr(library, name):\n"
        "            print(getattr(library, name)() == int(os.environ['OPENBLAS_NUM_THREADS']))\n"
    )

    result = await session.run(code)

    assert set(result.text.split()) == {"True"}, result


async def test_what_the_template_made_belongs_to_the_kernel(session: Session) -> None:
    code = (
        "import os, sys, uuid\n"
        "shell = get_ipython()\n"
        "print(shell.kernel.shell is shell, shell.parent is shell.kernel)\n"
        "print(shell.config == shell.kernel.config, os.path.isdir(shell.profile_dir.location))\n"
        "print(os.environ['PAGER'], shell.user_module is sys.modules['__main__'])\n"
        "print(uuid.__file__ in shell.kernel.debugger.kernel_modules)\n"
    )

    result = await session.run(code)

    assert result.text.split() == ["True", "True", "True", "True", "cat", "True", "True"], result


def test_a_template_does_without_what_it_cannot_make(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with another release of ipykernel."""
    template = object.__new__(_Template)
    did: list[str] = []

    def make_ready() -> None:
        did.append("make")
        raise TypeError("another release")

    def rehearse() -> list[str]:
        did.append("rehearse")
        return []

    monkeypatch.setattr(kernel, "make_ready", make_ready)
    monkeypatch.setattr(kernel, "forget_ready", lambda: did.append("forget"))
    monkeypatch.setattr(kernel, "remember_modules", lambda: did.append("remember"))
    monkeypatch.setattr(template, "_rehearse", rehearse)

    template._make_ready()

    assert did == ["make", "forget", "rehearse", "remember"]


async def test_interrupt_ends_the_code_and_keeps_the_variables(session: Session) -> None:
    await session.run("x = 1")
    wrote = anyio.Event()
    async with anyio.create_task_group() as group:

        async def interrupt() -> None:
            await wrote.wait()
            await session.manager.interrupt_kernel()

        group.start_soon(interrupt)
        code = "import time\nprint('now', flush=True)\ntime.sleep(60)"
        result = await session.run(code, wrote=wrote)

    after = await session.run("x")
    assert "KeyboardInterrupt" in result.error
    assert after.data[0]["text/plain"] == "1"


async def test_restart_gives_a_new_kernel_with_the_same_files(session: Session) -> None:
    await session.run("x = 1\nopen('kept.txt', 'w').write('kept')")
    await session.manager.restart_kernel(now=True)
    await session.client.wait_for_ready(timeout=START_TIMEOUT)

    result = await session.run("print('x' in globals(), open('kept.txt').read())")

    assert result.text == "False kept\n"


async def test_kernel_that_ends_itself_has_its_exit_status(session: Session) -> None:
    session.client.execute("import os\nos._exit(7)")
    with anyio.fail_after(10):
        status = await session.provisioner.wait()

    assert status == 7


async def test_killed_kernel_takes_its_processes_along(session: Session) -> None:
    await session.run("import subprocess\nsubprocess.Popen(['sleep', '600'])")
    session.client.execute("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    with anyio.fail_after(10):
        status = await session.provisioner.wait()

    assert status == 128 + signal.SIGKILL


async def run(session: Session, command: str, **options: object) -> tuple[str, str, CommandDone]:
    """Run a command in the session's sandbox; return what it wrote, and its end."""
    provisioner = session.provisioner
    written = {"stdout": "", "stderr": ""}
    async with run_command(
        session.sandbox,
        ["/bin/sh", "-c", command],
        env=provisioner.command_environment(),
        **options,  # type: ignore[arg-type]
    ) as events:
        async for event in events:
            if isinstance(event, CommandOutput):
                written[event.stream] += event.text
            else:
                done = event
    return written["stdout"], written["stderr"], done


async def test_command_runs_beside_a_busy_kernel(session: Session) -> None:
    await session.run("open('a.txt', 'w').write('hello')")
    session.client.execute("import time\ntime.sleep(600)")

    out, err, done = await run(session, "cat a.txt; id -u; echo no >&2; exit 3")

    assert (out, err) == ("hello1000\n", "no\n")
    assert done == CommandDone(exit_status=3, timed_out=False, truncated=False)


async def test_command_reads_its_input(session: Session) -> None:
    out, _, _ = await run(session, "wc -c", input=b"x" * 100_000)

    assert out.strip() == "100000"


async def test_command_past_its_time_is_ended(session: Session) -> None:
    out, _, done = await run(session, "echo first; sleep 600", timeout=0.5)

    assert out == "first\n"
    assert done == CommandDone(exit_status=-9, timed_out=True, truncated=False)


async def test_output_past_the_limit_is_dropped(session: Session) -> None:
    out, _, done = await run(session, "head -c 300000 /dev/zero | tr '\\0' x", output_limit=1000)

    assert out == "x" * 1000
    assert done == CommandDone(exit_status=0, timed_out=False, truncated=True)


async def test_command_is_as_confined_as_the_kernel(session: Session) -> None:
    out, _, _ = await run(session, "grep -E 'CapEff|Seccomp:|NoNewPrivs' /proc/self/status; ls /")

    assert "CapEff:\t0000000000000000" in out
    assert "Seccomp:\t2" in out
    assert "NoNewPrivs:\t1" in out
    assert "sys" not in out.split()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os\nos._exit(3)", "status 3"),
        ("import os\nos.kill(os.getpid(), 9)", "SIGKILL"),
        ("import os\nos.abort()", "SIGABRT"),
    ],
)
async def test_kernel_that_ended_by_itself_says_how(session: Session, code: str, said: str) -> None:
    session.client.execute(code)
    with anyio.fail_after(20):
        await session.provisioner.wait()

    assert said in str(session.provisioner.last_excess)


async def test_kernel_that_was_ended_says_nothing(session: Session) -> None:
    await session.provisioner.kill()
    with anyio.fail_after(20):
        await session.provisioner.wait()

    assert session.provisioner.last_excess is None
