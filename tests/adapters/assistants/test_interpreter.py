from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import anyio
import pytest

from ci_tools import Settings, open_service
from ci_tools.testing import FakeBackend
from ci_tools_assistants.files.staging import Bench
from ci_tools_assistants.objects import Kind, Object
from ci_tools_assistants.runs.interpreter import LogsDelta
from tests.adapters.assistants.desk import (
    SHOW_PIXEL,
    Desk,
    attach,
    logs_of,
    open_desk,
    run_cell,
)

FOREVER = "y = 5\nprint('started', flush=True)\nimport time\nwhile True: time.sleep(0.01)"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def backend(tmp_path: Path) -> FakeBackend:
    return FakeBackend(tmp_path / "folders")


@pytest.fixture
async def desk(tmp_path: Path, backend: FakeBackend) -> AsyncIterator[Desk]:
    settings = Settings(state_dir=tmp_path / "state", interrupt_grace=1)
    async with open_service(settings, backend=backend) as service, open_desk(service) as desk:
        yield desk


async def test_no_session_is_made_before_code_runs(desk: Desk) -> None:
    thread = await desk.add_thread()

    async with desk.open(thread) as workbench:
        assert "/mnt/data" in workbench.describe()
        assert await desk.session_of(thread) is None
        done = await run_cell(workbench, "2 + 2")

    assert logs_of(done) == "4"
    assert done.tool_text == "4"
    assert await desk.session_of(thread) is not None


async def test_variables_are_kept_across_runs_and_cells(desk: Desk) -> None:
    thread = await desk.add_thread()

    await desk.run("x = 41", thread)
    async with desk.open(thread) as workbench:
        await run_cell(workbench, "x += 1")
        done = await run_cell(workbench, "x")

    assert logs_of(done) == "42"
    assert len(await desk.service.list_sessions()) == 1


async def test_two_threads_have_two_sessions(desk: Desk) -> None:
    first, second = await desk.add_thread(), await desk.add_thread()

    await desk.run("x = 1", first)
    done = await desk.run("x", second)

    assert "NameError" in logs_of(done)


async def test_an_error_is_text_for_the_model(desk: Desk) -> None:
    thread = await desk.add_thread()

    done = await desk.run("print('before')\n1 / 0", thread)

    assert logs_of(done).startswith("before\nTraceback")
    assert logs_of(done).endswith("ZeroDivisionError: division by zero")
    assert "ZeroDivisionError" in done.tool_text


async def test_an_image_is_a_file_in_its_place(desk: Desk) -> None:
    thread = await desk.add_thread()

    done = await desk.run(f"print('one')\n{SHOW_PIXEL}\nprint('two')", thread)

    assert [output["type"] for output in done.outputs] == ["logs", "image", "logs"]
    file_id = done.outputs[1]["image"]["file_id"]
    file = await desk.records.get(Kind.FILE, file_id, principal="ada")
    assert file["purpose"] == "assistants_output"
    assert file["filename"].endswith(".png")
    assert (await desk.read_file(file_id)).startswith(b"\x89PNG")
    assert [media_type for media_type, _ in done.tool_images] == ["image/png"]
    assert done.made_files == []


async def test_what_code_makes_can_be_downloaded_and_linked(desk: Desk) -> None:
    thread = await desk.add_thread()
    code = "open('größe 1.csv', 'w').write('a,b'); open('.hidden', 'w').write('x')"

    async with desk.open(thread) as workbench:
        done = await run_cell(workbench, code + "\nNone")
        text = "See [it](sandbox:/mnt/data/größe%201.csv) or sandbox:/mnt/data/.hidden."
        [annotation] = workbench.annotate(text)

    [made] = done.made_files
    assert (made["filename"], made["purpose"], made["bytes"]) == (
        "größe 1.csv",
        "assistants_output",
        3,
    )
    assert await desk.read_file(made["id"]) == b"a,b"
    assert annotation["file_path"] == {"file_id": made["id"]}
    assert text[annotation["start_index"] : annotation["end_index"]] == annotation["text"]


async def test_a_changed_output_is_another_file_and_the_first_stays(desk: Desk) -> None:
    thread = await desk.add_thread()

    [first] = (await desk.run("_ = open('a.txt', 'w').write('1')", thread)).made_files
    [second] = (await desk.run("_ = open('a.txt', 'w').write('22')", thread)).made_files
    same = (await desk.run("_ = open('a.txt', 'w').write('22')", thread)).made_files

    assert first["id"] != second["id"]
    assert same == []
    assert await desk.read_file(first["id"]) == b"1"
    assert await desk.read_file(second["id"]) == b"22"
    async with desk.open(thread) as workbench:
        [annotation] = workbench.annotate("sandbox:/mnt/data/a.txt")
    assert annotation["file_path"]["file_id"] == second["id"]


async def test_what_code_deleted_is_not_linked(desk: Desk) -> None:
    given = await desk.add_file("given.csv", b"1")
    thread = await desk.add_thread(given)

    async with desk.open(thread) as workbench:
        await run_cell(workbench, "_ = open('made.csv', 'w').write('1')")
        text = "sandbox:/mnt/data/made.csv sandbox:/mnt/data/given.csv"
        before = [item["file_path"]["file_id"] for item in workbench.annotate(text)]
        await run_cell(workbench, "import os\nos.remove('made.csv'); os.remove('given.csv')")
        after = workbench.annotate(text)
        await run_cell(workbench, "1")

    assert before[1] == given["id"]
    assert after == []
    assert await desk.ls(thread) == []


# Who sees which file


async def test_files_of_the_thread_are_there_by_their_names(desk: Desk) -> None:
    thread = await desk.add_thread(await desk.add_file("data.csv", b"1"))

    done = await desk.run("open('/mnt/data/data.csv').read()", thread)

    assert logs_of(done) == "'1'"


async def test_a_file_that_is_attached_later_is_there_in_the_next_cell(desk: Desk) -> None:
    thread = await desk.add_thread()

    async with desk.open(thread) as workbench:
        await run_cell(workbench, "1")
        file = await desk.add_file("late.csv", b"late")
        await desk.give(Kind.THREAD, thread, file)
        done = await run_cell(workbench, "open('late.csv').read()")

    assert logs_of(done) == "'late'"
    assert "/mnt/data/late.csv (new; from the user)" in done.tool_text


async def test_a_messages_file_is_seen_in_its_thread_only(desk: Desk) -> None:
    first, second = await desk.add_thread(), await desk.add_thread()
    file = await desk.add_file("secret.csv", b"1")
    await desk.add_message(first, [attach(file, "code_interpreter")])

    assert await desk.ls(first) == ["secret.csv"]
    assert await desk.ls(second) == []


async def test_a_file_for_file_search_is_not_seen_by_code(desk: Desk) -> None:
    thread = await desk.add_thread()
    searched, both = await desk.add_file("a.pdf", b"1"), await desk.add_file("b.pdf", b"2")
    await desk.add_message(
        thread, [attach(searched, "file_search"), attach(both, "file_search", "code_interpreter")]
    )

    assert await desk.ls(thread) == ["b.pdf"]


async def test_an_assistants_file_is_seen_in_its_own_runs_only(desk: Desk) -> None:
    mine = await desk.add_assistant(await desk.add_file("mine.csv", b"1"))
    other = await desk.add_assistant(await desk.add_file("other.csv", b"2"))
    thread = await desk.add_thread(await desk.add_file("shared.csv", b"3"))

    assert await desk.ls(thread, mine) == ["mine.csv", "shared.csv"]
    assert await desk.ls(thread, other) == ["other.csv", "shared.csv"]
    assert await desk.ls(thread) == ["shared.csv"]
    assert await desk.ls(thread, mine) == ["mine.csv", "shared.csv"]


async def test_a_changed_copy_of_an_assistants_file_comes_back_with_the_assistant(
    desk: Desk,
) -> None:
    original = await desk.add_file("notes.txt", b"original")
    mine, other = await desk.add_assistant(original), await desk.add_assistant()
    thread = await desk.add_thread()

    await desk.run("_ = open('notes.txt', 'a').write(' and more')", thread, mine)
    assert await desk.ls(thread, other) == []
    async with desk.open(thread, other) as workbench:
        assert workbench.annotate("sandbox:/mnt/data/notes.txt") == []
        assert "notes.txt" not in workbench.describe()
    done = await desk.run("open('notes.txt').read()", thread, mine)

    assert logs_of(done) == "'original and more'"
    assert await desk.read_file(original["id"]) == b"original"


@pytest.mark.parametrize("is_there", [True, False])
async def test_what_was_cut_off_while_files_moved_is_done_again(desk: Desk, is_there: bool) -> None:
    file = await desk.add_file("mine.csv", b"1")
    mine, other = await desk.add_assistant(file), await desk.add_assistant()
    thread = await desk.add_thread()
    await desk.ls(thread, mine)
    if not is_there:
        await desk.run("import os\nos.remove('mine.csv')", thread, mine)

    def cut_off(private: Object) -> Object:
        bench = Bench.from_object(private["interpreter"])
        bench.staged[file["id"]].pending = True
        return {**private, "interpreter": bench.to_object()}

    await desk.records.change_private(Kind.THREAD, thread["id"], cut_off, principal="ada")
    again = await desk.ls(thread, mine)
    await desk.records.change_private(Kind.THREAD, thread["id"], cut_off, principal="ada")
    hidden = await desk.ls(thread, other)

    assert again == ["mine.csv"]
    assert hidden == []


async def test_a_file_of_thread_and_assistant_stays_with_the_thread(desk: Desk) -> None:
    file = await desk.add_file("both.csv", b"1")
    mine, other = await desk.add_assistant(file), await desk.add_assistant()
    thread = await desk.add_thread(file)

    assert await desk.ls(thread, mine) == ["both.csv"]
    assert await desk.ls(thread, other) == ["both.csv"]


async def test_a_detached_file_goes_and_a_changed_copy_stays(desk: Desk) -> None:
    plain, changed = await desk.add_file("a.csv", b"1"), await desk.add_file("b.csv", b"2")
    thread = await desk.add_thread(plain, changed)
    await desk.run("_ = open('b.csv', 'a').write('!')", thread)

    await desk.give(Kind.THREAD, thread)

    assert await desk.ls(thread) == ["b.csv"]


async def test_files_of_one_name_get_names_of_their_own(desk: Desk) -> None:
    first, second = await desk.add_file("a.csv", b"1"), await desk.add_file("A.csv", b"2")
    assistant = await desk.add_assistant(await desk.add_file("a.csv", b"3"))
    thread = await desk.add_thread(first, second)

    async with desk.open(thread, assistant) as workbench:
        told = workbench.describe()
        code = "[open(name).read() for name in ('a.csv', 'A_2.csv', 'a_3.csv')]"
        done = await run_cell(workbench, code)

    assert logs_of(done) == "['1', '2', '3']"
    assert "/mnt/data/A_2.csv (new; from the user; uploaded as 'A.csv')" in told
    assert "/mnt/data/a_3.csv (new; of the assistant; uploaded as 'a.csv')" in told
    assert "Note" not in done.tool_text


async def test_a_file_that_code_made_can_be_given_back_to_it(desk: Desk) -> None:
    first, second = await desk.add_thread(), await desk.add_thread()
    [made] = (await desk.run("_ = open('made.csv', 'w').write('1')", first)).made_files
    await desk.add_message(first, [attach(made, "code_interpreter")])
    await desk.add_message(second, [attach(made, "code_interpreter")])

    assert await desk.ls(first) == ["made.csv"]
    assert await desk.ls(second) == ["made.csv"]


async def test_a_file_does_not_replace_one_that_code_made(desk: Desk) -> None:
    thread = await desk.add_thread()
    await desk.run("_ = open('a.csv', 'w').write('made')", thread)
    await desk.give(Kind.THREAD, thread, await desk.add_file("a.csv", b"given"))

    done = await desk.run("open('a.csv').read(), open('a_2.csv').read()", thread)

    assert logs_of(done) == "('made', 'given')"


@pytest.mark.parametrize(
    ("filename", "name"),
    [("../../etc/passwd", "passwd"), ("a\\b.csv", "b.csv"), ("x\ny.csv", "x_y.csv"), ("..", None)],
)
async def test_no_name_leads_out_of_the_folder(desk: Desk, filename: str, name: str | None) -> None:
    file = await desk.add_file(filename, b"1")
    thread = await desk.add_thread(file)

    assert await desk.ls(thread) == [name or file["id"]]


async def test_a_deleted_file_is_not_seen(desk: Desk) -> None:
    file = await desk.add_file("a.csv", b"1")
    thread = await desk.add_thread(file)
    await desk.run("1", thread)

    await desk.service.uploads.delete(file["id"])
    await desk.records.delete(Kind.FILE, file["id"], principal="ada")

    assert await desk.ls(thread) == []


async def test_the_model_is_told_which_files_are_new(desk: Desk) -> None:
    first = await desk.add_file("first.csv", b"1")
    thread = await desk.add_thread(first)
    await desk.run("_ = open('made.txt', 'w').write('1')", thread)
    second = await desk.add_file("second.txt", "grüße".encode("latin-1"))
    await desk.give(Kind.THREAD, thread, first, second)

    async with desk.open(thread) as workbench:
        told = workbench.describe()

    assert told.splitlines()[-3:] == [
        "- /mnt/data/first.csv (from the user)",
        "- /mnt/data/second.txt (new; from the user; "
        "text that is neither UTF-8 nor UTF-16, so name its encoding, for example cp1252)",
        "- /mnt/data/made.txt (made or changed by code)",
    ]
    done = await desk.run("open('second.txt', 'rb').read()", thread)
    assert logs_of(done) == repr("grüße".encode("latin-1"))


# When things go wrong


async def test_a_killed_kernel_loses_variables_only(desk: Desk, backend: FakeBackend) -> None:
    thread = await desk.add_thread(await desk.add_file("a.csv", b"1"))
    await desk.run("x = 1", thread)
    session_id = await desk.session_of(thread)
    assert session_id is not None
    session = await desk.service.get_session(session_id)
    assert session.kernel is not None
    backend.kill_kernel(session.kernel)

    done = await desk.run("import os\nprint(os.listdir('.'))", thread)

    assert logs_of(done) == "['a.csv']"
    assert "variables lost" in done.tool_text
    assert await desk.session_of(thread) == session_id


async def test_an_expired_session_is_replaced_with_its_files(desk: Desk) -> None:
    thread = await desk.add_thread(await desk.add_file("a.csv", b"1"))
    await desk.run("x = 1\n_ = open('made.csv', 'w').write('2')", thread)
    session_id = await desk.session_of(thread)
    assert session_id is not None
    await desk.service.close_session(session_id)

    done = await desk.run("open('a.csv').read(), open('made.csv').read()", thread)
    lost = await desk.run("x", thread)

    assert logs_of(done) == "('1', '2')"
    assert "The session of this thread had expired" in done.tool_text
    assert done.made_files == []
    assert "NameError" in logs_of(lost)
    assert await desk.session_of(thread) != session_id


async def test_a_kernel_that_cannot_start_is_text_for_the_model(
    desk: Desk, backend: FakeBackend
) -> None:
    thread = await desk.add_thread()
    backend.unavailable = True

    done = await desk.run("1", thread)
    backend.unavailable = False
    again = await desk.run("1", thread)

    assert "The fake server is away." in logs_of(done)
    assert logs_of(again) == "1"


async def test_leaving_a_cell_interrupts_the_code(desk: Desk) -> None:
    thread = await desk.add_thread()
    code = "print('started', flush=True)\nimport time\nwhile True: time.sleep(0.01)"

    with anyio.fail_after(20):
        async with desk.open(thread) as workbench:
            events = workbench.run(f"y = 5\nopen('made.csv', 'w').write('1')\n{code}")
            assert await anext(events) == LogsDelta("started")
            await events.aclose()
            annotations = workbench.annotate("sandbox:/mnt/data/made.csv")
        done = await desk.run("y", thread)

    assert logs_of(done) == "5"
    assert len(annotations) == 1


async def test_a_cancelled_task_interrupts_the_code(desk: Desk) -> None:
    thread = await desk.add_thread()
    started = anyio.Event()

    async def run() -> None:
        async with desk.open(thread) as workbench, aclosing(workbench.run(FOREVER)) as events:
            async for _ in events:
                started.set()

    with anyio.fail_after(20):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await started.wait()
            tasks.cancel_scope.cancel()
        done = await desk.run("y", thread)

    assert logs_of(done) == "5"


async def test_code_waits_while_its_principal_runs_all_it_may(
    tmp_path: Path, backend: FakeBackend
) -> None:
    settings = Settings(state_dir=tmp_path / "state", steps_per_principal=2)
    done: list[str] = []
    async with open_service(settings, backend=backend) as service, open_desk(service) as desk:

        async def run(number: int) -> None:
            thread = await desk.add_thread()
            done.append(logs_of(await desk.run(f"{number}", thread)))

        with anyio.fail_after(60):
            async with anyio.create_task_group() as tasks:
                for number in range(8):
                    tasks.start_soon(run, number)

    assert sorted(done) == [f"{number}" for number in range(8)]


async def test_what_does_not_fit_into_the_principals_room_is_said(
    tmp_path: Path, backend: FakeBackend
) -> None:
    settings = Settings(state_dir=tmp_path / "state", bytes_per_principal=1000)
    async with open_service(settings, backend=backend) as service, open_desk(service) as desk:
        thread = await desk.add_thread()
        code = f"_ = open('large.bin', 'wb').write(b'x' * 2000)\n{SHOW_PIXEL}"

        done = await desk.run(code, thread)

    assert "/mnt/data/large.bin cannot be downloaded: You keep" in done.tool_text
    assert done.made_files == []


async def test_sessions_of_idle_threads_make_room(
    tmp_path: Path, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(state_dir=tmp_path / "state", sessions_per_principal=1)
    async with open_service(settings, backend=backend) as service, open_desk(service) as desk:
        first, second = await desk.add_thread(), await desk.add_thread()
        await desk.run("_ = open('made.csv', 'w').write('1')", first)

        refused = await desk.run("1", second)
        monkeypatch.setattr("ci_tools_assistants.runs.thread_sessions._UNUSED", -1.0)
        taken = await desk.run("1", second)
        back = await desk.run("open('made.csv').read()", first)

    assert "You have 1 sessions" in logs_of(refused)
    assert logs_of(taken) == "1"
    assert logs_of(back) == "'1'"


async def test_a_thread_that_is_deleted_meanwhile_is_no_error(desk: Desk) -> None:
    thread = await desk.add_thread(await desk.add_file("a.csv", b"1"))

    async with desk.open(thread) as workbench:
        workbench.describe()
        await desk.records.delete_thread(thread["id"], principal="ada")
        done = await run_cell(workbench, "1")

    assert "No thread found" in logs_of(done)
